"""Answers that come before the request is over: they reach the client whole, whenever it reads, and the upload stops."""

from __future__ import annotations

import asyncio
import socket

import pytest
from rawsockets import Connection, RawUpstream, wait_for
from relayrig import final, rig

SIZE = 50 << 20
PIECE = b"x" * 65536
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\ntoo big"
FRAMINGS = {
    "length": (b"Content-Length: %d\r\n" % SIZE, PIECE, b""),
    "chunked": (b"Transfer-Encoding: chunked\r\n", b"10000\r\n" + PIECE + b"\r\n", b"0\r\n\r\n"),
}


def refusing(after: int, *, close: bool = False):
    """An upstream that refuses when it has read `after` bytes, and then reads no more (or closes, as many do)."""

    async def refuse(connection: Connection) -> None:
        await connection.read_exactly(after)
        connection.pause()
        await connection.send(REFUSAL)
        if not close:
            connection.resume()
            await connection.wait_ended()

    return refuse


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_client_that_reads_when_all_is_sent_still_gets_the_refusal(framing: str, close: bool) -> None:
    """Acceptance D55: 50 MB, and not a look at the answer before."""
    field, piece, last = FRAMINGS[framing]

    def upload() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
            client.sendall(b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
            for _ in range(SIZE // len(PIECE)):
                client.sendall(piece)
            client.sendall(last)
            return b"".join(iter(lambda: client.recv(65536), b""))

    async with RawUpstream(refusing(300_000, close=close)) as origin, rig(origin, max_body=1 << 20) as gateway:
        received = await asyncio.to_thread(upload)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 Content Too Large\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n")
        assert b"Connection: close" in head
        assert body == b"too big"
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)
        assert len(origin.connections[0].received) < SIZE // 2  # the upload stopped
    kept = await gateway.only()
    assert kept.response is not None
    assert kept.response.status == 413
    assert kept.response_body == b"too big"
    assert kept.complete == (False, True)


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_client_that_reads_while_it_sends_gets_the_refusal_at_once(framing: str) -> None:
    """Acceptance D55: and may stop."""
    field, piece, _ = FRAMINGS[framing]
    async with RawUpstream(refusing(300_000)) as origin, rig(origin, max_body=1 << 20) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
        sent = 0
        while not client.received and sent < SIZE:
            await client.send(piece)
            sent += len(PIECE)
        assert sent < SIZE
        message = await final(client)
        assert (message.status, message.body) == (413, b"too big")
        await client.wait_ended()
        assert client.error is None
        await client.close()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)


@pytest.mark.parametrize("field", [b"Content-Length: 50000000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_refused_expectation_costs_no_upload(field: bytes) -> None:
    """Acceptance D55, A10."""

    async def refuse(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(REFUSAL)
        await connection.wait_ended()

    async with RawUpstream(refuse) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + field + b"\r\n")
        message = await final(client)
        assert (message.status, message.body) == (413, b"too big")
        assert message.values(b"connection") == [b"close"]
        assert b"100 Continue" not in client.received
        await client.wait_ended()
        await client.close()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)
        assert bytes(origin.connections[0].received).endswith(b"\r\n\r\n")


async def test_an_answer_that_begins_early_and_ends_late_leaves_the_upload_going() -> None:
    """An upstream may answer while it reads (a transcoder, say): that is no refusal, and nothing stops."""

    async def transcode(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"first", b"second", b"third"):
            await connection.read_until(piece)
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
        await connection.read_until(b"0\r\n\r\n")
        await connection.send(b"0\r\n\r\n")
        await connection.wait_ended()

    async with RawUpstream(transcode) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"first", b"second", b"third"):
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await client.read_until(piece.upper())
        await client.send(b"0\r\n\r\n")
        await client.read_until(b"0\r\n\r\n")
        await client.close()
    kept = await gateway.only()
    assert kept.request_body == b"firstsecondthird"
    assert kept.response_body == b"FIRSTSECONDTHIRD"
    assert kept.complete == (True, True)


async def test_an_upload_that_never_ends_after_its_answer_is_cut_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.02)
    monkeypatch.setattr("gateway.client.LINGER", (5.0, 0.3))
    async with RawUpstream(refusing(1000)) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n" + PIECE + b"\r\n")
        await final(client)

        async def go_on() -> None:
            while True:
                await client.send(b"10000\r\n" + PIECE + b"\r\n")
                await asyncio.sleep(0.01)

        with pytest.raises(ConnectionError):
            await go_on()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_answers_and_hangs_up_at_once_is_heard(how: str) -> None:
    """Acceptance D55: the answer is there before the broken upload is."""

    async def refuse(connection: Connection) -> None:
        await connection.read_exactly(100_000)
        await connection.send(REFUSAL)
        await wait_for(lambda: client.received)
        await (connection.close() if how == "close" else connection.reset())

    async with RawUpstream(refuse) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n" + PIECE * 4)
        message = await final(client)
        assert (message.status, message.body) == (413, b"too big")
        await client.close()


@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_refusal_that_the_reset_overtakes_is_heard_all_the_same(framing: str) -> None:
    """Acceptance D55: an upstream that closes with the upload unread resets the connection; what it said before is still there."""
    field, piece, _ = FRAMINGS[framing]
    trials = 20

    def refuse() -> None:
        for _ in range(trials):
            connection, _ = listener.accept()
            left = 200_000
            while left > 0:
                left -= len(connection.recv(65536))
            connection.sendall(REFUSAL)
            connection.close()

    def upload() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
            client.sendall(b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
            for _ in range(40):
                client.sendall(piece)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def clients() -> list[bytes]:
        return [upload().partition(b"\r\n")[0] for _ in range(trials)]

    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = asyncio.create_task(asyncio.to_thread(refuse))
        async with rig(f"http://127.0.0.1:{listener.getsockname()[1]}") as gateway:
            assert await asyncio.to_thread(clients) == [REFUSAL.partition(b"\r\n")[0]] * trials
        await upstream
