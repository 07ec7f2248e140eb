"""Codes into words: nothing unknown is hidden, nothing lost is called fine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from archive.record import EndReason
from dashboard.words import ended, happened, ledger, shown, tone, trouble


@dataclass
class Entry:
    status: int | None
    end: str | None


@dataclass
class Event:
    kind: str
    detail: Mapping[str, Any] | None = None
    why: str = ""
    writer: str = ""


@pytest.mark.parametrize("reason", EndReason)
def test_every_end_reason_has_its_words(reason: EndReason) -> None:
    assert ended(reason.value).sentence != ended("from-the-future").sentence
    assert (ended(reason.value).tone == "good") == (reason is EndReason.COMPLETE)


def test_an_unknown_end_reason_is_shown_as_it_is() -> None:
    assert ended("from-the-future").label == "from-the-future"


def test_every_trouble_of_a_body_is_told() -> None:
    assert "compressed" in trouble("limit")
    assert "eclipse" in trouble("eclipse")


def test_no_end_is_running() -> None:
    assert ended(None).label == "Running"


@pytest.mark.parametrize(
    ("status", "end", "colour"),
    [
        *[
            (200, "complete", "good"),
            (101, None, "good"),
            (304, "complete", "note"),
            (429, "complete", "warn"),
            (502, "upstream_refused", "bad"),
        ],
        *[(None, None, "live"), (None, "client_closed", "warn"), (None, "crashed", "bad"), (None, "complete", "note")],
    ],
)
def test_a_status_has_its_colour(status: int | None, end: str | None, colour: str) -> None:
    assert tone(Entry(status, end)) == colour


def test_events_are_told_in_sentences() -> None:
    assert "version 1.2, process 7 on box" in happened(Event("open", {"version": "1.2", "pid": 7, "host": "box"})).sentence
    assert "cleanly after 5 records" in happened(Event("close", {"written": 5, "dropped": 0})).sentence
    assert "2 were dropped" in happened(Event("close", {"written": 5, "dropped": 2})).sentence
    assert "checksum" in happened(Event("damage", why="checksum")).sentence
    assert "version unknown" in happened(Event("open", None)).sentence
    assert happened(Event("eclipse")).label == "eclipse"


def test_events_add_up() -> None:
    events = [
        Event("open"),
        Event("gap", {"records": 3}),
        Event("gap", {"records": None}),
        Event("close"),
        Event("damage"),
        Event("eclipse"),
    ]
    assert ledger(events) == {"starts": 1, "stops": 1, "gaps": 2, "lost": 3, "declined": 0, "damages": 1, "removals": 0}


def test_a_gap_says_what_was_lost() -> None:
    gap = {"since": "10:00", "until": "10:01", "records": 3, "exchanges": 2, "bytes": 2048, "why": "no space"}
    assert happened(Event("gap", gap)).sentence.startswith(
        "3 records of 2 exchanges, about 2.0 KiB were not kept from 10:00 to 10:01: no space."
    )
    assert "Nothing was lost" in happened(Event("gap", {**gap, "records": 0})).sentence


def test_what_clients_wanted_unrecorded_is_told_and_no_loss() -> None:
    asked = {"since": "10:00", "until": "10:01", "exchanges": 3}
    told = happened(Event("declined", asked))
    assert (told.label, told.tone) == ("Declined", "note")
    assert told.sentence == (
        "3 exchanges from 10:00 to 10:01 were relayed and not recorded, because their clients asked for that. Nothing is missing."
    )
    assert happened(Event("declined", {**asked, "exchanges": 1})).sentence.startswith("1 exchange from 10:00 to 10:01 was relayed")
    assert "unknown" in happened(Event("declined", {})).sentence
    sums = ledger([Event("declined", asked), Event("declined", asked)])
    assert (sums["declined"], sums["lost"], sums["gaps"]) == (6, 0, 0)


def test_a_removal_says_who_what_and_why() -> None:
    removed = [{"id": "a", "segment": "2026-11-19T10"}, {"id": "a", "segment": "2026-11-19T11"}, {"id": "b", "segment": "2026-11-19T11"}, 7]
    forgotten = happened(Event("forget", {"by": "me@here", "why": "asked for", "removed": removed}))
    assert forgotten.label == "Forgotten"
    assert forgotten.sentence == "me@here had 3 records of 2 exchanges in 2 hours removed: asked for. All others are as they were."
    hours = [{"segment": "2026-11-19T10", "records": 1200, "bytes": 2048}, {"segment": "2026-11-19T09", "records": None}, "x"]
    pruned = happened(Event("prune", {"by": "me@here", "why": "older than 30 days", "segments": hours}))
    assert pruned.sentence == (
        "me@here had 2 hours, 2026-11-19T09 to 2026-11-19T10, with 1,200 records in 2.0 KiB removed to keep within bounds: "
        "older than 30 days."
    )
    for kind in ("forget", "prune"):
        assert "unknown" in happened(Event(kind, {})).sentence
        assert "unknown" in happened(Event(kind, {"removed": 5, "segments": {}})).sentence


def test_who_only_removes_has_started_and_stopped_nothing() -> None:
    events = [
        Event("open", writer="a"),
        Event("open", writer="b"),
        Event("forget", writer="b"),
        Event("close", writer="b"),
        Event("damage"),
    ]
    assert [(it.kind, it.writer) for it in shown(events)] == [("open", "a"), ("forget", "b"), ("damage", "")]
    assert ledger(events) == {"starts": 1, "stops": 0, "gaps": 0, "lost": 0, "declined": 0, "damages": 1, "removals": 1}
