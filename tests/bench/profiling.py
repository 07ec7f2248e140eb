"""Where Verbatim's time goes under one of the bench's loads: `python tests/bench/profiling.py json [--record] [--native] [--seconds 5]`.

Samples with py-spy (`pip install py-spy`; it needs the right to ptrace), or with `--perf` by Linux perf for the C below. Prints the
functions by their own time and by time with all they call. A look inside, not a measurement: sampling slows what it watches.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

from contenders import CONTENDERS, Running, start_origin
from processes import cores
from workloads import FULL, HEADS, WORKLOADS, Bench, write_body

IDLE = re.compile(r"wait \(threading\.py[:)]\S*$")
"""A thread that waits for work; py-spy takes it for busy while the process's other threads are."""

OURS = re.compile(r"\((?:gateway|archive)/(?!commands|cli\.|serving\.)|^process ")
"""What is worth showing with all it calls: our frames below the command line, and which process."""


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("workload", choices=[w.name for w in WORKLOADS])
    p.add_argument("--record", action="store_true", help="Verbatim records")
    p.add_argument("--native", action="store_true", help="C frames too (slower sampling)")
    p.add_argument("--perf", action="store_true", help="perf instead of py-spy: symbols of the C below")
    p.add_argument("--seconds", type=float, default=5)
    p.add_argument("--rate", type=int, default=500)
    p.add_argument("--rows", type=int, default=30)
    p.add_argument("--head", choices=sorted(HEADS), default="sdk")
    p.add_argument("--keep", type=Path, help="the collapsed stacks, for a flame graph")
    arguments = p.parse_args()
    sampler = "perf" if arguments.perf else shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    if not shutil.which(sampler):
        print(f"{sampler} is not installed", file=sys.stderr)
        return 2
    contender = next(c for c in CONTENDERS if c.name == ("on" if arguments.record else "off"))
    workload = next(w for w in WORKLOADS if w.name == arguments.workload)
    proxy_cores, load_cores = cores()
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        folder = Path(name)
        (folder / "proxy").mkdir()
        origin, port = start_origin(folder, load_cores)
        bench = Bench(
            replace(FULL, seconds=arguments.seconds),
            port,
            origin,
            0,
            None,
            load_cores,
            folder,
            write_body(folder / "body.json"),
            HEADS[arguments.head],
        )
        running = Running(contender, folder=folder / "proxy", origin=port, on=proxy_cores)
        try:
            load = threading.Thread(target=workload.run, args=(bench, running))
            load.start()
            threading.Event().wait(bench.scale.warm_up + 1)
            assert running.tree
            text = sample(sampler, running.tree.pids(), arguments, folder)
            load.join()
        finally:
            running.stop()
            origin.stop()
    print(text)
    return 0


def sample(sampler: str, pids: list[int], arguments: argparse.Namespace, folder: Path) -> str:
    """Watch `pids`, whose first is the others' ancestor, and say where the time went. Raises CalledProcessError."""
    seconds = max(1, round(arguments.seconds) - 1)
    if arguments.perf:
        data = str(folder / "perf.data")
        record = [
            "perf",
            "record",
            "-q",
            "-F",
            str(arguments.rate),
            "-p",
            ",".join(map(str, pids)),
            "-o",
            data,
            "--",
            "sleep",
            str(seconds),
        ]
        subprocess.run(record, check=True, capture_output=True)
        shown = ["perf", "report", "-i", data, "--stdio", "--percent-limit", "0.5", "--sort"]
        reports = [subprocess.run([*shown, by], check=True, capture_output=True, text=True).stdout for by in ("dso", "dso,symbol")]
        lines = "\n".join(reports).splitlines()
        return "\n".join(" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#"))
    stacks = folder / "stacks.txt"
    command = [
        sampler,
        "record",
        "--subprocesses",
        "-p",
        str(pids[0]),
        "-d",
        str(seconds),
        "-r",
        str(arguments.rate),
        "-f",
        "raw",
        "-o",
        str(stacks),
    ]
    subprocess.run(command + (["--native"] if arguments.native else []), check=True, capture_output=True)
    if arguments.keep:
        shutil.copy(stacks, arguments.keep)
    return tables(stacks.read_text(), arguments.rows)


def tables(stacks: str, rows: int) -> str:
    """Collapsed stacks ("outer;inner COUNT" a line) as two tables: own time, and time with all that was called."""
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        if IDLE.search(stack):
            continue
        frames = [frame.rsplit(":", 1)[0] + ")" if frame[-1:] == ")" and ":" in frame else frame for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(filter(OURS.search, frames)):
            whole[frame] += int(count)
    total = sum(own.values()) or 1
    parts = []
    for title, counts in (("own time", own), ("with all it calls", whole)):
        parts.append(f"{title} ({total} samples)")
        parts += [f"{100 * count / total:6.1f} %  {frame}" for frame, count in counts.most_common(rows)]
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
