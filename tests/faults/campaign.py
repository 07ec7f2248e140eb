"""Runs a rig as a program of its own, since rigs fork and must hold no threads, and keeps the accounts it gives."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.account import account

__all__ = ["SEED", "campaign"]

SEED = int(os.environ.get("VERBATIM_CRASH_SEED", str(random.randrange(1 << 30))))
"""For whatever is chosen at random."""


def campaign(rig: str, folder: Path, *arguments: int | str) -> list[dict[str, Any]]:
    """The accounts; fails, with what the rig wrote, when it did or anything went wrong."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(Path(__file__).with_name(rig)), str(folder), *map(str, arguments)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-4000:]
    for row in rows:
        try:
            account(row["campaign"], row["counts"], row["seconds"], row.get("note", ""))
        except AssertionError as error:
            error.add_note(f"seed {SEED}\n{done.stderr[-4000:]}")
            raise
    return rows
