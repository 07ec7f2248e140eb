"""The day files of words: what is added is found, newest first, and nothing that happens to a file reaches the page as an exception."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_archive import until
from samples import HOUR, Shelf, parsed, whole
from traffic import agents, unique

from archive.catalog.follow import Follower
from archive.folder import INDEX
from archive.record import new_id
from archive.words import dayfile, dayfind
from archive.words.days import Query, Words
from archive.words.text import texts

DAY = "2026-11-19"
FILE = f"words-{DAY}.sqlite"


def an_id(number: int) -> bytes:
    """Ids ascend with their numbers."""
    return (int(HOUR * 1000) + number << 80).to_bytes(16, "big")


def ids(words: Words, query: str, **more: object) -> list[bytes]:
    return list(words.find(Query.parse(query), **more))  # type: ignore[arg-type]


def numbers(words: Words, query: str, **more: object) -> list[int]:
    return [(int.from_bytes(it, "big") >> 80) - int(HOUR * 1000) for it in ids(words, query, **more)]


def filled(folder: Path, exchanges: Iterable[list[str]], day: str = DAY) -> Words:
    words = Words(folder)
    for number, said in enumerate(exchanges):
        words.add(day, an_id(number), said)
    words.commit()
    return words


@pytest.fixture
def words(tmp_path: Path) -> Iterator[Words]:
    with closing(Words(tmp_path / "index")) as made:
        yield made


def test_words_are_found_newest_first_each_exchange_once(words: Words, tmp_path: Path) -> None:
    for number, said in enumerate((["alpha beta"], ["beta", "beta gamma"], ["alpha", "gamma"])):
        words.add(DAY, an_id(number), said)
    words.commit()
    with closing(Words(tmp_path / "index", readonly=True)) as reader:
        assert numbers(reader, "beta") == [1, 0]
        assert numbers(reader, "alpha") == [2, 0]
        assert numbers(reader, "alpha gamma") == [2]
        assert numbers(reader, "alpha absent") == []
        assert numbers(reader, "gam*") == [2, 1]
        assert numbers(reader, "beta", before=an_id(1)) == [0]
        assert numbers(reader, "beta", days=["2026-11-18"]) == []


def test_what_is_not_committed_is_not_there(words: Words, tmp_path: Path) -> None:
    words.add(DAY, an_id(1), ["alpha"])
    with closing(Words(tmp_path / "index", readonly=True)) as reader:
        assert ids(reader, "alpha") == []
        words.commit()
        assert numbers(reader, "alpha") == [1]
        words.add(DAY, an_id(2), ["alpha"])
        words.close()
        assert numbers(reader, "alpha") == [1]


def test_an_exchange_added_again_is_there_once_with_all_that_it_says(words: Words) -> None:
    long = "something long enough " * 20
    for said in (["alpha", long], ["alpha", long], ["alpha", "later", long, long + "more"]):
        words.add(DAY, an_id(1), said)
        words.add(DAY, an_id(2), ["other"])
    words.commit()
    assert numbers(words, "alpha") == numbers(words, "later") == numbers(words, "more") == numbers(words, "something") == [1]


def test_days_are_files_of_their_own_and_are_searched_newest_first(words: Words, tmp_path: Path) -> None:
    day_ms = 86_400_000
    by_day = {f"2026-11-{day}": new_id(int(HOUR * 1000) + (day - 19) * day_ms) for day in (17, 18, 19, 20)}
    for day, name in by_day.items():
        words.add(day, name, ["alpha"])
    words.commit()
    assert words.days() == list(by_day)
    newest_first = list(reversed(by_day.values()))
    assert ids(words, "alpha") == newest_first
    assert ids(words, "alpha", before=by_day["2026-11-19"]) == newest_first[2:]
    words.drop("2026-11-18")
    assert words.days() == ["2026-11-17", "2026-11-19", "2026-11-20"]
    assert ids(words, "alpha") == [newest_first[0], newest_first[1], newest_first[3]]
    assert not any("2026-11-18" in name for name in os.listdir(tmp_path / "index"))


def test_files_are_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(filled(tmp_path / "index", [["alpha"]])):
            modes = {name: stat.S_IMODE((tmp_path / "index" / name).stat().st_mode) for name in os.listdir(tmp_path / "index")}
    finally:
        os.umask(before)
    assert set(modes) == {FILE, f"{FILE}-wal", f"{FILE}-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "index").stat().st_mode) == 0o700


def test_a_name_that_is_no_day_is_refused(words: Words, tmp_path: Path) -> None:
    for name in ("", "../x", "2026-13-01", "2026-11-19 "):
        with pytest.raises(ValueError, match="no day"):
            words.add(name, an_id(1), ["alpha"])
    assert not (tmp_path / "index").exists()
    with closing(Words(tmp_path, readonly=True)) as reader, pytest.raises(ValueError, match="reading only"):
        reader.add(DAY, an_id(1), ["alpha"])


# The same as looking at every exchange.


SMALL = st.lists(
    st.lists(
        st.sampled_from(
            ["red", "green", "blue", "red green", "blue, blue", *(f"{word} {'long ' * 50}" for word in ("one", "two", "three"))]
        ),
        max_size=5,
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=120, deadline=None)
@given(
    SMALL,
    st.randoms(use_true_random=False),
    st.sampled_from(["red", "green blue", "one", "long", "l*", "two red", "three long*", '"red green"']),
)
def test_the_index_finds_what_looking_at_every_exchange_finds(
    tmp_path_factory: pytest.TempPathFactory, exchanges: list[list[str]], rng: random.Random, query: str
) -> None:
    """With every way of finding: words in few texts and in many, few strands and many; files closed and opened in between."""
    folder = tmp_path_factory.mktemp("words")
    order = list(range(len(exchanges)))
    for at in range(0, len(order) - 2, 3):  # as exchanges end, not as they begin
        if rng.random() < 0.5:
            order[at], order[at + 1] = order[at + 1], order[at]
    words = Words(folder)
    for number in order:
        words.add(DAY, an_id(number), exchanges[number])
        if rng.random() < 0.2:
            words.commit()
        if rng.random() < 0.1:
            words.commit()
            words.close()
    words.commit()
    parsed_query = Query.parse(query)
    expected = [number for number in reversed(range(len(exchanges))) if parsed_query.matches(exchanges[number])]
    with pytest.MonkeyPatch.context() as patch:
        for rare, strands, window in ((2000, 1000, 4096), (0, 0, 1), (1, 1, 2)):
            patch.setattr(dayfind, "_RARE", rare)
            patch.setattr(dayfind, "_STRANDS", strands)
            patch.setattr(dayfind, "_WINDOW", window)
            candidates = numbers(words, query)
            assert all(a > b for a, b in pairwise(candidates))
            wrong: set[bytes] = set()
            right = []
            for name in words.find(parsed_query, wrong=wrong):
                number = (int.from_bytes(name, "big") >> 80) - int(HOUR * 1000)
                if parsed_query.matches(exchanges[number]):
                    right.append(number)
                else:
                    wrong.add(name)
            assert right == expected
            assert [number for number in candidates if parsed_query.matches(exchanges[number])] == expected
            before = rng.randrange(len(exchanges))
            assert numbers(words, query, before=an_id(before)) == [number for number in candidates if number < before]
    words.close()


def test_agents_that_resend_their_history_are_found_by_every_turn(tmp_path: Path) -> None:
    records = list(islice(agents(sessions=7, planted={4: "quilomboro", 21: "zirconettale"}), 150))
    said = {record.id: texts([parsed(record)]) for record in records}
    with closing(Words(tmp_path)) as words:
        for name, each in said.items():
            words.add(DAY, name, each)
        words.commit()
        for query in ("quilomboro", "zirconettale", "gpt-4o", "quilomboro text", "x-request-id", "quil* user"):
            parsed_query = Query.parse(query)
            expected = [it for it in sorted(said, reverse=True) if parsed_query.matches(said[it])]
            assert [it for it in ids(words, query) if parsed_query.matches(said[it])] == expected
        word = "quilomboro"
        assert len(ids(words, word)) == sum(records[4].client.session == record.client.session for record in records[4:])


def test_a_turn_costs_what_it_adds(tmp_path: Path) -> None:
    """A message said in a hundred turns is one text and one link, not a hundred."""
    history = [f"message {number} " + "and so on " * 30 for number in range(100)]
    with closing(filled(tmp_path, (history[: number + 1] for number in range(100)))):
        pass
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("SELECT count(*) FROM text").fetchone() == (100,)
        assert db.execute("SELECT count(*) FROM link").fetchone() == (100,)


def test_strands_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dayfile, "_LINKS", 20)
    monkeypatch.setattr(dayfile, "_TIPS", 50)
    monkeypatch.setattr(dayfile, "_HASHES", 10)
    exchanges = [["the same header " * 20, "another header " * 20, f"question {number} " * 30] for number in range(60)]
    with closing(filled(tmp_path, exchanges)) as words:
        assert numbers(words, "header question") == list(reversed(range(60)))
        assert numbers(words, "37") == [37]
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        (most,) = db.execute("SELECT max(many) FROM (SELECT count(*) AS many FROM link GROUP BY strand)").fetchone()
    assert most <= 30


def test_a_first_page_of_a_word_that_is_everywhere_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = islice(unique(size=400), 600)
    monkeypatch.setattr(dayfind, "_RARE", 50)
    monkeypatch.setattr(dayfind, "_WINDOW", 64)
    with closing(Words(tmp_path)) as words:
        for record in records:
            words.add(DAY, record.id, texts([parsed(record)]))
        words.commit()
        asked: list[str] = []
        db = words._reader(DAY)
        assert db is not None
        db.set_trace_callback(asked.append)
        found = words.find(Query.parse("gpt-4o assistant"))
        assert len(list(islice(found, 10))) == 10
        assert sum("BETWEEN" in each for each in asked) < 20, "it went through all texts for ten exchanges"


def test_a_text_that_proved_wrong_is_not_read_again_with_the_next_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of a phrase stand in a message of a hundred turns, but apart: one turn is read, not a hundred."""
    exchanges = [[f"alpha and beta {'in between ' * 30}", f"turn {number} {'more ' * 50}"] for number in range(100)]
    exchanges[30] = [f"at last beta alpha {'once ' * 60}", exchanges[30][0]]
    query = Query.parse('"beta alpha"')
    for rare in (2000, 0):
        monkeypatch.setattr(dayfind, "_RARE", rare)
        with closing(filled(tmp_path / str(rare), exchanges)) as words:
            wrong: set[bytes] = set()
            right = []
            for name in words.find(query, wrong=wrong):
                number = (int.from_bytes(name, "big") >> 80) - int(HOUR * 1000)
                if query.matches(exchanges[number]):
                    right.append(number)
                else:
                    wrong.add(name)
            assert right == [30]
            assert len(wrong) < 5


# Files that are not as they should be.


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data)):
        data[at] ^= 0x5A
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["spoilt", "text", "empty", "another database", "another schema"])
def test_a_damaged_or_foreign_file_of_words_is_made_anew(tmp_path: Path, how: str) -> None:
    filled(tmp_path, [["alpha"]] * 50).close()
    path = tmp_path / FILE
    if how == "spoilt":
        spoil(path)
    elif how in ("text", "empty"):
        path.write_bytes(b"not a database " * 1000 if how == "text" else b"")
    else:
        with closing(sqlite3.connect(path)) as db:
            if how == "another schema":
                db.execute("PRAGMA user_version = 99")
            else:
                path.unlink()
    if how == "another database":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE other (x)")
    with closing(Words(tmp_path, readonly=True)) as reader:
        assert ids(reader, "alpha") == []
    with closing(Words(tmp_path)) as words:
        assert words.add(DAY, an_id(3), ["alpha"]), "whatever was there before has to be added again"
        assert not words.add(DAY, an_id(4), ["alpha"])
        words.commit()
        assert words.days() == [DAY]
        assert numbers(words, "alpha") == [4, 3]


def test_damage_met_while_reading_removes_the_file_so_that_it_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path, [["alpha"]] * 50).close()
    spoil(tmp_path / FILE)
    with closing(Words(tmp_path)) as writer, closing(Words(tmp_path, readonly=True)) as reader:
        assert writer.days() == [DAY]
        assert ids(reader, "alpha") == []
        assert not (tmp_path / FILE).exists()
        assert writer.days() == []


def test_damage_met_while_writing_is_told_by_what_is_left(tmp_path: Path) -> None:
    long = "and so on " * 60
    words = filled(tmp_path, [[f"alpha {number} {long}"] for number in range(50)])
    with closing(words):
        for name in (FILE, f"{FILE}-wal"):
            with (tmp_path / name).open("r+b") as file:
                file.truncate(0)
                file.write(b"no database at all " * 5000)
        words.close()
        assert words.add(DAY, an_id(99), ["alpha"])
        words.commit()
        assert numbers(words, "alpha") == [99]
        words.close()
        (tmp_path / FILE).write_bytes(bytes(100_000))
        assert not words.tidy()
        words.add("2026-11-20", an_id(100), ["alpha"])
        assert not words.tidy(), "the day before is damaged, and there is nothing left to tidy"
        words.commit()
        assert words.days() == ["2026-11-20"]


def test_a_file_deleted_under_the_writer_is_noticed(tmp_path: Path) -> None:
    with closing(filled(tmp_path, [["alpha"]])) as words:
        for name in os.listdir(tmp_path):
            (tmp_path / name).unlink()
        assert words.days() == []
        assert words.add(DAY, an_id(7), ["alpha"])
        words.commit()
        assert words.days() == [DAY]
        assert numbers(words, "alpha") == [7]


def test_a_symbolic_link_or_a_folder_is_no_file_of_words(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    filled(elsewhere, [["alpha"]]).close()
    index = tmp_path / "index"
    index.mkdir()
    (index / FILE).symlink_to(elsewhere / FILE)
    (index / "words-2026-11-18.sqlite").mkdir()
    (index / "words-elsewhere.sqlite").write_bytes(b"x")
    with closing(Words(index)) as words:
        assert words.days() == []
        assert ids(words, "alpha") == []
        words.add(DAY, an_id(5), ["beta"])
        words.commit()
        assert numbers(words, "alpha beta") == []
        assert numbers(words, "beta") == [5]
        with pytest.raises(OSError, match=r"2026-11-18|directory"):
            words.add("2026-11-18", an_id(5), ["beta"])
    with closing(Words(elsewhere, readonly=True)) as untouched:
        assert numbers(untouched, "alpha") == [0]


def test_a_folder_that_cannot_be_written_to_is_searched_all_the_same(tmp_path: Path) -> None:
    index = tmp_path / "index"
    filled(index, [["alpha"]]).close()
    assert os.listdir(index) == [FILE]
    (index / FILE).chmod(0o400)
    index.chmod(0o500)
    try:
        with closing(Words(index, readonly=True)) as reader:
            assert numbers(reader, "alpha") == [0]
        assert os.listdir(index) == [FILE]
    finally:
        index.chmod(0o700)


def test_no_folder_is_no_words(tmp_path: Path) -> None:
    with closing(Words(tmp_path / "none", readonly=True)) as reader:
        assert reader.days() == []
        assert ids(reader, "alpha") == []
    assert not (tmp_path / "none").exists()


def test_a_day_that_is_over_takes_less_room(tmp_path: Path) -> None:
    exchanges = [[f"{number} " + " ".join(f"w{(number * at) % 997}" for at in range(80))] for number in range(400)]
    words = Words(tmp_path)
    for number, said in enumerate(exchanges):
        words.add(DAY, an_id(number), said)
        words.commit()
    assert not words.tidy(), "the newest day is not over"
    words.add("2026-11-20", new_id(int(HOUR * 1000) + 86_400_000), ["alpha"])
    words.close()
    before = (tmp_path / FILE).stat().st_size
    expected = numbers(words, "w5")
    steps = sum(iter(lambda: int(words.tidy()), 0))
    assert steps > 1
    assert not words.tidy()
    words.close()
    assert (tmp_path / FILE).stat().st_size < before
    assert numbers(words, "w5") == expected
    # What is added late is found, and tidied again.
    words.add(DAY, an_id(1000), ["w5"])
    words.commit()
    assert words.tidy()
    assert numbers(words, "w5") == [1000, *expected]
    words.close()


# Two processes.


def _write(folder: str, count: int) -> None:
    words = Words(Path(folder))
    for number in range(count):
        words.add(DAY, an_id(number), [f"alpha n{number}", "the same " * 40])
        words.commit()
    words.close()


def test_one_process_writes_while_others_search(tmp_path: Path) -> None:
    count = 150
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(str(tmp_path), count))
    writer.start()
    try:
        with closing(Words(tmp_path, readonly=True)) as reader:
            seen = 0

            def all_there() -> bool:
                nonlocal seen
                found = numbers(reader, "alpha same")
                assert found == sorted(found, reverse=True)
                assert len(found) >= seen
                seen = len(found)
                return seen == count

            until(all_there)
            assert numbers(reader, f"n{count - 1}") == [count - 1]
    finally:
        writer.join(30)
    assert writer.exitcode == 0


def _die(folder: str) -> None:
    words = Words(Path(folder))
    words.add(DAY, an_id(1), ["alpha"])
    words.commit()
    words.add(DAY, an_id(2), ["alpha"])
    os._exit(9)


@pytest.mark.parametrize("left", ["as it was", "copied without its memory file"])
def test_what_was_committed_before_a_crash_is_found(tmp_path: Path, left: str) -> None:
    crashing = multiprocessing.get_context("spawn").Process(target=_die, args=(str(tmp_path),))
    crashing.start()
    crashing.join(30)
    assert crashing.exitcode == 9
    if left != "as it was":
        (tmp_path / f"{FILE}-shm").unlink()
    with closing(Words(tmp_path, readonly=True)) as reader:
        assert numbers(reader, "alpha") == [1]
    with closing(Words(tmp_path)) as words:
        assert not words.add(DAY, an_id(2), ["alpha"])
        words.commit()
        assert numbers(words, "alpha") == [2, 1]
    assert os.listdir(tmp_path) == [FILE]


# Made again.


@pytest.mark.parametrize("how", ["deleted", "spoilt"])
def test_words_lost_under_the_follower_are_found_again(tmp_path: Path, how: str) -> None:
    """Also when the first that meets the loss is an exchange that is added."""
    shelf = Shelf(tmp_path)
    for second in range(3):
        shelf.put(whole(HOUR + second, body=f'{{"a":"alpha{second}"}}'.encode()))
    with closing(Follower(tmp_path)) as follower:
        while follower.step():
            pass
        path = tmp_path / INDEX / FILE
        for each in (path, path.with_name(f"{FILE}-wal")):
            if how == "deleted":
                each.unlink()
            else:
                each.write_bytes(b"\xa5" * 50_000)
        follower.close()
        shelf.put(whole(HOUR + 9, body=b'{"a":"alpha9"}'))

        def all_there() -> bool:
            follower.step()
            with closing(Words(tmp_path / INDEX, readonly=True)) as reader:
                return len(ids(reader, "alpha*")) == 4

        until(all_there, seconds=40)
