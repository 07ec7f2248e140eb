"""The real writer in a process of its own, and what it said: forked, so whoever starts one must hold no threads."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig_archive import record

from archive.errors import Unwritable
from archive.folder import segments
from archive.proof.verify import Report, verify
from archive.record import Record, id_text
from archive.writer import Writer

__all__ = ["Child", "Said", "found", "judge"]


@dataclass
class Said:
    """What a writer's process told of itself."""

    offered: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    refused: int = 0
    """How often it could not even start."""
    all_offered: bool = False
    settled: int = 0
    """How many of those that were asked for on top have been acknowledged or not."""
    counters: dict[str, Any] = field(default_factory=dict)
    """At the end: the writer's own, and whether it closed cleanly."""


class Child:
    """Offers records of `sizes` bytes one by one, each when the one before is in the archive or refused; closes when told to."""

    def __init__(
        self,
        folder: Path,
        sizes: Sequence[int],
        *,
        acknowledge: Callable[[str], None] | None = None,
        prepare: Callable[[], Callable[[], None] | None] | None = None,
        pause: float = 0.0,
        **options: Any,
    ) -> None:
        """`acknowledge` is called, in the process, with each id that was acknowledged; `prepare` before anything else: what
        it returns is what `hook` calls there. `pause`: seconds after each record."""
        self.said = Said()
        self._rest = b""
        self._ours, theirs = socket.socketpair()
        self._parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                self._ours.close()
                hook = prepare() if prepare is not None else None
                _work(theirs, folder, sizes, acknowledge, hook, self._parent, pause, options)
                code = 0
            finally:
                os._exit(code)
        theirs.close()

    def wait(self, condition: Callable[[Said], object], *, seconds: float = 60.0) -> Said:
        """Listen until what it said satisfies `condition`."""
        deadline = time.monotonic() + seconds
        self._ours.settimeout(1.0)
        while not condition(self.said):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain: {self.said}")
            try:
                more = self._ours.recv(1 << 16)
            except TimeoutError:
                continue
            if not more:
                raise AssertionError(f"the writer's process ended: {self.said}")
            *lines, self._rest = (self._rest + more).split(b"\n")
            for line in lines:
                self._hear(line.decode())
        return self.said

    def _hear(self, line: str) -> None:
        what, _, rest = line.partition(" ")
        if what == "offered":
            self.said.offered.append(rest)
        elif what == "acknowledged":
            self.said.acknowledged.append(rest)
        elif what == "warning":
            self.said.warnings.append(rest)
        elif what == "refused":
            self.said.refused += 1
        elif what == "all":
            self.said.all_offered = True
        elif what == "settled":
            self.said.settled += 1
        elif what == "end":
            self.said.counters = json.loads(rest)

    def more(self, size: int) -> bool:
        """Have it offer one more record once its queue is empty; whether that was acknowledged (or its sync failed)."""
        self._ours.sendall(b"more %d\n" % size)
        settled = self.said.settled
        said = self.wait(lambda said: said.settled > settled)
        return said.offered[-1] in said.acknowledged

    def burst(self, count: int, size: int) -> None:
        """Have it offer so many records, without waiting for any."""
        self._ours.sendall(b"burst %d %d\n" % (count, size))
        settled = self.said.settled
        self.wait(lambda said: said.settled > settled)

    def hook(self) -> None:
        """Have it do what it prepared."""
        self._ours.sendall(b"hook\n")
        settled = self.said.settled
        self.wait(lambda said: said.settled > settled)

    def close(self) -> Said:
        """Have it close its writer, and wait for its account and its end."""
        self._ours.sendall(b"close\n")
        said = self.wait(lambda said: said.counters)
        _, status = os.waitpid(self.pid, 0)
        self._ours.close()
        assert status == 0, status
        return said

    def kill(self) -> Said:
        """End it as kill -9 does; what it said before counts."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._ours.settimeout(5.0)
        while more := self._ours.recv(1 << 16):
            *lines, self._rest = (self._rest + more).split(b"\n")
            for line in lines:
                self._hear(line.decode())
        self._ours.close()
        return self.said


class _Telling(logging.Handler):
    """Log lines go the same way as all else it says: no file, no descriptor that a fault could hit."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        traceback = " TRACEBACK" if record.exc_info else ""
        self._say(f"warning {record.levelname} {record.getMessage()}{traceback}".replace("\n", " "))


def _work(
    sock: socket.socket,
    folder: Path,
    sizes: Sequence[int],
    acknowledge: Callable[[str], None] | None,
    hook: Callable[[], None] | None,
    parent: int,
    pause: float,
    options: dict[str, Any],
) -> None:
    def say(line: str) -> None:
        sock.sendall(line.encode() + b"\n")

    acknowledged: set[bytes] = set()

    def written(records: Sequence[Record]) -> None:
        for each in records:
            if acknowledge is not None:
                acknowledge(id_text(each.id))
            say(f"acknowledged {id_text(each.id)}")
            acknowledged.add(each.id)

    log = logging.getLogger("verbatim.child")
    log.propagate = False
    log.handlers = [_Telling(say)]
    options = {"version": "faults", "min_free": 0, "cooldown": 0.02, "sync": "record", **options}
    while True:
        writer = Writer(folder, on_written=written, log=log, **options)
        try:
            writer.start()
            break
        except Unwritable:
            say("refused")
            time.sleep(0.01)

    def offer(size: int) -> bytes:
        each = record(size)
        say(f"offered {id_text(each.id)}")
        writer.put(each)
        return each.id

    def rest(*, whatever: bool) -> None:
        while writer.stats().queued and (whatever or not writer.stats().paused) and os.getppid() == parent:
            time.sleep(0.001)

    for size in sizes:
        offer(size)
        rest(whatever=False)
        time.sleep(pause)
    say("all")
    while (order := sock.recv(100).split())[0] != b"close":
        if order[0] == b"more":
            rest(whatever=True)
            failures = writer.stats().sync_failures
            offered = offer(int(order[1]))
            while offered not in acknowledged and writer.stats().sync_failures == failures and os.getppid() == parent:
                time.sleep(0.001)
        elif order[0] == b"burst":
            for _ in range(int(order[1])):
                offer(int(order[2]))
        elif hook is not None:
            hook()
        say("settled")
    clean = writer.close(30)
    stats = writer.stats()
    say("end " + json.dumps({**{name: getattr(stats, name) for name in stats.__slots__}, "clean": clean}))


def found(folder: Path) -> Counter[str]:
    """How often each exchange is in the archive, by zcat. Raises CalledProcessError where zcat finds anything wrong."""
    count: Counter[str] = Counter()
    for path in segments(folder):
        done = subprocess.run(["zcat", "--", str(path)], check=True, capture_output=True)
        for line in done.stdout.splitlines():
            each = json.loads(line)
            if each["kind"] == "exchange":
                count[each["id"]] += 1
    return count


def judge(folder: Path, acknowledged: Sequence[str], *, dropped: int | None = None, holes: bool = False) -> dict[str, int]:
    """What is wrong with the archive in `folder`: acknowledged records that are lost, any that are doubled, and what cannot be read or
    does not add up. With `dropped`, the gap lines must account for exactly so many; `holes`: numbers may be missing for all that."""
    try:
        there = found(folder)
        report: Report = verify([folder])
    except (subprocess.CalledProcessError, ValueError):
        return {"acknowledged": len(acknowledged), "lost": 0, "doubled": 0, "unreadable": 1}
    told = sum(gap.records for gap in report.gaps)
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(not there[each] for each in acknowledged),
        "doubled": sum(times > 1 for times in there.values()),
        "unreadable": int(bool(report.damages or report.repeated or (report.missing and not holes)) or dropped not in (None, told)),
    }
