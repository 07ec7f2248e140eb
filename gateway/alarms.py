"""When the disk deserves a word: what is free, how the archive grows, what the settings allow. Pure; doctor and caretaker say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from archive.keep import Outlook
from gateway.settings import Settings
from gateway.values import show_bytes, show_size

__all__ = ["Alarm", "growth", "space"]

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


def growth(seen: Outlook, settings: Settings) -> Alarm | None:
    """Whether the archive will soon have filled the disk; None when it will not."""
    if seen.days is None or seen.days > SOON:
        return None
    when = f"the archive grows by {show_bytes(seen.bytes_a_day)} a day: at this rate the disk is full in {_days(seen.days)}"
    if not (settings.keep_days or settings.keep_bytes):
        return Alarm("warn", when, "set keep_days or keep_bytes; `verbatim prune --dry-run` shows what they would remove")
    bounds = [f"keep_days = {settings.keep_days}"] if settings.keep_days else []
    bounds += [f"keep_bytes = {show_size(settings.keep_bytes)}"] if settings.keep_bytes else []
    return Alarm("warn", f"{when}, before {' or '.join(bounds)} frees enough", "lower keep_days or keep_bytes, or make room")


def _days(days: float) -> str:
    return f"{days:.0f} days" if days >= 1.5 else f"{max(days * 24, 0):.0f} hours"
