"""What one exchange says, as texts to be searched: its request line, its header lines, and each message of its bodies.

It knows JSON, event streams, lines of JSON and plain text, and no provider. What cannot be read as the one is read as plain text; it
never raises on what was recorded. No I/O, no clock; work and memory are bounded.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from archive.events import Joined

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = ["each_text", "texts"]

_LONG: Final = 200
"""A string of so many characters is a text of its own. So an answer is the same text when it was streamed in pieces and when it comes
back in the history of the next request, whatever stands around it, and is indexed once."""
_BLOB_LENGTH: Final = 256
"""So many letters, digits, + / = _ - without anything between are data (base64, digests), not words."""
_ROOM: Final = 64 << 20
"""Characters of one exchange, as many as the archive decodes of a body; what is beyond is not searched."""
_PARSED: Final = 32 << 20
"""A body longer than this is read as plain text: parsed, the worst JSON takes 20 times its length in memory."""
_VALUES: Final = 1_000_000
"""Values of one exchange's JSON that are looked at: 0.2 s."""

_BLOB: Final = re.compile(rf"[A-Za-z0-9+/=_-]{{{_BLOB_LENGTH},}}")
_EVENT_FIELD: Final = re.compile(r"\ufeff?(?:data|event|id|retry)?:")

_DONE: Final = "[DONE]"
"""The last event of many streams, and nothing that anybody said."""

_OPENING: Final = ("{", "[")

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
    said = _Said()
    told = 0
    for stage in (_heads, _asked, _answered, _messages):
        stage(said, parts)
        yield from islice(said.texts, told, None)
        told = len(said.texts)


class _Said:
    """The texts so far, and how much room is left."""

    __slots__ = ("room", "texts", "values")

    def __init__(self) -> None:
        self.texts: dict[str, None] = {}
        self.room = _ROOM
        self.values = _VALUES

    def text(self, text: str) -> None:
        """One text, as it is to be indexed."""
        if len(text) >= _BLOB_LENGTH:
            text = _without_blobs(text)
        if not text.isascii():
            text = _sound(text)
        if text in self.texts or not text or self.room <= 0:
            return
        self.texts[text[: self.room]] = None
        self.room -= len(text)

    def message(self, value: object) -> None:
        """One message: a JSON value of any depth. The long strings in it are a text each, the others a text together."""
        short: list[str] = []
        self._gather(value, short, names=False)
        if short:
            self.text("\n".join(short))

    def strings(self, strings: list[str]) -> None:
        """The strings of one message."""
        self.message(strings)

    def _gather(self, value: object, short: list[str], *, names: bool) -> None:
        """The strings and numbers in a JSON value, in order, with `names` the names of fields too."""
        stack = [value]
        pop, add = stack.pop, short.append
        left = self.values
        while stack and left > 0:
            left -= 1
            value = pop()
            kind = type(value)
            if kind is str:
                if len(value) >= _LONG or (value[:1] in _OPENING and value):  # type: ignore[arg-type, index]
                    self.values = left
                    self._string(value, short)  # type: ignore[arg-type]
                    left = self.values
                elif value:
                    add(value)  # type: ignore[arg-type]
            elif kind is dict:
                if names:
                    for name, inner in reversed(value.items()):  # type: ignore[attr-defined]
                        stack += (inner, name)
                else:
                    stack.extend(reversed(value.values()))  # type: ignore[attr-defined]
            elif kind is list:
                stack.extend(reversed(value))  # type: ignore[call-overload]
            elif kind is int or kind is float:
                add(repr(value))
        self.values = left

    def _string(self, string: str, short: list[str]) -> None:
        """A string that is long, or JSON."""
        nested = _nested(string)
        if nested is not None:
            self._gather(nested, short, names=True)
        elif len(string) >= _LONG:
            self.text(string)
        else:
            short.append(string)


# Heads.


def _heads(said: _Said, parts: Sequence[Json]) -> None:
    for part in parts:
        _head(said, part.get("request"), ("method", "target"))
        _head(said, part.get("response"), ())


def _head(said: _Said, head: object, start: tuple[str, ...]) -> None:
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


# Bodies.


def _asked(said: _Said, parts: Sequence[Json]) -> None:
    _body(said, [part.get("request") for part in parts], answer=False)


def _answered(said: _Said, parts: Sequence[Json]) -> None:
    _body(said, [part.get("response") for part in parts], answer=True)


def _body(said: _Said, heads: Sequence[object], *, answer: bool) -> None:
    """One direction's body over all parts."""
    sides = [head for head in heads if isinstance(head, dict)]
    slices = [side["body"] for side in sides if isinstance(side.get("body"), dict)]
    text = _whole(slices)
    if text:
        fields = [field for side in sides for field in _list(side.get("headers")) if isinstance(field, list) and len(field) > 1]
        _content(said, text, _media_type(fields), answer=answer)


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


def _content(said: _Said, text: str, media_type: str, *, answer: bool) -> None:
    """A body's text, read as what it says it is where that is so, else as what it looks like."""
    begins = text[:64].lstrip("\ufeff \t\r\n")[:1]
    streamed = media_type == "text/event-stream" or (answer and _EVENT_FIELD.match(text))
    if streamed and (text.startswith("data:") or "\ndata:" in text or "\rdata:" in text):
        _events(said, text)
    elif media_type == "application/x-www-form-urlencoded":
        said.text(unquote_plus(text))
    elif begins in ("{", "[") and begins and len(text) <= _PARSED:
        _json(said, text, answer=answer)
    else:
        said.text(text)


def _json(said: _Said, text: str, *, answer: bool) -> None:
    try:
        value = _loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        read = [value for value in map(_loads_or_none, lines) if value is not None]
        if 2 * len(read) <= len(lines):
            said.text(_unescaped(text))
        elif answer:
            said.strings(_join(said, read))
        else:
            for value in read:
                said.message(value)
        return
    if answer and isinstance(value, list) and len(value) > 1 and all(isinstance(it, dict) for it in value):
        said.strings(_join(said, value))  # a stream in the form of an array (Gemini, without alt=sse)
    else:
        _top(said, value)


def _top(said: _Said, value: object) -> None:
    """A whole JSON body."""
    if isinstance(value, list):
        for each in value:
            said.message(each)
        return
    if not isinstance(value, dict):
        said.message(value)
        return
    rest = []
    for inner in value.values():
        if isinstance(inner, list):
            for each in inner:
                said.message(each)
        else:
            rest.append(inner)
    said.message(rest)


def _join(said: _Said, events: Iterable[object]) -> list[str]:
    joined = Joined()
    for event in events:
        said.values -= joined.event(event)
        if said.values <= 0:
            break
    return joined.strings()


def _events(said: _Said, text: str) -> None:
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
    said.strings(joined.strings())
    if plain:
        said.text("\n".join(plain))


def _event(joined: Joined, data: str, name: str, plain: list[str]) -> int:
    value = _loads_or_none(data)
    if isinstance(value, dict | list):
        return joined.event(value, name, data)
    if data != _DONE:
        plain.append(data)
    return 1


def _messages(said: _Said, parts: Sequence[Json]) -> None:
    """Websocket messages: the client's are requests, the upstream's are events."""
    joined = Joined()
    for message in (each for part in parts for each in _list(part.get("messages"))):
        text = message.get("text") if isinstance(message, dict) else None
        if not isinstance(message, dict) or not isinstance(text, str) or said.values <= 0:
            continue
        value = _loads_or_none(text) if text[:1] in ("{", "[") else None
        if value is None:
            said.text(text)
        elif message.get("side") == "upstream":
            said.values -= joined.event(value, "", text)
        else:
            _top(said, value)
    said.strings(joined.strings())


# Strings.


def _loads(text: str) -> Any:
    """The JSON value, lone surrogates and all. Raises ValueError, also for what is nested too deeply."""
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:
            pass  # it refuses the escapes of lone surrogates, which the standard library reads
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _loads_or_none(text: str) -> Any:
    try:
        return _loads(text) if len(text) <= _PARSED else None
    except ValueError:
        return None


def _nested(string: str) -> Any:
    """The value of a string that is a JSON object or array; None for any other."""
    if len(string) < 2 or string[0] + string[-1] not in ("{}", "[]"):
        return None
    value = _loads_or_none(string)
    return value if isinstance(value, dict | list) else None


def _unescaped(text: str) -> str:
    """JSON that does not end, or is none after all: its escaped line ends would stick to the words behind them."""
    return text.replace("\\n", "\n").replace("\\r", "\n").replace("\\t", "\t").replace('\\"', '"')


def _sound(text: str) -> str:
    """`text` without lone surrogates: halves of one character that came in two pieces become that character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _without_blobs(text: str) -> str:
    """`text` with its blobs cut out. Nearly every text has a space in each stretch of so many characters, which is soon seen."""
    at, end = 0, len(text)
    while end - at >= _BLOB_LENGTH:
        space = text.rfind(" ", at, at + _BLOB_LENGTH)
        if space < 0:
            return _BLOB.sub(" ", text).strip()
        at = space + 1
    return text
