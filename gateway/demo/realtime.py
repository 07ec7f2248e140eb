"""OpenAI's Realtime as the demo upstream speaks it: text only, one event in, some events out.

Shapes: https://platform.openai.com/docs/api-reference/realtime-server-events. No socket here; `server` carries the messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from gateway.demo.chat import text_of
from gateway.demo.mind import reply
from gateway.demo.words import MALFORMED, Ask, Json, Reply, Stamp, count_tokens, pieces

__all__ = ["Session"]


class Session:
    """One conversation over one websocket."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._asked: list[str] = []
        self._said: list[bytes] = [model.encode()]
        self._events = 0
        self._settings: Json = {"output_modalities": ["text"], "instructions": "", "tools": [], "tool_choice": "auto"}

    def opening(self) -> Json:
        """The first event, sent unasked."""
        return self._event("session.created", session=self._session())

    def receive(self, text: str) -> Iterator[list[Json]]:
        """The events that answer one message, those that come together in one list."""
        self._said.append(text.encode())
        try:
            bursts = self._answer(json.loads(text))
        except MALFORMED as error:
            bursts = iter([[self._error(f"The server could not read the event ({type(error).__name__}: {error}).", None)]])
        yield from bursts

    def _answer(self, event: Json) -> Iterator[list[Json]]:
        match event["type"]:
            case "session.update":
                self._settings |= {key: value for key, value in event["session"].items() if key != "type"}
                return iter([[self._event("session.updated", session=self._session())]])
            case "conversation.item.create":
                own_id = self._stamp().id("item_", length=21)
                item: Json = {"id": own_id, "object": "realtime.item", "status": "completed", **event["item"]}
                self._asked.append(text_of(item.get("content")))
                kinds = ("conversation.item.added", "conversation.item.done")
                return iter([[self._event(kind, previous_item_id=None, item=item) for kind in kinds]])
            case "response.create":
                question = self._asked[-1] if self._asked else ""
                ask = Ask(self._model, question, count_tokens("".join(self._asked)))
                return self._respond(ask, reply(ask))
            case kind:
                return iter([[self._error(f"Unknown event type '{kind}'.", event.get("event_id"))]])

    def _respond(self, ask: Ask, reply: Reply) -> Iterator[list[Json]]:
        stamp = self._stamp()
        response: Json = {
            "id": stamp.id("resp_", length=21),
            "object": "realtime.response",
            "status": "in_progress",
            "output": [],
            "usage": None,
        }
        item: Json = {"id": stamp.id("item_", "answer", 21), "object": "realtime.item", "type": "message", "role": "assistant"}
        part = {"type": "output_text", "text": reply.text}
        begun, done = item | {"status": "in_progress", "content": []}, item | {"status": "completed", "content": [part]}
        at = {"response_id": response["id"], "output_index": 0}
        within = at | {"item_id": item["id"], "content_index": 0}
        yield [
            self._event("response.created", response=response | {"output": [], "usage": None}),
            self._event("response.output_item.added", **at, item=begun),
            self._event("conversation.item.added", previous_item_id=None, item=begun),
            self._event("response.content_part.added", **within, part=part | {"text": ""}),
        ]
        for piece in pieces(reply.text):
            yield [self._event("response.output_text.delta", **within, delta=piece)]
        usage = {"total_tokens": ask.prompt_tokens + reply.tokens, "input_tokens": ask.prompt_tokens, "output_tokens": reply.tokens}
        yield [
            self._event("response.output_text.done", **within, text=reply.text),
            self._event("response.content_part.done", **within, part=part),
            self._event("response.output_item.done", **at, item=done),
            self._event("conversation.item.done", previous_item_id=None, item=done),
            self._event("response.done", response=response | {"status": "completed", "output": [done], "usage": usage}),
        ]

    def _session(self) -> Json:
        stamp = Stamp(self._said[0])
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": stamp.id("sess_", length=21),
            "model": self._model,
            **self._settings,
        }

    def _error(self, message: str, event_id: str | None) -> Json:
        error = {"type": "invalid_request_error", "code": "invalid_value", "message": message, "param": None, "event_id": event_id}
        return self._event("error", error=error)

    def _event(self, type: str, **fields: object) -> Json:
        self._events += 1
        return {"type": type, "event_id": self._stamp().id("event_", str(self._events), 21), **fields}

    def _stamp(self) -> Stamp:
        return Stamp(*self._said)
