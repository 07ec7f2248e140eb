"""SQLite files that hold what is derived from an archive: how they are opened, and when one is to be thrown away. Knows no table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

__all__ = ["Connection", "connect", "is_fault"]

BUSY: Final = 5.0
"""Seconds to wait for another connection; in WAL mode only checkpoints and recovery ever make one wait."""

_FAULTS: Final = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_MISMATCH}


class Connection(sqlite3.Connection):
    """Closes with whoever holds it: readers come and go, and none of them has anything to finish."""

    def __del__(self) -> None:
        """Without this, Python 3.13 warns of it."""
        self.close()


def connect(path: Path | Literal[":memory:"], how: str = "mode=rw", *, patience: float = BUSY) -> Connection:
    """A connection without transactions of its own, for one thread at a time, whichever. `how` is the query of an SQLite URI
    (https://sqlite.org/uri.html); "mode=rw" makes no file. Raises sqlite3.Error.
    """
    name = path if path == ":memory:" else f"file:{quote(str(path))}?{how}"
    return sqlite3.connect(
        name, uri=name != ":memory:", timeout=patience, isolation_level=None, check_same_thread=False, factory=Connection
    )


def is_fault(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, not the disk or who else uses it."""
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF) in _FAULTS
