"""Both sides of a direction in any order and any cut: equal bytes are equal however they were told; others are found where they begin."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from archive.content import hashes, take
from archive.record import Body, BodyStream, Crossed
from gateway.crossing import Direction
from gateway.handed import Handed

HEAD = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """`data` in pieces, empty ones among them."""
    places = [0, *sorted(min(one, len(data)) for one in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 60), max_size=6)


@given(st.binary(max_size=60), CUTS, CUTS, st.lists(st.sampled_from("rfc"), max_size=20), st.none() | st.integers(0, 59))
def test_the_order_of_telling_and_the_parts_change_nothing(
    body: bytes, received: list[int], forwarded: list[int], order: list[str], spoilt: int | None
) -> None:
    wrong = body if spoilt is None or spoilt >= len(body) else body[:spoilt] + bytes([body[spoilt] ^ 1]) + body[spoilt + 1 :]
    there, back = cut(body, received), [HEAD % len(wrong), *cut(wrong, forwarded)]
    direction, stream, offset, chunks = Direction("request"), BodyStream(), 0, list[bytes]()

    def part(*, last: bool) -> None:
        nonlocal offset, chunks
        if chunks or last:
            take(Body(chunks, [], offset, "", last, stream, direction.fork()), last=last)
            offset, chunks = offset + sum(map(len, chunks)), []

    for what in [*order, *"r" * len(there), *"f" * len(back)]:
        if what == "r" and there:
            chunks.append(there.pop(0))
            direction.got(chunks[-1:])
        elif what == "f" and back:
            direction.wrote([back.pop(0)])
        elif what == "c":
            part(last=False)
    direction.ended = True
    part(last=True)
    found = direction.crossed(complete=True)
    assert found.size == (len(body), len(wrong))
    assert found.same == (wrong == body)
    if wrong == body:
        assert found.differences == []
    else:
        assert found.differences == [f"request body: the bytes forwarded are not those received, from byte {spoilt} on"]
        assert hashes(stream) == (hashlib.sha256(body).hexdigest(), hashlib.sha256(wrong).hexdigest())


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), CUTS)
def test_what_was_handed_on_is_read_alike_however_it_was_written(chunks: list[bytes], at: list[int]) -> None:
    body = b"".join(chunks)
    coded = b"".join(b"%x;a=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nX-T: 1\r\n\r\n"
    for head, rest in ((HEAD % len(body), body), (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", coded)):
        handed = Handed()
        found = b"".join(b"".join(handed.feed(piece)) for piece in cut(head + rest, at))
        assert (found, handed.head, handed.body) == (body, head, len(body))
        assert handed.sound
        handed.feed(b"more")
        assert (handed.beyond, handed.sound) == (4, False)


def test_what_is_no_http_is_said() -> None:
    for written, mistake in (
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "it has more than one framing field"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", "its chunks cannot be read"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX", "its chunks cannot be read"),
    ):
        handed = Handed()
        handed.feed(written)
        handed.feed(b"\r\n")
        assert handed.mistake == mistake


def compared(side: str, block: bytes, forwarded: bytes, *tokens: bytes) -> Crossed:
    """What is found of a head whose field lines were `block` and of the one written to the other side."""
    direction = Direction(side, b"GET" if side == "response" else None)
    start = b"GET / HTTP/1.1" if side == "request" else b"HTTP/1.1 200 OK"
    names = tuple(line.partition(b":")[0] for line in block.split(b"\r\n")[1:])
    direction.head(block, names, start, tokens)
    direction.wrote([start + forwarded + b"\r\n\r\n"])
    direction.ended = True
    return direction.crossed(complete=True)


LONG = b"".join(b"\r\nx-field-%d: %b" % (number, b"v" * 100) for number in range(200))


@given(st.sampled_from([b"", LONG]), st.sampled_from(["\r\nA: 1", "\r\na:  1", "\r\nA:1", "\r\nA: "]))
def test_heads_are_compared_line_by_line_or_at_once_with_the_same_outcome(more: bytes, line: str) -> None:
    a = line.encode()
    block = b"\r\nHost: gateway" + a + b"\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nhost-like: Host: gateway" + a + more
    good = b"\r\nHost: upstream" + a + b"\r\nhost-like: Host: gateway" + a + more
    assert compared("request", block, good, b"close", b"x-hop").differences == []
    assert compared("request", block, good, b"close", b"x-hop").differ == ("-connection", "-x-hop")
    moved = good.replace(b"\r\nHost: upstream", b"") + b"\r\nHost: upstream"
    assert compared("request", block, moved, b"close", b"x-hop").differences == []
    for bad, word in (
        (good.replace(a, b"", 1), "header a was lost"),
        (good + b"\r\nVia: me", "header via was added"),
        (good.replace(b"like: Host: gateway", b"like: Host: upstream"), "header host-like was forwarded changed"),
        (good.replace(b"\r\nHost: upstream", b"\r\nHost: upstream\r\nx-new: 1"), "header x-new was added"),
    ):
        assert compared("request", block, bad, b"close", b"x-hop").differences == [f"request headers: {word}"], bad
    assert compared("request", block, good).differences == ["request headers: header x-hop was lost"]


def test_the_white_space_before_a_value_is_none_of_it() -> None:
    found = compared("request", b"\r\nHost: g\r\nContent-Length:0", b"\r\nHost: u\r\nContent-Length: 0")
    assert (found.differences, found.differ) == ([], ())
