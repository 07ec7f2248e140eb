"""What only a process of its own can show: signals, and how much memory it takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from pathlib import Path

import pytest
from rawsockets import Connection, connect, wait_for
from relayrig import OK, Origin, RawUpstream, final
from rig import Gateway, gateway

GET = b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"x" * (256 << 10)
MORE = 20 << 20


def resident(running: Gateway) -> int:
    """The most memory the gateway's process has held, in bytes, since `forget`."""
    text = Path(f"/proc/{running.process.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def forget(running: Gateway) -> int:
    """Start measuring anew; what it holds now."""
    Path(f"/proc/{running.process.process.pid}/clear_refs").write_text("5")
    return resident(running)


def held(running: Gateway) -> tuple[int, int]:
    """Descriptors and kibibytes of memory that the gateway's process holds now."""
    folder = Path(f"/proc/{running.process.process.pid}")
    return len(os.listdir(folder / "fd")), int((folder / "status").read_text().split("VmRSS:")[1].split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("record", [False, True])
async def test_a_large_answer_to_a_client_that_reads_nothing_takes_no_memory(tmp_path: Path, record: bool) -> None:
    """Acceptance D47."""
    size = 400 << 20

    async def flood(connection: Connection, request) -> None:
        if request.target == b"/":
            await connection.send(OK)
            return
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(PIECE)):
            await connection.send(PIECE)

    async with (
        Origin(flood) as origin,
        gateway(tmp_path, {"up": origin.url}, record=record, part_bytes="256KiB", max_body="1MiB") as running,
    ):
        client = await connect(running.port)
        await client.send(GET)
        assert (await final(client)).status == 200
        before = forget(running)
        client.pause()
        await client.send(GET.replace(b"/up/", b"/up/flood"))
        await wait_for(lambda: len(origin.requests) == 2)
        busy = origin.connections[-1]
        await _stalls(busy)
        assert busy.transport.get_write_buffer_size() > 0  # the upstream is held back
        assert resident(running) - before < MORE
        await client.reset()
        await wait_for(lambda: busy.lost or busy.eof)
        assert resident(running) - before < MORE


@pytest.mark.slow
@pytest.mark.parametrize("record", [False, True])
async def test_a_large_upload_to_a_slow_upstream_takes_no_memory(tmp_path: Path, record: bool) -> None:
    """Acceptance D48."""
    size = 300 << 20
    go = asyncio.Event()

    async def slow(connection: Connection, request=None) -> None:
        await connection.read_head()
        await connection.send(OK)
        await connection.read_head()
        connection.pause()
        await go.wait()
        while connection.arrived < size:
            connection.resume()
            await asyncio.sleep(0.001)
            connection.pause()
            connection.forget()
        await connection.send(OK)
        connection.resume()
        await connection.wait_ended()

    origin = RawUpstream(slow)
    accept = origin._accept
    origin._accept = lambda: _forgetful(accept())
    async with origin:
        bounds = {"part_bytes": "256KiB", "max_body": "1MiB", "queue_bytes": "8MiB"}
        async with gateway(tmp_path, {"up": origin.url}, record=record, **bounds) as running:
            client = await connect(running.port)
            await client.send(GET)
            assert (await final(client)).status == 200
            before = forget(running)
            await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)

            async def upload() -> None:
                for _ in range(size // len(PIECE)):
                    await client.send(PIECE)

            task = asyncio.create_task(upload())
            await _stalls(client)
            assert not task.done()
            assert resident(running) - before < MORE
            go.set()
            await task
            assert (await final(client)).status == 200
            assert resident(running) - before < MORE
            await client.close()


def _forgetful(connection: Connection) -> Connection:
    """A connection that counts what arrives after `forget` instead of keeping it."""
    connection.arrived = 0

    def drop() -> None:
        connection.arrived += len(connection.received)
        connection.received.clear()
        connection.arrivals.clear()
        connection.position = 0

    connection.forget = drop
    return connection


async def _stalls(connection: Connection) -> None:
    """Wait until what `connection` wants to send is stuck."""
    last, still = -1, 0
    while still < 20:
        size = connection.transport.get_write_buffer_size()
        still = still + 1 if size == last and size else 0
        last = size
        await asyncio.sleep(0.02)


async def test_at_sigterm_streams_come_to_their_end_and_newcomers_are_refused(tmp_path: Path) -> None:
    """Acceptance D54."""
    go = asyncio.Event()

    async def stream(connection: Connection, _) -> None:
        await connection.send(CHUNKED + b"5\r\nfirst\r\n")
        await go.wait()
        await connection.send(b"4\r\nlast\r\n0\r\n\r\n")

    async with Origin(stream) as origin, gateway(tmp_path, {"up": origin.url}, grace=20) as running:
        idle, client = await connect(running.port), await connect(running.port)
        await client.send(GET)
        await client.read_until(b"first\r\n")
        running.process.process.send_signal(signal.SIGTERM)
        await idle.wait_ended()  # an idle connection is closed at once
        await idle.close()
        await wait_for(lambda: _refused(running.port))
        go.set()
        assert (await client.read_to_end()).endswith(b"4\r\nlast\r\n0\r\n\r\n")
        await client.close()
        await wait_for(lambda: not running.process.running)
        (kept,) = await running.archived(bool)
        assert kept.end is not None
        assert kept.end["reason"] == "complete"
        assert kept.body("response") == b"firstlast"


async def test_an_answer_that_begins_during_the_drain_ends_its_connection(tmp_path: Path) -> None:
    """Acceptance 54: who keeps a connection is told to come back on another one."""
    go = asyncio.Event()

    async def late(connection: Connection, _) -> None:
        await go.wait()
        await connection.send(OK)

    async with Origin(late) as origin, gateway(tmp_path, {"up": origin.url}, grace=20) as running:
        client = await connect(running.port)
        await client.send(GET + GET)  # the second one is not begun any more
        await wait_for(lambda: origin.requests)
        running.process.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: _refused(running.port))
        go.set()
        message = await final(client)
        assert message.body == b"ok"
        assert [value.lower() for value in message.values(b"connection")] == [b"close"]
        assert await client.read_to_end() == b""
        await client.close()
        await wait_for(lambda: not running.process.running)
    assert len(origin.requests) == 1


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("signals", [1, 2])
async def test_what_outlives_the_grace_is_cut_and_recorded_so(tmp_path: Path, signals: int) -> None:
    async def endless(connection: Connection, request) -> None:
        if request.target == b"/silent":
            await connection.wait_ended()
            return
        await connection.send(CHUNKED + b"5\r\nfirst\r\n")
        await connection.wait_ended()

    grace = 1 if signals == 1 else 30
    async with Origin(endless) as origin, gateway(tmp_path, {"up": origin.url}, grace=grace) as running:
        client, waiting = await connect(running.port), await connect(running.port)
        await client.send(GET)
        await client.read_until(b"first\r\n")
        await waiting.send(GET.replace(b"/up/", b"/up/silent"))
        await wait_for(lambda: len(origin.requests) == 2)
        running.process.process.send_signal(signal.SIGTERM)
        await wait_for(lambda: _refused(running.port))
        if signals == 2:
            running.process.process.send_signal(signal.SIGTERM)
        assert (await client.read_to_end(deadline=10)) == b""
        message = await final(waiting)
        assert message.status == 503
        assert message.values(b"x-verbatim-error") == [b"shutting_down"]
        await client.close()
        await waiting.close()
        await wait_for(lambda: not running.process.running)
        kept = await running.archived(lambda found: len(found) == 2)
        assert [one.end["reason"] for one in kept if one.end] == ["shutdown", "shutdown"]


async def test_a_thousand_aborts_leave_nothing_behind_and_later_requests_pair_up(tmp_path: Path) -> None:
    """Acceptance D57 and D51: descriptors, tasks and connections as before, memory within 5 %; then each gets its own answer."""
    chance = random.Random(5157)

    async def answer(connection: Connection, request) -> None:
        nonce = request.values(b"x-nonce")[0]
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.02)
        await connection.send(CHUNKED + b"%x\r\n%b\r\n" % (len(nonce), nonce))
        if chance.random() < 0.5:
            await asyncio.sleep(chance.random() * 0.02)
        await connection.send(b"0\r\n\r\n")

    def request(nonce: bytes) -> bytes:
        return b"POST /up/ HTTP/1.1\r\nHost: a\r\nX-Nonce: %b\r\nContent-Length: 4\r\n\r\nbody" % nonce

    async def abort(number: int) -> None:
        client = await connect(running.port)
        raw = request(b"abort-%d" % number)
        with contextlib.suppress(ConnectionError, TimeoutError):
            await client.send(raw[: chance.randrange(len(raw)) if chance.random() < 0.3 else len(raw)])
            async with asyncio.timeout(chance.random() * 0.03):
                await client.wait_ended()
        await (client.close() if chance.random() < 0.5 else client.reset())

    async def aborts(count: int) -> None:
        for start in range(0, count, 50):
            await asyncio.gather(*(abort(number) for number in range(start, start + 50)))

    async def pairs(worker: int) -> None:
        client = await connect(running.port)
        for number in range(20):
            nonce = b"pair-%d-%d" % (worker, number)
            await client.send(request(nonce))
            assert (await final(client)).body == nonce
        await client.close()

    async def at_rest() -> tuple[int, int, int]:
        """Descriptors, tasks and memory when nothing is under way."""

        async def quiet() -> bool:
            health = await running.health()
            return bool(health["exchanges"]["active"] == 0 and health["connections"] == 0)

        await wait_for(quiet)
        await wait_for(lambda: all(one.lost or one.eof for one in origin.connections))  # the pool's idle ones have gone
        descriptors, memory = held(running)
        return descriptors, (await running.health())["tasks"], memory

    async with Origin(answer) as origin, gateway(tmp_path, {"up": origin.url}, idle_timeout=0.5) as running:
        await aborts(500)  # what it needs when it is busy
        descriptors, tasks, memory = await at_rest()
        await aborts(1000)
        after = await at_rest()
        assert after[0] <= max(descriptors * 1.05, descriptors + 1)  # of so few, 5 % are less than one
        assert after[1] <= tasks
        assert after[2] <= memory * 1.05
        await asyncio.gather(*(pairs(worker) for worker in range(50)))
        assert b"abort-" not in b"".join(request.values(b"x-nonce")[0] for request in origin.requests[-1000:])
