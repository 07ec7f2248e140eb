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
import struct
import time
import zlib
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from threading import Event
from typing import Final

from archive.catalog import Covered
from archive.errors import ArchiveError, DamagedMember
from archive.folder import PLAIN, hour_of, make_folder, segments
from archive.handle import Handle, open_segment
from archive.line import SERVICE_PART
from archive.member import Damage, Found
from archive.skim import read_line
from archive.tables import CATALOG, LOCK, SCHEMA, broken, index_folder, open_for_writing, throw_away
from archive.tail import State, about, still_there, tag_bytes
from archive.telling import Telling
from archive.words import Words

__all__ = ["Follower", "start_over"]

_log = logging.getLogger("verbatim.catalog")

_HOP: Final = 20_000
"""Records hopped over in one step at most: 50 ms or so."""
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
_READ: Final = 4 << 20
_NOTED: Final = 16 << 10
"""The archive's own lines up to this length are kept in the catalog; longer ones, which tell of removals, are read where they lie."""

_ID: Final = struct.Struct("<16sIQ")


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
        self._known: dict[str, Covered] = {}
        self._vouched: dict[str, State] = {}
        """In which state a segment was found to go on from what was followed of it."""
        self._ended: dict[str, State] = {}
        """Segments that were read to their end in this state, though it is no whole record."""
        self._listing: dict[str, State] = {}
        self._dropped = False
        """Rows were taken out that the log may still hold."""
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
            if locked and isinstance(error, sqlite3.Error) and broken(error):
                _log.warning("the catalog %s was damaged (%s) and is made anew", self._index / CATALOG, error)
                self._close_files()
                throw_away(self._index)
            self.close()  # what is in memory may not be what is on the disk
            raise

    def _step(self) -> bool:
        assert self._db is not None
        assert self._telling is not None
        assert self._words is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            did = self._work(self._telling, time.monotonic() + _STEP)
            if did:
                self._words.commit()  # first: words of an exchange twice are words once, an exchange without its words is not found
                self._db.execute("UPDATE state SET serial = serial + 1")
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        if self._dropped:
            # What is no more is in no page of the file (secure_delete), but in the log's, until they are there and the log is empty.
            self._dropped = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
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
        self._db, self._words, self._telling = None, None, None
        self._known, self._vouched, self._ended = {}, {}, {}

    def progress(self) -> tuple[int, int]:
        """Bytes of segments that the catalog knows, of how many, as of the last step."""
        known = 0
        for name, (_, _, size, _) in self._listing.items():
            if (it := self._known.get(name)) is not None and it.position:
                known += min(size, it.position) * it.told // it.position if name.endswith(PLAIN) else size * it.told // it.position
        return known, sum(state[2] for state in self._listing.values())

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
        if self._telling is not None and (index != self._index or self._opened != _identities(index) or self._outdated()):
            self.close()
        if self._telling is None and not self._begin(index):
            return False
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
        self._db = open_for_writing(index)
        self._opened = _identities(index)
        self._words = Words(index)
        rows = self._db.execute("SELECT key, name, inode, position, told, last, tag, chain, records FROM segment")
        self._known = {row[1]: Covered(*row) for row in rows}
        if not self._known:
            for day in self._words.days():  # of a catalog that is no more: they may hold what was forgotten meanwhile
                self._words.drop(day)
        self._telling = Telling(self._folder, self._db, self._known, self._words)
        return True

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        what = error if isinstance(error, OSError | sqlite3.Error) else type(error).__name__  # others may quote what was recorded
        if now - self._complained >= _COMPLAIN:
            self._complained = now
            _log.warning("the catalog of %s cannot be kept up to date: %s", self._folder, what)

    # The work of one step.

    def _work(self, telling: Telling, until: float) -> bool:
        self._listing = {path.name: about(path) for path in segments(self._folder)}
        return (
            telling.lost_days()
            or self._reconcile(telling)
            or self._hop(telling, until)
            or self._bury(telling)
            or telling.again(until)
            or telling.lines(until)
            or telling.words(until)
            or telling.tidy()
        )

    def _reconcile(self, telling: Telling) -> bool:
        """Take out, or find again, one segment that is no more what it was. Returns whether there was one."""
        for name, covered in self._known.items():
            state = self._listing.get(name)
            now = name if state is not None else self._other_form(name)
            if now is None or (state is not None and self._is_known(covered, state)):
                continue
            if self._same_lines(covered, now):
                self._move(telling, covered, now)
            else:
                self._drop(telling, covered, forgotten=True)
            return True
        return False

    def _bury(self, telling: Telling) -> bool:
        """Take out one segment that is gone: after all lines were seen that could tell that it was forgotten."""
        for name, covered in self._known.items():
            if name not in self._listing:
                self._drop(telling, covered, forgotten=self._is_forgotten(covered))
                return True
        return False

    def _is_known(self, covered: Covered, state: State) -> bool:
        if state[1] != covered.inode or (covered.name.endswith(PLAIN) and state[2] < covered.position):
            return False
        if self._vouched.get(covered.name) != state:
            try:
                with open_segment(self._folder, covered.name) as handle:
                    if not still_there(handle, covered):
                        return False
            except ArchiveError:
                return True  # it cannot be opened just now: nothing is known against it
            self._vouched[covered.name] = state
        return True

    def _other_form(self, name: str) -> str | None:
        return next((it for it in self._listing if hour_of(it) == hour_of(name)), None)

    def _same_lines(self, covered: Covered, name: str) -> bool:
        """Whether the segment `name` begins with the same records: copied, packed or unpacked, not changed."""
        if not covered.records:
            return False
        chain = count = 0
        last = None
        try:
            with open_segment(self._folder, name) as handle:
                for each in handle.scan():
                    if isinstance(each, Found):
                        chain, count, last = _chained([each], chain), count + 1, each
                        if count == covered.records:
                            break
        except ArchiveError:
            return False
        if last is None or (chain, count) != (covered.chain, covered.records):
            return False
        return name != covered.name or (last.offset == covered.last and tag_bytes(last.tag) == covered.tag)

    def _move(self, telling: Telling, covered: Covered, name: str) -> None:
        """The same lines lie in another file: what the exchanges are and say is known, where they lie is learned anew."""
        assert self._db is not None
        if name == covered.name:
            self._put(replace(covered, inode=self._listing[name][1]))
            return
        key = (covered.key,)
        if self._db.execute("SELECT 1 FROM event WHERE segment = ? AND why IS NOT NULL", key).fetchone() is not None:
            self._drop(telling, covered, forgotten=True)
            return
        del self._known[covered.name]
        self._db.execute("DELETE FROM part WHERE segment = ?", key)
        self._db.execute("DELETE FROM event WHERE segment = ?", key)
        anew = replace(covered, name=name, inode=self._listing[name][1], position=0, told=0, last=-1, tag=b"", chain=0, records=0)
        self._put(anew)
        with open_segment(self._folder, name) as handle:
            self._hop_on(telling, handle, anew, self._listing[name], moved=covered.records)
        if covered.told == covered.position and name in self._known:
            self._put(replace(self._known[name], told=self._known[name].position))

    def _put(self, covered: Covered) -> None:
        assert self._db is not None
        self._db.execute("INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(covered))
        self._known[covered.name] = covered

    def _is_forgotten(self, covered: Covered) -> bool:
        assert self._db is not None
        return self._db.execute("SELECT 1 FROM forgotten WHERE hour = ?", (hour_of(covered.name),)).fetchone() is not None

    def _drop(self, telling: Telling, covered: Covered, *, forgotten: bool) -> None:
        telling.dropped(covered, forgotten=forgotten)
        self._dropped = True
        self._known.pop(covered.name, None)
        self._vouched.pop(covered.name, None)
        self._ended.pop(covered.name, None)

    def _hop(self, telling: Telling, until: float) -> bool:
        """Learn where new records lie, the oldest segment first: so the tables grow at their ends. Returns whether there were any."""
        did = False
        for name, state in self._listing.items():
            covered = self._known.get(name)
            if self._ended.get(name) == state or (covered is not None and name.endswith(PLAIN) and covered.position == state[2]):
                continue
            try:
                with open_segment(self._folder, name) as handle:
                    did = self._hop_on(telling, handle, covered, state) or did
            except ArchiveError:
                continue  # it cannot be opened just now
            if did and time.monotonic() > until:
                break
        return did

    def _hop_on(self, telling: Telling, handle: Handle, covered: Covered | None, state: State, *, moved: int = 0) -> bool:
        """Some records further on in one segment; with `moved` that many, whose exchanges are known. Returns whether anything is known that
        was not before."""
        if handle.identity() != state[:2]:
            return False  # replaced since we listed it
        if covered is None:
            covered = Covered(self._new_key(), handle.name, state[1], 0, 0, -1, b"", 0, 0)
        elif not still_there(handle, covered):
            self._vouched.pop(covered.name, None)
            return True  # the next step begins with it
        found, damages = [], []
        waiting: list[Damage] = []  # with no record behind it, damage may yet turn into one, or be cut off
        for each in handle.scan(covered.position):
            if not isinstance(each, Found):
                waiting.append(each)
                continue
            if waiting:
                damages += waiting
                waiting.clear()
            found.append(each)
            if len(found) == (moved or _HOP):
                break
        else:
            self._ended[covered.name] = state
        if not found and covered.name in self._known:
            return False
        self._keep(telling, handle, covered, found, damages, moved=bool(moved))
        return True

    def _keep(self, telling: Telling, handle: Handle, covered: Covered, found: list[Found], damages: list[Damage], *, moved: bool) -> None:
        assert self._db is not None
        key = covered.key
        rows = sorted([(tag.id, key, offset) for offset, tag in found if tag.part != SERVICE_PART])
        self._db.executemany("INSERT OR IGNORE INTO part VALUES (?, ?, ?)", rows)
        if not moved and covered.name != next(reversed(self._listing)) and any(it.told for it in self._known.values()):
            # Parts behind others that were read already, perhaps: what the exchange is must be put together anew.
            self._db.executemany("INSERT OR IGNORE INTO again SELECT id FROM exchange WHERE id = ?", (row[:1] for row in rows))
        self._db.executemany(
            "INSERT OR REPLACE INTO event VALUES (?, ?, ?, NULL, ?)", ((key, it.offset, it.length, it.why) for it in damages)
        )
        for it in found:
            if it.tag.part == SERVICE_PART:
                self._note_line(telling, handle, key, it.offset)
        last = found[-1] if found else None
        self._put(
            replace(
                covered,
                position=covered.position if last is None else last.offset + last.tag.length,
                last=covered.last if last is None else last.offset,
                tag=covered.tag if last is None else tag_bytes(last.tag),
                chain=_chained(found, covered.chain),
                records=covered.records + len(found),
            )
        )

    def _note_line(self, telling: Telling, handle: Handle, key: int, offset: int) -> None:
        """One of the archive's own lines: kept, and taken to heart."""
        assert self._db is not None
        length, size = handle.lengths(offset)
        try:
            line = read_line(handle, offset, limit=min(size, _READ))
        except DamagedMember:
            line = None
        kept = line if line is not None and len(line) <= _NOTED else None
        self._db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, NULL)", (key, offset, length, kept))
        told = telling.learn(handle.name, offset, line) if line is not None else None
        removed = told.detail.get("removed") if told is not None and told.kind == "forget" and told.detail is not None else None
        for each in removed if isinstance(removed, list) else []:
            if isinstance(each, dict) and isinstance(hour := each.get("segment"), str):
                self._db.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (hour,))

    def _new_key(self) -> int:
        assert self._db is not None
        return int(self._db.execute("SELECT coalesce(max(key), 0) + 1 FROM segment").fetchone()[0])


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
    with contextlib.closing(sqlite3.connect(index / CATALOG, timeout=_RETRY, isolation_level=None)) as db:
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


def _chained(found: Iterable[Found], chain: int) -> int:
    """CRC-32 over what headers say that is the same in a segment's every form."""
    return zlib.crc32(b"".join([_ID.pack(tag.id, tag.part, tag.seq) for _, tag in found]), chain)
