"""Verbatim's command line with a clock on the relay's loop: `python lag.py OUT.json serve` writes how late the loop's turns were.

A timer is due each millisecond; what is told is by how much it was late, and how long the loop's own thread was at work meanwhile: on a
machine with other things to do the first says more about the machine, the second is the program's.
"""

from __future__ import annotations

import atexit
import json
import sys
from pathlib import Path
from time import perf_counter, thread_time

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.cli import main
from gateway.relay import Relay

EVERY = 0.001


class Clock:
    """Ticks on the relay's loop from its start on."""

    def __init__(self, relay: Relay) -> None:
        self.loop = relay.loop
        self.late: list[float] = []
        self.busy: list[float] = []
        self.due = self.cpu = 0.0
        self.loop.call_later(EVERY, self.tick)

    def tick(self) -> None:
        now, cpu = perf_counter(), thread_time()
        if self.due:
            self.late.append(max(0.0, now - self.due))
            self.busy.append(cpu - self.cpu)
        self.due, self.cpu = perf_counter() + EVERY, cpu
        self.loop.call_later(EVERY, self.tick)

    def tell(self, path: Path) -> None:
        figures = {}
        for name, values in (("late", sorted(self.late)), ("busy", sorted(self.busy))):
            figures[f"{name}_p99_ms"] = values[len(values) * 99 // 100] * 1e3
            figures[f"{name}_worst_ms"] = values[-1] * 1e3
        path.write_text(json.dumps(figures))


def watched(path: Path) -> None:
    start = Relay.start

    def started(relay: Relay) -> None:
        start(relay)
        atexit.register(Clock(relay).tell, path)

    Relay.start = started  # type: ignore[method-assign]


if __name__ == "__main__":
    watched(Path(sys.argv.pop(1)))
    main()
