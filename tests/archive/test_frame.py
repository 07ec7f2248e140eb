"""Frames inflated: one for all its records, whoever asks; no more than was said; a checksum at the end of it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from rig_packed import PACKED, found, frame_of, in_both_forms, packed, read_all, records, small_frames, tags_of, written

import archive.packed
from archive.errors import DamagedMember
from archive.frame import Frame
from archive.handle import open_file
from archive.member import Found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return in_both_forms(tmp_path_factory)


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
