"""Connections to upstreams are used again when that is safe, and only then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, final, rig

from gateway.client import ClientConnection

GET = b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"


async def test_a_connection_is_used_again_for_the_next_client() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        for _ in range(3):
            message, client = await gateway.ask(POST)
            assert message.status == 200
            await client.close()
        assert len(origin.connections) == 1
        assert len(origin.requests) == 3


async def test_connections_of_one_route_are_not_another_s() -> None:
    async with Origin() as origin, rig({"up": origin.url, "other": origin.url}) as gateway:
        for line in (GET, GET.replace(b"/up/", b"/other/")):
            _, client = await gateway.ask(line)
            await client.close()
        assert len(origin.connections) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_get_on_a_connection_that_had_died_is_sent_once_more(how: str) -> None:
    async def die(connection: Connection, _) -> None:
        await (connection.close() if how == "close" else connection.reset())

    async with Origin(OK, die, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(GET)
            assert (await final(client)).body == b"ok"
        await client.close()
        assert len(origin.requests) == 3
        assert len(origin.connections) == 2
    assert len(await gateway.ended(2)) == 2


async def test_a_get_is_not_sent_a_third_time() -> None:
    async def die(connection: Connection, _) -> None:
        await connection.close()

    async with Origin(OK, die) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(GET)
        assert (await final(client)).status == 200
        await client.send(GET)
        assert (await final(client)).status == 502
        await client.close()
        assert len(origin.requests) == 3


@pytest.mark.parametrize(
    "request_bytes", [POST, b"GET /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", b"DELETE /up/ HTTP/1.1\r\nHost: a\r\n\r\n"]
)
async def test_what_may_not_be_repeated_is_never_sent_twice(request_bytes: bytes) -> None:
    async def die(connection: Connection, _) -> None:
        await connection.close()

    async with Origin(OK, die, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        await client.send(request_bytes)
        message = await final(client)
        assert message.status == 502
        assert message.values(b"x-verbatim-error") == [b"upstream_closed"]
        await client.close()
        assert len(origin.requests) == 2


async def test_a_post_is_not_written_to_a_connection_that_has_ended() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        await origin.connections[0].close()  # as servers do after five idle seconds
        await client.send(POST)
        assert (await final(client)).status == 200
        await client.close()
        assert len(origin.requests) == 2


async def test_an_end_that_the_loop_has_not_seen_yet_is_looked_for() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        (idle,) = gateway.relay.pool._idle["up"]
        idle.idle_since -= 1.0
        idle.transport.pause_reading()  # stands for a loop that had no time to read
        await origin.connections[0].close()
        await client.send(POST)
        assert (await final(client)).status == 200
        await client.close()
        assert len(origin.connections) == 2


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"]
)
async def test_a_connection_the_upstream_will_close_is_not_kept(answer: bytes) -> None:
    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(POST)
            message = await final(client)
            assert message.body == b"ok"
            assert message.values(b"connection") == []  # that was about the other connection
        await client.close()
        assert len(origin.connections) == 2


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.02)
    async with Origin() as origin, rig(origin, idle_timeout=0.1) as gateway:
        _, client = await gateway.ask(GET)
        await wait_for(lambda: origin.connections[0].eof or origin.connections[0].lost)
        await client.close()


class Slow:
    """A transport whose peer takes nothing more after the answer."""

    def __init__(self, transport: asyncio.BaseTransport, protocol: ClientConnection) -> None:
        self._transport, self._protocol = transport, protocol

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        if data.endswith(b"ok"):
            self._protocol.pause_writing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_a_slow_client_does_not_leave_its_connection_unread_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    made = ClientConnection.connection_made
    monkeypatch.setattr(ClientConnection, "connection_made", lambda self, transport: made(self, Slow(transport, self)))
    async with Origin() as origin, rig(origin) as gateway:
        for _ in range(3):
            message, client = await gateway.ask(POST)
            assert message.body == b"ok"
            await client.close()
        assert len(origin.connections) == 1


async def test_a_slow_client_s_next_answer_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request sent ahead is answered to a client that has not taken the answer before: the transport does not say so twice."""
    made = ClientConnection.connection_made
    monkeypatch.setattr(ClientConnection, "connection_made", lambda self, transport: made(self, Slow(transport, self)))
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST * 2)
        assert (await final(client)).body == b"ok"
        (exchange,) = await wait_for(lambda: [one for one in gateway.relay.exchanges if one.upstream is not None])
        assert not exchange.upstream.transport.is_reading()
        exchange.client.resume_writing()
        assert (await final(client)).body == b"ok"
        await client.close()


async def test_an_answer_that_overtakes_its_upload_does_not_poison_the_pool() -> None:
    """The upstream answered without reading on: what is still to be sent there must not precede the next request."""

    async def hasty(connection: Connection) -> None:
        await connection.read_head()
        if not hurried.is_set():
            hurried.set()
            connection.pause()
            await all_sent.wait()
            await connection.send(OK)
            await done.wait()
            connection.resume()
            await connection.wait_ended()
            return
        await connection.send(OK)
        await connection.wait_ended()

    hurried, all_sent, done = asyncio.Event(), asyncio.Event(), asyncio.Event()
    origin = Origin()
    origin.handler = hasty
    body = b"x" * 200_000
    async with origin, rig(origin) as gateway:
        client = await gateway.client()
        head = b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: "
        pieces = 0
        # As much as the kernel takes and then a little that stays in the gateway's own buffer
        total = 64 << 20
        await client.send(head + b"%d\r\n\r\n" % total)
        await hurried.wait()
        (exchange,) = gateway.relay.exchanges
        while exchange.upstream is None or not exchange.upstream.transport.get_write_buffer_size():
            client.transport.write(body)
            pieces += 1
            await asyncio.sleep(0)
        connection = exchange.upstream
        exchange.request_done = True  # the client's last byte, with the buffer still full
        all_sent.set()
        assert (await final(client)).status == 200
        assert connection.transport.is_closing()
        done.set()
        await client.reset()
        message, other = await gateway.ask(GET)
        assert message.body == b"ok"
        await other.close()
