"""Verification: sound and complete, or what is missing and damaged where; with nothing but the files."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import threading
import time
from pathlib import Path

import pytest
from samples import HOUR, Shelf, in_parts, whole

from archive import member
from archive.errors import NotFound
from archive.folder import QUARANTINE
from archive.line import SERVICE_PART, declined_line, gap_line
from archive.proof.verify import Missing, verify
from archive.record import id_text, new_id
from archive.writer import Writer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def fill(shelf: Shelf, count: int = 3) -> None:
    shelf.open()
    shelf.put(whole(HOUR + number * 1500) for number in range(count))


def missing(shelf: Shelf, first: int, last: int, since: str | None, until: str | None, why: str = "unknown") -> Missing:
    full = "unknown: nothing here tells of their loss" if why == "unknown" else why
    return Missing(id_text(shelf.writer), first, last, since, until, full)


def test_a_complete_archive_is_told_complete(shelf: Shelf) -> None:
    fill(shelf)
    shelf.put(in_parts([b"a", b"b"]), at=HOUR + 3700)
    shelf.close(HOUR + 3700)
    report = verify([shelf.folder])
    assert report.complete
    assert (report.files, report.members, report.exchanges) == (2, 7, 4)
    assert report.bytes == sum(path.stat().st_size for path in shelf.folder.iterdir())
    assert (report.damaged, report.missing, report.repeated, report.gaps) == ([], [], [], [])
    (writer,) = report.writers
    assert (writer.id, writer.opened, writer.closed, writer.last) == (id_text(shelf.writer), True, True, 6)


def test_a_writers_own_archive_verifies(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "archive", version="1", min_free=0)
    writer.start()
    for number in range(50):
        assert writer.put(whole(time.time(), body=b"x" * number))
    assert writer.close(20)
    report = verify([tmp_path / "archive"])
    assert report.complete
    assert (report.members, report.exchanges) == (52, 50)
    assert report.writers[0].closed


def test_a_writer_that_was_killed_is_told_by_its_missing_close_line(shelf: Shelf) -> None:
    fill(shelf)
    report = verify([shelf.folder])
    assert report.complete
    assert not report.writers[0].closed


def test_a_number_that_nothing_accounts_for_is_missing(shelf: Shelf) -> None:
    fill(shelf)
    shelf.seq += 2
    shelf.put(whole(HOUR + 5000))
    report = verify([shelf.folder])
    assert not report.complete
    assert report.missing == [missing(shelf, 4, 5, "2026-11-19T10:50:00.000000Z", "2026-11-19T11:23:20.000000Z")]
    assert report.missing[0].count == 2
    assert report.sentence.startswith("incomplete: 2 records are missing and no gap record tells why; 2 hours, 5 records, none sealed")


def test_a_gap_line_accounts_for_what_was_dropped(shelf: Shelf) -> None:
    fill(shelf)
    shelf.seq += 5
    name = id_text(shelf.writer)
    line = gap_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR + 9, records=5, exchanges=4, size=99, why="no space left")
    shelf.raw(member.pack(line + b"\n", id=shelf.writer, part=SERVICE_PART, seq=shelf.seq), HOUR + 5000)
    report = verify([shelf.folder])
    assert (report.verdict, report.complete, report.accounted) == ("incomplete", False, True)
    assert report.sentence.startswith("incomplete: 5 records were lost as gap records say (no space left); 2 hours")
    (gap,) = report.gaps
    assert (gap.records, gap.exchanges, gap.bytes, gap.why, gap.seq) == (5, 4, 99, "no space left", shelf.seq)
    assert (gap.since, gap.until) == ("2026-11-19T10:00:00.000000Z", "2026-11-19T10:00:09.000000Z")


def test_what_clients_wanted_unrecorded_is_told_of_and_not_missing(shelf: Shelf) -> None:
    fill(shelf)
    name = id_text(shelf.writer)
    for exchanges in (3, 4):
        line = declined_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR + 9, exchanges=exchanges)
        shelf.raw(member.pack(line + b"\n", id=shelf.writer, part=SERVICE_PART, seq=shelf.seq), HOUR + 5000)
        shelf.seq += 1
    report = verify([shelf.folder])
    assert (report.verdict, report.complete, report.declined, report.gaps) == ("complete", True, 7, [])
    assert ", 7 exchanges not recorded as their clients asked, nothing missing" in report.sentence
    bad = declined_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR + 9, exchanges=-1)
    shelf.raw(member.pack(bad + b"\n", id=shelf.writer, part=SERVICE_PART, seq=shelf.seq), HOUR + 5000)
    assert verify([shelf.folder]).verdict == "damaged"


def test_a_segment_that_was_taken_away_is_missing(shelf: Shelf) -> None:
    fill(shelf, 9)
    paths = sorted(shelf.folder.iterdir())
    first = verify(paths[:1]).members
    second = verify(paths[1:2])
    before = "written before the first of these files, or lost"
    assert second.missing == [missing(shelf, 0, first - 1, None, "2026-11-19T11:15:00.000000Z", before)]
    paths[1].unlink()
    report = verify([shelf.folder])
    assert not report.complete
    assert [(it.first, it.last) for it in report.missing] == [(first, first + second.members - 1)]


def test_what_is_there_twice_is_told(shelf: Shelf) -> None:
    fill(shelf)
    (path, *_) = sorted(shelf.folder.iterdir())
    shelf.raw(path.read_bytes(), HOUR + 7200)
    report = verify([shelf.folder])
    assert not report.complete
    assert [(it.first, it.last) for it in report.repeated] == [(0, 3)]
    assert [(it.first_file, it.second_file.name) for it in report.repeated] == [(path, "2026-11-19T12.jsonl.gz")]


@pytest.mark.parametrize("where", ["header", "data", "trailer", "middle"])
def test_damage_is_told_with_its_place(shelf: Shelf, where: str) -> None:
    shelf.open()
    path = shelf.put(whole(HOUR + 1))
    begin = path.stat().st_size
    shelf.put(whole(HOUR + 2))
    end = path.stat().st_size
    shelf.put(whole(HOUR + 3))
    data = bytearray(path.read_bytes())
    if where == "middle":
        data[begin:begin] = b"garbage"
    else:
        data[{"header": begin + 3, "data": begin + member.HEADER_LENGTH + 9, "trailer": end - 6}[where]] ^= 0x04
    path.write_bytes(data)
    report = verify([shelf.folder])
    assert not report.complete
    (damaged,) = report.damaged
    length = 7 if where == "middle" else end - begin
    assert (damaged.file, damaged.offset, damaged.length, damaged.torn) == (path, begin, length, False)
    assert [(it.first, it.last) for it in report.missing] == ([] if where == "middle" else [(2, 2)])
    assert path.read_bytes() == data


def test_a_torn_end_is_told_apart_from_damage(shelf: Shelf) -> None:
    shelf.open()
    path = shelf.put(whole())
    size = path.stat().st_size
    rest = shelf.pack(whole())
    for length in (1, member.HEADER_LENGTH, len(rest) - 1):
        path.write_bytes(path.read_bytes()[:size] + rest[:length])
        (damaged,) = verify([path]).damaged
        assert (damaged.offset, damaged.length, damaged.torn) == (size, length, True)


def test_a_line_that_contradicts_its_header_is_damage(shelf: Shelf) -> None:
    shelf.open()
    record = whole()
    shelf.put(record)
    line = shelf.lines[id_text(record.id)][0]
    for named, part, seq in ((new_id(1), 0, 1), (record.id, 1, 1), (record.id, 0, 2)):
        path = shelf.folder / "2026-11-19T10.jsonl.gz"
        before = path.read_bytes()
        shelf.raw(member.pack(line + b"\n", id=named, part=part, seq=seq))
        assert [it.why for it in verify([path]).damaged] == ["the member's header and its line tell different things"]
        path.write_bytes(before)


def test_more_damage_than_is_listed_is_counted(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archive.proof.facts.MOST", 3)
    monkeypatch.setattr("archive.proof.verify.MOST", 3)
    shelf.open()
    for number in range(5):
        shelf.raw(b"garbage")
        shelf.put(whole(HOUR + number))
    report = verify([shelf.folder])
    assert (len(report.damaged), report.damages) == (3, 5)


def test_only_what_is_there_can_be_verified(shelf: Shelf, tmp_path: Path) -> None:
    fill(shelf)
    path = next(iter(shelf.folder.iterdir()))
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    for name, why in (
        ("nothing", "cannot be opened"),
        ("link", "is a symbolic link"),
        ("text", "is no segment"),
        ("pipe", "is no regular"),
    ):
        with pytest.raises(NotFound, match=f"{tmp_path / name} {why}"):
            verify([tmp_path / name])
    empty = tmp_path / "empty"
    empty.mkdir()
    assert verify([empty]).complete
    renamed = tmp_path / "renamed.gz"
    renamed.write_bytes(path.read_bytes())
    assert verify([renamed]).members == verify([path]).members


def test_a_plain_gzip_file_is_told_to_be_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-19T10.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n'))
    report = verify([path])
    assert not report.complete
    assert report.members == 0


def test_a_writer_followed_by_another_of_its_process_was_killed(shelf: Shelf) -> None:
    """In a container every writer has the same host and pid."""
    fill(shelf)
    assert verify([shelf.folder]).sentence.endswith("nothing missing; 1 writer has not closed: still at work, or killed")
    later = Shelf(shelf.folder, writer=new_id(1))
    later.open(HOUR + 7200)
    later.close(HOUR + 7201)
    report = verify([shelf.folder])
    assert report.complete  # what it had queued is not known to anyone
    assert {writer.id: writer.killed for writer in report.writers} == {id_text(shelf.writer): True, id_text(later.writer): False}
    assert report.sentence.endswith("nothing missing; 1 writer was killed, with what had not been written")


def test_numbers_whose_bytes_are_damaged_are_missing_for_that_reason(shelf: Shelf) -> None:
    shelf.open()
    path = shelf.put(whole(HOUR + 1))
    begin = path.stat().st_size
    shelf.put([whole(HOUR + 2), whole(HOUR + 3)])
    end = path.stat().st_size
    shelf.put(whole(HOUR + 4))
    data = path.read_bytes()
    path.write_bytes(data[: begin + 1] + bytes(end - begin - 1) + data[end:])
    report = verify([shelf.folder])
    (hole,) = report.missing
    assert (hole.first, hole.last, hole.why.partition(":")[0]) == (2, 3, "damaged")
    assert (hole.since, hole.until) == ("2026-11-19T10:00:01.000000Z", "2026-11-19T10:00:04.000000Z")
    assert "missing" not in report.sentence  # it is the damage that is told of


def test_a_pause_that_lost_nothing_leaves_the_archive_complete(shelf: Shelf) -> None:
    fill(shelf)
    name = id_text(shelf.writer)
    line = gap_line(writer=name, seq=shelf.seq, at=HOUR, since=HOUR, until=HOUR + 9, records=0, exchanges=0, size=0, why="no space left")
    shelf.raw(member.pack(line + b"\n", id=shelf.writer, part=SERVICE_PART, seq=shelf.seq), HOUR + 5000)
    report = verify([shelf.folder])
    assert report.complete
    assert report.gaps[0].records == 0


def test_a_batch_under_way_is_no_torn_end(shelf: Shelf) -> None:
    shelf.open()
    path = shelf.put(whole())
    rest = shelf.pack(whole())
    writing, written = threading.Event(), threading.Event()

    def batch() -> None:
        with path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(rest[:50])
            writing.set()
            time.sleep(0.05)
            file.write(rest[50:])
            written.set()

    thread = threading.Thread(target=batch)
    thread.start()
    try:
        assert writing.wait(10)
        report = verify([path])
    finally:
        thread.join()
    assert (report.complete, report.members) == (True, 3)
    with path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(rest[:50])
        (damaged,) = verify([path]).damaged  # a lock that is held for long is not waited for
    assert damaged.torn


def test_an_own_line_that_is_not_of_its_schema_is_damage(shelf: Shelf) -> None:
    shelf.open()
    lines = [
        b'{"v":1,"id":"%s","seq":%d,"writer":"%s","part":%d,"at":"t","kind":"gap","gap":{"records":9}}',
        b'{"v":1,"id":"%s","seq":%d,"writer":"%s","part":%d,"at":"t","kind":"gap","gap":null}',
        b'{"v":1,"id":"%s","seq":%d,"writer":"%s","part":%d,"at":"t","kind":"forget","forget":{"by":"","why":"","removed":[{"segment":1}]}}',
        b'{"v":1,"id":"%s","seq":%d,"writer":"%s","part":%d,"at":"t","kind":"prune","prune":{"by":"","why":"","segments":"x"}}',
        b'{"v":1,"id":"%s","seq":%d,"writer":"%s","part":%d,"at":"t","kind":"open"}',
    ]
    name = id_text(shelf.writer).encode()
    for seq, line in enumerate(lines, 1):
        shelf.raw(member.pack(line % (name, seq, name, SERVICE_PART) + b"\n", id=shelf.writer, part=SERVICE_PART, seq=seq))
    report = verify([shelf.folder])
    assert [each.why for each in report.damaged] == ["the line is not of this schema"] * len(lines)


def test_a_line_of_a_later_version_is_counted(shelf: Shelf) -> None:
    shelf.open()
    name = id_text(shelf.writer).encode()
    line = b'{"v":2,"id":"%s","seq":1,"writer":"%s","part":%d,"at":"t","kind":"note"}\n' % (name, name, SERVICE_PART)
    shelf.raw(member.pack(line, id=shelf.writer, part=SERVICE_PART, seq=1))
    assert verify([shelf.folder]).complete


def test_a_disk_that_cannot_read_is_told_as_damage(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(shelf)

    def unreadable(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", unreadable)
    report = verify([shelf.folder])
    assert [each.why for each in report.damaged] == ["the disk cannot read it"]


def test_what_recovery_set_aside_is_listed(shelf: Shelf) -> None:
    fill(shelf)
    assert verify([shelf.folder]).set_aside == []
    aside = shelf.folder / QUARANTINE
    aside.mkdir()
    (aside / "2026-11-19T10.jsonl.gz.81.20261119T105931.000123Z").write_bytes(b"torn")
    (aside / "folder").mkdir()
    report = verify([shelf.folder])
    assert report.complete
    assert [(each.file.parent, each.bytes) for each in report.set_aside] == [(aside, 4)]


def test_a_quarantine_that_is_a_symbolic_link_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    fill(shelf)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"not ours")
    (shelf.folder / QUARANTINE).symlink_to(tmp_path / "elsewhere")
    report = verify([shelf.folder])
    assert (report.set_aside, report.strangers) == ([], [str(shelf.folder / QUARANTINE)])
