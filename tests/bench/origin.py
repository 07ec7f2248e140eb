"""The bench's upstream where no C compiler is: the same addresses as origin.c, on uvloop. Slower, so the fastest proxies look alike."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 20 Nov 2026 10:00:00 GMT\r\nServer: origin\r\nx-request-id: req_0123456789abcdef0123456789abcdef\r\n"
    b"openai-organization: bench\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 1999000\r\nstrict-transport-security: max-age=31536000\r\n"
)
ANSWER_START = b'{"id":"chatcmpl-bench","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"'
ANSWER = (ANSWER_START + b"All is said word for word. " * 40)[: 1024 - 5] + b'"}}]}'
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
BURST = 10


class Origin(asyncio.Protocol):
    """One connection: requests one after the other, each with a Content-Length or no body."""

    requests = 0
    body_bytes = 0

    def __init__(self) -> None:
        self.head = b""
        self.left = 0
        self.path = ""
        self.streaming: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        if self.streaming:
            self.streaming.cancel()

    def data_received(self, data: bytes) -> None:
        if self.left == 0:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            length = LENGTH.search(head)
            self.left = int(length[1]) if length else 0
            self.path = head.split(b" ", 2)[1].decode()
            self.head = b""
        self.left -= len(data)
        Origin.body_bytes += len(data)
        if self.left == 0:
            self.respond()

    def respond(self) -> None:
        Origin.requests += 1
        if self.path.startswith("/sse"):
            self.streaming = asyncio.get_running_loop().create_task(self.stream())
            return
        body = ANSWER
        if self.path.startswith("/stats"):
            body = json.dumps({"requests": Origin.requests, "body_bytes": Origin.body_bytes}).encode()
        self.transport.write(b"%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (HEAD, len(body), body))

    async def stream(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        count, pause, nonce = int(query.get("n", 300)), int(query.get("us", 0)) / 1e6, query.get("nonce", "")
        self.transport.write(HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        begun = time.monotonic()
        step = 1 if pause else BURST
        for i in range(0, count, step):
            late = begun + i * pause - time.monotonic()
            await asyncio.sleep(max(0, late))
            chunks = b"".join(self.event(nonce, n) for n in range(i, min(i + step, count)))
            self.transport.write(chunks + (b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" if i + step >= count else b""))

    @staticmethod
    def event(nonce: str, number: int) -> bytes:
        delta = f'"choices":[{{"index":0,"delta":{{"content":"word {number} "}},"finish_reason":null}}]'
        head = f'"id":"chatcmpl-bench","object":"chat.completion.chunk","model":"bench-1","nonce":"{nonce}","t":{time.monotonic_ns()}'
        text = f"data: {{{head},{delta}}}\n\n".encode()
        return b"%x\r\n%s\r\n" % (len(text), text)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
