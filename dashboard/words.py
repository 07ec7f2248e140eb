"""The viewer's words for what the archive says in codes: how an exchange ended, how good its status is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Ended", "ended", "tone"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How an exchange ended, for people. `tone` is a colour's name: good, note, warn, bad or live."""

    label: str
    tone: str
    sentence: str


_RUNNING = Ended("Running", "live", "It has not ended yet. What is shown is what has been written so far.")
_ENDS: Mapping[str, Ended] = {
    "complete": Ended("Complete", "good", "All of it crossed, both ways."),
    "client_closed": Ended("Client left", "warn", "The client closed its connection before the end. The upstream was cancelled at once."),
    "upstream_closed": Ended("Upstream broke off", "bad", "The upstream closed its connection in the middle. The client saw a broken stream."),
    "upstream_refused": Ended("Upstream not reached", "bad", "No answer came from the upstream. The gateway answered in its place."),
    "timeout": Ended("Timed out", "bad", "A time limit ran out."),
    "shutdown": Ended("Cut at shutdown", "warn", "The gateway was stopped and the time for open exchanges ran out."),
    "crashed": Ended("Crashed", "bad", "Its parts stop without an end: the gateway was killed, or its last records were lost."),
}


class _Entry(Protocol):
    @property
    def status(self) -> int | None: ...
    @property
    def end(self) -> str | None: ...


def ended(reason: str | None) -> Ended:
    """The words for an end reason; None is an exchange that still runs. An unknown reason (a newer archive's) is shown as it is."""
    if reason is None:
        return _RUNNING
    return _ENDS.get(reason) or Ended(reason, "note", "This viewer does not know this end reason.")


def tone(entry: _Entry) -> str:
    """The colour of an exchange's status: by its class (RFC 9110 section 15), or by its end when no status came."""
    if entry.status is None:
        return ended(entry.end).tone if entry.end != "complete" else "note"
    if entry.status >= 500:
        return "bad"
    if entry.status >= 400:
        return "warn"
    return "note" if 300 <= entry.status < 400 else "good"
