"""The second path's own: proxies, HTTP/2 agreed on over TLS, and what is said when either fails."""

from __future__ import annotations

import asyncio

import pytest
from rawsockets import Connection, RawUpstream, wait_for
from relayrig import OK, Origin, Rig, final, rig
from rig import free_port as closed_port
from secondrig import H2Origin, HttpProxy, Socks5Proxy, certificate, h2_route

from gateway.routes import Route

ASK = b"POST /up/v1/x?a=%2F HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"


async def refused(gateway: Rig, status: int, code: str) -> bytes:
    """Ask once; it must be Verbatim's own answer, without the proxy's password. Its body."""
    message, client = await gateway.ask(ASK)
    await client.close()
    assert message.status == status
    assert message.values(b"x-verbatim-error") == [code.encode()]
    assert b"canary" not in client.received
    kept = (await gateway.ended(1))[0]
    assert kept.response is not None
    assert kept.response.origin == "gateway"
    assert kept.end is not None
    assert "canary" not in kept.end.detail
    return message.body


async def test_a_route_with_http2_speaks_it_where_the_upstream_does() -> None:
    async with Origin() as origin, H2Origin(origin.port) as front, rig({"up": h2_route(front.port)}) as gateway:
        for _ in range(3):
            message, client = await gateway.ask(ASK)
            assert message.body == b"ok"
            await client.close()
        assert front.pseudo[0] == {
            b":method": b"POST",
            b":scheme": b"https",
            b":authority": b"127.0.0.1:%d" % front.port,
            b":path": b"/v1/x?a=%2F",
        }
        assert len(front.connections) == 1  # kept for the next exchange
        assert origin.requests[0].body == b"hi"
    kept = (await gateway.ended(3))[0]
    assert kept.response is not None
    assert kept.response.version == "2"
    assert kept.request.version == "1.1"


async def test_exchanges_over_http_2_have_a_connection_each() -> None:
    async def wait(connection: Connection, _: object) -> None:
        await wait_for(lambda: len(origin.requests) == 5)
        await connection.send(OK)

    async with Origin(wait) as origin, H2Origin(origin.port) as front, rig({"up": h2_route(front.port)}) as gateway:
        answers = await asyncio.gather(*(gateway.ask(ASK) for _ in range(5)))
        for message, client in answers:
            assert message.body == b"ok"
            await client.close()
        assert len(front.connections) == 5


async def test_an_idle_http_2_connection_the_upstream_closed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.FRESH", 0.0)
    async with Origin() as origin, H2Origin(origin.port) as front, rig({"up": h2_route(front.port)}) as gateway:
        for count in (1, 2):
            message, client = await gateway.ask(ASK)
            assert message.body == b"ok"
            await client.close()
            assert len(front.connections) == count
            await front.connections[-1].close()


async def test_a_socks_proxy_is_asked_for_the_upstream_by_name() -> None:
    async with Origin() as origin, Socks5Proxy(login=(b"me", b"can:ary")) as proxy:
        route = Route.parse("up", f"http://localhost:{origin.port}", proxy=f"socks5h://me:can%3Aary@127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            message, client = await gateway.ask(ASK)
            await client.close()
            assert message.body == b"ok"
        assert proxy.asked == [(b"localhost", origin.port)]
        assert origin.requests[0].target == b"/v1/x?a=%2F"


async def test_an_http_proxy_tunnels_to_a_tls_upstream() -> None:
    async with Origin() as origin, H2Origin(origin.port) as front, HttpProxy() as proxy:
        route = h2_route(front.port, proxy=f"http://me:canary@127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            message, client = await gateway.ask(ASK)
            await client.close()
            assert message.body == b"ok"
        assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % front.port)
        assert b"Proxy-Authorization: Basic bWU6Y2FuYXJ5\r\n" in proxy.heads[0]
        assert front.pseudo[0][b":path"] == b"/v1/x?a=%2F"
        assert b"authorization" not in b"".join(origin.heads).lower()


async def test_an_http_proxy_is_asked_in_absolute_form_for_a_plain_upstream() -> None:
    async with Origin(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", keep=False) as origin, HttpProxy() as proxy:
        route = Route.parse("up", origin.url, proxy=f"http://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            message, client = await gateway.ask(b"GET /up/v1//x?a=%2F HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.close()
            assert message.body == b"ok"
        assert proxy.heads == [b"GET %b/v1//x?a=%%2F HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (origin.url.encode(), origin.port)]


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_a_proxy_that_cannot_be_reached_is_a_502_that_says_so(scheme: str) -> None:
    route = Route.parse("up", "https://upstream.example", proxy=f"{scheme}://me:canary@127.0.0.1:{closed_port()}")
    async with rig({"up": route}) as gateway:
        assert b"proxy" in await refused(gateway, 502, "proxy_error")


async def test_a_proxy_that_refuses_is_a_502_that_says_why() -> None:
    async with Socks5Proxy(refuse=5) as proxy:
        route = Route.parse("up", "http://127.0.0.1:1", proxy=f"socks5://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            assert b"Connection refused" in await refused(gateway, 502, "proxy_error")
    async with Socks5Proxy(login=(b"me", b"other")) as proxy:
        route = Route.parse("up", "http://127.0.0.1:1", proxy=f"socks5://me:canary@127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            assert b"password" in await refused(gateway, 502, "proxy_error")
    async with HttpProxy(refuse=b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        route = Route.parse("up", "https://127.0.0.1:1", proxy=f"http://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            assert b"407" in await refused(gateway, 502, "proxy_error")


@pytest.mark.parametrize("scheme", ["socks5", "http"])
@pytest.mark.parametrize("said", [b"", b"SSH-2.0-nothing of the kind\r\n\r\n"], ids=["silence", "noise"])
async def test_a_proxy_that_does_not_answer_as_one_is_told(scheme: str, said: bytes) -> None:
    async def other(connection: Connection) -> None:
        await connection.send(said)
        await connection.wait_ended()

    async with RawUpstream(other) as proxy:
        route = Route.parse("up", "https://127.0.0.1:1", proxy=f"{scheme}://127.0.0.1:{proxy.port}")
        async with rig({"up": route}, connect_timeout=0.5) as gateway:
            await refused(gateway, 502 if said else 504, "proxy_error")
            await wait_for(lambda: all(connection.eof or connection.lost for connection in proxy.connections))


async def test_a_client_that_leaves_while_a_proxy_is_dialled_stops_the_dial() -> None:
    async def silent(connection: Connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(silent) as proxy:
        route = Route.parse("up", "https://127.0.0.1:1", proxy=f"socks5://127.0.0.1:{proxy.port}")
        async with rig({"up": route}) as gateway:
            client = await gateway.client()
            await client.send(ASK)
            await wait_for(lambda: proxy.connections and proxy.connections[0].received)
            await client.close()
            await wait_for(lambda: proxy.connections[0].eof or proxy.connections[0].lost)


async def test_an_untrusted_or_missing_tls_upstream_is_a_502() -> None:
    async with Origin() as origin, H2Origin(origin.port) as front:
        async with rig({"up": Route.parse("up", f"https://127.0.0.1:{front.port}", http2=True)}) as gateway:
            assert b"not trusted" in await refused(gateway, 502, "upstream_tls")
        assert front.pseudo == []
    async with rig({"up": h2_route(closed_port())}) as gateway:
        assert b"Connection refused" in await refused(gateway, 502, "upstream_unreachable")
    async with rig({"up": Route.parse("up", "https://no-such-host.invalid", http2=True)}) as gateway:
        await refused(gateway, 502, "upstream_dns")


async def test_an_upstream_without_http_2_is_asked_in_http_1_1() -> None:
    async with Origin() as origin, H2Origin(origin.port, alpn=("http/1.1",)) as front:

        async def plain(connection: Connection) -> None:
            await connection.read_message()
            await connection.send(OK)
            await connection.wait_ended()

        front.handler = plain
        async with rig({"up": h2_route(front.port)}) as gateway:
            message, client = await gateway.ask(ASK)
            await client.close()
            assert message.body == b"ok"
        kept = (await gateway.ended())[0]
        assert kept.response is not None
        assert kept.response.version == "1.1"


async def test_a_gateway_without_such_routes_does_not_load_the_second_path() -> None:
    async with rig({"up": Route.parse("up", "http://127.0.0.1:1")}) as gateway:
        assert gateway.relay.pool._second is None
    assert certificate().exists()


async def test_a_second_request_on_a_client_s_connection_may_take_the_other_path() -> None:
    async with Origin() as origin:
        routes = {"up": Route.parse("up", origin.url), "second": Route.parse("second", origin.url, http2=True)}
        async with rig(routes) as gateway:
            client = await gateway.client()
            for name in (b"up", b"second", b"up"):
                await client.send(b"GET /" + name + b"/x HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await final(client)).body == b"ok"
            await client.close()
