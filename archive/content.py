"""Undoing Content-Encoding for the archived copy, part by part and bounded; hashing and counting the bytes as they crossed.

It never guesses: what cannot be undone exactly is handed back as it crossed, with a word saying why. No I/O, no clock; the state of
one body lives in its `BodyStream`, so calls for one body come one after another (the writer's thread makes them).
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from archive.codings import DAMAGE, Stack, TooMuch, codings
from archive.record import Body, BodyStream

__all__ = ["DEFAULT_LIMIT", "Slice", "hashes", "take"]

DEFAULT_LIMIT: Final = 64 << 20
"""Decoded bytes of one body, over all its parts, that are kept; beyond it the bytes stay as they crossed."""


class Slice(NamedTuple):
    """One part of one body, ready to be kept. A NamedTuple, not a dataclass: two are made for every exchange recorded."""

    data: bytes
    """The bytes to keep: decoded, or as they crossed where `decoded` is false."""
    decoded: bool
    error: str | None
    """Why bytes are as they crossed: "limit", "damaged", "unknown coding", "lost part"."""
    begins: bool
    """Nothing of this body was kept before this slice."""
    size: int
    """Wire bytes of this slice, kept or not."""
    total: int | None
    """Wire bytes of the whole body, in its last slice; None before, and None when a part of it was lost."""
    sha256: str | None
    """Of the whole body as it crossed, in its last slice; None before, and None when a part of it was lost."""
    truncated: bool
    """Bytes up to here crossed without being kept."""
    complete: bool
    """The framing came to its end: the whole body crossed."""


def take(body: Body, *, last: bool, limit: int = DEFAULT_LIMIT) -> Slice:
    """The slice to keep of `body`. `last` says that nothing of it follows; `limit` bounds decoded bytes over all parts.

    Never raises on damage. Memory: at most `limit` bytes beside the body's own. Parts of one body must come in order; one left out
    is noticed by its offset.
    """
    state = body.stream.state
    if state is None and body.ended and not (body.encoding or body.unkept or body.offset or body.forwarded):
        return _whole(body)
    if not isinstance(state, _Progress):
        state = body.stream.state = _Progress(body.encoding)
    return state.take(body, last=last or body.ended, limit=limit)


def hashes(stream: BodyStream | None) -> tuple[str | None, str | None]:
    """SHA-256 of a body that was not forwarded as it was received: of both, as far as they are known once its last slice was taken."""
    state = stream.state if stream is not None else None
    if not isinstance(state, _Progress) or state.lost:
        return None, None
    return state.sha256.hexdigest(), None if state.forwarded is None else state.forwarded.hexdigest()


def _whole(body: Body) -> Slice:
    """The usual case made short: all of a body in its only part, nothing to undo, nothing to remember."""
    data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
    size = len(data)
    return Slice(data, True, None, True, size, size, hashlib.sha256(data).hexdigest(), False, True)


class _Progress:
    """What is remembered from part to part."""

    __slots__ = ("begun", "decoder", "error", "expected", "forwarded", "lost", "sha256", "truncated")

    def __init__(self, encoding: str) -> None:
        self.sha256 = hashlib.sha256()
        self.forwarded: hashlib._Hash | None = None
        """Of what was forwarded, from where it is not what was received; None as long as one hash serves both."""
        self.expected = 0
        self.lost = False
        self.truncated = False
        self.begun = False
        self.error: str | None = None
        self.decoder: Stack | None = None
        applied = codings(encoding)
        if applied is None:
            self.error = "unknown coding"
        elif applied:
            self.decoder = Stack(applied)

    def take(self, body: Body, *, last: bool, limit: int) -> Slice:
        if body.offset != self.expected:
            self.lost = True
            self.error = self.error or "lost part"
        if self.truncated and body.chunks:
            # Kept bytes after bytes let go: a decoder would take them for its next input.
            self.error = self.error or "lost part"
        data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
        size = len(data)
        if body.forwarded is not None:
            self._fork(data, body)
        self.sha256.update(data)
        for chunk in body.unkept:
            self.sha256.update(chunk)
            size += len(chunk)
        self.expected = body.offset + size
        self.truncated = self.truncated or bool(body.unkept)

        begins = not self.begun
        kept = self._decode(data, last=last, complete=body.ended, limit=limit)
        self.begun = self.begun or bool(kept)
        whole = last and not self.lost
        return Slice(
            data=kept,
            decoded=self.error is None or (self.decoder is None and self.error == "lost part"),
            error=self.error,
            begins=begins,
            size=size,
            total=self.expected if whole else None,
            sha256=self.sha256.hexdigest() if whole else None,
            truncated=self.truncated,
            complete=body.ended,
        )

    def _fork(self, data: bytes, body: Body) -> None:
        """Hash what was forwarded on its own; up to the fork it is what was received."""
        begin, pieces = body.forwarded or (0, [])
        if self.forwarded is None:
            self.forwarded = self.sha256.copy()
            same = begin - body.offset
            for piece in (data, *body.unkept):
                self.forwarded.update(piece[: max(same, 0)])
                same -= len(piece)
        for piece in pieces:
            self.forwarded.update(piece)

    def _decode(self, data: bytes, *, last: bool, complete: bool, limit: int) -> bytes:
        """`data` decoded, or `data` itself with `self.error` set."""
        decoder = self.decoder
        if decoder is None or self.error is not None:
            return data
        try:
            decoded = decoder.feed(data, limit)
        except TooMuch:
            self.error = "limit"
            return data
        except DAMAGE:
            self.error = "damaged"
            return data
        if last and not decoder.finished:
            # A whole body whose coding does not end is damaged. One cut off by an abort or by the capture limit is expected to stop
            # anywhere: what could be read of it is worth more than the wire bytes, unless nothing could.
            stopped = complete and not self.truncated
            if stopped or not (decoded or self.begun):
                self.error = "damaged" if data else None
                return data
        return decoded
