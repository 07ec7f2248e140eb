"""Real processes for tests: the gateway itself as a child, its configuration, its archive. One door to all of the tests' equipment.

`rawsockets` holds scripted upstreams, raw clients and the tap, `readback` reads heads, bodies and archives; both are offered here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rawsockets import Connection, Crossing, RawUpstream, Tap, connect, raw_request, wait_for, wait_for_sync
from readback import Archived, Message, archive_lines, archive_records

__all__ = [
    "Archived",
    "Connection",
    "Crossing",
    "Gateway",
    "Message",
    "RawUpstream",
    "Started",
    "Tap",
    "archive_lines",
    "archive_records",
    "connect",
    "free_port",
    "gateway",
    "raw_request",
    "wait_for",
    "wait_for_sync",
]

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """A port that was free a moment ago on 127.0.0.1. For processes that cannot be handed a socket; the caller retries if it was taken."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """A child process with its output in a file, ended by us and no one else."""

    def __init__(self, command: list[str], *, log: Path, cwd: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=cwd, env=dict(env)
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """All it wrote so far to standard output and error."""
        return self.log.read_text(errors="replace")

    async def stop(self, how: int = signal.SIGTERM) -> int:
        """Send the signal `how`, wait for the end, return the exit code. A process that does not end is killed and the test fails."""
        if self.running:
            self.process.send_signal(how)
        try:
            await wait_for(lambda: not self.running, deadline=40.0)
        finally:
            self.kill()
        return int(self.process.returncode)

    def kill(self) -> None:
        """End it now, if it has not ended."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Gateway:
    """A running gateway: where it listens, where it writes, and its process."""

    port: int
    archive: Path
    process: Started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def output(self) -> str:
        return self.process.output()

    async def health(self) -> dict[str, Any]:
        """What its health page tells."""
        answer = await raw_request(self.port, b"GET /_verbatim/health HTTP/1.1\r\nHost: a\r\n\r\n")
        return dict(json.loads(answer.partition(b"\r\n\r\n")[2]))

    async def idle(self) -> bool:
        """Whether no exchange is under way."""
        return bool((await self.health())["exchanges"]["active"] == 0)

    async def archived(self, condition: Callable[[list[Archived]], bool]) -> list[Archived]:
        """Wait until what is on disk satisfies `condition` and return it."""
        found: list[Archived] = []

        def look() -> bool:
            nonlocal found
            with contextlib.suppress(EOFError):  # a member that is being written just now
                found = archive_lines(self.archive)
            return condition(found)

        await wait_for(look)
        return found


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    routes: Mapping[str, str | Mapping[str, Any]],
    *,
    default_route: str | None = None,
    checked: bool = True,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """The real gateway as a process of its own, configured by a `verbatim.toml` in `folder`; the archive is `folder / "archive"`.

    `routes` maps a name to an upstream URL or to the keys of its table. `settings` are further top-level keys. The viewer is off.
    On leaving it gets SIGTERM; with `checked` it must then exit 0 and must have written no traceback.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  a test's loop may wait for a folder
    archive = folder / "archive"
    values = {"host": "127.0.0.1", "viewer": False, "archive": str(archive), "default_route": default_route, **settings}
    process, port = await _serve(folder, values, routes)
    try:
        yield Gateway(port, archive, process)
    except BaseException as error:
        await process.stop()
        error.add_note(f"the gateway wrote:\n{process.output()[-4000:]}")
        raise
    code = await process.stop()
    if checked:
        assert code == 0, f"exit code {code}\n{process.output()}"
        assert "Traceback" not in process.output(), process.output()


async def _serve(folder: Path, values: Mapping[str, Any], routes: Mapping[str, str | Mapping[str, Any]]) -> tuple[Started, int]:
    # Only what the gateway needs: a stray VERBATIM_* or proxy variable of whoever runs the tests must not change what they test.
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    env = {key: os.environ[key] for key in kept if key in os.environ} | {"PYTHONPATH": str(ROOT)}
    for attempt in range(5):
        port = free_port()
        (folder / "verbatim.toml").write_text(_toml({**values, "port": port}, routes))
        command = [sys.executable, "-P", "-W", "error", "-m", "gateway.cli", "serve"]
        process = Started(command, log=folder / f"gateway{attempt}.log", cwd=folder, env=env)
        try:
            scheme = "https" if values.get("tls_cert") else "http"
            await wait_for(lambda process=process, url=f"{scheme}://127.0.0.1:{port}": not process.running or _healthy(url))
        except BaseException:
            process.kill()
            raise
        if process.running:
            return process, port
        if "in use" not in process.output():  # someone else took the port between our look and the gateway's bind
            break
    raise AssertionError(f"the gateway did not start, exit code {process.process.returncode}:\n{process.output()}")


async def _healthy(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0, verify=not url.startswith("https:")) as client:
            return (await client.get(f"{url}/_verbatim/health")).status_code == 200
    except httpx.TransportError:
        return False


def _toml(values: Mapping[str, Any], routes: Mapping[str, str | Mapping[str, Any]]) -> str:
    def line(key: str, value: Any) -> str:
        text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int | float) else f'"{value}"'
        return f"{key} = {text}"

    lines = [line(key, value) for key, value in values.items() if value is not None]
    for name, route in routes.items():
        table = {"upstream": route} if isinstance(route, str) else route
        lines += ["", f"[routes.{name}]", *(line(key, value) for key, value in table.items())]
    return "\n".join(lines) + "\n"
