"""The viewer's own process: how it starts, what it prints, and that it ends without a word."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from rig import ROOT, Started, free_port, wait_for

from dashboard.server import TOKEN_VARIABLE, address, make_token

TOKEN = "a-token-of-the-tests-0123456789"


def start(folder: Path, *arguments: str, log: Path, token: str | None = TOKEN, **options) -> Started:
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ} | {"PYTHONPATH": str(ROOT)}
    if token:
        environment[TOKEN_VARIABLE] = token
    return Started(
        [sys.executable, "-P", "-W", "error", "-m", "dashboard.server", str(folder), *arguments],
        log=log,
        cwd=log.parent,
        env=environment,
        **options,
    )


async def printed(viewer: Started) -> str:
    """The address it prints."""
    found = await wait_for(lambda: re.search(r"Verbatim viewer: (\S+)\n", viewer.output()) or not viewer.running)
    assert isinstance(found, re.Match), viewer.output()
    return found[1]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_the_viewer_ends_quietly_when_told_to(how: int, tmp_path: Path) -> None:
    viewer = start(tmp_path / "archive", "--port", "0", log=tmp_path / "log")
    way_in = await printed(viewer)
    async with httpx.AsyncClient(follow_redirects=True) as client:
        assert (await client.get(way_in)).status_code == 200
        assert await viewer.stop(how) == 0
    assert viewer.output() == f"Verbatim viewer: {way_in}\n"


async def test_the_viewer_takes_a_socket_that_is_already_bound(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        viewer = await asyncio.create_subprocess_exec(
            *[sys.executable, "-P", "-m", "dashboard.server", str(tmp_path), "--fd", str(listener.fileno()), "--quiet", "--with-parent"],
            pass_fds=[listener.fileno()],
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], TOKEN_VARIABLE: TOKEN},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        port = listener.getsockname()[1]
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/api/exchanges", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)
        assert answer.json() == {"exchanges": [], "next": None}
        viewer.send_signal(signal.SIGTERM)
        output, _ = await viewer.communicate()
    assert (viewer.returncode, output) == (0, b"")


async def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        viewer = start(tmp_path, "--port", str(taken.getsockname()[1]), log=tmp_path / "log")
        await wait_for(lambda: not viewer.running)
    assert viewer.process.returncode == 2
    assert re.fullmatch(r"The viewer cannot start on 127\.0\.0\.1 port \d+: .*[Aa]ddress already in use.*\n", viewer.output())


async def test_a_token_that_is_too_short_is_one_sentence(tmp_path: Path) -> None:
    viewer = start(tmp_path, "--port", "0", log=tmp_path / "log", token="short")
    await wait_for(lambda: not viewer.running)
    assert viewer.process.returncode == 2
    assert "at least 16 characters" in viewer.output()
    assert viewer.output().count("\n") == 1


async def test_the_token_is_on_no_page_in_no_log_and_in_no_command_line(tmp_path: Path) -> None:
    port = free_port()
    viewer = start(tmp_path / "archive", "--port", str(port), "--quiet", log=tmp_path / "log")
    origin = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=origin, follow_redirects=False) as client:
        await wait_for(lambda: answers(client))
        seen = []
        for path in (
            f"/?token={TOKEN}",
            f"/nowhere?token={TOKEN}",
            f"/?token={TOKEN}x",
            f"/api/exchanges?token={TOKEN}",
            "/",
            "/events",
            "/nowhere",
        ):
            answer = await client.get(path)
            seen.append(answer.text + str(answer.headers))
    command = Path(f"/proc/{viewer.process.pid}/cmdline").read_text()  # noqa: ASYNC240  a test's loop may wait for a file
    assert await viewer.stop() == 0
    assert TOKEN not in "".join(seen)
    assert TOKEN not in command
    assert viewer.output() == ""


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def test_without_a_token_a_new_one_is_made(tmp_path: Path) -> None:
    ways_in = []
    for number in range(2):
        viewer = start(tmp_path / "archive", "--port", "0", log=tmp_path / f"log{number}", token=None)
        ways_in.append(await printed(viewer))
        assert await viewer.stop() == 0
    tokens = [way_in.partition("?token=")[2] for way_in in ways_in]
    assert tokens[0] != tokens[1]
    assert all(len(token) >= 43 for token in tokens)


async def test_the_viewer_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-P", "-m", "dashboard.server", {str(tmp_path)!r}, "--port", "0", "--with-parent"])
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = Started([sys.executable, "-c", code], log=tmp_path / "log", cwd=tmp_path, env={"PYTHONPATH": str(ROOT), TOKEN_VARIABLE: TOKEN})
    await printed(parent)
    child = int(parent.output().split()[0])
    parent.process.kill()
    parent.process.wait()
    await wait_for(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_address_can_be_opened_from_this_machine() -> None:
    assert address("127.0.0.1", 80, "a b") == "http://127.0.0.1:80/?token=a%20b"
    assert address("0.0.0.0", 80, "x") == "http://127.0.0.1:80/?token=x"
    assert address("::", 80, "x") == "http://[::1]:80/?token=x"
    assert address("::1", 80, "x") == "http://[::1]:80/?token=x"
    assert len({make_token() for _ in range(10)}) == 10
