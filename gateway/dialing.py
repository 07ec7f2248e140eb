"""Reaching an upstream: its name looked up, its addresses tried, a proxy talked to, TLS shaken hands over. Speaks no HTTP to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar, cast
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from gateway.errors import GatewayError
from gateway.proxies import ProxyRefusedError, Talk, talk
from gateway.redaction import redact_url
from gateway.routes import Route
from gateway.tls import wire_context

__all__ = ["Dialer", "dial_failure", "keep_alive", "proxy_failure"]

EYEBALLS_DELAY: Final = 0.25
"""Seconds one address gets before the next is tried beside it (RFC 8305 section 5 recommends 250 ms)."""

KEEPALIVE_IDLE: Final = 30
"""Seconds of silence before TCP asks whether the peer is still there. It matters most where there is no read timeout."""
KEEPALIVE_EVERY: Final = 10
"""Seconds between two such questions."""
KEEPALIVE_COUNT: Final = 3
"""Questions without an answer after which a connection is broken: a minute in all. (TCP_USER_TIMEOUT would say it in one number, but
Linux then also breaks connections to peers that are there and merely do not read; see `gateway.presence` for unacknowledged data.)"""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""What this machine has no more of: descriptors, buffers, ports. Nothing is wrong with the upstream."""


C = TypeVar("C", bound=asyncio.Protocol)


class Dialer:
    """Dials for the routes it was made with. Made before the loop runs, or in a thread: TLS contexts are read from files, which blocks.
    All else is for the loop's thread."""

    def __init__(self, routes: Iterable[Route], connect_timeout: float) -> None:
        self.connect_timeout = connect_timeout
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[Sequence[AddrInfoType]]] = {}
        for route in routes:
            files = [(route.ca_file, route.client_cert, route.client_key)] if route.scheme == "https" and not route.second_path else []
            if route.proxy and route.proxy.startswith("https:"):
                files.append((None, None, None))
            for names in files:
                with contextlib.suppress(OSError):  # who asks for the route is told; the file may have come by then
                    self._contexts[names] = self._contexts.get(names) or wire_context(*names)

    async def dial(self, route: Route, make: Callable[[], C]) -> C:
        """A connection to the route's upstream, through its proxy where it has one, TLS done; `make` makes its protocol.

        Raises GatewayError (502, 503 or 504). May be cancelled at any time without leaving a socket behind.
        """
        reached = not route.proxy
        try:
            async with asyncio.timeout(self.connect_timeout):
                context = await self._context(route.ca_file, route.client_cert, route.client_key) if route.scheme == "https" else None
                if not route.proxy:
                    return await self._connect(route.host, route.port, context, make)
                transport = await self._through(route, route.proxy)
                reached = True
                return await _hand_over(transport, make(), context, route.host)
        except Exception as error:
            raise (dial_failure if reached else proxy_failure)(error, route, self.connect_timeout) from None

    async def _connect(self, host: str, port: int, context: ssl.SSLContext | None, make: Callable[[], C]) -> C:
        loop, addresses = asyncio.get_running_loop(), await self._addresses(host, port)
        name = host if context is not None else None
        if len(addresses) == 1:  # the loop's own way takes half the time
            with _shaking_hands(context):
                transport, protocol = await loop.create_connection(make, *addresses[0][4][:2], ssl=context, server_hostname=name)
            keep_alive(transport.get_extra_info("socket"))
            return protocol
        sock = await start_connection(addresses, happy_eyeballs_delay=EYEBALLS_DELAY, interleave=1, loop=loop)
        try:
            keep_alive(sock)
            with _shaking_hands(context):
                _, protocol = await loop.create_connection(make, sock=sock, ssl=context, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        return protocol

    async def _through(self, route: Route, proxy: str) -> asyncio.Transport:
        """A connection to the proxy that leads to the upstream from here on."""
        parts = urlsplit(proxy)
        context = await self._context(None, None, None) if parts.scheme == "https" else None
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)
        talking = await self._connect(parts.hostname or "", port, context, lambda: _Talking(talk(proxy, route.host, route.port)))
        try:
            await talking.done
        except BaseException:
            talking.done.cancel()
            talking.transport.abort()
            raise
        return talking.transport

    async def _addresses(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """All addresses of a name, looked up anew for each dial, in a thread. One look-up at a time for each name: the loop has four
        threads for them, and a name server that is silent must not take those of other names."""
        with contextlib.suppress(socket.gaierror):  # a number needs no thread
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
        loop = asyncio.get_running_loop()
        lookup = self._lookups.get((host, port))
        if lookup is None:
            lookup = loop.create_task(_look_up(loop, host, port))
            self._lookups[host, port] = lookup
            lookup.add_done_callback(lambda done: (self._lookups.pop((host, port)), done.cancelled() or done.exception()))
        return await asyncio.shield(lookup)

    async def _context(self, *files: str | None) -> ssl.SSLContext:
        if files not in self._contexts:
            self._contexts[files] = await asyncio.to_thread(wire_context, *files)
        return self._contexts[files]


async def _look_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> Sequence[AddrInfoType]:
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _hand_over(transport: asyncio.Transport, protocol: C, context: ssl.SSLContext | None, host: str) -> C:
    """Make `protocol` the one at the end of a connection that is there already, with TLS inside it where there is a context."""
    if context is None:
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return protocol
    waiting = _Waiting()
    try:
        with _shaking_hands(context):
            inner = await asyncio.get_running_loop().start_tls(transport, waiting, context, server_hostname=host)
    except BaseException:
        transport.abort()
        raise
    if inner is None or inner.is_closing() or waiting.ended:
        transport.abort()
        raise ConnectionResetError(errno.ECONNRESET, "")
    inner.set_protocol(protocol)
    protocol.connection_made(inner)
    return protocol


@contextlib.contextmanager
def _shaking_hands(context: ssl.SSLContext | None) -> Iterator[None]:
    """An end in the middle of a TLS handshake is a refusal of it: many servers say no other word."""
    try:
        yield
    except ConnectionResetError as error:
        if context is None or error.errno == errno.ECONNREFUSED:
            raise
        raise ssl.SSLError from None


class _Waiting(asyncio.Protocol):
    """Stands in until TLS is there: the protocol to come must hear of its connection first."""

    ended = False

    def data_received(self, data: bytes) -> None:
        self.ended = True  # an upstream that speaks unasked is of no use

    def eof_received(self) -> None:
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


class _Talking(asyncio.Protocol):
    """Carries on a talk with a proxy."""

    def __init__(self, words: Talk) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._words = words

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(next(self._words))

    def data_received(self, data: bytes) -> None:
        if self.done.done():  # nobody asked for more
            self.transport.abort()
            return
        try:
            self.transport.write(self._words.send(data))
        except StopIteration:
            self.done.set_result(None)
        except ProxyRefusedError as error:
            self.done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ProxyRefusedError("it cannot be reached, or speaks another protocol"))


def keep_alive(sock: socket.socket | None) -> None:
    """Have TCP ask whether the peer is still there when it is silent; see KEEPALIVE_IDLE. A listener's connections inherit it."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # Linux; macOS
    for option, value in ((idle, KEEPALIVE_IDLE), (_option("TCP_KEEPINTVL"), KEEPALIVE_EVERY), (_option("TCP_KEEPCNT"), KEEPALIVE_COUNT)):
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _option(name: str) -> int | None:
    return getattr(socket, name, None)


def dial_failure(error: BaseException, route: Route, seconds: float) -> GatewayError:
    """What a client is told when `error` kept a connection to the route's upstream from coming about; `seconds` is the time it had."""
    if isinstance(error, TimeoutError):
        return GatewayError(504, "upstream_timeout", f"no connection to {route.url} within {seconds:g} s")
    if isinstance(error, socket.gaierror):
        return GatewayError(502, "upstream_dns", f"the name {route.host} could not be resolved: {error.strerror}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return GatewayError(502, "upstream_tls", f"the certificate of {route.url} is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return GatewayError(
            502, "upstream_tls", f"no TLS connection to {route.url}: {getattr(error, 'reason', None) or 'the handshake was broken off'}"
        )
    if isinstance(error, OSError):
        if error.errno in EXHAUSTED:
            return GatewayError(503, "overloaded", f"the gateway has no more room for connections: {os.strerror(error.errno)}")
        why = os.strerror(error.errno) if error.errno else "connection failed"
        return GatewayError(502, "upstream_unreachable", f"no connection to {route.url}: {why}")
    # a name the resolver's codec refuses, say: a client must get its answer whatever it was
    return GatewayError(502, "upstream_unreachable", f"no connection to {route.url}: {type(error).__name__}")


def proxy_failure(error: BaseException, route: Route, seconds: float) -> GatewayError:
    """As `dial_failure`, when it was the route's proxy that could not be passed."""
    proxy = redact_url(route.proxy or "")
    if isinstance(error, TimeoutError):
        return GatewayError(504, "proxy_error", f"no connection through the proxy {proxy} within {seconds:g} s")
    if isinstance(error, OSError) and error.errno in EXHAUSTED:
        return dial_failure(error, route, seconds)
    why = str(error) if isinstance(error, ProxyRefusedError) else "it cannot be reached, or speaks another protocol"
    return GatewayError(502, "proxy_error", f"no connection through the proxy {proxy}: {why}")
