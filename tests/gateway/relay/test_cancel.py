"""A client that leaves takes its upstream with it, at once; and nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest
from rawsockets import Connection, connect, wait_for
from relayrig import OK, Origin, RawUpstream, final, rig

ASK = b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def gone(connection: Connection) -> bool:
    return connection.lost or connection.eof


async def leave(client: Connection, how: str) -> None:
    await (client.close() if how == "close" else client.reset())


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_before_the_first_byte_cancels_the_upstream(how: str) -> None:
    """Acceptance D44."""

    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await wait_for(lambda: origin.requests)
        left = time.monotonic()
        await leave(client, how)
        await wait_for(lambda: gone(origin.connections[0]))
        assert time.monotonic() - left < 0.5
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"
    assert kept.request_body == b"hi"
    assert kept.response is None


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_mid_stream_cancels_the_upstream(how: str) -> None:
    """Acceptance D44."""

    async def stream(connection: Connection, _) -> None:
        await connection.send(CHUNKED + b"5\r\nfirst\r\n")
        await connection.wait_ended()

    async with Origin(stream) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await client.read_until(b"first\r\n")
        left = time.monotonic()
        await leave(client, how)
        await wait_for(lambda: gone(origin.connections[0]))
        assert time.monotonic() - left < 0.5
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"
    assert kept.response_body == b"first"
    assert kept.complete == (True, False)


async def test_a_client_that_leaves_while_the_upstream_is_dialled_stops_the_dial() -> None:
    """Acceptance D44."""
    async with Origin() as origin, rig(origin) as gateway:
        dialling = asyncio.Event()
        cancelled = asyncio.Event()

        async def never(route):
            dialling.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        gateway.relay.pool.connect = never
        client = await gateway.client()
        await client.send(ASK)
        await dialling.wait()
        await client.close()
        await asyncio.wait_for(cancelled.wait(), 1.0)
        assert origin.connections == []
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_dies_mid_upload_leaves_a_broken_body(framing: str, how: str) -> None:
    """Acceptance A9."""

    async def take(connection: Connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(take) as origin, rig(origin) as gateway:
        client = await gateway.client()
        field = b"Content-Length: 10" if framing == "length" else b"Transfer-Encoding: chunked"
        await client.send(
            b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n" + (b"half" if framing == "length" else b"4\r\nhalf\r\n")
        )
        await wait_for(lambda: origin.connections and b"half" in origin.connections[0].received)
        await leave(client, how)
        await wait_for(lambda: gone(origin.connections[0]))
        assert not origin.connections[0].received.endswith(b"0\r\n\r\n")
    kept = await gateway.only()
    assert kept.complete[0] is False
    assert kept.request_body == b"half"
    assert kept.end is not None
    assert kept.end.reason == "client_closed"


async def test_a_client_that_leaves_while_it_is_not_read_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.05)

    async def deaf(connection: Connection) -> None:
        connection.pause()
        await release.wait()
        connection.resume()
        await connection.wait_ended()

    release = asyncio.Event()
    async with RawUpstream(deaf) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        (connection,) = await wait_for(lambda: list(gateway.relay.connections))
        while not connection._holds:
            client.transport.write(b"x" * 100_000)
            await asyncio.sleep(0.001)
        await client.reset()
        await wait_for(lambda: not gateway.relay.exchanges, deadline=2.0)
        release.set()
        await wait_for(lambda: gone(origin.connections[0]))


@pytest.mark.parametrize(
    "cut",
    [
        [b"data: [DONE]\n\n"],
        [b"data: {}\n\ndata: [DONE]\n\n"],
        [b"data: [DO", b"NE]\n\n"],
        [b"data: [DONE]\n", b"\n"],
        [b"data: [DONE]\r\n\r\n"],
    ],
)
async def test_a_client_that_closes_after_done_has_read_it_all(cut: list[bytes]) -> None:
    async def stream(connection: Connection, _) -> None:
        await connection.send(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut))
        await wait_for(lambda: gateway.relay.counters.exchanges == 2)  # the end of that answer comes when the next request is out
        await connection.send(b"0\r\n\r\n")
        await connection.wait_ended()

    async with Origin(stream, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await client.read_until(cut[-1] + b"\r\n")
        await client.close()
        kept = await gateway.only()
        assert kept.end is not None
        assert kept.end.reason == "complete"
        message, other = await gateway.ask(ASK)  # which must not meet the rest of that answer
        assert message.body == b"ok"
        await other.close()
        assert len(origin.connections) == 2


async def test_requests_sent_ahead_are_not_begun_after_the_client_has_left() -> None:
    async def think(connection: Connection, _) -> None:
        await connection.wait_ended()

    async with Origin(think) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK * 5)
        await wait_for(lambda: origin.requests)
        await client.reset()
        await wait_for(lambda: not gateway.relay.exchanges)
        message, other = await gateway.ask(b"GET /_verbatim/health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert message.status == 200
        await other.close()
        assert len(origin.requests) == 1
        assert gateway.relay.counters.exchanges == 1


async def test_a_client_that_leaves_during_verbatim_s_own_answer_is_no_matter() -> None:
    async with rig("http://127.0.0.1:1") as gateway:
        for _ in range(20):
            client = await gateway.client()
            await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhi")
            await client.reset()


async def test_aborts_at_random_points_leave_nothing_behind() -> None:
    """Acceptance D51, D57."""
    chance = random.Random(57)

    async def answer(connection: Connection, request) -> None:
        nonce = request.values(b"x-nonce")[0]
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.01)
        await connection.send(CHUNKED + b"%x\r\n%b\r\n" % (len(nonce), nonce))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(chance.random() * 0.01)
            await connection.send(b"1\r\n.\r\n")
        if chance.random() < 0.1:
            await connection.reset()
        await connection.send(b"0\r\n\r\n")

    async def call(number: int) -> None:
        client = await connect(gateway.port)
        nonce = b"nonce-%d" % number
        request = b"POST /up/ HTTP/1.1\r\nHost: a\r\nX-Nonce: %b\r\nContent-Length: 4\r\n\r\nbody" % nonce
        cut = chance.randrange(len(request) + 1) if chance.random() < 0.3 else len(request)
        try:
            await client.send(request[:cut])
            if chance.random() < 0.7:
                async with asyncio.timeout(chance.random() * 0.02):
                    await client.read_until(b"0\r\n\r\n")
                    assert nonce in client.received
        except (TimeoutError, ConnectionError):
            pass
        assert client.received.count(b"nonce-") <= 1
        assert b"nonce-" not in client.received or nonce in client.received
        if not client.lost:
            await leave(client, chance.choice(["close", "reset"]))

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with Origin(answer) as origin, rig(origin, idle_timeout=0.0) as gateway:
        before = descriptors()
        for start in range(0, 400, 20):
            await asyncio.gather(*(call(number) for number in range(start, start + 20)))
        for number in range(1000, 1050):  # and whoever comes after is answered with what is theirs
            client = await gateway.client()
            request = b"GET /up/ HTTP/1.1\r\nHost: a\r\nX-Nonce: after-%d\r\n\r\n" % number
            await client.send(request)
            try:
                assert (await final(client)).body.startswith(b"after-%d" % number)
            except ConnectionError:
                assert b"after-%d" % number in client.received  # the origin's one in ten that break
            await client.reset()
        await wait_for(lambda: not gateway.relay.exchanges and not gateway.relay.connections)
        gateway.relay.pool.close()
        await wait_for(lambda: all(gone(connection) for connection in origin.connections))
        await wait_for(lambda: all(connection.lost for connection in origin.connections))
        await wait_for(lambda: descriptors() <= before)
    assert all(kept.end is not None for kept in gateway.recording.exchanges)
    assert gateway.relay.counters.exchanges == len(gateway.recording.exchanges)
