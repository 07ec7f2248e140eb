"""What a verification found, as values. Finds nothing itself; `verdict` has the words."""

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
    "Proof",
    "Removal",
    "RemovedFrom",
    "Repeated",
    "Report",
    "SetAside",
    "Unproven",
    "WriterFound",
    "counted",
]

Verdict = Literal["complete", "unproven", "incomplete", "damaged"]
Proof = Literal["signed", "sealed", "not sealed"]
"""What stands behind a line: a seal that the key asked for (any key, where none is) vouches for, a seal, or nothing yet."""


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
class Repeated(Numbers):
    """Numbers that are there twice, or there though a gap line tells of them as lost."""

    first_file: Path
    second_file: Path
    """May be the same."""
    gap: bool
    """In one of the two it is a gap line that tells of them."""


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
    hours: list[str]
    """The hours it tells of."""
    told_in: Path
    proof: Proof
    """What stands behind the line that tells of it. Not sealed yet: whoever can write there can have written it just now."""


@dataclass(frozen=True, slots=True)
class RemovedFrom:
    """What is not there any more because a forget or prune line tells of it, by the hour."""

    kind: Literal["forget", "prune"]
    segment: str
    records: int
    proof: Proof
    """The best that stands behind one of the lines that tell of it."""


@dataclass(frozen=True, slots=True)
class Unproven:
    """An hour that is over and that no seal vouches for which the key asked for has signed."""

    segment: str
    """Empty where there is none at all."""
    file: Path
    why: str
    """To be read after "it is"."""


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
    """Nothing is damaged, missing, lost, there twice or unproven. False also where a gap line tells of lost records: then see
    `accounted`."""
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
    repeated: list[Repeated]
    gone: list[Gone]
    gaps: list[Gap]
    declined: int
    """Exchanges that were not recorded because their clients asked for that; none of them is missing."""
    removals: list[Removal]
    removed: list[RemovedFrom]
    unproven: list[Unproven]
    """Empty when no key was asked for."""
    overdue: list[str]
    """Hours newer than every seal that are long over and not sealed: perhaps nobody seals here, perhaps their seals were taken away."""
    partial: bool
    """Files were given without the folder they lie in, so that what other hours say is not known."""
    writers: list[WriterFound]
    head: str | None
    """SHA-256 of the newest seal. Who keeps it elsewhere can tell later that nothing up to it was changed, or taken away. See
    `worth_keeping`."""
    worth_keeping: bool
    """All is accounted for and nothing is unproven: a head kept now does not vouch for damage."""
    set_aside: list[SetAside]
    """What recovery put into quarantine. No record that was acknowledged is among it, unless the disk lost what it had confirmed."""
    strangers: list[str]
    """Names in the folders that no writer of ours makes. They were not looked at."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """1 record, 2 records, 1,203,441 records."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
