"""What the catalog gives back is what was put in: rows, orders, filters; and a file that is replaced is opened anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from samples import HOUR, Shelf, whole

from archive.catalog.follow import Follower, start_over
from archive.catalog.rows import Catalog, Names, day_bounds, day_text, pack_row, unpack_row
from archive.catalog.tables import open_for_writing
from archive.exchange import Summary
from archive.record import new_id

texts = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates, too
whole_numbers = st.integers(-(1 << 63), (1 << 63) - 1)
milliseconds = st.none() | st.floats(allow_nan=False, allow_infinity=False)
times = st.none() | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001

summaries = st.builds(
    Summary,
    parts=whole_numbers,
    writer=texts,
    at=times,
    client=texts,
    session=st.none() | texts,
    route=texts,
    method=texts,
    target=texts,
    status=st.none() | whole_numbers,
    origin=st.none() | texts,
    streamed=st.booleans(),
    websocket=st.booleans(),
    request_bytes=whole_numbers,
    ttfb=milliseconds,
    duration=milliseconds,
    end=st.none() | texts,
)


@given(summary=summaries)
def test_a_row_gives_back_what_was_put_in(tmp_path_factory, summary: Summary) -> None:  # type: ignore[no-untyped-def]
    with closing(open_for_writing(tmp_path_factory.mktemp("rows"))) as db:
        packed = pack_row(summary, Names(db))
        assert packed is not None
        marks = ", ".join("?" * (4 + len(packed)))
        db.execute(f"INSERT INTO exchange VALUES ({marks})", (b"x", 1, 1, 1, *packed))
        row = db.execute("SELECT * FROM exchange").fetchone()
        assert unpack_row(row[4:], Names(db)) == summary


def test_what_fits_no_column_makes_no_row(tmp_path: Path) -> None:
    odd = [Summary(status=1 << 63), Summary(ttfb=float("nan")), Summary(duration=float("inf")), Summary(messages=-(1 << 70))]
    odd.append(Summary(session=5))  # type: ignore[arg-type]  # a line may hold anything
    with closing(open_for_writing(tmp_path)) as db:
        assert [pack_row(summary, Names(db)) for summary in odd] == [None] * len(odd)


def followed(shelf: Shelf) -> Catalog:
    with closing(Follower(shelf.folder, spare=0)) as follower:
        while follower.step():
            pass
    catalog = Catalog(shelf.folder)
    assert catalog.begin()
    return catalog


def test_filters_give_ids_newest_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    asked = [("openai", 200), ("gemini", 404), ("openai", 429), ("openai", 204), ("gemini", 200), ("openai", 404)]
    ids = []
    for number, (route, status) in enumerate(asked):
        record = whole(HOUR + number, route=route, status=status)
        shelf.put(record)
        ids.append(record.id)
    catalog = followed(shelf)

    def chosen(route: str | None, status: str | None, before: bytes | None = None) -> list[int]:
        return [ids.index(each) for each in catalog.chosen(before, route=route, status=status)]

    assert chosen("gemini", None) == [4, 1]
    assert chosen(None, "4xx") == [5, 2, 1]
    assert chosen(None, "404") == [5, 1]
    assert chosen("openai", "4xx") == [5, 2]
    assert chosen("openai", "2xx", before=ids[3]) == [0]
    assert chosen(None, "none") == chosen("nobody", None) == chosen(None, "5xx") == []
    keys = {it.key for it in catalog.covered().values()}
    assert list(catalog.ids(None, keys)) == ids[::-1]
    assert list(catalog.ids(ids[2], keys)) == ids[1::-1]
    assert list(catalog.ids(None, set())) == []
    assert list(catalog.between(ids[1], ids[3], keys)) == ids[1:4]
    assert list(catalog.untold(None, catalog.covered().values())) == []
    assert catalog.row(new_id(0)) is None
    assert catalog.places(new_id(0)) == []
    catalog.close()


def test_a_catalog_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.put(whole())
    catalog = followed(shelf)
    first = catalog.covered()
    catalog.end()
    assert catalog.begin()
    assert catalog.covered() is first  # nothing has changed
    catalog.end()
    start_over(shelf.folder)
    assert not catalog.begin()
    shelf.put(whole(HOUR + 3600))
    followed(shelf).close()
    assert catalog.begin()
    assert len(catalog.covered()) == 2
    catalog.close()


def test_what_is_read_between_begin_and_end_belongs_together(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.put(whole(HOUR + 1))
    with closing(Follower(shelf.folder, spare=0)) as follower:
        while follower.step():
            pass
        catalog = Catalog(shelf.folder)
        assert catalog.begin()
        before = list(catalog.ids(None, {1}))
        shelf.put(whole(HOUR + 2))
        while follower.step():
            pass
        assert list(catalog.ids(None, {1})) == before
        catalog.end()
        assert catalog.begin()
        assert len(list(catalog.ids(None, {1}))) == 2
        catalog.close()


def test_a_damaged_file_is_let_rest(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.put(whole())
    catalog = followed(shelf)
    error = sqlite3.DatabaseError("malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    catalog.give_up(error)
    assert not catalog.begin()
    busy = sqlite3.OperationalError("locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    other = followed(shelf)
    other.give_up(busy)
    assert other.begin()
    other.close()


@given(at=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_day_holds_the_ids_that_were_made_on_it(at: datetime) -> None:
    name = new_id(int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)))
    day = int.from_bytes(name[:6], "big") // 86_400_000
    low, high = day_bounds(day)
    assert low <= name < high
    assert day_text(day) == at.date().isoformat()
