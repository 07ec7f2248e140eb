"""Made exchanges for the archive's part of the bench: bodies of real prose and code, as records and as codex-lb would hold them.

The text is what every Python brings along (its language reference and three of its modules), cut differently for each body, so that
it packs about as a coding agent's requests do: 3.0 times with ISA-L level 1 at 200 KB.
"""

from __future__ import annotations

import argparse
import asyncio.base_events
import inspect
import json
import time
import typing
from pydoc_data.topics import topics
from typing import Any

from workloads import HEADS

from archive.record import Body, Client, End, EndReason, Record, Request, Response, Timing, Upstream, new_id

REQUEST_HEAD = [(name.encode(), value.encode()) for name, value in HEADS["sdk"]]
RESPONSE_HEAD = [(f"x-header-{n}".encode(), b"a value as long as they usually are") for n in range(11)]
ANSWER = b'{"id":"chatcmpl-bench","choices":[{"index":0,"message":{"role":"assistant","content":"Yes."},"finish_reason":"stop"}]}'
SOURCES = ["\n\n".join(topics.values()), "\n".join(inspect.getsource(module) for module in (argparse, typing, asyncio.base_events))]
MESSAGE = 3000
"""Characters of a message: prose and code by turns."""
DISTINCT = 64
"""Bodies that differ; more would only cost the bench memory."""


def body_of(size: int, seed: int) -> bytes:
    """A chat request of exactly `size` bytes of JSON (ASCII; `size` at least 100)."""
    messages: list[dict[str, str]] = []
    length = number = 0
    while length < size:
        source = SOURCES[number % 2]
        at = (seed * 7919 + number * 104729) % (len(source) - MESSAGE)
        messages.append({"role": ("user", "assistant")[number % 2], "content": source[at : at + MESSAGE]})
        length += MESSAGE
        number += 1
    text = json.dumps({"model": "bench-1", "messages": messages}).encode()[: size - 6]
    while text[-6:].rpartition(b"\\")[1]:
        text = text[:-1]  # not in the middle of an escape
    return text.ljust(size - 4) + b'"}]}'


def bodies(size: int) -> list[bytes]:
    """Bodies of `size` bytes to go round in."""
    return [body_of(size, seed) for seed in range(max(4, min(DISTINCT, 8_000_000 // size)))]


def record(body: bytes) -> Record:
    """What a capture makes of one exchange with this request body."""
    return Record(
        id=new_id(time.time_ns() // 1_000_000),
        part=0,
        at=time.time(),
        client=Client("127.0.0.1:50000"),
        upstream=Upstream("openai", "https://api.example"),
        request=Request(b"POST", b"/openai/v1/chat/completions", REQUEST_HEAD),
        request_body=Body([body], ended=True),
        response=Response(200, RESPONSE_HEAD, b"OK"),
        response_body=Body([ANSWER], ended=True),
        timing=Timing(1.25, 2.5, [(0, 1.25)]),
        end=End(EndReason.COMPLETE),
        weight=len(body) + 2048 + 160 * (len(REQUEST_HEAD) + len(RESPONSE_HEAD)),
    )


def archived(payload: Any, **more: Any) -> dict[str, Any]:
    """One record as codex-lb makes them: a dict around the parsed request, or around one event's text."""
    head = {name: value if name != "Authorization" else "[redacted]" for name, value in HEADS["sdk"]}
    return {
        "timestamp": "2026-11-20T10:00:00.000000+00:00",
        "request_id": "req_0123456789abcdef",
        "direction": "codex_to_server",
        "kind": "responses",
        "transport": "http",
        "account_id": None,
        "method": "POST",
        "url": "https://api.example/v1/chat/completions",
        "status_code": None,
        "headers": head,
        "payload": payload,
        **more,
    }
