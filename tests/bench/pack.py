# ruff: noqa: E402 - it is started as a script, from anywhere
"""Packing measured: how fast, how small, how long a record takes to open. One simulated hour of agents, made on the spot; no server.

`python tests/bench/pack.py [--megabytes 300] [--sessions 12] [--turns 15 70]`; with `taskset -c 0` before it, on one core.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent.parent)]

import traffic

from archive.folder import plain_name
from archive.handle import open_segment
from archive.keeping.pack import DEFAULT_LEVEL, Repacked, pack, packed_name, unpack
from archive.member import Found
from archive.proof.seal import seal_hour

HOUR = "2026-11-19T10"


def main() -> None:
    """Make the hour, pack it in rounds, open records of it; print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=float, default=300, help="of bodies")
    parser.add_argument("--sessions", type=int, default=12, help="agents at once")
    parser.add_argument("--turns", type=int, nargs=2, default=(15, 70), help="of an agent, from and to")
    parser.add_argument("--level", type=int, default=DEFAULT_LEVEL)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        folder = Path(name)
        agents = traffic.agents(sessions=options.sessions, turns=tuple(options.turns), per_second=5)
        made = traffic.segments_of(folder, traffic.upto(agents, options.megabytes))
        if [path.name for path in made.paths] != [plain_name(HOUR)]:
            sys.exit("that is more than an hour; ask for less")
        seal_hour(folder, HOUR, now=time.time(), version="bench")
        print(f"{made.records} records, {made.line_bytes / 1e6:.0f} MB of lines, gzip {made.file_bytes / 1e6:.1f} MB")
        for _ in range(options.rounds):
            packing(folder, options.level)
        opening(folder)
        foreign(folder)
        started = time.perf_counter()
        back = unpack(folder, HOUR)
        assert isinstance(back, Repacked), back
        print(f"unpack   {back.line_bytes / 1e6 / (time.perf_counter() - started):.0f} MB/s; the sealed file again: {back.same}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory   {peak:.0f} MB at most, simulation included; cores {len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f}")


def packing(folder: Path, level: int) -> None:
    """Pack once, and unpack the hour again if it was packed already."""
    if not (folder / plain_name(HOUR)).exists():
        unpack(folder, HOUR)
    wall, cpu = time.perf_counter(), time.process_time()
    done = pack(folder, HOUR, level=level)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert isinstance(done, Repacked), done
    raw = done.line_bytes / 1e6
    ratio = f"{done.before / done.after:.1f} times smaller than gzip, {done.line_bytes / done.after:.0f} than the lines"
    print(f"pack     {raw / wall:.0f} MB/s, {raw / cpu:.0f} MB per second of processor time; {done.after / 1e6:.2f} MB: {ratio}")


def opening(folder: Path) -> None:
    """Records taken at random, the segment opened anew for each; then all of them, newest first, as a list goes."""
    with open_segment(folder, packed_name(HOUR)) as handle:
        found = [each for each in handle.scan() if isinstance(each, Found)]
    rng = random.Random(1)
    opened(folder, rng.choices(found, k=10))
    times = opened(folder, rng.choices(found, k=300))
    print(f"open     p50 {times[150]:.1f} ms, p90 {times[270]:.1f}, p99 {times[297]:.1f}, the longest {times[-1]:.1f}")
    times = opened(folder, list(reversed(found))[:500])
    print(f"newest   {len(times)} one after the other: {sum(times) / len(times):.2f} ms each, the longest {times[-1]:.1f}")


def opened(folder: Path, records: Sequence[Found]) -> list[float]:
    """Milliseconds for each, in order of length of time."""
    times = []
    for offset, tag in records:
        started = time.perf_counter()
        with open_segment(folder, packed_name(HOUR)) as handle:
            assert len(handle.line(offset, limit=tag.length)) == tag.length
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


def foreign(folder: Path) -> None:
    """What zstd's own command takes for all of it."""
    started = time.perf_counter()
    subprocess.run(["zstd", "-dcq", "--", str(folder / packed_name(HOUR))], check=True, stdout=subprocess.DEVNULL)
    print(f"zstd -dc {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
