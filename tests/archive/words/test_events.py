"""Events joined: the quick way of reading one says what the slow way says, whatever the events are."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from archive.words.events import Joined

PIECE = st.sampled_from(["a", "b", "ab", "", "x y", "a", '"', "\\", "\n", "é", "1", "12", ",", '","b":"', "\u200b", "0"])
NUMBER = st.integers(-2, 30) | st.sampled_from([0.5, 1e30, 10**18])


def _stream(shape: int, values: list[Any]) -> Any:
    first, second, number = values
    return [
        {"type": "delta", "sequence_number": number, "item": "i", "delta": first},
        {"id": "c", "choices": [{"index": 0, "delta": {"content": first}}], "obfuscation": second},
        {"index": number, "text": first, "n": number},
        {"a": first, "b": second, "n": number, "on": True, "off": None},
        {"delta": first, "usage": {"tokens": number, "more": [number, second]}},
    ][shape]


STREAMS = st.lists(st.tuples(st.integers(0, 4), st.tuples(PIECE, PIECE, NUMBER).map(list)), max_size=30)


@settings(max_examples=600, deadline=None)
@given(STREAMS, st.booleans())
def test_events_read_by_their_likeness_say_what_they_say_read_whole(stream: list[tuple[int, list[Any]]], ascii_only: bool) -> None:
    quick, slow = Joined(), Joined()
    shape = 0
    for number, (wanted, values) in enumerate(stream):
        shape = wanted if number % 6 == 0 else shape  # runs of one shape, as streams have them
        event = _stream(shape, values)
        text = json.dumps(event, ensure_ascii=ascii_only, separators=(",", ":"))
        slow.event(event)
        if not quick.like_before(text, ""):
            quick.event(event, "", text)
    assert quick.strings() == slow.strings()


def test_events_of_one_kind_are_read_by_their_likeness() -> None:
    joined = Joined()
    read = 0
    for number in range(50):
        text = f'{{"type":"delta","sequence_number":{number},"item":"i","delta":"piece {number} ","padding":"{"x" * (number % 7)}"}}'
        if not joined.like_before(text, "delta"):
            joined.event(json.loads(text), "delta", text)
            read += 1
    assert read < 8
    assert any("piece 0 piece 1 piece 2" in it for it in joined.strings())


def test_likeness_is_of_the_same_name_and_to_the_last_character() -> None:
    joined = Joined()
    for piece in ("one", "two"):
        joined.event({"a": piece, "b": 1}, "x", f'{{"a":"{piece}","b":1}}')
    said = joined.strings()
    for text, name in (
        ('{"a":"three","b":1}', "y"),
        ('{"a":"three","b":1} ', "x"),
        ('{"a":"three","c":1}', "x"),
        ('{"a":"three","b":"c","b":1}', "x"),
        ('{"a":"thr\\u0065e","b":1}', "x"),
        ('{"a":"","b":1', "x"),
        ("", "x"),
    ):
        assert joined.like_before(text, name) == 0
    assert joined.strings() == said
    assert joined.like_before('{"a":"three","b":1}', "x") == 3
    assert joined.strings() == ["onetwothree", "1"]
