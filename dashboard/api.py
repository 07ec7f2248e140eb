"""The same as the pages, as JSON for scripts. Read-only; the door (token, Host) is the pages' own.

Handlers are plain blocking code; the app runs them in a thread.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from archive.reader import Content, Exchange, Reader
from dashboard import words
from dashboard.pages import find
from dashboard.query import Filter

__all__ = ["Api", "answer"]

_LIMIT = 2 << 20
"""Bytes of a body inside a JSON answer; beyond it `cut` is true and `href` has all of it."""


class Api:
    """Handlers that answer with JSON. Thread-safe."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def exchanges(self, request: Request) -> Response:
        """A page of entries, newest first; `next` is the `before` of the page after, null on the last."""
        asked = Filter.of(request.query_params)
        page = asked.page(self._reader)
        return answer({"exchanges": [dataclasses.asdict(entry) for entry in page.entries], "next": page.next})

    def exchange(self, request: Request) -> Response:
        """One exchange, bodies included up to 2 MiB each."""
        return answer(_exchange(find(self._reader, request.path_params["id"])))

    def line(self, request: Request) -> Response:
        """The exact archive lines: `part=N` for one, else all, each ended by a line feed."""
        found = find(self._reader, request.path_params["id"])
        lines = found.lines
        if (part := request.query_params.get("part")) is not None:
            if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part) < len(lines)):
                raise HTTPException(404, "This exchange has no such part.")
            lines = [lines[int(part)]]
        return Response(b"".join(line + b"\n" for line in lines if line), media_type="application/x-ndjson")

    def events(self, request: Request) -> Response:
        """What the archive says about itself, oldest first."""
        return answer({"events": [dataclasses.asdict(event) for event in self._reader.events()]})

    def stats(self, request: Request) -> Response:
        """What those events add up to; `catalog`: bytes of segments that it knows, of how many, null where there is none; `closed`: hours
        that this user may not open."""
        progress = self._reader.progress()
        catalog = None if progress is None else dataclasses.asdict(progress)
        return answer({**words.ledger(self._reader.events()), "catalog": catalog, "closed": len(self._reader.closed())})


def answer(value: Mapping[str, Any], status: int = 200) -> Response:
    """`value` as JSON in UTF-8. A lone surrogate goes out as its JSON escape, which is what `backslashreplace` makes of it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return Response(text.encode("utf-8", "backslashreplace"), status, media_type="application/json")


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    raise TypeError(f"no JSON for {type(value).__name__}")


def _exchange(found: Exchange) -> dict[str, Any]:
    return {
        **dataclasses.asdict(found.entry),
        "client": found.client,
        "upstream": found.upstream,
        "request": _half(found.request, found.request_body, f"/exchange/{found.entry.id}/request"),
        "response": _half(found.response, found.response_body, f"/exchange/{found.entry.id}/response"),
        "messages": found.messages,
        "timing": found.timing,
        "end": found.end,
        "redactions": found.redactions,
        "places": [dataclasses.asdict(place) for place in found.places],
        "unread": [{**dataclasses.asdict(place), "why": why} for place, why in found.unread],
    }


def _half(head: Any, body: Content | None, href: str) -> dict[str, Any] | None:
    if head is None and body is None:
        return None
    return {**(dataclasses.asdict(head) if head is not None else {}), "body": None if body is None else _body(body, href)}


def _body(body: Content, href: str) -> dict[str, Any]:
    known = {field.name: getattr(body, field.name) for field in dataclasses.fields(body) if field.name not in ("data", "text")}
    cut = len(body.data) > _LIMIT
    if body.text is None:
        what = {"text": None, "base64": base64.b64encode(body.data[:_LIMIT]).decode()}
    else:
        what = {"text": body.data[:_LIMIT].decode("utf-8", "ignore") if cut else body.text, "base64": None}
    return {**what, **known, "cut": cut, "href": href}
