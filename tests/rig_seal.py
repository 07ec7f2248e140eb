"""Sealed archives and what is done to them, for the tests of sealing and verification."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from samples import HOUR, Shelf, whole

from archive import member
from archive.folder import seal_path
from archive.line import SERVICE_PART, forget_line, prune_line
from archive.member import Found, scan
from archive.proof.manifest import Seal
from archive.proof.merkle import leaf_hash
from archive.proof.seal import closed_hours, read_seal, seal_hour
from archive.record import id_text

TEN, ELEVEN, TWELVE = "2026-11-19T10", "2026-11-19T11", "2026-11-19T12"
LATER = HOUR + 9 * 3600
"""When all of these are over."""


def filled(folder: Path) -> Shelf:
    """Three sealed hours: ten with a writer's open line and four records, eleven with one, twelve with one and the close line."""
    shelf = Shelf(folder)
    shelf.open()
    for at in (1, 2, 3, 4, 3601, 7201):
        shelf.put(whole(HOUR + at, body=b"%d " % at * 40))
    shelf.close(HOUR + 7202)
    seal_all(folder)
    return shelf


def seal_all(folder: Path, **options: object) -> list[Seal]:
    return [seal_hour(folder, hour, **{"now": LATER, "version": "1", **options}) for hour in closed_hours(folder, LATER)]  # type: ignore[arg-type]


def spans(path: Path) -> list[tuple[int, int]]:
    """Where each member of a file begins and ends."""
    with path.open("rb") as file:
        return [(each.offset, each.offset + each.tag.length) for each in scan(file) if isinstance(each, Found)]


def members(path: Path) -> list[bytes]:
    return [path.read_bytes()[begin:end] for begin, end in spans(path)]


def rewritten(path: Path) -> tuple[int, int, int, int]:
    """Record 2 says something else, and its own checksums are right."""
    parts = members(path)
    tag = member.read_tag(parts[2])
    assert tag is not None
    begin = spans(path)[2][0]
    line = member.unpack(parts[2], limit=1 << 20).replace(b"done", b"gone")
    parts[2] = member.pack(line, id=tag.id, part=tag.part, seq=tag.seq)
    path.write_bytes(b"".join(parts))
    return begin, len(parts[2]), 2, 2


def forget(shelf: Shelf, hour: str, indexes: list[int], *, at: float = HOUR + 3 * 3600, carried_out: bool = True) -> None:
    """As the command does it: told of first, then taken out, all other members byte for byte the same."""
    path = shelf.folder / f"{hour}.jsonl.gz"
    parts = members(path)
    removed = []
    for index in indexes:
        tag = member.read_tag(parts[index])
        assert tag is not None
        removed.append(
            {
                "segment": hour,
                "index": index,
                "id": id_text(tag.id),
                "part": tag.part,
                "writer": id_text(shelf.writer),
                "seq": tag.seq,
                "digest": leaf_hash(member.unpack(parts[index], limit=1 << 20)).hex(),
                "member": "",
                "bytes": len(parts[index]),
            }
        )
    tell(shelf, at, "forget", removed)
    if carried_out:
        path.write_bytes(b"".join(each for index, each in enumerate(parts) if index not in indexes))


def tell(shelf: Shelf, at: float, kind: str, what: list[dict[str, object]]) -> None:
    remover = Shelf(shelf.folder, writer=kind.encode().ljust(16))
    remover.open(at)
    name = id_text(remover.writer)
    line = (
        forget_line(writer=name, seq=1, at=at, by="me@here", why="asked for", removed=what)
        if kind == "forget"
        else prune_line(writer=name, seq=1, at=at, by="me@here", why="older than 30 days", segments=what)
    )
    remover.raw(member.pack(line + b"\n", id=remover.writer, part=SERVICE_PART, seq=1), at)
    remover.seq = 2
    remover.close(at)


def forged(folder: Path, hour: str, **changes: object) -> None:
    """A seal that is whole in itself and says something else."""
    seal = read_seal(folder, hour)
    assert seal is not None
    seal_path(folder, hour).write_bytes(dataclasses.replace(seal, **changes).to_bytes())  # type: ignore[arg-type]
