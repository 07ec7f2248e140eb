"""A seeded fuzz of both parsers over real sockets: what crosses is what an independent strict reader reads, and nothing else ever does.

`make smuggle` runs 2,000 cases of each kind, every test run 500. A failing case's number is in the message; it runs alone with
VERBATIM_SMUGGLE_ONLY=NUMBER, and `python tests/smuggle.py NUMBER` shows its bytes.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from hashlib import sha256

import pytest
from rawsockets import Connection, RawUpstream, connect, wait_for
from relayrig import Rig, rig
from smuggle import answer_case, cut, nonce, request_case
from strictly import Read, Strict, read_request, read_response

CASES = int(os.environ.get("VERBATIM_SMUGGLE_CASES", "500"))
ONLY = os.environ.get("VERBATIM_SMUGGLE_ONLY")
LANES = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")
"""Cases that run at once, each on a route and an origin of its own, whose connections outlive the case."""

PROMPT = 5.0
"""Seconds within which every case is answered or closed (acceptance 31)."""

HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate proxy-authorization host".split()
)
MARK = re.compile(rb"n\d+x\d+n")


def numbers() -> list[int]:
    return [int(ONLY)] if ONLY else list(range(CASES))


def meant(raw: bytes) -> Iterator[Read]:
    """What a stream of requests means, up to the first that is no good."""
    while raw:
        read = read_request(raw)
        yield read
        if read.message is None or not read.message.whole:
            return
        raw = raw[read.used :]


def crossing(message: Strict) -> list[tuple[bytes, bytes]]:
    """The fields that are to reach the other side, by RFC 9110 section 7.6.1."""
    named = {token.strip(b" \t").lower() for value in message.values(b"connection") for token in value.split(b",")}
    dropped = HOP | (named - {b"content-length"})
    return [(name, value) for name, value in message.fields if name.lower() not in dropped]


def same(found: Strict, sent: Strict, route: str) -> bool:
    """Whether the upstream's request is the client's: method, target, fields and body, or as much of the body as came."""
    target = re.sub(rb"^[A-Za-z][A-Za-z0-9+.\-]*://[^/]*", b"", sent.start[1])
    prefix = b"/" + route.encode()
    body = found.body == sent.body if found.whole else sent.body.startswith(found.body)
    return (
        found.start == (sent.start[0], target.removeprefix(prefix), b"HTTP/1.1")
        and target.startswith(prefix)
        and crossing(found) == crossing(sent)
        and body
        and found.whole <= sent.whole
    )


def fingerprint(message: Strict) -> bytes:
    return sha256(b"%b %b %b" % (message.start[0], message.start[1], message.body)).hexdigest()[:16].encode()


class Judge(RawUpstream):
    """An origin that reads strictly, keeps every request it got, and answers with its fingerprint."""

    def __init__(self) -> None:
        super().__init__(self._serve)
        self.found: list[Strict] = []
        self.problems: list[str] = []

    async def _serve(self, connection: Connection) -> None:
        index, at = -1, 0
        while True:
            read = read_request(bytes(connection.received[at:]))
            if read.problem:
                self.problems.append(f"{read.problem}: {bytes(connection.received[at:])!r}")
                return
            message = read.message
            if message is not None:
                if index < 0:
                    index = len(self.found)
                    self.found.append(message)
                    self._check(message)
                self.found[index] = message
            if message is not None and message.whole:
                at, index = at + read.used, -1
                text = b"" if message.start[0] == b"HEAD" else b"ok"
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Print: %b\r\n\r\n%b" % (fingerprint(message), text))
            elif connection.eof or connection.lost:
                return
            elif message is not None and index >= 0 and message.start[1].endswith(b"%2e%2e") and message.values(b"x-kept") == [b"1"]:
                await connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nX-Print: early\r\n\r\n")  # without reading on
                await connection.wait_ended()
                return
            else:
                connection._news.clear()
                await connection._news.wait()

    def _check(self, message: Strict) -> None:
        """What holds beyond the grammar for what the gateway sends."""
        wrong = [
            what
            for what, so in (
                ("a Host that is not the upstream's", message.values(b"host") != [f"127.0.0.1:{self.port}".encode()]),
                ("a target in another form", not message.start[1].startswith(b"/") and message.start[1] != b"*"),
                ("another version", message.start[2] != b"HTTP/1.1"),
            )
            if so
        ]
        self.problems += [f"{what}: {message!r}" for what in wrong]


async def in_lanes(run: Callable[[str, int], Awaitable[None]]) -> None:
    """Every case once, as many at a time as there are lanes; what failed is told at the end."""
    waiting = iter(numbers())
    failures: list[str] = []

    async def lane(name: str) -> None:
        for number in waiting:
            try:
                await run(name, number)
            except (AssertionError, OSError, TimeoutError) as failure:
                failures.append(f"case {number}: {type(failure).__name__} {failure}")

    async with asyncio.TaskGroup() as group:
        for name in LANES:
            group.create_task(lane(name))
    assert not failures, "\n".join([f"{len(failures)} cases failed; VERBATIM_SMUGGLE_ONLY=NUMBER runs one alone", *failures[:8]])


async def quiet(gateway: Rig, lane: str) -> None:
    await wait_for(lambda: not [exchange for exchange in gateway.relay.exchanges if exchange.target.route.name == lane])


def answers(client: Connection, asked: list[bytes]) -> tuple[list[Strict], bytes]:
    """The final responses a client got, read strictly, and what was left over."""
    found: list[Strict] = []
    data = bytes(client.received)
    while data:
        read = read_response(data, asked[len(found)] if len(found) < len(asked) else b"GET", ended=client.eof or client.lost)
        assert not read.problem, f"{read.problem}: {data!r}"
        if read.message is None or not read.message.whole:
            break
        if int(read.message.start[1]) >= 200:
            found.append(read.message)
        data = data[read.used :]
    return found, data


async def test_nothing_is_smuggled_past_an_independent_reader(capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance C31: a seeded fuzz of requests, pipelined, split, mutated."""
    totals: Counter[str] = Counter()
    origins = {name: Judge() for name in LANES}

    async def run(lane: str, number: int) -> None:
        judge = origins[lane]
        before = len(judge.found)
        requests = request_case(number, lane.encode())
        raw = b"".join(requests)
        reads = list(meant(raw))
        sent = [read.message for read in reads if read.message is not None]
        began = time.monotonic()
        client = await connect(gateway.port)
        stack.callback(client.transport.abort)
        with suppress(ConnectionError):
            for piece in cut(number, raw) if number % 2 else requests:
                await client.send(piece)
                if number % 3 == 0:  # wait for what is on its way, as a client that does not pipeline
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.02):
                            await client.wait_ended()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3 if reads[-1].message is not None and reads[-1].message.whole else 0.02):
                await client.wait_ended()  # answers come; a refusal closes
        if not client.lost and not client.transport.is_closing():
            client.send_eof()
        await client.wait_ended(PROMPT)
        assert time.monotonic() - began < PROMPT
        await quiet(gateway, lane)
        found = judge.found[before:]
        problems, judge.problems = judge.problems, []
        assert not problems, f"{problems}"
        assert len(found) <= len(sent), f"{len(found)} requests of {len(sent)}: {found!r}"
        for got, wanted in zip(found, sent, strict=False):
            assert same(got, wanted, lane), f"{got!r} is not {wanted!r}"
            assert set(MARK.findall(repr(got).encode())) <= set(MARK.findall(repr(wanted).encode())), f"{got!r}"
        replies, _ = answers(client, [message.start[0] for message in sent])
        for reply, got in zip(replies, found, strict=False):
            if reply.values(b"x-print") and reply.values(b"x-print") != [b"early"]:
                assert reply.values(b"x-print") == [fingerprint(got)], "the answer to another request"
        totals["requests meant"] += sum(message.whole for message in sent)
        totals["requests that reached the upstream"] += sum(message.whole for message in found)
        totals["refused"] += sum(reply.start[1].startswith(b"4") for reply in replies)
        totals["5xx"] += sum(reply.start[1].startswith(b"5") for reply in replies)
        totals["answers"] += len(replies)
        totals["closed without an answer"] += not replies
        totals["cases"] += 1
        await client.close()

    async with AsyncExitStack() as stack:
        for origin in origins.values():
            await stack.enter_async_context(origin)
        gateway = await stack.enter_async_context(rig({name: origin.url for name, origin in origins.items()}, header_timeout=2.0))
        await in_lanes(run)
    with capsys.disabled():
        print(f"\n  requests: {dict(totals)}")
    if not ONLY:
        assert totals["5xx"] < 0.01 * totals["answers"]
        assert totals["requests that reached the upstream"] > totals["cases"] / 2
        assert totals["refused"] > totals["cases"] / 4


async def test_a_malformed_answer_reaches_no_other_client(capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance C37: the same from the other side. An upstream's answers, mutated: each client gets its own whole, or sees it broken."""
    totals: Counter[str] = Counter()
    said: dict[bytes, tuple[bytes, bool]] = {}

    async def serve(connection: Connection) -> None:
        while True:
            head = await connection.read_head()
            mark = MARK.search(head)
            assert mark is not None
            number = int(mark[0][1:].partition(b"x")[0])
            said[mark[0]] = answer, close = answer_case(number, head.split(b" ")[0])
            for piece in cut(number, answer):
                await connection.send(piece)
                await asyncio.sleep(0)
            if close:
                return

    origins = {name: RawUpstream(serve) for name in LANES}
    clients: dict[str, Connection] = {}

    async def run(lane: str, number: int) -> None:
        mark, method = nonce(number, 0), b"HEAD" if number % 7 == 0 else b"GET"
        client = clients.pop(lane, None)
        if client is None or client.eof or client.lost:
            if client is not None:
                await client.close()
            client = await connect(gateway.port)
            stack.callback(client.transport.abort)
        start = len(client.received)
        began = time.monotonic()
        await client.send(b"%b /%b/%b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, lane.encode(), mark))

        def reply() -> Read:
            at = start
            while True:
                read = read_response(bytes(client.received[at:]), method, ended=client.eof or client.lost)
                if read.message is None or not read.message.whole or int(read.message.start[1]) >= 200:
                    return read
                at += read.used

        def settled() -> bool:
            read = reply()
            assert not read.problem, f"{read.problem}: {bytes(client.received[start:])!r}"
            return bool(read.message and read.message.whole) or client.eof or client.lost

        waiting = asyncio.ensure_future(wait_for(settled, PROMPT))
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.3)
        if not waiting.done() and mark in said and endless(judged(*said[mark], method)):  # the upstream would have to go on for ever
            await client.close()
            totals["without an end"] += 1
        await waiting
        assert time.monotonic() - began < PROMPT
        got = reply()
        text = bytes(client.received[start:])
        assert set(MARK.findall(text)) <= {mark, *MARK.findall(said[mark][0])}, f"{text!r} holds another's"
        wanted = judged(*said[mark], method)
        message = got.message
        if message is not None and message.whole and not message.values(b"x-verbatim-error"):
            assert wanted.message is not None, f"{text!r}"
            assert wanted.message.whole or not message.values(b"content-length"), f"{text!r}"
            assert not wanted.problem, f"{wanted.problem} crossed: {text!r}"
            assert (message.start[1:], message.body) == (wanted.message.start[1:], wanted.message.body), f"{text!r}"
            totals["crossed"] += 1
        elif message is not None and message.whole:
            assert message.start[1] == b"502", f"{text!r}"
            totals["502"] += 1
        else:
            totals["broken"] += 1
        totals["cases"] += 1
        clients[lane] = client

    def endless(read: Read) -> bool:
        """What there is of the answer is no whole one and may become one; a head is judged when it is whole."""
        return read.message is None or not (read.message.whole or read.problem)

    def judged(answer: bytes, close: bool, method: bytes) -> Read:
        while True:
            read = read_response(answer, method, ended=close)
            if read.message is None or not read.message.whole or int(read.message.start[1]) >= 200:
                return read
            answer = answer[read.used :]

    async with AsyncExitStack() as stack:
        for origin in origins.values():
            await stack.enter_async_context(origin)
        gateway = await stack.enter_async_context(rig({name: origin.url for name, origin in origins.items()}))
        await in_lanes(run)
        for client in clients.values():
            if not client.lost:
                await client.close()
    with capsys.disabled():
        print(f"\n  answers: {dict(totals)}")
    if not ONLY:
        assert totals["crossed"] > totals["cases"] / 3
        assert totals["502"] > totals["cases"] / 20
