"""What `/_verbatim/health` tells: one process's figures, and those of several put together. Pure but for reading counters."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from gateway import __version__
from gateway.keeper import Keeper
from gateway.relay import Relay

__all__ = ["Report", "report", "total"]

Report = dict[str, Any]
"""JSON's types only, so that it can cross between processes as it is."""


def report(relay: Relay, keeper: Keeper | None) -> Report:
    """This process's figures, as of now. On the loop."""
    counters, stats = relay.counters, keeper.stats() if keeper is not None else None
    return {
        "verbatim": __version__,
        "recording": keeper is not None and keeper.tape.running,
        "exchanges": {"total": counters.exchanges, "active": len(relay.exchanges), "failed": counters.failed},
        "connections": len(relay.connections),
        "tasks": len(asyncio.all_tasks()),
        "refused_requests": counters.refused,
        "overloaded_requests": counters.overloaded,
        "capture_errors": counters.capture_errors,
        "declined": counters.declined,
        "unread_bytes": keeper.tape.unread if keeper is not None else 0,
        "lost_exchanges": keeper.tape.lost if keeper is not None else 0,
        "archive": dataclasses.asdict(stats) if stats is not None else None,
        "pid": os.getpid(),
    }


def total(reports: Sequence[Report]) -> Report:
    """Several processes' figures as one gateway's, and a line for each. `reports` are `report`s with what else is known of each process:
    "read" and "reloads" of its settings, and among several "restarts" and "answers"."""
    summed: Report = _sum([{key: value for key, value in one.items() if key not in OF_ONE} for one in reports])
    return {
        **summed,
        "recording": all(one["recording"] for one in reports),
        "settings": {"read": stamp(max(one["read"] for one in reports)), "reloads": min(one["reloads"] for one in reports)},
        "workers": [
            {
                "pid": one["pid"],
                "connections": one["connections"],
                "exchanges": one["exchanges"]["active"],
                "restarts": one.get("restarts", 0),
                "answers": one.get("answers", True),
            }
            for one in reports
        ],
    }


def stamp(at: float) -> str:
    """Unix time as RFC 3339 has it, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


OF_ONE: Final = frozenset({"pid", "read", "reloads", "restarts", "answers"})


def _sum(values: list[Any]) -> Any:
    """Numbers are added, a switch is on when one is, of texts the last in order holds; what a process does not know counts for nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        return {key: _sum([one.get(key) for one in known]) for key in known[0]}
    if isinstance(known[0], bool):
        return any(known)
    if isinstance(known[0], str):
        return max(known)
    return sum(known)
