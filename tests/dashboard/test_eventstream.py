"""Event streams as recorded: every event, every byte accounted for, each with its time of arrival."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.eventstream import events


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_with_any_line_end(end: bytes) -> None:
    body = end.join([b"event: a", b"id: 7", b"data: one", b"data:two", b"", b": ping", b"", b"retry: 10", b"data", b"", b""])
    first, comment, last = events(body)
    assert (first.name, first.id, first.data, first.finished) == ("a", "7", "one\ntwo", True)
    assert (comment.comment, comment.data) == ("ping", "")
    assert (last.retry, last.data) == ("10", "")


def test_an_event_that_was_cut_off_is_shown_as_unfinished() -> None:
    whole, part = events(b"data: 1\n\ndata: 2\nda")
    assert whole.finished
    assert not part.finished
    assert part.data == "2"


def test_an_event_arrives_with_its_last_byte() -> None:
    body = b"data: 1\n\ndata: 2\n\n"
    marks = [(0, 10.0), (12, 20.0), (17, 30.0)]
    assert [event.at_ms for event in events(body, marks)] == [10.0, 30.0]
    assert [event.at_ms for event in events(body)] == [None, None]


@given(st.lists(st.sampled_from([b"data: x", b"\n", b"\r", b"\r\n", b"event: e", b":", b"\xff\xfe", b"\xef\xbb\xbf", b"id: 1"])))
def test_events_cover_the_body_in_order(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    at = 0
    for event in events(body):
        assert at <= event.start < event.end <= len(body)
        assert body[at : event.start].strip(b"\r\n\xef\xbb\xbf") == b""
        at = event.end
    assert body[at:].strip(b"\r\n\xef\xbb\xbf") == b""
