"""What to do while the disk refuses, and what was lost or declined meanwhile: small state machines of the writer.

The clock is an argument. Nothing here sleeps, writes, logs or locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

__all__ = ["Declined", "Gap", "Ledger", "Pressure"]

_EXCHANGES: Final = 8192
_REASONS: Final = 8


class Pressure:
    """Whether the disk may be tried now. Pauses at a refusal, for a cool-down; ends the pause at the next success.

    >>> disk = Pressure(cooldown=2.0)
    >>> disk.refused(100.0, "no space")
    >>> disk.may_try(101.9), disk.may_try(102.0)
    (False, True)
    >>> disk.took(104.0)
    Gap(since=100.0, until=104.0, records=0, exchanges=0, bytes=0, why='no space')
    """

    def __init__(self, *, cooldown: float) -> None:
        self._cooldown = cooldown
        self._since: float | None = None
        self._why = ""
        self._again = 0.0

    @property
    def paused(self) -> bool:
        """The last try was refused."""
        return self._since is not None

    @property
    def why(self) -> str:
        """Why it was refused; empty when it was not."""
        return self._why

    def may_try(self, now: float) -> bool:
        """True unless the cool-down is running. A clock that was set back ends it."""
        return self._since is None or not self._again - self._cooldown <= now < self._again

    def wait(self, now: float) -> float:
        """Seconds until the disk may be tried."""
        return 0.0 if self.may_try(now) else self._again - now

    def refused(self, now: float, why: str) -> None:
        """The disk refused, or is too full to be asked: pause, for another cool-down."""
        self._since = now if self._since is None else self._since
        self._why = why
        self._again = now + self._cooldown

    def took(self, now: float) -> Gap | None:
        """The disk took a batch. The pause that is over, when there was one; losses in it are the ledger's to add."""
        if self._since is None:
            return None
        pause = Gap(self._since, max(now, self._since), 0, 0, 0, self._why)
        self._since, self._why = None, ""
        return pause


@dataclass(frozen=True, slots=True)
class Gap:
    """What was lost between two moments (Unix seconds), and why. `records` may be 0: writing paused and nothing was lost."""

    since: float
    until: float
    records: int
    exchanges: int
    """Exchanges that lost a part; exact while no more than 8192 of them lose parts by turns, else a little high."""
    bytes: int
    why: str

    def joined(self, other: Gap | None) -> Gap:
        """Both as one."""
        if other is None:
            return self
        reasons = dict.fromkeys([*self.why.split("; "), *other.why.split("; ")])
        return Gap(
            min(self.since, other.since),
            max(self.until, other.until),
            self.records + other.records,
            self.exchanges + other.exchanges,
            self.bytes + other.bytes,
            "; ".join(reasons),
        )


class Declined:
    """Counts exchanges whose clients wished not to be recorded, until a line tells of them. One thread adds, one takes."""

    def __init__(self) -> None:
        self._added = 0
        self._taken = 0
        self._since = 0.0
        self._until = 0.0
        self._told_at = -inf

    def __bool__(self) -> bool:
        """There are some that no line tells of yet."""
        return self._added > self._taken

    def add(self, exchanges: int, now: float) -> None:
        """So many more."""
        if self._added == self._taken:
            self._since = now
        self._until = now
        self._added += exchanges

    def take(self, now: float, *, every: float) -> tuple[float, float, int] | None:
        """Since when, until when and how many, if there are any and `every` seconds have passed since the last time."""
        if not self or self.patience(now, every=every):
            return None
        added = self._added
        told = (self._since, self._until, added - self._taken)
        self._taken, self._told_at = added, now
        return told

    def patience(self, now: float, *, every: float) -> float:
        """Seconds until there is something to take; infinite where there is nothing to tell."""
        if not self:
            return inf
        passed = now - self._told_at
        return every - passed if 0 <= passed < every else 0.0


class Ledger:
    """Counts what is lost until it can be written down. Memory is bounded however long that takes."""

    def __init__(self) -> None:
        self._since = 0.0
        self._until = 0.0
        self._records = 0
        self._bytes = 0
        self._exchanges = 0
        self._recent: dict[bytes, None] = {}
        self._reasons: dict[str, None] = {}

    def __bool__(self) -> bool:
        """Something was lost that no gap tells of yet."""
        return self._records > 0

    def lost(self, now: float, id: bytes, weight: int, why: str) -> None:
        """One record of exchange `id`, about `weight` bytes, is lost."""
        if not self._records:
            self._since = self._until = now
        self._since = min(self._since, now)
        self._until = max(self._until, now)
        self._records += 1
        self._bytes += weight
        if id in self._recent:
            del self._recent[id]  # and in again at the end: the one heard of longest ago is the first to be forgotten
        else:
            self._exchanges += 1
        self._recent[id] = None
        if len(self._recent) > _EXCHANGES:
            del self._recent[next(iter(self._recent))]
        if len(self._reasons) < _REASONS:
            self._reasons[why] = None

    def gap(self) -> Gap | None:
        """All of it as one gap; None when nothing was lost. A ledger that was written down is let go and a new one begun."""
        if not self._records:
            return None
        return Gap(self._since, self._until, self._records, self._exchanges, self._bytes, "; ".join(self._reasons))
