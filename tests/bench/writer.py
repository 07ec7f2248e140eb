"""What the archive's writer does in a second on the cores it is given, and where its time goes. Prints one JSON line; asserts nothing.

`python tests/bench/writer.py --size 20000 [--seconds 1.5] [--like codex] [--stages]`, under `taskset -c 1` for one core.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from codexlike import CodexLike
from exchanges import archived, bodies, record
from processes import warm

from archive import member
from archive.content import take
from archive.line import to_line
from archive.record import Record
from archive.segment import Appender
from archive.writer import Writer
from gateway import memory

AHEAD = 512
"""Records waiting at most, enough for the writer never to wait for its feeder. (The keeper stays closer, `gateway.keeping`.)"""
BATCH_BYTES = 4 << 20
WARM_UP = 0.3
"""Of the time measured, beforehand: memory touched for the first time is slow, in a virtual machine ten times over."""
WRITTEN = 160 << 20
"""More than is written to the disk in a second."""
ID = bytes(16)

Figures = dict[str, float]


def ours(folder: Path, size: int, seconds: float) -> Figures:
    """A Writer, fed with records made before."""
    different = bodies(size)
    made = [record(body) for body in different * (AHEAD * 2 // len(different))]
    gc.freeze()
    writer = Writer(folder / "archive", version="bench", min_free=0, queue_records=AHEAD)
    writer.start()

    def put(each: Record) -> None:
        while not writer.put(each, may_wait=True):
            time.sleep(0.001)

    figures = fed(put, itertools.cycle(made), seconds, lambda: writer.stats().written)
    writer.close(60)
    stats = writer.stats()
    if stats.dropped:
        raise RuntimeError(f"{stats.dropped} records were dropped")
    return figures | {"bytes": stats.bytes_written / stats.written}


def theirs(folder: Path, size: int, seconds: float) -> Figures:
    """A writer made after codex-lb's, fed with records whose payload is parsed (as the proxy in front of it has done)."""
    made = [archived(json.loads(body)) for body in bodies(size)]
    path = folder / "hour.jsonl.gz"
    writer = CodexLike(path)
    figures = fed(writer.put, itertools.cycle(made), seconds, lambda: writer.written)
    writer.close()
    return figures | {"bytes": path.stat().st_size / writer.written}


def fed(put: Callable[[Any], None], source: Iterator[Any], seconds: float, written: Callable[[], int]) -> Figures:
    """Feed as much as goes in; what is written in `seconds` after a warm-up, and the process's CPU for it."""

    def feed(until: float) -> tuple[float, float, int]:
        for each in source:
            put(each)
            if time.perf_counter() > until:
                break
        return time.perf_counter(), time.process_time(), written()

    began, cpu_before, before = feed(time.perf_counter() + seconds * WARM_UP)
    ended, cpu, after = feed(began + seconds)
    records = (after - before) or 1
    return {"per_s": records / (ended - began), "cpu_us": (cpu - cpu_before) / records * 1e6}


def stages(folder: Path, size: int, seconds: float) -> Figures:
    """Microseconds of CPU that a record costs by stage, in this thread and in the writer's order; what `ours` costs beyond them is the
    queue's and the threads'.
    """
    folder.mkdir()
    appender = Appender(folder)
    made = [record(body) for body in bodies(size)]
    batches = itertools.cycle(cut(made, max(1, min(256, BATCH_BYTES // size))))
    spent = dict.fromkeys(("content_us", "line_us", "pack_us", "append_us", "sync_us"), 0.0)
    clock = time.thread_time
    count = 0
    began = synced = time.perf_counter()
    warm = False
    while (now := time.perf_counter()) < began + seconds:
        if not warm and now > began + seconds * WARM_UP:
            warm, count, spent = True, 0, dict.fromkeys(spent, 0.0)
        batch = next(batches)
        count += len(batch)
        members = []
        for each in batch:
            times = [clock()]
            hash_and_decode(each)
            times.append(clock())
            line = to_line(each, writer="w", seq=1) or b""
            times.append(clock())
            members.append(member.pack(line + b"\n", id=ID, part=0, seq=1))
            times.append(clock())
            for name, (begun, ended) in zip(spent, itertools.pairwise(times), strict=False):
                spent[name] += ended - begun
        begun = clock()
        appender.append(members, time.time())
        appended = clock()
        if now > synced + 1:
            appender.sync()
            synced = now
        spent["append_us"] += appended - begun
        spent["sync_us"] += clock() - appended
    appender.close()
    spent["line_us"] -= spent["content_us"]  # making a line includes hashing and decoding
    return {name: value / count * 1e6 for name, value in spent.items()}


def cut(made: list[Record], length: int) -> list[list[Record]]:
    return [made[at : at + length] for at in range(0, len(made), length)]


def hash_and_decode(each: Record) -> None:
    for body in (each.request_body, each.response_body):
        if body is not None:
            take(body, last=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--like", choices=["ours", "codex"], default="ours")
    parser.add_argument("--stages", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    memory.tune()  # as the keeper does
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        folder = Path(name)
        warm(folder, round(WRITTEN * options.seconds))
        figures = (ours if options.like == "ours" else theirs)(folder, options.size, options.seconds)
        if options.stages:
            figures |= stages(folder / "stages", options.size, options.seconds / 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
