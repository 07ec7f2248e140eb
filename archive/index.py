"""Which members lie where: learned by hopping over segments, newest first, kept in memory within bounds, never written down.

It opens segments for reading, refuses symbolic links, and inflates nothing. Not thread-safe: `archive.reader` holds the lock.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Final

from archive.errors import NotFound
from archive.folder import PLAIN, hour_of, segment_name, segments
from archive.handle import Handle, open_segment
from archive.line import SERVICE_PART
from archive.member import Damage, Found

__all__ = ["DEFAULT_HELD", "Index", "Segment"]

_HOUR_MS: Final = 3_600_000
_STEP: Final = 100_000
"""Members hopped over in one step: 0.1 s or so."""
DEFAULT_HELD: Final = 1_000_000
"""Members whose places are kept in memory, about 200 bytes each; the newest segment is kept whatever it holds."""


class Segment:
    """One segment's members by exchange, learned step by step."""

    __slots__ = ("_order", "_unsorted", "damages", "done", "end", "hour", "identity", "ids", "members", "name", "service", "size", "torn")

    def __init__(self, name: str) -> None:
        self.name = name
        self.hour = _hour_of_name(name)
        self.begin((0, 0))

    def begin(self, identity: tuple[int, int]) -> None:
        """Forget all: the file is another one, or was cut back behind where we are."""
        self.identity = identity
        self.size = 0
        """Where it ended when it was last read to the end."""
        self.end = 0
        """Where to hop on from: the end of the last whole member."""
        self.done = False
        """The end was reached at least once."""
        self.members = 0
        self.ids: dict[bytes, int | list[int]] = {}
        """Offsets of each exchange's members; a list only where there are several."""
        self.service: list[int] = []
        self.damages: list[Damage] = []
        self.torn: Damage | None = None
        """The end is no whole member: being written just now, or left by a crash."""
        self._order: list[bytes] = []
        self._unsorted = False

    def advance(self, handle: Handle, budget: int, elsewhere: Callable[[bytes], None]) -> int:
        """Hop over up to `budget` more members; returns how many. `elsewhere` is told each id that did not begin in this hour."""
        identity, size = handle.identity(), handle.end()
        if identity != self.identity or size < self.end:
            self.begin(identity)
        if self.done and size == self.size:
            return 0
        self.torn = None
        count = 0
        for each in handle.scan(self.end):
            if isinstance(each, Found):
                self._take(each, elsewhere)
                count += 1
                if count == budget:
                    return count
            elif each.torn:
                self.torn = each
            else:
                self.damages.append(each)
                self.end = each.offset + each.length
        self.size = size
        self.done = True
        return count

    def _take(self, found: Found, elsewhere: Callable[[bytes], None]) -> None:
        offset, tag = found
        self.end = offset + tag.length
        self.members += 1
        if tag.part == SERVICE_PART:
            self.service.append(offset)
            return
        name = tag.id
        known = self.ids.get(name)
        if known is None:
            self.ids[name] = offset
            self._unsorted = self._unsorted or (bool(self._order) and name < self._order[-1])
            self._order.append(name)
            if int.from_bytes(name[:6], "big") // _HOUR_MS != self.hour:
                elsewhere(name)
        elif isinstance(known, list):
            known.append(offset)
        else:
            self.ids[name] = [known, offset]

    def offsets(self, id: bytes) -> list[int]:
        known = self.ids.get(id)
        return [] if known is None else known if isinstance(known, list) else [known]

    def order(self) -> list[bytes]:
        """The ids it holds, ascending: time-ordered ids make this the order in which exchanges began."""
        if self._unsorted:
            self._order.sort()
            self._unsorted = False
        return self._order


class Index:
    """All segments of a folder. `changes` counts up whenever anything was found to be new, changed or gone."""

    def __init__(self, folder: Path, *, held: int = DEFAULT_HELD) -> None:
        self._folder = folder
        self._held = held
        self._names: list[str] = []
        self._loaded: OrderedDict[str, Segment] = OrderedDict()
        """By use, the longest unused first."""
        self._seen: set[str] = set()
        """Loaded at least once: what they hold of other hours' exchanges is in `_elsewhere`."""
        self._elsewhere: dict[bytes, list[str]] = {}
        self.changes = 0

    def refresh(self, step: int = _STEP) -> int:
        """Look for new segments and new bytes; hop over at most about `step` members. Returns `changes`."""
        names = [path.name for path in segments(self._folder)]
        if names != self._names:
            self.changes += 1
            for gone in set(self._names) - set(names):
                self._loaded.pop(gone, None)
                self._seen.discard(gone)
            self._names = names
        fresh = names[-1:] if names and names[-1] not in self._loaded else []
        for name in [*fresh, *(it for it in reversed(names) if it in self._loaded and self._changed(it))]:
            if step <= 0:
                break
            step -= self._advance(name, step)
        return self.changes

    def names(self) -> list[str]:
        """The segments, oldest first, as of the last refresh."""
        return self._names

    def is_loaded(self, name: str) -> bool:
        """Whether what `load` gives is at hand without reading."""
        return name in self._loaded

    def load(self, name: str) -> Segment:
        """The segment, read to its end as of now. One that has gone since is empty."""
        while (segment := self._loaded.get(name)) is None or not segment.done:
            self._advance(name, _STEP)
        self._loaded.move_to_end(name)
        self._evict()
        return segment

    def walk(self, before: bytes | None) -> Iterator[bytes]:
        """Ids of exchanges that began before the exchange `before` (None: all), newest first; segments are loaded as they are needed.

        A member is written after its exchange began. So once the segments from hour H on are known, all exchanges begun in or after
        H are known, and can be told in order.
        """
        upper = before
        carried: list[bytes] = []
        for name in reversed(list(self._names)):
            segment = self.load(name)
            order = segment.order()
            floor = (segment.hour * _HOUR_MS).to_bytes(6, "big")
            high = len(order) if upper is None else bisect_left(order, upper)
            low = min(bisect_left(order, floor), high)
            known = order[low:high]  # a copy: the caller may take its time, and the segment may grow meanwhile
            older = {*order[:low], *(it for it in carried if it < floor)}
            last = None
            for each in merge((it for it in carried if it >= floor), reversed(known), reverse=True):
                if each != last:
                    last = each
                    yield each
            carried = sorted(older, reverse=True)
            upper = floor if upper is None else min(upper, floor)
        yield from carried

    def find(self, id: bytes) -> list[tuple[str, int]]:
        """(segment, offset) of every member of the exchange, oldest first; empty when there is none."""
        for names in self._since(_own_hour(id)):
            self._see(names)
            if found := self._places(id):
                return found
        return []

    def matching(self, low: bytes, high: bytes) -> set[bytes]:
        """Ids from `low` to `high`, both included: none, the one there is, or two or more where there are several."""
        first, last = _own_hour(low), _own_hour(high)
        found: set[bytes] = set()
        for names in self._since(first):
            self._see(names)
            found.update(islice((it for it in self._elsewhere if low <= it <= high and self._places(it)), 2))
            for name in self._names:
                if (first is None or hour_of(name) >= first) and (last is None or hour_of(name) <= last):
                    order = self.load(name).order()
                    at = bisect_left(order, low)
                    found.update(it for it in order[at : at + 2] if it <= high)
            if found:
                break
        return found

    def _since(self, own: str | None) -> Iterator[list[str]]:
        """Where to look for an exchange: first in the segments since the hour it claims to be of, then, unlikely, in the older ones."""
        begins = bisect_left(self._names, own) if own is not None else 0
        yield self._names[begins:]
        yield self._names[:begins]

    def _places(self, id: bytes) -> list[tuple[str, int]]:
        hours = {*self._elsewhere.get(id, ()), _own_hour(id)}
        return [(name, offset) for name in self._names if hour_of(name) in hours for offset in self.load(name).offsets(id)]

    def _see(self, names: list[str]) -> None:
        for name in reversed(names):
            if name not in self._seen:
                self.load(name)

    def _changed(self, name: str) -> bool:
        segment = self._loaded[name]
        try:
            about = os.stat(self._folder / name, follow_symlinks=False)
        except OSError:
            return True
        grown = name.endswith(PLAIN) and about.st_size != segment.size
        return not segment.done or (about.st_dev, about.st_ino) != segment.identity or grown

    def _advance(self, name: str, budget: int) -> int:
        segment = self._loaded.get(name)
        if segment is None:
            segment = self._loaded[name] = Segment(name)

        def elsewhere(id: bytes) -> None:
            hours = self._elsewhere.setdefault(id, [])
            if hour_of(name) not in hours:
                hours.append(hour_of(name))

        before = (segment.end, segment.identity, segment.torn)
        try:
            handle = open_segment(self._folder, name)
        except NotFound:
            segment.begin((0, 0))
            segment.done = True
            count = 0
        else:
            with handle:
                count = segment.advance(handle, budget, elsewhere)
        if segment.done:
            self._seen.add(name)
        if before != (segment.end, segment.identity, segment.torn):
            self.changes += 1
        return count

    def held(self) -> int:
        """Members whose places are in memory."""
        return sum(segment.members for segment in self._loaded.values())

    def _evict(self) -> None:
        held = self.held()
        newest = self._names[-1] if self._names else ""
        for name in list(self._loaded)[:-1]:
            if held <= self._held:
                break
            if name != newest:
                held -= self._loaded.pop(name).members


def _hour_of_name(name: str) -> int:
    begin = datetime.strptime(hour_of(name), "%Y-%m-%dT%H").replace(tzinfo=UTC)
    return int(begin.timestamp()) // 3600


def _own_hour(id: bytes) -> str | None:
    """The hour in which a UUIDv7 was made; None for an id whose time is beyond the calendar."""
    return _name_of_hour(int.from_bytes(id[:6], "big") // _HOUR_MS)


@lru_cache(maxsize=1024)
def _name_of_hour(hour: int) -> str | None:
    try:
        return hour_of(segment_name(hour * 3600))
    except (ValueError, OverflowError, OSError):
        return None
