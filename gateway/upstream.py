"""Connections to upstreams: dialled, kept while idle, given to one exchange at a time. Knows nothing of clients or records."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Protocol, cast

import truststore

from gateway.errors import GatewayError
from gateway.routes import Route
from gateway.wire import Event, Limits, ProtocolError, Reader, response_reader

__all__ = ["Connection", "Pool", "User", "dial_failure", "keep_alive", "new_tls_context", "reset_at_close"]

RESPONSE_HEAD: Final = Limits(header_bytes=256 << 10, header_fields=1000)
"""What an upstream may send as one head: well above what any provider or CDN sends; beyond it is a 502."""

KEEPALIVE_IDLE: Final = 60
"""Seconds of silence before TCP asks whether the upstream is still there: a dead peer ends an exchange that has no read timeout."""


FRESH: Final = 0.2
"""Seconds for which an idle connection is used again unlooked at. After longer, its socket is asked first whether the upstream has
closed it meanwhile: a POST written to a closed connection cannot be sent again safely, so it must not be written there."""


class User(Protocol):
    """Who uses a connection: an exchange. All calls come from the event loop."""

    def response(self, events: list[Event]) -> None:
        """Parts of the response arrived."""
        ...

    def upstream_lost(self, why: str, *, reset: bool) -> None:
        """The connection broke, or what came over it is no HTTP. It is closed already."""
        ...

    def upstream_failed(self, failure: GatewayError) -> None:
        """It turned out that there is no connection: nothing of the request was heard, nothing of an answer came."""
        ...

    def upstream_bytes(self, data: bytes) -> None:
        """After an upgrade: bytes as they are."""
        ...

    def upstream_writable(self, writable: bool) -> None:
        """The upstream takes bytes more slowly than they come (False), or takes them again (True)."""
        ...


FULL_READ: Final = 256_000
"""Bytes that fill uvloop's buffer for one read (asyncio's is 262,144). libuv then reads on, up to 32 times, before anybody else has a turn:
8 MB, which are 5 ms of the loop's time, and 20 where they are recorded."""

TURN: Final = 8
"""Why a side is not read (see `gateway.exchange`): until the loop's next turn, after a full read."""


class Connection(asyncio.Protocol):
    """One connection to an upstream. In the pool while `user` is None."""

    __slots__ = ("_eof", "_holds", "_on_idle_lost", "idle_since", "reader", "reused", "route", "transport", "tunnel", "user")

    def __init__(self, route: Route, on_idle_lost: Callable[[Connection], None]) -> None:
        self.route = route
        self.reader: Reader = response_reader(RESPONSE_HEAD)
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.user: User | None = None
        self.tunnel = False
        self.reused = False
        self._holds = 0
        self.idle_since = 0.0
        self._eof = False
        self._on_idle_lost = on_idle_lost

    @property
    def usable(self) -> bool:
        """Fit for another request: open, all that was written is sent, and nothing came after the last answer."""
        transport = self.transport
        return not (self._eof or transport.is_closing() or self.reader.waiting or transport.get_write_buffer_size())

    def hold(self, why: int, on: bool) -> None:
        """Stop reading from the socket for the reason `why` (a bit), or drop that reason; without any, reading goes on."""
        before, self._holds = self._holds, self._holds | why if on else self._holds & ~why
        if bool(before) != bool(self._holds) and not self.transport.is_closing():
            (self.transport.pause_reading if self._holds else self.transport.resume_reading)()

    def release(self) -> None:
        """Drop all reasons not to read."""
        self.hold(self._holds, False)

    def close(self) -> None:
        """Close the connection once what is buffered has been sent."""
        self.user = None
        self.transport.close()

    def abort(self) -> None:
        """Break the connection now; what is buffered is not sent."""
        self.user = None
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        keep_alive(self.transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        user = self.user
        if user is None:  # bytes nobody asked for: they reach no one, and the connection is of no more use
            self.transport.abort()
            return
        if self.tunnel:
            user.upstream_bytes(data)
            return
        try:
            events = self.reader.receive(data)
        except ProtocolError as error:
            self.abort()
            user.upstream_lost(f"the upstream sent no acceptable HTTP: {error}", reset=True)
            return
        if events:
            user.response(events)
        if len(data) >= FULL_READ:
            self.hold(TURN, True)
            asyncio.get_running_loop().call_soon(self.hold, TURN, False)

    def eof_received(self) -> None:
        self._eof = True
        if self.user is not None and not self.tunnel:
            try:
                events = self.reader.eof()
            except ProtocolError:
                return  # connection_lost follows and tells
            if events:
                self.user.response(events)

    def connection_lost(self, exc: Exception | None) -> None:
        user, self.user = self.user, None
        if user is None:
            self._on_idle_lost(self)
        else:
            user.upstream_lost("the upstream closed the connection", reset=exc is not None)

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.upstream_writable(True)


class Pool:
    """Idle connections by route, newest first. No cap: every exchange gets a connection. For the event loop's thread only."""

    def __init__(self, *, connect_timeout: float, idle_timeout: float, second: Callable[[Route, float], Connection] | None = None) -> None:
        """`second` makes the connections of routes that ask for HTTP/2 or a proxy: `gateway.second.connect`."""
        self._connect_timeout = connect_timeout
        self._second = second
        self._idle_timeout = idle_timeout
        self._idle: dict[str, list[Connection]] = {}

    def take(self, route: Route, now: float) -> Connection | None:
        """An idle connection, or None: then `connect`."""
        idle = self._idle.get(route.name)
        while idle:
            connection = idle.pop()
            if (
                connection.route is route
                and connection.usable
                and (now - connection.idle_since < FRESH or not _readable(connection.transport))
            ):
                connection.reused = True
                return connection
            connection.transport.abort()
        return None

    def give(self, connection: Connection, now: float) -> None:
        """Take back a connection whose exchange is over."""
        connection.user = None
        if connection.reader.ended and connection.usable:
            connection.release()
            connection.reader.next()
            connection.idle_since = now
            self._idle.setdefault(connection.route.name, []).append(connection)
        else:
            connection.transport.abort()

    async def connect(self, route: Route) -> Connection:
        """A fresh connection, TLS done. Raises GatewayError (502 or 504); may be cancelled at any time without leaving a socket behind.

        On the second path nothing is dialled yet, and what fails later is told to the connection's user.
        """
        if self._second is not None and (route.http2 or route.proxy):
            return self._second(route, self._connect_timeout)
        loop = asyncio.get_running_loop()
        try:
            context = tls_context(route.ca_file) if route.scheme == "https" else None
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(route, self._forget),
                    route.host,
                    route.port,
                    ssl=context,
                    server_hostname=route.host if context else None,
                )
        except Exception as error:
            raise dial_failure(error, route, self._connect_timeout) from None
        return connection

    def take_over(self, fresh: Pool, routes: Mapping[str, Route]) -> None:
        """From now on dial as `fresh`, a pool that was never used, would; `routes` are all there are. Idle connections of other routes,
        the former ones of the same name included, are closed; those that come back later are not used again (see `take`)."""
        self._connect_timeout, self._idle_timeout, self._second = fresh._connect_timeout, fresh._idle_timeout, fresh._second
        for name, idle in self._idle.items():
            self._idle[name] = [connection for connection in idle if connection.route is routes.get(name)]
            for connection in idle:
                if connection.route is not routes.get(name):
                    connection.transport.close()

    def sweep(self, now: float) -> None:
        """Close what has been idle too long."""
        for name, idle in self._idle.items():
            old = [c for c in idle if now - c.idle_since >= self._idle_timeout]
            if old:
                self._idle[name] = [c for c in idle if now - c.idle_since < self._idle_timeout]
                for connection in old:
                    connection.transport.close()

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.transport.close()
        self._idle.clear()

    def _forget(self, connection: Connection) -> None:
        idle = self._idle.get(connection.route.name)
        if idle and connection in idle:
            idle.remove(connection)


@cache
def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """As `new_tls_context`, for HTTP/1.1; one for all connections."""
    context = new_tls_context(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def new_tls_context(ca_file: str | None) -> ssl.SSLContext:
    """TLS to upstreams: verified against the system's trust store, or against `ca_file` alone. Raises OSError when that is unreadable."""
    context = ssl.create_default_context(cafile=ca_file) if ca_file else truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def dial_failure(error: BaseException, route: Route, seconds: float) -> GatewayError:
    """What a client is told when `error` kept a connection to the route's upstream from coming about; `seconds` is the time it had."""
    if isinstance(error, TimeoutError):
        return GatewayError(504, "upstream_timeout", f"no connection to {route.url} within {seconds:g} s")
    if isinstance(error, socket.gaierror):
        return GatewayError(502, "upstream_dns", f"the name {route.host} could not be resolved: {error.strerror}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return GatewayError(502, "upstream_tls", f"the certificate of {route.url} is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return GatewayError(502, "upstream_tls", f"no TLS connection to {route.url}: {error.reason or 'handshake failed'}")
    if isinstance(error, OSError):
        why = os.strerror(error.errno) if error.errno else "connection failed"
        return GatewayError(502, "upstream_unreachable", f"no connection to {route.url}: {why}")
    # a name the resolver's codec refuses, say: a client must get its answer whatever it was
    return GatewayError(502, "upstream_unreachable", f"no connection to {route.url}: {type(error).__name__}")


def _readable(transport: asyncio.Transport) -> bool:
    """Whether the socket of an idle connection has something to read, which can only be its end (or bytes nobody asked for)."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def reset_at_close(transport: asyncio.Transport) -> None:
    """Make the coming close an RST (SO_LINGER of 0 seconds), which no peer can take for a proper end."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def keep_alive(sock: socket.socket | None) -> None:
    """Have TCP ask now and then whether the peer is still there."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
