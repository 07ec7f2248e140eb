"""The record-keeper of one exchange: cuts, bounds, holding back. No sockets; the clock is an argument."""

from __future__ import annotations

import hashlib
import json

import pytest
from capturing import CLIENT, KEY, REQUEST, UPSTREAM, Remembering, opened, plain, request, response, tell
from hypothesis import given
from hypothesis import strategies as st

from archive.line import to_line
from archive.record import EndReason, Record, new_id
from gateway.capture import Capture, CaptureLimits, InProcess


def lines(records: list[Record]) -> list[dict]:
    made = [to_line(record, writer="w", seq=number) for number, record in enumerate(records)]
    return [json.loads(line) for line in made if line is not None]


def test_an_ordinary_exchange_is_one_record() -> None:
    recorder = Remembering()
    tell(InProcess(recorder, CaptureLimits()))
    (line,) = lines(recorder.records)
    assert line["part"] == 0
    assert line["request"]["method"] == "POST"
    assert line["request"]["body"]["text"] == "hello"
    assert line["response"]["status"] == 200
    assert line["response"]["body"]["text"] == "one two"
    assert line["response"]["body"]["complete"]
    assert line["timing"] == {"ttfb_ms": 10.0, "duration_ms": 50.0, "marks": [[0, 20.0], [4, 21.0]]}
    assert line["end"] == {"reason": "complete", "detail": ""}
    assert line["client"]["session"] == "s1"


def test_credentials_end_at_the_capture() -> None:
    recorder = Remembering()
    tell(InProcess(recorder, CaptureLimits()))
    assert KEY not in repr(recorder.records)
    assert {redaction.where for redaction in recorder.records[0].redactions} == {
        "request.headers.authorization",
        "request.target.key",
        "response.headers.set-cookie",
    }


def test_a_part_is_cut_when_its_bytes_have_gathered() -> None:
    recorder = Remembering()
    pieces = tuple(bytes([65 + n]) * 700 for n in range(10))
    tell(InProcess(recorder, CaptureLimits(part_bytes=1000)), answer=pieces)
    made = recorder.records
    assert [record.part for record in made] == list(range(len(made)))
    assert len(made) > 3
    assert [record.end is not None for record in made] == [False] * (len(made) - 1) + [True]
    bodies = [record.response_body for record in made if record.response_body is not None]
    assert b"".join(b"".join(body.chunks) for body in bodies) == b"".join(pieces)
    offset = 0
    for body in bodies:
        assert body.offset == offset
        offset += body.size
    assert sum(1 for record in made if record.request is not None) == 1


@given(st.lists(st.binary(min_size=1, max_size=400), max_size=30), st.integers(1, 2000), st.integers(1, 3000))
def test_any_cut_joins_to_what_passed(pieces: list[bytes], part_bytes: int, max_body: int) -> None:
    recorder = Remembering()
    tell(InProcess(recorder, CaptureLimits(part_bytes=part_bytes, max_body=max_body)), answer=tuple(pieces))
    whole = b"".join(pieces)
    bodies = [record.response_body for record in recorder.records if record.response_body is not None]
    assert b"".join(b"".join(body.chunks) for body in bodies) == whole[:max_body]
    assert sum(body.size for body in bodies) == len(whole)
    numbered = [line["part"] for line in lines(recorder.records)]
    assert numbered == list(range(len(numbered)))


def test_a_part_is_cut_when_its_seconds_are_over() -> None:
    recorder = Remembering()
    told = opened(InProcess(recorder, CaptureLimits(part_seconds=10)))
    assert told is not None
    told.tick(109.9)
    assert recorder.records == []
    told.tick(110.0)
    assert [record.part for record in recorder.records] == [0]
    told.tick(130.0)  # nothing has passed since: no empty part
    assert len(recorder.records) == 1
    told.response_head(response(), 131.0)
    told.response_data([b"x"], 131.0)
    told.tick(131.5)
    told.end(EndReason.CLIENT_CLOSED, "left", 132.0)
    told.tick(200.0)
    assert [record.part for record in recorder.records][:2] == [0, 1]
    assert recorder.records[-1].end is not None


def test_a_body_beyond_the_limit_is_cut_in_the_record_and_hashed_whole() -> None:
    recorder = Remembering()
    pieces = tuple(bytes([97 + n % 26]) * 1000 for n in range(50))
    tell(InProcess(recorder, CaptureLimits(part_bytes=5000, max_body=7300)), answer=pieces)
    whole = b"".join(pieces)
    made = [line["response"]["body"] for line in lines(recorder.records) if line["response"] and line["response"]["body"]]
    assert "".join(body["text"] for body in made) == whole[:7300].decode()
    assert made[-1]["total"] == len(whole)
    assert made[-1]["sha256"] == hashlib.sha256(whole).hexdigest()
    assert made[-1]["truncated"]


def test_a_body_that_is_not_to_be_kept_is_counted_and_hashed() -> None:
    recorder = Remembering()
    tell(InProcess(recorder, CaptureLimits()), body=b"a question", answer=(b"an ", b"answer"), kept="metadata")
    (record,) = recorder.records
    line = to_line(record, writer="w", seq=0)
    assert line is not None
    assert b"question" not in line
    assert b"answer" not in line
    told = json.loads(line)
    assert told["kept"] == "metadata"
    for body, crossed in ((told["request"]["body"], b"a question"), (told["response"]["body"], b"an answer")):
        assert (body["text"], body["size"], body["total"], body["truncated"]) == ("", len(crossed), len(crossed), True)
        assert body["sha256"] == hashlib.sha256(crossed).hexdigest()


def test_messages_that_are_not_to_be_kept_are_counted() -> None:
    recorder = Remembering()
    upgrade = request(REQUEST.replace(b"Content-Length: 5\r\n", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    told = opened(InProcess(recorder, CaptureLimits()), head=upgrade, kept="metadata")
    assert told is not None
    told.response_head(response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), 100.1)
    told.frames("upstream", b"\x81\x05hello\x88\x05\x03\xe8bye", 100.2)
    told.frames("client", b"no frame at all", 100.3)
    told.end(EndReason.CLIENT_CLOSED, "", 100.4)
    line = to_line(recorder.records[0], writer="w", seq=0)
    assert line is not None
    messages = json.loads(line)["messages"]
    assert [(it["type"], it["text"] or it["base64"] or "", it["size"]) for it in messages] == [
        ("text", "", 5),
        ("close", "", 3),
        ("raw", "", 15),
    ]
    assert messages[1]["code"] == 1000


def test_a_record_waits_for_room_and_is_then_taken() -> None:
    recorder = Remembering(room=0)
    told = opened(InProcess(recorder, CaptureLimits()))
    assert isinstance(told, Capture)
    full: list[bool] = []
    told.on_full = lambda: full.append(True)
    told.end(EndReason.COMPLETE, "", 101.0)
    assert full == [True]
    assert told.held
    assert not told.offer(last=False)
    recorder.room = 5
    assert told.offer(last=False)
    assert not told.held
    assert len(recorder.records) == 1
    assert recorder.dropped == 0


def test_a_record_that_finds_no_room_in_time_is_dropped_and_counted() -> None:
    recorder = Remembering(room=0)
    told = opened(InProcess(recorder, CaptureLimits()))
    assert isinstance(told, Capture)
    told.end(EndReason.COMPLETE, "", 101.0)
    assert told.offer(last=True)
    assert (recorder.records, recorder.dropped) == ([], 1)


def test_parts_that_wait_keep_their_order() -> None:
    recorder = Remembering(room=0)
    told = opened(InProcess(recorder, CaptureLimits(part_bytes=10)))
    assert isinstance(told, Capture)
    for _ in range(3):
        told.request_data([b"0123456789"], 100.0)
    recorder.room = 10
    assert told.offer(last=False)
    assert [record.part for record in recorder.records] == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 1000, 500_000])
def test_a_record_weighs_about_what_it_holds(size: int) -> None:
    recorder = Remembering()
    tell(InProcess(recorder, CaptureLimits()), body=b"x" * size, answer=(b"y" * size,) if size else ())
    (record,) = recorder.records
    assert 2 * size < record.weight < 2 * size + 10_000


def test_an_end_is_told_once() -> None:
    recorder = Remembering()
    capture = Capture(recorder, CaptureLimits(), new_id(1), 0.0, 100.0, CLIENT, UPSTREAM)
    capture.request_head(request())
    capture.end(EndReason.TIMEOUT, "first", 101.0)
    capture.end(EndReason.COMPLETE, "second", 102.0)
    assert [plain(record)["end"].detail for record in recorder.records] == ["first"]


def test_our_own_answer_is_marked_as_ours() -> None:
    recorder = Remembering()
    told = opened(InProcess(recorder, CaptureLimits()))
    assert told is not None
    told.own_response(502, b"Bad Gateway", [(b"x-verbatim-error", b"upstream_unreachable")], b"{}")
    told.end(EndReason.UPSTREAM_REFUSED, "no connection", 101.0)
    (line,) = lines(recorder.records)
    assert line["response"]["origin"] == "gateway"
    assert line["response"]["body"]["text"] == "{}"
