"""The clerk: removals are told of durably, read back, and those that were cut short are found."""

from __future__ import annotations

import os
import pwd
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rig_archive import zcat
from samples import HOUR, Shelf, whole

from archive.errors import NotFound
from archive.folder import segments
from archive.keeping import clerk
from archive.keeping.clerk import Clerk, Removals, alone, user, writer_of
from archive.keeping.pack import Repacked, pack
from archive.keeping.upkeep import finish
from archive.line import forget_line, prune_line
from archive.proof.seal import seal_hour
from archive.proof.verify import verify


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def forgetting(why: str) -> Any:
    return partial(forget_line, at=HOUR, by="me@here", why=why, removed=[])


def read(folder: Path) -> Removals:
    removals = Removals(folder)
    removals.refresh()
    return removals


def test_lines_are_numbered_from_the_opening_to_the_close(shelf: Shelf) -> None:
    made = Clerk(shelf.folder, version="1.2")
    made.tell(HOUR + 60, [forgetting("first")])
    made.tell(HOUR + 3700, [forgetting("second"), forgetting("third")])
    made.close(HOUR + 3701)
    (removal,) = read(shelf.folder).all()
    assert (removal.last, removal.closed) == (4, True)
    assert [place.segment[:13] for place in removal.told] == ["2026-11-19T10", "2026-11-19T11", "2026-11-19T11"]
    whys = [event.detail["why"] for event in read(shelf.folder).events(removal) if event.detail]
    assert whys == ["first", "second", "third"]
    report = verify([shelf.folder])
    assert report.complete
    assert [it.closed for it in report.writers if it.last == 4] == [True]


def test_a_removal_that_was_not_closed_is_carried_on_under_its_own_name(shelf: Shelf) -> None:
    Clerk(shelf.folder, version="1.2").tell(HOUR + 60, [partial(prune_line, at=HOUR, by="x", why="y", segments=[])])
    removals = read(shelf.folder)
    (removal,) = removals.unfinished()
    with alone(shelf.folder):
        assert finish(shelf.folder, removals, version="1.2", clock=lambda: HOUR + 120) == 1
    (after,) = read(shelf.folder).all()
    assert (after.id, after.last, after.closed) == (removal.id, 2, True)
    assert verify([shelf.folder]).complete


def test_only_what_is_new_is_read(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Clerk(shelf.folder, version="1.2")
    made.tell(HOUR + 60, [forgetting("first")])
    removals = read(shelf.folder)
    lines: list[int] = []
    real = clerk._line
    monkeypatch.setattr(clerk, "_line", lambda read, name, found: (lines.append(found.tag.seq), real(read, name, found))[1])
    removals.refresh()
    assert lines == []
    made.close(HOUR + 61)
    removals.refresh()
    assert lines == [2]
    assert removals.all()[0].closed
    (path,) = segments(shelf.folder)
    path.write_bytes(path.read_bytes()[:100])  # it is another file by now
    removals.refresh()
    assert removals.all() == []
    path.unlink()
    removals.refresh()
    assert removals.all() == []


def test_nothing_is_told_when_the_disk_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        Clerk(tmp_path / "file" / "archive", version="1").tell(HOUR, [forgetting("x")])


def test_a_folder_that_is_not_there_cannot_be_had_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), alone(tmp_path / "nowhere"):
        pass


def test_a_line_that_cannot_be_read_is_left_out(shelf: Shelf) -> None:
    Clerk(shelf.folder, version="1.2").tell(HOUR + 60, [forgetting("x")])
    removals = read(shelf.folder)
    (removal,) = removals.all()
    (path,) = segments(shelf.folder)
    data = bytearray(path.read_bytes())
    data[removal.told[0].offset + 70] ^= 0xFF
    path.write_bytes(data)
    assert list(removals.events(removal)) == []
    path.unlink()
    assert list(removals.events(removal)) == []


def test_the_writer_of_a_line_is_among_its_first_keys(shelf: Shelf) -> None:
    line = zcat(shelf.put(whole(HOUR + 1, body=b'"writer":"forged"'))).splitlines()[-1]
    assert writer_of(line) == "01a1f33f-b100-7" + line.split(b'"writer":"01a1f33f-b100-7')[1][:21].decode()
    assert writer_of(b'{"v":1}') is None
    assert writer_of(b" " * 2000 + b'"writer":"x"') is None


def test_who_removes_is_told_by_name_or_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user().startswith(pwd.getpwuid(os.geteuid()).pw_name + "@")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: (_ for _ in ()).throw(KeyError()))
    assert user().startswith(f"{os.geteuid()}@")


def test_a_packed_hour_is_read_too(shelf: Shelf) -> None:
    made = Clerk(shelf.folder, version="1.2")
    made.tell(HOUR + 60, [forgetting("first")])
    made.close(HOUR + 61)
    seal_hour(shelf.folder, "2026-11-19T10", now=HOUR + 4000, version="t")
    assert isinstance(pack(shelf.folder, "2026-11-19T10"), Repacked)
    removals = read(shelf.folder)
    (removal,) = removals.all()
    assert [event.detail["why"] for event in removals.events(removal) if event.detail] == ["first"]
    removals.refresh()
    assert len(removals.all()) == 1


def test_no_such_segment_is_no_error_for_one_who_reads(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    removals = read(shelf.folder)
    monkeypatch.setattr(clerk, "open_segment", lambda *_: (_ for _ in ()).throw(NotFound("gone just now")))
    removals.refresh()
    assert removals.all() == []
