"""Which exchanges a list is to show, by route, status, names and words: where to look for them, newest first, and what decides.

By the catalog and the words where these can tell, one by one where not. For one page, within one reading of `archive.reader`, which holds
the lock and has begun the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from typing import Final, Self

from archive import skim
from archive.catalog.index import Index, unique
from archive.catalog.rows import Catalog, day_text
from archive.catalog.tables import index_folder
from archive.errors import ArchiveError, BadName
from archive.exchange import Summary
from archive.parts import Files, Place, read_all
from archive.words.days import Query, Words
from archive.words.text import each_text

__all__ = ["Chosen", "Search"]

_STATUS: Final = re.compile(r"[1-5]xx|[1-9][0-9]{2}|none")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which exchanges a list is to show; None leaves it open. `status`: "404", "4xx", or "none" for no answer."""

    route: str | None
    status: str | None
    query: Query | None
    session: str | None = None
    user: str | None = None
    tag: str | None = None

    @classmethod
    def of(
        cls,
        route: str | None,
        status: str | int | None,
        text: str | None,
        session: str | None = None,
        user: str | None = None,
        tag: str | None = None,
    ) -> Self:
        """From what was asked for. Raises BadName for a status or words that are none."""
        wanted = None if status is None else str(status).lower()
        if wanted is not None and not _STATUS.fullmatch(wanted):
            raise BadName("a status is 404, 4xx, or none")
        return cls(route, wanted, Query.parse(text) if text else None, session, user, tag)

    @property
    def narrows(self) -> bool:
        """Whether any exchange may be left out."""
        return any(it is not None for it in (self.route, self.status, self.query, self.session, self.user, self.tag))

    def fits(self, summary: Summary) -> bool:
        """By all but the words."""
        return (
            self.route in (None, summary.route)
            and self.session in (None, summary.session)
            and self.user in (None, summary.user)
            and (self.tag is None or self.tag in (summary.tags or "").strip("\n").split("\n"))
            and self._fits(summary.status)
        )

    def _fits(self, status: int | None) -> bool:
        if self.status is None:
            return True
        if self.status == "none" or status is None:
            return self.status == "none" and status is None
        return str(status) == self.status or f"{status // 100}xx" == self.status


class Search:
    """One page's search. Blocks on the disk; raises sqlite3.Error of the catalog's, OSError."""

    def __init__(self, chosen: Chosen, folder: Path, index: Index, catalog: Catalog | None) -> None:
        """`catalog` is begun, or None."""
        self._chosen = chosen
        self._folder = folder
        self._index = index
        self._catalog = catalog
        self._sure: set[bytes] = set()
        """Those of which the words are sure."""
        self._wrong: set[bytes] = set()
        """Those that turned out not to say what was asked for, so that others are not read for the same mistake."""

    def candidates(self, start: bytes | None) -> Generator[bytes, None, None]:
        """Ids among which are all that are chosen, newest first, from before `start` on (None: all)."""
        catalog, chosen = self._catalog, self._chosen
        if catalog is None or not chosen.narrows:
            yield from self._index.walk(start)
        elif chosen.query is None:
            told = catalog.chosen(start, route=chosen.route, status=chosen.status, session=chosen.session, user=chosen.user, tag=chosen.tag)
            yield from unique(merge(told, catalog.unworded(start, odd=True), self._index.walk_untold(start), reverse=True))
        else:
            query = chosen.query
            with closing(Words(index_folder(self._folder), readonly=True)) as words:
                there = set(words.days())
                lost = [catalog.worded(day, start) for day in catalog.handed_over() if day_text(day) not in there]
                found = _put_into(self._sure if query.is_plain() else set(), words.find(query, before=start, wrong=self._wrong))
                yield from unique(merge(found, *lost, catalog.unworded(start), self._index.walk_untold(start), reverse=True))

    def says(self, id: bytes, places: Sequence[Place], files: Files) -> bool:
        """Whether the exchange, whose records lie at `places`, says what was asked for. To be asked before the next candidate is."""
        query = self._chosen.query
        if query is None or (id in self._sure and _holds(query, places, files)):
            return True
        parts = read_all(places, files)
        if query.matches(each_text(parts)):
            return True
        if len(parts) == len(places):  # else it cannot be read, of which `events` tells
            self._wrong.add(id)
        return False


def _put_into(seen: set[bytes], names: Iterable[bytes]) -> Iterator[bytes]:
    for name in names:
        seen.add(name)
        yield name


def _holds(query: Query, places: Sequence[Place], files: Files) -> bool:
    """Whether the words stand in the lines as they are: three times quicker than reading the lines, and enough where the index is sure. A
    word that is cut in two by events, escaped or written with an accent does not."""
    try:
        return all(any(skim.contains(files.open(name), at, term.words[0].encode()) for name, at in places) for term in query.terms)
    except ArchiveError:
        return False
