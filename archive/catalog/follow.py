"""Following an archive's segments into its catalog, as `tail -f` would: in bounded steps, from where the last one ended, never ahead.

One process at a time holds a folder's lock and follows; others read what it writes. A step's rows and the positions they lead to go into
one transaction, so a process killed at any moment goes on where it was. Writes to the index folder only; every method blocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import time
from pathlib import Path
from threading import Event
from typing import Final

from archive.catalog.hopping import Hopping
from archive.catalog.rows import Covered
from archive.catalog.tables import CATALOG, LOCK, SCHEMA, index_folder, open_for_writing, throw_away
from archive.catalog.tail import about
from archive.catalog.telling import Telling
from archive.database import connect, is_fault
from archive.folder import make_folder
from archive.words.days import Words

__all__ = ["Follower", "start_over"]

_log = logging.getLogger("verbatim.catalog")

_STEP: Final = 0.1
"""Seconds after which a step comes to its end; one record may take longer."""
_PAUSE: Final = 0.002
"""Seconds between two steps while there is more to do: others get at the disk, and at the interpreter's lock."""
_POLL: Final = 0.2
"""Seconds between two looks for something new: a quarter of the lag that is allowed."""
_RETRY: Final = 5.0
"""Seconds to wait when the disk refuses."""
_COMPLAIN: Final = 600.0
_SPARE: Final = 384 << 20
"""Free bytes below which nothing is added: recording goes on down to `min_free` (256 MiB unless set), what is derived stops before."""


class Follower:
    """Keeps the catalog of one folder up to date. For one thread."""

    TAKEN: Final = "another process follows the archive"

    def __init__(self, folder: Path, *, spare: int = _SPARE) -> None:
        """`spare` bytes of the disk are to stay free."""
        self._folder = folder
        self._spare = spare
        self._lock = -1
        self._index = Path()
        self._db: sqlite3.Connection | None = None
        self._opened: object = None
        self._words: Words | None = None
        self._telling: Telling | None = None
        self._hopping: Hopping | None = None
        self._known: dict[str, Covered] = {}
        self._complained = -_COMPLAIN
        self.held_up = ""
        """Why the last step did nothing, when it is not that there was nothing to do."""

    @property
    def follows(self) -> bool:
        """Whether it is this one that follows the folder."""
        return self._telling is not None

    def run(self, stopped: Event) -> None:
        """Follow until `stopped` is set. Whatever the disk does is logged once in a while, and tried again."""
        with contextlib.closing(self):
            while not stopped.is_set():
                wait = _POLL
                try:
                    wait = _PAUSE if self.step() else _POLL
                except Exception as error:  # a bug must not end it: readers do without the catalog, and the next step may go well
                    self._complain(error)
                    self.close()
                    wait = _RETRY
                stopped.wait(wait)

    def step(self) -> bool:
        """One bounded piece of work; returns whether there is more to do at once. False, too, when another process follows, when there is
        no folder, and when the disk is nearly full. Raises OSError, sqlite3.Error; the catalog then is as it was before.
        """
        try:
            return self._ready() and self._step()
        except BaseException as error:
            locked = self._lock >= 0
            if locked and isinstance(error, sqlite3.Error) and is_fault(error):
                _log.warning("the catalog %s was damaged (%s) and is made anew", self._index / CATALOG, error)
                self._close_files()
                throw_away(self._index)
            self.close()  # what is in memory may not be what is on the disk
            raise

    def _step(self) -> bool:
        assert self._db is not None
        assert self._hopping is not None
        assert self._telling is not None
        assert self._words is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            did = self._work(self._hopping, self._telling, time.monotonic() + _STEP)
            if did:
                self._words.commit()  # first: words of an exchange twice are words once, an exchange without its words is not found
                self._db.execute("UPDATE state SET serial = serial + 1")
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        if self._hopping.dropped:
            # What is no more is in no page of the file (secure_delete), but in the log's, until they are there and the log is empty.
            self._hopping.dropped = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        return did

    def close(self) -> None:
        """Let go of all files and the lock. It may go on with `step`."""
        self._close_files()
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def _close_files(self) -> None:
        if self._words is not None:
            self._words.close()
        if self._db is not None:
            self._db.close()
        self._db, self._words, self._hopping, self._telling = None, None, None, None
        self._known = {}

    def progress(self) -> tuple[int, int]:
        """Bytes of segments that the catalog knows, of how many, as of the last step; zeros before the first."""
        return (0, 0) if self._hopping is None else self._hopping.progress()

    def positions(self) -> int:
        """Records whose place is in the catalog."""
        return sum(it.records for it in self._known.values())

    # Whether and where to write.

    def _ready(self) -> bool:
        """Hold the lock and the catalog, both as they lie in the folder now."""
        self.held_up = ""
        if not self._folder.is_dir():
            self.held_up = "the folder is gone"
            self.close()
            return False
        index = index_folder(self._folder)
        if self._telling is not None and (index != self._index or self._opened != _identities(index)):
            self.close()
        if self._telling is None and not self._begin(index):
            return False
        if self._outdated():
            self._close_files()
            self._open_files()
        free = os.statvfs(index)
        if free.f_bavail * free.f_frsize < self._spare:
            self.held_up = f"less than {self._spare >> 20} MiB are free on its disk"
            self._complain(OSError(errno.ENOSPC, self.held_up))
            return False
        return True

    def _outdated(self) -> bool:
        """Somebody asked for a new catalog: `rebuild`."""
        assert self._db is not None
        return bool(self._db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA)

    def _begin(self, index: Path) -> bool:
        make_folder(index)
        lock = _lock(index)
        if lock is None:
            self.held_up = self.TAKEN
            return False
        self._lock, self._index = lock, index
        self._open_files()
        return True

    def _open_files(self) -> None:
        index = self._index
        self._db = open_for_writing(index)
        self._opened = _identities(index)
        self._words = Words(index)
        rows = self._db.execute("SELECT key, name, inode, position, told, last, tag, chain, records FROM segment")
        self._known = {row[1]: Covered(*row) for row in rows}
        if not self._known:
            for day in self._words.days():  # of a catalog that is no more: they may hold what was forgotten meanwhile
                self._words.drop(day)
        self._telling = Telling(self._folder, self._db, self._known, self._words)
        self._hopping = Hopping(self._folder, self._db, self._known, self._telling)

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        what = error if isinstance(error, OSError | sqlite3.Error) else type(error).__name__  # others may quote what was recorded
        if now - self._complained >= _COMPLAIN:
            self._complained = now
            _log.warning("the catalog of %s cannot be kept up to date: %s", self._folder, what)

    def _work(self, hopping: Hopping, telling: Telling, until: float) -> bool:
        hopping.look()
        return (
            telling.lost_days()
            or hopping.reconcile()
            or hopping.hop(until)
            or hopping.bury()
            or telling.again(until)
            or telling.lines(until)
            or telling.words(until)
            or telling.tidy()
        )


def start_over(folder: Path) -> None:
    """Have the catalog of `folder` made anew: by who follows it, or by whoever does next. Raises OSError, sqlite3.Error."""
    index = index_folder(folder)
    make_folder(index)
    lock = _lock(index)
    if lock is not None:
        try:
            throw_away(index)
        finally:
            os.close(lock)
        return
    with contextlib.closing(connect(index / CATALOG, "mode=rwc", patience=_RETRY)) as db:
        db.execute("PRAGMA user_version = 0")


def _lock(index: Path) -> int | None:
    """The lock of the folder `index`, held; None while another process holds it. Raises OSError."""
    lock = os.open(index / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _identities(index: Path) -> list[tuple[int, int]]:
    return [about(index / name)[:2] for name in (LOCK, CATALOG)]
