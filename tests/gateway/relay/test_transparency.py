"""What was handed on is held against what was received: ordinary exchanges of every kind are unchanged, bugs put into the relay show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import verbatim
from readback import Message
from relayrig import Connection, Kept, Origin, RawUpstream, final, rig, wait_for
from samples import Shelf

from archive.line import to_line
from archive.record import Crossed, Transparency, names_digest
from gateway import headers
from gateway.exchange import Exchange

POST = (
    b"POST /up/v1/x HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive\r\nX-Dup: 1\r\nx-dup: 2\r\nx-verbatim-session: s\r\n"
    b"Content-Length: 5\r\n\r\nhello"
)
UPGRADE = (
    b"GET /up/ HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
UPLOAD = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
GET = b"GET /up/ HTTP/1.1\r\nHost: gw\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=1\r\ndefg\r\n0\r\nX-Trailer: t\r\n\r\n"


def told(kept: Kept) -> Transparency:
    (found,) = [part.transparency for part in kept.parts if part.transparency is not None]
    assert kept.parts[-1].transparency is found
    return found


def differences(kept: Kept) -> list[str]:
    found = told(kept)
    return [*(found.request.differences if found.request else ()), *(found.response.differences if found.response else ())]


def sides(kept: Kept) -> tuple[Crossed, Crossed]:
    found = told(kept)
    assert found.request is not None
    assert found.response is not None
    return found.request, found.response


async def asked(request: bytes, *scripts: Any, **settings: Any) -> Kept:
    """One exchange of a fresh gateway."""
    async with Origin(*scripts) as origin, rig(origin, **settings) as gateway:
        _, client = await gateway.ask(request)
        kept = await gateway.only()
        await client.close()
        return kept


async def test_an_ordinary_exchange_was_forwarded_unchanged() -> None:
    kept = await asked(POST, ANSWER)
    request, response = sides(kept)
    assert differences(kept) == []
    names = [b"host", b"connection", b"x-dup", b"x-dup", b"x-verbatim-session", b"content-length"]
    forwarded = [b"host", b"x-dup", b"x-dup", b"content-length"]
    assert request.names == (names_digest(names), names_digest(forwarded))
    assert sorted(request.differ) == ["-connection", "-x-verbatim-session"]
    assert (request.size, request.same) == ((5, 5), True)
    assert sorted(response.differ) == ["+x-verbatim-id", "-connection"]
    assert (response.size, response.same) == ((10, 10), True)


@pytest.mark.parametrize(
    ("request_", "answer", "size"),
    [
        (GET, ANSWER, 10),
        (GET.replace(b"GET", b"HEAD"), ANSWER[:-10], 0),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 0),
        (GET, CHUNKED, 7),
        (GET.replace(b"1.1", b"1.0"), CHUNKED, 7),
        (GET, b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER, 10),
        (
            POST.replace(b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
            ANSWER,
            10,
        ),
        (POST.replace(b"Connection: keep-alive", b"Connection: close, x-dup"), ANSWER, 10),
    ],
)
async def test_every_framing_is_read_back_as_it_was(request_: bytes, answer: bytes, size: int) -> None:
    kept = await asked(request_, answer)
    request, response = sides(kept)
    assert differences(kept) == []
    assert (request.size[0], request.same) == (request.size[1], True)
    assert (response.size, response.same) == ((size, size), True)


Bug = Callable[[bytes], bytes]
BUGS: dict[str, Bug] = {
    "dropped": lambda raw: b"",
    "cut short": lambda raw: raw[:-1],
    "doubled": lambda raw: raw + raw,
    "swapped": lambda raw: raw[len(raw) // 2 :] + raw[: len(raw) // 2],
    "altered": lambda raw: raw[:3] + bytes([raw[3] ^ 1]) + raw[4:],
    "another's": lambda raw: b"z" * len(raw),
}


def spoil_request(monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    """The relay hands on something else than the body it received; its head stays as it is."""
    real = Exchange.send
    monkeypatch.setattr(Exchange, "send", lambda self, pieces, events: real(self, [*pieces[:1], *map(bug, pieces[1:])], events))


def spoil_response(monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    real = Exchange.response

    def response(self: Exchange, events: list[Any]) -> None:
        for event in events:
            if hasattr(event, "payload"):
                event.raw = bug(event.raw)
        real(self, events)

    monkeypatch.setattr(Exchange, "response", response)


@pytest.mark.parametrize("bug", BUGS)
async def test_a_spoilt_request_body_shows(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer_at_once(connection: Connection) -> None:
        await connection.read_until(b"\r\n\r\n")
        await connection.send(ANSWER)

    spoil_request(monkeypatch, BUGS[bug])
    async with RawUpstream(answer_at_once) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(POST)
        await final(client)
        kept = await gateway.only()
        await client.close()
    request, response = sides(kept)
    assert request.differences
    assert all(what.startswith("request body: ") for what in request.differences)
    assert response.differences == []


@pytest.mark.parametrize("answer", [ANSWER, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"])
@pytest.mark.parametrize("bug", BUGS)
async def test_a_spoilt_response_body_shows(bug: str, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil_response(monkeypatch, BUGS[bug])
    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(GET)
        kept = await gateway.only()
        await client.close()
    request, response = sides(kept)
    assert request.differences == []
    assert response.differences
    assert all(what.startswith("response ") for what in response.differences)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"Set-Cookie: b=2\r\n", b"", "response headers: header set-cookie was lost"),
        (b"Set-Cookie: b=2\r\n", b"Set-Cookie: b=3\r\n", "response headers: header set-cookie was forwarded changed"),
        (b"Set-Cookie: b=2\r\n", b"Set-Cookie: b=2\r\nSet-Cookie: b=2\r\n", "response headers: header set-cookie was added"),
        (b"Set-Cookie: b=2\r\n", b"Set-Cookie: b=2\r\nServer: gw\r\n", "response headers: header server was added"),
        (b"200 OK", b"206 OK", "response start line: it was forwarded with another method or status"),
    ],
)
async def test_a_spoilt_head_shows(old: bytes, new: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = headers.response_head
    monkeypatch.setattr(headers, "response_head", lambda *args, **named: real(*args, **named).replace(old, new))
    assert differences(await asked(POST, ANSWER)) == [said]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"X-Dup: 1\r\n", b"", "request headers: header x-dup was lost"),
        (b"X-Dup: 1\r\n", b"X-Dup: 1\r\nVia: 1.1 gw\r\n", "request headers: header via was added"),
        (b"POST ", b"PUT ", "request start line: it was forwarded with another method or status"),
    ],
)
async def test_a_spoilt_request_head_shows(old: bytes, new: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = headers.request_head
    monkeypatch.setattr(headers, "request_head", lambda *args: real(*args).replace(old, new))
    assert differences(await asked(POST, ANSWER)) == [said]


async def test_chunks_forwarded_in_another_order_show(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bytes] = []

    def swap(raw: bytes) -> bytes:
        held.append(raw)
        return b"" if len(held) == 1 else held[1] + held[0]

    spoil_response(monkeypatch, swap)

    async def in_two(connection: Connection, request: Message) -> None:
        await connection.send(ANSWER[:-5])
        await wait_for(lambda: len(held) == 1)
        await connection.send(ANSWER[-5:])

    kept = await asked(GET, in_two)
    assert differences(kept) == ["response body: the bytes forwarded are not those received, from byte 0 on"]
    crossed = sides(kept)[1]
    line = json.loads(to_line(kept.parts[-1], writer="w", seq=1) or b"")
    whole = [hashlib.sha256(data).hexdigest() for data in (b"0123456789", b"5678901234")]
    assert (crossed.size, line["transparency"]["response"]["sha256"]) == ((10, 10), whole)


async def test_a_body_beyond_what_is_kept_is_held_against_itself_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(range(256)) * 4096
    post = b"POST /up/ HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    kept = await asked(post, ANSWER, max_body=1000, part_bytes=200_000)
    assert differences(kept) == []
    assert sides(kept)[0].size == (len(body), len(body))
    spoil_request(monkeypatch, lambda raw: raw.replace(b"\x07\x08", b"\x08\x07"))
    kept = await asked(post, ANSWER, max_body=1000, part_bytes=200_000)
    lines = [json.loads(line) for number, part in enumerate(kept.parts) if (line := to_line(part, writer="w", seq=number))]
    spoilt = lines[-1]["transparency"]["request"]
    assert lines[-1]["transparency"]["differences"][0].startswith("request body: the bytes forwarded are not those received, from byte ")
    assert spoilt["size"] == [len(body), len(body)]
    assert spoilt["sha256"][0] == hashlib.sha256(body).hexdigest() != spoilt["sha256"][1]


async def test_the_first_request_of_a_connection_is_told_once_for_both_sides() -> None:
    """While the upstream is dialled the request waits; what is written then are the very objects that were received."""
    kept = await asked(POST, ANSWER)
    assert (sides(kept)[0].size, differences(kept)) == ((5, 5), [])


async def test_what_was_received_and_not_handed_on_is_told_with_its_sizes() -> None:
    async def half(connection: Connection, request: Message) -> None:
        await connection.send(ANSWER[:-4])
        await connection.close()

    async with Origin(half) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(GET)
        kept = await gateway.only()
        await client.close()
    assert differences(kept) == []
    assert sides(kept)[1].size == (6, 6)


async def test_an_upload_cut_by_an_early_answer_is_a_beginning_of_what_was_received() -> None:
    async def refuse(connection: Connection) -> None:
        await connection.read_until(b"hel")
        await connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    async with RawUpstream(refuse) as origin, rig(origin) as gateway:
        _, client = await gateway.ask(POST[:-2])
        kept = await gateway.only()
        await client.close()
    assert differences(kept) == []
    assert sides(kept)[0].size == (3, 3)


async def test_an_own_answer_is_held_against_what_was_meant() -> None:
    async with rig("http://127.0.0.1:9") as gateway:
        _, client = await gateway.ask(POST)
        kept = await gateway.only()
        await client.close()
    request, response = sides(kept)
    assert differences(kept) == []
    assert (request.names[1], request.size) == (None, (5, 0))
    assert response.size[0] == response.size[1] > 0
    assert response.differ == ()


async def test_a_retried_request_counts_what_the_second_connection_got() -> None:
    first = True

    async def serve(connection: Connection) -> None:
        nonlocal first
        await connection.read_message()
        await connection.send(ANSWER)
        if not first:
            return
        first = False
        await connection.read_message()
        await connection.reset()  # the kept connection dies of the second request

    async with RawUpstream(serve) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(GET)
            await final(client)
        kept = (await gateway.ended(2))[1]
        await client.close()
    assert differences(kept) == []
    found = told(kept)
    assert found.retried > 0
    assert found.request is not None
    assert found.request.names[1] is not None


async def test_websocket_bytes_are_counted_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    async def switch(connection: Connection, request: Message) -> None:
        await connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello")
        await connection.read_exactly(8)
        await connection.reset()

    async def one() -> Kept:
        async with Origin(switch) as origin, rig(origin) as gateway:
            client = await gateway.client()
            await client.send(UPGRADE)
            await client.read_until(b"hello")
            await client.send(b"\x81\x82\x00\x00\x00\x00hi")
            kept = await gateway.only()
            await client.close()
            return kept

    kept = await one()
    assert differences(kept) == []
    assert [side.size for side in sides(kept)] == [(8, 8), (7, 7)]
    both = [hashlib.sha256(crossed).hexdigest() for crossed in (b"\x81\x82\x00\x00\x00\x00hi", b"\x81\x05hello")]
    assert [side.sums for side in sides(kept)] == [(digest, digest) for digest in both]

    def spoilt(self: Exchange, data: bytes) -> None:
        transport = self.upstream.transport  # type: ignore[union-attr]
        transport.write(data[::-1])
        self._handed("upstream", [data[::-1]])
        self._frames("client", data)

    monkeypatch.setattr(Exchange, "client_bytes", spoilt)
    kept = await one()
    assert differences(kept) == ["request body: the bytes forwarded are not those received, from byte 0 on"]
    request, response = sides(kept)
    assert request.sums is not None
    assert request.sums[0] == both[0] != request.sums[1]
    assert response.sums == (both[1], both[1])


async def test_the_exchange_and_the_direction_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acceptance of issue 4, item 5: a fault put into the relay is found by the command, in the archive."""
    shelf = Shelf(tmp_path)
    kept = [await asked(POST, ANSWER)]
    with monkeypatch.context() as patch:
        spoil_response(patch, BUGS["altered"])
        kept.append(await asked(POST, ANSWER))
    kept.append(await asked(POST, CHUNKED))
    for one in kept:
        shelf.put(one.parts)
    found = verbatim(tmp_path, "verify", "--transparency", tmp_path)
    assert found.returncode == 1, found.stderr
    first, second = found.stdout.splitlines()
    assert first == "1 exchange of 3 was not forwarded unchanged."
    assert second.startswith(f"differs   {kept[1].id}  ")
    assert second.endswith("response body: the bytes forwarded are not those received, from byte 3 on")
    report = json.loads(verbatim(tmp_path, "verify", "--transparency", "--json", tmp_path).stdout)
    assert [it["id"] for it in report["differing"]] == [kept[1].id]
    assert verbatim(tmp_path, "verify", "--transparency", "--key", "x", tmp_path).returncode == 2


async def test_a_header_s_secret_name_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    name = b"sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGH"
    real = headers.request_head
    monkeypatch.setattr(headers, "request_head", lambda *args: real(*args).replace(name + b": 1\r\n", b""))
    kept = await asked(POST.replace(b"X-Dup", name, 1), ANSWER)
    assert differences(kept) == ["request headers: header [redacted] was lost"]
    assert sides(kept)[0].names[0] == names_digest(field for field, _ in kept.request.headers)
    assert name.lower() not in (to_line(kept.parts[-1], writer="w", seq=0) or b"").lower()
