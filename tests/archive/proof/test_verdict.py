"""The verdict in one sentence: what it must not leave out."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig_seal import ELEVEN, LATER, TEN, TWELVE, filled, forget, rewritten, seal_all, tell
from samples import HOUR, Shelf

from archive.folder import seal_path
from archive.proof.keys import make_key
from archive.proof.seal import read_seal
from archive.proof.verdict import named
from archive.proof.verify import verify
from archive.record import id_text

THIRTEEN = "2026-11-19T13"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return filled(tmp_path / "archive")


def test_removed_records_are_in_the_verdict(shelf: Shelf, tmp_path: Path) -> None:
    forget(shelf, TEN, [1, 3])
    report = verify([shelf.folder])
    assert report.sentence == (
        f"complete but for 2 records removed on request ({TEN}), as a line tells that is not sealed yet: 4 hours, 9 records, 3 sealed "
        "and chained, 1 not (checksums and numbers are all that can be checked), nothing missing"
    )
    assert [(each.kind, each.segment, each.records, each.proof) for each in report.removed] == [("forget", TEN, 2, "not sealed")]
    (removal,) = report.removals
    assert (removal.hours, removal.told_in.name, removal.proof) == ([TEN], f"{THIRTEEN}.jsonl.gz", "not sealed")
    seal_all(shelf.folder)
    report = verify([shelf.folder])
    assert report.removed[0].proof == "sealed"
    assert report.sentence.startswith(f"complete but for 2 records removed on request ({TEN}): 4 hours, ")
    seal_path(shelf.folder, THIRTEEN).unlink()
    key = make_key(tmp_path / "key")
    seal_all(shelf.folder, key=key)
    assert verify([shelf.folder], key=key.public).removed[0].proof == "signed"
    assert verify([shelf.folder], key=make_key(tmp_path / "other").public).removed[0].proof == "sealed"


def test_a_pruned_hour_is_in_the_verdict(shelf: Shelf) -> None:
    seal, eleven = read_seal(shelf.folder, TEN), read_seal(shelf.folder, ELEVEN)
    assert seal is not None
    assert eleven is not None
    assert eleven.previous is not None
    numbers = [{"writer": id_text(shelf.writer), "first": 0, "last": 4, "records": 5}]
    what = {"segment": TEN, "records": 5, "bytes": 1, "root": seal.root, "seal": eleven.previous.sha256, "writers": numbers}
    tell(shelf, HOUR + 3 * 3600, "prune", [what])
    assert verify([shelf.folder]).removed == []  # it is still there
    (shelf.folder / f"{TEN}.jsonl.gz").unlink()
    seal_path(shelf.folder, TEN).unlink()
    report = verify([shelf.folder])
    assert report.sentence.startswith(f"complete but for 1 hour of 5 records removed as being the oldest ({TEN}), as a line tells that is ")
    assert [(each.kind, each.segment, each.records, each.proof) for each in report.removed] == [("prune", TEN, 5, "not sealed")]


def test_removals_are_told_beside_damage(shelf: Shelf) -> None:
    forget(shelf, ELEVEN, [0])
    rewritten(shelf.folder / f"{TEN}.jsonl.gz")
    assert f"; 1 record removed on request ({ELEVEN}), as a line tells " in verify([shelf.folder]).sentence


def test_a_damaged_archive_says_how_many_hours_are_as_they_were(shelf: Shelf) -> None:
    rewritten(shelf.folder / f"{TEN}.jsonl.gz")
    report = verify([shelf.folder])
    assert report.sentence.endswith("; 3 hours, 8 records, 3 sealed, 2 of them as they were sealed")
    for hour in (ELEVEN, TWELVE):
        path = shelf.folder / f"{hour}.jsonl.gz"
        path.write_bytes(path.read_bytes()[:-1])
    assert verify([shelf.folder]).sentence.endswith(
        "3 sealed, none of them as they were sealed; 1 writer has not closed: still at work, or killed"
    )


def test_hours_whose_chain_is_broken_are_not_called_chained(shelf: Shelf) -> None:
    seal_path(shelf.folder, ELEVEN).unlink()
    (shelf.folder / f"{ELEVEN}.jsonl.gz").unlink()
    assert "2 hours, 7 records, all sealed" in verify([shelf.folder]).sentence
    assert "chained" not in verify([shelf.folder]).sentence


def test_the_head_of_a_damaged_archive_is_not_to_be_kept(shelf: Shelf) -> None:
    assert verify([shelf.folder]).worth_keeping
    rewritten(shelf.folder / f"{TEN}.jsonl.gz")
    assert not verify([shelf.folder]).worth_keeping


def test_a_writer_may_have_closed_in_an_hour_that_was_not_given(shelf: Shelf) -> None:
    path = shelf.folder / f"{TEN}.jsonl.gz"
    assert verify([path]).sentence.endswith("1 writer has not closed: still at work, or killed, or closed in an hour that was not given")
    assert "not given" not in verify([shelf.folder], now=LATER).sentence


def test_many_hours_are_named_by_the_first() -> None:
    assert named([TEN, ELEVEN]) == f"{TEN}, {ELEVEN}"
    assert named([TEN, ELEVEN, TWELVE, THIRTEEN], most=2) == f"{TEN}, {ELEVEN} and 2 more"
