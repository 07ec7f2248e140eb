"""The writer as a whole: numbers without holes, losses told, a clean stop, and nothing that stops the thread."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from readback import archive_records
from rig_archive import exchanges, ids, line, record, settled, unexplained, until, writing, zcat

from archive import writer as module
from archive.errors import Unwritable
from archive.folder import segments
from archive.line import SERVICE_PART
from archive.member import HEADER_LENGTH, Found, scan
from archive.proof.verify import verify
from archive.record import Body, Record, id_text
from archive.writer import Writer


def test_an_archive_begins_with_open_and_ends_with_close(tmp_path: Path) -> None:
    offered = [record(n * 50) for n in range(30)]
    with writing(tmp_path / "a", version="1.2.3", rules_hash="abc") as writer:
        assert all(writer.put(each) for each in offered)
        assert writer.close(10)
        assert writer.close(10)
    lines = archive_records(tmp_path / "a")
    assert [each["kind"] for each in lines] == ["open", *["exchange"] * 30, "close"]
    assert [each["seq"] for each in lines] == list(range(32))
    assert {each["writer"] for each in lines} == {id_text(writer.id)}
    assert exchanges(lines) == ids(offered)
    assert lines[0]["open"] == {"version": "1.2.3", "rules_hash": "abc", "host": socket.gethostname(), "pid": os.getpid()}
    assert lines[-1]["close"] == {"written": 30, "dropped": 0}
    stats = writer.stats()
    assert (stats.written, stats.dropped, stats.queued, stats.queued_bytes, stats.last_error) == (30, 0, 0, 0, None)
    (path,) = segments(tmp_path / "a")
    assert (stats.bytes_written, stats.segment) == (path.stat().st_size, path.name)


def test_each_record_is_one_member_and_one_line(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for _ in range(10):
            writer.put(record(5000))
    (path,) = segments(tmp_path)
    with path.open("rb") as file:
        tags = [each.tag for each in scan(file) if isinstance(each, Found)]
    lines = [json.loads(each) for each in zcat(path).splitlines()]
    assert len(lines) == len(tags) == 12
    for tag, each in zip(tags, lines, strict=True):
        assert (id_text(tag.id), tag.part, tag.seq) == (each["id"], each["part"], each["seq"])
    assert [tag.part for tag in tags] == [SERVICE_PART, *[0] * 10, SERVICE_PART]


def test_every_number_is_there_or_a_gap_accounts_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    offered = [record(300) for _ in range(3000)]
    with writing(tmp_path, queue_records=64) as writer:
        for each in offered:
            assert writer.put(each)
        assert writer.close(20)
    lines = archive_records(tmp_path)
    stats = writer.stats()
    assert stats.dropped > 0
    assert stats.written + stats.dropped == 3000
    assert unexplained(lines) == set()
    gaps = [each["gap"] for each in lines if each["kind"] == "gap"]
    assert sum(gap["records"] for gap in gaps) == stats.dropped
    assert sum(gap["bytes"] for gap in gaps) == stats.dropped_bytes
    assert {gap["why"] for gap in gaps} == {"the queue is full"}
    assert lines[-1]["close"] == {"written": stats.written, "dropped": stats.dropped}
    assert verify([tmp_path]).accounted
    kept = exchanges(lines)
    assert kept == [each for each in ids(offered) if each in set(kept)]  # in order, none twice
    assert len([each for each in caplog.records if "were lost" in each.message]) == 1


def test_what_a_producer_had_to_give_up_is_told_of(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for number in range(5):
            writer.lose(bytes(15) + bytes([number % 2]), 100, "the tape was full")
        writer.put(record())
        assert writer.close(10)
    lines = archive_records(tmp_path)
    gaps = [each["gap"] for each in lines if each["kind"] == "gap"]
    assert (sum(gap["records"] for gap in gaps), sum(gap["bytes"] for gap in gaps)) == (5, 500)
    assert {gap["why"] for gap in gaps} == {"the tape was full"}
    assert (writer.stats().dropped, writer.stats().dropped_bytes, writer.stats().written) == (5, 500, 1)
    assert unexplained(lines) == set()


def test_what_clients_wanted_unrecorded_is_told_of_while_nothing_else_happens(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        writer.decline(2)
        writer.decline(1)
        until(lambda: any(it["kind"] == "declined" for it in archive_records(tmp_path)))
        assert writer.put(record())
        writer.decline(4)  # within the minute: told at the end
    told = [it for it in archive_records(tmp_path) if it["kind"] == "declined"]
    assert sum(it["declined"]["exchanges"] for it in told) == 7
    assert told[-1]["declined"]["since"] <= told[-1]["declined"]["until"]
    assert len(told) <= 3
    report = verify([tmp_path])
    assert (report.complete, report.declined) == (True, 7)


def test_a_record_that_cannot_be_encoded_loses_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    offered = [record() for _ in range(20)]
    bad = {offered[3].id, offered[4].id, offered[19].id}
    real = module.to_line

    def to_line(record: Record, **rest: Any) -> bytes | None:
        if record.id in bad:
            raise ValueError("canary: what was recorded")
        return real(record, **rest)

    monkeypatch.setattr(module, "to_line", to_line)
    with writing(tmp_path) as writer:
        for each in offered:
            assert writer.put(each)
        assert writer.close(10)
    lines = archive_records(tmp_path)
    assert exchanges(lines) == [id_text(each.id) for each in offered if each.id not in bad]
    assert unexplained(lines) == set()
    assert (writer.stats().written, writer.stats().dropped) == (17, 3)
    assert {each["gap"]["why"] for each in lines if each["kind"] == "gap"} == {"a record could not be encoded (ValueError)"}
    assert "canary" not in caplog.text + json.dumps(lines)
    assert len(caplog.records) == 2  # one about the encoding, one about the loss


def test_a_record_with_nothing_to_keep_takes_no_number(tmp_path: Path) -> None:
    def part(number: int, kept: bool) -> Record:
        each = record()
        each.part, each.end, each.request, each.response = number, None, None, None
        body = Body([b"abc"] if kept else [], [] if kept else [b"abc"])
        each.request_body, each.response_body = body, None
        return each

    with writing(tmp_path) as writer:
        for each in (record(), part(1, kept=False), part(2, kept=True)):
            writer.put(each)
        assert writer.close(10)
    assert (writer.stats().written, writer.stats().empty, writer.stats().dropped) == (2, 1, 0)
    assert unexplained(archive_records(tmp_path)) == set()
    assert len(exchanges(archive_records(tmp_path))) == 2


def test_a_stumble_of_the_writer_does_not_end_the_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def stumble(written: list[Record]) -> None:
        told.extend(ids(written))
        raise RuntimeError("canary")

    offered = [record() for _ in range(5)]
    with writing(tmp_path, on_written=stumble) as writer:
        for each in offered:
            writer.put(each)
            settled(writer)
        assert writer.close(10)
    assert exchanges(archive_records(tmp_path)) == told == ids(offered)
    assert "RuntimeError" in caplog.text
    assert "canary" not in caplog.text


def test_a_clean_stop_writes_everything_that_was_taken(tmp_path: Path) -> None:
    offered = [record(2000) for _ in range(4000)]
    with writing(tmp_path) as writer:
        for each in offered:
            assert writer.put(each)
        assert writer.close(30)
    assert exchanges(archive_records(tmp_path)) == ids(offered)
    assert writer.put(record())  # too late: dropped and counted
    assert writer.stats().dropped == 1


def test_a_stop_waits_for_a_disk_that_refuses_the_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = os.writev, iter(range(5))
    with writing(tmp_path) as writer:

        def writev(fd: int, members: list[bytes]) -> int:
            if writer._closing.is_set() and next(refusals, None) is not None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, members)

        monkeypatch.setattr(os, "writev", writev)
        writer.put(record())
        settled(writer)
        assert writer.close(10)
    assert [each["kind"] for each in archive_records(tmp_path)][-1] == "close"
    assert next(refusals, None) is None


def test_a_stop_whose_last_sync_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with writing(tmp_path, sync="record") as writer:
        writer.put(record())
        settled(writer)
        monkeypatch.setattr(os, "fdatasync", broken)
        assert not writer.close(10)


def test_a_stop_that_runs_out_of_time_says_what_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.to_line
    going = threading.Event()

    def slow(record: Record, **rest: Any) -> bytes | None:
        going.set()
        time.sleep(0.02)
        return real(record, **rest)

    monkeypatch.setattr(module, "to_line", slow)
    monkeypatch.setattr(module, "_BATCH_RECORDS", 3)
    offered = [record() for _ in range(500)]
    with writing(tmp_path) as writer:
        for each in offered:
            writer.put(each)
        assert going.wait(10)
        assert not writer.close(0.2)
        until(lambda: not writer._thread.is_alive())
    stats = writer.stats()
    assert stats.queued == 0
    assert stats.written + stats.dropped == 500
    assert 0 < stats.dropped < 500
    lines = archive_records(tmp_path)
    assert exchanges(lines) == ids(offered)[: stats.written]
    assert lines[-1]["kind"] == "exchange"  # no close: a reader can tell


def test_two_writers_share_a_folder(tmp_path: Path) -> None:
    with writing(tmp_path) as one, writing(tmp_path) as two:
        offered = [record(1000) for _ in range(400)]
        for each, other in zip(offered[::2], offered[1::2], strict=True):
            one.put(each)
            two.put(other)
        assert one.close(10)
        assert two.close(10)
    lines = archive_records(tmp_path)
    for writer in (one, two):
        own = [each for each in lines if each["writer"] == id_text(writer.id)]
        assert [each["seq"] for each in own] == list(range(202))
    assert sorted(exchanges(lines)) == sorted(ids(offered))


def test_a_torn_end_left_behind_is_set_aside_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with writing(tmp_path) as writer:
        writer.put(record())
        assert writer.close(10)
    (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(b"\x1f\x8b\x08\x04torn")
    with writing(tmp_path) as again:
        assert again.close(10)
    assert [each["kind"] for each in archive_records(tmp_path)] == ["open", "exchange", "close", "open", "close"]
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == b"\x1f\x8b\x08\x04torn"
    assert str(aside) in caplog.text


def test_a_folder_that_cannot_be_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unwritable, match="cannot make the archive folder"):
        Writer(tmp_path / "file" / "archive", version="test").start()
    with pytest.raises(Unwritable, match="cannot make the archive folder"):
        Writer(tmp_path / "file", version="test").start()


def test_a_writer_never_started_gives_an_account_all_the_same(tmp_path: Path) -> None:
    writer = Writer(tmp_path, version="test")
    assert writer.close(1)
    writer = Writer(tmp_path, version="test")
    writer.put(record(weight=7))
    assert not writer.close(1)
    assert (writer.stats().queued, writer.stats().dropped, writer.stats().dropped_bytes) == (0, 1, 7)


def test_folder_and_segments_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with writing(tmp_path / "data" / "archive") as writer:
            writer.put(record())
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data").rglob("*")}
    assert modes.pop("archive") == stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}


def test_memory_held_is_what_the_bound_says(tmp_path: Path) -> None:
    with writing(tmp_path, queue_bytes=1 << 20, queue_records=10**9) as writer:
        most = 0
        for _ in range(300):
            writer.put(record(50_000))
            most = max(most, writer.stats().queued_bytes)
        assert most <= 1 << 20
        assert writer.close(10)
    stats = writer.stats()
    assert stats.written + stats.dropped == 300


def test_the_log_may_be_anyones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mine")
    (tmp_path / "2026-01-01T00.jsonl.gz").write_bytes(line(1))
    with writing(tmp_path, log=logging.getLogger("mine")) as writer:
        assert writer.close(10)
    assert {each.name for each in caplog.records} == {"mine"}


def block_types(path: Path) -> list[int]:
    """Of each exchange's member the type of its first block: 0 is a stored one (RFC 1951 section 3.2.3)."""
    with path.open("rb") as file:
        found = [each for each in scan(file) if isinstance(each, Found)]
    data = path.read_bytes()
    return [data[each.offset + HEADER_LENGTH] >> 1 & 3 for each in found[1:-1]]


def test_a_writer_that_is_told_to_hurry_stores(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for hurried in (True, False):
            writer.hurry(hurried)
            assert writer.put(record(2000))
            settled(writer)
    (path,) = segments(tmp_path)
    stored, packed = block_types(path)
    assert stored == 0
    assert packed != 0


@pytest.mark.parametrize("adaptive", [True, False])
def test_a_writer_that_falls_behind_stores_instead_of_compressing(tmp_path: Path, adaptive: bool) -> None:
    """All of it waits when the writer begins: it stores until less than a batch is left, and compresses again."""
    writer = Writer(tmp_path, version="1", adaptive=adaptive)
    offered = [record(2000) for _ in range(1000)]
    assert all(writer.put(each) for each in offered)
    writer.start()
    assert writer.close(30)
    (path,) = segments(tmp_path)
    kinds = block_types(path)
    assert (0 in kinds) is adaptive
    assert kinds[-1] != 0
    assert exchanges(archive_records(tmp_path)) == ids(offered)
    assert [json.loads(each)["seq"] for each in zcat(path).splitlines()] == list(range(1002))
