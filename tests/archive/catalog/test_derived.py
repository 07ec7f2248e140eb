"""What is derived follows a removal at once, whoever keeps it; in the worst case it is made anew."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from samples import HOUR, Shelf, whole

from archive.catalog import derived
from archive.catalog.follow import Follower
from archive.catalog.tables import CATALOG
from archive.member import Found, scan
from archive.record import Record
from archive.recovery import Span, rewritten
from archive.segment import Appender


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def follow(folder: Path) -> None:
    with contextlib.closing(Follower(folder, spare=0)) as follower:
        while follower.step():
            pass


def rows(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / "index" / CATALOG)) as db:
        return int(db.execute("SELECT count(*) FROM part").fetchone()[0])


def cut(shelf: Shelf, record: Record) -> None:
    """Take the only member of a record, the last of its segment, out of it."""
    path = shelf.put(record)
    size, appender = path.stat().st_size, Appender(shelf.folder)
    follow(shelf.folder)
    with contextlib.closing(appender), appender.held(path.name) as held:
        os.close(rewritten(path, held.fd, [Span(size - len_of(path), size)], size))


def len_of(path: Path) -> int:
    """Bytes of the last member."""
    with path.open("rb") as file:
        return [it.tag.length for it in scan(file) if isinstance(it, Found)][-1]


def test_without_a_catalog_there_is_nothing_to_wait_for(shelf: Shelf) -> None:
    derived.forget(shelf.folder, {bytes(16)})
    assert not (shelf.folder / "index").exists()
    (shelf.folder / "index").mkdir()
    (shelf.folder / "index" / "words-2026-11-19.sqlite").touch()
    derived.forget(shelf.folder, {bytes(16)})
    assert list((shelf.folder / "index").iterdir()) == [], "words without a catalog may be of anything"


def test_nobody_follows_so_it_is_done_here(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 1))
    record = whole(HOUR + 2)
    cut(shelf, record)
    assert rows(shelf.folder) == 2
    derived.forget(shelf.folder, {record.id})
    assert not list((shelf.folder / "index").glob("*-wal")) or (shelf.folder / "index" / (CATALOG + "-wal")).stat().st_size == 0
    follow(shelf.folder)
    assert rows(shelf.folder) == 1


def test_who_follows_is_waited_for(shelf: Shelf) -> None:
    record = whole(HOUR + 2)
    cut(shelf, record)
    stopped = threading.Event()
    thread = threading.Thread(target=Follower(shelf.folder, spare=0).run, args=(stopped,))
    thread.start()
    try:
        derived.forget(shelf.folder, {record.id})
        assert rows(shelf.folder) == 0
    finally:
        stopped.set()
        thread.join()


def test_what_does_not_follow_in_time_is_thrown_away(shelf: Shelf) -> None:
    record = whole(HOUR + 2)
    shelf.put(record)
    follow(shelf.folder)
    derived.forget(shelf.folder, {record.id}, patience=0.3)  # it is still there, so the catalog rightly has it
    assert not list((shelf.folder / "index").glob("*.sqlite*"))
    follow(shelf.folder)
    assert rows(shelf.folder) == 1


def test_a_damaged_catalog_is_thrown_away(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 2))
    follow(shelf.folder)
    (shelf.folder / "index" / CATALOG).write_bytes(b"no database at all" * 1000)
    derived.forget(shelf.folder, {bytes(16)}, patience=0.5)
    follow(shelf.folder)
    assert rows(shelf.folder) == 1


def test_words_of_other_days_stay(tmp_path: Path) -> None:
    for name in ("words-2026-11-19.sqlite", "words-2026-11-19.sqlite-wal", "words-2026-11-20.sqlite", "words-x.sqlite", "catalog.sqlite"):
        (tmp_path / name).touch()
    derived.drop_words(tmp_path, keep=["2026-11-20"])
    assert sorted(it.name for it in tmp_path.iterdir()) == ["catalog.sqlite", "words-2026-11-20.sqlite", "words-x.sqlite"]
    derived.drop_words(tmp_path / "nowhere", keep=())
