"""One suite for both paths: what crosses is the same, whichever way a route takes.

`path` is the wire, straight or through SOCKS5, or the second path to an HTTP/1.1 or an HTTP/2 origin. Where the second path cannot do
what the wire does, the last part says what it does instead.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import time

import pytest
from rawsockets import Connection, RawUpstream, wait_for
from readback import Message
from relayrig import OK, Origin, final, rig
from secondrig import PATHS, H2Origin, Rig, h2_route, through

ASK = b"GET /up/x HTTP/1.1\r\nHost: gateway\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SECOND = [path for path in PATHS if path not in ("wire", "socks5")]

every_path = pytest.mark.parametrize("path", PATHS)
second_path = pytest.mark.parametrize("path", SECOND)


def plain(message: Message) -> list[tuple[bytes, bytes]]:
    """Fields without Host and framing, names in lower case: HTTP/2 knows no other (RFC 9113 section 8.2)."""
    return [(name.lower(), value) for name, value in message.fields if name.lower() not in (b"host", b"transfer-encoding")]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def gone(connection: Connection) -> bool:
    return connection.lost or connection.eof


# Requests


@every_path
@pytest.mark.parametrize(
    "target",
    [b"/v1/a%2Fb//c/../d%20e/%7Efoo;p=1/%E4", b"/v1/x?q=a+b%20c&x=%2F&x=2&empty=&noval&z=%zz&w[]=1", b"//double", b"/a?a=/..//b?c"],
)
async def test_both_paths_keep_the_target_s_bytes(path: str, target: bytes) -> None:
    async with Origin() as origin, through(path, origin) as gateway:
        answer, client = await gateway.ask(b"GET /up" + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await client.close()
        assert answer.body == b"ok"
        assert origin.requests[0].target == target
    assert (await gateway.only()).request.target == b"/up" + target


@every_path
async def test_both_paths_keep_duplicate_headers_and_add_nothing(path: str) -> None:
    lines = [
        b"X-Dup: 1",
        b"accept: x",
        b"x-dup: 2",
        b"X-DUP:",
        b"X-Latin: caf\xe9",
        b"X-Utf8: \xf0\x9f\x98\x80",
        b"Cookie: a=1",
        b"Cookie: b=2",
    ]
    async with Origin() as origin, through(path, origin) as gateway:
        _, client = await gateway.ask(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: gateway", *lines, b"", b""]))
        await client.close()
        assert plain(origin.requests[0]) == [
            (b"x-dup", b"1"),
            (b"accept", b"x"),
            (b"x-dup", b"2"),
            (b"x-dup", b""),
            (b"x-latin", b"caf\xe9"),
            (b"x-utf8", b"\xf0\x9f\x98\x80"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
        ]
        assert len(origin.requests[0].values(b"host")) == 1
        assert b"gateway" not in origin.heads[0]


@every_path
@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE", b"OPTIONS", b"PROPFIND"])
async def test_both_paths_add_no_header_and_no_framing(path: str, method: bytes) -> None:
    async with Origin() as origin, through(path, origin) as gateway:
        _, client = await gateway.ask(method + b" /up/x HTTP/1.1\r\nHost: gateway\r\n\r\n")
        await client.close()
        assert origin.requests[0].method == method
        assert [name.lower() for name, _ in origin.requests[0].fields] == [b"host"]


@every_path
async def test_both_paths_drop_hop_by_hop_headers(path: str) -> None:
    lines = [b"Connection: X-One, keep-alive", b"X-One: 1", b"Keep-Alive: timeout=5", b"TE: trailers", b"Upgrade: h2c", b"X-Kept: 1"]
    lines += [b"Proxy-Authorization: Basic canary", b"Proxy-Connection: close", b"Trailer: X-Sum", b"X-Verbatim-Session: mine"]
    answer = b"HTTP/1.1 200 OK\r\nProxy-Authenticate: Basic\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    async with Origin(answer) as origin, through(path, origin) as gateway:
        message, client = await gateway.ask(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: gateway", *lines, b"", b""]))
        await client.close()
        assert plain(origin.requests[0]) == [(b"x-kept", b"1")]
        assert [name for name, _ in plain(message)] == [b"x-kept", b"content-length", b"x-verbatim-id"]


@every_path
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_both_paths_carry_an_upload_whole(path: str, framing: str, size: int) -> None:
    body = hashlib.shake_256(b"%d" % size).digest(size)
    head = b"POST /up/ HTTP/1.1\r\nHost: a\r\n"
    if framing == "length":
        request = head + b"Content-Length: %d\r\n\r\n" % size + body
    else:
        request = head + b"Transfer-Encoding: chunked\r\n\r\n" + (chunk(body) if size else b"") + b"0\r\n\r\n"
    async with Origin() as origin, through(path, origin) as gateway:
        message, client = await gateway.ask(request)
        await client.close()
        assert message.status == 200
        assert origin.requests[0].body == body
        assert plain(origin.requests[0]) == ([(b"content-length", b"%d" % size)] if framing == "length" else [])
    kept = await gateway.only()
    assert kept.request_body == body
    assert kept.complete == (True, True)


@every_path
async def test_both_paths_stream_an_upload(path: str) -> None:
    seen = []

    async def read(connection: Connection) -> None:
        await connection.read_head()
        for piece in (b"first", b"second", b"third"):
            await connection.read_until(piece)
            seen.append(piece)
        await connection.send(OK)
        await connection.wait_ended()

    async with RawUpstream(read) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\n\r\n")
        for count, piece in enumerate((b"first", b"second", b"third"), 1):
            assert len(seen) == count - 1
            await client.send(piece)
            await wait_for(lambda count=count: len(seen) == count)
        assert (await final(client)).body == b"ok"
        await client.close()


# Answers


@every_path
async def test_both_paths_give_an_answer_as_it_came(path: str) -> None:
    body = gzip.compress(b"never undone")
    fields = [
        (b"Server", b"theirs"),
        (b"Set-Cookie", b"a=1; Expires=Wed, 09 Jun 2027 10:18:14 GMT"),
        (b"set-cookie", b"b=2"),
        (b"Retry-After", b"7"),
        (b"x-ratelimit-remaining-tokens", b"12"),
        (b"request-id", b"req_1"),
        (b"Content-Encoding", b"gzip"),
        (b"ETag", b'"x"'),
        (b"Content-Length", b"%d" % len(body)),
    ]
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    async with Origin(b"HTTP/1.1 429 Too Many Requests\r\n" + head + b"\r\n" + body) as origin, through(path, origin) as gateway:
        message, client = await gateway.ask(ASK)
        await client.close()
        assert message.start == b"HTTP/1.1 429 Too Many Requests"
        assert message.body == body
        assert plain(message)[:-1] == [(name.lower(), value) for name, value in fields]
        (name,) = message.values(b"x-verbatim-id")
    kept = await gateway.only()
    assert kept.id == name.decode()
    assert kept.response is not None
    assert kept.response.status == 429
    assert kept.response_body == body
    assert kept.end is not None
    assert kept.end.reason == "complete"


@every_path
async def test_both_paths_stream_an_answer_event_by_event(path: str) -> None:
    events = [b'data: {"n": %d}\n\n' % number for number in range(10)]

    async def stream(connection: Connection, _: Message) -> None:
        await connection.send(CHUNKED)
        for event in events:
            await connection.send(chunk(event))
            await wait_for(lambda event=event: event in client.received)
        await connection.send(b"0\r\n\r\n")

    async with Origin(stream) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).body == b"".join(events)
        await client.close()
    kept = await gateway.only()
    assert kept.response_body == b"".join(events)
    assert kept.complete[1]


@every_path
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n"),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_both_paths_know_answers_without_a_body(path: str, method: bytes, answer: bytes) -> None:
    async with Origin(answer, OK) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(method + b" /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await final(client, method)
        assert first.body == b""
        assert first.values(b"content-length") == ([b"1000"] if method == b"HEAD" else [b"0"] if b": 0" in answer else [])
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await client.close()


@every_path
async def test_both_paths_end_a_close_delimited_answer_properly(path: str) -> None:
    async with Origin(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", keep=False) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(ASK)
            message = await final(client)
            assert message.body == b"until the end"
            assert message.chunked
        await client.close()


@every_path
async def test_both_paths_follow_no_redirect_and_keep_no_cookie(path: str) -> None:
    sets = b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nSet-Cookie: session=of-a; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with Origin(sets, OK) as origin, through(path, origin) as gateway:
        for key, status in ((b"a", 307), (b"b", 200)):
            message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
            assert message.status == status
            await client.close()
        assert [name for name, _ in plain(origin.requests[1])] == [b"authorization"]


@every_path
async def test_both_paths_keep_exchanges_apart(path: str) -> None:
    async def echo(connection: Connection, request: Message) -> None:
        await connection.send(CHUNKED + chunk(request.target) + chunk(request.body) + b"0\r\n\r\n")

    async def one(number: int) -> None:
        body = b"%d" % number * 20
        message, client = await gateway.ask(b"POST /up/%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (number, len(body)) + body)
        assert message.body == b"/%d" % number + body
        await client.close()

    async with Origin(echo) as origin, through(path, origin) as gateway:
        await asyncio.gather(*(one(number) for number in range(120)))
    assert {kept.request_body for kept in gateway.recording.exchanges} == {b"%d" % number * 20 for number in range(120)}


@every_path
async def test_both_paths_trust_no_connection_on_which_more_came_than_the_answer(path: str) -> None:
    """Acceptance C37."""
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async def too_much(connection: Connection, _: Message) -> None:
        await connection.send(OK + poison)
        await connection.wait_ended()

    async with Origin(too_much, OK) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        for _ in range(2):  # at once, before an idle connection's time is over
            await client.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await final(client)).body == b"ok"
        await client.close()


# Ends


@every_path
@pytest.mark.parametrize("when", ["before the first byte", "mid-stream"])
async def test_both_paths_cancel_the_upstream_when_the_client_leaves(path: str, when: str) -> None:
    async def think(connection: Connection, _: Message) -> None:
        if when == "mid-stream":
            await connection.send(CHUNKED + chunk(b"first"))
        await connection.wait_ended()

    async with Origin(think) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await wait_for(lambda: b"first" in client.received if when == "mid-stream" else origin.requests)
        left = time.monotonic()
        await client.reset()
        await wait_for(lambda: gone(origin.connections[0]))
        assert time.monotonic() - left < 0.5
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "client_closed"
    assert kept.response_body == (b"first" if when == "mid-stream" else b"")


@every_path
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_both_paths_leave_an_upload_broken_when_the_client_dies(path: str, framing: str) -> None:
    async def take(connection: Connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(take) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        field = b"Content-Length: 10" if framing == "length" else b"Transfer-Encoding: chunked"
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n" + (b"half" if framing == "length" else chunk(b"half")))
        await wait_for(lambda: origin.connections and b"half" in origin.connections[0].received)
        await client.close()
        await wait_for(lambda: gone(origin.connections[0]))
        assert not origin.connections[0].received.endswith(b"0\r\n\r\n")
    kept = await gateway.only()
    assert kept.request_body == b"half"
    assert kept.complete[0] is False


@every_path
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("head", [CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"], ids=["chunked", "length"])
async def test_both_paths_break_the_client_s_stream_when_the_upstream_dies(path: str, head: bytes, how: str) -> None:
    data = b"x" * 50_000

    async def drop(connection: Connection, _: Message) -> None:
        await connection.send(head + (chunk(data) if head == CHUNKED else data))
        await wait_for(lambda: len(client.received) > 50_000)
        await (connection.close() if how == "close" else connection.reset())

    async with Origin(drop) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        received = await client.read_to_end()
        assert not received.endswith(b"0\r\n\r\n")
        assert b"Verbatim" not in received
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"
    assert kept.response_body == data
    assert kept.complete[1] is False


@every_path
async def test_both_paths_answer_for_an_upstream_that_leaves_without_a_word(path: str) -> None:
    async def leave(connection: Connection) -> None:
        await connection.read_message()

    async with RawUpstream(leave) as origin, through(path, origin) as gateway:
        message, client = await gateway.ask(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
        await client.close()
        assert message.status == 502
        assert message.values(b"x-verbatim-error") == [b"upstream_closed"]
        assert len(origin.connections) == 1
    kept = await gateway.only()
    assert kept.response is not None
    assert kept.response.origin == "gateway"


@every_path
async def test_both_paths_time_an_upstream_out(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.relay.TICK", 0.05)

    async def silent(connection: Connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(silent) as origin, through(path, origin, read_timeout=0.3) as gateway:
        message, client = await gateway.ask(ASK)
        await client.close()
        assert message.status == 504
        assert message.values(b"x-verbatim-error") == [b"upstream_timeout"]
        await wait_for(lambda: all(gone(connection) for connection in origin.connections))


@every_path
async def test_both_paths_say_so_when_they_are_stopped(path: str) -> None:
    async def think(connection: Connection) -> None:
        await connection.wait_ended()

    async with RawUpstream(think) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        await wait_for(lambda: origin.connections and origin.connections[0].received)
        await gateway.relay.stop()
        assert (await final(client)).status == 503
        await client.close()
        await wait_for(lambda: gone(origin.connections[0]))
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "shutdown"


@pytest.mark.parametrize("path", ["wire", "http1"])
async def test_both_paths_hold_back_an_upstream_that_is_faster_than_its_client(path: str) -> None:
    sent = 0

    async def flood(connection: Connection, _: Message) -> None:
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            await connection.send(b"x" * 100_000)
            sent += 100_000

    async with Origin(flood) as origin, through(path, origin, max_body=1 << 20) as gateway:
        await stalls(gateway, lambda: sent, 100_000_000)


async def test_an_http_2_upstream_is_held_back_by_its_stream_s_window() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n" + bytes(60_000_000)
    async with Origin(answer) as origin, H2Origin(origin.port) as front, rig({"up": h2_route(front.port)}, max_body=1 << 20) as gateway:
        await stalls(gateway, lambda: sum(stream.sent for stream in front.streams), 60_000_000)


async def stalls(gateway: Rig, sent, whole: int) -> None:
    client = await gateway.client()
    client.pause()
    await client.send(ASK)
    last = -1
    while not sent() or sent() != last:
        last = sent()
        await asyncio.sleep(0.3)
    assert last < whole
    (exchange,) = gateway.relay.exchanges
    assert exchange.client.transport.get_write_buffer_size() < 1 << 20
    client.resume()
    await wait_for(lambda: sent() > last)
    assert len((await final(client)).body) == whole
    await client.close()


@pytest.mark.parametrize("path", ["wire", "http1"])
async def test_both_paths_hold_back_a_client_that_is_faster_than_its_upstream(path: str) -> None:
    release = asyncio.Event()

    async def deaf(connection: Connection) -> None:
        connection.pause()
        await release.wait()
        connection.resume()
        await connection.read_message()
        await connection.send(OK)
        await connection.wait_ended()

    async with RawUpstream(deaf) as origin, through(path, origin, max_body=1 << 20) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        upload = asyncio.create_task(client.send(bytes(50_000_000)))
        await wait_for(lambda: any(connection._holds for connection in gateway.relay.connections))
        (exchange,) = gateway.relay.exchanges
        assert exchange.upstream is not None
        assert exchange.upstream.transport.get_write_buffer_size() < 1 << 20
        release.set()
        await upload
        assert (await final(client)).body == b"ok"
        await client.close()


# What only the wire does, and what the second path does instead


@second_path
async def test_the_second_path_refuses_websockets(path: str) -> None:
    handshake = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with Origin() as origin, through(path, origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ws HTTP/1.1\r\nHost: a\r\n" + handshake)
        await client.close()
        assert message.status == 426
        assert message.values(b"x-verbatim-error") == [b"websockets_off"]
        assert b"cannot take this route's http2 or HTTP proxy" in message.body
        assert origin.requests == []


@second_path
async def test_the_second_path_drops_interim_answers(path: str) -> None:
    async with Origin(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK) as origin, through(path, origin) as gateway:
        _, client = await gateway.ask(ASK)
        await client.close()
        assert client.received.startswith(b"HTTP/1.1 200 ")


@second_path
async def test_the_second_path_drops_trailers(path: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with Origin(answer) as origin, through(path, origin) as gateway:
        request = b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"
        message, client = await gateway.ask(request)
        await client.close()
        assert message.body == b"ok"
        assert b"X-Sum" not in client.received
        assert b"sum" not in bytes(origin.connections[0].received).lower()


@second_path
async def test_the_second_path_meets_an_expectation_itself(path: str) -> None:
    async with Origin() as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await final(client)).body == b"ok"
        await client.close()
        assert origin.requests[0].body == b"body"


@pytest.mark.parametrize("path", ["http1"])
async def test_the_second_path_puts_host_first(path: str) -> None:
    async with Origin() as origin, through(path, origin) as gateway:
        _, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nX-First: 1\r\nhOST: gateway\r\nx-Case: Kept\r\n\r\n")
        await client.close()
        assert [name for name, _ in origin.requests[0].fields] == [b"hOST", b"X-First", b"x-Case"]


@pytest.mark.parametrize("path", ["http1"])
async def test_the_second_path_reads_an_early_answer_after_the_upload(path: str) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await connection.wait_ended()

    async with RawUpstream(refuse) as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n" + bytes(200_000))
        await wait_for(lambda: origin.connections and len(origin.connections[0].received) > 190_000)
        assert not client.received
        await client.send(bytes(200_000))
        assert (await final(client)).body == b"big"
        await client.close()


@pytest.mark.parametrize(("status", "phrase"), [(200, b"OK"), (529, b"")])
async def test_http_2_has_no_reason_phrase_and_the_standard_one_is_given(status: int, phrase: bytes) -> None:
    async with Origin(b"HTTP/1.1 %d Its Own\r\nContent-Length: 0\r\n\r\n" % status) as origin, through("h2", origin) as gateway:
        message, client = await gateway.ask(ASK)
        await client.close()
        assert message.start == b"HTTP/1.1 %d %b" % (status, phrase)
    kept = await gateway.only()
    assert kept.response is not None
    assert kept.response.version == "2"


@second_path
async def test_the_second_path_serves_http_1_0_clients_too(path: str) -> None:
    async with Origin(CHUNKED + chunk(b"hello") + b"0\r\n\r\n") as origin, through(path, origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/ HTTP/1.0\r\n\r\n")
        received = await client.read_to_end()
        await client.close()
        assert received.endswith(b"\r\n\r\nhello")
        assert b"chunked" not in received.lower()
