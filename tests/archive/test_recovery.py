"""Recovery: sectors that a power loss left unwritten between whole members are set aside, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib
from pathlib import Path

import pytest
from rig_archive import HOUR, line, members, packed, zcat

from archive import member, recovery
from archive.folder import QUARANTINE, segment_name, strangers
from archive.member import HEADER_LENGTH, TRAILER_LENGTH, unpack
from archive.record import new_id
from archive.segment import Appender

NAME = segment_name(HOUR)
PAGE = 4096


def numbers(path: Path) -> list[int]:
    """The numbers of the lines in a segment, by plain zcat."""
    return [json.loads(line)["n"] for line in zcat(path).splitlines()]


def quarantined(folder: Path) -> list[Path]:
    return sorted((folder / QUARANTINE).iterdir()) if (folder / QUARANTINE).exists() else []


def ends(each: list[bytes]) -> list[int]:
    """Where each member ends."""
    return [sum(map(len, each[: count + 1])) for count in range(len(each))]


def untouched(each: list[bytes], data: bytes) -> list[int]:
    """The numbers of the members whose bytes are in `data` what they were. (A few zeros at a member's end may be lost and yet be there.)"""
    return [number for number, end in enumerate(ends(each)) if data[end - len(each[number]) : end] == each[number]]


def recovered(folder: Path, data: bytes) -> Path:
    """A segment of `data`, after somebody appended to it."""
    folder.mkdir()
    (folder / NAME).write_bytes(data)
    appender = Appender(folder)
    appended = appender.append([packed(999)], HOUR)
    assert appended.error is None
    assert appender.append([packed(1000)], HOUR).count == 1
    appender.close()
    assert ([appended.set_aside] if appended.set_aside else []) == quarantined(folder)
    return folder / NAME


@pytest.mark.parametrize("size", [100, 1000, 9000])
def test_pages_that_were_never_written_are_set_aside_and_the_rest_is_kept(tmp_path: Path, size: int) -> None:
    each = members(60_000 // size, size)
    data = b"".join(each)
    for page in range(1, len(data) // PAGE):
        start, end = page * PAGE, (page + 1) * PAGE
        damaged = data[:start] + bytes(PAGE) + data[end:]
        path = recovered(tmp_path / str(page), damaged)
        kept = untouched(each, damaged)
        assert numbers(path) == [*kept, 999, 1000]
        (aside,) = quarantined(path.parent)
        first = [0, *ends(each)][next(number for number in range(len(each)) if number not in kept)]
        assert aside.name.startswith(f"{NAME}.{first}.")
        assert path.read_bytes().startswith(b"".join(each[number] for number in kept))
        assert strangers(path.parent) == []


def test_a_page_of_which_only_the_beginning_was_written_before_is_set_aside_too(tmp_path: Path) -> None:
    each = members(40, 600)
    data = b"".join(each)
    for synced in ends(each)[1:-10]:  # what was synced ends within a page, whose rest was never written
        end = -(-synced // PAGE) * PAGE
        damaged = data[:synced] + bytes(end - synced) + data[end:]
        path = recovered(tmp_path / str(synced), damaged)
        assert numbers(path) == [*untouched(each, damaged), 999, 1000]


def test_many_pages_lost_here_and_there_are_set_aside_in_one_file(tmp_path: Path) -> None:
    each = members(400, 500)
    data = bytearray(b"".join(each))
    lost = range(PAGE, len(data) - PAGE, 3 * PAGE)
    for start in lost:
        data[start : start + PAGE] = bytes(PAGE)
    kept = untouched(each, bytes(data))
    data += bytes(10_000)
    path = recovered(tmp_path / "archive", bytes(data))
    assert numbers(path) == [*kept, 999, 1000]
    (aside,) = quarantined(path.parent)
    bytes_aside = aside.read_bytes()
    first = int(aside.name.removeprefix(NAME).split(".")[1])
    at = 0
    for number, one in enumerate(each):
        if at >= first:  # what was kept is not there a second time: it could not be forgotten
            assert bytes_aside[at - first : at - first + len(one)] == (bytes(len(one)) if number in kept else data[at : at + len(one)])
        at += len(one)


def test_damage_that_is_no_page_of_zeros_is_left_as_it_is(tmp_path: Path) -> None:
    # Their ids are random, as a writer's are: `members` have fifteen zeros in theirs.
    data = b"".join(member.pack(line(number, 500), id=new_id(number), part=0, seq=number) for number in range(60))
    for number, at in enumerate((700, 2 * PAGE - 1, 3 * PAGE, 5 * PAGE - 20)):
        damaged = data[:at] + bytes(byte ^ 0x55 for byte in data[at : at + 20]) + data[at + 20 :]
        path = recovered(tmp_path / str(number), damaged)
        assert path.read_bytes()[: len(data)] == damaged
        assert quarantined(path.parent) == []


def stored(number: int) -> bytes:
    """A member whose data was stored, as deflate does with what does not compress; pages of zeros between noise."""
    text = os.urandom(5000) + bytes(3 * PAGE) + os.urandom(5000)
    body = b"\x01" + struct.pack("<HH", len(text), len(text) ^ 0xFFFF) + text
    plain = packed(number)
    head = bytearray(plain[: HEADER_LENGTH - 4])
    at = head.index(struct.pack("<Q", len(plain)))
    head[at : at + 8] = struct.pack("<Q", HEADER_LENGTH + len(body) + TRAILER_LENGTH)
    return bytes(head) + struct.pack("<I", zlib.crc32(head)) + body + struct.pack("<II", zlib.crc32(text), len(text))


def test_records_that_hold_zeros_are_no_damage(tmp_path: Path) -> None:
    data = b"".join(stored(number) for number in range(5))
    assert len(unpack(stored(1), limit=1 << 20)) > 3 * PAGE
    path = recovered(tmp_path / "archive", data)
    assert path.read_bytes()[: len(data)] == data
    assert quarantined(path.parent) == []


def test_a_last_record_whose_line_is_huge_is_sound_all_the_same(tmp_path: Path) -> None:
    huge = member.pack(b'{"n":1,"x":"' + b"a" * (65 << 20) + b'"}\n', id=new_id(1), part=0, seq=1)
    path = recovered(tmp_path / "archive", packed(0) + huge)
    assert quarantined(path.parent) == []
    assert numbers(path) == [0, 1, 999, 1000]
    path = recovered(tmp_path / "torn", packed(0) + huge[:5000] + b"\xff" * 9 + huge[5009:])
    assert numbers(path) == [0, 999, 1000]


def test_a_rewriting_that_fails_leaves_the_segment_and_is_done_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    each = members(60, 500)
    data = b"".join(each)
    data = data[:PAGE] + bytes(PAGE) + data[2 * PAGE :]
    (tmp_path / NAME).write_bytes(data)
    (tmp_path / f".{NAME}.new").write_bytes(b"left by a crash")
    appender = Appender(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(recovery.os, "fsync", full)
        assert appender.append([packed(999)], HOUR).error is not None
        assert (tmp_path / NAME).read_bytes() == data
        assert quarantined(tmp_path) == []
    assert appender.append([packed(999)], HOUR).set_aside is not None
    appender.close()
    assert numbers(tmp_path / NAME) == [*untouched(each, data), 999]
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, QUARANTINE]


def test_another_writer_notices_that_a_segment_was_rewritten(tmp_path: Path) -> None:
    each = members(60, 500)
    one, two = Appender(tmp_path), Appender(tmp_path)
    assert one.append(each, HOUR).count == 60
    data = (tmp_path / NAME).read_bytes()
    damaged = data[:PAGE] + bytes(PAGE) + data[2 * PAGE :]
    (tmp_path / NAME).write_bytes(damaged)  # the same file
    assert two.append([packed(100)], HOUR).set_aside is not None
    assert one.append([packed(101)], HOUR).count == 1
    assert numbers(tmp_path / NAME) == [*untouched(each, damaged), 100, 101]
    one.close()
    two.close()


def test_both_hours_of_a_power_loss_at_the_turn_of_the_hour_are_recovered(tmp_path: Path) -> None:
    names = [segment_name(HOUR + 3600 * number) for number in range(3)]
    for name in names:
        (tmp_path / name).write_bytes(packed(1) + packed(2)[:-9])
    aside = Appender(tmp_path).recover()
    assert [path.name[:22] for path in aside] == names[1:]
    assert numbers(tmp_path / names[1]) == numbers(tmp_path / names[2]) == [1]


def test_nothing_is_set_aside_through_a_symbolic_link(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "archive", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    data = packed(0) + packed(1)[:-9]
    (folder / NAME).write_bytes(data)
    (folder / QUARANTINE).symlink_to(elsewhere)
    appender = Appender(folder)
    for _ in range(2):
        appended = appender.append([packed(999)], HOUR)
        assert appended.count == 0
        assert appended.error is not None
        assert appended.error.strerror == "quarantine is a symbolic link: refused; move it away"
        assert (folder / NAME).read_bytes() == data
    assert list(elsewhere.iterdir()) == []
    (folder / QUARANTINE).unlink()
    assert appender.append([packed(999)], HOUR).count == 1
    appender.close()
    assert numbers(folder / NAME) == [0, 999]
