"""What is derived from the segments, made to follow a removal at once: a catalog or an index of words must not tell what was forgotten.

Nothing here decides what is forgotten. In the worst case the catalog is thrown away, to be made anew by whoever follows it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from archive.catalog.follow import Follower
from archive.catalog.tables import CATALOG, index_folder
from archive.catalog.tables import throw_away as throw_away_catalog
from archive.database import connect

__all__ = ["drop_words", "forget", "throw_away"]

_PATIENCE: Final = 20.0
"""Seconds in which the catalog can follow: it begins with what was replaced, an hour a step."""
_LOOK: Final = 0.05
_WORDS: Final = re.compile(r"words-([0-9]{4}-[0-9]{2}-[0-9]{2})\.sqlite(?:-wal|-shm|-journal)?")


def forget(folder: Path, ids: Collection[bytes], *, patience: float = _PATIENCE) -> None:
    """Have catalog and words of `folder` without these exchanges, whose records are gone, in their files' free pages and logs, too.

    Who follows the folder is waited for; nobody does, it is done here. Blocks for `patience` seconds at most, then the catalog and all
    words are thrown away: they are made anew by the next who follows. Raises OSError.
    """
    index = index_folder(folder)
    if not os.path.lexists(index / CATALOG):
        drop_words(index, keep=())  # of a catalog that is no more
        return
    deadline = time.monotonic() + patience
    with contextlib.closing(Follower(folder, spare=0)) as follower, contextlib.suppress(sqlite3.Error):
        while time.monotonic() < deadline:
            follower.step()
            if not _knows(index, ids) and _settled(index):
                return
            if not follower.follows:
                time.sleep(_LOOK)
    throw_away(folder)


def throw_away(folder: Path) -> None:
    """Remove catalog and words of `folder`. Whoever follows it makes them anew. Raises OSError."""
    index = index_folder(folder)
    throw_away_catalog(index)
    drop_words(index, keep=())


def drop_words(index: Path, *, keep: Iterable[str]) -> None:
    """Remove the words of every day but those to `keep` ("2026-11-20"). Raises OSError."""
    days = set(keep)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(index):
            match = _WORDS.fullmatch(name)
            if match is not None and match[1] not in days:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(index / name)


def _knows(index: Path, ids: Collection[bytes]) -> bool:
    """Whether the catalog still has a record of one of them. While nobody writes: a step under way may have begun before they went."""
    with contextlib.closing(connect(index / CATALOG)) as db:
        db.execute("BEGIN IMMEDIATE")
        return any(db.execute("SELECT 1 FROM part WHERE id = ?", (each,)).fetchone() is not None for each in ids)


def _settled(index: Path) -> bool:
    """Have the catalog's log in the catalog and empty: it may hold pages as they were before. False while somebody reads."""
    with contextlib.closing(connect(index / CATALOG)) as db:
        return bool(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
