"""A worker: one of several processes that relay for one gateway, each with a keeper of its own. Started by `gateway.workers`, ends with it.

The process above speaks over a socket: settings, figures, whose connections to accept besides one's own. Signals it sends as signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

from gateway import logs, memory
from gateway.ending import Ending
from gateway.health import Report
from gateway.reload import unpack
from gateway.settings import SettingsError
from gateway.site import Site, start_keeper

__all__ = ["main"]

log = logging.getLogger("verbatim.worker")

FRAME: Final = struct.Struct("<IB")
"""Before each message: its length, and what it is."""

START, READY, FAILED, REPORT, HEALTH, CHANGE, LEND, TAKE_BACK = range(8)
"""From above START and CHANGE (settings), HEALTH (the whole gateway's figures), LEND and TAKE_BACK (a listening socket's number);
from the worker READY, FAILED (why), REPORT and HEALTH (its own figures; HEALTH wants an answer)."""

REPORT_EVERY: Final = 0.5
"""Seconds between two reports, by which the process above also knows that the loop turns."""

PATIENCE: Final = 1.0
"""Seconds the health page waits for the process above; then it tells of this process alone."""


def message(kind: int, value: Any) -> bytes:
    """A message, ready to be sent. `value` is of marshal's types."""
    data = marshal.dumps(value)
    return FRAME.pack(len(data), kind) + data


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, Any]]:
    """Messages as they come, until the other side is gone."""
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            length, kind = FRAME.unpack(await reader.readexactly(FRAME.size))
            yield kind, marshal.loads(await reader.readexactly(length))  # noqa: S302 - from a process of this gateway


def main() -> int:
    """Run a worker. Arguments: the descriptor of the socket to the process above, the number of the listening socket that is this
    worker's own, and the descriptors of all of them."""
    control = socket.socket(fileno=int(sys.argv[1]))
    own, listeners = int(sys.argv[2]), [socket.socket(fileno=int(number)) for number in sys.argv[3:]]
    memory.forbid_core_dumps()
    with Ending(hangup_ends=False) as ending, contextlib.ExitStack() as stack:
        start = _first(control)
        if start is None:
            return 0
        settings = unpack(start)
        logs.configure(settings.log_level)
        stack.callback(logs.stop)
        try:
            keeper = start_keeper(settings)
            if keeper is not None:
                stack.callback(keeper.kill)
            site = Site(settings, keeper)
        except SettingsError as error:
            control.sendall(message(FAILED, str(error)))
            return 1
        worker = _Worker(site, control, listeners)

        def ready() -> None:
            ending.on_end = lambda: None  # uvicorn's from here on; it raises them again when it has done as they say

        site.health = worker.health
        spare = [sock for number, sock in enumerate(listeners) if number != own]
        site.run([listeners[own]], ready, spare=spare, beside=worker.listen)
    return 0


def _first(control: socket.socket) -> bytes | None:
    """The first message from above, None when there comes none. Blocks."""
    with control.makefile("rb", buffering=0) as stream:  # unbuffered: what follows is for the loop
        data = b""
        wanted = FRAME.size
        while len(data) < wanted:
            piece = stream.read(wanted - len(data))
            if not piece:
                return None
            data += piece
            if len(data) == FRAME.size:
                wanted += FRAME.unpack(data)[0]
        value: bytes = marshal.loads(data[FRAME.size :])  # noqa: S302 - as above
        return value


class _Worker:
    """What passes between this process and the one above. On the loop."""

    def __init__(self, site: Site, control: socket.socket, listeners: list[socket.socket]) -> None:
        self._site = site
        self._control = control
        self._listeners = listeners
        self._asking: list[asyncio.Future[Report]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def listen(self) -> None:
        """Do as the process above says. When it is gone, so are we: what runs gets the grace, as at SIGTERM."""
        reader, writer = await asyncio.open_unix_connection(sock=self._control)
        await self._site.started()
        self._writer = writer
        writer.write(message(READY, None))
        reporting = asyncio.ensure_future(self._report(writer))
        try:
            async for kind, value in messages(reader):
                await self._heard(kind, value)
        except Exception as error:  # a bug of ours: who can be told nothing any more is better replaced
            log.error("process %d does not understand the one above: %s", os.getpid(), type(error).__name__)  # noqa: TRY400
        finally:
            reporting.cancel()
            writer.close()
        os.kill(os.getpid(), signal.SIGTERM)

    async def _heard(self, kind: int, value: Any) -> None:
        site = self._site
        if kind == CHANGE:
            await site.take(lambda: unpack(value))
        elif kind == HEALTH:
            asking, self._asking = self._asking, []
            for future in asking:
                if not future.done():
                    future.set_result(value)
        elif kind == LEND:
            await site.lend(value, self._listeners[value])
        elif kind == TAKE_BACK:
            site.take_back(value)

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(message(REPORT, self._site.report()))
            await asyncio.sleep(REPORT_EVERY)

    async def health(self) -> Report:
        """The whole gateway's figures; this worker's alone when the process above does not answer."""
        own = self._site.report()
        future: asyncio.Future[Report] = asyncio.get_running_loop().create_future()
        if self._writer is not None:
            self._asking.append(future)
            self._writer.write(message(HEALTH, own))
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(future, PATIENCE)
        return self._site.alone()
