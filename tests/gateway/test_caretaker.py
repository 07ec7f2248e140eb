"""The caretaker: what is due is done, what fails is said once and does not stop the rest, and nothing of it is the relay's."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commandline import children, clean_environment, running, verbatim, wait_for
from rig_removal import CANARY
from samples import HOUR, Shelf, whole

from archive.errors import ArchiveError
from archive.folder import QUARANTINE, segment_name, segments
from archive.keeping import retention
from archive.keeping.clerk import Removals, alone
from archive.line import SERVICE_PART, forget_line, open_line
from archive.proof.keys import make_key
from archive.proof.seal import read_seal, sealed_hours
from archive.record import Record, id_text, new_id
from gateway import caretaker
from gateway.caretaker import Caretaker, Duties

DAY = 86_400.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Three hours."""
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    for number in range(3):
        shelf.put(whole(HOUR + number * 3600 + 1))
    return shelf


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def look_after(folder: Path, now: float, **duties: object) -> Caretaker:
    """One round at that time."""
    made = Caretaker(Duties(folder, **duties), clock=lambda: now)  # type: ignore[arg-type]
    made.round()
    return made


def told_of(shelf: Shelf, *records: Record) -> None:
    """A removal that was cut short after its line was written."""
    writer = new_id(int(HOUR * 1000))
    name = id_text(writer)
    entry = {"index": 0, "part": 0, "writer": "w", "seq": 0, "digest": "00" * 32, "member": "", "bytes": 1, "segment": "2026-11-19T10"}
    removed = [{**entry, "id": id_text(it.id)} for it in records]
    lines = [
        open_line(writer=name, seq=0, at=HOUR, version="t", rules_hash="", host="h", pid=1),
        forget_line(writer=name, seq=1, at=HOUR, by="me", why="asked for", removed=removed),
    ]
    from archive import member

    for seq, line in enumerate(lines):
        shelf.raw(member.pack(line + b"\n", id=writer, part=SERVICE_PART, seq=seq), HOUR + 2 * 3600)


def test_hours_that_are_over_are_sealed_in_order(shelf: Shelf) -> None:
    clock = Clock(HOUR + 3600 + 119)
    made = Caretaker(Duties(shelf.folder), clock=clock)
    made.round()
    assert sealed_hours(shelf.folder) == []
    clock.now = HOUR + 3600 + 121
    made.round()
    assert sealed_hours(shelf.folder) == ["2026-11-19T10"]
    clock.now = HOUR + DAY
    made.round()
    assert sealed_hours(shelf.folder) == ["2026-11-19T10", "2026-11-19T11", "2026-11-19T12"]
    first, second = (read_seal(shelf.folder, hour) for hour in ("2026-11-19T10", "2026-11-19T11"))
    assert first is not None
    assert second is not None
    assert second.previous is not None
    assert second.previous.segment == "2026-11-19T10"


def test_an_empty_hour_keeps_no_other_from_its_seal(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    (shelf.folder / "2026-11-19T09.jsonl.gz").touch(0o600)
    look_after(shelf.folder, HOUR + DAY)
    assert sealed_hours(shelf.folder) == ["2026-11-19T10", "2026-11-19T11", "2026-11-19T12"]
    assert "not sealed 2026-11-19T09" in caplog.text


def test_seals_are_signed_with_the_key_of_the_settings(shelf: Shelf, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    look_after(shelf.folder, HOUR + DAY, seal_key=tmp_path / "key")
    seal = read_seal(shelf.folder, "2026-11-19T12")
    assert seal is not None
    assert seal.key == key.public


def test_without_its_key_no_hour_is_sealed_and_the_rest_is_done(shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shelf.put(whole(HOUR + 3 * DAY - 3600))
    look_after(shelf.folder, HOUR + 3 * DAY, seal_key=tmp_path / "nowhere", keep_days=1)
    assert sealed_hours(shelf.folder) == []
    assert "2026-11-19T10.jsonl.gz" not in names(shelf.folder)
    assert "the archive's upkeep (seal) failed" in caplog.text


def test_sealing_may_be_off(shelf: Shelf) -> None:
    look_after(shelf.folder, HOUR + DAY, seal=False)
    assert sealed_hours(shelf.folder) == []


def test_hours_beyond_the_bounds_go_and_their_seals_with_them(shelf: Shelf) -> None:
    now = HOUR + DAY + 2 * 3600 + 60
    look_after(shelf.folder, now, keep_days=1)
    assert names(shelf.folder) == ["2026-11-19T12.jsonl.gz", "2026-11-19T12.seal.json", segment_name(now)]
    removals = Removals(shelf.folder)
    removals.refresh()
    assert not removals.unfinished()


def test_a_clock_far_ahead_removes_nothing_for_a_day(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    """Neither at the start nor in the middle; what bounds the bytes goes on."""
    for ahead in (0.0, 400 * DAY):
        clock, passed = Clock(HOUR + 3 * 3600 + ahead), Clock(0.0)
        made = Caretaker(Duties(shelf.folder, keep_days=30, seal=False), clock=clock, passed=passed)
        made.round()
        caplog.clear()
        clock.now = HOUR + 3 * 3600 + 400 * DAY
        passed.now = 60.0
        for _ in range(3):
            made.round()
        assert len(segments(shelf.folder)) == 3
        if not ahead:
            (told,) = [it.getMessage() for it in caplog.records if "keep_days" in it.getMessage()]
            assert "the clock shows 2027-12-24 13:00 UTC, 400 days after the newest recording; if that is wrong, set the clock" in told
    clock.now, passed.now = clock.now + DAY, passed.now + DAY
    made.round()
    assert [path.name for path in segments(shelf.folder)] == [segment_name(clock.now)]


def test_without_bounds_nothing_is_ever_removed(shelf: Shelf) -> None:
    look_after(shelf.folder, HOUR + 1000 * DAY)
    assert len(segments(shelf.folder)) == 3


def test_old_sealed_hours_are_packed(shelf: Shelf) -> None:
    clock = Clock(HOUR + DAY)
    made = Caretaker(Duties(shelf.folder, pack_after_days=2), clock=clock)
    made.round()
    assert [path.suffix for path in segments(shelf.folder)] == [".gz"] * 3
    clock.now = HOUR + 2 * DAY + 2 * 3600 + 1
    made.round()
    assert [path.suffix for path in segments(shelf.folder)] == [".zst", ".zst", ".gz"]


def test_what_a_crash_left_is_swept_up_and_finished(shelf: Shelf) -> None:
    goes = whole(HOUR + 5, body=CANARY)
    shelf.put(goes)
    told_of(shelf, goes)
    (shelf.folder / ".2026-11-19T10.jsonl.gz.new").write_bytes(b"half a copy")
    (shelf.folder / ".2026-11-19T10.seal.json.new").write_bytes(b"half a seal")
    (shelf.folder / "2026-11-19T11.jsonl.zst").write_bytes(b"beside its plain form")
    (shelf.folder / ".notes.new").write_bytes(b"somebody else's")
    (shelf.folder / QUARANTINE).mkdir()
    (shelf.folder / QUARANTINE / ".2026-11-19T10.jsonl.gz.5.x.new").write_bytes(b"half a copy")
    now = HOUR + 3 * 3600
    look_after(shelf.folder, now, seal=False)
    plain = [segment_name(HOUR + number * 3600) for number in range(4)]
    assert names(shelf.folder) == [".notes.new", *plain]
    assert list((shelf.folder / QUARANTINE).iterdir()) == []
    assert goes.id not in (shelf.folder / plain[0]).read_bytes()
    removals = Removals(shelf.folder)
    removals.refresh()
    assert not removals.unfinished()


def test_a_failure_is_said_once_and_stops_nothing_else(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("with a secret in it")

    monkeypatch.setattr(caretaker, "seal_hour", fails)
    monkeypatch.setattr(caretaker.upkeep, "sweep", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    monkeypatch.setattr(caretaker, "pack", lambda *_, **__: (_ for _ in ()).throw(ArchiveError("not today")))
    shelf.put(whole(HOUR + 3 * DAY - 3600))
    made = Caretaker(Duties(shelf.folder, keep_days=1), clock=Clock(HOUR + 3 * DAY))
    for _ in range(3):
        made.round()
    told = [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]
    assert sorted(told) == [
        "the archive's upkeep (seal) stumbled: ZeroDivisionError",
        "the archive's upkeep (tidy) failed: No space left on device",
    ]
    assert len(segments(shelf.folder)) == 2, "pruned all the same"


def test_little_room_is_an_alarm_in_the_log(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    free = 100 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    made = Caretaker(Duties(shelf.folder, min_free=256 << 20), clock=Clock(HOUR + 2 * 3600 + 60))
    made.round()
    made.round()
    (told,) = [it for it in caplog.records if "recording pauses" in it.getMessage()]
    assert told.levelno == logging.ERROR
    assert "100 MiB free, less than min_free = 256MiB" in told.getMessage()


def test_an_unbounded_archive_on_a_filling_disk_is_warned_of(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pace = sum(it.bytes for it in retention.hours(shelf.folder)) * 8  # a day's, from three hours
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=pace * 5))
    clock = Clock(HOUR + 3 * 3600)
    made = Caretaker(Duties(shelf.folder, seal=False), clock=clock)
    made.round()
    made.round()
    (told,) = [it.getMessage() for it in caplog.records if "the disk is full in" in it.getMessage()]
    assert "in 5 days; set keep_days or keep_bytes" in told
    caplog.clear()
    Caretaker(Duties(shelf.folder, seal=False, keep_bytes=pace), clock=clock).round()
    assert "the disk is full in" not in caplog.text


def test_a_stop_ends_a_round_between_two_steps(shelf: Shelf) -> None:
    answers = iter([False, False, False, True])
    Caretaker(Duties(shelf.folder), clock=Clock(HOUR + DAY), stopping=lambda: next(answers, True)).round()
    assert sealed_hours(shelf.folder) == ["2026-11-19T10"]


def test_a_folder_that_is_gone_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    look_after(tmp_path / "nowhere", HOUR)
    assert not caplog.records
    assert not (tmp_path / "nowhere").exists()


def test_two_that_remove_take_turns(shelf: Shelf) -> None:
    code = "import sys, pathlib; from archive.keeping.clerk import alone\nwith alone(pathlib.Path(sys.argv[1])): print(flush=True); input()"
    command = [sys.executable, "-c", code, str(shelf.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=clean_environment()) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"\n"
        entered = threading.Event()

        def wait() -> None:
            with alone(shelf.folder):
                entered.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.2)
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert entered.wait(20)
        thread.join()


# The process, as `verbatim serve` runs it.


def test_serve_runs_a_caretaker_that_goes_with_it(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "archive")
    shelf.open()
    shelf.put([whole(HOUR + 1), whole(HOUR + 3601)])
    make_key(tmp_path / "key")
    settings = ["--archive", shelf.folder, "--seal-key", tmp_path / "key", "--port", "0", "--no-viewer"]
    with running(tmp_path, "serve", *settings) as gateway:
        gateway.find(r"gateway +(http\S+)")
        wait_for(lambda: len(sealed_hours(shelf.folder)) == 2, lambda: gateway.stderr)
        wait_for(lambda: "sealed 2026-11-19T10: 2 records" in gateway.stderr)
        (pid,) = children(gateway.process.pid, "gateway.caretaker")
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: children(gateway.process.pid, "gateway.caretaker") not in ([], [pid]), lambda: gateway.stderr)
        assert gateway.end() == 0
    assert "started again" in gateway.stderr


def test_a_caretaker_does_not_outlive_a_killed_gateway(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", "0", "--no-viewer") as gateway:
        gateway.find(r"gateway +(http\S+)")
        wait_for(lambda: len(children(gateway.process.pid, "gateway.caretaker")) == 1)
        (pid,) = children(gateway.process.pid, "gateway.caretaker")
        gateway.end(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_recording_there_is_no_caretaker(tmp_path: Path) -> None:
    with running(tmp_path, "serve", "--port", "0", "--no-viewer", "--no-record") as gateway:
        gateway.find(r"gateway +(http\S+)")
        assert children(gateway.process.pid, "gateway.caretaker") == []


def test_a_key_that_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    done = verbatim(tmp_path, "serve", "--port", "0", "--no-viewer", "--seal-key", "nowhere.key")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("there is no key file nowhere.key; make one with `verbatim keygen`, or leave out seal_key")
    assert list(tmp_path.iterdir()) == []
