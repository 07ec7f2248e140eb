"""The viewer's pages: the list, one exchange, one archive line, the archive's own events, and downloads.

Each handler is plain blocking code; the app runs it in a thread. What is asked for is checked here; what is found is only ever shown.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from archive.errors import BadName, NotFound
from archive.reader import Content, Event, Exchange, Head, Page, Place, Reader, upstream_ids
from dashboard import timeline, views, words
from dashboard.query import STATUSES, Filter
from dashboard.render import Renderer

__all__ = ["Pages", "find"]

_ID = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,28}")
_LIVE, _LIVE_SEARCH = 1000, 5000
"""Milliseconds between two looks for news: a search reads the lines of what it finds, so it looks less often."""
_BEHIND: Final = 32 << 20
"""Bytes that the catalog may lag behind without a word: a second's work, more than live traffic ever waits."""
_CUTS = 20
"""Archive lines that are told one by one; a websocket of hours has hundreds."""
_EVENTS = 500
"""Archive events on their page."""
_MESSAGES = 200
"""Websocket messages on one page."""


def find(reader: Reader, id: str) -> Exchange:
    """The exchange with this id, or prefix of at least 8 characters. Anything else is a 404 with words; nothing odd reaches the reader."""
    if not _ID.fullmatch(id):
        raise HTTPException(404, "That is not an exchange\u2019s id.")
    try:
        return reader.get(id)
    except (BadName, NotFound) as error:
        raise HTTPException(404, "No exchange with this id is in this archive.") from error


@dataclass(frozen=True, slots=True)
class BodyOf:
    """One direction of an exchange, as the template draws it."""

    side: str
    head: Head | None
    content: Content | None
    look: views.Look | None
    media_type: str


@dataclass(frozen=True, slots=True)
class Cut:
    """Where one archive line lies and the shell line that cuts it out."""

    place: Place
    part: int
    size: int
    command: str
    trouble: str


@dataclass(frozen=True, slots=True)
class EventRow:
    """One archive event and the words for it."""

    event: Event
    label: str
    tone: str
    sentence: str


class Pages:
    """Handlers that answer with HTML or with a download. Thread-safe."""

    def __init__(self, reader: Reader, renderer: Renderer, folder: Path) -> None:
        self._reader = reader
        self._renderer = renderer
        self._folder = folder
        self._seen: set[str] = set()
        self._born = secrets.token_hex(4)

    def exchanges(self, request: Request) -> Response:
        """The list, newest first. Answers 304 while nothing has changed, so that looking for news costs nearly nothing."""
        asked = Filter.of(request.query_params)
        changes = self._reader.refresh()
        # Ten seconds at most, since an exchange is also found to have crashed without a change on disk.
        indexed = self._indexed()
        closed = len(self._reader.closed())
        tag = f'"{self._born}-{changes}-{int(time.monotonic() // 10)}-{indexed}-{closed}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        page = asked.page(self._reader)
        older = urlencode(asked.query(before=page.next)) if page.next else None
        newest = "/?" + urlencode(asked.query())
        response = self._renderer.page(
            "exchanges.html",
            page=page,
            asked=asked,
            older=older,
            newest=newest,
            routes=self._routes(page, asked),
            statuses=STATUSES,
            indexed=indexed,
            closed=closed,
            looked_back=_looked_back(page, asked),
            live=_LIVE if not asked.text else _LIVE_SEARCH,
        )
        response.headers["ETag"] = tag
        return response

    def exchange(self, request: Request) -> Response:
        """One exchange. `request`, `response`: the view of each body; `from`: the first websocket message shown."""
        found = find(self._reader, request.path_params["id"])
        if found.entry.id != request.path_params["id"]:
            return RedirectResponse(f"/exchange/{found.entry.id}", status_code=303)
        query = request.query_params
        first = min(_count(query.get("from")), max(0, len(found.messages) - 1))
        return self._renderer.page(
            "exchange.html",
            it=found,
            entry=found.entry,
            request_body=_body("request", found.request, found.request_body, query.get("request", ""), ()),
            response_body=_body("response", found.response, found.response_body, query.get("response", ""), _marks(found)),
            messages=views.message_rows(found.messages, first, _MESSAGES),
            message_pages=_message_pages(found, first),
            bar=_bar(found),
            upstream_ids=upstream_ids(found),
            chunks=len(_marks(found)),
            cuts=self._cuts(found)[:_CUTS],
            cuts_left=max(0, len(found.places) - _CUTS),
            query=dict(query),
            live=_LIVE if found.entry.end is None else 0,
        )

    def line(self, request: Request) -> Response:
        """One archive line of an exchange, laid out or as it is."""
        found = find(self._reader, request.path_params["id"])
        part = request.path_params["part"]
        if part >= len(found.lines) or not found.lines[part]:
            raise HTTPException(404, "This exchange has no such line, or it could not be read.")
        body = _Line(found.lines[part])
        look = views.look(body, "application/json", request.query_params.get("line", ""))
        return self._renderer.page(
            "line.html", it=found, entry=found.entry, part=part, cut=self._cuts(found)[part], look=look, query={}, live=0
        )

    def lines(self, request: Request) -> Response:
        """The exact archive lines of an exchange, as a download."""
        found = find(self._reader, request.path_params["id"])
        content = b"".join(line + b"\n" for line in found.lines if line)
        return _download(content, f"{found.entry.id}.jsonl", "application/x-ndjson")

    def body(self, request: Request) -> Response:
        """All that was kept of one body, content-encoding undone, as a download that no browser will open in place."""
        side = request.path_params["side"]
        if side not in ("request", "response"):
            raise HTTPException(404)
        found = find(self._reader, request.path_params["id"])
        content = found.request_body if side == "request" else found.response_body
        if content is None:
            raise HTTPException(404, f"This exchange has no {side} body.")
        return _download(content.data, f"{found.entry.id}-{side}.{'bin' if content.text is None else 'txt'}", _type(content.text))

    def message(self, request: Request) -> Response:
        """The payload of one websocket message, as a download."""
        found = find(self._reader, request.path_params["id"])
        number = request.path_params["number"]
        if number >= len(found.messages):
            raise HTTPException(404, "This exchange has no such message.")
        message = found.messages[number]
        text = message.get("text")
        name = f"{found.entry.id}-message-{number}.{'bin' if text is None else 'txt'}"
        return _download(views.message_bytes(message), name, _type(text))

    def events(self, request: Request) -> Response:
        """What the archive says about itself: writers' starts and stops, gaps, removals, damage."""
        events = words.shown(self._reader.events())
        rows = [_event_row(event) for event in reversed(events[-_EVENTS:])]
        return self._renderer.page("events.html", rows=rows, sums=words.ledger(events), left_out=max(0, len(events) - _EVENTS), live=0)

    def _indexed(self) -> int | None:
        """Percent of the archive that is in its catalog, while that is being made."""
        progress = self._reader.progress()
        return None if progress is None or progress.behind < _BEHIND else int(progress.share * 100)

    def _routes(self, page: Page, asked: Filter) -> list[str]:
        """Routes to choose from: those seen so far."""
        self._seen |= {entry.route for entry in page.entries[: 64 - len(self._seen)]}
        return sorted(self._seen | ({asked.route} if asked.route else set()))

    def _cuts(self, found: Exchange) -> list[Cut]:
        troubles = dict(found.unread)
        return [
            Cut(place, part, len(line), _command(self._folder / place.segment, place), troubles.get(place, ""))
            for part, (place, line) in enumerate(zip(found.places, found.lines, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class _Line:
    data: bytes

    @property
    def text(self) -> str | None:
        return self.data.decode("utf-8", "backslashreplace")

    @property
    def encoding(self) -> str:
        return ""


def _looked_back(page: Page, asked: Filter) -> datetime | None:
    """To which moment a filtered page that came short has looked; None for one that did not. An id begins with its time in milliseconds."""
    if page.next is None or not asked.narrows or len(page.entries) >= asked.limit:
        return None
    with contextlib.suppress(OverflowError):
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(page.next.replace("-", "")[:12], 16))
    return None


def _body(side: str, head: Head | None, content: Content | None, wanted: str, marks: Sequence[tuple[int, float]]) -> BodyOf:
    media_type = next((value for name, value in head.headers if name.lower() == "content-type"), "") if head else ""
    look = views.look(content, media_type, wanted, marks) if content is not None and content.data else None
    return BodyOf(side, head, content, look, media_type)


def _marks(found: Exchange) -> list[tuple[int, float]]:
    """The chunks' marks as recorded; an archive that someone edited may hold anything, so only pairs of numbers count."""
    marks = found.timing.get("marks") or []
    return [(int(mark[0]), float(mark[1])) for mark in marks if _is_pair(mark)]


def _is_pair(mark: Any) -> bool:
    return isinstance(mark, (list, tuple)) and len(mark) == 2 and all(isinstance(it, (int, float)) for it in mark)


def _bar(found: Exchange) -> timeline.Bar | None:
    ticks = [(ms, "") for _, ms in _marks(found)]
    ticks += [(float(it.get("at_ms") or 0), str(it.get("side") or "")) for it in found.messages]
    return timeline.bar(found.entry.ttfb_ms, found.entry.duration_ms, sorted(ticks))


def _message_pages(found: Exchange, first: int) -> dict[str, int]:
    """Where the page before and after begin."""
    pages = {}
    if first > 0:
        pages["Earlier"] = max(0, first - _MESSAGES)
    if first + _MESSAGES < len(found.messages):
        pages["Later"] = first + _MESSAGES
    return pages


def _command(path: Path, place: Place) -> str:
    return f"tail -c +{place.offset + 1} {shlex.quote(str(path))} | head -c {place.length} | zcat"


def _event_row(event: Event) -> EventRow:
    said = words.happened(event)
    return EventRow(event, said.label, said.tone, said.sentence)


def _count(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0


def _type(text: str | None) -> str:
    """Never the recorded type: a recorded page must not become a page of this origin."""
    return "application/octet-stream" if text is None else "text/plain; charset=utf-8"


def _download(content: bytes, name: str, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
