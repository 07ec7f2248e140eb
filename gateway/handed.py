"""What was handed to a socket, read as the other side reads it: head, body by the head's own framing, end. For the record only. Sans-I/O.

It shares nothing with the relay's own reader and builder of messages (`gateway.wire`, `gateway.headers`), whose work it is held against.
"""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["Handed"]

_State = Literal["head", "length", "close", "size", "data", "crlf", "trailers", "tunnel", "over"]

_BODILESS: Final = (b"204", b"304")


class Handed:
    """One direction of one exchange, from the pieces written to a socket, in order. Not thread-safe, never blocks, never raises."""

    __slots__ = ("_answers", "_held", "_left", "_state", "beyond", "body", "head", "mistake", "written")

    def __init__(self, answers: bytes | None = None) -> None:
        """`answers`: of a response, the method it answers; None for a request."""
        self.head = b""
        """The head's bytes, start line to blank line; empty before it was written. Interim (1xx) responses are passed over."""
        self.body = 0
        """Bytes of the body (of a tunnel, once it is one), framing not counted."""
        self.beyond = 0
        """Bytes written after the message's end."""
        self.mistake = ""
        """What makes it no HTTP, in words."""
        self.written = 0
        self._answers = answers
        self._state: _State = "head"
        self._left = 0
        self._held = b""

    @property
    def whole(self) -> bool:
        """By its own framing nothing is missing of it."""
        return self._state in ("over", "close", "tunnel")

    @property
    def sound(self) -> bool:
        """Whole, and neither more than that nor another protocol."""
        return self._state in ("over", "close", "tunnel") and not (self.beyond or self.mistake)

    def tunnel(self) -> None:
        """Bytes are just bytes from now on (RFC 9110 section 7.8)."""
        self._state = "tunnel"

    def feed(self, piece: bytes) -> list[bytes]:
        """The pieces of the body in it. A piece that is nothing else comes back as the same object."""
        size = len(piece)
        self.written += size
        state = self._state
        if state == "length" and size <= self._left:
            self._left -= size
            if not self._left:
                self._state = "over"
        elif state == "head" and not self._held and size > 4 and piece.find(b"\r\n\r\n") == size - 4:  # a head by itself, as usual
            self._begin(piece)
            return []
        elif state not in ("close", "tunnel"):
            found = self._read(self._held + piece if self._held else piece)
            self.body += sum(map(len, found))
            return found
        self.body += size
        return [piece]

    def _read(self, data: bytes) -> list[bytes]:
        found: list[bytes] = []
        self._held = b""
        at, size = 0, len(data)
        while at < size:
            state, begin = self._state, at
            if state in ("length", "data"):
                at = min(at + self._left, size)
                self._left -= at - begin
                found.append(data[begin:at])
                if not self._left:
                    self._state = "over" if state == "length" else "crlf"
            elif state in ("close", "tunnel"):
                at = size
                found.append(data[begin:])
            elif state == "over":
                at = size
                self.beyond += size - begin
            else:
                at = self._line(data, at, state)
                if at < 0:
                    self._held = data[begin:]
                    break
        return found

    def _line(self, data: bytes, at: int, state: _State) -> int:
        """Where what follows begins; below 0 when there is not enough of it."""
        if state == "head":
            end = data.find(b"\r\n\r\n", at) + 4
            if end >= 4:
                self._begin(data[at:end])
            return end if end >= 4 else -1
        if state == "trailers":
            if data[at : at + 2] != b"\r\n":
                at = data.find(b"\r\n\r\n", at) + 2
                if at < 2:
                    return -1
            self._state = "over"
            return at + 2
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1 if len(data) - at < 1024 else self._give_up(data)
        if state == "crlf":
            self._state = "size"
            return end + 2 if end == at else self._give_up(data)
        try:
            self._left = int(data[at:end].partition(b";")[0], 16)
        except ValueError:
            return self._give_up(data)
        self._state = "data" if self._left else "trailers"
        return end + 2

    def _give_up(self, data: bytes) -> int:
        self.mistake = "its chunks cannot be read"
        self._state = "over"
        return len(data)

    def _begin(self, head: bytes) -> None:
        status = head[9:12] if self._answers is not None else b""
        if status[:1] == b"1" and status != b"101":
            return
        self.head = head
        lower = head.lower()
        lengths, chunked = lower.count(b"\r\ncontent-length:"), lower.count(b"\r\ntransfer-encoding:")
        if self._answers == b"HEAD" or status in _BODILESS or status == b"101":
            self._state = "over"
        elif lengths + chunked > 1:
            self.mistake = "it has more than one framing field"
            self._state = "close"
        elif chunked:
            self._state = "size"
        elif lengths:
            begin = lower.index(b"\r\ncontent-length:") + 17
            digits = lower[begin : lower.index(b"\r\n", begin)].strip()
            self._left = int(digits) if digits.isdigit() else 0
            self._state = "length" if self._left else "over"
        else:
            self._state = "over" if self._answers is None else "close"
