"""The soak: a real gateway on a disk that fails, under mixed traffic, and then the archive's word against everyone's. `make soak`.

`PYTHONPATH=tests python -m soak.run [--profile full|short|mixed|crowd] [--seconds N] [--keep FOLDER]`: prints what was found; exit code 1
if anything is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from faults.disk import FaultyDisk, faulty_disk, why_not
from soak.judge import by_reader, judge
from soak.processes import PATIENCE, Gateway, environment, gateway, health, traffic, until, upstream, verbatim
from soak.report import Report, words
from soak.script import Plan
from soak.watch import held, named

__all__ = ["FULL", "SHORT", "soak"]

CLOCK: Final = Path(__file__).with_name("clock")
"""The folder whose `sitecustomize` moves a process's wall clock."""
FULL = Plan(600, part_seconds=40, full_disk=(60, 75), stall=(120, 123), hour=180)
"""`make soak`. What goes wrong with the disk lies in the first half, so that the second shows whether memory stays where it is."""
SHORT = Plan(
    60, sse=150, ws=30, json=12, events=(3, 7), messages=(18, 26), part_seconds=15, queue_records=80,
    full_disk=(8, 15), stall=(23, 26), hour=32,
)  # fmt: skip
"""The same in a minute, for a small and busy machine."""
MIXED = Plan(60, sse=200, ws=200, json=50, leave=0, drop=0, slow=0, messages=(10, 15), events=(10, 20), queue_records=8192)
"""Nothing goes wrong: how much later everything comes than without a gateway."""
CROWD = dataclasses.replace(MIXED, sse=1000, events=(20, 20), slow=0.03)
"""The full number of streams, slow clients among them."""
PROFILES = {"full": FULL, "short": SHORT, "mixed": MIXED, "crowd": CROWD}
READ: Final = 3000
"""Exchanges, about, that our own reader opens one by one: it takes a millisecond for each."""
GROWTH: Final = 1.0
"""MB a minute that memory may grow by in the second half of the full run: a line through 300 samples, which one spike moves little."""


def clock(plan: Plan) -> float:
    """By how many seconds to move the wall clock so that the hour changes `plan.hour` seconds after the load has begun."""
    return 0.0 if plan.hour is None else (3600 - plan.hour - 3 - time.time()) % 3600


def soak(plan: Plan, folder: Path, *, compare: bool = False) -> Report:
    """The whole run. Where something is to go wrong with the disk, one is mounted in `folder` (see `faults.disk.why_not`). `compare` runs
    the same traffic without a gateway before. Raises TimeoutError when something does not end.
    """
    report = Report(plan)
    env = environment(SOAK_CLOCK=repr(clock(plan)))
    env["PYTHONPATH"] = f"{CLOCK}{os.pathsep}{env['PYTHONPATH']}"
    settings: dict[str, Any] = {"part_seconds": plan.part_seconds, "queue_records": plan.queue_records, "min_free": "64MiB", "grace": 20}
    if compare:
        with upstream(folder / "direct.jsonl") as origin, traffic(plan, origin, "", folder / "direct-clients.jsonl") as clients:
            report.direct = json.loads(clients.communicate(timeout=plan.seconds + 2 * PATIENCE)[0])
    with ExitStack() as stack:
        disk = stack.enter_context(faulty_disk(folder / "disk")) if plan.full_disk or plan.stall else None
        origin = stack.enter_context(upstream(folder / "origin.jsonl"))
        place = disk.path / "archive" if disk is not None else folder / "archive"
        with gateway(folder, origin, place, env=env, **settings) as running:
            load(report, running, disk, folder)
            settled(report, running)
            report.health = health(running.port)
        if running.process.returncode != 0:
            report.wrong.append(f"the gateway ended with exit code {running.process.returncode}")
        if "Traceback" in running.output():
            report.wrong.append(f"a traceback in the log: {running.output()[running.output().index('Traceback') :][:2000]}")
        if disk is not None:
            shutil.copytree(place, folder / "archive")
    weigh(report, running, folder)
    return report


def load(report: Report, running: Gateway, disk: FaultyDisk | None, folder: Path) -> None:
    """Traffic, and meanwhile what goes wrong; memory looked at each second."""
    plan, pid = report.plan, running.process.pid
    until(lambda: {"keeper", "caretaker"} <= set(named(pid)), "all processes run")
    parts = named(pid)
    report.start = {name: found for name, each in parts.items() if (found := held(each)) is not None}
    report.healthy = health(running.port)
    faults = sorted(windows(plan, disk), key=lambda it: it[0]) if disk is not None else []
    with traffic(plan, running.port, "/up", folder / "clients.jsonl") as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        began, looked, holding = time.monotonic(), 0.0, False
        try:
            while clients.poll() is None:
                at = time.monotonic() - began
                if at > plan.seconds + 2 * PATIENCE:
                    raise TimeoutError("the traffic does not end")
                while faults and faults[0][0] <= at:
                    faults.pop(0)[1]()
                if plan.held(at) != holding:
                    holding = not holding
                    clients.stdin.write(b"hold\n" if holding else b"go\n")
                    clients.stdin.flush()
                if at - looked >= 1:
                    looked = at
                    report.rss.append((at, {name: found.rss for name, each in parts.items() if (found := held(each)) is not None}))
                    report.loads.append(os.getloadavg()[0])
                time.sleep(0.05)
            report.traffic = json.loads(clients.stdout.read() or b"{}")
            if clients.returncode:
                report.wrong.append(f"the traffic ended with exit code {clients.returncode}")
        finally:
            for _, change in faults:  # whatever happens, the disk goes on
                change()
    report.took["cpu"] = sum(found.cpu - report.start[name].cpu for name, each in parts.items() if (found := held(each)) is not None)


def windows(plan: Plan, disk: FaultyDisk) -> list[tuple[float, Callable[[], None]]]:
    """What is done to the disk, and when."""

    def full() -> None:
        disk.fail("write", error=errno.ENOSPC, lasting=True, short=True)

    found: list[tuple[float, Callable[[], None]]] = []
    if plan.full_disk is not None:
        found += [(plan.full_disk[0], full), (plan.full_disk[1], disk.heal)]
    if plan.stall is not None:
        found += [(plan.stall[0], disk.stop), (plan.stall[1], disk.go_on)]
    return found


def settled(report: Report, running: Gateway) -> None:
    """After the load: nothing runs, nothing is queued, and what was held at the start is held again."""
    pid = running.process.pid

    def calm() -> bool:
        now = health(running.port)
        return not now["exchanges"]["active"] and not now["unread_bytes"] and not now["archive"]["queued"] and not now["archive"]["paused"]

    until(calm, "all is written")

    def back() -> bool:
        report.end = {name: found for name, pid in named(pid).items() if (found := held(pid)) is not None}
        return all(report.end[name].fds <= report.start[name].fds for name in ("relay", "keeper"))

    def let_go() -> bool:
        now = health(running.port)
        return all(now[name] <= report.healthy[name] for name in ("connections", "tasks"))

    for what, condition in (("descriptors", back), ("connections and tasks", let_go)):
        try:
            until(condition, f"{what} are back", 30)
        except TimeoutError:
            report.wrong.append(f"{what} are not what they were")


def weigh(report: Report, running: Gateway, folder: Path) -> None:
    """The archive against the accounts of both ends, and against what our own commands say of it."""
    archive, total, dropped = folder / "archive", report.health["exchanges"]["total"], report.health["archive"]["dropped"]
    began = time.monotonic()
    late = max((found.get("worst", 0.0) for found in report.traffic.get("lateness_ms", {}).values()), default=0.0) / 1e3
    report.verdict = judge(archive, folder / "clients.jsonl", folder / "origin.jsonl", total=total, dropped=dropped, late=late)
    report.took["judge"] = time.monotonic() - began
    report.passed = report.verdict.passed / report.plan.seconds * 60
    by_reader(archive, report.verdict, every=max(1, len(report.verdict.exchanges) // READ))
    report.wrong += report.verdict.wrong
    verified(report, running, folder, archive, dropped)
    if report.plan.hour is not None and len(report.verdict.hours) < 2:
        report.wrong.append(f"the hour did not change: {dict(report.verdict.hours)}")
    if report.health["capture_errors"]:
        report.wrong.append(f"{report.health['capture_errors']} captures failed")
    if report.plan.full_disk is not None and not any("No space left" in gap["why"] for gap in report.verdict.gaps):
        report.wrong.append("the disk was never full")


def verified(report: Report, running: Gateway, folder: Path, archive: Path, dropped: int) -> None:
    """What `verify` and `verify --transparency` say: the very losses that the gateway counted, and that all was forwarded unchanged."""
    told = verbatim(running, folder, "verify", "--json", str(archive))
    found = json.loads(told.stdout)
    report.verified = verbatim(running, folder, "verify", str(archive)).stdout.splitlines()[0]
    lost = sum(gap["records"] for gap in found["gaps"])
    if found["damaged"] or found["missing"] or found["repeated"] or lost != dropped or told.returncode != (1 if lost else 0):
        report.wrong.append(f"verify: exit code {told.returncode}, {report.verified}")
    crossed = verbatim(running, folder, "verify", "--transparency", str(archive))
    report.transparent = crossed.stdout.strip().splitlines()[0] if crossed.stdout.strip() else crossed.stderr
    if crossed.returncode:
        report.wrong.append(f"verify --transparency: exit code {crossed.returncode}, {crossed.stdout[:1000]}")


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--profile", choices=sorted(PROFILES), default="full")
    p.add_argument("--seconds", type=float, help="how long the load lasts, instead of the profile's time")
    p.add_argument("--share", type=float, default=1.0, help="of the profile's streams, websockets and requests, so much")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--keep", type=Path, help="a folder that is to keep ledgers, archive and log")
    arguments = p.parse_args()
    plan = dataclasses.replace(PROFILES[arguments.profile], seed=arguments.seed)
    sizes = {name: round(getattr(plan, name) * arguments.share) for name in ("sse", "ws", "json")}
    plan = dataclasses.replace(plan, seconds=arguments.seconds or plan.seconds, **sizes)
    if plan.full_disk and why_not():
        print(f"no soak here: {why_not()}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="verbatim-soak-") as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        report = soak(plan, folder, compare=arguments.profile in ("mixed", "crowd"))
    if arguments.profile == "full" and plan.seconds >= FULL.seconds and report.growth("relay", "keeper") >= GROWTH:
        report.wrong.append(f"memory grows by {report.growth('relay', 'keeper'):.2f} MB a minute")
    print(words(report))
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
