"""The strings of a stream of JSON events, joined: what was said in pieces is whole again, what every event repeats is said once.

It knows no provider, only how events are usually made: the pieces of one text stand at one place, and a field called `type`, `index`
or the like says which of several texts an event goes on with. No I/O, no clock.
"""

from __future__ import annotations

import re
from itertools import pairwise
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

_HOLES: Final = 4
"""Values that change in each event of a kind: the piece, a number of the event, some padding."""
_DIGITS: Final = 16


class _Place:
    """What stands at one place of the events."""

    __slots__ = ("inner", "number", "strings")

    def __init__(self) -> None:
        self.inner: dict[object, _Place] = {}
        self.strings: list[str] = []
        self.number: int | float | None = None


_Said = tuple[list[str], str]
"""A string, and the list it was put on."""
_Counted = tuple[_Place, int | float]
"""A number, and the place that was told of it."""


class _Like:
    """The text of an event around the values that change from event to event, and where all its values belong."""

    __slots__ = ("holes", "literals", "name", "others", "values")

    def __init__(self, name: str, literals: list[str], holes: list[list[str] | _Place], others: list[_Said], values: int) -> None:
        self.name = name
        self.literals = literals
        """What stands before, between and behind the holes."""
        self.holes = holes
        """For a string the list it goes on, for a number the place it belongs to."""
        self.others = others
        self.values = values


class Joined:
    """Takes events one after another; says their strings in the end."""

    def __init__(self) -> None:
        self._root = _Place()
        self._like: _Like | None = None
        self._said: list[_Said] = []
        self._counted: list[_Counted] = []
        """The strings and the numbers of the last event that was read whole."""

    def event(self, value: object, name: str = "", text: str = "") -> int:
        """One event; returns how many values it has, at least 1. `name`: the stream's own name for it. `text`: the JSON it was read
        from, so that `like_before` can know the next one."""
        said: list[_Said] = []
        counted: list[_Counted] = []
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
                    said.append((at, inner))
                elif kind is dict or kind is list:
                    stack.append((_inner(place, key), inner))
                elif kind is int or kind is float:
                    there = _inner(place, key)
                    there.number = inner
                    counted.append((there, inner))
        self._like = self._next_like(name, text, said, counted, count) if text else None
        self._said, self._counted = said, counted
        return count

    def like_before(self, text: str, name: str) -> int:
        """Take in an event whose JSON is that of the one before but for the values that change; 0 if it is not, and nothing is taken in.
        Several times quicker than reading it."""
        like = self._like
        if like is None or name != like.name or not text.startswith(like.literals[0]) or not text.endswith(like.literals[-1]):
            return 0
        at = len(like.literals[0])
        pieces = []
        for hole, literal in zip(like.holes, like.literals[1:], strict=True):
            end = text.find(literal[0], at)
            piece = text[at:end]
            if end < 0 or not text.startswith(literal, end):
                return 0
            if isinstance(hole, list):
                if "\\" in piece or not piece.isprintable():
                    return 0
            elif not (piece.isdecimal() and piece.isascii() and len(piece) < _DIGITS) or (piece[0] == "0" and piece != "0"):
                return 0
            pieces.append(piece)
            at = end + len(literal)
        if at != len(text):
            return 0
        for hole, piece in zip(like.holes, pieces, strict=True):
            if isinstance(hole, list):
                hole.append(piece)
            else:
                hole.number = int(piece)
        for there, string in like.others:
            there.append(string)
        return like.values

    def _next_like(self, name: str, text: str, said: list[_Said], counted: list[_Counted], count: int) -> _Like | None:
        """What is needed to know the next event by its text; None where it cannot be told where in it the changed values stand."""
        if len(said) != len(self._said) or len(counted) != len(self._counted) or "\\" in text:
            return None
        holes: list[tuple[int, int, list[str] | _Place]] = []
        others: list[_Said] = []
        for (at, string), (before, other) in zip(said, self._said, strict=True):
            if at is not before:
                return None
            if string == other:
                others.append((at, string))
                continue
            where = _only(text, f'"{string}"') if '"' not in string else -1
            if where < 0:
                return None
            holes.append((where + 1, where + 1 + len(string), at))
        for (place, number), (earlier, was) in zip(counted, self._counted, strict=True):
            if place is not earlier:
                return None
            if number != was:
                where = _only(text, f":{number!r},")
                if where < 0:
                    return None
                holes.append((where + 1, where + 1 + len(repr(number)), place))
        holes.sort(key=lambda it: it[0])
        if not holes or len(holes) > _HOLES or any(a[1] >= b[0] for a, b in pairwise(holes)):
            return None
        starts, ends = [0, *(hole[1] for hole in holes)], [*(hole[0] for hole in holes), len(text)]
        literals = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        return _Like(name, literals, [hole[2] for hole in holes], others, count)

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


def _only(text: str, part: str) -> int:
    """Where `part` stands in `text`, when it does once."""
    at = text.find(part)
    return at if text.find(part, at + 1) < 0 else -1


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
