"""The viewer in a real Chromium: hostile text stays text, news appear by themselves, the keyboard suffices, narrow screens hold it all.

The proof that nothing ran is only as good as its detector, so the detector is shown to catch the same payloads on a page that is
not ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

from archive.record import Body, BodyStream, End, EndReason, Message, Record, Timing
from archive.writer import Writer


class Beacon:
    """A server on another origin. Whoever comes was led there by recorded text."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self.port = 0
        self.page = b""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readline()).decode("latin-1")
        while (await reader.readline()).strip():
            pass
        if not line.startswith("GET /bare"):
            self.visits.append(line.split(" ")[1] if " " in line else line)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(self.page))
        writer.write(self.page)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def beacon() -> AsyncIterator[Beacon]:
    beacon = Beacon()
    server = await asyncio.start_server(beacon.answer, "127.0.0.1", 0)
    beacon.port = server.sockets[0].getsockname()[1]
    async with server:
        yield beacon


def payloads(port: int) -> list[str]:
    """Text that acts where it is taken for markup; each tries to call on `port` and to leave a mark in the page."""
    there = f"http://127.0.0.1:{port}"
    return [
        f"<script>window.pwned=1;fetch('{there}/script')</script>",
        f"<script src={there}/src></script>",
        f'"><img src={there}/img onerror="window.pwned=1;alert(1)">',
        f'\'><svg onload="window.pwned=1"><image href={there}/svg /></svg>',
        f"</script><script>window.pwned=1;fetch('{there}/closed')</script>",
        f"</pre></textarea></title></style><iframe src={there}/frame></iframe>",
        f"<style>@import url({there}/css);body{{background:url({there}/bg)}}</style>",
        f'<link rel=stylesheet href={there}/link><meta http-equiv=refresh content="0;url={there}/refresh">',
        f"<object data={there}/object></object><video src={there}/video autoplay></video>",
        f'<base href={there}/><form action={there}/form><button autofocus onfocus="window.pwned=1">x</button></form>',
        '<a href="javascript:window.pwned=1" id=trap>a link</a> [a link](javascript:window.pwned=1) ![i](' + there + "/md)",
        "{{7*7}}{% print 7*7 %}${7*7}<details open ontoggle=window.pwned=1><div style=position:fixed;inset:0>over all</div>",
        "\u202egnp.txt\u202c \u2066isolate\u2069 zero\u200bwidth \u0000 \x1b[31m \ufeff",
    ]


DETECTOR = """({
  pwned: window.pwned ?? null,
  foreign: document.querySelectorAll("img, iframe, object, video, embed, base, form[action^=http], image, main script, main style").length,
  links: [...document.links].filter((a) => a.origin !== location.origin).map((a) => a.href),
  handlers: [...document.querySelectorAll("*")].flatMap((e) => [...e.attributes]).filter((a) => /^on|^style$/.test(a.name)).length,
})"""


async def test_the_detector_catches_what_runs(browser) -> None:
    """On a page that shows the same texts as markup everything goes off."""
    async with beacon() as other:
        other.page = ("<!doctype html><body>" + "\n".join(payloads(other.port)[:5])).encode()
        tab = await browser.tab()
        await tab.ask("Page.navigate", url=f"http://127.0.0.1:{other.port}/bare")
        await tab.until("window.pwned === 1 && document.readyState === 'complete'")
        found = await tab.run(DETECTOR)
        assert found["foreign"] > 0
        assert found["handlers"] > 0
        assert any("/script" in visit for visit in other.visits)
        assert any("/src" in url for url in tab.requests)


async def test_hostile_text_stays_text_in_a_real_browser(tmp_path: Path, browser, write, exchange, serve) -> None:
    async with beacon() as other:
        hostile = payloads(other.port)
        ids = write(tmp_path / "archive", [record for text in hostile for record in hostile_exchanges(text, exchange)])
        async with serve(tmp_path / "archive") as viewer:
            tab = await browser.tab()
            await tab.go(viewer.way_in)
            paths = [
                "/",
                "/?limit=500",
                "/events",
                f"/?text={quote(hostile[0])}&route={quote(hostile[2])}",
                f"/{quote(hostile[2], safe='')}",
            ]
            paths += [f"/?status={quote(hostile[2])}"]
            for one in ids:
                paths.append(f"/exchange/{one}")
            for one in ids[:6]:
                paths += [f"/exchange/{one}?request=raw&response=raw", f"/exchange/{one}/line/0", f"/exchange/{one}/line/0?line=raw"]
            for path in paths:
                await tab.go(viewer.origin + path)
                found = await tab.run(DETECTOR)
                assert found == {"pwned": None, "foreign": 0, "links": [], "handlers": 0}, path
                await tab.run("for (const it of document.querySelectorAll('summary')) it.click()")
            await tab.go(f"{viewer.origin}/exchange/{ids[0]}?response=raw")
            assert hostile[0] in await tab.run("document.querySelector('#response pre').textContent")
            assert tab.dialogs == []
            assert [said for said in tab.violations if "Content Security Policy" in said or "contentSecurityPolicy" in said] == []
            assert [url for url in tab.requests if not url.startswith(viewer.origin + "/")] == []
            assert await browser.targets() == [
                target for target in await browser.targets() if target == "about:blank" or viewer.origin in target
            ]
        assert other.visits == []


def hostile_exchanges(text: str, exchange) -> list[Record]:
    """`text` wherever a stranger can put it: model text, tool arguments, headers, path, model name, error, stream, messages, end."""
    raw = text.encode()
    header = raw.replace(b"\x00", b"").replace(b"\n", b" ")
    plain = [(b"Content-Type", b"text/html"), (b"X-Text", header), (header.replace(b" ", b"-"), b"a name")]
    body = json.dumps({"model": text, text: 1, "messages": [{"role": "user", "content": text}], "arguments": json.dumps({"a": text})})
    spelt = body.replace("<", "\\u003c").replace("\u202e", "\\u202e")
    sse = "".join(f"event: {text}\nid: {text}\ndata: {line}\n\n: {text}\n\n" for line in (body, text)).encode()
    messages = [
        Message("client", 1.0, "text", body.encode()),
        Message("upstream", 2.0, "text", raw),
        Message("upstream", 3.0, "close", raw, 4000),
    ]
    return [
        exchange(
            target=b"/openai/v1/" + header.replace(b" ", b"%20"),
            sent=body.encode(),
            received=raw,
            request_headers=plain,
            response_headers=plain,
        ),
        exchange(
            sent=spelt.encode(), received=sse, response_headers=[(b"Content-Type", b"text/event-stream")], method=header.split(b" ")[0]
        ),
        exchange(status=101, sent=None, received=None, messages=messages, end=End(EndReason.CLIENT_CLOSED, text), route=text),
        exchange(status=400, sent=raw, received=json.dumps({"error": {"message": text}}).encode(), encoding=text[:20]),
    ]


async def test_a_new_exchange_appears_without_a_reload(tmp_path: Path, browser, write, exchange, serve) -> None:
    folder = tmp_path / "archive"
    async with serve(folder) as viewer:
        tab = await browser.tab()
        await tab.go(viewer.way_in)
        await tab.run("window.sameDocument = true")
        assert "No exchange yet" in await tab.run("document.body.textContent")
        (first,) = await asyncio.to_thread(write, folder, [exchange(ago=60)])
        await tab.until(f"document.querySelector('tr[data-key=\"{first}\"]')")
        await tab.run(
            f"document.querySelector('tr[data-key=\"{first}\"] a').focus(); document.querySelector('tr[data-key=\"{first}\"]').kept = true"
        )
        (second,) = await asyncio.to_thread(write, folder, [exchange()])
        await tab.until(f"document.querySelector('tr.row').dataset.key === '{second}'")
        assert await tab.run("window.sameDocument")
        assert await tab.run(f"document.activeElement.getAttribute('href') === '/exchange/{first}'")
        assert await tab.run(f"document.querySelector('tr[data-key=\"{first}\"]').kept")
        assert await tab.run("document.querySelectorAll('tr.row').length") == 2
        assert tab.console == []


async def test_a_running_exchange_follows(tmp_path: Path, browser, exchange, serve) -> None:
    folder = tmp_path / "archive"
    writer = Writer(folder, version="0.0.test", min_free=0)
    await asyncio.to_thread(writer.start)
    try:
        stream = BodyStream()
        first = exchange(received=None, response_headers=[(b"Content-Type", b"text/event-stream")], end=None)
        first.response_body = Body([b"data: one\n\n"], stream=stream)
        assert writer.put(first)
        async with serve(folder) as viewer:
            tab = await browser.tab()
            await tab.go(viewer.way_in)
            await tab.until("document.body.textContent.includes('Running')")
            await tab.run("document.querySelector('tr.row a').click()")
            await tab.until("document.querySelectorAll('#response .stream li').length === 1")
            await tab.run("window.sameDocument = true")
            await tab.run("document.querySelector('#response-headers').open = true")
            last = Record(
                first.id, 1, first.at, first.client, first.upstream, timing=Timing(None, 900.0, [(11, 700.0)]), end=End(EndReason.COMPLETE)
            )
            last.response_body = Body([b"data: two\n\n"], offset=11, stream=stream, ended=True)
            assert writer.put(last)
            await tab.until("document.querySelectorAll('#response .stream li').length === 2")
            assert await tab.run("window.sameDocument && document.querySelector('#response-headers').open")
            await tab.until("document.body.textContent.includes('Complete')")
            await tab.until("document.querySelector('[data-pulse]').hidden")
            assert tab.console == []
    finally:
        assert await asyncio.to_thread(writer.close, 10)


async def test_another_view_takes_the_place_of_the_first(tmp_path: Path, browser, write, exchange, serve) -> None:
    folder = tmp_path / "archive"
    (one,) = await asyncio.to_thread(write, folder, [exchange()])
    async with serve(folder) as viewer:
        tab = await browser.tab()
        await tab.go(viewer.way_in)
        await tab.go(f"{viewer.origin}/exchange/{one}")
        await tab.run("window.sameDocument = true")
        await tab.run("[...document.querySelectorAll('#request .tabs a')].find((a) => a.textContent === 'Raw').click()")
        await tab.until("document.querySelector('#request pre.raw')")
        await tab.run("[...document.querySelectorAll('#response .tabs a')].find((a) => a.textContent === 'Hex').click()")
        await tab.until("document.querySelector('#response pre.hex')")
        assert await tab.run("window.sameDocument")
        assert await tab.run("document.querySelector('#request pre').textContent") == '{"model":"gpt-5.2","messages":[]}'
        await tab.until("location.search.includes('request=raw') && location.search.includes('response=hex')")
        await tab.ask("Page.reload")
        await tab.until("!window.sameDocument && document.querySelector('#request pre.raw') && document.querySelector('#response pre.hex')")


async def test_the_exact_bytes_can_be_copied(tmp_path: Path, browser, write, exchange, serve) -> None:
    folder = tmp_path / "archive"
    sent = '{"a":"\u200b \u202e é"}'
    (one,) = await asyncio.to_thread(write, folder, [exchange(sent=sent.encode())])
    async with serve(folder) as viewer:
        tab = await browser.tab()
        await tab.go(viewer.way_in)
        await tab.go(f"{viewer.origin}/exchange/{one}")
        await tab.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        await tab.run("document.querySelector('#request [data-copy-from]').click()")
        await tab.until("window.copied !== undefined")
        assert await tab.run("window.copied") == sent
        await tab.run("document.querySelector('#archive [data-copy]').click()")
        await tab.until("window.copied.startsWith('tail -c +')")
        assert (await tab.run("window.copied")).endswith("| zcat")


async def test_every_page_fits_a_narrow_screen(tmp_path: Path, browser, write, exchange, serve) -> None:
    folder = tmp_path / ("archive" * 20)  # nothing in it to break a line at
    empty_folder = tmp_path / ("empty" * 30)
    long = b"/openai/v1/" + b"x" * 600
    ids = await asyncio.to_thread(
        write,
        folder,
        [exchange(target=long, received=bytes(64)), exchange(status=101, messages=[Message("client", 1.0, "binary", bytes(64))])],
    )
    async with serve(folder) as viewer, serve(empty_folder) as empty:
        tab = await browser.tab()
        await tab.look(390, 844, mobile=True)
        await tab.go(empty.way_in)
        for path in ("/", "/events"):
            await tab.go(empty.origin + path)
            assert await tab.run("document.documentElement.scrollWidth") == 390, path
        await tab.go(viewer.way_in)
        for path in ("/", "/events", "/nowhere", "/?text=nothing", *(f"/exchange/{one}" for one in ids), f"/exchange/{ids[0]}/line/0"):
            await tab.go(viewer.origin + path)
            assert await tab.run("document.documentElement.scrollWidth") == 390, path


async def test_text_can_be_read_in_both_schemes(tmp_path: Path, browser, write, exchange, serve) -> None:
    """WCAG 2.2 success criterion 1.4.3: a contrast of 4.5 to 1 for text, measured on what the browser computed."""
    folder = tmp_path / "archive"
    records = [exchange(status=status) for status in (200, 304, 429, 502)]
    records += [exchange(status=None, received=None, end=End(reason)) for reason in (EndReason.CLIENT_CLOSED, EndReason.TIMEOUT)]
    ids = await asyncio.to_thread(write, folder, [*records, exchange(sent=b'{"a":[1,true,"x\\n"]}', received=b"a\xe2\x80\x8bb")])
    async with serve(folder) as viewer:
        tab = await browser.tab()
        for dark in (False, True):
            await tab.look(1280, 900, dark=dark)
            await tab.go(viewer.way_in)
            assert await tab.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            for path in ("/", "/events", "/nowhere", f"/exchange/{ids[-1]}", f"/exchange/{ids[3]}", f"/exchange/{ids[4]}"):
                await tab.go(viewer.origin + path)
                assert await tab.run(CONTRAST) == [], f"{path} {dark}"


CONTRAST = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest(".unseen, .skip, .esc, option, noscript, script")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${e.className || e.tagName}: ${walk.currentNode.data.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
})()"""
