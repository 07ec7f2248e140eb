"""Counting numbers: there, told of, missing, twice; by hand and for any order of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive.errors import DamagedMember
from archive.proof.ledger import Claim, Ledger, Log
from archive.proof.report import Missing, Repeated

LOST = "unknown: nothing here tells of their loss"
EARLIER = "written before the first of these files, or lost"


def log(*seqs: int | None, writer: str = "w", opened: bool = True) -> Log:
    """A file with these numbers of one writer; None is a damaged stretch. Number n is written at second n."""
    made = Log()
    for seq in seqs:
        if seq is None:
            made.damages += 1
        else:
            if seq == 0 and opened:
                made.own({"kind": "open", "writer": writer, "open": {"host": "here", "pid": 7}})
            made.record(writer, seq, at(seq))
    return made


def at(seq: int) -> str:
    return f"2026-11-19T10:{seq // 60:02}:{seq % 60:02}Z"


def gap(log: Log, seq: int, records: int, writer: str = "w") -> None:
    told = {"since": at(seq - records), "until": at(seq), "records": records, "exchanges": records, "bytes": 1, "why": "no space left"}
    log.own({"kind": "gap", "writer": writer, "seq": seq, "gap": told})
    log.record(writer, seq, at(seq))


def ledger(*logs: Log) -> Ledger:
    made = Ledger()
    for number, each in enumerate(logs):
        made.add(each, Path(str(number)))
    return made


def test_a_hole_is_told_with_the_times_around_it() -> None:
    assert ledger(log(0, 1, 2, 5, 6)).missing() == [Missing("w", 3, 4, at(2), at(5), LOST)]
    assert ledger(log(0, 1, 2), log(5)).missing() == [Missing("w", 3, 4, at(2), at(5), LOST)]
    assert ledger(log(0, 1, 2)).missing() == []


def test_numbers_with_damage_between_their_neighbours_are_missing_for_it() -> None:
    for logs in ([log(0, 1, None, 3)], [log(0, 1, None), log(3)], [log(0, 1), log(None, 3)], [log(0, 1), log(None), log(3)]):
        (hole,) = ledger(*logs).missing()
        assert hole.why.startswith("damaged: ")
    for logs in ([log(0, None, 1, 3)], [log(None, 0, 1), log(3, None)]):
        (hole,) = ledger(*logs).missing()
        assert hole.why == LOST


def test_a_beginning_that_lies_elsewhere_is_told_as_such() -> None:
    assert ledger(log(3, 4)).missing() == [Missing("w", 0, 2, None, at(3), EARLIER)]
    alone = Ledger()
    alone.add(log(3, 4), Path("alone"), alone=True)
    assert alone.missing() == []


def test_what_a_gap_tells_of_is_not_missing_and_bounds_what_is() -> None:
    told = log(0, 1)
    gap(told, 6, 2)
    told.record("w", 7, at(7))
    assert ledger(told).missing() == [Missing("w", 2, 3, at(1), at(4), LOST)]
    assert ledger(told).repeated() == []


def test_numbers_that_are_there_twice_are_told() -> None:
    assert ledger(log(0, 1, 2), log(1, 2, 3)).repeated() == [Repeated("w", 1, 2, Path("0"), Path("1"), gap=False)]
    assert ledger(log(0, 1, 2, 1), log(1)).repeated() == [
        Repeated("w", 1, 1, Path("0"), Path("0"), gap=False),
        Repeated("w", 1, 1, Path("0"), Path("1"), gap=False),
    ]
    assert ledger(log(0), log(1, 2, 3), log(1, 2)).repeated() == [Repeated("w", 1, 2, Path("1"), Path("2"), gap=False)]
    contradicted = log(0, 1, 2)
    gap(contradicted, 3, 1)  # tells of 2 as lost
    assert ledger(contradicted).repeated() == [Repeated("w", 2, 2, Path("0"), Path("0"), gap=True)]


def test_seals_claim_what_files_no_longer_show() -> None:
    for gone, why in ((True, "the sealed hour H is gone"), (False, "they are no longer in the sealed hour H")):
        made = ledger(log(0, 1))
        made.claim([Claim("w", 0, 3, "H", gone), Claim("other", 0, 0, "H", gone)])
        assert made.missing() == [Missing("other", 0, 0, None, None, why), Missing("w", 2, 3, at(1), None, why)]
        assert [writer.id for writer in made.writers()] == ["w"]


def test_what_was_removed_on_purpose_is_not_missing() -> None:
    told = log(0, 1, 4)
    removed = [{"segment": "H", "index": 2, "writer": "w", "seq": 2, "digest": "00" * 32}]
    told.own({"kind": "forget", "writer": "r", "at": at(9), "forget": {"by": "me", "why": "asked", "removed": removed}})
    pruned = {"segment": "G", "records": 1, "seal": None, "writers": [{"writer": "w", "first": 3, "last": 3}]}
    told.own({"kind": "prune", "writer": "r", "at": at(9), "prune": {"by": "me", "why": "old", "segments": [pruned]}})
    assert ledger(told).missing() == []
    assert [(each.kind, each.count) for each in told.told] == [("forget", 1), ("prune", 1)]


def test_a_writer_is_killed_when_its_process_opened_another() -> None:
    def killed(*logs: Log) -> dict[str, bool]:
        return {writer.id: writer.killed for writer in ledger(*logs).writers()}

    later = Log()
    later.own({"kind": "open", "writer": "v", "open": {"host": "here", "pid": 7}})
    later.record("v", 0, at(30))
    assert killed(log(0, 1), later) == {"w": True, "v": False}
    elsewhere = Log()
    elsewhere.own({"kind": "open", "writer": "v", "open": {"host": "there", "pid": 7}})
    elsewhere.record("v", 0, at(30))
    assert killed(log(0, 1), elsewhere) == {"w": False, "v": False}
    closed = log(0, 1)
    closed.own({"kind": "close", "writer": "w", "close": {}})
    assert killed(closed, later) == {"w": False, "v": False}


@pytest.mark.parametrize(
    "line",
    [
        {"kind": "gap", "gap": {}},
        {"kind": "gap", "seq": 3, "gap": {"since": "", "until": "", "records": 4, "exchanges": 1, "bytes": 1, "why": ""}},
        {"kind": "gap", "gap": [1]},
        {"kind": "open"},
        {"kind": "open", "open": {"host": "h", "pid": "x"}},
        {"kind": "forget", "at": "t", "forget": {"by": "", "why": "", "removed": [{"segment": "H"}]}},
        {"kind": "forget", "at": "t", "forget": {"by": "", "why": "", "removed": 5}},
        {"kind": "prune", "at": "t", "prune": {"by": "", "why": ""}},
    ],
)
def test_a_line_that_is_not_of_its_schema_is_refused(line: dict[str, Any]) -> None:
    made = Log()
    with pytest.raises(DamagedMember):
        made.own({"writer": "w", **line})
    assert (made.writers, made.gaps, made.told) == ({}, [], [])


def test_a_digest_that_is_none_is_refused() -> None:
    for digest in ("00", "zz" * 32):
        removed = [{"segment": "H", "index": 2, "writer": "w", "seq": 2, "digest": digest}]
        with pytest.raises(DamagedMember):
            Log().own({"kind": "forget", "writer": "r", "at": "t", "forget": {"by": "", "why": "", "removed": removed}})


@given(st.lists(st.sampled_from(["write", "tell", "lose"]), max_size=60), st.lists(st.integers(1, 60), max_size=3))
def test_missing_is_exactly_what_was_lost_untold(events: list[str], cuts: list[int]) -> None:
    """Whatever is written, lost and told of, however the numbers fall into files."""
    logs, lost, seq, untold, pending = [log(0)], set[int](), 1, set[int](), 0
    for step, event in enumerate(events):
        if step in cuts:
            logs.append(Log())
        if event == "write" and pending:
            gap(logs[-1], seq + pending, pending)
            seq, pending = seq + pending + 1, 0
        if event == "write":
            logs[-1].record("w", seq, at(seq % 3000))
            lost |= untold
            untold = set()
            seq += 1
        elif event == "tell":
            pending += 1
        else:
            untold.add(seq + pending) if not pending else None
            seq += 0 if pending else 1
    found = {number for each in ledger(*logs).missing() for number in range(each.first, each.last + 1)}
    assert found == lost
    assert ledger(*logs).repeated() == []
