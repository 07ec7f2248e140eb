"""Packing and unpacking: identical lines, proved by the seal; refused where anything is not as it was sealed; killed at any step, whole."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import traffic
from rig_archive import mounted, zcat
from rig_packed import HOUR, PACKED, PLAIN, packed, records, sealed, small_frames

import archive.keeping.pack
import archive.keeping.packing
from archive import member
from archive.folder import seal_path
from archive.handle import open_segment
from archive.keeping.pack import Refused, Repacked, pack, unpack
from archive.member import Found
from archive.proof.merkle import leaf_hash
from archive.proof.seal import seal_hour
from archive.proof.verify import verify


def names(folder: Path) -> list[str]:
    """The segments, and what is being written; the seal is always there."""
    return sorted(set(os.listdir(folder)) - {seal_path(folder, HOUR).name})


def unzstd(path: Path) -> bytes:
    return subprocess.run(["zstd", "-dc", "--", str(path)], check=True, capture_output=True).stdout


def lines_of(path: Path) -> bytes:
    """As everybody's tools put them out."""
    return zcat(path) if path.name == PLAIN else unzstd(path)


def refused(result: Repacked | Refused) -> str:
    assert isinstance(result, Refused), result
    assert result.hour == HOUR
    return result.why


def done(result: Repacked | Refused) -> Repacked:
    assert isinstance(result, Repacked), result
    return result


def test_a_packed_hour_has_the_lines_that_were_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    plain = sealed(tmp_path)
    lines, size, seal = zcat(plain), plain.stat().st_size, seal_path(tmp_path, HOUR).read_bytes()
    result = done(pack(tmp_path, HOUR))
    assert names(tmp_path) == [PACKED]
    assert unzstd(tmp_path / PACKED) == lines
    assert seal_path(tmp_path, HOUR).read_bytes() == seal
    assert (result.before, result.after) == (size, (tmp_path / PACKED).stat().st_size)
    assert (result.records, result.line_bytes) == (lines.count(b"\n"), len(lines))
    assert stat.S_IMODE((tmp_path / PACKED).stat().st_mode) == 0o600
    report = verify([tmp_path])
    assert report.complete, report


def test_unpacking_gives_the_gzip_file_back_with_identical_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    plain = sealed(tmp_path)
    data, before = plain.read_bytes(), records(tmp_path, PLAIN)
    pack(tmp_path, HOUR)
    result = done(unpack(tmp_path, HOUR))
    assert names(tmp_path) == [PLAIN]
    assert records(tmp_path, PLAIN) == before
    assert stat.S_IMODE(plain.stat().st_mode) == 0o600
    # The same compressor was at work here, so the bytes are the same, too; and it is said.
    assert (plain.read_bytes(), result.same) == (data, True)
    assert verify([tmp_path]).complete


def test_an_hour_unpacked_by_another_compressor_is_still_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = packed(tmp_path).with_name(PLAIN)
    lines = unzstd(tmp_path / PACKED)
    monkeypatch.setattr(member, "_LEVEL", 2)
    assert not done(unpack(tmp_path, HOUR)).same
    assert zcat(plain) == lines
    report = verify([tmp_path])
    assert report.complete, report.sentence
    assert [hour.unpacked for hour in report.hours] == [True]
    assert not done(pack(tmp_path, HOUR)).same
    assert unzstd(tmp_path / PACKED) == lines
    monkeypatch.undo()
    assert done(unpack(tmp_path, HOUR)).same
    assert [hour.unpacked for hour in verify([tmp_path]).hours] == [False]


def test_gzip_made_anew_around_a_single_line_is_no_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sealed(tmp_path)
    data, (tag, line) = plain.read_bytes(), records(tmp_path, PLAIN)[5]
    with open_segment(tmp_path, PLAIN) as handle:
        found = list(handle.scan())[5]
    assert isinstance(found, Found)
    monkeypatch.setattr(member, "_LEVEL", 2)
    other = member.pack(line, id=tag.id, part=tag.part, seq=tag.seq)
    plain.write_bytes(data[: found.offset] + other + data[found.offset + found.tag.length :])
    report = verify([tmp_path])
    assert [(it.offset, it.first_record) for it in report.damaged] == [(found.offset, 5)]
    assert not report.hours[0].unpacked


def test_an_unsealed_hour_is_not_packed(tmp_path: Path) -> None:
    traffic.segments_of(tmp_path, traffic.upto(traffic.agents(), 0.1))
    assert "not sealed" in refused(pack(tmp_path, HOUR))
    assert names(tmp_path) == [PLAIN]


def test_what_there_is_nothing_to_do_for_is_said(tmp_path: Path) -> None:
    assert "not sealed" in refused(pack(tmp_path, HOUR))
    assert "no hour" in refused(unpack(tmp_path, HOUR))
    sealed(tmp_path, 0.1)
    assert "is not packed" in refused(unpack(tmp_path, HOUR))
    done(pack(tmp_path, HOUR))
    assert "packed already" in refused(pack(tmp_path, HOUR))
    (tmp_path / PACKED).unlink()
    assert "no hour" in refused(pack(tmp_path, HOUR))


def replaced(path: Path, index: int, change: bytes | None) -> None:
    """Put another line in the place of a record's, or none, as somebody would who knows the format."""
    out = b""
    with open_segment(path.parent, path.name) as handle:
        for number, each in enumerate(handle.scan()):
            assert isinstance(each, Found)
            line = handle.line(each.offset, limit=1 << 30)
            if number == index:
                if change is None:
                    continue
                line = line.replace(b'"POST"', change, 1)
            out += member.pack(line, id=each.tag.id, part=each.tag.part, seq=each.tag.seq)
    path.write_bytes(out)


@pytest.mark.parametrize("change", [b'"PUT"', None])
def test_an_hour_that_is_not_as_it_was_sealed_is_not_packed(tmp_path: Path, change: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    plain = sealed(tmp_path)
    replaced(plain, 4, change)
    data = plain.read_bytes()
    assert "record 4 at" in refused(pack(tmp_path, HOUR))
    assert (names(tmp_path), plain.read_bytes()) == ([PLAIN], data)


def test_a_record_taken_from_or_put_at_the_end_is_found(tmp_path: Path) -> None:
    plain = sealed(tmp_path, 0.3)
    data = plain.read_bytes()
    with open_segment(tmp_path, PLAIN) as handle:
        last = list(handle.scan())[-1]
    plain.write_bytes(data[: last.offset])
    assert "1 of its sealed records" in refused(pack(tmp_path, HOUR))
    plain.write_bytes(data + data[last.offset :])
    assert "is not the one that was sealed" in refused(pack(tmp_path, HOUR))
    plain.write_bytes(data[:-3])
    assert "are no record" in refused(pack(tmp_path, HOUR))
    changed = bytearray(data)
    changed[last.offset + 60] ^= 1
    plain.write_bytes(changed)
    assert "deflated data" in refused(pack(tmp_path, HOUR))
    assert names(tmp_path) == [PLAIN]


def test_an_hour_sealed_with_damage_stays_as_it_is(tmp_path: Path) -> None:
    made = traffic.segments_of(tmp_path, traffic.upto(traffic.agents(), 0.3))
    plain = made.paths[0]
    data = plain.read_bytes()
    with open_segment(tmp_path, PLAIN) as handle:
        second = list(handle.scan())[1].offset
    plain.write_bytes(data[:second] + b"damage" + data[second:])
    seal_hour(tmp_path, HOUR, now=1.8e9, version="test")
    assert "damaged place" in refused(pack(tmp_path, HOUR))
    assert names(tmp_path) == [PLAIN]


def test_an_hour_with_forgotten_records_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    plain = sealed(tmp_path)
    before = [line for _, line in records(tmp_path, PLAIN)]
    last = len(before) - 1
    forgotten = {index: leaf_hash(before[index]) for index in (2, 3, last)}
    for index in sorted(forgotten, reverse=True)[:-1]:
        replaced(plain, index, None)
    # 2 was told of, and is still there: a removal that a crash cut short.
    expected = [line for number, line in enumerate(before) if number not in (3, last)]
    assert "record 3 at" in refused(pack(tmp_path, HOUR))
    assert done(pack(tmp_path, HOUR, forgotten=forgotten)).records == len(expected)
    assert unzstd(tmp_path / PACKED) == b"".join(expected)
    assert "record 3 at" in refused(unpack(tmp_path, HOUR))
    assert names(tmp_path) == [PACKED]
    done(unpack(tmp_path, HOUR, forgotten=forgotten))
    assert [line for _, line in records(tmp_path, PLAIN)] == expected


def test_a_damaged_packed_hour_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    path = packed(tmp_path)
    data = path.read_bytes()
    for at in (10, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert "cannot be unpacked" in refused(unpack(tmp_path, HOUR))
        assert names(tmp_path) == [PACKED]


def test_an_hour_in_both_forms_is_one_again_afterwards(tmp_path: Path) -> None:
    plain = sealed(tmp_path, 0.2)
    data = plain.read_bytes()
    pack(tmp_path, HOUR)
    zst = (tmp_path / PACKED).read_bytes()
    plain.write_bytes(data)
    assert done(pack(tmp_path, HOUR)).after == len(zst)
    assert names(tmp_path) == [PACKED]
    plain.write_bytes(data)
    assert done(unpack(tmp_path, HOUR)).same
    assert names(tmp_path) == [PLAIN]
    (tmp_path / PACKED).write_bytes(zst)
    plain.write_bytes(data[:-1])
    assert "cannot be unpacked" in refused(unpack(tmp_path, HOUR))
    seal_path(tmp_path, HOUR).unlink()
    assert "no seal says" in refused(unpack(tmp_path, HOUR))
    assert {PLAIN, PACKED} == set(names(tmp_path))


def test_an_hour_whose_seal_was_lost_can_be_unpacked(tmp_path: Path) -> None:
    lines = unzstd(packed(tmp_path, 0.2))
    seal_path(tmp_path, HOUR).unlink()
    result = done(unpack(tmp_path, HOUR))
    assert (result.same, result.proved) == (False, False)
    assert zcat(tmp_path / PLAIN) == lines


def test_too_little_space_is_said_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed(tmp_path, 0.1)
    about = SimpleNamespace(f_bavail=100, f_frsize=1 << 20)
    monkeypatch.setattr(os, "statvfs", lambda path: about)
    assert "MiB of disk for a while, and 100 are free" in refused(pack(tmp_path, HOUR, keep_free=100 << 20))
    assert names(tmp_path) == [PLAIN]
    done(pack(tmp_path, HOUR))
    assert "and 100 are free" in refused(unpack(tmp_path, HOUR, keep_free=100 << 20))
    assert names(tmp_path) == [PACKED]


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "300k") as folder:
        sealed(tmp_path / "elsewhere", 0.7)
        for path in (tmp_path / "elsewhere").iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        monkeypatch.setattr(archive.keeping.pack, "_no_room", lambda folder, size: None)
        filler = 300 * 1024 - sum(path.stat().st_size for path in folder.iterdir()) - 12_000
        assert 0 < filler < 300 * 1024
        (folder / "filler").write_bytes(bytes(filler))
        with pytest.raises(OSError, match="No space") as error:
            pack(folder, HOUR)
        assert error.value.errno == errno.ENOSPC
        assert names(folder) == [PLAIN, "filler"]
        (folder / "filler").unlink()
        done(pack(folder, HOUR))


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    sealed(tmp_path, 0.1)
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    for name in (f".{PACKED}.new", PACKED):
        (tmp_path / name).symlink_to(precious)
    done(pack(tmp_path, HOUR))
    assert precious.read_text() == "as it was"
    assert (tmp_path / PACKED).lstat().st_size > 100


KILLED = """
import os, signal, sys, archive.keeping.pack, archive.keeping.packing
from pathlib import Path

folder, hour, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
archive.keeping.packing.FRAME = 100_000
left = 0

def counted(call):
    def after(*args, **more):
        global left
        result = call(*args, **more)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return after

for name in ("write", "fsync", "rename", "unlink"):
    setattr(os, name, counted(getattr(os, name)))

steps, status = 0, -1
while status != 0:
    steps += 1
    pid = os.fork()
    if pid == 0:
        left = steps
        result = getattr(archive.keeping.pack, what)(folder, hour)
        os._exit(0 if isinstance(result, archive.keeping.pack.Repacked) else 1)
    status = os.waitpid(pid, 0)[1]
    print("killed" if status == signal.SIGKILL else f"exit {status}", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(("what", "form", "other"), [("pack", PLAIN, PACKED), ("unpack", PACKED, PLAIN)])
def test_killed_at_any_step_the_hour_is_there_in_one_form_or_the_other(tmp_path: Path, what: str, form: str, other: str) -> None:
    """Each step is a system call that changes something: the process is killed after the first, after the second, and so on."""
    (packed if what == "unpack" else sealed)(tmp_path, 0.5)
    original, before = (tmp_path / form).read_bytes(), lines_of(tmp_path / form)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(tmp_path), HOUR, what]
    seen = set()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while (outcome := process.stdout.readline().strip()) == "killed":
            there = set(names(tmp_path)) & {PLAIN, PACKED}
            seen.add(frozenset(there))
            assert there
            assert all(lines_of(tmp_path / name) == before for name in there)
            assert verify([tmp_path]).complete
            # As it was before, but for what the next run finds lying about.
            (tmp_path / form).write_bytes(original)
            (tmp_path / other).unlink(missing_ok=True)
            process.stdin.write("\n")
            process.stdin.flush()
        assert outcome == "exit 0"
        process.stdin.write("\n")
    assert seen == {frozenset({form}), frozenset({PLAIN, PACKED}), frozenset({other})}
    assert names(tmp_path) == [other]
