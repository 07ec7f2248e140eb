"""The gateway inside the test's own loop: the production wiring on a port of its own, records kept in memory, scripted origins.

What must never happen in any test is checked here when the rig goes down: an exception that reached the event loop, an error line
in the log, an exchange, connection or dial left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trustme
import uvicorn
from rawsockets import Connection, RawUpstream, connect, wait_for
from readback import Message
from uvicorn.server import ServerState

from archive.record import Body, End, Record, Request, Response, id_text
from archive.record import Message as Frame
from gateway.app import create_app, create_relay
from gateway.capture import CaptureLimits, InProcess
from gateway.relay import Relay
from gateway.routes import Route
from gateway.settings import Settings

__all__ = ["Connection", "Kept", "Origin", "RawUpstream", "Recording", "Rig", "connect", "rig", "said", "wait_for"]

SECOND_PATH = False
"""Whether routes given as URLs take the second path to their upstream."""

FRONT = False
"""Whether the gateway is reached through TLS."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = bytes | Callable[[Connection, Message], Awaitable[None]]
"""What an origin does about one request: send these bytes, or run this."""


class Origin(RawUpstream):
    """An upstream that answers the first request with the first script, the second with the second, and so on; the last one repeats.

    `requests` and `heads` (raw, with the empty line) are in the order in which they arrived, over all connections.
    """

    def __init__(self, *scripts: Script, keep: bool = True) -> None:
        super().__init__(self._serve)
        self.requests: list[Message] = []
        self.heads: list[bytes] = []
        self._scripts = scripts or (OK,)
        self._keep = keep

    async def _serve(self, connection: Connection) -> None:
        while True:
            start = connection.position
            request = await connection.read_message()
            self.heads.append(said(connection, start))
            script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
            self.requests.append(request)
            if isinstance(script, bytes):
                await connection.send(script)
            else:
                await script(connection, request)
            if not self._keep:
                return


def said(connection: Connection, start: int = 0) -> bytes:
    """The raw head that `connection` received at `start`, empty line included."""
    end = connection.received.find(b"\r\n\r\n", start)
    assert end >= 0
    return bytes(connection.received[start : end + 4])


@dataclass(slots=True)
class Kept:
    """One exchange's records, put together."""

    id: str
    parts: list[Record] = field(default_factory=list)

    @property
    def end(self) -> End | None:
        return self.parts[-1].end

    @property
    def request(self) -> Request:
        return next(part.request for part in self.parts if part.request is not None)

    @property
    def response(self) -> Response | None:
        return next((part.response for part in self.parts if part.response is not None), None)

    @property
    def request_body(self) -> bytes:
        return _joined([part.request_body for part in self.parts])

    @property
    def response_body(self) -> bytes:
        return _joined([part.response_body for part in self.parts])

    @property
    def complete(self) -> tuple[bool, bool]:
        """Whether the request's and the response's framing came to their ends."""
        return (
            any(part.request_body is not None and part.request_body.ended for part in self.parts),
            any(part.response_body is not None and part.response_body.ended for part in self.parts),
        )

    @property
    def messages(self) -> list[Frame]:
        found: list[Frame] = []
        for part in self.parts:
            if callable(part.messages):
                part.messages = part.messages()
            found += part.messages
        return found


def _joined(bodies: list[Body | None]) -> bytes:
    return b"".join(b"".join(body.chunks) for body in bodies if body is not None)


class Recording:
    """A Recorder that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        self.records.append(record)
        return True

    @property
    def exchanges(self) -> list[Kept]:
        found: dict[bytes, Kept] = {}
        for record in self.records:
            found.setdefault(record.id, Kept(id_text(record.id))).parts.append(record)
        return list(found.values())


@dataclass(slots=True)
class Rig:
    """A running relay: its port, its insides, what it recorded."""

    port: int
    relay: Relay
    recording: Any
    problems: list[str]
    tls: ssl.SSLContext | None
    """What a client dials with, where the gateway has a TLS front."""

    def url(self, path: str) -> str:
        """The websocket URL of `path`."""
        return f"{'wss' if self.tls else 'ws'}://127.0.0.1:{self.port}{path}"

    async def ended(self, count: int = 1) -> list[Kept]:
        """Wait until `count` exchanges have ended in the records; return all."""

        def there() -> bool:
            return sum(kept.end is not None for kept in self.recording.exchanges) >= count

        await wait_for(there)
        return list(self.recording.exchanges)

    async def only(self) -> Kept:
        """The one exchange, ended."""
        (kept,) = await self.ended()
        return kept

    async def client(self) -> Connection:
        """A raw connection to the gateway."""
        return await connect(self.port, tls=self.tls)

    async def ask(self, request: bytes) -> tuple[Message, Connection]:
        """Send `request` on a connection of its own; the final response and the connection, still open."""
        client = await self.client()
        await client.send(request)
        return await final(client, request.split(b" ", 1)[0]), client


async def final(client: Connection, method: bytes = b"GET") -> Message:
    """The next final response on `client` to a request with this method."""
    while True:
        message = await client.read_message(answers=method)
        if message.status >= 200 or message.status == 101:
            return message


@functools.cache
def _front() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server and a client of this process do TLS with."""
    authority = trustme.CA()
    theirs, ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(theirs)
    authority.configure_trust(ours)
    return theirs, ours


class _Errors(logging.Handler):
    def __init__(self, problems: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        self._problems.append(f"{record.name}: {record.getMessage()}")


@contextlib.asynccontextmanager
async def rig(
    upstream: RawUpstream | str | Mapping[str, str | Route],
    *,
    default: str | None = None,
    recording: Any = None,
    wrap: Callable[[Relay], None] = lambda relay: None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """The relay on a free port. `upstream` is the route "up" (or several routes by name); `settings` are fields of Settings.

    `wrap` may change the relay before it starts. On leaving it is stopped, and everything that must have gone is looked for.
    """
    if isinstance(upstream, RawUpstream):
        upstream = {"up": upstream.url}
    elif isinstance(upstream, str):
        upstream = {"up": upstream}
    routes = {name: url if isinstance(url, Route) else Route.parse(name, url, http2=SECOND_PATH) for name, url in upstream.items()}
    recording = Recording() if recording is None else recording
    values = Settings(routes=routes, default_route=default, **settings)
    limits = CaptureLimits(values.part_bytes, values.part_seconds, values.max_body)
    relay = await asyncio.to_thread(create_relay, values, InProcess(recording, limits))  # which may read certificates
    wrap(relay)
    config = uvicorn.Config(create_app(relay, None, lambda: None), ws="none", log_config=None, server_header=False, date_header=False)
    config.load()
    loop = asyncio.get_running_loop()
    problems: list[str] = []
    handler = _Errors(problems)
    logging.getLogger().addHandler(handler)
    loop.set_exception_handler(lambda _, context: problems.append(f"{context.get('message')}: {context.get('exception')!r}"))
    protocol = functools.partial(relay.protocol, config, ServerState(), {})
    relay.start()
    server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=_front()[0] if FRONT else None)
    try:
        yield Rig(server.sockets[0].getsockname()[1], relay, recording, problems, _front()[1] if FRONT else None)
    finally:
        server.close()
        await relay.stop()
        await server.wait_closed()
        logging.getLogger().removeHandler(handler)
        loop.set_exception_handler(None)
    await wait_for(lambda: not relay.exchanges and not relay.connections)
    await wait_for(lambda: not [task for task in asyncio.all_tasks() if "Exchange" in repr(task.get_coro())])
    assert not problems, problems
