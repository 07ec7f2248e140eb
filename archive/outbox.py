"""Outbox: members on their way into the segment, and what is done while the disk refuses them.

Keeps a batch until it is in the segment whole, pauses under disk pressure, syncs as often as was promised. Does not make members.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from archive.inbox import Inbox
from archive.pressure import Gap, Pressure
from archive.record import Record
from archive.segment import Appender

__all__ = ["Outbox", "Sync", "words"]

Sync = Literal["1s", "record", "never"]
"""What a written record survives. All three: the death of this process, kill -9 included. "1s": a power loss too, but for the last
second. "record": a power loss, before it is acknowledged. "never": a power loss only by luck (the kernel writes back within about half a
minute)."""

_SYNC_EVERY: Final = 1.0
_SPACE_EVERY: Final = 0.2
"""Seconds between two looks at the free space: less than 200 MiB are written in that time."""


class _Packed(NamedTuple):
    member: bytes
    record: Record | None
    """None for the writer's own lines."""


class Outbox:
    """For the writer's thread; anyone may read the counters. `inbox` is told of records that are done and of pauses."""

    def __init__(
        self,
        folder: Path,
        inbox: Inbox,
        *,
        sync: Sync,
        min_free: int,
        cooldown: float,
        complain: Callable[[str, str], None],
        on_written: Callable[[Sequence[Record]], None] | None,
    ) -> None:
        """`complain(about, words)` warns the operator, now and then; `on_written` hears of records as safe as `sync` promises."""
        self._folder = folder
        self._inbox = inbox
        self._sync: Sync = sync
        self._min_free = min_free
        self._complain = complain
        self._on_written = on_written
        self._appender = Appender(folder, durable=sync != "never")
        self._pressure = Pressure(cooldown=cooldown)
        self._held: list[_Packed] = []
        self._space_at = 0.0
        self._sync_at = float("inf")
        """Monotonic seconds at which to sync next; never while there is nothing to."""
        self.written = 0
        """Records in the archive."""
        self.bytes_written = 0
        self.sync_failures = 0

    def __len__(self) -> int:
        """Members not yet in the segment."""
        return len(self._held)

    @property
    def paused(self) -> bool:
        """The disk refused the last time it was tried."""
        return self._pressure.paused

    @property
    def segment(self) -> str:
        """The file last written to; empty before the first."""
        return self._appender.name

    def recover(self) -> None:
        """Set aside what a crash left in the newest segments."""
        try:
            for each in self._appender.recover():
                self._tell_of(each)
        except OSError as error:
            self._complain("recovery", f"the newest segments could not be checked: {words(error)}")

    def add(self, member: bytes, record: Record | None) -> None:
        """Put a member behind those held; `record` is None for a line of the writer's own."""
        self._held.append(_Packed(member, record))

    def send(self, *, insist: bool = False) -> Gap | None:
        """Append what is held, unless a cool-down is running and nobody insists. The pause that is over now, if one is."""
        now = time.time()
        if not self._held or not (insist or self._pressure.may_try(now)):
            return None
        if (low := self._low_on_space()) is not None:
            self._refused(now, low)
            return None
        appended = self._appender.append([it.member for it in self._held], now)
        written, self._held = self._held[: appended.count], self._held[appended.count :]
        self._tell_of(appended.set_aside)
        self._settle(written)
        if appended.error is not None:
            self._refused(now, words(appended.error))
            return None
        pause = self._pressure.took(now)
        if pause is not None:
            self._inbox.refuse("")
        return pause

    def sync_if_due(self) -> None:
        """Once a second while there is something to sync."""
        if time.monotonic() >= self._sync_at:
            self._sync_now()

    def patience(self) -> float:
        """Seconds until there is something to do here: the disk may be tried again, or a sync is due. May be infinite."""
        until_sync = max(0.0, self._sync_at - time.monotonic())
        return min(until_sync, self._pressure.wait(time.time())) if self._pressure.paused else until_sync

    def finish(self) -> bool:
        """Have all of it on the disk and let go of the files. False: something is left, or may not survive a power loss."""
        failures = self.sync_failures
        if self._sync != "never":
            self._sync_now()
        self._appender.close()
        return not self._held and self.sync_failures == failures

    def abandon(self) -> list[Record]:
        """Give up on what is held: its records."""
        records = [it.record for it in self._held if it.record is not None]
        self._held = []
        return records

    def _settle(self, written: Sequence[_Packed]) -> None:
        if not written:
            return
        records = [it.record for it in written if it.record is not None]
        self.written += len(records)
        self.bytes_written += sum(len(it.member) for it in written)
        for record in records:
            self._inbox.done(record)
        self._inbox.alive()
        if self._sync == "1s":
            self._sync_at = min(self._sync_at, time.monotonic() + _SYNC_EVERY)
        if (self._sync != "record" or self._sync_now()) and self._on_written is not None and records:
            self._on_written(records)

    def _sync_now(self) -> bool:
        self._sync_at = float("inf")
        try:
            self._appender.sync()
        except OSError as error:
            self.sync_failures += 1
            self._complain("sync", f"what was written last may not survive a power loss: {words(error)}")
            return False
        return True

    def _low_on_space(self) -> str | None:
        """Why not to write, when less than `min_free` is left. Looks now and then; a folder that is gone is for the appender to find."""
        now = time.monotonic()
        if not self._min_free or (not self._pressure.paused and now - self._space_at < _SPACE_EVERY):
            return None
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return None
        free = found.f_bavail * found.f_frsize
        if free < self._min_free:
            return f"only {free >> 10} KiB are free and {self._min_free >> 10} are to stay so"
        self._space_at = now
        return None

    def _refused(self, now: float, why: str) -> None:
        self._pressure.refused(now, why)
        self._inbox.refuse(why)
        self._complain("pause", f"writing to {self._folder} is paused: {why}; records wait in memory, and what does not fit is dropped")

    def _tell_of(self, set_aside: Path | None) -> None:
        if set_aside is not None:
            self._complain("torn", f"what a crash left in a segment was set aside in {set_aside}")


def words(error: OSError) -> str:
    """What the system says, without paths."""
    text = error.strerror or type(error).__name__
    name = errno.errorcode.get(error.errno or 0)
    return f"{text} ({name})" if name else text
