"""Names as the real SDKs send them: our headers through their options, their own session and user parameters, their retries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
from relayrig import Kept, Origin, rig

from archive.exchange import Entry, Summary
from archive.line import to_line

CAPTURED = Path(__file__).resolve().parents[2] / "fixtures" / "captured"
KEY = "sk-canary-7f3a9c51e2d84b60"
OURS = {
    "x-verbatim-session": "nightly-42",
    "x-verbatim-user": "J%C3%BCrgen",
    "x-verbatim-tags": "ci,eval",
    "x-verbatim-metadata": json.dumps({"branch": "main", "try": 2, "dry": False, "parent": None}),
}


def answer(name: str) -> bytes:
    body = (CAPTURED / name).read_bytes()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def listed(kept: Kept) -> Entry:
    """As a list shows it."""
    summary = Summary()
    for number, part in enumerate(kept.parts):
        line = to_line(part, writer="w", seq=number)
        assert line is not None
        summary.fold(json.loads(line))
    return summary.entry(kept.id, gone=False)


async def test_openai_s_sdk_names_its_calls() -> None:
    messages: list[Any] = [{"role": "user", "content": "hi"}]
    async with Origin(answer("openai_chat.json")) as origin, rig(origin) as gateway:
        base = f"http://127.0.0.1:{gateway.port}/up/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=KEY, default_headers=OURS) as client:
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=messages)
            assert "x-verbatim-warning" not in raw.headers
            wrong = await client.chat.completions.with_raw_response.create(
                model="m", messages=messages, extra_headers={"x-verbatim-metadata": '{"a": {}}'}
            )
            assert wrong.headers["x-verbatim-warning"].startswith("x-verbatim-metadata was ignored: ")
            assert wrong.parse().choices
        async with openai.AsyncOpenAI(base_url=base, api_key=KEY) as client:
            await client.chat.completions.create(model="m", messages=messages, prompt_cache_key="thread-9", safety_identifier="u-1")
        assert not any(b"verbatim" in head.lower() for head in origin.heads)
        first, second, third = map(listed, await gateway.ended(3))
        metadata = gateway.recording.exchanges[0].parts[0].client.metadata
    assert (first.session, first.user, first.tags) == ("nightly-42", "Jürgen", ("ci", "eval"))
    assert metadata == {"branch": "main", "try": 2, "dry": False, "parent": None}
    assert (second.session, gateway.recording.exchanges[1].parts[0].client.metadata) == ("nightly-42", {})
    assert (third.session, third.session_source) == ("thread-9", "body.prompt_cache_key")
    assert (third.user, third.user_source) == ("u-1", "body.safety_identifier")


async def test_anthropic_s_sdk_names_its_calls() -> None:
    overloaded = b"HTTP/1.1 529 Overloaded\r\nContent-Length: 0\r\nrequest-id: req_1\r\nretry-after-ms: 1\r\n\r\n"
    async with Origin(overloaded, answer("anthropic_message.json")) as origin, rig(origin) as gateway:
        base = f"http://127.0.0.1:{gateway.port}/up"
        async with anthropic.AsyncAnthropic(base_url=base, api_key=KEY, max_retries=1) as client:
            await client.messages.create(
                model="m",
                max_tokens=9,
                messages=[{"role": "user", "content": "hi"}],
                metadata={"user_id": "user-17"},
                extra_headers={"x-verbatim-session": "s", "x-verbatim-record": "full"},
            )
        assert not any(b"verbatim" in head.lower() for head in origin.heads)
        tries = await gateway.ended(2)
    assert [(it.session, it.user, it.user_source) for it in map(listed, tries)] == [("s", "user-17", "body.metadata.user_id")] * 2
    counts = [{name.lower(): value for name, value in it.request.headers}[b"x-stainless-retry-count"] for it in tries]
    assert counts == [b"0", b"1"]
    assert tries[0].response is not None
    assert (b"request-id", b"req_1") in tries[0].response.headers
