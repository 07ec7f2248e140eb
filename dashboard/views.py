"""Ways of looking at bytes: laid-out JSON, an event stream event by event, the exact text, a hex dump; and the limits of each.

Pure: takes what the reader found, returns what a template draws. Every view is bounded, says what it leaves out, and is made of
escaped text only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from markupsafe import Markup

from dashboard import eventstream
from dashboard.hexdump import hexdump
from dashboard.jsontext import compact, layout, looks_like_json
from dashboard.text import clip, marked, size

__all__ = ["LIMIT", "Bytes", "EventRow", "Look", "MessageRow", "look", "message_bytes", "message_rows"]

LIMIT = 2 << 20
"""Bytes of one body a page shows: more than any screen can use, and little enough that a page stays under about 20 MB."""
_MARKS = 100_000
"""Invisible characters of one body that are shown by name."""
_HEX_LIMIT = 64 << 10
_EVENTS = 1_000
_EVENT_LIMIT = 16 << 10
"""Characters of one event's or message's text that a timeline shows."""

TITLES = {"pretty": "Pretty", "events": "Events", "raw": "Raw", "hex": "Hex"}


class Bytes(Protocol):
    """What is needed of a body: its bytes and, where they are valid UTF-8, its text; the coding it was sent in."""

    @property
    def data(self) -> bytes: ...
    @property
    def text(self) -> str | None: ...
    @property
    def encoding(self) -> str: ...


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a stream, ready to draw. `after_ms` since the event before."""

    number: int
    event: eventstream.StreamEvent
    after_ms: float | None
    html: Markup
    comment: Markup
    left_out: int


@dataclass(frozen=True, slots=True)
class Look:
    """One body in one view. `views`: all that fit this body, the best first. `note`: what is not shown, "" when all is."""

    view: str
    views: tuple[str, ...]
    html: str = ""
    rows: tuple[EventRow, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One websocket message, ready to draw. `after_ms` since the message before."""

    number: int
    side: str
    type: str
    at_ms: float
    after_ms: float | None
    size: int
    code: int | None
    cut: bool
    html: Markup
    left_out: int


def look(body: Bytes, media_type: str, wanted: str, marks: Sequence[tuple[int, float]] = ()) -> Look:
    """`body` in the `wanted` view, or in the one that fits best where that one does not fit. `media_type`: its Content-Type, any case."""
    views = _fitting(body, media_type.partition(";")[0].strip().lower())
    view = wanted if wanted in views else views[0]
    if view == "hex":
        return Look(view, views, Markup.escape(hexdump(body.data, limit=_HEX_LIMIT)), note=_bytes_note(len(body.data), _HEX_LIMIT))
    if view == "events":
        return _events(body, views, () if body.encoding else marks)  # marks count wire bytes: they say nothing of inflated text
    note = _bytes_note(len(body.data), LIMIT)
    if not note and body.text is None:
        note = "Some of it is no UTF-8; those bytes are shown as \\xNN."
    # Of valid text only a character that the limit cuts in two is left out; of other text nothing is.
    cut = body.data[:LIMIT].decode("utf-8", "backslashreplace" if body.text is None else "ignore")
    shown = clip(cut, _MARKS)
    if len(shown) < len(cut):
        note = f"It is full of invisible characters, so the view ends after {_MARKS:,} of them; the download has all of it."
    if view == "raw":
        return Look(view, views, marked(shown), note=note)
    laid = layout(shown)
    if laid.left_out:
        note = f"The pretty view ends here; {laid.left_out:,} characters more are in the raw view."
    return Look(view, views, laid.html, note=note)


def _fitting(body: Bytes, media_type: str) -> tuple[str, ...]:
    if media_type == "text/event-stream":
        return ("events", "raw", "hex")
    if body.text is not None:
        return ("pretty", "raw", "hex") if looks_like_json(body.text) else ("raw", "hex")
    # A stream that broke off inside a character is text all the same.
    return ("raw", "hex") if media_type.startswith("text/") or "json" in media_type else ("hex",)


def _bytes_note(have: int, limit: int) -> str:
    return f"The first {size(limit)} of {size(have)} are shown; the download has all of it." if have > limit else ""


def _events(body: Bytes, views: tuple[str, ...], marks: Sequence[tuple[int, float]]) -> Look:
    shown = body.data[:LIMIT]
    rows: list[EventRow] = []
    before: float | None = None
    stream = eventstream.events(shown, marks)
    for number, event in enumerate(islice(stream, _EVENTS)):
        after = None if event.at_ms is None or before is None else event.at_ms - before
        before = event.at_ms
        html, left_out = _brief(event.data)
        comment, _ = _brief(event.comment or "")
        rows.append(EventRow(number, event, after, html, comment, left_out))
    note = _bytes_note(len(body.data), LIMIT)
    if next(stream, None) is not None:
        note = f"The first {_EVENTS:,} events are shown; the raw view and the download have more."
    return Look("events", views, rows=tuple(rows), note=note)


def _brief(text: str) -> tuple[Markup, int]:
    """A short text in colour when it is JSON, and how many characters of it are left out."""
    shown = clip(text[:_EVENT_LIMIT], _MARKS // 500)
    if looks_like_json(shown):
        laid = compact(shown)
        return laid.html, laid.left_out + len(text) - len(shown)
    return marked(shown), len(text) - len(shown)


def message_bytes(message: Mapping[str, Any]) -> bytes:
    """The payload of a recorded websocket message. Damaged base64 gives no bytes: damage is shown, never raised."""
    if isinstance(text := message.get("text"), str):
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(message.get("base64") or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


def message_rows(messages: Sequence[Mapping[str, Any]], first: int, count: int) -> list[MessageRow]:
    """The `count` messages from number `first` on, ready to draw."""
    rows = []
    for number in range(first, min(first + count, len(messages))):
        message = messages[number]
        data = message_bytes(message)
        at = _number(message.get("at_ms"))
        if isinstance(text := message.get("text"), str):
            html, left_out = _brief(text)
        else:
            html, left_out = Markup.escape(hexdump(data, limit=1024)), max(0, len(data) - 1024)
        whole = message.get("size")
        rows.append(
            MessageRow(
                number=number,
                side=str(message.get("side") or ""),
                type=str(message.get("type") or ""),
                at_ms=at,
                after_ms=at - _number(messages[number - 1].get("at_ms")) if number else None,
                size=whole if isinstance(whole, int) else len(data),
                code=message.get("code"),
                cut=isinstance(whole, int) and whole > len(data),
                html=html,
                left_out=left_out,
            )
        )
    return rows


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
