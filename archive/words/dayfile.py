"""One day's index of words, written: which texts hold which word, and which exchanges hold which text.

A text is indexed once a day, whoever says it again. Exchanges that follow one another and mostly say the same, as the turns of an
agent do, are a *strand*: a text is linked to the strand once, from the first exchange that says it to the last one in a row. So a turn
costs what it adds, not what it repeats. `archive.words.dayfind` reads what is written here. Not thread-safe; blocks on the disk.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from archive.words.query import TOKENIZER, spaced

__all__ = ["APPLICATION", "SCHEMA", "WordFile"]

APPLICATION: Final = 0x56627764
"""PRAGMA application_id: "Vbwd"."""
SCHEMA: Final = 1
"""PRAGMA user_version. A file with another one is made anew."""

# A text and an exchange are numbers of one row of counting, given as they come. An exchange's own number is also that of a text: of all
# that it alone says in a few words (ids, dates), which needs no link. A text's hash is keyed with the file's own salt, so that nobody
# can say a text whose hash is that of another. FTS5 keeps neither texts nor positions: both are in the archive.
_TABLES: Final = f"""
CREATE TABLE made (salt BLOB NOT NULL, tidied INTEGER NOT NULL);
CREATE VIRTUAL TABLE said USING fts5(text, content='', columnsize=0, detail=none, tokenize='{TOKENIZER}');
INSERT INTO said(said, rank) VALUES ('hashsize', {8 << 20});
CREATE TABLE text (hash INTEGER PRIMARY KEY, number INTEGER NOT NULL);
CREATE TABLE exchange (number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, strand INTEGER NOT NULL);
CREATE INDEX exchange_of_strand ON exchange (strand, number);
CREATE TABLE link (strand INTEGER NOT NULL, text INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER,
    PRIMARY KEY (strand, text, first)) WITHOUT ROWID;
CREATE INDEX link_of_text ON link (text);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
"""  # noqa: S608 - ours

_SHORT: Final = 200
"""A shorter text is indexed with its exchange's own when it is met first: most of these (dates, request ids) never come again. One that
does come again gets a number of its own."""
_HASHES: Final = 400_000
"""Numbers of texts that are kept in memory, 100 bytes each; the others are looked up in the file."""
_TIPS: Final = 400_000
"""Texts that strands in memory hold now, together. A strand let go of is never gone on with; its next turn begins another one."""
_LINKS: Final = 1000
"""Links of one strand, or four times as many as its exchange has texts: then another is begun, at the price of linking all of these once
more. So what a reader has to go through to know one exchange is bounded."""
_CANDIDATES: Final = 6
"""Strands that are compared with an exchange: of the many that share its tools and headers, those that said most of it last."""

_UNTIDY, _MERGING, _MERGED, _TIDY = range(4)
_PAGES: Final = 300
"""Pages merged in one step."""


@dataclass(slots=True)
class _Strand:
    """A strand that may go on."""

    key: int
    number: int = 0
    """Its last exchange's."""
    id: bytes = b""
    """Its last exchange's: in a strand ids ascend as numbers do."""
    links: int = 0
    texts: dict[int, int] = field(default_factory=dict)
    """What its last exchange says, each with the exchange since which it does."""


class WordFile:
    """A day's file, open for writing. Every method raises sqlite3.Error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """`db` is in autocommit mode, and empty or made by this class."""
        self._db = db
        if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            db.executescript(f"BEGIN; {_TABLES} COMMIT;")
            db.execute("INSERT INTO made VALUES (?, 0)", (os.urandom(16),))
        self._salt, self._tidied = db.execute("SELECT salt, tidied FROM made").fetchone()
        (last,) = db.execute(
            "SELECT max((SELECT ifnull(max(number), 0) FROM exchange), (SELECT ifnull(max(text), 0) FROM link))"
        ).fetchone()
        self._next = int(last) + 1
        (strand,) = db.execute("SELECT ifnull(max(strand), 0) FROM exchange").fetchone()
        self._next_strand = int(strand) + 1
        self._numbers: dict[int, int] = {}
        self._once: set[int] = set()
        """Short texts that were met once."""
        self._strands: OrderedDict[int, _Strand] = OrderedDict()
        self._held = 0
        """Texts of all of them together."""
        self._holder: dict[int, int] = {}
        """The strand that said a text last."""

    def add(self, id: bytes, texts: Iterable[str]) -> None:
        """Index what an exchange says. For one that is there already: what it says that was not known of it."""
        known = self._db.execute("SELECT number, strand FROM exchange WHERE id = ?", (id,)).fetchone()
        if known is not None:
            self._add_to(int(known[0]), int(known[1]), texts)
            return
        present, own = self._numbered(texts)
        number = self._number()
        if own:
            self._index(number, "\n".join(own))
        strand = self._strand(id, present)
        self._db.execute("INSERT INTO exchange VALUES (?, ?, ?)", (number, id, strand.key))
        self._follow(strand, number, id, present)

    def commit(self) -> None:
        """Make all that was added visible to others, and lasting as far as the system does not fail."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def tidy(self) -> bool:
        """A bounded step, 0.1 s or so, of making the file small once its day is over; returns whether there is more to do.

        What was gathered bit by bit is merged, and a quarter of the file's room given back.
        """
        self.commit()
        if self._tidied == _TIDY:
            return False
        if self._tidied < _MERGED:
            # FTS5's manual, "The 'merge' command": first a negative number, then positive ones until it changes fewer than two rows.
            before = self._db.total_changes
            pages = -_PAGES if self._tidied == _UNTIDY else _PAGES
            self._db.execute("INSERT INTO said(said, rank) VALUES ('merge', ?)", (pages,))
            self._mark(_MERGING if self._db.total_changes - before >= 2 else _MERGED)
        else:
            self._db.executescript(f"PRAGMA incremental_vacuum({10 * _PAGES})")  # `execute` would do one page
            if not self._db.execute("PRAGMA freelist_count").fetchone()[0]:
                self._mark(_TIDY)
        return True

    def _mark(self, tidied: int) -> None:
        if tidied != self._tidied:
            self._db.execute("UPDATE made SET tidied = ?", (tidied,))
            self._tidied = tidied

    def _numbered(self, texts: Iterable[str]) -> tuple[dict[int, None], list[str]]:
        """The numbers of texts that have or get one, and the texts that have none."""
        present: dict[int, None] = {}
        own: list[str] = []
        for text in texts:
            data = text.encode("utf-8", "replace")
            key = int.from_bytes(blake2b(data, digest_size=8, key=self._salt).digest(), "big", signed=True)
            number = self._numbers.get(key)
            if number is None:
                number = self._looked_up(key)
            if number is None:
                if len(text) < _SHORT and key not in self._once:
                    if len(self._once) >= _HASHES:
                        self._once.clear()
                    self._once.add(key)
                    own.append(text)
                    continue
                self._once.discard(key)
                number = self._numbers[key] = self._number()
                self._index(number, data.decode())
                self._db.execute("INSERT INTO text VALUES (?, ?)", (key, number))
            present[number] = None
        return present, own

    def _looked_up(self, hash: int) -> int | None:
        row = self._db.execute("SELECT number FROM text WHERE hash = ?", (hash,)).fetchone()
        if row is None:
            return None
        if len(self._numbers) >= _HASHES:
            self._numbers.clear()
        self._numbers[hash] = int(row[0])
        return int(row[0])

    def _number(self) -> int:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")
            self._mark(_UNTIDY)
        self._next += 1
        return self._next - 1

    def _index(self, number: int, text: str) -> None:
        self._db.execute("INSERT INTO said(rowid, text) VALUES (?, ?)", (number, spaced(text)))

    def _strand(self, id: bytes, present: dict[int, None]) -> _Strand:
        """The strand that goes on with an exchange that says `present`: of those that say most of it, one that gives up little."""
        holders = Counter(map(self._holder.get, present))
        best, most = None, 0
        for key, _ in holders.most_common(_CANDIDATES):
            strand = self._strands.get(key) if key is not None else None
            if strand is None or strand.id >= id or strand.links > max(_LINKS, 4 * len(present)):
                continue
            common = len(strand.texts.keys() & present.keys())
            if common > most and len(strand.texts) - common <= max(4, common // 8):
                best, most = strand, common
        if best is None:
            best = self._strands[self._next_strand] = _Strand(self._next_strand)
            self._next_strand += 1
        self._strands.move_to_end(best.key)
        return best

    def _follow(self, strand: _Strand, number: int, id: bytes, present: dict[int, None]) -> None:
        gone = [(strand.number, strand.key, text, first) for text, first in strand.texts.items() if text not in present]
        come = [text for text in present if text not in strand.texts]
        self._db.executemany("UPDATE link SET last = ? WHERE strand = ? AND text = ? AND first = ?", gone)
        self._db.executemany("INSERT INTO link VALUES (?, ?, ?, NULL)", [(strand.key, text, number) for text in come])
        for _, _, text, _ in gone:
            del strand.texts[text]
        strand.texts.update(dict.fromkeys(come, number))
        strand.number, strand.id, strand.links = number, id, strand.links + len(come)
        self._holder.update(dict.fromkeys(present, strand.key))
        self._held += len(come) - len(gone)
        while self._held > _TIPS and len(self._strands) > 1:
            _, old = self._strands.popitem(last=False)
            self._held -= len(old.texts)
            for text in old.texts:
                if self._holder.get(text) == old.key:
                    del self._holder[text]

    def _add_to(self, number: int, strand: int, texts: Iterable[str]) -> None:
        present, own = self._numbered(texts)
        if own:
            extra = self._number()
            self._index(extra, "\n".join(own))
            present[extra] = None
        for text in present:
            self._db.execute(
                "INSERT INTO link SELECT ?1, ?2, ?3, ?3 WHERE NOT EXISTS (SELECT 1 FROM link"
                " WHERE strand = ?1 AND text = ?2 AND first <= ?3 AND ifnull(last, ?3) >= ?3)",
                (strand, text, number),
            )
