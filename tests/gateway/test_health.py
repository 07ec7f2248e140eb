"""The figures of several processes as those of one gateway."""

from __future__ import annotations

import re

from gateway import health


def one(pid: int, **more: object) -> health.Report:
    """A worker's report, with what the process above adds."""
    return {
        "verbatim": "1.2.3", "recording": True, "exchanges": {"total": 10, "active": 2, "failed": 1}, "connections": 3,
        "archive": {"written": 5, "paused": False, "last_error": None, "segment": "a"}, "pid": pid, "read": 100.0, "reloads": 1, **more,
    }  # fmt: skip


def test_figures_are_added_and_each_worker_has_a_line() -> None:
    other = one(8, restarts=2, answers=False, reloads=3, read=160.0)
    other["archive"] = {"written": 1, "paused": True, "last_error": "No space left on device", "segment": "b"}
    found = health.total([one(7), other])
    assert found == {
        "verbatim": "1.2.3",
        "recording": True,
        "exchanges": {"total": 20, "active": 4, "failed": 2},
        "connections": 6,
        "archive": {"written": 6, "paused": True, "last_error": "No space left on device", "segment": "b"},
        "settings": {"read": "1970-01-01T00:02:40Z", "reloads": 1},
        "workers": [
            {"pid": 7, "connections": 3, "exchanges": 2, "restarts": 0, "answers": True},
            {"pid": 8, "connections": 3, "exchanges": 2, "restarts": 2, "answers": False},
        ],
    }


def test_one_worker_that_does_not_record_shows() -> None:
    found = health.total([one(7), one(8, recording=False, archive=None)])
    assert found["recording"] is False
    assert found["archive"]["written"] == 5
    assert health.total([one(7, archive=None)])["archive"] is None


def test_a_stamp_is_rfc_3339() -> None:
    assert re.fullmatch(r"2026-11-21T\d\d:\d\d:\d\dZ", health.stamp(1_795_250_000))
