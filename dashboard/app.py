"""The viewer as an ASGI app: which path is which page, in threads of its own, behind the guard.

Knows the reader and nothing else of the archive; writes nothing; serves whatever folder it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from archive.errors import ArchiveError
from archive.reader import Reader
from dashboard.api import Api
from dashboard.guard import LEAST_TOKEN, Guard
from dashboard.pages import Pages
from dashboard.problems import Problems
from dashboard.render import Asset, Renderer, assets

__all__ = ["create_app"]

_log = logging.getLogger("verbatim.viewer")

_THREADS = 4
"""Pages made at once. More would only take turns at the interpreter's lock, and each may hold a body of tens of MiB."""

Blocking = Callable[[Request], Response]
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(folder: Path, *, token: str, hosts: Sequence[str], gateway: str = "http://127.0.0.1:8787") -> Starlette:
    """The viewer of the archive in `folder`.

    `token` opens it (at least 16 characters, else ValueError); `hosts` are the exact Host values it answers to, port included;
    `gateway` is the base URL it tells a newcomer to use. The folder may be missing or empty: the pages then say what to do.
    Reads only this package's own files before it returns.
    """
    if len(token) < LEAST_TOKEN:
        raise ValueError(f"the viewer's token must have at least {LEAST_TOKEN} characters")
    folder = folder.absolute()
    files = assets()
    renderer = Renderer(files, folder=str(folder), gateway=gateway.rstrip("/"))
    reader = Reader(folder)
    pages, api = Pages(reader, renderer, folder), Api(reader)
    problems = Problems(renderer)
    threads = _Threads(_THREADS, problems)
    routes = [
        ("/", pages.exchanges),
        ("/exchange/{id}", pages.exchange),
        ("/exchange/{id}/lines", pages.lines),
        ("/exchange/{id}/line/{part:int}", pages.line),
        ("/exchange/{id}/message/{number:int}", pages.message),
        ("/exchange/{id}/{side}", pages.body),
        ("/events", pages.events),
        ("/api/exchanges", api.exchanges),
        ("/api/exchanges/{id}", api.exchange),
        ("/api/exchanges/{id}/line", api.line),
        ("/api/events", api.events),
        ("/api/stats", api.stats),
    ]
    return Starlette(
        routes=[
            *(Route(path, threads(handler), methods=["GET"]) for path, handler in routes),
            Route("/static/{name}", _static(files), methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts, refuse=problems.refuse)],
        exception_handlers={
            HTTPException: problems.asked,
            ArchiveError: problems.archive,
            OSError: problems.disk,
        },
    )


class _Threads:
    """Runs blocking handlers in at most so many threads at once. A request that waits for one holds nothing."""

    def __init__(self, most: int, problems: Problems) -> None:
        self._most = most
        self._problems = problems
        self._limiter: anyio.CapacityLimiter | None = None

    def __call__(self, handler: Blocking) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            if self._limiter is None:  # made on the loop it is for
                self._limiter = anyio.CapacityLimiter(self._most)
            try:
                return await anyio.to_thread.run_sync(handler, request, limiter=self._limiter)
            except (HTTPException, ArchiveError, OSError):
                raise
            except Exception:  # here and not in Starlette's outermost layer, where the answer would go out without the guard's headers
                _log.exception("the page %r could not be made", request.scope["path"])
                return self._problems.ours(request)

        return endpoint


def _static(files: dict[str, Asset]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        asset = files.get(request.path_params["name"])
        if asset is None:
            raise HTTPException(404, "The viewer has no such file.")
        # Its name carries its version, so it may be kept; nothing of the archive is in it.
        headers = {"Cache-Control": "public, max-age=31536000, immutable"} if request.query_params.get("v") == asset.version else {}
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    return endpoint


async def _health(request: Request) -> Response:
    return PlainTextResponse("ok\n")
