"""Reads websocket frames on a copy of the bytes that passed, for the record only. Sans-I/O; runs in the writer's thread.

It never answers anything. What cannot be read as frames (damage, a lost part, a message beyond the limit) is kept as "raw" bytes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, Literal, TypeAlias

from websockets.exceptions import InvalidHeaderFormat, PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension
from websockets.streams import StreamReader

from archive.record import Message

__all__ = ["FrameReader", "Piece", "Side"]

Side: TypeAlias = Literal["client", "upstream"]
Piece: TypeAlias = tuple[Side, float, bytes]
"""Who sent it, milliseconds since the exchange began, the bytes."""

_CONTROL: Final[dict[Opcode, Literal["ping", "pong"]]] = {Opcode.PING: "ping", Opcode.PONG: "pong"}


class FrameReader:
    """The messages of one websocket, from pieces of both directions in the order they passed.

    `extensions` is the response's Sec-WebSocket-Extensions; `limit` the largest message in bytes, compressed or not, that is read, and
    the most bytes that one batch of either side may grow by when it is inflated: many small frames make a bomb as well as a large one.
    """

    def __init__(self, extensions: str, limit: int) -> None:
        self._read = -1
        self._sides: dict[Side, _Direction] = {
            "client": _Direction("client", _deflate(extensions), limit),
            "upstream": _Direction("upstream", _deflate(extensions), limit),
        }

    @property
    def closed(self) -> bool:
        """A close frame has passed."""
        return any(direction.closed for direction in self._sides.values())

    def read(self, batch: int, pieces: Sequence[Piece], *, last: bool = False) -> list[Message]:
        """The messages that came to their end in these pieces, in order. Batches count from 0; one skipped was lost on the way.

        After a lost batch nobody knows where frames begin, so the rest is raw. With `last`, unfinished frames come out raw too.
        """
        if batch != self._read + 1:
            for direction in self._sides.values():
                direction.broken = True
        self._read = batch
        messages: list[Message] = []
        for direction in self._sides.values():
            direction.begin()
        for side, at_ms, data in pieces:
            self._sides[side].feed(data, at_ms, messages)
        if last:
            for direction in self._sides.values():
                direction.flush(messages)
                direction.end()
        return messages


class _Direction:
    """One direction: RFC 6455 frames put together into messages."""

    def __init__(self, side: Side, deflate: PerMessageDeflate | None, limit: int) -> None:
        self.broken = False
        self.closed = False
        self._side = side
        self._extensions: list[Extension] = [deflate] if deflate else []
        self._limit = limit
        self._room = limit
        self._stream = StreamReader()
        self._unread = bytearray()  # bytes since the last whole frame, to be kept raw should they turn out to be none
        self._read = 0
        self._at_ms = 0.0
        self._frames: list[Frame] = []
        self._parser = self._parse()
        next(self._parser)

    def begin(self) -> None:
        """A new batch begins."""
        self._room = self._limit

    def feed(self, data: bytes, at_ms: float, messages: list[Message]) -> None:
        self._at_ms = at_ms
        self._messages = messages
        self._unread += data
        if not self.broken:
            self._stream.feed_data(data)
            next(self._parser)
        if self.broken:
            self.flush(messages)

    def flush(self, messages: list[Message]) -> None:
        """Give out raw what has not become a message."""
        messages += [Message(self._side, self._at_ms, "raw", bytes(frame.data)) for frame in self._frames]
        self._frames = []
        if self._unread:
            messages.append(Message(self._side, self._at_ms, "raw", bytes(self._unread)))
            self._unread.clear()

    def end(self) -> None:
        """Nothing more comes: let go of the parser, which knows us. Only the cyclic collector would free the two, with all that was read,
        and it comes round when many thousand objects are new, however large they are."""
        self._parser.close()
        self._messages = []

    def _parse(self) -> Generator[None, None, None]:
        """Runs as far as the bytes reach; each `next()` after a feed goes on."""
        yield
        size = 0
        try:
            while True:
                while not self._stream.buffer:  # the limits below are to be those of the batch in which the frame begins
                    yield
                frame = yield from Frame.parse(
                    self._stream.read_exact,
                    mask=self._side == "client",  # RFC 6455 section 5.1: clients mask, servers do not
                    max_size=max(min(self._limit - size, self._room), 1),
                    extensions=self._extensions,
                )
                wire = len(self._unread) - len(self._stream.buffer)
                del self._unread[:wire]
                self._room -= max(0, len(frame.data) - wire)
                size = self._whole(frame, size)
        except (ProtocolError, PayloadTooBig, UnicodeDecodeError):
            self.broken = True
        while True:
            yield

    def _whole(self, frame: Frame, size: int) -> int:
        """Take a whole frame; the size of the unfinished message it belongs to."""
        if frame.opcode in _CONTROL:
            self._messages.append(Message(self._side, self._at_ms, _CONTROL[frame.opcode], bytes(frame.data)))
            return size
        if frame.opcode is Opcode.CLOSE:
            self.closed = True
            close = Close.parse(frame.data)
            self._messages.append(Message(self._side, self._at_ms, "close", close.reason.encode(), int(close.code)))
            return size
        if (frame.opcode is Opcode.CONT) != bool(self._frames):
            self._unread[:0] = frame.data
            raise ProtocolError("a continuation without a beginning, or a beginning inside a message")
        self._frames.append(frame)
        if not frame.fin:
            return size + len(frame.data)
        kind: Literal["text", "binary"] = "text" if self._frames[0].opcode is Opcode.TEXT else "binary"
        self._messages.append(Message(self._side, self._at_ms, kind, b"".join([bytes(f.data) for f in self._frames])))
        self._frames = []
        return 0


def _deflate(extensions: str) -> PerMessageDeflate | None:
    """A decoder when the response settled on permessage-deflate (RFC 7692), else None.

    Always with the full window and the context kept: that reads a sender who uses less of either just as well.
    """
    try:
        agreed = bool(extensions) and any(name == PerMessageDeflate.name for name, _ in parse_extension(extensions))
    except InvalidHeaderFormat:  # an answer nobody can read: compressed frames are then kept raw
        return None
    return PerMessageDeflate(False, False, 15, 15) if agreed else None
