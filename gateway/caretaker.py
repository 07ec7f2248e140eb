"""The caretaker: a process beside the gateway that looks after the archive: finishes what a crash cut short, seals, packs, keeps within
bounds, watches the disk. Started by `verbatim serve`, ends with it. Never in the way of recording: it only takes the locks of closed hours.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from archive.errors import ArchiveError, NotFound
from archive.folder import PACKED, hour_of, segments
from archive.keeping import forget, prune, retention, upkeep
from archive.keeping.clerk import Removals, alone, user
from archive.keeping.pack import Refused, pack
from archive.proof.keys import Key, load_key
from archive.proof.seal import closed_hours, seal_hour, sealed_hours
from gateway import __version__, alarms, logs
from gateway.alarms import Bounds
from gateway.doubt import Doubt
from gateway.values import show_bytes

__all__ = ["Caretaker", "Duties", "main"]

log = logging.getLogger("verbatim.caretaker")

EVERY: Final = 60.0
"""Seconds between two rounds: an hour is sealed within three minutes of its end, and a look around costs a few milliseconds."""
SAY_EVERY: Final = 3600.0
"""Seconds between two log lines about the same trouble."""
SAY_DAILY: Final = 86_400.0
"""A disk that will be full in days, or a clock that is doubted, is worth one line a day."""
CLOCK_ADVICE: Final = "if that is wrong, set the clock; if not, `verbatim prune` removes what is too old, or the gateway does in a day"
LOOK_AROUND: Final = 0.5
"""Seconds between two looks whether to stop."""
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Duties:
    """What of the settings the caretaker goes by; a setting of 0 is off."""

    archive: Path
    min_free: int = 0
    keep_days: int = 0
    keep_bytes: int = 0
    pack_after_days: int = 0
    seal: bool = True
    seal_key: Path | None = None


def _passed() -> float:
    """Seconds that passed, those in which the machine slept included where it counts them: on Linux. Elsewhere sleep looks like a leap."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Caretaker:
    """Looks after one folder, a round at a time. `clock` gives Unix seconds, `passed` those since some moment, whoever sets the
    clock; `stopping` is asked between two steps that are safe apart."""

    def __init__(
        self,
        duties: Duties,
        *,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = _passed,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._duties = duties
        self._folder = duties.archive
        self._clock = clock
        self._passed = passed
        self._stopping = stopping
        self._doubt = Doubt(duties.keep_days)
        self._removals = Removals(duties.archive)
        self._said: dict[str, float] = {}

    def round(self) -> None:
        """Everything that is due now. Blocks: a second for 300 MB of lines to be sealed or packed. Raises nothing: what fails is said in
        the log once an hour, and tried again in the next round; the rest is done all the same.
        """
        for duty in (self._tidy, self._seal, self._prune, self._pack, self._watch):
            if self._stopping() or not self._folder.is_dir():
                return
            name = duty.__name__.strip("_")
            try:
                duty()
            except ArchiveError as error:
                self._say(name, f"the archive's upkeep ({name}) failed: {error}")
            except OSError as error:
                self._say(name, f"the archive's upkeep ({name}) failed: {error.strerror or type(error).__name__}")
            except Exception as error:  # a bug of ours in one duty must not end the others
                self._say(name, f"the archive's upkeep ({name}) stumbled: {type(error).__name__}", logging.ERROR)

    def _tidy(self) -> None:
        with alone(self._folder):
            done = upkeep.finish(self._folder, self._removals, version=__version__, clock=self._clock)
            swept = upkeep.sweep(self._folder)
        if done:
            log.warning("%d removals that had been cut short were finished", done)
        if swept:
            log.info("removed what a crash left half made: %s", ", ".join(swept[:5]))

    def _seal(self) -> None:
        if not self._duties.seal:
            return
        key = self._key()
        for hour in closed_hours(self._folder, self._clock()):
            if self._stopping():
                return
            try:
                with alone(self._folder):
                    seal = seal_hour(self._folder, hour, key=key, now=self._clock(), version=__version__)
            except NotFound as error:  # an empty hour must not keep those after it from their seals
                log.warning("not sealed %s: %s", hour, error)
                continue
            log.info("sealed %s: %d records", hour, seal.records)

    def _key(self) -> Key | None:
        return None if self._duties.seal_key is None else load_key(self._duties.seal_key)

    def _prune(self) -> None:
        bounds = {"keep_days": self._duties.keep_days, "keep_bytes": self._duties.keep_bytes}
        if not any(bounds.values()):
            return
        if self._duties.keep_days and (why := self._doubt.why(self._clock(), self._passed(), self._hours())):
            self._say("clock", f"keep_days removes nothing for now: {why}; {CLOCK_ADVICE}", every=SAY_DAILY)
            bounds["keep_days"] = 0
        with alone(self._folder):
            plan = retention.plan(self._folder, now=self._clock(), **bounds)
            freed = prune.carry_out(self._folder, plan.doomed, by=user(), version=__version__, clock=self._clock, stopping=self._stopping)
        if freed:
            log.info("removed hours up to %s to keep within bounds: %s", plan.doomed[-1].hour, show_bytes(freed))
        if plan.over:
            self._say("over", f"the current hour alone is {show_bytes(plan.over)} beyond keep_bytes")

    def _hours(self) -> list[float]:
        return [retention.began(each.hour) for each in retention.hours(self._folder)]

    def _pack(self) -> None:
        for hour in self._to_pack():
            if self._stopping():
                return
            with alone(self._folder):
                gone = forget.forgotten(self._folder, hour, self._removals)
                done = pack(self._folder, hour, forgotten=gone, keep_free=self._duties.min_free)
            if isinstance(done, Refused):
                self._say(f"pack {hour}", done.why)
            else:
                log.info("packed %s: %s are %s", hour, show_bytes(done.before), show_bytes(done.after))

    def _to_pack(self) -> Iterator[str]:
        """Sealed hours in their plain form that are old enough, oldest first."""
        if not self._duties.pack_after_days:
            return
        self._removals.refresh()
        sealed = set(sealed_hours(self._folder))
        limit = self._clock() - self._duties.pack_after_days * DAY
        for path in segments(self._folder):
            hour = hour_of(path.name)
            if not path.name.endswith(PACKED) and hour in sealed and retention.began(hour) + 3600 <= limit:
                yield hour

    def _watch(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if tight := alarms.space(free, self._duties.min_free):
            self._say("space", f"{tight.text}; {tight.advice}", logging.ERROR if tight.state == "fail" else logging.WARNING)
        bounds = Bounds(self._duties.min_free, self._duties.keep_days, self._duties.keep_bytes)
        _, filling = alarms.growth(retention.hours(self._folder), free, bounds, self._clock())
        if filling is not None:
            self._say("growth", f"{filling.text}; {filling.advice}", every=SAY_DAILY)

    def _say(self, about: str, words: str, level: int = logging.WARNING, every: float = SAY_EVERY) -> None:
        now = time.monotonic()
        if now - self._said.get(about, -every) >= every:
            self._said[about] = now
            log.log(level, "%s", words)


# The process.


def main(argv: Sequence[str] | None = None) -> int:
    """Look after a folder until SIGTERM, or until the process that started this one is gone. Returns the exit code, always 0."""
    parser = argparse.ArgumentParser(prog="gateway.caretaker", description="Look after an archive folder.")
    parser.add_argument("archive", type=Path)
    parser.add_argument("--log-level", default="info")
    for name in ("--min-free", "--keep-days", "--keep-bytes", "--pack-after-days"):
        parser.add_argument(name, type=int, default=0)
    parser.add_argument("--no-seal", action="store_false", dest="seal")
    parser.add_argument("--seal-key", type=Path)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="end when this process, which started this one, is gone")
    options = vars(parser.parse_args(argv))
    ending, parent = threading.Event(), options.pop("parent")

    def end(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    logs.configure(options.pop("log_level"))
    with contextlib.suppress(OSError):
        os.nice(19)  # the disk's scheduler goes by it, too; not SCHED_IDLE, which could be kept from a lock's release for ever
    caretaker = Caretaker(Duties(**options), stopping=lambda: ending.is_set() or os.getppid() != parent)
    try:
        _look_after(caretaker, ending, parent)
    finally:
        logs.stop()
    return 0


def _look_after(caretaker: Caretaker, ending: threading.Event, parent: int) -> None:
    while True:
        caretaker.round()
        again = time.monotonic() + EVERY
        while time.monotonic() < again:
            if ending.wait(LOOK_AROUND) or os.getppid() != parent:
                return


if __name__ == "__main__":
    sys.exit(main())
