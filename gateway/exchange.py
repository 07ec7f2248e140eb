"""One exchange: joins a client's connection to an upstream's, passes bytes first and tells the capture after.

No parsing, routing or sockets of its own: `gateway.client` brings requests here, `gateway.upstream` brings responses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Final, Literal

from archive.record import EndReason
from gateway import headers
from gateway.boundary import GOODBYE, Boundary
from gateway.capture import Told
from gateway.control import WARNING, Ask
from gateway.errors import GatewayError, answer, answer_head, reason_phrase
from gateway.frames import Side
from gateway.routes import Target
from gateway.upstream import Connection
from gateway.wire import Data, End, Event, Head, ProtocolError

if TYPE_CHECKING:
    from gateway.client import ClientConnection
    from gateway.relay import Relay

__all__ = ["Exchange"]

log = logging.getLogger("verbatim.relay")

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
"""What may be sent again on a fresh connection when a kept one turns out dead (RFC 9110 section 9.2.2; nginx retries no more)."""

CONTINUE_AFTER: Final = 0.1
"""Seconds an upstream has to answer `Expect: 100-continue` itself before Verbatim sends the 100: RFC 9110 section 10.1.1 lets an
intermediary do so, and many origins never do. Clients such as curl wait one second."""

HOLD_AT_MOST: Final = 0.25
"""Seconds an exchange is held back for a full recording queue before its record is dropped and counted."""

HOLD_STEP: Final = 0.005
"""Seconds between two offers of a record that waits: a queue of small records drains thousands in that time."""

TAIL: Final = len(b"data: [DONE]\r\n\r\n")
"""Bytes of a response's end kept, to know an event stream's last event."""

DIAL_BUFFER: Final = 64 << 10
"""Bytes of a request kept while its upstream is being dialled; beyond it the client is not read, which also hides its leaving."""

# Why one side is not read: bits, because several may hold at once
SLOW, HELD, AHEAD = 1, 2, 4


class Coding(Enum):
    """How the response's body goes to the client."""

    AS_IT_CAME = 0
    PAYLOAD = 1
    """Chunked upstream, HTTP/1.0 client: without framing, ended by closing."""
    CHUNKED = 2
    """Ended by closing upstream, HTTP/1.1 client: in chunks."""


class Exchange:
    """From one request head to the end of its response. Lives on the event loop; never blocks; `gateway.upstream.User`."""

    __slots__ = (
            "_boundary",
        "_coding",
        "_connecting",
        "_continued",
        "_deadline",
        "_head",
        "_holding",
        "_response",
        "_retried",
        "_sent",
        "_status",
        "_tail",
        "_timer",
        "_waiting",
        "_warning",
        "capture",
        "client",
        "declined",
        "heard",
        "id",
        "over",
        "relay",
        "request_done",
        "response_bytes",
        "started",
        "target",
        "tunnel",
        "upstream",
    )  # fmt: skip

    def __init__(
        self, relay: Relay, client: ClientConnection, head: Head, target: Target, id: str, capture: Told | None, ask: Ask | None
    ) -> None:
        """`ask`: what the client wants of us; most want nothing."""
        self.relay = relay
        self.client = client
        self.target = target
        self.id = id
        self.capture = capture
        self.declined = ask is not None and ask.record == "none"
        self._warning = ask.warning if ask is not None else b""
        self.started = perf_counter()
        self.upstream: Connection | None = None
        self.tunnel = False
        self.over = False
        self.request_done = False
        self.response_bytes = 0
        self.heard = self.started
        self._head = head
        self._coding = Coding.AS_IT_CAME
        self._response: Head | None = None
        self._status = 0
        self._sent = False
        self._continued: Literal["", "ours", "theirs"] = ""
        """Whose 100 the client got. One of the upstream's that comes after ours is the same word once more; all others pass."""
        self._retried = False
        self._holding = False
        self._deadline = 0.0
        self._tail = b""
        self._waiting: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if capture is not None:
            capture.on_full = self._hold

    @property
    def keeps_alive(self) -> bool:
        """Whether the client said that it would use its connection again."""
        return b"keep-alive" in self._head.connection

    # From the client to the upstream

    def start(self) -> bytes:
        """Get a connection; the request head to send on it."""
        head, target = self._head, self.target
        upgrade = head.upgrade == b"websocket"  # on a connection of its own: it will not come back to the pool
        if upgrade and not self._may_tunnel():
            return b""
        connection = None if upgrade else self.relay.pool.take(target.route, self.started)
        if connection is not None:
            self._attach(connection)
        else:
            self._connecting = self.relay.loop.create_task(self._connect())
        if head.expect and head.version == b"HTTP/1.1" and not upgrade:
            self._timer = self.relay.loop.call_later(CONTINUE_AFTER, self._continue)
        if upgrade:
            return headers.upgrade_head(head, b"%b %b HTTP/1.1" % (head.method, target.target), target.route.authority)
        return headers.request_head(head, target.target, target.route.authority)

    def _may_tunnel(self) -> bool:
        """For a websocket's handshake: whether this route takes it; if not it has been answered. Its time limit begins."""
        route, relay = self.target.route, self.relay
        if route.tunnels:
            if relay.handshake_timeout:
                self._timer = relay.loop.call_later(relay.handshake_timeout, self._handshake_late)
            return True
        why = "cannot take this route's http2 or HTTP proxy" if route.websockets else "are switched off for this route"
        self.request_done = True  # a handshake has no body
        self._answer(GatewayError(426, "websockets_off", f"websockets {why}; use HTTP"), EndReason.COMPLETE)
        return False

    def _handshake_late(self) -> None:
        if not (self.over or self.tunnel) and self._response is None:
            why = f"the upstream did not answer the websocket's handshake within {self.relay.handshake_timeout:g} s"
            self._answer(GatewayError(504, "upstream_timeout", why), EndReason.TIMEOUT)

    def send(self, pieces: list[bytes], events: list[Event]) -> None:
        """Bytes of the request, of which `events` say what they are: to the upstream, now or as soon as it is there; then told."""
        upstream = self.upstream
        if upstream is None:
            self._waiting += pieces
            if len(self._waiting) > 1 and sum(map(len, self._waiting)) > DIAL_BUFFER:
                self.client.hold(SLOW, True)
        elif pieces:
            upstream.transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self.capture is not None:
                self._handed("upstream", pieces)
        now = perf_counter()
        for event in events:
            if type(event) is Data:
                self._sent = True
            elif type(event) is End:
                self.request_done = True
                self.heard = now  # from here on the upstream's silence counts
        if self.capture is not None:
            self._record_request(self.capture, events, now)

    def _record_request(self, capture: Told, events: list[Event], now: float) -> None:
        try:
            for event in events:
                if type(event) is Data:
                    capture.request_data(event.payload, now)
                elif type(event) is End:
                    capture.request_end()
        except Exception:
            self._capture_failed()

    def client_bytes(self, data: bytes) -> None:
        """After an upgrade: bytes as they are."""
        if self.upstream is not None:
            self.upstream.transport.write(data)
            self._handed("upstream", [data])
            self._frames("client", data)

    def client_lost(self) -> None:
        """The client has gone: the upstream is to stop at once, so that nobody pays for an answer nobody reads."""
        if self.over:
            return
        if self._tail.rstrip().endswith(b"data: [DONE]"):  # openai-python closes right after the last event: all of it was read
            self._finish(EndReason.COMPLETE, "the client closed after [DONE]")
        elif self.tunnel:
            self._finish(EndReason.CLIENT_CLOSED, "the client closed the websocket's connection")
        else:
            when = "before the response began" if self._response is None else "before the response's end"
            self._finish(EndReason.CLIENT_CLOSED, f"the client closed the connection {when}")

    def client_writable(self, writable: bool) -> None:
        """The client takes bytes more slowly than they come (False), or takes them again (True)."""
        if self.upstream is not None:
            self.upstream.hold(SLOW, not writable)

    def bad_request(self, error: ProtocolError) -> None:
        """What the client sends is no acceptable body: the upstream must see it broken."""
        if self._response is None:
            self._answer(GatewayError(error.status, "bad_request", str(error)), EndReason.CLIENT_CLOSED)
        else:
            self._cut(EndReason.CLIENT_CLOSED, str(error))

    # The upstream's connection

    async def _connect(self) -> None:
        try:
            connection = await self.relay.pool.connect(self.target.route)
        except GatewayError as failure:
            self._connecting = None
            self.upstream_failed(failure)
            return
        self._connecting = None
        self._attach(connection)
        self.client.hold(SLOW, False)  # before writing, which may find the upstream slow and hold it again
        waiting, self._waiting = self._waiting, []
        connection.transport.write(b"".join(waiting))
        self._handed("upstream", waiting)

    def _attach(self, connection: Connection) -> None:
        self.upstream = connection
        connection.user = self
        connection.reader.request_method = self._head.method
        if not self.client.writable:
            connection.hold(SLOW, True)

    def _retry(self) -> None:
        """Once more on a fresh connection: the kept one had died, and nothing was asked that must not be asked twice."""
        self._retried = True
        if self.capture is not None:
            try:
                self.capture.again()
            except Exception:
                self._capture_failed()
        head, target = self._head, self.target
        self._waiting = [headers.request_head(head, target.target, target.route.authority)]
        self._connecting = self.relay.loop.create_task(self._connect())

    def _continue(self) -> None:
        self._timer = None
        if not (self.over or self.request_done or self._continued or self._sent) and self._response is None:
            self._continued = "ours"
            self.client.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._handed("client", [b"HTTP/1.1 100 Continue\r\n\r\n"])

    # From the upstream to the client

    def response(self, events: list[Event]) -> None:
        """Parts of the response arrived: out first, then told."""
        out: list[bytes] = []
        ended = False
        coding = self._coding
        for event in events:
            if type(event) is Data:
                if payload := event.payload:
                    self.response_bytes += len(payload[0]) if len(payload) == 1 else sum(map(len, payload))
                    self._tail = payload[-1] if len(payload[-1]) >= TAIL else b"".join([self._tail[-TAIL:], *payload])
                if coding is Coding.AS_IT_CAME:
                    out.append(event.raw)
                elif coding is Coding.PAYLOAD:
                    out += event.payload
                elif event.raw:
                    out += (b"%x\r\n" % len(event.raw), event.raw, b"\r\n")
            elif type(event) is Head:
                if event.status == 101 and self._head.upgrade != b"websocket":
                    assert self.upstream is not None
                    self.upstream.abort()
                    self.upstream_lost("the upstream switched protocols unasked")
                    return
                self._response_head(event, out)
                coding = self._coding
            else:
                ended = not self.tunnel
                if coding is Coding.AS_IT_CAME:
                    if event.raw:  # type: ignore[union-attr]
                        out.append(event.raw)  # type: ignore[union-attr]
                elif coding is Coding.CHUNKED:
                    out.append(b"0\r\n\r\n")
        if out:
            self.client.transport.write(out[0] if len(out) == 1 else b"".join(out))
        self.heard = now = perf_counter()
        if self.capture is not None:
            if out:
                self._handed("client", out)
            self._record_response(events, now)
        if self.tunnel:
            self._open_tunnel()
        elif ended:
            self._response_ended()

    def _response_head(self, head: Head, out: list[bytes]) -> None:
        client, old = self.client, self._head.version == b"HTTP/1.0"
        if head.status == 101:
            self.tunnel = True
            self._status = 101
            out.append(headers.upgrade_head(head, b"HTTP/1.1 101 %b" % head.reason, id=self.id.encode(), warning=self._warning))
            return
        if head.status < 200:
            self._retried = True  # what has begun to answer is not asked again
            repeated = self._continued == "ours" and head.status == 100
            if head.status == 100:
                self._continued = "theirs"
            if not (old or repeated):
                out.append(headers.interim_head(head))
            return
        self._response = head
        self._status = head.status
        if self.upstream is not None and not self.upstream.reused and b"keep-alive" in head.names:
            self.upstream.promised(head, self.relay.pool.longest)
        if head.framing == "chunked":
            self._coding = Coding.PAYLOAD if old else Coding.AS_IT_CAME
        elif head.framing == "close":
            self._coding = Coding.PAYLOAD if old else Coding.CHUNKED
        if old or client.closing or not self._head.keep_alive or not self.request_done:
            client.closing = True  # the last: an upload that is not all here may never be (RFC 9112 section 9.3)
        chunked = not old and head.framing in ("chunked", "close")
        close = client.closing and not old
        out.append(headers.response_head(head, self.id.encode(), chunked=chunked, close=close, warning=self._warning))

    def _record_response(self, events: list[Event], now: float) -> None:
        capture = self.capture
        if capture is None:
            return
        try:
            for event in events:
                if type(event) is Data:
                    capture.response_data(event.payload, now)
                elif type(event) is End:
                    capture.response_end()
                elif type(event) is Head and (event.status >= 200 or event.status == 101):
                    capture.response_head(event, now)
        except Exception:
            self._capture_failed()

    def _capture_failed(self) -> None:
        """A bug of ours in recording: it costs this exchange's record, never the client's bytes."""
        capture, self.capture = self.capture, None
        with contextlib.suppress(Exception):  # what failed once may fail again
            if capture is not None:
                capture.give_up()
        self.relay.capture_failed(self.id)

    def _response_ended(self) -> None:
        if self.request_done:
            self._finish(EndReason.COMPLETE)
        else:  # an early answer, a 413 say: the upload has no further use, and its rest must not be read as a request
            self.client.linger()
            self._finish(EndReason.COMPLETE, "the upstream answered before the request's end")

    def _open_tunnel(self) -> None:
        """The upgrade succeeded: from now on bytes flow both ways untouched."""
        upstream, client = self.upstream, self.client
        assert upstream is not None
        upstream.tunnel = True
        self._boundary = Boundary()
        client.hold(AHEAD, False)
        early = client.reader.detach()
        if early:
            self.client_bytes(early)
        rest = upstream.reader.detach()
        if rest:
            self.upstream_bytes(rest)

    def upstream_bytes(self, data: bytes) -> None:
        """After an upgrade: bytes as they are."""
        self.client.transport.write(data)
        self._handed("client", [data])
        self.response_bytes += len(data)
        self._boundary.feed(data)
        self._frames("upstream", data)

    def _handed(self, to: Side, pieces: list[bytes]) -> None:
        """What was just written to one side's socket, for the proof that it is what was received from the other."""
        if self.capture is not None:
            try:
                self.capture.handed(to, pieces)
            except Exception:
                self._capture_failed()

    def _frames(self, side: Side, data: bytes) -> None:
        self.heard = now = perf_counter()
        if self.capture is not None:
            try:
                self.capture.frames(side, data, now)
            except Exception:
                self._capture_failed()

    def upstream_writable(self, writable: bool) -> None:
        """The upstream takes bytes more slowly than they come (False), or takes them again (True)."""
        self.client.hold(SLOW, not writable)

    def upstream_failed(self, failure: GatewayError) -> None:
        """There is no connection to the upstream, and nothing of an answer came."""
        self.upstream = None
        self._answer(failure, EndReason.TIMEOUT if failure.status == 504 else EndReason.UPSTREAM_REFUSED)

    def upstream_lost(self, why: str, *, reset: bool = True) -> None:
        """The upstream's connection broke. An answer that has begun is broken too: the client must not take it for whole."""
        if self.over:
            return
        reused = self.upstream is not None and self.upstream.reused
        self.upstream = None
        if self.tunnel or self._response is not None:
            self._cut(EndReason.UPSTREAM_CLOSED, why, reset=reset)
        elif reused and not self._retried and self._head.method in IDEMPOTENT and self._head.framing == "none":
            self._retry()
        else:
            self._answer(GatewayError(502, "upstream_closed", f"{why} before it answered"), EndReason.UPSTREAM_CLOSED)

    # Ends

    def tick(self, now: float) -> None:
        """About once a second: a record that is old enough is cut."""
        if self.capture is not None:
            try:
                self.capture.tick(now)
            except Exception:
                self._capture_failed()

    def timeout(self, seconds: float) -> None:
        """Nothing came from the upstream for `seconds`."""
        why = f"nothing came from the upstream for {seconds:g} s"
        if self._response is None:
            self._answer(GatewayError(504, "upstream_timeout", why), EndReason.TIMEOUT)
        else:
            self._cut(EndReason.TIMEOUT, why)

    def shutdown(self) -> None:
        """Verbatim stops and the time to drain is over."""
        if self._response is None and not self.tunnel:
            self._answer(GatewayError(503, "shutting_down", "the gateway is shutting down"), EndReason.SHUTDOWN)
        elif self.tunnel and self._boundary.free:
            self.client.transport.write(GOODBYE)
            self._cut(EndReason.SHUTDOWN, "Verbatim was stopped; it closed the websocket with 1012")
        else:
            self._cut(EndReason.SHUTDOWN, "Verbatim was stopped")
        self._offered(last=True)

    def _cut(self, reason: EndReason, why: str, *, reset: bool = False) -> None:
        """End it so that the client cannot take it for whole: no last chunk, the connection closed short of its Content-Length."""
        if self.over:
            return
        self.client.closing = True
        # Without framing a plain close would look like a proper end. A reset websocket is one on this side too.
        if (self._coding is Coding.PAYLOAD and not self.tunnel) or (self.tunnel and reset):
            self.client.reset()
        else:
            self.client.transport.close()
        self._finish(reason, why)

    def _answer(self, failure: GatewayError, reason: EndReason) -> None:
        """Verbatim's own answer, when no response has begun."""
        if self.over:
            return
        fields, body = answer(failure, self.target.route.shape, self.id)
        if self._warning:
            fields.append((WARNING, self._warning))
        phrase = reason_phrase(failure.status)
        client = self.client
        if not self.request_done or not self._head.keep_alive or client.closing:
            client.closing = True
            fields.append((b"connection", b"close"))
        self._status = failure.status
        if self._head.method == b"HEAD":
            body = b""
        head = answer_head(failure, fields)
        client.transport.write(head + body)
        self._handed("client", [head, body])
        self.response_bytes += len(body)
        if self.capture is not None:
            try:
                self.capture.own_response(failure.status, phrase, fields, body)
            except Exception:
                self._capture_failed()
        if not self.request_done:
            client.linger()
        self._finish(reason, failure.message)

    def _finish(self, reason: EndReason, detail: str = "") -> None:
        if self.over:
            return
        self.over = True
        relay, upstream, now = self.relay, self.upstream, perf_counter()
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None  # a cancelled task keeps its frames, and they this exchange
        self.upstream = None
        if upstream is not None:
            if self.tunnel and reason is EndReason.CLIENT_CLOSED:
                upstream.close()  # after what is still to be sent: the close frame, say
            elif reason is EndReason.COMPLETE and self.request_done and self._response is not None and self._response.keep_alive:
                relay.pool.give(upstream, now)
            else:
                upstream.abort()
        if self.capture is not None:
            try:
                self.capture.end(reason, detail, now)
            except Exception:
                self._capture_failed()
        relay.finished(self, reason, self._head, self._status, now)
        if not self._holding:
            self._let_go()

    # A full queue

    def _hold(self) -> None:
        """No room in the recording queue: only this exchange waits for it, and not for long."""
        if self._holding:
            return
        self._holding = True
        self._deadline = self.relay.loop.time() + HOLD_AT_MOST
        self._pause(True)
        self.relay.loop.call_later(HOLD_STEP, self._offer)

    def _offer(self) -> None:
        if not self._offered(last=self.relay.loop.time() >= self._deadline):
            self.relay.loop.call_later(HOLD_STEP, self._offer)
            return
        self._holding = False
        self._pause(False)
        if self.over:
            self._let_go()

    def _offered(self, *, last: bool) -> bool:
        try:
            return self.capture is None or self.capture.offer(last=last)
        except Exception:
            self._capture_failed()
            return True

    def _let_go(self) -> None:
        self.relay.exchanges.discard(self)
        if self.capture is not None:
            self.capture.on_full = None  # no reference cycle: an exchange is freed when it is over, not when the collector comes round
        if self._status == 426:  # perhaps within `start`: the next one sent ahead would begin inside this one, hundreds deep
            self.relay.loop.call_soon(self.client.exchange_over)
        else:
            self.client.exchange_over()

    def _pause(self, held: bool) -> None:
        self.client.hold(HELD, held)
        if self.upstream is not None:
            self.upstream.hold(HELD, held)
