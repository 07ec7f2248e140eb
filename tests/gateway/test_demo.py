"""The demo upstream, asked over real sockets: by the providers' SDKs, and byte by byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from rig import archive_lines, archive_records, connect, gateway, raw_request
from sdk_calls import CALLS, Bases, Flavour, Models, clients

from gateway import demo
from gateway.demo.words import Stamp, pieces

CHAT, RESPONSES, MESSAGES, GEMINI = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1beta/models/gemini-2.5-flash:generateContent",
)
STREAM = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
USER = {"role": "user", "content": "What is Verbatim?"}
TOOL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "days": {"type": "integer", "minimum": 2},
    },
    "required": ["city", "unit", "days"],
}
ARGUMENTS = {"city": "Zürich", "unit": "celsius", "days": 2}
OTHER = {"name": "send_letter", "description": "Posts a letter."}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo.running(pace=0) as url:
        yield url


def ask(url: str, path: str, body: Any, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        return client.post(path, content=body) if isinstance(body, bytes) else client.post(path, json=body)


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")  # openai's own, with websockets 17
@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_the_sdks_take_the_demo_for_a_provider(url: str, flavour: Flavour) -> None:
    async def calls() -> dict[str, Any]:
        async with clients(Bases.of(url), flavour, Models()) as sdk:
            return {name: await call(sdk, Models()) for name, call in CALLS.items()}

    got = asyncio.run(calls())
    status, chat = got["openai_chat"]
    text = chat["choices"][0]["message"]["content"]
    assert status == 200
    assert "word for word" in text
    chunks = got["openai_chat_stream"]
    assert "".join(chunk["choices"][0]["delta"]["content"] or "" for chunk in chunks[:-1]) == text
    assert chunks[-1]["usage"]["total_tokens"] == chat["usage"]["total_tokens"] > 0
    assert got["openai_chat_stream_helper"][1]["choices"][0]["message"]["content"] == text
    assert got["openai_responses"][0] == text
    events, answered = got["openai_responses_stream"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert answered == text
    assert [len(item["embedding"]) for item in got["openai_embeddings"]["data"]] == [1536] * 3
    assert (got["openai_file_upload"]["bytes"], got["openai_file_upload"]["filename"]) == (76822, "blob.bin")
    assert "demo-429" in [model["id"] for model in got["openai_models"]]
    assert got["openai_realtime"][-1]["response"]["output"][0]["content"][0]["text"] == text
    status, message = got["anthropic_message"]
    assert (status, message["content"][0]["text"], message["stop_reason"]) == (200, text, "end_turn")
    assert got["anthropic_stream"][1]["content"][0]["text"] == text
    assert got["gemini_generate"][0] == text
    parts = [part["text"] for chunk in got["gemini_stream"] for part in chunk["candidates"][0]["content"]["parts"]]
    assert "".join(parts) == text
    assert got["gemini_stream"][-1]["candidates"][0]["finish_reason"] == "STOP"


INVALID = ("error", "type", "invalid_request_error")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        (CHAT, b"{", 400, INVALID),
        (CHAT, {"model": "x"}, 400, INVALID),
        (CHAT, {"model": "x", "messages": ["y"]}, 400, INVALID),
        ("/v1/embeddings", [], 400, INVALID),
        ("/v1/embeddings", {"model": "x", "input": "y", "dimensions": 10**30}, 400, INVALID),
        ("/v1/files", b"x", 400, INVALID),
        (
            RESPONSES,
            {"model": "x", "tools": [{"type": "function", "name": "y", "parameters": 7}]},
            400,
            INVALID,
        ),
        (MESSAGES, {"model": "x", "messages": [USER], "max_tokens": "many"}, 400, INVALID),
        (MESSAGES, {"messages": 7}, 400, INVALID),
        (GEMINI, b"\xff", 400, ("error", "status", "INVALID_ARGUMENT")),
        ("/v1beta/models/gemini-2.5-flash:sing", {"contents": []}, 404, ("error", "status", "NOT_FOUND")),
        ("/v1beta/nothing", {}, 404, ("error", "status", "NOT_FOUND")),
        ("/v1/nothing", {}, 404, ("error", "code", "unknown_url")),
    ],
)
def test_a_request_that_is_malformed_is_refused_in_the_words_of_the_provider(
    url: str, path: str, body: Any, status: int, kind: tuple[str, str, str]
) -> None:
    answer = ask(url, path, body)
    assert answer.status_code == status
    outer, inner, value = kind
    assert answer.json()[outer][inner] == value


@pytest.mark.parametrize("stream", [False, True])
def test_half_a_character_is_answered_with_a_question_mark(url: str, stream: bool) -> None:
    body = b'{"model": "half \\ud83c", "max_tokens": 9, "messages": [], "stream": %s}' % (b"true" if stream else b"false")
    for path in (CHAT, MESSAGES, RESPONSES):
        answer = ask(url, path, body)
        assert answer.status_code == 200
        assert "half ?" in answer.content.decode()


def test_an_unknown_path_is_refused_in_anthropics_words_where_its_version_is_named(url: str) -> None:
    answer = ask(url, "/v1/nothing", {}, **{"anthropic-version": "2023-06-01"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_an_answer_is_compressed_only_for_those_who_accept_it(url: str) -> None:
    body = {"model": "gpt-5", "messages": [USER]}
    packed, bare = ask(url, CHAT, body, **{"accept-encoding": "gzip"}), ask(url, CHAT, body, **{"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in bare.headers
    assert packed.content == bare.content
    assert int(packed.headers["content-length"]) < len(bare.content)


REQUESTS: list[tuple[str, Any]] = [
    (CHAT, {"model": "gpt-5", "messages": [USER]}),
    (CHAT, {"model": "gpt-5", "messages": [USER], "stream": True, "stream_options": {"include_usage": True}}),
    (RESPONSES, {"model": "gpt-5", "input": "haiku, please", "stream": True, "reasoning": {"summary": "auto"}}),
    (MESSAGES, {"model": "claude", "max_tokens": 99, "messages": [USER], "stream": True, "thinking": {"type": "adaptive"}}),
    (MESSAGES, {"model": "claude", "max_tokens": 99, "messages": [USER]}),
    ("/v1/messages/count_tokens", {"model": "claude", "messages": [USER]}),
    (GEMINI, {"contents": [{"parts": [{"text": "Where is it stored?"}]}]}),
    (STREAM, {"contents": [{"parts": [{"text": "Where is it stored?"}]}]}),
    (STREAM.removesuffix("?alt=sse"), {"contents": [{"parts": [{"text": "Where is it stored?"}]}]}),
    ("/v1beta/models/gemini-2.5-flash:countTokens", {"contents": [{"parts": [{"text": "Where?"}]}]}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "x", "dimensions": 8}),
]


def test_the_same_request_gets_the_same_answer(url: str) -> None:
    with demo.running(pace=0) as other:
        for path, body in REQUESTS:
            answers = [ask(where, path, body) for where in (url, url, other)]
            seen = {
                (answer.status_code, answer.content, tuple(f for f in answer.headers.multi_items() if f[0] != "date")) for answer in answers
            }
            assert len(seen) == 1
            assert answers[0].status_code == 200


def test_another_request_gets_another_id(url: str) -> None:
    ids = {ask(url, CHAT, {"model": "gpt-5", "messages": [{"role": "user", "content": str(n)}]}).json()["id"] for n in range(5)}
    assert len(ids) == 5


def test_a_stream_without_events_is_one_json_array(url: str) -> None:
    answer = ask(url, STREAM.removesuffix("?alt=sse"), {"contents": [{"parts": [{"text": "hi"}]}]})
    texts = [part["text"] for chunk in answer.json() for part in chunk["candidates"][0]["content"]["parts"]]
    assert len(texts) > 3
    assert "".join(texts).startswith("Verbatim stands between")


def test_a_tool_is_called_and_its_result_is_talked_about(url: str) -> None:
    asked = {"role": "user", "content": "What is the weather like?"}
    weather = {"name": "get_weather", "description": "Tells the weather."}
    tools: Any = [{"type": "function", "function": {**one, "parameters": TOOL}} for one in (OTHER, weather)]
    first = ask(url, CHAT, {"model": "gpt-5", "messages": [asked], "tools": tools}).json()["choices"][0]
    (call,) = first["message"]["tool_calls"]
    assert first["finish_reason"] == "tool_calls"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", ARGUMENTS)
    turns = [asked, first["message"], {"role": "tool", "tool_call_id": call["id"], "content": "7 °C"}]
    second = ask(url, CHAT, {"model": "gpt-5", "messages": turns, "tools": tools}).json()["choices"][0]
    assert second["finish_reason"] == "stop"
    assert "7 °C" in second["message"]["content"]

    flat = [{"type": "function", **one, "parameters": TOOL} for one in (OTHER, weather)]
    (item,) = ask(url, RESPONSES, {"model": "gpt-5", "input": [asked], "tools": flat}).json()["output"]
    assert (item["type"], item["name"], json.loads(item["arguments"])) == ("function_call", "get_weather", ARGUMENTS)
    output = {"type": "function_call_output", "call_id": item["call_id"], "output": "7 °C"}
    (item,) = ask(url, RESPONSES, {"model": "gpt-5", "input": [asked, item, output], "tools": flat}).json()["output"]
    assert "7 °C" in item["content"][0]["text"]

    given: Any = {"model": "claude", "max_tokens": 999, "tools": [{**one, "input_schema": TOOL} for one in (OTHER, weather)]}
    said = ask(url, MESSAGES, {**given, "messages": [asked]}).json()
    assert (said["stop_reason"], said["content"][-1]["input"]) == ("tool_use", ARGUMENTS)
    results = [{"type": "tool_result", "tool_use_id": said["content"][-1]["id"], "content": [{"type": "text", "text": "7 °C"}]}]
    turns = [asked, {"role": "assistant", "content": said["content"]}, {"role": "user", "content": results}]
    assert "7 °C" in ask(url, MESSAGES, {**given, "messages": turns}).json()["content"][0]["text"]

    declared = [{"functionDeclarations": [{**one, "parametersJsonSchema": TOOL} for one in (OTHER, weather)]}]
    contents: Any = [{"role": "user", "parts": [{"text": asked["content"]}]}]
    part = ask(url, GEMINI, {"contents": contents, "tools": declared}).json()["candidates"][0]["content"]["parts"][0]
    assert part == {"functionCall": {"name": "get_weather", "args": ARGUMENTS}}
    response = {"functionResponse": {"name": "get_weather", "response": {"result": "7 °C"}}}
    contents += [{"role": "model", "parts": [part]}, {"role": "user", "parts": [response]}]
    part = ask(url, GEMINI, {"contents": contents, "tools": declared}).json()["candidates"][0]["content"]["parts"][0]
    assert "7 °C" in part["text"]


@pytest.mark.parametrize(("choice", "called"), [("none", None), ("required", "send_letter"), ("send_letter", "send_letter")])
def test_a_tool_choice_is_obeyed(url: str, choice: str, called: str | None) -> None:
    named = choice not in {"none", "required"}
    chosen: Any = {"type": "function", "function": {"name": choice}} if named else choice
    tools = [{"type": "function", "function": {**one, "parameters": TOOL}} for one in (OTHER, {"name": "get_weather"})]
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": "Post a letter"}], "tools": tools, "tool_choice": chosen}
    calls = ask(url, CHAT, body).json()["choices"][0]["message"].get("tool_calls")
    assert (calls[0]["function"]["name"] if calls else None) == called
    mode = {"none": "none", "required": "any"}.get(choice, "tool")
    claude = {"type": mode} | ({"name": choice} if named else {})
    given: Any = {"model": "claude", "max_tokens": 99, "messages": [{"role": "user", "content": "Post a letter"}], "tool_choice": claude}
    blocks = ask(url, MESSAGES, {**given, "tools": [{**one, "input_schema": TOOL} for one in (OTHER, {"name": "get_weather"})]}).json()[
        "content"
    ]
    assert next((block["name"] for block in blocks if block["type"] == "tool_use"), None) == called


def test_thinking_is_shown_where_it_is_asked_for(url: str) -> None:
    thinking = ask(url, MESSAGES, {"model": "claude", "max_tokens": 999, "messages": [USER], "thinking": {"type": "enabled"}}).json()
    assert [block["type"] for block in thinking["content"]] == ["thinking", "text"]
    assert thinking["content"][0]["signature"]
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "7 °C"}]}
    again = ask(url, MESSAGES, {"model": "claude", "max_tokens": 999, "messages": [USER, result], "thinking": {"type": "adaptive"}}).json()
    assert "What is Verbatim?" in again["content"][0]["thinking"]
    reasoning = ask(url, RESPONSES, {"model": "gpt-5", "input": "hi", "reasoning": {"effort": "low"}}).json()
    assert [item["type"] for item in reasoning["output"]] == ["reasoning", "message"]
    assert reasoning["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    config = {"thinkingConfig": {"includeThoughts": True}}
    parts = ask(url, GEMINI, {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}).json()["candidates"][0]["content"][
        "parts"
    ]
    assert [part.get("thought", False) for part in parts] == [True, False]


def test_a_wanted_shape_is_kept_to(url: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": TOOL}}
    chat = ask(url, CHAT, {"model": "gpt-5", "messages": [USER], "response_format": wanted}).json()
    assert json.loads(chat["choices"][0]["message"]["content"]) == ARGUMENTS
    text = {"format": {"type": "json_schema", "name": "w", "schema": TOOL}}
    response = ask(url, RESPONSES, {"model": "gpt-5", "input": "hi", "text": text}).json()
    assert json.loads(response["output"][0]["content"][0]["text"]) == ARGUMENTS
    shape = {"format": {"type": "json_schema", "schema": TOOL}}
    message = ask(url, MESSAGES, {"model": "claude", "max_tokens": 999, "messages": [USER], "output_config": shape}).json()
    assert json.loads(message["content"][0]["text"]) == ARGUMENTS
    spelled = json.loads(json.dumps(TOOL).replace('"object"', '"OBJECT"').replace('"integer"', '"INTEGER"'))
    config = {"responseMimeType": "application/json", "responseSchema": spelled}
    gemini = ask(url, GEMINI, {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}).json()
    assert json.loads(gemini["candidates"][0]["content"]["parts"][0]["text"]) == ARGUMENTS


ODD_SHAPES = [
    ({"type": "string", "const": "c"}, "c"),
    ({"anyOf": [{"type": "array", "items": {"type": "boolean"}}, {"type": "null"}]}, [True]),
    ({"type": ["null", "string"]}, None),
    ({"type": "string", "examples": ["e"]}, "e"),
    ({"properties": {"path": {"type": "string"}}}, {"path": "README.md"}),
    ({"type": "string"}, "What is Verbatim?"),
]


@pytest.mark.parametrize(("schema", "value"), ODD_SHAPES)
def test_shapes_are_filled_after_the_schema_language(url: str, schema: Any, value: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}
    chat = ask(url, CHAT, {"model": "gpt-5", "messages": [USER], "response_format": wanted}).json()
    assert json.loads(chat["choices"][0]["message"]["content"]) == value


def test_models_are_listed_for_each_provider(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/v1/models").json()["data"][0]["object"] == "model"
        assert client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()["data"][0]["type"] == "model"
        assert client.get("/v1beta/models").json()["models"][0]["name"].startswith("models/")


def test_an_answer_stops_at_the_token_limit(url: str) -> None:
    message = ask(url, MESSAGES, {"model": "claude", "max_tokens": 3, "messages": [USER]}).json()
    assert (message["content"][0]["text"], message["stop_reason"]) == ("Verbatim stands between", "max_tokens")
    chat = ask(url, CHAT, {"model": "gpt-5", "max_completion_tokens": 3, "messages": [USER]}).json()
    assert chat["choices"][0]["finish_reason"] == "length"
    response = ask(url, RESPONSES, {"model": "gpt-5", "max_output_tokens": 3, "input": "hi"}).json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    config = {"maxOutputTokens": 3}
    gemini = ask(url, GEMINI, {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}).json()
    assert gemini["candidates"][0]["finishReason"] == "MAX_TOKENS"


def raw(path: str, body: Any) -> bytes:
    content = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: demo\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@pytest.fixture(scope="module")
def paced_port() -> Iterator[int]:
    with demo.running(pace=0.1) as url:
        yield int(url.rpartition(":")[2])


async def test_a_stream_arrives_piece_by_piece(paced_port: int) -> None:
    body = {"model": "gpt-5", "messages": [USER], "stream": True}
    client = await connect(paced_port)
    begun = time.monotonic()
    await client.send(raw(CHAT, body))
    await client.read_until(b"\r\n\r\n")
    pauses = Stamp(CHAT.encode(), json.dumps(body).encode()).pauses()
    assert time.monotonic() - begun >= 0.1 * next(pauses)  # the head, too, comes only when the model has something to say
    await client.read_until(b"\n\n")
    assert b"[DONE]" not in client.received
    message = await client.read_until(b"data: [DONE]\n\n")
    count = message.count(b"data: ") - 2  # the ending and the [DONE] come with the last pause
    assert time.monotonic() - begun >= 0.1 * sum(next(pauses) for _ in range(count - 1))
    assert len(client.arrivals) > count / 4
    await client.close()


LIMITED = [
    (CHAT, {"model": "demo-429", "messages": [USER]}, "x-ratelimit-remaining-tokens", "rate_limit_exceeded"),
    (CHAT, {"model": "demo-429", "messages": [USER], "stream": True}, "x-ratelimit-remaining-tokens", "rate_limit_exceeded"),
    (RESPONSES, {"model": "demo-429", "input": "hi"}, "x-ratelimit-limit-tokens", "rate_limit_exceeded"),
    (MESSAGES, {"model": "demo-429", "max_tokens": 9, "messages": [USER]}, "anthropic-ratelimit-tokens-remaining", "rate_limit_error"),
    ("/v1beta/models/demo-429:generateContent", {"contents": []}, "server-timing", "RESOURCE_EXHAUSTED"),
    ("/v1beta/models/demo-429:streamGenerateContent", {"contents": []}, "server-timing", "RESOURCE_EXHAUSTED"),
]


@pytest.mark.parametrize(("path", "body", "header", "word"), LIMITED)
def test_a_rate_limit_says_when_to_come_back(url: str, path: str, body: Any, header: str, word: str) -> None:
    answer = ask(url, path, body)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert header in answer.headers
    assert word in json.dumps(answer.json())


ABORTED = [
    (CHAT, {"model": "demo-abort", "messages": [USER], "stream": True}),
    (CHAT, {"model": "demo-abort", "messages": [USER]}),
    (RESPONSES, {"model": "demo-abort", "input": "hi", "stream": True}),
    (MESSAGES, {"model": "demo-abort", "max_tokens": 99, "messages": [USER], "stream": True}),
    ("/v1beta/models/demo-abort:streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "hi"}]}]}),
    ("/v1beta/models/demo-abort:streamGenerateContent", {"contents": [{"parts": [{"text": "hi"}]}]}),
]


@pytest.mark.parametrize(("path", "body"), ABORTED)
async def test_a_broken_answer_ends_in_the_middle(url: str, path: str, body: Any) -> None:
    answer = await raw_request(int(url.rpartition(":")[2]), raw(path, body))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert len(answer.partition(b"\r\n\r\n")[2]) > 100
    assert not answer.endswith((b"0\r\n\r\n", b"\n\n\r\n", b"\r\n\r\n\r\n", b"}\r\n", b"]\r\n"))


async def test_a_realtime_session_can_be_refused(url: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url.replace("http", "ws") + "/v1/realtime?model=demo-429", proxy=None):
            pass
    response = refused.value.response
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert json.loads(response.body or b"")["error"]["code"] == "rate_limit_exceeded"


async def test_a_realtime_session_answers_what_it_does_not_know_with_an_error(url: str) -> None:
    async with websockets.connect(url.replace("http", "ws") + "/v1/realtime", subprotocols=["realtime"], proxy=None) as socket:
        assert socket.subprotocol == "realtime"
        assert json.loads(await socket.recv())["type"] == "session.created"
        for sent, expected in (
            ("{", "error"),
            ('{"type":"fly"}', "error"),
            ('{"type":"session.update","session":{"a":1}}', "session.updated"),
        ):
            await socket.send(sent)
            assert json.loads(await socket.recv())["type"] == expected
        await socket.send(b"binary")
        with pytest.raises(websockets.ConnectionClosedError):
            await socket.recv()
        assert socket.close_code == 1003


async def test_a_client_that_leaves_a_realtime_answer_costs_nothing(paced_port: int) -> None:
    for _ in range(2):
        async with websockets.connect(f"ws://127.0.0.1:{paced_port}/v1/realtime", proxy=None) as socket:
            await socket.send('{"type":"response.create"}')
            assert [json.loads(await socket.recv())["type"] for _ in range(2)] == ["session.created", "response.created"]
            await socket.close()


async def test_responses_are_answered_over_a_websocket_too(url: str) -> None:
    async with websockets.connect(url.replace("http", "ws") + "/v1/responses", proxy=None) as socket:
        await socket.send(json.dumps({"type": "response.create", "model": "gpt-5", "input": "hi"}))
        types = [json.loads(await socket.recv())["type"]]
        while types[-1] != "response.completed":
            types.append(json.loads(await socket.recv())["type"])
        assert types[:2] == ["response.created", "response.in_progress"]
        assert "response.output_text.delta" in types
        await socket.send("[]")
        assert json.loads(await socket.recv())["type"] == "error"


@pytest.fixture
def slow_url() -> Iterator[str]:
    with demo.running(pace=0.5) as url:  # slow enough that a client can leave before the end
        yield url


async def test_the_seeded_traffic_has_something_of_everything(slow_url: str, tmp_path: Path) -> None:
    async with gateway(tmp_path, dict.fromkeys(("openai", "anthropic", "gemini"), slow_url)) as running:
        count = await asyncio.to_thread(demo.seed, running.url)
    archived = archive_lines(running.archive)
    assert len(archived) == count == 12
    assert {exchange.upstream for exchange in archived} == {"openai", "anthropic", "gemini"}
    assert {(exchange.response or {})["status"] for exchange in archived} == {101, 200, 429}
    assert {(exchange.end or {})["reason"] for exchange in archived} >= {"complete", "upstream_closed", "client_closed"}
    (session,) = [exchange for exchange in archived if exchange.messages]
    assert {message["side"] for message in session.messages} == {"client", "upstream"}
    bodies = [exchange.body("request") for exchange in archived]
    for word in (b"tool_call_id", b"thinking", b"text-embedding", b'filename="notes.txt"', b"reasoning", b"functionDeclarations"):
        assert any(word in body for body in bodies), word
    assert "this-is-not-a-key" not in json.dumps(archive_records(running.archive))


def test_a_taken_port_is_an_error_at_once(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"), demo.running(port=port):
        pass


@pytest.mark.parametrize("text", ["", " ", "one", " two  words \n", "世界 🌍", "\t\n x"])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text
