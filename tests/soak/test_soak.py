"""A minute of the soak in every test run; `make soak` is ten. What a run proves is the judge's business, which has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.disk import why_not
from soak.report import words
from soak.run import SHORT, soak

PASSED = 1 / 3
"""Of the bytes that pass in a minute, so much may memory grow by in a minute's second half. Allocators still fill their pools then, by
2 to 4 MB in runs without a fault; whoever keeps what passes grows by all of it, 30 MB. `make soak`, which has the time, allows 1 MB."""


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "a disk that fails can be mounted")
def test_under_load_and_faults_every_exchange_is_archived_once_or_counted_as_lost(tmp_path: Path) -> None:
    """Acceptance J121 and J122."""
    report = soak(SHORT, tmp_path)
    print(words(report))
    assert not report.wrong
    counts = report.verdict.counts
    # All that was to happen has: else it proves nothing.
    assert counts["bytes equal: complete"] > 500
    assert counts["bytes equal: websockets"] > 20
    assert min(counts["judged: client_closed"], counts["judged: upstream_closed"]) > 20
    assert counts["records lost, as gaps tell"] > 50
    assert counts["read by our reader"] > 500
    assert len(report.verdict.hours) == 2
    assert report.health["exchanges"]["active"] == 0
    assert report.growth("relay", "keeper") < report.passed / 1e6 * PASSED
