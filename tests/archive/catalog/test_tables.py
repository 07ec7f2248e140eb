"""The catalog's file: made private, in its place, thrown away when it is not ours to use."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from archive.catalog.tables import CATALOG, SCHEMA, index_folder, open_for_reading, open_for_writing, throw_away
from archive.database import is_fault


def made(index: Path) -> None:
    open_for_writing(index).close()


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("PRAGMA user_version").fetchone()[0])
    finally:
        db.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_owner_may_read_the_catalog(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        db = open_for_writing(tmp_path / "archive" / "index")
        db.execute("UPDATE state SET serial = 1")  # which makes the log
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "archive" / "index").iterdir()}
        db.close()
    finally:
        os.umask(before)
    assert modes == {CATALOG: 0o600, CATALOG + "-wal": 0o600, CATALOG + "-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "archive" / "index").stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["garbage", "empty", "another schema", "another's database", "a link", "a log alone", "cut short"])
def test_whatever_bears_its_name_and_is_not_it_is_thrown_away(tmp_path: Path, what: str) -> None:
    index, path, elsewhere = tmp_path / "index", tmp_path / "index" / CATALOG, tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    index.mkdir()
    match what:
        case "garbage":
            path.write_bytes(os.urandom(10_000))
        case "empty":
            path.touch()
        case "another schema":
            made(index)
            db = sqlite3.connect(path)
            db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
            db.close()
        case "another's database":
            db = sqlite3.connect(path)
            db.execute("CREATE TABLE theirs (x)")
            db.close()
        case "a link":
            path.symlink_to(elsewhere)
        case "a log alone":
            Path(f"{path}-wal").write_bytes(os.urandom(5000))
        case "cut short":
            made(index)
            os.truncate(path, 5000)
    (index / "words-2026-11-19.sqlite").write_bytes(b"not ours to touch")
    db = open_for_writing(index)
    assert db.execute("SELECT serial FROM state").fetchone() == (0,)
    db.close()
    assert version(path) == SCHEMA
    assert not path.is_symlink()
    assert elsewhere.read_bytes() == b"mine"
    assert (index / "words-2026-11-19.sqlite").read_bytes() == b"not ours to touch"


def test_reading_makes_nothing(tmp_path: Path) -> None:
    assert open_for_reading(tmp_path / CATALOG) is None
    made(tmp_path)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == [CATALOG]
    db = open_for_reading(tmp_path / CATALOG)
    assert db is not None
    assert db.execute("SELECT serial FROM state").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError):
        db.execute("UPDATE state SET serial = 9")
    db.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def test_a_catalog_of_another_schema_is_none_to_a_reader(tmp_path: Path) -> None:
    made(tmp_path)
    db = sqlite3.connect(tmp_path / CATALOG)
    db.execute("PRAGMA user_version = 77")
    db.close()
    assert open_for_reading(tmp_path / CATALOG) is None
    (tmp_path / CATALOG).write_bytes(os.urandom(5000))
    with pytest.raises(sqlite3.DatabaseError) as damaged:
        open_for_reading(tmp_path / CATALOG)
    assert is_fault(damaged.value)


def test_throwing_away_leaves_all_else(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "notes").touch()
    throw_away(tmp_path)
    throw_away(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_the_index_of_a_folder_nobody_may_write_to_lies_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    assert index_folder(folder) == folder / "index"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    cached = index_folder(folder)
    assert cached.parent == tmp_path / "cache" / "verbatim"
    assert len(cached.name) == 16
    assert index_folder(tmp_path / "other") != cached
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert index_folder(folder).is_relative_to(Path.home() / ".cache" / "verbatim")


def test_an_index_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "archive" / "index").symlink_to(tmp_path / "theirs")
    assert index_folder(tmp_path / "archive") != tmp_path / "archive" / "index"
