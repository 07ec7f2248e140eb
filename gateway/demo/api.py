"""The demo upstream's HTTP side: one Starlette app that gives each dialect its paths and paces its answers like a hosted model.

Two models misbehave on purpose: `demo-429` answers 429 with Retry-After, `demo-abort` breaks the connection in the middle of an
event. No state is kept between requests. The websockets are `cable`'s.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Protocol, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from gateway.demo import anthropic, cable, chat, gemini, responses
from gateway.demo.mind import reply
from gateway.demo.words import MALFORMED, Ask, Json, Reply, Stamp, spaced

__all__ = ["app"]

T = TypeVar("T")
COMPRESS_FROM = 600
"""Bytes from which an answer is compressed for those who accept it, as the real front ends do."""
GEMINI_VERSIONS = ("v1beta", "v1")
"""Google's SDK says v1 from its third major version on; documents and older clients say v1beta."""
EVENTS, JSON = "text/event-stream; charset=utf-8", "application/json"


class Dialect(Protocol):
    """One provider's way of saying things: what each dialect module offers."""

    def read(self, body: Json) -> Ask:
        """What a request asks for. Raises one of MALFORMED where it is malformed."""

    def whole(self, ask: Ask, reply: Reply, stamp: Stamp) -> Json:
        """The answer in one piece."""

    def events(self, ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
        """The answer piece by piece."""

    def error(self, status: int, message: str, stamp: Stamp) -> Json:
        """An error in the provider's words."""

    def headers(self, stamp: Stamp, status: int) -> dict[str, str]:
        """The headers the provider adds."""


def app(pace: float = 1.0) -> Starlette:
    """The demo upstream. `pace` stretches its pauses: 1 is like a hosted model, 0 answers at once."""

    def post(path: str, dialect: Dialect, read: Callable[[Request, bytes], T], answer: Callable[..., Awaitable[Response]]) -> Route:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            stamp = Stamp(request.url.path.encode(), raw)
            try:
                asked = read(request, raw)
            except MALFORMED as error:
                message = f"The body is not what {path} takes ({type(error).__name__}: {error})."
                return _error(dialect, 400, message, stamp)
            return await answer(dialect, request, asked, stamp, pace)

        return Route(path, endpoint, methods=["POST"])

    def generate(path: str, dialect: Dialect) -> Route:
        return post(path, dialect, lambda _, raw: _think(dialect.read(json.loads(raw))), _generate)

    return Starlette(
        routes=[
            generate("/v1/chat/completions", chat),
            generate("/v1/responses", responses),
            generate("/v1/messages", anthropic),
            post("/v1/messages/count_tokens", anthropic, lambda _, raw: anthropic.read(json.loads(raw)), _count_tokens),
            post("/v1/embeddings", chat, lambda _, raw: chat.embeddings(json.loads(raw)), _plain),
            post("/v1/files", chat, lambda request, raw: chat.file(request.headers.get("content-type", ""), raw), _plain),
            *(post(f"/{version}/models/{{model}}:{{verb}}", gemini, _read_gemini, _gemini) for version in GEMINI_VERSIONS),
            Route("/v1/models", _models),
            Route("/v1beta/models", _gemini_models),
            *cable.routes(pace),
        ],
        exception_handlers={404: _unknown, 405: _unknown},
    )


def _think(ask: Ask) -> tuple[Ask, Reply]:
    return ask, reply(ask)


async def _generate(dialect: Dialect, request: Request, thought: tuple[Ask, Reply], stamp: Stamp, pace: float) -> Response:
    ask, said = thought
    if ask.model == "demo-429":
        message = "Rate limit reached for demo-429 in the demo upstream. Please try again in 1s."
        return _error(dialect, 429, message, stamp, {"retry-after": "1"})
    if ask.stream:
        return await _stream(dialect, ask, dialect.events(ask, said, stamp), stamp, pace, EVENTS)
    answer = dialect.whole(ask, said, stamp)
    if ask.model == "demo-abort":
        return await _stream(dialect, ask, iter([spaced(answer, indent=2)]), stamp, pace, JSON)
    return await _plain(dialect, request, answer, stamp, pace)


async def _plain(dialect: Dialect, request: Request, answer: Json, stamp: Stamp, pace: float) -> Response:
    await asyncio.sleep(pace * next(stamp.pauses()))
    return _json(dialect, request, answer, stamp)


async def _count_tokens(dialect: Dialect, request: Request, ask: Ask, stamp: Stamp, pace: float) -> Response:
    return await _plain(dialect, request, {"input_tokens": ask.prompt_tokens}, stamp, pace)


def _read_gemini(request: Request, raw: bytes) -> tuple[Ask, Reply]:
    streaming = request.path_params["verb"] == "streamGenerateContent"
    return _think(gemini.read({**json.loads(raw), "model": request.path_params["model"], "stream": streaming}))


async def _gemini(dialect: Dialect, request: Request, thought: tuple[Ask, Reply], stamp: Stamp, pace: float) -> Response:
    ask, said = thought
    verb = request.path_params["verb"]
    if verb == "countTokens":
        return await _plain(dialect, request, {"totalTokens": ask.prompt_tokens}, stamp, pace)
    if verb == "streamGenerateContent" and request.query_params.get("alt") != "sse" and ask.model != "demo-429":
        return await _stream(dialect, ask, gemini.array(ask, said, stamp), stamp, pace, JSON)
    if verb in {"generateContent", "streamGenerateContent"}:
        return await _generate(dialect, request, thought, stamp, pace)
    return _error(dialect, 404, f"The demo does not know the method {verb}.", stamp)


async def _stream(dialect: Dialect, ask: Ask, pieces: Iterator[str], stamp: Stamp, pace: float, media_type: str) -> Response:
    pauses = stamp.pauses()
    await asyncio.sleep(pace * next(pauses))  # thinking: a model's head comes with its first words
    headers = dialect.headers(stamp, 200) | {"cache-control": "no-cache", "content-type": media_type}
    if ask.model == "demo-abort":
        return _Broken(_paced(_halved(pieces), pauses, pace), headers=headers)
    return StreamingResponse(_paced(pieces, pauses, pace), headers=headers)


def _halved(pieces: Iterator[str]) -> Iterator[str]:
    """The first half of the pieces, and a half of the next."""
    whole = list(pieces)
    middle = len(whole) // 2
    yield from whole[:middle]
    yield whole[middle][: len(whole[middle]) // 2]


async def _paced(pieces: Iterator[str], pauses: Iterator[float], pace: float) -> AsyncIterator[bytes]:
    """The pieces with a pause between any two."""
    pause = 0.0
    for piece, following in zip(pieces, pauses, strict=False):
        await asyncio.sleep(pause * pace)
        yield piece.encode()
        pause = following


class _Broken(StreamingResponse):
    """A response that never says it has ended, so that the server breaks the connection: what a crashed upstream looks like."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.body_iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _models(request: Request) -> Response:
    stamp = Stamp(b"models")
    if "anthropic-version" in request.headers:  # both providers list their models at this path
        return _json(anthropic, request, anthropic.models(), stamp)
    return _json(chat, request, chat.models(), stamp)


async def _gemini_models(request: Request) -> Response:
    return _json(gemini, request, gemini.models(), Stamp(b"models"))


async def _unknown(request: Request, exc: Exception) -> Response:
    message = f"The demo upstream has nothing at {request.method} {request.url.path}."
    dialect: Dialect = anthropic if "anthropic-version" in request.headers else chat
    if request.url.path.startswith("/v1beta"):
        dialect = gemini
    return _error(dialect, 404, message, Stamp(request.url.path.encode()))


def _json(dialect: Dialect, request: Request, value: Json, stamp: Stamp) -> Response:
    body = spaced(value, indent=None if dialect is anthropic else 2).encode()
    headers = dialect.headers(stamp, 200)
    if len(body) >= COMPRESS_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, mtime=0)
        headers["content-encoding"] = "gzip"
    return Response(body, headers=headers, media_type=JSON)


def _error(dialect: Dialect, status: int, message: str, stamp: Stamp, extra: dict[str, str] | None = None) -> Response:
    body = spaced(dialect.error(status, message, stamp))
    return Response(body, status, dialect.headers(stamp, status) | (extra or {}), JSON)
