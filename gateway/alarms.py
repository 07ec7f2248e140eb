"""When the disk deserves a word: what is free, how the archive grows, what the settings allow. Pure; doctor and caretaker say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from archive.keeping.retention import Hour, Outlook, outlook
from gateway.values import show_bytes, show_size

__all__ = ["Alarm", "Bounds", "growth", "space"]

TIGHT: Final = 4
"""Free space below so many times `min_free` is worth a word: recording pauses at once of it."""
SOON: Final = 14.0
"""Days: a disk that lasts longer is nothing to act upon today."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What is the matter, and what to do. "fail": recording is paused, or about to be."""

    state: Literal["warn", "fail"]
    text: str
    advice: str


def space(free: int, min_free: int) -> Alarm | None:
    """Whether `free` bytes are few; None when they are not."""
    if free < min_free:
        text = f"{show_bytes(free)} free, less than min_free = {show_size(min_free)}: recording pauses"
        return Alarm("fail", text, "make room, or lower min_free; recording goes on by itself")
    if free < min_free * TIGHT:
        return Alarm("warn", f"{show_bytes(free)} free; recording pauses below {show_size(min_free)}", "make room soon")
    return None


class Bounds(NamedTuple):
    """What the settings say of space; 0 sets no bound."""

    min_free: int
    keep_days: int
    keep_bytes: int


def growth(found: Sequence[Hour], free: int, bounds: Bounds, now: float) -> tuple[Outlook, Alarm | None]:
    """How the archive grows, and whether it will soon have filled the disk of which `free` bytes are left."""
    seen = outlook(found, free=max(0, free - bounds.min_free), keep_days=bounds.keep_days, keep_bytes=bounds.keep_bytes, now=now)
    if seen.days is None or seen.days > SOON:
        return seen, None
    text = f"the archive grows by {show_bytes(seen.bytes_a_day)} a day: at this rate the disk is full in {_days(seen.days)}"
    if not (bounds.keep_days or bounds.keep_bytes):
        return seen, Alarm("warn", text, "set keep_days or keep_bytes; `verbatim prune --dry-run` shows what they would remove")
    named = [f"keep_days = {bounds.keep_days}"] if bounds.keep_days else []
    named += [f"keep_bytes = {show_size(bounds.keep_bytes)}"] if bounds.keep_bytes else []
    return seen, Alarm("warn", f"{text}, before {' or '.join(named)} frees enough", "lower keep_days or keep_bytes, or make room")


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 1.5 else f"{max(days * 24, 0):.0f} hours"
