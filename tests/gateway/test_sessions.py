"""Session, agent and user in request heads: the documented places in the documented order, each told with where it was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archive.record import Client, Redaction
from gateway.redaction import redact_headers
from gateway.sessions import INFERRED, known, without

CLI = Path(__file__).resolve().parents[1] / "fixtures" / "cli"
KEY = "sk-canary-7f3a9c51e2d84b60"


def told(headers: list[tuple[str, str]], *, path: str | None = None, address: str = "10.0.0.7:50000", route: str = "up") -> Client:
    return both(headers, path=path, address=address, route=route)[0]


def both(
    headers: list[tuple[str, str]], *, path: str | None = None, address: str = "10.0.0.7:50000", route: str = "up"
) -> tuple[Client, list[Redaction]]:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    fields, _ = redact_headers(raw, "request.headers")
    client = Client(address, path, "path" if path else None)
    return known(client, [name.lower() for name, _ in raw], fields, route)


def cli(name: str) -> list[tuple[str, str]]:
    """The head of a real coding agent's request."""
    request = json.loads((CLI / f"{name}.request.json").read_text(encoding="utf-8"))
    return [(name, value) for name, value in request["headers"]]


TRACE = "0af7651916cd43dd8448eb211c80319c"
LADDER = [
    ("x-verbatim-session", "ours"),
    ("path", "way"),
    ("x-claude-code-session-id", "claude"),
    ("thread-id", "thread"),
    ("session-id", "codex"),
    ("session_id", "older-codex"),
    ("conversation_id", "oldest-codex"),
    ("x-opencode-session", "opencode"),
    ("x-session-affinity", "opencode-elsewhere"),
    ("x-acme-session-id", "any"),
    ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
]


def test_sessions_are_looked_for_in_the_documented_order() -> None:
    for number, (source, value) in enumerate(LADDER):
        there = LADDER[number:]
        path = next((value for name, value in there if name == "path"), None)
        client = told([(name, value) for name, value in reversed(there) if name != "path"], path=path)
        assert (client.session, client.session_source) == (TRACE if source == "traceparent" else value, source)


@pytest.mark.parametrize(
    "name", ["x-session-id", "X-My-App-Session-Id", "helicone-session-id", "Langfuse-Session-Id", "x-amzn-bedrock-session-id"]
)
def test_any_session_id_header_names_a_session(name: str) -> None:
    client = told([("host", "x"), (name, "abc")])
    assert (client.session, client.session_source) == ("abc", name.lower())


def test_a_parent_s_session_is_not_one_s_own() -> None:
    assert told([("x-parent-session-id", "p")]).session_source == INFERRED
    assert told([("x-parent-session-id", "p"), ("x-session-id", "s")]).session == "s"


def test_claude_code_s_own_requests_name_their_session() -> None:
    client = told(cli("claude_messages"))
    assert (client.session, client.session_source) == ("3f229ff0-dd0b-40e4-bb39-ea3ce6ceab63", "x-claude-code-session-id")
    assert (client.agent, client.user) == (None, None)
    assert told([*cli("claude_messages"), ("X-Claude-Code-Agent-Id", "a3f")]).agent == "a3f"


def test_codex_s_own_requests_name_their_session() -> None:
    client = told(cli("codex_responses"))
    assert (client.session, client.session_source) == ("01a1fb69-9f11-7133-90c6-eebd1af1f06d", "thread-id")
    assert told([*cli("codex_responses"), ("x-openai-subagent", "review")]).agent == "review"


@pytest.mark.parametrize("name", ["aider_chat", "gemini_stream"])
def test_a_program_that_names_no_session_gets_an_inferred_one(name: str) -> None:
    client = told(cli(name))
    assert client.session_source == INFERRED
    assert client.session is not None
    assert len(client.session) == 16
    other_port = told(cli(name), address="10.0.0.7:50001")
    other_key = told([(name, "other" if name.lower() in ("authorization", "x-goog-api-key") else value) for name, value in cli(name)])
    assert client.session == other_port.session == other_key.session
    others = [told(cli(name), address="10.0.0.8:50000"), told(cli(name), route="other"), told([("user-agent", "other/1")])]
    assert len({client.session, *(other.session for other in others)}) == 4


@pytest.mark.parametrize("value", ["", " ", "x" * 257, "a\x01b", KEY, "a\u2028b"])
def test_a_value_that_is_no_name_leaves_the_place_to_the_next(value: str) -> None:
    client = told([("x-claude-code-session-id", value), ("x-session-id", "next")])
    assert (client.session, client.session_source) == ("next", "x-session-id")


@pytest.mark.parametrize("value", [f"00-{TRACE}-b7ad6b7169203331", f"00-{'0' * 32}-b7ad6b7169203331-01", f"0-{TRACE}", TRACE, "00-é-1-1"])
def test_a_broken_trace_names_nothing(value: str) -> None:
    assert told([("traceparent", value)]).session_source == INFERRED


def test_a_value_that_is_no_text_names_nothing() -> None:
    client, _ = known(Client("a:1"), [b"x-session-id"], [(b"x-session-id", b"\xff")], "up")
    assert client.session_source == INFERRED


def test_users_are_found_with_where_they_were() -> None:
    assert told([("helicone-user-id", "h")]).user_source == "helicone-user-id"
    client = told([("helicone-user-id", "h"), ("x-verbatim-user", "J%C3%BCrgen")])
    assert (client.user, client.user_source) == ("Jürgen", "x-verbatim-user")


def test_tags_and_metadata_are_read() -> None:
    client = told([("x-verbatim-tags", "a,b"), ("x-verbatim-metadata", '{"n": 1, "f": 2.5, "s": "x", "b": true, "z": null}')])
    assert (client.tags, client.metadata) == (("a", "b"), {"n": 1, "f": 2.5, "s": "x", "b": True, "z": None})


HIDING = [
    ("x-verbatim-session", KEY),
    ("x-verbatim-user", KEY),
    ("x-verbatim-user", KEY.replace("-", "%2D")),
    ("x-verbatim-user", "%73" + KEY[1:]),
    ("x-verbatim-tags", f"a,{KEY},b"),
    ("x-verbatim-tags", f"a,{KEY.replace('-', '%2d')}"),
    ("x-verbatim-metadata", json.dumps({"note": KEY})),
    ("x-verbatim-metadata", json.dumps({KEY: 1})),
    ("x-verbatim-metadata", json.dumps({"note": "x " + KEY}).replace("sk-", "\\u0073k\\u002d")),
    ("x-verbatim-metadata", json.dumps({"api_key": KEY[10:]})),
    ("x-verbatim-metadata", json.dumps({"api_key": KEY[10:]}).replace("api", "\\u0061pi")),
    ("x-verbatim-metadata", json.dumps({"header": f"Bearer {KEY[10:]}"}).replace("Bearer", "\\u0042earer")),
]


@pytest.mark.parametrize(("name", "value"), HIDING, ids=lambda value: value[:30])
def test_a_credential_in_our_headers_is_removed(name: str, value: str) -> None:
    client, removed = both([(name, value)])
    said = json.dumps([client.session, client.user, client.tags, client.metadata], ensure_ascii=False)
    assert KEY not in said
    assert KEY[10:] not in said
    plain, _ = redact_headers([(name.encode(), value.encode())], "request.headers")
    assert (b"[redacted]" in plain[0][1]) != bool(removed) or "[redacted]" in said
    assert all(each.where.startswith("client.") for each in removed)
    ((_, kept),) = without(plain, removed)
    assert (kept == b"[redacted]") if removed else kept == plain[0][1]


def test_a_credential_in_the_path_s_session_is_removed() -> None:
    client, removed = both([], path=KEY)
    assert (client.session, removed) == ("[redacted]", [Redaction("client.session", "value")])
