"""Connections to upstreams: dialled, kept while idle, given to one exchange at a time. Knows nothing of clients or records."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Final, Protocol, cast

from gateway.dialing import Dialer, dial_failure
from gateway.errors import GatewayError
from gateway.routes import Route
from gateway.tls import keep_session
from gateway.wire import Event, Head, Limits, ProtocolError, Reader, response_reader

__all__ = ["Connection", "Pool", "User", "reset_at_close"]

RESPONSE_HEAD: Final = Limits(header_bytes=256 << 10, header_fields=1000)
"""What an upstream may send as one head: well above what any provider or CDN sends; beyond it is a 502."""

FRESH: Final = 0.2
"""Seconds for which an idle connection is used again unlooked at. After longer, its socket is asked first whether the upstream has
closed it meanwhile: a POST written to a closed connection cannot be sent again safely, so it must not be written there."""


OLD: Final = 600.0
"""Seconds after which a connection is not used again: the name is looked up anew, so an address that leaves DNS is left in time
(nginx's keepalive_time is an hour, Envoy recommends ten minutes)."""

_TIMEOUT: Final = re.compile(rb"(?:^|[,\s])timeout\s*=\s*\"?(\d{1,6})", re.IGNORECASE)


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


VANISHED: Final = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN})
"""What TCP says of a peer that does not even acknowledge any more (see `gateway.dialing.KEEPALIVE_IDLE`)."""

FULL_READ: Final = 256_000
"""Bytes that fill uvloop's buffer for one read (asyncio's is 262,144). libuv then reads on, up to 32 times, before anybody else has a turn:
8 MB, which are 5 ms of the loop's time, and 20 where they are recorded."""

TURN: Final = 8
"""Why a side is not read (see `gateway.exchange`): until the loop's next turn, after a full read."""


class Connection(asyncio.Protocol):
    """One connection to an upstream. In the pool while `user` is None."""

    __slots__ = (
        "_eof", "_holds", "_on_idle_lost", "_resumable", "idle_since", "keep_for", "made", "reader", "reused", "route", "transport",
        "tunnel", "user",
    )  # fmt: skip

    def __init__(self, route: Route, on_idle_lost: Callable[[Connection], None], keep_for: float = 0.0) -> None:
        """`keep_for`: how long it may be idle; `promised` changes it."""
        self.route = route
        self.keep_for = keep_for
        self.made = perf_counter()
        self._resumable = route.scheme == "https"
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
        """Fit for another request: the last answer is over, all that was written is sent, the connection is open."""
        transport = self.transport
        return self.reader.ended and not (self._eof or transport.is_closing() or self.reader.waiting or transport.get_write_buffer_size())

    def promised(self, head: Head, most: float) -> None:
        """The upstream's first answer may say for how long it keeps the connection (Keep-Alive: timeout=N, RFC 2068 section 19.7.1.1):
        that long less a second, or less half where it is short, at most `most`. A route's own `idle_timeout` is not made longer."""
        value = head.headers[head.names.index(b"keep-alive")][1]
        said = _TIMEOUT.search(value)
        if said is not None:
            seconds = float(said[1])
            limit = self.keep_for if self.route.idle_timeout is not None or not self.keep_for else max(most, self.keep_for)
            self.keep_for = min(max(seconds - 1.0, seconds / 2), limit)

    def keep_session(self) -> None:
        """Keep the TLS session for the route's next connection; its ticket has come with the first answer (RFC 8446 section 4.6.1)."""
        if self._resumable:
            self._resumable = False
            keep_session(self.transport.get_extra_info("ssl_object"))

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
        self.keep_session()
        self.transport.close()

    def abort(self) -> None:
        """Break the connection now; what is buffered is not sent."""
        self.user = None
        self.keep_session()
        self.transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

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
            self.reused = False  # what answers, if badly, has not gone while idle
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
        if exc is not None and self.user is not None:
            self._last_words()
        user, self.user = self.user, None
        self.keep_session()
        if user is None:
            self._on_idle_lost(self)
            return
        if not self.reader.idle:
            self.reused = False  # part of an answer had come: it has not gone while idle
        vanished = isinstance(exc, OSError) and exc.errno in VANISHED
        user.upstream_lost("the upstream has vanished" if vanished else "the upstream closed the connection", reset=exc is not None)

    def _last_words(self) -> None:
        """Read what an upstream said before it broke the connection: a 413, say, of one that closes with the upload unread. Our writing
        found the connection broken before our reading came to what had arrived; the kernel still has it."""
        if self.transport.get_extra_info("sslcontext") is not None:
            return  # it would have to be decrypted
        with contextlib.suppress(OSError):
            while self.user is not None and (data := os.read(self.transport.get_extra_info("socket").fileno(), FULL_READ)):
                self.data_received(data)

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.upstream_writable(False)

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.upstream_writable(True)


class Pool:
    """Idle connections by route, newest first. No cap: every exchange gets a connection. For the event loop's thread only."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        idle_timeout: float,
        idle_timeout_max: float = 60.0,
        routes: Iterable[Route] = (),
        second: Callable[[Route, float], Connection] | None = None,
    ) -> None:
        """For these `routes`, whose TLS files are read here, which blocks. `second` makes the connections of routes that do not take
        the wire (`gateway.second.connect`)."""
        self.longest = idle_timeout_max
        self._dialer = Dialer(routes, connect_timeout)
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
                and not (connection._eof or connection.transport.is_closing())  # who speaks while idle is closed at once
                and (
                    (unused := now - connection.idle_since) < FRESH
                    or (unused < connection.keep_for and not _readable(connection.transport))
                )
            ):
                connection.reused = True
                return connection
            connection.transport.abort()
        return None

    def give(self, connection: Connection, now: float) -> None:
        """Take back a connection whose exchange is over."""
        connection.user = None
        if connection._resumable:
            connection.keep_session()
        if connection.usable and connection.keep_for and now - connection.made < OLD:
            if connection._holds:
                connection.release()
            connection.reader.next()
            connection.idle_since = now
            self._idle.setdefault(connection.route.name, []).append(connection)
        else:
            connection.transport.abort()

    async def connect(self, route: Route) -> Connection:
        """A fresh connection, TLS done. Raises GatewayError (502, 503 or 504); may be cancelled at any time without leaving a socket.

        On the second path nothing is dialled yet, and what fails later is told to the connection's user.
        """
        keep_for = self._idle_timeout if route.idle_timeout is None else route.idle_timeout
        if route.second_path and self._second is not None:
            connection = self._second(route, self._dialer.connect_timeout)
            connection.keep_for = keep_for
            return connection
        connection = await self._dialer.dial(route, lambda: Connection(route, self._forget, keep_for))
        if connection.transport.is_closing():  # it ended before anybody could be told, and would never say so again
            raise dial_failure(ConnectionResetError(errno.ECONNRESET, ""), route, self._dialer.connect_timeout)
        return connection

    def take_over(self, fresh: Pool, routes: Mapping[str, Route]) -> None:
        """From now on dial as `fresh`, a pool that was never used, would; `routes` are all there are. Idle connections of other routes,
        the former ones of the same name included, are closed; those that come back later are not used again (see `take`)."""
        self._dialer, self._second = fresh._dialer, fresh._second
        self._idle_timeout, self.longest = fresh._idle_timeout, fresh.longest
        for name, idle in self._idle.items():
            self._idle[name] = [connection for connection in idle if connection.route is routes.get(name)]
            for connection in idle:
                if connection.route is not routes.get(name):
                    connection.transport.close()

    def sweep(self, now: float) -> None:
        """Close what has been idle too long."""
        for name, idle in self._idle.items():
            old = [c for c in idle if now - c.idle_since >= c.keep_for]
            if old:
                self._idle[name] = [c for c in idle if now - c.idle_since < c.keep_for]
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
