"""What waits costs little; `python -m soak.idle` measures the full numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak.idle import measure


@pytest.mark.parametrize("kind", ["kept", "silent"])
def test_an_idle_connection_holds_a_few_kilobytes(tmp_path: Path, kind: str) -> None:
    found = measure(kind, 1500, tmp_path, record=kind == "kept")
    print(found)
    assert found["fds"] > 1500  # they were all there
    assert found["before_mb"] + 10_000 * found["each_kb"] / 1e3 < 200


def test_a_quiet_stream_holds_less_than_twenty_kilobytes(tmp_path: Path) -> None:
    found = measure("quiet", 500, tmp_path, record=True)
    print(found)
    assert found["fds"] > 1000
    assert found["each_kb"] + found["keeper_each_kb"] <= 20
