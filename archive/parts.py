"""The records of one exchange, read from segments that are opened for one piece of work, a few at a time and within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

from archive import skim
from archive.errors import ArchiveError, DamagedMember
from archive.exchange import Summary
from archive.handle import Handle, open_segment

__all__ = ["Files", "fold", "fold_all", "number", "read", "read_all", "taken_in"]

_OPEN_FILES: Final = 8
_ROOM: Final = 16 << 20
"""Bytes of lines of one exchange that are read whole: decoded they take four times as much memory. Of more, texts beyond 128 KiB are left
out."""

Json = dict[str, Any]
Place = tuple[str, int]
"""A segment's name and an address in it."""
Note = Callable[[str, int, Exception], None]
"""Told of a record that cannot be read: its segment's name, its address, and why."""


class Files:
    """Segments opened for one call, a few at a time. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, Handle] = OrderedDict()

    def open(self, name: str) -> Handle:
        """Raises BadName, NotFound, OSError."""
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
        self._open.clear()


def read(place: Place, files: Files, *, room: int = _ROOM) -> Json:
    """The object of one line; its long texts are empty when it has more than `room` bytes. Raises ArchiveError, OSError."""
    handle = files.open(place[0])
    size = handle.lengths(place[1])[1]
    if size > room:
        return skim.skim(handle, place[1])
    return skim.decode(skim.read_line(handle, place[1], limit=size))


def read_all(places: Sequence[Place], files: Files) -> list[Json]:
    """The objects of one exchange's lines in the order of their parts; what cannot be read is left out. Raises OSError."""
    room = _ROOM
    found = []
    for place in places:
        try:
            size = files.open(place[0]).lengths(place[1])[1]
            found.append(read(place, files, room=room))
            room -= size
        except ArchiveError:
            continue
    return sorted(found, key=number)


def fold(summary: Summary, after: int, places: Sequence[Place], files: Files, note: Note) -> tuple[Summary, int] | None:
    """`summary`, which took in all parts numbered below `after`, and one that took in the parts at `places`, too, with its own `after`.

    None when they are not in order, as parts hardly ever are not; then `fold_all` finds the order first. Holds one line at a time.
    """
    for place in places:
        try:
            part = skim.skim(files.open(place[0]), place[1])
        except ArchiveError as error:
            note(*place, error)
            continue
        if number(part) < after:
            return None
        summary, after = taken_in(summary, part, place, note), number(part) + 1
    return summary, after


def fold_all(places: Sequence[Place], files: Files, note: Note) -> tuple[Summary, int]:
    """All parts of an exchange, wherever they lie, taken in in order; and one more than the highest of their numbers."""
    if (folded := fold(Summary(), 0, places, files, note)) is not None:
        return folded
    numbers = []
    for place in places:
        try:
            numbers.append((number(skim.skim(files.open(place[0]), place[1])), place))
        except ArchiveError as error:
            note(*place, error)
    summary = Summary()
    for _, place in sorted(numbers, key=lambda it: it[0]):
        summary = taken_in(summary, skim.skim(files.open(place[0]), place[1]), place, note)
    return summary, max((it for it, _ in numbers), default=-1) + 1


def taken_in(summary: Summary, part: Json, place: Place, note: Note) -> Summary:
    """A summary with one more part; the same when that is not of the schema."""
    longer = copy(summary)
    try:
        longer.fold(part)
    except DamagedMember as error:
        note(*place, error)
        return summary
    return longer


def number(part: Json) -> int:
    """Its number among the exchange's parts, as the line has it."""
    found = part.get("part")
    return found if isinstance(found, int) else 0
