"""What other exchanges feel of an archive that has much to do or cannot write: a large request being recorded, a disk that stands still.

A real gateway, origin and client; one row of figures each. What they mean is `report`'s business.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import ledger
from contenders import CONTENDERS, HERE, ROOT, Contender, Running, verbatim
from processes import PeakMemory
from workloads import Bench, Figures, own, request

sys.path.insert(0, str(ROOT / "tests"))

from faults.disk import faulty_disk, why_not

RATE = 500
"""Requests of the others a second, 1 KB each."""
UPLOADS = 200
"""Requests of 200 KB a second while the disk stands still: 40 MB a second, so that the queues fill within two."""
NAMED = {contender.name: contender for contender in CONTENDERS}


def large(bench: Bench, on: str, *, record: bool) -> Figures:
    """How late the relay's loop is and how long others wait while a request of `scale.large` bytes goes through, and is recorded whole."""
    body = bench.folder / "large.json"
    if not body.exists():
        text = bench.body.read_bytes()
        body.write_bytes(text * (bench.scale.large // len(text)))
    lateness = bench.folder / "lateness.json"
    contender = NAMED["on" if record else "off"]
    command = verbatim(record, more=f"max_body = {2 * bench.scale.large}\n")
    contender = replace(contender, command=lambda start: [sys.executable, str(HERE / "lag.py"), str(lateness), *command(start)[-1:]])
    with running(bench, contender, on) as gateway, ThreadPoolExecutor() as beside:
        own(bench, gateway, mode="closed", path="/json", seconds=bench.scale.warm_up)
        others = beside.submit(probe, bench, gateway, 3 * bench.scale.lead)
        time.sleep(bench.scale.lead)
        upload = own(bench, gateway, mode="closed", path="/upload", method="POST", body=str(body), connections=1, seconds=0.01)
        figures = others.result()
        gateway.stop()
        dropped = ledger.totals(gateway.folder / "archive")[1] if record else 0
    loop = json.loads(lateness.read_text())
    return {**figures, **loop, "upload_s": upload["seconds"], "dropped": dropped, "errors": figures["errors"] + upload["errors"]}


def stalled(bench: Bench, on: str, *, stall: bool) -> Figures:
    """The others' latency and the gateway's memory while large requests come too and the disk stands still (`stall`), or does not."""
    seconds = bench.scale.stall + 2 * bench.scale.lead
    uploading = {"mode": "rate", "path": "/upload", **request(bench, True), "rate": UPLOADS, "seconds": seconds}
    with TemporaryDirectory(prefix="verbatim-bench-") as name, disk(Path(name)) as (archive, still):
        with running(bench, replace(NAMED["on"], command=verbatim(True, archive=archive)), on) as gateway, ThreadPoolExecutor() as beside:
            own(bench, gateway, mode="closed", path="/json", seconds=bench.scale.warm_up)
            assert gateway.tree
            with PeakMemory(gateway.tree) as memory:
                uploads = beside.submit(lambda: own(bench, gateway, **uploading))
                others = beside.submit(probe, bench, gateway, seconds)
                time.sleep(bench.scale.lead)
                if stall:
                    with still():
                        time.sleep(bench.scale.stall)
                figures, upload = others.result(), uploads.result()
        kept, dropped = ledger.totals(archive)
    return {
        **figures,
        "errors": figures["errors"] + upload["errors"],
        "upload_p50_ms": upload["p50_ms"],
        "idle_mb": gateway.idle_mb,
        "peak_mb": memory.peak,
        "kept": kept,
        "dropped": dropped,
    }


@contextmanager
def running(bench: Bench, contender: Contender, on: str) -> Iterator[Running]:
    with TemporaryDirectory(prefix="verbatim-bench-") as name:
        gateway = Running(contender, folder=Path(name), origin=bench.origin, on=on)
        try:
            yield gateway
        finally:
            gateway.stop()


def probe(bench: Bench, gateway: Running, seconds: float) -> Figures:
    return own(bench, gateway, mode="rate", path="/json", rate=RATE, seconds=seconds)


@contextmanager
def disk(folder: Path) -> Iterator[tuple[Path, Callable[[], AbstractContextManager[None]]]]:
    """A folder for an archive, and how to make whoever writes into it hang: a file system whose process is stopped, or where none can be
    mounted a lock on the newest segment, for which the writer waits in a system call just the same."""
    if why_not():
        archive = folder / "archive"
        yield archive, lambda: locked(archive)
        return
    with faulty_disk(folder / "disk") as faulty:

        @contextmanager
        def stopped() -> Iterator[None]:
            faulty.stop()
            try:
                yield
            finally:
                faulty.go_on()

        yield faulty.path / "archive", stopped


@contextmanager
def locked(archive: Path) -> Iterator[None]:
    fd = os.open(max(archive.glob("*.jsonl.gz")), os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
