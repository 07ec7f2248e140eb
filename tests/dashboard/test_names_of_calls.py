"""Names of calls in the viewer: shown with where they were found, a way to all calls of the same name, escaped whatever they hold."""

from __future__ import annotations

import re
from pathlib import Path

from archive.record import Body, Client, Record


def named(exchange, client: Client, **others) -> Record:
    record: Record = exchange(**others)
    record.client = client
    return record


OURS = Client(
    "127.0.0.1:5", "run <7>", "x-verbatim-session", "sub", "me&co", "x-verbatim-user", ("a/b", "c"), {"try": 2, "<b>": "x", "no": None}
)


def rows(page: str) -> int:
    return len(re.findall(r'<tr class="row"', page))


async def test_names_lead_to_all_calls_of_the_same_name(tmp_path: Path, write, exchange, serve) -> None:
    plain = named(exchange, Client("a:1", "0123456789abcdef", "inferred"), ago=3)
    coded = named(exchange, Client("a:1", "0123456789abcdef", "inferred"), ago=2, sent=b'{"prompt_cache_key": "thread-9"}')
    write(tmp_path, [plain, coded, named(exchange, OURS, ago=1), named(exchange, OURS)])
    async with serve(tmp_path) as viewer:
        page = await viewer.page("/")
        assert rows(page) == 4
        assert "0123456789abcdef" not in page, "an inferred name says nothing in a list"
        assert page.count('href="/?session=thread-9"') == 1
        assert page.count('href="/?session=run+%3C7%3E"') == page.count('href="/?user=me%26co"') == 2
        assert "run <7>" not in page
        for query, count in (("session=run+%3C7%3E", 2), ("user=me%26co", 2), ("tag=a/b", 2), ("session=thread-9", 1), ("tag=a", 0)):
            narrowed = await viewer.page(f"/?{query}")
            assert rows(narrowed) == count
            assert '<p class="called">Only ' in narrowed
            answer = (await viewer.get(f"/api/exchanges?{query}")).json()
            assert len(answer["exchanges"]) == count
        assert 'name="user" value="me&amp;co"' in await viewer.page("/?user=me%26co"), "the form keeps what it cannot show"
        entry = (await viewer.get("/api/exchanges?session=thread-9")).json()["exchanges"][0]
        assert (entry["session_source"], entry["user"], entry["tags"], entry["kept"]) == ("body.prompt_cache_key", None, [], "full")


async def test_a_page_shows_what_both_sides_call_the_exchange(tmp_path: Path, write, exchange, serve) -> None:
    ids = ((b"X-Request-Id", b"req_<abc>"), (b"CF-Ray", b"8f3a-FRA"), (b"Server", b"x"))
    (name, other) = write(tmp_path, [named(exchange, OURS, response_headers=ids), named(exchange, Client("a:1", "0123", "inferred"))])
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{name}")
        inferred = await viewer.page(f"/exchange/{other}")
        told = (await viewer.get(f"/api/exchanges/{name}")).json()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for said in (
        "run &lt;7&gt; from x-verbatim-session, agent sub",
        "me&amp;co from x-verbatim-user",
        "Tags a/b c",
        "try 2",
        "no null",
        "x-request-id req_&lt;abc&gt; Copy",
        "cf-ray 8f3a-FRA",
    ):
        assert said in text
    assert "<b>" not in page.replace("<b>client", "")
    assert 'data-copy="upstream-id-1"' in page
    assert "inferred: what this program on this machine asks of this route" in inferred
    assert told["client"]["metadata"] == {"try": 2, "<b>": "x", "no": None}


async def test_content_that_was_not_kept_is_said_so(tmp_path: Path, write, exchange, serve) -> None:
    record = named(exchange, OURS, received=None)
    record.kept = "metadata"
    record.request_body = Body([], [b"secret"], ended=True)
    (name,) = write(tmp_path, [record])
    async with serve(tmp_path) as viewer:
        page = await viewer.page(f"/exchange/{name}")
        listed = await viewer.page("/")
    assert "The client asked that its content not be kept" in page
    assert "Not kept." in page
    assert "Cut at the recording limit" not in page
    assert ">no content</span>" in listed
