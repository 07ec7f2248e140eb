"""What is measured: one workload before one contender gives one dict of figures. Knows how to load, not what the figures mean."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ledger
from contenders import HERE, Running
from processes import PeakMemory, Tree, pinned

Figures = dict[str, float]

HEADS = {
    "plain": [("Authorization", "Bearer bench"), ("Accept", "application/json")],
    "sdk": [  # what openai-python 2 sends
        ("Accept-Encoding", "gzip, deflate"),
        ("Connection", "keep-alive"),
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
        ("User-Agent", "OpenAI/Python 2.8.1"),
        ("X-Stainless-Lang", "python"),
        ("X-Stainless-Package-Version", "2.8.1"),
        ("X-Stainless-OS", "Linux"),
        ("X-Stainless-Arch", "x64"),
        ("X-Stainless-Runtime", "CPython"),
        ("X-Stainless-Runtime-Version", "3.11.2"),
        ("Authorization", "Bearer bench"),
        ("X-Stainless-Async", "false"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-read-timeout", "600"),
    ],
}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it: durations in seconds."""

    seconds: float
    warm_up: float
    rounds: int
    crowd: int
    """Streams at once in `crowd`."""
    crowd_events: int
    crowd_pause: float
    paced: int
    """Streams at once in `paced`."""
    events: int = 300
    pause: float = 0.01
    few: int = 32
    """Streams at once in `sse-32`: so few that an event's delay is the relay's own, not the crowd's."""
    quiet: float = 0.25
    """A tree that does nothing for so long has settled."""
    json_rate: float = 1000.0
    upload_rate: float = 200.0
    writing: float = 1.5
    """A writer is fed for so long."""
    lead: float = 1.0
    """The others are asked for so long before something goes wrong, and after it."""
    large: int = 100_000_000
    stall: float = 5.0


FULL = Scale(seconds=5, warm_up=0.7, rounds=3, crowd=1000, crowd_events=30, crowd_pause=1.0, paced=100)
QUICK = Scale(
    seconds=1, warm_up=0.2, rounds=1, crowd=200, crowd_events=10, crowd_pause=0.1, paced=50, events=100, quiet=0.1, writing=0.5, stall=2.0
)
SMOKE = Scale(
    seconds=0.2,
    warm_up=0.05,
    rounds=1,
    crowd=8,
    crowd_events=3,
    crowd_pause=0.02,
    paced=4,
    events=10,
    quiet=0.05,
    json_rate=50,
    upload_rate=20,
    writing=0.05,
    lead=0.2,
    large=2_000_000,
    stall=0.3,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every workload needs."""

    scale: Scale
    origin: int
    origin_tree: Tree
    tls: int
    """The port of an origin that speaks TLS, 0: there is none."""
    ca: Path | None
    """What vouches for it."""
    load_cores: str
    folder: Path
    body: Path
    """200 KB of JSON that reads and packs like a long conversation."""
    headers: list[tuple[str, str]]

    def relayed(self) -> int:
        """How many requests the origin has read whole so far (this question not counted)."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.origin}/stats", timeout=5) as answer:
            return int(json.load(answer)["requests"]) - 1


def write_body(path: Path, size: int = 204800) -> Path:
    """A chat request of exactly `size` bytes: seeded words of natural frequency, so that gzip finds about as much as in real ones."""
    chance = random.Random(2)
    words = ["".join(chance.choices("etaoinshrdlucmfwypvbgk", k=chance.randint(2, 9))) for _ in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    messages: list[dict[str, str]] = []
    while sum(len(m["content"]) + 40 for m in messages) < size:
        messages.append({"role": ("user", "assistant")[len(messages) % 2], "content": " ".join(chance.choices(words, weights, k=300))})
    text = json.dumps({"model": "bench-1", "messages": messages})
    path.write_text(text[: size - 5] + '"}]}\n')
    return path


def wrk(bench: Bench, running: Running, path: str, *, body: bool, seconds: float) -> Figures:
    """As many requests as go through 32 connections. With wrk where it is, else with our own client (slower, so a ceiling for all)."""
    if not shutil.which("wrk"):
        return own(bench, running, mode="closed", path=path, **request(bench, body), seconds=seconds)
    command = ["wrk", "-t1", "-c32", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(HERE / "wrk.lua")]
    for name, value in bench.headers:
        command += ["-H", f"{name}: {value}"]
    command += [f"http://127.0.0.1:{running.port}{running.contender.prefix}{path}", "--", *request(bench, body).values()]
    return _json_line(command, bench, seconds + 60)


def request(bench: Bench, body: bool) -> dict[str, str]:
    """The method and the body's file of a request with or without one."""
    return {"method": "POST", "body": str(bench.body)} if body else {"method": "GET", "body": ""}


def own(bench: Bench, running: Running, *, path: str, **plan: Any) -> Figures:
    """Our own client with this plan (see client.Plan)."""
    whole = {"port": running.port, "path": running.contender.prefix + path, "headers": bench.headers, **plan}
    return _json_line([sys.executable, str(HERE / "client.py"), json.dumps(whole)], bench, 240)


def _json_line(command: list[str], bench: Bench, limit: float) -> Figures:
    done = subprocess.run(pinned(command, bench.load_cores), capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {(done.stderr or done.stdout)[-2000:]}")
    figures: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def measured(bench: Bench, running: Running, load: Callable[[], Figures]) -> Figures:
    """`load` with the tree's CPU before and after (and settled both times), its memory, and the origin's share of its core."""
    tree = running.tree
    if tree is None:
        return load()
    tree.settle(bench.scale.quiet)
    cpu, origin_cpu = tree.cpu(), bench.origin_tree.cpu()
    with PeakMemory(tree) as memory:
        figures = load()
        origin_cpu = bench.origin_tree.cpu() - origin_cpu
        tree.settle(bench.scale.quiet)
    cpu = tree.cpu() - cpu
    return {
        **figures,
        "cpu_s": cpu,
        "busy": cpu / figures["seconds"] if figures["seconds"] else 0.0,
        "cpu_ms": cpu * 1e3 / figures["requests"] if figures["requests"] else 0.0,
        "idle_mb": running.idle_mb,
        "peak_mb": memory.peak,
        "origin_busy": origin_cpu / figures["seconds"] if figures["seconds"] else 0.0,
    }


def saturate(path: str, *, body: bool) -> Callable[[Bench, Running], Figures]:
    def workload(bench: Bench, running: Running) -> Figures:
        own(bench, running, mode="closed", path=path, **request(bench, body), seconds=bench.scale.warm_up)
        figures = measured(bench, running, lambda: wrk(bench, running, path, body=body, seconds=bench.scale.seconds))
        figures["per_s"] = figures["requests"] / figures["seconds"]
        return figures

    return workload


def steady(path: str, *, body: bool) -> Callable[[Bench, Running], Figures]:
    def workload(bench: Bench, running: Running) -> Figures:
        rate = bench.scale.upload_rate if body else bench.scale.json_rate
        plan: dict[str, Any] = {"mode": "rate", "path": path, "rate": rate, **request(bench, body)}
        own(bench, running, seconds=bench.scale.warm_up, **plan)
        return measured(bench, running, lambda: own(bench, running, seconds=bench.scale.seconds, **plan))

    return workload


def unpaced(bench: Bench, running: Running) -> Figures:
    plan: dict[str, Any] = {"mode": "closed", "path": f"/sse?n={bench.scale.events}&us=0", "connections": 16}
    own(bench, running, seconds=bench.scale.warm_up, **plan)
    figures = measured(bench, running, lambda: own(bench, running, seconds=bench.scale.seconds, **plan))
    figures["per_s"] = figures["requests"] / figures["seconds"]
    return figures


def paced(*, few: bool) -> Callable[[Bench, Running], Figures]:
    def workload(bench: Bench, running: Running) -> Figures:
        scale = bench.scale
        own(bench, running, mode="closed", path="/sse?n=20&us=0", connections=8, seconds=bench.scale.warm_up)
        path = f"/sse?n={scale.events}&us={round(scale.pause * 1e6)}"
        ramp = min(1.0, scale.pause * scale.events)
        count = min(scale.few, scale.paced) if few else scale.paced
        return measured(bench, running, lambda: own(bench, running, mode="streams", path=path, streams=count, ramp=ramp))

    return workload


def crowd(bench: Bench, running: Running) -> Figures:
    """Many long slow streams at once; where a Verbatim records, its archive is then read back and compared stream by stream."""
    scale = bench.scale
    ramp = min(1.0, scale.crowd_pause * scale.crowd_events)
    digests = bench.folder / "digests.json"
    path = f"/sse?n={scale.crowd_events}&us={round(scale.crowd_pause * 1e6)}"
    figures = measured(
        bench, running, lambda: own(bench, running, mode="streams", path=path, streams=scale.crowd, ramp=ramp, digests=str(digests))
    )
    figures["over_ideal_s"] = figures["seconds"] - (ramp + (scale.crowd_events - 1) * scale.crowd_pause)
    figures["streams"] = scale.crowd
    if running.contender.records:
        running.stop()
        figures["archived"] = ledger.exact(running.folder / "archive", json.loads(digests.read_text()))
    return figures


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load."""

    name: str
    run: Callable[[Bench, Running], Figures]
    saturates: bool = False
    """As much as goes: what a recording Verbatim archived is counted against what the origin saw."""
    both_cores: bool = False
    """Also for the contender that may use every core."""
    quick: bool = False
    """Also in a quick look."""
    tls: bool = False
    """The origin speaks TLS; for the contenders of `TLS` only."""


TLS = ("nginx", "off", "on")
"""Who relays to an origin that speaks TLS."""

WORKLOADS = (
    Workload("json", saturate("/json", body=False), saturates=True, both_cores=True, quick=True),
    Workload("json-rate", steady("/json", body=False)),
    Workload("upload", saturate("/upload", body=True), saturates=True, both_cores=True, quick=True),
    Workload("upload-rate", steady("/upload", body=True)),
    Workload("sse", unpaced, saturates=True),
    Workload("sse-paced", paced(few=False), quick=True),
    Workload("sse-32", paced(few=True)),
    Workload("tls", saturate("/json", body=False), tls=True, quick=True),
    Workload("tls-rate", steady("/json", body=False), tls=True),
    Workload("crowd", crowd, quick=True),
)
