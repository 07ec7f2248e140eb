"""Writing the packed form of a segment: one thread inflates its lines, another packs them and writes. Judges nothing, removes nothing."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from queue import Empty, Queue
from threading import Event, Thread
from typing import Final, NamedTuple, TypeVar

import zstandard

from archive.chunk import FRAME, LONGEST, OPENING, RECORDS, WINDOW_LOG, Chunk, pack_head, pack_rows
from archive.errors import DamagedMember
from archive.frame import Stored
from archive.handle import Plain
from archive.member import Damage, Found, Tag, inflate

__all__ = ["DEFAULT_LEVEL", "chunks_written", "write_all"]

DEFAULT_LEVEL: Final = 3
"""Of zstd's: 9 is a third as quick and makes files a tenth smaller."""
_TABLES: Final = {"hash_log": 20, "chain_log": 16, "min_match": 6}
"""Larger tables of what was seen where than the level has by itself: they find what was said tens of MB ago as well as long-distance
matching (zstd(1), --long) does, in half the time (resent histories: 450 MB/s and 22:1, against 230 MB/s and 21:1)."""
_BATCH: Final = 1 << 20
_SMALL: Final = 4 << 20
"""A longer line is inflated piece by piece."""
_AHEAD: Final = 4
"""Batches of lines that wait for a thread to take them up."""

T = TypeVar("T")


def chunks_written(plain: Plain, fd: int, level: int) -> Generator[Stored, None, None]:
    """Write all of a packed segment but its seek table into an empty file, and tell of each chunk when it is written. To be closed.

    Raises DamagedMember for anything in `plain` that is no sound member, OSError for what the disk does.
    """
    write_all(fd, OPENING)
    with closing(_ahead(_batches(plain), _AHEAD)) as batches, closing(_ahead(_chunks(batches, fd, level), 1)) as stored:
        yield from stored


class _Planned(NamedTuple):
    """A member, and how long its line is by its trailer's word."""

    found: Found
    size: int


def _plan(plain: Plain) -> Iterator[list[_Planned]]:
    """The records of each chunk to be."""
    group: list[_Planned] = []
    raw = 0
    for each in plain.scan():
        if isinstance(each, Damage):
            raise DamagedMember(f"{each.length} bytes at {each.offset} are no record: {each.why}")
        trailer = os.pread(plain.fileno(), 4, each.offset + each.tag.length - 4)
        size = int.from_bytes(trailer, "little")
        if size > LONGEST:
            raise DamagedMember(f"the line at {each.offset} is longer than {LONGEST >> 20} MiB")
        if group and (raw + size > FRAME or len(group) == RECORDS):
            yield group
            group, raw = [], 0
        group.append(_Planned(each, size))
        raw += size
    if group:
        yield group


def _batches(plain: Plain) -> Iterator[list[Tag] | bytes]:
    """For each chunk first its records, then all of its lines, some at a time."""
    for group in _plan(plain):
        yield [it.found.tag._replace(length=it.size) for it in group]
        for run in _runs(group):
            offset, tag = run[0].found
            if tag.length > _SMALL or run[0].size > _SMALL:
                yield from plain.pieces(offset)
                continue
            data = memoryview(os.pread(plain.fileno(), run[-1].found.offset + run[-1].found.tag.length - offset, offset))
            lines = []
            for (at, (_, length, *_)), size in run:
                member = data[at - offset : at - offset + length]
                if len(member) != length:
                    raise DamagedMember(f"the file was cut off at {at}")
                lines.append(inflate(member, limit=size))
            yield b"".join(lines)


def _runs(group: list[_Planned]) -> Iterator[list[_Planned]]:
    """Members to be read and inflated together: about a MiB of lines, or a single longer one."""
    run: list[_Planned] = []
    total = 0
    for each in group:
        weight = max(each.size, each.found.tag.length)
        if run and total + weight > _BATCH:
            yield run
            run, total = [], 0
        run.append(each)
        total += weight
    yield run


def _chunks(batches: Iterable[list[Tag] | bytes], fd: int, level: int) -> Iterator[Stored]:
    """Pack and write each chunk, and tell of it when it is written."""
    options = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG, write_checksum=True, **_TABLES)
    compressor = zstandard.ZstdCompressor(compression_params=options)
    at, base, left = len(OPENING), 0, 0
    tags: list[Tag] = []
    out: list[bytes] = []
    for batch in batches:
        if isinstance(batch, list):
            tags, out = batch, []
            left = sum(tag.length for tag in tags)
            frame = compressor.compressobj(size=left)
            continue
        out.append(frame.compress(batch))
        left -= len(batch)
        if left == 0:
            out.append(frame.flush())
            raw, table = sum(tag.length for tag in tags), pack_rows(tags)
            chunk = Chunk(base, raw, sum(map(len, out)), len(tags), len(table))
            write_all(fd, b"".join((pack_head(chunk), table, *out)))
            yield Stored(fd, at, chunk)
            at, base = at + chunk.length, base + raw


def _ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, up to `depth` of them ahead. To be closed."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(depth)
    stop = Event()

    def make() -> None:
        try:
            for item in items:
                queue.put((item,))
                if stop.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # for the other thread to raise
            queue.put(error)

    thread = Thread(target=make, name="pack", daemon=True)
    thread.start()
    try:
        while (made := queue.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        stop.set()
        while thread.is_alive():
            with suppress(Empty):
                queue.get(timeout=0.01)


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however much of it each call takes. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
