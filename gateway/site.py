"""One process's gateway while it runs: the relay under uvicorn, its keeper's tape, what may be changed meanwhile, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from types import FrameType
from typing import Final, cast

import uvicorn

from archive.errors import Unwritable
from gateway import __version__, health, logs, memory
from gateway.app import create_app, create_relay
from gateway.capture import CaptureLimits
from gateway.front import front_of
from gateway.keeper import Keeper
from gateway.logs import AccessLog
from gateway.redaction import RULES_HASH
from gateway.relay import Relay
from gateway.reload import merge, not_taken
from gateway.settings import Settings, SettingsError

__all__ = ["Site", "start_keeper"]

log = logging.getLogger("verbatim.gateway")

BACKLOG: Final = 4096
"""Connections the kernel keeps for us: a thousand agents may start at once."""

WRITING: Final = 2.0
"""Seconds the keeper has at least to bring to the disk what it was told, however long the draining took: with what a stop takes besides,
the process is gone within `grace` and 5 s, even where the disk hangs."""


HURRIED: Final = 8.0
"""Seconds more, of what is left of the grace, that the keeper has after a second signal."""


class Server(uvicorn.Server):
    """uvicorn's server, for which a second signal of any kind ends the draining."""

    def __init__(self, config: uvicorn.Config, spare: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self.stopping_since: float | None = None
        self._spare = spare

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.stopping_since = self.stopping_since or perf_counter()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for sock in self._spare:
            sock.close()
        await super().shutdown(sockets)


class Site:
    """Made before the loop runs. `run` blocks; everything after it belongs to the loop's thread."""

    def __init__(self, settings: Settings, keeper: Keeper | None) -> None:
        """`keeper` has been started. Reads the certificate. Raises SettingsError when it cannot be served with."""
        _raise_file_limit()
        memory.tune()
        self.settings = settings
        self.keeper = keeper
        self.health: Callable[[], Awaitable[health.Report]] = self._health
        """What the health page tells; one of several workers sets another before it runs."""
        self._access_log = AccessLog() if settings.access_log else None
        self.relay = create_relay(settings, keeper.tape if keeper is not None else None, self._access_log)
        self._front = front_of(settings)
        self._read = time.time()
        self._reloads = 0
        self._lent: dict[int, asyncio.Server] = {}

    def run(
        self,
        sockets: list[socket.socket],
        on_ready: Callable[[], None],
        *,
        spare: Sequence[socket.socket] = (),
        beside: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Serve on `sockets` until SIGTERM or SIGINT, then drain for up to `settings.grace` seconds; `on_ready` is called when it begins.

        A second signal ends the draining. What is still running then is cut so that no client takes it for whole, and recorded so.
        `spare` are sockets to be closed when the draining begins, because they hold the port open. `beside` runs all the while.
        """
        config = uvicorn.Config(
            create_app(self.relay, self.keeper, on_ready, self.health),
            http=cast("type[asyncio.Protocol]", self.relay.protocol),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=_grace(self.settings),
        )
        config.load()
        config.ssl = self._front.context if self._front is not None else None
        self._server = Server(config, spare)
        try:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(self._serve(sockets, beside))
        finally:
            if self._access_log is not None:
                self._access_log.close()

    async def _serve(self, sockets: list[socket.socket], beside: Callable[[], Awaitable[None]] | None) -> None:
        server = self._server
        task = asyncio.ensure_future(beside()) if beside is not None else None
        try:
            await server.serve(sockets)
            if server.force_exit:  # then uvicorn leaves this out
                await server.lifespan.shutdown()
        finally:
            await self.relay.stop()
            await self._end_archive()
            if task is not None:
                task.cancel()

    async def _end_archive(self) -> None:
        keeper, since = self.keeper, self._server.stopping_since
        if keeper is None:
            return
        patience = WRITING
        if since is not None:  # what is left of the grace is the disk's; who hurries us wants streams cut, not records lost
            left = max(0.0, since + self.settings.grace - perf_counter())
            patience += min(left, HURRIED) if self._server.force_exit else left
        if not await keeper.close(patience):
            log.error("not everything was on the disk in time; `verbatim verify` names the recorder that was cut off")
        if keeper.tape.lost:
            log.error("%d exchanges were not recorded, or not to their end", keeper.tape.lost)

    # While it runs

    async def change(self, settings: Settings) -> str:
        """Take `settings` anew, all of it or nothing; what changed, for the log. No exchange under way notices. Raises SettingsError."""
        change = merge(self.settings, settings)
        settings = change.settings
        front, fresh = await asyncio.to_thread(lambda: (front_of(settings), self._fresh_relay(settings)))
        if front is not None and self._front is not None:  # renewed, perhaps: for handshakes from now on
            self._front.context.load_cert_chain(front.file, front.key)
        if self.keeper is not None:
            self.keeper.change({name: route.url for name, route in settings.routes.items()}, settings.log_level)
        self.relay.take_over(fresh)
        self.settings = settings
        self._server.config.timeout_graceful_shutdown = _grace(settings)
        logs.set_level(settings.log_level)
        self._read = time.time()
        self._reloads += 1
        return str(change)

    def _fresh_relay(self, settings: Settings) -> Relay:
        if settings.access_log and self._access_log is None:
            self._access_log = AccessLog()
        return create_relay(settings, None, self._access_log if settings.access_log else None)

    def report(self) -> health.Report:
        """This process's figures."""
        return health.report(self.relay, self.keeper) | {"read": self._read, "reloads": self._reloads}

    def alone(self) -> health.Report:
        """The gateway's figures where this process is all of it, or all that answers."""
        return health.total([self.report()])

    async def _health(self) -> health.Report:
        return self.alone()

    async def started(self) -> None:
        """Wait until connections are accepted."""
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)

    async def reload(self, read: Callable[[], Settings], rung: asyncio.Event) -> None:
        """Take the settings that `read` gives (it may block) each time that `rung` is set. Bad ones change nothing. Until cancelled."""
        while True:
            await rung.wait()
            rung.clear()
            said = await self.take(read)
            if said is not None:
                log.info("%s", said)

    async def take(self, read: Callable[[], Settings]) -> str | None:
        """As `change`, with what `read` gives; what is wrong is logged, and None returned. Raises nothing."""
        try:
            return await self.change(await asyncio.to_thread(read))
        except Exception as error:
            log.error("%s", not_taken(error))  # noqa: TRY400 - a traceback may quote what is secret
            return None

    async def lend(self, number: int, sock: socket.socket) -> None:
        """Accept connections on `sock` as well: another worker's, which cannot. `number` is for `take_back`."""
        server, config = self._server, self._server.config
        if number in self._lent or server.should_exit:
            return

        def protocol() -> asyncio.Protocol:
            return self.relay.protocol(config, server.server_state, server.lifespan.state)

        listening = await asyncio.get_running_loop().create_server(protocol, sock=sock.dup(), ssl=config.ssl, backlog=BACKLOG)
        self._lent[number] = listening
        server.servers.append(listening)

    def take_back(self, number: int) -> None:
        """No longer accept on another's socket. Connections that were accepted stay."""
        listening = self._lent.pop(number, None)
        if listening is not None:
            self._server.servers.remove(listening)
            listening.close()


def start_keeper(settings: Settings) -> Keeper | None:
    """The keeper that `settings` want, started; None where nothing is recorded. Blocks. Raises SettingsError: no archive can be there."""
    if not settings.record:
        return None
    keeper = Keeper(
        settings.archive,
        upstreams={name: route.url for name, route in settings.routes.items()},
        limits=CaptureLimits(settings.part_bytes, settings.part_seconds, settings.max_body),
        version=__version__,
        rules_hash=RULES_HASH,
        queue_records=settings.queue_records,
        queue_bytes=settings.queue_bytes,
        log_level=settings.log_level,
        sync=settings.sync,
        adaptive=settings.compression == "adaptive",
        min_free=settings.min_free,
    )
    try:
        keeper.start()
    except Unwritable as error:
        raise SettingsError(f"{error.strerror or error}; choose another folder with --archive or VERBATIM_ARCHIVE") from None
    return keeper


def _grace(settings: Settings) -> int:
    """As uvicorn wants it by its type; it only waits so long, and takes parts of a second as well."""
    return cast(int, settings.grace)


def _raise_file_limit() -> None:
    """As many open files as the system lets us have: each stream needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
