"""Keeps the keeper: starts the recording process, sends it the tape, starts it again when it dies. The relay's end of the socket."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import marshal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Final, cast

from archive.errors import Unwritable
from archive.writer import WriterStats
from gateway import keeping
from gateway.capture import CaptureLimits
from gateway.keeping import FRAME, Channel
from gateway.supervisor import python_command
from gateway.tape import MARSHAL_VERSION, Tape

__all__ = ["Keeper"]

log = logging.getLogger("verbatim.keeper")

FLUSH_AFTER: Final = 0.004
"""Seconds an event waits on the tape at most before it is sent to the keeper; a process that dies loses no more than that."""

START_TIMEOUT: Final = 20.0
"""Seconds a keeper has to say that it can write: it checks the newest segment first, which is milliseconds even for a full hour."""

PIPE: Final = 1 << 20
"""Bytes asked for as the socket's buffer, so that a batch goes over in one write and one read (Linux gives at most net.core.wmem_max)."""

RESTART_AFTER: Final = 1.0
"""Seconds between two tries to start a process that does not live."""

LIVED: Final = 10.0
"""Seconds after which one that dies is started again at once: nothing is recorded until it runs."""

COMPLAIN_EVERY: Final = 60.0
"""Seconds between two lines about a recording process that cannot start."""

ENDED: Final = "the recording process ended at once; see its message above"

ANSWER: Final = 0.5
"""Seconds beyond its time that a keeper has to say whether it was enough."""

LEAVE: Final = 2.0
"""Seconds a keeper has to leave by itself once nobody speaks to it: it then ends its archive properly."""


class Keeper:
    """The recording process, as the relay sees it. `start` before the loop runs; `attach` and `close` on the loop."""

    def __init__(
        self,
        folder: Path,
        *,
        upstreams: Mapping[str, str],
        limits: CaptureLimits,
        queue_bytes: int,
        log_level: str = "warning",
        **writer: Any,
    ) -> None:
        """`writer` are the options of `archive.writer.Writer`. The queue's bytes are shared by the two processes, half each."""
        self._options: dict[str, Any] = {
            "folder": str(folder),
            "upstreams": dict(upstreams),
            "limits": (limits.part_bytes, limits.part_seconds, limits.max_body),
            "writer": {**writer, "queue_bytes": queue_bytes // 2},
            "log_level": log_level,
        }
        # A fifth, not a quarter: with the default of 64 MiB a flood to one reader grows this process by less than 20 MB (catalogue 65)
        self.tape = Tape(queue_bytes // 5, flush=self._flush, wake=self._wake, clock=perf_counter)
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._stats: dict[str, Any] = {}
        self._closing = False
        self._closed: asyncio.Future[bool] | None = None
        self._restart: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._since = 0.0
        self._waking = False

    def start(self) -> None:
        """Start the process and wait until it can write. Blocks for about 0.2 s; raises Unwritable when there can be no archive there."""
        self._sock, theirs = socket.socketpair()
        try:
            with theirs:
                for end in (self._sock, theirs):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE)
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    python_command("gateway.keeping", str(theirs.fileno())), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            answer = _answer(self._sock, self._options)
        except ConnectionError:
            answer = ENDED
        except OSError as error:
            answer = f"the recording process cannot be started ({error.strerror or type(error).__name__})"
        except BaseException:
            self.kill()
            raise
        if answer is not None:
            self.kill()
            raise Unwritable(errno.EIO, answer)

    async def attach(self) -> None:
        """Begin to send the tape, on the running loop."""
        assert self._sock is not None
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: _Pipe(self), sock=self._sock)

    def kill(self) -> None:
        """End the process, if it still runs: for a caller whose loop never came to `close`. Blocks for up to `LEAVE` seconds."""
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)  # closing alone might wait for a loop that runs no more
            self._sock.close()
        if self._process is not None:
            try:
                self._process.wait(LEAVE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def close(self, patience: float) -> bool:
        """Send what is told, let the keeper write it and end. Takes at most about `patience` seconds.

        True: what was told, and what was lost before it could be told (`tape.lost`), is in the archive. One that has died is started
        again for that.
        """
        self._closing = True
        clean = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience + ANSWER):
                self._hurry.set()
                if self._restart is not None:
                    await self._restart
                clean = await self._say_close(patience)
        if self._transport is not None:
            self._transport.close()
        if not clean and self._process is not None:
            self._process.kill()
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
        return clean

    async def _say_close(self, patience: float) -> bool:
        if self._transport is None:
            return False
        self._flush(last=True)
        self._closed = asyncio.get_running_loop().create_future()
        self._send(keeping.CLOSE, patience)
        return await self._closed

    def change(self, upstreams: Mapping[str, str], log_level: str) -> None:
        """Exchanges opened from now on are of these upstreams; those told so far are of the ones before. On the loop."""
        self._options |= {"upstreams": dict(upstreams), "log_level": log_level}
        if self._transport is not None:
            self._flush()
            self._send(keeping.CHANGE, (self._options["upstreams"], log_level))

    def stats(self) -> WriterStats | None:
        """The writer's counters as of at most about half a second ago, since its process began; None before its first report."""
        return WriterStats(**self._stats) if self._stats else None

    # The tape

    def _wake(self) -> None:
        if not self._waking and self._transport is not None:
            self._waking = True
            asyncio.get_running_loop().call_later(FLUSH_AFTER, self._woken)

    def _woken(self) -> None:
        self._waking = False
        self._flush()

    def _flush(self, *, last: bool = False) -> None:
        if self._transport is None:
            return
        size = self.tape.size
        pieces = self.tape.take(last=last)
        if pieces:
            self._transport.writelines((FRAME.pack(sum(map(len, pieces)), size, keeping.TAPE), *pieces))

    def _send(self, kind: int, value: Any) -> None:
        data = marshal.dumps(value, MARSHAL_VERSION)
        assert self._transport is not None
        self._transport.write(FRAME.pack(len(data), 0, kind) + data)

    # From the keeper

    def connected(self, transport: asyncio.WriteTransport) -> None:
        """The loop has the socket."""
        self._transport = transport
        self._since = perf_counter()
        self._send(keeping.CHANGE, (self._options["upstreams"], self._options["log_level"]))  # what changed while it started
        self.tape.started(self._since)

    def heard(self, kind: int, size: int, data: memoryview) -> None:
        """A message of the keeper's."""
        if kind == keeping.READ:
            self.tape.acknowledged(size, perf_counter())
        elif kind == keeping.STATS:
            self._stats = marshal.loads(data)  # noqa: S302 - from the process we started
        elif kind == keeping.CLOSED:
            clean, self._stats = marshal.loads(data)  # noqa: S302
            if self._closed is not None and not self._closed.done():
                self._closed.set_result(clean)

    def lost(self) -> None:
        """The keeper's end of the socket is closed."""
        self._transport = None
        self._stats = self._stats if self._closing else {}
        self.tape.stopped()
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(False)
        if not self._closing:
            log.error("the recording process has died; exchanges under way lose their records; starting it again")
            self._hurry.clear()
            wait = 0.0 if perf_counter() - self._since > LIVED else RESTART_AFTER
            self._restart = asyncio.get_running_loop().create_task(self._start_again(wait))

    async def _start_again(self, wait: float) -> None:
        complained = -COMPLAIN_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), wait)
            wait = RESTART_AFTER
            try:
                if self._process is not None:
                    await asyncio.to_thread(self._process.wait)
                await asyncio.to_thread(self.start)
                await self.attach()
            except Exception as error:  # whatever it is, recording must not end for good
                if perf_counter() - complained >= COMPLAIN_EVERY:
                    complained = perf_counter()
                    why = error.strerror if isinstance(error, Unwritable) else type(error).__name__
                    log.error("the recording process cannot start: %s", why)  # noqa: TRY400 - the reason is all there is to say
            else:
                log.warning("the recording process runs again")
                return
            if self._closing:
                return


class _Pipe(asyncio.Protocol):
    """Messages from the keeper, off the loop's transport."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._keeper.connected(cast(asyncio.WriteTransport, transport))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        at = 0
        while len(buffer) - at >= FRAME.size:
            length, size, kind = FRAME.unpack_from(buffer, at)
            if len(buffer) - at - FRAME.size < length:
                break
            self._keeper.heard(kind, size, memoryview(buffer)[at + FRAME.size : at + FRAME.size + length])
            at += FRAME.size + length
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._keeper.lost()


def _answer(sock: socket.socket, options: dict[str, Any]) -> str | None:
    """Say what is wanted and wait for the keeper's first word: None when it can write, else why not."""
    channel = Channel(sock)
    channel.send(keeping.OPTIONS, options)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        messages = channel.receive(0.1)
        if messages is None:
            return ENDED
        for kind, _, data in messages:
            return None if kind == keeping.READY else str(marshal.loads(data))  # noqa: S302 - from the process we started
    return f"the recording process did not start within {START_TIMEOUT:g} s"
