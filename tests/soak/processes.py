"""The processes of a soak or an overload: the scripted upstream, the clients, the gateway itself; started, asked how they are, ended."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rig import free_port
from soak.script import Plan

__all__ = ["PATIENCE", "Gateway", "environment", "gateway", "health", "traffic", "until", "upstream", "verbatim"]

TESTS: Final = Path(__file__).resolve().parents[1]
PATIENCE: Final = 60.0
"""Seconds for what takes one on a machine that is not busy."""


@dataclass(slots=True)
class Gateway:
    """A gateway under test: its process, its port, where it keeps what."""

    process: subprocess.Popen[bytes]
    port: int
    archive: Path
    log: Path
    env: dict[str, str]

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def environment(**more: str) -> dict[str, str]:
    """Only what our processes need: no settings, no proxies and no coverage of whoever runs this."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", **more}


@contextmanager
def upstream(ledger: Path, *arguments: str) -> Iterator[int]:
    """The scripted origin; gives its port."""
    command = [sys.executable, "-m", "soak.origin", str(ledger), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), cwd=TESTS) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


@contextmanager
def gateway(
    folder: Path, origin: int, archive: Path, *, env: dict[str, str] | None = None, nofile: int = 0, **settings: Any
) -> Iterator[Gateway]:
    """`verbatim serve` with the route "up" to the origin; on leaving it has been stopped. `nofile` bounds its open files."""
    values = {"host": "127.0.0.1", "port": 0, "viewer": False, "archive": str(archive), **settings}
    env = env or environment()
    log = folder / "gateway.log"
    for _ in range(5):
        values["port"] = port = free_port()
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        (folder / "verbatim.toml").write_text("\n".join([*lines, "[routes.up]", f'upstream = "http://127.0.0.1:{origin}"', ""]))
        bounded = ["prlimit", f"--nofile={nofile}:{nofile}"] if nofile else []
        command = [*bounded, sys.executable, "-P", "-W", "error", "-m", "gateway.cli", "serve"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder, env=env)
        running = Gateway(process, port, archive, log, env)
        until(lambda: process.poll() is not None or _answers(port), "the gateway answers")  # noqa: B023 - called at once
        if process.poll() is None:
            break
        if "in use" not in running.output():
            raise RuntimeError(f"the gateway did not start\n{running.output()}")
    try:
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def health(port: int) -> dict[str, Any]:
    """What the gateway says of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/_verbatim/health")
        return dict(json.loads(connection.getresponse().read()))
    finally:
        connection.close()


def _answers(port: int) -> bool:
    try:
        return bool(health(port))
    except (OSError, http.client.HTTPException):
        return False


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait for it; a deadline far beyond what a busy machine needs."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain until {what}")
        time.sleep(0.02)


@contextmanager
def traffic(plan: Plan, port: int, prefix: str, ledger: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The clients' process; it ends by itself, and with the block."""
    command = [sys.executable, "-m", "soak.traffic", plan.text(), str(port), prefix, str(ledger)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=TESTS) as process:
        try:
            yield process
        finally:
            process.kill()


def verbatim(running: Gateway, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of ours, with the run's clock."""
    command = [sys.executable, "-P", "-W", "error", "-m", "gateway.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=running.env, capture_output=True, text=True, timeout=300, check=False)
