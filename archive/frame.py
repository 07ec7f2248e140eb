"""Frames of packed segments, inflated: one at a time for the whole process, or piece by piece where a single line is longer than a frame.

What a chunk's head says is held against the frame's own. No byte of a whole frame is given out before its checksum was compared; of pieces,
the last one is not.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from threading import Lock
from typing import IO, Final, NamedTuple, cast

import zstandard

from archive.chunk import HEAD_LENGTH, Chunk, Rows, unpack_rows
from archive.errors import DamagedMember

__all__ = ["Frame", "Stored"]

_PIECE: Final = 256 << 10
_READ: Final = 64 << 10
_HUGE_PAGE: Final = 2 << 20
_WINDOW: Final = 1 << 27
"""What `zstd -dc` takes without being told."""


class Frame:
    """The frame that was inflated last, so that its records cost one inflation together. May be called from any thread.

    Its memory is kept and used again: first touched, 64 MiB cost up to 60 ms, four times what it takes to inflate into them.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._key: object = None
        self._buffer = mmap.mmap(-1, mmap.PAGESIZE)
        self._inflater = zstandard.ZstdDecompressor(max_window_size=_WINDOW)

    def copy(self, key: object, stored: Stored, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of the chunk's lines; `key` tells it from all other chunks. Raises DamagedMember, OSError."""
        with self._lock:
            if self._key != key:
                self._key = None
                self._inflate(stored.frame(), stored.chunk.raw)
                self._key = key
            return self._buffer[start:end]

    def _inflate(self, data: bytes, raw: int) -> None:
        if len(self._buffer) < raw:
            self._buffer.close()
            self._buffer = _pages(raw)
        _check_frame(data, raw)
        try:
            with memoryview(self._buffer)[:raw] as room:
                reader = self._inflater.stream_reader(data)
                done = reader.readinto(room) == raw and not reader.read(1)
        except zstandard.ZstdError as error:
            raise DamagedMember("the frame is damaged") from error
        if not done:
            raise DamagedMember("the frame does not end where its lines do")


def _pages(size: int) -> mmap.mmap:
    pages = mmap.mmap(-1, -(-size // _HUGE_PAGE) * _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages


def _check_frame(data: bytes, raw: int) -> None:
    """Whether the frame's own head (RFC 8878 section 3.1.1.1) says what the chunk's does, and has a checksum behind it."""
    try:
        said = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise DamagedMember("no frame begins where the chunk says") from error
    if said.content_size != raw or not said.has_checksum or said.window_size > max(raw, _WINDOW):
        raise DamagedMember("the frame is not the one the chunk tells of")


class Stored(NamedTuple):
    """A chunk in its file."""

    fd: int
    at: int
    chunk: Chunk

    def rows(self) -> Rows:
        """Its records. Raises DamagedMember, OSError."""
        return unpack_rows(_pread(self.fd, self.chunk.table, self.at + HEAD_LENGTH), self.chunk)

    def frame(self) -> bytes:
        """Its data frame as it is stored. Raises DamagedMember, OSError."""
        return _pread(self.fd, self.chunk.stored, self._data)

    def pieces(self) -> Iterator[bytes]:
        """Its lines in pieces of at most 256 KiB, and its checksum compared at the end. Raises DamagedMember, OSError."""
        _check_frame(_pread(self.fd, min(_READ, self.chunk.stored), self._data), self.chunk.raw)
        left = self.chunk.raw
        inflater = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        file = _Bytes(self.fd, self._data, self.chunk.stored)
        try:
            with inflater.stream_reader(cast(IO[bytes], file), read_size=_READ) as reader:
                while piece := reader.read(_PIECE):
                    left -= len(piece)
                    if left < 0:
                        break
                    yield piece
        except zstandard.ZstdError as error:
            raise DamagedMember("the frame is damaged") from error
        if left:
            raise DamagedMember("the frame does not end where its lines do")

    @property
    def _data(self) -> int:
        return self.at + HEAD_LENGTH + self.chunk.table


class _Bytes:
    """Part of a file, to be read from beginning to end."""

    def __init__(self, fd: int, at: int, length: int) -> None:
        self._fd = fd
        self._at = at
        self._end = at + length

    def read(self, size: int) -> bytes:
        data = _pread(self._fd, min(size, self._end - self._at), self._at)
        self._at += len(data)
        return data


def _pread(fd: int, length: int, at: int) -> bytes:
    try:
        data = os.pread(fd, length, at)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedMember("the disk cannot read it") from error
        raise
    if len(data) < length:
        raise DamagedMember("the file was cut off")
    return data
