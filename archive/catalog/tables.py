"""The catalog's file: where it lies, which tables it has, how it is opened, made and thrown away.

It is SQLite in WAL mode and holds nothing that the segments do not. `archive.catalog.rows` reads it, `archive.catalog.follow` fills it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from hashlib import sha256
from pathlib import Path
from typing import Final

from archive.database import connect, is_fault
from archive.folder import INDEX, make_folder

__all__ = ["CATALOG", "LOCK", "SCHEMA", "index_folder", "open_for_reading", "open_for_writing", "throw_away"]

CATALOG: Final = "catalog.sqlite"
LOCK: Final = "catalog.lock"
"""Held (flock) by the one process that writes the catalog and the words beside it."""

SCHEMA: Final = 3
"""PRAGMA user_version. A file with another one is made anew, not converted: that takes seconds and cannot go wrong."""

_OURS: Final = (CATALOG, CATALOG + "-wal", CATALOG + "-shm", CATALOG + "-journal")
_WAL_LIMIT: Final = 16 << 20

# Recorded text is kept as bytes: it may hold lone surrogates, which SQLite's text cannot. What repeats (routes, methods, writers ...) is
# a number of table `name`. Ids are 16 bytes and ascend with time, so that the trees grow at their ends.
_TABLES: Final = """
CREATE TABLE state (serial INTEGER NOT NULL);
INSERT INTO state VALUES (0);
CREATE TABLE segment (
    key INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    inode INTEGER NOT NULL,
    position INTEGER NOT NULL,
    told INTEGER NOT NULL,
    last INTEGER NOT NULL,
    tag BLOB NOT NULL,
    chain INTEGER NOT NULL,
    records INTEGER NOT NULL
);
CREATE TABLE part (id BLOB NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (id, segment, offset)) WITHOUT ROWID;
CREATE TABLE exchange (
    id BLOB PRIMARY KEY NOT NULL,
    places INTEGER NOT NULL,
    next INTEGER NOT NULL,
    worded INTEGER NOT NULL,
    parts INTEGER, writer INTEGER, at INTEGER, client BLOB,
    session BLOB, session_source BLOB, agent BLOB, user BLOB, user_source BLOB, tags BLOB, kept INTEGER,
    route INTEGER, method INTEGER, target BLOB,
    status INTEGER, origin INTEGER, streamed INTEGER, websocket INTEGER, request_bytes INTEGER, response_bytes INTEGER,
    messages INTEGER, sent INTEGER, received INTEGER, ttfb REAL, duration REAL, end INTEGER, redactions INTEGER
) WITHOUT ROWID;
CREATE INDEX exchange_by_status ON exchange (status / 100, id, route, status);
CREATE INDEX exchange_by_route ON exchange (route, id);
CREATE INDEX exchange_by_session ON exchange (session, id) WHERE session IS NOT NULL;
CREATE INDEX exchange_by_user ON exchange (user, id) WHERE user IS NOT NULL;
CREATE INDEX exchange_tagged ON exchange (id, tags) WHERE tags IS NOT NULL;
CREATE INDEX exchange_unworded ON exchange (id) WHERE worded <> 1;
CREATE TABLE name (key INTEGER PRIMARY KEY, text BLOB NOT NULL UNIQUE);
CREATE TABLE again (id BLOB PRIMARY KEY NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, line BLOB, why TEXT, PRIMARY KEY (segment, offset)
) WITHOUT ROWID;
CREATE TABLE forgotten (hour TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID;
CREATE TABLE day (day INTEGER PRIMARY KEY);
"""
# exchange.places: how many of its parts were read, oldest first; -1 when a value of it fits no column, and the lines are to be read.
# exchange.next: one more than the highest part number read. exchange.worded: 1 when its words are in the day's file, 2 when no day is its
# own, else 0. segment.position: up to here records are in `part`; segment.told: up to here their lines were read. segment.last, tag: the
# last record before `position` and what its header says; segment.chain: CRC-32 over what all headers say of id, part and number.


def index_folder(folder: Path) -> Path:
    """Where the catalog and the words of the archive in `folder` belong: in it, or in the user's cache where it cannot be written to."""
    own = folder / INDEX
    if os.access(own if os.path.lexists(own) else folder, os.W_OK) and not own.is_symlink():
        return own
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return base / "verbatim" / sha256(os.fsencode(folder.absolute())).hexdigest()[:16]


def open_for_reading(path: Path) -> sqlite3.Connection | None:
    """The catalog at `path` if there is one of this schema. Writes nothing. Raises sqlite3.Error for a damaged one, OSError."""
    if not _is_regular(path):
        return None
    # Without a log nobody has it open, so it can be read without making one. Who asks again sees when that changes: `archive.catalog.rows`.
    how = "mode=ro" if os.path.lexists(f"{path}-wal") else "mode=ro&immutable=1"
    db = connect(path, how)
    try:
        if _version(db) == SCHEMA:
            return db
    except BaseException:
        db.close()
        raise
    db.close()
    return None


def open_for_writing(index: Path) -> sqlite3.Connection:
    """The catalog in the folder `index`, made where there is none; a damaged or foreign file of its name, and one of another schema, is
    thrown away first. For the holder of the lock. Raises OSError, sqlite3.Error.
    """
    make_folder(index)
    path = index / CATALOG
    for _ in range(2):
        if not _is_regular(path):
            throw_away(index)  # a link, or a log without its file
            # Never opened and closed here once SQLite has it open: that would drop SQLite's locks (fcntl(2), "Record locking").
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)  # SQLite gives its log the same
        db = connect(path)
        try:
            if _prepared(db):
                return db
        except sqlite3.DatabaseError as error:
            if not is_fault(error):
                db.close()
                raise
        db.close()
        throw_away(index)
    raise sqlite3.OperationalError("the catalog cannot be made")


def _prepared(db: sqlite3.Connection) -> bool:
    """Set up; False when it is to be thrown away."""
    version = _version(db)
    if version == 0 and db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT")
    elif version != SCHEMA:
        return False
    db.execute("PRAGMA synchronous = NORMAL")  # derived: what a power loss takes of it is read again
    db.execute("PRAGMA secure_delete = ON")  # what was forgotten is gone from the file, too
    db.execute("PRAGMA wal_autocheckpoint = 4000")  # 16 MB: a checkpoint waits for the disk
    db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    db.execute("PRAGMA cache_size = -32768")
    return True


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def throw_away(index: Path) -> None:
    """Remove the catalog's files from the folder `index`; nothing else. Raises OSError."""
    for name in _OURS:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(index / name)
