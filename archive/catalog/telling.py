"""What the catalog's follower does with lines: the row of each exchange, and its words once it has ended.

Works inside the follower's transaction, on the connection it is given; reads segments, opens the words' files through `archive.words.days`.
Any step may be done twice: rows are replaced, words are taken once by id.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.catalog.rows import DAY_MS, FIELDS, Covered, Names, day_bounds, day_text, pack_row, unpack_row
from archive.errors import ArchiveError
from archive.exchange import Place, Summary
from archive.folder import hour_of
from archive.line import SERVICE_PART
from archive.member import Found
from archive.parts import Files, fold, fold_all, number, read, read_all, taken_in
from archive.service import Event, Writers, event
from archive.words.days import Words
from archive.words.text import texts

__all__ = ["Telling", "running"]

_DAYS: Final = 31
"""An exchange's words go to the day on which it began, if it was written at most so many days later: a day of its own for every odd id
would make a file for each."""
_AGAIN: Final = 10.0
"""Seconds between two looks for exchanges whose writer is gone."""
_MOST: Final = (1 << 63) - 1

_COLUMNS: Final = ", ".join(FIELDS)
_MARKS: Final = ", ".join("?" * (4 + len(FIELDS)))
_NO_FIELDS: Final = (None,) * len(FIELDS)

Places = list[tuple[str, int]]


class Telling:
    """Reads the lines behind the positions. For the follower's thread; raises OSError, sqlite3.Error."""

    def __init__(self, folder: Path, db: sqlite3.Connection, known: dict[str, Covered], words: Words) -> None:
        """`known` is the follower's: what was followed, by name; it replaces entries, this does too."""
        self._folder = folder
        self._db = db
        self._known = known
        self._words = words
        self._names = Names(db)
        self._writers = Writers(host=socket.gethostname(), running=running)
        self._days: set[int] = {row[0] for row in db.execute("SELECT day FROM day")}
        self._due = 0.0
        for name, offset, line in db.execute(
            "SELECT name, offset, line FROM event JOIN segment ON segment = key WHERE line IS NOT NULL"
        ).fetchall():
            self.learn(name, offset, line)

    # Reading on.

    def learn(self, name: str, offset: int, line: bytes) -> Event | None:
        """Take in one of the archive's own lines: which writers are at work. None when it is none."""
        try:
            found = event(skim.decode(line), Place(name, offset, 0))
        except ArchiveError:
            return None
        self._writers.learn([found])
        if found.kind in ("open", "close"):
            self._due = 0.0
        return found

    def again(self, until: float) -> bool:
        """Exchanges whose records were not found in the order in which they were written: read anew. Returns whether there were any."""
        ids = [row[0] for row in self._db.execute("SELECT id FROM again LIMIT 500")]
        with Files(self._folder) as files:
            for count, name in enumerate(ids):
                if count and time.monotonic() > until:
                    break
                self._db.execute("DELETE FROM exchange WHERE id = ?", (name,))
                self._tell(name, files)
                self._db.execute("DELETE FROM again WHERE id = ?", (name,))
        return bool(ids)

    def lines(self, until: float) -> bool:
        """Read on where lines were not read yet, the newest segment first. Returns whether there was anything to read."""
        waiting = [it for it in self._known.values() if it.told < it.position]
        if not waiting:
            return False
        covered = max(waiting, key=lambda it: it.name)
        told = covered.told
        with Files(self._folder) as files:
            try:
                for each in files.open(covered.name).scan(told):
                    if each.offset >= covered.position or (told > covered.told and time.monotonic() > until):
                        break
                    told = each.offset + (each.tag.length if isinstance(each, Found) else each.length)
                    if isinstance(each, Found) and each.tag.part != SERVICE_PART:
                        self._tell(each.tag.id, files)
                else:
                    told = covered.position  # it was cut back: found out before the next step
            except ArchiveError:
                return False  # it cannot be opened just now
        told = min(told, covered.position)
        self._db.execute("UPDATE segment SET told = ? WHERE key = ?", (told, covered.key))
        self._known[covered.name] = replace(covered, told=told)
        return True

    def _tell(self, id: bytes, files: Files) -> None:
        """Bring the exchange's row up to what `part` has of it."""
        places = self._places(id)
        found = self._db.execute(f"SELECT places, next, {_COLUMNS} FROM exchange WHERE id = ?", (id,)).fetchone()  # noqa: S608
        if not places or (found is not None and found[0] in (len(places), -1)):
            return
        part: Any = None
        if found is None and len(places) == 1:
            summary, after, part = self._whole(places[0], files)
        else:
            start = Summary() if found is None else unpack_row(found[2:], self._names)
            known, after = (0, 0) if found is None else found[:2]
            folded = fold(start, after, places[known:], files, self._note)
            summary, after = fold_all(places, files, self._note) if folded is None else folded
        worded = 0  # also where the words of what there was before were taken: there are more now
        if not summary.parts:
            worded = 1  # nothing of it can be read, so it says nothing
        elif summary.end is not None:
            worded = self._word(id, places, [part] if part is not None else None, files)
        self._write(id, len(places), after, worded, summary)

    def _whole(self, place: tuple[str, int], files: Files) -> tuple[Summary, int, Any]:
        """The usual case: an exchange of one record, whose line is read once for the row and for the words."""
        try:
            part = read(place, files)
        except ArchiveError as error:
            self._note(*place, error)
            return Summary(), 0, None
        # Of a long line a list knows only what it knows without the catalog.
        small = max(files.open(place[0]).lengths(place[1])) <= skim.SMALL
        told = part if small else skim.skim(files.open(place[0]), place[1])
        return taken_in(Summary(), told, place, self._note), number(part) + 1, part

    def _write(self, id: bytes, places: int, after: int, worded: int, summary: Summary) -> None:
        values = pack_row(summary, self._names) if 0 <= after <= _MOST else None
        row = (id, places, after, worded, *values) if values is not None else (id, -1, 0, 2, *_NO_FIELDS)
        self._db.execute(f"INSERT OR REPLACE INTO exchange VALUES ({_MARKS})", row)  # noqa: S608

    def _places(self, id: bytes) -> Places:
        rows = self._db.execute("SELECT name, offset FROM part JOIN segment ON segment = key WHERE id = ?", (id,))
        return sorted(rows.fetchall())

    def _note(self, name: str, offset: int, error: Exception) -> None:
        key = self._known[name].key
        self._db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, 0, NULL, ?)", (key, offset, str(error)))

    # Words.

    def _word(self, id: bytes, places: Places, parts: list[Any] | None, files: Files) -> int:
        day = _day(id, places[-1][0])
        if day is None:
            return 2
        made = self._words.add(day_text(day), id, texts(parts if parts is not None else read_all(places, files)))
        if made and day in self._days:
            self._unword(day)  # its file was lost: what else was said on that day is handed over again
        if day not in self._days:
            self._db.execute("INSERT OR IGNORE INTO day VALUES (?)", (day,))
            self._days.add(day)
        return 1

    def words(self, until: float) -> bool:
        """Hand over the words of exchanges that wait for it: their day's file is made anew, or their writer is gone. Returns whether there
        were any."""
        if time.monotonic() < self._due:
            return False
        did = False
        ids = [row[0] for row in self._db.execute("SELECT id FROM exchange WHERE worded <> 1 AND worded = 0 ORDER BY id DESC")]
        with Files(self._folder) as files:
            for count, name in enumerate(ids):
                if count and time.monotonic() > until:
                    return True
                places = self._places(name)
                writer, end = self._db.execute("SELECT writer, end FROM exchange WHERE id = ?", (name,)).fetchone()
                if places and (end is not None or self._is_gone(writer, places)):
                    worded = self._word(name, places, None, files)
                    self._db.execute("UPDATE exchange SET worded = ? WHERE id = ?", (worded, name))
                    did = True
        self._due = time.monotonic() + _AGAIN
        return did

    def _is_gone(self, writer: int, places: Places) -> bool:
        return self._writers.gone(self._names.text(writer).decode("utf-8", "surrogatepass"), last=places[-1])

    def tidy(self) -> bool:
        """Make the words of days gone by smaller, bit by bit. Returns whether there is more to do."""
        return self._words.tidy()

    def lost_days(self) -> bool:
        """Somebody may have deleted a day's words: they are derived, so that is allowed. To be asked before any are added. Returns whether
        that was so."""
        there = set(self._words.days())
        lost = [it for it in self._days if day_text(it) not in there]
        for day in lost:
            self._unword(day)
        return bool(lost)

    def _unword(self, day: int) -> None:
        low, high = day_bounds(day)
        self._db.execute("UPDATE exchange SET worded = 0 WHERE worded = 1 AND id >= ? AND id < ?", (low, high))
        self._db.execute("DELETE FROM day WHERE day = ?", (day,))
        self._days.discard(day)
        self._due = 0.0

    # When records are gone.

    def dropped(self, covered: Covered, *, forgotten: bool) -> None:
        """All rows of a segment go. `forgotten`: its words must go now, and what stays of these days is taken anew; else a day's words go
        with its last exchange."""
        rows = self._db.execute("SELECT DISTINCT id FROM part WHERE segment = ?", (covered.key,))
        days = sorted(self._days & {_day(row[0], covered.name) for row in rows})
        if forgotten:
            for day in days:
                self._words.drop(day_text(day))
                self._unword(day)
        key = (covered.key,)
        self._db.execute(
            "INSERT OR IGNORE INTO again SELECT DISTINCT id FROM part AS here WHERE segment = ?1"
            " AND EXISTS (SELECT 1 FROM part AS there WHERE there.id = here.id AND there.segment <> ?1)",
            key,
        )
        self._db.execute("DELETE FROM exchange WHERE id IN (SELECT id FROM part WHERE segment = ?)", key)
        self._db.execute("DELETE FROM part WHERE segment = ?", key)
        self._db.execute("DELETE FROM event WHERE segment = ?", key)
        self._db.execute("DELETE FROM segment WHERE key = ?", key)
        for day in days:
            if self._db.execute("SELECT 1 FROM exchange WHERE id >= ? AND id < ? LIMIT 1", day_bounds(day)).fetchone() is None:
                self._words.drop(day_text(day))
                self._unword(day)


def _day(id: bytes, name: str) -> int | None:
    """The day (since 1970) whose words an exchange's belong to; None for an id that has nothing to do with when it was written."""
    began = int.from_bytes(id[:6], "big") // DAY_MS
    written = (date.fromisoformat(hour_of(name)[:10]) - date(1970, 1, 1)).days
    return began if 0 <= written - began <= _DAYS else None


def running(pid: int) -> bool:
    """Whether a process of this machine has that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # there, but not ours
    return True
