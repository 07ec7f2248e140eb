"""The archive, read: lists of exchanges, one exchange whole, words searched for, and the archive's own events.

It answers from the catalog for what that covers and from the segments themselves for the rest. It writes nothing; `follow`, which keeps
the catalog up to date, never writes to a segment.

Every method blocks on the disk and may be called from any thread. Damage is a value (`Event`, `Exchange.unread`); only what a caller
got wrong, or what is not there, is an ArchiveError; a machine out of descriptors or memory shows as the OSError it is. What is being
written while it is read is "not yet", never an error.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import RLock
from typing import Any, Final, TypeVar

from archive import skim
from archive.catalog.follow import Follower
from archive.catalog.index import DEFAULT_HELD, Index
from archive.catalog.rows import Catalog, Covered
from archive.catalog.searching import Chosen, Search
from archive.catalog.telling import running
from archive.errors import ArchiveError, BadName, DamagedMember, NotFound
from archive.exchange import Content, Entry, Exchange, Head, Place, Summary, assemble, upstream_ids
from archive.parts import Files, fold, fold_all, number
from archive.record import id_text
from archive.service import Event, Writers, damage, event

__all__ = ["Content", "Entry", "Event", "Exchange", "Head", "Page", "Place", "Progress", "Reader", "upstream_ids"]

DEFAULT_LIMIT: Final = 256 << 20
"""Bytes of lines that one exchange may take when it is opened; texts beyond it are left out and said to be unread."""

_MAX_PAGE: Final = 500
_SEARCHED: Final = 2000
"""Exchanges looked at for one filtered page: beyond it the page is handed back as it is, with `next` to go on from."""
_PATIENCE: Final = 0.5
"""Seconds after which a filtered page is handed back so, too: words that many say, but hardly ever one after the other, take as many."""
_AT_LEAST: Final = 10
"""Exchanges that a filtered page looks at in any case: a machine that stands still for a moment must not make it an empty one."""
_LOOK_BACK: Final = 200
"""Segments searched for the open line of a writer: eight days without a restart."""
_SUMMARIES: Final = 5000
_DAMAGES: Final = 1000

_DIGITS: Final = re.compile(r"[0-9a-f]{8,32}")

Json = dict[str, Any]
Places = list[tuple[str, int]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """Exchanges, newest first; `next` is the `before` of the page that follows, None when there is none."""

    entries: list[Entry]
    next: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the catalog has followed the segments: bytes of them that it knows, of how many."""

    known: int
    size: int

    @property
    def behind(self) -> int:
        """Bytes it does not know yet."""
        return self.size - self.known

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.known / self.size if self.size else 1.0


class Reader:
    """Reads one folder of segments, also while writers append to it.

    What the catalog does not cover, or no longer rightly, is found by hopping over members and kept in memory, so an answer is the same
    with and without a catalog, only later. Only files of the strict segment name are opened, and no symbolic links; ids are compared as
    numbers, so no id can mean a path or a pattern.
    """

    def __init__(
        self, folder: Path, *, limit: int = DEFAULT_LIMIT, held: int = DEFAULT_HELD, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limit` bounds the bytes of lines that `get` reads of one exchange (memory: about three times as much); `held` the members
        whose places are kept in memory. `clock` tells seconds, and never goes back."""
        self._folder = folder
        self._limit = limit
        self._clock = clock
        self._lock = RLock()
        self._catalog = Catalog(folder)
        self._now: Catalog | None = None
        """The catalog during a call that can use it."""
        self._index = Index(folder, held=held, clock=clock)
        self._summaries: OrderedDict[bytes, tuple[Places, int, Summary]] = OrderedDict()
        self._damages: dict[tuple[str, int], tuple[object, Event]] = {}
        """Members that hopping took for whole and that could not be read, each with its header."""
        self._events: dict[str, tuple[Any, list[Event]]] = {}
        self._writers = Writers(host=socket.gethostname(), running=running)

    def refresh(self) -> int:
        """Look for what is new, in a bounded step; returns a counter that has changed when anything did. Quick enough to poll."""
        return self._reading(lambda _: self._index.changes)

    def follow(self, stopped: Flag) -> None:
        """Keep the catalog up to date until `stopped` is set. Blocks: for a thread of its own, once for each reader.

        Where another process does so already, or the disk does not let it, it waits for its turn. Raises nothing of the disk's.
        """
        Follower(self._folder).run(stopped)

    def progress(self) -> Progress | None:
        """How far the catalog is; None where there is none."""
        return self._reading(lambda _: None if self._now is None else Progress(*self._index.followed()))

    def closed(self) -> list[str]:
        """The segments that are there and that this user may not open: what they hold is in no answer. As of ten seconds ago at most."""
        return self._reading(lambda _: list(self._index.closed()))

    def covered(self) -> dict[str, int]:
        """The segments that the catalog has, each with how many of its records."""
        return self._reading(lambda _: {name: it.records for name in self._index.names() if (it := self._index.trusted(name)) is not None})

    def page(
        self,
        *,
        before: str | None = None,
        limit: int = 50,
        route: str | None = None,
        status: str | int | None = None,
        text: str | None = None,
        session: str | None = None,
        user: str | None = None,
        tag: str | None = None,
    ) -> Page:
        """Exchanges that began before the one named `before`, newest first, at most `limit` (up to 500).

        `route` is a route's name; `status` "2xx", 404 or "none" (no answer); `text` words that an exchange says, as
        `archive.words.query.Query` reads them; `session`, `user` and `tag` are names as an Entry has them. With a filter no more than 2,000
        exchanges are looked at one by one, and after half a second no more than ten: a page may come short, even empty, and still have a
        `next`. Raises BadName for a `before`, `status` or `text` that is none.
        """
        start = None if before is None else _whole_id(before)
        chosen = Chosen.of(route, status, text, session, user, tag)
        return self._reading(lambda files: self._page(start, max(1, min(limit, _MAX_PAGE)), chosen, files))

    def get(self, id: str) -> Exchange:
        """The exchange `id`: a whole id, or a prefix of at least 8 characters that only one exchange has.

        Raises BadName for what is no id, NotFound for what is not there, is ambiguous, or has no readable member.
        """
        digits = _digits(id)
        entry, places = self._reading(lambda files: self._find(digits, files))
        # Outside of the lock: the lines of a large exchange take their time, and whole members do not change.
        with Files(self._folder) as files:
            return _open(entry, places, files, self._limit)

    def events(self) -> list[Event]:
        """What the archive says of itself, oldest first: writers' open, close and gap lines, and damage."""
        return self._reading(self._all_events)

    def _reading(self, work: Callable[[Files], T]) -> T:
        """Do `work` with the index as of now, leaning on the catalog; without it should that turn out to be damaged."""
        with self._lock, Files(self._folder) as files:
            try:
                self._now = self._catalog if self._catalog.begin() else None
                self._index.refresh(catalog=self._now)
                return work(files)
            except sqlite3.Error as error:
                self._catalog.give_up(error)
            finally:
                self._catalog.end()
                self._now = None
            self._index.refresh()
            return work(files)

    def _page(self, start: bytes | None, limit: int, chosen: Chosen, files: Files) -> Page:
        entries: list[Entry] = []
        last = None
        until = self._clock() + _PATIENCE
        search = Search(chosen, self._folder, self._index, self._now)
        with closing(search.candidates(start)) as candidates:
            for looked_at, name in enumerate(candidates):
                late = chosen.narrows and looked_at >= _AT_LEAST and self._clock() > until
                if len(entries) >= limit or looked_at >= _SEARCHED or late:
                    return Page(entries, last)
                last = id_text(name)
                places = self._index.find(name)
                summary = self._summary(name, places, files)
                if summary.parts and chosen.fits(summary) and search.says(name, places, files):
                    entries.append(self._entry(name, places, summary, files))
        return Page(entries, None)

    def _find(self, digits: str, files: Files) -> tuple[Entry, Places]:
        name = self._only(digits)
        places = self._index.find(name)
        summary = self._summary(name, places, files)
        if not summary.parts:
            raise NotFound(f"no exchange {digits} that can be read")
        return self._entry(name, places, summary, files), places

    def _all_events(self, files: Files) -> list[Event]:
        self._forget_gone()
        events = [each for name in list(self._index.names()) for each in self._events_of(name, files)]
        known = {(it.place.segment, it.place.offset) for it in events}
        for place, (member, found) in self._damages.items():
            if place not in known and place[0] in self._index.names() and member == _member(*place, files):
                events.append(found)
        return sorted(events, key=lambda it: (it.place.segment, it.place.offset))

    def _only(self, digits: str) -> bytes:
        if len(digits) == 32:
            name = bytes.fromhex(digits)
            found = {name} if self._index.find(name) else set()
        else:
            found = self._index.matching(bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f")))
        if len(found) != 1:
            raise NotFound(
                f"several exchanges begin with {digits}; give more of its characters" if found else f"no exchange begins with {digits}"
            )
        return found.pop()

    def _summary(self, id: bytes, places: Places, files: Files) -> Summary:
        """What a list shows of the exchange: from the catalog, or from its lines. With `parts` 0 when none of it can be read."""
        row = self._now.row(id) if self._now is not None else None
        if row is not None and row.places == len(places) and self._index.told(places):
            return row.summary
        return self._read_summary(id, places, files)

    def _read_summary(self, id: bytes, places: Places, files: Files) -> Summary:
        """The same from its lines; from memory but for new parts."""
        known, after, summary = self._summaries.get(id, ([], 0, Summary()))
        longer = fold(summary, after, places[len(known) :], files, self._note) if known == places[: len(known)] else None
        summary, after = longer if longer is not None else fold_all(places, files, self._note)
        self._summaries[id] = (list(places), after, summary)
        self._summaries.move_to_end(id)
        if len(self._summaries) > _SUMMARIES:
            self._summaries.popitem(last=False)
        return summary

    def _note(self, name: str, offset: int, error: Exception) -> None:
        if len(self._damages) < _DAMAGES:
            with Files(self._folder) as files:
                self._damages[name, offset] = _member(name, offset, files), damage(Place(name, offset, 0), str(error))

    def _entry(self, id: bytes, places: Places, summary: Summary, files: Files) -> Entry:
        gone = False
        if summary.end is None:
            self._forget_gone()
            for name in reversed(self._index.names()[-_LOOK_BACK:]):
                self._events_of(name, files)
                if name <= places[-1][0] and self._writers.knows(summary.writer):
                    break
            gone = self._writers.gone(summary.writer, last=places[-1])
        return summary.entry(id_text(id), gone=gone)

    def _events_of(self, name: str, files: Files) -> list[Event]:
        """The segment's own events; they are read only when there are others than before."""
        known, events = self._events.get(name, (None, []))
        covered = self._index.trusted(name)
        base = None if covered is None else (covered.key, covered.position, covered.told, covered.chain)
        if known is not None and known[0] == base and not self._index.is_loaded(name):
            return events
        segment = self._index.load(name)
        newest = name == self._index.names()[-1]
        torn = [segment.torn] if segment.torn is not None and not newest else []
        state = (base, segment.turn, len(segment.service), len(segment.damages), len(torn))
        if state != known:
            events = [] if covered is None else self._noted(covered, files)
            events += [damage(Place(name, it.offset, it.length), it.why) for it in [*segment.damages, *torn]]
            events += [_event(Place(name, offset, 0), None, files) for offset in segment.service]
            before, self._events[name] = self._events.get(name), (state, events)
            self._learn(events, whole=before is not None and events[: len(before[1])] != before[1])
        return events

    def _learn(self, events: list[Event], *, whole: bool) -> None:
        """Which writers are at work; `whole`: lines that told of some are gone, so all that is known is gathered anew."""
        if whole:
            self._writers = Writers(host=socket.gethostname(), running=running)
            events = [each for _, known in self._events.values() for each in known]
        self._writers.learn(events)

    def _forget_gone(self) -> None:
        gone = self._events.keys() - set(self._index.names())
        for name in gone:
            del self._events[name]
        if gone:
            self._learn([], whole=True)

    def _noted(self, covered: Covered, files: Files) -> list[Event]:
        """What the catalog has of the segment's events."""
        assert self._now is not None
        return [
            damage(Place(covered.name, it.offset, it.length), it.why)
            if it.why is not None
            else _event(Place(covered.name, it.offset, it.length), it.line, files)
            for it in self._now.notes(covered.key)
        ]


def _event(place: Place, line: bytes | None, files: Files) -> Event:
    """One of the archive's own lines, read from the segment unless it is given."""
    try:
        if line is not None:
            return event(skim.decode(line), place)
        handle = files.open(place.segment)
        return event(skim.skim(handle, place.offset), Place(place.segment, place.offset, handle.lengths(place.offset)[0]))
    except ArchiveError as error:
        return damage(Place(place.segment, place.offset, 0), str(error))


def _member(name: str, offset: int, files: Files) -> object:
    """What lies there, by its header; None when the segment cannot be opened."""
    try:
        return next(files.open(name).scan(offset), None)
    except ArchiveError:
        return None


def _open(entry: Entry, places: Places, files: Files, room: int) -> Exchange:
    read: list[tuple[Json, Place, bytes]] = []
    unread: list[tuple[Place, str]] = []
    for name, offset in places:
        place = Place(name, offset, 0)
        try:
            handle = files.open(name)
            length, size = handle.lengths(offset)
            place = Place(name, offset, length)
            if size <= room:
                room -= size
                line = skim.read_line(handle, offset, limit=size)
                part = skim.decode(line)
            else:
                unread.append((place, f"a line of {size} bytes is too large to be read whole"))
                line, part = b"", skim.skim(handle, offset)
            Summary().fold(part)  # of the schema?
            read.append((part, place, line))
        except ArchiveError as error:
            unread.append((place, str(error)))
    if not read:
        raise NotFound(f"no member of {entry.id} can be read")
    read.sort(key=lambda it: number(it[0]))
    try:
        return assemble(entry, [it[0] for it in read], [it[1] for it in read], [it[2] for it in read], unread)
    except DamagedMember as error:
        raise NotFound(f"{entry.id} is not of this schema") from error


def _digits(id: str) -> str:
    """The hexadecimal digits of an id or a prefix of one, dashes in their places or left out. Raises BadName."""
    text = id.lower()
    digits = text.replace("-", "")
    if not _DIGITS.fullmatch(digits) or text not in {digits, id_text(bytes.fromhex(digits.ljust(32, "0")))[: len(text)]}:
        raise BadName("an id is 32 hexadecimal digits, or the first 8 or more of them")
    return digits


def _whole_id(id: str) -> bytes:
    digits = _digits(id)
    if len(digits) != 32:
        raise BadName("a whole id is needed here")
    return bytes.fromhex(digits)
