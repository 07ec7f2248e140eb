"""Through the real gateway: what a client sent as credentials is nowhere in the viewer, in no form of its own."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import quote

from rig import RawUpstream, gateway, raw_request

CANARY = "sk-canary-7f3a9c51e0d24b68"
SENT = [
    ("Authorization", f"Bearer {CANARY}"),
    ("authorization", f"Basic {base64.b64encode(CANARY.encode()).decode()}"),
    ("Proxy-Authorization", f"token {CANARY}"),
    *((name, CANARY) for name in ("x-api-key", "API-Key", "X-Goog-Api-Key", "cf-access-client-secret", "x-auth-token", "X-Foo-Secret")),
    ("Cookie", f"session={CANARY}"),
]


async def test_a_credential_is_nowhere_in_the_viewer(tmp_path: Path, serve) -> None:
    async def answer(connection) -> None:
        await connection.read_message()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: session=%b\r\nx-ratelimit-remaining-tokens: 149984\r\n\r\n{}"
            % CANARY.encode()
        )

    head = "".join(f"{name}: {value}\r\n" for name, value in SENT)
    query = f"key={CANARY}&api_key={quote(CANARY)}&access_token={CANARY}&model=gpt-5.2"
    request = f"GET /demo/v1/models?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode()
    async with RawUpstream(answer) as upstream, gateway(tmp_path / "gateway", {"demo": upstream.url}) as running:
        assert b"200 OK" in await raw_request(running.port, request)
        await running.archived(bool)
        folder = running.archive
        async with serve(folder) as viewer:
            (entry,) = (await viewer.get("/api/exchanges")).json()["exchanges"]
            one = entry["id"]
            paths = [
                "/",
                "/events",
                f"/exchange/{one}",
                f"/exchange/{one}?response=raw",
                f"/exchange/{one}/line/0",
                f"/exchange/{one}/line/0?line=raw",
            ]
            paths += [
                f"/exchange/{one}/lines",
                f"/exchange/{one}/response",
                "/api/exchanges",
                f"/api/exchanges/{one}",
                f"/api/exchanges/{one}/line",
            ]
            shown = {path: (await viewer.page(path)).lower() for path in paths}
    assert CANARY.encode() in bytes(upstream.connections[0].received)
    for path, text in shown.items():
        for form in (CANARY, base64.b64encode(CANARY.encode()).decode().rstrip("="), quote(CANARY), CANARY.encode().hex()):
            assert form.lower() not in text, path
    page = shown[f"/exchange/{one}"]
    assert page.count('<span class="redacted">[redacted]</span>') >= len(SENT)
    assert "149984" in page
    assert re.search(r"model=gpt-5\.2", page)
