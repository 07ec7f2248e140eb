"""Upkeep: what a crash left half made is swept up; what is somebody else's, or being made, is not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from samples import HOUR, Shelf, whole

from archive.folder import QUARANTINE
from archive.keeping.clerk import alone
from archive.keeping.upkeep import sweep
from archive.segment import Appender


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.put(whole(HOUR + 1))
    return shelf


def names(folder: Path) -> list[str]:
    return sorted(it.name for it in folder.iterdir())


def test_copies_without_a_name_and_doubled_forms_are_swept_up(shelf: Shelf) -> None:
    leftovers = [
        ".2026-11-19T10.jsonl.gz.new",
        ".2026-11-19T10.jsonl.zst.new",
        ".2026-11-19T10.seal.json.new",
        ".2026-11-19T23.jsonl.gz.new",
        "2026-11-19T10.jsonl.zst",
    ]
    others = [
        ".jsonl.gz.new",
        ".2026-11-19T10.notes.new",
        "2026-11-19T11.jsonl.zst",
        "2026-11-19T10.jsonl.gz.new",
        ".2026-11-19T10.jsonl.gz",
    ]
    for name in [*leftovers, *others]:
        (shelf.folder / name).touch()
    with alone(shelf.folder):
        assert sweep(shelf.folder) == sorted(leftovers)
        assert sweep(shelf.folder) == []
    assert names(shelf.folder) == sorted([*others, "2026-11-19T10.jsonl.gz"])


def test_quarantined_bytes_stay(shelf: Shelf) -> None:
    quarantine = shelf.folder / QUARANTINE
    quarantine.mkdir()
    for name in ("2026-11-19T10.jsonl.gz.5.x", ".2026-11-19T10.jsonl.gz.5.x.new"):
        (quarantine / name).touch()
    with alone(shelf.folder):
        assert sweep(shelf.folder) == [f"{QUARANTINE}/.2026-11-19T10.jsonl.gz.5.x.new"]
    assert names(quarantine) == ["2026-11-19T10.jsonl.gz.5.x"]


def test_a_copy_that_is_being_made_is_waited_for(shelf: Shelf) -> None:
    """Recovery makes one under the segment's lock alone."""
    copy = shelf.folder / ".2026-11-19T10.jsonl.gz.new"
    appender = Appender(shelf.folder)
    swept = threading.Event()

    def work() -> None:
        with alone(shelf.folder):
            sweep(shelf.folder)
        swept.set()

    try:
        with appender.held("2026-11-19T10.jsonl.gz"):
            copy.touch()
            thread = threading.Thread(target=work)
            thread.start()
            assert not swept.wait(0.2)
            assert copy.exists()
            copy.unlink()  # it got its name
        assert swept.wait(20)
        thread.join()
    finally:
        appender.close()
