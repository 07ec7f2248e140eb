"""OpenAI's Responses as the demo upstream speaks them: over HTTP, and over a websocket where each event is one message.

Shapes: https://platform.openai.com/docs/api-reference/responses-streaming. Errors and headers are those of `chat`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.demo.chat import error, headers, text_of
from gateway.demo.words import Ask, Json, Reply, Stamp, Tool, compact, count_tokens, pieces

__all__ = ["error", "events", "headers", "messages", "read", "whole"]


def read(body: Json) -> Ask:
    """What a request asks for. Raises KeyError or TypeError where it is malformed."""
    given = body.get("input") or ""
    items: list[Json] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    asked = [text_of(item.get("content")) for item in items if item.get("role") == "user"]
    last = items[-1] if items else {}
    shape = (body.get("text") or {}).get("format") or {}
    choice = body.get("tool_choice") or "auto"
    return Ask(
        model=body["model"],
        question=asked[-1] if asked else "",
        prompt_tokens=count_tokens(json.dumps([body.get("instructions"), items], ensure_ascii=False)),
        tools=[_tool(tool) for tool in body.get("tools") or () if tool.get("type") == "function"],
        choice=choice.get("name", "auto") if isinstance(choice, dict) else {"required": "any"}.get(choice, choice),
        result=_result(last.get("output")) if last.get("type") == "function_call_output" else None,
        thinking=bool(body.get("reasoning")),
        schema=shape.get("schema", {}) if shape.get("type") == "json_schema" else None,
        limit=body.get("max_output_tokens"),
        stream=bool(body.get("stream")),
    )


def _tool(tool: Json) -> Tool:
    return Tool(tool["name"], tool.get("description") or "", tool.get("parameters") or {})


def _result(output: Any) -> str:
    return output if isinstance(output, str) else text_of(output)


def whole(ask: Ask, reply: Reply, stamp: Stamp) -> Json:
    """The answer in one piece."""
    return _response(ask, stamp) | _ending(reply) | {"output": _items(reply, stamp), "usage": _usage(ask, reply)}


def events(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
    """The answer as server-sent events, those that come together in one piece."""
    for burst in _bursts(ask, reply, stamp):
        yield "".join(f"event: {event['type']}\ndata: {compact(event)}\n\n" for event in burst)


def messages(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[list[str]]:
    """The same events as websocket text messages, those that come together in one list."""
    for burst in _bursts(ask, reply, stamp):
        yield [compact(event) for event in burst]


def _bursts(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[list[Json]]:
    number = 0
    for burst in _unnumbered(ask, reply, stamp):
        yield [event | {"sequence_number": number + offset} for offset, event in enumerate(burst)]
        number += len(burst)


def _unnumbered(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[list[Json]]:
    begun = _response(ask, stamp)
    yield [{"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}]
    items = _items(reply, stamp)
    for index, item in enumerate(items):
        parts = {"reasoning": _reasoning, "function_call": _function_call, "message": _message}[item["type"]]
        yield from parts(item, {"output_index": index, "item_id": item["id"]})
    done = begun | _ending(reply) | {"output": items, "usage": _usage(ask, reply)}
    yield [{"type": "response.incomplete" if reply.cut else "response.completed", "response": done}]


def _reasoning(item: Json, at: Json) -> Iterator[list[Json]]:
    at = at | {"summary_index": 0}
    part = item["summary"][0]
    yield [
        _added(item | {"summary": []}, at),
        {"type": "response.reasoning_summary_part.added", **at, "part": part | {"text": ""}},
    ]
    for piece in pieces(part["text"]):
        yield [{"type": "response.reasoning_summary_text.delta", **at, "delta": piece}]
    yield [
        {"type": "response.reasoning_summary_text.done", **at, "text": part["text"]},
        {"type": "response.reasoning_summary_part.done", **at, "part": part},
        _done(item, at),
    ]


def _function_call(item: Json, at: Json) -> Iterator[list[Json]]:
    yield [_added(item | {"arguments": "", "status": "in_progress"}, at)]
    text = item["arguments"]
    for start in range(0, len(text), 12):
        yield [{"type": "response.function_call_arguments.delta", **at, "delta": text[start : start + 12]}]
    yield [{"type": "response.function_call_arguments.done", **at, "name": item["name"], "arguments": text}, _done(item, at)]


def _message(item: Json, at: Json) -> Iterator[list[Json]]:
    at = at | {"content_index": 0}
    part = item["content"][0]
    yield [
        _added(item | {"content": [], "status": "in_progress"}, at),
        {"type": "response.content_part.added", **at, "part": part | {"text": ""}},
    ]
    for piece in pieces(part["text"]):
        yield [{"type": "response.output_text.delta", **at, "delta": piece, "logprobs": []}]
    yield [
        {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part},
        _done(item, at),
    ]


def _added(item: Json, at: Json) -> Json:
    return {"type": "response.output_item.added", "output_index": at["output_index"], "item": item}


def _done(item: Json, at: Json) -> Json:
    return {"type": "response.output_item.done", "output_index": at["output_index"], "item": item}


def _items(reply: Reply, stamp: Stamp) -> list[Json]:
    items: list[Json] = []
    if reply.thoughts:
        summary = [{"type": "summary_text", "text": reply.thoughts}]
        items.append({"id": stamp.id("rs_"), "type": "reasoning", "summary": summary})
    if reply.call:
        call = {"call_id": stamp.id("call_"), "name": reply.call.name, "arguments": reply.call.text}
        items.append({"id": stamp.id("fc_"), "type": "function_call", "status": "completed", **call})
    else:
        content = [{"type": "output_text", "annotations": [], "logprobs": [], "text": reply.text}]
        items.append({"id": stamp.id("msg_"), "type": "message", "status": "completed", "role": "assistant", "content": content})
    return items


def _response(ask: Ask, stamp: Stamp) -> Json:
    return {
        "id": stamp.id("resp_", length=32),
        "object": "response",
        "created_at": stamp.unix,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": ask.limit,
        "metadata": {},
        "model": ask.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": "medium" if ask.thinking else None, "summary": "auto" if ask.thinking else None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [_definition(tool) for tool in ask.tools],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _definition(tool: Tool) -> Json:
    return {"type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema, "strict": False}


def _ending(reply: Reply) -> Json:
    return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}} if reply.cut else {"status": "completed"}


def _usage(ask: Ask, reply: Reply) -> Json:
    return {
        "input_tokens": ask.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": reply.tokens,
        "output_tokens_details": {"reasoning_tokens": count_tokens(reply.thoughts)},
        "total_tokens": ask.prompt_tokens + reply.tokens,
    }
