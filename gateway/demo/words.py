"""The demo upstream's values: what is asked and what is answered, in no provider's words, and the stamp that ids and times come from.

No I/O, no clock, no chance: everything that varies is drawn from the request's own hash, so that the same request gets the same
answer, ids and times included.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["MALFORMED", "Ask", "Call", "Json", "Reply", "Stamp", "Tool", "compact", "count_tokens", "pieces", "spaced"]

Json = dict[str, Any]

MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
"""What reading JSON of the wrong shape raises."""
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
EPOCH = 1_763_632_800
"""2025-11-20T10:00:00Z; invented times count from here."""


class Stamp:
    """Ids, times and pacing drawn from one request's bytes."""

    def __init__(self, *request: bytes) -> None:
        self._seed = hashlib.sha256(b"\0".join(request)).digest()

    def digest(self, label: str) -> bytes:
        """32 bytes that belong to this request and `label`."""
        return hashlib.sha256(self._seed + label.encode()).digest()

    def id(self, prefix: str, label: str = "", length: int = 24) -> str:
        """An id such as providers make: `prefix` and `length` (at most 32) letters and digits."""
        return prefix + "".join(ALPHABET[byte % 62] for byte in self.digest(prefix + label)[:length])

    @property
    def unix(self) -> int:
        """The time at which the answer claims to be made, in whole seconds."""
        return EPOCH + int.from_bytes(self._seed[:3], "big")

    def pauses(self) -> Iterator[float]:
        """Seconds before each piece of a stream at pace 1: a wait for the first, then 10 to 30 ms, as hosted models show."""
        yield 0.25 + self._seed[3] / 1000
        number = 0
        while True:
            for byte in self.digest(f"pauses {number}"):
                yield 0.010 + byte / 12_500
            number += 1


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `schema` is the JSON schema of its arguments."""

    name: str
    description: str
    schema: Json


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, in no provider's words."""

    model: str
    question: str
    """The last thing the user said, as text."""
    prompt_tokens: int
    tools: Sequence[Tool] = ()
    choice: str = "auto"
    """"auto", "none", "any", or the name of the tool that must be called."""
    result: str | None = None
    """The tool result that came last; None when the last word was the user's."""
    thinking: bool = False
    schema: Json | None = None
    """The answer must be JSON of this shape."""
    limit: int | None = None
    """At most this many tokens of text."""
    stream: bool = False
    usage: bool = True
    """Whether a stream is to end with the count of tokens."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: Json

    @property
    def text(self) -> str:
        """The arguments as providers send them: compact JSON in a string."""
        return compact(self.arguments)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer: perhaps thoughts, then text or a call."""

    text: str
    thoughts: str = ""
    call: Call | None = None
    cut: bool = False
    """The text was cut at the asker's limit."""

    @property
    def tokens(self) -> int:
        """Tokens of everything said, thoughts included."""
        return sum(map(count_tokens, (self.text, self.thoughts, self.call.text if self.call else "")))


def pieces(text: str) -> list[str]:
    """`text` in the pieces in which a stream would bring it: words with the space before them."""
    return re.findall(r"\s*\S+|\s+", text)


def count_tokens(text: str) -> int:
    """About as many tokens as a model would count: four bytes each."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


def compact(value: Json) -> str:
    """JSON as it goes over a wire: no spaces, text as it is."""
    return _sound(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def spaced(value: Json, indent: int | None = None) -> str:
    """JSON with spaces, and on lines of its own where `indent` is given."""
    return _sound(json.dumps(value, ensure_ascii=False, indent=indent))


def _sound(text: str) -> str:
    """`text` with "?" for each half of a character that a request's JSON may have brought, since UTF-8 cannot say it."""
    return text.encode("utf-8", "replace").decode()
