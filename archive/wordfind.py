"""One day's index of words, read: which exchanges may hold all the terms of a query, newest first, found as they are asked for.

May, because the index knows no positions and a text stands for its words in any order: whoever asks compares with the record. Memory is
bounded by the terms' texts, not by the exchanges that hold them. `archive.wordfile` says what the tables mean.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import Any, Final, Protocol

from archive.query import Query, Term

__all__ = ["find"]

_RARE: Final = 2000
"""Texts of a word whose exchanges are all looked up at once, in 20 ms or so. A word in more texts is expected in the next best exchange."""
_PATIENCE: Final = 1000
"""So many exchanges without a word that is in many texts, and all its exchanges are looked up after all."""
_STRANDS: Final = 1000
"""Strands whose exchanges are brought in order by merging; beyond it all exchanges are gone through."""
_STEP: Final = 256
_WINDOW: Final = 4096
"""Texts that are asked about at once, in 1 ms."""
_OPEN: Final = 1 << 62
_ALL: Final = b"\xff" * 17

_Runs = dict[int, list[tuple[int, int]]]
"""By strand: the stretches of exchanges, by number, that hold a term; ascending and apart."""


class _Holds(Protocol):
    """Which exchanges hold a term."""

    def holds(self, strand: int, number: int) -> bool:
        """Whether the exchange `number` of `strand` does."""


def find(db: sqlite3.Connection, query: Query, before: bytes | None) -> Iterator[bytes]:
    """Ids of exchanges that may hold all of `query`'s terms, newest first, each once; with `before` only those before it.

    Raises sqlite3.Error, also while it is iterated over. What is committed meanwhile may be found or not.
    """
    exact: list[_Exact] = []
    common: list[_Holds] = []
    for term in query.terms:
        texts = _texts(db, term, _RARE + 1)
        if not texts:
            return
        if len(texts) <= _RARE:
            exact.append(_Exact(_runs_of(db, texts)))
        elif term.is_one_word():
            common.append(_Common(db, term))
        else:
            common.append(_Exact(_runs_of_all(db, term)))
    exact.sort(key=lambda it: it.size)
    few = exact.pop(0).runs if exact and len(exact[0].runs) <= _STRANDS else None
    rows = _newest(db, before or _ALL) if few is None else _merged(db, few, before or _ALL)
    others = [*exact, *common]
    for name, strand, number in rows:
        if all(each.holds(strand, number) for each in others):
            yield name


def _texts(db: sqlite3.Connection, term: Term, limit: int) -> list[int]:
    rows = db.execute("SELECT rowid FROM said WHERE said MATCH ? ORDER BY rowid DESC LIMIT ?", (term.match(), limit))
    return [number for (number,) in rows]


class _Exact:
    """All of a term's exchanges."""

    def __init__(self, runs: _Runs) -> None:
        self.runs = runs
        self.size = sum(map(len, runs.values()))

    def holds(self, strand: int, number: int) -> bool:
        runs = self.runs.get(strand)
        if runs is None:
            return False
        at = bisect_right(runs, (number, _OPEN)) - 1
        return at >= 0 and runs[at][1] >= number


class _Common:
    """A term in very many texts: each exchange is asked about, the newest of its texts first."""

    def __init__(self, db: sqlite3.Connection, term: Term) -> None:
        self._db = db
        self._term = term
        self._windows: dict[int, set[int]] = {}
        self._known: dict[int, tuple[int, int]] = {}
        """By strand, the last stretch that was found."""
        self._misses = 0
        self._exact: _Exact | None = None

    def holds(self, strand: int, number: int) -> bool:
        if self._exact is not None:
            return self._exact.holds(strand, number)
        first, last = self._known.get(strand, (1, 0))
        if first <= number <= last:
            return True
        for text, since, until in self._said(strand, number):
            if self._is_in(text):
                self._known[strand] = (since, _OPEN if until is None else until)
                return True
        self._misses += 1
        if self._misses > _PATIENCE:
            self._exact = _Exact(_runs_of_all(self._db, self._term))
        return False

    def _said(self, strand: int, number: int) -> Iterator[tuple[int, int, int | None]]:
        yield number, number, number
        yield from self._db.execute(
            "SELECT text, first, last FROM link WHERE strand = ?1 AND text < ?2 AND first <= ?2 AND ifnull(last, ?2) >= ?2"
            " ORDER BY text DESC",
            (strand, number),
        )

    def _is_in(self, text: int) -> bool:
        window = text // _WINDOW
        if window not in self._windows:
            low = window * _WINDOW
            rows = self._db.execute(
                "SELECT rowid FROM said WHERE said MATCH ? AND rowid BETWEEN ? AND ?", (self._term.match(), low, low + _WINDOW - 1)
            )
            self._windows[window] = {number for (number,) in rows}
        return text in self._windows[window]


# From texts to exchanges.


def _runs_of(db: sqlite3.Connection, texts: list[int]) -> _Runs:
    """Where these texts are said."""
    runs: _Runs = {}
    for at in range(0, len(texts), _STEP):
        marks = ",".join(map(str, texts[at : at + _STEP]))
        _gather(runs, db.execute(f"SELECT strand, first, last FROM link WHERE text IN ({marks})"))  # noqa: S608 - numbers
        _gather(runs, db.execute(f"SELECT strand, number, number FROM exchange WHERE number IN ({marks})"))  # noqa: S608
    return _joined(runs)


def _runs_of_all(db: sqlite3.Connection, term: Term) -> _Runs:
    """Where a term is said: 3 us a text of it."""
    runs: _Runs = {}
    match = (term.match(),)
    _gather(runs, db.execute("SELECT strand, first, last FROM said JOIN link ON text = said.rowid WHERE said MATCH ?", match))
    _gather(runs, db.execute("SELECT strand, number, number FROM said JOIN exchange ON number = said.rowid WHERE said MATCH ?", match))
    return _joined(runs)


def _gather(runs: _Runs, rows: Iterable[Any]) -> None:
    for strand, first, last in rows:
        runs.setdefault(strand, []).append((first, _OPEN if last is None else last))


def _joined(runs: _Runs) -> _Runs:
    """Stretches that overlap made one."""
    for strand, each in runs.items():
        each.sort()
        apart = [each[0]]
        for first, last in each[1:]:
            if first <= apart[-1][1]:
                if last > apart[-1][1]:
                    apart[-1] = (apart[-1][0], last)
            else:
                apart.append((first, last))
        runs[strand] = apart
    return runs


# Exchanges in order. In steps rather than by one open statement each, which would keep the writer's log from being used again.

_Row = tuple[bytes, int, int]
"""Id, strand, number."""


def _newest(db: sqlite3.Connection, before: bytes) -> Iterator[_Row]:
    """All exchanges, newest first."""
    step = 16
    while True:
        rows = db.execute("SELECT id, strand, number FROM exchange WHERE id < ? ORDER BY id DESC LIMIT ?", (before, step)).fetchall()
        yield from rows
        if len(rows) < step:
            return
        before, step = rows[-1][0], _STEP


def _merged(db: sqlite3.Connection, runs: _Runs, before: bytes) -> Iterator[_Row]:
    """The exchanges of these runs, newest first."""
    return merge(*(_run_of_strand(db, strand, each, before) for strand, each in runs.items()), reverse=True)


def _run_of_strand(db: sqlite3.Connection, strand: int, runs: list[tuple[int, int]], before: bytes) -> Iterator[_Row]:
    for first, last in reversed(runs):
        until, step = last, 4
        while True:
            rows = db.execute(
                "SELECT id, strand, number FROM exchange WHERE strand = ? AND number BETWEEN ? AND ? AND id < ?"
                " ORDER BY number DESC LIMIT ?",
                (strand, first, until, before, step),
            ).fetchall()
            yield from rows
            if len(rows) < step:
                break
            until, step = rows[-1][2] - 1, _STEP
