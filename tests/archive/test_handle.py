"""Opening a segment: what is refused, and what a handle says of a plain one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archive.errors import BadName, NotFound
from archive.handle import open_segment


def test_a_segment_is_a_regular_file_of_its_strict_name(tmp_path: Path) -> None:
    (tmp_path / "2026-11-19T10.jsonl.gz").write_bytes(b"x")
    with open_segment(tmp_path, "2026-11-19T10.jsonl.gz") as handle:
        assert (handle.name, handle.end()) == ("2026-11-19T10.jsonl.gz", 1)
    (tmp_path / "2026-11-19T11.jsonl.gz").symlink_to("2026-11-19T10.jsonl.gz")
    os.mkfifo(tmp_path / "2026-11-19T12.jsonl.gz")
    (tmp_path / "2026-11-19T13.jsonl.gz").mkdir()
    for hour in (11, 12, 13, 14):
        with pytest.raises(NotFound):
            open_segment(tmp_path, f"2026-11-19T{hour}.jsonl.gz")
    for name in (
        "",
        ".",
        "../x",
        "/etc/passwd",
        "2026-11-19T10.jsonl.gz/../x",
        "2026-11-19T10.jsonl.gz\n",
        "2026-11-19T10.jsonl.gz\0",
        "*",
    ):
        with pytest.raises(BadName):
            open_segment(tmp_path, name)
