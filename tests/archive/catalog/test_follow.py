"""Following segments into the catalog: whatever happens to them, in whatever steps, readers answer as if there were no catalog."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from commandline import clean_environment
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_archive import until, writing
from samples import HOUR, Shelf, in_parts, parsed, whole

from archive import member, skim
from archive.catalog.follow import Follower, start_over
from archive.catalog.tables import CATALOG
from archive.folder import segment_name, segments
from archive.handle import open_file, open_segment
from archive.keeping.pack import Refused, pack
from archive.line import SERVICE_PART, forget_line
from archive.member import Found
from archive.proof.seal import seal_hour
from archive.reader import Progress, Reader
from archive.record import id_text, new_id


def plain(folder: Path) -> Reader:
    """A reader that leans on no catalog."""
    reader = Reader(folder)
    reader._catalog.begin = lambda: False  # type: ignore[method-assign]
    return reader


def listed(reader: Reader, **query: Any) -> list[Any]:
    """All pages of a list."""
    found: list[Any] = []
    before = None
    while True:
        page = reader.page(before=before, limit=7, **query)
        found += page.entries
        if page.next is None:
            return found
        before = page.next


def told(reader: Reader) -> dict[str, Any]:
    """All that a reader says of an archive."""
    entries = listed(reader)
    queries: list[dict[str, Any]] = [{"route": "gemini"}, {"status": "4xx"}, {"status": 404}, {"status": "none"}, {"text": "needle"}]
    return {
        "list": entries,
        "events": [(it.kind, it.place.segment, it.place.offset, it.why) for it in reader.events()],
        **{str(query): [it.id for it in listed(reader, **query)] for query in queries},
        "places": {it.id: reader.get(it.id).places for it in entries},
    }


def follow(follower: Follower, most: int = 10_000) -> None:
    """To the end, or so many steps."""
    while most and follower.step():
        most -= 1


class History:
    """An archive to which things happen, with a follower and a reader that lives through all of it."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder)
        self.shelf.open()
        self.folder = folder
        self.hour = 0
        self.running: list[list[Any]] = []
        self.follower = Follower(folder, spare=0)
        self.reader = Reader(folder)

    def at(self, back: int = 0) -> float:
        return HOUR + 3600 * max(0, self.hour - back) + 60

    def path(self, number: int) -> Path | None:
        paths = sorted(self.folder.glob("*.jsonl.gz"))
        return paths[number % len(paths)] if paths else None

    def write(self, number: int) -> None:
        status, route = ((200, "openai"), (404, "gemini"), (429, "openai"), (500, "gemini"))[number % 4]
        body = b'{"say":"needle"}' if number % 3 == 0 else b'{"say":"straw"}'
        hour = self.at(number % 5 // 4)  # now and then the hour before: two writers' clocks are never one
        self.shelf.put(whole(hour + number, status=status, route=route, body=body), at=hour)

    def begin(self, number: int) -> None:
        chunks = [b"some ", b"needle", b" and more", b" and more"][: 2 + number % 3]
        self.running.append(in_parts(chunks, at=self.at() + number, **({"end": None} if number % 5 == 0 else {})))

    def go_on(self, number: int) -> None:
        if self.running:
            parts = self.running[number % len(self.running)]
            self.shelf.put(parts.pop(number % 7 // 6 * -1), at=self.at())  # now and then the last one first
            self.running = [it for it in self.running if it]

    def next_hour(self, number: int) -> None:
        self.hour += 1

    def tear(self, number: int) -> None:
        packed = self.shelf.pack(whole(self.at() + number))
        cut = number % len(packed)
        self.shelf.raw(packed[:cut], self.at())
        follow(self.follower, number % 4)
        if number % 3 == 0:
            self.shelf.raw(packed[cut:], self.at())
        elif number % 3 == 1:
            path = self.folder / segment_name(self.at())
            os.truncate(path, path.stat().st_size - cut)

    def damage(self, number: int) -> None:
        packed = bytearray(self.shelf.pack(whole(self.at() + number)))
        packed[number % len(packed)] ^= 0x10
        self.shelf.raw(bytes(packed), self.at())

    def service(self, number: int) -> None:
        if number % 2:
            self.shelf.close(self.at())
            self.running.clear()  # who has closed writes no more
        self.shelf = Shelf(self.folder, writer=new_id(int(self.at() * 1000)), pid=number)
        if number % 3:
            self.shelf.open(self.at())

    def cut_back(self, number: int) -> None:
        """Power was lost: the last records are not there, and others come in their place; what was running is no more."""
        self.running.clear()
        self.shelf = Shelf(self.folder, writer=new_id(int(self.at() * 1000)), pid=number)
        if (path := self.path(number)) is not None:
            with open_file(path) as handle:
                ends = [it.offset for it in handle.scan() if isinstance(it, Found)]
            os.truncate(path, ends[-1 - number % 3] if len(ends) > 3 else 0)
            if path.stat().st_size == 0:
                path.unlink()

    def forget(self, number: int) -> None:
        """Rewritten without some of its records."""
        if (path := self.path(number)) is not None:
            data = path.read_bytes()
            with open_file(path) as handle:
                found = [it for it in handle.scan() if isinstance(it, Found)]
            kept = [
                data[it.offset : it.offset + it.tag.length]
                for count, it in enumerate(found)
                if (count + number) % 4 or it.tag.part == SERVICE_PART
            ]
            new = path.with_name(f".{path.name}.new")
            new.write_bytes(b"".join(kept))
            new.rename(path)

    def remove(self, number: int) -> None:
        if number % 2 and (path := self.path(number)) is not None:
            path.unlink()

    def copy(self, number: int) -> None:
        if (path := self.path(number)) is not None:
            new = path.with_name(f".{path.name}.new")
            shutil.copy(path, new)
            new.rename(path)

    def step(self, number: int) -> None:
        follow(self.follower, number % 6)

    def restart(self, number: int) -> None:
        self.follower.close()
        self.follower = Follower(self.folder, spare=0)

    def lose_catalog(self, number: int) -> None:
        match number % 6:
            case 0:
                shutil.rmtree(self.folder / "index", ignore_errors=True)
            case 1:
                start_over(self.folder)
            case 2:
                for path in (self.folder / "index").glob("words-*"):
                    path.unlink()
            case _:
                pass

    def look(self, number: int) -> None:
        assert told(self.reader) == told(plain(self.folder))


ACTS = [History.write] * 6 + [History.begin, History.go_on, History.go_on, History.next_hour, History.tear, History.damage]
ACTS += [History.service, History.cut_back, History.forget, History.remove, History.copy, History.restart, History.lose_catalog]
ACTS += [History.step] * 4 + [History.look] * 2


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archive.catalog.hopping._HOP", 3)
    monkeypatch.setattr("archive.catalog.follow._STEP", 0.0)
    monkeypatch.setattr("archive.catalog.telling._AGAIN", 0.0)


acts = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 500)), min_size=3, max_size=40)


@settings(max_examples=int(os.environ.get("VERBATIM_HISTORIES", "40")), deadline=None)
@given(acts=acts)
def test_whatever_happens_to_the_segments_readers_answer_as_without_a_catalog(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[Callable[[History, int], None], int]]
) -> None:
    history = History(tmp_path_factory.mktemp("history") / "archive")
    try:
        for act, number in acts:
            act(history, number)
        expected = told(plain(history.folder))
        assert told(history.reader) == expected
        follow(history.follower, 2000)
        assert told(history.reader) == expected
        assert told(Reader(history.folder)) == expected
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(skim, "skim", None)
            assert [it.id for it in listed(Reader(history.folder))] == [it.id for it in expected["list"]]
    finally:
        history.follower.close()


# One thing at a time, and who may do it.


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def followed(folder: Path) -> None:
    """Follow to the end."""
    with closing(Follower(folder, spare=0)) as follower:
        follow(follower)


def rows(folder: Path, sql: str) -> list[Any]:
    """What the catalog's file holds."""
    with closing(sqlite3.connect(folder / "index" / CATALOG)) as db:
        return db.execute(sql).fetchall()


def test_a_record_is_found_and_listed_without_reading_the_others(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [whole(HOUR + 600 * number, status=404 if number == 3 else 200) for number in range(40)]
    shelf.put(records)
    followed(shelf.folder)
    opened: list[str] = []
    monkeypatch.setattr("archive.parts.open_segment", lambda folder, name: opened.append(name) or open_segment(folder, name))
    monkeypatch.setattr("archive.catalog.index.Segment.advance", None)
    reader = Reader(shelf.folder)
    assert len(reader.page(limit=100).entries) == 40
    assert [it.id for it in reader.page(status="4xx").entries] == [id_text(records[3].id)]
    assert opened == []
    assert reader.get(id_text(records[17].id)).lines == shelf.lines[id_text(records[17].id)]
    assert len(opened) == 1


def test_filters_reach_any_depth_of_what_is_in_the_catalog(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archive.reader._SEARCHED", 5)
    records = [whole(HOUR + number, status=404 if number == 0 else 200, body=b"rare" if number == 1 else b"usual") for number in range(30)]
    shelf.put(records)
    followed(shelf.folder)
    reader = Reader(shelf.folder)
    assert [it.id for it in reader.page(status=404).entries] == [id_text(records[0].id)]
    assert [it.id for it in reader.page(text="rare").entries] == [id_text(records[1].id)]
    assert reader.page(status=404).next is None


def test_of_two_followers_one_follows_and_the_other_takes_over(shelf: Shelf) -> None:
    shelf.put(whole())
    first, second = Follower(shelf.folder, spare=0), Follower(shelf.folder, spare=0)
    follow(first)
    assert not second.step()
    assert (second.follows, second.held_up) == (False, Follower.TAKEN)
    first.close()
    shelf.put(whole(HOUR + 5))
    follow(second)
    assert second.follows
    second.close()
    assert len(rows(shelf.folder, "SELECT id FROM exchange")) == 2


def test_a_nearly_full_disk_is_left_to_the_recordings(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.put(whole())
    with closing(Follower(shelf.folder, spare=1 << 60)) as follower:
        assert not follower.step()
        assert not follower.step()
        assert "free" in follower.held_up
    assert len(caplog.records) == 1
    assert len(Reader(shelf.folder).page().entries) == 1


def test_a_place_that_cannot_be_written_to_leaves_readers_as_they_were(shelf: Shelf) -> None:
    shelf.put(whole())
    (shelf.folder / "index").write_bytes(b"a file in its place")
    with closing(Follower(shelf.folder, spare=0)) as follower, pytest.raises(OSError):
        follower.step()
    reader = Reader(shelf.folder)
    assert len(reader.page().entries) == 1
    assert reader.progress() is None


def test_a_folder_that_vanishes_and_returns_is_followed_again(shelf: Shelf) -> None:
    record = whole()
    shelf.put(record)
    with closing(Follower(shelf.folder, spare=0)) as follower:
        reader = Reader(shelf.folder)
        follow(follower)
        away = shelf.folder.with_name("away")
        shelf.folder.rename(away)
        assert not follower.step()
        assert reader.page().entries == []
        away.rename(shelf.folder)
        shelf.put(whole(HOUR + 5))
        follow(follower)
        assert reader.progress().behind == 0  # type: ignore[union-attr]
        assert len(reader.page().entries) == 2


def test_a_damaged_catalog_hides_nothing_and_is_made_anew(
    shelf: Shelf, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.catalog.rows._REST", 0.0)
    records = [whole(HOUR + number) for number in range(300)]
    shelf.put(records)
    followed(shelf.folder)
    path = shelf.folder / "index" / CATALOG
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    reader = Reader(shelf.folder)
    assert len(listed(reader)) == 300
    with closing(Follower(shelf.folder, spare=0)) as follower:
        for _ in range(500):
            with suppress(sqlite3.Error):
                if not follower.step():
                    break
    assert "made anew" in caplog.text
    assert reader.progress().behind == 0  # type: ignore[union-attr]
    assert len(listed(reader)) == 300
    assert len(rows(shelf.folder, "SELECT id FROM exchange")) == 300


def test_a_catalog_of_another_schema_is_made_anew(shelf: Shelf) -> None:
    shelf.put(whole())
    followed(shelf.folder)
    with closing(sqlite3.connect(shelf.folder / "index" / CATALOG)) as db:
        db.execute("PRAGMA user_version = 99")
    assert Reader(shelf.folder).progress() is None
    followed(shelf.folder)
    assert len(rows(shelf.folder, "SELECT id FROM exchange")) == 1


def test_a_catalog_asked_for_anew_while_another_follows_is_made_by_that_one(shelf: Shelf) -> None:
    shelf.put(whole())
    with closing(Follower(shelf.folder, spare=0)) as follower:
        follow(follower)
        before = (shelf.folder / "index" / CATALOG).stat().st_ino
        keep = os.open(shelf.folder / "index" / CATALOG, os.O_RDONLY)  # so that its inode is not given to the next
        start_over(shelf.folder)
        follow(follower)
        assert (shelf.folder / "index" / CATALOG).stat().st_ino != before
        os.close(keep)
    assert len(rows(shelf.folder, "SELECT id FROM exchange")) == 1


def test_what_is_forgotten_leaves_catalog_and_words(shelf: Shelf) -> None:
    records = [whole(HOUR + number, body=f"secret{number} common".encode()) for number in range(4)]
    path = shelf.put(records)
    with closing(Follower(shelf.folder, spare=0)) as follower:
        follow(follower)
        data = path.read_bytes()
        with open_file(path) as handle:
            found = [it for it in handle.scan() if isinstance(it, Found)]
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(b"".join(data[it.offset : it.offset + it.tag.length] for it in found if it.tag.id != records[1].id))
        new.rename(path)
        reader = Reader(shelf.folder)
        assert id_text(records[1].id) not in [it.id for it in reader.page().entries]  # at once, whatever the catalog still holds
        follow(follower)
    assert len(listed(reader, text="common")) == 3
    assert listed(reader, text="secret1") == []
    assert (records[1].id,) not in rows(shelf.folder, "SELECT id FROM exchange UNION SELECT id FROM part")
    for file in (shelf.folder / "index").iterdir():
        assert records[1].id not in file.read_bytes(), file
        assert b"secret1" not in file.read_bytes(), file


def test_an_hour_that_was_removed_leaves_the_catalog_and_its_day_the_words(shelf: Shelf) -> None:
    day = 24 * 3600
    first, second = shelf.put(whole(HOUR, body=b"old")), shelf.put(whole(HOUR + day, body=b"young"))
    assert first != second
    with closing(Follower(shelf.folder, spare=0)) as follower:
        follow(follower)
        assert len(list((shelf.folder / "index").glob("words-*.sqlite"))) == 2
        first.unlink()
        follow(follower)
        assert [it.name for it in (shelf.folder / "index").glob("words-*.sqlite")] == ["words-2026-11-20.sqlite"]
    assert len(rows(shelf.folder, "SELECT id FROM exchange UNION SELECT id FROM part")) == 1
    assert listed(Reader(shelf.folder), text="old") == []


def test_a_packed_hour_is_not_read_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.open()
    path = shelf.put([whole(HOUR + number, body=b"needle") for number in range(20)])
    shelf.put(whole(HOUR + 7200))
    followed(shelf.folder)
    expected = told(plain(shelf.folder))
    seal_hour(shelf.folder, path.name[:13], now=HOUR + 9000, version="test")
    assert not isinstance(pack(shelf.folder, path.name[:13]), Refused)
    assert [it.name for it in segments(shelf.folder)] == ["2026-11-19T10.jsonl.zst", "2026-11-19T12.jsonl.gz"]
    for read in ("read", "fold"):
        monkeypatch.setattr(f"archive.catalog.telling.{read}", None)
    followed(shelf.folder)
    monkeypatch.undo()
    found = told(Reader(shelf.folder))
    assert found["list"] == expected["list"]
    assert found[str({"text": "needle"})] == expected[str({"text": "needle"})]
    assert {place.segment[-4:] for places in found["places"].values() for place in places} == {".zst", "l.gz"}
    assert [kind for kind, *_ in found["events"]] == ["open"]


def test_a_copied_archive_keeps_its_catalog(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.put([whole(HOUR + number) for number in range(20)])
    followed(shelf.folder)
    shutil.copytree(shelf.folder, tmp_path / "copy")
    monkeypatch.setattr("archive.catalog.telling.read", None)
    followed(tmp_path / "copy")
    assert Reader(tmp_path / "copy").progress().behind == 0  # type: ignore[union-attr]


def test_values_that_fit_no_column_are_read_from_their_lines(shelf: Shelf) -> None:
    good = whole(HOUR + 1)
    shelf.put(good)
    name = new_id(int((HOUR + 2) * 1000))
    line = parsed(whole(HOUR + 2)) | {"id": id_text(name)}
    line["request"]["body"]["size"] = 1 << 70
    shelf.raw(member.pack(json.dumps(line).encode() + b"\n", id=name, part=0, seq=9))
    followed(shelf.folder)
    assert told(Reader(shelf.folder)) == told(plain(shelf.folder))
    assert rows(shelf.folder, "SELECT id FROM exchange WHERE places < 0") == [(name,)]


def test_lone_surrogates_are_told_as_they_are(shelf: Shelf) -> None:
    name = new_id(int((HOUR + 2) * 1000))
    line = parsed(whole(HOUR + 2)) | {"id": id_text(name)}
    line["client"]["session"] = "half \ud83d"
    shelf.raw(member.pack(json.dumps(line).encode() + b"\n", id=name, part=0, seq=9))
    followed(shelf.folder)
    (entry,) = Reader(shelf.folder).page().entries
    assert entry.session == "half \ud83d"


def test_long_lines_of_the_archives_own_are_read_where_they_lie(shelf: Shelf) -> None:
    removed = [{"segment": "2026-11-19T09", "index": at, "id": id_text(new_id(at)), "why": "x" * 50} for at in range(500)]
    line = forget_line(writer=id_text(shelf.writer), seq=0, at=HOUR, by="a@b", why="test", removed=removed)
    shelf.raw(member.pack(line + b"\n", id=shelf.writer, part=SERVICE_PART, seq=0))
    shelf.put(whole())
    followed(shelf.folder)
    assert rows(shelf.folder, "SELECT line FROM event") == [(None,)]
    (event,) = Reader(shelf.folder).events()
    assert (event.kind, len((event.detail or {})["removed"])) == ("forget", 500)
    assert rows(shelf.folder, "SELECT hour FROM forgotten") == [("2026-11-19T09",)]


def test_words_of_an_exchange_whose_writer_is_gone_are_handed_over(shelf: Shelf) -> None:
    shelf.open()
    shelf.put(in_parts([b"said ", b"halfway"], end=None))
    followed(shelf.folder)
    assert rows(shelf.folder, "SELECT worded FROM exchange") == [(0,)]
    assert len(listed(Reader(shelf.folder), text="halfway")) == 1
    shelf.close()
    followed(shelf.folder)
    assert rows(shelf.folder, "SELECT worded FROM exchange") == [(1,)]
    assert len(listed(Reader(shelf.folder), text="halfway")) == 1


# Live, and killed.

FOLLOW = "import sys\nfrom pathlib import Path\nfrom threading import Event\nfrom archive.catalog.follow import Follower\n"
FOLLOW += "Follower(Path(sys.argv[1]), spare=0).run(Event())"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))


def process(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-c", FOLLOW, str(folder)], env=clean_environment())


@pytest.mark.usefixtures("small_steps")
def test_what_is_being_written_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # steps as they are
    folder = tmp_path / "archive"
    with writing(folder) as writer:
        until(folder.is_dir)
        follower = process(folder)
        try:
            records = [whole(time.time(), body=f"number{at}".encode()) for at in range(300)]
            for record in records:
                assert writer.put(record)
                time.sleep(0.001)
            reader = Reader(folder)
            until(lambda: len(reader.page(limit=500).entries) == 300 and reader.progress() == Progress(size(folder), size(folder)))
            assert [it.id for it in reader.page(text="number217").entries] == [id_text(records[217].id)]
            until(lambda: rows(folder, "SELECT count(*) FROM exchange WHERE worded = 1") == [(300,)])
        finally:
            follower.terminate()
            follower.wait()


def test_a_follower_killed_at_any_moment_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shelf, rng = Shelf(tmp_path / "archive"), random.Random(11)
    shelf.open()
    begun: list[Any] = []
    for trial in range(int(os.environ.get("VERBATIM_FOLLOW_KILLS", "8"))):
        for number in range(rng.randrange(50, 300)):
            at = HOUR + trial * 900 + number
            shelf.put(whole(at, status=rng.choice([200, 404]), body=b"needle" if number % 9 == 0 else b"straw"))
            if number % 20 == 0:
                begun.append(in_parts([b"a", b"needle", b"c"], at=at))
            if begun and rng.random() < 0.3:
                shelf.put(begun[0].pop(0), at=at)
                begun = [it for it in begun if it]
        follower = process(shelf.folder)
        time.sleep(rng.uniform(0.15, 0.7))  # whenever: no condition is waited for, any moment must do
        follower.kill()
        follower.wait()
    expected = told(plain(shelf.folder))
    assert told(Reader(shelf.folder)) == expected
    followed(shelf.folder)
    assert told(Reader(shelf.folder)) == expected
    going_on = {table: rows(shelf.folder, f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3") for table, columns in COMPARED.items()}
    start_over(shelf.folder)
    followed(shelf.folder)
    assert told(Reader(shelf.folder)) == expected
    from_scratch = {table: rows(shelf.folder, f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3") for table, columns in COMPARED.items()}
    assert going_on == from_scratch


COMPARED = {
    "part": "id, segment, offset",
    "segment": "name, position, told, last, tag, chain, records",
    "exchange": "id, places, next, worded, parts, at, client, target, status, response_bytes, ttfb, duration, redactions",
    "event": "segment, offset, length, line, why",
}
