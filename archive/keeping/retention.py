"""Retention: which hours are beyond their time or the space allowed, as a plan to be shown first; and how soon the disk will be full.

Whole hours go, the oldest first, never the current one. Removes nothing: that is `archive.keeping.prune`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from archive.errors import ArchiveError
from archive.folder import PACKED, SEGMENT_NAME, hour_of, is_hour, plain_name, seal_path, segment_name
from archive.handle import Handle, open_segment
from archive.member import Found

__all__ = ["Doomed", "Hour", "Outlook", "Plan", "began", "choose", "hours", "open_hour", "outlook", "plan"]

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0
_RECENT: Final = 3
"""Days whose growth is taken for the days to come."""


@dataclass(frozen=True, slots=True)
class Hour:
    """One hour of the archive, and the bytes of its files: the segment in either form, and its seal."""

    hour: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Doomed:
    """An hour that goes."""

    hour: str
    bytes: int
    records: int
    """Its lines, the writers' own included."""
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What would go, oldest first, and what stays."""

    doomed: list[Doomed]
    hours_left: int
    bytes_left: int
    over: int
    """Bytes by which the current hour alone is beyond the space allowed: it never goes."""

    @property
    def bytes(self) -> int:
        """What would be freed."""
        return sum(each.bytes for each in self.doomed)

    @property
    def records(self) -> int:
        """How many records would go."""
        return sum(each.records for each in self.doomed)


def began(hour: str) -> float:
    """Unix seconds at which an hour such as "2026-11-20T10" begins."""
    return datetime.strptime(hour, "%Y-%m-%dT%H").replace(tzinfo=UTC).timestamp()


def hours(folder: Path) -> list[Hour]:
    """The hours in `folder`, oldest first. No folder: none. Blocks on the disk."""
    sizes: dict[str, int] = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            hour = hour_of(entry.name)
            ours = SEGMENT_NAME.fullmatch(entry.name) or (entry.name == seal_path(folder, hour).name and is_hour(hour))
            if ours and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    sizes[hour] = sizes.get(hour, 0) + entry.stat(follow_symlinks=False).st_size
    return [Hour(hour, sizes[hour]) for hour in sorted(sizes)]


def choose(found: Sequence[Hour], *, keep_days: int, keep_bytes: int, now: float) -> list[tuple[Hour, str]]:
    """Which of the hours, oldest first, go, and why; 0 sets no bound. An hour's age counts from its end. The hour of `now` and what is
    later stays.
    """
    current = hour_of(segment_name(now))
    total = sum(each.bytes for each in found)
    doomed = []
    for each in found:
        if each.hour >= current:
            break
        if keep_days and began(each.hour) + _HOUR <= now - keep_days * _DAY:
            doomed.append((each, f"older than {keep_days} day{'s' * (keep_days > 1)}"))
        elif keep_bytes and total > keep_bytes:
            doomed.append((each, f"beyond {_written(keep_bytes)}"))
        else:
            break
        total -= each.bytes
    return doomed


def _written(size: int) -> str:
    """As people write it: it stays in the archive."""
    for unit, factor in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size:,} byte{'s' * (size != 1)}"


def plan(folder: Path, *, keep_days: int, keep_bytes: int, now: float) -> Plan:
    """What would go by these bounds. Blocks: it counts the records of what goes, 100,000 in 0.1 s."""
    found = hours(folder)
    chosen = choose(found, keep_days=keep_days, keep_bytes=keep_bytes, now=now)
    doomed = [Doomed(hour.hour, hour.bytes, _count(folder, hour.hour), why) for hour, why in chosen]
    left = found[len(chosen) :]
    total = sum(each.bytes for each in left)
    return Plan(doomed, len(left), total, max(0, total - keep_bytes) if keep_bytes else 0)


def open_hour(folder: Path, hour: str) -> Handle:
    """That hour's segment, in whichever form. Raises NotFound, OSError."""
    plain = plain_name(hour)
    return open_segment(folder, plain if os.path.lexists(folder / plain) else hour + PACKED)


def _count(folder: Path, hour: str) -> int:
    with contextlib.suppress(ArchiveError), open_hour(folder, hour) as handle:
        return sum(isinstance(each, Found) for each in handle.scan())
    return 0


@dataclass(frozen=True, slots=True)
class Outlook:
    """How the archive grows, and when the disk will be full of it."""

    bytes_a_day: float
    """Over the last days, today included."""
    days: float | None
    """Until the space runs out; None when the bounds set see to it that it does not, or when nothing grows."""


def outlook(found: Sequence[Hour], *, free: int, keep_days: int, keep_bytes: int, now: float) -> Outlook:
    """What becomes of `free` bytes if it goes on as in the last three days. An archive younger than that is taken at its own pace, but
    for at least an hour.
    """
    since = now - _RECENT * _DAY
    recent = [each for each in found if since < began(each.hour) + _HOUR and began(each.hour) <= now]
    if not recent:
        return Outlook(0.0, None)
    pace = sum(each.bytes for each in recent) / max(now - max(began(found[0].hour), since), _HOUR) * _DAY
    if pace <= 0:
        return Outlook(0.0, None)
    total = sum(each.bytes for each in found)
    bounds = [float("inf")]
    if keep_days:
        bounds.append(pace * keep_days - total)
    if keep_bytes:
        bounds.append(keep_bytes - total)
    return Outlook(pace, free / pace if min(bounds) > free else None)
