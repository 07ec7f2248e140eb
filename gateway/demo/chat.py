"""OpenAI's Chat Completions as the demo upstream speaks them, with the embeddings, models and files beside them.

Shapes: https://platform.openai.com/docs/api-reference/chat, with the fields a hosted answer carries.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

from gateway.demo.words import Ask, Json, Reply, Stamp, Tool, compact, count_tokens, pieces

__all__ = ["embeddings", "error", "events", "file", "headers", "models", "read", "text_of", "whole"]

MODELS = ("gpt-5", "gpt-5-mini", "gpt-realtime", "text-embedding-3-small", "demo-429", "demo-abort")
DIMENSIONS, MOST_DIMENSIONS = 1536, 3072
"""What text-embedding-3-small gives unasked, and the most that OpenAI's models give."""


def read(body: Json) -> Ask:
    """What a request asks for. Raises KeyError or TypeError where it is malformed."""
    messages: list[Json] = body["messages"]
    asked = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    shape = body.get("response_format") or {}
    return Ask(
        model=body["model"],
        question=asked[-1] if asked else "",
        prompt_tokens=count_tokens(json.dumps(messages, ensure_ascii=False)),
        tools=[_tool(tool["function"]) for tool in body.get("tools") or () if tool.get("type") == "function"],
        choice=_choice(body.get("tool_choice")),
        result=text_of(messages[-1].get("content")) if messages and messages[-1]["role"] == "tool" else None,
        thinking=body.get("reasoning_effort") not in {None, "none"},
        schema=shape["json_schema"].get("schema", {}) if shape.get("type") == "json_schema" else None,
        limit=body.get("max_completion_tokens") or body.get("max_tokens"),
        stream=bool(body.get("stream")),
        usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )


def text_of(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content or () if "text" in part)


def _tool(function: Json) -> Tool:
    return Tool(function["name"], function.get("description") or "", function.get("parameters") or {})


def _choice(choice: Any) -> str:
    if isinstance(choice, dict):
        return str(choice.get("function", choice).get("name", "auto"))
    return "any" if choice == "required" else choice or "auto"


def whole(ask: Ask, reply: Reply, stamp: Stamp) -> Json:
    """The answer in one piece."""
    message: Json = {"role": "assistant", "content": reply.text if not reply.call else None, "refusal": None, "annotations": []}
    if reply.call:
        message["tool_calls"] = [_tool_call(reply, stamp)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return _frame(ask, stamp, "chat.completion") | {"choices": [choice], "usage": _usage(ask, reply), "system_fingerprint": "fp_verbatim"}


def events(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
    """The answer as server-sent events; the usage in a chunk of its own, for those who asked."""

    def chunk(delta: Json, finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data(frame | {"system_fingerprint": "fp_verbatim", "choices": [choice]})

    frame = _frame(ask, stamp, "chat.completion.chunk")
    if reply.call:
        call = _tool_call(reply, stamp)
        opening = {**call, "index": 0, "function": {**call["function"], "arguments": ""}}
        yield chunk({"role": "assistant", "content": None, "tool_calls": [opening], "refusal": None})
        for piece in _slices(reply.call.text):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    else:
        yield chunk({"role": "assistant", "content": "", "refusal": None})
        for piece in pieces(reply.text):
            yield chunk({"content": piece})
    usage = _data(frame | {"choices": [], "usage": _usage(ask, reply)}) if ask.usage else ""
    yield chunk({}, _finish(reply)) + usage + "data: [DONE]\n\n"


def _slices(text: str, size: int = 12) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def _data(value: Json) -> str:
    return f"data: {compact(value)}\n\n"


def _frame(ask: Ask, stamp: Stamp, kind: str) -> Json:
    return {"id": stamp.id("chatcmpl-", length=29), "object": kind, "created": stamp.unix, "model": ask.model, "service_tier": "default"}


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.call else "length" if reply.cut else "stop"


def _tool_call(reply: Reply, stamp: Stamp) -> Json:
    assert reply.call
    return {"id": stamp.id("call_"), "type": "function", "function": {"name": reply.call.name, "arguments": reply.call.text}}


def _usage(ask: Ask, reply: Reply) -> Json:
    return {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": ask.prompt_tokens + reply.tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": count_tokens(reply.thoughts),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error(status: int, message: str, stamp: Stamp) -> Json:
    """An error as OpenAI words it. https://platform.openai.com/docs/guides/error-codes"""
    kind, code = {429: ("tokens", "rate_limit_exceeded"), 404: ("invalid_request_error", "unknown_url")}.get(
        status, ("invalid_request_error", None)
    )
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def headers(stamp: Stamp, status: int) -> dict[str, str]:
    """The headers a hosted answer carries: request id, processing time, rate limits."""
    spent = status == 429
    return {
        "x-request-id": "req_" + stamp.digest("request").hex()[:32],
        "openai-organization": "verbatim-demo",
        "openai-processing-ms": str(80 + stamp.digest("took")[0]),
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-remaining-tokens": "0" if spent else "199850",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-reset-tokens": "1s" if spent else "45ms",
    }


def models() -> Json:
    """The list of models."""
    created = Stamp(b"models").unix
    return {"object": "list", "data": [{"id": name, "object": "model", "created": created, "owned_by": "verbatim-demo"} for name in MODELS]}


def embeddings(body: Json) -> Json:
    """One vector of unit-like numbers per input, the same for the same input. Raises ValueError,
    KeyError or TypeError where `body` is malformed."""
    inputs = body["input"] if isinstance(body["input"], list) and not all(isinstance(i, int) for i in body["input"]) else [body["input"]]
    size = body.get("dimensions") or DIMENSIONS
    if not 0 < size <= MOST_DIMENSIONS:
        raise ValueError(f"dimensions must be from 1 to {MOST_DIMENSIONS}")
    vectors: list[Any] = [_vector(json.dumps(item), size) for item in inputs]
    if body.get("encoding_format") == "base64":  # what OpenAI's own SDK asks for: little-endian 32-bit floats
        vectors = [base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    tokens = sum(count_tokens(json.dumps(item)) for item in inputs)
    return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _vector(text: str, size: int) -> list[float]:
    noise = b"".join(Stamp(text.encode()).digest(str(part)) for part in range(size // 32 + 1))
    return [round((byte - 127.5) / 5000, 7) for byte in noise[:size]]


def file(content_type: str, body: bytes) -> Json:
    """The answer to an upload: a file object about the part named "file" of a multipart/form-data body (RFC 7578). Raises ValueError."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if not boundary:
        raise ValueError("Expected multipart/form-data with a file.")
    parts: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary[1].encode("latin-1"))[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        found = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode("utf-8", "replace")))
        parts[found.get("name", "")] = found.get("filename", ""), content.removesuffix(b"\r\n")
    if "file" not in parts:
        raise ValueError("'file' is a required property")
    filename, content = parts["file"]
    stamp = Stamp(content)
    return {
        "id": stamp.id("file-"),
        "object": "file",
        "bytes": len(content),
        "created_at": stamp.unix,
        "filename": filename or "upload",
        "purpose": parts.get("purpose", ("", b"user_data"))[1].decode("utf-8", "replace"),
        "status": "processed",
    }
