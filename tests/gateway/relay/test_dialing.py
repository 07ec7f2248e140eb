"""Reaching an upstream: several addresses, names, descriptors that run out, proxies. Real sockets; only the resolver is patched."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rawsockets import Connection, RawUpstream, connect, wait_for
from relayrig import OK, Origin, Rig, final, rig
from rig import free_port
from secondrig import HttpProxy, Socks5Proxy, _pumped, certificate

from gateway import dialing
from gateway.dialing import Dialer, dial_failure, keep_alive
from gateway.errors import GatewayError
from gateway.routes import Route
from gateway.upstream import Connection as Upstream
from gateway.upstream import Pool

GET = b"GET /up/x HTTP/1.1\r\nHost: a\r\n\r\n"


def resolves(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> list[str]:
    """Have every name mean these addresses; the names that were looked up."""
    asked = []

    async def look_up(_: object, host: str, port: int) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(0)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, at)) for address, at in addresses
        ]

    monkeypatch.setattr(dialing, "_look_up", look_up)
    return asked


@contextlib.contextmanager
def full_listener(host: str = "127.0.0.1") -> Any:
    """A port that answers nothing: its queue of new connections is full, so the system drops what would begin another."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(listener.family))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def refused(message: Any) -> tuple[int, bytes]:
    return message.status, message.values(b"x-verbatim-error")[0]


# Several addresses


async def test_a_dead_first_address_costs_a_quarter_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_listener() as dead:
        async with Origin() as origin, rig("http://several.example") as gateway:
            resolves(monkeypatch, ("127.0.0.1", dead), ("127.0.0.1", origin.port))
            began = time.monotonic()
            message, client = await gateway.ask(GET)
            assert message.body == b"ok"
            assert 0.2 < time.monotonic() - began < 5.0  # far below the ten seconds that the first address would take
            await client.close()
        assert len(origin.connections) == 1


async def test_a_first_address_that_refuses_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Origin() as origin, rig("http://several.example") as gateway:
        monkeypatch.setattr(dialing, "EYEBALLS_DELAY", 60.0)
        resolves(monkeypatch, ("127.0.0.1", free_port()), ("127.0.0.1", origin.port))
        message, client = await gateway.ask(GET)
        assert message.body == b"ok"
        await client.close()


async def test_the_two_kinds_of_address_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dead IPv6 addresses come before one that lives (RFC 8305 section 4): IPv4 is tried second, not third."""
    with full_listener("::1") as dead:
        async with Origin() as origin, rig("http://several.example") as gateway:
            resolves(monkeypatch, ("::1", dead), ("::1", dead), ("::1", dead), ("127.0.0.1", origin.port))
            monkeypatch.setattr(dialing, "EYEBALLS_DELAY", 0.5)
            began = time.monotonic()
            message, client = await gateway.ask(GET)
            assert message.body == b"ok"
            assert time.monotonic() - began < 1.0  # one delay, not three
            await client.close()


async def test_only_where_no_address_answers_is_the_client_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance D45, D46."""
    with full_listener() as dead:
        async with rig("http://several.example", connect_timeout=0.6) as gateway:
            resolves(monkeypatch, ("127.0.0.1", dead), ("127.0.0.1", dead))
            message, client = await gateway.ask(GET)
            assert refused(message) == (504, b"upstream_timeout")
            await client.close()
            closed = free_port()
            resolves(monkeypatch, ("127.0.0.1", closed), ("127.0.0.1", closed))
            message, client = await gateway.ask(GET)
            assert refused(message) == (502, b"upstream_unreachable")
            assert b"Connection refused" in message.body
            await client.close()


async def test_losers_of_the_race_leave_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with full_listener() as dead:
        async with Origin() as origin, rig("http://several.example") as gateway:
            monkeypatch.setattr(dialing, "EYEBALLS_DELAY", 0.01)
            before = open_to(dead)
            resolves(monkeypatch, *[("127.0.0.1", dead)] * 5, ("127.0.0.1", origin.port))
            message, client = await gateway.ask(GET)
            assert message.body == b"ok"
            await client.close()
            gateway.relay.pool.close()
            await wait_for(lambda: open_to(dead) == before and not open_to(origin.port))


def open_to(port: int) -> int:
    """How many sockets of this process are connected, or being connected, to `port`."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/self/fd/{name}"))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(f"socket:[{line[9]}]" in inodes and line[2].endswith(f":{port:04X}") for line in lines)


# Names


async def test_each_dial_asks_for_the_name_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that moves is followed: nothing is remembered of a name but connections in use."""
    async with Origin() as first, Origin() as second, rig("http://moves.example", idle_timeout=0.0) as gateway:
        for origin in (first, second):
            asked = resolves(monkeypatch, ("127.0.0.1", origin.port))
            message, client = await gateway.ask(GET)
            assert message.body == b"ok"
            await client.close()
            assert asked == ["moves.example"]
            assert len(origin.connections) == 1


async def test_one_name_is_looked_up_once_at_a_time_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()
    asked = []

    async def look_up(_: object, host: str, port: int) -> list[Any]:
        asked.append(host)
        if host == "silent.example":
            await released.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", origin.port))]

    monkeypatch.setattr(dialing, "_look_up", look_up)
    async with Origin() as origin, rig({"up": "http://silent.example", "other": "http://other.example"}) as gateway:
        waiting = [await gateway.client() for _ in range(8)]
        for client in waiting:
            await client.send(GET)
        await wait_for(lambda: len(gateway.relay.exchanges) == 8)
        await waiting.pop().close()  # leaves while all wait: the others' look-up goes on
        message, client = await gateway.ask(GET.replace(b"/up/", b"/other/"))
        assert message.body == b"ok"
        await client.close()
        assert sorted(asked) == ["other.example", "silent.example"]
        released.set()
        for client in waiting:
            assert (await final(client)).body == b"ok"
            await client.close()


async def test_a_name_that_fails_fails_for_all_who_wait_and_is_asked_again_after(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def look_up(_: object, host: str, port: int) -> Sequence[Any]:
        asked.append(host)
        await asyncio.sleep(0.01)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(dialing, "_look_up", look_up)
    async with rig("http://none.example") as gateway:
        answers = await asyncio.gather(*(gateway.ask(GET) for _ in range(3)))
        for message, client in answers:
            assert refused(message) == (502, b"upstream_dns")
            await client.close()
        before = len(asked)
        message, client = await gateway.ask(GET)
        assert refused(message) == (502, b"upstream_dns")
        await client.close()
        assert len(asked) == before + 1


# What runs out


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EADDRNOTAVAIL])
def test_what_this_machine_has_no_more_of_is_a_503(number: int) -> None:
    failure = dial_failure(OSError(number, os.strerror(number)), Route.parse("up", "http://h"), 10)
    assert (failure.status, failure.code) == (503, "overloaded")
    through = Route.parse("up", "https://h", proxy="http://me:canary@p")
    failure = dialing.proxy_failure(OSError(number, os.strerror(number)), through, 10)
    assert failure.status == 503


async def test_descriptors_that_run_out_are_a_503_in_the_provider_s_shape() -> None:
    """Acceptance A83."""
    async with Origin() as origin, rig({"claude": origin.url}) as gateway:
        client = await gateway.client()
        await wait_for(lambda: gateway.relay.connections)
        with contextlib.ExitStack() as stack:
            with lowered_limit(), contextlib.suppress(OSError):
                while True:
                    stack.callback(os.close, os.dup(0))
            with lowered_limit():
                await client.send(GET.replace(b"/up/", b"/claude/"))
                message = await final(client)
        assert refused(message) == (503, b"overloaded")
        assert b'"overloaded_error"' in message.body
        await client.send(GET.replace(b"/up/", b"/claude/"))
        assert (await final(client)).body == b"ok"  # as soon as there are some again
        await client.close()


@contextlib.contextmanager
def lowered_limit() -> Any:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Ends in the wrong moment


async def test_a_connection_that_ends_before_anybody_has_it_is_told() -> None:
    """The end may come in the very turn of the loop in which the dial succeeds; nobody would hear of it again."""

    class Gone(Dialer):
        async def dial(self, route: Route, make: Any) -> Any:
            connection = await super().dial(route, make)
            connection.transport.abort()
            return connection

    async with Origin() as origin:
        pool = Pool(connect_timeout=5.0, idle_timeout=4.0)
        pool._dialer = Gone([], 5.0)
        with pytest.raises(GatewayError) as failure:
            await pool.connect(Route.parse("up", origin.url))
        assert failure.value.status == 502


async def test_a_dial_cancelled_at_any_step_leaves_no_socket() -> None:
    async with Origin() as origin, Socks5Proxy() as proxy:
        for route in (Route.parse("up", origin.url), Route.parse("up", origin.url, proxy=f"socks5://127.0.0.1:{proxy.port}")):
            dialer = Dialer([], 5.0)
            for steps in range(40):
                dial = asyncio.create_task(dialer.dial(route, lambda route=route: Upstream(route, lambda _: None)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                dial.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await dial).abort()
        await wait_for(lambda: all(connection.eof or connection.lost for connection in [*origin.connections, *proxy.connections]))


# Proxies on the wire


@contextlib.asynccontextmanager
async def behind(kind: str, origin: Origin) -> AsyncIterator[Rig]:
    """The gateway with the route "up" to a plain origin through SOCKS5, or to the same behind TLS through an HTTP proxy, plain or TLS."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "socks5":
            proxy: Any = await stack.enter_async_context(Socks5Proxy())
            route = Route.parse("up", origin.url, proxy=f"socks5h://127.0.0.1:{proxy.port}")
        else:
            front = await stack.enter_async_context(TlsFront(origin.port))
            proxy = await stack.enter_async_context(HttpProxy())
            through = proxy.port
            if kind == "https":
                through = (await stack.enter_async_context(TlsFront(proxy.port))).port
            scheme = "https" if kind == "https" else "http"
            route = Route.parse(
                "up", f"https://127.0.0.1:{front.port}", ca_file=str(certificate()), proxy=f"{scheme}://127.0.0.1:{through}"
            )
        yield await stack.enter_async_context(rig({"up": route}))


class TlsFront(RawUpstream):
    """TLS before a plain port."""

    def __init__(self, target: int) -> None:
        super().__init__(self._pass)
        self._target = target

    async def __aenter__(self) -> TlsFront:
        import ssl

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate())
        self._server = await asyncio.get_running_loop().create_server(self._accept, self.host, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _pass(self, client: Connection) -> None:
        with contextlib.suppress(NotImplementedError):  # TLS has no half-close: the end of one side is that of both
            await _pumped(client, await connect(self._target))


every_proxy = pytest.mark.parametrize("kind", ["socks5", "http"])


@every_proxy
async def test_a_proxy_carries_early_hints_and_trailers(kind: str) -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 Its Own\r\nX-Case: Kept\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    async with Origin(answer) as origin, behind(kind, origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(b"POST /up/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
            message = await final(client)
            assert (message.start, message.body) == (b"HTTP/1.1 200 Its Own", b"ok")
        await client.close()
        assert b"103 Early Hints" in client.received
        assert b"0\r\nX-Sum: 1\r\n\r\n" in client.received
        assert b"0\r\nX-Sum: 1\r\n\r\n" in origin.connections[0].received
        assert len(origin.connections) == 1  # kept, through the proxy, for the second request


@every_proxy
async def test_a_proxy_carries_websockets(kind: str) -> None:
    async def switch(connection: Connection, _: object) -> None:
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi")
        assert await connection.read_exactly(8) == b"\x81\x82\x00\x00\x00\x00ok"

    async with Origin(switch, keep=False) as origin, behind(kind, origin) as gateway:
        client = await gateway.client()
        handshake = (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await client.send(b"GET /up/ws HTTP/1.1\r\nHost: a\r\n" + handshake)
        assert (await client.read_head()).startswith(b"HTTP/1.1 101 ")
        assert await client.read_exactly(4) == b"\x81\x02hi"
        await client.send(b"\x81\x82\x00\x00\x00\x00ok")
        await client.read_to_end()
        await client.close()


@every_proxy
async def test_a_proxy_carries_an_early_refusal_of_an_upload(kind: str) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await connection.wait_ended()

    origin = Origin()
    origin.handler = refuse
    async with origin, behind(kind, origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + bytes(200_000))
        assert (await final(client)).body == b"big"
        await client.close()


async def test_a_proxy_may_itself_speak_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate()))
    async with Origin() as origin, behind("https", origin) as gateway:
        message, client = await gateway.ask(GET)
        assert message.body == b"ok"
        await client.close()


async def test_an_untrusted_upstream_behind_a_proxy_is_the_upstream_s_fault() -> None:
    async with Origin() as origin, TlsFront(origin.port) as front, HttpProxy() as proxy:
        route = Route.parse("up", f"https://127.0.0.1:{front.port}", proxy=f"http://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            message, client = await gateway.ask(GET)
            assert refused(message) == (502, b"upstream_tls")
            assert b"not trusted" in message.body
            await client.close()
        assert origin.requests == []


async def test_a_proxy_that_cuts_the_tunnel_breaks_the_stream() -> None:
    async def begin(connection: Connection, _: object) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await connection.wait_ended()

    async with Origin(begin) as origin, Socks5Proxy() as proxy:
        route = Route.parse("up", origin.url, proxy=f"socks5://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            client = await gateway.client()
            await client.send(GET)
            await client.read_until(b"ok\r\n")
            await proxy.connections[0].reset()
            assert not (await client.read_to_end()).endswith(b"0\r\n\r\n")
            await client.close()
        kept = await gateway.only()
        assert kept.end is not None
        assert kept.end.reason == "upstream_closed"


# Silence


@pytest.mark.parametrize(("own", "gateway_wide", "status"), [(0.05, 0.0, 504), (0.0, 0.05, 200), (None, 0.05, 504)])
async def test_a_route_s_read_timeout_goes_before_the_gateway_s(
    monkeypatch: pytest.MonkeyPatch, own: float | None, gateway_wide: float, status: int
) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.02)

    async def think(connection: Connection, _: object) -> None:
        await asyncio.sleep(0.4)  # far beyond the timeout
        with contextlib.suppress(ConnectionError):
            await connection.send(OK)

    async with Origin(think) as origin:
        route = Route.parse("up", origin.url, read_timeout=own)
        async with rig({"up": route}, read_timeout=gateway_wide) as gateway:
            message, client = await gateway.ask(GET)
            assert message.status == status
            await client.close()


def test_tcp_asks_whether_a_silent_peer_is_there() -> None:
    with socket.socket() as sock, socket.socket(socket.AF_UNIX) as other:
        keep_alive(sock)
        keep_alive(other)  # no TCP: left as it is
        keep_alive(None)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_KEEPIDLE"):
            seconds = [
                sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            ]
            assert seconds == [30, 10, 3]
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


async def test_no_silence_is_too_long_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance D45: two minutes before the first byte and ten between two, in a moment: what is looked at is when it was last heard."""
    monkeypatch.setattr("gateway.relay.TICK", 0.01)

    async def think(connection: Connection, _: object) -> None:
        await gap.wait()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await second_gap.wait()
        await connection.send(b"0\r\n\r\n")

    gap, second_gap = asyncio.Event(), asyncio.Event()
    async with Origin(think) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(GET)
        (exchange,) = await wait_for(lambda: [one for one in gateway.relay.exchanges if one.upstream is not None and one.request_done])
        for seconds, event in ((120, gap), (600, second_gap)):
            exchange.heard -= seconds
            exchange.started -= seconds
            ticks = 0
            while ticks < 5:  # a few looks at timeouts pass
                await asyncio.sleep(0.02)
                ticks += 1
            assert not exchange.over
            event.set()
            await wait_for(lambda: exchange.over or b"ok" in client.received)
        assert (await final(client)).body == b"ok"
        await client.close()


async def test_no_request_is_lost_to_an_upstream_that_closes_what_is_idle() -> None:
    """Acceptance D53, the upstream's side: what Node does after five seconds, at a fifth of the time; each request is a POST."""

    async def serve(connection: Connection) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            while True:
                async with asyncio.timeout(1.0):
                    request = await connection.read_message()
                seen.append(request.target)
                await connection.send(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok")

    async def ask(number: int) -> None:
        client = await gateway.client()
        for _ in range(3):
            await client.send(b"POST /up/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi" % number)
            assert (await final(client)).body == b"ok"
            await asyncio.sleep(0.3 + number * 0.03)  # the gaps lie on both sides of when the upstream closes
        await client.close()

    seen: list[bytes] = []
    async with RawUpstream(serve) as origin, rig(origin) as gateway:
        await asyncio.gather(*(ask(number) for number in range(40)))
        assert len(seen) == 120
        assert len(origin.connections) < 120
