"""Memory: no process of ours leaves a core dump, which would hold every key that passed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 0])
def test_a_process_that_crashes_leaves_no_core_dump(tmp_path: Path, hard: int) -> None:
    script = f"""
import os, resource
from gateway import memory
resource.setrlimit(resource.RLIMIT_CORE, ({hard}, {hard}))
if {hard}:
    assert resource.getrlimit(resource.RLIMIT_CORE)[0]
elif os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)  # root may raise a hard limit
memory.forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), flush=True)
os.abort()
"""
    if hard and resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY and os.geteuid() != 0:
        pytest.skip("the hard limit is set already")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status = os.waitpid(process.pid, 0)
        process.returncode = -os.WTERMSIG(status)
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)
    assert said.strip() == ("(1, 1)" if hard else "(0, 0)")
    assert list(tmp_path.iterdir()) == []
