"""Writers that are killed at random moments, and the account afterwards. Run as a program: it forks, so it must hold no threads.

`python rig_crash.py FOLDER TRIALS PROCESSES SEED` prints its account as one line of JSON, see KEYS; `injected` are the torn ends.
"""

from __future__ import annotations

import json
import logging
import os
import random
import selectors
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from faults.child import judge
from rig_archive import record

from archive.folder import QUARANTINE
from archive.record import Body, Record, id_text
from archive.writer import Writer

KEYS = ("trials", "acknowledged", "injected", "lost", "doubled", "unreadable")
LARGEST = 8 << 20
BLOB = record(LARGEST).request_body.chunks[0]  # type: ignore[union-attr]


def some_record(choose: random.Random) -> Record:
    """Mostly small, some of 200 KB, some of 8 MB: the long writes are those a kill can cut in two."""
    most = choose.choice((2_000, 20_000, 200_000, 200_000, LARGEST))
    each = record(0)
    size = choose.randrange(most)
    at = choose.randrange(LARGEST - size)
    each.request_body = Body([BLOB[at : at + size]], ended=True)
    each.weight = size
    return each


def produce(folder: Path, seed: int, out: int, parent: int) -> None:
    """Write until killed; each acknowledged id is a line on `out`."""

    def acknowledge(written: Sequence[Record]) -> None:
        for each in written:
            os.write(out, id_text(each.id).encode() + b"\n")  # shorter than PIPE_BUF: whole or not at all

    choose = random.Random(seed)
    writer = Writer(folder, version="crash", min_free=0, sync="never", on_written=acknowledge)
    writer.start()
    while os.getppid() == parent:  # not to go on for ever when the rig itself was killed
        each = some_record(choose)
        while not writer.put(each, may_wait=True):
            time.sleep(0.001)


def killed(folder: Path, processes: int, choose: random.Random) -> list[str]:
    """The ids that were acknowledged before every writer was killed, all at one random moment."""
    ours, theirs = os.pipe()
    children, parent = [], os.getpid()
    for _ in range(processes):
        seed = choose.randrange(1 << 30)
        child = os.fork()
        if not child:
            try:
                produce(folder, seed, theirs, parent)
            finally:
                os._exit(1)
        children.append(child)
    os.close(theirs)
    said = bytearray()
    moment: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        while moment is None or time.monotonic() < moment:
            if selector.select(0.001):
                said += os.read(ours, 1 << 16)
            if said and moment is None:  # they are at work
                moment = time.monotonic() + choose.uniform(0.0, 0.15)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    while rest := os.read(ours, 1 << 16):
        said += rest
    os.close(ours)
    return said.decode().splitlines()


def trial(folder: Path, processes: int, choose: random.Random) -> dict[str, int]:
    """Kill, record again, and see what zcat reads and what `verify` makes of it: killed writers leave no holes before their end."""
    acknowledged = killed(folder, processes, choose)
    after = [record(1000) for _ in range(3)]
    writer = Writer(folder, version="after", min_free=0, sync="never")
    writer.start()
    for each in after:
        writer.put(each)
    clean = writer.close(20)
    torn = len(list((folder / QUARANTINE).iterdir())) if (folder / QUARANTINE).exists() else 0
    verdict = judge(folder, acknowledged + [id_text(each.id) for each in after])
    return {**verdict, "trials": 1, "acknowledged": len(acknowledged), "injected": torn, "lost": verdict["lost"] + (not clean)}


def main(folder: Path, trials: int, processes: int, seed: int) -> None:
    logging.disable(logging.CRITICAL)
    choose = random.Random(seed)
    total: Counter[str] = Counter()
    for number in range(trials):
        place = folder / str(number)
        total.update(trial(place, processes, choose))
        if not (total["lost"] or total["doubled"] or total["unreadable"]):
            shutil.rmtree(place)  # what went wrong is kept to be looked at
    print(json.dumps({key: total[key] for key in KEYS}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
