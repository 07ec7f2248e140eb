"""Seals: made once, under the lock, for hours that are over, oldest first; chained, signed, and found changed by a single byte."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import gzip
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from commandline import ROOT, clean_environment
from rig_archive import until, writing, zcat
from samples import HOUR, Shelf, whole

from archive.errors import DamagedSeal, NotFound, Unsealable
from archive.folder import QUARANTINE, hour_of, seal_path, strangers
from archive.proof import seal as sealing
from archive.proof.merkle import leaf_hash, root_of
from archive.proof.seal import Previous, Seal, SealedWriter, closed_hours, left_out, read_seal, seal_hour, sealed_hours
from archive.proof.verify import verify
from archive.record import id_text
from archive.segment import Appender

TEN, ELEVEN, TWELVE = "2026-11-19T10", "2026-11-19T11", "2026-11-19T12"
LATER = HOUR + 9 * 3600


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Three hours: ten with three records and the writer's open line, eleven and twelve with one, and its close line."""
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    for at in (1, 2, 3, 3601, 7201):
        shelf.put(whole(HOUR + at))
    shelf.close(HOUR + 7202)
    return shelf


def seal(shelf: Shelf, hour: str = TEN, **options: object) -> Seal:
    return seal_hour(shelf.folder, hour, **{"now": LATER, "version": "1.2", **options})  # type: ignore[arg-type]


def seal_all(shelf: Shelf) -> list[Seal]:
    return [seal(shelf, hour) for hour in closed_hours(shelf.folder, LATER)]


def test_a_seal_says_what_the_hour_holds(shelf: Shelf) -> None:
    made = seal(shelf)
    path = shelf.folder / f"{TEN}.jsonl.gz"
    data = path.read_bytes()
    lines = gzip.decompress(data).splitlines(keepends=True)
    assert (made.segment, made.verbatim, made.sealed_at) == (TEN, "1.2", "2026-11-19T19:00:00.000000Z")
    assert (made.bytes, made.sha256) == (len(data), sha256(data).hexdigest())
    assert (made.records, made.line_bytes) == (4, sum(map(len, lines)))
    assert made.root == root_of(map(leaf_hash, lines)).hex()
    assert made.writers == (SealedWriter(id_text(shelf.writer), 0, 3, 4, opened=True, closed=False),)
    assert made.lines == b"".join(leaf_hash(each)[:8] for each in lines)
    assert (made.damaged, made.previous, made.key, made.signature) == ((), None, None, None)
    assert read_seal(shelf.folder, TEN) == made
    assert seal_path(shelf.folder, TEN).stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == data


def test_a_seal_can_be_checked_with_common_tools_alone(shelf: Shelf) -> None:
    made = seal(shelf)
    path = shelf.folder / f"{TEN}.jsonl.gz"
    assert subprocess.run(["sha256sum", str(path)], check=True, capture_output=True, text=True).stdout.split()[0] == made.sha256
    said = json.loads(
        subprocess.run(["jq", "-c", "del(.digests)", str(seal_path(shelf.folder, TEN))], check=True, capture_output=True).stdout
    )
    assert said["root"] == root_of(leaf_hash(line) for line in zcat(path).splitlines(keepends=True)).hex()


def test_seals_are_chained_in_the_order_of_the_hours(shelf: Shelf) -> None:
    ten, eleven, twelve = seal_all(shelf)
    assert ten.previous is None
    assert eleven.previous == Previous(TEN, sha256(seal_path(shelf.folder, TEN).read_bytes()).hexdigest())
    assert twelve.previous == Previous(ELEVEN, sha256(seal_path(shelf.folder, ELEVEN).read_bytes()).hexdigest())
    assert twelve.writers == (SealedWriter(id_text(shelf.writer), 5, 6, 2, opened=False, closed=True),)
    assert sealed_hours(shelf.folder) == [TEN, ELEVEN, TWELVE]


def test_only_hours_that_are_over_are_sealed_oldest_first(shelf: Shelf) -> None:
    folder = shelf.folder
    assert closed_hours(folder, HOUR + 3600 + 119) == []
    assert closed_hours(folder, HOUR + 3600 + 120) == [TEN]
    assert closed_hours(folder, HOUR + 3600, grace=0) == [TEN]
    assert closed_hours(folder, LATER) == [TEN, ELEVEN, TWELVE]
    with pytest.raises(Unsealable, match=f"{ELEVEN} cannot be sealed before {TEN}"):
        seal(shelf, ELEVEN)
    seal(shelf, TEN)
    seal(shelf, ELEVEN)
    assert closed_hours(folder, LATER) == [TWELVE]
    assert closed_hours(folder / "nowhere", LATER) == left_out(folder / "nowhere") == sealed_hours(folder / "nowhere") == []


def test_an_hour_put_in_behind_a_seal_is_not_sealed(shelf: Shelf) -> None:
    seal_all(shelf)
    seal_path(shelf.folder, ELEVEN).unlink()
    shelf.put(whole(HOUR - 3000))
    assert closed_hours(shelf.folder, LATER) == []
    assert left_out(shelf.folder) == ["2026-11-19T09", ELEVEN]
    with pytest.raises(Unsealable, match="any more"):
        seal(shelf, ELEVEN)
    assert not seal_path(shelf.folder, ELEVEN).exists()


def test_a_sealed_hour_is_not_sealed_again(shelf: Shelf) -> None:
    first = seal(shelf)
    data = seal_path(shelf.folder, TEN).read_bytes()
    assert seal(shelf, now=LATER + 1) == first
    assert seal_path(shelf.folder, TEN).read_bytes() == data


def test_a_torn_end_is_set_aside_before_the_hour_is_sealed(shelf: Shelf) -> None:
    path = shelf.folder / f"{TEN}.jsonl.gz"
    before = path.read_bytes()
    path.write_bytes(before + b"\x1f\x8b torn")
    made = seal(shelf)
    assert (made.bytes, made.records, made.damaged) == (len(before), 4, ())
    (aside,) = (shelf.folder / QUARANTINE).iterdir()
    assert aside.read_bytes() == b"\x1f\x8b torn"


def test_a_sealed_hour_is_left_as_it_is_whatever_its_end(shelf: Shelf) -> None:
    seal(shelf)
    path = shelf.folder / f"{TEN}.jsonl.gz"
    path.write_bytes(path.read_bytes() + b"added")
    data = path.read_bytes()
    seal(shelf)
    assert path.read_bytes() == data
    assert not (shelf.folder / QUARANTINE).exists()


def test_damage_in_the_middle_is_told_in_the_seal(shelf: Shelf) -> None:
    path = shelf.folder / f"{TEN}.jsonl.gz"
    data = bytearray(path.read_bytes())
    second = data.find(data[:4], 10)
    data[second] ^= 1
    path.write_bytes(data)
    made = seal(shelf)
    assert made.records == 3
    ((offset, length, why),) = map(dataclasses.astuple, made.damaged)
    assert (offset, length, why) == (second, data.find(data[:4], second + 1) - second, "no member begins here")
    assert made.writers[0].records == 3


def test_what_cannot_be_sealed_is_told(shelf: Shelf) -> None:
    with pytest.raises(NotFound):
        seal(shelf, "2026-11-19T09")
    assert not (shelf.folder / "2026-11-19T09.jsonl.gz").exists()
    (shelf.folder / "2026-11-19T08.jsonl.gz").write_bytes(b"nothing of ours")
    with pytest.raises(NotFound, match="set aside"):
        seal(shelf, "2026-11-19T08")
    assert not (shelf.folder / "2026-11-19T08.jsonl.gz").exists()
    seal_path(shelf.folder, TEN).write_text("{}")
    with pytest.raises(DamagedSeal):
        seal(shelf, TEN)
    seal_path(shelf.folder, TEN).unlink()
    seal_path(shelf.folder, TEN).symlink_to("elsewhere")
    with pytest.raises(DamagedSeal, match="symbolic link"):
        seal(shelf, TEN)


def test_an_hour_that_the_disk_cannot_read_is_not_sealed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archive.proof.walk._Bytes.finish", lambda self: None)
    with pytest.raises(Unsealable, match="the disk cannot read all of it"):
        seal(shelf)
    assert read_seal(shelf.folder, TEN) is None


def test_a_full_disk_leaves_no_half_a_seal(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            seal(shelf)
    assert sorted(path.name for path in shelf.folder.iterdir()) == [f"{hour}.jsonl.gz" for hour in (TEN, ELEVEN, TWELVE)]
    seal(shelf)


def test_a_seal_of_another_hour_is_refused(shelf: Shelf) -> None:
    seal(shelf)
    seal_path(shelf.folder, ELEVEN).write_bytes(seal_path(shelf.folder, TEN).read_bytes())
    with pytest.raises(DamagedSeal, match=f"of another hour, {TEN}"):
        read_seal(shelf.folder, ELEVEN)
    assert read_seal(shelf.folder, TWELVE) is None


# Others at work meanwhile.

CUT_SHORT = """
import os, signal, sys
from pathlib import Path
from archive.proof import seal
where, real = getattr(seal, sys.argv[3], None) or getattr(os, sys.argv[3]), os.rename
def killed(*arguments):
    if sys.argv[4] == "after":
        where(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(seal if hasattr(seal, sys.argv[3]) else os, sys.argv[3], killed)
seal.seal_hour(Path(sys.argv[1]), sys.argv[2], now=0.0, version="killed")
"""


@pytest.mark.parametrize(("call", "when"), [("fsync", "before"), ("rename", "before"), ("rename", "after"), ("sync_folder", "after")])
def test_a_crash_while_sealing_leaves_no_seal_and_the_next_run_makes_it(shelf: Shelf, call: str, when: str) -> None:
    """Or the seal has its name already: then it is whole, and stays."""
    command = [sys.executable, "-c", CUT_SHORT, shelf.folder, TEN, call, when]
    done = subprocess.run(command, env=clean_environment(), cwd=ROOT, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    left = (shelf.folder / f".{TEN}.seal.json.new").exists()
    assert left == (read_seal(shelf.folder, TEN) is None) == (when == "before")
    assert closed_hours(shelf.folder, LATER)[0] == (TEN if left else ELEVEN)
    assert seal(shelf).verbatim == ("1.2" if left else "killed")
    assert not (shelf.folder / f".{TEN}.seal.json.new").exists()
    assert strangers(shelf.folder) == []


def test_a_writer_that_is_late_goes_on_behind_the_seal(shelf: Shelf) -> None:
    """What it writes into the hour before the seal is in the seal, what comes after is in a later hour; none of it is lost."""
    for hour in (ELEVEN, TWELVE):
        (shelf.folder / f"{hour}.jsonl.gz").unlink()
    writer = Shelf(shelf.folder.parent / "aside", writer=bytes(range(16)))
    writer.open()
    opened = (writer.folder / f"{TEN}.jsonl.gz").read_bytes()
    begun = threading.Event()
    appender = Appender(shelf.folder)

    def write() -> None:
        appender.append([opened], HOUR + 3599)
        begun.set()
        after = 0
        while after < 20:
            after += seal_path(shelf.folder, TEN).exists()
            assert appender.append([writer.pack(whole(HOUR + 3599))], HOUR + 3599).count == 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(20)
        made = seal(shelf)
    finally:
        thread.join()
        appender.close()
    report = verify([shelf.folder])
    assert report.complete
    assert [(hour.sealed, hour.as_sealed) for hour in report.hours] == [(True, True), (False, None)]
    assert report.hours[0].records == made.records
    assert report.members == 4 + writer.seq


def seal_them(folder: Path, gate: multiprocessing.synchronize.Barrier, version: str) -> None:
    gate.wait(20)
    for hour in closed_hours(folder, LATER):
        seal_hour(folder, hour, now=LATER, version=version)


def test_two_who_seal_at_once_make_one_chain(shelf: Shelf) -> None:
    for number in range(3, 8):
        shelf.put(whole(HOUR + number * 3600))
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(2)
    both = [context.Process(target=seal_them, args=(shelf.folder, gate, str(number))) for number in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join(40)
        assert each.exitcode == 0
    seals = [read_seal(shelf.folder, hour) for hour in sealed_hours(shelf.folder)]
    assert len(seals) == 8
    for before, after in pairwise(seals):
        assert before is not None
        assert after is not None
        assert after.previous == Previous(before.segment, sha256(seal_path(shelf.folder, before.segment).read_bytes()).hexdigest())


def test_the_hour_is_locked_while_it_is_sealed(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work, go_on = threading.Event(), threading.Event()
    put = sealing._put

    def slowly(folder: Path, hour: str, data: bytes) -> None:
        at_work.set()
        assert go_on.wait(20)
        put(folder, hour, data)

    monkeypatch.setattr(sealing, "_put", slowly)
    thread = threading.Thread(target=seal, args=(shelf,))
    thread.start()
    try:
        assert at_work.wait(20)
        with (shelf.folder / f"{TEN}.jsonl.gz").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (shelf.folder / f"{ELEVEN}.jsonl.gz").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        go_on.set()
        thread.join()
    assert seal_path(shelf.folder, TEN).exists()


def test_an_hour_is_sealed_beside_a_writer_of_a_later_one(shelf: Shelf) -> None:
    with writing(shelf.folder) as writer:
        writer.put(whole(time.time()))
        until(lambda: writer.stats().written == 1)
        now = hour_of(writer.stats().segment)
        made = [seal(shelf, hour) for hour in closed_hours(shelf.folder, time.time()) if hour < now]
        writer.put(whole(time.time()))
    assert [each.segment for each in made] == [TEN, ELEVEN, TWELVE][: len(made)]
    lines = [line for path in shelf.folder.glob("*.gz") if hour_of(path.name) >= now for line in zcat(path).splitlines()]
    assert sum(json.loads(line)["kind"] == "exchange" for line in lines) >= 2
