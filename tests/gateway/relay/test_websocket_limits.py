"""Websockets at their limits: late handshakes, switched-off routes, fragments, compression and its bombs, floods, a gateway that stops."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from rawsockets import Connection, wait_for
from relayrig import OK, Origin, RawUpstream, Rig, final, rig
from rig import gateway as real_gateway
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from gateway.boundary import GOODBYE
from gateway.routes import Route

KEY = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
ASK = b"GET /up/v1/responses HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + KEY
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
DEFLATED = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(websockets.ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


@contextlib.asynccontextmanager
async def echoing(**options: Any) -> AsyncIterator[tuple[Rig, Any]]:
    """A gateway before an echo server, and how to dial it."""
    quiet = {"max_size": None, "ping_interval": None}
    async with (
        serve(echo, "127.0.0.1", 0, **quiet, **options) as server,
        rig(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as gateway,
    ):
        yield gateway, lambda **more: connect(f"ws://127.0.0.1:{gateway.port}/up/", proxy=None, **quiet, **more)


async def test_one_byte_fragments_are_joined() -> None:
    """Acceptance E60."""
    text, binary = "naïve 😀 " * 150, bytes(range(256)) * 6
    async with echoing(compression=None) as (gateway, dial):
        async with dial(compression=None) as client:
            await client.send(iter(text))  # a fragment each
            assert await client.recv() == text
            await client.send(bytes([byte]) for byte in binary)
            assert await client.recv() == binary
        kept = await gateway.only()
    archived = [(message.side, message.type, message.data) for message in kept.messages if message.type != "close"]
    sent = [("text", text.encode()), ("binary", binary)]
    assert archived == [(side, *what) for what in sent for side in ("client", "upstream")]


@pytest.mark.parametrize(
    ("offered", "accepted"),
    [
        (None, "deflate"),
        ("deflate", None),
        ({}, "deflate"),
        ({"server_no_context_takeover": True}, "deflate"),
        ({"client_no_context_takeover": True, "server_no_context_takeover": True}, "deflate"),
        ({"client_max_window_bits": 9, "server_max_window_bits": 10}, "deflate"),
    ],
)
async def test_compression_is_the_two_ends_own_affair(offered: dict[str, Any] | str | None, accepted: str | None) -> None:
    """Acceptance E67: what is agreed is the upstream's answer to the client's offer, and the record has what was said."""
    options: dict[str, Any] = {"compression": offered}
    if isinstance(offered, dict):
        options = {"compression": None, "extensions": [ClientPerMessageDeflateFactory(**offered)]}
    said = ["word for word " * 400, "word for word " * 400, b"\x00" * 5000]
    async with echoing(compression=accepted) as (gateway, dial):
        async with dial(**options) as client:
            for message in said:
                await client.send(message)
                assert await client.recv() == message
            assert client.response is not None
            agreed = client.response.headers.get("Sec-WebSocket-Extensions", "")
        kept = await gateway.only()
    assert bool(agreed) is (bool(accepted) and offered is not None)
    for parameter in offered if isinstance(offered, dict) else ():
        assert parameter in agreed
    archived = [message.data for message in kept.messages if message.type in ("text", "binary")]
    assert archived == [message.encode() if isinstance(message, str) else message for message in said for _ in (0, 1)]


async def test_a_deflate_bomb_passes_and_is_kept_as_it_crossed() -> None:
    """Acceptance E67: 1 GiB of zeros in 1 MiB reaches the upstream as it is; only the record refuses to inflate it."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    squeeze.compress(bytes(1 << 20))
    squeeze.flush(zlib.Z_FULL_FLUSH)
    block = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    payload = block * 1024
    assert len(payload) < 2 << 20
    frame = b"\xc2\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload  # final, compressed, binary; a mask of zeros

    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + DEFLATED)
        assert await connection.read_exactly(len(frame)) == frame
        await connection.send(b"\x81\x02ok")
        await connection.wait_ended()

    async with RawUpstream(cable) as origin, rig(origin, max_body=4 << 20) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        assert (await final(client)).status == 101
        await client.send(frame)
        await client.read_until(b"\x81\x02ok")
        await client.close()
        kept = await gateway.only()
    tracemalloc.start()
    try:
        messages = kept.messages
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert {(message.side, message.type) for message in messages} == {("client", "raw"), ("upstream", "text")}
    assert b"".join(message.data for message in messages if message.side == "client") == frame


async def test_a_handshake_left_hanging_is_a_504() -> None:
    """Acceptance E68: the upstream takes the connection and says nothing."""

    async def hang(connection: Connection) -> None:
        await connection.read_head()
        await connection.wait_ended()

    async with RawUpstream(hang) as origin, rig(origin, handshake_timeout=0.1) as gateway:
        message, client = await gateway.ask(ASK + b"\r\n")
        assert message.status == 504
        assert message.values(b"x-verbatim-error") == [b"upstream_timeout"]
        assert b"handshake within 0.1 s" in message.body
        assert b" 101 " not in client.received
        await client.close()
        await wait_for(lambda: origin.connections[0].lost or origin.connections[0].eof, deadline=1.0)
        kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "timeout"


async def test_a_handshake_s_limit_ends_with_the_handshake() -> None:
    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + b"\r\n")
        await wait_for(lambda: late)
        await connection.send(b"\x81\x02hi")
        await connection.wait_ended()

    late: list[bool] = []
    async with RawUpstream(cable) as origin, rig(origin, handshake_timeout=0.1) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        assert (await final(client)).status == 101
        (exchange,) = gateway.relay.exchanges
        limit = exchange._timer
        assert limit is not None
        loop = asyncio.get_running_loop()
        await wait_for(lambda: loop.time() > limit.when() + 0.05)
        late.append(True)
        await client.read_until(b"\x81\x02hi")
        await client.close()


@pytest.mark.parametrize("shape", ["openai", "anthropic", "gemini"])
async def test_a_route_without_websockets_answers_426(shape: str) -> None:
    """Codex goes on with POST in the same turn upon 426, and upon no other status (openai/codex pull request 10824)."""
    async with Origin(OK) as origin, rig({"up": Route.parse("up", origin.url, shape=shape, websockets=False)}) as gateway:
        message, client = await gateway.ask(ASK + b"\r\n")
        assert message.status == 426
        assert message.values(b"x-verbatim-error") == [b"websockets_off"]
        assert message.values(b"upgrade") == [b"HTTP/1.1"]
        assert "switched off" in json.loads(message.body)["error"]["message"]
        assert origin.connections == []
        await client.send(b"POST /up/v1/responses HTTP/1.1\r\nHost: gateway\r\nContent-Length: 2\r\n\r\n{}")
        assert (await final(client)).body == b"ok"
        await client.close()
        with pytest.raises(websockets.InvalidStatus, match="426"):
            await connect(f"ws://127.0.0.1:{gateway.port}/up/v1/responses", proxy=None)
        refused, posted, again = await gateway.ended(3)
    for kept in (refused, again):
        assert kept.response is not None
        assert kept.response.status == 426
        assert b"switched off" in kept.response_body
        assert kept.end is not None
        assert kept.end.reason == "complete"
    assert posted.response_body == b"ok"


async def test_hundreds_of_refused_handshakes_sent_ahead_are_all_answered() -> None:
    """Each is answered within its own start, so the next must not begin inside it: at 123 of them Python's stack was at its end."""
    async with Origin(OK) as origin, rig({"up": Route.parse("up", origin.url, websockets=False)}, record=False) as gateway:
        client = await gateway.client()
        await client.send((ASK + b"\r\n") * 300 + b"GET /up/ HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(300):
            assert (await final(client)).status == 426
        assert (await final(client)).body == b"ok"
        await client.close()


@pytest.mark.parametrize("where", ["between frames", "between fragments", "in a frame", "in a frame's header", "after the close frame"])
async def test_a_stop_says_goodbye_where_a_frame_may_be_sent(where: str) -> None:
    """Acceptance E69: 1012 where it breaks nothing, else an end without a close frame (1006); never a clean 1000."""
    sent = {
        "between frames": b"\x81\x02hi\x81\x7e\x00\x80" + b"x" * 128,
        "between fragments": b"\x01\x02hi",
        "in a frame": b"\x81\x7e\x00\x80" + b"x" * 100,
        "in a frame's header": b"\x81\x02hi\x81\x7e\x00",
        "after the close frame": b"\x88\x02\x03\xe8",
    }[where]

    async def cable(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(SWITCH + b"\r\n" + sent)
        await connection.wait_ended()

    async with RawUpstream(cable) as origin, rig(origin) as gateway:
        client = await gateway.client()
        await client.send(ASK + b"\r\n")
        await client.read_head()
        assert await client.read_exactly(len(sent)) == sent
        await gateway.relay.stop()
        assert (await client.read_to_end()) == (GOODBYE if where.startswith("between") else b"")
        await client.close()
        kept = await gateway.only()
    assert kept.end is not None
    assert kept.end.reason == "shutdown"
    assert ("1012" in kept.end.detail) is where.startswith("between")


async def test_a_stopped_gateway_is_no_proper_end_for_a_client() -> None:
    """Acceptance E69, as a client library sees it."""
    async with echoing() as (gateway, dial), dial() as client:
        await client.send("hi")
        assert await client.recv() == "hi"
        await gateway.relay.stop()
        with pytest.raises(websockets.ConnectionClosedError) as end:
            await client.recv()
        assert end.value.rcvd is not None
        assert (end.value.rcvd.code, end.value.rcvd.reason) == (1012, "Verbatim was stopped")


def _memory(pid: int, what: str) -> int:
    """Bytes of a process's memory: VmRSS, or its highest mark VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what + ":")).split()[1]) << 10


PACE = 100e6
"""Bytes a second that a slow reader takes: far less than the other side could send."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_flood_to_a_slow_reader_takes_no_memory(tmp_path: Path) -> None:
    """Acceptance E65: 400 MB, recorded, and the gateway's process grows by less than 20 MB."""
    frame = b"\x82\x7f" + (1 << 20).to_bytes(8, "big") + b"x" * (1 << 20)
    total = 400 * len(frame)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH + b"\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                writer.write(frame)
                await writer.drain()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, real_gateway(tmp_path, {"up": url}) as gateway:
        pid = gateway.process.process.pid
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1 << 16)
        writer.write(ASK + b"\r\n")
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        before = _memory(pid, "VmRSS")
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # noqa: ASYNC240  no disk: the high-water mark begins anew
        loop, left, began = asyncio.get_running_loop(), total, asyncio.get_running_loop().time()
        while left:
            left -= len(await reader.read(1 << 16))
            if (ahead := began + (total - left) / PACE - loop.time()) > 0.01:
                await asyncio.sleep(ahead)
        grown = _memory(pid, "VmHWM") - before
        writer.close()
        await writer.wait_closed()
    assert grown < 20 << 20, f"{grown / 2**20:.1f} MiB"


async def test_the_responses_of_one_socket_can_be_told_apart(tmp_path: Path) -> None:
    """Two responses on one socket, as Codex and the Realtime API have them: read back from the archive, cut into several parts."""
    answers = 2
    deltas = 30

    async def responses(connection: ServerConnection) -> None:
        number = 0
        async for message in connection:
            asked = json.loads(message)
            if asked["type"] != "response.create":
                continue
            number += 1
            events = [{"type": "response.created", "response": {"id": f"resp_{number}"}}]
            events += [{"type": "response.output_text.delta", "delta": f"{number}.{at} " + "x" * 300} for at in range(deltas)]
            events += [{"type": "response.completed", "response": {"id": f"resp_{number}"}}]
            for event in events:
                await connection.send(json.dumps(event))

    spoken: list[tuple[str, str]] = []
    async with (
        serve(responses, "127.0.0.1", 0) as server,
        real_gateway(tmp_path, {"up": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}, part_bytes=4096) as gateway,
    ):
        async with connect(f"ws://127.0.0.1:{gateway.port}/up/v1/responses", proxy=None, compression=None) as client:
            for number in range(answers):
                await client.send(request := json.dumps({"type": "response.create", "input": f"question {number}"}))
                spoken.append(("client", request))
                while "response.completed" not in spoken[-1][1]:
                    spoken.append(("upstream", str(await client.recv())))
        (kept,) = await gateway.archived(lambda found: bool(found) and found[0].end is not None)
    assert [part["part"] for part in kept.parts] == list(range(len(kept.parts)))
    assert len(kept.parts) > answers
    messages = [message for message in kept.messages if message["type"] == "text"]
    assert [(message["side"], message["text"]) for message in messages] == spoken
    times = [message["at_ms"] for message in kept.messages]
    assert times == sorted(times)
    assert kept.end is not None
    assert kept.end["reason"] == "complete"
    begins = [at for at, message in enumerate(messages) if message["side"] == "client"]
    told = [messages[begin + 1 : end] for begin, end in zip(begins, [*begins[1:], len(messages)], strict=True)]
    for number, answer in enumerate(told, 1):
        assert [json.loads(message["text"])["type"] for message in answer][:: deltas + 1] == ["response.created", "response.completed"]
        assert all(f"resp_{number}" in message["text"] or f'"{number}.' in message["text"] for message in answer)
