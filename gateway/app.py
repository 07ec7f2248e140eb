"""Puts the gateway together and runs it: relay under uvicorn, own pages under Starlette, records to the writer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Final, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Page

from gateway import __version__, memory
from gateway.capture import Recording
from gateway.errors import GatewayError, answer
from gateway.front import front_of
from gateway.guard import Guard
from gateway.keeper import Keeper
from gateway.logs import AccessLog
from gateway.relay import Relay
from gateway.routes import Routes
from gateway.settings import Settings
from gateway.wire import Limits

__all__ = ["create_app", "create_relay", "run"]

log = logging.getLogger("verbatim.gateway")

BACKLOG: Final = 4096
"""Connections the kernel keeps for us: a thousand agents may start at once."""


def create_relay(settings: Settings, recording: Recording | None, access_log: AccessLog | None = None) -> Relay:
    """The relay as the settings want it; `recording` None records nothing."""
    return Relay(
        Routes(settings.routes, settings.default_route),
        recording=recording,
        limits=Limits(settings.max_header_bytes, settings.max_header_fields),
        header_timeout=settings.header_timeout,
        read_timeout=settings.read_timeout,
        connect_timeout=settings.connect_timeout,
        handshake_timeout=settings.handshake_timeout,
        allow_unrecorded=settings.allow_unrecorded,
        idle_timeout=settings.idle_timeout,
        guard=Guard(settings.relay_token, settings.allow_origins),
        half_close=settings.half_close,
        max_streams=settings.max_streams,
        access_log=access_log,
    )


def create_app(relay: Relay, keeper: Keeper | None, on_ready: Callable[[], None]) -> Starlette:
    """The gateway's own pages: `/` and `/_verbatim/health`; any other path is told which routes there are."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        relay.start()
        if keeper is not None:
            await keeper.attach()
        on_ready()
        yield
        await relay.stop()

    async def index(request: Request) -> Response:
        base = f"{request.url.scheme}://{request.headers.get('host', '127.0.0.1')}"
        lines = [f"  {base}/{name}  ->  {route.url}" for name, route in relay.routes.routes.items()]
        return PlainTextResponse("\n".join(["Verbatim relays and records. Point your SDK's base URL at one of:", *lines, ""]))

    async def health(request: Request) -> Response:
        counters, stats = relay.counters, keeper.stats() if keeper is not None else None
        return JSONResponse(
            {
                "verbatim": __version__,
                "recording": keeper is not None and keeper.tape.running,
                "exchanges": {"total": counters.exchanges, "active": len(relay.exchanges), "failed": counters.failed},
                "connections": len(relay.connections),
                "tasks": len(asyncio.all_tasks()),
                "refused_requests": counters.refused,
                "capture_errors": counters.capture_errors,
                "declined": counters.declined,
                "unread_bytes": keeper.tape.unread if keeper is not None else 0,
                "lost_exchanges": keeper.tape.lost if keeper is not None else 0,
                "archive": dataclasses.asdict(stats) if stats is not None else None,
            }
        )

    async def unknown(request: Request, error: Exception) -> Response:
        known = ", ".join(f"/{name}" for name in relay.routes.routes)
        why = f"no route for this path; there are: {known}. The setting default_route names one for all other paths, such as a bare /v1/..."
        fields, body = answer(GatewayError(404, "no_route", why), "openai", "")
        return Response(body, 404, {name.decode(): value.decode() for name, value in fields if name != b"x-verbatim-id"})

    return Starlette(routes=[Page("/", index), Page("/_verbatim/health", health)], exception_handlers={404: unknown}, lifespan=lifespan)


class Server(uvicorn.Server):
    """uvicorn's server, for which a second signal of any kind ends the draining."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        super().handle_exit(sig, frame)


def run(settings: Settings, *, sockets: list[socket.socket], keeper: Keeper | None, on_ready: Callable[[], None]) -> None:
    """Serve on `sockets` until SIGTERM or SIGINT, then drain for up to `settings.grace` seconds. Blocks. `keeper` has been started.

    A second signal ends the draining. What is still running then is cut so that no client takes it for whole, and recorded so.
    Raises SettingsError when `tls_cert` or `tls_key` cannot be served with.
    """
    _raise_file_limit()
    memory.tune()
    access_log = AccessLog() if settings.access_log else None
    relay = create_relay(settings, keeper.tape if keeper is not None else None, access_log)
    config = uvicorn.Config(
        create_app(relay, keeper, on_ready),
        http=cast("type[asyncio.Protocol]", relay.protocol),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
    )
    config.load()
    front = front_of(settings)
    config.ssl = front.context if front is not None else None
    server = Server(config)

    async def serve() -> None:
        try:
            await server.serve(sockets)
            if server.force_exit:  # then uvicorn leaves this out
                await server.lifespan.shutdown()
        finally:
            await relay.stop()
            if keeper is not None:
                if not await keeper.close(max(1.0, settings.grace)):
                    log.error("not everything was on the disk in time; `verbatim verify` names the recorder that was cut off")
                if keeper.tape.lost:
                    log.error("%d exchanges were not recorded, or not to their end", keeper.tape.lost)

    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(serve())
    finally:
        if access_log is not None:
            access_log.close()


def _raise_file_limit() -> None:
    """As many open files as the system lets us have: each stream needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
