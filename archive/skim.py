"""Reading one member's line within bounds: whole where it is small, piece by piece where it is not, its long texts left out.

Whatever a member inflates to, memory stays at a few MiB unless the caller asks for the whole line. Reads files it is handed; opens none.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

from archive.errors import DamagedMember
from archive.member import HEADER_LENGTH, read_tag, unpack

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = ["contains", "decode", "lengths", "pieces", "read_line", "skim"]

_READ: Final = 64 << 10
_PIECE: Final = 256 << 10
_SMALL: Final = 1 << 20
"""A line up to this long is read whole: skimming costs a microsecond a string, parsing a tenth of that."""
_KEEP: Final = 128 << 10
"""A longer string is left out of what `skim` returns: beyond any header or target, short of most bodies."""
_SKIMMED: Final = 8 << 20
_INFLATED: Final = 512 << 20
"""A line longer than this is not even skimmed: it takes a second and more, and no writer of ours makes such."""

Json = dict[str, Any]


def decode(line: bytes) -> Json:
    """The line's object. Raises DamagedMember where it is none."""
    try:
        value = _loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedMember("the line is no JSON") from error
    if not isinstance(value, dict):
        raise DamagedMember("the line is no JSON object")
    return value


def _loads(line: bytes) -> Any:
    if orjson is not None:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass  # it refuses the escapes of lone surrogates, which the standard library reads
    return json.loads(line)


def read_line(fd: int, offset: int, *, limit: int) -> bytes:
    """The line of the member at `offset`, its newline taken off. Raises DamagedMember, also for a line of more than `limit` bytes."""
    length, _ = lengths(fd, offset)
    if length > limit + _SMALL:
        raise DamagedMember(f"a member of {length} bytes is longer than its line may be")
    return unpack(_pread(fd, length, offset), limit=limit).removesuffix(b"\n")


def skim(fd: int, offset: int) -> Json:
    """The object of the member at `offset`; strings too long for a list may be empty in it. Memory and output are bounded."""
    if (line := _small(fd, offset)) is not None:
        return decode(line)
    return decode(_without_long_strings(pieces(fd, offset)))


def contains(fd: int, offset: int, needle: bytes) -> bool:
    """Whether the line holds `needle` (lower case), whatever the case of its ASCII letters."""
    if (line := _small(fd, offset)) is not None:
        return needle in line.lower()
    before = b""
    for piece in pieces(fd, offset):
        window = before + piece.lower()
        if needle in window:
            return True
        before = window[len(window) - len(needle) + 1 :]
    return False


def pieces(fd: int, offset: int) -> Iterator[bytes]:
    """The line, newline included, in pieces of at most 256 KiB; its checksum is checked at the end. Raises DamagedMember."""
    end = offset + lengths(fd, offset)[0]
    room = _INFLATED
    inflater = zlib.decompressobj(31)
    try:
        while offset < end and not inflater.eof:
            data = _pread(fd, min(_READ, end - offset), offset)
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


def _pread(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedMember("the disk cannot read it") from error
        raise


def lengths(fd: int, offset: int) -> tuple[int, int]:
    """Bytes of the member at `offset`, and of its line as its trailer has it, modulo 2**32 (RFC 1952 section 2.3.1); a trailer that
    lies is found out on reading. Raises DamagedMember where no member begins."""
    tag = read_tag(_pread(fd, HEADER_LENGTH, offset))
    if tag is None:
        raise DamagedMember("no member begins here")
    return tag.length, int.from_bytes(_pread(fd, 4, offset + tag.length - 4), "little")


def _small(fd: int, offset: int) -> bytes | None:
    """The line where it and its member are short; None where they are not."""
    length, size = lengths(fd, offset)
    return read_line(fd, offset, limit=size) if size <= _SMALL >= length else None


_IN_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string up to its closing quote, the piece's end, or a backslash that is the piece's last byte; never backtracks."""


def _string_end(chunk: bytes, at: int) -> int:
    quote = chunk.find(b'"', at)
    if chunk.find(b"\\", at, quote if quote >= 0 else len(chunk)) < 0:
        return quote if quote >= 0 else len(chunk)  # nothing is escaped: several times quicker
    match = _IN_STRING.match(chunk, at)
    return match.end() if match else at


def _without_long_strings(chunks: Iterable[bytes]) -> bytes:
    """The JSON text with every string of more than `_KEEP` bytes made empty. Raises DamagedMember if it is too long even so."""
    out = bytearray()
    string: bytearray | None = None
    """The string we are in, of a long one only the beginning; None outside of strings."""
    escaped = False
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if string is None:
                quote = chunk.find(b'"', at)
                end = len(chunk) if quote < 0 else quote + 1
                out += chunk[at:end]
                string = None if quote < 0 else bytearray()
                at = end
                continue
            if escaped:
                string += chunk[at : at + 1]
                escaped = False
                at += 1
                continue
            end = _string_end(chunk, at)
            string += chunk[at : min(end, at + _KEEP + 1)]
            if chunk[end : end + 1] == b'"':
                out += (string if len(string) <= _KEEP else b"") + b'"'
                string = None
            elif end < len(chunk):
                string += b"\\"
                escaped = True
            if string is not None:
                del string[_KEEP + 1 :]
            at = end + 1
        if len(out) > _SKIMMED:
            raise DamagedMember("the line is too long even without its texts")
    return bytes(out)
