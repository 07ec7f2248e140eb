"""With a key, every hour that is over must be vouched for by it: hours without a seal, without recordings, or of another key are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from rig_seal import ELEVEN, LATER, TEN, TWELVE, filled, rewritten, seal_all
from samples import HOUR, Shelf, whole

from archive.folder import seal_path
from archive.keeping.pack import pack
from archive.proof.keys import Key, make_key
from archive.proof.verify import verify
from archive.proof.vouch import LATE, Now

END = HOUR + 3 * 3600
"""When the hour twelve is over."""


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path / "seal.key")


@pytest.fixture
def shelf(tmp_path: Path, key: Key) -> Shelf:
    """Three hours, sealed and signed."""
    shelf = filled(tmp_path / "archive")
    unsealed(shelf.folder, TEN, ELEVEN, TWELVE)
    seal_all(shelf.folder, key=key)
    return shelf


def unsealed(folder: Path, *hours: str) -> None:
    for hour in hours:
        seal_path(folder, hour).unlink()


def test_an_archive_robbed_of_every_seal_is_not_complete_to_who_has_the_key(shelf: Shelf, key: Key) -> None:
    rewritten(shelf.folder / f"{TEN}.jsonl.gz")
    unsealed(shelf.folder, TEN, ELEVEN, TWELVE)
    assert verify([shelf.folder], now=LATER).complete  # without the key nothing in these files can tell
    report = verify([shelf.folder], key=key.public, now=LATER)
    assert (report.verdict, report.complete, report.worth_keeping) == ("unproven", False, False)
    assert [(each.segment, each.why) for each in report.unproven] == [(hour, "over and not sealed") for hour in (TEN, ELEVEN, TWELVE)]
    assert report.sentence.startswith(
        f"unproven: 3 hours are over and not sealed ({TEN}, {ELEVEN}, {TWELVE}); 3 hours, 8 records, none sealed"
    )


def test_an_emptied_folder_is_not_complete_to_who_has_the_key(shelf: Shelf, key: Key) -> None:
    for path in shelf.folder.iterdir():
        path.unlink()
    assert verify([shelf.folder]).complete
    report = verify([shelf.folder], key=key.public)
    assert (report.verdict, report.complete, [each.file for each in report.unproven]) == ("unproven", False, [shelf.folder])
    assert report.sentence == "unproven: there are no recordings here, so there is nothing that your key vouches for"


def test_an_hour_that_is_not_long_over_needs_no_seal_yet(shelf: Shelf, key: Key) -> None:
    unsealed(shelf.folder, TWELVE)
    assert verify([shelf.folder], key=key.public, now=END + LATE - 1).complete
    report = verify([shelf.folder], key=key.public, now=END + LATE)
    assert [each.segment for each in report.unproven] == [TWELVE]


def test_a_clock_that_is_late_is_put_right_by_the_newest_record(shelf: Shelf, key: Key) -> None:
    unsealed(shelf.folder, TWELVE)
    shelf.put(whole(END + LATE - 1))
    assert verify([shelf.folder], key=key.public, now=END - 60).complete
    shelf.put(whole(END + LATE + 1))
    report = verify([shelf.folder], key=key.public, now=END - 60)
    assert [each.segment for each in report.unproven] == [TWELVE]


def test_an_hour_still_to_come_is_named(shelf: Shelf, key: Key) -> None:
    """Else whatever is renamed to a later hour would pass for the one that is being written."""
    shelf.put(whole(END + 9 * 3600))
    report = verify([shelf.folder], key=key.public, now=END)
    assert [(each.segment, each.why) for each in report.unproven] == [("2026-11-19T22", "still to come by this machine's clock")]


def test_a_single_file_needs_the_keys_seal_too(shelf: Shelf, key: Key, tmp_path: Path) -> None:
    path = shelf.folder / f"{ELEVEN}.jsonl.gz"
    assert verify([path], key=key.public, now=LATER).complete
    assert not verify([path], key=make_key(tmp_path / "other").public, now=LATER).complete
    renamed = tmp_path / "renamed.gz"
    renamed.write_bytes((shelf.folder / f"{TEN}.jsonl.gz").read_bytes())
    assert verify([renamed], now=LATER).complete
    assert [each.file for each in verify([renamed], key=key.public, now=LATER).unproven] == [renamed]
    unsealed(shelf.folder, ELEVEN, TWELVE)
    assert [each.file for each in verify([path], key=key.public, now=LATER).unproven] == [path]


def test_a_packed_hour_is_vouched_for_by_the_same_seal(shelf: Shelf, key: Key) -> None:
    pack(shelf.folder, TEN)
    assert verify([shelf.folder], key=key.public, now=LATER).complete
    unsealed(shelf.folder, TEN, ELEVEN, TWELVE)
    assert [each.segment for each in verify([shelf.folder], key=key.public, now=LATER).unproven] == [TEN, ELEVEN, TWELVE]


def test_hours_that_are_long_over_and_not_sealed_are_named_without_a_key_too(shelf: Shelf) -> None:
    unsealed(shelf.folder, TWELVE)
    assert verify([shelf.folder], now=END).overdue == []
    report = verify([shelf.folder], now=LATER)
    assert (report.complete, report.overdue) == (True, [TWELVE])


def test_the_last_hour_of_all_and_a_day_that_is_none_have_their_say() -> None:
    now = Now(LATER, [])
    assert now.over("2026-02-31T10")
    assert not now.over("9999-12-31T23")
    assert now.to_come("9999-12-31T23")
