"""Parts put together: what the first knew, what the last knew, and lines that somebody forged."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from samples import in_parts, parsed, whole

from archive.errors import DamagedMember
from archive.exchange import Place, Summary, assemble
from archive.record import Message

PARTS = [parsed(record) for record in in_parts([b"ab\xf0\x9f", b"\x99\x82cd", b"ef"])]
PLACE = Place("2026-11-19T10.jsonl.gz", 0, 1)


def put_together(parts: list[Any]) -> Any:
    summary = Summary()
    for part in parts:
        summary.fold(part)
    return assemble(summary.entry("x", gone=False), parts, [PLACE] * len(parts), [b""] * len(parts), [])


def test_parts_are_put_together() -> None:
    exchange = put_together(PARTS)
    assert exchange.response_body.text == "ab🙂cdef"
    assert (exchange.response_body.size, exchange.response_body.complete, exchange.response_body.error) == (10, True, None)
    assert exchange.response_body.sha256 == PARTS[-1]["response"]["body"]["sha256"]
    assert exchange.client["user_agent"] == "tester/1"
    assert exchange.timing == {"ttfb_ms": 12.5, "duration_ms": 20.0, "marks": [[0, 12.5], [4, 13.5], [8, 14.5]]}
    assert (exchange.entry.parts, exchange.entry.response_bytes, exchange.entry.end) == (3, 10, "complete")


def test_a_lost_part_leaves_the_rest_and_no_hash() -> None:
    records = in_parts([b"one", b"two", b"three"])
    exchange = put_together([parsed(records[0]), parsed(records[2])])
    assert exchange.response_body.data == b"onethree"
    assert (exchange.response_body.error, exchange.response_body.sha256, exchange.response_body.size) == ("lost part", None, 11)


def test_without_the_first_part_the_heads_are_unknown() -> None:
    exchange = put_together(PARTS[1:])
    assert exchange.request is None
    assert exchange.response is None
    assert (exchange.entry.method, exchange.entry.target, exchange.entry.status, exchange.entry.request_bytes) == ("", "", None, 0)
    assert exchange.response_body.size == 10


def test_an_exchange_without_an_end_is_running_or_crashed() -> None:
    summary = Summary()
    summary.fold(PARTS[0])
    assert summary.entry("x", gone=False).end is None
    assert summary.entry("x", gone=True).end == "crashed"
    summary.fold(PARTS[2])
    assert summary.entry("x", gone=True).end == "complete"


def test_a_websockets_sizes_are_those_of_its_messages() -> None:
    record = whole(body=b"", answer=b"")
    record.messages = [
        Message("client", 1.0, "text", "hé".encode()),
        Message("upstream", 2.0, "binary", b"kept", size=1000),
        Message("upstream", 3.0, "text", b"x"),
    ]
    part = parsed(record)
    part["messages"].append({**dict.fromkeys(part["messages"][0]), "type": "raw", "error": "the frames could not be read"})
    summary = Summary()
    summary.fold(part)
    entry = summary.entry("x", gone=False)
    assert (entry.kind, entry.messages, entry.request_bytes, entry.response_bytes) == ("websocket", 4, 3, 1001)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something can be put in place of something else."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, each in inner for path in paths(each, (*at, key)))]


def full() -> Any:
    record = whole(answer=b"\xff")
    record.messages = [Message("client", 1.0, "text", b"x")]
    return parsed(record)


@given(
    path=st.sampled_from([path for path in paths(full()) if path]),
    value=st.sampled_from([None, 0, -1, 1e400, True, "", "x", "\ud800", [], [1], [[]], {}, {"a": 1}, "2026-99-99T00:00:00Z", 10**400]),
    drop=st.booleans(),
)
def test_a_forged_line_is_damage_or_an_exchange_and_nothing_else(path: tuple[Any, ...], value: Any, drop: bool) -> None:
    line = copy.deepcopy(full())
    spot = line
    for key in path[:-1]:
        spot = spot[key]
    if drop:
        del spot[path[-1]]
    else:
        spot[path[-1]] = value
    with suppress(DamagedMember):
        put_together([line])
