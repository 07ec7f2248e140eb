"""The line: every byte that crossed, as text where it is text, in JSON that any reader takes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import HOUR, in_parts, parsed, whole

from archive import line as line_module
from archive.folder import segments
from archive.line import SERVICE_PART, close_line, declined_line, forget_line, gap_line, open_line, prune_line, to_line
from archive.record import Body, BodyStream, Client, End, EndReason, Message, Record, Redaction, Timing, Upstream, new_id
from archive.writer import Writer


def bytes_of(body: dict[str, Any] | None) -> bytes:
    """The bytes of a slice, by the rule that the format promises; a part in which none crossed has no slice."""
    if body is None:
        return b""
    if body["base64"] is not None:
        return base64.b64decode(body["base64"])
    return base64.b64decode(body["head"] or "") + body["text"].encode() + base64.b64decode(body["tail"] or "")


def answers(chunks: list[bytes]) -> list[dict[str, Any] | None]:
    """The archived slices of a response body that crosses in these parts."""
    return [(parsed(record)["response"] or {}).get("body") for record in in_parts(chunks)]


def answer(data: bytes, **more: Any) -> dict[str, Any]:
    """The archived form of a response body."""
    record = whole()
    record.response_body = Body([data], ended=True, **more)
    body: dict[str, Any] = parsed(record)["response"]["body"]
    return body


def test_a_line_tells_all_of_an_exchange() -> None:
    record = whole()
    record.redactions = [Redaction("request.headers.authorization", "authorization", 2)]
    value = parsed(record, seq=12)
    body = {"text": '{"a":1}', "base64": None, "head": None, "tail": None, "content_encoding": "", "decoded": True, "error": None}
    assert value["request"].pop("body") == {
        **body,
        "offset": 0,
        "size": 7,
        "total": 7,
        "sha256": "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862",
        "truncated": False,
        "complete": True,
    }
    assert value["response"].pop("body")["sha256"] == "a4c3ed04a95a3da14a9d235c83d868bed7c0f45cf7f3faa751ee8f50598d2211"
    assert value == {
        "v": 1,
        "id": value["id"],
        "seq": 12,
        "writer": "w",
        "part": 0,
        "at": "2026-11-19T10:00:01.000000Z",
        "kind": "exchange",
        "client": {
            "address": "127.0.0.1:50000",
            "user_agent": "tester/1",
            "session": "run-1",
            "session_source": "header",
            "agent": None,
            "user": None,
            "user_source": None,
            "tags": [],
            "metadata": {},
        },
        "upstream": {"name": "openai", "url": "http://127.0.0.1:9"},
        "request": {
            "method": "POST",
            "target": "/openai/v1/x?a=b",
            "target_base64": None,
            "version": "1.1",
            "headers": [["Host", "x"], ["User-Agent", "tester/1"], ["X-Dup", "1"], ["x-dup", "2"]],
        },
        "response": {
            "status": 200,
            "reason": "OK",
            "reason_base64": None,
            "version": "1.1",
            "origin": "upstream",
            "headers": [["content-type", "application/json"]],
        },
        "messages": [],
        "timing": {"ttfb_ms": 12.5, "duration_ms": 20.25, "marks": [[0, 12.5]]},
        "end": {"reason": "complete", "detail": ""},
        "redactions": [{"where": "request.headers.authorization", "rule": "authorization", "count": 2}],
        "kept": "full",
        "transparency": None,
    }


def test_what_the_client_said_of_itself_stands_in_the_line() -> None:
    record = whole()
    record.client = Client("a:1", "s", "x-verbatim-session", "a-1", "é@x", "x-verbatim-user", ("one", "two"), {"n": 1, "f": 0.5, "b": None})
    record.kept = "metadata"
    value = parsed(record)
    assert list(value["client"].items())[4:] == [
        ("agent", "a-1"),
        ("user", "é@x"),
        ("user_source", "x-verbatim-user"),
        ("tags", ["one", "two"]),
        ("metadata", {"n": 1, "f": 0.5, "b": None}),
    ]
    assert value["kept"] == "metadata"


def test_keys_keep_their_order_and_are_always_there() -> None:
    full, bare = whole(), Record(new_id(1), 3, HOUR, Client("a:1"), Upstream("x", "http://x"), end=End(EndReason.TIMEOUT))
    assert list(parsed(full)) == list(parsed(bare))
    (_, later) = in_parts([b"a", b"b"])
    assert list(parsed(later)["response"]) == list(parsed(full)["response"])
    assert parsed(bare)["request"] is None
    assert parsed(bare)["response"] is None
    assert parsed(later)["response"]["status"] is None
    assert parsed(later)["response"]["body"]["text"] == "b"


AWKWARD = {
    "nul": b"a\0b",
    "every control character": bytes(range(32)) + b"\x7f",
    "line separators": "a\u2028b\u2029c\u0085d".encode(),
    "byte order mark": b"\xef\xbb\xbf{}",
    "beyond the basic plane": "🙂𐍈".encode(),
    "a lone surrogate's escape": rb'{"text":"\ud83d"}',
    "noncharacters": "\ufffe\uffff\U0010ffff".encode(),
    "quotes and backslashes": rb'"\\\"\u0000\n' + b"\r\n",
}


@pytest.mark.parametrize("data", AWKWARD.values(), ids=AWKWARD)
def test_text_stays_text_byte_for_byte(data: bytes) -> None:
    body = answer(data)
    assert body["text"].encode() == data
    assert body["base64"] is None
    assert body["decoded"]


def test_printable_text_is_never_escaped() -> None:
    record = whole(answer="Wörter 語 🙂 \u2028".encode())
    line = to_line(record, writer="w", seq=0)
    assert line is not None
    assert "Wörter 語 🙂 \u2028".encode() in line
    assert b"\n" not in line
    assert b"\r" not in line


@pytest.mark.parametrize("data", [b"\xff", b"caf\xe9", b"\xed\xa0\xbd", b"\xc0\x80", b"a\xf0\x9f\x99", b"\x80abc"], ids=repr)
def test_bytes_that_are_no_text_are_kept_as_base64(data: bytes) -> None:
    body = answer(data)
    assert base64.b64decode(body["base64"]) == data
    assert body["text"] is None
    assert body["decoded"]
    assert body["error"] is None


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 240), min_size=1, max_size=6))
def test_a_character_split_between_parts_is_put_together_again(text: str, cuts: list[int]) -> None:
    data = text.encode()
    edges = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges)]
    bodies = answers(chunks)
    assert [bytes_of(body) for body in bodies] == chunks
    assert b"".join(map(bytes_of, bodies)) == data
    assert all(len(base64.b64decode(body[end] or "")) <= 3 for body in bodies if body for end in ("head", "tail"))


def test_each_side_of_a_split_character_stands_alone() -> None:
    one, two = answers([b"ab\xf0\x9f", b"\x99\x82cd"])
    assert one
    assert two
    assert (one["text"], one["head"], base64.b64decode(one["tail"])) == ("ab", None, b"\xf0\x9f")
    assert (two["text"], base64.b64decode(two["head"]), two["tail"]) == ("cd", b"\x99\x82", None)


@given(chunks=st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_any_bytes_in_any_parts_come_back_exactly(chunks: list[bytes]) -> None:
    bodies = answers(chunks)
    assert [bytes_of(body) for body in bodies] == chunks


def test_an_encoded_body_is_archived_decoded() -> None:
    data = "Wörter".encode() * 100
    wire = gzip.compress(data)
    body = answer(wire, encoding="gzip")
    assert body["text"].encode() == data
    assert (body["content_encoding"], body["size"], body["total"]) == ("gzip", len(wire), len(wire))


def test_a_body_that_cannot_be_decoded_is_archived_as_it_crossed() -> None:
    body = answer(b"\x1f\x8b not gzip \xff", encoding="gzip")
    assert base64.b64decode(body["base64"]) == b"\x1f\x8b not gzip \xff"
    assert (body["decoded"], body["error"], body["complete"]) == (False, "damaged", True)


def test_header_values_that_are_no_text_are_kept_as_base64() -> None:
    record = whole()
    assert record.request is not None
    assert record.response is not None
    record.request.headers = [(b"X-Latin", b"caf\xe9"), (b"X-Utf", "café".encode()), (b"X-Empty", b"")]
    record.request.target = b"/openai/\xe4?x=%E4"
    record.response.reason = b"Sch\xf6n"
    request, response = parsed(record)["request"], parsed(record)["response"]
    assert request["headers"] == [["X-Latin", None, base64.b64encode(b"caf\xe9").decode()], ["X-Utf", "café"], ["X-Empty", ""]]
    assert (request["target"], base64.b64decode(request["target_base64"])) == (None, b"/openai/\xe4?x=%E4")
    assert (response["reason"], base64.b64decode(response["reason_base64"])) == (None, b"Sch\xf6n")


def test_a_record_of_unkept_bytes_makes_no_line_and_is_hashed() -> None:
    stream = BodyStream()
    first, middle, last = in_parts([b"kept", b"", b""])
    first.response_body = Body([b"kept"], stream=stream)
    middle.response_body = Body([], [b"let go "], offset=4, stream=stream)
    last.response_body = Body([], [b"too"], offset=11, ended=True, stream=stream)
    assert parsed(first)["response"]["body"]["truncated"] is False
    assert to_line(middle, writer="w", seq=1) is None
    body = parsed(last)["response"]["body"]
    assert (body["text"], body["size"], body["total"], body["truncated"], body["complete"]) == ("", 3, 14, True, True)
    assert body["sha256"] == hashlib.sha256(b"kept" + b"let go " + b"too").hexdigest()


def test_a_part_with_nothing_new_of_a_body_says_nothing_of_it() -> None:
    record = in_parts([b"a", b"b", b"c"])[1]
    record.request_body = Body([], offset=7)
    assert parsed(record)["request"] is None


def test_websocket_messages_tell_side_time_and_kind() -> None:
    record = whole()
    record.messages = [
        Message("client", 1.23456, "text", "hé\0".encode()),
        Message("upstream", 2.0, "binary", b"ab"),
        Message("upstream", 3.0, "text", b"\xff", size=100),
        Message("client", 4.0, "close", b"bye", code=4000),
        Message("client", 5.0, "raw", b"\x81"),
    ]
    none = {"text": None, "base64": None, "code": None, "error": None}
    assert parsed(record)["messages"] == [
        {**none, "side": "client", "at_ms": 1.235, "type": "text", "text": "hé\0", "size": 4},
        {**none, "side": "upstream", "at_ms": 2.0, "type": "binary", "base64": "YWI=", "size": 2},
        {**none, "side": "upstream", "at_ms": 3.0, "type": "text", "base64": "/w==", "size": 100},
        {**none, "side": "client", "at_ms": 4.0, "type": "close", "text": "bye", "code": 4000, "size": 3},
        {**none, "side": "client", "at_ms": 5.0, "type": "raw", "base64": "gQ==", "size": 1},
    ]


def test_messages_are_asked_for_once_and_may_settle_the_end() -> None:
    record = whole()
    calls = []

    def messages() -> list[Message]:
        calls.append(1)
        record.end = End(EndReason.CLIENT_CLOSED)
        return [Message("client", 1, "text", b"x")]

    record.messages = messages
    value = parsed(record)
    assert calls == [1]
    assert value["end"]["reason"] == "client_closed"
    assert value["messages"][0]["text"] == "x"


def test_frames_that_cannot_be_read_do_not_lose_the_record() -> None:
    record = whole()

    def messages() -> list[Message]:
        raise ValueError("secret")

    record.messages = messages
    value = parsed(record)
    assert [(it["type"], it["error"]) for it in value["messages"]] == [("raw", "the frames could not be read: ValueError")]
    assert value["response"]["body"]["text"] == "done"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(0, 1e9).map(lambda it: round(it, 3)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(value=json_values)
def test_both_encoders_give_the_same_bytes(value: object) -> None:
    assert line_module._dumps(value) == line_module._dumps_plain(value)


def test_the_standard_librarys_encoder_writes_the_same_line(monkeypatch: pytest.MonkeyPatch) -> None:
    record = whole(answer=bytes(range(128)) + "é🙂\u2028".encode())
    record.timing = Timing(0.0004, 123456.789012, [(0, 0.001), (5, 33.333)])
    fast = to_line(record, writer="w", seq=1)
    monkeypatch.setattr(line_module, "_dumps", line_module._dumps_plain)
    assert to_line(record, writer="w", seq=1) == fast


@given(st.floats(0, 1e10), st.integers(0, 10**12))
def test_times_are_told_to_the_microsecond(ms: float, micros: int) -> None:
    told = line_module._ms(ms)
    assert told is not None
    assert abs(told - ms) <= 0.000501
    assert told == round(told, 3)
    assert line_module._ms(micros / 1000) == micros / 1000


def test_a_producers_lone_surrogate_becomes_its_escape() -> None:
    record = whole()
    record.end = End(EndReason.COMPLETE, "a\ud800b")
    line = to_line(record, writer="w", seq=0)
    assert line is not None
    assert rb'"a\ud800b"' in line
    assert json.loads(line)["end"]["detail"] == "a\ud800b"


def test_text_of_control_characters_does_not_blow_up_the_line() -> None:
    data = bytes(2 << 20)
    record = whole(answer=data)
    line = to_line(record, writer="w", seq=0)
    assert line is not None
    assert len(line) < 1.5 * len(data)
    assert base64.b64decode(json.loads(line)["response"]["body"]["base64"]) == data


def test_the_archives_own_lines_have_one_form() -> None:
    common = {"v": 1, "id": "w", "seq": 3, "writer": "w", "part": SERVICE_PART, "at": "2026-11-19T10:00:00.500000Z"}
    opened = open_line(writer="w", seq=3, at=HOUR + 0.5, version="1.2", rules_hash="r", host="h", pid=7)
    closed = close_line(writer="w", seq=3, at=HOUR + 0.5, written=2, dropped=1)
    gap = gap_line(writer="w", seq=3, at=HOUR + 0.5, since=HOUR, until=HOUR + 2, records=5, exchanges=4, size=99, why="no space")
    assert json.loads(opened) == {**common, "kind": "open", "open": {"version": "1.2", "rules_hash": "r", "host": "h", "pid": 7}}
    assert json.loads(closed) == {**common, "kind": "close", "close": {"written": 2, "dropped": 1}}
    span = {"since": "2026-11-19T10:00:00.000000Z", "until": "2026-11-19T10:00:02.000000Z"}
    told = {**span, "records": 5, "exchanges": 4, "bytes": 99, "why": "no space"}
    assert json.loads(gap) == {**common, "kind": "gap", "gap": told}
    declined = declined_line(writer="w", seq=3, at=HOUR + 0.5, since=HOUR, until=HOUR + 2, exchanges=7)
    assert json.loads(declined) == {**common, "kind": "declined", "declined": {**span, "exchanges": 7}}
    removed = [
        {"segment": "2026-11-19T10", "index": 4, "id": "x", "part": 0, "writer": "o", "seq": 4, "digest": "d", "member": "m", "bytes": 9}
    ]
    forget = forget_line(writer="w", seq=3, at=HOUR + 0.5, by="me@here", why="asked for", removed=removed)
    assert json.loads(forget) == {**common, "kind": "forget", "forget": {"by": "me@here", "why": "asked for", "removed": removed}}
    hours = [{"segment": "2026-11-19T10", "records": 4, "bytes": 9, "root": None, "seal": None, "writers": []}]
    prune = prune_line(writer="w", seq=3, at=HOUR + 0.5, by="me@here", why="older than 30 days", segments=hours)
    assert json.loads(prune) == {**common, "kind": "prune", "prune": {"by": "me@here", "why": "older than 30 days", "segments": hours}}


def test_zcat_and_jq_read_the_file(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "archive", version="1", min_free=0)
    writer.start()
    for record in [*(whole(answer=data) for data in AWKWARD.values()), *in_parts([b"ab\xf0\x9f", b"\x99\x82cd"])]:
        assert writer.put(record)
    assert writer.close(20)
    paths = segments(tmp_path / "archive")
    zcat = subprocess.run(["zcat", *map(str, paths)], check=True, capture_output=True).stdout
    assert zcat.count(b"\n") == len(AWKWARD) + 4
    assert subprocess.run(["jq", "."], input=zcat, check=True, capture_output=True).stdout
    kinds = subprocess.run(["jq", "-r", ".kind"], input=zcat, check=True, capture_output=True).stdout.split()
    assert kinds == [b"open", *[b"exchange"] * (len(AWKWARD) + 2), b"close"]
    texts = subprocess.run(["jq", "-c", 'select(.kind=="exchange") | .response.body.text'], input=zcat, check=True, capture_output=True)
    shown = [json.loads(each) for each in texts.stdout.splitlines()]
    assert shown == [*(data.decode() for data in AWKWARD.values()), "ab", "cd"]
