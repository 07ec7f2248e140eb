"""What the demo upstream has to say: about Verbatim when asked in words, a call when it was given tools, JSON when it was given a shape."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway.demo.words import Ask, Call, Json, Reply, Tool, pieces

__all__ = ["reply"]

TOPICS = (
    (
        ("where", "file", "disk", "stored", "archive", "format", "zcat", "jq"),
        (
            "Each exchange is one line of JSON, packed as one gzip member and appended to one file per hour (UTC). Nothing else has to be "
            "running to read it:\n\n```sh\nzcat data/archive/*.jsonl.gz | jq .\n```\n\nHeaders keep their order and their duplicates, "
            "bodies keep their bytes, and every line carries the SHA-256 of what crossed the wire."
        ),
    ),
    (
        ("secret", "key", "token", "redact", "password", "cookie"),
        (
            "Your key went to the upstream untouched, and the archive never saw it: credentials in headers, query strings and websocket "
            "subprotocols become `[redacted]` before a record leaves the relay, and the record says which rule removed what. "
            "`max_tokens` and the rate-limit counters stay readable."
        ),
    ),
    (
        ("stream", "slow", "fast", "latency", "sse", "wait"),
        (
            "Bytes first, notes afterwards: each piece of this stream was on its way to you before it was recorded. If the upstream "
            "breaks off, your stream breaks off too; if you hang up, the upstream is hung up on at once, so nobody pays for words that "
            "nobody reads."
        ),
    ),
    (
        ("websocket", "realtime", "voice", "socket"),
        (
            "A websocket is relayed like a cable: the upstream answers the handshake itself, then frames, pings and close codes pass as "
            "they are. The archive keeps each message with its side and its time."
        ),
    ),
    (
        ("poem", "haiku", "verse", "story"),
        ("A wire, and a scribe:\neach word goes by unaltered –\nthe gzip grows warm. 🪶"),
    ),
)
DEFAULT = (
    "Verbatim stands between your program and the model and writes down what crosses, word for word. You change one thing, the base "
    "URL; requests go on byte for byte, and so do the answers – “smart quotes”, 世界 and 🌍 included. This answer was made up by the "
    "demo upstream on your own machine: no key, no network, no model."
)


def reply(ask: Ask) -> Reply:
    """The one reply to `ask`."""
    thoughts = _thoughts(ask) if ask.thinking else ""
    if call := _call(ask):
        return Reply(f"Let me ask `{call.name}`.", thoughts, call)
    if ask.schema is not None:
        return Reply(json.dumps(_sample(ask.schema, "answer", ask.question), ensure_ascii=False), thoughts)
    text = (
        f"The tool says: {_shorten(ask.result, 400)}\n\nThat is all I wanted to know." if ask.result is not None else _topic(ask.question)
    )
    words = pieces(text)
    if ask.limit is not None and ask.limit < len(words):
        return Reply("".join(words[: ask.limit]), thoughts, cut=True)
    return Reply(text, thoughts)


def _topic(question: str) -> str:
    words = set(re.findall(r"[a-z]+", question.lower()))
    keys, text = max(TOPICS, key=lambda topic: len(words.intersection(topic[0])))
    return text if words.intersection(keys) else DEFAULT


def _thoughts(ask: Ask) -> str:
    asked = _shorten(ask.question, 80)
    if ask.result is not None:
        return f"The tool has answered the question “{asked}”. I only have to pass that on."
    names = ", ".join(tool.name for tool in ask.tools[:3])
    tools = f" I could ask {names}." if names else " I have no tools, so I must know it myself."
    return f"The user asks: “{asked}”.{tools} I should be brief and say nothing that the archive would be ashamed of."


def _call(ask: Ask) -> Call | None:
    if not ask.tools or ask.choice == "none" or (ask.result is not None and ask.choice in {"auto", "any"}):
        return None
    words = set(re.findall(r"[a-z]+", ask.question.lower()))

    def fit(tool: Tool) -> tuple[bool, int]:
        about = re.findall(r"[a-z]+", f"{tool.name} {tool.description}".lower().replace("_", " "))
        return tool.name == ask.choice, len(words.intersection(about))

    tool = max(ask.tools, key=fit)
    arguments = _sample(tool.schema, tool.name, ask.question)
    return Call(tool.name, arguments if isinstance(arguments, dict) else {})


SAMPLES = (
    (("city", "location", "place", "town"), "Zürich"),
    (("path", "file", "filename"), "README.md"),
    (("command", "cmd"), "zcat data/archive/*.jsonl.gz | jq .kind"),
    (("url", "uri"), "https://example.com/"),
    (("date", "day"), "2026-11-20"),
)


def _sample(schema: Json, name: str, question: str) -> Any:
    """A value that fits `schema`, as far as a demo needs it: the subset of JSON schema that tool definitions use."""
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _sample(schema[key][0], name, question)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match str(kind[0] if isinstance(kind, list) else kind).lower():  # Gemini spells them in capitals
        case "object":
            properties: Json = schema.get("properties", {})
            wanted = schema.get("required") or list(properties)[:3]
            return {key: _sample(properties[key], key, question) for key in properties if key in wanted}
        case "array":
            return [_sample(schema.get("items", {}), name, question)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return next((value for names, value in SAMPLES if name.lower() in names), _shorten(question, 60))


def _shorten(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
