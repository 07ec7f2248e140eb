"""The relay's own work for one exchange, without sockets: bytes in at one end, bytes out at the other, in microseconds of one core.

`python tests/bench/straight.py [--record tape|capture] [--head plain|sdk]`. What a system call costs is not in it, and the least
of many short rounds counts, so it says about the same on a busy machine: the figure to watch while working on the relay.
`--functions` lists where cProfile sees the time go.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
from math import inf
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvicorn
from origin import ANSWER, HEAD
from uvicorn.server import ServerState
from workloads import HEADS

from archive.record import Record
from gateway.app import create_relay
from gateway.capture import CaptureLimits, InProcess
from gateway.routes import Route
from gateway.settings import Settings
from gateway.tape import Tape
from gateway.upstream import Connection

ANSWER_HEAD = HEAD + b"Content-Type: application/json\r\nContent-Length: 1024\r\n\r\n"

FLUSHED = 20
"""Exchanges between two flushes of the tape: about what comes in its 2 ms at saturation."""


class Wire(asyncio.Transport):
    """A transport that swallows what is written and never closes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, data: Any) -> None:
        self.written += len(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("127.0.0.1", 50000) if name == "peername" else default


class Void:
    """A Recorder that takes everything and keeps nothing."""

    def put(self, record: Record, *, may_wait: bool = False) -> bool:
        return True


async def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--record", choices=["tape", "capture"], help="with the relay's part of recording, or the keeper's up to the record")
    p.add_argument("--head", choices=sorted(HEADS), default="sdk")
    p.add_argument("--count", type=int, default=300)
    p.add_argument("--functions", action="store_true")
    arguments = p.parse_args()
    route = Route.parse("bench", "http://127.0.0.1:9")
    tape = Tape(32 << 20, flush=lambda: None, wake=lambda: None, clock=perf_counter)
    tape.started(perf_counter())
    recording = {"tape": tape, "capture": InProcess(Void(), CaptureLimits(1 << 20, 10.0, 64 << 20)), None: None}[arguments.record]
    relay = create_relay(Settings(routes={"bench": route}), recording)
    relay.start()
    client = relay.protocol(uvicorn.Config(cast(Any, None)), ServerState(), {})
    client_wire, upstream_wire = Wire(), Wire()
    client.connection_made(client_wire)
    upstream = Connection(route, lambda _: None, 60.0)
    upstream.connection_made(upstream_wire)
    relay.pool._idle["bench"] = [upstream]
    head = ["GET /bench/json HTTP/1.1\r\nHost: 127.0.0.1:8787\r\n", *(f"{name}: {value}\r\n" for name, value in HEADS[arguments.head])]
    question, answer = "".join([*head, "\r\n"]).encode(), ANSWER_HEAD + ANSWER

    def exchanges(count: int) -> None:
        for number in range(count):
            upstream.idle_since = inf  # for ever fresh, so that its socket is not asked
            client.data_received(question)
            upstream.data_received(answer)
            if number % FLUSHED == 0:
                size = tape.size
                tape.take()
                tape.acknowledged(size, perf_counter())

    exchanges(100)
    if relay.counters.exchanges != 100 or relay.exchanges or client_wire.written < 100 * len(answer):
        sys.exit("the relay did not relay")
    if arguments.functions:
        profile = cProfile.Profile()
        profile.runcall(exchanges, 10 * arguments.count)
        pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        return
    rounds = []
    for _ in range(200):
        begun = thread_time()
        exchanges(arguments.count)
        rounds.append((thread_time() - begun) / arguments.count * 1e6)
        await asyncio.sleep(0)
    print(f"{min(rounds):.1f} us an exchange at best, {sorted(rounds)[100]:.1f} in the middle")


if __name__ == "__main__":
    asyncio.run(main())
