"""Five times what the gateway may take: refused at once, no collapse, soon well again, and an archive that has just what was let in.

`PYTHONPATH=tests python -m soak.overload [--streams 100] [--delay 0.2] [--seconds 10]`

A gateway with `max_streams`, an origin that takes `delay`
seconds for an answer, so that the capacity is known; the load comes at its rate whether answers come or not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from readback import archive_lines
from soak.processes import Gateway, gateway, health, until, upstream
from soak.script import Ask, nonce, question
from soak.watch import held

__all__ = ["Offered", "Outcome", "offer", "overload"]

PATIENCE = 30.0


@dataclass(slots=True)
class Offered:
    """What came of requests offered at a rate."""

    rate: float
    seconds: float = 0.0
    """From the first request to the last answer."""
    answers: Counter[str] = field(default_factory=Counter)
    """By status and `x-verbatim-error`."""
    nonces: set[str] = field(default_factory=set)
    """Of those answered with 200."""
    refusal_ms: list[float] = field(default_factory=list)
    accepted_ms: list[float] = field(default_factory=list)
    behind: float = 0.0
    """Seconds by which the load itself came late at most."""
    retry_after: set[str] = field(default_factory=set)

    @property
    def goodput(self) -> float:
        return self.answers["200"] / self.seconds if self.seconds else 0.0

    def told(self) -> dict[str, Any]:
        return {
            "offered/s": round(self.rate),
            "answers": dict(self.answers),
            "goodput/s": round(self.goodput, 1),
            "503 ms p50 p99": [round(share(self.refusal_ms, at), 1) for at in (0.5, 0.99)],
            "200 ms p50 p99": [round(share(self.accepted_ms, at), 1) for at in (0.5, 0.99)],
            "behind s": round(self.behind, 2),
        }


def share(found: list[float], at: float) -> float:
    return sorted(found)[int(len(found) * at)] if found else 0.0


class Clients:
    """Requests over connections that are kept where they can be."""

    def __init__(self, port: int, delay: float, *, first: int = 0) -> None:
        self._port = port
        self._delay = delay
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._number = first

    async def one(self, into: Offered) -> None:
        self._number += 1
        ask = Ask(nonce("json", int(self._delay * 1e6), self._number), "json", "whole", 0, 300, 100, self._delay)
        began = time.monotonic()
        connection = None
        try:
            async with asyncio.timeout(PATIENCE):
                connection = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
                said, retry = await self._asked(ask, *connection)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            said, retry = type(error).__name__, ""
            if connection is not None:
                connection[1].transport.abort()
        took = (time.monotonic() - began) * 1e3
        into.answers[said] += 1
        if said == "200":
            into.nonces.add(ask.nonce)
            into.accepted_ms.append(took)
        elif said.startswith("503"):
            into.refusal_ms.append(took)
            into.retry_after.add(retry)

    async def _asked(self, ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, str]:
        body = question(ask)
        writer.write(b"POST /up%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (ask.target.encode(), len(body)) + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:] if line)}
        answer = await reader.readexactly(int(fields["content-length"]))
        status, code = lines[0].split(" ")[1], fields.get("x-verbatim-error", "")
        if status == "200" and ask.nonce not in answer.decode():
            raise AssertionError(f"{ask.nonce} got an answer that is somebody else's")
        if status == "503":
            json.loads(answer)
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return f"{status} {code}".strip(), fields.get("retry-after", "")

    async def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            with suppress(OSError):
                await writer.wait_closed()
        self._idle.clear()


async def offer(clients: Clients, rate: float, seconds: float) -> Offered:
    """Requests at `rate` a second, answered or not; ends with the last answer."""
    offered, running = Offered(rate), set[asyncio.Task[None]]()
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        offered.behind = max(offered.behind, time.monotonic() - due)
        task = asyncio.create_task(clients.one(offered))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    offered.seconds = time.monotonic() - began
    return offered


async def well_again(clients: Clients, rate: float) -> tuple[float, int]:
    """Seconds until requests at half of the capacity are all let in for half a second (at most `PATIENCE`); refusals until then."""
    began, refused = time.monotonic(), 0
    while time.monotonic() - began < PATIENCE:
        begun = time.monotonic()
        offered = await offer(clients, rate * 0.5, 0.5)
        if offered.answers["200"] == offered.answers.total():
            return begun - began, refused
        refused += offered.answers["503 overloaded"]
    return PATIENCE, refused


@dataclass(slots=True)
class Outcome:
    """The three phases, and what was left behind."""

    usual: Offered
    over: Offered
    recovered: float
    refused_after: int
    """Refusals until then."""
    overloaded: int
    """Refusals as the gateway counts them."""
    archived: Counter[str] = field(default_factory=Counter)
    """How often each nonce is in the archive."""
    accepted: set[str] = field(default_factory=set)
    lost: int = 0
    fds: tuple[int, int] = (0, 0)
    log: str = ""


async def _phases(running: Gateway, delay: float, capacity: float, factor: float, seconds: float) -> tuple[Offered, Offered, float, int]:
    clients = Clients(running.port, delay)
    usual = await offer(clients, capacity * 0.9, min(seconds, 3.0))
    over = await offer(clients, capacity * factor, seconds)
    recovered, refused = await well_again(clients, capacity)
    await clients.close()
    return usual, over, recovered, refused


def settled(running: Gateway) -> dict[str, Any]:
    """What the gateway says when nothing runs and all is written."""
    last: dict[str, Any] = {}

    def calm() -> bool:
        last.update(health(running.port))
        return not (last["exchanges"]["active"] or last["unread_bytes"] or last["archive"]["queued"])

    until(calm, "all is written")
    return last


def descriptors(pid: int, at_most: int) -> int:
    """How many the process holds, once they are so few again; after a while, how many more they are."""
    now: list[int] = []

    def back() -> bool:
        found = held(pid)
        now.append(0 if found is None else found.fds)
        return now[-1] <= at_most

    with suppress(TimeoutError):
        until(back, "descriptors are back", 20)
    return now[-1]


def overload(folder: Path, *, streams: int, delay: float, seconds: float, factor: float = 5.0) -> Outcome:
    """`factor` times the capacity for so many seconds."""
    with (
        upstream(folder / "origin.jsonl") as origin,
        gateway(folder, origin, folder / "archive", max_streams=streams, access_log=False, min_free=0) as running,
    ):
        pid = running.process.pid
        before = held(pid)
        assert before is not None
        usual, over, recovered, refused = uvloop.run(_phases(running, delay, streams / delay, factor, seconds))
        last = settled(running)
        fds = before.fds, descriptors(pid, before.fds)
    outcome = Outcome(
        usual, over, recovered, refused, last.get("overloaded_requests", 0), lost=last["lost_exchanges"] + last["archive"]["dropped"]
    )
    outcome.fds = fds
    outcome.log = running.output()
    outcome.accepted = usual.nonces | over.nonces
    outcome.archived.update(exchange.request["target"].split("/")[3] for exchange in archive_lines(folder / "archive"))
    return outcome


@dataclass(slots=True)
class Exhausted:
    """What came of more connections than there are descriptors."""

    during: Offered
    after: Offered
    archived: Counter[str]
    fds: tuple[int, int]
    log: str


async def _crowd(running: Gateway, connections: int, delay: float) -> tuple[Offered, Offered]:
    during = Offered(0)
    clients = [Clients(running.port, delay, first=number * 1000) for number in range(connections)]  # each with a connection of its own
    await asyncio.gather(*(each.one(during) for each in clients))
    for each in clients:
        await each.close()
    after, again = Offered(0), Clients(running.port, 0.01, first=connections * 1000)
    deadline = time.monotonic() + PATIENCE
    while after.answers.total() != 20 or after.answers["200"] != 20:  # twenty in a row
        if time.monotonic() > deadline:
            break
        after = Offered(0)
        for _ in range(20):
            await again.one(after)
    await again.close()
    return during, after


def exhausted(folder: Path, *, nofile: int, connections: int, delay: float = 0.3) -> Exhausted:
    """`connections` clients at once, each with a request, on a gateway that may have `nofile` descriptors."""
    with (
        upstream(folder / "origin.jsonl") as origin,
        gateway(folder, origin, folder / "archive", nofile=nofile, access_log=False, min_free=0, idle_timeout=1) as running,
    ):
        pid = running.process.pid
        before = held(pid)
        assert before is not None
        during, after = uvloop.run(_crowd(running, connections, delay))
        settled(running)
        fds = before.fds, descriptors(pid, before.fds)
    archived = Counter(exchange.request["target"].split("/")[3] for exchange in archive_lines(folder / "archive"))
    return Exhausted(during, after, archived, fds, running.output())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--streams", type=int, default=100)
    p.add_argument("--delay", type=float, default=0.2)
    p.add_argument("--seconds", type=float, default=10.0)
    p.add_argument("--factor", type=float, default=5.0)
    p.add_argument("--nofile", type=int, default=0, help="instead: so many descriptors, and ten times as many clients at once")
    arguments = p.parse_args()
    if arguments.nofile:
        with tempfile.TemporaryDirectory(prefix="verbatim-overload-") as name:
            crowd = exhausted(Path(name), nofile=arguments.nofile, connections=10 * arguments.nofile)
        print(f"during: {crowd.during.told()}\nafter:  {crowd.after.told()}\ndescriptors {crowd.fds}\n{crowd.log[-2000:]}")
        return
    with tempfile.TemporaryDirectory(prefix="verbatim-overload-") as name:
        outcome = overload(Path(name), streams=arguments.streams, delay=arguments.delay, seconds=arguments.seconds, factor=arguments.factor)
    print(f"usual: {outcome.usual.told()}\nover:  {outcome.over.told()}")
    missing, twice = outcome.accepted - set(outcome.archived), [name for name, times in outcome.archived.items() if times != 1]
    print(f"well again after {outcome.recovered:.1f} s; descriptors {outcome.fds}; not in the archive {len(missing)}, twice {len(twice)}")


if __name__ == "__main__":
    main()
