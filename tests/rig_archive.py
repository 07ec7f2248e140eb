"""Records to write and archives to write them into, for the tests of the writing half."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archive import member
from archive.record import Body, Client, End, EndReason, Record, Request, Response, Upstream, id_text, new_id
from archive.writer import Writer

HOUR = 1_795_082_400.0
"""2026-11-19T10:00:00Z."""


def record(size: int = 200, *, weight: int | None = None) -> Record:
    """A whole exchange with `size` bytes of request body that do not compress well."""
    body = base64.b85encode(os.urandom(size * 4 // 5 + 1))[:size]
    return Record(
        id=new_id(time.time_ns() // 1_000_000),
        part=0,
        at=time.time(),
        client=Client("127.0.0.1:50000"),
        upstream=Upstream("openai", "http://127.0.0.1"),
        request=Request(b"POST", b"/openai/v1/x", [(b"host", b"x")]),
        request_body=Body([body], ended=True),
        response=Response(200, [(b"content-type", b"text/plain")], b"OK"),
        response_body=Body([b"done"], ended=True),
        end=End(EndReason.COMPLETE),
        weight=size if weight is None else weight,
    )


def line(number: int, size: int = 100) -> bytes:
    """A line that says its number and does not compress well."""
    return b'{"n":%d,"x":"%s"}\n' % (number, base64.b85encode(os.urandom(size)).replace(b"\\", b"a").replace(b'"', b"b"))


def packed(number: int, size: int = 100) -> bytes:
    """A member of such a line."""
    return member.pack(line(number, size), id=number.to_bytes(16, "big"), part=0, seq=number)


def members(count: int, size: int = 100, *, start: int = 0) -> list[bytes]:
    return [packed(number, size) for number in range(start, start + count)]


def zcat(path: Path) -> bytes:
    """What plain zcat makes of a file; fails when it finds anything wrong with it."""
    return subprocess.run(["zcat", "--", str(path)], check=True, capture_output=True).stdout


def until(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Wait for a condition; a deadline that is met only when something is broken."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def settled(writer: Writer) -> None:
    """Wait until nothing is queued and nothing is refused."""
    until(lambda: not writer.stats().queued and not writer.stats().paused)


@contextmanager
def writing(folder: Path, **options: Any) -> Iterator[Writer]:
    """A running writer that looks at no free space; closed at the end, cleanly or not."""
    writer = Writer(folder, **{"version": "test", "min_free": 0, "cooldown": 0.05, **options})
    writer.start()
    try:
        yield writer
    finally:
        writer.close(10)


def ids(records: Iterable[Record]) -> list[str]:
    return [id_text(each.id) for each in records]


def exchanges(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """The ids of the exchange lines."""
    return [each["id"] for each in lines if each["kind"] == "exchange"]


def unexplained(lines: Iterable[Mapping[str, Any]]) -> set[int]:
    """Numbers of one writer that are neither there nor told of by a gap: as the writer's promise has it, always none."""
    there: set[int] = set()
    told: set[int] = set()
    for each in lines:
        assert each["seq"] not in there, "a number twice"
        there.add(each["seq"])
        if each["kind"] == "gap":
            told.update(range(each["seq"] - each["gap"]["records"], each["seq"]))
    assert not there & told, "a number that is there and told of as lost"
    return set(range(max(there) + 1)) - there - told


@contextmanager
def mounted(at: Path, size: str = "64k") -> Iterator[Path]:
    """A real, tiny file system of its own. Skips the test where nobody may mount one."""
    import pytest

    at.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(at)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting needs root")
    try:
        # Never fill a disk that is not ours: what lies at this path must be the mount.
        subprocess.run(["mountpoint", "-q", str(at)], check=True)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def filled(folder: Path, *, most: int = 1 << 20) -> Path:
    """Fill the file system that `folder` is mounted at with one file, never more than `most` bytes."""
    subprocess.run(["mountpoint", "-q", str(folder)], check=True)
    filler = folder / "filler"
    written = 0
    with filler.open("wb", buffering=0) as file:
        while written < most:
            try:
                written += file.write(bytes(1024)) or 0
            except OSError:
                return filler
    raise AssertionError("the file system is larger than was asked for")
