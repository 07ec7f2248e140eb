"""What happens while the disk refuses, on real disks: full, read-only, gone, slow; and what a sync is worth."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from readback import archive_records
from rig_archive import exchanges, filled, ids, mounted, record, settled, unexplained, until, writing, zcat

from archive.folder import segment_name, segments
from archive.record import Record


def gaps(folder: Path) -> list[dict[str, object]]:
    return [each["gap"] for each in archive_records(folder) if each["kind"] == "gap"]


def test_a_full_disk_pauses_recording_and_it_resumes_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    acknowledged: list[str] = []
    with mounted(tmp_path / "disk") as disk:
        folder = disk / "archive"
        with writing(folder, queue_records=20, on_written=lambda written: acknowledged.extend(ids(written))) as writer:
            before = [record(2000) for _ in range(5)]
            for each in before:
                assert writer.put(each)
            settled(writer)
            assert acknowledged == ids(before)

            filler = filled(disk)
            began = time.time()
            # The first fits into no slack of the file's last block.
            during = [record(6_000, weight=2000), *(record(1500, weight=2000) for _ in range(49))]
            assert writer.put(during[0])
            until(lambda: writer.stats().paused)
            for each in during[1:]:
                assert writer.put(each)
            until(lambda: writer.stats().last_error)
            stats = writer.stats()
            assert (stats.queued, stats.dropped, stats.dropped_bytes) == (20, 30, 60_000)
            assert "(ENOSPC)" in str(stats.last_error)

            filler.unlink()
            settled(writer)
            after = [record(200) for _ in range(5)]
            for each in after:
                assert writer.put(each)
        stats = writer.stats()
        assert (stats.written, stats.dropped, stats.queued, stats.paused) == (30, 30, 0, False)
        lines = archive_records(folder)
        for path in segments(folder):
            assert zcat(path)
        assert exchanges(lines) == acknowledged == ids(before + during[:20] + after)
        assert unexplained(lines) == set()
        (gap,) = gaps(folder)
        assert (gap["records"], gap["exchanges"], gap["bytes"]) == (30, 30, 60_000)
        assert "No space left on device (ENOSPC)" in str(gap["why"])
        assert str(gap["since"]) <= str(gap["until"])
        assert abs(began - datetime.fromisoformat(str(gap["since"])).timestamp()) < 30
        assert [each["kind"] for each in lines][-1] == "close"
        assert not (folder / "quarantine").exists()
    about_pauses = [each for each in caplog.records if "paused" in each.message]
    assert len(about_pauses) == 1
    assert all(each.levelno <= logging.WARNING and not each.exc_info for each in caplog.records)


def test_a_pause_that_loses_nothing_is_told_all_the_same(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk, writing(disk / "archive") as writer:
        settled(writer)
        filler = filled(disk)
        offered = [record(3000) for _ in range(3)]
        for each in offered:
            writer.put(each)
        until(lambda: writer.stats().paused)
        filler.unlink()
        settled(writer)
        assert writer.close(10)
        assert writer._inbox._refusing == ""  # producers may be asked to wait again
        (gap,) = gaps(disk / "archive")
        assert (gap["records"], gap["exchanges"], gap["bytes"]) == (0, 0, 0)
        assert exchanges(archive_records(disk / "archive")) == ids(offered)


def test_a_disk_filled_by_the_archive_itself_keeps_what_fits(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with mounted(tmp_path / "disk") as disk:
        folder = disk / "archive"
        with writing(folder, queue_records=10, on_written=lambda written: acknowledged.extend(ids(written))) as writer:
            for _ in range(100):
                writer.put(record(3000))
                until(lambda: not writer.stats().queued or writer.stats().paused)
            assert writer.stats().paused
            assert exchanges(archive_records(folder)) == acknowledged
            assert not writer.close(0.2)
        assert len(acknowledged) + writer.stats().dropped == 100
        assert exchanges(archive_records(folder)) == acknowledged
        assert [each["kind"] for each in archive_records(folder)][-1] != "close"


def test_reaching_the_low_water_mark_pauses_writing(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        folder = disk / "archive"
        with writing(folder, min_free=500 << 10) as writer:
            offered: list[Record] = []

            def refused() -> bool:  # the free space is looked at now and then
                if not writer.stats().paused:
                    offered.append(record())
                    writer.put(offered[-1])
                return writer.stats().paused

            assert not refused()
            settled(writer)
            filler = disk / "filler"
            filler.write_bytes(bytes(600 << 10))
            until(refused)
            assert "are free" in str(writer.stats().last_error)
            assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 300 << 10  # the room that is left is left
            filler.unlink()
            settled(writer)
        lines = archive_records(folder)
        assert exchanges(lines) == ids(offered)
        assert "are free" in str(gaps(folder)[0]["why"])


def test_a_disk_that_turns_read_only_is_waited_for(tmp_path: Path) -> None:
    def let_go(written: Sequence[Record]) -> None:  # the kernel does not make a file system read-only below an open file
        writer._outbox._appender.close()

    with mounted(tmp_path / "disk") as disk:
        folder = disk / "archive"
        first, second = record(), record()
        with writing(folder, sync="never", on_written=let_go) as writer:
            writer.put(first)
            until(lambda: not subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False).returncode)
            writer.put(second)
            until(lambda: writer.stats().paused)
            assert "(EROFS)" in str(writer.stats().last_error)
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            settled(writer)
        assert exchanges(archive_records(folder)) == ids([first, second])


def test_a_folder_that_vanishes_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    first, second = record(), record()
    with writing(folder) as writer:
        writer.put(first)
        settled(writer)
        folder.rename(tmp_path / "moved")
        writer.put(second)
        settled(writer)
    assert exchanges(archive_records(tmp_path / "moved")) == ids([first])
    assert exchanges(archive_records(folder)) == ids([second])
    assert writer.stats().dropped == 0


def test_a_symbolic_link_in_the_segments_place_pauses_writing(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = [folder / segment_name(time.time() + hours * 3600) for hours in (0, 1)]
    for path in planted:
        path.symlink_to(victim)
    with writing(folder) as writer:
        writer.put(record())
        until(lambda: writer.stats().paused)
        assert "symbolic link" in str(writer.stats().last_error)
        assert victim.read_text() == "precious"
        for path in planted:
            path.unlink()
        settled(writer)
    assert len(exchanges(archive_records(folder))) == 1


def test_offering_a_record_never_waits_for_the_disk(tmp_path: Path) -> None:
    # Another process that holds the segment's lock stands for a disk that hangs.
    folder = tmp_path / "archive"
    with writing(folder, queue_records=50) as writer:
        writer.put(record())
        settled(writer)
        with (folder / writer.stats().segment).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            writer.put(record())
            until(lambda: writer._inbox.queued[0] == 1 and not len(writer._inbox))  # the thread has taken it, and hangs
            for _ in range(49):
                assert writer.put(record(), may_wait=True)
            assert not writer.put(record(), may_wait=True)  # the first that finds no room is asked to wait for a sign of life,
            until(lambda: writer.put(record(), may_wait=True))  # but not for long
            slowest = 0.0
            for _ in range(950):
                each = record()
                began = time.perf_counter()
                assert writer.put(each, may_wait=True)
                slowest = max(slowest, time.perf_counter() - began)
            assert writer.stats().queued == 50
            assert writer.stats().dropped == 951
            assert not writer.close(0.1)
        until(lambda: not writer._thread.is_alive())
    assert slowest < 0.5  # the lock was held all the time


# Syncing.


class Disk:
    """Counts syncs of files, and lets them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.broken = False
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, fd: int) -> None:
        self.syncs += 1
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._real(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_record_is_synced_before_it_is_acknowledged(tmp_path: Path, disk: Disk) -> None:
    syncs: list[int] = []

    def written(records: Sequence[Record]) -> None:
        syncs.append(disk.syncs)

    with writing(tmp_path, sync="record", on_written=written) as writer:
        settled(writer)
        for _ in range(3):
            before = disk.syncs
            writer.put(record())
            settled(writer)
            until(lambda: syncs)
            assert syncs.pop() > before


def test_what_was_written_is_synced_within_a_second(tmp_path: Path, disk: Disk) -> None:
    with writing(tmp_path, sync="1s") as writer:
        writer.put(record())
        settled(writer)
        assert disk.syncs == 0
        began = time.monotonic()
        until(lambda: disk.syncs)
        assert time.monotonic() - began < 5
        for _ in range(20):
            writer.put(record())
            time.sleep(0.01)
        assert disk.syncs == 1  # not for each of them
        assert writer.close(10)
    assert disk.syncs == 2
    assert writer.stats().written == 21


def test_without_syncing_the_disk_is_never_asked(tmp_path: Path, disk: Disk) -> None:
    with writing(tmp_path, sync="never") as writer:
        for _ in range(10):
            writer.put(record())
        assert writer.close(10)
    assert disk.syncs == 0


def test_a_failed_sync_is_counted_and_never_taken_for_a_success(tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    acknowledged: list[str] = []
    offered = [record() for _ in range(3)]
    with writing(tmp_path, sync="record", on_written=lambda written: acknowledged.extend(ids(written))) as writer:
        writer.put(offered[0])
        until(lambda: acknowledged)
        disk.broken = True
        writer.put(offered[1])
        until(lambda: writer.stats().sync_failures)
        disk.broken = False
        writer.put(offered[2])
        until(lambda: len(acknowledged) == 2)
    assert acknowledged == [ids(offered)[0], ids(offered)[2]]
    assert exchanges(archive_records(tmp_path)) == ids(offered)
    assert writer.stats().sync_failures == 1
    assert [each.message for each in caplog.records] == ["what was written last may not survive a power loss: Input/output error (EIO)"]
