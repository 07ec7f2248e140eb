"""Sealed and packed hours for tests: agents' traffic, a few MB of it, or lines made to measure."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import traffic
import zstandard

import archive.keeping.packing
from archive.chunk import OPENING, Chunk, pack_head, pack_rows, read_head, seek_table
from archive.errors import DamagedMember
from archive.folder import plain_name
from archive.handle import Handle, open_file, open_segment
from archive.keeping.pack import Repacked, pack
from archive.member import Damage, Found, Tag
from archive.proof.seal import seal_hour

HOUR = "2026-11-19T10"
PLAIN = plain_name(HOUR)
PACKED = f"{HOUR}.jsonl.zst"


def sealed(folder: Path, megabytes: float = 1.0) -> Path:
    """A folder with one sealed hour of agents' traffic; the path of its plain segment."""
    made = traffic.segments_of(folder, traffic.upto(traffic.agents(), megabytes))
    assert [path.name for path in made.paths] == [PLAIN]
    seal_hour(folder, HOUR, now=time.time(), version="test")
    return folder / PLAIN


def packed(folder: Path, megabytes: float = 1.0) -> Path:
    """The same, packed; in chunks of 200 KB where `small_frames` is in force."""
    sealed(folder, megabytes)
    assert isinstance(pack(folder, HOUR), Repacked)
    return folder / PACKED


def small_frames(monkeypatch: pytest.MonkeyPatch, size: int = 200_000) -> None:
    """Several chunks out of little traffic. Readers know no such limit."""
    monkeypatch.setattr(archive.keeping.packing, "FRAME", size)


def records(folder: Path, name: str) -> list[tuple[Tag, bytes]]:
    """Every record of a segment that has no damage: its tag, without the length, and its line."""
    with open_segment(folder, name) as handle:
        found = list(handle.scan())
        assert all(isinstance(each, Found) for each in found)
        return [(each.tag._replace(length=0), handle.line(each.offset, limit=1 << 30)) for each in found if isinstance(each, Found)]


def in_both_forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with the same hour: the path of the plain form, and of the packed one in chunks of 200 KB."""
    plain, zst = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("packed")
    sealed(plain)
    with pytest.MonkeyPatch.context() as patch:
        small_frames(patch)
        packed(zst)
    return plain / PLAIN, zst / PACKED


def chunks_of(data: bytes) -> list[int]:
    """Where they begin."""
    starts, at = [], len(OPENING)
    while (chunk := read_head(data, at)) is not None:
        starts.append(at)
        at += chunk.length
    return starts


def found(handle: Handle) -> list[Found]:
    """Every record of a segment that has no damage."""
    each = list(handle.scan())
    assert all(isinstance(it, Found) for it in each), each
    return [it for it in each if isinstance(it, Found)]


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
    """As it should be, unless `options` say otherwise."""
    return zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(lines)


def tags_of(lines: list[bytes]) -> list[Tag]:
    """Tags for lines that say nothing of themselves."""
    return [Tag(1, len(line), number.to_bytes(16, "big"), 0, number) for number, line in enumerate(lines)]
