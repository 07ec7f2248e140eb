"""The clients of the soak: a process that asks as the plan says, and keeps account of it. `python -m soak.traffic PLAN PORT PREFIX LEDGER`.

One line of JSON in LEDGER for each exchange: what went out, what came, how it ended. Latencies, and what was offered, as one line of
JSON on standard output at the end. Orders on standard input: `hold` and `go` for websockets (see `Plan.held`).
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import IO

import uvloop
from soak.account import Account, head, leave, line
from soak.frames import CLOSE, TEXT, frame, frames
from soak.script import Ask, Kind, Plan, message, question
from soak.watch import more_descriptors

STAMP = re.compile(rb'"at":"([0-9a-f]{16})"')
PATIENCE = 60.0
"""Seconds until an answer that does not come is an error."""
SLOW_BUFFER = 16 << 10
"""Receive buffer of a client that takes its time: what it does not read, the gateway and the origin soon feel."""


class Clients:
    """All of them: how they are counted, and the connections that wait for their next request."""

    def __init__(self, plan: Plan, port: int, prefix: str, ledger: IO[str]) -> None:
        self.plan = plan
        self.port = port
        self.prefix = prefix
        self.ledger = ledger
        self.began = time.monotonic()
        self.numbers: Counter[str] = Counter()
        self.lateness: dict[Kind, list[float]] = {"sse": [], "json": [], "ws": []}
        """Milliseconds: of each event since it went out, of each answer since the question, of each echo since the message."""
        self.go = asyncio.Event()
        self.go.set()
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.ended: Counter[str] = Counter()
        self.behind = 0.0

    @property
    def at(self) -> float:
        return time.monotonic() - self.began

    def draw(self, kind: Kind) -> Ask:
        self.numbers[kind] += 1
        return Ask.draw(kind, self.plan, self.numbers[kind])

    async def stream_after_stream(self, slot: int) -> None:
        """One slot of the streams: one follows the other, over the same connection as long as it lives."""
        await asyncio.sleep(min(self.plan.pace * self.plan.events[1], self.plan.seconds) * slot / self.plan.sse)
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            ask = self.draw("sse")
            if self.at + ask.count * ask.pace > self.plan.seconds:
                break
            connection = await self.exchange(ask, connection)
        await close(connection)

    async def socket_after_socket(self, slot: int) -> None:
        """One slot of the websockets."""
        await asyncio.sleep(min(self.plan.pace * self.plan.messages[0], self.plan.seconds) * slot / self.plan.ws)
        while True:
            ask = self.draw("ws")
            if self.at + ask.count * ask.pace > self.plan.seconds:
                break
            await close(await self.exchange(ask, None))

    async def questions(self) -> None:
        """JSON at the plan's rate, whether the answers come or not; over kept connections where one is free."""
        number, running = 0, set[asyncio.Task[None]]()
        while (due := number / self.plan.json) < self.plan.seconds - 1:
            await asyncio.sleep(max(0.0, due - self.at))
            self.behind = max(self.behind, self.at - due)
            task = asyncio.create_task(self._question())
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.gather(*running)
        for connection in self.idle:
            await close(connection)

    async def _question(self) -> None:
        connection = await self.exchange(self.draw("json"), self.idle.pop() if self.idle else None)
        if connection is not None:
            self.idle.append(connection)

    async def exchange(
        self, ask: Ask, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """One exchange from its request to its end. The connection where it can be used again, else None."""
        account = Account(ask)
        if connection is not None and ask.slow:
            await close(connection)
            connection = None
        try:
            async with asyncio.timeout(PATIENCE + ask.count * ask.pace * 2 * (ask.kind != "json")):
                connection = connection or await self._connect(ask)
                keep = await getattr(self, f"_{ask.kind}")(ask, account, *connection)
        except TimeoutError:
            account.how, keep = "timeout", False
        except (OSError, asyncio.IncompleteReadError):
            account.how, keep = "broken" if account.asked else "refused", False
        self.ended[f"{ask.kind} {account.how} {account.code}".strip()] += 1
        self.ledger.write(account.line() + "\n")
        if keep:
            return connection
        if account.how != "left":
            await close(connection)
        if account.how in ("broken", "refused", "timeout"):
            await asyncio.sleep(0.2)  # as anybody would who tries again
        return None

    async def _connect(self, ask: Ask) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        if ask.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
            return await asyncio.open_connection(sock=sock, limit=SLOW_BUFFER if ask.slow else 1 << 16)
        except BaseException:
            sock.close()
            raise

    def _send(self, ask: Ask, account: Account, writer: asyncio.StreamWriter) -> None:
        body = question(ask)
        account.asked, account.sent = True, len(body)
        writer.write(
            b"POST %b%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Soak-Nonce: %b\r\nContent-Length: %d\r\n\r\n"
            % (self.prefix.encode(), ask.target.encode(), ask.nonce.encode(), len(body))
            + body
        )

    async def _sse(self, ask: Ask, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self._send(ask, account, writer)
        if ask.ending.startswith("left") and ask.at == 0:
            await asyncio.sleep(ask.hesitation * 0.05)
            return leave(ask, account, writer)
        length = await head(account, reader)
        if length is not None:  # the gateway's own answer, or the origin's refusal
            account.got(await reader.readexactly(length))
            account.how = "whole"
            return True
        while (size := int(await line(reader), 16)) > 0:
            text = await reader.readexactly(size)
            await reader.readexactly(2)
            account.got(text)
            account.count += 1
            stamp = STAMP.search(text)
            if ask.slow:
                if account.count in (5, 20):
                    await asyncio.sleep(1.0)
            elif stamp is not None:
                self.lateness["sse"].append((time.monotonic_ns() - int(stamp[1], 16)) / 1e6)
            if ask.ending.startswith("left") and account.count == ask.at:
                return leave(ask, account, writer)
        await reader.readexactly(2)
        account.how = "whole"
        return True

    async def _json(self, ask: Ask, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        began = time.monotonic()
        self._send(ask, account, writer)
        if ask.ending.startswith("left"):
            await asyncio.sleep(ask.hesitation * 0.002)
            return leave(ask, account, writer)
        length = await head(account, reader)
        assert length is not None
        while account.size < length:
            piece = await reader.read(min(1 << 16, length - account.size))
            if not piece:
                raise ConnectionError("the other side has ended")
            account.got(piece)
        account.how = "whole"
        if not account.code:
            self.lateness["json"].append((time.monotonic() - began) * 1e3)
        return True

    async def _ws(self, ask: Ask, account: Account, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(
            b"GET %b%b HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Soak-Nonce: %b\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29hay1zb2FrLXNvYWstIQ==\r\n\r\n"
            % (self.prefix.encode(), ask.target.encode(), ask.nonce.encode())
        )
        account.asked = True
        await head(account, reader)
        if account.status != 101:
            account.how = "whole"
            return False
        due, buffer = time.monotonic(), bytearray()
        for number in range(ask.count):
            due += ask.pace
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            payload = message(ask, number)
            account.sent += len(payload)
            began = time.monotonic()
            writer.write(frame(TEXT, payload, masked=True))
            opcode, echo = await self._frame(reader, buffer)
            if opcode != TEXT or echo != payload:
                account.code = "other-echo"
            account.got(echo)
            account.count += 1
            self.lateness["ws"].append((time.monotonic() - began) * 1e3)
        await self.go.wait()
        if ask.ending.startswith("left"):
            return leave(ask, account, writer)
        if ask.ending.startswith("dropped"):
            writer.write(frame(TEXT, b"drop", masked=True))
            await self._frame(reader, buffer)  # none comes
            account.code = "not-dropped"
        writer.write(frame(CLOSE, struct.pack(">H", 1000), masked=True))
        opcode, _ = await self._frame(reader, buffer)
        account.how = "whole" if opcode == CLOSE else "broken"
        return False

    async def _frame(self, reader: asyncio.StreamReader, buffer: bytearray) -> tuple[int, bytes]:
        while True:
            for each in frames(buffer):
                return each
            data = await reader.read(1 << 16)
            if not data:
                raise ConnectionError("the other side has ended")
            buffer += data


async def close(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if connection is not None:
        connection[1].close()
        with suppress(OSError):
            await connection[1].wait_closed()


async def orders(clients: Clients) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while order := await reader.readline():
        clients.go.set() if order.strip() == b"go" else clients.go.clear()


async def run(plan: Plan, port: int, prefix: str, ledger: IO[str]) -> dict[str, object]:
    """All of the plan; ends when the last exchange has ended."""
    clients = Clients(plan, port, prefix, ledger)
    listening = asyncio.create_task(orders(clients))
    async with asyncio.TaskGroup() as group:
        for slot in range(plan.sse):
            group.create_task(clients.stream_after_stream(slot))
        for slot in range(plan.ws):
            group.create_task(clients.socket_after_socket(slot))
        if plan.json:
            group.create_task(clients.questions())
    listening.cancel()
    return {
        "seconds": clients.at,
        "exchanges": dict(clients.numbers),
        "ended": dict(sorted(clients.ended.items())),
        "behind_ms": clients.behind * 1e3,
        "lateness_ms": {kind: quantiles(found) for kind, found in clients.lateness.items()},
    }


def quantiles(found: list[float]) -> dict[str, float]:
    found.sort()
    if not found:
        return {"count": 0}
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    return {"count": len(found), **{name: found[int(len(found) * share)] for name, share in shares.items()}, "worst": found[-1]}


def main() -> None:
    plan = Plan.read(sys.argv[1])
    more_descriptors()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # no pause of ours in the latencies
    with open(sys.argv[4], "w") as ledger:
        report = uvloop.run(run(plan, int(sys.argv[2]), sys.argv[3], ledger))
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
