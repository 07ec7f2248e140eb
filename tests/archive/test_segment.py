"""Segments: whole batches or nothing, under a lock, with what a crash left set aside."""

from __future__ import annotations

import errno
import fcntl
import gzip
import itertools
import json
import os
import re
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from faults.account import account
from rig_archive import HOUR, members, packed, until, zcat

from archive.errors import Unwritable
from archive.folder import QUARANTINE, hour_of, make_folder, seal_path, segment_name, segments
from archive.member import HEADER_LENGTH, scan, unpack
from archive.segment import Appender

NAME = segment_name(HOUR)


def numbers(path: Path) -> list[int]:
    """The numbers of the lines in a segment, by plain zcat."""
    return [json.loads(line)["n"] for line in zcat(path).splitlines()]


def quarantined(folder: Path) -> list[Path]:
    return sorted((folder / QUARANTINE).iterdir()) if (folder / QUARANTINE).exists() else []


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def appender(tmp_path: Path) -> Iterator[Appender]:
    appender = Appender(tmp_path / "archive")
    yield appender
    appender.close()


def refilled(folder: Path, data: bytes) -> Path:
    make_folder(folder)
    (folder / NAME).write_bytes(data)
    return folder / NAME


# Names.


def test_the_hour_is_utc_whatever_the_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("Europe/Berlin", "America/St_Johns", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert segment_name(HOUR) == "2026-11-19T10.jsonl.gz"
        assert segment_name(HOUR + 3599.999) == "2026-11-19T10.jsonl.gz"
        assert segment_name(HOUR + 3600) == "2026-11-19T11.jsonl.gz"
    monkeypatch.undo()
    time.tzset()


# Appending.


def test_a_record_goes_into_the_hour_in_which_it_is_written(appender: Appender, tmp_path: Path) -> None:
    each = members(1000)
    for number, one in enumerate(each):  # across 10:59:59.9
        assert appender.append([one], HOUR + 3599 + number / 500).count == 1
    before, after = segments(tmp_path / "archive")
    assert (before.name, after.name) == ("2026-11-19T10.jsonl.gz", "2026-11-19T11.jsonl.gz")
    assert (numbers(before), numbers(after)) == (list(range(500)), list(range(500, 1000)))


def test_a_clock_set_back_does_not_lead_to_an_older_hour(appender: Appender, tmp_path: Path) -> None:
    for number, moment in enumerate([HOUR, HOUR + 3600, HOUR - 86400, HOUR, HOUR + 3600, HOUR + 7200]):
        assert appender.append([packed(number)], moment).error is None
    assert {path.name: numbers(path) for path in segments(tmp_path / "archive")} == {
        "2026-11-19T10.jsonl.gz": [0],
        "2026-11-19T11.jsonl.gz": [1, 2, 3, 4],
        "2026-11-19T12.jsonl.gz": [5],
    }


def test_a_batch_larger_than_one_system_call_goes_in_whole(appender: Appender, tmp_path: Path) -> None:
    assert appender.append(members(2500, 10), HOUR).count == 2500
    assert numbers(tmp_path / "archive" / NAME) == list(range(2500))


def test_two_appenders_take_turns(tmp_path: Path) -> None:
    one, two = Appender(tmp_path), Appender(tmp_path)
    for number in range(0, 40, 2):
        assert one.append([packed(number)], HOUR).error is None
        assert two.append([packed(number + 1)], HOUR).error is None
    one.close()
    two.close()
    assert numbers(tmp_path / NAME) == list(range(40))


def test_four_processes_on_one_folder_lose_nothing(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from rig_archive import HOUR, members
from archive.segment import Appender
start, folder = int(sys.argv[1]), Path(sys.argv[2])
appender = Appender(folder)
for batch in range(0, 200, 8):
    appended = appender.append(members(8, 3000, start=start + batch), HOUR)
    assert appended.count == 8, appended
appender.sync()
appender.close()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    children = [
        subprocess.Popen([sys.executable, "-c", script, str(start), str(tmp_path)], env=environment) for start in range(0, 4000, 1000)
    ]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    found = numbers(tmp_path / NAME)
    assert sorted(found) == sorted(number for start in range(0, 4000, 1000) for number in range(start, start + 200))
    for start in range(0, 4000, 1000):  # each writer's in its own order
        assert [number for number in found if start <= number < start + 1000] == list(range(start, start + 200))
    assert quarantined(tmp_path) == []


# Sealed hours.


def hour(number: int) -> str:
    return hour_of(segment_name(HOUR + 3600 * number))


def test_nothing_is_appended_to_a_sealed_hour(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    assert appender.append([packed(0)], HOUR).count == 1
    before = (folder / NAME).read_bytes()
    seal_path(folder, hour(0)).touch()
    late = Appender(folder)
    assert appender.append([packed(1)], HOUR).error is None  # it had the segment open
    assert late.append([packed(2)], HOUR).error is None
    assert appender.append([packed(3)], HOUR + 3600).error is None
    late.close()
    assert (folder / NAME).read_bytes() == before
    assert numbers(folder / segment_name(HOUR + 3600)) == [1, 2, 3]


def test_a_late_writer_goes_on_after_all_sealed_hours(tmp_path: Path) -> None:
    seal_path(tmp_path, hour(0)).touch()
    seal_path(tmp_path, hour(2)).touch()
    (tmp_path / f"{hour(3)}.jsonl.zst").touch()  # packed, and its seal is gone
    seal_path(tmp_path, hour(8)).symlink_to(tmp_path / NAME)  # no seal of ours
    (tmp_path / "2027-notes.seal.json").touch()
    for late in (0, 1, 2, 3, -9999):  # an hour without a segment, too, is older than what is sealed
        appender = Appender(tmp_path)
        assert appender.append([packed(late + 9999)], HOUR + 3600 * late).error is None
        appender.close()
    assert [path.name for path in segments(tmp_path)] == [f"{hour(3)}.jsonl.zst", f"{hour(4)}.jsonl.gz"]
    assert len(numbers(tmp_path / f"{hour(4)}.jsonl.gz")) == 5


def test_a_seal_that_no_hour_comes_after_is_an_error_not_a_crash(appender: Appender, tmp_path: Path) -> None:
    make_folder(tmp_path / "archive")
    seal_path(tmp_path / "archive", "2027-02-31T00").touch()  # no hour at all: somebody else's
    assert appender.append([packed(0)], HOUR).count == 1
    seal_path(tmp_path / "archive", "9999-12-31T23").touch()
    appender.close()
    appended = appender.append([packed(0)], HOUR)
    assert isinstance(appended.error, Unwritable)
    assert "no hour comes after it" in str(appended.error)


def test_looking_for_a_seal_costs_one_stat_a_batch(appender: Appender, monkeypatch: pytest.MonkeyPatch) -> None:
    assert appender.append([packed(0)], HOUR).count == 1
    calls: list[str] = []
    for name in ("stat", "scandir", "listdir", "lstat"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, *rest, _real=real, **named: (calls.append(str(path)), _real(path, *rest, **named))[1])
    assert appender.append(members(50, start=1), HOUR).count == 50
    assert [Path(call).name for call in calls if not call.endswith(NAME)] == [f"{hour(0)}.seal.json"]


def test_writers_and_a_sealer_at_once_put_nothing_behind_a_seal(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from rig_archive import HOUR, members
from archive.folder import seal_path
from archive.segment import Appender
start, folder, stop = int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
appender = Appender(folder)
number = start
while number < start + 20 or not stop.exists():  # they are all late: their clock stands still
    appended = appender.append(members(4, 500, start=number), HOUR)
    assert appended.count == 4, appended
    number += 4
print(number)
appender.close()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    folder, stop = tmp_path / "archive", tmp_path / "stop"
    arguments = [[sys.executable, "-c", script, str(start), str(folder), str(stop)] for start in (0, 1_000_000, 2_000_000)]
    children = [subprocess.Popen(each, env=environment, stdout=subprocess.PIPE, text=True) for each in arguments]
    sealed: dict[str, bytes] = {}
    try:
        for number in range(6):
            name = segment_name(HOUR + 3600 * number)
            until(lambda name=name: (folder / name).exists() and (folder / name).stat().st_size > 20_000)
            with Appender(folder).held(name):
                sealed[name] = (folder / name).read_bytes()
                seal_path(folder, hour_of(name)).touch()
        until(lambda: len(segments(folder)) == 7)
    finally:
        stop.touch()
        ends = [int(child.communicate(timeout=60)[0]) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert {name: (folder / name).read_bytes() for name in sealed} == sealed
    found = sorted(number for path in segments(folder) for number in numbers(path))
    assert found == [number for start, end in zip((0, 1_000_000, 2_000_000), ends, strict=True) for number in range(start, end)]
    assert quarantined(folder) == []


# A disk that takes only some of it.


class Failing:
    """`os.writev` and `os.write` of a disk that fails at the n-th call: a few bytes go in, or none; once, or from then on."""

    def __init__(self, at: int, error: int, *, short: bool, lasting: bool) -> None:
        self._at, self._error, self._short, self._lasting = at, error, short, lasting
        self._calls = 0
        self._then = False
        self._writev, self._write = os.writev, os.write

    def writev(self, fd: int, buffers: Sequence[bytes]) -> int:
        return self._do(fd, b"".join(buffers))

    def write(self, fd: int, data: bytes) -> int:
        return self._do(fd, bytes(data))

    def _do(self, fd: int, data: bytes) -> int:
        self._calls += 1
        failing = self._calls == self._at or (self._calls > self._at and self._lasting)
        if (failing and not self._short) or self._then:
            self._then = False
            raise OSError(self._error, os.strerror(self._error))
        if failing:
            self._then = True  # a short write tells nothing; the next call does
            return self._write(fd, data[: len(data) * 2 // 3])
        return self._write(fd, data)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG], ids=errno.errorcode.get)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("short", [False, True], ids=["nothing", "some"])
def test_whichever_write_fails_what_was_acknowledged_is_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, short: bool, lasting: bool
) -> None:
    for at in range(1, 7):
        folder = tmp_path / str(at)
        failing = Failing(at, error, short=short, lasting=lasting)
        acknowledged: list[int] = []
        left = list(range(20))
        appender = Appender(folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", failing.writev)
            patch.setattr(os, "write", failing.write)
            for _ in range(8):
                appended = appender.append([packed(number, 400) for number in left[:4]], HOUR)
                assert (appended.error is None) == (appended.count == len(left[:4]))
                if appended.error is not None:
                    assert appended.error.errno == error
                acknowledged += left[: appended.count]
                del left[: appended.count]
        assert [number for path in segments(folder) for number in numbers(path)] == acknowledged  # zcat finds no torn byte
        assert appender.append([packed(number) for number in left], HOUR).error is None
        appender.close()
        assert numbers(folder / NAME) == list(range(20))
        assert quarantined(folder) == []


def test_a_short_write_leaves_no_torn_record(tmp_path: Path) -> None:
    # A real one: the kernel writes up to the limit, then says EFBIG (SIGXFSZ is ignored in Python).
    script = """
import resource, sys
from pathlib import Path
from rig_archive import HOUR, members
from archive.segment import Appender
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
appender = Appender(Path(sys.argv[1]))
appended = appender.append(members(20, 1000), HOUR)
print(appended.count, appended.error.errno)
again = appender.append(members(20, 1000), HOUR)
assert (again.count, again.error.errno) == (0, appended.error.errno), again
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert appender.append(members(20, 1000, start=20), HOUR).count == 20
appender.close()
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True, capture_output=True, text=True)
    count, error = map(int, done.stdout.split())
    assert 0 < count < 20
    assert error == errno.EFBIG
    assert numbers(tmp_path / NAME) == [*range(count), *range(20, 40)]


def test_a_file_that_cannot_be_cut_back_is_recovered_with_the_next_append(
    appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "stuck")

    failing = Failing(1, errno.EIO, short=True, lasting=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", failing.writev)
        patch.setattr(os, "write", failing.write)
        patch.setattr(os, "ftruncate", stuck)
        appended = appender.append(members(4, 400), HOUR)
    assert appended.count == 2
    assert appended.error is not None
    again = appender.append(members(2, 400, start=2), HOUR)
    assert again.count == 2
    assert again.set_aside is not None
    assert numbers(tmp_path / "archive" / NAME) == [0, 1, 2, 3]


# Recovery.


@pytest.mark.campaign
def test_a_tail_torn_at_every_byte_offset_is_set_aside(tmp_path: Path) -> None:
    each = members(3, 60)
    whole = b"".join(each)
    prefix = len(each[0]) + len(each[1])
    began = time.monotonic()
    for length in range(1, len(each[2])):
        folder = tmp_path / str(length)
        path = refilled(folder, whole[: prefix + length])
        appender = Appender(folder)
        appended = appender.append([packed(9)], HOUR)
        appender.close()
        assert appended.count == 1
        assert numbers(path) == [0, 1, 9]
        assert appended.set_aside is not None
        assert appended.set_aside.read_bytes() == each[2][:length]
    trials = len(each[2]) - 1
    account(
        "torn at every byte of the last record",
        {"trials": trials, "acknowledged": 3 * trials, "injected": trials},
        time.monotonic() - began,
    )


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


ONE, TWO = members(2, 500)
TAILS = {
    "header only": (ONE + TWO[:HEADER_LENGTH], len(ONE)),
    "trailer missing": (ONE + TWO[:-8], len(ONE)),
    "zeros": (ONE + TWO + bytes(4096), len(ONE + TWO)),
    "data never written": (ONE + TWO[:200] + bytes(len(TWO) - 200), len(ONE)),
    "two with data never written": (ONE[:200] + bytes(len(ONE) - 200) + TWO[:200] + bytes(len(TWO) - 200), 0),
    "zeros in the last two": (ONE[:200] + bytes(len(ONE) - 200 + 500), 0),
    "garbage": (ONE + TWO + bytes(range(1, 256)) * 40, len(ONE + TWO)),
    "plain text": (ONE + TWO + b'{"kind":"exchange"}\n', len(ONE + TWO)),
    "last header flipped": (ONE + flipped(TWO, 20), len(ONE)),
    "last data flipped": (ONE + flipped(TWO, 100), len(ONE)),
    "last trailer flipped": (ONE + flipped(TWO, len(TWO) - 1), len(ONE)),
    "nothing but garbage": (b"not an archive at all", 0),
    "plain gzip": (ONE + gzip.compress(b"{}\n"), len(ONE)),
}


@pytest.mark.parametrize(("data", "good"), TAILS.values(), ids=TAILS)
def test_what_is_torn_at_the_end_is_set_aside_and_never_thrown_away(tmp_path: Path, data: bytes, good: int) -> None:
    path = refilled(tmp_path, data)
    appender = Appender(tmp_path)
    assert appender.append([packed(9)], HOUR).count == 1
    appender.close()
    with path.open("rb") as file:
        assert [json.loads(unpack(path.read_bytes()[at : at + tag.length], limit=9999))["n"] for at, tag in scan(file)][-1] == 9
    assert path.read_bytes()[:good] == data[:good]
    assert numbers(path)[-1] == 9
    (aside,) = quarantined(tmp_path)
    assert aside.read_bytes() == data[good:]
    assert re.fullmatch(rf"{re.escape(NAME)}\.{good}\.[0-9]{{8}}T[0-9]{{6}}\.[0-9]{{6}}Z", aside.name)
    when = datetime.strptime(aside.name.rsplit(".", 2)[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert stat.S_IMODE(aside.parent.stat().st_mode) == 0o700


def test_no_empty_segment_stays_behind(appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(1, errno.ENOSPC, short=True, lasting=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", failing.writev)
        patch.setattr(os, "write", failing.write)
        assert appender.append([ONE], HOUR).count == 0
    assert segments(tmp_path / "archive") == []
    path = refilled(tmp_path / "archive", b"")  # killed between making the file and writing to it
    assert appender.recover() == []
    assert not path.exists()


def test_an_empty_segment_is_appended_to(tmp_path: Path) -> None:
    path = refilled(tmp_path, b"")
    appender = Appender(tmp_path)
    assert appender.append([packed(1)], HOUR).set_aside is None
    appender.close()
    assert numbers(path) == [1]


def test_damage_in_the_middle_is_left_as_it_is(tmp_path: Path) -> None:
    data = flipped(b"".join(members(4, 300)), 10)
    path = refilled(tmp_path, data)
    appender = Appender(tmp_path)
    assert appender.append([packed(9)], HOUR).set_aside is None
    appender.close()
    assert path.read_bytes()[: len(data)] == data
    assert quarantined(tmp_path) == []


def test_nothing_is_cut_off_that_cannot_be_set_aside(tmp_path: Path) -> None:
    data = ONE + TWO[:100]
    path = refilled(tmp_path, data)
    (tmp_path / QUARANTINE).write_text("in the way")
    appender = Appender(tmp_path)
    for _ in range(2):
        appended = appender.append([packed(9)], HOUR)
        assert (appended.count, path.read_bytes()) == (0, data)
        assert appended.error is not None
    (tmp_path / QUARANTINE).unlink()
    assert appender.append([packed(9)], HOUR).count == 1
    appender.close()
    assert numbers(path) == [0, 9]


def test_a_huge_torn_end_is_recovered_in_bounded_memory(tmp_path: Path) -> None:
    # 5 GB, nearly all of it a hole, as a power loss leaves it: found, copied as a hole, cut off.
    path = refilled(tmp_path, ONE + TWO)
    os.truncate(path, 5_000_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    appender = Appender(tmp_path)
    assert appender.append([packed(9)], HOUR).count == 1
    appender.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB
    assert numbers(path) == [0, 1, 9]
    (aside,) = quarantined(tmp_path)
    assert aside.stat().st_size == 5_000_000_000 - len(ONE + TWO)
    assert aside.stat().st_blocks < 10_000  # of 512 bytes


def test_another_writers_torn_end_is_set_aside_while_we_run(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    assert appender.append([packed(0)], HOUR).count == 1
    with (folder / NAME).open("ab") as file:
        file.write(packed(1) + packed(2)[:50])
    appended = appender.append([packed(3)], HOUR)
    assert appended.set_aside is not None
    assert appended.set_aside.read_bytes()[:10] == packed(2)[:10]
    assert numbers(folder / NAME) == [0, 1, 3]


def test_the_newest_segment_of_an_hour_gone_by_is_recovered(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    path = refilled(folder, ONE + TWO[:-1])
    (aside,) = appender.recover()
    assert aside.read_bytes() == TWO[:-1]
    assert numbers(path) == [0]
    assert appender.recover() == []
    assert appender.append([packed(5)], HOUR - 3600).error is None  # looking at an hour does not bind to it
    assert numbers(folder / segment_name(HOUR - 3600)) == [5]


# Places.


def test_files_are_private_under_any_umask(tmp_path: Path) -> None:
    for number, mask in enumerate((0o000, 0o022, 0o077, 0o777)):
        folder = tmp_path / str(number) / "data" / "archive"
        with umask(mask):
            appender = Appender(folder)
            assert appender.append([ONE, TWO[:40]], HOUR).count == 2
            appender.close()
            assert appender.append([TWO], HOUR).set_aside is not None
            appender.close()
        for path in (folder, folder.parent, folder / QUARANTINE):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        for path in (folder / NAME, *quarantined(folder)):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_planted_symbolic_link_is_refused(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    make_folder(folder)
    victim = tmp_path / "victim"
    for there in (True, False):
        if there:
            victim.write_text("precious")
        (folder / NAME).symlink_to(victim)
        appended = appender.append([ONE], HOUR)
        assert appended.count == 0
        assert isinstance(appended.error, Unwritable)
        assert "symbolic link" in str(appended.error)
        if there:
            assert victim.read_text() == "precious"
            victim.unlink()
        assert not victim.exists()
        (folder / NAME).unlink()
    assert appender.append([ONE], HOUR).count == 1


def test_anything_but_a_regular_file_is_refused(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    make_folder(folder)
    os.mkfifo(folder / NAME)
    appended = appender.append([ONE], HOUR)
    assert isinstance(appended.error, Unwritable)
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    assert appender.append([ONE], HOUR).error is not None
    (folder / NAME).rmdir()
    assert appender.append([ONE], HOUR).count == 1


@pytest.mark.parametrize("what", ["deleted", "moved", "the whole folder deleted"])
def test_a_segment_that_vanishes_is_made_anew(appender: Appender, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "archive"
    assert appender.append([packed(1)], HOUR).count == 1
    if what == "moved":
        (folder / NAME).rename(tmp_path / "elsewhere")
    else:
        (folder / NAME).unlink()
    if what == "the whole folder deleted":
        folder.rmdir()
    assert appender.append([packed(2)], HOUR).count == 1
    appender.sync()
    assert numbers(folder / NAME) == [2]
    if what == "moved":
        assert numbers(tmp_path / "elsewhere") == [1]


def test_a_segment_replaced_under_the_lock_is_opened_again(appender: Appender, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    for number in range(3):
        assert appender.append([packed(number)], HOUR).count == 1
        other = tmp_path / "other"
        other.write_bytes(packed(100 + number))
        other.replace(folder / NAME)
    assert appender.append([packed(3)], HOUR).count == 1
    assert numbers(folder / NAME) == [102, 3]


# Syncing.


def test_a_sync_covers_the_hour_gone_by_and_lets_go_of_it(appender: Appender, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    before = len(os.listdir("/proc/self/fd"))
    for hours in range(3):
        assert appender.append([ONE], HOUR + 3600 * hours).count == 1
    appender.sync()
    assert synced == [segment_name(HOUR + 3600 * hours) for hours in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before + 1
    appender.sync()
    assert len(synced) == 3  # nothing new: nothing to sync


def test_without_syncs_no_old_file_stays_open(tmp_path: Path) -> None:
    appender = Appender(tmp_path, durable=False)
    before = len(os.listdir("/proc/self/fd"))
    for hours in range(30):
        assert appender.append([ONE], HOUR + 3600 * hours).count == 1
    assert len(os.listdir("/proc/self/fd")) == before + 1
    appender.close()
    appender.close()


def test_a_failed_sync_is_told_once_and_later_appends_go_on(appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def broken(fd: int) -> None:
        next(calls)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert appender.append([packed(1)], HOUR).count == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output"):
            appender.sync()
        appender.sync()  # nothing was appended since: not asked again
    assert next(calls) == 1
    assert appender.append([packed(2)], HOUR).count == 1
    appender.sync()
    assert numbers(tmp_path / "archive" / NAME) == [1, 2]


@pytest.mark.parametrize("call", ["fstat", "fchmod"])
def test_no_descriptor_is_lost_when_opening_fails(appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "no")

    path = refilled(tmp_path / "archive", ONE)
    path.chmod(0o644)
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, call, broken)
        for _ in range(3):
            assert appender.append([TWO], HOUR).error is not None
    assert len(os.listdir("/proc/self/fd")) == before
    assert appender.append([TWO], HOUR).error is None


def test_a_lock_that_cannot_be_given_back_doubles_nothing(appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def stuck(fd: int, how: int) -> None:
        if how == fcntl.LOCK_UN:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(fd, how)

    folder = tmp_path / "archive"
    assert appender.append([packed(1)], HOUR).count == 1
    appender.sync()
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", stuck)
        appended = appender.append([packed(2)], HOUR)
    assert (appended.count, appended.error) == (1, None)
    with (folder / NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(OSError, match="No locks"):
        appender.sync()  # what was written cannot be synced any more
    appender.sync()
    assert appender.append([packed(3)], HOUR).count == 1
    appender.sync()
    assert numbers(folder / NAME) == [1, 2, 3]


def test_the_lock_is_let_go_of_whatever_happens(appender: Appender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> os.stat_result:
        raise OSError(errno.EIO, "no")

    folder = tmp_path / "archive"
    assert appender.append([packed(1)], HOUR).count == 1
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", broken)
        assert appender.append([packed(2)], HOUR).count == 0
    with (folder / NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
