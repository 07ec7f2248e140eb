"""Streams: what goes out when, what a break looks like, and that no one's slowness costs memory."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, RawUpstream, final, rig

from gateway import client as client_module
from gateway import upstream as upstream_module

ASK = b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def test_every_event_reaches_the_client_before_the_next_is_sent() -> None:
    """Acceptance D42."""
    events = [b'data: {"n": %d}\n\n' % number for number in range(30)]

    async def stream(connection: Connection, _) -> None:
        await connection.send(CHUNKED)
        for event in events:
            await connection.send(chunk(event))
            await wait_for(lambda event=event: event in client.received)  # the upstream is not done, yet it is there
        await connection.send(b"0\r\n\r\n")

    async with Origin(stream) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).body == b"".join(events)
        await client.close()
    kept = await gateway.only()
    assert kept.response_body == b"".join(events)
    marks = [mark for part in kept.parts for mark in part.timing.marks]
    assert len(marks) == 30
    assert [ms for _, ms in marks] == sorted(ms for _, ms in marks)


async def test_single_bytes_and_cuts_anywhere_cross_intact() -> None:
    """Acceptance D42."""
    text = "data: naïve 😀\r\n\r\ndata: [DONE]\n\n".encode()
    raw = b"".join(chunk(text[at : at + 1]) for at in range(len(text))) + b"0\r\n\r\n"

    async def stream(connection: Connection, _) -> None:
        await connection.send(CHUNKED)
        for at in range(len(raw)):
            connection.transport.write(raw[at : at + 1])
            await asyncio.sleep(0)

    async with Origin(stream) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.body == text
        assert bytes(client.received).endswith(raw)  # even the chunks are the upstream's own
        await client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (CHUNKED, chunk(b"data: half") + b"20\r\nan eve"),
        (CHUNKED, chunk(b"data: whole\n\n")),
        (CHUNKED, chunk(b"data: whole\n\n") + b"0\r\n"),
        (CHUNKED, chunk(b"x") + b"4"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"short"),
    ],
)
async def test_an_upstream_that_drops_mid_stream_breaks_the_client_s_stream(head: bytes, body: bytes, how: str) -> None:
    """Acceptance D43."""

    async def drop(connection: Connection, _) -> None:
        await connection.send(head + body)
        await wait_for(lambda: body[-2:] in client.received or len(client.received) > len(head))
        await (connection.close() if how == "close" else connection.reset())

    async with Origin(drop) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        received = await client.read_to_end()
        assert not received.endswith(b"0\r\n\r\n")
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert b"Verbatim" not in received  # nor anything of ours in its body
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"
    assert kept.complete[1] is False
    assert kept.response_body == (b"short" if b"Length" in head else kept.response_body)
    assert kept.response_body


async def test_a_reset_upstream_breaks_a_close_delimited_stream() -> None:
    """Acceptance D43."""

    async def drop(connection: Connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nsome of it")
        await wait_for(lambda: b"some of it" in client.received)
        await connection.reset()

    async with Origin(drop) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
        await client.close()
    assert (await gateway.only()).complete[1] is False


async def test_a_long_silence_is_no_reason_to_end_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance D45."""
    monkeypatch.setattr("gateway.relay.TICK", 0.01)
    go = asyncio.Event()

    async def stream(connection: Connection, _) -> None:
        await go.wait()
        go.clear()
        await connection.send(CHUNKED)
        await connection.send(chunk(b"first"))
        await go.wait()
        await connection.send(chunk(b"second") + b"0\r\n\r\n")

    async with Origin(stream) as origin, rig(origin, connect_timeout=1.0, header_timeout=1.0) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        for silence, then in ((600.0, b"first"), (600.0, b"second")):
            (exchange,) = await wait_for(lambda: list(gateway.relay.exchanges))
            exchange.started -= silence
            exchange.heard -= silence
            for connection in gateway.relay.connections:
                connection._since -= silence
            tick = gateway.relay._timer
            await wait_for(lambda tick=tick: gateway.relay._timer is not tick)
            go.set()
            await client.read_until(then)
        assert await client.read_until(b"0\r\n\r\n")
        await client.close()


async def test_a_stream_that_falls_silent_beyond_the_read_timeout_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.02)

    async def stall(connection: Connection, _) -> None:
        await connection.send(CHUNKED + chunk(b"first"))
        await connection.wait_ended()

    async with Origin(stall) as origin, rig(origin, read_timeout=0.2) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await client.read_to_end()).endswith(chunk(b"first"))
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "timeout"


async def test_three_hundred_streams_run_at_once() -> None:
    """Acceptance D50."""
    count = 300
    go = asyncio.Event()

    async def stream(connection: Connection, request) -> None:
        await connection.send(CHUNKED + chunk(request.target))
        await go.wait()
        await connection.send(chunk(b"done" + request.target) + b"0\r\n\r\n")

    async with Origin(stream) as origin, rig(origin) as gateway:
        clients = [await gateway.client() for _ in range(count)]
        for number, client in enumerate(clients):
            await client.send(b"GET /up/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        for number, client in enumerate(clients):
            await client.read_until(chunk(b"/%d" % number))
        assert len(origin.connections) == count  # all of them at once
        assert len(gateway.relay.exchanges) == count
        go.set()
        for number, client in enumerate(clients):
            await client.read_until(chunk(b"done/%d" % number) + b"0\r\n\r\n")
            await client.close()
    kept = await gateway.ended(count)
    assert all(one.response_body == one.request.target[3:] + b"done" + one.request.target[3:] for one in kept)


async def test_a_client_that_reads_nothing_stalls_its_upstream_alone() -> None:
    """Acceptance D47."""
    sent = 0
    piece = b"x" * (64 << 10)

    async def flood(connection: Connection, request) -> None:
        nonlocal sent
        if request.target != b"/flood":
            await connection.send(OK)
            return
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        while True:
            await connection.send(piece)
            sent += len(piece)

    async with Origin(flood) as origin, rig(origin, max_body=1 << 20) as gateway:
        client = await gateway.client()
        client.pause()
        await client.send(b"GET /up/flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await _settles(lambda: sent)
        stalled = sent
        (exchange,) = gateway.relay.exchanges
        assert exchange.client.transport.get_write_buffer_size() < 1 << 20
        message, other = await gateway.ask(ASK)
        assert message.body == b"ok"
        await other.close()
        client.resume()  # and goes on when it does
        await wait_for(lambda: sent > stalled)
        await wait_for(lambda: len(client.received) > stalled)
        await client.reset()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)


async def test_an_upstream_that_reads_nothing_stalls_its_client_alone() -> None:
    """Acceptance D48."""

    async def deaf(connection: Connection) -> None:
        await connection.read_head()
        connection.pause()
        await go.wait()
        connection.resume()
        await connection.read_exactly(total, deadline=60)
        await connection.send(OK)

    go = asyncio.Event()
    total = 40 << 20
    piece = b"x" * (64 << 10)
    async with RawUpstream(deaf) as origin, rig(origin, max_body=1 << 20) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
        sent = 0

        async def upload() -> None:
            nonlocal sent
            while sent < total:
                await client.send(piece)
                sent += len(piece)

        task = asyncio.create_task(upload())
        await _settles(lambda: sent)
        assert sent < total
        (exchange,) = gateway.relay.exchanges
        assert exchange.upstream is not None
        assert exchange.upstream.transport.get_write_buffer_size() < 1 << 20
        go.set()
        await task
        assert (await final(client)).status == 200
        await client.close()


async def test_an_upload_larger_than_the_dial_s_buffer_waits_and_stays_bounded() -> None:
    """The first write after the dial may already fill the upstream: the client must stay held from then on."""

    async def deaf(connection: Connection) -> None:
        connection.pause()
        await go.wait()
        connection.resume()
        await connection.read_head()
        await connection.read_exactly(total, deadline=60)
        await connection.send(OK)

    go, dial = asyncio.Event(), asyncio.Event()
    total = 30 << 20
    async with RawUpstream(deaf) as origin, rig(origin, max_body=1 << 20) as gateway:
        # As over a network: the kernel takes little at first
        origin._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connect = gateway.relay.pool.connect

        async def slow(route):
            await dial.wait()
            connection = await connect(route)
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            return connection

        gateway.relay.pool.connect = slow
        client = await gateway.client()
        client.transport.write(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total + b"x" * total)
        await _settles(lambda: total - client.transport.get_write_buffer_size())
        (exchange,) = gateway.relay.exchanges
        assert sum(map(len, exchange._waiting)) < 1 << 20
        dial.set()
        await wait_for(lambda: exchange.upstream is not None)
        await _settles(lambda: total - client.transport.get_write_buffer_size())
        assert exchange.upstream.transport.get_write_buffer_size() < 2 << 20
        assert client.transport.get_write_buffer_size() > 0
        go.set()
        assert (await final(client)).status == 200
        await client.close()


async def _settles(value) -> None:
    """Wait until `value()` has not changed for a while: whatever pushes has come to a stand."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < 0.3:
        now = value()
        if now != last:
            last, since = now, time.monotonic()
        await asyncio.sleep(0.01)


async def test_large_messages_leave_everybody_else_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = 0
    full: list[tuple[type, int]] = []

    def next_turn() -> None:
        nonlocal turn, handle
        turn += 1
        handle = loop.call_soon(next_turn)

    loop = asyncio.get_running_loop()
    handle = loop.call_soon(next_turn)
    for side in (client_module.ClientConnection, upstream_module.Connection):

        def received(self: Any, data: bytes, receive: Any = side.data_received, side: type = side) -> None:
            if len(data) >= upstream_module.FULL_READ:
                full.append((side, turn))
            receive(self, data)

        monkeypatch.setattr(side, "data_received", received)
    body = bytes(16 << 20)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with Origin(answer) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"POST /up/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        handle.cancel()
        assert message.body == body
        assert origin.requests[0].body == body
        await client.close()
    sides = {side for side, _ in full}
    assert client_module.ClientConnection in sides
    assert len(full) == len(set(full))  # never two full reads of a connection in one turn of the loop
