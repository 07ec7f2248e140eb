"""The packed form of a segment, read: its chunks are hopped over, a record is opened by inflating the one frame it lies in.

An address is a line's offset among all lines, as `zstd -dc` puts them out. What a file says of itself is believed within bounds only:
memory stays at one frame of 64 MiB for the whole process, whatever is in it.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, Self

from archive.chunk import FRAME, HEAD_LENGTH, MARK, OPENING, Rows, is_seek_table, read_head, seek_table
from archive.errors import DamagedMember
from archive.frame import Frame, Stored
from archive.member import Damage, Found

__all__ = ["Packed"]

_PIECE: Final = 256 << 10
_SEARCH: Final = 1 << 20
_PAGE: Final = 4096
"""Where the disk cannot read, it is asked again so much farther on."""
_CHUNKS: Final = 1 << 15
"""Chunks of one segment that are looked at: 2 TB of lines, or a chunk for every tenth of a second of its hour."""


class Packed:
    """The packed form, as `archive.handle.Handle` has it. Such a file never changes: its layout is read once, on opening."""

    def __init__(self, fd: int, name: str, *, frame: Frame | None = None, arriving: Iterator[Stored] | None = None) -> None:
        """Takes over the descriptor, also when it raises OSError. `frame`: where to inflate, if not where all others do. `arriving`:
        the chunks of a file that is being written; one `scan` from its beginning then meets them as they come."""
        self._fd = fd
        self._name = name
        self._frame = _frame if frame is None else frame
        self._arriving = arriving
        self._chunks: list[Stored] = []
        self._bases: list[int] = []
        self._damages: list[Damage] = []
        self._end = 0
        self._known: tuple[int, Rows, list[int]] | None = None
        """The records of the chunk last asked for, and where their lines begin in it."""
        try:
            about = os.fstat(fd)
            if arriving is None:
                self._learn(about.st_size)
        except OSError:
            self.close()
            raise
        self._identity = (about.st_dev, about.st_ino)
        self._version = (*self._identity, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        """Tells what was inflated of this file from what was inflated of another, or of this one as it was before somebody damaged it."""

    @property
    def name(self) -> str:
        """As `Handle.name`."""
        return self._name

    def identity(self) -> tuple[int, int]:
        """As `Handle.identity`."""
        return self._identity

    def end(self) -> int:
        """As `Handle.end`: the bytes of all lines."""
        return self._end

    @property
    def sound(self) -> bool:
        """Whether chunk follows chunk from the file's beginning to its table of frames at the end; nothing was inflated to tell."""
        return not self._damages

    def scan(self, start: int = 0) -> Iterator[Found | Damage]:
        """As `Handle.scan`, from the tables of records. `Found.offset` is the line's address, its tag's length the line's."""
        if self._arriving is not None:
            for stored in self._arriving:
                self._add(stored)
                yield from self._scan(len(self._chunks) - 1, start)
            return
        damages = iter([*(it for it in self._damages if it.offset >= start), None])
        damage = next(damages)
        for number, stored in enumerate(self._chunks):
            end = stored.chunk.base + stored.chunk.raw
            while damage is not None and damage.offset < end:
                yield damage
                damage = next(damages)
            if end > start:
                yield from self._scan(number, start)
        while damage is not None:
            yield damage
            damage = next(damages)

    def _scan(self, number: int, start: int) -> Iterator[Found | Damage]:
        base, raw = self._chunks[number].chunk.base, self._chunks[number].chunk.raw
        try:
            rows, begins = self._records(number)
        except DamagedMember as error:
            yield Damage(base, raw, str(error), torn=False)
            return
        for index, begin in enumerate(begins):
            if base + begin >= start:
                yield Found(base + begin, rows.tag(index))

    def lengths(self, offset: int) -> tuple[int, int]:
        """As `Handle.lengths`; a record's share of its frame is what it would be if all packed alike."""
        stored, _, length = self._find(offset)
        return max(1, stored.chunk.stored * length // stored.chunk.raw), length

    def line(self, offset: int, *, limit: int) -> bytes:
        """As `Handle.line`."""
        stored, begin, length = self._find(offset)
        if length > limit:
            raise DamagedMember(f"a line of {length} bytes is longer than it may be")
        if stored.chunk.raw > FRAME:
            return b"".join(stored.pieces())
        return self._frame.copy((*self._version, stored.at), stored, begin, begin + length)

    def pieces(self, offset: int) -> Iterator[bytes]:
        """As `Handle.pieces`."""
        stored, begin, length = self._find(offset)
        if stored.chunk.raw > FRAME:
            yield from stored.pieces()
            return
        for at in range(begin, begin + length, _PIECE):
            yield self._frame.copy((*self._version, stored.at), stored, at, min(at + _PIECE, begin + length))

    def close(self) -> None:
        """As `Handle.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _find(self, offset: int) -> tuple[Stored, int, int]:
        """The chunk in which the record at `offset` lies, where in its lines, and how long the line is."""
        number = bisect_right(self._bases, offset) - 1
        if number >= 0:
            rows, begins = self._records(number)
            begin = offset - self._bases[number]
            index = bisect_right(begins, begin) - 1
            if begins[index] == begin:
                return self._chunks[number], begin, rows.lengths[index]
        raise DamagedMember("no record begins here")

    def _records(self, number: int) -> tuple[Rows, list[int]]:
        known = self._known
        if known is None or known[0] != number:
            rows = self._chunks[number].rows()
            known = self._known = (number, rows, [0, *accumulate(rows.lengths[:-1])])
        return known[1], known[2]

    def _learn(self, size: int) -> None:
        """Hop from chunk to chunk. After damage, go on at the next whole head: it says where its lines belong."""
        at = len(OPENING) if self._try_read(len(OPENING), 0) == OPENING else 0
        while at < size and len(self._chunks) < _CHUNKS:
            stored = self._chunk_at(at, size)
            if stored is None:
                if self._is_end(at, size):
                    return
                stored = self._search(at + 1, size)
                self._damage(at, size if stored is None else stored.at, stored)
            if stored is None:
                return
            self._add(stored)
            at = stored.at + stored.chunk.length
        self._damage(at, size, None)

    def _add(self, stored: Stored) -> None:
        self._chunks.append(stored)
        self._bases.append(stored.chunk.base)
        self._end = stored.chunk.base + stored.chunk.raw

    def _chunk_at(self, at: int, size: int) -> Stored | None:
        chunk = read_head(self._try_read(HEAD_LENGTH, at))
        follows = chunk is not None and at + chunk.length <= size
        return Stored(self._fd, at, chunk) if chunk is not None and follows and chunk.base == self._end else None

    def _damage(self, at: int, to: int, stored: Stored | None) -> None:
        """Bytes `at` to `to` of the file are no chunk; as addresses, all up to the lines of the chunk that follows. At the end nobody
        knows how many lines there were, so the bytes are told instead."""
        length = to - at if stored is None else stored.chunk.base - self._end
        what = "the packed file ends too early" if at == to else f"bytes {at} to {to - 1} of the packed file are no chunk of it"
        self._damages.append(Damage(self._end, length, what, torn=False))
        self._end += length

    def _is_end(self, at: int, size: int) -> bool:
        """Whether the rest is the table of frames. It is compared with what was found, so that others, who go by it, find the same."""
        expected = seek_table(it.chunk for it in self._chunks)
        if self._damages:
            return size - at < _SEARCH and is_seek_table(self._try_read(size - at, at))
        return len(expected) == size - at and self._try_read(len(expected), at) == expected

    def _search(self, at: int, size: int) -> Stored | None:
        """The next chunk, at `at` or after."""
        while at + HEAD_LENGTH <= size:
            data = self._try_read(_SEARCH, at)
            found = data.find(MARK)
            while found >= 0 and found + HEAD_LENGTH <= len(data):
                chunk = read_head(data, found)
                if chunk is not None and chunk.base >= self._end and at + found + chunk.length <= size:
                    return Stored(self._fd, at + found, chunk)
                found = data.find(MARK, found + 1)
            at += len(data) - HEAD_LENGTH + 1 if len(data) >= HEAD_LENGTH else _PAGE
        return None

    def _try_read(self, length: int, at: int) -> bytes:
        try:
            return os.pread(self._fd, length, at)
        except OSError as error:
            if error.errno == errno.EIO:
                return b""  # damage, as any other
            raise


_frame: Final = Frame()
