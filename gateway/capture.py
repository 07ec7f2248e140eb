"""The record-keeper of one exchange: told what passed, it cuts records and offers them to a Recorder. Sans-I/O: the clock is an argument.

Credentials end here: heads are redacted as they come in, so nothing to the right of this module has seen one. What it is told has
already gone out to the other side; what it raises would be a bug, so callers guard it (`Capture.broken`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from archive.record import (
    Body,
    BodyStream,
    Client,
    End,
    EndReason,
    Fields,
    Kept,
    Message,
    Record,
    Recorder,
    Redaction,
    Request,
    Response,
    Timing,
    Transparency,
    Upstream,
)
from gateway.crossing import Direction
from gateway.fieldnames import Names, names_of
from gateway.frames import FrameReader, Piece, Side
from gateway.redaction import redact_headers, redact_target
from gateway.sessions import known, without
from gateway.wire import Head

__all__ = ["Capture", "CaptureLimits", "InProcess", "Recording", "Told"]

OVERHEAD: Final = 2048
"""Bytes of memory a record holds beside its bodies and headers, about: objects, lists, names. Counted so that many small records
fill the queue's byte bound too."""

FIELD: Final = 160
"""Bytes a header field takes in memory beside its characters: a tuple and two byte strings."""

PIECE: Final = 48
"""Bytes a piece of a body takes beside its payload: a byte string's own size and its place in a list."""

MARK: Final = 128
"""Bytes an arrival mark takes in memory: a tuple, an integer, a float."""

MAX_MARKS: Final = 4096
"""Arrival marks kept per record; a stream that makes more within one part keeps the first ones. 4,096 marks are about 60 KB of line."""


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """When a record is cut, and how much of one body is kept. Bytes and seconds."""

    part_bytes: int = 1 << 20
    part_seconds: float = 10.0
    max_body: int = 64 << 20


class Told(Protocol):
    """What an exchange tells as it passes; times are seconds of one monotonic clock. Never blocks. See `Capture`."""

    on_full: Callable[[], None] | None

    def handed(self, to: Side, pieces: list[bytes]) -> None: ...
    def again(self) -> None: ...
    def request_data(self, payload: list[bytes], now: float) -> None: ...
    def request_end(self) -> None: ...
    def response_head(self, head: Head, now: float) -> None: ...
    def response_data(self, payload: list[bytes], now: float) -> None: ...
    def response_end(self) -> None: ...
    def own_response(self, status: int, reason: bytes, headers: Fields, body: bytes) -> None: ...
    def frames(self, side: Side, data: bytes, now: float) -> None: ...
    def end(self, reason: EndReason, detail: str, now: float) -> None: ...
    def offer(self, *, last: bool) -> bool: ...
    def give_up(self) -> None: ...
    def tick(self, now: float) -> None: ...


class Recording(Protocol):
    """Who is told of exchanges: makes a `Told` for each. Called on the event loop; never blocks."""

    def open(self, id: bytes, at: float, now: float, client: Client, upstream: Upstream, head: Head, kept: Kept = "full") -> Told | None:
        """A new exchange, whose request head has arrived; None when it cannot be recorded (and that is counted)."""
        ...

    def decline(self) -> None:
        """A client asked that its exchange not be recorded: nothing is told of it but that there was one."""
        ...


class InProcess:
    """The plain Recording: captures in this process, for a Recorder of one's own."""

    def __init__(self, recorder: Recorder, limits: CaptureLimits) -> None:
        self.declined = 0
        """Exchanges not recorded at their clients' wish."""
        self._recorder = recorder
        self._limits = limits

    def decline(self) -> None:
        """As `Recording.decline`."""
        self.declined += 1

    def open(self, id: bytes, at: float, now: float, client: Client, upstream: Upstream, head: Head, kept: Kept = "full") -> Told:
        """As `Recording.open`."""
        capture = Capture(self._recorder, self._limits, id, at, now, client, upstream, kept)
        capture.request_head(head)
        return capture


class _Side:
    """One direction's body within the exchange: what has gathered for the current part, and where that begins."""

    __slots__ = ("chunks", "encoding", "ended", "kept", "offset", "size", "stream", "unkept")

    def __init__(self, encoding: str) -> None:
        self.stream = BodyStream()
        self.encoding = encoding
        self.kept = 0
        self.offset = 0
        self.size = 0
        self.chunks: list[bytes] = []
        self.unkept: list[bytes] = []
        self.ended = False

    def add(self, payload: list[bytes], limit: int) -> int:
        size = len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
        room = limit - self.kept
        if size <= room:
            self.chunks += payload
            self.kept += size
        else:
            for piece in payload:
                room = limit - self.kept
                if room > 0:
                    self.chunks.append(piece[:room])
                    self.kept += min(room, len(piece))
                if len(piece) > room:
                    self.unkept.append(piece[max(room, 0) :])
        self.size += size
        return size

    def take(self, direction: Direction) -> Body:
        body = Body(self.chunks, self.unkept, self.offset, self.encoding, self.ended, self.stream, direction.fork())
        self.offset, self.chunks, self.unkept = self.size, [], []
        return body


class Capture:
    """One exchange's record-keeper. All times are seconds of one monotonic clock; `at` is Unix time. Not thread-safe, never blocks.

    Records are offered with `may_wait` while the exchange runs: when there is no room, `held` becomes true and the caller is asked
    (through `on_full`) to stop the exchange's two sides until `offer()` says there is room again or time is up.
    """

    __slots__ = (
        "_batches", "_client", "_frames", "_gathered", "_kept", "_limits", "_max_body", "_method", "_part", "_pending", "_reader",
        "_recorder", "_redactions", "_request", "_request_body", "_response", "_response_body", "_since", "_started", "_timing",
        "_to_client", "_to_upstream", "_upstream", "_weight", "at", "ended", "id", "on_full",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        limits: CaptureLimits,
        id: bytes,
        at: float,
        now: float,
        client: Client,
        upstream: Upstream,
        kept: Kept = "full",
    ) -> None:
        """With `kept` "metadata" bodies are only counted and hashed, and of messages only their sizes are told."""
        self.id = id
        self.at = at
        self.ended = False
        self.on_full: Callable[[], None] | None = None
        self._recorder = recorder
        self._limits = limits
        self._kept = kept
        self._max_body = limits.max_body if kept == "full" else 0
        self._client = client
        self._upstream = upstream
        self._started = now
        self._since = now
        self._part = 0
        self._gathered = 0
        self._weight = OVERHEAD
        self._pending: list[Record] = []
        self._redactions: list[Redaction] = []
        self._method = b""
        self._request: Request | None = None
        self._request_body: _Side | None = None
        self._to_upstream = Direction("request")
        self._response: Response | None = None
        self._response_body: _Side | None = None
        self._to_client: Direction | None = None
        self._timing = Timing()
        self._frames: list[Piece] = []
        self._batches = 0
        self._reader: FrameReader | None = None

    @property
    def held(self) -> bool:
        """A record waits for room: hold the exchange back."""
        return bool(self._pending)

    @property
    def weight(self) -> int:
        """Bytes of memory, about, that the part not yet cut holds."""
        return self._weight + self._gathered

    def request_head(self, head: Head) -> None:
        """The request's head, as it came from the client."""
        names = names_of(head.headers)
        fields, removed = redact_headers(head.headers, "request.headers", names.suspects)
        target, also = redact_target(head.target, "request.target")
        self._client, hidden = known(self._client, names.lower, fields, self._upstream.name, telling=names.tells)
        self._redactions += removed
        self._redactions += also
        if hidden:
            self._redactions += hidden
            fields = without(fields, hidden)
        self._request = Request(head.method, target, fields, head.version[5:].decode())
        self._weight += head.size + FIELD * len(fields)
        self._to_upstream.head(head.fields, _recorded(names, fields), head.method + b" ", _connection(head, names))
        self._method = head.method
        if head.framing != "none":
            self._request_body = side = _Side(_encoding(head, names))
            self._to_upstream.stream = side.stream

    def handed(self, to: Side, pieces: list[bytes]) -> None:
        """These pieces, heads and framing included, were handed to that side's socket just now, in this order."""
        if to == "upstream":
            self._to_upstream.wrote(pieces)
        else:
            self._answer().wrote(pieces)

    def again(self) -> None:
        """The connection to the upstream turned out to be dead; what is handed to the upstream from now on begins anew, on another."""
        self._to_upstream.again()

    def response_head(self, head: Head, now: float) -> None:
        """The response's head, as it came from the upstream."""
        names = names_of(head.headers)
        fields, removed = redact_headers(head.headers, "response.headers", names.suspects)
        self._redactions += removed
        self._response = Response(head.status, fields, head.reason, head.version[5:].decode())
        self._weight += head.size + FIELD * len(fields)
        if self._timing.ttfb_ms is None:
            self._timing.ttfb_ms = _ms(now - self._started)
        if head.status == 101:
            self._reader = FrameReader(_joined(head, names, b"sec-websocket-extensions"), self._limits.max_body)
            self._to_upstream.tunnel()
        elif head.framing != "none":
            self._response_body = side = _Side(_encoding(head, names))
            self._answer().stream = side.stream
        start = b"HTTP/1.1 %d %b" % (head.status, head.reason)
        self._answer().head(head.fields, _recorded(names, fields), start, _connection(head, names))
        if head.status == 101:
            self._answer().tunnel()
        self._to_upstream.let_go()

    def own_response(self, status: int, reason: bytes, headers: Fields, body: bytes) -> None:
        """The answer Verbatim made itself, because the upstream could not."""
        self._response = Response(status, headers, reason, origin="gateway")
        self._response_body = side = _Side("")
        side.add([body], self._max_body)
        side.ended = True
        answer = self._answer()
        block = b"".join([b"\r\n%b: %b" % field for field in headers])
        answer.head(block, tuple([name for name, _ in headers]), b"HTTP/1.1 %d %b" % (status, reason), ())
        answer.stream, answer.ended = side.stream, True
        answer.got([body])

    def request_data(self, payload: list[bytes], now: float) -> None:
        """Bytes of the request's body have gone to the upstream."""
        side = self._request_body
        assert side is not None
        self._to_upstream.got(payload)
        self._gathered += side.add(payload, self._max_body)
        self._weight += PIECE * len(payload)
        if self._gathered >= self._limits.part_bytes:
            self.cut(now)

    def request_end(self) -> None:
        """The request's body has come to its end."""
        self._to_upstream.ended = True
        if self._request_body is not None:
            self._request_body.ended = True

    def response_data(self, payload: list[bytes], now: float) -> None:
        """Bytes of the response's body have gone to the client."""
        side = self._response_body
        assert side is not None
        self._answer().got(payload)
        marks = self._timing.marks
        weight = PIECE * len(payload)
        if len(marks) < MAX_MARKS:
            marks.append((side.size, _ms(now - self._started)))
            weight += MARK
        self._weight += weight
        self._gathered += side.add(payload, self._max_body)
        if self._gathered >= self._limits.part_bytes:
            self.cut(now)

    def response_end(self) -> None:
        """The response's body has come to its end."""
        self._answer().ended = True
        if self._response_body is not None:
            self._response_body.ended = True

    def frames(self, side: Side, data: bytes, now: float) -> None:
        """Websocket bytes have gone to the other side."""
        (self._to_upstream if side == "client" else self._answer()).got([data])
        self._frames.append((side, _ms(now - self._started), data))
        self._gathered += len(data) + 64
        self._weight += PIECE + MARK
        if self._gathered >= self._limits.part_bytes:
            self.cut(now)

    def tick(self, now: float) -> None:
        """Cut when the part is old enough. Called about once a second."""
        if not self.ended and now - self._since >= self._limits.part_seconds and (self._gathered or self._request or self._response):
            self.cut(now)

    def end(self, reason: EndReason, detail: str, now: float) -> None:
        """The exchange is over; nothing more is told. A second call does nothing."""
        if self.ended:
            return
        self.ended = True
        self._timing.duration_ms = _ms(now - self._started)
        self.cut(now, End(reason, detail))

    def cut(self, now: float, end: End | None = None) -> None:
        """Make a record of what has gathered and offer it."""
        frames, reader = self._frames, self._reader
        record = Record(
            self.id,
            self._part,
            self.at,
            self._client,
            self._upstream,
            self._request,
            self._request_body.take(self._to_upstream) if self._request_body is not None else None,
            self._response,
            self._response_body.take(self._answer()) if self._response_body is not None else None,
            (),
            self._timing,
            end,
            self._redactions,
            self.weight,
            self._kept,
            self._transparency(end) if end is not None else None,
        )
        if reader is not None and (frames or end is not None):
            batch = self._batches
            record.messages = lambda: _read_frames(reader, batch, frames, record)
            self._frames = []
            self._batches += 1
        if self._request_body is not None and self._request_body.ended:
            self._request_body = None
        self._request = self._response = None
        self._timing = Timing(self._timing.ttfb_ms)
        self._redactions = []
        if end is not None or _makes_a_line(record):
            self._part += 1
        self._gathered = 0
        self._weight = OVERHEAD
        self._since = now
        if self._pending:
            self._pending.append(record)
        elif not self._recorder.put(record, may_wait=True):
            self._pending.append(record)
            if self.on_full is not None:
                self.on_full()

    def _answer(self) -> Direction:
        if self._to_client is None:
            self._to_client = Direction("response", self._method)
        return self._to_client

    def _transparency(self, end: End) -> Transparency:
        complete = end.reason is EndReason.COMPLETE
        there, back = self._to_upstream, self._to_client
        return Transparency(there.crossed(complete=complete), back.crossed(complete=complete) if back is not None else None, there.retried)

    def give_up(self) -> None:
        """The rest of this exchange's record is lost, by a failure; nothing more is told."""
        self.ended = True
        self._pending.clear()

    def offer(self, *, last: bool) -> bool:
        """Offer what waits once more; `last`: for the last time, the recorder drops and counts what it cannot take. True: none waits."""
        while self._pending:
            if not self._recorder.put(self._pending[0], may_wait=not last):
                return False
            del self._pending[0]
        return True


def _makes_a_line(record: Record) -> bool:
    """Whether there is more to the record than bytes that are only counted (see `Record`)."""
    bodies = [body for body in (record.request_body, record.response_body) if body is not None]
    return bool(record.request or record.response or record.messages or any(b.chunks or b.ended for b in bodies))


def _read_frames(reader: FrameReader, batch: int, frames: list[Piece], record: Record) -> list[Message]:
    """Runs in the writer's thread. Whether a websocket ended properly is only known now: by its close frames (RFC 6455 section 7.1.4)."""
    end = record.end
    messages = reader.read(batch, frames, last=end is not None)
    if record.kept == "metadata":
        for message in messages:
            message.size = len(message.data) if message.size is None else message.size
            message.data = b""
    if end is not None and reader.closed and end.reason in (EndReason.CLIENT_CLOSED, EndReason.UPSTREAM_CLOSED):
        record.end = End(EndReason.COMPLETE, "")
    return messages


def _recorded(names: Names, fields: Fields) -> tuple[bytes, ...]:
    """The names as they are recorded: one that is itself a credential is not told."""
    return names.given if names.suspects is not None else tuple([name for name, _ in fields])


def _encoding(head: Head, names: Names) -> str:
    return _joined(head, names, b"content-encoding").strip().lower() if b"content-encoding" in names.places else ""


def _joined(head: Head, names: Names, wanted: bytes) -> str:
    """All values of one field, as one list (RFC 9110 section 5.3)."""
    return b", ".join([head.headers[at][1] for at in names.places.get(wanted, ())]).decode("latin-1")


def _connection(head: Head, names: Names) -> list[bytes]:
    """What its Connection fields name, in lower case."""
    if b"connection" not in names.places:
        return []
    return [token.strip() for token in _joined(head, names, b"connection").lower().encode("latin-1").split(b",")]


def _ms(seconds: float) -> float:
    return int(seconds * 1_000_000 + 0.5) / 1000  # as round(seconds * 1000, 3), in a third of the time: a stream has hundreds
