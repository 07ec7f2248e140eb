"""A child that dies comes back, and leaves with us. Real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.supervisor import Supervisor, python_command


def wait_for(what: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def keep() -> Iterator[Callable[..., Supervisor]]:
    kept: list[Supervisor] = []

    def start(code: str, **options: object) -> Supervisor:
        supervisor = Supervisor("child", [sys.executable, "-c", code], first_pause=0.01, **options)  # type: ignore[arg-type]
        kept.append(supervisor)
        supervisor.start()
        return supervisor

    yield start
    for supervisor in kept:
        supervisor.stop()


def test_a_child_that_dies_is_started_again(keep: Callable[..., Supervisor]) -> None:
    supervisor = keep("import time; time.sleep(600)")
    first = supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: supervisor.pid not in (None, first))
    assert supervisor.restarts == 1


def test_a_child_that_cannot_run_is_tried_ever_more_slowly(tmp_path: Path) -> None:
    supervisor = Supervisor("child", [str(tmp_path / "missing")], first_pause=0.01)
    supervisor.start()
    wait_for(lambda: supervisor.restarts >= 3)
    assert supervisor.pid is None
    supervisor.stop()
    tries = supervisor.restarts
    assert tries < 50  # twice as long each time: 0.01, 0.02, 0.04 ...


def test_stopping_ends_the_child(keep: Callable[..., Supervisor]) -> None:
    supervisor = keep("import time; time.sleep(600)")
    pid = supervisor.pid
    assert pid is not None
    supervisor.stop()
    assert not alive(pid)
    assert supervisor.pid is None
    assert supervisor.restarts == 0
    supervisor.stop()


def test_a_child_that_ignores_sigterm_is_killed(keep: Callable[..., Supervisor], tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    supervisor = keep(
        f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, 'w').close(); time.sleep(600)"
    )
    wait_for(ready.exists)
    pid = supervisor.pid
    assert pid is not None
    supervisor.stop(timeout=0.1)
    assert not alive(pid)


def test_the_child_gets_environment_and_descriptors_but_not_our_terminal(keep: Callable[..., Supervisor], tmp_path: Path) -> None:
    said = tmp_path / "said"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = (
            "import os, socket, time\n"
            f"port = socket.socket(fileno={listener.fileno()}).getsockname()[1]\n"
            f"text = f\"{{port}} {{os.environ['TOLD']}} {{os.getsid(0) == os.getpid()}}\"\n"
            f"open({str(said)!r} + '.new', 'w').write(text)\n"
            f"os.rename({str(said)!r} + '.new', {str(said)!r})\n"
            "time.sleep(600)"
        )
        keep(code, environment={"TOLD": "secret"}, descriptors=[listener.fileno()])
        wait_for(said.exists)
        assert said.read_text() == f"{listener.getsockname()[1]} secret True"


def test_our_modules_are_run_whatever_the_working_folder_holds(tmp_path: Path) -> None:
    for name in ("dashboard", "archive", "gateway"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    command = python_command("dashboard.server", "--help")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "archive" in done.stdout
