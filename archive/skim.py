"""Reading one record's line within bounds: whole where it is small, piece by piece where it is not, its long texts left out.

Whatever a line inflates to, memory stays at a few MiB unless the caller asks for all of it. Reads segments it is handed; opens none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from archive.errors import DamagedMember
from archive.handle import Handle

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = ["SMALL", "contains", "decode", "read_line", "skim"]

SMALL: Final = 1 << 20
"""A line up to this long is read whole: skimming costs a microsecond a string, parsing a tenth of that."""
_KEEP: Final = 128 << 10
"""A longer string is left out of what `skim` returns: beyond any header or target, short of most bodies."""
_SKIMMED: Final = 8 << 20

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


def read_line(handle: Handle, offset: int, *, limit: int) -> bytes:
    """The line of the record at `offset`, its newline taken off. Raises DamagedMember, also for a line of more than `limit` bytes."""
    return handle.line(offset, limit=limit).removesuffix(b"\n")


def skim(handle: Handle, offset: int) -> Json:
    """The object of the member at `offset`; strings too long for a list may be empty in it. Memory and output are bounded."""
    if (line := _small(handle, offset)) is not None:
        return decode(line)
    return decode(_without_long_strings(handle.pieces(offset)))


def contains(handle: Handle, offset: int, needle: bytes) -> bool:
    """Whether the line holds `needle` (lower case), whatever the case of its ASCII letters."""
    if (line := _small(handle, offset)) is not None:
        return needle in line.lower()
    before = b""
    for piece in handle.pieces(offset):
        window = before + piece.lower()
        if needle in window:
            return True
        before = window[len(window) - len(needle) + 1 :]
    return False


def _small(handle: Handle, offset: int) -> bytes | None:
    """The line where it and its member are short; None where they are not."""
    length, size = handle.lengths(offset)
    return read_line(handle, offset, limit=size) if size <= SMALL >= length else None


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
