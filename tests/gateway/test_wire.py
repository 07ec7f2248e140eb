"""The wire's core, bytes in and bytes out, without sockets: any split of the same bytes means the same, and what goes on is unambiguous."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import h11
import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import headers
from gateway.grammar import parse_request, parse_response
from gateway.wire import Data, End, Head, Limits, ProtocolError, Reader, request_reader, response_reader

Read: TypeAlias = tuple[list[Any], int | None]
"""What a reader made of a stream: heads, bodies (joined: payload, raw), ends; and the status of the refusal, if there was one."""

LIMITS = Limits(header_bytes=4096, header_fields=20)


def head_of(head: Head) -> tuple[Any, ...]:
    return (
        *("head", head.method, head.target, head.version, head.status, head.reason, tuple(head.headers)),
        *(head.framing, head.length, head.keep_alive, tuple(head.connection), head.upgrade, head.expect),
    )


def read(reader: Reader, pieces: Sequence[bytes], *, eof: bool = True) -> Read:
    """Everything `reader` makes of `pieces`, message after message."""
    found: list[Any] = []

    def take(events: list[Any]) -> None:
        for event in events:
            if isinstance(event, Head):
                found.append(head_of(event))
            elif isinstance(event, Data):
                if not found or found[-1][0] != "data":
                    found.append(("data", b"", b""))
                found[-1] = ("data", found[-1][1] + b"".join(event.payload), found[-1][2] + event.raw)
            else:
                assert isinstance(event, End)
                found.append(("end", event.raw))

    def follow(events: list[Any]) -> None:
        take(events)
        while reader.ended and reader.waiting:
            take(reader.next())

    try:
        for piece in pieces:
            if piece:
                follow(reader.next() if reader.ended else [])
                follow(reader.receive(piece))
        if eof:
            follow(reader.eof())
    except ProtocolError as error:
        return found, error.status
    return found, None


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(stream) + 1) for place in places})
    return [stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)]


# Streams that are as they should be

TOKEN = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=8).map(str.encode)
VALUE = st.binary(max_size=12).map(lambda value: re.sub(rb"[\x00-\x1f\x7f]", b"", value).strip(b" "))
FIELD = st.tuples(TOKEN.map(lambda name: b"X-" + name), VALUE)
BODY = st.binary(max_size=80)


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    out = b""
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";a", b";a=b"]))
        zeros = b"0" * draw(st.integers(0, 2))
        out += zeros + (b"%x" if draw(st.booleans()) else b"%X") % size + extension + b"\r\n" + body[:size] + b"\r\n"
        body = body[size:]
    trailers = draw(st.sampled_from([b"", b"X-Sum: 1\r\n", b"X-Api-Key: dropped\r\n", b"X-A: 1\r\nX-B:\r\n"]))
    return out + draw(st.sampled_from([b"0", b"000", b"0;x=y"])) + b"\r\n" + trailers + b"\r\n"


@st.composite
def message(draw: st.DrawFn, start: bytes, *, framings: Sequence[str], host: bool) -> bytes:
    fields = draw(st.lists(FIELD, max_size=4))
    body = draw(BODY)
    framing = draw(st.sampled_from(framings))
    lines = [start, *[b"Host: a"] * host, *[name + b":" + draw(st.sampled_from([b"", b" ", b"  "])) + value for name, value in fields]]
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = draw(chunked(body))
    elif framing == "none":
        body = b""
    return b"\r\n".join([*lines, b"", b""]) + body


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = draw(st.text("/abc%20?&=.:@;~[]", max_size=12).map(str.encode))
    start = draw(st.sampled_from([b"GET", b"POST", b"OPTIONS"])) + b" /" + target + b" HTTP/1.1"
    return draw(message(start, framings=("none", "length", "chunked"), host=True))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n"]))
    start = draw(st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 529 ", b"HTTP/1.1 404 Not \xe9"]))
    return interim + draw(message(start, framings=("length", "chunked"), host=False))


@st.composite
def answer_streams(draw: st.DrawFn) -> bytes:
    last = draw(st.sampled_from([b"", b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nuntil the end"]))
    return b"".join(draw(st.lists(responses(), max_size=3))) + last


STREAMS: dict[str, tuple[Callable[[Limits], Reader], Any]] = {
    "requests": (request_reader, st.lists(requests(), min_size=1, max_size=3).map(b"".join)),
    "responses": (response_reader, answer_streams()),
}


@pytest.mark.parametrize("kind", STREAMS)
@given(data=st.data(), places=st.lists(st.integers(0, 2000), max_size=10))
def test_any_split_of_a_message_means_the_same(kind: str, data: st.DataObject, places: list[int]) -> None:
    make, streams = STREAMS[kind]
    stream = data.draw(streams)
    whole = read(make(LIMITS), [stream])
    assert whole[1] is None
    assert whole == read(make(LIMITS), cut(stream, places))
    assert whole == read(make(LIMITS), [stream[at : at + 1] for at in range(len(stream))])


@given(st.lists(requests(), min_size=1, max_size=3))
def test_what_goes_on_is_what_another_parser_reads(sent: list[bytes]) -> None:
    found, refused = read(request_reader(LIMITS), [b"".join(sent)])
    assert refused is None
    assert sum(event[0] == "head" for event in found) == len(sent)
    for raw in sent:
        (event, *rest), _ = read(request_reader(LIMITS), [raw])
        agrees(raw, event, rest)


def agrees(raw: bytes, event: tuple[Any, ...], rest: list[Any]) -> None:
    """What would go upstream for a request, read by h11: the same message, and only one way to read it."""
    head = request_reader(LIMITS).receive(raw)[0]
    assert isinstance(head, Head)
    out = headers.request_head(head, head.target, b"up:1")
    assert re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", out) is None
    names = [line.split(b":")[0].lower() for line in out.split(b"\r\n")[1:-2]]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") == (head.framing != "none")
    assert out.count(b"\n") == out.count(b"\r\n") == len(names) + 2
    other = h11.Connection(h11.SERVER)
    other.receive_data(out + b"".join(part[-1] for part in rest))
    body, request = b"", None
    while (heard := other.next_event()) is not h11.PAUSED:
        if heard is h11.NEED_DATA:
            break
        if isinstance(heard, h11.Request):
            request = heard
        elif isinstance(heard, h11.Data):
            body += heard.data
    assert request is not None
    assert (request.method, request.target) == (event[1], event[2])
    assert body == b"".join(part[1] for part in rest if part[0] == "data")
    assert other.their_state is h11.DONE or rest[-1][0] != "end"
    assert other.trailing_data[0] == b""


# Streams that are not


@st.composite
def mutated(draw: st.DrawFn, stream: bytes) -> bytes:
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(stream)))
        piece = draw(
            st.one_of(
                st.sampled_from(
                    [
                        *(b"\r", b"\n", b"\x00", b" ", b"\t", b":", b"\r\n", b"\r\n\r\n", b"\x1f", b"\xff", b","),
                        *(b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: b", b"0x", b"+", b"-", b";"),
                        *(b"\r\nTransfer-Encoding : chunked", b"\r\n folded", b"identity, ", b"HTTP/1.0", b"\x0b", b"ffffffffffffffff"),
                    ]
                ),
                st.binary(min_size=1, max_size=2),
            )
        )
        removed = draw(st.sampled_from([0, 0, 1, len(piece)]))
        stream = stream[:at] + piece + stream[at + removed :]
    return stream


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=400)
@given(data=st.data(), places=st.lists(st.integers(0, 2000), max_size=6))
def test_a_damaged_stream_is_read_or_refused_the_same_under_every_split(kind: str, data: st.DataObject, places: list[int]) -> None:
    make, streams = STREAMS[kind]
    stream = data.draw(streams.flatmap(mutated))
    whole, refused = read(make(LIMITS), [stream])
    for pieces in (cut(stream, places), [stream[at : at + 1] for at in range(len(stream))]):
        found, also = read(make(LIMITS), pieces)
        assert (also is None) == (refused is None), (refused, also)
        if refused is None:
            assert found == whole
        else:  # a refusal drops what came in the same piece; what was passed on before is the same
            done, more = sorted((found, whole), key=len)
            assert done[:-1] == more[: max(len(done) - 1, 0)]


@settings(max_examples=400)
@given(requests().flatmap(mutated))
def test_what_is_taken_of_a_damaged_request_is_read_alike_by_another_parser(raw: bytes) -> None:
    found, refused = read(request_reader(LIMITS), [raw], eof=False)
    if refused is None and found and found[-1][0] == "end" and sum(event[0] == "head" for event in found) == 1 and _vchar(found[0]):
        agrees(raw, found[0], found[1:])


def _vchar(event: tuple[Any, ...]) -> bool:
    """h11 takes fewer targets than llhttp does."""
    return re.fullmatch(rb"[\x21-\x7e]+", event[2]) is not None


class Heard(list[tuple[bytes, bytes]]):
    """What llhttp calls back into."""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.append((name, value))


def llhttp(block: bytes, parser: Any) -> list[tuple[bytes, bytes]]:
    """The head's fields as llhttp, in its strict mode, reads them."""
    heard = Heard()
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser(heard).feed_data(block)
    return heard


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH")


@settings(max_examples=250)
@given(
    st.one_of(requests().flatmap(mutated), st.binary(max_size=60).map(lambda some: b"GET / HTTP/1.1\r\nHost: a\r\n" + some + b"\r\n\r\n"))
)
def test_no_request_s_head_is_taken_that_llhttp_refuses(raw: bytes) -> None:
    block = raw[: raw.find(b"\r\n\r\n") + 4]
    try:
        head = parse_request(block, 20)
    except ProtocolError:
        return
    if head is None:
        return
    assert head.size == len(block)
    if head.method.decode() not in METHODS:  # llhttp knows methods by name
        block = b"GET" + block[len(head.method) :]
    assert llhttp(block, httptools.HttpRequestParser) == head.headers


@settings(max_examples=250)
@given(st.one_of(responses().flatmap(mutated), st.binary(max_size=60).map(lambda some: b"HTTP/1.1 200 OK\r\n" + some + b"\r\n\r\n")))
def test_no_response_s_head_is_taken_that_llhttp_refuses(raw: bytes) -> None:
    block = raw[: raw.find(b"\r\n\r\n") + 4]
    try:
        head = parse_response(block, 20, b"GET")
    except ProtocolError:
        return
    if head is None:
        return
    assert head.size == len(block)
    assert llhttp(block, httptools.HttpResponseParser) == head.headers


REFUSED = [
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nC\rontent-Length:\n 0\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\nY: c\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n"),
    (501, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad name: x\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n80000000\r\n"),
    (400, b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a="\rb"\r\na\r\n0\r\n\r\n'),
    (400, b'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a="\nb"\r\na\r\n0\r\n\r\n'),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\n\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: u:p@a\r\n\r\n"),
    (400, b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xa0\r\n\r\n"),
    (400, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n"),
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n"),
    (400, b"\r\n" * 9),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    (400, b"GET / HTTP/0.9.1\r\nHost: a\r\n\r\n"),
    (405, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
    (405, b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (417, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 21 + b"\r\n"),
]


@pytest.mark.parametrize(("status", "raw"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_ambiguous_is_refused_under_every_split(status: int, raw: bytes) -> None:
    for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))], [raw[:-1], raw[-1:]]):
        found, refused = read(request_reader(LIMITS), pieces, eof=False)
        assert refused == status
        assert not any(event[0] == "end" for event in found)


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshor",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nConte",
    ],
)
def test_a_message_cut_short_by_the_end_is_no_message(stream: bytes) -> None:
    found, refused = read(response_reader(LIMITS), [stream])
    assert refused is not None
    assert not any(event[0] == "end" for event in found)


@example(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
@given(responses())
def test_an_answer_to_head_has_no_body(stream: bytes) -> None:
    reader = response_reader(LIMITS)
    reader.request_method = b"HEAD"
    found = [event for event in reader.receive(stream) if isinstance(event, Data)]
    assert found == []
    assert reader.ended


def test_bytes_after_a_message_wait_and_are_handed_out_on_an_upgrade() -> None:
    reader = request_reader(LIMITS)
    events = reader.receive(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes")
    assert [type(event) for event in events] == [Head, End]
    assert reader.ended
    assert reader.waiting == 6
    assert reader.receive(b" and more") == []
    assert reader.detach() == b"frames and more"
    assert reader.waiting == 0


@pytest.mark.parametrize("method", [b"PROPFIND", b"MKCALENDAR", b"M-SEARCH", b"X-MINE", b"!#$%&'*+-.^_`|~0", b"BASELINE-CONTROL"])
def test_any_token_is_a_method(method: bytes) -> None:
    """Acceptance A11."""
    (head, _) = request_reader(LIMITS).receive(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(head, Head)
    assert head.method == method


def test_what_cannot_begin_a_request_takes_the_one_before_it_with_it() -> None:
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for behind in (b"\rX: y\r\n\r\n", b"\n", b"\x00", b" GET", b"{"):
        assert read(request_reader(LIMITS), [get + behind], eof=False) == ([], 400)
    for behind in (b"\r", b"\r\n", b"GET", b"\r\nGET / HTTP/1.1\r\n"):
        found, refused = read(request_reader(LIMITS), [get + behind], eof=False)
        assert [event[0] for event in found] == ["head", "end"]
        assert refused is None


def test_two_upgrades_are_no_handshake() -> None:
    for lines in (b"Upgrade: h2c\r\nUpgrade: websocket\r\n", b"Upgrade: websocket\r\nUpgrade: h2c\r\n", b"Upgrade: websocket, h2c\r\n"):
        (head, _) = request_reader(LIMITS).receive(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n" + lines + b"\r\n")
        assert isinstance(head, Head)
        assert head.upgrade != b"websocket"


@pytest.mark.parametrize("sent", [b"Content-Length: 11\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n"])
def test_a_body_longer_than_allowed_is_refused_as_soon_as_it_says_so(sent: bytes) -> None:
    for most, wanted in ((10, 413), (11, None), (0, None)):
        _, refused = read(request_reader(Limits(body_bytes=most)), [b"POST / HTTP/1.1\r\nHost: a\r\n" + sent], eof=False)
        assert refused == wanted


def test_fields_that_mean_something_to_this_hop_are_noted() -> None:
    raw = b"GET / HTTP/1.1\r\nA: 1\r\nhOst: a\r\nX-Verbatim-Session: s\r\nTE: trailers\r\nX-Verbatimx: 1\r\nConnection: a\r\n\r\n"
    (head, _) = request_reader(LIMITS).receive(raw)
    assert isinstance(head, Head)
    assert [field[1] for field in head.noted] == [b"host", b"x-verbatim-session", b"te", b"connection"]
    assert [field[1] for field in head.fields_named({b"a"})] == [b"a", b"host", b"x-verbatim-session", b"te", b"connection"]
    assert head.reserved
    (plain, _) = request_reader(LIMITS).receive(b"GET / HTTP/1.1\r\nHost: a\r\nX: x-verbatim-a\r\n\r\n")
    assert isinstance(plain, Head)
    assert not plain.reserved
