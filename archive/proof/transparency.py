"""Was everything forwarded as it was received? What each record says of that, and whether the record bears it out. Only reads.

The rules of what may differ stand here once more, on their own, so that a gateway that excuses too much does not go unnoticed.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from archive import skim
from archive.errors import DamagedMember, NotFound
from archive.folder import segments
from archive.handle import Handle, open_file
from archive.line import SERVICE_PART
from archive.member import Damage
from archive.proof.report import counted
from archive.record import names_digest

__all__ = ["Comparison", "Differs", "compare"]

MOST: Final = 1000
"""Exchanges listed one by one; more are counted."""

_SMALL: Final = 8 << 20
"""Lines up to this long are read whole; of longer ones the texts are left out."""

_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_ADDED: Final = {"request": frozenset(("host",)), "response": frozenset(("connection", "transfer-encoding"))}
_OURS: Final = "x-verbatim-"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Differs:
    """An exchange that was not forwarded as it was received, or whose record contradicts itself."""

    id: str
    at: str
    file: Path
    offset: int
    what: list[str]
    """Each begins with the direction, `request` or `response`."""


@dataclass(slots=True)
class Comparison:
    """What the records of some files say."""

    sentence: str = ""
    unchanged: bool = True
    """Nothing differs, and nothing was unreadable."""
    files: int = 0
    line_bytes: int = 0
    compared: int = 0
    """Exchanges that ended and whose record tells of both sides."""
    differ: int = 0
    body_bytes: int = 0
    """Of bodies and websockets, received, both ways."""
    not_told: int = 0
    """Exchanges that ended and whose record is older than this proof."""
    unfinished: int = 0
    """Exchanges without an end in these files: they were still running, or crashed with their writer."""
    unreadable: int = 0
    """Damaged places; `verify` says where."""
    differing: list[Differs] = field(default_factory=list)
    """In the order of the files; at most 1,000."""


def compare(paths: Iterable[Path], *, jobs: int = 1) -> Comparison:
    """Read every record of segments and of folders' segments. Blocks for as long as inflating them takes, in `jobs` processes; memory is
    bounded by the longest line, of which no more than 8 MiB are read whole. Raises NotFound and OSError as `archive.proof.verify.verify`.
    """
    files = [file for path in paths for file in (segments(path) if path.is_dir() and not path.is_symlink() else [path])]
    files = list(dict.fromkeys(files))
    whole = Comparison(files=len(files))
    begun, ended = set[bytes](), set[bytes]()
    for one, unended, over in _looked_at(files, jobs):
        for name in ("line_bytes", "compared", "differ", "body_bytes", "not_told", "unreadable"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.differing += one.differing[: MOST - len(whole.differing)]
        begun |= unended
        ended |= over
    whole.unfinished = len(begun - ended)
    whole.unchanged = not (whole.differ or whole.unreadable)
    whole.sentence = _sentence(whole)
    return whole


_Look: TypeAlias = tuple[Comparison, set[bytes], set[bytes]]
"""One file: exchanges that do not end in it, and those of several parts that do, for they may have begun in another."""


def _looked_at(files: Sequence[Path], jobs: int) -> Iterator[_Look]:
    if jobs <= 1 or len(files) <= 1:
        yield from map(_file, files)
        return
    with ProcessPoolExecutor(min(jobs, len(files)), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_file, files)


def _file(path: Path) -> _Look:
    told, running, over = Comparison(), set[bytes](), set[bytes]()
    if path.is_symlink():
        raise NotFound(f"{path} is a symbolic link, which is not followed; give the file itself")
    with open_file(path) as handle:
        for found in handle.scan():
            if isinstance(found, Damage):
                told.unreadable += not found.torn
                continue
            if found.tag.part == SERVICE_PART:
                continue
            try:
                line = _line(handle, found.offset, told)
                ended = line["end"] is not None
                what = _judged(line, told) if ended else []
            except (DamagedMember, KeyError, TypeError, ValueError, AttributeError, IndexError):
                told.unreadable += 1
                continue
            (running.discard if ended else running.add)(found.tag.id)
            if ended and found.tag.part:
                over.add(found.tag.id)
            if what:
                told.differ += 1
                if len(told.differing) < MOST:
                    told.differing.append(Differs(line["id"], line["at"], path, found.offset, what))
    return told, running, over


def _line(handle: Handle, offset: int, told: Comparison) -> Json:
    length, size = handle.lengths(offset)
    told.line_bytes += size
    if size <= _SMALL >= length:
        return skim.decode(skim.read_line(handle, offset, limit=size))
    return skim.skim(handle, offset)


def _judged(line: Json, told: Comparison) -> list[str]:
    """What differs in an exchange's last record, by its own word and by what it holds."""
    proof = line.get("transparency")
    if proof is None:
        told.not_told += 1
        return []
    told.compared += 1
    what = [str(each) for each in proof["differences"]]
    for side in ("request", "response"):
        crossed = proof[side]
        if crossed is None:
            continue
        told.body_bytes += int(crossed["size"][0])
        if not any(each.startswith(side) for each in what):
            what += [f"{side} {each}" for each in _contradictions(side, crossed, line)]
    return what


def _contradictions(side: str, crossed: Json, line: Json) -> Iterator[str]:
    """Where "unchanged" is not borne out by the rest of the record."""
    (received, forwarded), (taken, handed) = crossed["names"], crossed["size"]
    head = line[side]
    fields = (head and head["headers"]) or []
    named = {token.strip().lower() for field in fields if str(field[0]).lower() == "connection" for token in str(field[1]).split(",")}
    for name in crossed["differ"]:
        if not _by_rule(name, side, named if fields else None):
            yield f"headers: header {name[1:]} was {'lost' if name[0] == '-' else 'added'}"
    if fields and received is not None:
        names = Counter(str(field[0]).lower() for field in fields)
        if _digest(names) != received:
            yield "headers: the digest of the names received is not that of those recorded"
        for name in crossed["differ"]:
            names[name[1:]] += 1 if name[0] == "+" else -1
        if forwarded is not None and (min(names.values()) < 0 or _digest(names) != forwarded):
            yield "headers: the digest of the names forwarded is not that of the names told"
    if crossed["sha256"] is None and handed != taken:
        yield f"body: {handed:,} bytes were forwarded and {taken:,} received, with one hash for both"
    elif crossed["sha256"] is not None and handed == taken and crossed["sha256"][0] != crossed["sha256"][1]:
        yield "body: the bytes forwarded are not those received"
    elif handed > taken or (handed < taken and line["end"]["reason"] == "complete" and _whole(head)):
        yield f"body: {handed:,} bytes were forwarded and {taken:,} received"


def _by_rule(name: str, side: str, named: set[str] | None) -> bool:
    """`named`: what the Connection fields list; None where they are in another record."""
    sign, name = name[0], name[1:]
    if sign == "+":
        return name in _ADDED[side] or (side == "response" and name.startswith(_OURS))
    if name in _HOP or (side == "request" and name.startswith(_OURS)):
        return True
    return name not in ("host", "content-length") and (named is None or name in named)


def _whole(head: Json | None) -> bool:
    return bool(head and head["body"] and head["body"]["complete"])


def _digest(names: Counter[str]) -> str:
    return names_digest(name.encode("ascii", "backslashreplace") for name in names.elements())


def _sentence(found: Comparison) -> str:
    if found.differ:
        what = f"{counted(found.differ, 'exchange')} of {found.compared:,} {'was' if found.differ == 1 else 'were'} not forwarded unchanged"
    elif found.compared:
        size = f", {counted(found.body_bytes, 'byte')} of bodies"
        what = f"{counted(found.compared, 'exchange')} compared{size}: all forwarded unchanged, both ways"
    else:
        what = "There is nothing to compare"
    notes = []
    if found.not_told:
        notes.append(f"{counted(found.not_told, 'exchange')} not told of: recorded before this proof was kept")
    if found.unfinished:
        notes.append(f"{counted(found.unfinished, 'exchange')} without an end here")
    if found.unreadable:
        notes.append(f"{counted(found.unreadable, 'place')} cannot be read; `verbatim verify` says where")
    return "; ".join([what, *notes]) + "."
