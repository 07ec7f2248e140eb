"""The second path: HTTP/2, and plain upstreams behind an HTTP proxy, through httpcore, the engine inside httpx.

To the relay it is one more upstream connection: a `Line` is an asyncio transport that reads the HTTP/1.1 an exchange writes to it,
asks httpcore, and hands the answer back as HTTP/1.1. Everything on the client's side is therefore the wire's own: what is dropped,
backpressure, cancelling, own errors, recording.

Not httpx itself: it upper-cases methods, rewrites paths, and its `target` extension replaces a CONNECT's target too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from functools import cache
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpcore

from gateway.dialing import dial_failure, keep_alive, proxy_failure
from gateway.errors import GatewayError, reason_phrase
from gateway.grammar import malformed_response
from gateway.proxies import ProxyRefusedError
from gateway.routes import Route
from gateway.tls import new_tls_context
from gateway.upstream import RESPONSE_HEAD, Connection
from gateway.wire import Data, End, Head, Limits, ProtocolError, Reader, request_reader, response_reader

__all__ = ["connect"]

FROM_US: Final = Limits(header_bytes=1 << 24, header_fields=1 << 16)
"""A request has been through the client's limits; the route's own path and query come on top."""

HIGH_WATER: Final = 64 << 10
"""Bytes of an upload kept before the client is no longer read: asyncio's own default for a transport."""

LOW_WATER: Final = 16 << 10

_KNOWN: Final = frozenset(HTTPStatus)


def connect(route: Route, connect_timeout: float) -> Connection:
    """A connection for one exchange at a time. It dials when it is first written to; what fails then is told to its user."""
    line = Line(route, connect_timeout)
    line.connection = connection = Connection(route, lambda _: None)
    connection.reader = Reader(line.head, malformed_response, RESPONSE_HEAD)
    connection.connection_made(line)
    return connection


class Line(asyncio.Transport):
    """What a `Connection` takes for its socket. Each has a httpcore pool of one connection, and with it one exchange at a time.

    HTTP/2 streams are not multiplexed: httpcore sends no RST_STREAM for a request that is given up (httpcore 1.0), so only closing
    the connection makes the upstream stop at once; and one exchange's slow reader holds up no other.
    """

    def __init__(self, route: Route, connect_timeout: float) -> None:
        super().__init__()
        self.connection: Connection
        self._route = route
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._reader = request_reader(FROM_US)
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._dial: asyncio.Timeout | None = None
        self._stream: httpcore.AsyncNetworkStream | None = None
        self._socket: socket.socket | None = None
        self._head: Head | None = None
        self._reading = asyncio.Event()
        self._reading.set()
        self.upload = _Upload(self)
        self._stage = ""

    # The request: what the exchange writes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """HTTP/1.1 for the upstream."""
        if self._closing is not None:
            return
        try:
            events = self._reader.next() if self._reader.ended else []
            events += self._reader.receive(bytes(data))
        except ProtocolError as error:
            self._loop.call_soon(self._refuse, GatewayError(error.status, "bad_request", str(error)))
            return
        for event in events:
            if type(event) is Data:
                self.upload.add(event.payload)
            elif type(event) is End:
                self.upload.finish()
            else:
                assert type(event) is Head
                self.upload = _Upload(self)
                self._head = None
                self._task = self._loop.create_task(self._exchange(event))

    def get_write_buffer_size(self) -> int:
        return self.upload.size

    # The answer: what the exchange reads

    def head(self, data: bytes, most_fields: int, answers: bytes) -> Head | None:
        """The head just fed, as `_response` made it (see `gateway.wire.Reader`)."""
        return self._head

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    # Its end

    def is_closing(self) -> bool:
        return self._closing is not None

    def close(self) -> None:
        """As `abort`: a request that is not whole on the wire must not look whole, and an answer nobody waits for is to stop."""
        self.abort()

    def abort(self) -> None:
        """Break off what runs and close the connection. Returns at once; closing takes a few turns of the loop."""
        if self._closing is None:
            self._reading.set()
            self._closing = self._loop.create_task(self._close(self._task))
            _closings.add(self._closing)
            self._closing.add_done_callback(_closings.discard)

    async def _close(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        if self._pool is not None:
            with contextlib.suppress(Exception):  # a TLS goodbye that finds nobody, say
                await self._pool.aclose()
        if self._stream is not None:  # httpcore 1.0 leaves it open when it is cancelled, or refused by a SOCKS proxy, while dialling
            with contextlib.suppress(Exception):
                await self._stream.aclose()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" and self._socket is not None else default

    # One exchange

    async def _exchange(self, head: Head) -> None:
        try:
            await self._ask(head)
        except Exception as error:
            self._failed(error)

    async def _ask(self, head: Head) -> None:
        route, connection = self._route, self.connection
        if self._pool is None:
            self._pool = await asyncio.to_thread(_pool, route)  # which may read the trust store
        request = httpcore.Request(
            head.method,
            _url(route, head.target),
            headers=head.headers,
            content=self.upload,
            extensions={"timeout": {"connect": None}, "trace": self._trace},
        )
        async with asyncio.timeout(self._connect_timeout) as self._dial:
            answer = await self._pool.handle_async_request(request)
        try:
            last = _head_of(answer)
            self._head = response = _response(last, answer, connection.reader.request_method)
            left = response.length
            if response.framing == "chunked" or left:
                connection.data_received(last)
                last = b"0\r\n\r\n"
            async for data in answer.aiter_stream():
                await self._reading.wait()
                if not data:  # an empty DATA frame, which as a chunk would be the last
                    continue
                if response.framing == "chunked":
                    connection.data_received(b"%x\r\n%b\r\n" % (len(data), data))
                elif len(data) < left:
                    left -= len(data)
                    connection.data_received(data)
                elif left:
                    left, last = 0, data
        finally:
            await answer.aclose()
        if left:
            raise ConnectionError("the body is shorter than its Content-Length")
        await self._reading.wait()
        if not any(kept.is_idle() and _is_clean(kept) for kept in self._pool.connections):
            response.keep_alive = False
            self.abort()
        # Only now its end: the connection may carry the next exchange as soon as this one has heard it
        connection.data_received(last)

    async def _trace(self, event: str, info: dict[str, Any]) -> None:
        """How far httpcore is (its `trace` extension): what a failure is about, and when dialling is over."""
        part, _, step = event.partition(".")
        if step == "connect_tcp.complete":
            self._stream = info["return_value"]
            self._socket = self._stream.get_extra_info("socket")
            keep_alive(self._socket)
        elif step == "send_request_headers.started" and info["request"].method != b"CONNECT":
            self._stage = "request"
            if self._dial is not None:
                self._dial.reschedule(None)
        elif step in ("connect_tcp.started", "start_tls.started", "setup_socks5_connection.started", "send_request_headers.started"):
            # TLS to the upstream itself is begun by "proxy" or "socks" where there is a proxy, else by "connection"
            direct = self._route.proxy is None or (step == "start_tls.started" and part != "connection")
            self._stage = "upstream" if direct else "proxy"

    # Failures

    def _failed(self, error: Exception) -> None:
        user = self.connection.user
        if isinstance(error, GatewayError):
            self._refuse(error)
        elif self._stage != "request":
            self._refuse(self._dial_failure(error))
        elif isinstance(error, httpcore.LocalProtocolError) and self._head is None and not self.upload.begun:
            self._refuse(GatewayError(400, "bad_request", "the request holds what HTTP/2 or a proxy does not carry"))
        elif user is not None:
            self.connection.abort()
            why = (
                f"the upstream sent no acceptable HTTP: {error}"
                if isinstance(error, ProtocolError)
                else "the upstream closed the connection"
            )
            user.upstream_lost(why, reset=True)

    def _refuse(self, failure: GatewayError) -> None:
        user = self.connection.user
        self.connection.abort()
        if user is not None:
            user.upstream_failed(failure)

    def _dial_failure(self, error: Exception) -> GatewayError:
        route, cause = self._route, _cause(error)
        if self._stage != "proxy":
            return dial_failure(cause, route, self._connect_timeout)
        return proxy_failure(
            ProxyRefusedError(str(cause)) if isinstance(cause, httpcore.ProxyError) else cause, route, self._connect_timeout
        )


_closings: Final[set[asyncio.Task[None]]] = set()
"""Lines on their way out: the loop itself holds its tasks only weakly."""


class _Upload:
    """A request's body between the exchange, which writes it, and httpcore, which iterates over it, once."""

    def __init__(self, line: Line) -> None:
        self.size = 0
        self.begun = False
        """Bytes of it have been given out."""
        self._line = line
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._full = False
        self._news = asyncio.Event()

    def add(self, pieces: list[bytes]) -> None:
        self._pieces += pieces
        self.size += sum(map(len, pieces))
        self._news.set()
        if self.size > HIGH_WATER and not self._full:
            self._full = True
            self._line.connection.pause_writing()

    def finish(self) -> None:
        self._ended = True
        self._news.set()

    def __aiter__(self) -> _Upload:
        if self.begun:  # httpcore asks once more after a GOAWAY, and would send the rest as if it were the whole
            raise ConnectionError("a body cannot be sent twice")
        return self

    async def __anext__(self) -> bytes:
        while not self._pieces:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self.begun = True
        piece = self._pieces.popleft()
        self.size -= len(piece)
        if self._full and self.size <= LOW_WATER:
            self._full = False
            self._line.connection.resume_writing()
        return piece


def _pool(route: Route) -> httpcore.AsyncConnectionPool:
    return httpcore.AsyncConnectionPool(
        ssl_context=_tls(route.http2, route.ca_file, route.client_cert, route.client_key) if route.scheme == "https" else None,
        proxy=_proxy(route.proxy) if route.proxy else None,
        max_connections=None,
        http1=True,
        http2=route.http2,
    )


def _is_clean(connection: Any) -> bool:
    """Whether nothing came over it beyond the last answer. httpcore keeps such bytes, and would read the next answer from them; it has no
    public word for it, so a connection that is not as version 1.0 makes them is not trusted either."""
    while (inner := getattr(connection, "_connection", None)) is not None:  # a proxy's has one within
        connection = inner
    spoken = getattr(connection, "_h11_state", None)
    return hasattr(connection, "_h2_state") if spoken is None else not spoken.trailing_data[0]  # HTTP/2 has frames with numbers


def _proxy(url: str) -> httpcore.Proxy:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    return httpcore.Proxy(
        httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port),
        auth=(unquote(parts.username), unquote(parts.password or "")) if parts.username is not None else None,
        ssl_context=_tls(False) if secure else None,
    )


@cache
def _tls(http2: bool, ca_file: str | None = None, client_cert: str | None = None, client_key: str | None = None) -> ssl.SSLContext:
    """Not the wire's own: httpcore sets the ALPN protocols of the one it is given, by `http2`."""
    return new_tls_context(ca_file, client_cert, client_key)


def _url(route: Route, target: bytes) -> httpcore.URL:
    """Whom to ask for what; the target's bytes stay as they are."""
    if target == b"*" and route.scheme == "http" and route.proxy and route.proxy.startswith("http"):
        target = b""  # RFC 9112 section 3.2.4: how a proxy is asked for `OPTIONS *`
    usual = route.port == (443 if route.scheme == "https" else 80)
    return httpcore.URL(scheme=route.scheme, host=route.host, port=None if usual else route.port, target=target)


def _cause(error: BaseException) -> BaseException:
    """What the system said, below the wrappings of httpcore and anyio; `error` itself where it said nothing."""
    found: BaseException | None = error
    while found is not None:
        below = found.args[0] if found.args and isinstance(found.args[0], BaseException) else found.__cause__ or found.__context__
        vague = isinstance(found, OSError) and found.errno is None and not isinstance(found, TimeoutError) and isinstance(below, OSError)
        if isinstance(found, OSError | httpcore.ProxyError) and not vague:
            return found
        found = below
    return error


def _head_of(answer: httpcore.Response) -> bytes:
    """The answer's head as HTTP/1.1 has it."""
    version = answer.extensions["http_version"]
    reason = answer.extensions.get("reason_phrase")
    if reason is None:  # HTTP/2 has none, and HTTP/1.1 clients show it
        reason = reason_phrase(answer.status) if answer.status in _KNOWN else b""
    start = b"HTTP/1.1" if version == b"HTTP/2" else version
    lines = [b"%b %d %b" % (start, answer.status, reason), *[name + b": " + value for name, value in answer.headers], b"\r\n"]
    return b"\r\n".join(lines)


def _response(block: bytes, answer: httpcore.Response, method: bytes) -> Head:
    """The answer's head, through the same guards as one that came over the wire. Raises ProtocolError."""
    reader = response_reader(RESPONSE_HEAD)
    reader.request_method = method
    events = reader.receive(block)
    if not events or reader.waiting:
        raise ProtocolError(502, "malformed head")
    head = events[0]
    assert type(head) is Head
    head.version = version = answer.extensions["http_version"]
    if version == b"HTTP/2":
        head.keep_alive = True
    if head.framing == "close":
        head.framing = "chunked"  # how the body's end, which httpcore has seen, is told to our own reader
    return head
