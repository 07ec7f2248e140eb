"""Bare TCP for tests: a connection that says anything and forgets nothing, scripted upstreams on it, a tap between two parties.

Nothing here sleeps in the hope that something has happened; `wait_for` waits on a condition and fails at its deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from readback import Message, take

T = TypeVar("T")
PATIENCE = 20.0
"""Seconds any single wait may take before the test fails: far above what a loaded machine needs, far below pytest's own limit."""
LAST_CHUNK = re.compile(rb"\r\n0+(;[^\r]*)?\r\n")


async def wait_for(condition: Callable[[], T | Awaitable[T]], deadline: float = PATIENCE) -> T:
    """Wait until `condition` (plain or async) gives something true and return it; fail after `deadline` seconds with its source."""
    end = time.monotonic() + deadline
    while True:
        result = condition()
        value: Any = await result if inspect.isawaitable(result) else result
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"still not so after {deadline} s: {_source(condition)}")
        await asyncio.sleep(0.005)


def wait_for_sync(condition: Callable[[], T], deadline: float = PATIENCE) -> T:
    """`wait_for` without an event loop."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"still not so after {deadline} s: {_source(condition)}")
        time.sleep(0.005)
    return value


def _source(condition: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)


class Connection(asyncio.Protocol):
    """One end of a TCP connection, bare: what arrived, byte for byte, and the means to say anything at all.

    Reading methods consume from `received` in order; `received` itself keeps everything, `arrivals` says when each piece came.
    They raise ConnectionError when the peer is gone before what they wait for is there.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.arrivals: list[tuple[float, int]] = []
        """(time.monotonic(), len(received) after it) for each piece."""
        self.eof = False
        """The peer finished sending, cleanly."""
        self.lost = False
        """The connection is gone; `error` says why when it was not a clean close."""
        self.error: Exception | None = None
        self.position = 0
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.arrivals.append((time.monotonic(), len(self.received)))
        self._news.set()

    def eof_received(self) -> bool:
        self.eof = True
        self._news.set()
        return True  # stay open for writing: a half-closed peer still listens

    def connection_lost(self, error: Exception | None) -> None:
        self.lost, self.error = True, error
        self._news.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Reading

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def unread(self) -> bytes:
        """What arrived and was not consumed yet."""
        return bytes(self.received[self.position :])

    async def read_until(self, separator: bytes, deadline: float = PATIENCE) -> bytes:
        """Consume up to and including `separator`."""
        await self._arrived(lambda: self.received.find(separator, self.position) >= 0, deadline)
        return self._consume(self.received.find(separator, self.position) + len(separator) - self.position)

    async def read_head(self, deadline: float = PATIENCE) -> bytes:
        """Consume a head with its empty line."""
        return await self.read_until(b"\r\n\r\n", deadline)

    async def read_exactly(self, count: int, deadline: float = PATIENCE) -> bytes:
        """Consume `count` bytes."""
        await self._arrived(lambda: len(self.received) - self.position >= count, deadline)
        return self._consume(count)

    async def read_message(self, *, answers: bytes | None = None, deadline: float = PATIENCE) -> Message:
        """Consume one whole HTTP message by its own framing: a request, or the response that `answers` this method."""

        def whole() -> bool:
            head_end = self.received.find(b"\r\n\r\n", self.position)
            if head_end < 0:
                return False
            message, _ = take(bytes(self.received[self.position : head_end + 4]), method=answers) or (None, b"")
            assert message is not None
            if message.chunked and not message.complete:  # parse again only when the end may be there: a large body comes in many pieces
                return LAST_CHUNK.search(self.received, head_end + 2) is not None and (take(self.unread) or [message])[0].complete
            if not message.complete:
                return len(self.received) >= head_end + 4 + int(message.values(b"content-length")[0])
            return self.eof or self.lost or not _close_delimited(message, answers)

        await self._arrived(whole, deadline)
        taken = take(self.unread, method=answers)
        assert taken is not None
        message, rest = taken
        self.position = len(self.received) - len(rest)
        return message

    async def read_to_end(self, deadline: float = PATIENCE) -> bytes:
        """Consume everything until the peer finishes or breaks; look at `error` to tell which."""
        await self.wait_ended(deadline)
        return self._consume(len(self.received) - self.position)

    async def wait_ended(self, deadline: float = PATIENCE) -> None:
        """Wait until the peer finished sending (`eof`) or the connection is gone (`lost`)."""
        await self._arrived(lambda: self.eof or self.lost, deadline)

    async def _arrived(self, there: Callable[[], bool], deadline: float) -> None:
        async with asyncio.timeout(deadline):
            while not there():
                if self.eof or self.lost:
                    raise ConnectionError(f"the peer ended after {len(self.received)} bytes: {self.unread[-200:]!r}")
                self._news.clear()
                await self._news.wait()

    def _consume(self, count: int) -> bytes:
        data = bytes(self.received[self.position : self.position + count])
        self.position += count
        return data

    def pause(self) -> None:
        """Read no more from the socket until `resume`: the kernel's buffers fill and the peer feels it."""
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    # Writing

    async def send(self, data: bytes) -> None:
        """Write `data`; waits while the kernel and the transport's buffer are full. Raises ConnectionError when the peer is gone."""
        if self.lost or self.transport.is_closing():
            raise ConnectionError("the peer is gone") from self.error
        self.transport.write(data)
        await self._writable.wait()

    def send_eof(self) -> None:
        """Finish sending, keep reading."""
        self.transport.write_eof()

    async def close(self) -> None:
        """Close cleanly, after what was written has gone out."""
        self.transport.close()
        await self._gone()

    async def reset(self) -> None:
        """Break the connection: RST, no FIN, unsent bytes dropped."""
        raw = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
        await self._gone()

    async def _gone(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while not self.lost:
                self._news.clear()
                await self._news.wait()


def _close_delimited(message: Message, answers: bytes | None) -> bool:
    if answers is None or message.chunked or message.values(b"content-length"):
        return False
    return answers != b"HEAD" and message.status not in {101, 204, 304} and message.status >= 200


Handler = Callable[[Connection], Awaitable[None]]


class RawUpstream:
    """A server on 127.0.0.1 that runs `handler` once per connection and keeps every connection's bytes.

    Use as an async context manager. A connection is closed when its handler returns. What a handler raises is raised again on
    leaving, except ConnectionError: a peer that goes away is what many tests are about; look at the connection.
    """

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.handler = handler
        self.host, self.port = host, port
        self.connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> RawUpstream:
        self._server = await asyncio.get_running_loop().create_server(self._accept, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self.connections:
            if not connection.lost:
                connection.transport.abort()
                await connection._gone()
        await self._server.wait_closed()
        if self._errors and exc_info[1] is None:
            raise self._errors[0]

    def _accept(self) -> Connection:
        upstream = self

        class Accepted(Connection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                upstream.connections.append(self)
                task = asyncio.create_task(upstream._run(self))
                upstream._tasks.add(task)
                task.add_done_callback(upstream._tasks.discard)

        return Accepted()

    async def _run(self, connection: Connection) -> None:
        try:
            await self.handler(connection)
        except ConnectionError:
            pass
        except Exception as error:
            self._errors.append(error)
        finally:
            if not connection.lost:
                connection.transport.close()


async def connect(port: int, host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> Connection:
    """A raw client connection, inside TLS with `tls`. The caller closes or resets it."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port, ssl=tls)
    return connection


async def raw_request(port: int, data: bytes, *, host: str = "127.0.0.1", deadline: float = PATIENCE) -> bytes:
    """Send `data` on a connection of its own and return every byte of the first final response, interim ones before it included.

    Returns what there is when the server ends or breaks first, so a refusal and a broken stream can be looked at alike.
    """
    connection = await connect(port, host)
    try:
        await connection.send(data)
        method = data.split(b" ", 1)[0]
        while True:
            message = await connection.read_message(answers=method, deadline=deadline)
            if message.status >= 200 or message.status == 101:
                return bytes(connection.received[: connection.position])
    except ConnectionError:
        return bytes(connection.received)
    finally:
        if not connection.lost:
            await connection.close()


@dataclass(slots=True)
class Crossing:
    """One tapped connection: every byte each side sent."""

    client: bytearray = field(default_factory=bytearray)
    server: bytearray = field(default_factory=bytearray)
    ended: bool = False


class Tap:
    """A TCP relay on 127.0.0.1 in front of `port` that keeps both directions of every connection exactly, ends and resets included."""

    def __init__(self, port: int) -> None:
        self.crossings: list[Crossing] = []
        self._target = port
        self._upstream = RawUpstream(self._relay)
        self._outward: list[Connection] = []

    @property
    def port(self) -> int:
        return self._upstream.port

    @property
    def url(self) -> str:
        return self._upstream.url

    async def __aenter__(self) -> Tap:
        await self._upstream.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._upstream.__aexit__(*exc_info)
        finally:
            for server in self._outward:  # whatever was cancelled in the middle of its ending
                if not server.lost:
                    server.transport.abort()
                    await server._gone()

    async def _relay(self, client: Connection) -> None:
        crossing = Crossing()
        self.crossings.append(crossing)
        server = await connect(self._target)
        self._outward.append(server)
        pumps = [asyncio.create_task(_pump(client, server, crossing.client)), asyncio.create_task(_pump(server, client, crossing.server))]
        try:
            await asyncio.gather(*pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in (server, client):
                if not end.lost:
                    await end.close()
            crossing.ended = True


async def _pump(source: Connection, sink: Connection, kept: bytearray) -> None:
    while True:
        piece = source._consume(len(source.received) - source.position)
        if piece:
            kept += piece
            await sink.send(piece)
        elif source.lost and source.error is not None:
            if not sink.lost:
                await sink.reset()
            return
        elif source.eof or source.lost:
            if not sink.lost and not sink.transport.is_closing():
                sink.send_eof()
            return
        elif sink.lost:
            return
        else:
            source._news.clear()
            await source._news.wait()
