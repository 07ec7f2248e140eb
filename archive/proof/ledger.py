"""Counting the numbers of writers: which are there, which are told of, which are missing, between which two times, and why.

A writer numbers its lines from 0 without holes; a gap line numbered s that tells of n records stands for s - n to s - 1. Values and sums;
reads no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from archive.errors import DamagedMember
from archive.proof.manifest import SealedWriter
from archive.proof.merkle import HASH_LENGTH
from archive.proof.report import Gap, Missing, Repeated, WriterFound

__all__ = ["Claim", "Ledger", "Log", "Pruned", "Removed", "Run", "Told", "WriterLog"]

Json = dict[str, Any]


class Run:
    """Numbers of one writer that follow each other in one file."""

    __slots__ = ("begin", "damages", "end", "first", "last", "since", "until")

    def __init__(self, seq: int, at: str | None, damages: int) -> None:
        self.first = self.last = seq
        self.since = self.until = at
        self.begin = self.end = self.damages = damages
        """Damaged stretches before its first record, and before its last: in the file, then in all files."""


@dataclass(slots=True)
class WriterLog:
    """What one file holds of one writer."""

    runs: list[Run] = field(default_factory=list)
    opened: tuple[str, int] | None = None
    """Host and pid, when its open line is here."""
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """One record that a forget line tells of."""

    segment: str
    index: int
    writer: str
    seq: int
    digest: str
    """Its leaf hash, hex; empty when it was damaged already, so that nobody could tell what it was."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """One hour that a prune line tells of."""

    segment: str
    records: int
    seal: str | None
    writers: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One forget or prune line."""

    kind: str
    at: str
    by: str
    why: str
    records: tuple[Removed, ...]
    hours: tuple[Pruned, ...]
    count: int
    """Records, those of the hours included."""


class Claim(NamedTuple):
    """What a seal says of one writer, and what has become of that hour."""

    writer: str
    first: int
    last: int
    segment: str
    gone: bool


class Log:
    """What one file says of its writers and of what was lost or removed. Told of each record in the order of the file."""

    def __init__(self) -> None:
        self.writers: dict[str, WriterLog] = {}
        self.gaps: list[Gap] = []
        self.declined = 0
        """Exchanges not recorded at their clients' wish."""
        self.told: list[Told] = []
        self.damages = 0
        """Damaged stretches so far; the one who reads the file counts."""
        self._last: dict[str, Run] = {}

    def record(self, writer: str, seq: int, at: str) -> None:
        """A record is there."""
        run = self._last.get(writer)
        if run is not None and run.last + 1 == seq:
            run.last, run.until, run.end = seq, at, self.damages
            return
        run = self._last[writer] = Run(seq, at, self.damages)
        self.writers.setdefault(writer, WriterLog()).runs.append(run)

    def holds(self, writer: str, seq: int) -> bool:
        """Whether that number is there."""
        return writer in self.writers and any(run.first <= seq <= run.last for run in self.writers[writer].runs)

    def sealed(self) -> tuple[SealedWriter, ...]:
        """The writers as a seal has them."""
        return tuple(
            SealedWriter(
                name,
                min(run.first for run in it.runs),
                max(run.last for run in it.runs),
                sum(run.last - run.first + 1 for run in it.runs),
                it.opened is not None,
                it.closed,
            )
            for name, it in sorted(self.writers.items())
            if it.runs
        )

    def own(self, line: Json) -> None:
        """It is a line of the archive's own, of a kind that is counted or of a later version's. Raises DamagedMember for one that is not
        of its schema, and then nothing was taken in.
        """
        kind, writer = line["kind"], line["writer"]
        try:
            what: Json = line.get(kind) or {}
            if kind == "open":
                self.writers.setdefault(writer, WriterLog()).opened = (str(what["host"]), int(what["pid"]))
            elif kind == "close":
                self.writers.setdefault(writer, WriterLog()).closed = True
            elif kind == "gap":
                self.gaps.append(_gap(writer, line, what))
            elif kind == "declined":
                self.declined += _count(what["exchanges"])
            elif kind == "forget":
                self.told.append(_forget(line, what))
            elif kind == "prune":
                self.told.append(_prune(line, what))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedMember("the line is not of this schema") from error


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _gap(writer: str, line: Json, told: Json) -> Gap:
    records, seq = int(told["records"]), int(line["seq"])
    if not 0 <= records <= seq:
        raise ValueError(records)
    return Gap(writer, seq, str(told["since"]), str(told["until"]), records, int(told["exchanges"]), int(told["bytes"]), str(told["why"]))


def _forget(line: Json, told: Json) -> Told:
    removed = tuple(
        Removed(str(it["segment"]), int(it["index"]), str(it["writer"]), int(it["seq"]), str(it["digest"] or "")) for it in told["removed"]
    )
    if not all(len(bytes.fromhex(each.digest)) in (0, HASH_LENGTH) for each in removed):
        raise ValueError(told["removed"])
    return Told("forget", str(line["at"]), str(told["by"]), str(told["why"]), removed, (), len(removed))


def _prune(line: Json, told: Json) -> Told:
    hours = tuple(
        Pruned(
            str(it["segment"]),
            int(it["records"]),
            None if it["seal"] is None else str(it["seal"]),
            tuple((str(each["writer"]), int(each["first"]), int(each["last"])) for each in it["writers"]),
        )
        for it in told["segments"]
    )
    return Told("prune", str(line["at"]), str(told["by"]), str(told["why"]), (), hours, sum(hour.records for hour in hours))


class _Held(NamedTuple):
    """Numbers that a file has, or that a gap line in it tells of."""

    first: int
    last: int
    file: Path
    gap: bool


@dataclass(slots=True)
class _Writer:
    runs: list[Run] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    held: list[_Held] = field(default_factory=list)
    told: list[tuple[int, int]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    opened: tuple[int, str, int] | None = None
    """In which file, and as which process."""
    closed: bool = False
    start: int = 0


class _Span(NamedTuple):
    """Numbers that need no further explanation."""

    first: int
    last: int
    since: str | None
    until: str | None
    begin: int | None
    end: int | None


class Ledger:
    """The numbers of all files together: first everything is added, files in their order, then it is asked."""

    def __init__(self) -> None:
        self._writers: dict[str, _Writer] = {}
        self._files = 0
        self._damages = 0

    def add(self, log: Log, file: Path, *, alone: bool = False) -> None:
        """What `file`, the next one, says. `alone`: it is sealed and given without those before it, so what its writers wrote earlier is
        not asked for."""
        for name, found in log.writers.items():
            writer = self._writers.setdefault(name, _Writer())
            if alone and found.runs and not writer.runs:
                writer.start = min(run.first for run in found.runs)
            for run in found.runs:
                run.begin, run.end = run.begin + self._damages, run.end + self._damages
                writer.runs.append(run)
                writer.held.append(_Held(run.first, run.last, file, gap=False))
            if found.opened is not None:
                writer.opened = (self._files, *found.opened)
            writer.closed = writer.closed or found.closed
        for gap in log.gaps:
            writer = self._writers.setdefault(gap.writer, _Writer())
            writer.gaps.append(gap)
            if gap.records:
                writer.held.append(_Held(gap.seq - gap.records, gap.seq - 1, file, gap=True))
        for told in log.told:
            for it in told.records:
                if not it.writer:
                    continue  # damaged so that not even that could be told
                self._writers.setdefault(it.writer, _Writer()).told.append((it.seq, it.seq))
            for hour in told.hours:
                for name, first, last in hour.writers:
                    self._writers.setdefault(name, _Writer()).told.append((first, last))
        self._files += 1
        self._damages += log.damages

    def claim(self, claims: Iterable[Claim]) -> None:
        """What seals say was there."""
        for claim in claims:
            self._writers.setdefault(claim.writer, _Writer()).claims.append(claim)

    def missing(self) -> list[Missing]:
        """Numbers up to each writer's last that are neither there nor told of."""
        return [each for name, writer in sorted(self._writers.items()) for each in _missing(name, writer)]

    def repeated(self) -> list[Repeated]:
        """Numbers that are there twice, or there though a gap line tells of them as lost."""
        return [each for name, writer in sorted(self._writers.items()) for each in _repeated(name, writer)]

    def writers(self) -> list[WriterFound]:
        """All writers of which there is a record, by name."""
        return [
            WriterFound(
                name,
                opened=writer.opened is not None,
                closed=writer.closed,
                last=max(run.last for run in writer.runs),
                killed=not writer.closed and self._followed(writer),
                until=max(writer.runs, key=lambda run: run.last).until,
            )
            for name, writer in sorted(self._writers.items())
            if writer.runs
        ]

    def _followed(self, writer: _Writer) -> bool:
        """Whether a later writer ran as the same process: then this one does not run any more."""
        if writer.opened is None:
            return False
        place, *process = writer.opened
        for other in self._writers.values():
            if other is not writer and other.opened is not None and list(other.opened[1:]) == process:
                begun = (place, writer.runs[0].since or "") if writer.runs else (place, "")
                if (other.opened[0], (other.runs[0].since or "") if other.runs else "") > begun:
                    return True
        return False


def _missing(name: str, writer: _Writer) -> Iterator[Missing]:
    expected, since, end = writer.start, None, 0
    last = max((claim.last for claim in writer.claims), default=-1)
    begun = False
    for span in [*_covered(writer), _Span(last + 1, last, None, None, None, None)]:
        if span.first > expected:
            damaged = end is not None and span.begin is not None and span.begin > end
            why = _why(writer, expected, span.first - 1, begun=begun, damaged=damaged)
            yield Missing(name, expected, span.first - 1, since, span.since, why)
        if span.last >= expected:
            expected, since, end = span.last + 1, span.until or since, span.end if span.end is not None else end
            begun = True


def _covered(writer: _Writer) -> list[_Span]:
    spans = [_Span(run.first, run.last, run.since, run.until, run.begin, run.end) for run in writer.runs]
    spans += [_Span(gap.seq - gap.records, gap.seq - 1, gap.since, gap.until, None, None) for gap in writer.gaps if gap.records]
    spans += [_Span(first, last, None, None, None, None) for first, last in writer.told]
    return sorted(spans, key=lambda span: span[:2])


def _why(writer: _Writer, first: int, last: int, *, begun: bool, damaged: bool) -> str:
    claim = next((each for each in writer.claims if each.first <= last and first <= each.last), None)
    if claim is not None and claim.gone:
        return f"the sealed hour {claim.segment} is gone"
    if damaged:
        return "damaged: the bytes between the records before and after them cannot be read"
    if claim is not None:
        return f"they are no longer in the sealed hour {claim.segment}"
    if not begun and writer.opened is None:
        return "written before the first of these files, or lost"
    return "unknown: nothing here tells of their loss"


def _repeated(name: str, writer: _Writer) -> Iterator[Repeated]:
    before: _Held | None = None
    """Of those so far, the one that goes furthest."""
    for held in sorted(writer.held, key=lambda it: it[:2]):  # the same twice: in the order of the files
        if before is not None and held.first <= before.last:
            one, two = sorted((before.file, held.file))
            yield Repeated(name, held.first, min(held.last, before.last), one, two, before.gap or held.gap)
        if before is None or held.last > before.last:
            before = held
