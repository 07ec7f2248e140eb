"""Putting the parts of one exchange together again: from lines to what a list shows (Entry) and what a page shows (Exchange).

Values and pure functions; no files. A line that is not of the schema raises DamagedMember, whatever is wrong with it.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

from archive.errors import DamagedMember
from archive.forwarding import Forwarding, forwarding
from archive.naming import in_body

__all__ = ["Content", "Entry", "Exchange", "Head", "Place", "Summary", "assemble", "moment", "upstream_ids"]

Json = dict[str, Any]

_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl", "application/vnd.amazon.eventstream")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a line lies: a member of `length` bytes at `offset` in the file `segment`."""

    segment: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An exchange as a list shows it. Text that no part held is empty; a number that none held is None."""

    id: str
    at: datetime
    kind: Literal["http", "websocket"]
    client: str
    session: str | None
    session_source: str | None
    """Where the session was found: a header's name, "path", a key of the request's body as "body.conversation", or "inferred"."""
    agent: str | None
    user: str | None
    user_source: str | None
    tags: tuple[str, ...]
    kept: str
    """"full", or "metadata": the client wished that no content be kept."""
    route: str
    method: str
    target: str
    status: int | None
    origin: str | None
    """Who made the answer: "upstream" or "gateway"; None without one."""
    streamed: bool
    request_bytes: int
    """Bytes of body that the client sent, on the wire; of a websocket the payloads of its messages as well."""
    response_bytes: int
    messages: int
    ttfb_ms: float | None
    duration_ms: float | None
    end: str | None
    """An end reason; "crashed" when the writer is gone and the parts stop without one; None while it may still be running."""
    parts: int
    redactions: int


@dataclass(frozen=True, slots=True)
class Head:
    """A request's or a response's head. Text that was no UTF-8 is shown with its bytes escaped; the line has them exactly."""

    version: str
    headers: list[tuple[str, str]]
    method: str = ""
    target: str = ""
    status: int | None = None
    reason: str = ""
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A body put together from its slices."""

    data: bytes
    """Content-encoding undone, except where `error` says otherwise."""
    text: str | None
    """`data` as text; None where it is no UTF-8."""
    encoding: str
    """Content-Encoding as it was sent; empty when there was none."""
    size: int
    """Bytes on the wire."""
    sha256: str | None
    """Of the bytes on the wire; None while running, and when a part was lost."""
    truncated: bool
    """More crossed than was kept."""
    complete: bool
    """The framing came to its end."""
    error: str | None
    """Why (some of) `data` is as it crossed: limit, damaged, unknown coding, lost part; or "unread": too large for this reader."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """All that is known of one exchange."""

    entry: Entry
    client: Json
    upstream: Json
    request: Head | None
    request_body: Content | None
    response: Head | None
    response_body: Content | None
    messages: list[Json]
    timing: Json
    end: Json | None
    redactions: list[Json]
    places: list[Place]
    lines: list[bytes]
    """The archive's lines exactly, without their newlines, one for each of `places`; empty bytes where `unread` names the place."""
    unread: list[tuple[Place, str]] = field(default_factory=list)
    """Members that could not be read (damage) or not whole (more than the reader allows), each with the reason."""
    forwarding: Forwarding | None = None
    """Whether what was received was handed on unchanged; None where no line tells."""


@dataclass(slots=True)
class Summary:
    """Parts folded one after another, in order, into what an Entry needs. Holds no bodies."""

    parts: int = 0
    writer: str = ""
    at: datetime | None = None
    client: str = ""
    session: str | None = None
    session_source: str | None = None
    agent: str | None = None
    user: str | None = None
    user_source: str | None = None
    tags: str | None = None
    """Each between line feeds, so that one is found by looking for it between two; None without any."""
    kept: str = "full"
    route: str = ""
    method: str = ""
    target: str = ""
    status: int | None = None
    origin: str | None = None
    streamed: bool = False
    websocket: bool = False
    request_bytes: int = 0
    response_bytes: int = 0
    messages: int = 0
    sent: int = 0
    """Bytes in the client's websocket messages; `received` in the upstream's."""
    received: int = 0
    ttfb: float | None = None
    duration: float | None = None
    end: str | None = None
    redactions: int = 0

    def fold(self, part: Json) -> None:
        """Take in one more part. Raises DamagedMember if it is not of the schema, and is then of no more use."""
        try:
            self._fold(part)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise DamagedMember("the line is not of this schema") from error

    def _fold(self, part: Json) -> None:
        if part["kind"] != "exchange":
            raise ValueError("no exchange")
        self.parts += 1
        self.writer = str(part["writer"])
        if self.at is None:
            self.at = moment(part["at"])
            self._called(part["client"])
            self.kept = str(part.get("kept") or "full")
            self.route = str(part["upstream"]["name"])
        self.request_bytes = max(self.request_bytes, _reached(part["request"]))
        self.response_bytes = max(self.response_bytes, _reached(part["response"]))
        if part["request"] and part["request"]["method"]:
            head = _request_head(part["request"])
            self.method, self.target = head.method, head.target
            self.websocket = self.websocket or "websocket" in _values(head.headers, "upgrade").lower()
            body = part["request"]["body"]
            if body and body["complete"] and not body["offset"]:
                self.name(body["text"])
        if part["response"] and part["response"]["status"]:
            answer = _response_head(part["response"])
            self.status, self.origin = answer.status, answer.origin
            self.streamed = _values(answer.headers, "content-type").lower().startswith(_STREAMS)
        for message in part["messages"]:
            self.messages += 1
            if message["side"] == "client":
                self.sent += _payload(message)
            else:
                self.received += _payload(message)
        self.websocket = self.websocket or bool(part["messages"])
        timing = part["timing"]
        self.ttfb = self.ttfb if timing["ttfb_ms"] is None else float(timing["ttfb_ms"])
        self.duration = self.duration if timing["duration_ms"] is None else float(timing["duration_ms"])
        self.end = self.end if part["end"] is None else str(part["end"]["reason"])
        self.redactions += sum(int(it["count"]) for it in part["redactions"])

    def _called(self, client: Json) -> None:
        """Who called, as the first part has it. Lines of early builds lack all names but the session's."""
        self.client, self.session, self.session_source = str(client["address"]), client["session"], client["session_source"]
        self.agent, self.user, self.user_source = client.get("agent"), client.get("user"), client.get("user_source")
        tags = [str(tag) for tag in client.get("tags") or ()]
        self.tags = "\n" + "\n".join(tags) + "\n" if tags else None

    def name(self, body: str | None) -> None:
        """Take over the names that a request's whole body has for session and user, where they go before those known."""
        named = in_body(body, self.session_source, self.user_source)
        if named.session is not None:
            self.session, self.session_source = named.session, named.session_source
        if named.user is not None:
            self.user, self.user_source = named.user, named.user_source

    def entry(self, id: str, *, gone: bool) -> Entry:
        """The list's row. `gone`: the writer of the last part writes no more."""
        return Entry(
            id=id,
            at=self.at or datetime.fromtimestamp(0, UTC),
            kind="websocket" if self.websocket else "http",
            client=self.client,
            session=self.session,
            session_source=self.session_source,
            agent=self.agent,
            user=self.user,
            user_source=self.user_source,
            tags=tuple(self.tags.strip("\n").split("\n")) if self.tags else (),
            kept=self.kept,
            route=self.route,
            method=self.method,
            target=self.target,
            status=self.status,
            origin=self.origin,
            streamed=self.streamed or self.messages > 0,
            request_bytes=self.request_bytes + self.sent,
            response_bytes=self.response_bytes + self.received,
            messages=self.messages,
            ttfb_ms=self.ttfb,
            duration_ms=self.duration,
            end=self.end or ("crashed" if gone else None),
            parts=self.parts,
            redactions=self.redactions,
        )


def assemble(
    entry: Entry, parts: Sequence[Json], places: Sequence[Place], lines: Sequence[bytes], unread: Sequence[tuple[Place, str]]
) -> Exchange:
    """The exchange of `parts` (in order, at least one). Raises DamagedMember if one is not of the schema."""
    try:
        requests = [part["request"] for part in parts if part["request"]]
        responses = [part["response"] for part in parts if part["response"]]
        request = next((_request_head(it) for it in requests if it["method"]), None)
        response = next((_response_head(it) for it in responses if it["status"]), None)
        request_body = _content([it["body"] for it in requests if it["body"]], unread)
        return Exchange(
            entry=_named(entry, request_body),
            client=_first(parts, "client"),
            upstream=_with(parts[0]["upstream"], "name", "url"),
            request=request,
            request_body=request_body,
            response=response,
            response_body=_content([it["body"] for it in responses if it["body"]], unread),
            messages=[_with(message, "side", "at_ms", "type", "text", "base64", "code") for part in parts for message in part["messages"]],
            timing=_timing([part["timing"] for part in parts]),
            end=next((_with(part["end"], "reason", "detail") for part in parts if part["end"]), None),
            redactions=[_with(redaction, "where", "rule", "count") for part in parts for redaction in part["redactions"]],
            places=list(places),
            lines=list(lines),
            unread=list(unread),
            forwarding=forwarding(parts, origin=response.origin if response is not None else None),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise DamagedMember("the line is not of this schema") from error


_IDS: Final = frozenset({"x-request-id", "request-id", "cf-ray", "x-amzn-requestid", "apim-request-id", "x-goog-request-id"})
"""Response headers by which an upstream's support finds a call; no order is meant."""


def upstream_ids(exchange: Exchange) -> list[tuple[str, str]]:
    """How the upstream itself calls this exchange: the headers, as they came."""
    head = exchange.response
    return [] if head is None or head.origin != "upstream" else [field for field in head.headers if field[0].lower() in _IDS]


def _named(entry: Entry, body: Content | None) -> Entry:
    """With the names in a body that was too long for a list to look into."""
    named = in_body(body.text if body is not None else None, entry.session_source, entry.user_source)
    if named.session is not None:
        entry = replace(entry, session=named.session, session_source=named.session_source)
    return entry if named.user is None else replace(entry, user=named.user, user_source=named.user_source)


def _reached(side: Json | None) -> int:
    """How many bytes of this side's body have crossed by the end of this part."""
    body = side and side["body"]
    return int(body["offset"]) + int(body["size"]) if body else 0


def _payload(message: Json) -> int:
    """Bytes of a websocket message's payload, kept or not; 0 where none of it could be read."""
    return int(message["size"] or 0)


def _with(value: Json, *keys: str) -> Json:
    """`value` if it is an object that has these keys, each of them null, a number or a text."""
    if not all(value[key] is None or isinstance(value[key], str | int | float) for key in keys):
        raise ValueError(keys)
    return value


def _first(parts: Sequence[Json], key: str) -> Json:
    """The first part's object, filled up with what only a later part knew."""
    merged: Json = {}
    for part in parts:
        merged.update({name: value for name, value in part[key].items() if merged.get(name) is None})
    return merged


def _timing(timings: Sequence[Json]) -> Json:
    known = {name: next((it[name] for it in reversed(timings) if it[name] is not None), None) for name in ("ttfb_ms", "duration_ms")}
    return {**known, "marks": [[int(offset), float(ms)] for it in timings for offset, ms in it["marks"]]}


def _content(slices: Sequence[Json], unread: Sequence[tuple[Place, str]]) -> Content | None:
    if not slices:
        return None
    data = b"".join(map(_slice_bytes, slices))
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    ends = [it for it in slices if it["total"] is not None]
    errors = [it["error"] for it in slices if it["error"]]
    return Content(
        data=data,
        text=text,
        encoding=slices[0]["content_encoding"],
        size=max(int(it["offset"]) + int(it["size"]) for it in slices),
        sha256=ends[-1]["sha256"] if ends else None,
        truncated=any(it["truncated"] for it in slices),
        complete=any(it["complete"] for it in slices),
        error=errors[0] if errors else "unread" if unread else None,
    )


def _slice_bytes(body: Json) -> bytes:
    if body["base64"] is not None:
        return b64decode(body["base64"])
    text = str(body["text"]).encode("utf-8", "surrogatepass")
    return b64decode(body["head"] or "") + text + b64decode(body["tail"] or "")


def _request_head(request: Json) -> Head:
    target = _shown(request["target"], request["target_base64"])
    return Head(version=str(request["version"]), headers=_fields(request["headers"]), method=str(request["method"]), target=target)


def _response_head(response: Json) -> Head:
    return Head(
        version=str(response["version"]),
        headers=_fields(response["headers"]),
        status=int(response["status"]),
        reason=_shown(response["reason"], response["reason_base64"]),
        origin=response["origin"],
    )


def _fields(headers: Sequence[Sequence[str | None]]) -> list[tuple[str, str]]:
    return [(str(it[0]), _shown(it[1], it[2] if len(it) > 2 else None)) for it in headers]


def _shown(text: str | None, base64: str | None) -> str:
    return b64decode(base64).decode("utf-8", "backslashreplace") if base64 is not None else str(text or "")


def _values(headers: Sequence[tuple[str, str]], name: str) -> str:
    return ", ".join(value for key, value in headers if key.lower() == name)


def moment(text: str) -> datetime:
    """The time of a line, aware. Raises ValueError, TypeError."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
