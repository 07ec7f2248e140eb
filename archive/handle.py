"""An open segment, whichever its form: where its records lie, and their lines. Reads only; refuses symbolic links.

Damage raises DamagedMember where one record is asked for, and is a value where all are. Not thread-safe but for `line` and `pieces`.
"""

from __future__ import annotations

import errno
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from archive.errors import BadName, DamagedMember, NotFound
from archive.folder import PACKED, SEGMENT_NAME
from archive.member import HEADER_LENGTH, Damage, Found, read_tag, scan, unpack

__all__ = ["Handle", "Plain", "may_open", "open_file", "open_segment"]

_READ: Final = 64 << 10
_PIECE: Final = 256 << 10
_SLACK: Final = 1 << 20
"""A member is hardly longer than its line: deflate adds 5 bytes to 64 KB that do not compress."""
_BEGINNING: Final = 1024
_STEP: Final = 64
"""Bytes inflated at a time where what lies before the damage is wanted, too."""
_INFLATED: Final = 512 << 20
"""A line longer than this is not even read piece by piece: it takes a second and more, and no writer of ours makes such."""
_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM}


class Handle(Protocol):
    """An open segment. Every method blocks on the disk. An `offset` is a record's address as `scan` says it, good for this form only."""

    @property
    def name(self) -> str:
        """The file's name."""

    def identity(self) -> tuple[int, int]:
        """Device and inode: another file under the same name has another."""

    def end(self) -> int:
        """The address at which the segment ends now."""

    def scan(self, start: int = 0) -> Iterator[Found | Damage]:
        """Every record from the address `start` on, in order, with what is damaged between them; nothing is inflated."""

    def lengths(self, offset: int) -> tuple[int, int]:
        """Bytes that the record takes up in the file, about, and bytes of its line, newline included (modulo 2**32 in the plain form).

        Raises DamagedMember where no record begins.
        """

    def line(self, offset: int, *, limit: int) -> bytes:
        """The record's line, newline included. Raises DamagedMember, also for a line of more than `limit` bytes."""

    def pieces(self, offset: int) -> Iterator[bytes]:
        """The same in pieces of at most 256 KiB; its checksum is compared at the end. Raises DamagedMember."""

    def close(self) -> None:
        """Let go of the file. May be called twice."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_segment(folder: Path, name: str) -> Handle:
    """The segment `name` of `folder`. Raises BadName for any other name, NotFound when no regular file that we may read is there, OSError
    when this machine cannot open anything more."""
    if not SEGMENT_NAME.fullmatch(name):
        raise BadName("not the name of a segment")
    return open_file(folder / name)


def open_file(path: Path) -> Handle:
    """A segment wherever it lies and whatever it is called; its form is told by the end of its name. Raises NotFound, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise NotFound(f"segment {path.name} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotFound(f"segment {path.name} is no regular file")
    if path.name.endswith(PACKED):
        from archive.packed import Packed  # most archives hold none, and zstd takes 10 ms to import

        return Packed(fd, path.name)
    return Plain(fd, path.name)


def may_open(folder: Path, name: str) -> bool:
    """Whether this user may open that file. What is gone or lies there instead is nobody's to refuse."""
    try:
        os.close(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:
        return True
    return True


class Plain:
    """The plain form: gzip members one after another; an address is an offset in the file."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes over the descriptor."""
        self._fd = fd
        self._name = name

    @property
    def name(self) -> str:
        """As `Handle.name`."""
        return self._name

    def fileno(self) -> int:
        """The descriptor, for one who reads the file from end to end."""
        return self._fd

    def identity(self) -> tuple[int, int]:
        """As `Handle.identity`."""
        about = os.fstat(self._fd)
        return about.st_dev, about.st_ino

    def end(self) -> int:
        """As `Handle.end`: the length of the file."""
        return os.fstat(self._fd).st_size

    def scan(self, start: int = 0) -> Iterator[Found | Damage]:
        """As `Handle.scan`, hopping from header to header: 100,000 members in 0.1 s."""
        with open(self._fd, "rb", buffering=0, closefd=False) as file:
            yield from scan(file, start)

    def lengths(self, offset: int) -> tuple[int, int]:
        """As `Handle.lengths`. The line's is what the trailer says (RFC 1952 section 2.3.1); one that lies is found out on reading."""
        tag = read_tag(self._pread(HEADER_LENGTH, offset))
        if tag is None:
            raise DamagedMember("no member begins here")
        return tag.length, int.from_bytes(self._pread(4, offset + tag.length - 4), "little")

    def line(self, offset: int, *, limit: int) -> bytes:
        """As `Handle.line`."""
        length, _ = self.lengths(offset)
        if length > limit + _SLACK:
            raise DamagedMember(f"a member of {length} bytes is longer than its line may be")
        return unpack(self._pread(length, offset), limit=limit)

    def pieces(self, offset: int) -> Iterator[bytes]:
        """As `Handle.pieces`. Inflates at most 512 MiB."""
        end = offset + self.lengths(offset)[0]
        room = _INFLATED
        inflater = zlib.decompressobj(31)
        try:
            while offset < end and not inflater.eof:
                data = self._pread(min(_READ, end - offset), offset)
                if not data:
                    break
                offset += len(data)
                while data or not inflater.eof:
                    piece = inflater.decompress(data, _PIECE)
                    data = inflater.unconsumed_tail
                    if not (piece or data):
                        break
                    room -= len(piece)
                    if room < 0:
                        raise DamagedMember(f"inflates to more than {_INFLATED} bytes")
                    yield piece
        except zlib.error as error:
            raise DamagedMember("the deflated data is damaged") from error
        if not inflater.eof or inflater.unused_data or offset != end:
            raise DamagedMember("the deflated data does not end where the member does")

    def beginning(self, offset: int) -> bytes:
        """How the line of the record at `offset` begins, at least 1 KiB of it: as much of that as can be inflated, and damaged or not."""
        begin, inflater = b"", zlib.decompressobj(31)
        with suppress(DamagedMember, zlib.error):
            end = offset + self.lengths(offset)[0]
            while offset < end and len(begin) < _BEGINNING:
                begin += inflater.decompress(self._pread(min(_STEP, end - offset), offset))
                offset += _STEP
        return begin

    def close(self) -> None:
        """As `Handle.close`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            if error.errno == errno.EIO:
                raise DamagedMember("the disk cannot read it") from error
            raise
