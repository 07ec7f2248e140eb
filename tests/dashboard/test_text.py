"""What cannot be seen is named; what could act is escaped; figures for people."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from dashboard.text import clip, clock, day, duration, marked, plain, size


def harmful(char: str) -> bool:
    """By the Unicode database: controls, format characters, separators of lines, surrogates. Independent of the module's own table."""
    return char not in "\t\n" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")


KEPT = {chr(code) for code in (*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440))}
"""Format characters that are drawn: Arabic number signs, Egyptian joiners and the like (not Default_Ignorable_Code_Point)."""


def test_every_control_and_format_character_is_named() -> None:
    for code in range(0x110000):
        char = chr(code)
        if harmful(char) and char not in KEPT:
            assert char not in plain(char), hex(code)
            assert char not in marked(char), hex(code)


@pytest.mark.parametrize("text", ["caf\u00e9 \u4f60\u597d \U0001f600 \u05e9\u05dc\u05d5\u05dd", "a\tb\nc", "\u2764\ufe0f"])
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert plain(text) == text
    assert marked(text) == Markup.escape(text)


@given(st.text(st.characters(exclude_categories=[])))
def test_marked_text_is_inert_and_can_be_sent(text: str) -> None:
    html = str(marked(text))
    without_marks = (
        html.replace('<span class="esc">', "").replace('<span class="ctl" title="U+', "").replace('">', "").replace("</span>", "")
    )
    assert "<" not in without_marks
    html.encode()
    plain(text).encode()


def test_a_reordering_character_wears_its_name() -> None:
    assert marked("a\u202eb") == 'a<span class="ctl" title="U+202E RIGHT-TO-LEFT OVERRIDE">U+202E</span>b'
    assert plain("a\u202eb\x00") == "a\u27e8U+202E\u27e9b\u27e8\\x00\u27e9"
    assert "U+D83D" in marked("\ud83d")
    assert marked("a\r\nb\rc").count("ctl") == 1


def test_text_is_clipped_by_what_cannot_be_seen() -> None:
    assert clip("a\u202eb\u202ec", 1) == "a\u202eb"
    assert clip("a\u202eb\u202ec", 2) == "a\u202eb\u202ec"
    assert clip("abc", 0) == "abc"


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (None, "\u2013"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10 * 1024, "10 KiB"),
        (1536 << 10, "1.5 MiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_sizes_are_for_people(count: int | None, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("ms", "said"),
    [
        (None, "\u2013"),
        (0.0, "0.0 ms"),
        (9.94, "9.9 ms"),
        (12.4, "12 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (12_345, "12.3 s"),
        (59_960, "1 min 00 s"),
        (184_000, "3 min 04 s"),
        (7_500_000, "2 h 05 min"),
    ],
)
def test_durations_are_for_people(ms: float | None, said: str) -> None:
    assert duration(ms) == said


def test_times_are_told_in_utc() -> None:
    at = datetime(2026, 11, 21, 0, 30, 1, 999_900, timezone(timedelta(hours=1)))
    assert day(at) == "Friday, 20 November 2026"
    assert clock(at) == "23:30:01.999"
    assert clock(at.astimezone(UTC)) == clock(at)
