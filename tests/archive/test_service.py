"""The archive's own lines, and the rule by which a writer is told to be gone."""

from __future__ import annotations

import pytest

from archive.errors import DamagedMember
from archive.exchange import Place
from archive.service import Event, Writers, damage, event

LINE = {"kind": "open", "at": "2026-11-19T10:00:00.000000Z", "writer": "w", "seq": 0, "open": {"host": "h", "pid": 1}}


def opened(writer: str, offset: int, host: str = "here", pid: int = 1, segment: str = "2026-11-19T10.jsonl.gz") -> Event:
    return Event("open", Place(segment, offset, 1), writer=writer, seq=0, detail={"host": host, "pid": pid})


def closed(writer: str) -> Event:
    return Event("close", Place("2026-11-19T10.jsonl.gz", 999, 1), writer=writer, seq=9, detail={})


LAST = ("2026-11-19T10.jsonl.gz", 50)


@pytest.mark.parametrize(
    ("events", "alive", "gone"),
    [
        ([opened("w", 0)], True, False),
        ([opened("w", 0)], False, True),
        ([opened("w", 0), closed("w")], True, True),
        ([opened("w", 0), closed("other")], True, False),
        ([opened("w", 0), opened("sibling", 100, pid=2)], True, False),
        ([opened("w", 100), opened("before", 0)], True, False),
        ([opened("w", 0), opened("again", 100)], True, True),
        ([opened("w", 0, host="there")], False, False),
        ([opened("w", 0, host="there"), opened("sibling", 10, host="there", pid=2)], False, False),
        ([opened("w", 0, host="there"), opened("later", 60, host="there", pid=2)], False, True),
        ([opened("w", 0, pid=0)], False, False),
        ([opened("w", 0, pid="x")], False, False),  # type: ignore[arg-type]
        ([], False, False),
        ([opened("later", 60)], True, True),
        ([opened("later", 0, segment="2026-11-19T11.jsonl.gz")], True, True),
        ([opened("before", 40)], True, False),
    ],
)
def test_a_writer_is_gone_when_something_shows_it(events: list[Event], alive: bool, gone: bool) -> None:
    for order in (events, events[::-1], events * 2):
        writers = Writers(host="here", running=lambda _: alive)
        writers.learn(order)
        assert writers.gone("w", last=LAST) is gone
        assert writers.knows("w") is any(each.writer == "w" for each in events)


@pytest.mark.parametrize("kind", ["forget", "prune"])
def test_one_that_only_removes_does_not_take_a_recorders_place(kind: str) -> None:
    """A removal on another machine, or in another container, is no sign that the recorder is gone."""
    removal = Event(kind, Place("2026-11-19T10.jsonl.gz", 61, 1), writer="remover", seq=1, detail={})  # type: ignore[arg-type]
    for order in ([opened("w", 0, host="there"), opened("remover", 60, pid=3), removal], [removal, opened("remover", 60, pid=3)]):
        writers = Writers(host="here", running=lambda _: True)
        writers.learn(order)
        assert not writers.gone("w", last=LAST)


@pytest.mark.parametrize("kind", ["open", "close", "gap", "forget", "prune"])
def test_every_kind_of_own_line_becomes_an_event(kind: str) -> None:
    assert event({**LINE, "kind": kind, kind: {"why": "w"}}, Place("s", 1, 2)).kind == kind


def test_a_line_of_the_archives_own_becomes_an_event() -> None:
    made = event(LINE, Place("s", 1, 2))
    assert (made.kind, made.writer, made.seq, made.detail) == ("open", "w", 0, {"host": "h", "pid": 1})
    assert made.at is not None
    assert made.at.isoformat() == "2026-11-19T10:00:00+00:00"
    assert damage(Place("s", 1, 2), "why").why == "why"


@pytest.mark.parametrize(
    "change", [{"kind": "exchange"}, {"kind": ["open"]}, {"kind": "gap"}, {"open": 1}, {"at": "x"}, {"at": 5}, {"seq": None}], ids=str
)
def test_a_line_of_another_schema_is_damage(change: dict[str, object]) -> None:
    with pytest.raises(DamagedMember):
        event({**LINE, **change}, Place("s", 1, 2))
