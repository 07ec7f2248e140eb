"""Which exchanges are meant: by id, by session, by age; and which still run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from samples import HOUR, Shelf, in_parts, whole

from archive.errors import BadName, NotFound
from archive.keeping.choice import Choice, choose
from archive.record import Client, Record, id_text


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def of_session(session: str | None, at: float, **more: bytes) -> Record:
    record = whole(at, **more)  # type: ignore[arg-type]
    record.client = Client("127.0.0.1:1", session, "header" if session else None)
    return record


def meant(choice: Choice) -> list[str]:
    return [id_text(each.id) for each in choice.chosen]


def ids(*records: Record) -> list[str]:
    return [id_text(it.id) for it in records]


def test_an_id_or_the_beginning_of_one_means_one_exchange(shelf: Shelf) -> None:
    first, second = whole(HOUR + 1), whole(HOUR + 200_000)
    shelf.put([first, second], at=HOUR + 1)
    name = id_text(first.id)
    for text in (name, name.upper(), name.replace("-", ""), name[:8], name[:13]):
        assert meant(choose(shelf.folder, ids=[text])) == [name]
    assert meant(choose(shelf.folder, ids=ids(second, first))) == ids(first, second)


@pytest.mark.parametrize("text", ["", "abc", "g" * 32, "../../etc/passwd", "0" * 33, "01934f7e8a-6b", "%41%42%43%44", "\ud83d" * 8])
def test_what_is_no_id_is_refused(shelf: Shelf, text: str) -> None:
    with pytest.raises(BadName):
        choose(shelf.folder, ids=[text])


def test_an_id_that_is_not_there_or_not_the_only_one_is_refused(shelf: Shelf) -> None:
    first, second = whole(HOUR + 1), whole(HOUR + 1.001)
    shelf.put([first, second])
    with pytest.raises(NotFound, match="no exchange"):
        choose(shelf.folder, ids=[id_text(first.id), "0" * 32])
    with pytest.raises(NotFound, match="several"):
        choose(shelf.folder, ids=[id_text(first.id)[:8]])


def test_a_writers_own_lines_are_no_exchange(shelf: Shelf) -> None:
    with pytest.raises(NotFound):
        choose(shelf.folder, ids=[id_text(shelf.writer)])


def test_a_session_is_found_exactly(shelf: Shelf) -> None:
    wanted = [of_session("run-1", HOUR + 1), of_session("run-1", HOUR + 4000, body=os.urandom(600_000))]
    others = [
        of_session("run-10", HOUR + 2),
        of_session(None, HOUR + 3),
        of_session("other", HOUR + 4, body=b'"client":{"session":"run-1"}'),
    ]
    shelf.put([*wanted, *others])
    assert meant(choose(shelf.folder, session="run-1")) == ids(*wanted)
    assert meant(choose(shelf.folder, session="run")) == []


def test_a_session_behind_a_huge_user_agent_is_found(shelf: Shelf) -> None:
    record = of_session("run-1", HOUR + 1)
    assert record.request is not None
    record.request.headers = [(b"user-agent", b"x" * 300_000)]
    shelf.put(record)
    assert meant(choose(shelf.folder, session="run-1")) == ids(record)


def test_what_began_before_a_moment_is_found(shelf: Shelf) -> None:
    records = [of_session("a" if number % 2 else "b", HOUR + number) for number in range(1, 5)]
    shelf.put(records)
    assert meant(choose(shelf.folder, before=HOUR + 3)) == ids(*records[:2])
    assert meant(choose(shelf.folder, before=HOUR + 3, session="a")) == ids(records[0])
    assert meant(choose(shelf.folder, before=0)) == []
    assert meant(choose(shelf.folder, before=1e11)) == ids(*records)


def test_all_parts_count_wherever_they_lie(shelf: Shelf) -> None:
    parts = in_parts([b"a", b"b", b"c"], at=HOUR + 3590)
    for number, part in enumerate(parts):
        shelf.put(part, at=HOUR + 3590 + number * 10)
    (chosen,) = choose(shelf.folder, ids=ids(parts[0])).chosen
    assert (chosen.records, chosen.hours) == (3, ["2026-11-19T10", "2026-11-19T11"])
    assert chosen.bytes == sum(path.stat().st_size for path in shelf.folder.iterdir()) - chosen_open(shelf)
    assert chosen.at.timestamp() == pytest.approx(HOUR + 3590, abs=0.001)


def chosen_open(shelf: Shelf) -> int:
    """Bytes of the shelf's open line."""
    other = Shelf(shelf.folder.parent / "other", writer=shelf.writer)
    other.open()
    return (other.folder / "2026-11-19T10.jsonl.gz").stat().st_size


def test_an_exchange_without_an_end_still_runs_unless_its_writer_is_gone(tmp_path: Path) -> None:
    living = Shelf(tmp_path / "living", host=socket.gethostname(), pid=os.getpid())
    living.open()
    begun = in_parts([b"a", b"b"], end=None)
    living.put(begun)
    choice = choose(living.folder, ids=ids(begun[0]))
    assert (meant(choice), [id_text(it.id) for it in choice.running]) == ([], ids(begun[0]))
    living.close()
    choice = choose(living.folder, ids=ids(begun[0]))
    assert (meant(choice), choice.running) == (ids(begun[0]), [])


def test_no_folder_has_no_exchange(tmp_path: Path) -> None:
    assert choose(tmp_path / "nowhere", before=1e10) == Choice([], [])
