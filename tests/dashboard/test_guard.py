"""The viewer's door: token, cookie, Host, and what every answer forbids the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from dashboard.app import create_app
from dashboard.guard import CONTENT_SECURITY_POLICY, Guard, local_hosts, same_origin

PATHS = [
    "/",
    "/events",
    "/exchange/{id}",
    "/exchange/{id}/lines",
    "/exchange/{id}/line/0",
    "/exchange/{id}/response",
    "/exchange/{id}/message/0",
]
PATHS += [
    "/api/exchanges",
    "/api/exchanges/{id}",
    "/api/exchanges/{id}/line",
    "/api/events",
    "/api/stats",
    "/nowhere",
    "/exchange/00000000",
]


@pytest.mark.parametrize("path", PATHS)
async def test_the_viewer_shows_nothing_without_its_token(path: str, viewer, known_id: str) -> None:
    """Acceptance H102."""
    path = path.replace("{id}", known_id)
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {viewer.token}"},
        {"Cookie": f"verbatim_viewer_{viewer.port}=wrong"},
    ]
    for headers in (*wrong, {"Cookie": f"verbatim_viewer_{viewer.port}={viewer.token}"}, {"Cookie": "\u00e9=\u00e9"}):
        answer = await viewer.client.get(path, headers={name: value.encode() for name, value in headers.items()})
        assert answer.status_code == 401
        assert known_id not in answer.text.replace(path, "what was asked")
        assert str(viewer.folder) not in answer.text
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if not path.startswith("/api/"):
        assert "printed when the viewer started" in answer.text


async def test_the_printed_address_becomes_a_cookie(viewer) -> None:
    """Acceptance H102, H104: no token in a page, a Referer or a script's reach."""
    answer = await viewer.client.get(f"/?token={viewer.token}&route=openai")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?route=openai"
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"verbatim_viewer_{viewer.port}=")
    assert {"HttpOnly", "Path=/", "SameSite=strict"} <= set(cookie.split("; "))
    assert viewer.token not in cookie
    page = await viewer.client.get("/?route=openai")
    assert page.status_code == 200
    assert viewer.token not in page.text


async def test_a_wrong_token_opens_nothing(viewer) -> None:
    """Acceptance H102."""
    for wrong in ("", "x", viewer.token[:-1], viewer.token + "x", "%00", "%ff", "\u00e9"):
        answer = await viewer.client.get("/", params={"token": wrong})
        assert answer.status_code == 303
        assert "set-cookie" not in answer.headers
        assert (await viewer.client.get("/")).status_code == 401


async def test_a_script_shows_the_token_as_a_bearer(viewer, known_id: str) -> None:
    answer = await viewer.get(f"/api/exchanges/{known_id}")
    assert answer.json()["id"] == known_id
    assert "set-cookie" not in answer.headers
    assert (await viewer.client.get(f"/api/exchanges?token={viewer.token}")).status_code == 401


async def test_two_viewers_on_one_machine_keep_their_own_cookies(viewer, tmp_path: Path, serve) -> None:
    async with serve(tmp_path / "another") as other:
        await viewer.client.get(viewer.way_in)
        for name, value in viewer.client.cookies.items():
            other.client.cookies.set(name, value)
        assert (await other.client.get("/")).status_code == 401
        await other.client.get(other.way_in)
        assert (await other.client.get("/")).status_code == 200
        assert (await viewer.client.get("/")).status_code == 200


async def test_a_cookie_of_another_program_does_not_hide_ours(viewer) -> None:
    await viewer.client.get(viewer.way_in)
    (ours,) = viewer.client.cookies.items()
    viewer.client.cookies.clear()
    answer = await viewer.client.get("/", headers={"Cookie": f'theirs={{"a": [1, 2]}}; "; {ours[0]}={ours[1]}'})
    assert answer.status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:{port}", ""])
async def test_a_foreign_host_name_is_refused(host: str, viewer, known_id: str) -> None:
    """Acceptance H103."""
    for path in ("/", f"/exchange/{known_id}", "/api/exchanges", "/static/viewer.css", "/health"):
        answer = await viewer.get(path, headers={"Host": host.format(port=viewer.port)})
        assert answer.status_code == 403
        assert known_id not in answer.text


async def test_each_name_of_this_machine_is_answered(viewer) -> None:
    for host in ("127.0.0.1", "localhost", "LocalHost", "[::1]"):
        assert (await viewer.get("/", headers={"Host": f"{host}:{viewer.port}"})).status_code == 200
    assert "localhost" in local_hosts(80)


async def test_two_hosts_or_none_are_refused(viewer) -> None:
    """Acceptance H103."""
    assert (await viewer.raw(b"/", [(b"Host", b"evil.example")]))[0] in (400, 403)
    assert (await viewer.raw(b"/", host=None))[0] in (400, 403)


async def test_every_answer_carries_the_strict_policy(viewer, known_id: str) -> None:
    """Acceptance H104, H108: no CORS."""
    seen = set()
    for path in (
        "/",
        f"/exchange/{known_id}",
        f"/exchange/{known_id}/response",
        "/nowhere",
        "/?limit=0",
        f"/?token={viewer.token}",
        "/api/events",
    ):
        seen.add(await policy(await viewer.get(path)))
    viewer.client.cookies.clear()
    for path in ("/static/viewer.css", "/static/viewer.js", "/static/icon.svg", "/static/none", "/health", "/api/exchanges"):
        seen.add(await policy(await viewer.client.get(path)))
    seen.add(await policy(await viewer.client.post("/", headers=viewer.bearer)))
    seen.add(await policy(await viewer.get("/", headers={"Host": "evil.example"})))
    assert seen == {200, 303, 400, 401, 403, 404, 405}


async def policy(answer) -> int:
    headers = answer.headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; ")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers
    return int(answer.status_code)


async def test_nothing_in_the_viewer_can_be_changed(viewer, known_id: str) -> None:
    """Acceptance H104: no method changes anything, so there is nothing to forge."""
    before = {path: path.read_bytes() for path in viewer.folder.iterdir()}
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for path in ("/", f"/exchange/{known_id}", f"/api/exchanges/{known_id}", "/static/viewer.css"):
            headers = viewer.bearer | {"Content-Type": "text/plain", "Origin": "https://evil.example"}
            assert (await viewer.client.request(method, path, headers=headers)).status_code == 405
    assert {path: path.read_bytes() for path in viewer.folder.iterdir()} == before


@pytest.mark.parametrize(
    "target", [b"//evil.example/?token=%b", b"/\\evil.example?token=%b", b"/%%5cevil.example?token=%b", b"/%%2f%%2fevil.example?token=%b"]
)
async def test_the_redirect_stays_on_this_origin(target: bytes, viewer) -> None:
    status, _, head = await viewer.raw_head(target % viewer.token.encode())
    assert status == 303
    location = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"location:"))[9:].strip()
    assert location.startswith(b"/")
    assert not location.startswith((b"//", b"/\\"))


def test_a_path_is_made_a_link_that_cannot_leave() -> None:
    assert same_origin("//evil.example") == "/evil.example"
    assert same_origin("/\\/evil.example") == "/evil.example"
    assert same_origin('/"><script>') == "/%22%3E%3Cscript%3E"
    assert same_origin("/exchange/abc") == "/exchange/abc"


async def test_a_websocket_is_closed_at_once() -> None:
    """Acceptance H103: there is none to rebind to."""
    sent = []

    async def send(message) -> None:
        sent.append(message)

    def refuse(scope: Scope, status: int) -> Response:
        return PlainTextResponse("no", status)

    guard = Guard(PlainTextResponse("inside"), token="0123456789abcdef", hosts=["localhost"], refuse=refuse)
    await guard({"type": "websocket", "headers": [], "path": "/"}, lambda: None, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_a_token_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ValueError, match="16 characters"):
        create_app(Path("nowhere"), token="short", hosts=[])
