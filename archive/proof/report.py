"""What a verification found, as values, and its verdict in one sentence. Finds nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = [
    "Damaged",
    "Gap",
    "Gone",
    "HourFound",
    "Missing",
    "Numbers",
    "Removal",
    "Report",
    "SetAside",
    "WriterFound",
    "counted",
    "sentence",
]

Verdict = Literal["complete", "incomplete", "damaged"]


@dataclass(frozen=True, slots=True)
class Damaged:
    """Bytes that are not as they should be."""

    file: Path
    offset: int
    length: int
    """0 where something was taken out."""
    why: str
    torn: bool = False
    """It is the file's end: a crash in mid-write, or something that was put behind it."""
    known: bool = False
    """It was so already when the hour was sealed."""
    first_record: int | None = None
    last_record: int | None = None
    """In a sealed hour: which of its records, counted from 0, these bytes are, or were."""
    id: str | None = None
    """The exchange, where these bytes still say so."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A run of sequence numbers of one writer, both ends included."""

    writer: str
    first: int
    last: int
    count: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", self.last - self.first + 1)


@dataclass(frozen=True, slots=True)
class Missing(Numbers):
    """Numbers that are neither there nor told of."""

    since: str | None
    until: str | None
    """The times of the records before and after them, as these have them; None where there is none."""
    why: str


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
class Gone:
    """An hour that was sealed and is not there."""

    segment: str
    """Empty where nobody knows which."""
    records: int | None
    """As its seal has it; None where that is gone, too."""
    why: str


@dataclass(frozen=True, slots=True)
class SetAside:
    """Bytes at a segment's end that were no whole record when a crash had left them."""

    file: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed on purpose, as a forget or prune line tells."""

    kind: Literal["forget", "prune"]
    at: str
    by: str
    why: str
    records: int
    segments: int
    pending: int
    """Of these, records (of a prune: hours) that are still there: it was cut short, and is finished by the next run."""


@dataclass(frozen=True, slots=True)
class WriterFound:
    """A writer and what became of it. Not closed: still running, or killed, and then what it had queued is lost."""

    id: str
    opened: bool
    closed: bool
    last: int
    """Its highest number."""
    killed: bool
    """It did not close, and another opened later as the same process (host and pid)."""
    until: str | None
    """The time of its last record."""


@dataclass(frozen=True, slots=True)
class HourFound:
    """One file, and how sure one can be of it."""

    file: Path
    bytes: int
    records: int
    exchanges: int
    line_bytes: int
    since: str | None
    until: str | None
    """Times of its first and last record."""
    sealed: bool
    """Not sealed: its checksums and numbers were checked, and nothing else can be."""
    as_sealed: bool | None
    """Every byte, or of a packed or unpacked hour every line, is as it was sealed, but for what was removed and told of; None when it is
    not sealed."""
    sealed_at: str | None
    root: str | None
    key: str | None
    """The public key that signed the seal; None when it is not signed."""
    unpacked: bool = False
    """It was packed, and the gzip made again around its lines is not that which was sealed."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found."""

    verdict: Verdict
    sentence: str
    complete: bool
    """Nothing is damaged, missing, lost or there twice. False also where a gap line tells of lost records: then see `accounted`."""
    accounted: bool
    """Nothing is damaged or there twice, and of every writer each number up to its last is there or told of."""
    files: int
    bytes: int
    members: int
    exchanges: int
    """Exchanges whose first part is there."""
    hours: list[HourFound]
    damaged: list[Damaged]
    """In the order of the files; at most 1,000, `damages` counts them all."""
    damages: int
    missing: list[Missing]
    """A writer's beginning that lies in a file not given is missing, too, unless what is given is sealed."""
    repeated: list[Numbers]
    """Numbers that are there more than once."""
    gone: list[Gone]
    gaps: list[Gap]
    removals: list[Removal]
    writers: list[WriterFound]
    head: str | None
    """SHA-256 of the newest seal. Who keeps it elsewhere can tell later that nothing up to it was changed, or taken away."""
    set_aside: list[SetAside]
    """What recovery put into quarantine. No record that was acknowledged is among it, unless the disk lost what it had confirmed."""
    strangers: list[str]
    """Names in the folders that no writer of ours makes. They were not looked at."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """1 record, 2 records, 1,203,441 records."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def sentence(report: Report) -> str:
    """The verdict, with what matters most."""
    if not report.files and not report.gone and not report.damages:
        return "complete: there are no recordings here"
    held = _held(report)
    if report.verdict == "complete":
        return f"complete: {held}, nothing missing{_unclosed(report)}"
    missing = _missing(report)
    if report.verdict == "incomplete":
        return f"incomplete: {missing}; {held}{_unclosed(report)}"
    return f"damaged: {'; '.join(filter(None, (_damaged(report), _repeated(report), missing)))}; {held}{_unclosed(report)}"


def _held(report: Report) -> str:
    sealed = sum(hour.sealed for hour in report.hours)
    said = f"{counted(report.files, 'hour')}, {counted(report.members, 'record')}"
    if sealed:
        chained = " and chained" if report.head is not None else ""
        said += f", {'all' if sealed == report.files else format(sealed, ',')} sealed{chained}"
    if sealed < report.files:
        said += f", {'none sealed' if not sealed else f'{report.files - sealed:,} not'} (checksums and numbers are all that can be checked)"
    return said


def _damaged(report: Report) -> str:
    if not report.damages:
        return ""
    first = report.damaged[0]
    known = ", known when it was sealed" if all(each.known for each in report.damaged) else ""
    where = f"the first in {first.file} at byte {first.offset:,}, {counted(first.length, 'byte')}"
    return f"{counted(report.damages, 'place')}{known}, {where}: {first.why}"


def _repeated(report: Report) -> str:
    twice = sum(each.count for each in report.repeated)
    return f"{counted(twice, 'record')} {'is' if twice == 1 else 'are'} there twice" if twice else ""


def _missing(report: Report) -> str:
    parts = []
    if report.gone:
        parts.append(f"{counted(len(report.gone), 'sealed hour')} {'is' if len(report.gone) == 1 else 'are'} gone")
    if unexplained := sum(each.count for each in report.missing if not each.why.startswith("damaged")):  # those are told of as damage
        parts.append(f"{counted(unexplained, 'record')} {'is' if unexplained == 1 else 'are'} missing and no gap record tells why")
    if told := sum(gap.records for gap in report.gaps):
        reasons = dict.fromkeys(gap.why for gap in report.gaps if gap.records)
        parts.append(f"{counted(told, 'record')} {'was' if told == 1 else 'were'} lost as gap records say ({'; '.join(reasons)})")
    return ", ".join(parts)


def _unclosed(report: Report) -> str:
    killed = sum(writer.killed for writer in report.writers)
    others = sum(not (writer.closed or writer.killed) for writer in report.writers)
    said = f"; {counted(killed, 'writer')} {'was' if killed == 1 else 'were'} killed, with what had not been written" if killed else ""
    return said + (
        f"; {counted(others, 'writer')} {'has' if others == 1 else 'have'} not closed: still at work, or killed" if others else ""
    )
