"""Sessions and users in request bodies: the documented places, in their order among themselves and with those of headers."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from samples import HOUR, Shelf, in_parts, whole

from archive.catalog.follow import Follower
from archive.exchange import Summary
from archive.keeping.choice import choose
from archive.naming import Named, in_body
from archive.reader import Reader
from archive.record import Body, BodyStream, Client, Record, id_text

HASH = "ab" * 32
ACCOUNT = "0f6e2a5c-7f7a-4a55-9d0c-2f4a3c6c1b11"
SESSION = "5abab862-9400-454f-9a08-7c57a8c23096"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def follow(shelf: Shelf) -> None:
    """Have the catalog and the words know all of it."""
    with closing(Follower(shelf.folder, spare=0)) as follower:
        while follower.step():
            pass


def found(body: object, session: str | None = None, user: str | None = None) -> Named:
    return in_body(body if isinstance(body, str) else json.dumps(body), session, user)


def of_claude(user_id: object) -> dict[str, object]:
    return {"model": "m", "messages": [], "metadata": {"user_id": user_id}}


def test_claude_code_s_user_id_holds_session_and_user() -> None:
    older = f"user_{HASH}_account_{ACCOUNT}_session_{SESSION}"
    newer = json.dumps({"device_id": HASH, "account_uuid": ACCOUNT, "session_id": SESSION})
    place = "body.metadata.user_id"
    for user_id in (older, newer):
        assert found(of_claude(user_id)) == Named(SESSION, place, ACCOUNT, place)
        assert found(of_claude(user_id).copy() | {"prompt_cache_key": "k"}).session == SESSION
    for user_id in (older.replace(ACCOUNT, ""), newer.replace(ACCOUNT, "")):
        assert found(of_claude(user_id)) == Named(SESSION, place, HASH, place)


def test_an_anthropic_user_id_of_one_s_own_is_a_user() -> None:
    assert found(of_claude("u-17")) == Named(None, None, "u-17", "body.metadata.user_id")


LADDER = [
    ({"conversation": "c1"}, "c1", "body.conversation"),
    ({"conversation": {"id": "c2"}}, "c2", "body.conversation"),
    ({"previous_response_id": "resp_1"}, "resp_1", "body.previous_response_id"),
    ({"prompt_cache_key": "k"}, "k", "body.prompt_cache_key"),
]


@pytest.mark.parametrize(("body", "session", "source"), LADDER)
def test_bodies_name_sessions_in_the_documented_places(body: dict[str, object], session: str, source: str) -> None:
    later = {"prompt_cache_key": "z"} | body
    assert found(later)[:2] == (session, source)


@pytest.mark.parametrize(
    ("source", "claude", "other"),
    [
        ("x-verbatim-session", False, False),
        ("path", False, False),
        ("x-claude-code-session-id", False, False),
        ("thread-id", True, False),
        ("x-acme-session-id", True, False),
        ("traceparent", True, True),
        ("inferred", True, True),
        (None, True, True),
    ],
)
def test_names_in_bodies_take_their_documented_place_among_headers(source: str | None, claude: bool, other: bool) -> None:
    packed = f"user_{HASH}_account__session_{SESSION}"
    assert (found(of_claude(packed), source).session is not None) == claude
    assert (found({"conversation": "c"}, source).session is not None) == other


def test_a_user_in_a_header_goes_before_those_in_bodies() -> None:
    assert found({"user": "u", "safety_identifier": "s"}) == Named(None, None, "s", "body.safety_identifier")
    assert found({"user": "u"}) == Named(None, None, "u", "body.user")
    assert found({"user": "u"}, None, "x-verbatim-user") == Named()


NOTHING = [
    "", "[]", "null", "{", '{"conversation":', '{"conversation": null}', '{"conversation": {"id": 7}}', '{"conversation": ["c"]}',
    '{"prompt_cache_key": ""}', '{"prompt_cache_key": " x"}', '{"prompt_cache_key": "a\\nb"}', '{"prompt_cache_key": "\\ud800"}',
    json.dumps({"prompt_cache_key": "x" * 257}), '{"metadata": "user_id"}', '{"metadata": {"user_id": {"a": 1}}}',
    json.dumps({"messages": [{"role": "user", "content": '{"prompt_cache_key": "k", "user": "x"}'}]}),
    json.dumps({"tools": [{"properties": {"conversation": "c", "metadata": {"user_id": "x"}, "user": "y"}}]}),
    '{"prompt_cache_key":' + "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("body", NOTHING, ids=lambda body: body[:24])
def test_what_is_no_name_at_its_place_names_nothing(body: str) -> None:
    assert found(body) == Named()


def called(at: float, body: object, client: Client) -> Record:
    record = whole(at, body=json.dumps(body).encode())
    record.client = client
    return record


@pytest.mark.parametrize("followed", [False, True], ids=["without a catalog", "with one"])
def test_a_session_in_a_body_is_listed_found_and_forgotten(shelf: Shelf, followed: bool) -> None:
    weak = Client("a:1", "0123456789abcdef", "inferred")
    records = [
        called(HOUR + 1, {"conversation": "conv-1"}, weak),
        called(HOUR + 2, of_claude(f"user_{HASH}_account_{ACCOUNT}_session_{SESSION}"), weak),
        called(
            HOUR + 3, {"conversation": "conv-1"}, Client("a:1", "mine", "x-verbatim-session", None, "me", "x-verbatim-user", ("a", "b"))
        ),
        called(HOUR + 4, {}, Client("a:1", "conv-1", "x-session-id", "sub", tags=("b",))),
        called(HOUR + 5, {"model": "m"}, weak),
    ]
    shelf.open()
    shelf.put(records)
    shelf.close()
    if followed:
        follow(shelf)
    reader = Reader(shelf.folder)
    listed = {it.id: it for it in reader.page().entries}
    names = [id_text(it.id) for it in records]
    told = [(listed[name].session, listed[name].session_source, listed[name].user) for name in names]
    assert told == [
        ("conv-1", "body.conversation", None),
        (SESSION, "body.metadata.user_id", ACCOUNT),
        ("mine", "x-verbatim-session", "me"),
        ("conv-1", "x-session-id", None),
        ("0123456789abcdef", "inferred", None),
    ]
    assert (listed[names[2]].tags, listed[names[3]].agent) == (("a", "b"), "sub")

    def which(**filters: str) -> list[int]:
        return sorted(names.index(it.id) for it in reader.page(**filters).entries)

    assert which(session="conv-1") == [0, 3]
    assert which(session=SESSION) == [1]
    assert which(session="CONV-1") == which(session="conv") == []
    assert which(user="me") == [2]
    assert (which(tag="b"), which(tag="a"), which(tag="a\nb"), which(tag="c")) == ([2, 3], [2], [], [])
    assert which(session="conv-1", route="openai", status="200") == [0, 3]
    assert which(session="conv-1", route="gemini") == which(session="conv-1", user="me") == []
    assert which(session="conv-1", tag="b") == [3]
    assert which(session="mine", text='"conv-1"') == which(session="mine", user="me", tag="a", status="2xx") == [2]
    assert reader.get(names[0]).entry.session == "conv-1"
    meant = [id_text(each.id) for each in choose(shelf.folder, session="conv-1").chosen]
    assert meant == [names[0], names[3]]
    assert [id_text(each.id) for each in choose(shelf.folder, session=SESSION).chosen] == [names[1]]


def test_a_body_of_several_parts_names_its_session_where_it_is_opened(shelf: Shelf) -> None:
    text = json.dumps({"prompt_cache_key": "k", "input": "x" * 100}).encode()
    first, second = in_parts([b"a", b"b"], at=HOUR + 1)
    stream = BodyStream()
    first.client = second.client = Client("a:1", None, None)
    first.request_body = Body([text[:40]], stream=stream)
    second.request_body = Body([text[40:]], offset=40, ended=True, stream=stream)
    shelf.open()
    shelf.put([first, second])
    shelf.close()
    reader = Reader(shelf.folder)
    assert reader.page().entries[0].session is None
    entry = reader.get(id_text(first.id)).entry
    assert (entry.session, entry.session_source) == ("k", "body.prompt_cache_key")


def test_lines_of_early_builds_have_no_names_but_the_session_s(shelf: Shelf) -> None:
    shelf.open()
    shelf.put(whole())
    (lines,) = shelf.lines.values()
    line = json.loads(lines[0])
    for name in ("agent", "user", "user_source", "tags", "metadata"):
        del line["client"][name]
    del line["kept"]
    summary = Summary()
    summary.fold(line)
    entry = summary.entry("x", gone=False)
    assert (entry.session, entry.user, entry.tags, entry.kept) == ("run-1", None, (), "full")
