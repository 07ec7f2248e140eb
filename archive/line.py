"""One record as one line of JSON, schema version 1: what `zcat FILE | jq` shows and every later reader relies on.

Bytes that are text stay text; bytes that are not stay exact as base64. Within a kind every key is always there, null where nothing
crossed, so that SQL engines infer one schema. No I/O, no clock; called in the writer's thread, which shares the interpreter's lock
with the relay, so it is written to be quick.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from archive.content import DEFAULT_LIMIT, Slice, hashes, take
from archive.record import (
    SCHEMA_VERSION,
    Body,
    Client,
    Crossed,
    Fields,
    Kind,
    Message,
    Record,
    Request,
    Response,
    Timing,
    Transparency,
    id_text,
)

__all__ = ["SERVICE_PART", "close_line", "declined_line", "forget_line", "gap_line", "open_line", "prune_line", "to_line"]

SERVICE_PART: Final = 0xFFFF_FFFF
"""The part number in the member tag of the archive's own lines, whose id is their writer's: found by hopping, without inflating."""

_LARGE: Final = 1 << 20
_CONTROLS: Final = bytes(byte for byte in range(32) if byte not in b"\t\n\r")
_PRINTABLE: Final = bytes(byte for byte in range(256) if byte not in _CONTROLS)

Json = dict[str, Any]


def _dumps_plain(value: object) -> bytes:
    """The standard library's encoder, byte for byte what orjson gives; a lone surrogate becomes its JSON escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


try:
    import orjson
except ImportError:
    _dumps: Callable[[object], bytes] = _dumps_plain
else:

    def _dumps_fast(value: object) -> bytes:
        try:
            return orjson.dumps(value)
        except orjson.JSONEncodeError:  # a lone surrogate in a producer's own text
            return _dumps_plain(value)

    _dumps = _dumps_fast


def to_line(record: Record, *, writer: str, seq: int, decode_limit: int = DEFAULT_LIMIT) -> bytes | None:
    """The record as a line of UTF-8 JSON without its line end; None when it holds nothing but bytes that are not kept.

    Parts of one exchange must come in order, each once: bodies are hashed and decoded as they pass (`archive.content`). Calls
    `record.messages` if it is a function, and lets go of it; whatever that raises is noted in the line and not raised.
    """
    asked = callable(record.messages)  # it was given for a reason, so there is a line even if it finds none
    messages = _messages(record)
    last = record.end is not None
    request_body = _body(record.request_body, last, decode_limit)
    response_body = _body(record.response_body, last, decode_limit)
    if not (last or asked or messages or record.request or record.response or record.redactions or _keeps(record)):
        return None
    return _dumps(
        {
            "v": SCHEMA_VERSION,
            "id": id_text(record.id),
            "seq": seq,
            "writer": writer,
            "part": record.part,
            "at": _time(record.at),
            "kind": "exchange",
            "client": _client(record.client, record.request),
            "upstream": {"name": record.upstream.name, "url": record.upstream.url},
            "request": _request(record.request, request_body),
            "response": _response(record.response, response_body),
            "messages": messages,
            "timing": _timing(record.timing),
            "end": {"reason": record.end.reason.value, "detail": record.end.detail} if record.end is not None else None,
            "redactions": [{"where": it.where, "rule": it.rule, "count": it.count} for it in record.redactions],
            "kept": record.kept,
            "transparency": _transparency(record.transparency) if record.transparency is not None else None,
        }
    )


def open_line(*, writer: str, seq: int, at: float, version: str, rules_hash: str, host: str, pid: int) -> bytes:
    """A writer began. `host` and `pid` let a reader on the same machine see whether it still runs."""
    return _service(Kind.OPEN, writer, seq, at, {"version": version, "rules_hash": rules_hash, "host": host, "pid": pid})


def close_line(*, writer: str, seq: int, at: float, written: int, dropped: int) -> bytes:
    """A writer stopped cleanly: `seq` is its last; `written` and `dropped` count its exchange records."""
    return _service(Kind.CLOSE, writer, seq, at, {"written": written, "dropped": dropped})


def gap_line(*, writer: str, seq: int, at: float, since: float, until: float, records: int, exchanges: int, size: int, why: str) -> bytes:
    """Between `since` and `until` (Unix seconds) `records` of `exchanges`, holding about `size` bytes, were dropped."""
    span = {"since": _time(since), "until": _time(until)}
    return _service(Kind.GAP, writer, seq, at, {**span, "records": records, "exchanges": exchanges, "bytes": size, "why": why})


def declined_line(*, writer: str, seq: int, at: float, since: float, until: float, exchanges: int) -> bytes:
    """Between `since` and `until` (Unix seconds) so many exchanges were not recorded, at their clients' wish."""
    return _service(Kind.DECLINED, writer, seq, at, {"since": _time(since), "until": _time(until), "exchanges": exchanges})


def forget_line(*, writer: str, seq: int, at: float, by: str, why: str, removed: Sequence[Json]) -> bytes:
    """`by` ("user@host") had records removed. Each of `removed` says which one (segment, index, id, part, writer, seq) and what it was:
    `digest` (SHA-256 of a zero byte and the line, as the seal's leaf; None when it is damaged), `member` (SHA-256 of the gzip member, None
    when the disk cannot read it), `bytes` (its length).
    """
    return _service(Kind.FORGET, writer, seq, at, {"by": by, "why": why, "removed": removed})


def prune_line(*, writer: str, seq: int, at: float, by: str, why: str, segments: Sequence[Json]) -> bytes:
    """Whole hours were removed to keep within bounds. Each of `segments` says which one, how much it held, its seal's root and SHA-256, and
    of each writer the numbers that went with it.
    """
    return _service(Kind.PRUNE, writer, seq, at, {"by": by, "why": why, "segments": segments})


def _service(kind: Kind, writer: str, seq: int, at: float, what: Json) -> bytes:
    line = {"v": SCHEMA_VERSION, "id": writer, "seq": seq, "writer": writer, "part": SERVICE_PART, "at": _time(at), "kind": kind.value}
    return _dumps({**line, kind.value: what})


def _time(unix: float) -> str:
    """RFC 3339, UTC, always with microseconds so that text order is time order."""
    second, micro = divmod(round(unix * 1_000_000), 1_000_000)
    return f"{_second(second)}.{micro:06d}Z"


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# Heads: names and values as text where they are UTF-8.


def _request(head: Request | None, body: Json | None) -> Json | None:
    if head is None:
        return None if body is None else {**_NO_REQUEST, "body": body}
    target, target_base64 = _text(head.target)
    return {
        "method": head.method.decode("ascii", "backslashreplace"),
        "target": target,
        "target_base64": target_base64,
        "version": head.version,
        "headers": _headers(head.headers),
        "body": body,
    }


def _response(head: Response | None, body: Json | None) -> Json | None:
    if head is None:
        return None if body is None else {**_NO_RESPONSE, "body": body}
    reason, reason_base64 = _text(head.reason)
    return {
        "status": head.status,
        "reason": reason,
        "reason_base64": reason_base64,
        "version": head.version,
        "origin": head.origin,
        "headers": _headers(head.headers),
        "body": body,
    }


_NO_REQUEST: Final[Json] = dict.fromkeys(("method", "target", "target_base64", "version", "headers", "body"))
_NO_RESPONSE: Final[Json] = dict.fromkeys(("status", "reason", "reason_base64", "version", "origin", "headers", "body"))


def _headers(fields: Fields) -> list[tuple[str | None, ...]]:
    try:
        return [(name.decode(), value.decode()) for name, value in fields]
    except UnicodeDecodeError:
        return [_header(name, value) for name, value in fields]


def _header(name: bytes, value: bytes) -> tuple[str | None, ...]:
    text, base64 = _text(value)
    # A name is ASCII (RFC 9110 section 5.1) or the relay refused it.
    key = name.decode("ascii", "backslashreplace")
    return (key, text) if base64 is None else (key, None, base64)


def _client(client: Client, head: Request | None) -> Json:
    return {
        "address": client.address,
        "user_agent": _user_agent(head),
        "session": client.session,
        "session_source": client.session_source,
        "agent": client.agent,
        "user": client.user,
        "user_source": client.user_source,
        "tags": client.tags,
        "metadata": client.metadata,
    }


def _user_agent(head: Request | None) -> str | None:
    if head is not None:
        for name, value in head.headers:
            if len(name) == 10 and name.lower() == b"user-agent":
                return value.decode("utf-8", "replace")
    return None


def _text(data: bytes) -> tuple[str | None, str | None]:
    """(text, None), or (None, base64) for bytes that are no UTF-8."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, b64encode(data).decode()


# Bodies: decoded text where it is text.


def _keeps(record: Record) -> bool:
    """Whether a body says anything beyond what its hash and size take in."""
    bodies = [body for body in (record.request_body, record.response_body) if body is not None]
    return any(body.chunks or body.ended for body in bodies)


def _body(body: Body | None, last: bool, decode_limit: int) -> Json | None:
    if body is None:
        return None
    part = take(body, last=last, limit=decode_limit)
    if not (part.size or last or body.ended):
        return None
    text, base64, head, tail = _sliced(part)
    return {
        "text": text,
        "base64": base64,
        "head": head,
        "tail": tail,
        "content_encoding": body.encoding,
        "decoded": part.decoded,
        "error": part.error,
        "offset": body.offset,
        "size": part.size,
        "total": part.total,
        "sha256": part.sha256,
        "truncated": part.truncated,
        "complete": part.complete,
    }


def _sliced(part: Slice) -> tuple[str | None, str | None, str | None, str | None]:
    """(text, base64, head, tail): b64(head) + text + b64(tail), or b64(base64), is `part.data` exactly."""
    data = part.data
    if len(data) > _LARGE and len(data.translate(None, _PRINTABLE)) > len(data) // 16:
        # Escapes make six bytes of each control character; base64 makes four of three. This bounds a line's length.
        return None, b64encode(data).decode(), None, None
    try:
        return data.decode(), None, None, None
    except UnicodeDecodeError:
        pass
    head = 0 if part.begins else _stray_head(data)
    tail = len(data) if part.complete else max(len(data) - _stray_tail(data), head)
    try:
        text = data[head:tail].decode()
    except UnicodeDecodeError:
        return None, b64encode(data).decode(), None, None
    return text, None, b64encode(data[:head]).decode() or None, b64encode(data[tail:]).decode() or None


def _stray_head(data: bytes) -> int:
    """How many bytes at the beginning continue a character begun in the part before (RFC 3629 section 3)."""
    return next((at for at, byte in enumerate(data[:3]) if byte & 0xC0 != 0x80), min(len(data), 3))


def _stray_tail(data: bytes) -> int:
    """How many bytes at the end begin a character that the next part goes on with."""
    for length, byte in enumerate(reversed(data[-3:]), 1):
        if byte & 0xC0 != 0x80:
            needs = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return length if needs > length else 0
    return 0


# The rest.


def _messages(record: Record) -> list[Json]:
    messages = record.messages
    if not callable(messages):
        return [_message(it) for it in messages]
    record.messages = ()  # the function knows the record: without this only the cyclic collector would free the two, minutes later
    try:
        return [_message(it) for it in messages()]
    except Exception as error:  # the record is worth more than its messages
        return [{**_NO_MESSAGE, "type": "raw", "error": f"the frames could not be read: {type(error).__name__}"}]


_NO_MESSAGE: Final[Json] = dict.fromkeys(("side", "at_ms", "type", "text", "base64", "code", "size", "error"))


def _message(message: Message) -> Json:
    text, base64 = (None, b64encode(message.data).decode()) if message.type in _OPAQUE else _text(message.data)
    return {
        "side": message.side,
        "at_ms": _ms(message.at_ms),
        "type": message.type,
        "text": text,
        "base64": base64,
        "code": message.code,
        "size": len(message.data) if message.size is None else message.size,
        "error": None,
    }


_OPAQUE: Final = frozenset({"binary", "raw"})
"""Bytes by their own word, even where they happen to be UTF-8: one type of message, one field."""


def _transparency(of: Transparency) -> Json:
    request = _crossed(of.request) if of.request is not None else None
    response = _crossed(of.response) if of.response is not None else None
    differences = [*(of.request.differences if of.request else ()), *(of.response.differences if of.response else ())]
    return {"differences": differences, "retried": of.retried, "request": request, "response": response}


def _crossed(one: Crossed) -> Json:
    sums = one.sums or (None if one.same else hashes(one.stream))
    return {"names": one.names, "differ": one.differ, "size": one.size, "sha256": sums}


def _timing(timing: Timing) -> Json:
    return {"ttfb_ms": _ms(timing.ttfb_ms), "duration_ms": _ms(timing.duration_ms), "marks": timing.marks}


def _ms(value: float | None) -> float | None:
    # A float always, so that columns are one type; microseconds, which also keeps both encoders to the same digits. The division gives the
    # float nearest to that many microseconds, as round(value, 3) does in three times the time.
    return None if value is None else int(value * 1000 + 0.5) / 1000
