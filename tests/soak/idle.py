"""What a connection costs that does nothing just now: bytes of the relay's memory for each idle connection, and for each quiet stream.

`PYTHONPATH=tests python -m soak.idle [--connections 10000] [--streams 2000]`

Four kinds: clients that made one request and keep their connection; clients that said nothing yet; streams whose upstream pauses, recorded
and not. A fresh gateway for each. The kernel's own memory for sockets is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import uvloop
from soak.processes import gateway, upstream
from soak.script import Ask, question
from soak.watch import held, more_descriptors, named

__all__ = ["measure"]

HOLD = 30.0
"""Seconds until a quiet stream's second event: longer than measuring takes."""
AT_ONCE = 200
"""Connections being made at one time."""
ADDRESSES = 8
"""Addresses of the loopback net that clients come from, so that ports do not run out."""

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def kept(port: int, number: int) -> Opened:
    """A client whose one request was answered."""
    reader, writer = await opened(port, number)
    await ask(Ask(f"soak-json-{number:020x}", "json", "whole", 0, 1000, 100), reader, writer)
    await reader.readexactly(1000 + 52)
    return reader, writer


async def silent(port: int, number: int) -> Opened:
    """A client that has said nothing yet."""
    return await opened(port, number)


async def quiet(port: int, number: int) -> Opened:
    """A stream that waits for its second event."""
    reader, writer = await opened(port, number)
    await ask(Ask(f"soak-sse-{number:020x}", "sse", "whole", 0, 2, 60, HOLD), reader, writer)
    await reader.readuntil(b"\n\n\r\n")
    return reader, writer


async def opened(port: int, number: int) -> Opened:
    return await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{2 + number % ADDRESSES}", 0), limit=4096)


async def ask(ask: Ask, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = question(ask)
    fields = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-soak\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"POST /up{ask.target} HTTP/1.1\r\n{fields}\r\n".encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head.decode())


async def opened_all(kind: Callable[[int, int], Awaitable[Opened]], port: int, count: int) -> list[Opened]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Opened:
        async with gate:
            return await kind(port, number)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def _measured(
    kind: Callable[[int, int], Awaitable[Opened]], port: int, count: int, look: Callable[[], tuple[int, int]]
) -> tuple[int, int, int]:
    before = look()[0]
    connections = await opened_all(kind, port, count)
    await asyncio.sleep(1.0)  # what is told is written, and what was needed on the way is free again
    rss, fds = look()
    for _, writer in connections:
        writer.transport.abort()
    for _, writer in connections:
        with suppress(OSError):
            await writer.wait_closed()
    return before, rss, fds


def measure(kind: str, count: int, folder: Path, *, record: bool) -> dict[str, float]:
    """Bytes of relay and keeper before and with `count` connections of a kind, and what that is for each."""
    more_descriptors()
    origin_log = folder / "origin.jsonl"
    with (
        upstream(origin_log) as origin,
        gateway(folder, origin, folder / "archive", record=record, access_log=False, seal=False) as running,
    ):
        parts = named(running.process.pid)
        pids = [parts["relay"], *([parts["keeper"]] if record else [])]
        look: Callable[[], tuple[int, int]] = lambda: (held(pids[0]).rss, held(pids[0]).fds)  # type: ignore[union-attr]  # noqa: E731
        uvloop.run(warm_up(running.port))
        keeper = held(pids[-1])
        before, rss, fds = uvloop.run(_measured({"kept": kept, "silent": silent, "quiet": quiet}[kind], running.port, count, look))
        after = held(pids[-1])
    assert keeper is not None
    assert after is not None
    return {
        "count": count,
        "before_mb": before / 1e6,
        "with_mb": rss / 1e6,
        "each_kb": (rss - before) / count / 1e3,
        "keeper_each_kb": (after.rss - keeper.rss) / count / 1e3 if record else 0.0,
        "fds": fds,
    }


async def warm_up(port: int) -> None:
    """Have everything loaded and every buffer of the loop's own made."""
    for _, writer in await opened_all(kept, port, 50):
        writer.transport.abort()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--connections", type=int, default=10_000)
    p.add_argument("--streams", type=int, default=2_000)
    arguments = p.parse_args()
    for kind, count, record in (
        ("kept", arguments.connections, True),
        ("silent", arguments.connections, False),
        ("quiet", arguments.streams, False),
        ("quiet", arguments.streams, True),
    ):
        with tempfile.TemporaryDirectory(prefix="verbatim-idle-") as folder:
            found = measure(kind, count, Path(folder), record=record)
        print(
            f"{kind:7} {'recording' if record else '':10} " + ", ".join(f"{name} {value:,.1f}" for name, value in found.items()), flush=True
        )


if __name__ == "__main__":
    main()
