"""The bench of the search works: hardly any traffic, no judgement of speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_the_search_bench_measures_both_kinds_of_traffic() -> None:
    command = [sys.executable, str(HERE / "search.py"), "--megabytes", "1", "--rounds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "agents:" in done.stdout
    assert "unique:" in done.stdout
    assert "words of a day that is over" in done.stdout
    assert "a word nobody says" in done.stdout
