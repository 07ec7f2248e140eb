"""HTTP/1.1 as a sans-I/O relay core: bytes in; heads, body extents and ends out. No socket, no clock, no routing.

A `Reader` follows one direction of one connection, message by message. What a head may look like is `gateway.grammar`'s matter, where
a body ends `gateway.framing`'s; body bytes are measured, not rebuilt, so that they can go on as they came.

1. Give it bytes: `reader.receive(data)` returns what they mean: `Head`, `Data`, `End`.
2. After `End` it keeps what follows; `reader.next()` starts on it (so the next message waits for this one).
3. At the connection's end call `reader.eof()`: a message cut short raises `ProtocolError`.

Any split of the same bytes gives the same events, but for how `Data` is cut, and how soon a refusal comes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from gateway.framing import END, Chunked, Data, End, Length, UntilClose
from gateway.grammar import (
    CONTROL,
    MAX_LENGTH,
    Framing,
    Head,
    ProtocolError,
    malformed_request,
    malformed_response,
    parse_request,
    parse_response,
)

__all__ = ["Data", "End", "Event", "Framing", "Head", "Limits", "ProtocolError", "Reader", "request_reader", "response_reader"]

INTERIM: Final = 256
"""Bytes with which each 1xx response is counted beside its own: all before one final response may take as much as one head may. A server
sends one or two, or a 102 every few seconds while it thinks; of an upstream's 900 pass."""

MAX_SKIPPED: Final = 16
"""Most bytes of empty lines before a start line: who sends nothing else keeps a connection open without ever asking anything."""

_BLANK: Final = re.compile(rb"\r\n\r\n").search  # on heads a third faster than bytes.find, which stumbles over every line end
_MAY_BEGIN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Z]|\r(?:\n|$)").match
"""Whether bytes right behind a request may be the next one's first. If not, who sent both takes line ends for what they are not, and
the first is refused with the second."""

Event: TypeAlias = Head | Data | End


class Limits:
    """How much a peer may send: `header_bytes` of head (start line included), `header_fields` lines, `body_bytes` of body (0: any)."""

    __slots__ = ("body_bytes", "header_bytes", "header_fields")

    def __init__(self, header_bytes: int = 96 << 10, header_fields: int = 256, body_bytes: int = 0) -> None:
        self.header_bytes = header_bytes
        self.header_fields = header_fields
        self.body_bytes = body_bytes or MAX_LENGTH


class Reader:
    """One direction of one connection. Not thread-safe; never blocks. `ProtocolError` is final: close the connection."""

    __slots__ = ("_body", "_buffer", "_done", "_interim", "_malformed", "_parse", "_scanned", "_skipped", "limits", "request_method")

    def __init__(
        self, parse: Callable[[bytes, int, bytes], Head | None], malformed: Callable[[bytes], ProtocolError], limits: Limits
    ) -> None:
        """`parse` and `malformed`: a pair of `gateway.grammar`."""
        self._parse = parse
        self._malformed = malformed
        self.limits = limits
        self._buffer = b""
        self._scanned = 0
        self._skipped = 0
        self._interim = 0
        self._body: Length | Chunked | UntilClose | None = None
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
        self._scanned = self._skipped = self._interim = 0
        return self._receive_head(data) if data else []

    def detach(self) -> bytes:
        """Give up reading messages (the connection is something else now, RFC 9110 section 7.8): the bytes not yet read."""
        rest, self._buffer = self._buffer, b""
        return rest

    def eof(self) -> list[Event]:
        """The peer will send nothing more. Ends a close-delimited body; anything else unfinished raises ProtocolError."""
        if isinstance(self._body, UntilClose) and not self._done:
            self._done = True
            return [END]
        if self._done or self.idle:
            return []
        raise ProtocolError(400, "the connection ended inside a message")

    def _receive_head(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        limits = self.limits
        while True:
            head = None
            if not self._scanned or self._blank_line(data):  # nearly all heads come whole
                head = self._parse(data, limits.header_fields, self.request_method)
                if head is None and data[:1] in b"\r\n" and not self._scanned:
                    data = self._skip_empty_lines(data)
                    head = self._parse(data, limits.header_fields, self.request_method)
            if head is None or head.size > limits.header_bytes:
                self._wait_for_head(data)
                return events
            self._buffer = b""
            self._scanned = 0
            end = head.size
            events.append(head)
            if head.status >= 200 or head.status == 101 or not head.status:
                break
            self._interim += end + INTERIM
            if self._interim > limits.header_bytes:
                raise ProtocolError(502, "too many interim responses")
            data = data[end:]  # an interim response is no message of its own
            if not data:
                return events
        framing = head.framing
        if framing == "none" or (framing == "length" and not head.length):
            self._done = True
            if len(data) > end:
                self._buffer = data[end:]
                if head.method and not head.upgrade and not _MAY_BEGIN(self._buffer):
                    raise ProtocolError(400, "what follows the request is none")
            events.append(END)
            return events
        if framing == "length":
            if head.length > limits.body_bytes:
                raise ProtocolError(413, f"the body is longer than {limits.body_bytes} bytes")
            if len(data) - end == head.length:  # all of it is here, and nothing else: a short message's usual case
                self._done = True
                body = data[end:]
                events += Data(body, [body]), END
                return events
            self._body = Length(head.length)
        elif framing == "chunked":
            self._body = Chunked(self.limits.body_bytes, self.limits.header_bytes)
        else:
            self._body = UntilClose()
        if len(data) > end:
            self._receive_body(data[end:], events)
        return events

    def _skip_empty_lines(self, data: bytes) -> bytes:
        """RFC 9112 section 2.2: empty lines before a start line are skipped (some clients end a body with one too many)."""
        at = 0
        while data.startswith(b"\r\n", at):
            at += 2
        self._skipped += at
        if self._skipped > MAX_SKIPPED:
            raise ProtocolError(400, "only empty lines come")
        return data[at:]

    def _blank_line(self, data: bytes) -> re.Match[bytes] | None:
        return _BLANK(data, self._scanned - 3 if self._scanned > 3 else 0)

    def _wait_for_head(self, data: bytes) -> None:
        """No head yet: it is too long, or malformed, or not whole."""
        blank = self._blank_line(data)
        if (len(data) if blank is None else blank.end()) > self.limits.header_bytes:
            raise ProtocolError(431, f"the header block is longer than {self.limits.header_bytes} bytes")
        if blank is not None:
            raise self._malformed(data[: blank.end()])
        seen = self._scanned
        if seen and data[seen - 1] == 13:  # the CR of a CRLF that was cut in two
            seen -= 1
        if len(data[seen:].translate(None, CONTROL)) != len(data) - seen:  # a TLS handshake, say: it would wait for ever
            raise ProtocolError(400, "a control byte in the head")
        ends = data.count(b"\r\n", seen)
        if data.count(b"\n", seen) != ends or data.count(b"\r", seen, len(data) - 1) > ends:  # no blank line would ever come
            raise ProtocolError(400, "a line does not end in CRLF")
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
    """A reader of requests: what a client sends. ProtocolError carries 400, 405, 413, 417, 431, 501 or 505."""
    return Reader(parse_request, malformed_request, limits)


def response_reader(limits: Limits) -> Reader:
    """A reader of responses: what an upstream sends. Set `request_method` before each. Interim (1xx) heads come without `End`."""
    return Reader(parse_response, malformed_response, limits)
