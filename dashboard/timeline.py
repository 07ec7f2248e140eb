"""Where an exchange's time went, as the geometry of a small drawing. Pure: numbers in, numbers out; a template draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["WIDTH", "Bar", "Tick", "bar"]

WIDTH = 1000
"""The drawing's own units across; a stylesheet says how wide that is on the page."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Something that arrived: `x` in the drawing, `side` a websocket message's sender, else ""."""

    x: int
    side: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """`first`: where the first byte of the answer lies, None without one. `end`: where the exchange's last known moment lies."""

    first: int | None
    end: int
    ticks: tuple[Tick, ...]
    span_ms: float


def bar(ttfb_ms: float | None, duration_ms: float | None, marks: Sequence[tuple[float, str]]) -> Bar | None:
    """A drawing of the whole exchange; `marks` are (ms, side). While it runs, its end is the last known moment. None: no time is known."""
    known = [ms for ms in (ttfb_ms, duration_ms, marks[-1][0] if marks else None) if ms is not None]
    span = max(known, default=0.0)
    if span <= 0:
        return None

    def x(ms: float) -> int:
        return min(WIDTH, max(0, round(ms / span * WIDTH)))

    ticks = dict.fromkeys(Tick(x(ms), side) for ms, side in marks)  # at most one for each unit and side, however many chunks came
    return Bar(first=None if ttfb_ms is None else x(ttfb_ms), end=x(duration_ms or span), ticks=tuple(ticks), span_ms=span)
