"""Member: one record on disk, one complete gzip member (RFC 1952) whose header says how long it is and whose it is.

Any gzip reads it. A scan of ours hops from header to header without inflating, and finds its feet again after damage. No files are
opened here and nothing is written.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple, cast

from archive.errors import DamagedMember

try:
    from isal import isal_zlib as _fast
except ImportError:  # no wheel for this machine: four times slower, the same format
    import zlib as _fast  # type: ignore[no-redef]

__all__ = [
    "FORMAT_VERSION",
    "HEADER_LENGTH",
    "NO_MEMBER",
    "TRAILER_LENGTH",
    "Damage",
    "Found",
    "Tag",
    "data_from",
    "inflate",
    "inflated",
    "pack",
    "read_tag",
    "scan",
    "store",
    "unpack",
]

_InflateError: Final = cast(type[Exception], _fast.error)

FORMAT_VERSION: Final = 1

_LEVEL: Final = 1
"""ISA-L level 1: 200 KB in 0.4 ms at ratio 3.35; zlib-1 takes 1.8 ms for 3.24, zlib-6 takes 5.6 ms for 3.86."""

# RFC 1952 section 2.3: ID1 ID2 CM FLG MTIME(4) XFL OS, then (FLG.FEXTRA) XLEN and one subfield SI1 SI2 LEN DATA. MTIME 0 is "no time
# stamp"; XFL 4 "fastest algorithm"; OS 255 "unknown". "Vb" is none of the ids registered there. DATA, little-endian as all of gzip:
# version, total length of the member, exchange id, part, sequence number, and the CRC-32 of all header bytes before it. With that
# CRC a header vouches for itself: one found in the middle of damaged bytes is real but for one chance in 2**32. (gzip's own header
# CRC, FLG.FHCRC, is refused by gzip before 1.9.)
_GZIP: Final = struct.Struct("<4sIBBH2sH")
_DATA: Final = struct.Struct("<BQ16sIQ")
_CRC: Final = struct.Struct("<I")
_TRAILER: Final = struct.Struct("<II")

_STORED: Final = struct.Struct("<BHH")
"""What stands before a stored block: whether it is the last (block type 00 beside it), its length, and that length's complement."""
_BLOCK: Final = 0xFFFF
"""Most bytes of one stored block."""

_MAGIC: Final = b"\x1f\x8b\x08\x04"
_SUBFIELD: Final = b"Vb"
_SUBFIELD_LENGTH: Final = _DATA.size + _CRC.size
_PREFIX: Final = _GZIP.pack(_MAGIC, 0, 4, 255, 4 + _SUBFIELD_LENGTH, _SUBFIELD, _SUBFIELD_LENGTH)
_CRC_AT: Final = _GZIP.size + _DATA.size

HEADER_LENGTH: Final = _CRC_AT + _CRC.size
"""Bytes before the deflated data; the same for every member of this format version."""
TRAILER_LENGTH: Final = _TRAILER.size
"""CRC-32 and length of the line, RFC 1952 section 2.3.1."""
_SHORTEST: Final = HEADER_LENGTH + 2 + TRAILER_LENGTH
"""No deflate stream is shorter than two bytes."""

NO_MEMBER: Final = "no member begins here"
"""Why a stretch is damaged that has no header at its beginning."""

_WINDOW: Final = 256 << 10
"""One read takes this much where members are small: 300 headers of 2 KB records for one system call."""
_SMALL: Final = 16 << 10
"""Above this length it is cheaper to read each header alone than the data between them."""
_SEARCH: Final = 1 << 20


class Tag(NamedTuple):
    """What a member's header says. A NamedTuple, not a dataclass: a scan makes 100,000 of them in 0.1 s."""

    version: int
    length: int
    """Bytes of the whole member, header and trailer included."""
    id: bytes
    """The exchange's 16 bytes; the writer's own for its book-keeping lines."""
    part: int
    seq: int


class Found(NamedTuple):
    """A member: where it begins in its file, and its tag. Its data has not been looked at."""

    offset: int
    tag: Tag


class Damage(NamedTuple):
    """A stretch of bytes that is no member of ours."""

    offset: int
    length: int
    why: str
    torn: bool
    """It reaches to the end of the file: a write that was cut short, or one that is going on right now ("not yet")."""


def pack(line: bytes, *, id: bytes, part: int, seq: int) -> bytes:
    """The member that holds `line` (which ends in a newline). Releases the interpreter lock while it compresses."""
    deflated = _fast.compress(line, _LEVEL, wbits=-15)
    return b"".join((_head(len(deflated), id, part, seq), deflated, _TRAILER.pack(_fast.crc32(line), len(line) & 0xFFFFFFFF)))


def store(line: bytes, *, id: bytes, part: int, seq: int) -> bytes:
    """The same, uncompressed (RFC 1951 section 3.2.4): a member of a few bytes more than the line, made in a hundredth of the time."""
    size = len(line)
    blocks = max(1, -(-size // _BLOCK))
    pieces: list[bytes | memoryview] = [_head(size + _STORED.size * blocks, id, part, seq)]
    view = memoryview(line)
    for number in range(blocks):
        block = view[number * _BLOCK : (number + 1) * _BLOCK]
        length = len(block)
        pieces += (_STORED.pack(number == blocks - 1, length, length ^ 0xFFFF), block)
    pieces.append(_TRAILER.pack(_fast.crc32(line), size & 0xFFFFFFFF))
    return b"".join(pieces)


def _head(deflated: int, id: bytes, part: int, seq: int) -> bytes:
    """A member's header, for so many bytes of deflated data."""
    head = _PREFIX + _DATA.pack(FORMAT_VERSION, HEADER_LENGTH + deflated + TRAILER_LENGTH, id, part, seq)
    return head + _CRC.pack(zlib.crc32(head))


def read_tag(head: bytes) -> Tag | None:
    """The tag of a member that begins with `head` (its first HEADER_LENGTH bytes or more); None when no member of ours begins so."""
    return _tag_at(head, 0)


def _tag_at(data: bytes, at: int) -> Tag | None:
    # The prefix is compared whole: every byte of it is ours and constant, the CRC covers the rest.
    if not data.startswith(_PREFIX, at) or len(data) - at < HEADER_LENGTH:
        return None
    (crc,) = _CRC.unpack_from(data, at + _CRC_AT)
    if zlib.crc32(data[at : at + _CRC_AT]) != crc:
        return None
    tag = Tag(*_DATA.unpack_from(data, at + _GZIP.size))
    return tag if tag.version == FORMAT_VERSION and tag.length >= _SHORTEST else None


def unpack(member: bytes, *, limit: int) -> bytes:
    """The line, newline included. Inflates at most `limit` bytes. Raises DamagedMember for anything but one whole, sound member."""
    tag = read_tag(member)
    if tag is None:
        raise DamagedMember("no member header")
    if tag.length != len(member):
        raise DamagedMember(f"{len(member)} bytes of a member of {tag.length}")
    return inflate(member, limit=limit)


def inflate(member: bytes | memoryview, *, limit: int) -> bytes:
    """As `unpack`, for a member whose header and length were looked at already."""
    inflater = _fast.decompressobj(wbits=-15)
    body = memoryview(member)[HEADER_LENGTH:-TRAILER_LENGTH]
    try:
        line = inflater.decompress(body, limit + 1)
    except _InflateError as error:
        raise DamagedMember("the deflated data is damaged") from error
    if len(line) > limit:
        raise DamagedMember(f"inflates to more than {limit} bytes")
    if not inflater.eof or inflater.unused_data:
        raise DamagedMember("the deflated data does not end where the member does")
    crc, size = _TRAILER.unpack_from(member, len(member) - TRAILER_LENGTH)
    if crc != _fast.crc32(line) or size != len(line) & 0xFFFFFFFF:
        raise DamagedMember("the line is not the one that was written")
    return line


def inflated(chunks: Iterator[bytes | memoryview], *, most: int) -> Iterator[bytes]:
    """The same for a member of any length, given in chunks: its line in pieces of at most `most` bytes.

    Raises DamagedMember, at the end too: until then nothing says that what was yielded is the line that was written.
    """
    inflater = _fast.decompressobj(wbits=31)
    left: bytes | memoryview = b""
    try:
        for chunk in chunks:
            left = chunk
            while left or not inflater.eof:
                piece = inflater.decompress(left, most)
                left = inflater.unconsumed_tail
                if not (piece or left):
                    break
                yield piece
            if inflater.eof:
                left = inflater.unused_data
                break
        ended = inflater.eof and not left and not any(map(len, chunks))
    except _InflateError as error:
        raise DamagedMember("the deflated data is damaged") from error
    if not ended:
        raise DamagedMember("the deflated data does not end where the member does")


def scan(file: BinaryIO, start: int = 0) -> Iterator[Found | Damage]:
    """Every member from `start` (a member's beginning) to where the file ends now, in order, with what lies damaged between them.

    Reads headers only, a bounded amount at a time, and blocks on the disk; safe beside a writer that appends or truncates back,
    since nothing is mapped. Where a member is not followed by another, the bytes of it are searched too: a write that was torn and
    then appended to would otherwise hide what came after it. A `Damage` that is `torn` comes last, or not at all.
    """
    window = _Window(file)
    at, tag = start, window.tag(start)
    while at < window.size:
        if tag is not None:
            after = at + tag.length
            next_tag = window.tag(after)
            if next_tag is not None or after == window.size:
                yield Found(at, tag)
                at, tag = after, next_tag
                continue
        # The chain is broken here. The next header may lie inside this member (it was torn) or beyond it (the next one is damaged).
        following = window.search(at + 1)
        end = window.size if following is None else following
        if end <= at:
            return  # truncated while we looked
        yield from _broken(at, tag, end, torn=following is None)
        at, tag = end, window.tag(end)


def _broken(at: int, tag: Tag | None, end: int, *, torn: bool) -> Iterator[Found | Damage]:
    if tag is None:
        yield Damage(at, end - at, NO_MEMBER, torn)
    elif at + tag.length > end:
        yield Damage(at, end - at, "the member is cut short", torn)
    else:
        yield Found(at, tag)
        if at + tag.length < end:
            yield Damage(at + tag.length, end - at - tag.length, NO_MEMBER, torn)


def data_from(fd: int, at: int) -> int | None:
    """Where the next bytes that are no hole of a sparse file begin; None when only a hole follows. Moves the file's position."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return at  # a file system that does not know


class _Window:
    """A file's bytes a stretch at a time: one system call for many small members, one small one for each large member."""

    __slots__ = ("_data", "_file", "_from", "_last", "size")

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._data = b""
        self._from = 0
        self._last = 0
        self.size = file.seek(0, io.SEEK_END)

    def tag(self, at: int) -> Tag | None:
        """The tag of the member that begins at `at`; None when none does."""
        if at + HEADER_LENGTH > self.size:
            return None
        offset = at - self._from
        if offset < 0 or offset + HEADER_LENGTH > len(self._data):
            self._data = self._read(at, HEADER_LENGTH if self._last > _SMALL else _WINDOW)
            self._from = at
            offset = 0
        tag = _tag_at(self._data, offset)
        self._last = 0 if tag is None else tag.length
        return tag

    def search(self, at: int) -> int | None:
        """Where the next member's header begins, at `at` or after; None when there is none. Memory stays bounded."""
        while at + HEADER_LENGTH <= self.size:
            data_at = self._data_from(at)
            if data_at is None:
                return None
            at = data_at  # no header begins in a hole
            data = self._read(at, _SEARCH)
            found = data.find(_PREFIX)
            while found >= 0:
                if _tag_at(data, found) is not None:
                    return at + found
                if len(data) - found < HEADER_LENGTH:
                    break  # cut off by the stretch's end: the next stretch begins before it
                found = data.find(_PREFIX, found + 1)
            if len(data) < HEADER_LENGTH:
                return None
            at += len(data) - HEADER_LENGTH + 1
        return None

    def _data_from(self, at: int) -> int | None:
        try:
            return data_from(self._file.fileno(), at)
        except OSError:  # a BytesIO has no descriptor, and no holes
            return at

    def _read(self, at: int, length: int) -> bytes:
        length = min(length, self.size - at)
        try:
            number = self._file.fileno()
        except OSError:
            self._file.seek(at)
            data = self._file.read(length)
        else:
            data = os.pread(number, length, at)
        if len(data) < length:
            self.size = min(self.size, self._file.seek(0, io.SEEK_END))  # truncated while we looked
        return data
