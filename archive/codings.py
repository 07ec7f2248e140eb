"""Content codings undone piece by piece and within bounds: gzip, deflate, br, zstd, one over the other. Raises on damage and excess.

What to do then is for `archive.content`. No I/O, no clock.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # the package ships no types

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["DAMAGE", "Stack", "TooMuch", "codings"]

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

DAMAGE: Final = (zlib.error, brotli.error, zstd.ZstdError, EOFError, ValueError)
"""What decoders raise on bytes that are not of their coding."""


def codings(encoding: str) -> list[str] | None:
    """The codings of a Content-Encoding value in the order they were applied; None when one is unknown (RFC 9110 section 8.4.1)."""
    if not encoding:
        return []
    names = [name.strip().lower() for name in encoding.split(",")]
    applied = [name for name in names if name not in {"", "identity"}]
    known = len(applied) <= _MAX_CODINGS and all(name in _DECODERS for name in applied)
    return applied if known else None


class TooMuch(Exception):  # noqa: N818 - a signal, no error
    """More came out than may be kept."""


class _Decoder(Protocol):
    finished: bool
    """Nothing was fed, or the coding came to its own end."""

    def feed(self, data: memoryview) -> Iterator[bytes]:
        """Decoded pieces of at most about `_PIECE` bytes; raises the library's own error on damage."""
        ...


class Stack:
    """Codings undone in the reverse of the order in which they were applied."""

    __slots__ = ("_decoders", "_fed", "_out")

    def __init__(self, names: list[str]) -> None:
        self._decoders: list[_Decoder] = [_DECODERS[name]() for name in reversed(names)]
        self._out = [0] * len(names)
        self._fed = 0

    @property
    def finished(self) -> bool:
        """Nothing was fed, or every coding came to its own end."""
        return all(decoder.finished for decoder in self._decoders)

    def feed(self, data: bytes, limit: int) -> bytes:
        """What `data` decodes to. Raises TooMuch once more than `limit` bytes came out in all, and one of DAMAGE."""
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
                    raise TooMuch
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
