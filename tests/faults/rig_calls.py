"""Every call to the disk fails once, and from some call on all of them do: a writer's process on a faulty disk, and the account afterwards.

`python rig_calls.py FOLDER long|short` prints the account of each kind of fault as one line of JSON.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import NamedTuple

from faults.child import Child, judge
from faults.disk import FaultyDisk, faulty_disk

SIZES = (300, 5000, 400_000, 300, 20_000, 300)
"""One of them takes several requests of the kernel's, so that a failure in its middle is a short write."""


class Kind(NamedTuple):
    """A kind of fault: which calls, which errors."""

    name: str
    calls: tuple[str, ...]
    errors: tuple[int, ...]
    short: bool = False


ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
KINDS = (
    Kind("the Nth write fails", ("write",), ERRORS),
    Kind("the Nth write is short, the next fails", ("write",), (errno.ENOSPC, errno.EIO), short=True),
    Kind("the Nth fsync fails", ("fsync", "fsyncdir"), (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    Kind("the Nth call of any kind fails", ("write", "truncate", "fsync", "fsyncdir", "make"), (errno.EIO, errno.ENOSPC, errno.EROFS)),
)


def trial(disk: FaultyDisk, folder: Path, log: Path, kind: Kind, at: int, error: int, *, lasting: bool) -> dict[str, int]:
    """One writer's life with one fault. A key `hits` of 0 says that it never made so many calls."""
    disk.forget()
    disk.fail(*kind.calls, at=at, error=error, lasting=lasting, short=kind.short, where=f"/{folder.name}/")
    child = Child(folder / "archive", SIZES, queue_records=3)
    child.wait(lambda said: said.all_offered or said.refused > 2)
    hits = disk.seen()[1]
    disk.heal()
    child.wait(lambda said: said.all_offered)
    # The sync of the record before may fail only now, and be taken for this one's.
    wrong = [] if any(child.more(300) for _ in range(3)) else ["it does not go on recording"]
    said = child.close()
    if not said.counters["clean"]:
        wrong.append("it did not close cleanly")
    if said.counters["written"] + said.counters["dropped"] != len(said.offered):
        wrong.append("its counters do not add up")
    if any("TRACEBACK" in each or "stumbled" in each for each in said.warnings):
        wrong.append("it stumbled")
    if len({" ".join(each.split()[1:5]) for each in said.warnings}) != len(said.warnings):
        wrong.append("it warned twice of the same")
    if hits and lasting and not (said.warnings or said.refused):
        wrong.append("it said nothing")
    if used_after_a_failed_sync(disk, log):
        wrong.append("it used a descriptor again whose sync had failed")
    verdict = judge(folder / "archive", said.acknowledged, dropped=said.counters["dropped"])
    if "fsync" not in kind.calls and len(said.acknowledged) != said.counters["written"]:
        wrong.append("not all that was written was acknowledged")
    if wrong or verdict["lost"] or verdict["doubled"] or verdict["unreadable"]:
        name = errno.errorcode[error]
        print(f"{kind.name}: {name} at {at}, {'for ever' if lasting else 'once'}: {wrong} {verdict} {said}", file=sys.stderr)
    return {**verdict, "unreadable": verdict["unreadable"] + len(wrong), "hits": hits}


def used_after_a_failed_sync(disk: FaultyDisk, log: Path) -> bool:
    """Whether anything was written through, or synced by, a descriptor after a sync of it failed."""
    changes, _ = disk.changes(log)
    broken: set[int] = set()
    for change in changes:
        if change.what in {"write", "fsync"} and change.handle in broken:
            return True
        if change.what == "fsync" and change.error:
            broken.add(change.handle)
    return False


def campaign(disk: FaultyDisk, log: Path, kind: Kind, *, long: bool) -> dict[str, int]:
    """Every N until no writer makes so many calls: with each error, once and for ever; or, not `long`, with the next of them each time."""
    total: Counter[str] = Counter()
    ways = [(error, lasting) for error in kind.errors for lasting in (False, True)]
    for first in range(len(ways) if long else 1):
        for at in count(1):
            error, lasting = ways[first if long else at % len(ways)]
            folder = disk.path / f"{first}-{at}"
            done = trial(disk, folder, log, kind, at, error, lasting=lasting)
            shutil.rmtree(folder)
            hits = done.pop("hits")
            total.update({**done, "trials": 1, "injected": hits})
            if not hits:
                break
    return dict(total)


def main(folder: Path, *, long: bool) -> None:
    for kind in KINDS:
        began = time.monotonic()
        with faulty_disk(folder / kind.name.replace(" ", "-")) as disk:
            counts = campaign(disk, folder / "log", kind, long=long)
        print(json.dumps({"campaign": kind.name, "counts": counts, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), long=sys.argv[2] == "long")
