"""The canary sweep: a key in every place a key may stand, then every file, log, page and command's output searched for any of them.

Each place has a key of its own, so that a leak names its place. The upstream must have got every one of them unchanged.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import urllib.parse
from pathlib import Path

import pytest
import rig
from commandline import verbatim
from rawsockets import Connection, RawUpstream, raw_request, wait_for

HEADERS = {
    "bearer": ("Authorization", "Bearer {}"),
    "basic": ("AUTHORIZATION", "Basic {}"),
    "token": ("authorization", "token {}"),
    "bare": ("Authorization", "{}"),
    "key": ("x-api-key", "{}"),
    "key-again": ("X-API-KEY", "{}"),
    "api": ("api-key", "{}"),
    "google": ("X-Goog-Api-Key", "{}"),
    "cookie": ("Cookie", "session={}; theme=dark"),
    "aig": ("cf-aig-authorization", "Bearer {}"),
    "access": ("CF-Access-Client-Secret", "{}"),
    "helicone": ("Helicone-Auth", "Bearer {}"),
    "portkey": ("x-portkey-api-key", "{}"),
    "litellm": ("x-litellm-api-key", "{}"),
    "eleven": ("xi-api-key", "{}"),
    "azure": ("Ocp-Apim-Subscription-Key", "{}"),
    "functions": ("x-functions-key", "{}"),
    "amazon": ("X-Amz-Security-Token", "{}"),
    "auth": ("X-Auth-Token", "{}"),
    "forwarded": ("X-Forwarded-Authorization", "Bearer {}"),
    "account": ("ChatGPT-Account-Id", "{}"),
    "attestation": ("x-oai-attestation", "{}"),
    "unknown-secret": ("X-Foo-Secret", "{}"),
    "unknown-token": ("X-Bar_Token", "{}"),
    "referer": ("Referer", "https://user:{}@example.com/?key=x"),
    "location": ("X-Original-URL", "https://example.com/?api_key={}"),
}
QUERY = ["key", "api_key", "apikey", "access_token", "token", "sig", "X-Amz-Signature", "X-Amz-Credential", "client_secret", "code"]
QUERY += ["API%5FKEY", "%6Bey"]
ANSWER = {
    "set-cookie": ("Set-Cookie", "sid={}; Path=/"),
    "answer-token": ("X-Session-Token", "{}"),
    "redirect": ("Location", "/cb?code={}"),
}


class Canaries:
    """Keys by the place they stand in. Mixed characters, so that their URL-encoded form differs, too."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}

    def at(self, place: str) -> str:
        return self.keys.setdefault(place, f"Zk9+{len(self.keys):03d}/canary{place.replace('-', '').replace('%', '')}q7Wx")

    def in_query(self, place: str) -> str:
        return urllib.parse.quote(self.at(place), safe="")

    def found_in(self, where: str, data: bytes) -> list[str]:
        """Places whose key `data` holds, in clear, percent-encoded or base64."""
        leaks = []
        for place, key in self.keys.items():
            raw = key.encode()
            forms = [
                raw,
                urllib.parse.quote(key, safe="").encode(),
                key[4:].encode(),
                *(base64.b64encode(b" " * n + raw)[4:-4] for n in range(3)),
            ]
            leaks += [f"{place} in {where}"] if any(form in data for form in forms) else []
        return leaks


def request(canaries: Canaries, *, method: str = "POST", path: str = "/openai/v1/chat/completions") -> bytes:
    query = "&".join(f"{name}={canaries.in_query(f'query-{name}')}" for name in QUERY)
    lines = [f"{method} {path}?{query}&model=gpt-5&max_tokens=7 HTTP/1.1", "Host: gateway", "Content-Length: 2"]
    lines += [f"{name}: {form.format(canaries.at(place))}" for place, (name, form) in HEADERS.items()]
    return "\r\n".join([*lines, "", "{}"]).encode()


def websocket(canaries: Canaries) -> bytes:
    protocols = (
        f"realtime, openai-insecure-api-key.{canaries.at('subprotocol').replace('+', 'a').replace('/', 'b')}, openai-beta.realtime-v1"
    )
    lines = [
        f"GET /openai/v1/realtime?key={canaries.in_query('ws-query')} HTTP/1.1",
        "Host: gateway",
        "Connection: Upgrade",
        "Upgrade: websocket",
    ]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: {protocols}", "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_no_key_is_found_in_anything_that_is_written_or_shown(tmp_path: Path, level: str) -> None:
    canaries = Canaries()
    got: list[bytes] = []

    async def answer(connection: Connection) -> None:
        while True:
            head = await connection.read_head()
            got.append(head)
            if b"websocket" in head:
                await connection.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
                continue
            await connection.read_exactly(2)
            if b"/broken" in head:
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
                await connection.reset()
                return
            fields = "".join(f"{name}: {form.format(canaries.at(place))}\r\n" for place, (name, form) in ANSWER.items())
            await connection.send(
                f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\nx-ratelimit-remaining-tokens: 149984\r\n\r\n{{}}".encode()
            )

    async with RawUpstream(answer) as upstream:
        routes = {"openai": upstream.url, "gone": "http://127.0.0.1:9/"}
        async with rig.gateway(tmp_path, routes, log_level=level) as gateway:
            sent = request(canaries)
            reply = await raw_request(gateway.port, sent)
            assert all(canaries.at(place).encode() in reply for place in ANSWER)
            await raw_request(gateway.port, request(canaries, path="/openai/v1/broken"))
            await raw_request(gateway.port, request(canaries, path="/gone/v1/x"))
            await raw_request(gateway.port, request(canaries, path="/nowhere/v1/x"))
            await raw_request(
                gateway.port, request(canaries).replace(b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked")
            )
            await raw_request(gateway.port, websocket(canaries))
            health = await raw_request(gateway.port, b"GET /_verbatim/health HTTP/1.1\r\nHost: x\r\n\r\n")
            await gateway.archived(lambda exchanges: sum(e.parts[-1]["end"] is not None for e in exchanges) >= 4)

    first = got[0]
    assert all(f"{name}: {form.format(canaries.at(place))}".encode() in first for place, (name, form) in HEADERS.items())
    assert first.split(b"\r\n")[0] == sent.split(b"\r\n")[0].replace(b"/openai/", b"/")

    segments = sorted((tmp_path / "archive").glob("*.jsonl.gz"))
    assert segments
    lines = b"".join(gzip.decompress(path.read_bytes()) for path in segments)
    leaks = canaries.found_in("the archive", lines) + canaries.found_in("the health page", health)
    for written in await asyncio.to_thread(lambda: [it for it in tmp_path.rglob("*") if it.is_file()]):
        leaks += canaries.found_in(written.name, await asyncio.to_thread(written.read_bytes))
    archive = ("--archive", str(tmp_path / "archive"))
    for command in (("ls",), ("ls", "--json"), ("verify", "--json")):
        shown = await asyncio.to_thread(verbatim, tmp_path, command[0], *archive, *command[1:])
        leaks += canaries.found_in(" ".join(command), (shown.stdout + shown.stderr).encode())
    assert leaks == []

    # What is no secret stays readable, and what was removed can be seen to have been there.
    assert b"149984" in lines
    assert b"max_tokens=7" in lines
    assert b'"Authorization","Bearer [redacted]"' in lines
    assert b'"where":"request.target.' in lines


async def test_a_key_beside_an_error_in_recording_is_not_logged(tmp_path: Path) -> None:
    """Every path on which an exception's text could quote what passed."""
    canaries = Canaries()

    async def nonsense(connection: Connection) -> None:
        await connection.read_head()
        await connection.send(f"HTTP/1.1 200 {canaries.at('phrase')}\r\nX-Token {canaries.at('no-colon')}\r\n\r\n".encode())
        await wait_for(lambda: connection.lost)

    async with RawUpstream(nonsense) as upstream, rig.gateway(tmp_path, {"openai": upstream.url}, log_level="debug") as gateway:
        reply = await raw_request(gateway.port, request(canaries))
        assert reply.startswith(b"HTTP/1.1 502")
        for hostile in (b"GET /openai/x HTTP/1.1\r\nHost: x\r\nX Y: %b\r\n\r\n", b"\x16\x03%b", b"GET /\x00%b HTTP/1.1\r\n\r\n"):
            await raw_request(gateway.port, hostile % canaries.at("hostile").encode())
        output = gateway.output().encode()
        assert canaries.found_in("the log", output) == []
        assert canaries.found_in("our answer", reply) == []
