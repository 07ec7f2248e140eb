"""Words in any message, any exchange, any day: one index file a day, derived from the segments and free to be deleted.

Deleting a day's file is how the words of that day are forgotten. A damaged or foreign file of such a name is removed when it is met, and
the one who follows the archive makes it again. `archive.words.query` says what may be asked, `archive.words.text` what an exchange says.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from archive.database import connect, is_fault
from archive.folder import make_folder
from archive.words.dayfile import APPLICATION, SCHEMA, WordFile
from archive.words.dayfind import find
from archive.words.query import Query

__all__ = ["Query", "Words"]

_NAME: Final = re.compile(r"words-([0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))\.sqlite")
_WRITTEN: Final = 3
"""Files open for writing: exchanges are added by and large in order, so more than the days around midnight are not met."""
_READ: Final = 32
_TIDYING: Final = 0.1
_WAL_LIMIT: Final = 16 << 20
_CACHE: Final = 16 << 10
"""KiB of pages a file open for writing keeps in memory."""

_log = logging.getLogger("verbatim.archive")

T = TypeVar("T")
_State = tuple[int, int, object]


class Words:
    """The index files in one folder. Every method blocks on the disk; calls come one after another, from any thread."""

    def __init__(self, folder: Path, *, readonly: bool = False) -> None:
        """`readonly`: nothing is made, added or dropped, but for what is found to be damaged. One process at a time may write."""
        self._folder = folder
        self._readonly = readonly
        self._written: OrderedDict[str, tuple[_State | None, sqlite3.Connection, WordFile]] = OrderedDict()
        self._read: OrderedDict[str, tuple[_State | None, sqlite3.Connection]] = OrderedDict()
        self._made: set[str] = set()
        """Days whose file was made by us, which `add` has not told yet."""
        self._tidied: set[str] = set()
        """Days whose file was found to be as small as it gets."""

    def days(self) -> list[str]:
        """The days that have a file, "2026-11-20", oldest first."""
        for day in list(self._written):
            if self._written[day][0] != _identity(self._path(day)):
                self._let_go(day)  # somebody deleted it
        return self._listed()

    def add(self, day: str, id: bytes, texts: Iterable[str]) -> bool:
        """Index what the exchange `id` says, in the file of the day on which it began. Visible to others after `commit`.

        True when the file was made for it, there being none or a damaged one: whatever was added to that day before has to be added
        again. Adding an exchange again is no harm, and adds what was not known of it. Raises OSError when the file cannot be written;
        what was not committed is then lost, and may be added again.
        """
        self._tidied.discard(day)
        said = list(texts)
        try:
            self._writing(day, lambda file: file.add(id, said))
        except _Lost:
            self._writing(day, lambda file: file.add(id, said))
        made = day in self._made
        self._made.discard(day)
        return made

    def commit(self) -> None:
        """Make visible to others what was added. A file that turns out to be damaged is removed: see `days`. Raises OSError."""
        for day in list(self._written):
            with contextlib.suppress(_Lost):
                self._writing(day, WordFile.commit)

    def tidy(self) -> bool:
        """One bounded step (0.1 s or so) of making the files of days before the newest smaller; returns whether there is more to do.

        Raises OSError.
        """
        until = time.monotonic() + _TIDYING
        for day in self._listed()[:-1]:
            if day in self._tidied:
                continue
            if time.monotonic() > until:
                return True
            with contextlib.suppress(_Lost):
                if self._writing(day, WordFile.tidy):
                    return True
                self._tidied.add(day)
        return False

    def drop(self, day: str) -> None:
        """Remove the day's file: nothing of that day is found any more. Raises OSError."""
        self._let_go(day)
        self._unlink(day)

    def close(self) -> None:
        """Let go of all files; what was not committed is lost. May be called twice, and used again."""
        for day in [*self._written, *self._read]:
            self._let_go(day)

    def find(
        self, query: Query, *, before: bytes | None = None, days: Iterable[str] | None = None, wrong: Container[bytes] = ()
    ) -> Iterator[bytes]:
        """Ids of exchanges that may say all that `query` asks for, newest first, each once, found as they are asked for; with `before`
        only older ones, with `days` only those of these days. Words of a day without a file, or with a damaged one, are not found.

        May, because the index knows no order of words: compare with the record (`Query.matches`), and put the id of one that does not
        match into `wrong` before the next is asked for. Other exchanges are then left out for the same reason without being read.
        """
        chosen = set(days) if days is not None else None
        newest = _day_of(before) if before is not None else None
        for day in reversed(self._listed()):
            if (chosen is None or day in chosen) and (newest is None or day <= newest):
                yield from self._find_in(day, query, before, wrong)

    def _find_in(self, day: str, query: Query, before: bytes | None, wrong: Container[bytes]) -> Iterator[bytes]:
        try:
            db = self._reader(day)
            if db is not None:
                yield from find(db, query, before, wrong)
        except sqlite3.Error as error:
            self._failed(day, error)

    # Files open for reading.

    def _reader(self, day: str) -> sqlite3.Connection | None:
        path = self._path(day)
        state = _state(path)
        known = self._read.get(day)
        if known is not None:
            if known[0] == state:
                self._read.move_to_end(day)
                return known[1]
            self._let_go_read(day)
        if state is None:
            return None
        # Without a log nobody writes it, so it can be read without making one, also on a medium that cannot be written to.
        db = connect(path, "mode=ro" if state[2] is True else "mode=ro&immutable=1")
        self._read[day] = (state, db)
        if _marks(db) != (APPLICATION, SCHEMA):
            self._let_go_read(day)
            return None
        while len(self._read) > _READ:
            self._let_go_read(next(iter(self._read)))
        return db

    def _failed(self, day: str, error: sqlite3.Error) -> None:
        """Reading went wrong: a file that is damaged is removed, so that it is made again."""
        state, _ = self._read.get(day, (None, None))
        unchanged = state is not None and state == _state(self._path(day))
        self._let_go_read(day)
        if unchanged and is_fault(error):
            with contextlib.suppress(OSError):
                self._lose(day, error)
        else:
            _log.warning("the words of %s cannot be searched just now: %s", day, error)

    # Files open for writing.

    def _writing(self, day: str, work: Callable[[WordFile], T]) -> T:
        """Do `work` with the day's file, made where there is none. Raises _Lost when it was damaged and is no more, OSError."""
        if self._readonly:
            raise ValueError("opened for reading only")
        try:
            return work(self._writer(day))
        except sqlite3.Error as error:
            self._let_go(day)
            if is_fault(error):
                self._lose(day, error)
                raise _Lost from error
            raise OSError(None, f"the words of {day} cannot be written: {error}") from error

    def _writer(self, day: str) -> WordFile:
        if day in self._written:
            self._written.move_to_end(day)
            return self._written[day][2]
        if not _NAME.fullmatch(f"words-{day}.sqlite"):
            raise ValueError(f"{day} is no day")
        while len(self._written) >= _WRITTEN:
            oldest = next(iter(self._written))
            self._written[oldest][2].commit()
            self._let_go(oldest)
        path = self._path(day)
        identity = _identity(path)
        if identity is None:
            make_folder(self._folder)
            self._unlink(day)  # what has the name and is no file, or a log without its file
            # Never opened and closed here once SQLite has it open: that would drop SQLite's locks (fcntl(2), "Record locking").
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            identity = _identity(path)
        path.chmod(0o600)  # SQLite gives its log the same
        db = connect(path)
        try:
            file, fresh = _prepared(db)
        except BaseException:
            db.close()
            raise
        self._written[day] = (identity, db, file)
        if fresh:
            self._made.add(day)
        return file

    def _lose(self, day: str, error: sqlite3.Error) -> None:
        _log.warning("the words of %s were damaged (%s) and are made anew", day, error)
        self._let_go(day)
        self._unlink(day)

    # Names.

    def _path(self, day: str) -> Path:
        return self._folder / f"words-{day}.sqlite"

    def _listed(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                found = [(_NAME.fullmatch(entry.name), entry) for entry in entries]
                return sorted(match[1] for match, entry in found if match and entry.is_file(follow_symlinks=False))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _unlink(self, day: str) -> None:
        for end in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._path(day)}{end}")

    def _let_go(self, day: str) -> None:
        self._let_go_read(day)
        if day in self._written:
            _, db, _ = self._written.pop(day)
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _let_go_read(self, day: str) -> None:
        if day in self._read:
            with contextlib.suppress(sqlite3.Error):
                self._read.pop(day)[1].close()


class _Lost(Exception):  # noqa: N818 - named as those of archive.errors
    """A day's file was damaged and has been removed."""


def _prepared(db: sqlite3.Connection) -> tuple[WordFile, bool]:
    """The file, and whether it was empty. Raises sqlite3.Error, for a file that is not ours an error that is a fault of the file."""
    empty = _marks(db) == (0, 0) and db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    if not empty and _marks(db) != (APPLICATION, SCHEMA):
        error = sqlite3.DatabaseError("another schema")
        error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
        raise error
    if empty:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # derived: what a power loss takes of it is read again
    db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    db.execute(f"PRAGMA cache_size = -{_CACHE}")
    return WordFile(db), empty


def _marks(db: sqlite3.Connection) -> tuple[int, int]:
    (application,), (schema,) = db.execute("PRAGMA application_id").fetchone(), db.execute("PRAGMA user_version").fetchone()
    return int(application), int(schema)


def _identity(path: Path) -> tuple[int, int, object] | None:
    try:
        about = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return (about.st_dev, about.st_ino, None) if stat.S_ISREG(about.st_mode) else None


def _state(path: Path) -> _State | None:
    """Differs when the file must be opened anew: it was replaced, or a log appeared beside one that was read as unchanging."""
    try:
        about = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISREG(about.st_mode):
        return None
    return about.st_dev, about.st_ino, True if os.path.lexists(f"{path}-wal") else (about.st_mtime_ns, about.st_size)


def _day_of(id: bytes) -> str | None:
    """The day an id claims; None beyond the calendar."""
    try:
        return datetime.fromtimestamp(int.from_bytes(id[:6], "big") / 1000, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return None
