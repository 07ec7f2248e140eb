"""Hours removed for retention's sake: told of first, oldest first; killed anywhere, the next run finishes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import rig_removal
from rig_archive import filled, mounted
from samples import HOUR, Shelf, whole

from archive.folder import INDEX, segments
from archive.keeping import forget, prune, retention
from archive.keeping.clerk import Removals, alone
from archive.keeping.upkeep import finish
from archive.line import SERVICE_PART, close_line, forget_line, gap_line
from archive.proof.seal import closed_hours, seal_hour
from archive.proof.verify import verify
from archive.record import id_text

CLOSED = "closed"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def pruned(folder: Path) -> list[dict[str, Any]]:
    """Every hour that lines tell of as removed, in order."""
    removals = Removals(folder)
    removals.refresh()
    return [
        entry
        for removal in removals.all()
        for event in removals.events(removal)
        if event.kind == "prune" and event.detail
        for entry in event.detail["segments"]
    ]


def carry_out(folder: Path, *, now: float, **bounds: int) -> int:
    with alone(folder):
        made = retention.plan(folder, now=now, **{"keep_days": 0, "keep_bytes": 0, **bounds})
        return prune.carry_out(folder, made.doomed, by="me@here", version="t", clock=lambda: now)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def own(shelf: Shelf, line: bytes, at: float) -> None:
    shelf.raw(shelf._pack(line, shelf.writer, SERVICE_PART), at)


def test_an_hour_goes_with_all_its_files_and_is_told_of(shelf: Shelf) -> None:
    shelf.open()
    shelf.put([whole(HOUR + 1), whole(HOUR + 2)])
    shelf.put(whole(HOUR + 3601))
    seal = json.dumps({"v": 1, "root": "ab" * 32}).encode()
    (shelf.folder / "2026-11-19T10.seal.json").write_bytes(seal)
    (shelf.folder / "2026-11-19T10.jsonl.zst").write_bytes(b"left by a crash")
    (shelf.folder / ".2026-11-19T10.jsonl.gz.new").write_bytes(b"left by a crash")
    (shelf.folder / ".2026-11-19T10.jsonl.zst.new").mkdir()  # somebody else's, too
    (shelf.folder / "2026-11-19T10.notes").write_bytes(b"somebody else's")
    freed = carry_out(shelf.folder, now=HOUR + 4000, keep_bytes=1)
    assert names(shelf.folder) == [".2026-11-19T10.jsonl.zst.new", "2026-11-19T10.notes", "2026-11-19T11.jsonl.gz"]
    (entry,) = pruned(shelf.folder)
    assert (entry["segment"], entry["records"], entry["bytes"]) == ("2026-11-19T10", 3, freed)
    assert (entry["root"], entry["seal"]) == ("ab" * 32, hashlib.sha256(seal).hexdigest())
    assert entry["writers"] == [{"writer": id_text(shelf.writer), "first": 0, "last": 2, "records": 3, CLOSED: False}]


def test_the_line_says_who_and_why(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 1))
    shelf.put(whole(HOUR + 86_400 * 40))
    carry_out(shelf.folder, now=HOUR + 86_400 * 40, keep_days=30)
    removals = Removals(shelf.folder)
    removals.refresh()
    (removal,) = removals.all()
    (event,) = removals.events(removal)
    assert event.detail is not None
    assert (event.detail["by"], event.detail["why"]) == ("me@here", "older than 30 days")
    assert removal.closed


def test_a_gap_counts_from_the_first_number_it_tells_of(shelf: Shelf) -> None:
    shelf.open()
    shelf.seq += 5
    name = id_text(shelf.writer)
    line = gap_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR, records=5, exchanges=5, size=1, why="no space")
    own(shelf, line, HOUR + 3600)
    own(shelf, close_line(writer=name, seq=shelf.seq, at=HOUR, written=0, dropped=5), HOUR + 3600)
    shelf.put(whole(HOUR + 7200))
    carry_out(shelf.folder, now=HOUR + 7300, keep_bytes=1)
    first, second = pruned(shelf.folder)
    assert first["writers"] == [{"writer": name, "first": 0, "last": 0, "records": 1, CLOSED: False}]
    assert second["writers"] == [{"writer": name, "first": 1, "last": 7, "records": 2, CLOSED: True}]


def test_what_a_removed_line_told_goes_on_to_be_told(shelf: Shelf) -> None:
    """A writer runs for days; its first hours are removed hour by hour, and so are the lines that told of them."""
    shelf.open()
    for number in range(6):
        shelf.put(whole(HOUR + number * 3600 + 1))
    quick = Shelf(shelf.folder, writer=bytes(15) + b"\1")
    quick.open(HOUR)
    quick.close(HOUR + 1)
    forgotten = {"writer": "another", "seq": 7}
    own(shelf, forget_line(writer=id_text(shelf.writer), seq=shelf.seq, at=HOUR, by="x", why="y", removed=[forgotten]), HOUR + 3602)
    for number in range(1, 7):
        carry_out(shelf.folder, now=HOUR + number * 3600 + 60, keep_bytes=1)
    told = {it["writer"]: (it["first"], it["last"]) for it in pruned(shelf.folder)[0]["writers"] if not it["records"]}
    assert told[id_text(shelf.writer)][0] == 0
    assert told["another"] == (7, 7)
    assert id_text(quick.writer) not in told, "closed: nothing of it is to come"
    covered: set[int] = set()
    for entry in pruned(shelf.folder):
        for it in entry["writers"]:
            if it["writer"] == id_text(shelf.writer):
                covered.update(range(it["first"], it["last"] + 1))
    assert covered == set(range(shelf.seq)), "all of the writer's numbers are explained by what is left"
    assert len(segments(shelf.folder)) == 1


def test_the_words_of_a_day_go_with_its_last_hour(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 13 * 3600))  # 23:00
    shelf.put(whole(HOUR + 14 * 3600))
    index = shelf.folder / INDEX
    index.mkdir()
    for name in ("words-2026-11-19.sqlite", "words-2026-11-19.sqlite-wal", "words-2026-11-20.sqlite", "catalog.sqlite"):
        (index / name).touch()
    carry_out(shelf.folder, now=HOUR + 14 * 3600 + 60, keep_bytes=1)
    assert names(index) == ["catalog.sqlite", "words-2026-11-20.sqlite"]


def test_a_symbolic_link_is_left_alone(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put(whole(HOUR + 1))
    shelf.put(whole(HOUR + 3601))
    (tmp_path / "target").write_bytes(b"precious")
    (shelf.folder / "2026-11-19T10.seal.json").symlink_to(tmp_path / "target")
    carry_out(shelf.folder, now=HOUR + 3700, keep_bytes=1)
    assert names(shelf.folder) == ["2026-11-19T10.seal.json", "2026-11-19T11.jsonl.gz"]
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_stop_leaves_the_rest_to_the_next_run(shelf: Shelf) -> None:
    for number in range(4):
        shelf.put(whole(HOUR + number * 3600))
    now = HOUR + 3 * 3600 + 60
    with alone(shelf.folder):
        made = retention.plan(shelf.folder, keep_days=0, keep_bytes=1, now=now)
        calls = iter([False, True])
        prune.carry_out(shelf.folder, made.doomed, by="x", version="t", clock=lambda: now, stopping=lambda: next(calls))
        assert len(segments(shelf.folder)) == 3
        assert finish(shelf.folder, Removals(shelf.folder), version="t", clock=lambda: now) == 1
        assert finish(shelf.folder, Removals(shelf.folder), version="t", clock=lambda: now) == 0
    assert len(segments(shelf.folder)) == 1


def test_nothing_to_remove_writes_nothing(shelf: Shelf) -> None:
    shelf.put(whole(HOUR + 1))
    before = shelf.put(whole(HOUR + 2)).read_bytes()
    assert carry_out(shelf.folder, now=HOUR + 3600 * 5, keep_days=1) == 0
    assert (shelf.folder / "2026-11-19T10.jsonl.gz").read_bytes() == before
    assert len(segments(shelf.folder)) == 1


def test_killed_before_any_step_whole_hours_go_or_stay(tmp_path: Path) -> None:
    shelf, _, _ = rig_removal.furnished(tmp_path / "whole" / "archive")
    for number in range(2):
        seal_hour(shelf.folder, f"2026-11-19T1{number}", now=HOUR + 3 * 3600, version="t")
    before = {path.name: path.read_bytes() for path in segments(shelf.folder)}
    copies = rig_removal.kill_everywhere("prune_all", tmp_path / "whole", tmp_path / "killed")
    assert len(copies) > 8
    for copy in copies:
        folder = copy / "archive"
        hours = sorted(name for name in before if (folder / name).exists())
        assert hours == sorted(before)[len(before) - len(hours) :], "the oldest go first"
        for name in hours:
            assert (folder / name).read_bytes() == before[name]
        told = {entry["segment"] for entry in pruned(folder)}
        assert {name[:13] for name in set(before) - set(hours)} <= told, "told of before it went"
        report = verify([folder])
        assert report.complete, report.sentence
        again = tmp_path / "again"
        shutil.copytree(copy, again)
        rig_removal.finish_all(copy)
        if told:
            assert names(folder) == ["2026-11-19T14.jsonl.gz"]
        rig_removal.prune_all(again)
        assert names(again / "archive") == ["2026-11-19T14.jsonl.gz"]
        shutil.rmtree(again)


@pytest.mark.parametrize("sealed", [False, True])
def test_whole_archives_stay_complete_as_their_hours_go(tmp_path: Path, sealed: bool) -> None:
    """Hour by hour, with forgetting in between: what is left is always found complete, and chained."""
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    records = []
    for number in range(6):
        records.append(whole(HOUR + number * 3600 + 1))
        shelf.put([records[-1], whole(HOUR + number * 3600 + 2)])
        now = HOUR + number * 3600 + 1800
        with alone(shelf.folder):
            if number:
                forget.carry_out(shelf.folder, {records[number - 1].id}, by="x", why="y", version="t", clock=lambda now=now: now)
            for hour in closed_hours(shelf.folder, now) if sealed else ():
                seal_hour(shelf.folder, hour, now=now, version="t")
        if number > 2:
            carry_out(shelf.folder, now=now, keep_bytes=sum(it.bytes for it in retention.hours(shelf.folder)) - 1)
        report = verify([shelf.folder])
        assert report.complete, report.sentence
        assert not report.gone
    assert len(segments(shelf.folder)) == 3


def test_a_full_disk_is_made_room_on(tmp_path: Path) -> None:
    """Not even the line that tells of it fits: what can be made again goes first."""
    with mounted(tmp_path / "disk", "512k") as disk:
        shelf = Shelf(disk / "archive")
        shelf.put(whole(HOUR + 1, body=os.urandom(20_000).hex().encode()))
        shelf.put(whole(HOUR + 3601))
        now = HOUR + 7300
        filled(disk)
        with pytest.raises(OSError, match="No space left"):
            carry_out(shelf.folder, now=now, keep_bytes=1)
        assert len(segments(shelf.folder)) == 2
        (disk / "filler").unlink()
        (shelf.folder / INDEX).mkdir()
        (shelf.folder / INDEX / "catalog.sqlite").write_bytes(bytes(50_000))
        filled(disk)
        assert carry_out(shelf.folder, now=now, keep_bytes=1)
        assert [path.name for path in segments(shelf.folder)] == ["2026-11-19T12.jsonl.gz"]
        assert [it["segment"] for it in pruned(shelf.folder)] == ["2026-11-19T10", "2026-11-19T11"]
        removals = Removals(shelf.folder)
        removals.refresh()
        assert not removals.unfinished()
