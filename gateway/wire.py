"""HTTP/1.1 as a sans-I/O relay core: bytes in; heads, body extents and ends out. No socket, no clock, no routing.

A `Reader` follows one direction of one connection, message by message. Heads are parsed by llhttp (through httptools, strict)
between guards for what it lets through; body bytes are measured, not rebuilt, so that they can go on as they came.

1. Give it bytes: `reader.receive(data)` returns what they mean: `Head`, `Data`, `End`.
2. After `End` it keeps what follows; `reader.next()` starts on it (so the next message waits for this one).
3. At the connection's end call `reader.eof()`: a message cut short raises `ProtocolError`.

Any split of the same bytes gives the same events, but for how `Data` is cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import httptools

__all__ = ["Data", "End", "Event", "Framing", "Head", "Limits", "ProtocolError", "Reader", "request_reader", "response_reader"]

Framing: TypeAlias = Literal["none", "length", "chunked", "close"]
"""How a message's end is known (RFC 9112 section 6.3): no body, Content-Length, chunked, or the connection's end."""

MAX_LENGTH: Final = 2**63 - 1
"""Largest body or chunk size taken. What does not fit a signed 64-bit integer is read differently by different peers."""

MAX_INTERIM: Final = 32
"""Most 1xx responses taken at once: a server sends one or two."""

MAX_CHUNK_LINE: Final = 1024
"""Longest chunk-size line with extensions, in bytes. Nobody uses extensions; nginx and llhttp stop far earlier."""

_CONTROL: Final = bytes(b for b in range(256) if (b < 32 and b not in b"\t\r\n") or b == 127)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FORBIDDEN: Final = _CONTROL + b"\r\n"
"""What may not be left of a head once its CRLFs are taken out."""
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_HOST_BAD: Final = b" \t/\\@?#,<>\"'`{}|^%"
_TRAILER_BAD: Final = frozenset(
    b"authorization connection content-encoding content-length content-range content-type cookie expect host keep-alive max-forwards "
    b"proxy-authenticate proxy-authorization proxy-connection set-cookie te trailer transfer-encoding upgrade x-api-key "
    b"api-key x-goog-api-key".split()
)
"""Names no trailer may carry on (RFC 9110 section 6.5.1: framing, routing, authentication). Such a trailer section is dropped."""


class ProtocolError(Exception):
    """The peer's bytes are no acceptable HTTP/1.1. `status` is what a server would answer to them."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Limits:
    """How much head a peer may send: `header_bytes` in all (start line included), `header_fields` lines."""

    __slots__ = ("header_bytes", "header_fields")

    def __init__(self, header_bytes: int = 96 << 10, header_fields: int = 256) -> None:
        self.header_bytes = header_bytes
        self.header_fields = header_fields


class Head:
    """A message's head. `headers` are raw names and values in order; `names` the same names in lower case, index for index."""

    __slots__ = (
        "connection",
        "expect",
        "framing",
        "headers",
        "keep_alive",
        "length",
        "method",
        "names",
        "reason",
        "size",
        "status",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, headers: list[tuple[bytes, bytes]], names: list[bytes]) -> None:
        self.headers = headers
        self.names = names
        self.version: bytes = b"HTTP/1.1"
        self.method: bytes = b""
        self.target: bytes = b""
        self.status: int = 0
        self.reason: bytes = b""
        self.framing: Framing = "none"
        self.length: int = 0
        self.keep_alive: bool = True
        self.connection: list[bytes] = []
        """Tokens of all Connection lines, lower case."""
        self.expect: bytes = b""
        self.size: int = 0
        """Bytes of the head on the wire."""
        self.upgrade: bytes = b""
        """The Upgrade header's value, lower case, where Connection names it and the message may be a handshake; else empty."""


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


Event: TypeAlias = Head | Data | End

_END: Final = End()


class _Collector:
    """What llhttp calls back into; only the headers are of interest, the start line is read by us."""

    __slots__ = ("on_header",)

    def __init__(self, on_header: Callable[[bytes, bytes], None]) -> None:
        self.on_header = on_header


class Reader:
    """One direction of one connection. Not thread-safe; never blocks. `ProtocolError` is final: close the connection."""

    __slots__ = ("_body", "_buffer", "_done", "_limits", "_scanned", "_start", "request_method")

    def __init__(self, start: Callable[[bytes, Reader], Head], limits: Limits) -> None:
        self._start = start
        self._limits = limits
        self._buffer = b""
        self._scanned = 0
        self._body: _Length | _Chunked | _Close | None = None
        self._done = False
        self.request_method = b""
        """For responses: the method they answer (HEAD has no body). Set it before the response's first byte."""

    @property
    def idle(self) -> bool:
        """Between messages, with nothing received of the next."""
        return self._body is None and not self._buffer

    @property
    def ended(self) -> bool:
        """The current message has come to its end; `next()` goes on."""
        return self._done

    @property
    def waiting(self) -> int:
        """Bytes received beyond the current message's end, or of an unfinished head."""
        return len(self._buffer)

    def receive(self, data: bytes) -> list[Event]:
        """What `data` means. Raises ProtocolError. Between `End` and `next()` bytes are only kept: bound them by `waiting`."""
        if self._done:
            self._buffer += data
            return []
        if self._body is not None:
            events: list[Event] = []
            self._receive_body(data, events)
            return events
        return self._receive_head(self._buffer + data if self._buffer else data)

    def next(self) -> list[Event]:
        """Go on to the next message, with the bytes already here."""
        self._done = False
        self._body = None
        data, self._buffer = self._buffer, b""
        self._scanned = 0
        return self._receive_head(data) if data else []

    def detach(self) -> bytes:
        """Give up reading messages (the connection is something else now, RFC 9110 section 7.8): the bytes not yet read."""
        rest, self._buffer = self._buffer, b""
        return rest

    def eof(self) -> list[Event]:
        """The peer will send nothing more. Ends a close-delimited body; anything else unfinished raises ProtocolError."""
        if isinstance(self._body, _Close) and not self._done:
            self._done = True
            return [_END]
        if self._done or self.idle:
            return []
        raise ProtocolError(400, "the connection ended inside a message")

    def _receive_head(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        while True:
            if not self._scanned and data[:1] in b"\r\n":
                data = _skip_empty_lines(data)
            end = data.find(b"\r\n\r\n", max(self._scanned - 3, 0))
            if end < 0 or end + 4 > self._limits.header_bytes:
                self._wait_for_head(data)
                return events
            self._buffer = b""
            self._scanned = 0
            head = self._start(data[: end + 4], self)
            if len(head.headers) > self._limits.header_fields:
                raise ProtocolError(431, f"more than {self._limits.header_fields} header fields")
            events.append(head)
            if head.status >= 200 or head.status == 101 or not head.status:
                break
            if len(events) > MAX_INTERIM:
                raise ProtocolError(502, "too many interim responses")
            data = data[end + 4 :]  # an interim response is no message of its own
            if not data:
                return events
        framing = head.framing
        if framing == "none" or (framing == "length" and not head.length):
            self._done = True
            self._buffer = data[end + 4 :]
            events.append(_END)
            return events
        self._body = (
            _Length(head.length) if framing == "length" else _Chunked(self._limits.header_bytes) if framing == "chunked" else _Close()
        )
        if len(data) > end + 4:
            self._receive_body(data[end + 4 :], events)
        return events

    def _wait_for_head(self, data: bytes) -> None:
        if len(data) > self._limits.header_bytes:
            raise ProtocolError(431, f"the header block is longer than {self._limits.header_bytes} bytes")
        seen = self._scanned
        if seen and data[seen - 1] == 13:  # the CR of a CRLF that was cut in two
            seen -= 1
        if len(data[seen:].translate(None, _CONTROL)) != len(data) - seen:  # a TLS handshake, say: it would wait for ever
            raise ProtocolError(400, "a control byte in the head")
        if data.count(b"\n", seen) != data.count(b"\r\n", seen):  # no blank line would ever come
            raise ProtocolError(400, "a line ends in a bare line feed")
        self._buffer = data
        self._scanned = 0 if data == b"\r" else len(data)

    def _receive_body(self, data: bytes, events: list[Event]) -> None:
        body = self._body
        assert body is not None
        used = body.receive(data, events)
        if body.ended:
            self._done = True
            self._buffer = data[used:] if used < len(data) else b""


def request_reader(limits: Limits) -> Reader:
    """A reader of requests: what a client sends. ProtocolError carries 400, 405, 417, 431, 501 or 505."""
    return Reader(_parse_request, limits)


def response_reader(limits: Limits) -> Reader:
    """A reader of responses: what an upstream sends. Set `request_method` before each. Interim (1xx) heads come without `End`."""
    return Reader(_parse_response, limits)


# Heads


def _skip_empty_lines(data: bytes) -> bytes:
    """RFC 9112 section 2.2: empty lines before a start line are skipped (some clients end a body with one too many)."""
    at = 0
    while data.startswith(b"\r\n", at):
        at += 2
    if data.startswith(b"\n", at):
        raise ProtocolError(400, "a line ends in a bare line feed")
    return data[at:]


def _fields(block: bytes, parser: type[httptools.HttpRequestParser | httptools.HttpResponseParser]) -> Head:
    """The header fields of a whole head (start line to blank line), by llhttp and our guards around it."""
    flat = block.replace(b"\r\n", b"")
    lines = (len(block) - len(flat)) >> 1
    if len(flat.translate(None, _FORBIDDEN)) != len(flat):
        if len(flat.translate(None, b"\r\n")) != len(flat):
            raise ProtocolError(400, "a line does not end in CRLF")
        raise ProtocolError(400, "a control byte in the head")
    headers: list[tuple[bytes, bytes]] = []
    append = headers.append
    try:
        parser(_Collector(lambda *field: append(field))).feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade is the caller's matter
    except httptools.HttpParserError as error:
        raise ProtocolError(400, f"malformed head: {error}") from None
    if len(headers) != lines - 2:
        raise ProtocolError(400, "malformed head")
    head = Head(headers, [name.lower() for name, _ in headers])
    head.size = len(block)
    return head


def _parse_request(block: bytes, reader: Reader) -> Head:
    head = _fields(block, httptools.HttpRequestParser)
    line = block[: block.find(b"\r\n")]
    parts = line.split(b" ")
    if len(parts) != 3:
        raise ProtocolError(400, "malformed request line")
    head.method, head.target, head.version = parts
    if head.version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ProtocolError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if head.method in (b"CONNECT", b"TRACE"):
        raise ProtocolError(405, f"{head.method.decode()} is refused")  # TRACE would echo credentials (RFC 9110 section 9.3.8)
    lengths, codings, hosts = _survey(head)
    if len(hosts) > 1 or (not hosts and head.version == b"HTTP/1.1"):
        raise ProtocolError(400, "exactly one Host header is needed (RFC 9112 section 3.2)")
    if hosts and len(hosts[0].translate(None, _HOST_BAD)) != len(hosts[0]):
        raise ProtocolError(400, "invalid Host header")
    if codings:
        if lengths or head.version == b"HTTP/1.0":
            raise ProtocolError(400, "ambiguous framing: Transfer-Encoding with Content-Length or HTTP/1.0")
        if codings != [b"chunked"]:
            raise ProtocolError(501 if codings[-1:] == [b"chunked"] else 400, "only the transfer coding chunked is understood")
        head.framing = "chunked"
    elif lengths:
        head.framing, head.length = "length", _length(lengths, 400)
    if head.expect and head.expect.lower() != b"100-continue":
        raise ProtocolError(417, "unknown expectation")
    if head.upgrade and (head.method != b"GET" or head.version != b"HTTP/1.1" or head.framing == "chunked" or head.length):
        head.upgrade = b""  # no handshake (RFC 6455 section 4.1), and a body must keep its framing
    return head


def _parse_response(block: bytes, reader: Reader) -> Head:
    try:
        head = _fields(block, httptools.HttpResponseParser)
    except ProtocolError as error:
        raise ProtocolError(502, str(error)) from None
    line = block[: block.find(b"\r\n")]
    head.version, head.reason = line[:8], line[13:]
    if head.version not in (b"HTTP/1.1", b"HTTP/1.0") or line[8:9] != b" " or not line[9:12].isdigit() or line[12:13] not in (b"", b" "):
        raise ProtocolError(502, "malformed status line")
    head.status = status = int(line[9:12])
    if status < 100 or status > 599:
        raise ProtocolError(502, f"status {status} is no HTTP status")
    lengths, codings, _ = _survey(head)
    if codings and (lengths or head.version == b"HTTP/1.0" or codings != [b"chunked"]):
        raise ProtocolError(502, "ambiguous framing: Transfer-Encoding with Content-Length, another coding or HTTP/1.0")
    length = _length(lengths, 502) if lengths else 0
    if status < 200 or status == 204 or status == 304 or reader.request_method == b"HEAD":
        head.framing = "none"
    elif codings:
        head.framing = "chunked"
    elif lengths:
        head.framing, head.length = "length", length
    else:
        head.framing, head.keep_alive = "close", False
    return head


def _survey(head: Head) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """One look over the header names: Content-Length values, transfer codings, Host values; the rest goes into `head`."""
    lengths: list[bytes] = []
    codings: list[bytes] = []
    hosts: list[bytes] = []
    upgrade = b""
    for index, name in enumerate(head.names):
        if name not in _SURVEYED:
            continue
        value = head.headers[index][1].strip(b" \t")
        if name == b"content-length":
            lengths.append(value)
        elif name == b"connection":
            head.connection += [token.strip(b" \t").lower() for token in value.split(b",")]
        elif name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings += [token.strip(b" \t").lower() for token in value.split(b",")]
        elif name == b"expect":
            head.expect = value
        else:
            upgrade = value
    if head.version == b"HTTP/1.0":
        head.keep_alive = b"keep-alive" in head.connection
    elif head.connection:
        head.keep_alive = b"close" not in head.connection
    if upgrade and b"upgrade" in head.connection:
        head.upgrade = upgrade.lower()
    return lengths, codings, hosts


_SURVEYED: Final = frozenset((b"content-length", b"connection", b"host", b"transfer-encoding", b"expect", b"upgrade"))


def _length(values: list[bytes], status: int) -> int:
    value = values[0]
    if len(values) > 1 or not value.isdigit() or len(value) > 19 or int(value) > MAX_LENGTH:
        raise ProtocolError(status, "invalid or repeated Content-Length")
    return int(value)


# Bodies: each tells how many bytes of `data` are its own, and appends what they are


class _Length:
    __slots__ = ("ended", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.ended = False

    def receive(self, data: bytes, events: list[Event]) -> int:
        size = len(data)
        if size < self.left:
            self.left -= size
            events.append(Data(data, [data]))
            return size
        used, self.left, self.ended = self.left, 0, True
        if used < size:
            data = data[:used]
        events.append(Data(data, [data]))
        events.append(_END)
        return used


class _Close:
    __slots__ = ("ended",)

    def __init__(self) -> None:
        self.ended = False

    def receive(self, data: bytes, events: list[Event]) -> int:
        events.append(Data(data, [data]))
        return len(data)


class _Chunked:
    """The chunked coding (RFC 9112 section 7.1), read strictly: CRLF only, plain hexadecimal sizes, no control bytes.

    What is accepted goes on as it came; an unfinished size line, the last chunk and the trailers are held until they are whole.
    """

    __slots__ = ("_held", "_left", "_limit", "_state", "ended")

    def __init__(self, limit: int) -> None:
        self.ended = False
        self._held = b""
        self._left = 0
        self._limit = limit
        self._state: Literal["size", "data", "crlf", "trailers"] = "size"

    def receive(self, data: bytes, events: list[Event]) -> int:
        held = len(self._held)
        if held:
            data, self._held = self._held + data, b""
        at, size = 0, len(data)
        payload: list[bytes] = []
        while at < size and self._state != "trailers":
            if self._state == "size":
                end = data.find(b"\n", at, at + MAX_CHUNK_LINE)
                if end < 0:
                    if size - at >= MAX_CHUNK_LINE:
                        raise ProtocolError(400, "a chunk-size line is too long")
                    self._held = data[at:]
                    break
                self._left = _chunk_size(data[at : end + 1])
                if not self._left:
                    self._state = "trailers"
                    break
                self._state = "data"
                at = end + 1
            elif self._state == "data":
                piece = data[at : at + self._left]
                payload.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state, self._left = "crlf", 2
            else:
                piece = data[at : at + self._left]
                if piece != b"\r\n"[2 - self._left :][: len(piece)]:
                    raise ProtocolError(400, "a chunk is not followed by CRLF")
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = "size"
        if at:
            events.append(Data(data[:at], payload))
        if self._state == "trailers":
            return self._last(data, at, events) - held
        return size - held

    def _last(self, data: bytes, at: int, events: list[Event]) -> int:
        """The last chunk's line, the trailer section and the blank line, from `at` on."""
        first = data.find(b"\n", at) + 1
        if data[first : first + 2] == b"\r\n":
            end = first + 2
            trailers = b""
        else:
            end = data.find(b"\r\n\r\n", first) + 4
            if end < 4:
                if len(data) - first > self._limit:
                    raise ProtocolError(431, "the trailer section is too long")
                self._held = data[at:]
                return len(data)
            trailers = _trailers(data[first : end - 2])
        self.ended = True
        events.append(End(b"0\r\n" + trailers + b"\r\n"))
        return end


def _chunk_size(line: bytes) -> int:
    digits, _, extension = line[:-2].partition(b";")
    if line[-2:] != b"\r\n" or not 0 < len(digits) <= 16 or not _HEX.issuperset(digits):
        raise ProtocolError(400, "malformed chunk size")
    if extension and (b"\r" in extension or len(extension.translate(None, _CONTROL)) != len(extension)):
        raise ProtocolError(400, "a control byte in a chunk extension")
    size = int(digits, 16)
    if size > MAX_LENGTH:
        raise ProtocolError(400, "a chunk is too large")
    return size


def _trailers(block: bytes) -> bytes:
    """The trailer lines as they came, or nothing when one of them has no business in a trailer. They stay trailers, never headers."""
    for line in block.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME(name) or b"\n" in value or b"\r" in value or len(value.translate(None, _CONTROL)) != len(value):
            raise ProtocolError(400, "malformed trailer")
        if name.lower() in _TRAILER_BAD:
            return b""
    return block
