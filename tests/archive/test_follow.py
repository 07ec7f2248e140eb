"""Following segments into the catalog: whatever happens to them, in whatever steps, readers answer as if there were no catalog."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import HOUR, Shelf, in_parts, whole

from archive import skim
from archive.folder import segment_name
from archive.follow import Follower, start_over
from archive.handle import open_file
from archive.member import Found
from archive.reader import Reader
from archive.record import new_id


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
        else:
            self.shelf = Shelf(self.folder, writer=new_id(int(self.at() * 1000)), pid=number)
            self.shelf.open(self.at())

    def cut_back(self, number: int) -> None:
        """Power was lost: the last records are not there, and others come in their place; what was running is no more."""
        self.running.clear()
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
            kept = [data[it.offset : it.offset + it.tag.length] for count, it in enumerate(found) if (count + number) % 4]
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
    monkeypatch.setattr("archive.follow._HOP", 3)
    monkeypatch.setattr("archive.follow._STEP", 0.0)
    monkeypatch.setattr("archive.telling._AGAIN", 0.0)


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
