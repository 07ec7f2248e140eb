"""Undoing Content-Encoding for the archived copy, part by part and bounded; hashing and counting the bytes as they crossed.

It never guesses: what cannot be undone exactly is handed back as it crossed, with a word saying why. No I/O, no clock; the state of
one body lives in its `BodyStream`, so calls for one body come one after another (the writer's thread makes them).
"""

from __future__ import annotations

import hashlib
import sys
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import brotli  # type: ignore[import-untyped]  # the package ships no types

from archive.record import Body

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DEFAULT_LIMIT", "Slice", "take"]

DEFAULT_LIMIT: Final = 64 << 20
"""Decoded bytes of one body, over all its parts, that are kept; beyond it the bytes stay as they crossed."""

_FLOOR: Final = 16 << 20
_RATIO: Final = 1100
"""Decoded bytes may always reach `_FLOOR`; beyond it they may not be more than `_RATIO` times the wire bytes. Deflate itself cannot
exceed 1032:1 (zlib.net/zlib_tech.html), brotli and zstd reach a million: an 809-byte brotli body inflates to 1 GiB."""

_FEED: Final = 64 << 10
_PIECE: Final = 256 << 10
"""Input goes in by `_FEED` and comes out by `_PIECE` bytes: decoders copy what they leave over, so large steps would be quadratic."""

_MAX_CODINGS: Final = 4
_MAX_MEMBERS: Final = 4096
"""Streams joined end to end in one body (RFC 1952 section 2.2; RFC 8878 section 3): empty ones cost time and yield nothing."""

_ZSTD_WINDOW_LOG: Final = 23
"""8 MiB: the largest window a zstd content coding may ask for (RFC 9659 section 3)."""


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
    if state is None and body.ended and not (body.encoding or body.unkept or body.offset):
        return _whole(body)
    if not isinstance(state, _Progress):
        state = body.stream.state = _Progress(body.encoding)
    return state.take(body, last=last or body.ended, limit=limit)


def _whole(body: Body) -> Slice:
    """The usual case made short: all of a body in its only part, nothing to undo, nothing to remember."""
    data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
    size = len(data)
    return Slice(data, True, None, True, size, size, hashlib.sha256(data).hexdigest(), False, True)


class _Progress:
    """What is remembered from part to part."""

    __slots__ = ("begun", "decoder", "error", "expected", "lost", "sha256", "truncated")

    def __init__(self, encoding: str) -> None:
        self.sha256 = hashlib.sha256()
        self.expected = 0
        self.lost = False
        self.truncated = False
        self.begun = False
        self.error: str | None = None
        self.decoder: _Stack | None = None
        codings = _codings(encoding)
        if codings is None:
            self.error = "unknown coding"
        elif codings:
            self.decoder = _Stack(codings)

    def take(self, body: Body, *, last: bool, limit: int) -> Slice:
        if body.offset != self.expected:
            self.lost = True
            self.error = self.error or "lost part"
        if self.truncated and body.chunks:
            # Kept bytes after bytes let go: a decoder would take them for its next input.
            self.error = self.error or "lost part"
        data = body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks)
        size = len(data)
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

    def _decode(self, data: bytes, *, last: bool, complete: bool, limit: int) -> bytes:
        """`data` decoded, or `data` itself with `self.error` set."""
        decoder = self.decoder
        if decoder is None or self.error is not None:
            return data
        try:
            decoded = decoder.feed(data, limit)
        except _TooMuch:
            self.error = "limit"
            return data
        except (zlib.error, brotli.error, zstd.ZstdError, EOFError, ValueError):
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


def _codings(encoding: str) -> list[str] | None:
    """The codings of a Content-Encoding value in the order they were applied; None when one is unknown (RFC 9110 section 8.4.1)."""
    if not encoding:
        return []
    names = [name.strip().lower() for name in encoding.split(",")]
    codings = [name for name in names if name not in {"", "identity"}]
    known = len(codings) <= _MAX_CODINGS and all(name in _DECODERS for name in codings)
    return codings if known else None


class _TooMuch(Exception):  # noqa: N818 - a signal inside this module, no error of the caller's
    """More came out than may be kept."""


class _Decoder(Protocol):
    finished: bool
    """Nothing was fed, or the coding came to its own end."""

    def feed(self, data: memoryview) -> Iterator[bytes]:
        """Decoded pieces of at most about `_PIECE` bytes; raises the library's own error on damage."""
        ...


class _Stack:
    """Codings undone in the reverse of the order in which they were applied."""

    __slots__ = ("_decoders", "_fed", "_out")

    def __init__(self, codings: list[str]) -> None:
        self._decoders: list[_Decoder] = [_DECODERS[name]() for name in reversed(codings)]
        self._out = [0] * len(codings)
        self._fed = 0

    @property
    def finished(self) -> bool:
        return all(decoder.finished for decoder in self._decoders)

    def feed(self, data: bytes, limit: int) -> bytes:
        self._fed += len(data)
        room = min(limit, max(_FLOOR, _RATIO * self._fed))
        return b"".join(self._through(data, 0, room))

    def _through(self, data: bytes, stage: int, room: int) -> Iterator[bytes]:
        """Every stage is held to `room`, not only the last: a stage may yield much that the next turns into nothing."""
        if stage == len(self._decoders):
            yield data
            return
        view = memoryview(data)
        for start in range(0, len(view), _FEED):
            for piece in self._decoders[stage].feed(view[start : start + _FEED]):
                self._out[stage] += len(piece)
                if self._out[stage] > room:
                    raise _TooMuch
                yield from self._through(piece, stage + 1, room)


class _Inflate:
    """gzip (RFC 1952, several members allowed) and deflate (RFC 1950, or the raw RFC 1951 that some servers send for it)."""

    __slots__ = ("_begin", "_gzip", "_inflater", "_members", "finished")

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inflater: zlib._Decompress | None = None
        self._begin = b""
        self._members = 0
        self.finished = True

    def feed(self, data: memoryview) -> Iterator[bytes]:
        rest: memoryview | bytes = data
        while len(rest):
            if self._inflater is None:
                self.finished = False
                if self._begin:
                    rest, self._begin = self._begin + bytes(rest), b""
                if not self._gzip and len(rest) < 2:
                    self._begin = bytes(rest)
                    return
                self._inflater = self._next(bytes(rest[:2]))
            yield self._inflater.decompress(rest, _PIECE)
            rest = self._inflater.unconsumed_tail
            if self._inflater.eof:
                rest, self._inflater, self.finished = self._inflater.unused_data, None, True
            elif not rest:
                # The window may hold output that the piece had no room for.
                while piece := self._inflater.decompress(b"", _PIECE):
                    yield piece

    def _next(self, begin: bytes) -> zlib._Decompress:
        self._members += 1
        if self._members > (_MAX_MEMBERS if self._gzip else 1):
            raise ValueError("bytes after the end")
        if self._gzip:
            return zlib.decompressobj(31)
        # RFC 1950 section 2.2: method 8, a window of at most 32 KiB, and a check that makes the first two bytes a multiple of 31.
        is_zlib = begin[0] & 0x0F == 8 and begin[0] >> 4 <= 7 and int.from_bytes(begin, "big") % 31 == 0
        return zlib.decompressobj(15 if is_zlib else -15)


class _Brotli:
    """br (RFC 7932). The library refuses bytes after the end by itself."""

    __slots__ = ("_decoder", "finished")

    def __init__(self) -> None:
        self._decoder = brotli.Decompressor()
        self.finished = True

    def feed(self, data: memoryview) -> Iterator[bytes]:
        yield self._decoder.process(data, output_buffer_limit=_PIECE)
        while not self._decoder.can_accept_more_data() and not self._decoder.is_finished():
            yield self._decoder.process(b"", output_buffer_limit=_PIECE)
        self.finished = self._decoder.is_finished()


class _Zstd:
    """zstd (RFC 8878), several frames allowed."""

    __slots__ = ("_decoder", "_frames", "finished")

    def __init__(self) -> None:
        self._decoder: zstd.ZstdDecompressor | None = None
        self._frames = 0
        self.finished = True

    def feed(self, data: memoryview) -> Iterator[bytes]:
        rest: memoryview | bytes = data
        while len(rest):
            if self._decoder is None:
                self._frames += 1
                if self._frames > _MAX_MEMBERS:
                    raise ValueError("too many frames")
                self._decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})
            yield self._decoder.decompress(rest, _PIECE)
            while not self._decoder.eof and not self._decoder.needs_input:
                yield self._decoder.decompress(b"", _PIECE)
            rest = b""
            self.finished = self._decoder.eof
            if self._decoder.eof:
                rest, self._decoder = self._decoder.unused_data, None


def _gzip() -> _Decoder:
    return _Inflate(gzip=True)


def _deflate() -> _Decoder:
    return _Inflate(gzip=False)


_DECODERS: Final = {"gzip": _gzip, "x-gzip": _gzip, "deflate": _deflate, "br": _Brotli, "zstd": _Zstd}
