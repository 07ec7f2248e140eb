"""Forgetting: what was chosen is nowhere any more, all else is byte for byte what it was, and it is told of; killed anywhere, too."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import rig_removal
from rig_archive import exchanges, until, writing, zcat
from rig_archive import record as a_record
from samples import HOUR, Shelf, in_parts, whole

from archive.catalog.follow import Follower
from archive.errors import Unwritable
from archive.folder import QUARANTINE, segments
from archive.keeping import clerk, forget
from archive.keeping.clerk import Removals, alone
from archive.keeping.pack import Repacked, pack
from archive.keeping.upkeep import finish, sweep
from archive.line import SERVICE_PART
from archive.member import Found, scan
from archive.proof.merkle import root_of
from archive.proof.seal import read_seal, seal_hour
from archive.proof.verify import verify
from archive.reader import Reader
from archive.record import Record, id_text
from archive.segment import Appender

NOW = HOUR + 4 * 3600 + 60


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    return shelf


def members(folder: Path) -> dict[tuple[str, bytes, int, int], bytes]:
    """Every member's bytes, by hour, exchange, part and number."""
    found = {}
    for path in segments(folder):
        data = path.read_bytes()
        with path.open("rb") as file:
            for each in scan(file):
                assert isinstance(each, Found)
                tag = each.tag
                found[path.name, tag.id, tag.part, tag.seq] = data[each.offset : each.offset + tag.length]
    return found


def ours(folder: Path) -> dict[tuple[str, bytes, int, int], bytes]:
    """The members of exchanges and of their writers: without what was written by a remover."""
    clerks = {removal.id for removal in told(folder).all()}
    return {key: data for key, data in members(folder).items() if key[1] not in clerks}


def told(folder: Path) -> Removals:
    removals = Removals(folder)
    removals.refresh()
    return removals


def removed(folder: Path) -> list[dict[str, Any]]:
    removals = told(folder)
    return [
        entry
        for removal in removals.all()
        for event in removals.events(removal)
        if event.kind == "forget" and event.detail
        for entry in event.detail["removed"]
    ]


def carry_out(folder: Path, *records: Record, now: float = NOW) -> int:
    with alone(folder):
        return forget.carry_out(folder, {it.id for it in records}, by="me@here", why="asked for", version="t", clock=lambda: now)


def everything(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below, as it is and as plain gzip has it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
            if path.suffix == ".gz":
                yield path, zcat(path)


def assert_nowhere(folder: Path, *needles: bytes) -> None:
    for path, data in everything(folder):
        for needle in needles:
            assert needle not in data, path


def test_all_other_records_stay_byte_for_byte(shelf: Shelf) -> None:
    kept = [whole(HOUR + number) for number in range(1, 5)]
    gone = [whole(HOUR + 10, body=b"canary-a"), whole(HOUR + 20, body=b"canary-b")]
    shelf.put([kept[0], gone[0], kept[1], kept[2], gone[1], kept[3]])
    shelf.put(whole(HOUR + 3700))
    shelf.close(HOUR + 3701)
    before, other = members(shelf.folder), (shelf.folder / "2026-11-19T11.jsonl.gz").stat()
    assert carry_out(shelf.folder, *gone) == 2
    ids = {it.id for it in gone}
    assert ours(shelf.folder) == {key: data for key, data in before.items() if key[1] not in ids}
    after = (shelf.folder / "2026-11-19T11.jsonl.gz").stat()
    assert (after.st_ino, after.st_mtime_ns) == (other.st_ino, other.st_mtime_ns), "a segment without any of it is not touched"
    assert_nowhere(shelf.folder, b"canary-a", b"canary-b")
    assert stat.S_IMODE((shelf.folder / "2026-11-19T10.jsonl.gz").stat().st_mode) == 0o600


def test_what_was_removed_is_told_with_its_digests(shelf: Shelf) -> None:
    stays, goes = whole(HOUR + 1), in_parts([b"a", b"b"], at=HOUR + 2)
    shelf.put([stays, *goes])
    before = members(shelf.folder)
    carry_out(shelf.folder, *goes)
    entries = removed(shelf.folder)
    assert [(it["segment"], it["index"], it["id"], it["part"], it["seq"]) for it in entries] == [
        ("2026-11-19T10", 2, id_text(goes[0].id), 0, 2),
        ("2026-11-19T10", 3, id_text(goes[0].id), 1, 3),
    ]
    for entry in entries:
        member = before["2026-11-19T10.jsonl.gz", goes[0].id, entry["part"], entry["seq"]]
        assert entry["writer"] == id_text(shelf.writer)
        assert entry["member"] == sha256(member).hexdigest()
        assert entry["digest"] == sha256(b"\0" + gzip.decompress(member)).hexdigest()
        assert entry["bytes"] == len(member)
    lines = [json.loads(line) for line in zcat(shelf.folder / "2026-11-19T14.jsonl.gz").splitlines()]
    assert [(it["kind"], it["seq"], it["part"]) for it in lines] == [
        ("open", 0, SERVICE_PART),
        ("forget", 1, SERVICE_PART),
        ("close", 2, SERVICE_PART),
    ]
    assert (lines[1]["forget"]["by"], lines[1]["forget"]["why"]) == ("me@here", "asked for")
    events = Reader(shelf.folder).events()
    assert [it.kind for it in events] == ["open", "open", "forget", "close"]


def test_an_index_counts_what_was_forgotten_before(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(1, 8)]
    shelf.put(records)
    carry_out(shelf.folder, records[1], records[3])
    carry_out(shelf.folder, records[2], records[6])
    assert [it["index"] for it in removed(shelf.folder)] == [2, 4, 3, 7]
    assert {it["seq"]: it["index"] for it in removed(shelf.folder)} == {2: 2, 4: 4, 3: 3, 7: 7}


def test_many_records_are_told_of_in_several_lines(shelf: Shelf) -> None:
    parts = in_parts([b"x"] * 1001)
    shelf.put(parts)
    assert carry_out(shelf.folder, parts[0]) == 1001
    removals = told(shelf.folder)
    (removal,) = removals.all()
    assert [len(it.detail["removed"]) for it in removals.events(removal) if it.detail] == [1000, 1]
    assert removal.closed
    assert not removals.unfinished()


def test_a_segment_of_nothing_else_is_removed(shelf: Shelf) -> None:
    record = whole(HOUR + 3700)
    shelf.put(record)
    carry_out(shelf.folder, record)
    assert not (shelf.folder / "2026-11-19T11.jsonl.gz").exists()


def test_what_is_not_there_is_not_told_of(shelf: Shelf) -> None:
    before = members(shelf.folder)
    assert carry_out(shelf.folder, whole()) == 0
    assert members(shelf.folder) == before


def test_bytes_set_aside_of_a_forgotten_exchange_go_too(shelf: Shelf) -> None:
    goes, stays = whole(HOUR + 1, body=os.urandom(300)), whole(HOUR + 2, body=os.urandom(300))
    shelf.put([goes, stays])
    torn, other = shelf.pack(goes)[:-20], shelf.pack(stays)[:-20]
    quarantine = shelf.folder / QUARANTINE
    quarantine.mkdir()
    contents = {"torn": torn, "other": other, "mixed": other + torn, "both": torn + other, "noise": b"noise", "zeros": torn + bytes(4096)}
    for name, data in contents.items():
        (quarantine / name).write_bytes(data)
    (quarantine / "link").symlink_to("noise")
    carry_out(shelf.folder, goes)
    left = {path.name: path.read_bytes() for path in quarantine.iterdir()}
    assert left == {"other": other, "mixed": other, "both": other, "noise": b"noise", "link": b"noise"}


def test_damage_in_a_segment_stays_but_for_what_begins_as_forgotten(shelf: Shelf) -> None:
    goes, stays = whole(HOUR + 1, body=os.urandom(300)), whole(HOUR + 2)
    shelf.put(goes)
    shelf.raw(shelf.pack(goes)[:-30])
    shelf.raw(b"noise of unknown origin")
    shelf.put(stays)
    carry_out(shelf.folder, goes)
    data = (shelf.folder / "2026-11-19T10.jsonl.gz").read_bytes()
    assert goes.id not in data
    assert stays.id in data


def test_a_writer_goes_on_behind_the_copy(shelf: Shelf) -> None:
    goes, later = whole(HOUR + 1, body=b"canary"), whole(HOUR + 2)
    appender = Appender(shelf.folder)
    try:
        assert appender.append([shelf.pack(goes)], HOUR + 1).count == 1
        carry_out(shelf.folder, goes, now=HOUR + 2)
        assert appender.append([shelf.pack(later)], HOUR + 3).count == 1
        appender.sync()
    finally:
        appender.close()
    lines = [json.loads(line) for line in zcat(shelf.folder / "2026-11-19T10.jsonl.gz").splitlines()]
    assert [it["id"] for it in lines if it["kind"] == "exchange"] == [id_text(later.id)]
    assert_nowhere(shelf.folder, b"canary")


def test_killed_before_any_step_nothing_else_is_lost_and_the_next_run_finishes(tmp_path: Path) -> None:
    whole_folder = tmp_path / "whole"
    shelf, doomed, _ = rig_removal.furnished(whole_folder / "archive")
    (shelf.folder / QUARANTINE).mkdir()
    (shelf.folder / QUARANTINE / "2026-11-19T10.jsonl.gz.9.20261119T100000.000000Z").write_bytes(shelf.pack(doomed[0])[:-9])
    (whole_folder / "doomed").write_text(" ".join({it.id.hex() for it in doomed}))
    before, ids = members(shelf.folder), {it.id for it in doomed}
    others = {key: data for key, data in before.items() if key[1] not in ids}
    copies = rig_removal.kill_everywhere("forget_doomed", whole_folder, tmp_path / "killed")
    assert len(copies) > 15
    untold = 0
    for copy in copies:
        folder = copy / "archive"
        found = ours(folder)
        assert {key: data for key, data in found.items() if key[1] not in ids} == others, copy
        assert found.items() <= before.items(), copy
        assert verify([folder]).complete, copy
        again = tmp_path / "again"
        shutil.copytree(copy, again)
        rig_removal.finish_all(copy)  # the caretaker's next run: what was told of is gone
        tags = {(bytes.fromhex(it["id"].replace("-", "")), it["part"], it["seq"]) for it in removed(folder)}
        assert {key[1:] for key in before if key[1] in ids} - {key[1:] for key in ours(folder)} == tags, copy
        untold += not tags
        rig_removal.forget_doomed(again)  # or the same command again: all of it is
        sweep(again / "archive")
        assert verify([folder]).complete, copy
        for done in (copy, again) if len(tags) == len(doomed) else (again,):
            assert verify([done / "archive"]).complete, copy
            assert ours(done / "archive") == others, copy
            assert_nowhere(done / "archive", rig_removal.CANARY)
            assert not told(done / "archive").unfinished()
            assert sorted(path.name for path in (done / "archive").glob(".*")) == []
        shutil.rmtree(again)
    assert 0 < untold < len(copies) / 2


def test_a_removal_told_of_by_another_is_not_finished_twice(shelf: Shelf) -> None:
    record = whole(HOUR + 1)
    shelf.put(record)
    carry_out(shelf.folder, record)
    with alone(shelf.folder):
        assert finish(shelf.folder, Removals(shelf.folder), version="t") == 0


def test_a_forged_forget_line_removes_no_book_keeping(shelf: Shelf) -> None:
    """A line may tell anything: only records of exchanges are ever cut out, only in files of a segment's name."""
    from archive import member
    from archive.line import forget_line
    from archive.record import new_id

    shelf.put(whole(HOUR + 1))
    entry = {"index": 0, "writer": "w", "digest": None, "member": "", "bytes": 1}
    forged = [
        {**entry, "segment": "2026-11-19T10", "id": id_text(shelf.writer), "part": SERVICE_PART, "seq": 0},
        {**entry, "segment": "../../etc/passwd", "id": id_text(shelf.writer), "part": 0, "seq": 0},
        {**entry, "segment": "2026-11-19T10", "id": 7, "part": 0, "seq": 0},
        {"segment": "2026-11-19T10"},
        "nonsense",
    ]
    writer = new_id(1)
    line = forget_line(writer=id_text(writer), seq=0, at=HOUR, by="x", why="y", removed=forged)  # type: ignore[arg-type]
    shelf.raw(member.pack(line + b"\n", id=writer, part=SERVICE_PART, seq=0))
    before = members(shelf.folder)
    with alone(shelf.folder):
        finish(shelf.folder, Removals(shelf.folder), version="t", clock=lambda: NOW)
    after = members(shelf.folder)
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1  # the removal is closed


def test_a_damaged_record_of_it_is_told_of_and_goes_too(shelf: Shelf) -> None:
    goes = in_parts([b"a" * 400, b"b" * 400])
    path = shelf.put(goes)
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        _, _, second = (it for it in scan(file) if isinstance(it, Found))
    data[second.offset + 80] ^= 0xFF
    path.write_bytes(data)
    before = bytes(data[second.offset : second.offset + second.tag.length])
    shelf.close(HOUR + 5)
    assert carry_out(shelf.folder, goes[0]) == 2
    _, entry = removed(shelf.folder)
    assert entry == {
        "segment": "2026-11-19T10",
        "index": 2,
        "id": id_text(goes[0].id),
        "part": 1,
        "writer": id_text(shelf.writer),
        "seq": 2,
        "digest": None,
        "member": sha256(before).hexdigest(),
        "bytes": len(before),
    }
    assert goes[0].id not in path.read_bytes()
    assert verify([shelf.folder]).complete, "its number is explained"
    carry_out(shelf.folder)
    with alone(shelf.folder):
        assert forget.forgotten(shelf.folder, "2026-11-19T10", told(shelf.folder)) == {}


def test_whose_a_damaged_record_was_is_not_guessed(shelf: Shelf) -> None:
    goes = whole(HOUR + 1)
    path = shelf.put(goes)
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        own, record = (it for it in scan(file) if isinstance(it, Found))
    for each in (own, record):
        data[each.offset + 80] ^= 0xFF
    path.write_bytes(data)
    assert carry_out(shelf.folder, goes) == 1
    (entry,) = removed(shelf.folder)
    assert (entry["writer"], entry["seq"], entry["digest"]) == ("", 1, None)


def sealed(folder: Path, *hours: str) -> None:
    for hour in hours:
        seal_hour(folder, hour, now=NOW, version="t")


def test_in_a_sealed_hour_an_index_is_that_of_the_seal(shelf: Shelf) -> None:
    records = [whole(HOUR + number) for number in range(1, 8)]
    shelf.put(records)
    carry_out(shelf.folder, records[0])
    sealed(shelf.folder, "2026-11-19T10")
    before = (shelf.folder / "2026-11-19T10.seal.json").read_bytes()
    carry_out(shelf.folder, records[2], records[6])
    carry_out(shelf.folder, records[4])
    assert [it["index"] for it in removed(shelf.folder)] == [1, 2, 6, 4]
    assert (shelf.folder / "2026-11-19T10.seal.json").read_bytes() == before
    seal = read_seal(shelf.folder, "2026-11-19T10")
    assert seal is not None
    gone = forget.forgotten(shelf.folder, "2026-11-19T10", told(shelf.folder))
    assert sorted(gone) == [2, 4, 6]
    here = [sha256(b"\0" + line + b"\n").digest() for line in zcat(shelf.folder / "2026-11-19T10.jsonl.gz").splitlines()]
    leaves = list(here)
    for index, leaf in sorted(gone.items()):
        leaves.insert(index, leaf)
    assert root_of(leaves).hex() == seal.root, "the seal still proves the rest"


def test_a_packed_hour_is_unpacked_first(shelf: Shelf) -> None:
    goes, stays = whole(HOUR + 1, body=b"canary"), whole(HOUR + 2)
    shelf.put([goes, stays])
    shelf.put(whole(HOUR + 3601))
    sealed(shelf.folder, "2026-11-19T10", "2026-11-19T11")
    with alone(shelf.folder):
        for hour in ("2026-11-19T10", "2026-11-19T11"):
            assert isinstance(pack(shelf.folder, hour), Repacked)
    carry_out(shelf.folder, goes)
    names = [path.name for path in segments(shelf.folder)]
    assert names == ["2026-11-19T10.jsonl.gz", "2026-11-19T11.jsonl.zst", "2026-11-19T14.jsonl.gz"]
    assert_nowhere(shelf.folder, b"canary")
    with alone(shelf.folder):
        told_of = forget.forgotten(shelf.folder, "2026-11-19T10", told(shelf.folder))
        assert isinstance(pack(shelf.folder, "2026-11-19T10", forgotten=told_of), Repacked), "and can be packed again"
    assert {it.id for it in Reader(shelf.folder).page().entries} >= {id_text(stays.id)}


def test_the_seal_still_proves_the_rest(shelf: Shelf) -> None:
    """Whether forgotten before an hour is sealed, after, or while another does the same; only a forged tombstone is named."""
    records = [whole(HOUR + number) for number in range(1, 10)]
    shelf.put(records)
    shelf.close()

    def complete() -> bool:
        report = verify([shelf.folder])
        return report.complete and not report.damaged

    carry_out(shelf.folder, records[0], records[5], now=HOUR + 100)
    assert complete()
    seal_hour(shelf.folder, "2026-11-19T10", now=HOUR + 4000, version="t")
    assert complete()
    carry_out(shelf.folder, records[2], now=HOUR + 4100)
    assert complete()
    seal_hour(shelf.folder, "2026-11-19T11", now=HOUR + 7500, version="t")
    carry_out(shelf.folder, records[8], records[7], now=HOUR + 7600)
    assert complete()
    with alone(shelf.folder):
        gone = forget.forgotten(shelf.folder, "2026-11-19T10", told(shelf.folder))
        assert isinstance(pack(shelf.folder, "2026-11-19T10", forgotten=gone), Repacked)
    assert complete()
    carry_out(shelf.folder, records[1], now=HOUR + 7700)
    assert complete()
    path = shelf.folder / "2026-11-19T10.jsonl.gz"
    with path.open("rb") as file:
        first = next(it for it in scan(file) if isinstance(it, Found))
    path.write_bytes(path.read_bytes()[first.tag.length :])  # taken out by somebody who told nobody
    assert not complete()


SAID = b"canarysaid %d quetzalcoatlus"


def followed(folder: Path) -> None:
    """Bring catalog and words up to date, as the viewer's process does."""
    with contextlib.closing(Follower(folder, spare=0)) as follower:
        while follower.step():
            pass


def canary(number: int, at: float) -> Record:
    said = SAID % number
    record = whole(at, body=b'{"messages": [{"role": "user", "content": "%s"}]}' % said, answer=b'{"content": "%s yes"}' % said)
    record.client.session = "canarysession"
    assert record.request is not None
    record.request.target = b"/openai/v1/canarytarget"
    return record


@pytest.mark.parametrize("viewer", ["none", "before", "running"])
def test_nothing_of_a_forgotten_exchange_is_left_in_any_file(shelf: Shelf, viewer: str) -> None:
    goes = [canary(number, HOUR + number * 600) for number in range(12)]
    stays = [
        whole(HOUR + number * 600 + 1, body=b'{"messages": [{"role": "user", "content": "others said %d"}]}' % number)
        for number in range(12)
    ]
    shelf.put(sorted([*goes, *stays], key=lambda it: it.at))
    torn = shelf.pack(goes[0])[:-9]
    shelf.raw(torn, HOUR + 600)  # recovery sets it aside
    seal_hour(shelf.folder, "2026-11-19T10", now=HOUR + 4000, version="t")
    assert [path.read_bytes() for path in (shelf.folder / QUARANTINE).iterdir()] == [torn]
    with alone(shelf.folder):
        assert isinstance(pack(shelf.folder, "2026-11-19T10"), Repacked)
    stopped = threading.Event()
    thread = threading.Thread(target=Follower(shelf.folder, spare=0).run, args=(stopped,)) if viewer == "running" else None
    if viewer != "none":
        followed(shelf.folder)
        assert len(list(Reader(shelf.folder).page(text="quetzalcoatlus").entries)) == 12
    if thread is not None:
        thread.start()
    try:
        reader = Reader(shelf.folder)
        reader.page()
        with alone(shelf.folder):
            forget.carry_out(shelf.folder, {it.id for it in goes}, by="me@here", why="asked for", version="t", clock=lambda: NOW)
        assert_nowhere(shelf.folder, b"canary", b"quetzalcoatlus")
        for path, data in everything(shelf.folder / "index"):
            assert not any(it.id in data for it in goes), path
        assert {it.id for it in reader.page().entries} == {id_text(it.id) for it in stays}
    finally:
        stopped.set()
        if thread is not None:
            thread.join()
    followed(shelf.folder)
    assert_nowhere(shelf.folder, b"canary", b"quetzalcoatlus")
    assert len(Reader(shelf.folder).page(text="others said").entries) == 12
    assert verify([shelf.folder]).complete


def test_writers_lose_nothing_while_records_of_their_hour_are_forgotten(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    written: list[Record] = []
    with writing(folder, on_written=written.extend) as first, writing(folder, on_written=written.extend) as second:
        gone: set[bytes] = set()
        offered = 0
        while len(gone) < 40:
            for writer in (first, second):
                for _ in range(25):
                    assert writer.put(a_record(400))
                    offered += 1
            until(lambda least=offered - 30: len(written) >= least)  # type: ignore[misc]
            ids = {it.id for it in written[-10:]}
            with alone(folder):
                assert forget.carry_out(folder, ids, by="me@here", why="asked for", version="t") == 10
            gone |= ids
    assert len(written) == offered
    lines = (json.loads(line) for path in segments(folder) for line in zcat(path).splitlines())
    there = {bytes.fromhex(name.replace("-", "")) for name in exchanges(lines)}
    assert there == {it.id for it in written} - gone
    report = verify([folder])
    assert report.complete, report.sentence


def test_nothing_beyond_a_symbolic_link_is_forgotten(shelf: Shelf, tmp_path: Path) -> None:
    goes = whole(HOUR + 1)
    shelf.put(goes)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    theirs = shelf.pack(goes)
    (elsewhere / "theirs").write_bytes(theirs)
    (shelf.folder / QUARANTINE).symlink_to(elsewhere)
    before = members(shelf.folder)
    with pytest.raises(Unwritable, match="quarantine is a symbolic link: refused; move it away"):
        carry_out(shelf.folder, goes)
    assert members(shelf.folder) == before, "nothing was begun"
    assert [path.read_bytes() for path in elsewhere.iterdir()] == [theirs]
    with alone(shelf.folder):
        assert sweep(shelf.folder) == []
    (shelf.folder / QUARANTINE).unlink()
    assert carry_out(shelf.folder, goes) == 1


def test_what_is_not_ours_in_quarantine_keeps_nothing_from_being_forgotten(shelf: Shelf) -> None:
    goes = canary(1, HOUR + 1)
    shelf.put(goes)
    followed(shelf.folder)
    quarantine = shelf.folder / QUARANTINE
    (quarantine / "a folder").mkdir(parents=True)
    (quarantine / ".x.new").mkdir()
    os.mkfifo(quarantine / "b pipe")
    (quarantine / "c link").symlink_to("/etc/hostname")
    (quarantine / "d torn").write_bytes(shelf.pack(goes)[:-9])
    opened = os.listdir("/proc/self/fd")
    carry_out(shelf.folder, goes)
    with alone(shelf.folder):
        assert sweep(shelf.folder) == []
    assert os.listdir("/proc/self/fd") == opened
    assert sorted(path.name for path in quarantine.iterdir()) == [".x.new", "a folder", "b pipe", "c link"]
    assert_nowhere(shelf.folder, b"canary", b"quetzalcoatlus")
    assert not told(shelf.folder).unfinished()


def test_what_cannot_be_cleared_keeps_nothing_else_from_being_forgotten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The removal stays open until all of it is done."""
    goes = canary(1, HOUR + 1)
    shelf.put(goes)
    followed(shelf.folder)
    quarantine = shelf.folder / QUARANTINE
    quarantine.mkdir()
    for name in ("a", "b"):
        (quarantine / name).write_bytes(shelf.pack(goes)[:-9])
    unlink = os.unlink

    def refusing(path: str | Path, **options: Any) -> None:
        if path == "a":
            raise PermissionError(13, "Permission denied")
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refusing)
        with pytest.raises(PermissionError):
            carry_out(shelf.folder, goes)
    assert [path.name for path in quarantine.iterdir()] == ["a"]
    assert_nowhere(shelf.folder / "index", b"canary", b"quetzalcoatlus")
    assert len(told(shelf.folder).unfinished()) == 1
    with alone(shelf.folder):
        assert finish(shelf.folder, Removals(shelf.folder), version="t", clock=lambda: NOW) == 1
    assert list(quarantine.iterdir()) == []
    assert not told(shelf.folder).unfinished()


def test_an_exchange_told_of_in_part_is_forgotten_whole(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between telling of the first hour and of the second: the next run tells of the rest, and leaves nothing of it."""
    parts = in_parts([b"canary one", b"canary two", b"canary three"], at=HOUR + 3590)
    stays = whole(HOUR + 1)
    shelf.put([stays, parts[0]])
    shelf.put(parts[1:], at=HOUR + 3601)
    shelf.close(HOUR + 3605)
    tell, calls = clerk.Clerk.tell, []

    def killed(self: clerk.Clerk, now: float, lines: Any) -> None:
        calls.append(now)
        if len(calls) > 1:
            raise KeyboardInterrupt
        tell(self, now, lines)

    with monkeypatch.context() as patch:
        patch.setattr(clerk.Clerk, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            carry_out(shelf.folder, parts[0])
    assert [it["part"] for it in removed(shelf.folder)] == [0]
    assert verify([shelf.folder]).complete
    with alone(shelf.folder):
        assert finish(shelf.folder, Removals(shelf.folder), version="t", clock=lambda: NOW + 60) == 1
    assert [(it["segment"], it["index"], it["part"]) for it in removed(shelf.folder)] == [
        ("2026-11-19T10", 2, 0),
        ("2026-11-19T11", 0, 1),
        ("2026-11-19T11", 1, 2),
    ]
    assert_nowhere(shelf.folder, b"canary")
    assert not told(shelf.folder).unfinished()
    assert {it.id for it in Reader(shelf.folder).page().entries} == {id_text(stays.id)}
    report = verify([shelf.folder])
    assert report.complete, report.sentence
