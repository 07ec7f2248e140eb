"""Coding agents as they really ask (Claude Code, Codex, Gemini CLI, aider): heads as captured, bodies of the captured size and shape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audit import audit, pairs, undone
from rig import Tap, gateway, raw_request

from gateway import demo

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "cli"
AGENTS = {
    "aider_chat": ("openai", b"Verbatim"),
    "claude_messages": ("anthropic", b"event: message_stop"),
    "claude_tool_turn2": ("anthropic", b"event: message_stop"),
    "codex_responses": ("openai", b"event: response.completed"),
    "gemini_stream": ("gemini", b'"finishReason": "STOP"'),
}
"""Each captured request: the route it takes, and what the end of a good answer to it holds."""
FILLER = "Grüße aus dem Archiv, 世界 🌍. "


@pytest.fixture(scope="module")
def demo_port() -> Iterator[int]:
    with demo.running(pace=0) as url:
        yield int(url.rpartition(":")[2])


def restored(value: Any) -> Any:
    """A shortened body at its length again: "<N chars>" becomes N characters, "<N more>" goes."""
    if isinstance(value, dict):
        return {key: restored(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [restored(inner) for inner in value if not (isinstance(inner, str) and re.fullmatch(r"<\d+ more>", inner))]
    if isinstance(value, str) and (cut := re.fullmatch(r"<(\d+) chars>", value)):
        length = int(cut[1])
        return (FILLER * (length // len(FILLER) + 1))[:length]
    return value


def request(name: str) -> bytes:
    """The agent's request as it goes to a gateway: the head as captured but for Host, length and the route in front of the path."""
    fixture = json.loads((FIXTURES / f"{name}.request.json").read_text())
    body = json.dumps(restored(fixture["body_shape"]), ensure_ascii=False).encode()
    method, target, version = fixture["request_line"].split(" ")
    own = {"host": "gateway.test", "content-length": str(len(body))}
    fields = "".join(f"{key}: {own.get(key.lower(), value)}\r\n" for key, value in fixture["headers"])
    return f"{method} /{AGENTS[name][0]}{target} {version}\r\n{fields}\r\n".encode() + body


async def test_coding_agents_are_relayed_and_archived_as_they_ask(demo_port: int, tmp_path: Path) -> None:
    async with Tap(demo_port) as back:
        upstreams = dict.fromkeys(("openai", "anthropic", "gemini"), back.url)
        async with gateway(tmp_path, upstreams) as running, Tap(running.port) as front:
            for name in AGENTS:
                await raw_request(front.port, request(name))
    archived = audit(front, back, tmp_path / "archive", prefixes=(b"/openai", b"/anthropic", b"/gemini"), secret="SYNTHETIC")
    assert [exchange.upstream for exchange in archived] == [route for route, _ in AGENTS.values()]
    for (name, (_, sign)), crossing in zip(AGENTS.items(), front.crossings, strict=True):
        (pair,) = pairs(crossing)
        assert (pair.response.status, pair.response.complete) == (200, True), name
        text = undone(pair.response.body, pair.response.values(b"content-encoding"))
        assert sign in text, name
