"""Places that refuse for a while: the writer waits for them, counts what it could not hold, and goes on by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from faults.account import LONG
from faults.campaign import campaign


@pytest.mark.campaign
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting, and giving privileges up, needs root")
def test_a_place_that_cannot_be_written_to_is_waited_for(tmp_path: Path) -> None:
    assert len(campaign("rig_places.py", tmp_path, 20 if LONG else 1)) == 6
