"""One direction of an exchange held against itself: what was received and what was handed on, names, values and bytes. Sans-I/O.

Runs in the keeper, off the relay's path. The rules of what may differ are written down here once more, on their own: a mistake in
`gateway.headers` must not excuse itself. Header values are compared and let go; only names and digests of names leave this module.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from archive.record import BodyStream, Crossed, names_digest
from gateway.handed import Handed
from gateway.redaction import redact_headers

__all__ = ["Direction"]

HOP: Final = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate proxy-authorization".split()
)
"""Fields about one connection only (RFC 9110 sections 7.6.1 and 11.7): each side has its own."""

OURS: Final = b"x-verbatim-"
"""Fields between a client and the gateway itself."""

_NEVER: Final = frozenset((b"content-length", b"host"))
"""What no Connection field can have dropped."""

_ADDED: Final = {"request": frozenset((b"host",)), "response": frozenset((b"connection", b"transfer-encoding"))}
"""What may come on top, beside our own: a Host that HTTP/1.0 did not send; the framing and the end of the client's own connection."""

_REWRITTEN: Final = {"request": HOP | {b"host"}, "response": HOP}


_MOST: Final = 64
"""Kinds of additions remembered for one set of names: there are hardly two."""
_FRAMING: Final = b"\r\ntransfer-encoding:"
_fields: Final = re.compile(rb"\r\n([^:\r]++):?[ \t]*+([^\r]*+)").findall
"""Names and values of the lines from a place on: of a head's, or of a block's, each line with the CRLF before it."""
SHORT: Final = 8 << 10
"""Bytes of fields up to which what was found of their names is remembered."""
_NOTHING: Final[list[str]] = []


class _Names(NamedTuple):
    received: str
    forwarded: str
    differ: tuple[str, ...]
    beyond: tuple[str, ...]


class Direction:
    """What was received from one side and what was handed to the other's socket, in any order of telling. Not thread-safe, never blocks.

    The very same object on both sides is equal without a look; anything else is compared byte by byte, so that one hash serves both as
    long as they are equal. From where they are not, or where a part is cut before all of it was handed on, the pieces handed on are kept
    beside the others (`fork`).
    """

    __slots__ = (
        "_block", "_differs_at", "_extra", "_fork", "_handed", "_names", "_received", "_recorded", "_side", "_start", "_sums", "_tokens",
        "ended", "handed", "received", "retried", "stream",
    )  # fmt: skip

    def __init__(self, side: str, answers: bytes | None = None) -> None:
        """`side`: "request" or "response"; of a response, `answers` is the method it answers."""
        self.handed = Handed(answers)
        self.received = 0
        """Bytes of the body."""
        self.ended = False
        """All of the message was received."""
        self.retried = 0
        """Bytes handed to connections that turned out to be dead."""
        self.stream: BodyStream | None = None
        """The body's, where its hashes are taken."""
        self._side = side
        self._block: bytes | None = None
        self._recorded: tuple[bytes, ...] | None = None
        self._start = b""
        self._tokens: tuple[bytes, ...] = ()
        self._names: _Names | None = None
        self._received: list[bytes] = []
        self._handed: list[bytes] = []
        self._differs_at: int | None = None
        self._fork: int | None = None
        self._extra: list[bytes] = []
        self._sums: tuple[hashlib._Hash, hashlib._Hash] | None = None  # of a tunnel's bytes, which are no body with a hash of its own

    def head(self, block: bytes, recorded: tuple[bytes, ...], start: bytes, connection: Sequence[bytes]) -> None:
        """The head was received: its field lines, each with the CRLF before it, their names as they are recorded, how the other side's
        start line has to begin, and the tokens of its Connection fields."""
        self._block, self._start, self._tokens = block, start, tuple(connection)
        self._recorded = recorded
        if self.handed.head:
            self._look_at_names()

    def got(self, pieces: list[bytes]) -> None:
        """Bytes of the body were received."""
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        self.received += size
        if self._sums is not None:
            for piece in pieces:
                self._sums[0].update(piece)
        if size and self._differs_at is None:
            if not self._received and self._handed == pieces:
                self._handed = []
            else:
                self._received += pieces
                self._compare()

    def wrote(self, pieces: Iterable[bytes]) -> None:
        """These were handed to the other side's socket, in one write."""
        handed = self.handed
        headless = not handed.head
        body: list[bytes] = []
        for piece in pieces:
            body += handed.feed(piece)
        if headless and self._block is not None:
            self._look_at_names()
        if not any(body):
            return
        if self._sums is not None:
            for piece in body:
                self._sums[1].update(piece)
        if self._fork is not None:
            self._extra += body
        if self._differs_at is None:
            if not self._handed and self._received == body:
                self._received = []
            else:
                self._handed += body
                self._compare()

    def again(self) -> None:
        """The connection turned out to be dead before it answered: what follows was handed to another."""
        self.retried += self.handed.written
        self.handed = Handed()
        self._names = None

    def tunnel(self) -> None:
        """The protocol was switched: bytes each way from now on."""
        self.handed.tunnel()
        self._sums = hashlib.sha256(), hashlib.sha256()

    def let_go(self) -> None:
        """The head will not be asked for again: forget its values."""
        self._block = None

    def fork(self) -> tuple[int, list[bytes]] | None:
        """At a part's cut, where what was handed on is not (or not yet) what was received: from which byte of the body on, and what was
        handed on from there, or since the last cut. None: the same."""
        if self._fork is None:
            if self._differs_at is None and not self._received and not self._handed:
                return None
            self._part_ways()
        extra, self._extra = self._extra, []
        return self._fork or 0, extra

    def crossed(self, *, complete: bool) -> Crossed:
        """The outcome. `complete`: the exchange ended as it should, so all that was received ought to have been handed on."""
        names, handed = self._names, self.handed
        same = self._differs_at is None and self.received == handed.body
        if same and handed.sound and names is not None and not names.beyond and self._sums is None:  # as it should be, and the quicker said
            return Crossed((names.received, names.forwarded), names.differ, (self.received, handed.body), True, _NOTHING, self.stream)
        return Crossed(
            names=(_digest(self._recorded), None) if names is None else (names.received, names.forwarded),
            differ=() if names is None else names.differ,
            size=(self.received, handed.body),
            same=same,
            differences=[f"{self._side} {what}" for what in self._differences(complete)],
            stream=self.stream,
            sums=None if self._sums is None else (self._sums[0].hexdigest(), self._sums[1].hexdigest()),
        )

    def _differences(self, complete: bool) -> Iterable[str]:
        handed = self.handed
        if self._names is not None:
            yield from self._names.beyond
        if handed.mistake:
            yield f"as forwarded is no HTTP: {handed.mistake}"
        if self._differs_at is not None:
            yield f"body: the bytes forwarded are not those received, from byte {self._differs_at:,} on"
        elif handed.body > self.received:
            yield f"body: {handed.body:,} bytes were forwarded and {self.received:,} received"
        elif complete and self.ended and handed.body < self.received:
            yield f"body: {handed.body:,} bytes were forwarded of {self.received:,} received"
        elif complete and self.ended and not handed.head:
            yield "was not forwarded"
        elif complete and self.ended and not handed.whole:
            yield "body: it was forwarded without its end"
        if handed.beyond:
            yield f"body: {handed.beyond:,} bytes were forwarded after the message's end"

    def _look_at_names(self) -> None:
        if self._block is not None and self._recorded is not None and self.handed.head:
            self._names = _compare_heads(self._side, self._block, self._recorded, self.handed.head, self._start, self._tokens)

    def _compare(self) -> None:
        if not (self._received and self._handed):
            return
        received, handed = b"".join(self._received), b"".join(self._handed)
        common = min(len(received), len(handed))
        if received[:common] == handed[:common]:
            self._received = [received[common:]] if common < len(received) else []
            self._handed = [handed[common:]] if common < len(handed) else []
            return
        at = next(at for at in range(common) if received[at] != handed[at])
        self._differs_at = self.received - len(received) + at
        if self._fork is None:
            self._part_ways()

    def _part_ways(self) -> None:
        self._fork = self.received - sum(map(len, self._received))
        self._extra = self._handed.copy()


def _compare_heads(side: str, block: bytes, recorded: tuple[bytes, ...], head: bytes, start: bytes, tokens: tuple[bytes, ...]) -> _Names:
    """The names of both, and what no rule explains."""
    names = _as_ruled(side, block, recorded, head, tokens) if len(block) <= SHORT else None
    if names is None:
        names = _line_by_line(side, block, recorded, head, tokens)
    if head.startswith(start):
        return names
    return names._replace(beyond=(*names.beyond, "start line: it was forwarded with another method or status"))


def _as_ruled(side: str, block: bytes, recorded: tuple[bytes, ...], head: bytes, tokens: tuple[bytes, ...]) -> _Names | None:
    """The usual case made short: what stays is there in order, byte for byte, Host in its place, what is ours at the end. None: it is not
    so, or a name is a secret, which only who goes line by line can say."""
    special, usual = _plan(side, recorded, tokens)
    begin, at, framed = 0, head.index(b"\r\n"), 0
    for line, rewritten in special:
        end = block.find(line, begin)
        if end < 0 or not head.startswith(block[begin:end], at):
            return None
        at += end - begin
        begin = block.find(b"\r\n", end + 2)
        if begin < 0:
            begin = len(block)
        if rewritten:
            if head[at : at + len(rewritten)].lower() == rewritten:
                at = head.index(b"\r\n", at + 2)
                framed += rewritten == _FRAMING
            elif rewritten != _FRAMING:
                return None
    if not head.startswith(block[begin:], at):
        return None
    added = tuple([name.lower() for name, _ in _fields(head, at + len(block) - begin)])
    names = usual.get((added, framed))
    if names is None:
        names = _usual(side, recorded, tokens, added, framed)
        if len(usual) < _MOST:
            usual[added, framed] = names
    return names


@lru_cache(maxsize=1024)
def _plan(
    side: str, names: tuple[bytes, ...], tokens: tuple[bytes, ...]
) -> tuple[list[tuple[bytes, bytes]], dict[tuple[tuple[bytes, ...], int], _Names]]:
    """How the lines begin that do not just stay, in order, and, in lower case, how one whose value is another on the other side begins
    there. And what was found of heads with these names, by what was added and how often Transfer-Encoding stayed."""
    special: list[tuple[bytes, bytes]] = []
    for given in names:
        name, line = given.lower(), b"\r\n" + given + b":"
        if name == b"transfer-encoding" or (name == b"host" and side == "request"):
            special.append((line, line.lower()))
        elif _may_go(name, side, tokens):
            special.append((line, b""))
    return special, {}


def _usual(side: str, names: tuple[bytes, ...], tokens: tuple[bytes, ...], added: tuple[bytes, ...], framed: int) -> _Names:
    """What `_names` says where all that may go has gone, but for `framed` lines of Transfer-Encoding."""
    gone = [name for name in map(bytes.lower, names) if _may_go(name, side, tokens)]
    for _ in range(framed):
        gone.remove(b"transfer-encoding")
    return _names(side, names, gone, added, tokens)


def _line_by_line(side: str, block: bytes, recorded: tuple[bytes, ...], head: bytes, tokens: tuple[bytes, ...]) -> _Names:
    """Whatever the order and the white space before a value. Fields that are the same on both sides are only counted."""
    counted = Counter(_fields(block, 0))
    counted.subtract(_fields(head, head.index(b"\r\n")))
    lost = [name.lower() for (name, _), number in counted.items() for _ in range(number)]
    extra = [name.lower() for (name, _), number in counted.items() for _ in range(-number)]
    return _names(side, recorded, lost, extra, tokens)


def _names(side: str, received: tuple[bytes, ...], lost: Iterable[bytes], extra: Iterable[bytes], tokens: tuple[bytes, ...]) -> _Names:
    """`lost`, `extra`: names of the lines that only one of the two has."""
    gone, new = Counter(map(_recorded, sorted(lost))), Counter(map(_recorded, sorted(extra)))
    changed = gone & new
    gone, new = gone - changed, new - changed
    names = Counter(name.lower() for name in received)
    told = [f"header {_shown(name)} was forwarded changed" for name in sorted(changed) if name not in _REWRITTEN[side]]
    told += [f"header {_shown(name)} was lost" for name in gone if not _may_go(name, side, tokens)]
    told += [f"header {_shown(name)} was added" for name in new if name not in _ADDED[side] and not (side == "response" and _ours(name))]
    differ = (*(f"-{_shown(name)}" for name in gone.elements()), *(f"+{_shown(name)}" for name in new.elements()))
    beyond = tuple(f"headers: {what}" for what in told)
    return _Names(names_digest(names.elements()), names_digest((names - gone + new).elements()), differ, beyond)


def _recorded(name: bytes) -> bytes:
    """As the record has it: a name that is itself a secret is not told."""
    return redact_headers([(name, b"")], "")[0][0][0].lower()


def _digest(names: tuple[bytes, ...] | None) -> str | None:
    return None if names is None else names_digest(names)


def _may_go(name: bytes, side: str, tokens: Sequence[bytes]) -> bool:
    return name in HOP or (name in tokens and name not in _NEVER) or (side == "request" and _ours(name))


def _ours(name: bytes) -> bool:
    return name.startswith(OURS)


def _shown(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")
