"""Walking a segment from end to end: each line is inflated once, its checksum compared, its leaf hashed, its first fields read.

For those who must look at every byte: who seals and who verifies. Says what each record is and judges nothing beyond it; keeps memory
bounded whatever a member inflates to; parses no JSON but the archive's own lines.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final, NamedTuple

from archive import skim
from archive.errors import DamagedMember
from archive.handle import Handle, Plain
from archive.member import NO_MEMBER, Damage, Found, Tag, inflate, inflated
from archive.proof.manifest import DIGEST_LENGTH
from archive.record import id_text

__all__ = ["Checked", "Walk"]

_WINDOW: Final = 1 << 20
"""One read of the file takes so much, or a whole member."""
_SMALL: Final = 4 << 20
"""A member and a line up to this are handled whole; longer ones in pieces."""
_PIECE: Final = 256 << 10
_OWN: Final = 16 << 20
"""No line of the archive's own is longer: one that tells of 1,000 removed records has 400 KB."""

_BEGIN: Final = 400
"""The first fields fit in here."""

# The order of the first fields is part of the format, so most lines need no parser. A writer's name is printable ASCII.
_HEAD: Final = re.compile(
    rb'\{"v":[0-9]+,"id":"([0-9a-f-]{36})","seq":([0-9]+),"writer":"([!#-\[\]-~]{1,64})","part":([0-9]+),'
    rb'"at":"([0-9T:.Z+-]{1,40})","kind":"([a-z]{1,16})"'
)
_NAME: Final = re.compile(r"[!#-\[\]-~]{1,64}")
_SAME: Final = "the member's header and its line tell different things"
_SCHEMA: Final = "the line is not of this schema"

Json = dict[str, Any]


class Checked(NamedTuple):
    """One sound record. A NamedTuple, as `Found` is: there are 100,000 and more of them."""

    offset: int
    tag: Tag
    size: int
    """Bytes of the line, newline included."""
    leaf: bytes
    """SHA-256 of a zero byte and the line: its leaf hash (RFC 6962 section 2.1)."""
    digest: bytes
    """The first bytes of the SHA-256 of its gzip member, when they were asked for; else empty, as in the packed form."""
    writer: str
    at: str
    kind: str
    own: Json | None
    """The whole line, when it is one of the archive's own."""


class Walk:
    """One way through an open segment; iterate over it once. What it sums up is there at the end.

    Damage is a value. Blocks on the disk, and for a second per 400 MB of lines or so.
    """

    def __init__(self, handle: Handle, *, digests: bool = False, end: int | None = None) -> None:
        """`digests`: the SHA-256 of each member too, which costs a tenth more and has a meaning in the plain form only. `end`: how far to
        go, where a writer may be at work; else as far as the segment goes now."""
        self._handle = handle
        self._digests = digests
        self.bytes = handle.end() if end is None else end
        """The segment's length: bytes of the file in the plain form, of all lines in the packed one."""
        self.sha256: str | None = None
        """Of the plain form's file, up to `bytes`; None in the packed form and where the disk could not read all of it."""
        self.headers: dict[int, Tag] = {}
        """By offset, the headers of damaged records that are sound themselves: they still say whose record it was."""

    def __iter__(self) -> Iterator[Checked | Damage]:
        if isinstance(self._handle, Plain):
            return self._plain(self._handle)
        return self._packed(self._handle)

    def _plain(self, handle: Plain) -> Iterator[Checked | Damage]:
        file = _Bytes(handle.fileno(), self.bytes)
        spoiled: Damage | None = None
        for each in _until(handle, self.bytes):
            if spoiled is not None:
                if isinstance(each, Damage) and each.why == NO_MEMBER and each.offset == spoiled.offset + spoiled.length:
                    spoiled = spoiled._replace(length=spoiled.length + each.length)  # bytes put into a member push its end out of it
                    continue
                yield spoiled
                spoiled = None
            if isinstance(each, Damage):
                yield each
                continue
            offset, tag = each
            try:
                if tag.length <= _SMALL:
                    member = file.take(offset, tag.length)
                    digest = sha256(member).digest()[:DIGEST_LENGTH] if self._digests else b""
                    if int.from_bytes(member[-4:], "little") <= _SMALL:
                        yield _whole(each, inflate(member, limit=_SMALL), digest)
                    else:
                        yield _in_pieces(each, inflated(iter((member,)), most=_PIECE), digest)
                else:
                    hashed = sha256()
                    chunks = file.pieces(offset, tag.length, hashed.update if self._digests else None)
                    checked = _in_pieces(each, inflated(chunks, most=_PIECE), b"")
                    yield checked._replace(digest=hashed.digest()[:DIGEST_LENGTH] if self._digests else b"")
            except DamagedMember as error:
                self.headers[offset] = tag
                spoiled = Damage(offset, tag.length, str(error), torn=False)
        if spoiled is not None:
            yield spoiled
        self.sha256 = file.finish()

    def _packed(self, handle: Handle) -> Iterator[Checked | Damage]:
        for each in handle.scan():
            if isinstance(each, Damage):
                yield each
                continue
            try:
                if each.tag.length <= _SMALL:
                    yield _whole(each, handle.line(each.offset, limit=_SMALL), b"")
                else:
                    yield _in_pieces(each, handle.pieces(each.offset), b"")
            except DamagedMember as error:
                self.headers[each.offset] = each.tag
                yield Damage(each.offset, each.tag.length, str(error), torn=False)


def _until(handle: Plain, end: int) -> Iterator[Found | Damage]:
    """The records up to `end`, though a writer may go on meanwhile. What the disk cannot read is damage."""
    at = 0
    try:
        for each in handle.scan():
            length = each.length if isinstance(each, Damage) else each.tag.length
            if each.offset >= end:
                return
            if each.offset + length > end:  # it grew while we looked: this record was not whole yet when we began
                yield Damage(each.offset, end - each.offset, "the member is cut short", torn=True)
                return
            yield each
            at = each.offset + length
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        yield Damage(at, end - at, "the disk cannot read it", torn=False)


def _whole(found: Found, line: bytes, digest: bytes) -> Checked:
    if not line or line.find(b"\n") != len(line) - 1:
        raise DamagedMember("not one line with its newline")
    hashed = sha256(b"\x00")
    hashed.update(line)
    return _checked(found, line, len(line), hashed.digest(), digest)


def _in_pieces(found: Found, pieces: Iterator[bytes], digest: bytes) -> Checked:
    """The same for a line of any length: only its beginning is held, where that says that it is an exchange's."""
    hashed = sha256(b"\x00")
    begin = bytearray()
    size, ended, whole = 0, False, True
    for piece in pieces:
        if ended and piece:
            raise DamagedMember("not one line with its newline")
        at = piece.find(b"\n")
        if at >= 0:
            if at != len(piece) - 1:
                raise DamagedMember("not one line with its newline")
            ended = True
        hashed.update(piece)
        size += len(piece)
        if len(begin) < _BEGIN or (whole and len(begin) <= _OWN):
            begin += piece
            head = _HEAD.match(begin)
            whole = head is None or head[6] != b"exchange"
    if not ended:
        raise DamagedMember("not one line with its newline")
    return _checked(found, bytes(begin), size, hashed.digest(), digest)


def _checked(found: Found, line: bytes, size: int, leaf: bytes, digest: bytes) -> Checked:
    """`line` is all of it, or the beginning of a long one."""
    tag = found.tag
    head = _HEAD.match(line)
    if head is not None:
        name, seq, writer, part, at, kind = head.groups()
        said = (name.decode(), int(seq), int(part), writer.decode(), at.decode(), kind.decode())
        own = None if kind == b"exchange" else _parsed(line, size)
    else:  # the same fields, as somebody else's encoder would order or space them
        own = _parsed(line, size)
        said = _fields(own)
        own = None if said[-1] == "exchange" else own
    if said[:3] != (id_text(tag.id), tag.seq, tag.part):
        raise DamagedMember(_SAME)
    return Checked(found.offset, tag, size, leaf, digest, *said[3:], own)


def _fields(line: Json) -> tuple[str, int, int, str, str, str]:
    name, seq, part, writer, at, kind = map(line.get, ("id", "seq", "part", "writer", "at", "kind"))
    if not (isinstance(name, str) and isinstance(writer, str) and isinstance(at, str) and isinstance(kind, str)):
        raise DamagedMember(_SCHEMA)
    if not (isinstance(seq, int) and isinstance(part, int) and _NAME.fullmatch(writer)):
        raise DamagedMember(_SCHEMA)
    return name, seq, part, writer, at, kind


def _parsed(line: bytes, size: int) -> Json:
    if len(line) != size:
        raise DamagedMember(_SCHEMA)
    return skim.decode(line)


class _Bytes:
    """A file's bytes in order, each read once and hashed as it is read; `take` and `pieces` must be asked for ever later ones."""

    def __init__(self, fd: int, end: int) -> None:
        self._fd = fd
        self._end = end
        self._hash = sha256()
        self._unread = False
        """Some of it could not be read, so that there is no hash of it."""
        self._data = b""
        self._from = 0

    def take(self, offset: int, length: int) -> memoryview:
        """Those bytes. Raises DamagedMember where the disk cannot read them."""
        begin = offset - self._from
        if begin + length > len(self._data):
            self._advance(offset, length)
            begin = 0
            if len(self._data) < length:
                raise DamagedMember("the disk cannot read it" if self._unread else "the file was cut off meanwhile")
        return memoryview(self._data)[begin : begin + length]

    def pieces(self, offset: int, length: int, also: Any) -> Iterator[bytes]:
        """The same in pieces; each is given to `also` too, if that is a function."""
        while length:
            step = min(_PIECE, length)
            piece = bytes(self.take(offset, step))
            if also is not None:
                also(piece)
            yield piece
            offset, length = offset + step, length - step

    def finish(self) -> str | None:
        """Read on to the end; the SHA-256 of it all, None where something could not be read."""
        while not self._unread and self._from + len(self._data) < self._end:
            self._advance(self._from + len(self._data), 1)
            if not self._data:
                return None  # cut off meanwhile
        return None if self._unread else self._hash.hexdigest()

    def _advance(self, offset: int, length: int) -> None:
        """Have the window begin at `offset` and hold `length` bytes or more, if they are there."""
        known = self._from + len(self._data)
        while known < offset and not self._unread:  # damage that nobody asked for
            known += len(self._read(known, min(_WINDOW, offset - known))) or self._end
        kept = self._data[offset - self._from :] if offset < known else b""
        at, least = offset + len(kept), length - len(kept)
        more = self._read(at, min(max(_WINDOW, least), self._end - at))
        if not more and self._unread:
            more = self._read(at, least)  # what cannot be read may lie behind it
        self._data, self._from = kept + more, offset

    def _read(self, at: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._unread = True
            return b""
        self._hash.update(data)
        return data
