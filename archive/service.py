"""The archive's own lines: which writers opened, closed, lost and removed what; and so, whether a writer can still be at work.

Values and one small ledger; no files. The rule for "gone" is in `Writers.gone`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from archive.errors import DamagedMember
from archive.exchange import Place, moment

__all__ = ["Event", "Writers", "damage", "event"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """Something the archive says of itself."""

    kind: Literal["open", "close", "gap", "declined", "forget", "prune", "damage"]
    place: Place
    at: datetime | None = None
    """When; unknown for damage."""
    writer: str = ""
    seq: int | None = None
    detail: Json | None = None
    """The line's own object: version, host and pid; counts; from when to when and why; what was removed. None for damage."""
    why: str = ""
    """What is the matter, for damage."""


def damage(place: Place, why: str) -> Event:
    """Bytes that are no readable member."""
    return Event("damage", place, why=why)


def event(line: Json, place: Place) -> Event:
    """The event of one of the archive's own lines. Raises DamagedMember for any other."""
    kind = line.get("kind")
    if kind not in ("open", "close", "gap", "declined", "forget", "prune") or not isinstance(line.get(kind), dict):
        raise DamagedMember("not a line of the archive's own")
    try:
        return Event(kind, place, moment(line["at"]), str(line["writer"]), int(line["seq"]), line[kind])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedMember("the line is not of this schema") from error


class Writers:
    """What is known of the writers of one folder. `host` is this machine's name; `running` says if a process of it lives."""

    def __init__(self, *, host: str, running: Callable[[int], bool]) -> None:
        self._host = host
        self._running = running
        self._opened: dict[str, tuple[tuple[str, int], object, object]] = {}
        self._closed: set[str] = set()
        self._clerks: set[str] = set()
        """Those that only removed: one of them does not take another's place."""

    def learn(self, events: Iterable[Event]) -> None:
        """Take in events, in any order, each as often as one likes."""
        for each in events:
            if each.kind == "open" and each.detail is not None:
                self._opened[each.writer] = ((each.place.segment, each.place.offset), each.detail.get("host"), each.detail.get("pid"))
            elif each.kind == "close":
                self._closed.add(each.writer)
            elif each.kind in ("forget", "prune"):
                self._clerks.add(each.writer)

    def knows(self, writer: str) -> bool:
        """Whether its open or close line was seen."""
        return writer in self._opened or writer in self._closed

    def gone(self, writer: str, *, last: tuple[str, int]) -> bool:
        """Whether `writer` writes no more, so that an exchange without an end, whose last member lies at `last`, has crashed.

        It is gone when it wrote its close line; when a later writer opened as the same process (host and pid) as it did; when it ran
        on this machine and no process has its pid; when it ran elsewhere, or nobody knows where, and another opened after `last`.
        In doubt it is not gone.
        """
        if writer in self._closed:
            return True
        others = [opened for other, opened in self._opened.items() if other not in self._clerks]
        if writer not in self._opened:
            return any(begun > last for begun, _, _ in others)
        begun, host, pid = self._opened[writer]
        if any(other > begun and (h, p) == (host, pid) for other, h, p in others):
            return True
        if host == self._host and isinstance(pid, int) and pid > 0:
            return not self._running(pid)
        return any(other > last for other, _, _ in others)
