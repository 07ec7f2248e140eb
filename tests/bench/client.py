"""The bench's own load: a process of its own on uvloop, told what to do by one JSON argument, answering with one JSON line.

Three ways to load: `rate` (so many requests a second, whatever comes back), `closed` (each connection asks again when it was
answered; every request begun is finished), `streams` (so many streams at once, each on a connection of its own, every event's
way timed by the stamp in it).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import uvloop

STAMP = re.compile(rb'"t":(\d+),')


@dataclass(slots=True, kw_only=True)
class Plan:
    """The argument. Times in seconds; `path` begins with the contender's prefix."""

    mode: str
    port: int
    path: str
    headers: list[tuple[str, str]]
    method: str = "GET"
    body: str = ""
    """A file that holds the body, or empty."""
    seconds: float = 1.0
    rate: float = 100.0
    connections: int = 32
    streams: int = 10
    ramp: float = 0.0
    """Streams begin evenly over this long."""
    limit: float = 120.0
    """After this long what is still open counts as an error."""
    digests: str = ""
    """A file for {nonce: [SHA-256, length]} of what each stream brought."""

    def request(self, path: str) -> bytes:
        body = Path(self.body).read_bytes() if self.body else b""
        head = [f"{self.method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *(f"{name}: {value}" for name, value in self.headers)]
        if body:
            head.append(f"Content-Length: {len(body)}")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Tally:
    """What came of it. All times in milliseconds."""

    requests: int = 0
    errors: int = 0
    late: int = 0
    """Requests that could not begin in time since every connection was taken."""
    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    received: int = 0
    begun: float = 0.0
    ended: float = 0.0
    digests: dict[str, tuple[str, int]] = field(default_factory=dict)

    def report(self) -> dict[str, float]:
        figures = {
            "requests": self.requests,
            "errors": self.errors,
            "late": self.late,
            "bytes": self.received,
            "seconds": self.ended - self.begun,
        }
        for name, values in (("", self.took), ("first_", self.first), ("event_", self.events)):
            values.sort()
            if values:
                figures[f"{name}p50_ms"] = values[len(values) // 2]
                figures[f"{name}p99_ms"] = values[min(len(values) - 1, len(values) * 99 // 100)]
                figures[f"{name}worst_ms"] = values[-1]
        return figures


class Connection(asyncio.Protocol):
    """One connection that asks and is answered, again and again. `done(connection, whole)` is called at each answer's end."""

    def __init__(self, tally: Tally, done: Callable[[Connection, bool], None], *, stamps: bool = False) -> None:
        self.tally = tally
        self.done = done
        self.stamps = stamps
        self.asked = 0
        self.waiting = False
        self.first = True
        self.tail = b""
        self.digest = hashlib.sha256()
        self.length = 0
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting:
            self._finish(whole=False)

    def ask(self, request: bytes, asked: int = 0) -> None:
        self.waiting = self.first = True
        self.asked = asked or time.monotonic_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        now = time.monotonic_ns()
        self.tally.received += len(body)
        if self.first:
            self.first = False
            self.tally.first.append((now - self.asked) / 1e6)
        if self.stamps:
            self.digest.update(body)
            self.length += len(body)
            *events, self.tail = (self.tail + body).split(b"\n\n")
            for event in events:
                if stamp := STAMP.search(event):
                    self.tally.events.append((now - int(stamp[1])) / 1e6)

    def on_message_complete(self) -> None:
        self._finish(whole=self.parser.get_status_code() == 200)

    def _finish(self, *, whole: bool) -> None:
        if not self.waiting:
            return
        self.waiting = False
        if whole:
            self.tally.requests += 1
            self.tally.took.append((time.monotonic_ns() - self.asked) / 1e6)
        else:
            self.tally.errors += 1
        self.done(self, whole)


async def connect(plan: Plan, tally: Tally, done: Callable[[Connection, bool], None], *, stamps: bool = False) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(tally, done, stamps=stamps), "127.0.0.1", plan.port)
    return connection


async def steady(plan: Plan, tally: Tally) -> None:
    """`rate` requests a second for `seconds`, on whatever connection is free; a request that finds none is late and is left out."""
    idle: deque[Connection] = deque()

    def done(connection: Connection, whole: bool) -> None:
        if whole:
            idle.append(connection)

    everyone = [await connect(plan, tally, done) for _ in range(plan.connections)]
    idle.extend(everyone)
    request = plan.request(plan.path)
    tally.begun = time.monotonic()
    sent = 0
    while (passed := time.monotonic() - tally.begun) < plan.seconds:
        while sent < passed * plan.rate:
            sent += 1
            if idle:
                idle.popleft().ask(request)
            else:
                tally.late += 1
        await asyncio.sleep(0.001)
    tally.ended = time.monotonic()
    await finished(everyone, plan, tally)


async def closed(plan: Plan, tally: Tally) -> None:
    """Every connection asks again as soon as it was answered, for `seconds`; then what was begun is finished."""
    request = plan.request(plan.path)
    until = 0.0

    def done(connection: Connection, whole: bool) -> None:
        tally.ended = time.monotonic()
        if whole and tally.ended < until:
            connection.ask(request)

    everyone = [await connect(plan, tally, done) for _ in range(plan.connections)]
    tally.begun = time.monotonic()
    until = tally.begun + plan.seconds
    for connection in everyone:
        connection.ask(request)
    await asyncio.sleep(plan.seconds)
    await finished(everyone, plan, tally)


async def streams(plan: Plan, tally: Tally) -> None:
    """`streams` streams that begin evenly over `ramp` seconds, each on a new connection; until the last has ended."""
    everyone: list[Connection] = []
    tally.begun = time.monotonic()

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, tally.begun + plan.ramp * number / plan.streams - time.monotonic()))
        nonce = f"n{number}x{time.time_ns():x}"

        def done(connection: Connection, whole: bool) -> None:
            tally.ended = time.monotonic()
            if whole:
                tally.digests[nonce] = (connection.digest.hexdigest(), connection.length)

        asked = time.monotonic_ns()  # connecting is part of the wait for a first byte
        try:
            connection = await connect(plan, tally, done, stamps=True)
        except OSError:
            tally.errors += 1
            return
        everyone.append(connection)
        connection.ask(plan.request(f"{plan.path}&nonce={nonce}"), asked)

    await asyncio.gather(*(one(number) for number in range(plan.streams)))
    await finished(everyone, plan, tally)


async def finished(everyone: list[Connection], plan: Plan, tally: Tally) -> None:
    """Wait until no connection waits for an answer, at most until `plan.limit`; what still waits then is broken off: an error."""
    while any(connection.waiting for connection in everyone) and time.monotonic() < tally.begun + plan.limit:  # noqa: ASYNC110 - ends soon
        await asyncio.sleep(0.005)
    for connection in everyone:
        connection.transport.abort()
    await asyncio.sleep(0.01)


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    tally = Tally()
    gc.disable()  # no pause of ours in the latencies; the process is short-lived
    load = {"rate": steady, "closed": closed, "streams": streams}[plan.mode]
    uvloop.run(load(plan, tally))
    if plan.digests:
        Path(plan.digests).write_text(json.dumps(tally.digests))
    print(json.dumps(tally.report()))


if __name__ == "__main__":
    main()
