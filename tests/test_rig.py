"""The tests' own equipment is tested where a mistake in it would make other tests pass."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from rawsockets import RawUpstream, Tap, connect, raw_request, wait_for
from readback import archive_lines, requests_in, responses_in, slice_bytes, unchunk

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_raw_upstream_keeps_every_byte_and_a_raw_request_returns_every_byte() -> None:
    async def answer(connection) -> None:
        await connection.read_message()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER)
        await connection.wait_ended()

    async with RawUpstream(answer) as upstream:
        sent = b"POST /a%2Fb HTTP/1.1\r\nhOST: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        assert await raw_request(upstream.port, sent) == b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER
        assert bytes(upstream.connections[0].received) == sent


async def test_what_a_scripted_answer_asserts_fails_the_test() -> None:
    async def answer(connection) -> None:
        assert await connection.read_head() == b"something else"

    with pytest.raises(AssertionError):
        async with RawUpstream(answer) as upstream:
            assert await raw_request(upstream.port, b"GET / HTTP/1.1\r\n\r\n") == b""


async def test_a_reset_and_a_close_look_different_through_a_tap() -> None:
    async def answer(connection) -> None:
        if b"reset" in await connection.read_head():
            await connection.send(b"half")
            await connection.reset()

    async with RawUpstream(answer) as upstream, Tap(upstream.port) as tap:
        broken = await connect(tap.port)
        await broken.send(b"reset\r\n\r\n")
        await wait_for(lambda: broken.lost)
        assert isinstance(broken.error, ConnectionResetError)

        ended = await connect(tap.port)
        await ended.send(b"close\r\n\r\n")
        assert await ended.read_to_end() == b""
        assert ended.eof
        assert ended.error is None
        await ended.close()
        await wait_for(lambda: all(crossing.ended for crossing in tap.crossings))
        assert [bytes(crossing.client) for crossing in tap.crossings] == [b"reset\r\n\r\n", b"close\r\n\r\n"]


async def test_waiting_fails_at_its_deadline_and_says_for_what() -> None:
    with pytest.raises(AssertionError, match="1 == 2"):
        await wait_for(lambda: 1 == 2, deadline=0.02)


def test_recorded_streams_come_apart_into_messages() -> None:
    stream = b"HEAD /x HTTP/1.1\r\nA:  1 \r\nA:2\r\n\r\nPOST /y HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET /z"
    requests = requests_in(stream)
    assert [(r.method, r.target, r.body) for r in requests] == [(b"HEAD", b"/x", b""), (b"POST", b"/y", b"abc")]
    assert requests[0].fields == [(b"A", b"1"), (b"A", b"2")]
    stream = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n0\r\n"
    head, broken = responses_in(stream, [b"HEAD", b"POST"])
    assert head.complete
    assert (broken.body, broken.complete) == (b"a", False)
    assert unchunk(b"2\r\nab\r\n0\r\nX: y\r\n\r\nrest") == (b"ab", 18)


def test_parts_of_an_exchange_are_joined_in_order(tmp_path: Path) -> None:
    def part(number: int, body: dict[str, object]) -> bytes:
        request = {"method": "POST" if not number else None, "body": body}
        return gzip.compress(json.dumps({"id": "a", "kind": "exchange", "part": number, "request": request}).encode() + b"\n")

    (tmp_path / "2026-11-20T10.jsonl.gz").write_bytes(part(1, {"text": "c", "head": "ww=="}) + gzip.compress(b'{"kind": "open"}\n'))
    (tmp_path / "2026-11-20T11.jsonl.gz").write_bytes(part(0, {"text": "é"}))
    (exchange,) = archive_lines(tmp_path)
    assert exchange.body("request") == "é".encode() + b"\xc3c"
    assert exchange.request["method"] == "POST"
    assert slice_bytes({"base64": "AP8="}) == b"\x00\xff"
