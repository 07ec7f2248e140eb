"""What an exchange says, as texts: messages one by one, answers whole, whatever was recorded."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import in_parts, parsed, whole
from traffic import agents

from archive.record import Body, Message
from archive.words.text import each_text, texts

LONG = " ".join(f"word{number}" for number in range(60))


def said(*, body: bytes = b"", answer: bytes = b"", content_type: bytes = b"application/json") -> list[str]:
    record = whole(body=body, answer=answer)
    assert record.response is not None
    record.response.headers = [(b"content-type", content_type)]
    return texts([parsed(record)])


def asked(value: object) -> list[str]:
    """The texts of a request's JSON body, without those of the heads."""
    heads = said()
    return [text for text in said(body=json.dumps(value).encode()) if text not in heads]


def answered(answer: str, content_type: bytes = b"text/event-stream") -> list[str]:
    heads = said(content_type=content_type)
    return [text for text in said(answer=answer.encode("utf-8", "surrogatepass"), content_type=content_type) if text not in heads]


def event(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def test_each_message_of_a_request_is_one_text_and_the_rest_another() -> None:
    body = {
        "model": "gpt-4o",
        "temperature": 0.5,
        "stream": True,
        "messages": [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": [{"type": "text", "text": "hi"}]}],
        "metadata": {"user": "nobody"},
    }
    assert asked(body) == ["user\nhello there", "assistant\ntext\nhi", "gpt-4o\n0.5\nnobody"]


def test_the_messages_of_any_key_and_of_a_bare_array_are_found() -> None:
    assert asked({"contents": [{"parts": [{"text": "one"}]}], "documents": ["two"]}) == ["one", "two"]
    assert asked([{"text": "one"}, "two", 3]) == ["one", "two", "3"]


def test_a_long_string_is_a_text_of_its_own_whatever_stands_around_it() -> None:
    plain = asked({"messages": [{"role": "user", "content": LONG}]})
    marked = asked({"messages": [{"role": "user", "content": [{"type": "text", "text": LONG, "cache_control": {"type": "ephemeral"}}]}]})
    assert LONG in plain
    assert LONG in marked
    assert "user\ntext\nephemeral" in marked


def test_json_within_a_string_is_said_in_full_with_its_escapes_undone() -> None:
    arguments = json.dumps({"file_path": "a.py", "text": "first\nsecond Zürich", "limit": 7})
    assert "\\u00fc" in arguments
    call = {"function": {"name": "edit", "arguments": arguments}}
    assert asked({"messages": [{"tool_calls": [call]}]}) == ["edit\nfile_path\na.py\ntext\nfirst\nsecond Zürich\nlimit\n7"]


def test_names_of_fields_are_not_said() -> None:
    assert not any("temperature" in text or "messages" in text for text in asked({"temperature": 1, "messages": ["x"]}))


def test_base64_is_left_out() -> None:
    blob = "QUJDREVG" * 100
    found = asked({"messages": [{"url": f"data:image/png;base64,{blob}", "text": f"look at {blob} here"}, {"data": blob}]})
    assert found == ["data:image/png;base64,", "look at   here"]


def test_an_answer_in_pieces_is_whole_again_in_every_shape() -> None:
    chat = [{"choices": [{"index": 0, "delta": {"content": it}}]} for it in ("He", "llo wo", "rld")]
    block = [{"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": it}} for it in ("He", "llo wo", "rld")]
    items = [
        {"type": "response.output_text.delta", "sequence_number": at, "item_id": "m", "output_index": 0, "delta": it}
        for at, it in enumerate(("He", "llo wo", "rld"))
    ]
    lines = [{"model": "m", "message": {"content": it}, "done": False} for it in ("He", "llo wo", "rld")]
    for events in (chat, block, items):
        assert any("Hello world" in text for text in answered("".join(map(event, events)) + "data: [DONE]\n\n"))
    assert any("Hello world" in text for text in answered("\n".join(map(json.dumps, lines)), b"application/x-ndjson"))
    assert any("Hello world" in text for text in answered(json.dumps(lines), b"application/json"))


def test_texts_of_several_choices_are_kept_apart() -> None:
    pieces = [(0, "al"), (1, "be"), (0, "pha"), (1, "ta")]
    events = [{"choices": [{"index": index, "delta": {"content": piece}}]} for index, piece in pieces]
    (text,) = answered("".join(map(event, events)))
    assert {"alpha", "beta"} <= set(text.split())


def test_what_every_event_repeats_is_said_once() -> None:
    events = [{"id": "chat-1", "created_at": f"2026-11-19T10:00:0{at}Z", "delta": {"text": f"t{at} "}} for at in range(9)]
    (text,) = answered("".join(map(event, events)))
    assert text == "chat-1\n2026-11-19T10:00:00Z\n2026-11-19T10:00:08Z\nt0 t1 t2 t3 t4 t5 t6 t7 t8 "


def test_a_text_that_is_repeated_as_it_grows_is_said_at_its_longest() -> None:
    events = [{"text": "It was a dark and stormy night"[:length]} for length in (10, 20, 30)]
    assert "stormy night" in answered("".join(map(event, events)))[0]


def test_half_characters_in_two_events_are_whole_again() -> None:
    answer = 'data: {"text":"Gr\\u00fc\\u00dfe \\ud83c"}\n\ndata: {"text":"\\udf0d!"}\n\n'
    assert answered(answer) == ["Grüße 🌍!"]
    assert answered('data: {"text":"lone \\ud83c"}\n\n') == ["lone \ufffd"]


def test_an_event_stream_with_any_line_ends_names_comments_and_plain_data() -> None:
    answer = ': hello\r\nevent: a\r\ndata: {"x":"one"}\r\n\r\ndata: just\r\ndata: words\r\n\r\nretry: 5\r\ndata:{"x":"two"}'
    found = answered(answer)
    assert "one" in " ".join(found)
    assert "two" in " ".join(found)
    assert "just\nwords" in found


def test_an_answer_over_several_parts_is_read_as_one() -> None:
    stream = (event({"text": "Zü"}) + event({"text": "rich"})).encode()
    cut = stream.index("ü".encode()) + 1
    records = in_parts([stream[:cut], stream[cut:]])
    assert "Zürich" in texts([parsed(it, seq=number) for number, it in enumerate(records)])


def test_header_lines_and_the_request_line_are_texts() -> None:
    record = whole()
    assert record.response is not None
    record.response.headers = [(b"x-request-id", b"req_123"), (b"x-odd", b"\xff\xfe")]
    found = texts([parsed(record)])
    assert {"POST /openai/v1/x?a=b", "User-Agent: tester/1", "X-Dup: 1", "x-request-id: req_123"} <= set(found)


def test_a_target_is_also_said_with_its_escapes_undone() -> None:
    record = whole()
    assert record.request is not None
    record.request.target = b"/v1/files?name=annual%20report"
    assert "POST /v1/files?name=annual report" in texts([parsed(record)])


def test_forms_and_plain_text_are_said() -> None:
    record = whole(body=b"prompt=annual+report%21", answer=b"plain\nwords")
    assert record.request is not None
    assert record.response is not None
    record.request.headers = [(b"Content-Type", b"application/x-www-form-urlencoded")]
    record.response.headers = [(b"content-type", b"text/plain")]
    assert texts([parsed(record)])[-2:] == ["prompt=annual report!", "plain\nwords"]


def test_an_error_that_calls_itself_an_event_stream_is_read_as_what_it_is() -> None:
    assert answered('{"error":{"message":"first\\nsecond"}}') == ["first\nsecond"]


def test_json_that_was_cut_off_is_read_as_text() -> None:
    (text,) = [it for it in said(body=b'{"messages":[{"content":"first\\nsecond thi') if "second" in it]
    assert {"first", "second", "thi"} <= set(text.replace('"', " ").split())


def test_a_body_that_is_no_text_is_left_out() -> None:
    assert said(body=b"\xff\xfe\x00" * 50) == said()


def test_websocket_messages_are_requests_and_events() -> None:
    record = whole()
    record.request_body = record.response_body = None
    record.messages = [
        Message("client", 1.0, "text", b'{"type":"response.create","input":[{"text":"find it"},{"text":"now"}]}'),
        Message("upstream", 2.0, "text", b'{"type":"delta","item_id":"a","delta":"He"}'),
        Message("upstream", 3.0, "text", b'{"type":"delta","item_id":"a","delta":"llo"}'),
        Message("upstream", 3.0, "text", b'{"type":"delta","item_id":"b","delta":"other"}'),
        Message("client", 4.0, "text", b"no json"),
        Message("client", 4.0, "binary", b"\x00\x01"),
        Message("client", 5.0, "close", b"bye"),
    ]
    found = texts([parsed(record)])
    assert {"find it", "now", "response.create", "no json", "bye"} <= set(found)
    assert any({"Hello", "other"} <= set(text.split("\n")) for text in found)


def test_a_quick_reader_of_events_says_what_the_slow_one_says() -> None:
    """Events that differ in one string are not parsed: what is said must be the same."""
    for record in islice(agents(seed=3, sessions=3), 12):
        assert record.response_body is not None
        answer = b"".join(record.response_body.chunks)
        record.response_body = Body([answer], ended=True)
        quick = texts([parsed(record)])
        lines = answer.decode().split("\n")
        uneven = [f"{line} " if line.startswith("data: {") and number % 4 else line for number, line in enumerate(lines)]
        record.response_body = Body(["\n".join(uneven).encode()], ended=True)
        assert texts([parsed(record)]) == quick


def test_no_more_is_read_than_is_asked_for() -> None:
    part = {**parsed(whole(body=b'{"a":["found"]}')), "response": Untouchable()}
    assert next(text for text in each_text([part]) if text == "found")


class Untouchable(dict[str, Any]):
    """An answer whose body must not be read."""

    def get(self, key: str, default: Any = None) -> Any:
        assert key != "body"
        return None


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_deep_nesting_is_no_harm(depth: int) -> None:
    body = b'{"a":' * depth + b'"needle"' + b"}" * depth
    assert any("needle" in text for text in said(body=body))
    stream = b"data: " + b"[" * depth + b'"needle"' + b"]" * depth + b"\n\n"
    assert any("needle" in text for text in said(answer=stream, content_type=b"text/event-stream"))


def test_work_and_memory_are_bounded() -> None:
    many = json.dumps({"messages": [[[]]] * 400_000}).encode()
    assert said(body=many) == said()
    assert len("".join(said(body=b"x y " * (17 << 20)))) <= (64 << 20) + 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(
                JSON,
                st.fixed_dictionaries(
                    {},
                    optional={
                        "method": JSON,
                        "target": JSON,
                        "headers": st.lists(st.lists(JSON, max_size=3), max_size=3) | JSON,
                        "body": st.fixed_dictionaries({}, optional=dict.fromkeys(("text", "head", "tail", "base64"), JSON)) | JSON,
                    },
                ),
            )
            for name in ("request", "response", "messages")
        },
    )
)
def test_no_line_whatever_its_values_raises(part: dict[str, Any]) -> None:
    assert all(isinstance(text, str) and text.encode() is not None for text in texts([part, part]))


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | JSON.map(json.dumps).map(str.encode),
    st.sampled_from([b"application/json", b"text/event-stream", b"application/x-ndjson", b""]),
)
def test_no_body_whatever_its_bytes_raises(body: bytes, content_type: bytes) -> None:
    for prefix in (b"", b"data: ", b"{", b'{"a":"'):
        found = said(body=prefix + body, answer=prefix + body, content_type=content_type)
        assert len(set(found)) == len(found)
