"""The comparison behind the journeys must notice what it is there for: each of these differences is found."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit import audit
from rawsockets import Crossing, Tap
from readback import frames_in

ID = "01a1fc2d-2b91-715c-bdf9-9b9793c272cc"
REQUEST = b"POST /openai/v1/x?a=%%2f HTTP/1.1\r\nHost: %b\r\nX: 1\r\nx: 2\r\nAuthorization: Bearer secret\r\nContent-Length: 2\r\n%b\r\nhi"
RESPONSE = b"HTTP/1.1 200 Fine\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n"
PACKED = gzip.compress(b"answer")


def taps() -> tuple[Tap, Tap]:
    front, back = Tap(0), Tap(0)
    front.crossings.append(Crossing(bytearray(REQUEST % (b"gateway.test", b"Connection: keep-alive\r\n"))))
    front.crossings[0].server += RESPONSE % (b"x-verbatim-id: %b\r\n" % ID.encode(), len(PACKED), PACKED)
    back.crossings.append(Crossing(bytearray((REQUEST % (b"127.0.0.1:0", b"")).replace(b"/openai", b""))))
    back.crossings[0].server += RESPONSE % (b"", len(PACKED), PACKED)
    return front, back


def line() -> dict[str, Any]:
    def body(text: str, wire: bytes) -> dict[str, Any]:
        return {"text": text, "size": len(wire), "sha256": hashlib.sha256(wire).hexdigest(), "complete": True, "truncated": False}

    fields = [["Host", "gateway.test"], ["X", "1"], ["x", None, base64.b64encode(b"2").decode()], ["Authorization", "Bearer [redacted]"]]
    fields += [["Content-Length", "2"], ["Connection", "keep-alive"]]
    head = {"method": "POST", "target": "/openai/v1/x?a=%2f", "version": "1.1", "headers": fields}
    answer = {"status": 200, "reason": "Fine", "headers": [["Content-Encoding", "gzip"], ["Transfer-Encoding", "chunked"]]}
    request, response = head | {"body": body("hi", b"hi")}, answer | {"body": body("answer", PACKED)}
    return {"id": ID, "kind": "exchange", "part": 0, "request": request, "response": response, "messages": [], "end": None}


def judge(folder: Path, front: Tap, back: Tap, record: dict[str, Any]) -> None:
    (folder / "2026-11-20T10.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    audit(front, back, folder, prefixes=[b"/openai"], secret="Bearer secret")


def test_what_agrees_passes(tmp_path: Path) -> None:
    front, back = taps()
    judge(tmp_path, front, back, line())


ON_THE_WIRE = {
    "a header merged": (b"X: 1\r\nx: 2", b"X: 1, 2"),
    "a header's case": (b"x: 2", b"X: 2"),
    "the order": (b"X: 1\r\nx: 2", b"x: 2\r\nX: 1"),
    "a path decoded": (b"%2f", b"/"),
    "a header added": (b"X: 1", b"Via: me\r\nX: 1"),
    "a body": (b"\r\n\r\nhi", b"\r\n\r\nho"),
    "the client's Host": (b"127.0.0.1:0", b"gateway.test"),
}


@pytest.mark.parametrize("change", ON_THE_WIRE.values(), ids=ON_THE_WIRE)
def test_a_request_that_is_not_the_same_behind_is_found(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    front, back = taps()
    changed = bytes(back.crossings[0].client).replace(*change)
    assert changed != back.crossings[0].client
    back.crossings[0].client[:] = changed
    with pytest.raises(AssertionError):
        judge(tmp_path, front, back, line())


@pytest.mark.parametrize(
    "change", [(b"Fine", b"OK"), (b"0\r\n\r\n", b""), (b"HTTP/1.1 200", b"HTTP/1.1 201"), (b"gzip\r\n", b"gzip\r\nVia: me\r\n")]
)
def test_a_response_that_is_not_the_same_in_front_is_found(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    front, back = taps()
    changed = bytes(front.crossings[0].server).replace(*change)
    assert changed != front.crossings[0].server
    front.crossings[0].server[:] = changed
    with pytest.raises(AssertionError):
        judge(tmp_path, front, back, line())


def _request_text(record: dict[str, Any]) -> None:
    record["request"]["body"]["text"] = "ho"


def _response_text(record: dict[str, Any]) -> None:
    record["response"]["body"]["text"] = "other"


def _hash(record: dict[str, Any]) -> None:
    record["response"]["body"]["sha256"] = "0"


def _header(record: dict[str, Any]) -> None:
    record["request"]["headers"].pop(1)


def _secret(record: dict[str, Any]) -> None:
    record["request"]["headers"][3][1] = "Bearer secret"


def _hidden_secret(record: dict[str, Any]) -> None:
    record["note"] = "Bearer secret"


def _redacted_for_nothing(record: dict[str, Any]) -> None:
    record["request"]["headers"][1][1] = "[redacted]"


def _incomplete(record: dict[str, Any]) -> None:
    record["response"]["body"]["complete"] = False


def _other_id(record: dict[str, Any]) -> None:
    record["id"] = "another"


CHANGES = [_request_text, _response_text, _hash, _header, _secret, _hidden_secret, _redacted_for_nothing, _incomplete, _other_id]


@pytest.mark.parametrize("change", CHANGES)
def test_an_archive_that_says_something_else_is_found(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    front, back = taps()
    record = line()
    change(record)
    with pytest.raises((AssertionError, KeyError)):
        judge(tmp_path, front, back, record)


def test_frames_are_read_with_masks_fragments_and_close_codes() -> None:
    masked = b"\x81\x82\x01\x02\x03\x04" + bytes((ord("h") ^ 1, ord("i") ^ 2))
    fragments = b"\x02\x01a" + b"\x89\x01p" + b"\x80\x01b"
    assert frames_in(masked + fragments + b"\x88\x05\x03\xe8bye") == [
        ("text", b"hi", None),
        ("ping", b"p", None),
        ("binary", b"ab", None),
        ("close", b"bye", 1000),
    ]
    assert frames_in(b"\x88\x00") == [("close", b"", 1005)]
    long = b"\x82\x7e\x01\x00" + bytes(256)
    assert frames_in(long + b"\x81") == [("binary", bytes(256), None)]
    assert frames_in(bytes.fromhex("c107f248cdc9c90700"), deflated=True) == [("text", b"Hello", None)]  # RFC 7692 section 7.2.3.1
