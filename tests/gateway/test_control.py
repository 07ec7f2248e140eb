"""What a client asks in `x-verbatim-` fields: read where it can be used, left out with one warning where it cannot."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import MAX_METADATA, NOTHING, Ask, read


def ask(*, may_decline: bool = True, **values: str | bytes) -> Ask:
    """What these fields ask for; `user="x"` is `X-Verbatim-User: x`."""
    fields = [(b"X-Verbatim-" + name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in values.items()]
    return read([(b"host", b"x"), *fields], may_decline=may_decline)


def test_a_head_without_our_names_asks_for_nothing() -> None:
    assert read([(b"host", b"x"), (b"x-verbatim", b"1"), (b"xx-verbatim-user", b"1")]) is NOTHING


def test_every_name_is_read() -> None:
    told = ask(
        session="run-1/a:b", user="me@example.com", tags=" nightly, ci ,,nightly", metadata='{"try": 2, "ok": true}', record=" None "
    )
    assert told == Ask("run-1/a:b", "me@example.com", ("nightly", "ci"), '{"try": 2, "ok": true}', "none")


def test_names_beyond_ascii_are_utf_8_or_percent_encoded() -> None:
    assert ask(user="Jürgen Ω").user == ask(user="J%C3%BCrgen%20%CE%A9").user == "Jürgen Ω"
    assert ask(tags="caf%C3%A9,a%2Cb,100%,%zz").tags == ("café", "a,b", "100%", "%zz")
    assert ask(session="a%20b").session == "a%20b"


METADATA = [
    "{}",
    '{ "a" : 1 ,\t"b":-0.5e+3 }',
    '{"a":"\\u00e9\\n\\"\\\\"}',
    '{"a":"\\ud83d\\ude00 🙂"}',
    '{"":null,"a":false}',
    '{"a":1,"a":2}',
]


@pytest.mark.parametrize("text", METADATA)
def test_a_flat_object_of_json_is_taken(text: str) -> None:
    told = ask(metadata=text)
    assert (told.metadata, told.warning) == (text, b"")
    json.loads(told.metadata)


NO_METADATA = [
    "", "1", "null", '"a"', "[]", "{", "}", "{}}", "{,}", '{"a":1,}', '{"a"}', '{"a":}', "{a:1}", '{"a":[]}', '{"a":{}}', '{"a":01}',
    '{"a":1.}', '{"a":.5}', '{"a":+1}', '{"a":NaN}', '{"a":Infinity}', '{"a":1e999}', '{"a":1234567890123456}', '{"a":"\\ud800"}',
    '{"a":"\\udc00\\ud800"}', '{"a":"\\x41"}', '{"a":"\\u00g0"}', '{"a":"x}', '{"a":tru}', '{"a":1 "b":2}', '{"a":1}{}', b'{"a":"\xff"}',
    '{"a":"' + "x" * MAX_METADATA + '"}', "{" + ",".join(f'"{number}":1' for number in range(65)) + "}", b'{"a":"\x01"}',
]  # fmt: skip


@pytest.mark.parametrize("text", NO_METADATA, ids=lambda text: repr(text)[:20])
def test_what_is_no_flat_object_of_json_is_left_out(text: str | bytes) -> None:
    told = ask(metadata=text)
    assert told.metadata == ""
    assert told.warning.startswith(b"x-verbatim-metadata was ignored: expected one JSON object")


scalars = (
    st.none() | st.booleans() | st.integers(-(10**15) + 1, 10**15 - 1) | st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=10), scalars, max_size=20), st.booleans())
def test_whatever_a_json_library_writes_is_taken(value: dict[str, object], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    told = ask(metadata=text)
    assert json.loads(told.metadata) == value or len(text.encode()) > MAX_METADATA


@given(st.text(st.sampled_from('{}[]":,\\ud8fge+-.0123456789tralsn \x00é'), max_size=60))
def test_what_is_taken_is_json(text: str) -> None:
    told = ask(metadata=text).metadata
    if told:
        value = json.loads(told)
        assert isinstance(value, dict)
        assert not any(isinstance(each, dict | list) for each in value.values())
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "values",
    [
        {"session": ""}, {"session": "a b"}, {"session": "é"}, {"session": "x" * 129}, {"session": b"a\xff"}, {"session": "a\tb"},
        {"user": ""}, {"user": "x" * 257}, {"user": b"\xff"}, {"user": "%FF"}, {"user": "%0A"}, {"user": "%E2%80%A8"}, {"user": "%20"},
        {"tags": "x" * 65}, {"tags": ",".join(map(str, range(33)))}, {"tags": "a,%00"}, {"tags": b"\xe9"},
        {"record": "off"}, {"record": ""}, {"record": "full, none"},
    ],
    ids=lambda values: repr(values)[:30],
)  # fmt: skip
def test_what_cannot_be_used_is_left_out_with_what_would_be_right(values: dict[str, str | bytes]) -> None:
    told = ask(**values)
    ((name, value),) = values.items()
    assert (told.session, told.user, told.tags, told.metadata, told.record) == (None, None, (), "", "full")
    assert told.warning.startswith(b"x-verbatim-%b was ignored: expected " % name.encode())
    assert told.warning.isascii()
    raw = value if isinstance(value, bytes) else value.encode()
    assert len(raw) < 5 or raw not in told.warning


def test_a_field_said_twice_must_say_the_same() -> None:
    one = (b"x-verbatim-user", b"a")
    assert read([one, (b"X-Verbatim-User", b" a\t")]).user == "a"
    told = read([one, (b"X-Verbatim-User", b"b"), (b"x-verbatim-session", b"s")])
    assert (told.user, told.session) == (None, "s")
    assert told.warning.startswith(b"x-verbatim-user was ignored")
    assert read([(b"x-verbatim-tags", b"a,b"), (b"x-verbatim-tags", b"c")]).tags == ("a", "b", "c")


def test_an_unknown_name_is_compared_with_those_there_are() -> None:
    assert ask(sesion="x").warning == b"x-verbatim-sesion is not known: did you mean x-verbatim-session?"
    assert b"did you mean x-verbatim-metadata?" in ask(meta_data="{}").warning
    assert ask(zzz="x").warning.startswith(b"x-verbatim-zzz is not known; there are: x-verbatim-session, x-verbatim-user,")
    assert ask(token="x").warning == b""


def test_an_operator_who_records_every_call_is_obeyed() -> None:
    told = ask(record="none", may_decline=False)
    assert (told.record, told.warning) == ("full", b"x-verbatim-record was ignored: this gateway records every call")
    assert ask(record="metadata", may_decline=False).record == "metadata"


names = st.binary(max_size=12).map(lambda it: b"x-verbatim-" + re.sub(rb"[^a-z]", b"", it)) | st.sampled_from(
    [b"X-Verbatim-Session", b"x-verbatim-tags", b"x-verbatim-user", b"x-verbatim-metadata", b"x-verbatim-record"]
)


@given(st.lists(st.tuples(names, st.binary(max_size=80)), max_size=12))
def test_a_warning_is_one_short_line_of_ascii_whatever_was_sent(fields: list[tuple[bytes, bytes]]) -> None:
    warning = read(fields).warning
    assert len(warning) < 1500
    assert warning.isascii()
    assert warning.decode().isprintable()
