"""Which names in a folder are an archive's, and which form of an hour counts."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from archive.errors import Unwritable
from archive.folder import (
    INDEX,
    QUARANTINE,
    SEGMENT_NAME,
    hour_after,
    hour_of,
    inner_folder,
    is_hour,
    is_sealed,
    make_folder,
    newest_sealed,
    seal_path,
    segments,
    strangers,
    sync_folder,
)


def test_only_names_of_the_strict_pattern_are_segments(tmp_path: Path) -> None:
    good = ["2025-12-31T23.jsonl.gz", "2026-11-20T00.jsonl.gz", "2026-11-20T01.jsonl.zst"]
    bad = [
        "2026-13-01T00.jsonl.gz",
        "2026-01-01T24.jsonl.gz",
        "2026-01-01T00.jsonl.gz\n",
        "x2026-01-01T00.jsonl.gz",
        "2026-01-01T00.jsonl.zst.gz",
        "٢٠٢٦-01-01T00.jsonl.gz",
    ]
    for name in reversed(good + bad):
        (tmp_path / name).touch()
    (tmp_path / "2026-01-02T00.jsonl.gz").symlink_to(tmp_path / good[0])
    (tmp_path / "2026-01-03T00.jsonl.gz").mkdir()
    assert [path.name for path in segments(tmp_path)] == good
    assert segments(tmp_path / "nowhere") == []
    assert not any(SEGMENT_NAME.fullmatch(name) for name in bad)


def test_an_hour_that_never_was_is_a_stranger(tmp_path: Path) -> None:
    months = [f"{month:02}-{day:02}" for month in range(14) for day in range(33)]
    for year in ("0000", "0001", "0004", "0100", "0400", "1900", "2000", "2023", "2024", "9999"):
        for day in months:
            try:
                datetime.strptime(f"{year}-{day}", "%Y-%m-%d").replace(tzinfo=UTC)
                real = True
            except ValueError:
                real = False
            assert is_hour(f"{year}-{day}T10") is real, (year, day)
    for name in ("2026-02-31T10.jsonl.gz", "2026-02-29T10.jsonl.zst", "2027-02-31T10.seal.json", "2028-02-29T10.jsonl.gz"):
        (tmp_path / name).touch()
    assert strangers(tmp_path) == ["2026-02-29T10.jsonl.zst", "2026-02-31T10.jsonl.gz", "2027-02-31T10.seal.json"]
    assert [path.name for path in segments(tmp_path)] == ["2028-02-29T10.jsonl.gz"]
    assert newest_sealed(tmp_path) == ""


def test_a_folder_within_the_archive_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "file").touch()
    with inner_folder(tmp_path / "real") as fd:
        os.close(os.open("made", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    assert (tmp_path / "real" / "made").exists()
    for name, sentence in (("link", "link is a symbolic link: refused; move it away"), ("file", "file is no folder: refused")):
        with pytest.raises(Unwritable, match=sentence), inner_folder(tmp_path / name):
            pass
    with pytest.raises(FileNotFoundError), inner_folder(tmp_path / "nowhere"):
        pass


def test_the_plain_form_counts_where_both_are_there(tmp_path: Path) -> None:
    for name in ("2026-11-20T00.jsonl.zst", "2026-11-20T00.jsonl.gz", "2026-11-20T01.jsonl.zst"):
        (tmp_path / name).touch()
    assert [path.name for path in segments(tmp_path)] == ["2026-11-20T00.jsonl.gz", "2026-11-20T01.jsonl.zst"]


def test_strangers_are_what_no_writer_of_ours_makes(tmp_path: Path) -> None:
    for name in ("2026-11-20T00.jsonl.gz", "2026-11-20T00.seal.json", ".2026-11-20T00.jsonl.zst.new", "notes.txt", "2026-11-20T00.gz"):
        (tmp_path / name).touch()
    (tmp_path / QUARANTINE).mkdir()
    (tmp_path / INDEX).symlink_to(tmp_path / QUARANTINE)
    (tmp_path / "2026-11-20T02.jsonl.gz").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "2026-11-20T03.jsonl.gz").mkdir()
    assert strangers(tmp_path) == ["2026-11-20T00.gz", "2026-11-20T02.jsonl.gz", "2026-11-20T03.jsonl.gz", INDEX, "notes.txt"]
    assert strangers(tmp_path / "nowhere") == []


def test_an_hour_is_the_beginning_of_its_names(tmp_path: Path) -> None:
    assert hour_of("2026-11-20T10.jsonl.zst") == "2026-11-20T10"
    assert hour_of(seal_path(tmp_path, "2026-11-20T10").name) == "2026-11-20T10"
    assert [hour_after(hour) for hour in ("2026-02-28T23", "2026-03-29T01")] == ["2026-03-01T00", "2026-03-29T02"]


def test_an_hour_is_sealed_when_its_seal_is_a_file(tmp_path: Path) -> None:
    assert (newest_sealed(tmp_path), newest_sealed(tmp_path / "nowhere")) == ("", "")
    for name in ("2026-11-20T01.seal.json", "2026-11-20T00.jsonl.zst", "2026-11-20T05.jsonl.gz", "x.seal.json"):
        (tmp_path / name).touch()
    seal_path(tmp_path, "2026-11-20T07").symlink_to(tmp_path / "x.seal.json")
    assert newest_sealed(tmp_path) == "2026-11-20T01"
    assert [is_sealed(tmp_path, f"2026-11-20T0{number}") for number in range(9)] == [False, True, *[False] * 7]


@pytest.mark.parametrize(("error", "matters"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_names_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, matters: bool
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", fsync)
    if not matters:
        make_folder(tmp_path / "a" / "b")
        sync_folder(tmp_path / "a")
    else:
        with pytest.raises(OSError, match="Input/output"):
            make_folder(tmp_path / "a" / "b")
