"""Hours removed for retention's sake: told of first (`archive.keeping.clerk`), then deleted, oldest first. What goes is decided elsewhere.

A prune line keeps what the rest of the archive needs to be proved complete: each writer's numbers, and the hash that the next seal
knows the hour by.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.catalog import derived
from archive.catalog.tables import index_folder
from archive.errors import ArchiveError, DamagedMember, DamagedSeal
from archive.folder import PACKED, SEGMENT_NAME, hour_of, plain_name, seal_path, segments, sync_folder
from archive.handle import Handle
from archive.keeping.clerk import Clerk, Removal, Removals, writer_of
from archive.keeping.retention import Doomed, open_hour
from archive.line import SERVICE_PART, prune_line
from archive.member import Found
from archive.proof.seal import read_seal
from archive.record import id_text

__all__ = ["carry_out", "finish"]

_LINES: Final = 200
"""Hours in one prune line: about 100 KB, so that any reader takes it in."""
_CARRIED: Final = 1000
"""Writers carried on from prune lines that go themselves; there are more only where a recorder crashed a thousand times."""

Json = dict[str, Any]


def carry_out(
    folder: Path,
    doomed: Iterable[Doomed],
    *,
    by: str,
    version: str,
    clock: Callable[[], float] = time.time,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Remove these hours; returns the bytes that were freed. Blocks; call it inside of `alone`. Raises OSError.

    First lines that tell of it are written and synced, then the files go, oldest first. Cut short, by a crash or because `stopping`,
    the rest is for `finish`.
    """
    doomed = list(doomed)
    if not doomed:
        return 0
    clerk = Clerk(folder, version=version)
    now = clock()
    why = "; ".join(dict.fromkeys(each.why for each in doomed))
    entries = _entries(folder, doomed)
    parts = [entries[at : at + _LINES] for at in range(0, len(entries), _LINES)]
    lines = [partial(prune_line, at=now, by=by, why=why, segments=part) for part in parts]
    try:
        clerk.tell(now, lines)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        derived.throw_away(folder)  # a full disk is when room is needed most; a catalog can be made again
        clerk.tell(now, lines)
    freed = 0
    for each in doomed:
        if stopping():
            return freed
        _remove(folder, each.hour)
        freed += each.bytes
    _drop_words(folder)
    sync_folder(folder)
    clerk.close(clock())
    return freed


def finish(folder: Path, removals: Removals, removal: Removal, *, version: str, clock: Callable[[], float] = time.time) -> bool:
    """Carry on where another was cut short; False when this removal is no pruning. Blocks; call it inside of `alone`. Raises OSError."""
    events = [each for each in removals.events(removal) if each.kind == "prune"]
    if not events:
        return False
    for each in events:
        for segment in _list((each.detail or {}).get("segments")):
            hour = segment.get("segment")
            if isinstance(hour, str) and SEGMENT_NAME.fullmatch(plain_name(hour)):
                _remove(folder, hour)
    _drop_words(folder)
    sync_folder(folder)
    Clerk(folder, version=version, removal=removal).close(clock())
    return True


# What a prune line keeps of an hour.


@dataclass(slots=True)
class _Runs:
    """Numbers of one writer in one hour."""

    first: int
    last: int
    records: int = 0
    closed: bool = False

    def add(self, first: int, last: int) -> None:
        self.first, self.last = min(self.first, first), max(self.last, last)


@dataclass(slots=True)
class _Held:
    """What one hour holds, as far as it can be read."""

    records: int = 0
    writers: dict[str, _Runs] = field(default_factory=dict)
    told: dict[str, _Runs] = field(default_factory=dict)
    """Numbers of other hours that only this hour's own forget and prune lines tell of."""


def _entries(folder: Path, doomed: Sequence[Doomed]) -> list[Json]:
    """For each hour what a prune line says of it.

    What lines in these hours told of still older ones goes on to be told, with the oldest hour: else a writer that has been running for
    months would one day have a beginning that nobody explains.
    """
    entries: list[Json] = []
    told: dict[str, _Runs] = {}
    closed: set[str] = set()
    for each in doomed:
        held = _look(folder, each.hour)
        for name, runs in held.told.items():
            _into(told, name, runs.first, runs.last)
            if runs.closed:
                closed.add(name)
        closed.update(name for name, runs in held.writers.items() if runs.closed)
        root, digest = _seal(folder, each.hour)
        entries.append(
            {
                "segment": each.hour,
                "records": held.records,
                "bytes": each.bytes,
                "root": root,
                "seal": digest,
                "writers": [_writer(name, runs) for name, runs in sorted(held.writers.items())],
            }
        )
    carried = [(name, runs) for name, runs in sorted(told.items()) if name not in closed]
    entries[0]["writers"] += [_writer(name, runs) for name, runs in carried[-_CARRIED:]]
    return entries


def _writer(name: str, runs: _Runs) -> Json:
    return {"writer": name, "first": runs.first, "last": runs.last, "records": runs.records, "closed": runs.closed}


def _look(folder: Path, hour: str) -> _Held:
    held = _Held()
    sealed = _sealed_writers(folder, hour)
    held.writers.update(sealed)
    try:
        with open_hour(folder, hour) as handle:
            for each in handle.scan():
                if isinstance(each, Found):
                    held.records += 1
                    with contextlib.suppress(DamagedMember):
                        _note(held, handle, each, counted=bool(sealed))
    except ArchiveError:
        pass  # what cannot be read has nothing to tell; it goes all the same
    return held


def _sealed_writers(folder: Path, hour: str) -> dict[str, _Runs]:
    """What the seal says of writers, which saves reading all lines; empty without one that can be read."""
    try:
        seal = read_seal(folder, hour)
    except (DamagedSeal, OSError):
        return {}
    return {} if seal is None else {it.writer: _Runs(it.first, it.last, it.records, it.closed) for it in seal.writers}


def _note(held: _Held, handle: Handle, found: Found, *, counted: bool) -> None:
    """Take in one record. `counted`: its writer's numbers are known."""
    seq = found.tag.seq
    if found.tag.part != SERVICE_PART:
        if not counted:
            _into(held.writers, _writer_of(handle, found), seq, seq).records += 1
        return
    name = id_text(found.tag.id)
    runs = _into(held.writers, name, seq, seq)
    runs.records += not counted
    line = skim.skim(handle, found.offset)
    kind = line.get("kind")
    detail = line.get(str(kind))
    if not isinstance(detail, dict):
        return
    if kind == "close":
        runs.closed = True
    elif kind == "gap" and isinstance(lost := detail.get("records"), int):
        runs.add(max(0, seq - lost), seq)  # a gap's numbers come before its own (`archive.writer`)
    elif kind == "forget":
        for each in _list(detail.get("removed")):
            _tell(held.told, each, "seq", "seq")
    elif kind == "prune":
        for segment in _list(detail.get("segments")):
            for each in _list(segment.get("writers")):
                _tell(held.told, each, "first", "last")


def _tell(told: dict[str, _Runs], each: Json, first: str, last: str) -> None:
    name, begin, end = each.get("writer"), each.get(first), each.get(last)
    if isinstance(name, str) and name and isinstance(begin, int) and isinstance(end, int):
        runs = _into(told, name, begin, end)
        runs.closed = runs.closed or bool(each.get("closed"))


def _into(into: dict[str, _Runs], name: str, first: int, last: int) -> _Runs:
    runs = into.setdefault(name, _Runs(first, last))
    runs.add(first, last)
    return runs


def _writer_of(handle: Handle, found: Found) -> str:
    name = writer_of(next(handle.pieces(found.offset), b""))  # only the beginning is inflated
    if name is None:
        raise DamagedMember("the line names no writer")
    return name


def _seal(folder: Path, hour: str) -> tuple[str | None, str | None]:
    """The seal's root, and the hash that the next seal knows it by. An hour without a seal has neither."""
    try:
        fd = os.open(seal_path(folder, hour), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None, None
    with open(fd, "rb") as file:
        data = file.read()
    root = None
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        root = json.loads(data).get("root")
    return root if isinstance(root, str) else None, hashlib.sha256(data).hexdigest()


def _list(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


# Removing files.


def _remove(folder: Path, hour: str) -> None:
    """An hour's files: what can be made anew first, the seal last. One that is not there is none. Raises OSError."""
    for name in (f".{hour}{PACKED}.new", f".{plain_name(hour)}.new", hour + PACKED, plain_name(hour), seal_path(folder, hour).name):
        try:
            fd = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue  # a symbolic link is not ours
            raise
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                continue  # nor is a folder
            fcntl.flock(fd, fcntl.LOCK_EX)  # not under a writer's hands
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        finally:
            os.close(fd)


def _drop_words(folder: Path) -> None:
    """Remove the words of each day that has no hour any more; what else is derived follows by itself."""
    derived.drop_words(index_folder(folder), keep={hour_of(path.name)[:10] for path in segments(folder)})
