"""The demo upstream's websockets: OpenAI's Realtime and Responses, one text message per event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator

from starlette.responses import JSONResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.demo import chat, responses
from gateway.demo.mind import reply
from gateway.demo.realtime import Session
from gateway.demo.words import MALFORMED, Stamp, compact

__all__ = ["routes"]

UNSUPPORTED = 1003
"""The close code for a kind of message that an endpoint does not take (RFC 6455 section 7.4.1)."""

Answer = Callable[[str], Iterator[list[str]]]


def routes(pace: float) -> list[WebSocketRoute]:
    """The websocket endpoints, pauses stretched by `pace`."""

    def route(path: str, endpoint: Callable[[WebSocket, float], Awaitable[None]]) -> WebSocketRoute:
        async def paced(websocket: WebSocket) -> None:
            await endpoint(websocket, pace)

        return WebSocketRoute(path, paced)

    return [route("/v1/realtime", _realtime), route("/v1/responses", _responses)]


async def _realtime(websocket: WebSocket, pace: float) -> None:
    model = websocket.query_params.get("model", "gpt-realtime")
    if model == "demo-429":
        await _refuse(websocket, Stamp(model.encode()))
        return
    session = Session(model)
    await _accept(websocket, Stamp(model.encode()))
    await websocket.send_text(compact(session.opening()))
    await _converse(websocket, lambda text: ([compact(event) for event in burst] for burst in session.receive(text)), pace)


async def _responses(websocket: WebSocket, pace: float) -> None:
    await _accept(websocket, Stamp(b"responses"))
    await _converse(websocket, _response, pace)


def _response(text: str) -> Iterator[list[str]]:
    stamp = Stamp(text.encode())
    try:
        ask = responses.read(json.loads(text))
        said = reply(ask)
    except MALFORMED as error:
        yield [compact({"type": "error", "status": 400, **responses.error(400, f"{type(error).__name__}: {error}", stamp)})]
        return
    yield from responses.messages(ask, said, stamp)


async def _refuse(websocket: WebSocket, stamp: Stamp) -> None:
    body = chat.error(429, "Rate limit reached for demo-429 in the demo upstream.", stamp)
    await websocket.send_denial_response(JSONResponse(body, 429, chat.headers(stamp, 429) | {"retry-after": "1"}))


async def _accept(websocket: WebSocket, stamp: Stamp) -> None:
    headers = [(name.encode(), value.encode()) for name, value in chat.headers(stamp, 101).items()]
    await websocket.accept("realtime" if "realtime" in websocket.scope["subprotocols"] else None, headers)


async def _converse(websocket: WebSocket, answer: Answer, pace: float) -> None:
    try:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                await websocket.close(UNSUPPORTED, "Text messages only.")
                return
            for burst, pause in zip(answer(text), Stamp(text.encode()).pauses(), strict=False):
                await asyncio.sleep(pause * pace)
                for event in burst:
                    await websocket.send_text(event)
    except WebSocketDisconnect:  # the client left while it was being answered
        return
