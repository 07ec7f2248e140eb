"""The catalog, read: where the records of an exchange lie and what the exchange was, without opening a segment.

It may lag behind the segments and be made anew at any time; whoever asks says which segments' rows still hold. Never writes. Not
thread-safe: `archive.reader` holds the lock. Raises sqlite3.Error when the file is damaged.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from math import isfinite
from pathlib import Path
from typing import Any, Final

from archive.catalog.tables import CATALOG, index_folder, open_for_reading
from archive.database import is_fault
from archive.exchange import Summary

__all__ = ["DAY_MS", "FIELDS", "Catalog", "Covered", "Names", "Note", "Row", "day_bounds", "day_text", "pack_row", "unpack_row"]

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
DAY_MS: Final = 86_400_000
_REST: Final = 10.0
"""Seconds for which a damaged file is not looked at again: each answer would be made twice."""
_INTERNED: Final = frozenset({"writer", "route", "method", "origin", "end", "kept"})
_TEXTS: Final = frozenset({"client", "session", "session_source", "agent", "user", "user_source", "tags", "target"})
"""A client's own words: they stand in their row, so that they go with it when it is forgotten."""
_FLAGS: Final = frozenset({"streamed", "websocket"})
_FLOATS: Final = frozenset({"ttfb", "duration"})
FIELDS: Final = tuple(field.name for field in fields(Summary))
"""The columns of an exchange that are a Summary's."""


@dataclass(frozen=True, slots=True)
class Covered:
    """How far one segment was followed."""

    key: int
    name: str
    inode: int
    position: int
    """Where every record before is in the catalog."""
    told: int
    """Where every line before was read."""
    last: int
    """Where the last record before `position` begins; -1 without one."""
    tag: bytes
    """What that record's header says."""
    chain: int
    records: int


@dataclass(frozen=True, slots=True)
class Row:
    """What the catalog knows of an exchange from its first `places` records; -1: nothing that could be told here."""

    places: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class Note:
    """One of the archive's own lines, or damage (`why`). Neither `line` nor `why`: the line is too long to be kept here."""

    offset: int
    length: int
    line: bytes | None
    why: str | None


class Names:
    """Texts that repeat, each with its number."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._keys: dict[bytes, int] = {}
        self._texts: dict[int, bytes] = {}

    def text(self, key: int) -> bytes:
        """The text of a number."""
        if key not in self._texts:
            row = self._db.execute("SELECT text FROM name WHERE key = ?", (key,)).fetchone()
            self._texts[key] = bytes(row[0]) if row else b""
        return self._texts[key]

    def key(self, text: bytes) -> int | None:
        """The number of a text; None when it has none."""
        if text not in self._keys:
            row = self._db.execute("SELECT key FROM name WHERE text = ?", (text,)).fetchone()
            if row is None:
                return None
            self._keys[text] = int(row[0])
        return self._keys[text]

    def make(self, text: bytes) -> int:
        """The same, given one where it has none. Inside a transaction that writes; after a rollback, `forget`."""
        key = self.key(text)
        if key is None:
            key = self._keys[text] = int(self._db.execute("INSERT INTO name (text) VALUES (?)", (text,)).lastrowid or 0)
        return key

    def forget(self) -> None:
        """What was made may not be there any more."""
        self._keys.clear()
        self._texts.clear()


def pack_row(summary: Summary, names: Names) -> tuple[Any, ...] | None:
    """The values of FIELDS; None when one fits no column: a line that no writer of ours made."""
    values = []
    for name in FIELDS:
        value = getattr(summary, name)
        packed: Any = value
        if name == "at":
            packed = None if value is None else (value - _EPOCH) // _MICROSECOND
        elif name in _INTERNED or name in _TEXTS:
            if not (value is None or isinstance(value, str)):
                return None
            data = None if value is None else value.encode("utf-8", "surrogatepass")
            packed = names.make(data) if data is not None and name in _INTERNED else data
        elif value is not None and name in _FLOATS:
            if not isfinite(value):
                return None
        elif value is not None and not (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
            return None
        values.append(packed)
    return tuple(values)


def unpack_row(values: tuple[Any, ...], names: Names) -> Summary:
    """The Summary that was packed."""
    summary = Summary()
    for name, value in zip(FIELDS, values, strict=True):
        told: Any = value
        if name in _FLAGS:
            told = bool(value)
        elif value is None:
            pass
        elif name == "at":
            told = _EPOCH + value * _MICROSECOND
        elif name in _INTERNED:
            told = names.text(value).decode("utf-8", "surrogatepass")
        elif name in _TEXTS:
            told = bytes(value).decode("utf-8", "surrogatepass")
        setattr(summary, name, told)
    return summary


class Catalog:
    """The catalog of one archive folder, opened when there is one and anew when it was replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._db: sqlite3.Connection | None = None
        self._names: Names | None = None
        self._opened: tuple[int, int, object] | None = None
        self._rests_until = 0.0
        self._serial = -1
        self._covered: dict[str, Covered] = {}

    def begin(self) -> bool:
        """Begin to read it as it is now, until `end`; False when there is none. What is read in between belongs together."""
        path = index_folder(self._folder) / CATALOG
        state = _state(path)
        if state is None or state != self._opened:
            self.close()
            self._opened = state
            if state is None or time.monotonic() < self._rests_until or (db := open_for_reading(path)) is None:
                self._opened = None
                return False
            self._db, self._names = db, Names(db)
        assert self._db is not None
        self._db.execute("BEGIN")
        (serial,) = self._db.execute("SELECT serial FROM state").fetchone()
        if serial != self._serial:
            rows = self._db.execute("SELECT key, name, inode, position, told, last, tag, chain, records FROM segment")
            self._covered = {row[1]: Covered(*row) for row in rows}
            self._serial = serial
        return True

    def end(self) -> None:
        """End what `begin` began. Without it a later commit could not be seen, and the log would grow."""
        if self._db is not None and self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file. It is opened anew when asked for. May be called twice."""
        if self._db is not None:
            self._db.close()
        self._db, self._names, self._opened, self._serial, self._covered = None, None, None, -1, {}

    def give_up(self, error: sqlite3.Error) -> None:
        """It raised `error`: when that is the file's fault, it is let rest until another may have been made."""
        if is_fault(error):
            self._rests_until = time.monotonic() + _REST
        self.close()

    def covered(self) -> dict[str, Covered]:
        """By segment name. The same object as long as nothing has changed."""
        return self._covered

    def places(self, id: bytes) -> list[tuple[int, int]]:
        """(segment key, offset) of the exchange's records."""
        return self._rows("SELECT segment, offset FROM part WHERE id = ?", id)

    def ids(self, before: bytes | None, keys: Collection[int]) -> Iterator[bytes]:
        """Exchanges with a record in the segments `keys`, newest first; with `before`, those that began before it."""
        return _distinct(self._each("SELECT id, segment FROM part WHERE id < ? ORDER BY id DESC", _before(before)), keys)

    def untold(self, before: bytes | None, segments: Collection[Covered]) -> Iterator[bytes]:
        """Of those segments, the exchanges with a record whose line was not read, newest first."""
        told = {it.key: it.told for it in segments if it.told < it.position}
        if not told:
            return
        marks = ",".join(map(str, told))
        rows = self._each(f"SELECT id, segment, offset FROM part WHERE id < ? AND segment IN ({marks}) ORDER BY id DESC", _before(before))  # noqa: S608 - numbers
        yield from _distinct((row for row in rows if row[2] >= told[row[1]]), told)

    def between(self, low: bytes, high: bytes, keys: Collection[int]) -> Iterator[bytes]:
        """Exchanges from `low` to `high`, both included, with a record in the segments `keys`."""
        return _distinct(self._each("SELECT id, segment FROM part WHERE id BETWEEN ? AND ? ORDER BY id", low, high), keys)

    def chosen(
        self,
        before: bytes | None,
        *,
        route: str | None = None,
        status: str | None = None,
        session: str | None = None,
        user: str | None = None,
        tag: str | None = None,
    ) -> Iterator[bytes]:
        """Exchanges of which a line was read that went to `route`, had a `status` of 404, "4xx" or "none", and were called so, newest
        first. At least one is given."""
        assert self._names is not None
        conditions = ["id < ?"]
        values: list[bytes | int] = [_before(before)]
        if route is not None:
            key = self._names.key(_bytes(route))
            conditions.append("route = ?")
            values.append(-1 if key is None else key)
        for column, name in (("session", session), ("user", user)):
            if name is not None:
                conditions.append(f"{column} = ?")
                values.append(_bytes(name))
        if tag is not None:
            conditions.append("tags IS NOT NULL AND instr(tags, ?) > 0")
            values.append(_bytes(f"\n{tag}\n"))
        if status == "none":
            conditions.append("status / 100 IS NULL")
        elif status is not None:
            conditions.append("status / 100 = ?")
            values.append(int(status[0]))
            if not status.endswith("xx"):
                conditions.append("status = ?")
                values.append(int(status))
        # Told which index to use: without statistics SQLite takes every row's status for equally rare.
        index = (
            "exchange_by_session" if session is not None
            else "exchange_by_user" if user is not None
            else "exchange_tagged" if tag is not None
            else "exchange_by_status" if status is not None
            else "exchange_by_route"
        )  # fmt: skip
        rows = self._each(f"SELECT id FROM exchange INDEXED BY {index} WHERE {' AND '.join(conditions)} ORDER BY id DESC", *values)  # noqa: S608
        return (bytes(row[0]) for row in rows)

    def unworded(self, before: bytes | None, *, odd: bool = False) -> Iterator[bytes]:
        """Exchanges that the words do not hold: still running, just ended, odd; newest first. `odd`: only these."""
        more = "AND places < 0 " if odd else ""
        rows = self._each(f"SELECT id FROM exchange WHERE worded <> 1 AND id < ? {more}ORDER BY id DESC", _before(before))  # noqa: S608
        return (bytes(row[0]) for row in rows)

    def handed_over(self) -> list[int]:
        """The days (since 1970) whose words were handed over."""
        return [row[0] for row in self._each("SELECT day FROM day")]

    def worded(self, day: int, before: bytes | None) -> Iterator[bytes]:
        """Exchanges whose words were handed over as that day's, newest first."""
        low, high = day_bounds(day)
        sql = "SELECT id FROM exchange WHERE worded = 1 AND id >= ? AND id < ? AND id < ? ORDER BY id DESC"
        return (bytes(row[0]) for row in self._each(sql, low, high, _before(before)))

    def row(self, id: bytes) -> Row | None:
        """What is known of the exchange."""
        assert self._names is not None
        found = self._rows(f"SELECT places, {', '.join(FIELDS)} FROM exchange WHERE id = ?", id)  # noqa: S608 - ours
        return Row(found[0][0], unpack_row(found[0][1:], self._names)) if found else None

    def notes(self, key: int) -> list[Note]:
        """The archive's own lines in a segment, and its damage, in order."""
        rows = self._rows("SELECT offset, length, line, why FROM event WHERE segment = ? ORDER BY offset", key)
        return [Note(*row) for row in rows]

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        return list(self._each(sql, *values))

    def _each(self, sql: str, *values: Any) -> Iterator[Any]:
        assert self._db is not None
        return iter(self._db.execute(sql, values))


def day_text(day: int) -> str:
    """That day as it is written: "2026-11-20"."""
    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def day_bounds(day: int) -> tuple[bytes, bytes]:
    """What the ids of exchanges begun on that day are not below, and what they are below."""
    return (day * DAY_MS).to_bytes(6, "big"), ((day + 1) * DAY_MS).to_bytes(6, "big")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _before(id: bytes | None) -> bytes:
    return b"\xff" * 17 if id is None else id


def _distinct(rows: Iterator[Any], keys: Collection[int]) -> Iterator[bytes]:
    last = None
    for row in rows:
        if row[1] in keys and row[0] != last:
            last = row[0]
            yield bytes(row[0])


def _state(path: Path) -> tuple[int, int, object] | None:
    """Differs when the file must be opened anew: it was replaced, or a log appeared beside one that was read as unchanging."""
    try:
        about = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    logged = os.path.lexists(f"{path}-wal")
    return (about.st_dev, about.st_ino, True if logged else (about.st_mtime_ns, about.st_size))
