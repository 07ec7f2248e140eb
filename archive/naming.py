"""Sessions and users that clients name in the JSON of a request's body: a table of places, read by who lists and finds exchanges. Pure.

Names in headers were found when the exchange was recorded, and stand in its line. Here is the order in which the two kinds go before each
other, and no other knowledge of what bodies say.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

__all__ = ["Named", "in_body"]

_LARGEST: Final = 32 << 20
"""Characters of a body that is looked into."""
_MAX_NAME: Final = 256

_OF_CLAUDE: Final = frozenset({"x-verbatim-session", "path", "x-claude-code-session-id"})
"""Places of a session that go before Anthropic's `metadata.user_id`."""
_WEAK: Final = frozenset({None, "traceparent", "inferred"})
"""Places that every name in a body goes before."""

_PACKED: Final = re.compile(r"user_([0-9a-f]{64})_account_([0-9a-f-]*)_session_([0-9A-Za-z-]{1,128})\Z")
"""What Claude Code put into `metadata.user_id` before 2.1.78; since then it is JSON."""
_UNSEEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Json = dict[str, Any]


class Named(NamedTuple):
    """What a body names; None, and the source with it, where it names none that goes before what is known."""

    session: str | None = None
    session_source: str | None = None
    user: str | None = None
    user_source: str | None = None


def in_body(text: str | None, session_source: str | None, user_source: str | None) -> Named:
    """What the body `text` of a request names, where a session was already found at `session_source` and a user at `user_source`.

    In order, sessions: `metadata.user_id` (Anthropic; Claude Code packs its session into it), `conversation`, `previous_response_id`,
    `prompt_cache_key` (OpenAI). Users: `metadata.user_id`, `safety_identifier`, `user`. Never raises.
    """
    if not text or len(text) > _LARGEST or (session_source in _OF_CLAUDE and user_source is not None):
        return Named()
    if text[:64].lstrip()[:1] != "{":
        return Named()
    body = _object(text)  # looking for the keys first would take as long (58 KB: 0.13 ms)
    metadata = body.get("metadata")
    whose, session = _unpacked(metadata.get("user_id")) if isinstance(metadata, dict) else (None, None)
    place = "body.metadata.user_id"
    if session_source in _OF_CLAUDE:
        session = None
    elif session is None and session_source in _WEAK:
        session, place = _first(body, "conversation", "previous_response_id", "prompt_cache_key")
    user, by = (whose, "body.metadata.user_id") if whose is not None else _first(body, "safety_identifier", "user")
    if user_source is not None:
        user = None
    return Named(session, place if session is not None else None, user, by if user is not None else None)


def _unpacked(value: object) -> tuple[str | None, str | None]:
    """User and session out of Anthropic's `metadata.user_id`."""
    text = _name(value, limit=1024)
    if text is None:
        return None, None
    if packed := _PACKED.match(text):
        return packed[2] or packed[1], packed[3]
    if text.startswith("{"):
        inner = _object(text)
        return _name(inner.get("account_uuid")) or _name(inner.get("device_id")), _name(inner.get("session_id"))
    return _name(text), None


def _first(body: Json, *keys: str) -> tuple[str | None, str]:
    for key in keys:
        value = body.get(key)
        name = _name(value.get("id") if isinstance(value, dict) else value)
        if name is not None:
            return name, f"body.{key}"
    return None, ""


def _name(value: object, limit: int = _MAX_NAME) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= limit and value == value.strip() and not _UNSEEN.search(value) else None


def _object(text: str) -> Json:
    """The JSON object; an empty one where it is none."""
    try:
        value = orjson.loads(text) if orjson is not None else json.loads(text)
    except (ValueError, RecursionError):
        try:  # orjson refuses the escapes of lone surrogates, which the standard library reads
            value = json.loads(text)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
