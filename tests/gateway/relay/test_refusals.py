"""What a client sends that is no acceptable HTTP/1.1: refused, and the upstream sees nothing of it or sees it broken."""

from __future__ import annotations

import json

import pytest
from rawsockets import wait_for
from relayrig import OK, Origin, RawUpstream, final, rig

from gateway import client as client_module
from gateway import relay as relay_module

POST = b"POST /up/ HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /up/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

AMBIGUOUS = [
    b"Content-Length: 5\r\n" + CHUNKED,
    CHUNKED + b"Content-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5,6\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length: 5 5\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 9223372036854775808\r\n",
    b"Content-Length: 18446744073709551621\r\n",
    b"Content-Length : 5\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b'Transfer-Encoding: "chunked"\r\n',
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding:\r\n",
    b"Content-Length: 1 1\r\n",
    b"Content-Length: 5;\r\n",
    b'Content-Length: "5"\r\n',
    b"Content-Length: 00000000000000000000005\r\n",
    b"Content-Length: \xd9\xa5\r\n",
    b"Content-Length: 5\r\nContent-Length:\r\n",
    b"Content-Length:\x0b5\r\n",
    b"Content-Length: 5\x00\r\n",
    b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: chunked\xa0\r\n",
    b"Transfer-Encoding: \x00chunked\r\n",
    b"Transfer-Encoding: chunked\x0c\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding\r\n: chunked\r\n",
    b"X: 1\nTransfer-Encoding: chunked\r\n",
    b"X: 1\rTransfer-Encoding: chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\n\tidentity\r\n",
]


@pytest.mark.parametrize("field", AMBIGUOUS)
async def test_ambiguous_framing_is_refused_and_the_upstream_sees_nothing(field: bytes) -> None:
    """Acceptance C30."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(POST + field + b"\r\n0\r\n\r\n" + SMUGGLED)
        assert message.status in {400, 501}
        assert message.values(b"connection") == [b"close"]
        await client.wait_ended()
        assert client.unread == b""
        await client.close()
        assert origin.connections == []


async def test_a_transfer_coding_from_an_http_1_0_client_is_refused() -> None:
    """Acceptance C30."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"POST /up/ HTTP/1.0\r\nHost: a\r\n" + CHUNKED + b"\r\n0\r\n\r\n")
        assert message.status == 400
        await client.close()
        assert origin.connections == []


MALFORMED = [
    b"GET /up/ HTTP/1.1\nHost: a\n\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX: 1\r\n\tfolded\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX\t: 1\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX(: 1\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    b"GET  /up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/ x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\t/up/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/\r\nHost: a\r\n\r\n",
    b"get /up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/ HTTP/1.1 \r\nHost: a\r\n\r\n",
    b"GET /up/ HTTP/9.9\r\nHost: a\r\n\r\n",
    b"GET /up/ http/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /up/\xe4 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/ HTTP/1.1\rHost: a\r\n\r\n",
    b"GET /up/\rX HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://u:p@a/up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http:///up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a\\b/up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"G(T /up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b" GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n\rX: y\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\nX\xe4: 1\r\n\r\n",
    b"GET /up/ HTTP/1.1\r\nHost: a\r\n\xa0X: 1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    *[b"GET /up/ HTTP/1.1\r\nHost: a\r\nX: a" + bytes([byte]) + b"b\r\n\r\n" for byte in (0, 1, 8, 11, 12, 25, 27, 31, 127)],
]


@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_a_malformed_head_is_refused_and_never_relayed(request_bytes: bytes) -> None:
    """Acceptance C32."""
    async with Origin() as origin, rig({"up": origin.url}, default="up") as gateway:
        message, client = await gateway.ask(request_bytes)
        assert message.status in {400, 505}
        assert json.loads(message.body)["error"]["code"] == "bad_request"
        await client.wait_ended()
        await client.close()
        assert origin.connections == []


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host: a b\r\n",
        b"Host: a/b\r\n",
        b"Host: u@a\r\n",
        b"Host: a,b\r\n",
        b"Host:\r\n",
        b"Host: a:b\r\n",
        b"Host: a:999999\r\n",
        b"Host: \xc3\xa4\r\n",
        b"Host: [::1\r\n",
        b"Host: a\\b\r\n",
        b"Host: :80\r\n",
    ],
)
async def test_a_missing_double_or_invalid_host_is_refused(hosts: bytes) -> None:
    """Acceptance C33."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\n" + hosts + b"X: 1\r\n\r\n")
        assert message.status == 400
        await client.close()
        assert origin.connections == []


@pytest.mark.parametrize(
    "chunk",
    [
        b"0x1\r\na\r\n",
        b"-1\r\na\r\n",
        b"+1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r\n",
        b"g\r\n",
        b"8000000000000000\r\n",
        b"10000000000000001\r\n",
        b"1" + b";x" * 600 + b"\r\n",
        b"1;\x00\r\na\r\n",
        b"\r\n",
        b'1;a="\r\nb"\r\na\r\n',
        b"1;a\rb\r\na\r\n",
        b"1;a\nb\r\na\r\n",
        b"1\r\na\n",
        b"1 \r\na\r\n",
        b"1\t\r\na\r\n",
        b"1,2\r\na\r\n",
        b"80000000\r\na\r\n",
        b"0\r\nX: y\n\n",
        b"0\r\nX : y\r\n\r\n",
    ],
)
@pytest.mark.parametrize("first", [b"", b"4\r\ngood\r\n"])
async def test_a_chunk_trick_breaks_the_upstream_s_request(chunk: bytes, first: bytes) -> None:
    """Acceptance C35."""
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST + CHUNKED + b"\r\n" + first)
        await wait_for(lambda: origin.connections and origin.connections[0].received.endswith(first or b"\r\n\r\n"))
        await client.send(chunk + b"0\r\n\r\n" + SMUGGLED)
        assert (await final(client)).status == 400
        await client.wait_ended()
        await client.close()
        upstream = origin.connections[0]
        await wait_for(lambda: upstream.eof or upstream.lost)
        assert bytes(upstream.received).endswith(b"\r\n\r\n" + first)
        assert origin.requests == []
    kept = await gateway.only()
    assert kept.complete[0] is False


@pytest.mark.parametrize(
    "head",
    [
        b"GET /up/ HTTP/1.1\r\nHost: a\r\nX: " + b"v" * (128 << 10),
        b"GET /up/" + b"v" * (128 << 10),
        b"GET /up/ HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 300 + b"\r\n",
    ],
)
async def test_a_head_beyond_the_limits_is_refused_with_431(head: bytes) -> None:
    """Acceptance C39."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(head)
        assert message.status == 431
        await client.close()
        assert origin.connections == []


async def test_a_head_that_does_not_come_to_its_end_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance C40."""
    monkeypatch.setattr(relay_module, "TICK", 0.05)
    async with Origin() as origin, rig(origin, header_timeout=0.3) as gateway:
        slow, good = await gateway.client(), await gateway.client()
        await slow.send(b"GET /up/ HTTP/1.1\r\n")
        while not slow.eof and not slow.lost:
            await good.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await final(good)).status == 200
            if not slow.lost and not slow.eof:
                slow.transport.write(b"X: 1\r\n")  # dripping does not help
        assert bytes(slow.received) == b""
        await slow.close()
        await good.close()
        assert not any(b"X: 1" in connection.received for connection in origin.connections)


async def test_the_time_for_a_head_begins_with_its_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "TICK", 0.02)
    async with Origin() as origin, rig(origin, header_timeout=1.0) as gateway:
        client = await gateway.client()
        (connection,) = await wait_for(lambda: list(gateway.relay.connections))
        connection._since -= 60.0  # idle for a minute, as keep-alive allows
        await client.send(b"GET /up/ HTTP/1.1\r\n")
        tick = gateway.relay._timer
        await wait_for(lambda: gateway.relay._timer is not tick)
        await client.send(b"Host: a\r\n\r\n")
        assert (await final(client)).status == 200
        await client.close()


@pytest.mark.parametrize("host", [b"a", b"a:80", b"a:", b"[::1]:8787", b"127.0.0.1", b"a_b.c-d:1"])
async def test_a_host_with_or_without_a_port_is_taken(host: bytes) -> None:
    """Acceptance C33."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert message.status == 200
        await client.close()
        assert origin.requests[0].values(b"host") == [f"127.0.0.1:{origin.port}".encode()]


async def test_an_idle_connection_is_kept_for_over_a_minute_and_then_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "TICK", 0.02)
    assert client_module.IDLE >= 65
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        (connection,) = await wait_for(lambda: list(gateway.relay.connections))
        connection._since -= 66.0
        await client.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await final(client)).status == 200
        connection._since -= 80.0
        await client.wait_ended()
        await client.close()


async def test_empty_lines_before_a_request_are_skipped() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST + b"Content-Length: 4\r\n\r\nbody\r\n\r\n")
        assert (await final(client)).status == 200
        for piece in (b"\r", b"\n\r", b"\n", b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"):
            await client.send(piece)
        assert (await final(client)).status == 200
        await client.close()
        assert len(origin.requests) == 2


async def test_a_request_cut_into_single_bytes_is_the_same_request() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        request = POST + CHUNKED + b"X: 1\r\n\r\n3\r\nabc\r\n1a;ext=1\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n"
        for at in range(len(request)):
            await client.send(request[at : at + 1])
        assert (await final(client)).status == 200
        await client.close()
        assert origin.requests[0].body == b"abcabcdefghijklmnopqrstuvwxyz"


async def test_an_unread_upload_never_becomes_the_next_request() -> None:
    """Acceptance C38."""

    async def refuse(connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        await connection.wait_ended()

    async with RawUpstream(refuse) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST + b"Content-Length: 1000\r\n\r\n")
        assert (await final(client)).status == 401
        client.transport.write(SMUGGLED * 20)
        await client.wait_ended()
        assert client.unread == b""
        await client.close()
        assert len(origin.connections) == 1
        assert b"smuggled" not in origin.connections[0].received


async def test_an_upload_to_no_route_is_told_so_too() -> None:
    """Acceptance B28: the answer is not lost with what nobody reads."""
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(20):
            await client.send(b"x" * 1_000_000)
        message = await final(client, b"POST")
        assert message.status == 404
        assert message.values(b"x-verbatim-error") == [b"no_route"]
        assert message.values(b"connection") == [b"close"]
        assert b"/up" in message.body
        await client.close()


async def test_a_path_that_is_no_route_is_told_which_there_are() -> None:
    async with Origin() as origin, rig({"openai": origin.url, "mine": origin.url}) as gateway:
        for line in (b"GET /nothing/here", b"POST /", b"PROPFIND /x", b"OPTIONS *", b"GET /OpenAI/v1", b"POST /v1/messages"):
            message, client = await gateway.ask(line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            if message.status != 405:  # POST to a page of our own
                assert message.status == 404
                assert message.values(b"x-verbatim-error") == [b"no_route"]
                assert "/openai, /mine. The setting default_route names" in json.loads(message.body)["error"]["message"]
            await client.wait_ended()
            await client.close()
        assert origin.connections == []


async def test_a_page_of_the_gateway_s_own_does_not_take_the_connection_s_next_request() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /_verbatim/health HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
        assert message.status == 200
        assert json.loads(message.body)["exchanges"] == {"total": 0, "active": 0, "failed": 0}
        assert message.values(b"connection") == [b"close"]  # so that a pool opens a new one
        await client.wait_ended()
        await client.close()


async def test_a_page_of_the_gateway_s_own_takes_a_body_in_pieces() -> None:
    async with Origin(OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /nowhere HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n3\r\nab")
        await client.send(b"c\r\n0\r\n\r\n")
        assert (await final(client)).status == 404
        await client.wait_ended()
        await client.close()
