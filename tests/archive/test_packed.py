"""The packed form, read: the same records as the plain one has, at most one frame in memory, and damage told as what it is."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rig_packed
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig_archive import zcat
from rig_packed import HOUR, PACKED, PLAIN, packed, records, sealed, small_frames

import archive.packed
from archive.chunk import HEAD_LENGTH, OPENING, Chunk, pack_head, pack_rows, read_head, seek_table
from archive.errors import DamagedMember
from archive.frame import Frame
from archive.handle import Handle, open_file, open_segment
from archive.member import Damage, Found, Tag
from archive.pack import pack
from archive.packed import Packed
from archive.reader import Reader


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the same hour, plain and packed in chunks of 200 KB."""
    plain, zst = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("packed")
    sealed(plain)
    with pytest.MonkeyPatch.context() as patch:
        small_frames(patch)
        packed(zst)
    return plain / PLAIN, zst / PACKED


def found(handle: Handle) -> list[Found]:
    each = list(handle.scan())
    assert all(isinstance(it, Found) for it in each), each
    return [it for it in each if isinstance(it, Found)]


def chunks_of(data: bytes) -> list[int]:
    """Where they begin."""
    starts, at = [], len(OPENING)
    while (chunk := read_head(data, at)) is not None:
        starts.append(at)
        at += chunk.length
    return starts


def read_all(path: Path) -> tuple[list[bytes], list[Damage]]:
    """Every line that is read, and everything that is told to be damaged."""
    lines, damages = list[bytes](), list[Damage]()
    with open_file(path) as handle:
        for each in handle.scan():
            if isinstance(each, Damage):
                damages.append(each)
                continue
            try:
                lines.append(handle.line(each.offset, limit=1 << 20))
            except DamagedMember as error:
                damages.append(Damage(each.offset, each.tag.length, str(error), torn=False))
    return lines, damages


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


def test_records_of_one_frame_cost_one_inflation(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    inflated = []
    inflate = Frame._inflate
    monkeypatch.setattr(Frame, "_inflate", lambda frame, data, raw: (inflated.append(raw), inflate(frame, data, raw))[1])
    monkeypatch.setattr(archive.packed, "_frame", Frame())
    for _ in range(2):  # opened anew each time, as the reader does
        with open_file(both[1]) as handle:
            all_of_it = found(handle)
            for offset, tag in (all_of_it[0], all_of_it[1], all_of_it[0]):
                handle.line(offset, limit=tag.length)
    assert len(inflated) == 1


def test_several_threads_read_two_hours(both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch, 90_000)
    other = packed(tmp_path, 0.5)
    expected = {
        path: {it.offset: line for it, (_, line) in zip(_found(path), records(path.parent, PACKED), strict=True)}
        for path in (both[1], other)
    }

    def read(seed: int) -> int:
        rng, right = random.Random(seed), 0
        for _ in range(60):
            path = rng.choice([both[1], other])
            offset = rng.choice(list(expected[path]))
            with open_file(path) as handle:
                right += handle.line(offset, limit=1 << 30) == expected[path][offset] == b"".join(handle.pieces(offset))
        return right

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(read, range(6))) == [60] * 6


def _found(path: Path) -> list[Found]:
    with open_file(path) as handle:
        return found(handle)


def written(path: Path, chunks: list[tuple[list[Tag], bytes]], *, lie: Chunk | None = None, seek: bool = True) -> Path:
    """A packed segment of frames made elsewhere; the first head may be another than the true one."""
    data, heads, base = b"", list[Chunk](), 0
    for tags, frame in chunks:
        table = pack_rows(tags)
        chunk = Chunk(base, sum(it.length for it in tags), len(frame), len(tags), len(table))
        heads.append(lie._replace(table=len(table), stored=len(frame)) if lie is not None and not heads else chunk)
        data += pack_head(heads[-1]) + table + frame
        base += chunk.raw
    path.write_bytes(data + (seek_table(heads) if seek else b""))
    return path


def frame_of(lines: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(lines)


def tags_of(lines: list[bytes]) -> list[Tag]:
    return [Tag(1, len(line), number.to_bytes(16, "big"), 0, number) for number, line in enumerate(lines)]


def test_a_line_longer_than_a_frame_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive.packed, "FRAME", 1 << 20)
    line = random.Random(1).randbytes(1 << 20).hex().encode() + b"\n"
    path = written(tmp_path / PACKED, [(tags_of([line]), frame_of(line))])
    with open_file(path) as handle:
        pieces = list(handle.pieces(0))
        assert max(map(len, pieces)) <= 256 << 10
        assert (b"".join(pieces), handle.line(0, limit=len(line))) == (line, line)
    data = bytearray(path.read_bytes())
    for at in (len(data) // 2, data.rindex(b"\x5e\x2a\x4d\x18") - 1):  # in the middle of the data, and the last byte of its checksum
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with open_file(path) as handle, pytest.raises(DamagedMember):
            list(handle.pieces(0))


@pytest.mark.parametrize("data", [b"", b"x", b"{}\n" * 1000, bytes(100_000), frame_of(b"{}\n" * 1000), b"\x1f\x8b" + bytes(50)])
def test_a_foreign_file_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / PACKED).write_bytes(data)
    lines, damages = read_all(tmp_path / PACKED)
    assert (lines, len(damages)) == ([], 1)


def test_what_is_said_to_be_small_is_not_inflated_to_a_gigabyte(tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compressobj()
    frame = b"".join(bomb.compress(bytes(1 << 24)) for _ in range(16)) + bomb.flush()
    assert len(frame) < 100_000
    line = [b"x" * 99_999 + b"\n"]
    honest = frame_of(bytes(1 << 26))
    for each in (frame, honest, frame_of(line[0]) + b"more", frame_of(line[0], write_checksum=False), frame_of(line[0])[:-5]):
        path = written(tmp_path / PACKED, [(tags_of(line), each)])
        lines, damages = read_all(path)
        assert (lines, len(damages)) == ([], 1)
        with open_file(path) as handle, pytest.raises(DamagedMember):
            list(handle.pieces(0))


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
