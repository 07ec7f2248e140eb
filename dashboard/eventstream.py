"""A recorded `text/event-stream` body, event by event with its time of arrival.

Follows the WHATWG rules (HTML 9.2.6) for reading, but drops nothing: comments, events without data and the unfinished last one are
shown too. Pure; knows nothing of any provider's events.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["StreamEvent", "events"]

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)?")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event, or one comment. `start` and `end` are byte offsets in the body; `at_ms` is None where no mark tells."""

    name: str
    data: str
    id: str | None
    retry: str | None
    comment: str | None
    start: int
    end: int
    finished: bool
    at_ms: float | None


def events(body: bytes, marks: Sequence[tuple[int, float]] = ()) -> Iterator[StreamEvent]:
    """The events of `body` in order. `marks` are [byte offset of a chunk, ms it came], ascending; an event comes with its last byte."""
    offsets = [offset for offset, _ in marks]
    start = at = 3 if body.startswith(b"\xef\xbb\xbf") else 0
    fields: list[tuple[str, str]] = []
    while at < len(body):
        found = _LINE.match(body, at)
        assert found is not None
        line, ending = found[1], found[2]
        at = found.end()
        if line:
            name, _, value = line.partition(b":")
            fields.append((_text(name), _text(value.removeprefix(b" "))))
        elif fields and ending:
            yield _event(fields, start, at, finished=True, marks=marks, offsets=offsets)
            fields = []
        if not fields:
            start = at
    if fields:
        yield _event(fields, start, at, finished=False, marks=marks, offsets=offsets)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _event(
    fields: list[tuple[str, str]], start: int, end: int, *, finished: bool, marks: Sequence[tuple[int, float]], offsets: list[int]
) -> StreamEvent:
    last = dict(fields)
    comments = [value for name, value in fields if name == ""]
    mark = bisect_right(offsets, end - 1) - 1
    return StreamEvent(
        name=last.get("event", ""),
        data="\n".join(value for name, value in fields if name == "data"),
        id=last.get("id"),
        retry=last.get("retry"),
        comment="\n".join(comments) if comments else None,
        start=start,
        end=end,
        finished=finished,
        at_ms=marks[mark][1] if mark >= 0 else None,
    )
