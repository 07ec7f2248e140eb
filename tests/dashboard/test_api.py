"""The JSON API: the same exchanges as the pages, exactly."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from archive.record import End, EndReason, Message
from dashboard.api import answer


async def test_the_api_says_what_the_pages_say(tmp_path: Path, write, exchange, serve) -> None:
    sent = '{"model":"gpt-5.2","content":"caf\u00e9 \U0001f600"}'.encode()
    records = [
        exchange(ago=3, sent=sent, received=b"\xff\x00\x01"),
        exchange(ago=2, route="anthropic", status=429, end=End(EndReason.COMPLETE, "limited")),
        exchange(ago=1, sent=None, received=None, status=101, messages=[Message("client", 1.5, "text", b"hi")]),
    ]
    ids = write(tmp_path, records)
    async with serve(tmp_path) as viewer:
        page = (await viewer.get("/api/exchanges?limit=2")).json()
        assert [it["id"] for it in page["exchanges"]] == ids[:0:-1]
        rest = (await viewer.get(f"/api/exchanges?before={page['next']}")).json()
        assert [it["id"] for it in rest["exchanges"]] == ids[:1]
        assert rest["next"] is None
        assert [it["id"] for it in (await viewer.get("/api/exchanges?status=4xx&route=anthropic")).json()["exchanges"]] == ids[1:2]
        one = (await viewer.get(f"/api/exchanges/{ids[0]}")).json()
        socket = (await viewer.get(f"/api/exchanges/{ids[2]}")).json()
        lines = (await viewer.get(f"/api/exchanges/{ids[0]}/line")).content
        events = (await viewer.get("/api/events")).json()["events"]
        stats = (await viewer.get("/api/stats")).json()
    assert one["request"]["body"]["text"].encode() == sent
    assert one["request"]["body"]["sha256"] == hashlib.sha256(sent).hexdigest()
    assert base64.b64decode(one["response"]["body"]["base64"]) == b"\xff\x00\x01"
    assert one["response"]["body"]["text"] is None
    assert one["request"]["headers"] == [["Content-Type", "application/json"]]
    assert one["at"].endswith("Z")
    assert one["places"][0]["segment"].endswith(".jsonl.gz")
    assert socket["messages"][0]["text"] == "hi"
    assert (socket["kind"], socket["request"]["body"]) == ("websocket", None)
    assert json.loads(lines)["id"] == ids[0]
    assert [event["kind"] for event in events] == ["open", "close"]
    assert stats == {
        "starts": 1,
        "stops": 1,
        "gaps": 0,
        "lost": 0,
        "declined": 0,
        "damages": 0,
        "removals": 0,
        "catalog": None,
        "closed": 0,
    }


async def test_the_api_refuses_in_json(viewer, known_id: str) -> None:
    for path, status in (("/api/exchanges/zzz", 404), ("/api/exchanges?status=teapot", 400), ("/api/nowhere", 404)):
        said = await viewer.get(path)
        assert said.status_code == status
        assert set(said.json()["error"]) == {"status", "message", "advice"}
    locked = await viewer.client.get("/api/exchanges")
    assert locked.json()["error"]["status"] == 401
    assert (await viewer.get(f"/api/exchanges/{known_id}/line?part=1")).status_code == 404


def test_a_lone_surrogate_goes_out_as_its_escape() -> None:
    assert answer({"text": "a\ud83d\u00e9"}).body == '{"text":"a\\ud83d\u00e9"}'.encode()
