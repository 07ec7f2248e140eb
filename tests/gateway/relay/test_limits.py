"""How much and how slowly a client may send: endless heads, dripping heads, bodies beyond the bound. It costs the others nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rawsockets import Connection, RawUpstream, wait_for
from relayrig import OK, Origin, final, rig

from gateway import relay as relay_module

POST = b"POST /up/ HTTP/1.1\r\nHost: a\r\n"
MB = 1 << 20


def resident() -> int:
    """Bytes of memory this process holds just now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("piece", [b"v" * 1024, b"X: y\r\n" * 200, b"GET /" + b"v" * 1000], ids=["value", "lines", "target"])
async def test_a_head_without_end_takes_no_memory(piece: bytes) -> None:
    """Acceptance C39: 200 MB of it."""
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n" if not piece.startswith(b"GET") else b"")
        block = piece * (64 * 1024 // len(piece))
        gc.collect()
        before = resident()
        highest, sent = before, 0
        try:
            while sent < 200 * MB and not client.lost:
                await client.send(block)
                sent += len(block)
                highest = max(highest, resident())
        except ConnectionError:
            pass
        assert highest - before < 10 * MB
        assert client.received.startswith(b"HTTP/1.1 431 ")
        await client.close()
        assert origin.connections == []


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Room for a thousand connections with both their ends in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this machine allows too few file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("begun", [b"GET /up/ HTTP/1.1\r\nHost: a\r\n", POST + b"Content-Length: 1000\r\n\r\nx"], ids=["heads", "bodies"])
async def test_a_thousand_slow_clients_hold_nobody_up(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    """Acceptance C40: slow heads are closed in their time, slow bodies may take theirs; a request beside them takes what it takes."""
    monkeypatch.setattr(relay_module, "TICK", 0.1)
    async with Origin() as origin, rig(origin, header_timeout=2.0) as gateway:
        slow = [await gateway.client() for _ in range(1000)]
        for client in slow:
            client.transport.write(begun)
        good, times = await gateway.client(), []
        for turn in range(100):
            for client in slow[turn::100]:
                if not (client.lost or client.eof):
                    client.transport.write(b"x")
            began = time.monotonic()
            await good.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await final(good)).status == 200
            times.append(time.monotonic() - began)
        assert sorted(times)[98] < 1.0
        if begun.startswith(b"GET"):
            await wait_for(lambda: all(client.eof or client.lost for client in slow))
            assert not any(client.received for client in slow)
            assert sum(b"xx" in connection.received for connection in origin.connections) == 0
        for client in [*slow, good]:
            client.transport.abort()
        await asyncio.gather(*(client._gone() for client in [*slow, good]))


async def test_a_connection_that_sends_only_empty_lines_is_closed() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(9):
            await client.send(b"\r\n")
        assert (await final(client)).status == 400
        await client.close()
        assert origin.connections == []


async def test_a_body_beyond_the_bound_is_refused_unread() -> None:
    """Acceptance C41."""
    async with Origin() as origin, rig(origin, max_request_bytes=1000) as gateway:
        message, client = await gateway.ask(POST + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
        assert message.status == 413
        assert json.loads(message.body)["error"]["message"] == "Verbatim: the body is longer than 1000 bytes"
        assert message.values(b"connection") == [b"close"]
        await client.close()
        assert origin.connections == []
        message, client = await gateway.ask(POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000)
        assert message.status == 200
        await client.close()


async def test_a_chunked_body_is_broken_off_where_it_passes_the_bound() -> None:
    """Acceptance C41."""
    async with Origin() as origin, rig(origin, max_request_bytes=1000) as gateway:
        client = await gateway.client()
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n")
        await wait_for(lambda: origin.connections and origin.connections[0].received.endswith(b"x\r\n"))
        await client.send(b"1\r\ny\r\n0\r\n\r\n")
        assert (await final(client)).status == 413
        await client.close()
        await wait_for(lambda: origin.connections[0].eof or origin.connections[0].lost)
        assert b"y" not in origin.connections[0].received
        assert origin.requests == []
    kept = await gateway.only()
    assert kept.complete[0] is False


async def test_fifty_megabytes_pass_by_default() -> None:
    """Acceptance C41."""

    async def count(connection: Connection) -> None:
        await connection.read_head()
        await connection.read_exactly(50 * MB)
        await connection.send(OK)

    async with RawUpstream(count) as origin, rig(origin, record=False) as gateway:
        client = await gateway.client()
        await client.send(POST + b"Content-Length: %d\r\n\r\n" % (50 * MB))
        for _ in range(50):
            await client.send(b"x" * MB)
        assert (await final(client)).status == 200
        await client.close()


@pytest.mark.skipif(not os.environ.get("VERBATIM_SLOWHTTPTEST"), reason="`make slow` runs it; 30 seconds each")
@pytest.mark.parametrize("mode", ["-H", "-B"])
async def test_slowhttptest_finds_the_gateway_at_work(mode: str, tmp_path: Path) -> None:
    """Acceptance C40, with the tool itself."""
    tool = shutil.which("slowhttptest")
    assert tool, "apt install slowhttptest"

    async def patient(connection: Connection) -> None:
        while True:
            await connection.read_message(deadline=120.0)
            await connection.send(OK)

    async with RawUpstream(patient) as origin, rig(origin, header_timeout=10.0) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/up/"
        command = [
            tool,
            mode,
            "-c",
            "1000",
            "-r",
            "200",
            "-i",
            "2",
            "-l",
            "20",
            "-p",
            "1",
            "-u",
            url,
            "-t",
            "POST" if mode == "-B" else "GET",
        ]
        child = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
        said, _ = await child.communicate()
        text = said.decode(errors="replace")
        print(text[-1500:])
        assert child.returncode == 0
        available = [line for line in text.splitlines() if "service available" in line]
        assert available
        assert all("YES" in line for line in available[1:])
