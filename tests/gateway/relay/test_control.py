"""What clients ask of us: read, acted on, never forwarded; what cannot be used is said in a warning, and the call goes through."""

from __future__ import annotations

from rawsockets import Connection, wait_for
from readback import Message
from relayrig import OK, Origin, Rig, final, rig

from archive.line import to_line

HOST = b"Host: gateway\r\n"
UPGRADE = (
    b"GET /up/v1/realtime HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
MASKED_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
NAMES = (
    b"X-Verbatim-Session: run-7\r\nx-verbatim-user: J%C3%BCrgen\r\nx-verbatim-tags: nightly, ci\r\n"
    b'X-VERBATIM-METADATA: {"try": 2, "ok": true}\r\nx-verbatim-record: full\r\n'
)


def asking(headers: bytes, body: bytes = b"secret question") -> bytes:
    return b"POST /up/v1/x HTTP/1.1\r\n" + HOST + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def test_a_client_names_its_call() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(asking(NAMES))
        assert (answer.status, answer.body, answer.values(b"x-verbatim-warning")) == (200, b"ok", [])
        assert b"verbatim" not in origin.heads[0].lower()
        await client.close()
    said = (await gateway.only()).parts[0].client
    assert (said.session, said.session_source) == ("run-7", "x-verbatim-session")
    assert (said.user, said.user_source) == ("Jürgen", "x-verbatim-user")
    assert (said.tags, said.metadata) == (("nightly", "ci"), {"try": 2, "ok": True})


async def test_our_header_goes_before_the_path_s_session() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        for headers in (b"", b"x-verbatim-session: mine\r\n", b"x-verbatim-session: not mine\r\n"):
            _, client = await gateway.ask(b"GET /~run-1/up/ HTTP/1.1\r\n" + HOST + headers + b"\r\n")
            await client.close()
    told = [(kept.parts[0].client.session, kept.parts[0].client.session_source) for kept in await gateway.ended(3)]
    assert told == [("run-1", "path"), ("mine", "x-verbatim-session"), ("run-1", "path")]


async def test_what_cannot_be_used_is_said_and_the_call_goes_through() -> None:
    wrong = b'x-verbatim-user: \xff\r\nx-verbatim-metadata: {"a":[1]}\r\nx-verbatim-record: nothing\r\nx-verbatim-tag: a\r\n'
    async with Origin() as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(asking(wrong))
        assert (answer.status, answer.body) == (200, b"ok")
        (warning,) = answer.values(b"x-verbatim-warning")
        for name in (
            b"x-verbatim-user",
            b"x-verbatim-metadata",
            b"x-verbatim-record",
            b"x-verbatim-tag is not known: did you mean x-verbatim-tags?",
        ):
            assert name in warning
        assert b"nothing" not in warning
        assert b"verbatim" not in origin.heads[0].lower()
        await client.close()
    kept = await gateway.only()
    assert (kept.request_body, kept.parts[0].kept) == (b"secret question", "full")


async def test_a_warning_is_on_our_own_answers_too() -> None:
    async with rig("http://127.0.0.1:9") as gateway:
        answer, client = await gateway.ask(asking(b"x-verbatim-usr: me\r\n"))
        assert answer.status == 502
        assert answer.values(b"x-verbatim-warning") == [b"x-verbatim-usr is not known: did you mean x-verbatim-user?"]
        await client.close()


async def test_a_call_recorded_without_content_is_counted_and_hashed() -> None:
    async with Origin(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nsecret answer") as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(asking(b"x-verbatim-record: metadata\r\nAuthorization: Bearer sk-canary-7f3a9c51e2d84b60\r\n"))
        assert answer.body == b"secret answer"
        assert origin.requests[0].body == b"secret question"
        await client.close()
    (part,) = (await gateway.only()).parts
    line = to_line(part, writer="w", seq=0)
    assert line is not None
    assert b"secret" not in line
    assert b"canary" not in line
    assert b'"kept":"metadata"' in line
    assert part.request is not None
    assert part.request_body is not None
    assert (part.request.method, part.request_body.size) == (b"POST", 15)


async def test_an_unrecorded_call_leaves_nothing_but_its_count() -> None:
    async with Origin() as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(asking(b"x-verbatim-record: none\r\n"))
        assert (answer.status, answer.body, len(answer.values(b"x-verbatim-id"))) == (200, b"ok", 1)
        await client.close()
        assert gateway.relay.counters.declined == declined(gateway) == 1
        await wait_for(lambda: not gateway.relay.exchanges)
        assert gateway.recording.records == []


def declined(gateway: Rig) -> int:
    recording = gateway.relay.recording
    assert recording is not None
    return int(recording.declined)  # type: ignore[attr-defined]


async def test_an_operator_may_forbid_unrecorded_calls() -> None:
    async with Origin() as origin, rig(origin, allow_unrecorded=False) as gateway:
        answer, client = await gateway.ask(asking(b"x-verbatim-record: none\r\n"))
        assert answer.values(b"x-verbatim-warning") == [b"x-verbatim-record was ignored: this gateway records every call"]
        await client.close()
        assert gateway.relay.counters.declined == declined(gateway) == 0
    kept = await gateway.only()
    assert (kept.request_body, kept.parts[0].kept) == (b"secret question", "full")


async def test_a_websocket_may_ask_as_any_call_may() -> None:
    """Names, the mode and the warning in the handshake: none of it crosses, the messages are counted and not kept."""
    asked = UPGRADE + b"x-verbatim-session: s\r\nx-verbatim-record: metadata\r\nX-Verbatim-Sesion: typo\r\n\r\n"

    async def talk(connection: Connection, request: Message) -> None:
        await connection.send(SWITCH + b"\x81\x06secret")
        await connection.read_exactly(len(MASKED_CLOSE))
        await connection.send(b"\x88\x02\x03\xe8")

    async with Origin(talk, keep=False) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(asked)
        answer = await final(client)
        assert answer.status == 101
        assert answer.values(b"x-verbatim-warning") == [b"x-verbatim-sesion is not known: did you mean x-verbatim-session?"]
        assert b"verbatim" not in origin.heads[0].lower()
        await client.send(MASKED_CLOSE)
        await client.read_to_end()
        await client.close()
        kept = await gateway.only()
    assert (kept.parts[0].client.session, kept.parts[0].kept) == ("s", "metadata")
    assert [(it.type, it.data, it.size) for it in kept.messages if it.side == "upstream"] == [("text", b"", 6), ("close", b"", 0)]


async def test_our_names_in_trailers_are_not_forwarded() -> None:
    chunked = b"POST /up/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Verbatim-User: me\r\n\r\n"
    arrived: list[bytes] = []

    async def take(connection: Connection, request: Message) -> None:
        arrived.append(bytes(connection.received))
        await connection.send(OK)

    async with Origin(take) as origin, rig(origin) as gateway:
        answer, client = await gateway.ask(chunked)
        await client.close()
        assert (answer.status, origin.requests[0].body) == (200, b"hi")
        assert b"verbatim" not in arrived[0].lower()


IDS = [
    b"X-Request-Id: req_abc", b"request-id: req_def", b"CF-RAY: 8f3a-FRA", b"x-request-id: req_second", b"X-Amzn-RequestId: 1",
]  # fmt: skip
SENT = [
    b"x-request-id: mine-1", b"X-Stainless-Retry-Count: 2", b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"tracestate: a=1,b=2", b"X-Client-Request-Id: c-9",
]  # fmt: skip


async def test_ids_cross_both_ways_and_are_never_overwritten() -> None:
    """Acceptance B29: ids of client and upstream arrive byte for byte, none is added, and the record has them readable."""
    answer = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: 2", *IDS, b"", b"ok"])
    async with Origin(answer) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(b"\r\n".join([b"GET /up/ HTTP/1.1", b"Host: gateway", *SENT, b"", b""]))
        got = await final(client)
        lines = origin.heads[0].split(b"\r\n")
        assert [line for line in lines[1:-2] if not line.lower().startswith(b"host:")] == SENT
        raw = bytes(client.received)
        assert [line for line in raw.split(b"\r\n") if line in IDS] == IDS
        assert len(got.values(b"x-request-id")) == 2
        await client.close()
    kept = await gateway.only()
    assert [b": ".join(field) for field in kept.request.headers][1:] == SENT
    assert kept.response is not None
    assert [b": ".join(field) for field in kept.response.headers][1:] == IDS


async def test_a_request_sent_again_on_a_fresh_connection_keeps_our_names_back() -> None:
    async with Origin(OK, keep=False) as origin, rig(origin) as gateway:
        client = await gateway.client()
        for _ in range(2):
            await client.send(b"GET /up/ HTTP/1.1\r\n" + HOST + NAMES + b"\r\n")
            assert (await final(client)).status == 200
        assert len(origin.heads) == 2
        assert not any(b"verbatim" in head.lower() for head in origin.heads)
        await client.close()
