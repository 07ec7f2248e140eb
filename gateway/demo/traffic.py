"""A little traffic through a gateway, so that the first page is not empty: every kind of exchange once, with keys that are not keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl

import httpx
import websockets

from gateway.demo.words import Json

__all__ = ["seed"]

OPENAI = {"authorization": "Bearer sk-demo-this-is-not-a-key", "user-agent": "verbatim-demo/openai"}
ANTHROPIC = {"x-api-key": "sk-ant-demo-this-is-not-a-key", "anthropic-version": "2023-06-01", "user-agent": "verbatim-demo/anthropic"}
GEMINI = {"x-goog-api-key": "AIza-demo-this-is-not-a-key", "user-agent": "verbatim-demo/gemini"}
WEATHER: Json = {
    "name": "get_weather",
    "description": "The weather in a city, now.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
}


def seed(gateway_url: str, authority: str | None = None) -> int:
    """Send a dozen varied exchanges through the gateway at `gateway_url` and return how many there were.

    `authority`: a certificate in PEM that is trusted, where the URL is https.

    Blocks, about two seconds at the demo's usual pace. Raises httpx.HTTPError or OSError when the gateway cannot be reached; what
    the demo upstream does badly on purpose (429, a broken stream) is not an error here. Not to be called from a running event loop.
    """
    return asyncio.run(_sow(gateway_url.rstrip("/"), ssl.create_default_context(cadata=authority)))


async def _sow(url: str, trusted: ssl.SSLContext) -> int:
    async with httpx.AsyncClient(base_url=url, timeout=10.0, trust_env=False, verify=trusted) as client:
        counts = await asyncio.gather(
            _tool_conversation(client),
            _realtime(url, trusted),
            *(sow(client) for sow in (_thoughts, _reasoning, _gemini, _gemini_tool, _embeddings, _upload, _limited, _broken, _left)),
        )
    return sum(counts)


async def _tool_conversation(client: httpx.AsyncClient) -> int:
    """Two turns: the model asks for the weather, gets it, and talks about it in a stream."""
    messages: list[Json] = [
        {"role": "system", "content": "You are a laconic weather clerk."},
        {"role": "user", "content": "What is the weather in Zürich?"},
    ]
    body: Json = {"model": "gpt-5-mini", "messages": messages, "tools": [{"type": "function", "function": WEATHER}]}
    answer = (await client.post("/openai/v1/chat/completions", headers=OPENAI, json=body)).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "7 °C, fog on the lake, wind from the west."}
    body = {**body, "messages": [*messages, answer, result], "stream": True, "stream_options": {"include_usage": True}}
    return 1 + await _stream(client, "/openai/v1/chat/completions", OPENAI, body)


async def _thoughts(client: httpx.AsyncClient) -> int:
    asked = [{"role": "user", "content": "Where on disk is what I am saying now?"}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "claude-opus-5-5", "max_tokens": 2048, "thinking": thinking, "messages": asked, "stream": True}
    return await _stream(client, "/anthropic/v1/messages", ANTHROPIC, body)


async def _reasoning(client: httpx.AsyncClient) -> int:
    body = {"model": "gpt-5", "input": "Will anybody see my secret key?", "reasoning": {"effort": "low", "summary": "auto"}, "stream": True}
    return await _stream(client, "/openai/v1/responses", OPENAI, body)


async def _gemini(client: httpx.AsyncClient) -> int:
    body = {"contents": [{"role": "user", "parts": [{"text": "Is a stream slower through Verbatim?"}]}]}
    return await _stream(client, "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GEMINI, body)


async def _gemini_tool(client: httpx.AsyncClient) -> int:
    asked = [{"role": "user", "parts": [{"text": "And the weather in Zürich, in Fahrenheit?"}]}]
    body = {"contents": asked, "tools": [{"functionDeclarations": [WEATHER]}]}
    await client.post("/gemini/v1beta/models/gemini-2.5-flash:generateContent", headers=GEMINI, json=body)
    return 1


async def _embeddings(client: httpx.AsyncClient) -> int:
    body = {"model": "text-embedding-3-small", "input": ["word for word", "mot à mot"], "encoding_format": "base64"}
    await client.post("/openai/v1/embeddings", headers=OPENAI, json=body)
    return 1


async def _upload(client: httpx.AsyncClient) -> int:
    files = {"file": ("notes.txt", b"What crosses is kept.\n", "text/plain")}
    await client.post("/openai/v1/files", headers=OPENAI, data={"purpose": "user_data"}, files=files)
    return 1


async def _limited(client: httpx.AsyncClient) -> int:
    body = {"model": "demo-429", "max_tokens": 64, "messages": [{"role": "user", "content": "Am I too fast?"}]}
    await client.post("/anthropic/v1/messages", headers=ANTHROPIC, json=body)
    return 1


async def _broken(client: httpx.AsyncClient) -> int:
    """A stream that the upstream breaks off."""
    body = {"model": "demo-abort", "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}
    with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
        await _stream(client, "/openai/v1/chat/completions", OPENAI, body)
    return 1


async def _left(client: httpx.AsyncClient) -> int:
    """A stream that the client leaves after a few words."""
    asked = [{"role": "user", "content": "What is Verbatim?"}]
    body = {"model": "claude-opus-5-5", "max_tokens": 1024, "messages": asked, "stream": True}
    async with client.stream("POST", "/anthropic/v1/messages", headers=ANTHROPIC, json=body) as response:
        events = 0
        async for line in response.aiter_lines():
            events += line.startswith("event:")
            if events > 12:
                break
    return 1


async def _stream(client: httpx.AsyncClient, path: str, headers: dict[str, str], body: Json) -> int:
    async with client.stream("POST", path, headers=headers, json=body) as response:
        async for _ in response.aiter_raw():
            pass
    return 1


async def _realtime(url: str, trusted: ssl.SSLContext) -> int:
    address = url.replace("http", "ws", 1) + "/openai/v1/realtime?model=gpt-realtime"
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say something about websockets."}]}
    async with websockets.connect(
        address,
        additional_headers={"authorization": OPENAI["authorization"]},
        user_agent_header=OPENAI["user-agent"],
        proxy=None,
        ssl=trusted if address.startswith("wss:") else None,
        open_timeout=10,
    ) as socket:
        await socket.send(json.dumps({"type": "conversation.item.create", "item": said}))
        await socket.send(json.dumps({"type": "response.create"}))
        async with asyncio.timeout(10):
            async for message in socket:
                if json.loads(message)["type"] == "response.done":
                    break
    return 1
