"""Which hours should have a seal by now, and which of them no seal of the key asked for vouches for. Reads no file but through `Chain`.

Without this an archive whose seals were all deleted would look like one that nobody ever sealed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from archive.folder import SEGMENT_NAME, hour_after, hour_of
from archive.proof.chain import Chain
from archive.proof.facts import Facts
from archive.proof.report import Unproven

__all__ = ["LATE", "Now", "unproven"]

LATE: Final = 300.0
"""Seconds after its end from which an hour should be sealed: the 2 minutes of `seal.GRACE`, a round of the caretaker, which looks every
minute, and time to seal what is large."""
_LATE: Final = ":05"
_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]+Z")


class Now:
    """The present: what the clock says, or the newest record where that is later. Moments are text, whose order is that of time."""

    def __init__(self, clock: float, facts: Iterable[Facts]) -> None:
        """`clock` in Unix seconds."""
        newest = [each.until for each in facts if each.until is not None and _MOMENT.fullmatch(each.until)]
        self._now = max([_text(clock), *newest])
        self._soon = _text(clock + LATE)

    def over(self, hour: str) -> bool:
        """Whether it should be sealed by now."""
        try:
            return hour_after(hour) + _LATE <= self._now
        except OverflowError:
            return False
        except ValueError:
            return True  # 31 February

    def to_come(self, hour: str) -> bool:
        """Whether the clock says that nothing can have been written in it yet."""
        return hour > self._soon[: len(hour)]


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def unproven(folders: Sequence[Path], files: Sequence[Path], chain_of: Callable[[Path], Chain], key: str, now: Now) -> Iterator[Unproven]:
    """Of `files` those that `key` (a public key) does not vouch for, and the `folders` without any. The current hour cannot be vouched for
    yet, and is not asked for."""
    for folder in folders:
        if not any(file.parent == folder for file in files):
            yield Unproven("", folder, "without recordings")
    chains = {parent: chain_of(parent) for parent in {file.parent for file in files}}
    vouched = {parent: chain.vouched(key) for parent, chain in chains.items()}
    for file in files:
        hour, chain = hour_of(file.name), chains[file.parent]
        if not SEGMENT_NAME.fullmatch(file.name):
            yield Unproven(file.name, file, "under no hour's name, so no seal vouches for it")
        elif hour in vouched[file.parent]:
            continue
        elif why := chain.unvouched(hour):
            yield Unproven(hour, file, why)
        elif now.to_come(hour):
            yield Unproven(hour, file, "still to come by this machine's clock")
        elif now.over(hour):
            yield Unproven(hour, file, "over and not sealed")
