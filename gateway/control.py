"""What a client asks of Verbatim itself, with header fields that begin with `x-verbatim-`: names for its call, and how much to record.

Pure. Parses no JSON: that a field holds one flat object is seen by its grammar, and the keeper reads it. What cannot be used is left out
and told to the client in one line (`Ask.warning`); it never fails a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, TypeVar
from urllib.parse import unquote_to_bytes

from archive.record import Fields

__all__ = ["NOTHING", "PREFIX", "WARNING", "Ask", "Keep", "read"]

Keep = Literal["full", "metadata", "none"]
"""How much of an exchange the client wants recorded."""

PREFIX: Final = b"x-verbatim-"
"""Names that begin so, in any case, are for us and never forwarded."""

WARNING: Final = b"x-verbatim-warning"
"""The response field that says what could not be used."""

MAX_SESSION: Final = 128
MAX_USER: Final = 256
MAX_TAG: Final = 64
"""Characters."""
MAX_TAGS: Final = 32
MAX_METADATA: Final = 4096
"""Bytes of JSON: names for a call, not a second body."""
MAX_NAMES: Final = 64
"""Names in the JSON object."""
MAX_WARNINGS: Final = 5
"""Fields that one warning speaks of: it stays at about a kilobyte."""
MAX_SHOWN: Final = 60
"""Characters of an unknown field's name that a warning repeats."""

T = TypeVar("T")

_SESSION: Final = re.compile(r"[!-~]{1,128}\Z")
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Controls (Unicode category Cc) and the two characters that break a line."""

# A flat object of JSON (RFC 8259) is a regular language. Narrower than the RFC where readers differ: no halves of surrogate pairs, no
# integers beyond 15 digits (a double holds them exactly), no exponents that overflow one. Every alternative begins with another
# character and every run of characters is possessive, so it is read in one pass. (A possessive group would say so more plainly, but
# before Python 3.11.5 one may match what it should not: CPython issue 106052.)
_STRING: Final = (
    r'"(?:[^"\\\x00-\x1f]++'
    r'|\\(?:["\\/bfnrt]|u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD](?:[0-7][0-9a-fA-F]{2}|[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))))*"'
)
_NUMBER: Final = r"-?(?:0|[1-9][0-9]{0,14}+)(?:\.[0-9]{1,15}+)?(?:[eE][+-]?[0-9]{1,2}+)?"
_MEMBER: Final = rf"{_STRING}[ \t]*+:[ \t]*+(?:{_STRING}|{_NUMBER}|true|false|null)[ \t]*+"
_OBJECT: Final = re.compile(rf"\{{[ \t]*+(?:{_MEMBER}(?:,[ \t]*+{_MEMBER})*)?\}}\Z")
_MEMBERS: Final = re.compile(_MEMBER)

_EXPECTED: Final[dict[bytes, str]] = {
    b"x-verbatim-session": f"1 to {MAX_SESSION} visible ASCII characters without spaces",
    b"x-verbatim-user": f"1 to {MAX_USER} characters, in UTF-8 or percent-encoded",
    b"x-verbatim-tags": f"up to {MAX_TAGS} tags of up to {MAX_TAG} characters, with commas between, in UTF-8 or percent-encoded",
    b"x-verbatim-metadata": f"one JSON object of up to {MAX_NAMES} strings, numbers, booleans and nulls, in up to {MAX_METADATA} bytes",
    b"x-verbatim-record": "full, metadata or none",
}
_OTHERS: Final = frozenset({b"x-verbatim-token"})
"""Ours, and read elsewhere: whoever knows the token may use the relay (`gateway.guard`)."""
_NAMED: Final = tuple(name.decode() for name in _EXPECTED)
_MODES: Final[dict[bytes, Keep]] = {b"full": "full", b"metadata": "metadata", b"none": "none"}
_FORBIDDEN: Final = "x-verbatim-record was ignored: this gateway records every call"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asked for in a request's head, as far as it can be used."""

    session: str | None = None
    user: str | None = None
    tags: tuple[str, ...] = ()
    metadata: str = ""
    """A flat JSON object as text; empty without one."""
    record: Keep = "full"
    warning: bytes = b""
    """What was left out and what would be right, for the response: ASCII, one line, no value of the client's. Empty when all is well."""


NOTHING: Final = Ask()


def read(fields: Fields, *, may_decline: bool = True) -> Ask:
    """What `fields`, a request's, ask for. `may_decline`: the operator lets a client keep its call out of the record. Never raises."""
    told: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower.startswith(PREFIX):
            told.setdefault(lower, []).append(value.strip(b" \t"))
    if not told:
        return NOTHING
    wrong: list[str] = []

    def read_one(name: bytes, reading: Callable[[bytes], T], nothing: T) -> T:
        """The value of a field that may be there once."""
        values = told.pop(name, None)
        if values is None:
            return nothing
        try:
            return reading(_same(values))
        except ValueError:
            wrong.append(f"{name.decode()} was ignored: expected {_EXPECTED[name]}")
            return nothing

    if b"x-verbatim-tags" in told:  # a list, so its lines are one (RFC 9110 section 5.3)
        told[b"x-verbatim-tags"] = [b",".join(told[b"x-verbatim-tags"])]
    session = read_one(b"x-verbatim-session", _session, None)
    user = read_one(b"x-verbatim-user", _user, None)
    tags = read_one(b"x-verbatim-tags", _tags, NOTHING.tags)
    metadata = read_one(b"x-verbatim-metadata", _metadata, "")
    record = read_one(b"x-verbatim-record", _mode, NOTHING.record)
    if record == "none" and not may_decline:
        record = "full"
        wrong.append(_FORBIDDEN)
    wrong += [_unknown(name.decode("ascii", "replace")) for name in told if name not in _OTHERS]
    return Ask(session, user, tags, metadata, record, _warning(wrong))


def _same(values: list[bytes]) -> bytes:
    """What all lines of a field say."""
    if any(value != values[0] for value in values):
        raise ValueError
    return values[0]


def _session(value: bytes) -> str:
    text = value.decode("ascii")  # its error is a ValueError
    if not _SESSION.match(text):
        raise ValueError
    return text


def _user(value: bytes) -> str:
    return _name(value, MAX_USER)


def _tags(value: bytes) -> tuple[str, ...]:
    """Each once, in order; empty ones do not count (RFC 9110 section 5.6.1)."""
    tags = tuple(dict.fromkeys(_name(item, MAX_TAG) for each in value.split(b",") if (item := each.strip(b" \t"))))
    if len(tags) > MAX_TAGS:
        raise ValueError
    return tags


def _name(value: bytes, limit: int) -> str:
    """UTF-8, or ASCII in which it is percent-encoded: many clients can send no more. A '%' that begins no escape stands for itself, as in
    the URL standard (WHATWG, "percent-decode").
    """
    text = unquote_to_bytes(value).decode() if b"%" in value else value.decode()
    text = text.strip()
    if not 0 < len(text) <= limit or _UNSEEN.search(text):
        raise ValueError
    return text


def _metadata(value: bytes) -> str:
    if len(value) > MAX_METADATA:
        raise ValueError
    text = value.decode()
    if not _OBJECT.match(text) or len(_MEMBERS.findall(text)) > MAX_NAMES:
        raise ValueError
    return text


def _mode(value: bytes) -> Keep:
    mode = _MODES.get(value.lower())
    if mode is None:
        raise ValueError
    return mode


def _unknown(name: str) -> str:
    near = get_close_matches(name[len(PREFIX) :], [known[len(PREFIX) :] for known in _NAMED], n=1)
    shown = name if len(name) <= MAX_SHOWN else name[:MAX_SHOWN] + "..."
    return f"{shown} is not known" + (f": did you mean {PREFIX.decode()}{near[0]}?" if near else "; there are: " + ", ".join(_NAMED))


def _warning(wrong: list[str]) -> bytes:
    more = len(wrong) - MAX_WARNINGS
    told = wrong[:MAX_WARNINGS] + ([f"and {more} more"] if more > 0 else [])
    return "; ".join(told).encode("ascii", "replace")
