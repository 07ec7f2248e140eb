"""Is an archive sound and complete? Answered offline, with nothing but its files, as values; nothing is printed, repaired or written.

Every member is inflated, its checksum compared and its line read; then the writers' sequence numbers are counted. A number may be
absent only where a gap line accounts for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.errors import DamagedMember
from archive.folder import segments
from archive.handle import Handle, open_file
from archive.member import Damage, Found
from archive.record import id_text

__all__ = ["Damaged", "Gap", "Numbers", "Report", "WriterFound", "verify"]

_MOST: Final = 1000
"""Damages listed one by one; more are counted."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes that are no sound member."""

    file: Path
    offset: int
    length: int
    why: str
    torn: bool = False
    """It is the file's end: a crash in mid-write, or a write that is going on now."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A run of sequence numbers of one writer, both ends included."""

    writer: str
    first: int
    last: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Gap:
    """A loss that the archive itself tells of: a gap line."""

    writer: str
    seq: int
    since: str
    until: str
    records: int
    exchanges: int
    bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class WriterFound:
    """A writer and what became of it. Not closed: still running, or killed, and then what it had queued is lost."""

    id: str
    opened: bool
    closed: bool
    last: int
    """Its highest number."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    complete: bool
    """Nothing is damaged, nothing is there twice, and of every writer each number up to its last is there or told of by a gap line."""
    files: int
    bytes: int
    members: int
    exchanges: int
    damaged: list[Damaged]
    """In the order of the files; at most 1,000, `damages` counts them all."""
    damages: int
    missing: list[Numbers]
    """Numbers that are neither there nor told of. A writer's beginning that lies in a file not given is missing, too."""
    repeated: list[Numbers]
    """Numbers that are there more than once."""
    gaps: list[Gap]
    writers: list[WriterFound]


def verify(paths: Iterable[Path]) -> Report:
    """Check segments, and all segments of folders. Blocks for as long as inflating them takes; memory is bounded but for the ids.

    Raises NotFound for a path that is not there, or is neither a folder nor a regular file. Symbolic links are not followed.
    """
    ledger = _Ledger()
    for path in _files(paths):
        ledger.file(path)
    return ledger.report()


def _files(paths: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            files += segments(path)
        else:
            files.append(path)
    return list(dict.fromkeys(files))


@dataclass(slots=True)
class _Writer:
    runs: list[list[int]] = field(default_factory=list)
    """[first, last] in the order in which they were met; a writer's lines are in order, so they are few."""
    opened: bool = False
    closed: bool = False

    def add(self, first: int, last: int) -> None:
        if self.runs and self.runs[-1][1] + 1 == first:
            self.runs[-1][1] = last
        elif first <= last:
            self.runs.append([first, last])


class _Ledger:
    """What has been found so far."""

    def __init__(self) -> None:
        self._files = 0
        self._bytes = 0
        self._members = 0
        self._ids: set[bytes] = set()
        self._damaged: list[Damaged] = []
        self._damages = 0
        self._gaps: list[Gap] = []
        self._writers: dict[str, _Writer] = {}

    def file(self, path: Path) -> None:
        with open_file(path) as handle:
            self._files += 1
            self._bytes += handle.end()
            for each in handle.scan():
                if isinstance(each, Damage):
                    self._damage(Damaged(path, each.offset, each.length, each.why, each.torn))
                else:
                    self._member(path, handle, each)

    def _member(self, path: Path, handle: Handle, found: Found) -> None:
        try:
            line = skim.skim(handle, found.offset)
            self._line(line, found)
        except DamagedMember as error:
            self._damage(Damaged(path, found.offset, found.tag.length, str(error)))
        else:
            self._members += 1

    def _line(self, line: Json, found: Found) -> None:
        tag = found.tag
        if (line.get("id"), line.get("part"), line.get("seq")) != (id_text(tag.id), tag.part, tag.seq):
            raise DamagedMember("the member's header and its line tell different things")
        try:
            name, kind = str(line["writer"]), line["kind"]
            gap = _gap(name, line) if kind == "gap" else None
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedMember("the line is not of this schema") from error
        writer = self._writers.setdefault(name, _Writer())
        if gap is not None:
            self._gaps.append(gap)
            writer.add(tag.seq - gap.records, tag.seq - 1)
        writer.add(tag.seq, tag.seq)
        writer.opened = writer.opened or kind == "open"
        writer.closed = writer.closed or kind == "close"
        if kind == "exchange":
            self._ids.add(tag.id)

    def _damage(self, damaged: Damaged) -> None:
        self._damages += 1
        if len(self._damaged) < _MOST:
            self._damaged.append(damaged)

    def report(self) -> Report:
        missing: list[Numbers] = []
        repeated: list[Numbers] = []
        writers: list[WriterFound] = []
        for name, writer in sorted(self._writers.items()):
            expected = 0
            for first, last in sorted(writer.runs):
                if first > expected:
                    missing.append(Numbers(name, expected, first - 1))
                elif first < expected:
                    repeated.append(Numbers(name, first, min(last, expected - 1)))
                expected = max(expected, last + 1)
            writers.append(WriterFound(name, writer.opened, writer.closed, expected - 1))
        return Report(
            complete=not (self._damages or missing or repeated),
            files=self._files,
            bytes=self._bytes,
            members=self._members,
            exchanges=len(self._ids),
            damaged=self._damaged,
            damages=self._damages,
            missing=missing,
            repeated=repeated,
            gaps=self._gaps,
            writers=writers,
        )


def _gap(writer: str, line: Json) -> Gap:
    told = line["gap"]
    records = int(told["records"])
    seq = int(line["seq"])
    if not 0 <= records <= seq:
        raise ValueError(records)
    return Gap(writer, seq, str(told["since"]), str(told["until"]), records, int(told["exchanges"]), int(told["bytes"]), str(told["why"]))
