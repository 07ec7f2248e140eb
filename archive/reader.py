"""The archive, read: lists of exchanges, one exchange whole, and the archive's own events. It never writes a byte.

Every method blocks on the disk and may be called from any thread. Damage is a value (`Event`, `Exchange.unread`); only what a caller
got wrong, or what is not there, is an ArchiveError; a machine out of descriptors or memory shows as the OSError it is. What is being
written while it is read is "not yet", never an error.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Final, Self

from archive import skim
from archive.errors import ArchiveError, BadName, DamagedMember, NotFound
from archive.exchange import Content, Entry, Exchange, Head, Place, Summary, assemble
from archive.handle import Handle, open_segment
from archive.index import DEFAULT_HELD, Index
from archive.record import id_text
from archive.service import Event, Writers, damage, event

__all__ = ["Content", "Entry", "Event", "Exchange", "Head", "Page", "Place", "Reader"]

DEFAULT_LIMIT: Final = 256 << 20
"""Bytes of lines that one exchange may take when it is opened; texts beyond it are left out and said to be unread."""

_MAX_PAGE: Final = 500
_SEARCHED: Final = 2000
"""Exchanges looked at for one filtered page: beyond it the page is handed back as it is, with `next` to go on from."""
_LOOK_BACK: Final = 200
"""Segments searched for the open line of a writer: eight days without a restart."""
_SUMMARIES: Final = 5000
_DAMAGES: Final = 1000
_OPEN_FILES: Final = 8

_DIGITS: Final = re.compile(r"[0-9a-f]{8,32}")
_STATUS: Final = re.compile(r"[1-5]xx|[1-9][0-9]{2}|none")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """Exchanges, newest first; `next` is the `before` of the page that follows, None when there is none."""

    entries: list[Entry]
    next: str | None


class Reader:
    """Reads one folder of segments, also while writers append to it.

    Nothing is kept but an index in memory, made by hopping over members. Only files of the strict segment name are opened, and no
    symbolic links; ids are compared as numbers, so no id can mean a path or a pattern.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT, held: int = DEFAULT_HELD) -> None:
        """`limit` bounds the bytes of lines that `get` reads of one exchange (memory: about three times as much); `held` the members
        whose places are kept in memory."""
        self._folder = folder
        self._limit = limit
        self._lock = RLock()
        self._index = Index(folder, held=held)
        self._summaries: OrderedDict[bytes, tuple[list[tuple[str, int]], Summary]] = OrderedDict()
        self._damages: dict[tuple[str, int], Event] = {}
        """Members that hopping took for whole and that could not be read."""
        self._events: dict[str, tuple[object, list[Event]]] = {}
        self._writers = Writers(host=socket.gethostname(), running=_running)

    def refresh(self) -> int:
        """Look for what is new, in a bounded step; returns a counter that has changed when anything did. Quick enough to poll."""
        with self._lock:
            return self._index.refresh()

    def page(
        self,
        *,
        before: str | None = None,
        limit: int = 50,
        route: str | None = None,
        status: str | int | None = None,
        text: str | None = None,
    ) -> Page:
        """Exchanges that began before the one named `before`, newest first, at most `limit` (up to 500).

        `route` is a route's name; `status` "2xx", 404 or "none" (no answer); `text` is looked for in the lines as they are archived,
        whatever the case of ASCII letters. Filters look at 2,000 exchanges at most: a page may come short, even empty, and still
        have a `next`. Raises BadName for a `before` or `status` that is none.
        """
        start = None if before is None else _whole_id(before)
        fits = _status_filter(status)
        needle = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "backslashreplace").lower() if text else None
        entries: list[Entry] = []
        last = None
        with self._lock, _Files(self._folder) as files:
            self._index.refresh()
            for looked_at, name in enumerate(self._index.walk(start)):
                if len(entries) >= max(1, min(limit, _MAX_PAGE)) or looked_at >= _SEARCHED:
                    return Page(entries, last)
                last = id_text(name)
                places = self._index.find(name)
                summary = self._summary(name, places, files)
                if not summary.parts or not fits(summary.status) or (route is not None and summary.route != route):
                    continue
                if needle is None or _contains(places, needle, files):
                    entries.append(self._entry(name, places, summary, files))
        return Page(entries, None)

    def get(self, id: str) -> Exchange:
        """The exchange `id`: a whole id, or a prefix of at least 8 characters that only one exchange has.

        Raises BadName for what is no id, NotFound for what is not there, is ambiguous, or has no readable member.
        """
        digits = _digits(id)
        with self._lock, _Files(self._folder) as files:
            self._index.refresh()
            name = self._only(digits)
            places = self._index.find(name)
            summary = self._summary(name, places, files)
            if not summary.parts:
                raise NotFound(f"no exchange {digits} that can be read")
            entry = self._entry(name, places, summary, files)
        # Outside of the lock: the lines of a large exchange take their time, and whole members do not change.
        with _Files(self._folder) as files:
            return _open(entry, places, files, self._limit)

    def events(self) -> list[Event]:
        """What the archive says of itself, oldest first: writers' open, close and gap lines, and damage."""
        with self._lock, _Files(self._folder) as files:
            self._index.refresh()
            events = [each for name in list(self._index.names()) for each in self._events_of(name, files)]
            return sorted([*events, *self._damages.values()], key=lambda it: (it.place.segment, it.place.offset))

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

    def _summary(self, id: bytes, places: list[tuple[str, int]], files: _Files) -> Summary:
        """What a list shows of the exchange, from memory but for new parts. With `parts` 0 when none of it can be read."""
        known, summary = self._summaries.get(id, ([], Summary()))
        if known != places[: len(known)]:
            known, summary = [], Summary()
        parts = []
        for name, offset in places[len(known) :]:
            try:
                parts.append((skim.skim(files.open(name), offset), name, offset))
            except ArchiveError as error:
                self._note(name, offset, error)
        for part, name, offset in sorted(parts, key=lambda it: _number(it[0])):
            longer = copy(summary)
            try:
                longer.fold(part)
            except DamagedMember as error:
                self._note(name, offset, error)
            else:
                summary = longer
        self._summaries[id] = (list(places), summary)
        self._summaries.move_to_end(id)
        if len(self._summaries) > _SUMMARIES:
            self._summaries.popitem(last=False)
        return summary

    def _note(self, name: str, offset: int, error: Exception) -> None:
        if len(self._damages) < _DAMAGES:
            self._damages[name, offset] = damage(Place(name, offset, 0), str(error))

    def _entry(self, id: bytes, places: list[tuple[str, int]], summary: Summary, files: _Files) -> Entry:
        gone = False
        if summary.end is None:
            for name in reversed(self._index.names()[-_LOOK_BACK:]):
                self._events_of(name, files)
                if self._writers.knows(summary.writer):
                    break
            gone = self._writers.gone(summary.writer, last=places[-1])
        return summary.entry(id_text(id), gone=gone)

    def _events_of(self, name: str, files: _Files) -> list[Event]:
        """The segment's own events; it is read only when there are others than before."""
        known, events = self._events.get(name, (None, []))
        if known is not None and not self._index.is_loaded(name):
            return events
        segment = self._index.load(name)
        newest = name == self._index.names()[-1]
        torn = [segment.torn] if segment.torn is not None and not newest else []
        state = (segment.identity, len(segment.service), len(segment.damages), len(torn))
        if state != known:
            events = [damage(Place(name, it.offset, it.length), it.why) for it in [*segment.damages, *torn]]
            for offset in segment.service:
                try:
                    handle = files.open(name)
                    events.append(event(skim.skim(handle, offset), Place(name, offset, handle.lengths(offset)[0])))
                except ArchiveError as error:
                    events.append(damage(Place(name, offset, 0), str(error)))
            self._writers.learn(events)
            self._events[name] = (state, events)
        return events


class _Files:
    """Segments opened for one call, a few at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, Handle] = OrderedDict()

    def open(self, name: str) -> Handle:
        """Raises BadName, NotFound."""
        handle = self._open.get(name)
        if handle is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            handle = self._open[name] = open_segment(self._folder, name)
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._open.values():
            handle.close()


def _open(entry: Entry, places: list[tuple[str, int]], files: _Files, room: int) -> Exchange:
    parts: list[tuple[Json, Place, bytes]] = []
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
            parts.append((part, place, line))
        except ArchiveError as error:
            unread.append((place, str(error)))
    if not parts:
        raise NotFound(f"no member of {entry.id} can be read")
    parts.sort(key=lambda it: _number(it[0]))
    try:
        return assemble(entry, [it[0] for it in parts], [it[1] for it in parts], [it[2] for it in parts], unread)
    except DamagedMember as error:
        raise NotFound(f"{entry.id} is not of this schema") from error


def _contains(places: list[tuple[str, int]], needle: bytes, files: _Files) -> bool:
    for name, offset in places:
        try:
            if skim.contains(files.open(name), offset, needle):
                return True
        except ArchiveError:
            continue  # what cannot be read holds nothing that could be found; `events` tells of the damage
    return False


def _number(part: Json) -> int:
    number = part.get("part")
    return number if isinstance(number, int) else 0


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


def _status_filter(status: str | int | None) -> Callable[[int | None], bool]:
    if status is None:
        return lambda _: True
    wanted = str(status).lower()
    if not _STATUS.fullmatch(wanted):
        raise BadName("a status is 404, 4xx, or none")
    if wanted == "none":
        return lambda it: it is None
    return lambda it: it is not None and (str(it) == wanted or f"{it // 100}xx" == wanted)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # there, but not ours
    return True
