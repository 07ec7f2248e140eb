"""The 33 checks of h1spec (github.com/uNetworking/h1spec), written anew from its published list: it is on no package registry.

Each sends bytes on a connection of its own and looks at the first answer; where nothing is expected, the server must go on waiting.
"""

from __future__ import annotations

import asyncio

import pytest
from rawsockets import Connection
from readback import Message
from relayrig import Origin, rig

WAITS = 0.5
"""Seconds h1spec gives a server to answer what is no whole request."""

FRAGMENTS = {
    "Fragmented method": b"G",
    "Fragmented URL 1": b"GET ",
    "Fragmented URL 2": b"GET /hello",
    "Fragmented URL 3": b"GET /hello ",
    "Fragmented HTTP version": b"GET /hello HTTP",
    "Fragmented request line": b"GET /hello HTTP/1.1",
    "Fragmented request line newline 1": b"GET /hello HTTP/1.1\r",
    "Fragmented request line newline 2": b"GET /hello HTTP/1.1\r\n",
    "Fragmented field name": b"GET /hello HTTP/1.1\r\nHos",
    "Fragmented field value 1": b"GET /hello HTTP/1.1\r\nHost:",
    "Fragmented field value 2": b"GET /hello HTTP/1.1\r\nHost: ",
    "Fragmented field value 3": b"GET /hello HTTP/1.1\r\nHost: localhost",
    "Fragmented field value 4": b"GET /hello HTTP/1.1\r\nHost: localhost\r",
    "Fragmented request": b"GET /hello HTTP/1.1\r\nHost: localhost\r\n",
    "Fragmented request termination": b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r",
}
GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n"
WELL, REFUSED, EITHER = range(200, 300), range(400, 500), range(400, 600)
ANSWERED: dict[str, tuple[bytes, range | tuple[int, ...]]] = {
    "Request without HTTP version": (b"GET / \r\n\r\n", EITHER),
    "Request with Expect header": (GET + b"Expect: 100-continue\r\n\r\n", (100, *WELL)),
    "Valid GET request": (GET + b"\r\n", WELL),
    "Valid GET request with edge cases": (b"GET / HTTP/1.1\r\nhoSt:\texample.com\r\nempty:\r\n\r\n", WELL),
    "Invalid header characters": (GET + b"X-Invalid[]: test\r\n\r\n", REFUSED),
    "Missing Host header": (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", REFUSED),
    "Multiple Host headers": (GET + b"Host: example.org\r\n\r\n", REFUSED),
    "Overflowing negative Content-Length header": (GET + b"Content-Length: -123456789123456789123456789\r\n\r\n", REFUSED),
    "Negative Content-Length header": (GET + b"Content-Length: -1234\r\n\r\n", REFUSED),
    "Non-numeric Content-Length header": (GET + b"Content-Length: abc\r\n\r\n", REFUSED),
    "Empty header value": (GET + b"X-Empty-Header: \r\n\r\n", WELL),
    "Header containing invalid control character": (GET + b"X-Bad-Control-Char: test\x07\r\n\r\n", REFUSED),
    "Invalid HTTP version": (b"GET / HTTP/9.9\r\nHost: example.com\r\n\r\n", EITHER),
    "Invalid prefix of request": (b"Extra line" + GET + b"\r\n", EITHER),
    "Invalid line ending": (GET + b"\r\n\rSome-Header: Test\r\n\r\n", REFUSED),
    "Valid POST request with body": (b"POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello", (*WELL, 404)),
    "Chunked Transfer-Encoding": (
        b"POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        WELL,
    ),
    "Conflicting Transfer-Encoding and Content-Length": (GET + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", REFUSED),
}


async def echo(connection: Connection, request: Message) -> None:
    """What h1spec asks of its subject: any method's body comes back."""
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request.body), request.body))


async def test_every_check_of_h1spec_holds(capsys: pytest.CaptureFixture[str]) -> None:
    """Acceptance C36."""

    async def first_status(sent: bytes) -> int | None:
        client = await gateway.client()
        try:
            await client.send(sent)
            return int((await client.read_until(b"\r\n")).split(b" ")[1])
        finally:
            await client.close()

    async def keeps_waiting(sent: bytes) -> bool:
        client = await gateway.client()
        await client.send(sent)
        await asyncio.sleep(WAITS)  # the check itself: nothing may come in this time
        quiet = not (client.received or client.eof or client.lost)
        await client.close()
        return quiet

    assert len(FRAGMENTS) + len(ANSWERED) == 33
    async with Origin(echo) as origin, rig({"echo": origin.url}, default="echo") as gateway:
        waited = await asyncio.gather(*map(keeps_waiting, FRAGMENTS.values()))
        statuses = await asyncio.gather(*(first_status(sent) for sent, _ in ANSWERED.values()))
    failed = [name for name, quiet in zip(FRAGMENTS, waited, strict=True) if not quiet]
    failed += [f"{name}: {status}" for (name, (_, wanted)), status in zip(ANSWERED.items(), statuses, strict=True) if status not in wanted]
    with capsys.disabled():
        print(f"\n  h1spec: {33 - len(failed)} of 33")
    assert not failed
