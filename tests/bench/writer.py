"""What recording costs: stages, records a second, `put`, and what the relay's loop feels of the writer's thread beside it.

Run it alone: `python tests/bench/writer.py [stages] [throughput] [put] [saturated] [paced]`. Prints figures and asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from archive import member
from archive.line import to_line
from archive.record import Body, Client, End, EndReason, Record, Request, Response, Upstream, new_id
from archive.writer import Writer

HEADERS = [(f"x-header-{n}".encode(), b"a value as long as they usually are") for n in range(12)]
WORDS = [f"w{random.Random(n).randrange(1 << 40):x}" for n in range(2000)]  # a little harder to compress than prose
WORK = 50e-6
"""Seconds of Python that one request costs the loop: a wire under uvicorn answers about 15,000 of 1 KB in a second."""
CONNECTIONS = 32


def body_of(size: int, seed: int) -> bytes:
    choose = random.Random(seed)
    text = " ".join(choose.choices(WORDS, k=size // 10 + 1))
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()[:size]


def records(size: int) -> Iterator[Record]:
    """Endless exchanges with `size` bytes of request body."""
    for body in itertools.cycle([body_of(size, seed) for seed in range(16)]):
        yield Record(
            id=new_id(time.time_ns() // 1_000_000),
            part=0,
            at=time.time(),
            client=Client("127.0.0.1:50000"),
            upstream=Upstream("openai", "https://api.example"),
            request=Request(b"POST", b"/openai/v1/chat/completions", HEADERS),
            request_body=Body([body], ended=True),
            response=Response(200, HEADERS, b"OK"),
            response_body=Body([b'{"ok":true}'], ended=True),
            end=End(EndReason.COMPLETE),
            weight=len(body) + 2000,
        )


def percentile(values: list[float], part: float) -> float:
    """In milliseconds."""
    return sorted(values)[int(len(values) * part)] * 1e3


def stages(size: int) -> str:
    """The writer's work for one record, by stage, in this thread."""
    count = max(20, 2_000_000 // (size + 4000))
    each = list(itertools.islice(records(size), count))
    began = time.perf_counter()
    lines = [to_line(record, writer="w", seq=1) or b"" for record in each]
    encoded = time.perf_counter()
    for line in lines:
        member.pack(line, id=bytes(16), part=0, seq=1)
    packed = time.perf_counter()
    return f"line {(encoded - began) / count * 1e6:7.1f} us, member {(packed - encoded) / count * 1e6:7.1f} us"


def throughput(folder: Path, size: int, seconds: float) -> str:
    """One writer with nothing beside it but the one that feeds it records made before."""
    each = list(itertools.islice(records(size), int(seconds * 4e7 / (size + 1200))))
    writer = Writer(folder, version="bench", min_free=0)
    writer.start()
    began, cpu = time.perf_counter(), time.process_time()
    for record in each:
        while not writer.put(record, may_wait=True):
            time.sleep(0.001)
    writer.close(60)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    stats = writer.stats()
    return (
        f"{stats.written / wall:>8,.0f} records/s, {stats.written / cpu:>8,.0f} per CPU second, "
        f"{stats.bytes_written / stats.written:,.0f} bytes each on disk, {stats.dropped} dropped"
    )


def put_cost(folder: Path) -> str:
    """One `put` while the writer works."""
    writer = Writer(folder, version="bench", min_free=0)
    writer.start()
    costs = []
    for record in itertools.islice(records(2000), 5000):
        began = time.perf_counter()
        writer.put(record)
        costs.append(time.perf_counter() - began)
        time.sleep(0.0002)
    writer.close(10)
    return f"median {percentile(costs, 0.5) * 1e3:.2f} us, p99 {percentile(costs, 0.99) * 1e3:.1f} us, worst {max(costs) * 1e6:.0f} us"


class Connection:
    """One connection of a loop that is kept busy: a byte comes, Python works, a record goes, and then the next byte is sent."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: Iterator[Record], writer: Writer | None, every: float) -> None:
        self._loop = loop
        self._source = source
        self._writer = writer
        self._every = every
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._due = 0.0
        self.done = 0
        self.held_back = 0
        self.lags: list[float] = []
        loop.add_reader(self._ours.fileno(), self._turn)
        self._next(time.perf_counter() + random.uniform(0, every))

    def close(self) -> None:
        self._loop.remove_reader(self._ours.fileno())
        self._ours.close()
        self._theirs.close()

    def _next(self, due: float) -> None:
        self._due = due
        wait = due - time.perf_counter()
        if wait > 0:
            self._loop.call_later(wait, self._send)
        else:
            self._send()

    def _send(self) -> None:
        if self._theirs.fileno() >= 0:
            self._theirs.send(b"x")

    def _turn(self) -> None:
        self._ours.recv(1)
        end = time.perf_counter() + WORK
        while time.perf_counter() < end:
            pass
        self._hand_over(next(self._source), 0)

    def _hand_over(self, record: Record, tries: int) -> None:
        if self._writer is not None and not self._writer.put(record, may_wait=tries < 1000):
            self.held_back += not tries
            self._loop.call_later(0.002, self._hand_over, record, tries + 1)
            return
        self.done += 1
        now = time.perf_counter()
        self.lags.append(now - self._due)
        self._next(max(now, self._due + self._every) if self._every else now)


async def served(seconds: float, size: int, writer: Writer | None, rate: float) -> list[Connection]:
    loop = asyncio.get_running_loop()
    source = records(size)
    clients = [Connection(loop, source, writer, CONNECTIONS / rate if rate else 0.0) for _ in range(CONNECTIONS)]
    await asyncio.sleep(seconds)
    for client in clients:
        client.close()
    return clients


def beside(folder: Path, size: int, seconds: float, interval: float, rate: float) -> str:
    """A loop with 32 connections, without and with the writer beside it; `rate` requests a second, or (0) as many as it can."""
    sys.setswitchinterval(interval)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        alone = runner.run(served(seconds, size, None, rate))
        # A short queue, so that the steady state is measured and not the filling of the queue.
        writer = Writer(folder, version="bench", min_free=0, queue_records=512)
        writer.start()
        time.sleep(0.05)
        recorded = runner.run(served(seconds, size, writer, rate))
    stats = writer.stats()
    writer.close(30)
    turns = [sum(client.done for client in clients) / seconds for clients in (alone, recorded)]
    lags = [[lag for client in clients for lag in client.lags] for clients in (alone, recorded)]
    return (
        f"switch {interval * 1e3:4.2f} ms: {turns[0]:>7,.0f}/s alone, {turns[1]:>7,.0f}/s beside ({turns[1] / turns[0]:.2f}); "
        f"p50 {percentile(lags[0], 0.5):.2f} -> {percentile(lags[1], 0.5):.2f}, p99 {percentile(lags[0], 0.99):.2f} -> "
        f"{percentile(lags[1], 0.99):.2f}, worst {max(lags[1]) * 1e3:.0f} ms; "
        f"held back {sum(client.held_back for client in recorded)}, dropped {stats.dropped}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["stages", "throughput", "put", "saturated", "paced"])
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[2000, 20_000, 200_000])
    parser.add_argument("--intervals", type=float, nargs="*", default=[0.005, 0.0005])
    parser.add_argument("--rates", type=float, nargs="*", default=[2000, 1000, 200], help="for `paced`: requests a second at each size")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folders = (Path(name) / str(number) for number in itertools.count())
        if "put" in options.what:
            print("put:", put_cost(next(folders)), flush=True)
        for size, rate in zip(options.sizes, options.rates, strict=False):
            if "stages" in options.what:
                print(f"{size:>7} bytes:", stages(size), flush=True)
            if "throughput" in options.what:
                print(f"{size:>7} bytes:", throughput(next(folders), size, options.seconds), flush=True)
            for interval in options.intervals:
                if "saturated" in options.what:
                    print(f"{size:>7} bytes, saturated,", beside(next(folders), size, options.seconds, interval, 0), flush=True)
                if "paced" in options.what:
                    print(f"{size:>7} bytes, {rate:,.0f}/s,", beside(next(folders), size, options.seconds, interval, rate), flush=True)


if __name__ == "__main__":
    main()
