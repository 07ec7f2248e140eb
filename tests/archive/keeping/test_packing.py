"""Writing the packed form: what goes into one chunk, what is refused on the way, and that no thread is left behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from rig_packed import HOUR, PACKED, PLAIN, chunks_of, records, sealed, small_frames

import archive.keeping.packing
from archive.chunk import read_head
from archive.errors import DamagedMember
from archive.handle import Plain, open_segment
from archive.keeping.pack import Repacked, pack
from archive.keeping.packing import chunks_written


def done(result: object) -> None:
    assert isinstance(result, Repacked), result


def test_a_long_line_is_packed_in_a_frame_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch, 20_000)
    monkeypatch.setattr(archive.keeping.packing, "_SMALL", 50_000)
    sealed(tmp_path, 0.5)
    before = records(tmp_path, PLAIN)
    assert max(len(line) for _, line in before) > 60_000
    done(pack(tmp_path, HOUR))
    assert records(tmp_path, PACKED) == before


def test_many_records_are_spread_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive.keeping.packing, "RECORDS", 3)
    sealed(tmp_path, 0.5)
    before = records(tmp_path, PLAIN)
    done(pack(tmp_path, HOUR))
    assert records(tmp_path, PACKED) == before


def test_a_frame_holds_as_many_lines_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch, 300_000)
    sealed(tmp_path, 1.5)
    sizes = [len(line) for _, line in records(tmp_path, PLAIN)]
    done(pack(tmp_path, HOUR))
    data = (tmp_path / PACKED).read_bytes()
    chunks = [read_head(data, at) for at in chunks_of(data)]
    assert len(chunks) > 3
    base = 0
    for chunk in chunks:
        assert chunk is not None
        mine, sizes = sizes[: chunk.records], sizes[chunk.records :]
        assert (chunk.base, chunk.raw) == (base, sum(mine))
        assert chunk.raw <= 300_000 or chunk.records == 1
        assert not sizes or chunk.raw + sizes[0] > 300_000
        base += chunk.raw
    assert not sizes


def written(folder: Path, *, until: int = 1 << 30) -> int:
    """Write the chunks of the plain form, and go away after some of them."""
    fd = os.open(folder / "out", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    count = 0
    try:
        with open_segment(folder, PLAIN) as plain:
            assert isinstance(plain, Plain)
            chunks = chunks_written(plain, fd, 3)
            try:
                for _ in chunks:
                    count += 1
                    if count == until:
                        break
            finally:
                chunks.close()
    finally:
        os.close(fd)
    return count


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "pack"]


def test_whoever_goes_away_early_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch, 50_000)
    sealed(tmp_path, 2)
    assert written(tmp_path) > 10
    for until in (1, 2, 7):
        assert written(tmp_path, until=until) == until
    assert threads() == []


def test_what_is_no_sound_member_is_raised_where_the_chunks_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_frames(monkeypatch, 50_000)
    plain = sealed(tmp_path, 1)
    data = bytearray(plain.read_bytes())
    data[-100] ^= 1
    plain.write_bytes(data)
    with pytest.raises(DamagedMember):
        written(tmp_path)
    monkeypatch.setattr(archive.keeping.packing, "LONGEST", 1000)
    with pytest.raises(DamagedMember, match="is longer than"):
        written(tmp_path)
    monkeypatch.undo()
    plain.write_bytes(data + b"torn")
    with pytest.raises(DamagedMember, match="are no record"):
        written(tmp_path)
    assert threads() == []
