"""A client's connection: the protocol class under uvicorn. Reads requests and hands each to an `Exchange`, one at a time.

What is no route of ours goes on to the Starlette app. Routing, records and upstreams are not its business.
"""

from __future__ import annotations

import asyncio
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from archive.record import Client, id_text, new_id
from gateway import peer
from gateway.errors import GatewayError, answer, answer_head, no_route
from gateway.exchange import AHEAD, Exchange
from gateway.guard import without_token
from gateway.routes import Target
from gateway.upstream import FULL_READ, TURN, reset_at_close
from gateway.wire import Data, End, Event, Head, ProtocolError, request_reader

if TYPE_CHECKING:
    from gateway.relay import Relay

__all__ = ["ClientConnection"]

IDLE: Final = 75.0
"""Seconds a client's connection is kept open between requests: nginx's keepalive_timeout; SDK pools give up sooner by themselves."""

LINGER: Final = (5.0, 30.0)
"""Seconds a client's upload is still read, and thrown away, after an early answer, so that a reset does not overtake the answer: of its
silence, and in all. Many clients read only when they have sent everything (nginx's lingering_timeout and lingering_time)."""

AHEAD_LIMIT: Final = 64 << 10
"""Bytes of pipelined requests kept while one is answered. Reading goes on up to here so that the client's leaving is noticed."""

LOOK_AGAIN: Final = (0.02, 0.25)
"""Seconds until a client that has finished sending is looked at again, the first time and later: some close right after shutdown(), and
of one that closes while it waits no packet tells."""


SURPLUS: Final = 32
"""Connections beyond those the descriptors allow that are told so, at one time; further ones are closed unheard. A crowd of them would
take the descriptors that those let in need for their upstreams, and nobody at all would be answered."""


class ClientConnection(asyncio.Protocol):
    """One client's connection. One exchange at a time; requests sent ahead wait in the reader."""

    __slots__ = (
        "_app_state", "_config", "_connections", "_finished", "_holds", "_lingering", "_relay", "_since", "_state",
        "address", "closing", "exchange", "reader", "transport", "who", "writable",
    )  # fmt: skip

    def __init__(self, relay: Relay, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.reader = request_reader(relay.limits)
        self.exchange: Exchange | None = None
        self.address = ""
        self.who = Client("")
        """Who calls, as long as no path says more: the same value for all requests of a connection."""
        self.closing = False
        self.writable = True
        self._relay = relay
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._connections = cast("set[Any]", server_state.connections)  # uvicorn asks each to shut down
        self._holds = 0
        self._finished = False  # the client sends no more, and waits for its answer
        self._lingering = 0.0  # since when what comes is thrown away
        self._since = 0.0  # since when a head, the next request or the linger's end is awaited

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._relay.connections.add(self)
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
        self.who = Client(self.address)
        self._since = perf_counter()
        # Not when it was accepted: the loop accepts a whole crowd before it makes the first of them known.
        if len(self._relay.connections) > self._relay.max_connections and type(self) is ClientConnection:
            self._surplus()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.tunnel:
            exchange.client_bytes(data)
            return
        if self._lingering or (self.closing and exchange is None):
            self._since = perf_counter()
            if len(data) >= FULL_READ:
                self._pause_a_turn()
            return
        try:
            events = self.reader.receive(data)
        except ProtocolError as error:
            self._refuse(error)
            return
        if len(data) >= FULL_READ:
            self._pause_a_turn()
        if events:
            self._run(events)
        elif exchange is None:
            if 0 < self.reader.waiting <= len(data):  # the first bytes of a head: the time it may take begins
                self._since = perf_counter()
        elif self.reader.waiting > AHEAD_LIMIT:
            self.hold(AHEAD, True)

    def _pause_a_turn(self) -> None:
        """Whoever sends much leaves the others their turn of the loop."""
        self.hold(TURN, True)
        self._relay.loop.call_soon(self.hold, TURN, False)

    def eof_received(self) -> bool | None:
        """The client sends no more: it has left, or only finished sending and waits for its answer (a TCP half-close)."""
        exchange = self.exchange
        if exchange is None or exchange.tunnel or not exchange.request_done or not self._reads_on(exchange):
            return None  # the transport closes, and the exchange is told
        self._finished = True
        self._relay.loop.call_later(LOOK_AGAIN[0], self._look)
        return True

    def _reads_on(self, exchange: Exchange) -> bool:
        """Whether a client that sends no more may still read its answer.

        Never one that said it would send more (`Connection: keep-alive`, as SDKs do): behind a forwarder such as `ssh -L` their leaving
        looks like a half-close, and goes on costing tokens. TLS has no half-close here: asyncio ends the connection.
        """
        rule = self._relay.half_close
        if rule == "leave" or not self.transport.can_write_eof() or peer.broken(self.transport):
            return False
        return rule == "wait" or (not exchange.keeps_alive and peer.still_held(self.transport))

    def _look(self) -> None:
        """Has a client that finished sending left meanwhile? Nothing comes from it any more that would tell."""
        exchange = self.exchange
        if exchange is None or self.transport.is_closing():
            return
        if self._reads_on(exchange):
            self._relay.loop.call_later(LOOK_AGAIN[1], self._look)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._relay.connections.discard(self)
        self.closing = True  # requests sent ahead are not begun any more
        if self.exchange is not None:
            self.exchange.client_lost()

    def pause_writing(self) -> None:
        self.writable = False
        if self.exchange is not None:
            self.exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.writable = True
        if self.exchange is not None:
            self.exchange.client_writable(True)

    def shutdown(self) -> None:
        """uvicorn asks to finish: at once when idle, else after the exchange that runs."""
        self.closing = True
        if self.exchange is None:
            self.transport.close()

    # For the exchange

    def hold(self, why: int, on: bool) -> None:
        """Stop reading from the socket for the reason `why` (a bit), or drop that reason; without any, reading goes on."""
        before, self._holds = self._holds, self._holds | why if on else self._holds & ~why
        if bool(before) != bool(self._holds) and not (self._finished or self.transport.is_closing()):
            (self.transport.pause_reading if self._holds else self.transport.resume_reading)()

    def reset(self) -> None:
        """Break the connection so that the client sees it broken (RST) and takes nothing for whole."""
        if not self.transport.is_closing():
            reset_at_close(self.transport)
        self.transport.abort()

    def linger(self) -> None:
        """The answer is out but the request is not all here: read on and throw away for a moment, then close."""
        self.closing = True
        self._since = self._lingering = perf_counter()

    def exchange_over(self) -> None:
        """The exchange has ended: on to the next request, or close."""
        if self.exchange is None:
            return
        self.exchange = None
        self._since = perf_counter()
        if self._holds:
            self.hold(self._holds, False)
        if self._lingering:
            self._finish_writing()
            return
        if self.closing:
            self.transport.close()
            return
        self._next()

    def _next(self) -> None:
        """On to what is here of the next request."""
        if self.closing:
            return
        try:
            events = self.reader.next()
        except ProtocolError as error:
            self._refuse(error)
            return
        if events:
            self._run(events)
        if self._finished and self.exchange is None and self.transport.get_protocol() is self:  # all it sent has been answered
            self.transport.close()

    def tick(self, now: float) -> None:
        """Timeouts, about once a second."""
        transport = self.transport
        if self._lingering:
            if self.exchange is None and (now - self._since > LINGER[0] or now - self._lingering > LINGER[1]):
                transport.abort()
        elif self.exchange is not None:
            unseen = self._holds and not (self._finished or transport.is_closing())  # while it is not read its leaving does not show
            if unseen and peer.finished(transport) and not self._reads_on(self.exchange):
                transport.abort()
        elif now - self._since > (self._relay.header_timeout if self.reader.waiting and not self.closing else IDLE):
            if transport.is_closing():  # what is left of the answer finds no taker
                transport.abort()
            self._since = now
            transport.close()

    # Requests

    def _surplus(self) -> None:
        """There are no descriptors for it."""
        relay = self._relay
        if len(relay.connections) > relay.max_connections + SURPLUS:
            relay.counters.overloaded += 1
            self.transport.abort()
            return
        self._connections.discard(self)
        relay.connections.discard(self)
        relay.crowded(perf_counter())
        surplus = SurplusConnection(relay, self._config, self._state, self._app_state)
        self.transport.set_protocol(surplus)
        surplus.connection_made(self.transport)

    def _run(self, events: list[Event]) -> None:
        """Pass on what a request's bytes mean: first out, then told."""
        exchange = self.exchange
        out: list[bytes] = []
        for event in events:
            if type(event) is Data:
                out.append(event.raw)
            elif type(event) is End:
                if event.raw:
                    out.append(event.raw)
            else:
                assert type(event) is Head
                relay = self._relay
                target = relay.routes.resolve(event.target)
                if target is None or event.browser or relay.guard.asks or len(relay.exchanges) >= relay.max_streams:
                    target = self._admit(event, events)
                    if target is None:
                        return
                self.exchange = exchange = relay.open(self, event, target)
                out.append(exchange.start())
        if exchange is None or exchange.over:
            return
        exchange.send(out, events)

    def _admit(self, head: Head, events: list[Event]) -> Target | None:
        """Where a request goes that is not simply to be relayed; None where it has been dealt with: refused, or a page of our own."""
        relay = self._relay
        failure = relay.guard.refusal(head)  # takes the token off the head
        target = relay.routes.resolve(head.target, page=head.method in (b"GET", b"HEAD"))
        if failure is not None:
            relay.refused(failure)
        elif target is None and type(events[-1]) is not End and head.method not in (b"GET", b"HEAD"):
            failure = no_route(relay.routes.routes)  # the app's would be lost: it closes with the upload unread
        elif target is None:
            self._own_page(head, events)
            return None
        elif len(relay.exchanges) >= relay.max_streams:
            relay.counters.overloaded += 1
            failure = GatewayError(503, "overloaded", f"{relay.max_streams} exchanges are under way, as many as max_streams allows")
        else:
            return target
        self._turn_away(head, events, failure, target)
        return None

    def _turn_away(self, head: Head, events: list[Event], failure: GatewayError, target: Target | None) -> None:
        """Answer at once, with no record, no upstream and no look at the body's rest."""
        fields, body = answer(failure, "openai" if target is None else target.route.shape, "")
        self._since = perf_counter()
        if head.keep_alive and not self.closing and type(events[-1]) is End and self.reader.waiting <= AHEAD_LIMIT:
            self._relay.loop.call_soon(self._next)  # not now: what was sent ahead may be turned away, too, a thousand deep
        else:
            self.closing = True
            fields.append((b"connection", b"close"))
        self.transport.write(answer_head(failure, fields) + (b"" if head.method == b"HEAD" else body))
        if self.closing:
            self.linger()
            self._finish_writing()

    def _own_page(self, head: Head, events: list[Event]) -> None:
        """Not for an upstream: this request and the connection belong to the Starlette app now, under uvicorn's own protocol class.

        It answers this one request and closes: a client that keeps its connections may ask for a route next, which the app has not.
        """
        fields = [name + b": " + value for (name, value), lower in zip(head.headers, head.names, strict=True) if lower != b"connection"]
        lines = [b"%b %b %b" % (head.method, head.target, head.version), *fields, b"Connection: close", b"", b""]
        raw = [event.raw for event in events if not isinstance(event, Head)]
        self.reader.detach()
        self._connections.discard(self)
        self._relay.connections.discard(self)
        protocol = _OwnPage(self._config, self._state, self._app_state, self._relay.loop)
        protocol.connection_made(self.transport)
        self.transport.set_protocol(protocol)
        protocol.data_received(b"\r\n".join(lines) + b"".join(raw))

    def _refuse(self, error: ProtocolError) -> None:
        """What came is no acceptable HTTP: say so and close; an exchange that runs is broken off."""
        self._relay.counters.refused += 1
        self.closing = True
        if self.exchange is not None:
            self.exchange.bad_request(error)
            return
        failure = GatewayError(error.status, "bad_request", str(error))
        fields, body = answer(failure, "openai", id_text(new_id(int(time.time() * 1000))))
        fields.append((b"connection", b"close"))
        self.transport.write(answer_head(failure, fields) + body)
        self.linger()
        self._finish_writing()

    def _finish_writing(self) -> None:
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()


class SurplusConnection(ClientConnection):
    """A connection beyond what this process's descriptors allow: its first request is answered with 503, and it ends."""

    __slots__ = ()

    def _run(self, events: list[Event]) -> None:
        head = events[0]
        assert isinstance(head, Head)  # what follows is thrown away
        self.closing = True
        self._relay.counters.overloaded += 1
        failure = GatewayError(503, "overloaded", "the gateway has no file descriptors left for further connections")
        self._turn_away(head, events, failure, self._relay.routes.resolve(without_token(head.target)[0]))


class _OwnPage(HttpToolsProtocol):
    """uvicorn's protocol for one request, which it answers although the client has finished sending."""

    def eof_received(self) -> bool | None:  # type: ignore[override]
        return True if self.transport.can_write_eof() else None
