"""A third party's mock of the model providers, `@copilotkit/aimock`, as a child process. Needs Node and `npm ci --prefix tests/js`.

Its quirks, met here: it splits an emoji into two lone surrogates across stream events, knows Gemini only under v1beta, ends a tool
call of Gemini's with a finish reason that Google does not have, and calls the request id X-Request-Id whoever it plays. None of them
is ours to mend: a relay passes them on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from rig import Started, wait_for_sync

TESTS = Path(__file__).resolve().parent
PROGRAM = TESTS / "js" / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
FIXTURES = TESTS / "journeys" / "aimock.json"


def missing() -> str:
    """Why the mock cannot run here; empty when it can."""
    if not shutil.which("node"):
        return "Node is not installed"
    return "" if PROGRAM.exists() else "aimock is not installed: npm ci --prefix tests/js"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[int]:
    """The mock on a port of its own choice, for as long as the block lasts; gives the port."""
    node = shutil.which("node") or "node"
    command = [node, str(PROGRAM), "--port", "0", "--fixtures", str(FIXTURES), "--log-level", "info"]
    process = Started(command, log=folder / "aimock.log", cwd=folder, env={"PATH": os.environ["PATH"], "HOME": str(folder)})
    try:
        listening = wait_for_sync(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", process.output()) or not process.running)
        assert isinstance(listening, re.Match), process.output()
        yield int(listening[1])
    finally:
        process.kill()
