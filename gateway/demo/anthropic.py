"""Anthropic's Messages as the demo upstream speaks them.

Shapes: https://docs.claude.com/en/api/messages and https://docs.claude.com/en/docs/build-with-claude/streaming.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime

from gateway.demo.chat import text_of
from gateway.demo.words import Ask, Json, Reply, Stamp, Tool, compact, count_tokens, pieces

__all__ = ["error", "events", "headers", "models", "read", "whole"]

MODELS = ("claude-opus-5-5", "demo-429", "demo-abort")


def read(body: Json) -> Ask:
    """What a request asks for. Raises KeyError or TypeError where it is malformed."""
    messages: list[Json] = body["messages"]
    asked = [text for message in messages if message["role"] == "user" and (text := text_of(message["content"]))]
    last = messages[-1]["content"] if messages else ""
    results = [] if isinstance(last, str) else [text_of(part.get("content")) for part in last if part.get("type") == "tool_result"]
    choice = body.get("tool_choice") or {}
    shape = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    return Ask(
        model=body["model"],
        question=asked[-1] if asked else "",
        prompt_tokens=count_tokens(json.dumps([body.get("system"), messages], ensure_ascii=False)),
        tools=[_tool(tool) for tool in body.get("tools") or () if "input_schema" in tool],
        choice=choice.get("name") or choice.get("type", "auto"),
        result="\n".join(results) if results else None,
        thinking=(body.get("thinking") or {}).get("type") in {"enabled", "adaptive"},
        schema=shape.get("schema") if shape.get("type") == "json_schema" else None,
        limit=body.get("max_tokens"),
        stream=bool(body.get("stream")),
    )


def _tool(tool: Json) -> Tool:
    return Tool(tool["name"], tool.get("description") or "", tool["input_schema"])


def whole(ask: Ask, reply: Reply, stamp: Stamp) -> Json:
    """The answer in one piece."""
    return _message(ask, stamp) | {"content": _blocks(reply, stamp), "stop_reason": _stop(reply), "usage": _usage(ask, reply.tokens)}


def events(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
    """The answer as server-sent events, those that come together in one piece."""
    yield _event("message_start", message=_message(ask, stamp) | {"usage": _usage(ask, 1)}) + _event("ping")
    for index, block in enumerate(_blocks(reply, stamp)):
        deltas, empty = _deltas(block)
        yield _event("content_block_start", index=index, content_block=block | empty)
        for delta in deltas:
            yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    ending = {"stop_reason": _stop(reply), "stop_sequence": None}
    yield _event("message_delta", delta=ending, usage=_usage(ask, reply.tokens)) + _event("message_stop")


def _event(type: str, **fields: object) -> str:
    return f"event: {type}\ndata: {compact({'type': type, **fields})}\n\n"


def _blocks(reply: Reply, stamp: Stamp) -> list[Json]:
    blocks: list[Json] = []
    if reply.thoughts:
        signature = base64.b64encode(stamp.digest("signature") * 3).decode()
        blocks.append({"type": "thinking", "thinking": reply.thoughts, "signature": signature})
    if reply.text:
        blocks.append({"type": "text", "text": reply.text})
    if reply.call:
        blocks.append({"type": "tool_use", "id": stamp.id("toolu_01", length=22), "name": reply.call.name, "input": reply.call.arguments})
    return blocks


def _deltas(block: Json) -> tuple[list[Json], Json]:
    """How a stream brings `block`: its deltas, and what it begins with in their place."""
    match block["type"]:
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            return [*deltas, {"type": "signature_delta", "signature": block["signature"]}], {"thinking": "", "signature": ""}
        case "tool_use":
            text = json.dumps(block["input"], ensure_ascii=False)
            parts = ["", *(text[start : start + 12] for start in range(0, len(text), 12))]  # the real one begins with an empty one too
            return [{"type": "input_json_delta", "partial_json": part} for part in parts], {"input": {}}
        case _:
            return [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])], {"text": ""}


def _message(ask: Ask, stamp: Stamp) -> Json:
    return {
        "id": stamp.id("msg_01", length=22),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(reply: Reply) -> str:
    return "tool_use" if reply.call else "max_tokens" if reply.cut else "end_turn"


def _usage(ask: Ask, tokens: int) -> Json:
    cache = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return {"input_tokens": ask.prompt_tokens, **cache, "output_tokens": tokens, "service_tier": "standard"}


def models() -> Json:
    """The list of models, all of it on one page."""
    listed = [{"type": "model", "id": name, "display_name": name, "created_at": "2025-11-20T10:00:00Z"} for name in MODELS]
    return {"data": listed, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}


def error(status: int, message: str, stamp: Stamp) -> Json:
    """An error as Anthropic words it. https://docs.claude.com/en/api/errors"""
    kind = {429: "rate_limit_error", 404: "not_found_error"}.get(status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": _request_id(stamp)}


def headers(stamp: Stamp, status: int) -> dict[str, str]:
    """The headers a hosted answer carries: request id and rate limits. https://docs.claude.com/en/api/rate-limits#response-headers"""
    reset = datetime.fromtimestamp(stamp.unix + 1, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    limits = {"requests": (4000, 3999), "input-tokens": (400000, 399000), "output-tokens": (80000, 80000), "tokens": (480000, 479000)}
    found = {"request-id": _request_id(stamp), "anthropic-organization-id": "00000000-0000-4000-8000-000000000000"}
    for name, (limit, left) in limits.items():
        found[f"anthropic-ratelimit-{name}-limit"] = str(limit)
        found[f"anthropic-ratelimit-{name}-remaining"] = "0" if status == 429 else str(left)
        found[f"anthropic-ratelimit-{name}-reset"] = reset
    return found


def _request_id(stamp: Stamp) -> str:
    return stamp.id("req_011C", length=20)
