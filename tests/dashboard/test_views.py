"""Ways of looking at bytes: which fits, and that each is bounded and says what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dashboard.views import LIMIT, look, message_bytes, message_rows


@dataclass
class Body:
    data: bytes
    encoding: str = ""

    @property
    def text(self) -> str | None:
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            return None


@pytest.mark.parametrize(
    ("data", "media_type", "views"),
    [
        (b'{"a":1}', "application/json", ("pretty", "raw", "hex")),
        (b'{"a":1}', "text/plain", ("pretty", "raw", "hex")),
        (b"data: 1\n\n", "Text/Event-Stream; charset=utf-8", ("events", "raw", "hex")),
        (b"hello", "application/json", ("raw", "hex")),
        (b"\xff\x00", "application/json", ("raw", "hex")),
        (b"\xff\x00", "audio/mpeg", ("hex",)),
        (b"data: caf\xc3", "text/event-stream", ("events", "raw", "hex")),
    ],
)
def test_a_body_offers_the_views_that_fit(data: bytes, media_type: str, views: tuple[str, ...]) -> None:
    assert look(Body(data), media_type, "").views == views
    assert look(Body(data), media_type, "").view == views[0]
    assert look(Body(data), media_type, "no such view").view == views[0]
    assert look(Body(data), media_type, "hex").view == "hex"


def test_a_stream_that_broke_off_inside_a_character_can_be_read() -> None:
    body = Body(b"data: fine\n\ndata: caf\xc3")
    rows = look(body, "text/event-stream", "").rows
    assert [(row.event.data, row.event.finished) for row in rows] == [("fine", True), ("caf\\xc3", False)]
    raw = look(body, "text/event-stream", "raw")
    assert raw.html.endswith("caf\\xc3")
    assert "no UTF-8" in raw.note


def test_a_cut_view_says_so() -> None:
    long = "\u00e9" * LIMIT
    seen = look(Body(long.encode()), "text/plain", "raw")
    assert len(seen.html) == LIMIT // 2
    assert "2.0 MiB of 4.0 MiB" in seen.note
    assert "of 4.0 MiB" in look(Body(long.encode()), "text/plain", "hex").note
    assert look(Body(b"short"), "text/plain", "raw").note == ""


def test_text_full_of_invisible_characters_stays_small() -> None:
    seen = look(Body(b"\x00\x01" * (LIMIT // 2)), "text/plain", "raw")
    assert len(seen.html) < 8 << 20
    assert "full of invisible characters" in seen.note


def test_a_long_layout_says_where_it_ends() -> None:
    seen = look(Body(b"[" + b"1," * 100_000 + b"1]"), "application/json", "pretty")
    assert "more are in the raw view" in seen.note
    assert len(seen.html) < 8 << 20


def test_a_long_stream_is_cut_by_events() -> None:
    seen = look(Body(b"data: x\n\n" * 1_500), "text/event-stream", "")
    assert len(seen.rows) == 1_000
    assert "first 1,000 events" in seen.note


def test_times_between_events_are_told() -> None:
    seen = look(Body(b"data: 1\n\ndata: 2\n\n"), "text/event-stream", "", [(0, 5.0), (9, 8.0)])
    assert [(row.event.at_ms, row.after_ms) for row in seen.rows] == [(5.0, None), (8.0, 3.0)]


def test_marks_of_compressed_bytes_say_nothing_of_events() -> None:
    seen = look(Body(b"data: 1\n\n", encoding="gzip"), "text/event-stream", "", [(0, 5.0)])
    assert seen.rows[0].event.at_ms is None


def test_messages_are_numbered_and_timed() -> None:
    messages = [
        {"side": "client", "at_ms": 1.0, "type": "text", "text": '{"a":1}', "base64": None, "code": None, "size": 7},
        {"side": "upstream", "at_ms": 4.5, "type": "binary", "text": None, "base64": "AAEC", "code": None, "size": 9},
        {"side": "upstream", "at_ms": 5.0, "type": "close", "text": "bye", "base64": None, "code": 1000, "size": 3},
    ]
    first, second, third = message_rows(messages, 0, 10)
    assert '<span class="key">' in first.html
    assert (first.size, first.cut) == (7, False)
    assert (second.number, second.after_ms, second.size, second.cut) == (1, 3.5, 9, True)
    assert "00 01 02" in second.html
    assert (third.code, third.html) == (1000, "bye")
    assert [row.number for row in message_rows(messages, 1, 1)] == [1]


@pytest.mark.parametrize("message", [{}, {"base64": "not base64!"}, {"base64": 7}, {"text": None, "at_ms": "soon"}])
def test_a_damaged_message_is_shown_and_raises_nothing(message: dict[str, object]) -> None:
    assert message_bytes(message) == b""
    assert message_rows([message], 0, 1)[0].at_ms == 0.0
