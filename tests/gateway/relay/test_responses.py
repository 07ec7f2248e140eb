"""What a client receives: every byte the upstream meant for it, and one line more."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
from rawsockets import wait_for
from relayrig import OK, Origin, RawUpstream, final, rig, said

ASK = b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_response_gains_nothing_but_x_verbatim_id() -> None:
    """Acceptance B16, B22, B29."""
    answer = (
        b"HTTP/1.1 200 Quite Fine\r\ndAtE: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: theirs\r\n"
        b"Set-Cookie: a=1; Expires=Wed, 09 Jun 2027 10:18:14 GMT\r\n"
        b"X-Empty:\r\nset-cookie: b=2\r\nRetry-After: 7\r\nx-ratelimit-remaining-tokens: 12\r\nrequest-id: req_1\r\n"
        b'anthropic-ratelimit-tokens-limit: 5\r\nopenai-processing-ms: 3\r\nX-Latin: caf\xe9\r\nETag: W/"x"\r\ncontent-length: 2\r\n'
    )
    async with Origin(answer + b"\r\nok") as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        (name,) = message.values(b"x-verbatim-id")
        received = bytes(client.received).replace(b"X-Empty: \r\n", b"X-Empty:\r\n")  # httpcore does not tell with which spaces it came
        assert received == answer + b"x-verbatim-id: " + name + b"\r\n\r\nok"
        await client.close()
    assert (await gateway.only()).id == name.decode()


async def test_the_reason_phrase_crosses_as_it_is() -> None:
    for line in (b"HTTP/1.1 200 ", b"HTTP/1.1 529 Over\xe9loaded, sorry", b"HTTP/1.1 404 not here"):
        async with Origin(line + b"\r\nContent-Length: 0\r\n\r\n") as origin, rig(origin) as gateway:
            message, client = await gateway.ask(ASK)
            assert message.start == line
            await client.close()


async def test_hop_by_hop_headers_of_a_response_are_dropped() -> None:
    """Acceptance A5 from the other side."""
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop, Keep-Alive\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n"
        b"Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\n"
        b"Trailer: X-Sum\r\nProxy-Connection: close\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok"
    )
    async with Origin(answer) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        await client.close()
        assert [name for name, _ in message.fields] == [b"X-Kept", b"Content-Length", b"x-verbatim-id"]


BODY = b'{"text": "na\xc3\xafve \xf0\x9f\x98\x80"}' * 20


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("br", brotli.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("zstd", b"\x28\xb5\x2f\xfd no zstd at all"),
    ],
    ids=["gzip", "br", "deflate", "zstd"],
)
async def test_encoded_bodies_cross_untouched(coding: str, body: bytes) -> None:
    """Acceptance B17, B18."""
    head = b'HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nETag: "1"\r\nContent-Length: %d\r\n\r\n' % (coding.encode(), len(body))
    async with Origin(head + body) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\n\r\n")
        await client.close()
        assert message.body == body
        assert message.fields[:3] == [(b"Content-Encoding", coding.encode()), (b"ETag", b'"1"'), (b"Content-Length", b"%d" % len(body))]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
        (b"DELETE", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
async def test_a_connection_stays_usable_after_an_answer_without_a_body(method: bytes, answer: bytes) -> None:
    """Acceptance B19."""
    async with Origin(answer, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(method + b" /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        first = await final(client, method)
        assert first.body == b""
        assert first.values(b"content-length") == ([b"1000"] if b"1000" in answer else [])
        assert first.values(b"connection") == []
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await client.close()
        assert len(origin.connections) == 1


async def test_a_close_delimited_answer_is_chunked_for_an_http_1_1_client() -> None:
    """Acceptance B20."""
    async with Origin(b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nuntil the end", keep=False) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):  # and the client's connection lives on
            await client.send(ASK)
            message = await final(client)
            assert message.start == b"HTTP/1.1 200 OK"
            assert message.body == b"until the end"
            assert message.fields[:2] == [(b"X-A", b"1"), (b"Transfer-Encoding", b"chunked")]
        await client.close()
    kept = (await gateway.ended(2))[0]
    assert kept.response_body == b"until the end"
    assert kept.complete[1]
    assert kept.response is not None
    assert kept.response.version == "1.0"
    assert not any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in kept.response.headers)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("host", [b"", b"Host: a\r\n"])
async def test_an_http_1_0_client_gets_no_chunks(answer: bytes, host: bytes) -> None:
    """Acceptance B21."""
    async with Origin(answer, keep=b"Length" in answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/ HTTP/1.0\r\nConnection: keep-alive\r\n" + host + b"\r\n")
        received = await client.read_to_end()
        assert client.eof
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head
        assert body == b"hello"
        await client.close()
        assert origin.requests[0].start == b"GET / HTTP/1.1"
        assert origin.requests[0].values(b"host") == [b"127.0.0.1:%d" % origin.port]


async def test_an_http_1_0_client_sees_a_broken_answer_broken() -> None:
    """Acceptance D43."""

    async def breaks(connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await wait_for(lambda: b"hello" in client.received)
        await connection.close()

    async with Origin(breaks) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"GET /up/ HTTP/1.0\r\n\r\n")
        await wait_for(lambda: client.lost)
        assert isinstance(client.error, ConnectionResetError)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirects_are_passed_on_and_never_followed(status: int) -> None:
    """Acceptance B24, H101."""
    async with Origin() as elsewhere:
        answer = b"HTTP/1.1 %d Moved\r\nLocation: %b/stolen\r\nContent-Length: 0\r\n\r\n" % (status, elsewhere.url.encode())
        async with Origin(answer) as origin, rig(origin) as gateway:
            message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: a\r\nX-Api-Key: canary\r\n\r\n")
            await client.close()
            assert message.status == status
            assert message.values(b"location") == [elsewhere.url.encode() + b"/stolen"]
        assert elsewhere.connections == []


async def test_early_hints_come_before_the_answer() -> None:
    """Acceptance B25."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    async with Origin(hints + b"HTTP/1.1 102 Processing\r\n\r\n" + OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert bytes(client.received).startswith(hints + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert message.body == b"ok"
        await client.close()
        message, client = await gateway.ask(b"GET /up/ HTTP/1.0\r\n\r\n")  # which knows no interim responses
        assert said(client).startswith(b"HTTP/1.1 200 OK")
        await client.close()
    kept = (await gateway.ended(2))[0]
    assert kept.response is not None
    assert kept.response.status == 200


async def test_a_flood_of_interim_responses_is_cut() -> None:
    async with Origin(b"HTTP/1.1 100 \r\n\r\n" * 5000 + OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert message.status == 502
        await client.close()


async def test_an_upstream_header_of_sixty_kilobytes_passes() -> None:
    """Acceptance B26."""
    line = b"X-Large: " + b"v" * (60 << 10) + b"\r\n"
    async with Origin(OK.replace(b"Content-Length", line + b"Content-Length")) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert len(message.values(b"x-large")[0]) == 60 << 10
        await client.close()


@pytest.mark.parametrize("line", [b"X-Large: " + b"v" * (300 << 10) + b"\r\n", b"X: 1\r\n" * 1200])
async def test_an_upstream_header_beyond_the_limit_is_a_502(line: bytes) -> None:
    """Acceptance B26."""
    async with Origin(OK.replace(b"Content-Length", line + b"Content-Length")) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        assert message.values(b"x-verbatim-error") == [b"upstream_closed"]
        await client.close()


BROKEN = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX-A: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nanything",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
]


@pytest.mark.parametrize("answer", BROKEN)
async def test_an_ambiguous_answer_reaches_no_one(answer: bytes) -> None:
    async with Origin(answer, OK) as origin, rig(origin) as gateway:
        message, client = await gateway.ask(ASK)
        assert message.status == 502
        assert b"HTTP/1.1 200" not in client.received
        await client.send(ASK)
        assert (await final(client)).body == b"ok"  # the client's connection is none the worse
        assert len(origin.connections) == 2  # the upstream's was not used again
        await client.close()


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nok\r\n0\r\n\r\n", b"2\nok\n0\n\n", b"0x2\r\nok\r\n", b"2\r\nokay\r\n", b"-2\r\n", b"2 \r\nok\r\n", b"8000000000000000\r\n"],
)
async def test_a_broken_chunk_breaks_the_client_s_answer(body: bytes) -> None:
    async def breaks(connection, _) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await wait_for(lambda: b"hello" in client.received)
        await connection.send(body)
        await connection.wait_ended()

    async with Origin(breaks) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        received = await client.read_to_end()
        assert received.endswith(b"5\r\nhello\r\n")
        await client.close()
    kept = await gateway.only()
    assert kept.complete[1] is False
    assert kept.response_body == b"hello"
    assert kept.end is not None
    assert kept.end.reason == "upstream_closed"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
)
@pytest.mark.parametrize("together", [True, False])
async def test_bytes_after_an_answer_s_end_reach_no_one(answer: bytes, together: bool) -> None:
    """Acceptance C37."""
    extra = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

    async def too_much(connection, _) -> None:
        if together:
            await connection.send(answer + extra)
        else:
            await connection.send(answer)
            await wait_for(lambda: b"ok" in client.received)
            await connection.send(extra)
        await connection.wait_ended()

    async with Origin(too_much, OK) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        await wait_for(lambda: origin.connections[0].eof or origin.connections[0].lost)
        await client.send(ASK)
        assert (await final(client)).body == b"ok"
        assert b"poison" not in client.received
        await client.close()
        assert len(origin.connections) == 2


async def test_an_early_refusal_of_an_upload_reaches_the_client() -> None:
    """Acceptance D55."""
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\ntoo big"

    async def refuse(connection) -> None:
        await connection.read_exactly(200_000)
        await connection.send(refusal)
        await connection.wait_ended()

    async with RawUpstream(refuse) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        while not client.received:
            await client.send(b"x" * 50_000)
        message = await final(client)
        assert message.status == 413
        assert message.body == b"too big"
        assert message.values(b"connection") == [b"close"]  # so that the client stops
        await client.wait_ended()
        assert client.error is None
        await client.close()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof)
    kept = await gateway.only()
    assert kept.complete == (False, True)


@pytest.mark.parametrize("head", [b"Content-Length: 4\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_expectation_is_met_by_the_gateway_when_the_upstream_is_silent(head: bytes) -> None:
    """Acceptance A10."""
    body = b"body" if b"Length" in head else b"4\r\nbody\r\n0\r\n\r\n"
    async with Origin() as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n" + head + b"\r\n")
        assert await client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        assert (await final(client)).body == b"ok"
        await client.close()
        assert origin.requests[0].body == b"body"
        assert len(origin.requests) == 1
        assert client.received.count(b"100 Continue") == 1


async def test_an_upstream_s_own_continue_comes_through_once() -> None:
    async def go_on(connection) -> None:
        await connection.read_head()
        await connection.send(b"HTTP/1.1 100 Yes Please\r\n\r\n")
        await connection.read_until(b"body")
        await connection.send(OK)
        await connection.wait_ended()

    async with RawUpstream(go_on) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert await client.read_head() == b"HTTP/1.1 100 Yes Please\r\n\r\n"
        await client.send(b"body")
        message = await final(client)
        assert message.status == 200
        await client.close()


async def test_an_expectation_can_be_refused_by_the_upstream() -> None:
    async with RawUpstream(_refuse_expectation) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"POST /up/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        message = await final(client)
        assert message.status == 401
        assert message.body == b"no"
        assert b"100 Continue" not in client.received
        await client.wait_ended()
        await client.close()


async def _refuse_expectation(connection) -> None:
    await connection.read_head()
    await connection.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
    await connection.wait_ended()


async def test_an_unknown_expectation_is_refused() -> None:
    """Acceptance A10."""
    async with Origin() as origin, rig(origin) as gateway:
        message, client = await gateway.ask(b"GET /up/ HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n")
        assert message.status == 417
        await client.close()
        assert origin.connections == []
