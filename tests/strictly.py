"""A second opinion on framing: HTTP/1.1 read as narrowly as RFC 9112 can be read, byte after byte. Shares nothing with the gateway.

It is the judge of the smuggling fuzz: what a client sent means what this says and nothing else, and what reaches an upstream must be
read by it without a word of complaint. Written for clarity, not speed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Read", "Strict", "ViolationError", "read_request", "read_response"]

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = frozenset(b"0123456789")
HEX = frozenset(b"0123456789abcdefABCDEF")


class ViolationError(Exception):
    """The bytes are no HTTP/1.1 that has one meaning only."""


class _MoreError(Exception):
    """The bytes end before the message does."""


@dataclass(slots=True)
class Strict:
    """One message: its start line in three parts, its fields as sent, its body without framing."""

    start: tuple[bytes, bytes, bytes]
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    chunked: bool = False
    whole: bool = False
    """The body came to its end."""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of this name (lower case)."""
        return [value for found, value in self.fields if found.lower() == name]


@dataclass(slots=True)
class Read:
    """What a stretch of bytes begins with: a message (perhaps without its end), how many bytes it took, what was wrong with it."""

    message: Strict | None
    used: int = 0
    problem: str = ""


def read_request(data: bytes) -> Read:
    """The request at the beginning of `data`."""
    return _read(data, answers=None)


def read_response(data: bytes, answers: bytes, *, ended: bool) -> Read:
    """The response to a request with the method `answers`; `ended`: no more bytes will follow."""
    return _read(data, answers=answers, ended=ended)


def _read(data: bytes, *, answers: bytes | None, ended: bool = False) -> Read:
    message: Strict | None = None
    try:
        at = 0
        while answers is None and data[at : at + 2] == b"\r\n":
            at += 2
        line, at = _line(data, at)
        start = _request_line(line) if answers is None else _status_line(line)
        fields, at = _fields(data, at)
        message = Strict(start, fields)
        if answers is None:
            _check_host(message)
            length = _framing(message, start[2])
        else:
            length = _framing(message, start[0])
            if int(start[1]) < 200 or start[1] in (b"204", b"304") or answers == b"HEAD":
                message.chunked, length = False, 0
            elif length is None and not message.chunked:
                message.body, message.whole = data[at:], ended
                return Read(message, len(data))
        at = _body(data, at, message, length or 0)
        message.whole = True
        return Read(message, at)
    except _MoreError:
        return Read(message)
    except ViolationError as violation:
        return Read(message, problem=str(violation))


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    """One line, which ends in CRLF and holds no control byte but tabs."""
    for place in range(at, len(data)):
        byte = data[place]
        if byte == 13:
            if place + 1 == len(data):
                raise _MoreError
            if data[place + 1] != 10:
                raise ViolationError("a bare CR")
            return data[at:place], place + 2
        if (byte < 32 and byte != 9) or byte == 127:
            raise ViolationError(f"the control byte {byte}")
    raise _MoreError


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[0] or not TOKEN.issuperset(parts[0]) or not parts[1]:
        raise ViolationError("a request line that is none")
    method, target, version = parts
    if any(byte < 0x21 or byte > 0x7E for byte in target):
        raise ViolationError("a target with odd bytes")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ViolationError("a version that is none")
    return method, target, version


def _status_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    version, _, rest = line.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or len(rest) < 3 or not DIGITS.issuperset(rest[:3]) or rest[3:4] not in (b"", b" "):
        raise ViolationError("a status line that is none")
    if not 100 <= int(rest[:3]) <= 599:
        raise ViolationError("a status that is none")
    return version, rest[:3], rest[4:]


def _fields(data: bytes, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
    found: list[tuple[bytes, bytes]] = []
    while True:
        line, at = _line(data, at)
        if not line:
            return found, at
        name, colon, value = line.partition(b":")
        if not colon or not name or not TOKEN.issuperset(name):
            raise ViolationError("a field line that is none")
        found.append((name, value.strip(b" \t")))


def _check_host(message: Strict) -> None:
    hosts = message.values(b"host")
    if len(hosts) > 1 or (not hosts and message.start[2] == b"HTTP/1.1"):
        raise ViolationError(f"{len(hosts)} Host fields")


def _framing(message: Strict, version: bytes) -> int | None:
    """The length that is declared, or None; `chunked` is set in the message."""
    lengths = message.values(b"content-length")
    codings = message.values(b"transfer-encoding")
    if codings and lengths:
        raise ViolationError("Transfer-Encoding beside Content-Length")
    if codings:
        if version != b"HTTP/1.1" or [coding.lower() for coding in codings] != [b"chunked"]:
            raise ViolationError("a transfer coding that is not exactly chunked")
        message.chunked = True
        return None
    if not lengths:
        return None
    if len(lengths) > 1 or not lengths[0] or not DIGITS.issuperset(lengths[0]) or int(lengths[0]) >= 2**63:
        raise ViolationError("a Content-Length that is none")
    return int(lengths[0])


def _body(data: bytes, at: int, message: Strict, length: int) -> int:
    if not message.chunked:
        message.body = data[at : at + length]
        if len(message.body) < length:
            raise _MoreError
        return at + length
    while True:
        line, at = _line(data, at)
        digits, _, _extension = line.partition(b";")
        if not 0 < len(digits) <= 16 or not HEX.issuperset(digits) or int(digits, 16) >= 2**63:
            raise ViolationError("a chunk size that is none")
        size = int(digits, 16)
        if not size:
            message.trailers, at = _fields(data, at)
            return at
        piece = data[at : at + size]
        message.body += piece
        at += size
        if len(piece) < size or len(data) < at + 2:
            if len(piece) == size and data[at:] not in (b"", b"\r"):
                raise ViolationError("no CRLF after a chunk")
            raise _MoreError
        if data[at : at + 2] != b"\r\n":
            raise ViolationError("no CRLF after a chunk")
        at += 2
