"""What an upstream receives: every byte the client meant for it, nothing else."""

from __future__ import annotations

import hashlib

import pytest
from rawsockets import wait_for
from relayrig import OK, Origin, RawUpstream, final, rig, said

TARGETS = [
    b"/v1/a%2Fb//c/../d%20e/%7Efoo;p=1/%E4",
    b"/v1/x?q=a+b%20c&x=%2F&x=2&empty=&noval&z=%zz&w[]=1",
    b"/v1/x?",
    b"/?",
    b"/v1//",
    b"/v1/./..",
    b"/v1/a:b@c!$&'()*+,=|{}\"^`<>",
    b"/%2e%2e/%2F%5c",
    b"//double",
    b"/v1/x?a=/..//b?c?d",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_raw_path_and_query_bytes_arrive_unchanged(target: bytes) -> None:
    """Acceptance A1, A2."""
    async with Origin() as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(b"GET /up" + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert answer.body == b"ok"
        assert origin.requests[0].target == target
        await client.close()
    assert (await gateway.only()).request.target == b"/up" + target


@pytest.mark.parametrize(
    ("base", "asked", "received"),
    [
        ("/base/v1", b"/chat", b"/base/v1/chat"),
        ("/base/v1/", b"/chat", b"/base/v1/chat"),
        ("/base", b"//x", b"/base//x"),
        ("/base", b"", b"/base"),
        ("/base", b"?a=1", b"/base?a=1"),
        ("", b"?a=1", b"/?a=1"),
        ("/b%2Fc", b"/%2e", b"/b%2Fc/%2e"),
        ("/base?api-version=2", b"/x?b=%20", b"/base/x?api-version=2&b=%20"),
    ],
)
async def test_an_upstream_s_own_path_and_query_are_joined_byte_for_byte(base: str, asked: bytes, received: bytes) -> None:
    """Acceptance A13."""
    async with Origin() as origin, rig(origin.url + base) as gateway:
        _, client = await gateway.ask(b"GET /up" + asked + b" HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert origin.requests[0].target == received
        await client.close()


async def test_duplicate_headers_keep_their_count_order_and_bytes() -> None:
    lines = [
        b"X-Dup: 1",
        b"accept: text/event-stream",
        b"x-dup: 2",
        b"X-DUP:",
        b"X-Latin: caf\xe9",
        b"X-Utf8: caf\xc3\xa9 \xf0\x9f\x98\x80",
        b"x_under-score.dot!#$%&'*+^`|~: v",
        b"X-Inner:   a  b\tc",
    ]
    async with Origin() as origin, rig(origin) as gateway:
        _, client = await gateway.ask(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: gateway", *lines, b"", b""]))
        await client.close()
        assert origin.requests[0].fields == [
            (b"Host", f"127.0.0.1:{origin.port}".encode()),
            (b"X-Dup", b"1"),
            (b"accept", b"text/event-stream"),
            (b"x-dup", b"2"),
            (b"X-DUP", b""),
            (b"X-Latin", b"caf\xe9"),
            (b"X-Utf8", b"caf\xc3\xa9 \xf0\x9f\x98\x80"),
            (b"x_under-score.dot!#$%&'*+^`|~", b"v"),
            (b"X-Inner", b"a  b\tc"),
        ]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
async def test_nothing_is_added_to_a_request(method: bytes) -> None:
    """Acceptance A4."""
    async with Origin() as origin, rig(origin) as gateway:
        _, client = await gateway.ask(method + b" /up/x HTTP/1.1\r\nhOsT: gateway:8787\r\n\r\n")
        await client.close()
        assert origin.heads == [method + b" /x HTTP/1.1\r\nhOsT: 127.0.0.1:%d\r\n\r\n" % origin.port]


async def test_hop_by_hop_headers_and_those_connection_names_are_dropped() -> None:
    lines = [
        b"Connection: X-One , keep-alive",
        b"X-One: secret hop",
        b"Keep-Alive: timeout=5",
        b"X-Kept: 1",
        b"connection:x-two,\tX-THREE",
        b"X-Two: 2",
        b"x-three: 3",
        b"X-Three: again",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Trailer: X-Sum",
        b"Upgrade: h2c",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Authorization: Basic canary",
        b"X-Verbatim-Session: mine",
    ]
    async with Origin() as origin, rig(origin) as gateway:
        _, client = await gateway.ask(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: gateway", *lines, b"", b""]))
        await client.close()
        assert [name for name, _ in origin.requests[0].fields] == [b"Host", b"X-Kept"]


async def test_connection_cannot_name_framing_or_host_away() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        request = b"POST /up/ HTTP/1.1\r\nHost: a\r\nConnection: host, content-length, transfer-encoding\r\nContent-Length: 3\r\n\r\nabc"
        _, client = await gateway.ask(request)
        await client.close()
        assert [name for name, _ in origin.requests[0].fields] == [b"Host", b"Content-Length"]
        assert origin.requests[0].body == b"abc"


async def test_host_becomes_the_upstream_s_authority() -> None:
    """Acceptance A6."""
    async with Origin() as origin, rig(f"http://localhost:{origin.port}") as gateway:
        head = b"GET /up/ HTTP/1.1\r\nX-Forwarded-Host: kept.example\r\nHost: client.example\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
        _, client = await gateway.ask(head)
        await client.close()
        assert origin.requests[0].fields == [
            (b"X-Forwarded-Host", b"kept.example"),
            (b"Host", b"localhost:%d" % origin.port),
            (b"X-Forwarded-For", b"192.0.2.1"),
        ]


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 64 << 10, 10 << 20])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_keeps_its_bytes_and_exactly_one_framing_header(framing: str, size: int) -> None:
    body = hashlib.shake_256(b"%d" % size).digest(size)
    head = b"POST /up/ HTTP/1.1\r\nHost: a\r\n"
    if framing == "length":
        request = head + b"content-LENGTH: %d\r\n\r\n" % size + body
    else:
        request = head + b"Transfer-Encoding: ChunKed\r\n\r\n" + chunked(body, 100_000)
    async with Origin() as origin, rig(origin) as gateway:
        _, client = await gateway.ask(request)
        await client.close()
        received = origin.requests[0]
        assert hashlib.sha256(received.body).digest() == hashlib.sha256(body).digest()
        assert received.fields[1:] == ([(b"content-LENGTH", b"%d" % size)] if framing == "length" else [(b"Transfer-Encoding", b"chunked")])
    kept = await gateway.only()
    assert kept.request_body == body
    assert kept.complete[0]


@pytest.mark.parametrize(
    ("request_head", "framing"),
    [
        (b"GET /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", [(b"Content-Length", b"2")]),
        (b"POST /up/ HTTP/1.1\r\nHost: a\r\n\r\n", []),
        (b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", [(b"Content-Length", b"0")]),
        (
            b"DELETE /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            [(b"Transfer-Encoding", b"chunked")],
        ),
    ],
)
async def test_a_body_stays_where_it_is_and_none_is_invented(request_head: bytes, framing: list[tuple[bytes, bytes]]) -> None:
    async with Origin() as origin, rig(origin) as gateway:
        _, client = await gateway.ask(request_head)
        await client.close()
        assert origin.requests[0].fields[1:] == framing
        assert origin.requests[0].body == (b"hi" if b"hi" in request_head else b"")


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_streams_chunk_by_chunk(framing: str) -> None:
    """Acceptance A8."""
    answered = []

    async def read(connection) -> None:
        await connection.read_head()
        for piece in (b"first", b"second", b"third"):
            await connection.read_until(piece)
            answered.append(piece)
        if framing == "chunked":
            await connection.read_until(b"0\r\n\r\n")
        await connection.send(OK)

    async with RawUpstream(read) as origin, rig(origin) as gateway:
        client = await gateway.client()
        how = b"Content-Length: 16" if framing == "length" else b"Transfer-Encoding: chunked"
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\n" + how + b"\r\n\r\n")
        for count, piece in enumerate((b"first", b"second", b"third"), 1):
            assert len(answered) == count - 1
            await client.send(piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece))
            await wait_for(lambda count=count: len(answered) == count)  # it arrived before the next was sent
        if framing == "chunked":
            await client.send(b"0\r\n\r\n")
        assert (await final(client)).status == 200
        await client.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
async def test_methods_cross_as_they_are(method: str) -> None:
    """Acceptance A11."""
    name = method.encode()
    async with Origin() as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(name + b" /up/x HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.close()
        assert answer.status == 200
        assert origin.requests[0].method == name


async def test_options_of_the_whole_server_goes_to_the_default_route() -> None:
    """Acceptance A11."""
    async with Origin() as origin, rig({"up": origin.url}, default="up") as gateway:
        answer, client = await gateway.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.close()
        assert answer.status == 200
        assert origin.requests[0].start == b"OPTIONS * HTTP/1.1"


@pytest.mark.parametrize("line", [b"TRACE /up/ HTTP/1.1", b"CONNECT up:443 HTTP/1.1"])
async def test_trace_and_connect_are_refused(line: bytes) -> None:
    """Acceptance A11."""
    async with Origin() as origin, rig({"up": origin.url}, default="up") as gateway:
        answer, client = await gateway.ask(line + b"\r\nHost: a\r\nAuthorization: Bearer canary\r\n\r\n")
        assert answer.status == 405
        assert b"canary" not in client.received
        await client.read_to_end()
        await client.close()
        assert origin.connections == []


@pytest.mark.parametrize("split", [False, True])
async def test_trailers_never_become_headers(split: bool) -> None:
    for trailer in (b"authorization: x", b"X-Api-Key: x", b"Content-Length: 9", b"Host: evil", b"Transfer-Encoding: chunked"):
        async with Origin() as origin, rig(origin) as gateway:
            client = await gateway.client()
            request = b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + trailer + b"\r\n\r\n"
            for piece in [request[at : at + 1] for at in range(len(request))] if split else [request]:
                await client.send(piece)
            assert (await final(client)).status == 200
            await client.close()
            head, _, body = bytes(origin.connections[0].received).partition(b"\r\n\r\n")
            assert head == b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nTransfer-Encoding: chunked" % origin.port
            assert body == b"1\r\na\r\n0\r\n\r\n"


async def test_harmless_trailers_stay_trailers() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        head = b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
        _, client = await gateway.ask(head + b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")
        await client.close()
        assert bytes(origin.connections[0].received).endswith(b"\r\n\r\n1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_a_large_header_and_two_hundred_headers_pass() -> None:
    """Acceptance A15."""
    large = b"X-Large: " + b"v" * (64 << 10)
    many = [b"X-%d: %d" % (number, number) for number in range(200)]
    async with Origin() as origin, rig(origin) as gateway:
        for lines in ([large], many):
            _, client = await gateway.ask(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: a", *lines, b"", b""]))
            await client.close()
        assert said(origin.connections[0]).count(b"v") == 64 << 10
        assert len(origin.requests[1].fields) == 201


async def test_a_bare_path_goes_to_the_default_route_only_when_there_is_one() -> None:
    async with Origin() as origin:
        async with rig({"up": origin.url}, default="up") as gateway:
            answer, client = await gateway.ask(b"GET /v1/models?x HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.close()
            assert answer.status == 200
            assert origin.requests[0].target == b"/v1/models?x"
        async with rig(origin) as gateway:
            answer, client = await gateway.ask(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
            await client.close()
            assert answer.status == 404
            assert len(origin.requests) == 1


async def test_requests_sent_ahead_are_answered_one_after_another() -> None:
    """Acceptance C36: pipelined."""

    async def echo(connection, request) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target), request.target))

    async with Origin(echo) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"".join(b"POST /up/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" % n for n in range(50)))
        assert [(await final(client)).body for _ in range(50)] == [b"/%d" % n for n in range(50)]
        await client.close()
        assert len(origin.connections) == 1
    assert len(await gateway.ended(50)) == 50


async def test_two_tenants_never_share_a_cookie() -> None:
    """Acceptance A14."""
    sets = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=of-a; Path=/\r\nContent-Length: 0\r\n\r\n"
    for host in ("localhost", "127.0.0.1"):
        async with Origin(sets, OK) as origin, rig(f"http://{host}:{origin.port}") as gateway:
            for key in (b"a", b"b"):
                _, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key + b"\r\n\r\n")
                await client.close()
            assert len(origin.connections) == 1  # even on one connection
            assert [name for name, _ in origin.requests[1].fields] == [b"Host", b"Authorization"]
