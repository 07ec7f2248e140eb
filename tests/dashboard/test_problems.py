"""When something cannot be shown: a page that says what to do, and nothing of the inside."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from archive.reader import Reader


async def test_an_error_says_what_to_do(viewer) -> None:
    missing = await viewer.get("/exchange/00000000-0000-7000-8000-000000000000")
    assert missing.status_code == 404
    assert "No exchange with this id is in this archive." in missing.text
    assert "It may be in another archive folder" in missing.text
    wrong = await viewer.get("/?status=teapot")
    assert (wrong.status_code, "a number like 429, a class like 4xx, or none" in wrong.text) == (400, True)
    locked = await viewer.client.get("/")
    assert (locked.status_code, "Open the address that was printed" in locked.text) == (401, True)
    strange = await viewer.get("/", headers={"Host": "evil.example"})
    assert (strange.status_code, "Open it as 127.0.0.1 or localhost" in strange.text) == (403, True)
    posted = await viewer.client.post("/", headers=viewer.bearer)
    assert (posted.status_code, "no page that changes anything" in posted.text) == (405, True)


async def test_a_mistake_of_ours_shows_nothing_of_the_inside(
    viewer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the inside")

    monkeypatch.setattr(Reader, "page", stumble)
    with caplog.at_level(logging.ERROR):
        answer = await viewer.get("/")
    assert answer.status_code == 500
    assert "The viewer stumbled" in answer.text
    assert "the inside" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "ZeroDivisionError" in caplog.text


async def test_a_disk_that_refuses_is_told(viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(Path("/somewhere/secret")))

    monkeypatch.setattr(Reader, "events", refuse)
    answer = await viewer.get("/events")
    assert answer.status_code == 503
    assert "Permission denied" in answer.text
    assert "this user may read it" in answer.text
