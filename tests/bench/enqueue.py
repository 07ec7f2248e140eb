"""What handing over costs the event loop: a record, a stream's chunk and a large request, told to the tape as in the product.

`python tests/bench/enqueue.py [--like codex]`, the latter told to a writer made after codex-lb's. CPU of the loop's thread for bursts of
them: the calls, and what follows from them on the loop, so for ours the batch's encoding and the write into the keeper's socket too. What
a writer's thread costs the loop by holding the interpreter's lock is not in it. Prints one JSON line; asserts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from codexlike import CodexLike
from exchanges import ANSWER, REQUEST_HEAD, RESPONSE_HEAD, archived, body_of

from archive.record import Client, EndReason, Upstream, new_id
from gateway import headers
from gateway.capture import CaptureLimits, Told
from gateway.keeper import Keeper
from gateway.wire import Head

Figures = dict[str, float]

TURN = 20
"""Events of the loop's between two of its turns: about what a busy one handles at once."""
RECORDS = 1000
"""In a burst; a request of 2 KB, a short answer, 26 header fields."""
STREAMS, CHUNKS = 100, 5000
"""Streams under way, and the chunks of 200 bytes that all of them together get in a burst."""
LARGE = 1 << 20
UPLOADS = 10
READ = 256 << 10
"""The most that one read of a socket brings (uvloop)."""
CHUNK = b'data: {"id":"chatcmpl-bench","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'.ljust(200)
CHUNKED = b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)


def heads() -> tuple[Head, Head]:
    request = Head(b"".join([b"\r\n%b: %b" % field for field in REQUEST_HEAD]))
    request.method, request.target, request.version = b"POST", b"/openai/v1/chat/completions", b"HTTP/1.1"
    request.framing, request.size = "length", 700
    response = Head(b"".join([b"\r\n%b: %b" % field for field in RESPONSE_HEAD]))
    response.status, response.reason, response.version, response.framing, response.size = 200, b"OK", b"HTTP/1.1", "length", 600
    return request, response


class Ours:
    """Tells exchanges as `gateway.relay` and `gateway.exchange` do. What they do in any case (ids, times) is made before."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.id, self.at = new_id(0), time.time()
        self.request, self.response = heads()
        self.upstream = Upstream("bench", "http://127.0.0.1:9")
        self.sent = headers.request_head(self.request, self.request.target, b"127.0.0.1:9")
        self.answered = headers.response_head(self.response, b"0" * 36, chunked=False, close=False)
        self.body = body_of(2000, 1)
        large = body_of(LARGE, 2)
        self.pieces = [large[at : at + READ] for at in range(0, LARGE, READ)]
        self.streams: list[Told] = []

    def open(self) -> Told:
        told = self.keeper.tape.open(self.id, self.at, time.perf_counter(), Client("127.0.0.1:50000"), self.upstream, self.request)
        assert told is not None
        return told

    def record(self) -> None:
        told, now = self.open(), self.at
        told.handed("upstream", [self.sent, self.body])
        told.request_data([self.body], now)
        told.request_end()
        told.handed("client", [self.answered, ANSWER])
        told.response_head(self.response, now)
        told.response_data([ANSWER], now)
        told.response_end()
        told.end(EndReason.COMPLETE, "", now)

    def upload(self) -> None:
        told = self.open()
        for piece in self.pieces:
            told.handed("upstream", [piece])
            told.request_data([piece], self.at)
        told.request_end()
        told.end(EndReason.COMPLETE, "", self.at)

    def chunk(self) -> None:
        if not self.streams:
            for _ in range(STREAMS):
                told = self.open()
                told.response_head(self.response, self.at)
                self.streams.append(told)
        told = self.streams.pop()
        self.streams.insert(0, told)
        told.handed("client", [CHUNKED])
        told.response_data([CHUNK], self.at)


class Theirs:
    """Hands over what codex-lb would: the parsed request and the answer's text, each event's text, and a parsed request of 1 MB."""

    def __init__(self, writer: CodexLike) -> None:
        self.writer = writer
        self.request = json.loads(body_of(2000, 1))
        self.large = json.loads(body_of(LARGE, 2))

    def record(self) -> None:
        self.writer.put(archived(self.request))
        self.writer.put(archived({"text": ANSWER.decode()}))

    def upload(self) -> None:
        self.writer.put(archived(self.large))

    def chunk(self) -> None:
        self.writer.put(archived({"text": CHUNK.decode()}))


async def cost(tell: Callable[[], None], drained: Callable[[], bool], count: int, bursts: int) -> float:
    """Microseconds of this thread's CPU for each of `count` told in a burst: the median burst. The loop goes round every TURN of them."""
    costs = []
    for _ in range(bursts + 1):
        began = time.thread_time()
        for number in range(count):
            tell()
            if number % TURN == 0:
                await asyncio.sleep(0)
        costs.append((time.thread_time() - began) / count * 1e6)
        while not drained():  # noqa: ASYNC110 - the keeper is another process
            await asyncio.sleep(0.002)
    return median(costs[1:])


async def costs(teller: Ours | Theirs, drained: Callable[[], bool], bursts: int, share: float) -> Figures:
    """All three; `share` of a burst is enough for who is slow."""
    kinds = (("record_us", teller.record, RECORDS), ("chunk_us", teller.chunk, CHUNKS), ("upload_us", teller.upload, UPLOADS))
    return {name: await cost(tell, drained, max(1, round(count * share)), bursts) for name, tell, count in kinds}


async def ours(folder: Path, bursts: int, share: float) -> Figures:
    keeper = Keeper(
        folder,
        upstreams={"bench": "http://127.0.0.1:9"},
        limits=CaptureLimits(),
        queue_bytes=64 << 20,
        log_level="error",
        version="bench",
        rules_hash="",
        min_free=0,
    )
    keeper.start()
    await keeper.attach()
    teller = Ours(keeper)
    figures = await costs(teller, lambda: not keeper.tape.unread, bursts, share)
    lost = keeper.tape.lost
    for told in teller.streams:
        told.end(EndReason.COMPLETE, "", time.perf_counter())
    await keeper.close(20)
    if lost:
        raise RuntimeError(f"{lost} exchanges were lost")
    return figures


async def theirs(folder: Path, bursts: int, share: float) -> Figures:
    writer = CodexLike(folder / "hour.jsonl.gz", queue_bytes=256 << 20)
    try:
        return await costs(Theirs(writer), writer.idle, bursts, share / 5)
    finally:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, default=15)
    parser.add_argument("--share", type=float, default=1.0, help="of a usual burst's length")
    parser.add_argument("--like", choices=["ours", "codex"], default="ours")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="verbatim-bench-") as name:
        measure = ours if options.like == "ours" else theirs
        print(json.dumps(uvloop.run(measure(Path(name), options.bursts, options.share))))


if __name__ == "__main__":
    main()
