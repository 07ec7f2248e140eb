"""Writers on a disk that fails, and on one whose power fails: what was acknowledged is there, once, and plain gzip reads all of it.

VERBATIM_CRASH_SEED sets which random choices.
"""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from faults.account import LONG
from faults.campaign import SEED, campaign
from faults.disk import faulty_disk, why_not
from faults.fusedisk import Change
from faults.powerloss import Remains

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "a faulty disk can be mounted")


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.timeout(1800 if LONG else 120)
def test_whichever_call_fails_what_was_acknowledged_is_readable_and_recording_goes_on(tmp_path: Path) -> None:
    rows = campaign("rig_calls.py", tmp_path, "long" if LONG else "short")
    assert len(rows) == 4


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.timeout(1800 if LONG else 120)
def test_a_power_loss_takes_only_what_was_not_synced_and_leaves_clean_files(tmp_path: Path) -> None:
    rows = campaign("rig_powerloss.py", tmp_path, 1500 if LONG else 12, SEED)
    assert len(rows) == 8
    # How late a sync may be on a busy machine is not for a test to say; that there is one every second shows all the same.
    assert all(float(str(row["oldest"])) < 10 for row in rows)


# The equipment: a disk that never fails would hold every promise.


def test_the_disk_fails_as_told(tmp_path: Path) -> None:
    with faulty_disk(tmp_path / "disk") as disk:
        path = disk.path / "x.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        disk.fail("write", at=2, error=errno.ENOSPC, short=True)
        assert os.write(fd, b"a" * 90) == 90
        assert os.write(fd, b"b" * 90) == 60
        with pytest.raises(OSError, match="No space left"):
            os.write(fd, b"c")
        assert os.write(fd, b"d") == 1
        disk.fail("fsync", error=errno.EIO, lasting=True)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                os.fdatasync(fd)
        assert disk.seen() == (2, 2)
        disk.heal()
        os.fdatasync(fd)
        os.close(fd)
        assert path.read_bytes() == b"a" * 90 + b"b" * 60 + b"d"
        changes, paths = disk.changes(tmp_path / "log")
        assert [(change.what, paths[change.node], len(change.data)) for change in changes if change.what == "write"] == [
            ("write", "/x.jsonl", 90),
            ("write", "/x.jsonl", 60),
            ("write", "/x.jsonl", 0),
            ("write", "/x.jsonl", 1),
        ]
        assert [change.error for change in changes if change.what == "fsync"] == [errno.EIO, errno.EIO, 0]
    assert not os.path.ismount(tmp_path / "disk")


def remains(*changes: Change) -> Remains:
    left = Remains()
    left.change(Change(0.0, "make", 1, name="x", child=2))
    left.change(Change(0.0, "fsyncdir", 1))
    for change in changes:
        left.change(change)
    return left


def left(of: Remains, into: Path, manner: str) -> set[bytes]:
    """What may be in the file: a hundred draws."""
    found = set()
    for seed in range(100):
        of.after_power_loss(into / f"{manner}{seed}", manner, random.Random(seed))
        found.add((into / f"{manner}{seed}" / "x").read_bytes())
    return found


def test_a_power_loss_leaves_what_was_synced_and_any_pages_of_the_rest(tmp_path: Path) -> None:
    one, two = b"1" * 4096, b"2" * 4096
    disk = remains(Change(0.0, "write", 2, data=one), Change(0.0, "fsync", 2), Change(0.0, "write", 2, offset=4096, data=two + b"3"))
    nothing = bytes(4096)
    assert left(disk, tmp_path, "dropped") == {one}
    assert left(disk, tmp_path, "zeros") == {one + nothing + b"\0"}
    assert left(disk, tmp_path, "pages") == {one + page + end for page in (two, nothing) for end in (b"3", b"\0")}
    assert left(disk, tmp_path, "short") == {one} | {one + page + end for page in (two, nothing) for end in (b"3", b"\0")}
    (tmp_path / "again").mkdir()
    disk.change(Change(0.0, "fsync", 2, error=errno.EIO))
    disk.change(Change(0.0, "fsync", 2))  # too late
    assert left(disk, tmp_path / "again", "zeros") == {one + nothing + b"\0"}
    disk.change(Change(0.0, "write", 2, offset=4096, data=two))
    disk.change(Change(0.0, "fsync", 2))
    assert {each[4096:8192] for each in left(disk, tmp_path / "again", "dropped")} == {two}


def test_a_power_loss_may_take_names_that_were_not_synced(tmp_path: Path) -> None:
    disk = Remains()
    disk.change(Change(0.0, "make", 1, name="x", child=2))
    disk.change(Change(0.0, "write", 2, data=b"1"))
    disk.change(Change(0.0, "fsync", 2))
    there = set()
    for seed in range(20):
        disk.after_power_loss(tmp_path / str(seed), "pages", random.Random(seed))
        there.add((tmp_path / str(seed) / "x").exists())
    assert there == {True, False}
    assert not disk.is_named(["x"])
    disk.change(Change(0.0, "fsyncdir", 1))
    disk.change(Change(0.0, "rename", 1, name="x", data=b"y", child=2, offset=1))
    assert disk.is_named(["x"])
    for seed in range(20):
        disk.after_power_loss(tmp_path / f"r{seed}", "pages", random.Random(seed))
        assert len(list((tmp_path / f"r{seed}").iterdir())) == 1
