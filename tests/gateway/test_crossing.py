"""Both sides of a direction in any order and any cut: equal bytes are equal however they were told; others are found where they begin."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from archive.content import hashes, take
from archive.record import Body, BodyStream
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
