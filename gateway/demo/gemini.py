"""Google's Gemini API (generateContent and its kin) as the demo upstream speaks it.

Shapes: https://ai.google.dev/api/generate-content. A stream is server-sent events with `alt=sse` and one JSON array without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.demo.words import Ask, Json, Reply, Stamp, Tool, count_tokens, pieces, spaced

__all__ = ["array", "error", "events", "headers", "models", "read", "whole"]

WORDS_PER_CHUNK = 6
"""Gemini streams in larger bites than the others."""

MODELS = ("gemini-2.5-flash", "demo-429", "demo-abort")


def read(body: Json) -> Ask:
    """What a request asks for; `body` also holds `model` and `stream`, from the path. Raises KeyError or TypeError if it is malformed."""
    contents: list[Json] = body["contents"]
    config: Json = _either(body, "generationConfig") or {}
    asked = [text for content in contents if content.get("role", "user") == "user" and (text := _text(content))]
    results = [_either(part, "functionResponse") for part in (contents[-1].get("parts") or () if contents else ())]
    answered = [json.dumps(result.get("response"), ensure_ascii=False) for result in results if result]
    calling: Json = _either(_either(body, "toolConfig") or {}, "functionCallingConfig") or {}
    names = calling.get("allowedFunctionNames") or [calling.get("mode", "auto").lower()]
    return Ask(
        model=body["model"],
        question=asked[-1] if asked else "",
        prompt_tokens=count_tokens(json.dumps(contents, ensure_ascii=False)),
        tools=[_tool(one) for tool in body.get("tools") or () for one in _either(tool, "functionDeclarations") or ()],
        choice=names[0],
        result="\n".join(answered) if answered else None,
        thinking=bool((_either(config, "thinkingConfig") or {}).get("includeThoughts")),
        schema=_either(config, "responseJsonSchema") or _either(config, "responseSchema"),
        limit=_either(config, "maxOutputTokens"),
        stream=body["stream"],
    )


def _either(value: Json, name: str) -> Any:
    """A field by its camelCase name or, as the API also takes it, in snake_case."""
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
    return value.get(name, value.get(snake))


def _text(content: Json) -> str:
    return "\n".join(part["text"] for part in content.get("parts") or () if "text" in part)


def _tool(function: Json) -> Tool:
    schema = _either(function, "parametersJsonSchema") or function.get("parameters") or {}
    return Tool(function["name"], function.get("description") or "", schema)


def whole(ask: Ask, reply: Reply, stamp: Stamp) -> Json:
    """The answer in one piece."""
    parts = [part for chunk in _chunks(reply, whole=True) for part in chunk]
    return _response(ask, reply, stamp, parts, last=True)


def events(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
    """The answer as server-sent events; the lines end in CRLF, as Google's do."""
    for response in _stream(ask, reply, stamp):
        yield f"data: {spaced(response)}\r\n\r\n"


def array(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[str]:
    """The answer as one JSON array that arrives element by element: what the API does without `alt=sse`."""
    before = "["
    for response in _stream(ask, reply, stamp):
        yield before + spaced(response, indent=2)
        before = ",\r\n"
    yield "]"


def _stream(ask: Ask, reply: Reply, stamp: Stamp) -> Iterator[Json]:
    chunks = _chunks(reply)
    for number, parts in enumerate(chunks, 1):
        yield _response(ask, reply, stamp, parts, last=number == len(chunks))


def _chunks(reply: Reply, *, whole: bool = False) -> list[list[Json]]:
    """The reply's parts, chunk by chunk."""
    chunks: list[list[Json]] = []
    if reply.thoughts:
        chunks.append([{"text": reply.thoughts, "thought": True}])
    if reply.call:
        return [*chunks, [{"functionCall": {"name": reply.call.name, "args": reply.call.arguments}}]]
    words = [reply.text] if whole else pieces(reply.text)
    groups = ["".join(words[start : start + WORDS_PER_CHUNK]) for start in range(0, len(words), WORDS_PER_CHUNK)]
    return [*chunks, *([{"text": group}] for group in groups or [""])]


def _response(ask: Ask, reply: Reply, stamp: Stamp, parts: list[Json], *, last: bool) -> Json:
    candidate: Json = {"content": {"parts": parts, "role": "model"}, "index": 0}
    if last:
        candidate["finishReason"] = "MAX_TOKENS" if reply.cut else "STOP"
    return {
        "candidates": [candidate],
        "usageMetadata": _usage(ask, reply),
        "modelVersion": ask.model,
        "responseId": stamp.id("", "response", length=22),
    }


def _usage(ask: Ask, reply: Reply) -> Json:
    thoughts = count_tokens(reply.thoughts)
    usage: Json = {
        "promptTokenCount": ask.prompt_tokens,
        "candidatesTokenCount": reply.tokens - thoughts,
        "totalTokenCount": ask.prompt_tokens + reply.tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": ask.prompt_tokens}],
    }
    return usage | ({"thoughtsTokenCount": thoughts} if thoughts else {})


def models() -> Json:
    """The list of models."""
    methods = ["generateContent", "countTokens"]
    return {"models": [{"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": methods} for name in MODELS]}


def error(status: int, message: str, stamp: Stamp) -> Json:
    """An error as Google words it. https://cloud.google.com/apis/design/errors"""
    kind = {429: "RESOURCE_EXHAUSTED", 404: "NOT_FOUND"}.get(status, "INVALID_ARGUMENT")
    body: Json = {"code": status, "message": message, "status": kind}
    if status == 429:
        body["details"] = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}]
    return {"error": body}


def headers(stamp: Stamp, status: int) -> dict[str, str]:
    """The headers a hosted answer carries."""
    return {
        "vary": "Origin, X-Origin, Referer",
        "server-timing": f"gfet4t7; dur={200 + stamp.digest('took')[0]}",
        "x-content-type-options": "nosniff",
        "x-frame-options": "SAMEORIGIN",
        "x-xss-protection": "0",
    }
