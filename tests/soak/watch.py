"""What a process tree holds: memory, descriptors, threads, read from /proc; and whether memory grows. Linux only."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Held", "held", "more_descriptors", "named", "slope", "tree"]

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
TICK: Final = os.sysconf("SC_CLK_TCK")
NAMES: Final = {b"gateway.keeping": "keeper", b"gateway.caretaker": "caretaker", b"dashboard.server": "viewer", b"gateway.cli": "relay"}
"""What stands on the command line of our processes."""


@dataclass(frozen=True, slots=True)
class Held:
    """One process at one moment."""

    rss: int
    """Bytes."""
    fds: int
    threads: int
    cpu: float
    """Seconds of user and system time so far."""


def tree(pid: int) -> dict[int, str]:
    """`pid` and what descends from it, each with its part."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found.extend(parents.get(each, ()))
    return {each: part(each) for each in found}


def part(pid: int) -> str:
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return next((name for mark, name in NAMES.items() if mark in command), "other")
    return "gone"


def named(pid: int) -> dict[str, int]:
    """The parts of the gateway that `pid` started, by name."""
    return {name: each for each, name in tree(pid).items() if name not in ("gone", "other")}


def held(pid: int) -> Held | None:
    """None when it is gone."""
    with suppress(OSError, IndexError):
        at = Path(f"/proc/{pid}")
        fields = (at / "stat").read_text().rpartition(")")[2].split()
        fds = len(os.listdir(at / "fd"))
        return Held(int((at / "statm").read_text().split()[1]) * PAGE, fds, int(fields[17]), (int(fields[11]) + int(fields[12])) / TICK)
    return None


def more_descriptors() -> None:
    """As many for this process as the system lets it have: each end of a thousand connections needs a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How steeply the second number grows with the first: least squares, so that a spike weighs as one point among all."""
    if len(points) < 2:
        return 0.0
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    return sum((x - middle) * (y - level) for x, y in points) / spread if spread else 0.0
