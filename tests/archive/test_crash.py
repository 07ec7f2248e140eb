"""kill -9 at random moments: what was acknowledged is in the archive, once, and plain gzip reads all of it.

VERBATIM_CRASH_TRIALS sets how often (10 by default, half with one process on the folder, half with four), VERBATIM_CRASH_SEED which
random choices.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.account import account

TRIALS = int(os.environ.get("VERBATIM_CRASH_TRIALS", "10"))
SEED = int(os.environ.get("VERBATIM_CRASH_SEED", str(random.randrange(1 << 30))))


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * TRIALS)
@pytest.mark.parametrize("processes", [1, 4])
def test_killed_at_any_moment_every_acknowledged_record_is_readable_once(tmp_path: Path, processes: int) -> None:
    rig = Path(__file__).with_name("rig_crash.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [str(tmp_path), str(max(1, TRIALS // 2)), str(processes), str(SEED)]
    began = time.monotonic()
    done = subprocess.run([sys.executable, str(rig), *arguments], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["acknowledged"] > counts["trials"], counts
    print(f"seed {SEED}")
    account(f"kill -9, {processes} writer{'s' * (processes > 1)}, records up to 8 MB", counts, time.monotonic() - began)
