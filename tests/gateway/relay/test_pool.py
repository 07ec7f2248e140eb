"""Connections to upstreams are used again when that is safe, and only then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from rawsockets import Connection, wait_for
from readback import Message
from relayrig import OK, Origin, final, rig

from gateway.client import ClientConnection
from gateway.routes import Route

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
    """Acceptance D52."""

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
    """Acceptance D52."""

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


# How long a connection is kept


def answered(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length: 2", b"", b"ok"])


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"Keep-Alive: timeout=5", 4.0),  # what Node says; it closes a second later by itself
        (b"keep-alive: max=100, Timeout=75", 60.0),
        (b'Keep-Alive: timeout="20"', 19.0),
        (b"Keep-Alive: timeout=1", 0.5),
        (b"Keep-Alive: max=100", 4.0),
        (b"Keep-Alive: timeout=-5", 4.0),
        (b"Keep-Alive: timeout=x", 4.0),
        (b"Keep-Alive: xtimeout=20", 4.0),
        (b"X-Other: 1", 4.0),
    ],
)
async def test_an_upstream_s_promise_says_how_long_its_connection_is_kept(line: bytes, kept: float) -> None:
    async with Origin(answered(line)) as origin, rig(origin) as gateway:
        _, client = await gateway.ask(POST)
        await client.close()
        await wait_for(lambda: not gateway.relay.exchanges)
        (idle,) = gateway.relay.pool._idle["up"]
        assert idle.keep_for == kept


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({"idle_timeout": 30.0}, 19.0), ({"idle_timeout_max": 10.0}, 10.0), ({"idle_timeout": 7.0, "idle_timeout_max": 5.0}, 7.0)],
)
async def test_a_promise_is_bounded_by_the_settings(settings: dict[str, float], kept: float) -> None:
    async with Origin(answered(b"Keep-Alive: timeout=20")) as origin, rig(origin, **settings) as gateway:
        _, client = await gateway.ask(POST)
        await client.close()
        await wait_for(lambda: not gateway.relay.exchanges)
        (idle,) = gateway.relay.pool._idle["up"]
        assert idle.keep_for == kept


@pytest.mark.parametrize(("own", "said", "kept"), [(2.0, 75, 2.0), (30.0, 5, 4.0), (90.0, 600, 90.0)])
async def test_a_route_s_own_idle_timeout_is_not_made_longer(own: float, said: int, kept: float) -> None:
    origin = Origin(answered(b"Keep-Alive: timeout=%d" % said))
    async with origin, rig({"up": Route.parse("up", origin.url, idle_timeout=own)}) as gateway:
        _, client = await gateway.ask(POST)
        await client.close()
        await wait_for(lambda: not gateway.relay.exchanges)
        (idle,) = gateway.relay.pool._idle["up"]
        assert idle.keep_for == kept


@pytest.mark.parametrize("where", ["gateway", "route"])
async def test_an_idle_timeout_of_zero_uses_no_connection_twice(where: str) -> None:
    async with Origin(answered(b"Keep-Alive: timeout=75")) as origin:
        route = Route.parse("up", origin.url, idle_timeout=0.0 if where == "route" else None)
        async with rig({"up": route}, **({"idle_timeout": 0.0} if where == "gateway" else {})) as gateway:
            for count in (1, 2):
                _, client = await gateway.ask(POST)
                await client.close()
                await wait_for(lambda: not gateway.relay.exchanges)
                assert len(origin.connections) == count


async def test_a_connection_past_its_time_is_not_used_before_the_sweep_comes() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        for count in (1, 2):
            message, client = await gateway.ask(POST)
            assert message.body == b"ok"
            await client.close()
            await wait_for(lambda: not gateway.relay.exchanges)
            (idle,) = gateway.relay.pool._idle["up"]
            idle.idle_since -= idle.keep_for
            assert len(origin.connections) == count


async def test_a_connection_does_not_live_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is looked up anew: an upstream that moved is followed though its old address still answers."""
    async with Origin() as origin, rig(origin) as gateway:
        monkeypatch.setattr("gateway.upstream.OLD", 0.0)
        for count in (1, 2):
            message, client = await gateway.ask(POST)
            assert message.body == b"ok"
            await client.close()
            await wait_for(lambda: not gateway.relay.exchanges)
            assert len(origin.connections) == count


# Connections that die, and when


async def die(connection: Connection, _: object) -> None:
    await connection.reset()


async def asked_on_a_kept_connection(line: bytes, *scripts: Any) -> tuple[Origin, Message]:
    """A request that makes a connection, then `line` on it, which `scripts` answer one try each: the origin, the answer."""
    async with Origin(OK, *scripts) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        await client.send(line)
        message = await final(client, line.split(b" ", 1)[0])
        await client.close()
        return origin, message


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
async def test_a_request_that_may_be_repeated_is_sent_once_more(method: bytes) -> None:
    """Acceptance D52."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    origin, message = await asked_on_a_kept_connection(GET.replace(b"GET", method), die, answer)
    assert message.status == 200
    assert [request.method for request in origin.requests] == [b"POST", method, method]
    assert origin.heads[1] == origin.heads[2]
    assert len(origin.connections) == 2


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"])
async def test_no_other_method_is_sent_twice(method: bytes) -> None:
    """Acceptance D52."""
    origin, message = await asked_on_a_kept_connection(GET.replace(b"GET", method), die, OK)
    assert message.status == 502
    assert len(origin.requests) == 2
    assert len(origin.connections) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"])
async def test_what_has_begun_to_answer_is_not_asked_again(begun: bytes, how: str) -> None:
    async def begin(connection: Connection, _: object) -> None:
        (exchange,) = gateway.relay.exchanges
        assert exchange.upstream is not None
        reader = exchange.upstream.reader
        await connection.send(begun)
        await wait_for(lambda: reader.waiting or b" 103 " in client.received)
        await (connection.close() if how == "close" else connection.reset())

    async with Origin(OK, begin, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for status in (200, 502):
            await client.send(GET)
            assert (await final(client)).status == status
        await client.close()
        assert len(origin.requests) == 2


async def test_what_answers_with_no_http_is_not_asked_again() -> None:
    origin, message = await asked_on_a_kept_connection(GET, b"SSH-2.0-x\r\n\r\n", OK)
    assert message.status == 502
    assert len(origin.requests) == 2


async def test_an_upload_half_written_when_the_connection_dies_is_not_sent_again() -> None:
    """Acceptance D52: bytes of it were sent, though not all."""

    async def serve(connection: Connection) -> None:
        heads.append(await connection.read_head())
        if len(heads) == 1:
            await connection.read_exactly(4)
            await connection.send(OK)
            heads.append(await connection.read_head())
            await connection.reset()
            return
        await connection.send(OK)

    heads: list[bytes] = []
    origin = Origin()
    origin.handler = serve
    async with origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(50_000))
        assert (await final(client)).status == 502
        await client.close()
        assert len(heads) == 2
        assert len(origin.connections) == 1


async def test_a_request_once_repeated_ends_with_the_second_try_s_failure() -> None:
    async with Origin(OK, die) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        assert (await final(client)).status == 200
        await wait_for(lambda: not gateway.relay.exchanges)
        origin._server.close()  # no more connections
        await client.send(GET)
        message = await final(client)
        assert message.status == 502
        assert message.values(b"x-verbatim-error") == [b"upstream_unreachable"]
        await client.close()


async def test_a_fresh_connection_that_dies_is_no_reason_to_ask_again() -> None:
    async with Origin(die, OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(GET)
        assert message.status == 502
        await client.close()
        assert len(origin.requests) == 1


async def test_a_pool_that_is_all_dead_costs_one_try() -> None:
    """Many kept connections died at once, as when an upstream restarts: a GET is tried on one of them, then on a fresh one."""

    async def together(connection: Connection, request: Message) -> None:
        await wait_for(lambda: len(origin.requests) >= 5 or request.target != b"/together")
        await connection.send(OK)

    async with Origin(together) as origin, rig(origin) as gateway:
        line = GET.replace(b"/up/", b"/up/together")
        for _, client in await asyncio.gather(*(gateway.ask(line) for _ in range(5))):
            await client.close()
        await wait_for(lambda: len(gateway.relay.pool._idle["up"]) == 5)
        for idle in gateway.relay.pool._idle["up"]:
            idle.transport.pause_reading()  # stands for a loop that had no time to read
        for connection in list(origin.connections):
            await connection.reset()
        message, client = await gateway.ask(GET)
        assert message.body == b"ok"
        await client.close()
        assert len(origin.connections) == 6


async def test_fifty_clients_get_their_own_answers_and_cancels_poison_nothing() -> None:
    """Acceptance D51."""

    async def echo(connection: Connection, request: Message) -> None:
        if b"slow" in request.target:
            await asyncio.sleep(0.001 * (len(origin.requests) % 7))
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.target) + request.target)

    async def ask(number: int) -> None:
        message, client = await gateway.ask(b"POST /up/slow/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % number)
        assert message.body == b"/slow/%d" % number
        await client.close()

    async def leave(number: int) -> None:
        client = await gateway.client()
        await client.send(b"POST /up/slow/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % number)
        await asyncio.sleep(0.001 * (number % 9))  # anywhere in the exchange: that is the point
        await client.reset()

    async with Origin(echo) as origin, rig(origin) as gateway:
        for start in range(0, 200, 50):
            await asyncio.gather(*(ask(number) if number % 2 else leave(number) for number in range(start, start + 50)))
        client = await gateway.client()
        for number in range(300):
            await client.send(b"GET /up/after/%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            assert (await final(client)).body == b"/after/%d" % number
        await client.close()
