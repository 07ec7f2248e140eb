"""`make bench`: every proxy beside Verbatim in one run on the same cores; prints Markdown tables and says which goals are met.

    python tests/bench/run.py [--quick] [--only nginx off json ...] [--head plain|sdk] [--out FILE.json]

Installs nothing: says what is missing and measures the rest. One run at a time (a lock file); all on 127.0.0.1, all bounded.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger
import recording
import report
from contenders import CONTENDERS, Contender, Running, answers, start_origin, start_tls_origin
from processes import cores
from workloads import FULL, HEADS, QUICK, SMOKE, TLS, WORKLOADS, Bench, Figures, Workload, write_body

ENOUGH = 0.85
"""A proxy that had less of its core at saturation was held back by something else."""
ARCHIVE = "archive"
"""The name of the part that is about the archive's writer (`recording`)."""
CONNECTIONS = 32
"""Requests that may be under way when the load breaks off: that many may be in one count and not in the other."""


def main() -> int:
    arguments = parser().parse_args()
    lock = lock_file(arguments.lock)
    if lock is None:
        print(f"another bench is running (it holds {arguments.lock}); figures of both would be worthless", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything started is stopped
    raise_file_limit()
    scale = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    if arguments.rounds:
        scale = replace(scale, rounds=arguments.rounds)
    contenders, workloads = chosen(arguments.only, quick=arguments.quick)
    proxy_cores, load_cores = cores()
    notes = [f"not measured: {why}" for contender in contenders if (why := contender.missing())]
    contenders = [contender for contender in contenders if not contender.missing()]
    if not shutil.which("wrk"):
        notes.append("wrk is not installed (Debian package wrk): saturation was made by the bench's own client, a lower ceiling for all")
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        folder = Path(name)
        origin, port = start_origin(folder, load_cores)
        tls_origin, tls, ca = None, 0, None
        try:
            if any(workload.tls for workload in workloads):
                try:
                    tls_origin, tls, ca = start_tls_origin(folder, load_cores)
                except (RuntimeError, OSError, ImportError) as error:
                    notes.append(f"no TLS upstream: {error}")
            body = write_body(folder / "body.json")
            bench = Bench(scale, port, origin, tls, ca, load_cores, folder, body, HEADS[arguments.head])
            cells = rounds(bench, contenders, workloads, proxy_cores, notes)
            if ARCHIVE in arguments.only or not arguments.only:
                cells += archive(bench, proxy_cores, notes)
        finally:
            origin.stop()
            if tls_origin is not None:
                tls_origin.stop()
    machine = machine_line(
        contenders or [c for c in CONTENDERS if c.name == "on"], proxy_cores, load_cores, arguments.head, scale.rounds, scale.seconds
    )
    medians = report.medians(cells)
    text = report.document(machine, sorted(set(notes)), medians, [(c.name, c.title) for c in contenders], partly=bool(arguments.only))
    print(text)
    if arguments.out:
        found = [{"goal": g.what, "measured": g.measured, "met": g.met} for g in report.goals(medians)]
        Path(arguments.out).write_text(
            json.dumps({"machine": machine, "notes": notes, "goals": found, "cells": cells, "text": text}, indent=1)
        )
    return 0


def parser() -> argparse.ArgumentParser:
    names = [c.name for c in CONTENDERS] + [w.name for w in WORKLOADS] + [ARCHIVE]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true", help="one short round: a look, no figures to keep")
    p.add_argument("--smoke", action="store_true", help="hardly any load: does the bench itself work")
    p.add_argument("--only", nargs="+", choices=names, default=[], metavar="NAME", help="contenders and workloads: " + " ".join(names))
    p.add_argument("--rounds", type=int, default=0)
    p.add_argument("--head", choices=sorted(HEADS), default="sdk", help="request headers: those of an SDK (default), or few")
    p.add_argument("--out", help="all figures as JSON")
    p.add_argument("--lock", default=str(Path(tempfile.gettempdir()) / "verbatim-bench.lock"))
    return p


def lock_file(path: str) -> int | None:
    """An open, locked file that keeps other runs out until this process ends, or None where one is under way."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def raise_file_limit() -> None:
    """A thousand streams are two thousand sockets in a proxy."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))


def chosen(only: list[str], *, quick: bool) -> tuple[list[Contender], list[Workload]]:
    """The contenders and workloads that are named; of either kind all, or those of a quick look, where none of it is named."""
    if only == [ARCHIVE]:
        return [], []
    contenders = [c for c in CONTENDERS if c.name in only] or [c for c in CONTENDERS if not (quick and c.all_cores)]
    workloads = [w for w in WORKLOADS if w.name in only] or [w for w in WORKLOADS if w.quick or not quick]
    return contenders, workloads


def rounds(bench: Bench, contenders: list[Contender], workloads: list[Workload], on: str, notes: list[str]) -> list[dict[str, Any]]:
    """Every workload before every contender, A B C A B C, each in a fresh process; the crowd, which is long, in the first round only."""
    cells: list[dict[str, Any]] = []
    for number in range(bench.scale.rounds):
        for workload in workloads:
            for contender in contenders:
                if not together(contender, workload, bench) or (workload.name == "crowd" and number):
                    continue
                print(f"round {number + 1}/{bench.scale.rounds} {workload.name} {contender.name}", file=sys.stderr, flush=True)
                try:
                    figures = cell(bench, contender, workload, on)
                except (RuntimeError, OSError, ValueError, KeyError) as error:
                    notes.append(f"{contender.name}, {workload.name}: failed: {str(error).strip().splitlines()[-1][:300]}")
                    continue
                if figures["errors"]:
                    notes.append(f"{contender.name}, {workload.name}: {figures['errors']:.0f} failed requests")
                if figures.get("late"):
                    notes.append(f"{contender.name}, {workload.name}: {figures['late']:.0f} requests could not begin in time")
                if workload.saturates and figures.get("busy", 1) < ENOUGH and not contender.all_cores:
                    busy = f"{figures['busy']:.0%}"
                    notes.append(f"{contender.name}, {workload.name}: had only {busy} of its core; load or neighbours held it back")
                cells.append({"round": number, "contender": contender.name, "workload": workload.name, "figures": figures})
    return cells


def together(contender: Contender, workload: Workload, bench: Bench) -> bool:
    """Whether this contender is measured with this workload."""
    if contender.all_cores and not workload.both_cores:
        return False
    if workload.tls:
        return bool(bench.tls) and contender.name in TLS
    return not contender.only or workload.name in contender.only


def archive(bench: Bench, on: str, notes: list[str]) -> list[dict[str, Any]]:
    """The archive's part; where something fails what was measured before it is kept."""
    cells: list[dict[str, Any]] = []
    try:
        cells.extend(recording.cells(bench, on))
    except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        notes.append(f"{ARCHIVE}: failed: {str(error).strip().splitlines()[-1][:300]}")
    return cells


def cell(bench: Bench, contender: Contender, workload: Workload, on: str) -> Figures:
    """One workload before one contender, from a fresh start to a clean end."""
    cores_used = f"{on},{bench.load_cores}" if contender.all_cores else on
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        before = bench.relayed()
        origin, ca = (bench.tls, bench.ca) if workload.tls else (bench.origin, None)
        running = Running(contender, folder=Path(name), origin=origin, on=cores_used, ca=ca)
        try:
            figures = workload.run(bench, running)
        finally:
            running.stop()
        if contender.records and workload.saturates and not workload.tls:  # only the plain origin counts what it was asked
            kept, dropped = ledger.totals(Path(name) / "archive")
            missing = bench.relayed() - before - 1 - kept - dropped
            figures |= {"kept": kept, "dropped": dropped, "unaccounted": max(0, abs(missing) - 2 * CONNECTIONS)}
    return figures


def machine_line(contenders: list[Contender], proxy: str, load: str, head: str, number: int, seconds: float) -> str:
    """What the figures came from: processor, kernel, versions, cores, and how it was loaded."""
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    versions = {f"{c.title.strip('*').split(',')[0]} {version}" for c in contenders if (version := c.version())}
    return (
        f"{model or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}; {'; '.join(sorted(versions))}; "
        f"{answers(['wrk', '-v']).split(' [')[0] or 'no wrk'}. Proxy on core {proxy}, load and origin on {load}; "
        f"{number} interleaved round{'s' if number > 1 else ''} of {seconds:g} s, medians; {len(HEADS[head])} request header fields."
    )


if __name__ == "__main__":
    sys.exit(main())
