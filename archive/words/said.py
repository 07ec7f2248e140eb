"""What is said in JSON values and strings, gathered as texts to be searched, each once and within bounds. No I/O, no clock."""

from __future__ import annotations

import json
import re
from typing import Any, Final

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = ["Said", "loads", "loads_or_none"]

_LONG: Final = 200
"""A string of so many characters is a text of its own. So an answer is the same text when it was streamed in pieces and when it comes
back in the history of the next request, whatever stands around it, and is indexed once."""
_BLOB_LENGTH: Final = 256
"""So many letters, digits, + / = _ - without anything between are data (base64, digests), not words."""
_ROOM: Final = 64 << 20
"""Characters of one exchange, as many as the archive decodes of a body; what is beyond is not searched."""
PARSED: Final = 32 << 20
"""JSON longer than this is read as plain text: parsed, the worst takes 20 times its length in memory."""
_VALUES: Final = 1_000_000
"""Values of one exchange's JSON that are looked at: 0.2 s."""

_BLOB: Final = re.compile(rf"[A-Za-z0-9+/=_-]{{{_BLOB_LENGTH},}}")
_OPENING: Final = ("{", "[")


class Said:
    """The texts so far, and how much room is left."""

    __slots__ = ("_known", "_room", "fresh", "values")

    def __init__(self) -> None:
        self.fresh: list[str] = []
        """Texts that nobody has taken yet; whoever takes them clears the list."""
        self.values = _VALUES
        """How many more values may be looked at."""
        self._known: set[str] = set()
        self._room = _ROOM

    def text(self, text: str) -> None:
        """One text, as it is to be indexed."""
        if len(text) >= _BLOB_LENGTH:
            text = _without_blobs(text)
        if not text.isascii():
            text = _sound(text)
        if text in self._known or not text or self._room <= 0:
            return
        self._known.add(text)
        self.fresh.append(text[: self._room])
        self._room -= len(text)

    def message(self, value: object) -> None:
        """One message: a JSON value of any depth. The long strings in it are a text each, the others a text together."""
        short: list[str] = []
        self._gather(value, short, names=False)
        if short:
            self.text("\n".join(short))

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


def loads(text: str) -> Any:
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


def loads_or_none(text: str) -> Any:
    try:
        return loads(text) if len(text) <= PARSED else None
    except ValueError:
        return None


def _nested(string: str) -> Any:
    """The value of a string that is a JSON object or array; None for any other."""
    if len(string) < 2 or string[0] + string[-1] not in ("{}", "[]"):
        return None
    value = loads_or_none(string)
    return value if isinstance(value, dict | list) else None


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
