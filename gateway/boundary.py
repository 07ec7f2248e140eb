"""Where one direction of a websocket stands: between two frames, or within one. Sans-I/O. Reads lengths only; unmasks and keeps nothing.

The relay asks when it is stopped: only between two frames can it say goodbye (RFC 6455 section 5.5.1) without breaking one.
"""

from __future__ import annotations

from typing import Final

__all__ = ["GOODBYE", "Boundary"]

_REASON: Final = b"Verbatim was stopped"
GOODBYE: Final = bytes((0x88, 2 + len(_REASON))) + (1012).to_bytes(2, "big") + _REASON
"""A close frame of a server's: 1012, Service Restart (IANA's registry). Not 1001, which clients such as Python's websockets take for a
proper end, so that what was cut short would look whole."""

MOST_FRAMES: Final = 512
"""Frames followed within one read. A flood of tiny ones would cost the loop many milliseconds; such a socket is cut without a goodbye."""


class Boundary:
    """Fed with all that went one way, in order."""

    __slots__ = ("_head", "_left", "_silent")

    def __init__(self) -> None:
        self._head = b""  # of a frame's header, what is here
        self._left = 0  # of a frame's payload, what is to come
        self._silent = False  # nothing may be said any more

    @property
    def free(self) -> bool:
        """A frame may be sent here: none is unfinished, and no close frame has passed, after which there must be none."""
        return not (self._silent or self._left or self._head)

    def feed(self, data: bytes) -> None:
        """The next bytes. Costs about a microsecond a frame."""
        if self._silent:
            return
        at = self._left
        if self._head:
            data, self._head = self._head + data, b""
        end = len(data)
        for _ in range(MOST_FRAMES):
            if at >= end:
                self._left = at - end
                return
            after = at + 2
            length = data[at + 1] & 0x7F if after <= end else 0
            if length > 125:
                after += 2 if length == 126 else 8
            if after > end:
                self._head, self._left = data[at:], 0
                return
            if length > 125:
                length = int.from_bytes(data[at + 2 : after], "big")
            if data[at] & 0x0F == 8:
                self._silent = True
                return
            at = after + length + (4 if data[at + 1] & 0x80 else 0)
        self._silent = True
