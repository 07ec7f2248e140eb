"""The words of the archive: Record, its pieces, and the Recorder that takes it. Values only: no I/O, no clock, no threads.

An *exchange* is everything between one client request and its end. A *record* is a slice of it: usually the whole, several
numbered parts when it is long. `archive.line` turns a record into its line, `archive.writer` keeps it, `archive.reader` puts the
parts together again.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

__all__ = [
    "SCHEMA_VERSION",
    "Body",
    "BodyStream",
    "Client",
    "Crossed",
    "End",
    "EndReason",
    "Fields",
    "Kept",
    "Kind",
    "Message",
    "Record",
    "Recorder",
    "Redaction",
    "Request",
    "Response",
    "Scalar",
    "Timing",
    "Transparency",
    "Upstream",
    "id_text",
    "names_digest",
    "new_id",
]

SCHEMA_VERSION = 1

Fields = Sequence[tuple[bytes, bytes]]
"""Header fields as they came: raw names and values, in order, duplicates kept."""

Side = Literal["client", "upstream"]

Kept = Literal["full", "metadata"]
"""What a record holds of its exchange: all of it, or all but the text of its bodies and the payloads of its messages."""

Scalar = str | int | float | bool | None
"""A value of JSON that holds no others."""


_random = random.Random(os.urandom(32))  # noqa: S311 - ids must differ, not be secret; a system call per id costs more than all the rest
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id(unix_ms: int) -> bytes:
    """A UUIDv7 (RFC 9562 section 5.7) as 16 bytes: 48 bits of `unix_ms`, then random bits, so ids sort by time. Any thread may call."""
    rest = _random.getrandbits(74)
    value = (unix_ms & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (rest >> 62) << 64 | 0b10 << 62 | rest & 0x3FFF_FFFF_FFFF_FFFF
    return value.to_bytes(16, "big")


def id_text(id: bytes) -> str:
    """The usual text of a UUID: 8-4-4-4-12 lower-case hexadecimal digits."""
    h = id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def names_digest(names: Iterable[bytes]) -> str:
    """Which header names there were, each how often, in 16 hexadecimal digits: the first 8 bytes of the SHA-256 of the names in lower case,
    sorted, a line feed after each."""
    return hashlib.sha256(b"".join([name + b"\n" for name in sorted(name.lower() for name in names)])).hexdigest()[:16]


class Kind(StrEnum):
    """What a line is about: an exchange, or the archive's own book-keeping."""

    EXCHANGE = "exchange"
    OPEN = "open"
    CLOSE = "close"
    GAP = "gap"
    DECLINED = "declined"
    FORGET = "forget"
    PRUNE = "prune"


class EndReason(StrEnum):
    """How an exchange ended. A part without an end was not the last; an exchange without one crashed with its writer."""

    COMPLETE = "complete"
    CLIENT_CLOSED = "client_closed"
    UPSTREAM_CLOSED = "upstream_closed"
    UPSTREAM_REFUSED = "upstream_refused"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    """Never written: the reader's word for an exchange whose parts stop without an end."""


class BodyStream:
    """What the writer's thread remembers from part to part of one body (decoder, hash).

    The producer makes one per body and never looks inside; a part whose `offset` is not where the last one ended tells the writer
    that a part was lost between.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: object | None = None


@dataclass(slots=True)
class Body:
    """One direction's body bytes in one part, as they crossed the wire, transfer-coding removed, content-encoding untouched.

    `chunks` are kept; `unkept` crossed beyond the capture limit: they count in size and hash and are then let go.
    """

    chunks: list[bytes] = field(default_factory=list)
    unkept: list[bytes] = field(default_factory=list)
    offset: int = 0
    """Where this part's bytes begin in the whole body, in wire bytes."""
    encoding: str = ""
    """Content-Encoding as sent, lower case, e.g. "gzip" or "gzip, br"; empty when there is none."""
    ended: bool = False
    """The body's framing came to its end in this part: all of it crossed."""
    stream: BodyStream = field(default_factory=BodyStream)
    """The same object in every part of one body."""
    forwarded: tuple[int, list[bytes]] | None = None
    """None: these very bytes were handed to the other side. Else from which byte of the whole body on they were not (the same number in
    every further part), and what was handed over from there, or since the part before."""

    @property
    def size(self) -> int:
        """Wire bytes that crossed in this part, kept or not."""
        return sum(map(len, self.chunks)) + sum(map(len, self.unkept))


@dataclass(slots=True)
class Client:
    """Who called: address as "host:port", and what the client said of itself, each name with the place where it was found."""

    address: str
    session: str | None = None
    session_source: str | None = None
    agent: str | None = None
    """Which of the session's agents called, where the client tells them apart; found where the session was."""
    user: str | None = None
    user_source: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(slots=True)
class Upstream:
    """Whom it was for: the route's name and the upstream's base URL, credentials already removed."""

    name: str
    url: str


@dataclass(slots=True)
class Request:
    """A request head as the client sent it, credentials already removed. `target` is the raw request target."""

    method: bytes
    target: bytes
    headers: Fields
    version: str = "1.1"


@dataclass(slots=True)
class Response:
    """A response head as the upstream sent it, credentials already removed."""

    status: int
    headers: Fields
    reason: bytes = b""
    version: str = "1.1"
    origin: Literal["upstream", "gateway"] = "upstream"
    """"gateway" when Verbatim itself made the answer (upstream unreachable and the like)."""


@dataclass(slots=True)
class Message:
    """One websocket message. `at_ms` counts from the exchange's beginning."""

    side: Side
    at_ms: float
    type: Literal["text", "binary", "ping", "pong", "close", "raw"]
    """"raw" holds wire bytes that could not be read as frames (damage, or frames lost before them)."""
    data: bytes
    """The payload, decompressed; for "close" the reason text as UTF-8."""
    code: int | None = None
    """Close code, for "close" only; 1005 when the frame carried none (RFC 6455 section 7.1.5)."""
    size: int | None = None
    """Payload size in bytes where `data` was cut at the capture limit, else None."""


@dataclass(slots=True)
class Timing:
    """Milliseconds since the exchange began. `marks`: [offset in the response's wire body, ms] for each chunk that arrived; a stream has
    hundreds, so they are written as they are: the producer rounds them to the microsecond.
    """

    ttfb_ms: float | None = None
    duration_ms: float | None = None
    marks: list[tuple[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class End:
    """How it ended, and a sentence about it without secrets."""

    reason: EndReason
    detail: str = ""


@dataclass(slots=True)
class Crossed:
    """One direction of an exchange: what was received against what was handed to the other side's socket."""

    names: tuple[str | None, str | None]
    """Digests of the header names, received and forwarded (`names_digest`); None where there was no head."""
    differ: Sequence[str]
    """Names that one of the two had more often: "-name" where it was received, "+name" where it was forwarded."""
    size: tuple[int, int]
    """Bytes of the body (of a websocket, after the handshake), received and forwarded."""
    same: bool
    """The body's bytes are equal."""
    differences: list[str]
    """What no rule explains, in words without values."""
    stream: BodyStream | None = None
    """The body's, for its hashes; None where there was no body."""
    sums: tuple[str, str] | None = None
    """Of a websocket: SHA-256 of the bytes received and forwarded after the handshake, lower-case hex."""


@dataclass(slots=True)
class Transparency:
    """What an exchange shows of the relay: both directions, each None where nothing of it crossed or was made."""

    request: Crossed | None
    response: Crossed | None
    retried: int = 0
    """Bytes of the request that had been handed to a kept connection before it turned out to be dead."""


@dataclass(slots=True)
class Redaction:
    """What was removed: where ("request.headers.authorization", "request.target.key"), by which rule, how often."""

    where: str
    rule: str
    count: int = 1


@dataclass(slots=True)
class Record:
    """A slice of one exchange. Heads are in the part in which they crossed; bodies in every part that has bytes of them.

    Handing a record over gives it away: the producer does not touch it (or its lists) again. A record that holds nothing but
    `unkept` bytes is fed to the hashes and makes no line.
    """

    id: bytes
    part: int
    at: float
    """Unix time in seconds at which the exchange began; the same in every part."""
    client: Client
    upstream: Upstream
    request: Request | None = None
    request_body: Body | None = None
    response: Response | None = None
    response_body: Body | None = None
    messages: Sequence[Message] | Callable[[], Sequence[Message]] = ()
    """Websocket messages, or a function the writer's thread calls once to get them (so frames are not read on the relay's loop)."""
    timing: Timing = field(default_factory=Timing)
    end: End | None = None
    redactions: list[Redaction] = field(default_factory=list)
    weight: int = 0
    """Bytes of memory this record holds, about: what the queue's bound counts. Set by the producer."""
    kept: Kept = "full"
    """The producer's word on what it gives: with "metadata" bodies come as `unkept` bytes only and messages without their data."""
    transparency: Transparency | None = None
    """In the part that has the end."""


class Recorder(Protocol):
    """Where records go. One method, so a Recorder may wrap a Recorder."""

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        """Take `record`, or drop and count it. Never blocks, never raises; any thread may call.

        True: the caller is done with it (kept, or dropped and counted). False, only with `may_wait`: there is no room just now and
        room is being made; hold back the exchange that produces, and offer the same record again within a bounded time, the last
        time without `may_wait`.
        """
        ...
