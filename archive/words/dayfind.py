"""One day's index of words, read: which exchanges may hold all the terms of a query, newest first, found as they are asked for.

May, because the index knows no positions and a text stands for its words in any order: whoever asks compares with the record. Memory is
bounded by the terms' texts, not by the exchanges that hold them. `archive.words.dayfile` says what the tables mean.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from heapq import merge
from typing import Any, Final

from archive.words.query import Query, Term

__all__ = ["find"]

_RARE: Final = 2000
"""Texts of a word whose exchanges are all looked up at once, in 20 ms or so. A word in more texts is expected in the next best exchange."""
_STRANDS: Final = 1000
"""Strands whose exchanges are brought in order by merging; beyond it all exchanges are gone through."""
_STEP: Final = 256
_WINDOW: Final = 4096
"""Texts that are asked about at once, in 1 ms."""
_WINDOWS: Final = 64
_OPEN: Final = 1 << 62
_ALL: Final = b"\xff" * 17

_Runs = dict[int, list[tuple[int, int]]]
"""By strand: the stretches of exchanges, by number, that hold a term; ascending and apart."""


def find(db: sqlite3.Connection, query: Query, before: bytes | None, wrong: Container[bytes] = ()) -> Iterator[bytes]:
    """Ids of exchanges that may hold all of `query`'s terms, newest first, each once; with `before` only those before it.

    Of one that turns out not to, the caller puts the id into `wrong` before asking for the next: what is wrong of a text is then known of
    every exchange that says it. Raises sqlite3.Error, also while it is iterated over. What is committed meanwhile may be found or not.
    """
    exact: list[_Exact] = []
    others: list[_Exact | _Common] = []
    phrases = [term for term in query.terms if len(term.words) > 1]
    doubtful: _Common | None = None
    for term in sorted(query.terms, key=lambda it: not it.is_whole()):
        texts = _texts(db, term, _RARE + 1 if term.is_whole() else -1)
        if not texts:
            return
        if len(texts) <= _RARE:
            exact.append(_Exact(_runs_of(db, texts)))
        if len(texts) > _RARE or phrases == [term]:
            common = _Common(db, _Windows(db, term) if term.is_whole() else _Flags(texts))
            others.append(common)
            if phrases == [term]:
                doubtful = common
    exact.sort(key=lambda it: it.size)
    few = exact.pop(0).runs if exact and len(exact[0].runs) <= _STRANDS else None
    rows = _newest(db, before or _ALL) if few is None else _merged(db, few, before or _ALL)
    others[:0] = exact
    for name, strand, number in rows:
        if all(each.holds(strand, number) for each in others):
            yield name
            if doubtful is not None and name in wrong:
                doubtful.refute(strand, number)  # all other terms are single words, of which the index is sure


def _texts(db: sqlite3.Connection, term: Term, limit: int) -> array[int]:
    """The newest texts that hold the term, newest first; all of them with a `limit` of -1."""
    rows = db.execute("SELECT rowid FROM said WHERE said MATCH ? ORDER BY rowid DESC LIMIT ?", (term.match(), limit))
    return array("q", (number for (number,) in rows))


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
    """A term in very many texts: of each exchange the newest texts are asked about first, and of a strand that does not hold it
    everywhere all texts, once."""

    def __init__(self, db: sqlite3.Connection, texts: _Windows | _Flags) -> None:
        self._db = db
        self._texts = texts
        self._wrong: set[int] = set()
        """Texts that hold the words but not as the term has them."""
        self._found: dict[int, tuple[int, int]] = {}
        """By strand, the last stretch that was found."""
        self._exact: dict[int, _Exact] = {}
        """By strand, all of them."""

    def holds(self, strand: int, number: int) -> bool:
        if strand in self._exact:
            return self._exact[strand].holds(strand, number)
        first, last = self._found.get(strand, (1, 0))
        if first <= number <= last or self._is_in(number):
            return True
        for text, since, until in self._said(strand, number):
            if self._is_in(text):
                self._found[strand] = (since, until)
                return True
        self._exact[strand] = self._all_of(strand)
        return False

    def refute(self, strand: int, number: int) -> None:
        """That exchange does not hold the term after all, so none of its texts does."""
        self._wrong.update(text for text, _, _ in self._said(strand, number) if text in self._texts)
        self._wrong.add(number)
        self._found.pop(strand, None)
        self._exact.pop(strand, None)

    def _is_in(self, text: int) -> bool:
        return text in self._texts and text not in self._wrong

    def _said(self, strand: int, number: int) -> Iterator[tuple[int, int, int]]:
        """The texts of an exchange, the newest first, each with the stretch of exchanges that say it."""
        return self._db.execute(
            "SELECT text, first, ifnull(last, ?3) FROM link WHERE strand = ?1 AND text < ?2 AND first <= ?2 AND ifnull(last, ?2) >= ?2"
            " ORDER BY text DESC",
            (strand, number, _OPEN),
        )

    def _all_of(self, strand: int) -> _Exact:
        linked = self._db.execute("SELECT text, first, ifnull(last, ?) FROM link WHERE strand = ?", (_OPEN, strand))
        own = self._db.execute("SELECT number, number, number FROM exchange WHERE strand = ?", (strand,))
        runs = [(first, last) for rows in (linked, own) for text, first, last in rows if self._is_in(text)]
        return _Exact(_joined({strand: runs} if runs else {}))


class _Windows:
    """The texts of a term, learned a stretch at a time."""

    def __init__(self, db: sqlite3.Connection, term: Term) -> None:
        self._db = db
        self._match = term.match()
        self._known: OrderedDict[int, set[int]] = OrderedDict()

    def __contains__(self, text: int) -> bool:
        window = text // _WINDOW
        known = self._known.get(window)
        if known is None:
            low = window * _WINDOW
            rows = self._db.execute(
                "SELECT rowid FROM said WHERE said MATCH ? AND rowid BETWEEN ? AND ?", (self._match, low, low + _WINDOW - 1)
            )
            known = self._known[window] = {number for (number,) in rows}
            if len(self._known) > _WINDOWS:
                self._known.popitem(last=False)
        return text in known


class _Flags:
    """The texts of words that begin alike, learned all at once: FTS5 has to gather them all for any of them. A byte a text of the day."""

    def __init__(self, texts: array[int]) -> None:
        """`texts`: the newest first."""
        self._flags = bytearray(texts[0] + 1)
        for text in texts:
            self._flags[text] = 1

    def __contains__(self, text: int) -> bool:
        return text < len(self._flags) and self._flags[text] == 1


# From texts to exchanges.


def _runs_of(db: sqlite3.Connection, texts: array[int]) -> _Runs:
    """Where these texts are said."""
    runs: _Runs = {}
    for at in range(0, len(texts), _STEP):
        marks = ",".join(map(str, texts[at : at + _STEP]))
        _gather(runs, db.execute(f"SELECT strand, first, last FROM link WHERE text IN ({marks})"))  # noqa: S608 - numbers
        _gather(runs, db.execute(f"SELECT strand, number, number FROM exchange WHERE number IN ({marks})"))  # noqa: S608
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
