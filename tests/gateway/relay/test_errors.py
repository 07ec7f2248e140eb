"""When the upstream cannot be asked: Verbatim's own answer, in the provider's shape."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import time

import pytest
from rawsockets import RawUpstream, wait_for
from relayrig import OK, Origin, Rig, final, rig

from gateway.routes import Route
from gateway.upstream import Connection

ASK = b"POST /up/v1/x?key=canary HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer canary\r\nContent-Length: 4\r\n\r\nbody"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def check(gateway: Rig, status: int, code: str, reason: str) -> dict[str, object]:
    """Ask once; what every answer of Verbatim's own has in common. The body's JSON."""
    message, client = await gateway.ask(ASK)
    assert message.status == status
    assert message.values(b"content-type") == [b"application/json"]
    assert message.values(b"content-length") == [b"%d" % len(message.body)]
    assert message.values(b"x-verbatim-error") == [code.encode()]
    assert b"canary" not in client.received
    await client.send(ASK)  # the connection stays usable
    assert (await final(client)).status == status
    await client.close()
    kept = (await gateway.ended(2))[0]
    assert message.values(b"x-verbatim-id") == [kept.id.encode()]
    assert kept.response is not None
    assert (kept.response.status, kept.response.origin) == (status, "gateway")
    assert kept.response_body == message.body
    assert kept.end is not None
    assert kept.end.reason == reason
    assert "canary" not in kept.end.detail
    value = json.loads(message.body)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("openai", {"error": {"type": "server_error", "param": None, "code": "upstream_unreachable"}}),
        ("anthropic", {"type": "error", "error": {"type": "api_error"}}),
        ("gemini", {"error": {"code": 502, "status": "UNAVAILABLE"}}),
    ],
)
async def test_a_refused_connection_is_a_502_in_the_provider_s_shape(shape: str, expected: dict[str, object]) -> None:
    """Acceptance D46."""
    url = f"http://127.0.0.1:{closed_port()}/?key=canary"
    async with rig({"up": Route.parse("up", url, shape=shape)}) as gateway:
        started = time.monotonic()
        body = await check(gateway, 502, "upstream_unreachable", "upstream_refused")
        assert time.monotonic() - started < 1.0
    error = body["error"]
    assert isinstance(error, dict)
    assert "Connection refused" in error.pop("message")
    if "request_id" in body:
        assert body.pop("request_id")
    assert body == expected


async def test_a_name_that_does_not_resolve_is_a_502() -> None:
    """Acceptance D46."""
    async with rig("http://no-such-host.invalid") as gateway:
        body = await check(gateway, 502, "upstream_dns", "upstream_refused")
    assert "no-such-host.invalid" in json.dumps(body)


async def test_a_name_the_resolver_cannot_even_take_is_a_502() -> None:
    route = dataclasses.replace(Route.parse("up", "http://localhost"), host="x" * 70 + ".example")  # a label has 63 at most
    async with rig({"up": route}) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        await client.close()


async def test_an_upstream_that_does_not_accept_in_time_is_a_504() -> None:
    """Acceptance B28, D45."""
    with socket.socket() as full:  # a listener whose queue is full: the kernel lets further handshakes wait
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with rig(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.3) as gateway:
                await check(gateway, 504, "upstream_timeout", "timeout")
        finally:
            for filler in fillers:
                filler.close()


async def test_an_upstream_that_is_silent_beyond_the_read_timeout_is_a_504(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance B28."""
    monkeypatch.setattr("gateway.relay.TICK", 0.05)

    async def silent(connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(silent) as origin, rig(origin, read_timeout=0.2) as gateway:
        await check(gateway, 504, "upstream_timeout", "timeout")
        await wait_for(lambda: all(connection.lost or connection.eof for connection in origin.connections))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("said", [b"", b"HT", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_an_upstream_that_leaves_before_its_answer_is_a_502(how: str, said: bytes) -> None:
    """Acceptance D43: at byte 0 and inside the head."""

    async def leave(connection) -> None:
        await connection.read_message()
        await connection.send(said)
        await (connection.close() if how == "close" else connection.reset())

    async with RawUpstream(leave) as origin, rig(origin) as gateway:
        await check(gateway, 502, "upstream_closed", "upstream_closed")
        assert len(origin.connections) == 2  # a POST is never tried again


async def test_a_post_without_an_answer_is_not_sent_again() -> None:
    async def leave(connection) -> None:
        await connection.read_message()

    async with RawUpstream(leave) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        await client.close()
        assert len(origin.connections) == 1


async def test_an_answer_to_head_has_no_body() -> None:
    async with rig(f"http://127.0.0.1:{closed_port()}") as gateway:
        message, client = await gateway.ask(b"HEAD /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert message.status == 502
        assert int(message.values(b"content-length")[0]) > 0
        await client.send(b"HEAD /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await final(client, b"HEAD")).status == 502
        assert client.unread == b""
        await client.close()


async def test_a_failed_dial_during_an_upload_still_answers() -> None:
    async with rig(f"http://127.0.0.1:{closed_port()}") as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 300_000)
        message = await final(client)
        assert message.status == 502
        assert message.values(b"connection") == [b"close"]
        await client.wait_ended()
        assert client.error is None
        await client.close()


async def test_a_dial_is_made_once_however_long_it_takes() -> None:
    async with Origin(OK) as origin, rig(origin) as gateway:
        dialled = []
        connect, go = gateway.relay.pool.connect, asyncio.Event()

        async def slow(route: Route) -> Connection:
            dialled.append(route)
            await go.wait()
            return await connect(route)

        gateway.relay.pool.connect = slow
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nha")
        await wait_for(lambda: dialled)
        await client.send(b"lf")
        await client.send(b"full")
        go.set()
        assert (await final(client)).status == 200
        await client.close()
        assert origin.requests[0].body == b"halffull"
        assert len(dialled) == 1


@pytest.mark.parametrize(("shape", "kind"), [("openai", "server_error"), ("anthropic", "overloaded_error"), ("gemini", "UNAVAILABLE")])
async def test_one_stream_too_many_is_told_so_at_once(shape: str, kind: str) -> None:
    """Acceptance B28, J123: in the provider's shape, with Retry-After, without a look at the body."""

    async def think(connection, request) -> None:
        await go.wait()
        await connection.send(OK)

    go = asyncio.Event()
    async with Origin(think) as origin, rig({"up": Route.parse("up", origin.url, shape=shape)}, max_streams=2) as gateway:
        running = [await gateway.client() for _ in range(2)]
        for client in running:
            await client.send(ASK)
        await wait_for(lambda: len(origin.requests) == 2)
        late = await gateway.client()
        for _ in range(3):  # its connection stays usable
            await late.send(ASK)
            message = await final(late)
            assert message.status == 503
            assert message.values(b"x-verbatim-error") == [b"overloaded"]
            assert message.values(b"retry-after") == [b"1"]
            assert message.values(b"content-length") == [b"%d" % len(message.body)]
            assert kind in message.body.decode()
        await late.send(ASK * 400)  # however many it sends ahead
        for _ in range(400):
            assert (await final(late)).status == 503
        large = await gateway.client()
        await large.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")  # and nothing of it
        message = await final(large)
        assert message.status == 503
        assert message.values(b"connection") == [b"close"]
        await large.close()
        page, other = await gateway.ask(b"GET /_verbatim/health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert page.status == 200
        assert json.loads(page.body)["overloaded_requests"] == 404
        await other.close()
        assert len(origin.connections) == 2
        go.set()
        for client in running:
            assert (await final(client)).status == 200
        await wait_for(lambda: not gateway.relay.exchanges)
        await late.send(ASK)
        assert (await final(late)).status == 200
        for client in (*running, late):
            await client.close()
    assert len(gateway.recording.exchanges) == 3
