"""Power that fails at any moment: writers on a disk that remembers, and every promise of a sync held against what is left of it.

`python rig_powerloss.py FOLDER DRAWS SEED [SCENE]` prints the account of each scene as a line of JSON; DRAWS moments are drawn for each.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import NamedTuple

from faults.child import Child, found, judge
from faults.disk import FaultyDisk, faulty_disk
from faults.fusedisk import Change
from faults.powerloss import MANNERS, Remains
from rig_archive import packed, record

from archive.folder import segments
from archive.record import id_text
from archive.writer import Writer

ACKS = "acks"
"""The file on the same disk that takes the acknowledgements, so that they stand in the log in order with all else."""
SIZES = (300, 5000, 60_000, 300, 20_000, 1000, 700, 9000, 300, 40_000)


class Scene(NamedTuple):
    """What is going on until the power fails."""

    name: str
    sync: str
    play: Callable[[FaultyDisk, Path], None]


def writer(disk: FaultyDisk, archive: Path, *, sync: str = "record", pause: float = 0.0, rounds: int = 1) -> Child:
    acks = os.open(disk.path / ACKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def acknowledge(exchange: str) -> None:
        os.write(acks, exchange.encode() + b"\n")

    child = Child(archive, SIZES * rounds, acknowledge=acknowledge, sync=sync, pause=pause)
    os.close(acks)
    return child


def one(disk: FaultyDisk, archive: Path) -> None:
    writer(disk, archive).close()


def two(disk: FaultyDisk, archive: Path) -> None:
    for child in [writer(disk, archive), writer(disk, archive)]:
        child.close()


def failing_writes(disk: FaultyDisk, archive: Path) -> None:
    disk.fail("write", at=6, error=errno.ENOSPC, short=True)
    child = writer(disk, archive)
    child.wait(lambda said: said.all_offered)
    disk.fail("write", at=2, error=errno.EIO, short=True)
    for size in (30_000, 200, 50_000):
        child.more(size)
    child.close()


def failing_syncs(disk: FaultyDisk, archive: Path) -> None:
    disk.fail("fsync", at=4, error=errno.EIO)
    child = writer(disk, archive)
    child.wait(lambda said: said.all_offered)
    disk.fail("fsyncdir", at=1, error=errno.EIO, where="/")
    child.more(3000)
    child.close()


def torn_ends(disk: FaultyDisk, archive: Path) -> None:
    writer(disk, archive).close()
    for torn in (packed(1, 9000)[:-5], bytes(5000), b"garbage"):
        with segments(archive)[-1].open("ab") as file:
            file.write(torn)
        writer(disk, archive).close()
    running = writer(disk, archive)
    running.wait(lambda said: said.all_offered)
    for torn in (packed(1, 6000)[:-5], b"garbage"):
        with segments(archive)[-1].open("ab") as file:
            file.write(torn)
        running.more(50_000)
    running.close()


def lost_pages(disk: FaultyDisk, archive: Path) -> None:
    writer(disk, archive).close()
    path = segments(archive)[-1]
    synced = path.stat().st_size
    Child(archive, SIZES, sync="never").close()  # whose records nobody was promised
    with path.open("r+b", buffering=0) as file:  # as a power loss leaves them; what follows is the recovery
        for page in (synced // 4096 + 1, synced // 4096 + 4, synced // 4096 + 9):
            file.seek(page * 4096)
            file.write(bytes(4096))
        os.fsync(file.fileno())
    writer(disk, archive).close()


def one_a_second(disk: FaultyDisk, archive: Path) -> None:
    writer(disk, archive, sync="1s", pause=0.05, rounds=3).close()


def two_a_second(disk: FaultyDisk, archive: Path) -> None:
    for child in [writer(disk, archive, sync="1s", pause=0.05, rounds=3), writer(disk, archive, sync="1s", pause=0.08, rounds=2)]:
        child.close()


SCENES = (
    Scene('power loss, sync "record"', "record", one),
    Scene('power loss, sync "record", two writers', "record", two),
    Scene("power loss after short and failing writes", "record", failing_writes),
    Scene("power loss after failed syncs", "record", failing_syncs),
    Scene("power loss in the recovery of torn ends", "record", torn_ends),
    Scene("power loss in the recovery of lost pages", "record", lost_pages),
    Scene('power loss, sync "1s"', "1s", one_a_second),
    Scene('power loss, sync "1s", two writers', "1s", two_a_second),
)


class Owed:
    """Who was promised what, as the changes go by."""

    def __init__(self, sync: str, paths: dict[int, str]) -> None:
        self._sync = sync
        self._paths = paths
        self._said: list[tuple[str, float]] = []
        self._synced = 0

    def change(self, change: Change) -> None:
        path = self._paths[change.node]
        if path == f"/{ACKS}" and change.what == "write":
            self._said += [(each, change.at) for each in change.data.decode().split()]
        elif change.what == "fsync" and not change.error and ".jsonl.gz" in path:
            self._synced = len(self._said)

    def now(self, *, named: bool) -> list[str]:
        """What must be there. A segment whose name no sync has reached yet owes nothing but to those who sync each record."""
        if self._sync == "record":
            return [each for each, _ in self._said]
        return [each for each, _ in self._said[: self._synced]] if named else []

    def age(self, there: Container[str], now: float) -> float:
        """Seconds since the oldest acknowledged record that is not there was acknowledged; 0 when all are."""
        return max((now - at for each, at in self._said if each not in there), default=0.0)


def moments(changes: list[Change], draws: int, choose: random.Random) -> Iterator[int]:
    """Changes after which the power fails: all of them in turn, from a random one on, as often as is wanted."""
    first = choose.randrange(len(changes))
    step = max(1, len(changes) // draws)
    for number in range(draws):
        yield (first + number * step) % len(changes)


def trial(archive: Path, owed: list[str]) -> dict[str, int]:
    """Record again where the power failed, and see what is there."""
    after = record(1000)
    again = Writer(archive, version="after", min_free=0, sync="never")
    again.start()
    again.put(after)
    clean = again.close(20)
    verdict = judge(archive, [*owed, id_text(after.id)], holes=True)
    return {**verdict, "acknowledged": len(owed), "lost": verdict["lost"] + (not clean)}


def scene(folder: Path, each: Scene, draws: int, choose: random.Random) -> tuple[dict[str, int], float]:
    """The account, and the age of the oldest acknowledged record that was lost."""
    with faulty_disk(folder / "disk") as disk:
        (disk.path / "data").mkdir()
        fd = os.open(disk.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        each.play(disk, disk.path / "data" / "archive")
        changes, paths = disk.changes(folder / "log")
    (folder / "disk").rmdir()
    remains, owed, total = Remains(), Owed(each.sync, paths), Counter[str]()
    oldest = 0.0
    when = Counter(moments(changes, draws, choose))
    for number, change in enumerate(changes):
        remains.change(change)
        owed.change(change)
        for draw in range(when[number]):
            manner = choose.choice(MANNERS)
            place = folder / f"{number}-{draw}-{manner}"
            state = choose.getstate()
            remains.after_power_loss(place, manner, choose)
            names = [path.name for path in segments(place / "data" / "archive")]
            named = all(remains.is_named(("data", "archive", name)) for name in names)
            must = owed.now(named=named and bool(names))
            done = trial(place / "data" / "archive", must)
            if not done["unreadable"]:
                oldest = max(oldest, owed.age(found(place / "data" / "archive"), change.at))
            total.update({**done, "trials": 1, "injected": 1})
            if done["lost"] or done["doubled"] or done["unreadable"]:
                print(f"{each.name}: after change {number} of {len(changes)}, {manner}: {done}", file=sys.stderr)
                choose.setstate(state)  # what went wrong is kept to be looked at, as it is now and as it was before the recovery
                remains.after_power_loss(place.with_name(f"{place.name}-before"), manner, choose)
            else:
                shutil.rmtree(place)
    return dict(total), oldest


def main(folder: Path, draws: int, seed: int, only: str = "") -> None:
    logging.disable(logging.CRITICAL)
    for each in SCENES:
        if only not in each.play.__name__:
            continue
        began = time.monotonic()
        place = folder / each.play.__name__
        place.mkdir()
        counts, oldest = scene(place, each, draws, random.Random(seed))
        line = {"campaign": each.name, "counts": counts, "oldest": oldest, "seconds": time.monotonic() - began}
        line["note"] = f"no acknowledged record was lost that was older than {oldest:.2f} s" if each.sync == "1s" else ""
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
