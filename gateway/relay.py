"""What all connections of one process share: routes, the pool, who runs just now, counters, the tick. Reads and writes no socket.

Clients' connections are `gateway.client`'s, what happens to a request `gateway.exchange`'s.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Literal, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from archive.record import Client, EndReason, Upstream, id_text, new_id
from gateway import control
from gateway.capture import Recording
from gateway.client import ClientConnection
from gateway.errors import GatewayError
from gateway.exchange import Exchange
from gateway.guard import Guard
from gateway.logs import AccessLog
from gateway.presence import Presence
from gateway.redaction import redact_target
from gateway.routes import Route, Routes, Target
from gateway.upstream import Connection, Pool
from gateway.wire import Head, Limits

__all__ = ["Counters", "Relay"]

log = logging.getLogger("verbatim.relay")

TICK: Final = 1.0
"""Seconds between two looks at timeouts and at parts old enough to be cut."""

FLUSH: Final = 0.5
"""Seconds the last bytes to clients may take when Verbatim stops."""

SPARE: Final = 64
"""File descriptors kept from clients and upstreams: for the records, and to say to whom there is none left that it is so."""

COMPLAIN_EVERY: Final = 60.0
"""Seconds between two lines about clients that are turned away for want of descriptors."""

SAID: Final = 20
"""Different web origins whose refusal is logged; those after that are counted."""


@dataclass(slots=True)
class Counters:
    """What happened since the start, for the health page."""

    exchanges: int = 0
    failed: int = 0
    refused: int = 0
    overloaded: int = 0
    """Requests answered with 503 at once, or closed unheard: beyond `max_streams`, or beyond the descriptors there are."""
    capture_errors: int = 0
    declined: int = 0
    """Not recorded, at their clients' wish."""


RUNNING: Final = frozenset(
    {"recording", "pool", "counters", "exchanges", "connections", "loop", "max_connections", "presence", "_complained", "_said", "_timer"}
)
"""What of a relay is not settings: `take_over` leaves it alone."""


class Relay:
    """What all connections of one process share. Made before the loop runs; `start()` and all else belong to the loop's thread."""

    def __init__(
        self,
        routes: Routes,
        *,
        recording: Recording | None,
        limits: Limits,
        header_timeout: float,
        read_timeout: float,
        connect_timeout: float,
        handshake_timeout: float = 30.0,
        idle_timeout: float,
        idle_timeout_max: float = 60.0,
        guard: Guard | None = None,
        half_close: Literal["auto", "wait", "leave"] = "auto",
        max_streams: int = 0,
        allow_unrecorded: bool = True,
        access_log: AccessLog | None = None,
    ) -> None:
        self.routes = routes
        self.recording = recording
        self.limits = limits
        self.header_timeout = header_timeout
        self.read_timeout = read_timeout
        self.handshake_timeout = handshake_timeout
        self.allow_unrecorded = allow_unrecorded
        self.guard = guard or Guard()
        self.half_close = half_close
        self.max_streams = max_streams or sys.maxsize
        self.max_connections = sys.maxsize
        self.pool = Pool(
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
            idle_timeout_max=idle_timeout_max,
            routes=routes.routes.values(),
            second=_second(routes),
        )
        self.presence = Presence()
        self.counters = Counters()
        self.exchanges: set[Exchange] = set()
        self.connections: set[ClientConnection] = set()
        self.upstreams = {name: Upstream(name, route.url) for name, route in routes.routes.items()}
        self._access_log = access_log
        self._said: set[str] = set()
        self._complained = -COMPLAIN_EVERY
        self._timer: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop = cast(asyncio.AbstractEventLoop, None)

    def start(self) -> None:
        """Begin ticking on the running loop."""
        self.loop = asyncio.get_running_loop()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors != resource.RLIM_INFINITY:
            self.max_connections = max((descriptors - SPARE) // 2, SPARE // 4)  # each may need another for its upstream
        self._timer = self.loop.call_later(TICK, self._tick)

    async def stop(self) -> None:
        """End what is still running, marked as cut by the shutdown; close all connections. Takes up to `FLUSH` seconds. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        running = list(self.exchanges)
        if running:
            log.warning("%d exchanges were cut: they had not ended when the gateway had to", len(running))
        for exchange in running:
            exchange.shutdown()
        self.pool.close()
        for connection in list(self.connections):
            connection.shutdown()
        deadline = perf_counter() + FLUSH
        while self.connections and perf_counter() < deadline:  # noqa: ASYNC110 - once; an event would cost every connection
            await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.transport.abort()

    def take_over(self, fresh: Relay) -> None:
        """From the next request on be as `fresh`, a relay with other settings that was never started. What runs ends as it began: an
        exchange keeps its target, a client's connection its limits. In one turn of the loop, so no request sees half of it."""
        for name, value in vars(fresh).items():
            if name not in RUNNING:
                setattr(self, name, value)
        self.pool.take_over(fresh.pool, self.routes.routes)

    def protocol(self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: object = None) -> ClientConnection:
        """What uvicorn calls for each connection."""
        return ClientConnection(self, config, server_state, app_state)

    def open(self, client: ClientConnection, head: Head, target: Target) -> Exchange:
        """A new exchange for a request."""
        at = time.time()
        raw = new_id(int(at * 1000))
        ask, kept, capture = None, control.NOTHING.record, None
        if head.reserved:
            ask = control.read(head.headers, may_decline=self.allow_unrecorded)
            kept = ask.record
        if self.recording is not None:
            try:
                if kept == "none":
                    self.counters.declined += 1
                    self.recording.decline()
                else:
                    who = client.who if target.session is None else Client(client.address, target.session, "path")
                    capture = self.recording.open(raw, at, perf_counter(), who, self.upstreams[target.route.name], head, kept)
            except Exception:
                self.capture_failed(id_text(raw))
        exchange = Exchange(self, client, head, target, id_text(raw), capture, ask)
        self.exchanges.add(exchange)
        self.counters.exchanges += 1
        return exchange

    def crowded(self, now: float) -> None:
        """A client was turned away because descriptors run out: one line a minute says so, however many there are."""
        if now - self._complained >= COMPLAIN_EVERY:
            self._complained = now
            most = self.max_connections
            log.warning("%d clients are connected, as many as the limit of open files (ulimit -n) has room for: more get 503", most)

    def refused(self, failure: GatewayError) -> None:
        """A request was turned away: count it; of web pages, whose users have no other way to find out why, a line is logged."""
        self.counters.refused += 1
        if failure.code == "origin_refused" and failure.message not in self._said and len(self._said) < SAID:
            self._said.add(failure.message)
            log.warning("refused: %s", failure.message)

    def finished(self, exchange: Exchange, reason: EndReason, head: Head, status: int, now: float) -> None:
        """An exchange is over: count it, and log its line."""
        closed = status == 101 and reason in (EndReason.CLIENT_CLOSED, EndReason.UPSTREAM_CLOSED)
        if not closed and reason is not EndReason.COMPLETE:
            self.counters.failed += 1
        if self._access_log is not None:
            target, _ = redact_target(head.target, "log")
            self._access_log.line(
                exchange.id,
                exchange.client.address,
                exchange.target.route.name,
                head.method.decode("latin-1"),
                target.decode("latin-1"),
                status or None,
                (now - exchange.started) * 1000,
                exchange.response_bytes,
                # How a websocket ended only its frames say, and they are not read here.
                ("closed" if closed else reason.value) + (" unrecorded" if exchange.declined else ""),
            )

    def capture_failed(self, id: str) -> None:
        """Called in an exception handler: recording one exchange failed by a bug of ours."""
        self.counters.capture_errors += 1
        if self.counters.capture_errors == 1 or self.counters.capture_errors % 1000 == 0:
            # The traceback's own text could quote header values: only its place is logged
            log.error("%s: recording failed and was given up for this exchange (%d in all)", id, self.counters.capture_errors)

    def _tick(self) -> None:
        now = perf_counter()
        self._timer = self.loop.call_later(TICK, self._tick)
        look = self.presence.due(now)
        for exchange in list(self.exchanges):
            exchange.tick(now)
            silence = exchange.target.route.read_timeout
            limit = self.read_timeout if silence is None else silence
            if limit and exchange.request_done and now - exchange.heard > limit:
                exchange.timeout(limit)
            elif look:
                self._look_for(exchange, now)
        for connection in list(self.connections):
            connection.tick(now)
        self.pool.sweep(now)

    def _look_for(self, exchange: Exchange, now: float) -> None:
        """Break a connection whose other end has vanished; what waits for it is told as of any break."""
        for connection in (exchange.client, exchange.upstream):
            if connection is not None and self.presence.vanished(connection.transport, now):
                connection.transport.abort()


def _second(routes: Routes) -> Callable[[Route, float], Connection] | None:
    """How the second path connects. Its libraries cost 20 MB of memory, so they are loaded only where a route asks for it."""
    if not any(route.second_path for route in routes.routes.values()):
        return None
    from gateway.second import connect

    return connect
