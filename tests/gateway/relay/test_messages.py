"""Messages of every kind HTTP/1 knows, at both ends: interim answers, old clients, answers without bodies, pipelines, trailers, phrases."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from rawsockets import Connection, RawUpstream, wait_for
from readback import Message
from relayrig import OK, Origin, final, rig, said

ASK = b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def echo(request: Message) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.target + request.body), request.target + request.body)


# Interim answers (1xx)


@pytest.mark.parametrize("split", [False, True])
async def test_interim_answers_of_every_kind_pass_in_order(split: bool) -> None:
    """Acceptance B25."""
    interim = [
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nLink: </b>\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 \r\nX-Hint: caf\xe9\r\n\r\n",
        b"HTTP/1.1 199 Odd One\r\n\r\n",
        CONTINUE,
    ] * 5

    async def answer(connection: Connection, _: Message) -> None:
        whole = b"".join(interim) + OK
        for at in range(0, len(whole), 7 if split else len(whole)):
            connection.transport.write(whole[at : at + (7 if split else len(whole))])
            await asyncio.sleep(0)

    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            start = client.position
            await client.send(ASK)
            assert (await final(client)).body == b"ok"
            received = bytes(client.received[start:])
            assert received.startswith(b"".join(interim[:4]))
            assert received.count(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nLink: </b>\r\n\r\n") == 5
            assert received.count(CONTINUE) == 5  # they are the upstream's own: a wire counts them not
        await client.close()
    assert [kept.response.status for kept in await gateway.ended(2) if kept.response] == [200, 200]


@pytest.mark.parametrize("pieces", [1, 200])
async def test_how_many_interim_responses_pass_does_not_depend_on_packets(pieces: int) -> None:
    """Acceptance B25."""
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    async def hints(connection: Connection, _: Message) -> None:
        for _ in range(pieces):
            await connection.send(hint * (200 // pieces))
            await asyncio.sleep(0)
        await connection.send(OK)

    async with Origin(hints) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        message = await final(client)
        assert (message.status, message.body) == (200, b"ok")
        assert client.received.count(hint) == 200
        await client.close()


async def test_large_interim_responses_are_cut_before_they_fill_memory() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: <" + b"a" * 60_000 + b">\r\n\r\n"
    async with Origin(hint * 50 + OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        assert client.received.count(b"103 Early Hints") <= 4
        await client.close()


async def test_what_an_interim_response_lists_in_connection_ends_here() -> None:
    """Acceptance A5."""
    hint = b"HTTP/1.1 103 Early Hints\r\nConnection: X-Hop\r\nx-hop: 1\r\nLink: </a>\r\n\r\n"
    async with Origin(hint + OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        message = await final(client)
        assert message.status == 200
        assert client.received.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
        await client.close()


async def test_an_interim_answer_reaches_the_client_before_the_final_one_is_there() -> None:
    """Acceptance B25."""

    async def answer(connection: Connection, _: Message) -> None:
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await wait_for(lambda: b"103" in client.received)
        await connection.send(OK)

    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await client.close()


async def test_an_upstream_that_breaks_after_an_interim_answer_is_a_502() -> None:
    """Acceptance D43."""

    async def answer(connection: Connection, _: Message) -> None:
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await wait_for(lambda: b"103" in client.received)
        await connection.reset()

    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).status == 502
        await client.close()


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue", b"100-CONTINUE"])
async def test_a_body_waits_for_the_100_and_crosses_once(expect: bytes) -> None:
    """Acceptance A10: the upstream's own 100, within 200 ms, and no second one."""

    async def take(connection: Connection) -> None:
        head = await connection.read_head()
        assert b"Expect: " + expect in head
        await connection.send(CONTINUE)
        assert await connection.read_exactly(4) == b"body"
        await asyncio.sleep(0.15)  # longer than the gateway waits before it says it itself
        await connection.send(OK)

    async with RawUpstream(take) as origin, rig(origin) as gateway:
        client = await gateway.client()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: " + expect + b"\r\nContent-Length: 4\r\n\r\n")
        assert await client.read_head() == CONTINUE
        assert loop.time() - began < 0.2
        await client.send(b"body")
        assert (await final(client)).body == b"ok"
        assert client.received.count(CONTINUE) == 1
        await client.close()


@pytest.mark.parametrize("expect", [b"miracles", b"100-continue, 200-ok", b'100-continue; x="y"', b""])
async def test_expectations_nobody_knows_are_not_stuck(expect: bytes) -> None:
    """Acceptance A10: 417 at once, or no expectation at all."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: " + expect + b"\r\nContent-Length: 2\r\n\r\nhi")
        assert message.status == (417 if expect else 200)
        await client.close()


async def test_an_old_client_s_expectation_is_no_expectation() -> None:
    """RFC 9110 section 10.1.1: an HTTP/1.0 client's 100-continue is ignored."""
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi")
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 200")
        assert CONTINUE not in client.received
        await client.close()


# HTTP/1.0 clients


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        (b"GET", OK, b"ok"),
        (b"GET", CHUNKED + b"2\r\nok\r\n0\r\nX-T: 1\r\n\r\n", b"ok"),
        (b"GET", CHUNKED + b"0\r\n\r\n", b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b""),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
    ],
)
async def test_an_http_1_0_client_gets_whole_answers_and_then_the_end(connection: bytes, method: bytes, answer: bytes, body: bytes) -> None:
    """Acceptance B21."""
    async with Origin(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(method + b" /up/ HTTP/1.0\r\n" + connection + b"\r\n")
        head, _, received = (await client.read_to_end()).partition(b"\r\n\r\n")
        assert client.error is None
        assert head.startswith(b"HTTP/1.1 ")
        assert b"103" not in head
        assert b"chunked" not in head.lower()
        assert received == body
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "complete"


# Answers without a body


@pytest.mark.parametrize(
    ("method", "head"),
    [
        (b"HEAD", b"200 OK\r\nContent-Length: 5"),
        (b"HEAD", b"200 OK\r\nTransfer-Encoding: chunked"),
        (b"HEAD", b"200 OK"),
        (b"HEAD", b"404 Not Found\r\nContent-Length: 0"),
        (b"GET", b"204 No Content"),
        (b"GET", b"204 No Content\r\nContent-Length: 5"),
        (b"POST", b"204 No Content\r\nTransfer-Encoding: chunked"),
        (b"GET", b"304 Not Modified\r\nETag: x"),
        (b"GET", b"304 Not Modified\r\nContent-Length: 12345\r\nTransfer-Encoding: identity"),
        (b"GET", b"304 Not Modified\r\nTransfer-Encoding: chunked"),
        (b"GET", b"205 Reset Content\r\nContent-Length: 0"),
        (b"GET", b"200 OK\r\nContent-Length: 0"),
        (b"GET", b"200 OK\r\nTransfer-Encoding: chunked"),
    ],
)
async def test_answers_without_a_body_leave_both_connections_usable(method: bytes, head: bytes) -> None:
    """Acceptance B19."""
    refused = b"identity" in head  # ambiguous framing is the upstream's mistake, and goes no further
    last = b"0\r\n\r\n" if method == b"GET" and head == b"200 OK\r\nTransfer-Encoding: chunked" else b""
    async with Origin(b"HTTP/1.1 " + head + b"\r\n\r\n" + last, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(method + b" /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + ASK)
        first = await final(client, method)
        assert first.status == (502 if refused else int(head[:3]))
        assert refused or first.body == b""
        if b"Content-Length" in head and not refused:
            assert first.values(b"content-length") == [head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]]
        assert (await final(client)).body == b"ok"
        await client.close()
        assert len(origin.connections) == (2 if refused else 1)


# Pipelines


async def test_a_pipeline_of_everything_is_answered_in_order() -> None:
    """Fifty requests in one packet, with bodies, and one in the middle whose upstream is not there."""
    count = 50

    async def answer(connection: Connection, request: Message) -> None:
        kind = int(request.target[1:] or b"0") % 5
        if kind == 1:
            await connection.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in request.target + request.body) + b"0\r\n\r\n")
        elif kind == 2 and request.method == b"HEAD":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
        elif kind == 3:
            await connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + echo(request))

    def request(number: int) -> tuple[bytes, bytes]:
        route = b"down" if number == 25 else b"up"
        if number % 5 == 2:
            return b"HEAD", b"HEAD /%b/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (route, number)
        if number % 2:
            return b"POST", b"POST /%b/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody" % (route, number)
        body = b"4\r\nbody\r\n0\r\nX-T: 1\r\n\r\n" if number % 4 else b"0\r\n\r\n"
        return b"PUT", b"\r\nPUT /%b/%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % (route, number) + body

    async with Origin(answer) as origin, rig({"up": origin.url, "down": "http://127.0.0.1:1"}) as gateway:
        client = await gateway.client()
        asked = [request(number) for number in range(count)]
        await client.send(b"".join(raw for _, raw in asked))
        for number, (method, raw) in enumerate(asked):
            message = await final(client, method)
            if number == 25:
                assert message.status == 502
            elif number % 5 == 3:
                assert (message.status, message.body) == (204, b"")
            elif method == b"HEAD":
                assert (message.status, message.body) == (200, b"")
            else:
                assert message.body == b"/%d" % number + (b"body" if b"body" in raw else b"")
        assert client.unread == b""
        await client.close()
        assert len(origin.requests) == count - 1
    kept = await gateway.ended(count)
    assert [one.request.target.rpartition(b"/")[2] for one in kept] == [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_early_answer_does_not_let_the_upload_s_rest_be_taken_for_requests(framing: bytes) -> None:
    """Acceptance C38: what is left of the body looks like a request, and is none."""
    poison = b"GET /up/stolen HTTP/1.1\r\nHost: a\r\n\r\n"

    async def hasty(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(OK)
        await connection.wait_ended()

    async with RawUpstream(hasty) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/early HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n" + (b"" if b"Length" in framing else b"3e8\r\n"))
        message = await final(client)
        assert message.status == 200
        assert message.values(b"connection") == [b"close"]
        await client.send(poison * 10)
        await client.wait_ended()
        assert client.received.count(b"HTTP/1.1") == 1
        await client.close()
        assert not any(b"stolen HTTP" in bytes(one.received).partition(b"\r\n\r\n")[0] for one in origin.connections)
        assert len(origin.connections) == 1
    assert len(gateway.recording.exchanges) == 1


# Trailers


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("te", [b"", b"TE: trailers\r\nConnection: TE\r\n"])
async def test_trailers_of_an_answer_stay_trailers(te: bytes, split: bool) -> None:
    """Acceptance A12 from the other side: sent as they came, merged into nothing. TE is this hop's and does not cross."""
    raw = CHUNKED.replace(b"\r\n\r\n", b"\r\nTrailer: X-Sum\r\n\r\n") + b"2\r\nok\r\n0;last\r\nX-Sum: caf\xe9\r\nx-SUM:  2 \r\n\r\n"

    async def answer(connection: Connection, _: Message) -> None:
        for at in range(0, len(raw), 1 if split else len(raw)):
            connection.transport.write(raw[at : at + (1 if split else len(raw))])
            await asyncio.sleep(0)

    async with Origin(answer, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/ HTTP/1.1\r\nHost: a\r\n" + te + b"\r\n")
        message = await final(client)
        assert message.body == b"ok"
        assert not message.values(b"x-sum")
        assert bytes(client.received).endswith(b"2\r\nok\r\n0\r\nX-Sum: caf\xe9\r\nx-SUM:  2 \r\n\r\n")
        assert not origin.requests[0].values(b"te")
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await client.close()
        assert len(origin.connections) == 1


@pytest.mark.parametrize("name", [b"Set-Cookie", b"Content-Length", b"transfer-encoding", b"Authorization", b"Host"])
async def test_trailers_of_an_answer_that_are_no_trailers_are_dropped(name: bytes) -> None:
    async with Origin(CHUNKED + b"2\r\nok\r\n0\r\nX-Sum: 1\r\n" + name + b": 5\r\n\r\n") as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.body == b"ok"
        assert bytes(client.received).endswith(b"2\r\nok\r\n0\r\n\r\n")
        await client.close()


@pytest.mark.parametrize("body", [b"0\r\n\r\n", b"000\r\n\r\n", b"0;x=y\r\n\r\n"])
async def test_chunked_bodies_of_nothing_cross_both_ways(body: bytes) -> None:
    """Acceptance A7."""
    async with Origin(CHUNKED + body, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert (await final(client)).body == b""
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await client.close()
        assert origin.requests[0].body == b""
        assert bytes(origin.connections[0].received).count(b"0\r\n\r\n") == 1
    assert (await gateway.ended(2))[0].complete == (True, True)


# Phrases and names


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 204  two spaces ",
        b"HTTP/1.1 429 Zu viele \xc3\xa4pfel \xe9\xff",
        b"HTTP/1.1 299 \tTab",
        b"HTTP/1.1 418 " + b"long " * 200,
        b"HTTP/1.1 500 HTTP/1.1 200 OK",
    ],
)
async def test_reason_phrases_cross_byte_for_byte(line: bytes) -> None:
    async with Origin(line + b"\r\nContent-Length: 0\r\n\r\n") as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.start == line
        await client.close()
    kept = await gateway.only()
    assert kept.response is not None
    assert kept.response.reason == line[13:]


async def test_a_status_line_without_a_phrase_crosses() -> None:
    """Some servers leave out even the space before it; the one that RFC 9112 section 4 wants is there afterwards."""
    async with Origin(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok") as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.start in (b"HTTP/1.1 200", b"HTTP/1.1 200 ")
        assert message.body == b"ok"
        await client.close()


async def test_names_keep_their_case_both_ways() -> None:
    """Acceptance A3."""
    names = [b"x-lower", b"X-UPPER", b"X-mIxEd", b"content-TYPE", b"user-agent", b"ETAG"]
    fields = b"".join(name + b": v\r\n" for name in names)
    answer = b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 2\r\n\r\nok"
    async with Origin(answer) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nhost: a\r\n" + fields + b"\r\n")
        await client.close()
        assert [name for name, _ in message.fields][:-1] == [*names, b"content-length"]
        assert [name for name, _ in origin.requests[0].fields] == [b"host", *names]


async def test_a_response_s_sixty_kilobytes_of_headers_cross_in_pieces() -> None:
    """Acceptance B26."""
    fields = b"".join(b"X-%d: %b\r\n" % (number, b"v" * 600) for number in range(100))
    raw = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok"

    async def answer(connection: Connection, _: Message) -> None:
        for at in range(0, len(raw), 1000):
            await connection.send(raw[at : at + 1000])
            await asyncio.sleep(0)

    async with Origin(answer) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.body == b"ok"
        assert fields in said(client)
        await client.close()


# Broken answers, idle connections


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "said",
    [
        CHUNKED,
        CHUNKED + b"1",
        CHUNKED + b"1000;ext=1",
        CHUNKED + b"5\r\nhel",
        CHUNKED + chunk(b"data: {")[:-1],
        CHUNKED + chunk(b"data: {}\n\n") + b"0\r\nX-Trailer: 1\r\n",
        CHUNKED + chunk("data: naï".encode()[:-1]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123456789",
    ],
    ids=["head", "size", "extension", "chunk", "CRLF", "trailers", "character", "length 0", "length 9"],
)
async def test_an_upstream_that_drops_at_any_byte_breaks_the_client_s_stream(said: bytes, how: str) -> None:
    """Acceptance D43: nothing that reads as an end reaches the client, and what came is kept."""

    async def drop(connection: Connection, _) -> None:
        await connection.send(said)
        await wait_for(lambda: b"\r\n\r\n" in client.received)
        await asyncio.sleep(0.02)
        await (connection.close() if how == "close" else connection.reset())

    async with Origin(drop) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        received = await client.read_to_end()
        body = received.partition(b"\r\n\r\n")[2]
        assert body in said.partition(b"\r\n\r\n")[2]
        assert not body.endswith(b"0\r\n\r\n")
        assert len(body) < 10 or b"chunked" in received
        await client.close()
    kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"
    assert kept.complete[1] is False
    assert kept.response is not None
    assert kept.response.status == 200


async def test_a_client_s_pool_loses_nothing_to_idle_connections() -> None:
    """Acceptance D53, at a tenth of the time: the SDKs' pool drops connections after 5 s, the upstream after 5 s, Verbatim before it."""

    async def serve(connection: Connection) -> None:
        while True:
            try:
                await connection.read_message(deadline=0.5)
            except TimeoutError:
                return  # an idle connection, closed as Node does it
            await connection.send(OK)

    async def worker(seed: int) -> int:
        good = 0
        for number in range(10):
            answer = await pool.post(f"http://127.0.0.1:{gateway.port}/up/{seed}", content=b"body")
            good += answer.content == b"ok"
            await asyncio.sleep(0.05 * ((seed + number * 7) % 13))  # up to 0.6 s: beyond everybody's patience
        return good

    limits = httpx.Limits(keepalive_expiry=0.5)
    async with RawUpstream(serve) as origin, rig(origin, idle_timeout=0.4) as gateway, httpx.AsyncClient(limits=limits) as pool:
        assert sum(await asyncio.gather(*(worker(seed) for seed in range(40)))) == 400
