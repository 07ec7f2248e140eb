"""Exchanges to archive, and folders written with the archive's own pieces but no writer, for the tests of the reading half."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archive import member
from archive.folder import segment_name
from archive.line import SERVICE_PART, close_line, open_line, to_line
from archive.record import Body, BodyStream, Client, End, EndReason, Record, Request, Response, Timing, Upstream, id_text, new_id

HOUR = 1_795_082_400.0
"""2026-11-19T10:00:00Z."""

WRITER = new_id(int(HOUR * 1000))
DONE = End(EndReason.COMPLETE)


def whole(at: float = HOUR + 1, *, body: bytes = b'{"a":1}', answer: bytes = b"done", status: int = 200, route: str = "openai") -> Record:
    """An exchange in one part."""
    return Record(
        id=new_id(int(at * 1000)),
        part=0,
        at=at,
        client=Client("127.0.0.1:50000", "run-1", "header"),
        upstream=Upstream(route, "http://127.0.0.1:9"),
        request=Request(b"POST", b"/openai/v1/x?a=b", [(b"Host", b"x"), (b"User-Agent", b"tester/1"), (b"X-Dup", b"1"), (b"x-dup", b"2")]),
        request_body=Body([body], ended=True),
        response=Response(status, [(b"content-type", b"application/json")], b"OK"),
        response_body=Body([answer], ended=True),
        timing=Timing(12.5, 20.25, [(0, 12.5)]),
        end=DONE,
    )


def in_parts(chunks: Sequence[bytes], *, at: float = HOUR + 1, encoding: str = "", end: End | None = DONE) -> list[Record]:
    """An exchange whose answer is cut into `chunks`, one a part; the last part ends it, unless `end` is None."""
    first = whole(at)
    stream, offset, records = BodyStream(), 0, []
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        body = Body([chunk], offset=offset, encoding=encoding, ended=last and end is DONE, stream=stream)
        records.append(
            Record(
                id=first.id,
                part=number,
                at=at,
                client=first.client,
                upstream=first.upstream,
                request=None if number else first.request,
                request_body=None if number else first.request_body,
                response=None if number else first.response,
                response_body=body,
                timing=Timing(12.5, 20.0 if last and end else None, [(offset, 12.5 + number)]),
                end=end if last else None,
            )
        )
        offset += len(chunk)
    return records


@dataclass
class Shelf:
    """A folder of segments and what was put on it: `put` packs records as a writer would, one member each."""

    folder: Path
    writer: bytes = WRITER
    host: str = "elsewhere"
    pid: int = 1
    seq: int = 0
    lines: dict[str, list[bytes]] = field(default_factory=dict)
    """By exchange id, the lines in the order in which they were written."""

    def open(self, at: float = HOUR) -> None:
        line = open_line(writer=id_text(self.writer), seq=self.seq, at=at, version="1", rules_hash="abc", host=self.host, pid=self.pid)
        self.raw(self._pack(line, self.writer, SERVICE_PART), at)

    def close(self, at: float = HOUR) -> None:
        line = close_line(writer=id_text(self.writer), seq=self.seq, at=at, written=self.seq - 1, dropped=0)
        self.raw(self._pack(line, self.writer, SERVICE_PART), at)

    def put(self, records: Record | Iterable[Record], *, at: float | None = None) -> Path:
        """Write records into the segment of `at` (their own time when None)."""
        path = self.folder
        for record in [records] if isinstance(records, Record) else records:
            line = to_line(record, writer=id_text(self.writer), seq=self.seq)
            assert line is not None
            self.lines.setdefault(id_text(record.id), []).append(line)
            path = self.raw(self._pack(line, record.id, record.part), record.at if at is None else at)
        return path

    def raw(self, data: bytes, at: float = HOUR) -> Path:
        """Append bytes, members or not."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / segment_name(at)
        with path.open("ab") as file:
            file.write(data)
        return path

    def pack(self, record: Record) -> bytes:
        """The member of a record, not written."""
        line = to_line(record, writer=id_text(self.writer), seq=self.seq)
        assert line is not None
        return self._pack(line, record.id, record.part)

    def _pack(self, line: bytes, id: bytes, part: int) -> bytes:
        packed = member.pack(line + b"\n", id=id, part=part, seq=self.seq)
        self.seq += 1
        return packed


def parsed(record: Record, *, seq: int = 0) -> Any:
    """The record's line as plain `json` reads it; None when it makes none."""
    line = to_line(record, writer="w", seq=seq)
    return None if line is None else json.loads(line)
