"""Simulated agent traffic, the same for the same seed: records as the relay would hand them over, or hourly files of them.

`agents()`: several coding agents at once, in three shapes (OpenAI chat, Anthropic messages, OpenAI Responses), each resending its
whole history with every turn, answers streamed in deltas that cut words in two. `unique()`: texts nobody says twice, the worst case
for whatever lives on repetition. Both are endless and planned for benches: a word can be planted, 100 MB of lines take a second or two.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from random import Random

from archive import member
from archive.folder import segment_name
from archive.line import SERVICE_PART, close_line, open_line, to_line
from archive.record import Body, Client, End, EndReason, Record, Request, Response, Timing, Upstream, id_text

__all__ = ["Made", "agents", "language", "lines", "segments_of", "unique", "upto"]

HOUR = 1_795_082_400.0
"""2026-11-19T10:00:00Z."""

MODELS = {"chat": "gpt-4o", "messages": "claude-sonnet-4-5", "responses": "gpt-5-codex"}

Json = dict[str, object]


# Words.


class Language:
    """50,000 made-up words, the r-th used about 1/r as often as the first (Zipf), and phrases of them to build texts from quickly."""

    def __init__(self, seed: int = 7) -> None:
        rng = Random(seed)
        onsets = ["b", "br", "c", "ch", "d", "f", "fl", "g", "gr", "h", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v", "w"]
        ends = ["a", "e", "i", "o", "u", "an", "en", "er", "in", "on", "al", "el", "is", "or", "um", "ing", "ed"]
        found: dict[str, None] = {}
        while len(found) < 50_000:
            size = 1 + (len(found) > 300) + (len(found) > 6000) + (rng.random() < 0.3)
            found["".join(rng.choice(onsets) + rng.choice(ends) for _ in range(size))] = None
        self.words = list(found)
        weights = list(accumulate(1 / (rank + 2.7) for rank in range(len(self.words))))
        stops = ["", "", "", "", ",", ".", "\n"]
        drawn = iter(rng.choices(self.words, cum_weights=weights, k=240_000))
        self.phrases = [" ".join(next(drawn) for _ in range(8)) + rng.choice(stops) for _ in range(30_000)]
        """About 45 characters each, so many that one seldom comes twice within what a compressor remembers."""

    def text(self, rng: Random, size: int) -> str:
        """About `size` characters of prose; every few sentences something nobody has said before (a number, a name, a digest)."""
        parts = rng.choices(self.phrases, k=max(1, size // 45))
        for at in range(9, len(parts), 10):
            parts[at] = f"{parts[at]} {rng.choice(self.words)}_{rng.getrandbits(20)}"
        return " ".join(parts)

    def code(self, rng: Random, size: int) -> str:
        """About `size` characters that look like a file or the output of a command."""
        out: list[str] = []
        left = size
        while left > 0:
            words = rng.choice(self.phrases).split()
            kind = rng.random()
            if kind < 0.1:
                line = f"def {words[0]}_{words[1]}({words[2]}: str, {words[3]}: int = {rng.randrange(100)}) -> None:"
            elif kind < 0.2:
                line = f"src/{words[0]}/{words[1]}.py:{rng.randrange(900)}: {' '.join(words[2:])}"
            elif kind < 0.24:
                line = f"commit {rng.getrandbits(160):040x}"
            else:
                line = f'        self.{words[0]} = {words[1]}.{words[2]}({words[3]}, "{" ".join(words[4:])}")'
            out.append(line)
            left -= len(line) + 1
        return "\n".join(out)


@lru_cache(maxsize=1)
def language() -> Language:
    """The one everybody speaks here."""
    return Language()


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# An agent: a system prompt, tools, and a history that grows by a question or a tool's result and an answer with every turn.


@dataclass
class _Agent:
    rng: Random
    shape: str
    name: str
    turns: int
    """After so many it is done."""
    head: bytes = b""
    """All of a request's body up to the history."""
    tail: bytes = b""
    history: list[bytes] = field(default_factory=list)
    """Messages, encoded once."""
    last: Json | None = None
    """What the answer before called for: a tool's id."""


def _start(rng: Random, shape: str, turns: tuple[int, int]) -> _Agent:
    tongue = language()
    agent = _Agent(rng, shape, f"{rng.getrandbits(128):032x}", rng.randrange(*turns))
    # Agents of one kind begin alike: one system prompt and one set of tools a shape, and the folder they work in.
    common = Random(f"system {shape}")
    system = tongue.text(common, 9000)
    where = f"Working directory: /home/dev/{rng.choice(tongue.words)}\n" + tongue.text(rng, 600)
    tools = [_tool(common, shape) for _ in range(14)]
    model = MODELS[shape]
    if shape == "chat":
        agent.head = b'{"model":"%s","stream":true,"temperature":0,"messages":[' % model.encode()
        agent.history = [_dumps({"role": "system", "content": system}), _dumps({"role": "user", "content": where})]
        agent.tail = b'],"tools":%s,"stream_options":{"include_usage":true}}' % _dumps(tools)
    elif shape == "messages":
        agent.head = b'{"model":"%s","max_tokens":32000,"stream":true,"system":%s,"tools":%s,"messages":[' % (
            model.encode(),
            _dumps([{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}]),
            _dumps(tools),
        )
        agent.history = [_dumps({"role": "user", "content": [{"type": "text", "text": where}]})]
        agent.tail = b'],"metadata":{"user_id":"user_%s"}}' % agent.name.encode()
    else:
        agent.head = b'{"model":"%s","instructions":%s,"stream":true,"store":false,"tools":%s,"input":[' % (
            model.encode(),
            _dumps(system),
            _dumps(tools),
        )
        agent.history = [_dumps({"type": "message", "role": "user", "content": [{"type": "input_text", "text": where}]})]
        agent.tail = b'],"include":["reasoning.encrypted_content"],"prompt_cache_key":"%s"}' % agent.name.encode()
    return agent


def _tool(rng: Random, shape: str) -> Json:
    tongue = language()
    names = rng.choices(tongue.words[:3000], k=5)
    properties = {name: {"type": "string", "description": rng.choice(tongue.phrases)} for name in names[1:]}
    schema = {"type": "object", "properties": properties, "required": names[1:3]}
    text = tongue.text(rng, 500)
    if shape == "chat":
        return {"type": "function", "function": {"name": names[0], "description": text, "parameters": schema}}
    if shape == "messages":
        return {"name": names[0], "description": text, "input_schema": schema}
    return {"type": "function", "name": names[0], "description": text, "strict": False, "parameters": schema}


def _said(agent: _Agent, planted: str) -> Json:
    """What the client adds for this turn: the result of the tool that was called, or a question."""
    rng, tongue = agent.rng, language()
    called = agent.last
    if called is None:
        text = tongue.text(rng, rng.randrange(60, 700)) + planted
        if agent.shape == "chat":
            return {"role": "user", "content": text}
        kind = "text" if agent.shape == "messages" else "input_text"
        content = [{"type": kind, "text": text}]
        return {"role": "user", "content": content, **({"type": "message"} if agent.shape == "responses" else {})}
    size = int(200 * 2 ** (rng.random() * 7))
    text = tongue.code(rng, size) + planted
    if agent.shape == "chat":
        return {"role": "tool", "tool_call_id": called["id"], "content": text}
    if agent.shape == "messages":
        return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": called["id"], "content": text}]}
    return {"type": "function_call_output", "call_id": called["id"], "output": text}


def _body(agent: _Agent, said: Json) -> bytes:
    """The request's body. As Claude Code does, the messages shape marks its last message only: the same one comes unmarked later."""
    last = _dumps(said)
    if agent.shape == "messages":
        content = said["content"]
        assert isinstance(content, list)
        marked = {**said, "content": [*content[:-1], {**content[-1], "cache_control": {"type": "ephemeral"}}]}
        body = b"".join((agent.head, b",".join([*agent.history, _dumps(marked)]), agent.tail))
    else:
        body = b"".join((agent.head, b",".join([*agent.history, last]), agent.tail))
    agent.history.append(last)
    return body


# Answers, in deltas of a few characters.


def _cut(rng: Random, text: str) -> list[str]:
    cuts = [0, *accumulate(rng.choices((2, 3, 4, 5, 6, 9), k=len(text) // 4))]
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < len(text)]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _answer(agent: _Agent, planted: str) -> bytes:
    """The streamed answer; it is added to the history, and what it calls for is remembered."""
    rng, tongue = agent.rng, language()
    text = tongue.text(rng, rng.randrange(80, 900)) + planted
    calls = rng.random() < 0.8
    arguments: Json = {"command": tongue.text(rng, 80), "path": f"src/{rng.choice(tongue.words)}.py"}
    if rng.random() < 0.25:
        arguments["content"] = tongue.code(rng, rng.randrange(300, 4000))
    tool = rng.choice(tongue.words[:200])
    call: Json = {"id": f"call_{rng.getrandbits(96):024x}"}
    agent.last = call if calls else None
    name = f"{rng.getrandbits(96):024x}"
    return _ANSWERS[agent.shape](agent, name, text, (tool, call["id"], arguments) if calls else None)


Call = tuple[str, str, Json]


def _chat(agent: _Agent, name: str, text: str, call: Call | None) -> bytes:
    head = f'data: {{"id":"chatcmpl-{name}","object":"chat.completion.chunk","created":1795082400,"model":"gpt-4o","choices":[{{"index":0,'
    tail = ',"logprobs":null,"finish_reason":null}]}\n\n'
    out = [head, '"delta":{"role":"assistant","content":""}', tail]
    for piece in _cut(agent.rng, text):
        out += (head, '"delta":{"content":', _quoted(piece), "}", tail)
    message: Json = {"role": "assistant", "content": text}
    if call is not None:
        tool, called, arguments = call
        said = json.dumps(arguments)
        message["tool_calls"] = [{"id": called, "type": "function", "function": {"name": tool, "arguments": said}}]
        out += (head, f'"delta":{{"tool_calls":[{{"index":0,"id":"{called}","type":"function","function":')
        out += (f'{{"name":"{tool}","arguments":""}}}}]}}', tail)
        for piece in _cut(agent.rng, said):
            out += (head, '"delta":{"tool_calls":[{"index":0,"function":{"arguments":', _quoted(piece), "}}]}", tail)
    out += (head, '"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1234,"completion_tokens":56}}\n\n')
    out.append("data: [DONE]\n\n")
    agent.history.append(_dumps(message))
    return "".join(out).encode()


def _messages(agent: _Agent, name: str, text: str, call: Call | None) -> bytes:
    def event(kind: str, rest: str) -> str:
        return f'event: {kind}\ndata: {{"type":"{kind}"{rest}}}\n\n'

    def delta(index: int, kind: str, field: str, piece: str) -> str:
        return event("content_block_delta", f',"index":{index},"delta":{{"type":"{kind}","{field}":{_quoted(piece)}}}')

    out = [
        event(
            "message_start",
            f',"message":{{"id":"msg_{name}","type":"message","role":"assistant","content":[],"model":"claude-sonnet-4-5","usage":{{}}}}',
        ),
        event("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}'),
        *(delta(0, "text_delta", "text", piece) for piece in _cut(agent.rng, text)),
        event("content_block_stop", ',"index":0'),
    ]
    content: list[Json] = [{"type": "text", "text": text}]
    if call is not None:
        tool, called, arguments = call
        content.append({"type": "tool_use", "id": called, "name": tool, "input": arguments})
        block = f'{{"type":"tool_use","id":"{called}","name":"{tool}","input":{{}}}}'
        out.append(event("content_block_start", f',"index":1,"content_block":{block}'))
        out += (delta(1, "input_json_delta", "partial_json", piece) for piece in _cut(agent.rng, json.dumps(arguments)))
        out.append(event("content_block_stop", ',"index":1'))
    out.append(event("message_delta", ',"delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":321}'))
    out.append(event("message_stop", ""))
    agent.history.append(_dumps({"role": "assistant", "content": content}))
    return "".join(out).encode()


def _responses(agent: _Agent, name: str, text: str, call: Call | None) -> bytes:
    number = 0

    def event(kind: str, rest: str) -> str:
        nonlocal number
        number += 1
        return f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":{number},{rest}}}\n\n'

    def item(index: int, value: Json) -> str:
        return f'"output_index":{index},"item":{json.dumps(value)}'

    # Sealed thoughts, handed back with every turn after.
    thought: Json = {
        "type": "reasoning",
        "id": f"rs_{name}",
        "summary": [],
        "encrypted_content": b64encode(agent.rng.randbytes(agent.rng.randrange(500, 1500))).decode(),
    }
    message: Json = {"type": "message", "role": "assistant", "id": f"msg_{name}", "content": [{"type": "output_text", "text": text}]}
    output = [thought, message]
    out = [event("response.created", f'"response":{{"id":"resp_{name}","object":"response","model":"gpt-5-codex","output":[]}}')]
    out.append(event("response.output_item.done", item(0, thought)))
    out += (
        event("response.output_text.delta", f'"item_id":"msg_{name}","output_index":1,"content_index":0,"delta":{_quoted(piece)}')
        for piece in _cut(agent.rng, text)
    )
    out.append(event("response.output_item.done", item(1, message)))
    if call is not None:
        tool, called, arguments = call
        said = json.dumps(arguments)
        output.append({"type": "function_call", "id": f"fc_{name}", "call_id": called, "name": tool, "arguments": said})
        out += (
            event("response.function_call_arguments.delta", f'"item_id":"fc_{name}","output_index":2,"delta":{_quoted(piece)}')
            for piece in _cut(agent.rng, said)
        )
        out.append(event("response.output_item.done", item(2, output[-1])))
    out.append(event("response.completed", f'"response":{json.dumps({"id": f"resp_{name}", "output": output, "usage": {}})}'))
    agent.history += map(_dumps, output)
    return "".join(out).encode()


_ANSWERS: Mapping[str, Callable[[_Agent, str, str, Call | None], bytes]] = {"chat": _chat, "messages": _messages, "responses": _responses}


# Heads: what SDKs and servers send, about half of it the same every time.

_TARGETS = {"chat": b"/openai/v1/chat/completions", "messages": b"/anthropic/v1/messages?beta=true", "responses": b"/openai/v1/responses"}
_ASKED: Sequence[tuple[bytes, bytes]] = (
    (b"Host", b"127.0.0.1:8787"),
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"gzip, deflate, br, zstd"),
    (b"Connection", b"keep-alive"),
    (b"Content-Type", b"application/json"),
    (b"User-Agent", b"OpenAI/Python 2.20.0"),
    (b"X-Stainless-Lang", b"python"),
    (b"X-Stainless-Package-Version", b"2.20.0"),
    (b"X-Stainless-OS", b"Linux"),
    (b"X-Stainless-Arch", b"x64"),
    (b"X-Stainless-Runtime", b"CPython"),
    (b"X-Stainless-Runtime-Version", b"3.11.7"),
    (b"Authorization", b"[redacted]"),
    (b"x-stainless-retry-count", b"0"),
    (b"x-stainless-read-timeout", b"600.0"),
)
_GIVEN: Sequence[tuple[bytes, bytes]] = (
    (b"Transfer-Encoding", b"chunked"),
    (b"Connection", b"keep-alive"),
    (b"access-control-expose-headers", b"X-Request-ID"),
    (b"openai-organization", b"org-simulated"),
    (b"openai-version", b"2020-10-01"),
    (b"x-ratelimit-limit-requests", b"10000"),
    (b"x-ratelimit-limit-tokens", b"30000000"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains; preload"),
    (b"cf-cache-status", b"DYNAMIC"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Server", b"cloudflare"),
)


def _record(rng: Random, at: float, target: bytes, route: str, session: str, body: bytes, answer: bytes) -> Record:
    took = rng.randrange(400, 9000)
    # RFC 9562 section 5.7, with the seed's random bits: archive.record.new_id draws its own.
    name = (int(at * 1000) << 80 | 0x7 << 76 | rng.getrandbits(12) << 64 | 0b10 << 62 | rng.getrandbits(62)).to_bytes(16, "big")
    asked = [*_ASKED, (b"X-Session-Id", session.encode()), (b"Content-Length", b"%d" % len(body))]
    given = [
        (b"Date", b"Thu, 19 Nov 2026 %02d:%02d:%02d GMT" % (int(at) // 3600 % 24, int(at) // 60 % 60, int(at) % 60)),
        (b"Content-Type", b"application/json" if answer.startswith(b"{") else b"text/event-stream; charset=utf-8"),
        *_GIVEN,
        (b"openai-processing-ms", b"%d" % (took // 3)),
        (b"x-ratelimit-remaining-tokens", b"%d" % rng.randrange(29_000_000, 30_000_000)),
        (b"x-request-id", b"req_%032x" % rng.getrandbits(128)),
        (b"CF-RAY", b"%016x-FRA" % rng.getrandbits(64)),
    ]
    return Record(
        id=name,
        part=0,
        at=at,
        client=Client("127.0.0.1:50000", session, "header"),
        upstream=Upstream(route, f"https://api.{route}.example"),
        request=Request(b"POST", target, asked),
        request_body=Body([body], ended=True),
        response=Response(200, given, b"OK"),
        response_body=Body([answer], ended=True),
        timing=Timing(float(took // 3), float(took), [(size, took / 3 + size / 100) for size in range(0, len(answer), 8192)]),
        end=End(EndReason.COMPLETE),
        weight=len(body) + len(answer),
    )


def agents(
    *,
    seed: int = 1,
    sessions: int = 12,
    turns: tuple[int, int] = (15, 70),
    start: float = HOUR,
    per_second: float = 2.0,
    planted: Mapping[int, str] | None = None,
) -> Iterator[Record]:
    """Endless: `sessions` agents at once, taken at random, a new one for each that is done after so many `turns` (from, to).

    `planted`: the word that the n-th exchange (from 0) says for the first time; even n in the request, odd n in the answer. Every
    later turn of the same agent (`Client.session`) says it again.
    """
    rng = Random(seed)
    shapes = list(MODELS)
    running = [_start(Random(rng.getrandbits(64)), shapes[number % 3], turns) for number in range(sessions)]
    number = 0
    while True:
        at = rng.randrange(sessions)
        agent = running[at]
        word = f" {planted[number]} " if planted and number in planted else ""
        body = _body(agent, _said(agent, word if number % 2 == 0 else ""))
        answer = _answer(agent, word if number % 2 else "")
        route = "anthropic" if agent.shape == "messages" else "openai"
        yield _record(rng, start + number / per_second, _TARGETS[agent.shape], route, agent.name, body, answer)
        number += 1
        agent.turns -= 1
        if agent.turns <= 0:
            running[at] = _start(Random(rng.getrandbits(64)), agent.shape, turns)


def unique(
    *, seed: int = 1, size: int = 20_000, start: float = HOUR, per_second: float = 10.0, planted: Mapping[int, str] | None = None
) -> Iterator[Record]:
    """Endless: about `size` bytes asked and a tenth of it answered, never the same twice. `planted` as in `agents`, in the request."""
    rng, tongue = Random(seed), language()
    number = 0
    while True:
        word = planted.get(number, "") if planted else ""
        asked = [{"role": "user", "content": f"{tongue.text(rng, size)} {word}"}]
        body = _dumps({"model": "gpt-4o", "messages": asked})
        said = {"role": "assistant", "content": tongue.text(rng, size // 10)}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        answer = _dumps({"id": f"chatcmpl-{rng.getrandbits(96):024x}", "model": "gpt-4o", "choices": [choice]})
        yield _record(rng, start + number / per_second, _TARGETS["chat"], "openai", f"s{number % 50}", body, answer)
        number += 1


# Lines and files.


def upto(records: Iterable[Record], megabytes: float) -> Iterator[Record]:
    """The first records that together weigh so many MB (10**6 bytes of bodies)."""
    left = megabytes * 1e6
    for record in records:
        yield record
        left -= record.weight
        if left <= 0:
            return


def lines(records: Iterable[Record], *, writer: bytes = bytes(16), seq: int = 0) -> Iterator[tuple[Record, bytes]]:
    """Each record with its line, newline included."""
    name = id_text(writer)
    for number, record in enumerate(records, seq):
        line = to_line(record, writer=name, seq=number)
        assert line is not None
        yield record, line + b"\n"


@dataclass(slots=True)
class Made:
    """What `segments_of` wrote."""

    records: int = 0
    line_bytes: int = 0
    file_bytes: int = 0
    paths: list[Path] = field(default_factory=list)


def segments_of(folder: Path, records: Iterable[Record], *, writer: bytes | None = None) -> Made:
    """Write the records into hourly files by their time, as a writer would that opens, numbers without holes, and closes."""
    made = Made()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    at, seq = HOUR, 0
    file = None
    name = writer
    try:
        for record in records:
            if name is None:
                name = record.id[:8] + bytes(8)
            if file is None or file.name != str(folder / segment_name(record.at)):
                if file is not None:
                    file.close()
                path = folder / segment_name(record.at)
                file = path.open("ab")
                path.chmod(0o600)
                made.paths.append(path)
            if seq == 0:
                opened = open_line(writer=id_text(name), seq=0, at=record.at, version="1", rules_hash="", host="elsewhere", pid=1)
                made.file_bytes += file.write(member.pack(opened + b"\n", id=name, part=SERVICE_PART, seq=0))
                seq = 1
            at = record.at
            ((_, line),) = lines([record], writer=name, seq=seq)
            made.file_bytes += file.write(member.pack(line, id=record.id, part=record.part, seq=seq))
            made.line_bytes += len(line)
            made.records += 1
            seq += 1
        if file is not None and name is not None:
            closed = close_line(writer=id_text(name), seq=seq, at=at, written=seq - 1, dropped=0)
            made.file_bytes += file.write(member.pack(closed + b"\n", id=name, part=SERVICE_PART, seq=seq))
    finally:
        if file is not None:
            file.close()
    return made
