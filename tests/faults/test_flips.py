"""One byte of a segment that is not what it was: all other records are there, its place is told, and the file is left as it is."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
from faults.account import LONG, account
from rig_archive import packed, record

from archive.errors import DamagedMember
from archive.folder import hour_of, segments
from archive.handle import open_file
from archive.member import Found
from archive.proof.verify import verify
from archive.segment import Appender
from archive.writer import Writer


def readable(path: Path) -> list[bytes]:
    """Every line that can be read, damage left out."""
    lines = []
    with open_file(path) as handle:
        for each in handle.scan():
            if isinstance(each, Found):
                with suppress(DamagedMember):
                    lines.append(handle.line(each.offset, limit=1 << 20))
    return lines


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """What a writer made of three records."""
    writer = Writer(tmp_path / "archive", version="1", min_free=0)
    writer.start()
    for _ in range(3):
        writer.put(record(200))
    assert writer.close(20)
    (path,) = segments(tmp_path / "archive")
    return path


@pytest.mark.campaign
@pytest.mark.parametrize("mask", [0x01, 0x40, 0xFF] if LONG else [0x10])
def test_a_byte_changed_anywhere_in_a_record_hides_only_that_record(segment: Path, mask: int) -> None:
    began = time.monotonic()
    data, lines = segment.read_bytes(), readable(segment)
    with open_file(segment) as handle:
        victim = [each for each in handle.scan() if isinstance(each, Found)][2]
    others = [line for number, line in enumerate(lines) if number != 2]
    hour = datetime.strptime(hour_of(segment.name) + "+0000", "%Y-%m-%dT%H%z").timestamp()
    harmless = 0
    places = range(victim.offset, victim.offset + victim.tag.length, 1 if LONG else 5)
    for at in places:
        damaged = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
        segment.write_bytes(damaged)
        report = verify([segment])
        if report.damages == 0:
            harmless += 1  # the spare bits of deflate's last byte
            assert readable(segment) == lines
        else:
            (place,) = report.damaged
            assert (place.offset, place.length) == (victim.offset, victim.tag.length), at
            assert readable(segment) == others
        appender = Appender(segment.parent)
        assert appender.append([packed(9)], hour).error is None
        appender.close()
        assert segment.read_bytes().startswith(damaged)
        assert len(segment.read_bytes()) > len(damaged)
    assert harmless <= 1
    trials = victim.tag.length
    account(
        "a byte changed anywhere in a record", {"trials": trials, "acknowledged": 4 * trials, "injected": trials}, time.monotonic() - began
    )
