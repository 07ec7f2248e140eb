"""The upstream of the soak: a process that does what each request's path says, and keeps account of it. `python -m soak.origin LEDGER`.

Prints its port. One line of JSON in LEDGER for each exchange: what came, what went out, how it ended. Ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import signal
import socket
import struct
import sys
import time
from typing import IO, cast

import uvloop
from soak.frames import CLOSE, TEXT, frame, frames
from soak.script import NONCE, Ask, answer, event
from soak.watch import more_descriptors

HEAD = b"HTTP/1.1 200 OK\r\nServer: soak\r\n"
STREAM = HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 section 1.3."""


class Serving(asyncio.Protocol):
    """One connection; one exchange at a time, as the gateway asks."""

    def __init__(self, ledger: IO[str]) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._ask: Ask | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._line: dict[str, object] = {}
        self._sent = hashlib.sha256()
        self._size = 0
        self._number = 0
        self._socket = False
        self._writable = True
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ask is not None:
            self._over("client_gone")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._socket:
            self._frames()
            return
        while self._ask is None and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            pairs = (line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            fields = {name.lower(): value for name, value in pairs}
            length = int(fields.get(b"content-length", b"0"))
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._begin(head, fields, body)

    def _begin(self, head: bytes, fields: dict[bytes, bytes], body: bytes) -> None:
        self._ask = ask = Ask.read(head.split(b" ", 2)[1].decode())
        self._line = {
            "nonce": ask.nonce,
            "foreign": sorted({each.decode() for each in NONCE.findall(head + body)} - {ask.nonce}),
            "got": [hashlib.sha256(body).hexdigest(), len(body)],
        }
        self._sent, self._size, self._number = hashlib.sha256(), 0, 0
        if ask.kind == "ws":
            accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
                % accept
            )
            self._socket = True
        elif ask.kind == "json" and ask.pace:
            self._timer = self._loop.call_later(ask.pace, self._json, ask)
        elif ask.kind == "json":
            self._json(ask)
        else:
            if ask.ending.startswith("dropped") and ask.at == 0:  # before there is an answer at all
                self._drop(ask)
                return
            self._transport.write(STREAM)
            self._due = self._loop.time()
            self._event()

    def _json(self, ask: Ask) -> None:
        body = answer(ask)
        head = HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        if ask.ending.startswith("dropped"):
            if ask.at >= 50:  # half of them in the middle of the answer, the others before it
                part = body[: len(body) * ask.at // 100]
                self._count(part)
                self._transport.write(head + part)
            self._drop(ask)
            return
        self._count(body)
        self._transport.write(head + body)
        self._over("whole")
        if ask.pace:
            self.data_received(b"")  # what was sent ahead meanwhile

    def _event(self) -> None:
        ask = self._ask
        assert ask is not None
        self._timer = None
        if self._writable:
            text = event(ask, self._number, time.monotonic_ns())
            self._count(text)
            self._number += 1
            self._transport.write(b"%x\r\n%b\r\n" % (len(text), text))
            if ask.ending.startswith("dropped") and self._number == ask.at:
                self._drop(ask)
                return
            if self._number == ask.count:
                self._transport.write(b"0\r\n\r\n")
                self._over("whole")
                self.data_received(b"")
                return
        self._due += ask.pace
        self._timer = self._loop.call_at(self._due, self._event)

    def _frames(self) -> None:
        ask = self._ask
        if ask is None:
            return
        for opcode, payload in frames(self._buffer):
            if opcode == CLOSE:
                self._transport.write(frame(CLOSE, payload, masked=False))
                self._transport.close()
                self._over("whole")
                return
            if payload == b"drop":
                self._drop(ask)
                return
            self._line["foreign"] = sorted({*cast(list[str], self._line["foreign"]), *self._foreign(payload)})
            self._count(payload)
            self._number += 1
            self._transport.write(frame(TEXT, payload, masked=False))

    def _foreign(self, payload: bytes) -> set[str]:
        assert self._ask is not None
        return {each.decode() for each in NONCE.findall(payload)} - {self._ask.nonce}

    def _count(self, payload: bytes) -> None:
        self._sent.update(payload)
        self._size += len(payload)

    def _drop(self, ask: Ask) -> None:
        """Break off: what was written goes out, and no end follows."""
        if ask.ending == "dropped-reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()
        self._over("dropped")

    def _over(self, end: str) -> None:
        self._ask = None
        self._line |= {"sent": [self._sent.hexdigest(), self._size], "count": self._number, "end": end, "at": time.monotonic()}
        self._ledger.write(json.dumps(self._line) + "\n")


async def serve(ledger: IO[str]) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Serving(ledger), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()


if __name__ == "__main__":
    more_descriptors()
    with open(sys.argv[1], "w") as file:
        uvloop.run(serve(file))
