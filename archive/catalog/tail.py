"""One segment beyond what the catalog has of it: its members by exchange, hopped over step by step and kept in memory.

And how to tell that a segment is still the one that was looked at before. Inflates nothing; not thread-safe.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final

from archive.catalog.rows import Covered
from archive.folder import hour_of
from archive.handle import Handle
from archive.line import SERVICE_PART
from archive.member import Damage, Found, Tag

__all__ = ["HOUR_MS", "NOTHING", "Segment", "State", "about", "still_there", "tag_bytes"]

HOUR_MS: Final = 3_600_000
_TAG: Final = struct.Struct("<Q16sIQ")

State = tuple[int, int, int, int]
"""What a file's status says of it: device, inode, size, and when it was last changed, in nanoseconds."""
NOTHING: Final = (0, 0, 0, 0)
"""The state of what is not there."""
_turns = count()


def tag_bytes(tag: Tag) -> bytes:
    """What a header says, to be compared."""
    return _TAG.pack(tag.length, tag.id, tag.part, tag.seq)


def about(path: Path) -> State:
    """The file's state; zeros when it is gone."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return NOTHING
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def still_there(handle: Handle, covered: Covered) -> bool:
    """Whether the segment still has the record that the catalog saw last, and so what lies before it: its header holds a random id and a
    running number. Not so when the file was cut back and has grown again, or is another one under the same inode.
    """
    if handle.end() < covered.position:
        return False
    last = next(handle.scan(covered.last), None) if covered.last >= 0 else None
    return covered.last < 0 or (isinstance(last, Found) and last.offset == covered.last and tag_bytes(last.tag) == covered.tag)


class Segment:
    """One segment's members by exchange, learned step by step from `base` on."""

    __slots__ = (
        *("_base", "_inode", "_last", "_order", "_unsorted", "damages", "done", "end", "hour", "identity", "ids", "members", "name"),
        *("service", "state", "torn", "turn"),
    )

    def __init__(self, name: str, base: int = 0, inode: int = 0) -> None:
        """`base` is where to begin, as long as the file is the one with this `inode`."""
        self.name = name
        self.hour = _hour_of_name(name)
        self._base, self._inode = base, inode
        self.begin((0, inode))

    def begin(self, identity: tuple[int, int]) -> None:
        """Forget all: the file is another one, or was cut back behind where we are."""
        self.identity = identity
        self.turn = next(_turns)
        """Another one each time it begins."""
        self.state = NOTHING
        """What the file was like when it was last read to the end."""
        self.end = self._base if identity[1] == self._inode else 0
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
        self._last: Found | None = None
        self._order: list[bytes] = []
        self._unsorted = False

    def advance(self, handle: Handle, state: State, budget: int, elsewhere: Callable[[bytes], None]) -> int:
        """Hop over up to `budget` more members of the file that was in `state` a moment ago; returns how many. `elsewhere` is told each id
        that did not begin in this hour."""
        if self.done and state == self.state:
            return 0
        if handle.identity() != self.identity or handle.end() < self.end or not self._goes_on(handle):
            self.begin(handle.identity())
        self.torn = None
        hopped = 0
        damages: list[Damage] = []
        for each in handle.scan(self.end):
            if isinstance(each, Found):
                self.damages += damages  # with no record behind it, damage may yet become one, or be cut off
                damages.clear()
                self._take(each, elsewhere)
                hopped += 1
                if hopped == budget:
                    return hopped
            elif each.torn:
                self.torn = each
            else:
                damages.append(each)
        self.state = state
        self.done = True
        return hopped

    def _goes_on(self, handle: Handle) -> bool:
        """Whether the last record is still there: else the file was cut back and has grown again, or is another under the same inode."""
        return self._last is None or next(handle.scan(self._last.offset), None) == self._last

    def _take(self, found: Found, elsewhere: Callable[[bytes], None]) -> None:
        offset, tag = found
        self._last = found
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
            if int.from_bytes(name[:6], "big") // HOUR_MS != self.hour:
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


def _hour_of_name(name: str) -> int:
    begin = datetime.strptime(hour_of(name), "%Y-%m-%dT%H").replace(tzinfo=UTC)
    return int(begin.timestamp()) // 3600
