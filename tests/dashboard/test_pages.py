"""The pages over real archives: list, exchange, line, events, downloads; and names that lead nowhere."""

from __future__ import annotations

import asyncio
import gzip
import html
import json
import re
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from archive.catalog.follow import Follower
from archive.record import Body, BodyStream, Crossed, End, EndReason, Message, Record, Redaction, Timing, Transparency


def text_of(page: str) -> str:
    """What a reader sees of a page, white space folded."""
    parted = re.sub(r"</(?:d[td]|t[dh]|p|li|h\d|div|a)>", " ", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", parted)))


def rows(page: str) -> list[str]:
    return re.findall(r'class="row" data-key="([0-9a-f-]+)"', page)


async def test_the_newest_exchange_comes_first(tmp_path: Path, write, exchange, serve) -> None:
    ids = write(tmp_path, [exchange(ago=ago) for ago in (300, 200, 100)])
    async with serve(tmp_path) as viewer:
        assert rows(await viewer.page("/")) == ids[::-1]


async def test_the_list_is_narrowed_by_route_status_and_text(tmp_path: Path, write, exchange, serve) -> None:
    plain, limited, other, unanswered = write(
        tmp_path,
        [
            exchange(ago=40, sent=b'{"content":"a needle"}'),
            exchange(ago=30, status=429, received=b'{"error":"Needle not found"}'),
            exchange(ago=20, route="anthropic", target=b"/anthropic/v1/messages"),
            exchange(ago=10, status=None, received=None, end=End(EndReason.CLIENT_CLOSED)),
        ],
    )
    async with serve(tmp_path) as viewer:
        assert rows(await viewer.page("/?route=anthropic")) == [other]
        assert rows(await viewer.page("/?status=4xx")) == rows(await viewer.page("/?status=429")) == [limited]
        assert rows(await viewer.page("/?status=none")) == [unanswered]
        assert rows(await viewer.page("/?text=needle")) == [limited, plain]
        assert rows(await viewer.page("/?text=needle&status=2xx&route=openai")) == [plain]
        nothing = await viewer.page("/?text=haystack")
        assert rows(nothing) == []
        assert "Nothing fits" in nothing
        for wrong in ("status=teapot", "limit=0", "limit=99999", "before=yesterday", "text=...", "text=%22%22"):
            assert (await viewer.get(f"/?{wrong}")).status_code == 400


async def test_a_filtered_page_that_came_short_says_how_far_it_looked_back(
    tmp_path: Path, write, exchange, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archive.reader._SEARCHED", 2)
    ids = write(tmp_path, [exchange(ago=ago, sent=b"needle" if ago != 20 else b"hay") for ago in (50, 40, 30, 20, 10)])
    async with serve(tmp_path) as viewer:
        page = await viewer.page("/?text=needle")
        assert rows(page) == [ids[4]]
        (looked,) = re.findall(r'Looked back to <time datetime="([^"]+)">', page)
        assert looked[:23] == next(it["at"] for it in (await viewer.get("/api/exchanges")).json()["exchanges"] if it["id"] == ids[3])[:23]
        assert f"before={ids[3]}" in page
        none = await viewer.page("/?text=absent")
        assert "fits this filter. Older ones have not been looked at yet." in text_of(none)
        assert "Look further back" in none
        assert "Looked back" not in await viewer.page("/?limit=1")


async def test_the_list_page_says_how_far_the_index_is(tmp_path: Path, write, exchange, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = write(tmp_path, [exchange(ago=ago, sent=b"needle") for ago in (30, 20, 10)])
    monkeypatch.setattr("dashboard.pages._BEHIND", 1)
    with closing(Follower(tmp_path, spare=0)) as follower:
        async with serve(tmp_path) as viewer:
            assert "Indexing" not in await viewer.page("/")  # nobody makes one
            assert follower.step()  # where they lie; not yet what they say
            answer = await viewer.get("/")
            assert "Indexing: 0 %." in text_of(answer.text)
            assert rows(answer.text) == rows(await viewer.page("/?text=needle")) == ids[::-1]
            assert (await viewer.get("/api/stats")).json()["catalog"]["known"] == 0
            while follower.step():
                pass
            answer = await viewer.get("/", headers={"If-None-Match": answer.headers["etag"]})
            assert answer.status_code == 200
            assert "Indexing" not in answer.text
            catalog = (await viewer.get("/api/stats")).json()["catalog"]
            assert catalog["known"] == catalog["size"] > 0


async def test_older_exchanges_are_a_page_away(tmp_path: Path, write, exchange, serve) -> None:
    ids = write(tmp_path, [exchange(ago=1000 - n) for n in range(120)])[::-1]
    seen: list[str] = []
    async with serve(tmp_path) as viewer:
        path = "/?route=openai"
        while path:
            page = await viewer.page(path)
            seen += rows(page)
            older = re.search(r'href="([^"]+)" rel="next"', page)
            path = html.unescape(older[1]) if older else ""
            assert not path or "route=openai" in path
    assert seen == ids


async def test_the_list_works_without_a_script(tmp_path: Path, write, exchange, serve) -> None:
    write(tmp_path, [exchange()])
    async with serve(tmp_path) as viewer:
        page = await viewer.page("/")
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    assert '<form class="filter" role="search" method="get" action="/">' in page
    assert not re.search(r"<script(?![^>]* src=)|\son[a-z]+=|\sstyle=|javascript:", page)


async def test_a_newcomer_is_told_what_to_paste(tmp_path: Path, serve) -> None:
    async with serve(tmp_path / "not there yet", gateway="http://127.0.0.1:4321/") as viewer:
        page = await viewer.page("/")
        events = await viewer.page("/events")
    for line in ("OPENAI_BASE_URL=http://127.0.0.1:4321/openai/v1", "ANTHROPIC_BASE_URL=http://127.0.0.1:4321/anthropic"):
        assert f"export {line}" in page
    assert "export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:4321/gemini" in page
    assert "not there yet" in page
    assert "No event yet" in events


async def test_news_cost_nothing_while_there_are_none(tmp_path: Path, write, exchange, serve) -> None:
    write(tmp_path, [exchange()])
    async with serve(tmp_path) as viewer:
        tags = [(await viewer.get("/")).headers["etag"]]
        for _ in range(3):  # the tag changes by itself now and then; twice in three tries it does not
            answer = await viewer.get("/", headers={"If-None-Match": tags[-1]})
            tags.append(answer.headers["etag"])
            if answer.status_code == 304:
                break
        assert answer.status_code == 304
        assert answer.content == b""
        write(tmp_path, [exchange()])
        assert (await viewer.get("/", headers={"If-None-Match": tags[-1]})).status_code == 200


async def test_an_exchange_is_shown_with_both_heads_and_bodies(tmp_path: Path, write, exchange, serve) -> None:
    (one,) = write(
        tmp_path,
        [
            exchange(
                request_headers=[
                    (b"Content-Type", b"application/json"),
                    (b"X-Twice", b"one"),
                    (b"X-Twice", b"two"),
                    (b"X-Raw", b"caf\xe9"),
                ],
                response_headers=[(b"Content-Type", b"application/json"), (b"x-ratelimit-remaining-tokens", b"149984")],
                redactions=[Redaction("request.headers.authorization", "authorization", 1)],
            )
        ],
    )
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{one}")
        raw = await viewer.page(f"/exchange/{one}?request=raw&response=hex")
    seen = text_of(page)
    for expected in (
        "POST /openai/v1/chat/completions",
        "200 OK Complete",
        "First byte 120 ms",
        "Duration 480 ms",
        "openai https://openai.example",
    ):
        assert expected in seen
    for expected in (
        "X-Twice one",
        "X-Twice two",
        "X-Raw caf\\xe9",
        "x-ratelimit-remaining-tokens 149984",
        '"model": "gpt-5.2"',
        "request.headers.authorization",
    ):
        assert expected in seen
    assert '{"model":"gpt-5.2","messages":[]}' in text_of(raw)
    assert "00000000 7b 22 63" in text_of(raw)
    assert len(re.findall(r"<code>[0-9a-f]{64}</code>", page)) == 2


async def test_an_id_is_found_by_its_beginning(tmp_path: Path, write, exchange, serve) -> None:
    (one,) = write(tmp_path, [exchange()])
    async with serve(tmp_path) as viewer:
        answer = await viewer.get(f"/exchange/{one[:13]}")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/exchange/{one}")


async def test_events_of_a_stream_are_shown_with_their_times(tmp_path: Path, write, exchange, serve) -> None:
    body = b'event: delta\ndata: {"text":"Hel"}\n\n: ping\n\ndata: [DONE]\n\n'
    stream = [(b"Content-Type", b"text/event-stream; charset=utf-8")]
    (one,) = write(tmp_path, [exchange(received=body, response_headers=stream, marks=[(0, 120.0), (35, 300.0), (43, 450.0)])])
    async with serve(tmp_path) as viewer:
        seen = text_of(await viewer.page(f"/exchange/{one}"))
    assert re.search(r'120 ms delta \{"text": "Hel"\} 300 ms\+180 ms : ping 450 ms\+150 ms \[DONE\]', seen)


async def test_bytes_that_are_no_text_are_shown_in_hexadecimal(tmp_path: Path, write, exchange, serve) -> None:
    (one,) = write(tmp_path, [exchange(received=b"\xff\xfb\x90\x00ID3", response_headers=[(b"Content-Type", b"audio/mpeg")])])
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{one}")
        whole = await viewer.get(f"/exchange/{one}/response")
    assert "ff fb 90 00 49 44 33" in page
    assert whole.content == b"\xff\xfb\x90\x00ID3"
    assert whole.headers["content-type"] == "application/octet-stream"


async def test_websocket_messages_are_shown_with_side_and_time(tmp_path: Path, write, exchange, serve) -> None:
    messages = [
        Message("client", 15.0, "text", b'{"type":"session.update"}'),
        Message("upstream", 31.0, "binary", b"\x00\x01\x02"),
        Message("upstream", 90.0, "close", b"enough", 4001),
    ]
    upgrade = [(b"Upgrade", b"websocket")]
    (one,) = write(tmp_path, [exchange(method=b"GET", status=101, sent=None, received=None, request_headers=upgrade, messages=messages)])
    async with serve(tmp_path) as viewer:
        listed = await viewer.page("/")
        seen = text_of(await viewer.page(f"/exchange/{one}"))
        binary = await viewer.get(f"/exchange/{one}/message/1")
        assert (await viewer.get(f"/exchange/{one}/message/3")).status_code == 404
    assert "3 messages" in listed
    assert re.search(r'class="num sent">\s*25 B\s*</td>\s*<td class="num received">\s*9 B\s*</td>', listed)
    assert "Sent 25 B Received 9 B" in seen
    assert re.search(r'15 ms client →\s?text\s?25 B .*"type": "session.update"', seen)
    assert re.search(r"31 ms\+16 ms ← upstream\s?binary\s?3 B", seen)
    assert re.search(r"← upstream\s?close 4001\s?6 B\s+enough", seen)
    assert (binary.content, binary.headers["content-type"]) == (b"\x00\x01\x02", "application/octet-stream")


async def test_many_messages_are_paged(tmp_path: Path, write, exchange, serve) -> None:
    messages = [Message("client", float(n), "text", b"message %d." % n) for n in range(450)]
    (one,) = write(tmp_path, [exchange(status=101, sent=None, received=None, messages=messages)])
    async with serve(tmp_path) as viewer:
        first = await viewer.page(f"/exchange/{one}")
        last = await viewer.page(f"/exchange/{one}?from=400")
        beyond = await viewer.page(f"/exchange/{one}?from=99999&request=%00")
    assert "message 199." in first
    assert "message 200." not in first
    assert "from=200" in first
    assert "message 449." in last
    assert "message 449." in beyond


async def test_a_long_exchange_is_put_together_from_its_parts(tmp_path: Path, write, exchange, serve) -> None:
    one, _ = write(tmp_path, in_parts(exchange, last=End(EndReason.COMPLETE)))
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{one}")
        lines = await viewer.get(f"/exchange/{one}/lines")
    assert "<pre>one</pre>" in page
    assert "<pre>two</pre>" in page
    assert "2 lines" in text_of(page)
    assert [json.loads(line)["part"] for line in lines.content.splitlines()] == [0, 1]


def in_parts(exchange, last: End | None) -> list[Record]:
    stream = BodyStream()
    first = exchange(received=None, response_headers=[(b"Content-Type", b"text/event-stream")], end=None)
    first.response_body = Body([b"data: one\n\n"], stream=stream)
    second = Record(
        first.id, 1, first.at, first.client, first.upstream, timing=Timing(None, 900.0 if last else None, [(11, 700.0)]), end=last
    )
    second.response_body = Body([b"data: two\n\n"], offset=11, stream=stream, ended=last is not None)
    return [first, second]


async def test_a_crashed_exchange_says_so(tmp_path: Path, write, exchange, serve) -> None:
    ids = write(tmp_path, in_parts(exchange, last=None))  # and the writer closes: nobody will ever end it
    async with serve(tmp_path) as viewer:
        listed = text_of(await viewer.page("/"))
        seen = text_of(await viewer.page(f"/exchange/{ids[0]}"))
    assert "Crashed" in listed
    assert "Its parts stop without an end" in seen


async def test_an_upstream_that_was_not_reached_is_told_apart(tmp_path: Path, write, exchange, serve) -> None:
    record = exchange(status=502, end=End(EndReason.UPSTREAM_REFUSED, "connection refused"))
    record.response.origin = "gateway"
    (one,) = write(tmp_path, [record])
    async with serve(tmp_path) as viewer:
        seen = text_of(await viewer.page(f"/exchange/{one}"))
    assert "answered by the gateway" in seen
    assert "No answer came from the upstream. The gateway answered in its place. connection refused" in seen


async def test_the_exact_line_is_one_command_away(tmp_path: Path, write, exchange, serve) -> None:
    folder = tmp_path / "it's a folder; $(touch x)"
    ids = write(folder, [exchange(ago=9), exchange(sent='{"a":"\u2028\u202e\\ud800"}'.encode()), exchange()])
    async with serve(folder) as viewer:
        page = await viewer.page(f"/exchange/{ids[1]}")
        shown = await viewer.page(f"/exchange/{ids[1]}/line/0?line=raw")
        download = await viewer.get(f"/exchange/{ids[1]}/lines")
        by_script = await viewer.get(f"/api/exchanges/{ids[1]}/line?part=0")
        assert (await viewer.get(f"/exchange/{ids[1]}/line/1")).status_code == 404
    command = html.unescape(re.search(r'<code id="cut-0">(.*?)</code>', page)[1])
    cut = await asyncio.to_thread(subprocess.run, ["sh", "-c", command], capture_output=True, check=True, cwd=tmp_path)
    assert json.loads(cut.stdout)["id"] == ids[1]
    assert download.content == by_script.content == cut.stdout
    assert cut.stdout in gzip.decompress(b"".join(path.read_bytes() for path in folder.glob("*.gz")))
    assert ids[1] in shown
    assert "U+202E" in shown
    assert "\u202e" not in shown


async def test_a_download_is_never_opened_as_a_page(tmp_path: Path, write, exchange, serve) -> None:
    page = b"<!doctype html><script>alert(1)</script>"
    html_type = [(b"Content-Type", b"text/html"), (b"Content-Disposition", b"inline")]
    (one,) = write(tmp_path, [exchange(sent=page, received=page, request_headers=html_type, response_headers=html_type)])
    async with serve(tmp_path) as viewer:
        for side in ("request", "response"):
            answer = await viewer.get(f"/exchange/{one}/{side}")
            assert answer.content == page
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["content-disposition"] == f'attachment; filename="{one}-{side}.txt"'
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_large_body_is_cut_and_offered_as_a_download(tmp_path: Path, write, exchange, serve) -> None:
    large = b"word " * (1 << 20)
    (one,) = write(tmp_path, [exchange(received=large, response_headers=[(b"Content-Type", b"text/plain")])])
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{one}")
        whole = await viewer.get(f"/exchange/{one}/response")
        said = (await viewer.get(f"/api/exchanges/{one}")).json()["response"]["body"]
    assert len(page) < 3 << 20
    assert "The first 2.0 MiB of 5.0 MiB are shown; the download has all of it." in page
    assert whole.content == large
    assert said["cut"] is True
    assert len(said["text"]) == 2 << 20
    assert said["href"] == f"/exchange/{one}/response"


async def test_a_gap_and_damage_are_told_in_words(tmp_path: Path, write, exchange, serve) -> None:
    first, second, third = write(tmp_path, [exchange(ago=3), exchange(ago=2), exchange(ago=1)])
    async with serve(tmp_path) as viewer:
        place = (await viewer.get(f"/api/exchanges/{second}")).json()["places"][0]
        segment = tmp_path / place["segment"]
        with segment.open("r+b") as file:
            file.seek(place["offset"] + place["length"] // 2)
            file.write(b"\xff" * 8)
    async with serve(tmp_path) as viewer:
        seen = text_of(await viewer.page("/events"))
        listed = rows(await viewer.page("/"))
        broken = await viewer.get(f"/exchange/{second}")
    assert "A gateway began to write: version 0.0.test" in seen
    assert "It stopped cleanly after 3 records." in seen
    assert {first, third} <= set(listed)
    assert broken.status_code in (200, 404)
    assert "Traceback" not in broken.text


ODD = [
    b"/exchange/../../../../etc/passwd",
    b"/exchange/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"/exchange/..%2f..%2fetc%2fpasswd/response",
    b"/exchange/%00",
    b"/exchange/00000000%00/lines",
    b"/exchange/%2Fetc%2Fpasswd",
    b"/exchange/*",
    b"/exchange/[0-9a-f]+",
    b"/exchange/.*",
    b"/exchange/0",
    b"/exchange/zzzzzzzz-zzzz-7zzz-8zzz-zzzzzzzzzzzz",
    b"/exchange/2026-01-01T00.jsonl.gz",
    b"/exchange/2026-01-01T00.jsonl.gz%2f..%2fx",
    b"/exchange/%ff%fe",
    b"/exchange/" + b"0" * 5000,
    b"/exchange/00000000-0000-0000-0000-000000000000",
    b"/exchange/{id}/line/-1",
    b"/exchange/{id}/line/99999999999999999999",
    b"/exchange/{id}/message/0",
    b"/exchange/{id}/..%2f..%2fetc",
    b"/exchange/{id}/messages",
    b"/api/exchanges/..%2f..%2fetc%2fpasswd",
    b"/api/exchanges/{id}/line?part=-1",
    b"/api/exchanges/{id}/line?part=%00",
    b"/static/..%2fapp.py",
    b"/static/../app.py",
    b"/static/%2e%2e/app.py",
    b"/static/viewer.css%00",
    b"/static//etc/passwd",
    b"//etc/passwd",
    b"/etc/passwd",
]


@pytest.mark.parametrize("target", ODD, ids=lambda target: repr(target[:40]))
async def test_odd_names_lead_nowhere(target: bytes, viewer, known_id: str) -> None:
    status, body = await viewer.raw(target.replace(b"{id}", known_id.encode()))
    assert status == 404
    assert b"root:" not in body
    assert b"Traceback" not in body


async def test_a_symbolic_link_is_not_followed(tmp_path: Path, write, exchange, serve) -> None:
    (hidden,) = write(tmp_path / "elsewhere", [exchange()])
    folder = tmp_path / "archive"
    (known,) = write(folder, [exchange()])
    (segment,) = (tmp_path / "elsewhere").glob("*.gz")
    (folder / "2026-01-01T00.jsonl.gz").symlink_to(segment)
    async with serve(folder) as viewer:
        assert rows(await viewer.page("/")) == [known]
        assert (await viewer.get(f"/exchange/{hidden}")).status_code == 404


def crossed(*differences: str) -> Transparency:
    return Transparency(Crossed(("a", "a"), (), (5, 5), True, []), Crossed(("b", "b"), (), (7, 7), True, [*differences]))


async def test_an_exchange_s_page_says_that_it_was_forwarded_unchanged(tmp_path: Path, write, exchange, serve) -> None:
    told, silent = write(tmp_path, [exchange(transparency=crossed()), exchange(ago=9)])
    async with serve(tmp_path) as viewer:
        assert "Forwarded unchanged, both ways" in text_of(await viewer.page(f"/exchange/{told}"))
        assert "orwarded unchanged" not in text_of(await viewer.page(f"/exchange/{silent}"))


async def test_an_exchange_s_page_says_what_was_not_forwarded_unchanged(tmp_path: Path, write, exchange, serve) -> None:
    (spoilt,) = write(tmp_path, [exchange(transparency=crossed("response headers: header <b> was added"))])
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{spoilt}")
    assert "Not forwarded unchanged" in text_of(page)
    assert "<li>response headers: header &lt;b&gt; was added</li>" in page
