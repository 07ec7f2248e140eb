"""The archive's part of the bench: what its writer does on one core, what telling it costs the loop, what others feel while it struggles.

Rows are named as the contenders of the other parts are: `writer` is Verbatim's, `codexlike` is made after codex-lb's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import stalls
from contenders import HERE, environment
from processes import pinned
from workloads import Bench, Figures

SIZES = (2000, 20_000, 200_000)
TITLES = (("writer", "**Verbatim**"), ("codexlike", "like codex-lb"))
LIKE = {"writer": "ours", "codexlike": "codex"}


def cells(bench: Bench, on: str) -> Iterator[dict[str, Any]]:
    """Figure by figure, in interleaved rounds; what waits for a clock comes in the first round only. Raises RuntimeError."""
    for number in range(bench.scale.rounds):
        for size in SIZES:
            for who, _ in TITLES:
                yield row(number, who, f"write-{size // 1000}", writer(bench, who, size, on))
        for who, _ in TITLES:
            yield row(number, who, "enqueue", enqueue(bench, who, on))
    for record, name in ((False, "off"), (True, "on")):
        yield row(0, name, "large", stalls.large(bench, on, record=record))
    for stall, name in ((False, "working"), (True, "stalled")):
        yield row(0, name, "disk", stalls.stalled(bench, on, stall=stall))


def row(number: int, contender: str, workload: str, figures: Figures) -> dict[str, Any]:
    print(f"round {number + 1} {workload} {contender}", file=sys.stderr, flush=True)
    return {"round": number, "contender": contender, "workload": workload, "figures": {"errors": 0.0, **figures}}


def writer(bench: Bench, who: str, size: int, on: str) -> Figures:
    """On one core: the process, with all its threads, and what feeds it."""
    stages = ["--stages"] if who == "writer" else []
    return child(["writer.py", "--size", str(size), "--seconds", str(bench.scale.writing), "--like", LIKE[who], *stages], on)


def enqueue(bench: Bench, who: str, on: str) -> Figures:
    """The loop on one core, the keeper where it likes: its processor time is not the loop's."""
    share = min(1.0, bench.scale.writing)
    return child(["enqueue.py", "--like", LIKE[who], "--bursts", "9", "--share", str(share)], f"{on},{bench.load_cores}")


def child(command: list[str], on: str) -> Figures:
    whole = pinned([sys.executable, str(HERE / command[0]), *command[1:]], on)
    done = subprocess.run(whole, capture_output=True, text=True, timeout=120, cwd=HERE, env=environment())
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return figures
