"""Exchanges taken off real wires, sent again through the gateway: every byte arrives on both sides and in the archive."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from audit import audit
from rig import Connection, RawUpstream, Tap, connect, gateway

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SECRET = "SYNTHETIC"
ROUTES = ("openai", "anthropic", "gemini", "bedrock", "cohere", "ollama")
SPLIT = 97
"""Bytes per chunk and write: a prime, so that lines, events and characters are cut anywhere."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One fixture, made ready to be sent."""

    name: str
    route: str
    request: bytes
    answer: list[bytes]
    """Pieces, each written on its own."""
    body: bytes
    broken: bool


def chunked(body: bytes) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for at in range(0, len(body), SPLIT) if (piece := body[at : at + SPLIT])]


def captured(head_file: Path) -> Captured:
    name = head_file.stem
    (body_file,) = (path for path in head_file.parent.glob(f"{name}.*") if not path.name.endswith((".head", ".request.http")))
    body = body_file.read_bytes()
    broken = name.endswith("_cut")
    head = head_file.read_bytes().strip().replace(b"\n", b"\r\n") + b"\r\n\r\n"
    assert b"transfer-encoding: chunked" in head.lower()
    route = next((route for route in ROUTES if route in name), "openai")
    asked, _, sent = (head_file.parent / f"{name}.request.http").read_bytes().partition(b"\r\n\r\n")
    request_line, _, fields = asked.partition(b"\r\n")
    method, target, version = request_line.split(b" ")
    first = b" ".join([method, b"/" + route.encode() + target, version])
    framing = b"Content-Length: %d\r\n" % len(sent) if sent else b""
    request = b"%b\r\nHost: gateway.test\r\n%b\r\n%b\r\n%b" % (first, fields, framing, sent)
    return Captured(name, route, request, [head, *chunked(body), *([] if broken else [b"0\r\n\r\n"])], body, broken)


def handwritten(file: Path) -> Captured:
    kind = "application/json" if file.suffix == ".json" else "text/event-stream"
    route = next((route for route in ROUTES if route in file.stem), "openai")
    body = file.read_bytes()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    request = f"POST /{route}/v1/{file.stem} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    return Captured(file.name, route, request, [head, *chunked(body), b"0\r\n\r\n"], body, broken=False)


def compressed_request() -> Captured:
    body = (FIXTURES / "synthetic_request_body.json.zst").read_bytes()
    fields = f"Host: gateway.test\r\nContent-Encoding: zstd\r\nContent-Length: {len(body)}\r\n"
    request = f"POST /openai/v1/responses HTTP/1.1\r\n{fields}\r\n".encode() + body
    return Captured("zstd request", "openai", request, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], b"{}", broken=False)


def everything() -> list[Captured]:
    written = sorted(path for path in (FIXTURES / "handwritten").iterdir() if path.suffix in {".sse", ".json"})
    return [*map(captured, sorted((FIXTURES / "captured").glob("*.head"))), *map(handwritten, written), compressed_request()]


async def test_captured_exchanges_cross_unchanged_and_are_archived_unchanged(tmp_path: Path) -> None:
    fixtures = everything()
    assert len(fixtures) > 50
    current = fixtures[0]

    async def answer(connection: Connection) -> None:
        while True:
            await connection.read_message()
            for piece in current.answer:
                await connection.send(piece)
            if current.broken:
                return

    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(answer))
        back = await stack.enter_async_context(Tap(upstream.port))
        running = await stack.enter_async_context(gateway(tmp_path, dict.fromkeys(ROUTES, back.url)))
        front = await stack.enter_async_context(Tap(running.port))
        for current in fixtures:
            client = await connect(front.port)
            await client.send(current.request)
            if current.broken:
                await client.read_to_end()
                assert not client.received.endswith(b"0\r\n\r\n"), current.name
            else:
                message = await client.read_message(answers=current.request.split(b" ")[0])
                assert message.body == current.body, current.name
            if not client.lost:
                await client.close()
    archived = audit(front, back, tmp_path / "archive", prefixes=[f"/{route}".encode() for route in ROUTES], secret=SECRET)
    assert [exchange.upstream for exchange in archived] == [fixture.route for fixture in fixtures]
    ends = [(exchange.end or {})["reason"] for exchange in archived]
    assert ends == ["upstream_closed" if fixture.broken else "complete" for fixture in fixtures]


@pytest.mark.parametrize("file", sorted((FIXTURES / "cli").iterdir()), ids=lambda path: path.stem)
def test_fixtures_hold_no_key_that_could_be_real(file: Path) -> None:
    for key in re.findall(r"sk-[\w-]+", file.read_text()):
        assert key.endswith(SECRET)
