"""The strings of a stream of JSON events, joined: what was said in pieces is whole again, what every event repeats is said once.

It knows no provider, only how events are usually made: the pieces of one text stand at one place, and a field called `type`, `index`
or the like says which of several texts an event goes on with. No I/O, no clock.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["Joined"]

_WHICH: Final = frozenset({"type", "index", "output_index", "content_index", "summary_index", "item_id", "response_id", "call_id"})
"""Fields whose value is part of the place of what stands beside and below them."""
_NAMES: Final = re.compile(r"(?:.*_)?id|.*Id")
"""Fields that hold a name: two of them are never two pieces of one."""
_STAMP: Final = 8
"""Values that begin with the same so many characters are no pieces of one text: times, or a text that is repeated as it grows."""
_REPEATS: Final = 8
"""A value that changes less often than every so many events is no text in pieces."""


class _Place:
    """What stands at one place of the events."""

    __slots__ = ("inner", "number", "strings")

    def __init__(self) -> None:
        self.inner: dict[object, _Place] = {}
        self.strings: list[str] = []
        self.number: int | float | None = None


class _Like:
    """The text of an event around its one string that changes, and where its strings belong."""

    __slots__ = ("after", "before", "changing", "name", "others", "values")

    def __init__(self, name: str, before: str, after: str, changing: list[str], others: list[tuple[list[str], str]], values: int) -> None:
        self.name = name
        self.before = before
        self.after = after
        self.changing = changing
        self.others = others
        self.values = values


class Joined:
    """Takes events one after another; says their strings in the end."""

    def __init__(self) -> None:
        self._root = _Place()
        self._like: _Like | None = None
        self._last: list[tuple[list[str], str]] = []
        """The strings of the last event, and the lists they were put on."""

    def event(self, value: object, name: str = "", text: str = "") -> int:
        """One event; returns how many values it has, at least 1. `name`: the stream's own name for it. `text`: the JSON it was read
        from, so that `like_before` can know the next one."""
        strings: list[tuple[list[str], str]] = []
        count = 1
        stack = [(_inner(self._root, name) if name else self._root, value)]
        while stack:
            place, value = stack.pop()
            if isinstance(value, dict):
                which = [inner for key, inner in value.items() if key in _WHICH and type(inner) in (str, int)]
                if which:
                    place = _inner(place, tuple(which))
                pairs: Any = value.items()
            elif isinstance(value, list):
                pairs = enumerate(value)
            else:
                pairs = (("", value),)
            for key, inner in pairs:
                count += 1
                kind = type(inner)
                if kind is str:
                    at = _inner(place, key).strings
                    at.append(inner)
                    strings.append((at, inner))
                elif kind is dict or kind is list:
                    stack.append((_inner(place, key), inner))
                elif kind is int or kind is float:
                    _inner(place, key).number = inner
        self._like = _like(name, text, self._last, strings, count) if text else None
        self._last = strings
        return count

    def like_before(self, text: str, name: str) -> int:
        """Take in an event whose JSON is that of the one before but for the one string that changes; 0 if it is not, and nothing is
        taken in. Several times quicker than reading it."""
        like = self._like
        if like is None or name != like.name or not text.startswith(like.before) or not text.endswith(like.after):
            return 0
        piece = text[len(like.before) : len(text) - len(like.after)]
        if len(text) < len(like.before) + len(like.after) or '"' in piece or "\\" in piece or not piece.isprintable():
            return 0
        like.changing.append(piece)
        for at, string in like.others:
            at.append(string)
        return like.values

    def strings(self) -> list[str]:
        """All that was said, in the order in which it was begun, a long text before what comes at the same time."""
        said: list[str] = []
        stack: list[tuple[object, _Place]] = [("", self._root)]
        while stack:
            key, place = stack.pop()
            if place.strings:
                said += _whole(str(key), place.strings)
            if place.number is not None:
                said.append(repr(place.number))
            stack.extend(reversed(place.inner.items()))
        return said


def _inner(place: _Place, key: object) -> _Place:
    inner = place.inner.get(key)
    if inner is None:
        inner = place.inner[key] = _Place()
    return inner


def _like(name: str, text: str, last: list[tuple[list[str], str]], strings: list[tuple[list[str], str]], count: int) -> _Like | None:
    """What is needed to know the next event by its text; None where more than one string changed, or it cannot be told which."""
    if len(last) != len(strings) or "\\" in text:
        return None
    changed = -1
    for number, ((at, string), (before, other)) in enumerate(zip(strings, last, strict=True)):
        if at is not before:
            return None
        if string != other:
            if changed >= 0:
                return None
            changed = number
    if changed < 0:
        return None
    at, string = strings[changed]
    quoted = f'"{string}"'
    where = text.find(quoted)
    if where < 0 or text.find(quoted, where + 1) >= 0 or json.dumps(string, ensure_ascii=False) != quoted:
        return None
    others = [*strings[:changed], *strings[changed + 1 :]]
    return _Like(name, text[: where + 1], text[where + 1 + len(string) :], at, others, count)


def _whole(key: str, strings: list[str]) -> list[str]:
    """The strings of one place as what they are: pieces of a text, or values of their own."""
    if len(strings) == 1:
        return strings
    changes = sum(map(str.__ne__, strings, strings[1:]))
    if not changes:
        return strings[:1]
    if changes * _REPEATS <= len(strings) or _NAMES.fullmatch(key):
        return list(dict.fromkeys(strings))
    first = strings[0]
    if len(first) >= _STAMP and all(each.startswith(first[:_STAMP]) for each in strings):
        return [first, strings[-1]]
    return ["".join(strings)]
