"""The packed form, read: the same records as the plain one has, at most one frame in memory, and damage told as what it is."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
import rig_packed
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig_archive import zcat
from rig_packed import HOUR, PACKED, PLAIN, chunks_of, found, frame_of, in_both_forms, read_all, records, small_frames, tags_of, written

import archive.packed
from archive.chunk import HEAD_LENGTH, Chunk, read_head
from archive.errors import DamagedMember
from archive.frame import Frame
from archive.handle import open_file, open_segment
from archive.keeping.pack import pack
from archive.packed import Packed
from archive.reader import Reader


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return in_both_forms(tmp_path_factory)


def test_any_zstd_reads_a_packed_hour(both: tuple[Path, Path]) -> None:
    plain, zst = both
    assert len(chunks_of(zst.read_bytes())) > 3
    expected = zcat(plain)
    assert subprocess.run(["zstd", "-dc", "--", str(zst)], check=True, capture_output=True).stdout == expected
    with zst.open("rb") as file:  # no window beyond what is allowed without asking
        assert zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file, read_across_frames=True).read() == expected
    subprocess.run(["zstd", "--test", "-q", "--", str(zst)], check=True)


def test_a_packed_hour_has_the_same_records(both: tuple[Path, Path]) -> None:
    plain, zst = both
    assert records(zst.parent, PACKED) == records(plain.parent, PLAIN)
    stream = zcat(plain)
    with open_segment(zst.parent, PACKED) as handle:
        assert handle.end() == len(stream)
        for offset, tag in found(handle):
            line = stream[offset : offset + tag.length]
            assert (handle.line(offset, limit=len(line)), b"".join(handle.pieces(offset))) == (line, line)
            assert handle.lengths(offset)[1] == len(line)


def test_a_scan_goes_on_from_any_record(both: tuple[Path, Path]) -> None:
    with open_file(both[1]) as handle:
        all_of_it = found(handle)
        for at in (0, 1, len(all_of_it) // 2, len(all_of_it) - 1):
            assert list(handle.scan(all_of_it[at].offset)) == all_of_it[at:]
        assert list(handle.scan(handle.end())) == []


def test_a_record_is_asked_for_by_its_address(both: tuple[Path, Path]) -> None:
    with open_file(both[1]) as handle:
        offset, tag = found(handle)[3]
        with pytest.raises(DamagedMember, match="longer than it may be"):
            handle.line(offset, limit=tag.length - 1)
        for nowhere in (-1, offset + 1, handle.end(), 1 << 60):
            with pytest.raises(DamagedMember, match="no record begins here"):
                handle.line(nowhere, limit=1 << 20)
            with pytest.raises(DamagedMember, match="no record begins here"):
                handle.lengths(nowhere)


@pytest.mark.parametrize("data", [b"", b"x", b"{}\n" * 1000, bytes(100_000), frame_of(b"{}\n" * 1000), b"\x1f\x8b" + bytes(50)])
def test_a_foreign_file_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PACKED).write_bytes(data)
    lines, damages = read_all(tmp_path / PACKED)
    assert (lines, len(damages)) == ([], 1)


def test_a_head_that_lies_is_damage(tmp_path: Path) -> None:
    lines = [b'{"n":%d}\n' % number for number in range(100)]
    tags, frame = tags_of(lines), frame_of(b"".join(lines))
    raw = sum(map(len, lines))
    true = Chunk(0, raw, 0, 100, 0)
    for lie in (true._replace(base=5), true._replace(raw=raw - 1), true._replace(records=99), true._replace(raw=1 << 25)):
        path = written(tmp_path / PACKED, [(tags, frame), (tags, frame)], lie=lie)
        there, damages = read_all(path)
        assert damages
        assert set(there) <= set(lines)


def test_a_damaged_chunk_hides_no_other(both: tuple[Path, Path], tmp_path: Path) -> None:
    data = both[1].read_bytes()
    starts = chunks_of(data)
    whole, _ = read_all(both[1])
    second, third = read_head(data, starts[1]), read_head(data, starts[2])
    assert second is not None
    assert third is not None
    for at, why in ((3, "are no chunk of it"), (HEAD_LENGTH + 5, "table of records"), (HEAD_LENGTH + second.table + 9, "frame")):
        changed = bytearray(data)
        changed[starts[1] + at] ^= 0x40
        (tmp_path / PACKED).write_bytes(changed)
        lines, damages = read_all(tmp_path / PACKED)
        assert all(why in each.why for each in damages)
        assert all(second.base <= each.offset < third.base for each in damages)
        assert sum(each.length for each in damages) == second.raw
        assert len(b"".join(lines)) == len(b"".join(whole)) - second.raw
        assert set(lines) <= set(whole)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_flipped_or_cut_off_is_told(both: tuple[Path, Path], tmp_path: Path, data: st.DataObject) -> None:
    original = both[1].read_bytes()
    whole, none = read_all(both[1])
    assert not none
    if data.draw(st.booleans(), label="cut"):
        changed = original[: data.draw(st.integers(0, len(original) - 1))]
    else:
        changed = bytearray(original)
        places = st.one_of(st.integers(0, len(original) - 1), st.sampled_from([it + k for it in chunks_of(original) for k in range(60)]))
        for at in data.draw(st.sets(places, min_size=1, max_size=3)):
            changed[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / PACKED
    path.write_bytes(changed)
    lines, damages = read_all(path)
    assert damages
    assert set(lines) <= set(whole)


def test_pages_show_packed_hours_beside_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch)
    traffic = rig_packed.traffic
    made = traffic.segments_of(tmp_path, traffic.upto(traffic.agents(per_second=0.002), 3))
    assert len(made.paths) > 3
    before = Reader(tmp_path).page(limit=500)
    for path in made.paths[:-1]:
        rig_packed.seal_hour(tmp_path, path.name[: len(HOUR)], now=1.8e9, version="test")
        assert isinstance(pack(tmp_path, path.name[: len(HOUR)]), rig_packed.Repacked)
    assert sum(path.suffix == ".zst" for path in tmp_path.iterdir()) == len(made.paths) - 1
    reader = Reader(tmp_path)
    page = reader.page(limit=500)
    assert [(it.id, it.status, it.session) for it in page.entries] == [(it.id, it.status, it.session) for it in before.entries]
    for entry in (page.entries[0], page.entries[-1]):
        assert reader.get(entry.id).entry.id == entry.id
    assert [event.kind for event in reader.events()] == ["open", "close"]


def test_what_the_disk_cannot_read_is_damage(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = both[1].read_bytes()
    starts = chunks_of(data)
    whole, _ = read_all(both[1])
    second = read_head(data, starts[1])
    assert second is not None
    pread = os.pread
    for at in (10, HEAD_LENGTH + 5, HEAD_LENGTH + second.table + 9):
        bad = starts[1] + at

        def fail(fd: int, length: int, offset: int, bad: int = bad) -> bytes:
            if offset <= bad < offset + length:
                raise OSError(errno.EIO, "Input/output error")
            return pread(fd, length, offset)

        monkeypatch.setattr(os, "pread", fail)
        monkeypatch.setattr(archive.packed, "_SEARCH", 4096)
        lines, damages = read_all(both[1])
        monkeypatch.undo()
        assert sum(each.length for each in damages) == second.raw
        assert len(b"".join(lines)) == len(b"".join(whole)) - second.raw


def test_a_file_that_is_cut_off_while_it_is_open_is_damage(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / PACKED
    path.write_bytes(both[1].read_bytes())
    monkeypatch.setattr(archive.packed, "_frame", Frame())
    with open_file(path) as handle:
        first = found(handle)[0]
        os.truncate(path, path.stat().st_size // 100)
        with pytest.raises(DamagedMember, match="cut off"):
            handle.line(first.offset, limit=first.tag.length)


def test_a_machine_out_of_something_leaves_no_descriptor_open(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Packed, size: int) -> None:
        raise OSError(errno.ENOMEM, "none left")

    monkeypatch.setattr(Packed, "_learn", fail)
    fd = os.open(both[1], os.O_RDONLY)
    with pytest.raises(OSError, match="none left"):
        Packed(fd, PACKED)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
