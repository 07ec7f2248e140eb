"""The viewer's words for what the archive says in codes: how an exchange ended, how good its status is. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from dashboard.text import size

__all__ = ["Ended", "ended", "found_at", "happened", "ledger", "shown", "tone", "trouble"]


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
    "upstream_closed": Ended("Broke off", "bad", "The upstream closed its connection in the middle. The client saw a broken stream."),
    "upstream_refused": Ended("Not reached", "bad", "No answer came from the upstream. The gateway answered in its place."),
    "timeout": Ended("Timed out", "bad", "A time limit ran out."),
    "shutdown": Ended("Shut down", "warn", "The gateway was stopped and the time for open exchanges ran out."),
    "crashed": Ended("Crashed", "bad", "Its parts stop without an end: the gateway was killed, or its last records were lost."),
}


_TROUBLES: Mapping[str, str] = {
    "limit": "It would grow beyond the recording limit, so it is kept as it crossed the wire, compressed.",
    "damaged": "Its compression is damaged; from there on it is kept as it crossed the wire.",
    "unknown coding": "It came in a content coding that is not known here, and is kept as it crossed the wire.",
    "lost part": "A part of it was lost before it was written; what came after is kept as it crossed the wire.",
    "unread": "Some of it could not be read; the archive lines below say why.",
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


def found_at(source: str | None) -> str:
    """Where a session or user was found, for people."""
    if source is None:
        return ""
    if source == "inferred":
        return "inferred: what this program on this machine asks of this route"
    if source == "path":
        return "from the path"
    where, _, key = source.partition("body.")
    return f"from {key} in the request" if key and not where else f"from {source}"


def trouble(error: str) -> str:
    """Why a body is not what it was meant to be. An unknown reason is shown as it is."""
    return _TROUBLES.get(error, f"It is kept as it crossed the wire: {error}.")


def tone(entry: _Entry) -> str:
    """The colour of an exchange's status: by its class (RFC 9110 section 15), or by its end when no status came."""
    if entry.status is None:
        return ended(entry.end).tone if entry.end != "complete" else "note"
    if entry.status >= 500:
        return "bad"
    if entry.status >= 400:
        return "warn"
    return "note" if 300 <= entry.status < 400 else "good"


class _Event(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def writer(self) -> str: ...
    @property
    def detail(self) -> Mapping[str, Any] | None: ...
    @property
    def why(self) -> str: ...


E = TypeVar("E", bound=_Event)


def happened(event: _Event) -> Ended:
    """An archive event, for people."""
    detail = event.detail or {}
    match event.kind:
        case "open":
            return Ended(
                "Start",
                "good",
                f"A gateway began to write: version {_said(detail, 'version')}, process {_said(detail, 'pid')} on {_said(detail, 'host')}.",
            )
        case "close":
            lost = detail.get("dropped")
            tail = f" {lost} were dropped, as the gaps before say." if lost else ""
            return Ended("Stop", "note", f"It stopped cleanly after {_said(detail, 'written')} records.{tail}")
        case "gap":
            return Ended("Gap", "warn" if not detail.get("records") else "bad", _gap(detail))
        case "declined":
            return Ended("Declined", "note", _declined(detail))
        case "forget":
            return Ended("Forgotten", "note", _forgotten(detail))
        case "prune":
            return Ended("Removed", "note", _pruned(detail))
        case "damage":
            return Ended(
                "Damage", "bad", f"These bytes are no readable record: {event.why}. What comes before and after is not touched by it."
            )
    return Ended(event.kind, "note", "This viewer does not know this kind of event.")


def shown(events: Sequence[E]) -> list[E]:
    """Those worth a person's while: who only removed something has neither started nor stopped a recording."""
    removers = {event.writer for event in events if event.kind in ("forget", "prune")}
    return [event for event in events if not (event.kind in ("open", "close") and event.writer in removers)]


def ledger(events: Sequence[_Event]) -> dict[str, int]:
    """What the archive's own events add up to. Lost: exchange records that gaps tell of; declined: exchanges that their
    clients wanted unrecorded."""
    sums = {"starts": 0, "stops": 0, "gaps": 0, "lost": 0, "declined": 0, "damages": 0, "removals": 0}
    names = {"open": "starts", "close": "stops", "gap": "gaps", "damage": "damages", "forget": "removals", "prune": "removals"}
    for event in shown(events):
        if event.kind in names:
            sums[names[event.kind]] += 1
        lost = (event.detail or {}).get("records") if event.kind == "gap" else None
        sums["lost"] += lost if isinstance(lost, int) else 0
        asked = (event.detail or {}).get("exchanges") if event.kind == "declined" else None
        sums["declined"] += asked if isinstance(asked, int) else 0
    return sums


def _gap(detail: Mapping[str, Any]) -> str:
    span = f"from {_said(detail, 'since')} to {_said(detail, 'until')}: {_said(detail, 'why')}."
    if not detail.get("records"):
        return f"Writing paused {span} Nothing was lost."
    amount = detail.get("bytes")
    about = f", about {size(amount)}" if isinstance(amount, int) else ""
    lost = f"{_said(detail, 'records')} records of {_said(detail, 'exchanges')} exchanges{about}"
    return f"{lost} were not kept {span} They were relayed all the same."


def _declined(detail: Mapping[str, Any]) -> str:
    number = detail.get("exchanges")
    what = _plural(number, "exchange") if isinstance(number, int) else "exchanges"
    were, who = ("was", "its client") if number == 1 else ("were", "their clients")
    span = f"from {_said(detail, 'since')} to {_said(detail, 'until')}"
    return f"{what} {span} {were} relayed and not recorded, because {who} asked for that. Nothing is missing."


def _forgotten(detail: Mapping[str, Any]) -> str:
    removed = [it for it in _list(detail, "removed") if isinstance(it, Mapping)]
    exchanges = len({str(it.get("id")) for it in removed})
    hours = len({str(it.get("segment")) for it in removed})
    what = f"{_plural(len(removed), 'record')} of {_plural(exchanges, 'exchange')} in {_plural(hours, 'hour')}"
    return f"{_said(detail, 'by')} had {what} removed: {_said(detail, 'why')}. All others are as they were."


def _pruned(detail: Mapping[str, Any]) -> str:
    hours = [it for it in _list(detail, "segments") if isinstance(it, Mapping)]
    names = sorted(str(it.get("segment")) for it in hours)
    records = sum(it["records"] for it in hours if isinstance(it.get("records"), int))
    amount = sum(it["bytes"] for it in hours if isinstance(it.get("bytes"), int))
    span = f", {names[0]} to {names[-1]}" if len(names) > 1 else f", {names[0]}" if names else ""
    what = f"{_plural(len(hours), 'hour')}{span}, with {_plural(records, 'record')} in {size(amount)}"
    return f"{_said(detail, 'by')} had {what} removed to keep within bounds: {_said(detail, 'why')}."


def _plural(count: int, one: str) -> str:
    return f"{count:,} {one}{'s' * (count != 1)}"


def _list(detail: Mapping[str, Any], key: str) -> list[Any]:
    found = detail.get(key)
    return found if isinstance(found, list) else []


def _said(detail: Mapping[str, Any], key: str) -> str:
    value = detail.get(key)
    return "unknown" if value is None or value == "" else str(value)
