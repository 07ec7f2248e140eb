"""Where a body ends (RFC 9112 sections 6 and 7): by length, by chunks, by the connection's end. Bytes in, extents out.

Each kind is told bytes, says how many of them were its own, and appends what they are: `Data`, at last `End`. Nothing is rebuilt.
"""

from __future__ import annotations

import re
from typing import Any, Final

from gateway.control import PREFIX
from gateway.grammar import CONTROL, ProtocolError

__all__ = ["END", "Chunked", "Data", "End", "Length", "UntilClose"]

MAX_CHUNK: Final = 2**31 - 1
"""Largest chunk taken, in bytes. Nobody sends one of 2 GiB, but a peer that keeps sizes in 32 bits would read such a size as a small one,
and the rest of the chunk as messages."""

MAX_EXTENSION: Final = 1000
"""Longest chunk extension, in bytes. Nobody uses them; nginx and llhttp stop far earlier."""

_TEXT: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]"
_EXTENSION: Final = rb"(?:;" + _TEXT + rb"{0,%d}+)?" % MAX_EXTENSION
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})" + _EXTENSION + rb"\r\n").match
"""A chunk's first line: plain digits (no sign, `0x`, space), CRLF. A quoted string in an extension may hold neither CR nor LF."""
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,16}" + _EXTENSION + rb"\r?").fullmatch
_TRAILER: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:" + _TEXT + rb"*+\r\n"
_TRAILERS: Final = re.compile(rb"(?:" + _TRAILER + rb")+").fullmatch
_TRAILER_NAMES: Final = re.compile(rb"([^:\r]+):[^\r]*\r\n").findall
_TRAILER_BAD: Final = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect host keep-alive max-forwards "
    b"proxy-authenticate proxy-authorization proxy-connection set-cookie te trailer transfer-encoding upgrade x-api-key "
    b"api-key x-goog-api-key".split()
)
"""Names no trailer may carry on (RFC 9110 section 6.5.1: framing, routing, authentication). Such a trailer section is dropped."""


class Data:
    """A piece of a body. `raw` is as it crossed, chunk framing included; `payload` is the same without it."""

    __slots__ = ("payload", "raw")

    def __init__(self, raw: bytes, payload: list[bytes]) -> None:
        self.raw = raw
        self.payload = payload


class End:
    """The message is over. `raw` closes it on the wire: the last chunk and its trailers, or nothing."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes = b"") -> None:
        self.raw = raw


END: Final = End()
"""The end of a body without anything to close it on the wire; one for all."""


class Length:
    """A body of `Content-Length` bytes, more than 0."""

    __slots__ = ("ended", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.ended = False

    def receive(self, data: bytes, events: list[Any]) -> int:
        size = len(data)
        if size < self.left:
            self.left -= size
            events.append(Data(data, [data]))
            return size
        used, self.left, self.ended = self.left, 0, True
        if used < size:
            data = data[:used]
        events.append(Data(data, [data]))
        events.append(END)
        return used


class UntilClose:
    """A body that ends with the connection."""

    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False

    def receive(self, data: bytes, events: list[Any]) -> int:
        events.append(Data(data, [data]))
        return len(data)


class Chunked:
    """The chunked coding (RFC 9112 section 7.1), read strictly. Raises ProtocolError with 400, 413 or 431.

    What is accepted goes on as it came; an unfinished size line, the last chunk and the trailers are held until they are whole.
    """

    __slots__ = ("_held", "_last", "_left", "_most", "_most_trailers", "_size", "ended")

    def __init__(self, most: int, most_trailers: int) -> None:
        """`most`: bytes all chunks may hold together; `most_trailers`: bytes the trailer section may have."""
        self.ended = False
        self._held = b""
        self._left = 0  # of the chunk under way: its data and the CRLF after them
        self._last = False
        self._size = 0
        self._most = most
        self._most_trailers = most_trailers

    def receive(self, data: bytes, events: list[Any]) -> int:
        held = len(self._held)
        if held:
            data, self._held = self._held + data, b""
        at, size, left = 0, len(data), self._left
        payload: list[bytes] = []
        while at < size:
            if not left:
                line = _SIZE(data, at)
                if line is None:
                    self._hold_size_line(data[at:])
                    break
                left = int(line[1], 16) + 2
                if left == 2:
                    self._last = True
                    break
                if left > MAX_CHUNK:
                    raise ProtocolError(400, "a chunk is too large")
                self._size += left - 2
                if self._size > self._most:
                    raise ProtocolError(413, f"the body is longer than {self._most} bytes")
                at = line.end()
            end = at + left
            if end <= size:  # all that is left of the chunk
                if data[end - 2 if left > 1 else at : end] != (b"\r\n" if left > 1 else b"\n"):
                    raise ProtocolError(400, "a chunk is not followed by CRLF")
                if left > 2:
                    payload.append(data[at : end - 2])
                at, left = end, 0
            else:
                left = end - size
                if left == 1 and data[-1] != 13:
                    raise ProtocolError(400, "a chunk is not followed by CRLF")
                if at < size - (left == 1):
                    payload.append(data[at : size - (left == 1)])
                at = size
        self._left = 0 if self._last else left
        if at:
            events.append(Data(data[:at] if at < size else data, payload))
        if self._last:
            return self._receive_last(data, at, events) - held
        return size - held

    def _hold_size_line(self, begun: bytes) -> None:
        if b"\n" in begun or not _SIZE_BEGUN(begun):
            raise ProtocolError(400, "malformed chunk size")
        self._held = begun

    def _receive_last(self, data: bytes, at: int, events: list[Any]) -> int:
        """The last chunk's line, the trailer section and the blank line, from `at` on."""
        first = data.find(b"\n", at) + 1
        if data[first : first + 2] == b"\r\n":
            end = first + 2
            trailers = b""
        else:
            end = data.find(b"\r\n\r\n", first) + 4
            if end < 4 or end - first > self._most_trailers:
                if len(data) - first > self._most_trailers:
                    raise ProtocolError(431, "the trailer section is too long")
                if data.count(b"\n", first) != data.count(b"\r\n", first) or data[first:].translate(None, CONTROL) != data[first:]:
                    raise ProtocolError(400, "malformed trailer")  # no proper end would ever come
                self._held = data[at:]
                return len(data)
            trailers = _trailers(data[first : end - 2])
        self.ended = True
        events.append(End(b"0\r\n" + trailers + b"\r\n"))
        return end


def _trailers(block: bytes) -> bytes:
    """The trailer lines as they came, or nothing when one of them has no business in a trailer. They stay trailers, never headers."""
    if not _TRAILERS(block):
        raise ProtocolError(400, "malformed trailer")
    for name in _TRAILER_NAMES(block):
        lower = name.lower()
        if lower in _TRAILER_BAD or lower.startswith(PREFIX):
            return b""
    return block
