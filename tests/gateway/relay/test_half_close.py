"""A client that finishes sending: some wait for their answer, most have left."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time

import pytest
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, final, rig

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells whose socket it is")

ASK = b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SDK = b"POST /up/ HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi"


def slowly(go: asyncio.Event, *pieces: bytes):
    """An origin's script: the first piece at once, the next when `go` is set."""

    async def answer(connection: Connection, _) -> None:
        for piece in pieces[:-1]:
            await connection.send(piece)
        await go.wait()
        await connection.send(pieces[-1])

    return answer


async def noticed(origin: Origin, since: float) -> float:
    """Seconds until the upstream's connection had ended."""
    await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)
    return time.monotonic() - since


@pytest.mark.parametrize(
    "ask",
    [
        ASK,
        b"GET /up/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /up/ HTTP/1.0\r\n\r\n",
        b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
    ids=["kept", "close", "1.0", "chunked"],
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_client_that_half_closes_gets_its_answer(ask: bytes, together: bool) -> None:
    """Acceptance D56."""
    go = asyncio.Event()
    async with Origin(slowly(go, CHUNKED + b"5\r\nfirst\r\n", b"4\r\nlast\r\n0\r\n\r\n")) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ask)
        if not together:
            await client.read_until(b"first")
        client.send_eof()
        await wait_for(lambda: any(connection._finished for connection in gateway.relay.connections))
        await asyncio.sleep(0.3)  # it is looked at again, more than once
        go.set()
        received = await client.read_to_end()
        assert client.error is None
        assert b"first" in bytes(client.received)
        assert b"last" in received
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "complete"
    assert kept.response_body == b"firstlast"
    assert kept.complete[1]


async def test_all_that_was_sent_before_a_half_close_is_answered() -> None:
    """Acceptance D56: pipelined."""

    async def echo(connection: Connection, request) -> None:
        await asyncio.sleep(0.01)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target), request.target))

    async with Origin(echo) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"".join(b"GET /up/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(10)))
        client.send_eof()
        assert [(await final(client)).body for _ in range(10)] == [b"/%d" % number for number in range(10)]
        await client.wait_ended()  # and then the gateway ends it
        await client.close()


async def test_a_half_closed_upload_to_a_slow_upstream_is_not_cut() -> None:
    """Acceptance D56: the end comes while the client is not read."""
    body = b"x" * (8 << 20)

    async def deaf(connection: Connection) -> None:
        connection.pause()
        await go.wait()
        connection.resume()
        request = await connection.read_message()
        assert request.body == body
        await connection.send(OK)

    go = asyncio.Event()
    origin = Origin()
    origin.handler = deaf
    async with origin, rig(origin) as gateway:
        client = await gateway.client()
        client.transport.write(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        client.send_eof()
        (connection,) = await wait_for(lambda: list(gateway.relay.connections))
        await wait_for(lambda: connection._holds)
        await asyncio.sleep(1.2)  # a look at those that are not read
        go.set()
        assert (await final(client)).body == b"ok"
        await client.close()


@pytest.mark.parametrize("when", ["before the first byte", "mid-stream"])
async def test_a_half_closed_client_that_leaves_then_cancels_the_upstream(when: str) -> None:
    """Acceptance D44."""

    async def think(connection: Connection, _) -> None:
        if when == "mid-stream":
            await connection.send(CHUNKED + b"5\r\nfirst\r\n")
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await (client.read_until(b"first") if when == "mid-stream" else wait_for(lambda: origin.requests))
        client.send_eof()
        await wait_for(lambda: any(connection._finished for connection in gateway.relay.connections))
        await asyncio.sleep(0.1)
        left = time.monotonic()
        await client.close()  # no packet tells of it
        assert await noticed(origin, left) < 0.5
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"


@pytest.mark.parametrize("how", [socket.SHUT_RDWR, None], ids=["shutdown both", "shutdown and close"])
async def test_a_client_that_shuts_down_and_is_gone_has_left(how: int | None) -> None:
    """Acceptance D44: many libraries close in two steps."""

    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(ASK)
        await wait_for(lambda: origin.requests)
        left = time.monotonic()
        client.shutdown(socket.SHUT_WR if how is None else how)
        if how is None:
            client.close()
        assert await noticed(origin, left) < 0.5
        client.close()


async def test_a_client_that_asked_for_keep_alive_and_finishes_has_left() -> None:
    """Acceptance D44: through a forwarder the end of an SDK's connection looks like a half-close."""

    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(SDK)
        await wait_for(lambda: origin.requests)
        left = time.monotonic()
        client.send_eof()
        assert await noticed(origin, left) < 0.5
        await client.close()


@pytest.mark.parametrize(("rule", "answered"), [("wait", True), ("leave", False)])
async def test_the_setting_half_close_says_what_an_end_means(rule: str, answered: bool) -> None:
    go = asyncio.Event()
    async with Origin(slowly(go, OK)) as origin, rig(origin, half_close=rule) as gateway:
        client = await gateway.client()
        await client.send(SDK)
        await wait_for(lambda: origin.requests)
        client.send_eof()
        if answered:
            await wait_for(lambda: any(connection._finished for connection in gateway.relay.connections))
            go.set()
            assert (await final(client)).body == b"ok"
        else:
            await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)
            go.set()
        await client.close()


async def test_a_half_closed_client_that_resets_is_noticed_though_its_kernel_is_not_asked() -> None:
    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin, half_close="wait") as gateway:
        client = socket.create_connection(("127.0.0.1", gateway.port))
        client.sendall(ASK)
        await wait_for(lambda: origin.requests)
        client.shutdown(socket.SHUT_WR)
        await wait_for(lambda: any(connection._finished for connection in gateway.relay.connections))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        left = time.monotonic()
        client.close()
        assert await noticed(origin, left) < 1.0


async def test_the_gateway_s_own_pages_answer_a_half_closed_client() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        client.transport.write(b"GET /_verbatim/health HTTP/1.0\r\n\r\n")
        client.send_eof()
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200")
        await client.close()


async def test_a_request_from_a_shell_s_pipe_is_answered() -> None:
    """Acceptance D56: another process, which half-closes and then reads to the end, as `printf ... | nc -N` does."""
    script = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        " s.sendall(sys.stdin.buffer.read()); s.shutdown(socket.SHUT_WR);"
        " [sys.stdout.buffer.write(b) for b in iter(lambda: s.recv(4096), b'')]"
    )
    go = asyncio.Event()
    async with Origin(slowly(go, OK)) as origin, rig(origin) as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(gateway.port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        process.stdin.close()
        await wait_for(lambda: any(connection._finished for connection in gateway.relay.connections))
        go.set()
        out, _ = await asyncio.wait_for(process.communicate(), 20)
        assert out.endswith(b"\r\n\r\nok")


async def test_many_that_leave_at_once_are_all_noticed() -> None:
    """Acceptance D44: the kernel is asked for each."""

    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        clients = [await gateway.client() for _ in range(100)]
        for client in clients:
            await client.send(ASK)
        await wait_for(lambda: len(origin.requests) == 100)
        for client in clients:
            client.transport.close()
        await wait_for(lambda: not gateway.relay.exchanges, deadline=2.0)
