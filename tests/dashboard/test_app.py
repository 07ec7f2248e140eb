"""The app as a whole: pages are made in threads of their own, so nothing slow holds up the rest; and bombs stay small."""

from __future__ import annotations

import asyncio
import gzip
import re
import threading
import time
import zlib
from pathlib import Path

import brotli
import pytest

from archive import member
from archive.line import to_line
from archive.reader import Reader
from archive.record import id_text, new_id


async def test_reading_never_holds_up_other_pages(viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    page = Reader.page

    def slow(self, **options):
        begun.set()
        assert go_on.wait(30)
        return page(self, **options)

    monkeypatch.setattr(Reader, "page", slow)
    reading = [asyncio.create_task(viewer.get("/")) for _ in range(2)]
    assert await asyncio.to_thread(begun.wait, 30)
    try:
        assert (await viewer.get("/static/viewer.css")).status_code == 200
        assert (await viewer.get("/health")).text == "ok\n"
        assert (await viewer.get("/events")).status_code == 200
        assert (await viewer.client.get("/")).status_code == 401
        assert not any(task.done() for task in reading)
    finally:
        go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*reading)] == [200, 200]


async def test_own_files_may_be_kept_by_the_browser(viewer) -> None:
    page = await viewer.page("/")
    (path,) = re.findall(r'href="(/static/viewer\.css[^"]+)"', page)
    answer = await viewer.client.get(path)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")


def brotli_bomb() -> bytes:
    return brotli.compress(bytes(256 << 20), quality=1)


def deflate_bomb() -> bytes:
    return zlib.compress(bytes(256 << 20), 9)


def nested_bomb() -> bytes:
    return gzip.compress(gzip.compress(bytes(256 << 20), 6), 9)


@pytest.mark.parametrize(("coding", "bomb"), [("br", brotli_bomb), ("deflate", deflate_bomb), ("gzip, gzip", nested_bomb)])
async def test_a_bomb_stays_small(coding: str, bomb, tmp_path: Path, write, exchange, started) -> None:
    headers = [(b"Content-Type", b"application/json"), (b"Content-Encoding", coding.encode())]
    (one,) = await asyncio.to_thread(write, tmp_path / "archive", [exchange(received=bomb(), encoding=coding, response_headers=headers)])
    async with started(tmp_path / "archive") as viewer:
        before = memory(viewer.pid)
        begun = time.monotonic()
        page = await viewer.page(f"/exchange/{one}")
        took = time.monotonic() - begun
        assert memory(viewer.pid) - before < 64 << 20
    assert took < 10
    assert len(page) < 20 << 20
    assert "as it crossed the wire" in page or "Cut at the recording limit" in page


async def test_a_member_that_inflates_without_end_is_left_out(tmp_path: Path, write, exchange, started) -> None:
    """Not of our writer's making: an archive may come from anywhere."""
    folder = tmp_path / "archive"
    (known,) = await asyncio.to_thread(write, folder, [exchange(ago=5)])
    record = exchange()
    record.id = new_id(time.time_ns() // 1_000_000)
    line = to_line(record, writer="0" * 8 + "-0000-0000-0000-" + "0" * 12, seq=1)
    assert line is not None
    bomb = line[:-1] + b',"padding":"' + b"a" * (600 << 20) + b'"}\n'
    (segment,) = folder.glob("*.gz")
    with segment.open("ab") as file:
        file.write(member.pack(bomb, id=record.id, part=0, seq=1))
    del bomb
    async with started(folder) as viewer:
        await viewer.page("/")
        before = memory(viewer.pid)
        await viewer.page("/")
        answer = await viewer.get(f"/exchange/{id_text(record.id)}")
        assert memory(viewer.pid) - before < 64 << 20
        assert answer.status_code in (200, 404)
        assert (await viewer.get(f"/exchange/{known}")).status_code == 200


def memory(pid: int) -> int:
    """The most memory the process ever held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10
