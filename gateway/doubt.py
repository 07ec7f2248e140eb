"""Whether the clock is to be believed when recordings would go by their age: a clock that is far ahead makes all of them old at once.

What the archive holds, and the time that has passed meanwhile, must agree with it. Pure: clocks and hours are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

__all__ = ["Doubt"]

HOUR: Final = 3600.0
DAY: Final = 86_400.0
LEAP: Final = HOUR
"""Seconds by which the clock may get ahead of the time that passed: more is no drift and no leap second."""
PAUSE: Final = 3
"""Days without a recording that are nothing out of the ordinary: a weekend."""
PATIENCE: Final = DAY
"""Seconds after which the clock is believed all the same: recordings must not outlive what was promised, and somebody had time to look."""


class Doubt:
    """One judge for one run of the upkeep, asked in every round."""

    def __init__(self, keep_days: int) -> None:
        self._pause = min(keep_days, PAUSE) * DAY
        self._ahead: float | None = None
        """The clock, less the time that had passed, when it was last believed; None before it ever was."""
        self._known: float | None = None
        """The end of the newest hour that was recorded by a clock that was believed, or before this run."""
        self._since: float | None = None
        """When the doubt began, by the time that passed."""

    def why(self, now: float, passed: float, hours: Sequence[float]) -> str | None:
        """Why nothing must go by its age for now; None when the clock may be believed.

        `now`: the clock, Unix seconds. `passed`: seconds since some moment, whatever anybody does to the clock. `hours`: when the hours
        of the archive began, in Unix seconds. At first the current hour counts for nothing: this run may have written it.
        """
        if self._known is None:
            self._known = max((it + HOUR for it in hours if it + HOUR <= now), default=None)
        steady = self._ahead is not None and now - passed - self._ahead <= LEAP
        if steady or self._known is None or now - self._known <= self._pause or self._waited(passed):
            self._ahead, self._since = now - passed, None
            self._known = max((it + HOUR for it in hours if it <= now), default=self._known)
            return None
        self._since = passed if self._since is None else self._since
        shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"the clock shows {shown}, {(now - self._known) / DAY:.0f} days after the newest recording"

    def _waited(self, passed: float) -> bool:
        return self._since is not None and passed - self._since >= PATIENCE
