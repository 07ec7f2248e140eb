"""Sealed and packed hours for tests: agents' traffic, a few MB of it, or lines made to measure."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import traffic

import archive.packing
from archive.folder import plain_name
from archive.handle import open_segment
from archive.member import Found, Tag
from archive.pack import Repacked, pack
from archive.seal import seal_hour

HOUR = "2026-11-19T10"
PLAIN = plain_name(HOUR)
PACKED = f"{HOUR}.jsonl.zst"


def sealed(folder: Path, megabytes: float = 1.0) -> Path:
    """A folder with one sealed hour of agents' traffic; the path of its plain segment."""
    made = traffic.segments_of(folder, traffic.upto(traffic.agents(), megabytes))
    assert [path.name for path in made.paths] == [PLAIN]
    seal_hour(folder, HOUR, now=time.time(), version="test")
    return folder / PLAIN


def packed(folder: Path, megabytes: float = 1.0) -> Path:
    """The same, packed; in chunks of 200 KB where `small_frames` is in force."""
    sealed(folder, megabytes)
    assert isinstance(pack(folder, HOUR), Repacked)
    return folder / PACKED


def small_frames(monkeypatch: pytest.MonkeyPatch, size: int = 200_000) -> None:
    """Several chunks out of little traffic. Readers know no such limit."""
    monkeypatch.setattr(archive.packing, "FRAME", size)


def records(folder: Path, name: str) -> list[tuple[Tag, bytes]]:
    """Every record of a segment that has no damage: its tag, without the length, and its line."""
    with open_segment(folder, name) as handle:
        found = list(handle.scan())
        assert all(isinstance(each, Found) for each in found)
        return [(each.tag._replace(length=0), handle.line(each.offset, limit=1 << 30)) for each in found if isinstance(each, Found)]
