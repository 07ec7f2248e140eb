"""Several workers for one gateway: starts them, starts again those that die, passes on signals and settings. Relays nothing itself.

Each worker accepts on a listening socket of its own, all on one port (SO_REUSEPORT): the kernel spreads connections evenly. All sockets
stay open here, and a worker's is lent to another while it cannot accept: a connection that waits to be accepted is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway import health, logs, worker
from gateway.ending import Ending
from gateway.front import front_of
from gateway.reload import merge, not_taken, pack, share
from gateway.settings import Settings, SettingsError
from gateway.supervisor import python_command

__all__ = ["Workers"]

log = logging.getLogger("verbatim.workers")

START_TIMEOUT: Final = 30.0
"""Seconds a worker may take to accept connections; its keeper has 20 of them."""

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
LIVED: Final = 10.0
"""Seconds before a worker that died is started again: none when it had lived so long, else twice as many each time."""

SILENT: Final = 5.0
"""Seconds without a report after which a worker's new connections go to another. It is not killed: its streams may only wait."""

BEYOND_GRACE: Final = 4.8
"""Seconds that a worker may take to end beyond the grace; it needs up to 3.5 where the disk hangs."""


class Workers:
    """All of a gateway's workers. `run` blocks, in the process's main thread."""

    def __init__(self, settings: Settings, listeners: Sequence[socket.socket], read: Callable[[], Settings]) -> None:
        """`listeners` are one for each worker, or a single one for all. `read` reads the settings again; blocks, raises SettingsError."""
        self._settings = settings
        self._listeners = list(listeners)
        self._read_settings = read
        self._workers: list[_Worker] = []
        self._lent: dict[int, _Worker] = {}  # by listening socket: who accepts on it in its owner's place
        self._reloads = 0

    def run(self, ending: Ending, on_ready: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT has ended all workers, in order; a second signal hurries them. `on_ready` is called when all accept
        connections. Raises SettingsError when one cannot even start."""
        try:
            with asyncio.Runner() as runner:
                runner.run(self._run(ending, on_ready))
        finally:
            ending.on_end = lambda: None
            ending.on_hangup = lambda: None

    async def _run(self, ending: Ending, on_ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._stopping, self._rung = asyncio.Event(), asyncio.Event()
        self._workers = [_Worker(number, number % len(self._listeners)) for number in range(self._settings.workers)]
        ending.on_end = lambda: _soon(loop, self._end)
        ending.on_hangup = lambda: _soon(loop, self._rung.set)
        keeping = [asyncio.ensure_future(self._keep(it)) for it in self._workers]
        beside = [asyncio.ensure_future(it) for it in (self._watch(), self._reload_when_rung())]
        try:
            await asyncio.gather(*(it.first for it in self._workers))
            if not self._stopping.is_set():
                on_ready()
            await asyncio.gather(*keeping)
        finally:
            self._end()
            await asyncio.wait(keeping)
            for task in beside:
                task.cancel()

    def _end(self) -> None:
        """SIGTERM or SIGINT: nobody accepts any more, and all drain. The second time they hurry."""
        if not self._stopping.is_set():
            self._stopping.set()
            for listener in self._listeners:
                listener.close()
            asyncio.get_running_loop().call_later(self._settings.grace + BEYOND_GRACE, self._kill)
        for it in self._workers:
            it.signal(signal.SIGTERM)

    def _kill(self) -> None:
        for it in self._workers:
            if it.running:
                log.error("worker %d (process %d) did not end in time and was killed", it.number, it.pid)
                it.signal(signal.SIGKILL)

    # One worker's life

    async def _keep(self, it: _Worker) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                why = await self._live(it)
            except OSError as error:
                why = f"it cannot be started: {error.strerror or type(error).__name__}"
            self._assign()
            if self._stopping.is_set():
                break
            if not it.first.done():
                it.first.set_exception(SettingsError(why))
                return
            if time.monotonic() - began >= LIVED:
                pause, wait = FIRST_PAUSE, 0.0
            else:
                pause, wait = min(pause * 2, LONGEST_PAUSE), pause
            log.error("worker %d ended, and its connections with it: %s; it is started again", it.number, why)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)
            it.restarts += 1
        if not it.first.done():
            it.first.set_result(None)

    async def _live(self, it: _Worker) -> str:
        """From a worker's start to its end; how it ended."""
        numbers = [listener.fileno() for listener in self._listeners]
        it.began_after = self._reloads
        reader = await it.launch([str(it.own), *map(str, numbers)], numbers, pack(share(self._settings)))
        timer = asyncio.get_running_loop().call_later(START_TIMEOUT, it.give_up)
        why = ""
        async for kind, value in worker.messages(reader):
            it.heard = time.monotonic()
            if kind == worker.READY:
                timer.cancel()
                it.ready = True
                if not it.first.done():
                    it.first.set_result(None)
                self._assign()
            elif kind == worker.FAILED:
                why = value
            elif kind == worker.REPORT:
                it.report = value
            elif kind == worker.HEALTH:
                it.report = value
                it.send(worker.HEALTH, self._health())
        timer.cancel()
        timer = asyncio.get_running_loop().call_later(self._settings.grace + BEYOND_GRACE, it.give_up)
        code = await it.ended()
        timer.cancel()
        return why or (f"signal {-code}" if code < 0 else f"exit code {code}")

    # Who accepts what

    async def _watch(self) -> None:
        """Notice who is silent, and who speaks again."""
        while True:
            await asyncio.sleep(SILENT / 5)
            for it in self._workers:
                silent = it.ready and time.monotonic() - it.heard > SILENT
                if silent != it.silent:
                    it.silent = silent
                    text = f"has said nothing for {SILENT:g} s: its new connections go to another" if silent else "answers again"
                    log.warning("worker %d (process %d) %s", it.number, it.pid, text)
            self._assign()

    def _assign(self) -> None:
        """Lend what is the socket of a worker that does not answer, and take back what is another's no longer."""
        if len(self._listeners) == 1 or self._stopping.is_set() or not all(it.first.done() for it in self._workers):
            return  # while all begin, who is first would get every connection there is
        for it in self._workers:
            others = [*self._workers[it.number + 1 :], *self._workers[: it.number]]
            wanted = None if it.answers else next((other for other in others if other.answers), None)
            holds = self._lent.get(it.own)
            if holds is not None and (holds is not wanted or not holds.answers):
                holds.send(worker.TAKE_BACK, it.own)
                del self._lent[it.own]
                holds = None
            if wanted is not None and holds is None:
                wanted.send(worker.LEND, it.own)
                self._lent[it.own] = wanted

    def _health(self) -> health.Report:
        told = [it for it in self._workers if it.report]
        more = [{"restarts": it.restarts, "answers": it.answers, "reloads": it.report["reloads"] + it.began_after} for it in told]
        return health.total([{**it.report, **one} for it, one in zip(told, more, strict=True)])

    # Settings

    async def _reload_when_rung(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                settings = await asyncio.to_thread(self._read_settings)
                change = merge(self._settings, settings)
                await asyncio.to_thread(front_of, change.settings)
            except Exception as error:
                log.error("%s", not_taken(error))  # noqa: TRY400 - a traceback may quote what is secret
                continue
            self._settings = change.settings
            logs.set_level(change.settings.log_level)
            for it in self._workers:
                it.send(worker.CHANGE, pack(share(change.settings)))
            self._reloads += 1
            log.info("%s", change)


class _Worker:
    """One worker's place: its process, when one runs, and the socket to it."""

    def __init__(self, number: int, own: int) -> None:
        """`own` is the number of its listening socket."""
        self.number = number
        self.own = own
        self.first: asyncio.Future[None] = asyncio.Future()
        self.restarts = 0
        self.began_after = 0  # reloads: how many there had been when its process was started
        self.ready = self.silent = False
        self.heard = 0.0
        self.report: health.Report = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def answers(self) -> bool:
        return self.ready and not self.silent

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def launch(self, arguments: Sequence[str], descriptors: Sequence[int], settings: bytes) -> asyncio.StreamReader:
        """Start a process; what it says. In a session of its own: a Ctrl-C at the terminal is ours to pass on. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = python_command("gateway.worker", str(theirs.fileno()), *arguments)
            try:
                self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own interpreter and module; milliseconds
                    command, pass_fds=[theirs.fileno(), *descriptors], stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError:
                ours.close()
                raise
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self.send(worker.START, settings)
        return reader

    def send(self, kind: int, value: Any) -> None:
        """Send a message to the process, if there is one."""
        if self._writer is not None:
            self._writer.write(worker.message(kind, value))

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)

    def give_up(self) -> None:
        """It did not start, or end, in time."""
        self.signal(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for the process, which has closed its end of the socket; its exit code."""
        assert self._process is not None
        assert self._writer is not None
        self.ready = self.silent = False
        self.report = {}
        self._writer.close()
        self._writer = None
        return await asyncio.to_thread(self._process.wait)


def _soon(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    """From a signal's handler: have the loop do it, if it still runs."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(what)
