"""The relay as the settings want it, and the gateway's own pages under Starlette. `gateway.site` runs both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route as Page

from gateway import health
from gateway.capture import Recording
from gateway.errors import answer, no_route
from gateway.guard import Guard
from gateway.keeper import Keeper
from gateway.logs import AccessLog
from gateway.relay import Relay
from gateway.routes import Routes
from gateway.settings import Settings
from gateway.wire import Limits

__all__ = ["create_app", "create_relay"]


def create_relay(settings: Settings, recording: Recording | None, access_log: AccessLog | None = None) -> Relay:
    """The relay as the settings want it; `recording` None records nothing."""
    return Relay(
        Routes(settings.routes, settings.default_route),
        recording=recording,
        limits=Limits(settings.max_header_bytes, settings.max_header_fields, settings.max_request_bytes),
        header_timeout=settings.header_timeout,
        read_timeout=settings.read_timeout,
        connect_timeout=settings.connect_timeout,
        handshake_timeout=settings.handshake_timeout,
        allow_unrecorded=settings.allow_unrecorded,
        idle_timeout=settings.idle_timeout,
        idle_timeout_max=settings.idle_timeout_max,
        guard=Guard(settings.relay_token, settings.allow_origins),
        half_close=settings.half_close,
        max_streams=settings.max_streams,
        access_log=access_log,
    )


def create_app(
    relay: Relay, keeper: Keeper | None, on_ready: Callable[[], None], tell: Callable[[], Awaitable[health.Report]] | None = None
) -> Starlette:
    """The gateway's own pages: `/` and `/_verbatim/health`; any other path is told which routes there are. `tell` is what the health page
    tells, this process's figures if None."""

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

    async def health_page(request: Request) -> Response:
        return JSONResponse(await tell() if tell is not None else health.report(relay, keeper))

    async def unknown(request: Request, error: Exception) -> Response:
        fields, body = answer(no_route(relay.routes.routes), "openai", "")
        return Response(body, 404, {name.decode(): value.decode() for name, value in fields if name != b"x-verbatim-id"})

    return Starlette(
        routes=[Page("/", index), Page("/_verbatim/health", health_page)], exception_handlers={404: unknown}, lifespan=lifespan
    )
