"""JSON laid out: nothing but white space changes, whatever comes; time and output stay linear."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.jsontext import compact, layout, looks_like_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def seen(markup: str) -> str:
    """What a reader sees: blocks break lines, tags go, names of invisible characters become the characters again."""
    named = re.sub(r'<span class="ctl" title="U\+([0-9A-F]+) [^"]*">[^<]*</span>', "\x00\\1\x01", markup)
    text = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r'<span class="block[^"]*">', "\n", named)))
    return re.sub("\x00([0-9A-F]+)\x01", lambda it: chr(int(it[1], 16)), text)


@given(values, st.sampled_from([None, 2]), st.booleans())
def test_json_is_laid_out_and_nothing_but_white_space_changed(value: object, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    for made in (layout(text), compact(text)):
        assert made.left_out == 0
        shown = seen(made.html)
        # `\n` also breaks the line: take those breaks (and the white space between tokens, and inside strings, alike) out of both.
        assert re.sub(r"\s", "", unescaped(shown)) == re.sub(r"\s", "", unescaped(text))


def unescaped(text: str) -> str:
    """Escapes of characters that can be shown are shown as the character: in both texts alike."""
    pairs = re.sub(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", lambda it: bytes.fromhex(it[1] + it[2]).decode("utf-16-be"), text)
    shown = re.sub(r"\\u([0-9a-f]{4})", lambda it: chr(int(it[1], 16)) if chr(int(it[1], 16)).isprintable() else it[0], pairs)
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u00ad]", "", shown)


def test_keys_keep_their_order_and_their_doubles_and_numbers_their_spelling() -> None:
    text = '{"b":1,"a":1.50,"b":2E+3,"big":123456789012345678901234567890}'
    shown = re.sub(r"\s", "", seen(layout(text).html))
    assert shown == text


def test_text_that_stops_in_the_middle_is_shown_to_its_end() -> None:
    made = layout('{"a": [1, 2, {"b": "unfini')
    assert seen(made.html).endswith('"b": "unfini')
    assert made.left_out == 0


def test_prose_is_a_block_of_its_own() -> None:
    made = layout('{"content":"Line one.\\nLine two.","next":1}')
    assert '<span class="block i2"><span class="str">&#34;Line one.<span class="esc">\\n</span>\nLine two.&#34;</span>,</span>' in made.html
    assert made.html.endswith(',</span>  <span class="key">&#34;next&#34;</span>: <span class="num">1</span>\n}')


def test_data_in_a_string_is_cut() -> None:
    made = layout(json.dumps({"image": "A" * 100_000}))
    assert len(made.html) < 2_000
    assert "99,746 more characters" in made.html


def test_prose_without_spaces_is_not_taken_for_data() -> None:
    prose = "\u4f60\u597d" * 5_000
    for text in (json.dumps(prose), json.dumps(prose, ensure_ascii=False)):
        assert prose in layout(text).html


@pytest.mark.parametrize(
    "bomb", ["[" * 200_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000, '"' * 200_001, "-" * 200_000, '["' + "\\" * 200_000]
)
def test_a_json_bomb_costs_no_more_than_its_length(bomb: str) -> None:
    made = layout(bomb)
    assert len(made.html) < 100 * len(bomb)


@pytest.mark.parametrize("text", ['{"a":1}', "[]", ' \n{"a"', '"text"', "12", "null", "true \n", "\ufeff{}"])
def test_json_is_recognised(text: str) -> None:
    assert looks_like_json(text)


@pytest.mark.parametrize("text", ["", "hello", "data: {}", "12 monkeys", "nullify", "<html>", '"a" b'])
def test_other_text_is_not_taken_for_json(text: str) -> None:
    assert not looks_like_json(text)


def test_hostile_json_stays_text() -> None:
    made = layout('{"<script>alert(1)</script>":"</pre><img src=x onerror=alert(1)>\\u003cscript\\u003e\\u202e"}')
    assert "<script" not in made.html
    assert "<img" not in made.html
    assert "&lt;script&gt;" in made.html
    assert "\u202e" not in made.html
