"""Which records lie where: from the catalog as far as it has followed the segments, beyond that learned by hopping over them.

What is hopped over is kept in memory within bounds, newest first, and never written down. It opens segments for reading, refuses
symbolic links, and inflates nothing. Not thread-safe: `archive.reader` holds the lock.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import Final

from archive.catalog.rows import Catalog, Covered
from archive.catalog.tail import HOUR_MS, NOTHING, Segment, State, about, still_there
from archive.errors import ArchiveError, NotFound
from archive.folder import hour_of, segment_name, segments
from archive.handle import may_open, open_segment

__all__ = ["DEFAULT_HELD", "Index", "unique"]

_STEP: Final = 100_000
"""Members hopped over in one step: 0.1 s or so."""
_TRY_AGAIN: Final = 10.0
"""Seconds until the segments that this user may not open are tried again."""
DEFAULT_HELD: Final = 1_000_000
"""Members whose places are kept in memory, about 200 bytes each; the newest segment is kept whatever it holds."""


class Index:
    """All segments of a folder. `changes` counts up whenever anything was found to be new, changed or gone."""

    def __init__(self, folder: Path, *, held: int = DEFAULT_HELD, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._held = held
        self._clock = clock
        self._closed: list[str] = []
        self._closed_at: tuple[list[str], float] | None = None
        self._names: list[str] = []
        self._listing: dict[str, State] = {}
        self._catalog: Catalog | None = None
        self._covered: Mapping[str, Covered] = {}
        self._vouched: dict[str, tuple[Covered, State, int]] = {}
        """What of the catalog was compared with which state of its segment, and where that one's addresses ended."""
        self._trusted: dict[str, Covered] = {}
        self._keys: dict[int, str] = {}
        """Of those trusted, by their number in the catalog."""
        self._tails: list[str] = []
        """Segments that go on beyond what the catalog has of them, oldest first."""
        self._loaded: OrderedDict[str, Segment] = OrderedDict()
        """Of those, by use, the longest unused first."""
        self._seen: set[str] = set()
        """Loaded at least once: what they hold of other hours' exchanges is in `_elsewhere`."""
        self._elsewhere: dict[bytes, list[str]] = {}
        self.changes = 0

    def refresh(self, step: int = _STEP, *, catalog: Catalog | None = None) -> int:
        """Look for new segments and new bytes; hop over at most about `step` members. Returns `changes`.

        `catalog`, begun, answers for what it covers until the next call.
        """
        listing = {path.name: about(path) for path in segments(self._folder)}
        covered = catalog.covered() if catalog is not None else {}
        if listing != self._listing or covered is not self._covered:
            self.changes += listing != self._listing
            self._listing, self._covered = listing, covered
            self._names = list(listing)
            self._lean_on(covered)
        self._catalog = catalog
        names = self._tails
        fresh = names[-1:] if names and names[-1] not in self._loaded else []
        for name in [*fresh, *(it for it in reversed(names) if it in self._loaded and self._changed(it))]:
            if step <= 0:
                break
            step -= self._advance(name, step)
        return self.changes

    def _lean_on(self, covered: Mapping[str, Covered]) -> None:
        """Find out what the catalog can be trusted with, and which segments go on beyond it."""
        before, self._trusted, self._tails = self._trusted, {}, []
        for name, state in self._listing.items():
            known = covered.get(name)
            end = None if known is None else self._vouch(known, state)
            if known is not None and end is not None:
                self._trusted[name] = known
            if known is None or end != known.position:
                self._tails.append(name)
        self._keys = {it.key: name for name, it in self._trusted.items()}
        for name in {*self._seen, *self._loaded}:
            if name not in self._listing or _base(before.get(name)) != _base(self._trusted.get(name)):
                self._loaded.pop(name, None)
                self._seen.discard(name)
        self._vouched = {name: it for name, it in self._vouched.items() if name in self._trusted}

    def _vouch(self, known: Covered, state: State) -> int | None:
        """Where the segment ends, if it still is what the catalog saw; else None."""
        if state[1] != known.inode:
            return None
        vouched, seen, end = self._vouched.get(known.name, (None, NOTHING, 0))
        if vouched != known or seen != state:
            try:
                with open_segment(self._folder, known.name) as handle:
                    if not still_there(handle, known):
                        return None
                    end = handle.end()
            except ArchiveError:
                return None
            self._vouched[known.name] = known, state, end
        return end

    def names(self) -> list[str]:
        """The segments, oldest first, as of the last refresh."""
        return self._names

    def closed(self) -> list[str]:
        """Those segments that this user may not open, oldest first. All are tried, 5 us each, when there are others than before and
        every ten seconds: that they may be read shows in none of their states."""
        now = self._clock()
        if self._closed_at is None or self._closed_at[0] != self._names or now - self._closed_at[1] > _TRY_AGAIN:
            self._closed = [name for name in self._names if not may_open(self._folder, name)]
            self._closed_at = self._names, now
        return self._closed

    def trusted(self, name: str) -> Covered | None:
        """What the catalog has of a segment, where that still holds."""
        return self._trusted.get(name)

    def told(self, places: list[tuple[str, int]]) -> bool:
        """Whether the catalog has read the lines at all these places."""
        return all((known := self._trusted.get(name)) is not None and offset < known.told for name, offset in places)

    def followed(self) -> tuple[int, int]:
        """Bytes of segments whose lines the catalog has read, of how many that can be."""
        known = 0
        closed = set(self.closed())
        for name, it in self._trusted.items():
            end = max(it.position, self._vouched[name][2], 1)
            known += self._listing[name][2] * it.told // end
        return known, sum(state[2] for name, state in self._listing.items() if name not in closed)

    def is_loaded(self, name: str) -> bool:
        """Whether what `load` gives is at hand without reading."""
        return name in self._loaded

    def load(self, name: str) -> Segment:
        """The segment beyond what the catalog has of it, read to its end as of now. One that has gone since is empty."""
        if name not in self._tails and (known := self._trusted.get(name)) is not None:
            return Segment(name, known.position, known.inode)
        while (segment := self._loaded.get(name)) is None or not segment.done:
            self._advance(name, _STEP)
        self._loaded.move_to_end(name)
        self._evict()
        return segment

    def walk(self, before: bytes | None) -> Iterator[bytes]:
        """Ids of exchanges that began before the exchange `before` (None: all), newest first; segments are loaded as they are needed."""
        known = self._catalog.ids(before, self._keys) if self._catalog is not None else iter(())
        return unique(merge(known, self.walk_beyond(before), reverse=True))

    def walk_untold(self, before: bytes | None) -> Iterator[bytes]:
        """The same, but only those with a record whose line the catalog has not read."""
        untold = self._catalog.untold(before, self._trusted.values()) if self._catalog is not None else iter(())
        return unique(merge(untold, self.walk_beyond(before), reverse=True))

    def walk_beyond(self, before: bytes | None) -> Iterator[bytes]:
        """The same, but only those with a record that is not in the catalog.

        A member is written after its exchange began. So once the segments from hour H on are known, all exchanges begun in or after
        H are known, and can be told in order.
        """
        upper = before
        carried: list[bytes] = []
        for name in reversed(list(self._tails)):
            segment = self.load(name)
            order = segment.order()
            floor = (segment.hour * HOUR_MS).to_bytes(6, "big")
            high = len(order) if upper is None else bisect_left(order, upper)
            low = min(bisect_left(order, floor), high)
            known = order[low:high]  # a copy: the caller may take its time, and the segment may grow meanwhile
            older = {*order[:low], *(it for it in carried if it < floor)}
            yield from unique(merge((it for it in carried if it >= floor), reversed(known), reverse=True))
            carried = sorted(older, reverse=True)
            upper = floor if upper is None else min(upper, floor)
        yield from carried

    def find(self, id: bytes) -> list[tuple[str, int]]:
        """(segment, offset) of every member of the exchange, oldest first; empty when there is none."""
        known = self._catalog.places(id) if self._catalog is not None else []
        found = {(self._keys[key], offset) for key, offset in known if key in self._keys}
        for names in self._since(_own_hour(id)):
            self._see(names)
            found.update(self._beyond(id))
            if found:
                break
        return sorted(found)

    def matching(self, low: bytes, high: bytes) -> set[bytes]:
        """Ids from `low` to `high`, both included: none, the one there is, or two or more where there are several."""
        first, last = _own_hour(low), _own_hour(high)
        known = self._catalog.between(low, high, self._keys) if self._catalog is not None else iter(())
        found = set(islice(known, 2))
        for names in self._since(first):
            self._see(names)
            found.update(islice((it for it in self._elsewhere if low <= it <= high and self._beyond(it)), 2))
            for name in self._tails:
                if (first is None or hour_of(name) >= first) and (last is None or hour_of(name) <= last):
                    order = self.load(name).order()
                    at = bisect_left(order, low)
                    found.update(it for it in order[at : at + 2] if it <= high)
            if found:
                break
        return found

    def _since(self, own: str | None) -> Iterator[list[str]]:
        """Where to look for an exchange: first in the segments since the hour it claims to be of, then, unlikely, in the older ones."""
        begins = bisect_left(self._tails, own) if own is not None else 0
        yield self._tails[begins:]
        yield self._tails[:begins]

    def _beyond(self, id: bytes) -> list[tuple[str, int]]:
        hours = {*self._elsewhere.get(id, ()), _own_hour(id)}
        return [(name, offset) for name in self._tails if hour_of(name) in hours for offset in self.load(name).offsets(id)]

    def _see(self, names: list[str]) -> None:
        for name in reversed(names):
            if name not in self._seen:
                self.load(name)

    def _changed(self, name: str) -> bool:
        segment = self._loaded[name]
        return not segment.done or segment.state != self._listing[name]

    def _advance(self, name: str, budget: int) -> int:
        segment = self._loaded.get(name)
        if segment is None:
            segment = self._loaded[name] = Segment(name, *_base(self._trusted.get(name)))

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
            hopped = 0
        else:
            with handle:
                hopped = segment.advance(handle, self._listing.get(name, NOTHING), budget, elsewhere)
        if segment.done:
            self._seen.add(name)
        if before != (segment.end, segment.identity, segment.torn):
            self.changes += 1
        return hopped

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


def unique(ids: Iterator[bytes]) -> Iterator[bytes]:
    """Sorted ids, each once."""
    last = None
    for each in ids:
        if each != last:
            last = each
            yield each


def _base(known: Covered | None) -> tuple[int, int]:
    return (0, 0) if known is None else (known.position, known.inode)


def _own_hour(id: bytes) -> str | None:
    """The hour in which a UUIDv7 was made; None for an id whose time is beyond the calendar."""
    return _name_of_hour(int.from_bytes(id[:6], "big") // HOUR_MS)


@lru_cache(maxsize=1024)
def _name_of_hour(hour: int) -> str | None:
    try:
        return hour_of(segment_name(hour * 3600))
    except (ValueError, OverflowError, OSError):
        return None
