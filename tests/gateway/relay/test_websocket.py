"""Websockets: the upstream's own handshake, then bytes both ways as on a cable."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import websockets
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, RawUpstream, Rig, final, rig, said
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import CloseCode

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n"
ASK = b"GET /up/v1/realtime?model=x%20y HTTP/1.1\r\nHost: gateway\r\n" + UPGRADE
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"
CLEAN = b"\x88\x02\x03\xe8"  # close 1000, unmasked
MASKED_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"

Conversation = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def upstream(talk: Conversation, **options) -> AsyncIterator[tuple[Server, Rig]]:
    """A websocket server that talks, and a gateway before it."""
    async with (
        serve(talk, "127.0.0.1", 0, **{"max_size": None, "ping_interval": None, **options}) as server,
        rig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as gateway,
    ):
        yield server, gateway


def dial(gateway: Rig, path: str = "/up/", **options) -> connect:
    return connect(gateway.url(path), ssl=gateway.tls, **{"max_size": None, "ping_interval": None, "proxy": None, **options})


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def closed(connection: ClientConnection | ServerConnection) -> tuple[int | None, str | None]:
    """Wait for the connection's end; the peer's code and reason, None when there was no close frame."""
    try:
        while True:
            await connection.recv()
    except websockets.ConnectionClosed as end:
        return (end.rcvd.code, end.rcvd.reason) if end.rcvd is not None else (None, None)


async def test_text_and_binary_messages_cross_both_ways() -> None:
    """Acceptance E60."""
    messages = ["text", b"binary", "", b"", "naïve 😀", bytes(range(256))]
    async with upstream(echo) as (_, gateway):
        async with dial(gateway) as client:
            for message in messages:
                await client.send(message)
                assert await client.recv() == message
        kept = await gateway.only()
    archived = [message for message in kept.messages if message.type in ("text", "binary")]
    assert kept.end is not None
    assert kept.end.reason == "complete"  # the close frames passed, whoever closed the connection first
    expected = [message.encode() if isinstance(message, str) else message for message in messages for _ in (0, 1)]
    assert [message.data for message in archived] == expected
    assert [message.side for message in archived] == ["client", "upstream"] * len(messages)
    assert [message.type for message in archived[:4]] == ["text", "text", "binary", "binary"]
    assert [message.at_ms for message in archived] == sorted(message.at_ms for message in archived)


@pytest.mark.parametrize("size", [2 << 20, 17 << 20])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_large_messages_cross_both_ways(size: int, compression: str | None) -> None:
    """Acceptance E60."""
    half = os.urandom(size // 2)
    async with upstream(echo, compression=compression) as (_, gateway), dial(gateway, compression=compression) as client:
        for message in (half + half, (half + half).hex()[:size]):
            await client.send(message)
            assert await client.recv() == message


async def test_fragments_pings_and_compression_cross_untouched() -> None:
    """Acceptance E60, E67."""
    sent = b"\x01\x81\x00\x00\x00\x00a\x89\x83\x01\x02\x03\x04qmh\x00\x81\x00\x00\x00\x00b\x80\x81\x00\x00\x00\x00c\xc1\x85junkjunkj"
    back = b"\x01\x01a\x8a\x03png\x80\x01b\xc2\x07\x4a\x4c\x4a\x06\x00\x00\x00"

    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH)
        await connection.read_exactly(len(sent))
        await connection.send(back)
        await connection.wait_ended()

    async with RawUpstream(cable) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n")
        assert (await final(client)).status == 101
        for at in range(len(sent)):
            await client.send(sent[at : at + 1])
        assert await client.read_exactly(len(back)) == back
        await client.close()
        assert bytes(origin.connections[0].received).endswith(b"\r\n\r\n" + sent)


async def test_the_gateway_sends_no_frames_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.01)

    async def silent(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH)
        await connection.wait_ended()

    async with RawUpstream(silent) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        assert (await final(client)).status == 101
        for _ in range(5):
            tick = gateway.relay._timer
            await wait_for(lambda tick=tick: gateway.relay._timer is not tick)
        assert client.unread == b""
        await client.close()
        assert origin.connections[0].unread == b""
        await wait_for(lambda: origin.connections[0].eof)
        assert origin.connections[0].unread == b""  # no close frame was made up either


async def test_the_handshake_is_the_client_s_own() -> None:
    """Acceptance E63."""
    lines = (
        b"Origin: https://app.example\r\nCookie: a=1\r\nAuthorization: Bearer canary\r\nOpenAI-Beta: realtime=v1\r\n"
        b"Sec-WebSocket-Protocol: realtime, openai-beta.realtime-v1\r\nsec-websocket-protocol: third\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\nX-Verbatim-Session: mine\r\n"
    )
    answer = SWITCH.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: realtime\r\nX-Theirs: 1\r\n\r\n")

    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(answer)
        await connection.wait_ended()

    async with RawUpstream(cable) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK + lines + b"\r\n")
        assert message.status == 101
        (name,) = message.values(b"x-verbatim-id")
        assert bytes(client.received) == answer[:-2] + b"x-verbatim-id: " + name + b"\r\n\r\n"
        await client.close()
        expected = (ASK + lines + b"\r\n").replace(b"/up/v1", b"/v1").replace(b"X-Verbatim-Session: mine\r\n", b"")
        assert said(origin.connections[0]) == expected.replace(b"Host: gateway", b"Host: 127.0.0.1:%d" % origin.port)


async def test_hop_by_hop_headers_of_a_handshake_are_dropped() -> None:
    request = (
        ASK.replace(b"Connection: Upgrade", b"Connection: keep-alive, X-Hop\r\nconnection: upgrade")
        + b"X-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\r\n"
    )

    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH)
        await connection.wait_ended()

    async with RawUpstream(cable) as origin, rig(origin) as gateway:
        _, client = await gateway.ask(request)
        await client.close()
        head = said(origin.connections[0])
        assert head.lower().count(b"connection: upgrade\r\n") == 1
        assert not any(word in head.lower() for word in (b"x-hop", b"keep-alive", b"te:"))


@pytest.mark.parametrize("status", [401, 403, 426, 429, 500])
async def test_a_refused_handshake_is_the_upstream_s_own_answer(status: int) -> None:
    """Acceptance E62."""
    answer = b'HTTP/1.1 %d Refused\r\nWWW-Authenticate: Bearer\r\nRetry-After: 3\r\nContent-Length: 14\r\n\r\n{"error": "x"}' % status
    async with Origin(answer) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK + b"\r\n")
        assert message.status == status
        assert message.body == b'{"error": "x"}'
        assert message.fields[:3] == [(b"WWW-Authenticate", b"Bearer"), (b"Retry-After", b"3"), (b"Content-Length", b"14")]
        assert b" 101 " not in client.received
        await client.close()
    kept = await gateway.only()
    assert kept.response is not None
    assert kept.response.status == status
    assert kept.response_body == b'{"error": "x"}'


async def test_a_redirected_handshake_is_not_followed() -> None:
    async with (
        Origin() as elsewhere,
        Origin(b"HTTP/1.1 307 Moved\r\nLocation: %b/\r\nContent-Length: 0\r\n\r\n" % elsewhere.url.encode()) as origin,
    ):
        async with rig(origin) as gateway:
            message, client = await gateway.ask(ASK + b"X-Api-Key: canary\r\n\r\n")
            assert message.status == 307
            await client.close()
        assert elsewhere.connections == []


async def test_an_unreachable_upstream_refuses_the_handshake_with_502() -> None:
    async with rig("http://127.0.0.1:1") as gateway:
        message, client = await gateway.ask(ASK + b"\r\n")
        assert message.status == 502
        await client.close()


async def test_a_handshake_the_upstream_leaves_unanswered_is_a_502() -> None:
    async def leave(connection: Connection) -> None:
        await connection.read_head()

    async with RawUpstream(leave) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK + b"\r\n")
        assert message.status == 502
        await client.close()
        assert len(origin.connections) == 1


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going away"), (1011, "naïve 😀"), (4000, "r" * 123), (4999, "")])
@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_close_codes_and_reasons_cross_both_ways(side: str, code: int, reason: str) -> None:
    """Acceptance E61."""
    seen: asyncio.Future[tuple[int | None, str | None]] = asyncio.get_running_loop().create_future()

    async def talk(connection: ServerConnection) -> None:
        if side == "upstream":
            await connection.close(code, reason)
        seen.set_result(await closed(connection))

    async with upstream(talk) as (_, gateway), dial(gateway) as client:
        if side == "client":
            await client.close(code, reason)
            assert await seen == (code, reason)
        else:
            assert await closed(client) == (code, reason)
            assert (await seen)[0] == code
        kept = await gateway.only()
        closes = [message for message in kept.messages if message.type == "close"]
        assert (closes[0].side, closes[0].code, closes[0].data.decode()) == (side, code, reason)


async def test_a_close_without_a_code_stays_without_one() -> None:
    """Acceptance E61: what the client sees is 1005, which no frame carries."""

    async def talk(connection: ServerConnection) -> None:
        connection.transport.write(b"\x88\x00")
        await connection.wait_closed()

    async with upstream(talk) as (_, gateway), dial(gateway) as client:
        assert await closed(client) == (CloseCode.NO_STATUS_RCVD, "")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_vanishes_is_never_a_clean_close(how: str) -> None:
    """Acceptance E61: what the client sees is 1006."""

    async def talk(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + b"\x81\x02hi")
        await wait_for(lambda: seen)
        await (connection.close() if how == "close" else connection.reset())

    seen: list[str] = []
    async with RawUpstream(talk) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        await client.read_until(b"\x81\x02hi")
        seen.append("hi")
        await client.wait_ended()
        assert client.unread == b""
        assert isinstance(client.error, ConnectionResetError) is (how == "reset")
        await client.close()
    kept = await gateway.only()
    assert [message.data for message in kept.messages] == [b"hi"]
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"


async def test_a_client_that_vanishes_closes_the_upstream() -> None:
    """Acceptance E66. Codex leaves so: its tungstenite drops the socket without a close frame."""

    async def talk(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + b"\x81\x02hi")
        await connection.wait_ended()

    for how in ("close", "reset"):
        async with RawUpstream(talk) as origin, rig(origin) as gateway:
            client = await gateway.client()
            await client.send(ASK + b"\r\n")
            await client.read_until(b"\x81\x02hi")
            await client.send(b"\x81\x82\x00\x00\x00\x00yo")
            await wait_for(lambda origin=origin: origin.connections[0].received.endswith(b"yo"))
            await (client.close() if how == "close" else client.reset())
            await wait_for(lambda origin=origin: origin.connections[0].eof or origin.connections[0].lost, deadline=1.0)
        kept = await gateway.only()
        assert [(message.side, message.data) for message in kept.messages] == [("upstream", b"hi"), ("client", b"yo")]
        assert 0 < kept.messages[0].at_ms <= kept.messages[1].at_ms
        assert kept.end is not None
        assert kept.end.reason == "client_closed"


async def test_a_last_frame_before_the_end_still_arrives() -> None:
    last = b"\x82\x7f" + (16 << 20).to_bytes(8, "big") + b"x" * (16 << 20) + CLEAN

    async def talk(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + last)
        await connection.close()

    async with RawUpstream(talk) as origin, rig(origin) as gateway:
        client = await gateway.client()
        client.pause()
        await client.send(ASK + b"\r\n")
        await wait_for(lambda: any(not connection.writable for connection in gateway.relay.connections))
        client.resume()
        assert (await client.read_to_end()).endswith(last)
        assert client.error is None
        await client.close()


async def test_a_client_s_close_frame_and_end_in_one_go_arrive() -> None:
    async def talk(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH)
        assert (await connection.read_to_end()) == MASKED_CLOSE

    async with RawUpstream(talk) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        await client.read_head()
        client.transport.write(MASKED_CLOSE)
        await client.close()
        await wait_for(lambda: origin.connections[0].lost)


async def test_bytes_sent_before_the_upgrade_follow_it() -> None:
    early = b"\x82\xfe\xea\x60" + b"\x00" * 4 + b"y" * 60_000

    async def talk(connection: Connection) -> None:
        await connection.read_head()
        await wait_for(lambda: any(one._holds for one in gateway.relay.connections))
        await connection.send(SWITCH + b"\x81\x02hi")
        assert await connection.read_exactly(3 * len(early) + 1) == early * 3 + b"!"
        await connection.send(CLEAN)
        await connection.wait_ended()

    async with RawUpstream(talk) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        await wait_for(lambda: origin.connections)
        await client.send(early * 3)
        assert (await client.read_until(b"\x81\x02hi")).endswith(b"\x81\x02hi")
        await client.send(b"!")  # it is still read, though it had to wait
        await client.read_until(CLEAN)
        await client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Content-Length: 2\r\n\r\nhi",
        b"GET /up/ HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Content-Length: 2\r\n\r\nhi",
        b"GET /up/ HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"GET /up/ HTTP/1.0\r\nHost: a\r\n" + UPGRADE + b"\r\n",
        b"GET /up/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
    ],
)
async def test_what_is_no_handshake_crosses_as_an_ordinary_request(request_bytes: bytes) -> None:
    async with Origin(OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(request_bytes)
        assert message.body == b"ok"
        await client.close()
        assert origin.requests[0].values(b"upgrade") == []
        assert origin.requests[0].values(b"connection") == []
        assert origin.requests[0].body == (b"hi" if b"hi" in request_bytes else b"")
        assert origin.connections[0].unread == b""


async def test_a_slow_reader_of_a_websocket_stalls_the_upstream() -> None:
    """Acceptance E65, in small."""
    frame = b"\x82\x7f" + (1 << 20).to_bytes(8, "big") + b"x" * (1 << 20)

    async def flood(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH)
        for _ in range(30):
            await connection.send(frame)
        await connection.send(CLEAN)
        await connection.wait_ended()

    async with RawUpstream(flood) as origin, rig(origin, max_body=1 << 20) as gateway:
        client = await gateway.client()
        client.pause()
        await client.send(ASK + b"\r\n")
        await wait_for(lambda: any(not connection.writable for connection in gateway.relay.connections))
        (exchange,) = gateway.relay.exchanges
        assert exchange.client.transport.get_write_buffer_size() < 1 << 20
        client.resume()
        await client.read_head()
        assert await client.read_exactly(30 * len(frame)) == frame * 30
        await client.close()
