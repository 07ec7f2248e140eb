"""What one exchange says, as texts to be searched: its request line, its header lines, and each message of its bodies.

It knows JSON, event streams, lines of JSON and plain text, and no provider. What cannot be read as the one is read as plain text; it
never raises on what was recorded. No I/O, no clock; work and memory are bounded.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from archive.words.events import Joined
from archive.words.said import PARSED, Said, loads, loads_or_none

__all__ = ["each_text", "texts"]

_EVENT_FIELD: Final = re.compile(r"\ufeff?(?:data|event|id|retry)?:")

_DONE: Final = "[DONE]"
"""The last event of many streams, and nothing that anybody said."""

Json = dict[str, Any]


def texts(parts: Sequence[Json]) -> list[str]:
    """What the exchange of these lines says, each text once. `parts`: its lines, decoded, in order.

    A text each are: the request line; each header line; in a JSON body each element of an array that stands under any key of the top
    level (a message, in every API so far), and all the rest of the top level together. Of these only the values are said, strings
    and numbers, a line each: the names of fields are the API's words. A string that is itself JSON, as the arguments of a tool are,
    is said in full, names too, its escapes undone. A long string is a text of its own.

    In an answer that comes in events the strings at one place are joined over the events, so that a word cut in two is whole again.

    Left out: bodies that are no text; base64 and other strings of 256 and more characters without a space or mark between; what is
    beyond 64 Mi characters; words of lines that are not of the schema. Lone surrogates become U+FFFD, two that belong together a
    character.
    """
    return list(each_text(parts))


def each_text(parts: Sequence[Json]) -> Iterator[str]:
    """The same, read as far as somebody asks: what was asked before what was answered, which takes longer to read."""
    said = Said()
    for stage in (_heads, _asked, _answered, _messages):
        for _ in stage(said, parts):
            yield from said.fresh
            said.fresh.clear()


# Heads.


def _heads(said: Said, parts: Sequence[Json]) -> Iterator[None]:
    for part in parts:
        _head(said, part.get("request"), ("method", "target"))
        _head(said, part.get("response"), ())
    yield


def _head(said: Said, head: object, start: tuple[str, ...]) -> None:
    if not isinstance(head, dict):
        return
    line = " ".join(_shown(head.get(name), head.get(f"{name}_base64")) for name in start).strip()
    said.text(line)
    if "%" in line:
        said.text(unquote(line))
    for field in _list(head.get("headers")):
        if isinstance(field, list) and len(field) > 1:
            said.text(f"{field[0]}: {_shown(field[1], field[2] if len(field) > 2 else None)}")


def _shown(text: object, base64: object) -> str:
    return _decoded(base64).decode("utf-8", "replace") if isinstance(base64, str) else text if isinstance(text, str) else ""


def _decoded(base64: object) -> bytes:
    try:
        return b64decode(base64) if isinstance(base64, str) else b""
    except ValueError:
        return b""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


# Bodies. What takes long is a generator, which yields when there is something to take.


def _asked(said: Said, parts: Sequence[Json]) -> Iterator[None]:
    return _body(said, [part.get("request") for part in parts], answer=False)


def _answered(said: Said, parts: Sequence[Json]) -> Iterator[None]:
    return _body(said, [part.get("response") for part in parts], answer=True)


def _body(said: Said, heads: Sequence[object], *, answer: bool) -> Iterator[None]:
    """One direction's body over all parts."""
    sides = [head for head in heads if isinstance(head, dict)]
    slices = [side["body"] for side in sides if isinstance(side.get("body"), dict)]
    text = _whole(slices)
    if text:
        fields = [field for side in sides for field in _list(side.get("headers")) if isinstance(field, list) and len(field) > 1]
        yield from _content(said, text, _media_type(fields), answer=answer)


def _whole(slices: Sequence[Json]) -> str:
    """The body's text over its slices; characters cut in two at their ends are whole again. A slice that is no text is left out."""
    if any(it.get("head") or it.get("tail") for it in slices):
        pieces = (
            _decoded(it.get("head")) + _string(it.get("text")).encode("utf-8", "surrogatepass") + _decoded(it.get("tail")) for it in slices
        )
        return b"".join(pieces).decode("utf-8", "replace")
    return "".join(_string(it.get("text")) for it in slices)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _media_type(fields: Sequence[Sequence[object]]) -> str:
    for name, value, *_ in fields:
        if isinstance(name, str) and isinstance(value, str) and name.lower() == "content-type":
            return value.partition(";")[0].strip().lower()
    return ""


def _content(said: Said, text: str, media_type: str, *, answer: bool) -> Iterator[None]:
    """A body's text, read as what it says it is where that is so, else as what it looks like."""
    begins = text[:64].lstrip("\ufeff \t\r\n")[:1]
    streamed = media_type == "text/event-stream" or (answer and _EVENT_FIELD.match(text))
    if streamed and (text.startswith("data:") or "\ndata:" in text or "\rdata:" in text):
        _events(said, text)
    elif media_type == "application/x-www-form-urlencoded":
        said.text(unquote_plus(text))
    elif begins in ("{", "[") and len(text) <= PARSED:
        yield from _json(said, text, answer=answer)
    else:
        said.text(text)
    yield


def _json(said: Said, text: str, *, answer: bool) -> Iterator[None]:
    try:
        value = loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        value = [value for value in map(loads_or_none, lines) if value is not None]
        if 2 * len(value) <= len(lines):
            said.text(_unescaped(text))
            return
    if answer and isinstance(value, list) and len(value) > 1 and all(isinstance(it, dict) for it in value):
        _join(said, value)  # lines of JSON, or a stream in the form of an array (Gemini, without alt=sse)
    else:
        yield from _top(said, value)


def _top(said: Said, value: object) -> Iterator[None]:
    """A whole JSON body."""
    rest: list[object] = []
    for inner in value.values() if isinstance(value, dict) else [value]:
        if isinstance(inner, list):
            for each in inner:
                said.message(each)
                yield
        else:
            rest.append(inner)
    said.message(rest)
    yield


def _join(said: Said, events: Sequence[object]) -> None:
    joined = Joined()
    for event in events:
        said.values -= joined.event(event)
        if said.values <= 0:
            break
    said.message(joined.strings())


def _unescaped(text: str) -> str:
    """JSON that does not end, or is none after all: its escaped line ends would stick to the words behind them."""
    return text.replace("\\n", "\n").replace("\\r", "\n").replace("\\t", "\t").replace('\\"', '"')


def _events(said: Said, text: str) -> None:
    """An event stream (WHATWG HTML, section 9.2.6), as far as it says something."""
    joined = Joined()
    plain: list[str] = []
    data: list[str] = []
    name = ""
    for line in (*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""):
        if line.startswith("data:"):
            data.append(line[6:] if line.startswith(" ", 5) else line[5:])
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif not line and data:
            whole = data[0] if len(data) == 1 else "\n".join(data)
            if not (begun := joined.like_before(whole, name)):
                begun = _event(joined, whole, name, plain)
            said.values -= begun
            if said.values <= 0:
                break
            data.clear()
            name = ""
    said.message(joined.strings())
    if plain:
        said.text("\n".join(plain))


def _event(joined: Joined, data: str, name: str, plain: list[str]) -> int:
    value = loads_or_none(data)
    if isinstance(value, dict | list):
        return joined.event(value, name, data)
    if data != _DONE:
        plain.append(data)
    return 1


def _messages(said: Said, parts: Sequence[Json]) -> Iterator[None]:
    """Websocket messages: the client's are requests, the upstream's are events."""
    joined = Joined()
    for message in (each for part in parts for each in _list(part.get("messages"))):
        text = message.get("text") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(text, str) or said.values <= 0:
            continue
        value = loads_or_none(text) if text[:1] in ("{", "[") else None
        if value is None:
            said.text(text)
        elif message.get("side") == "upstream":
            said.values -= joined.event(value, "", text)
        else:
            yield from _top(said, value)
    said.message(joined.strings())
    yield
