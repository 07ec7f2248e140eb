"""Forgetting: the records of chosen exchanges are told of (by the clerk) and then cut out of their segments, all others byte for byte the
same; with them goes what recovery set aside of them and what is derived from them.

Choosing is separate, so that it can be shown first. Cut short anywhere, the rest is done by whoever calls `finish`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from archive.catalog import derived
from archive.errors import ArchiveError, NotFound
from archive.folder import PACKED, QUARANTINE, hour_of, inner_folder, plain_name, segments, sync_folder, sync_names
from archive.handle import Plain, open_segment
from archive.keeping.clerk import Clerk, Removal, Removals
from archive.keeping.pack import Refused, unpack
from archive.keeping.tombstone import Entries, Key, entries, forgotten, indexes, told_of
from archive.line import SERVICE_PART, forget_line
from archive.member import HEADER_LENGTH, Damage, Found, Tag, read_tag, scan
from archive.recovery import Span, rewritten
from archive.segment import Appender

__all__ = ["carry_out", "finish", "forgotten"]

_MOST: Final = 1000
"""Records in one forget line: about 400 KB, so that any reader takes it in."""

Json = dict[str, Any]


def carry_out(folder: Path, ids: Collection[bytes], *, by: str, why: str, version: str, clock: Callable[[], float] = time.time) -> int:
    """Remove every record of these exchanges; returns how many. Call it inside of `alone`, for exchanges that have ended.

    Blocks: for what is removed as long as inflating it takes, and for a copy of each segment concerned; writers to the current hour
    wait meanwhile. Raises OSError, NotFound; what has been told of by then is for `finish`.
    """
    with _quarantine(folder):
        pass  # refused before anything is told of
    told = Removals(folder)
    told.refresh()
    _make_plain(folder, ids, told)
    clerk = Clerk(folder, version=version)
    hours, count = _tell(folder, clerk, ids, indexes(told), {}, by=by, why=why, clock=clock)
    _remove(folder, hours, ids)
    if count:
        clerk.close(clock())
    return count


def finish(folder: Path, removals: Removals, removal: Removal, *, version: str, clock: Callable[[], float] = time.time) -> bool:
    """Carry on where another was cut short; False when this removal is no forgetting. Of the exchanges it told of nothing stays, whichever
    hours it had come to. Blocks; call it inside of `alone`. Raises OSError, NotFound."""
    events = [each for each in removals.events(removal) if each.kind == "forget"]
    if not events:
        return False
    told: Entries = {}
    ids = set()
    for each in events:
        for hour, name, entry in told_of(each.detail or {}):
            ids.add(name)
            part, seq = entry.get("part"), entry.get("seq")
            if isinstance(part, int) and isinstance(seq, int):
                told.setdefault(hour, {})[name, part, seq] = entry
    detail = events[0].detail or {}
    clerk = Clerk(folder, version=version, removal=removal)
    _make_plain(folder, ids, removals)
    by, why = str(detail.get("by", "")), str(detail.get("why", ""))
    hours, _ = _tell(folder, clerk, ids, indexes(removals), told, by=by, why=why, clock=clock)
    _remove(folder, {*hours, *told}, ids)
    clerk.close(clock())
    return True


def _tell(
    folder: Path,
    clerk: Clerk,
    ids: Collection[bytes],
    gone: Mapping[str, Collection[int]],
    told: Mapping[str, Mapping[Key, Json]],
    *,
    by: str,
    why: str,
    clock: Callable[[], float],
) -> tuple[list[str], int]:
    """Tell of every record of `ids` in every hour, but of those in `told`, which this removal has told of. The hours that hold something
    of them, and how many records were told of. Nothing is removed yet.
    """
    hours, count = [], 0
    for path in segments(folder):
        hour = hour_of(path.name)
        if not _holds(folder, path.name, ids):
            continue
        hours.append(hour)
        known = told.get(hour, {})
        removed = list(entries(folder, hour, ids, gone.get(hour, ()), known))
        now = clock()
        lines = [partial(forget_line, at=now, by=by, why=why, removed=removed[at : at + _MOST]) for at in range(0, len(removed), _MOST)]
        if lines:
            clerk.tell(now, lines)
            count += len(removed)
    return hours, count


# Removing: each step may be done again.


def _make_plain(folder: Path, ids: Collection[bytes], told: Removals) -> None:
    """Have every hour that holds something of `ids` in its plain form: only there can members be cut out."""
    for path in segments(folder):
        if path.name.endswith(PACKED) and _holds(folder, path.name, ids):
            hour = hour_of(path.name)
            done = unpack(folder, hour, forgotten=forgotten(folder, hour, told))
            if isinstance(done, Refused):
                raise NotFound(done.why)


def _holds(folder: Path, name: str, ids: Collection[bytes]) -> bool:
    """Whether something of that segment begins as one of `ids`, a whole record or not."""
    with contextlib.suppress(NotFound), open_segment(folder, name) as handle:
        fd = handle.fileno() if isinstance(handle, Plain) else None
        return any(_whose(fd, each) in ids for each in handle.scan())
    return False


def _remove(folder: Path, hours: Collection[str], ids: Collection[bytes]) -> None:
    """Every step is taken, whatever becomes of the others; then the first failure is raised. Quarantine comes last: it holds the least."""
    failures = _Failures()
    for hour in sorted(hours):
        with failures:
            _rewrite(folder, plain_name(hour), ids)
        for name in (hour + PACKED, f".{hour}{PACKED}.new"):  # what packing left when it was cut short
            with failures:
                _unlink(folder / name)
    with failures:
        sync_folder(folder)
    if not failures.first:  # else it would be made anew from what is still there
        with failures:
            derived.forget(folder, ids)
    with failures:
        _clear_quarantine(folder, ids, failures)
    if failures.first is not None:
        raise failures.first


class _Failures:
    """Steps of which none keeps the next from being taken: `with` holds back what goes wrong in one."""

    def __init__(self) -> None:
        self.first: Exception | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, OSError | ArchiveError):
            return False
        self.first = self.first or error
        return True


def _unlink(path: Path) -> None:
    """Anything but a regular file is none of ours, and stays."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISREG(path.lstat().st_mode):
            path.unlink()


def _rewrite(folder: Path, name: str, ids: Collection[bytes]) -> None:
    """Put a copy without what begins as one of `ids` in the segment's place, unless it has none of it."""
    appender = Appender(folder)
    try:
        with appender.held(name) as held, open(held.fd, "rb", buffering=0, closefd=False) as file:
            spans, kept = [], False
            for each in scan(file):
                if _whose(held.fd, each) in ids:
                    spans.append(_span(each))
                else:
                    kept = True
            if not kept and spans:
                (folder / name).unlink()  # no bytes are no gzip
            elif spans:
                os.close(rewritten(folder / name, held.fd, spans, os.fstat(held.fd).st_size))
            else:
                _unlink(folder / f".{name}.new")  # a copy that a crash left: it may hold what was forgotten since
    except NotFound:
        _unlink(folder / f".{name}.new")
    finally:
        appender.close()


def _span(each: Found | Damage) -> Span:
    return Span(each.offset, each.offset + (each.tag.length if isinstance(each, Found) else each.length))


def _whose(fd: int | None, each: Found | Damage) -> bytes | None:
    """Whose record begins there, whole or not; None where none does, or one of the archive's own lines."""
    if isinstance(each, Found):
        tag: Tag | None = each.tag
    else:
        tag = None if fd is None else read_tag(os.pread(fd, HEADER_LENGTH, each.offset))
    return tag.id if tag is not None and tag.part != SERVICE_PART else None


@contextlib.contextmanager
def _quarantine(folder: Path) -> Iterator[int | None]:
    """The quarantine folder, open; None where there is none. Raises Unwritable for a symbolic link."""
    path = folder / QUARANTINE
    if not os.path.lexists(path):
        yield None
        return
    with inner_folder(path) as within:
        yield within


def _clear_quarantine(folder: Path, ids: Collection[bytes], failures: _Failures) -> None:
    """Cut out of the quarantine files what begins with a header of one of `ids`, up to the next header; remove those left with none."""
    with _quarantine(folder) as within:
        if within is None:
            return
        for name in sorted(os.listdir(within)):
            with failures, contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):  # a folder, a socket: not ours
                    _clear_file(within, name, ids)
        with failures:
            sync_names(within)


def _clear_file(within: int, name: str, ids: Collection[bytes]) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=within)
    try:
        with open(fd, "rb", buffering=0, closefd=False) as file:
            spans: list[Span] = []
            kept = forgotten = False
            for each in scan(file):
                whose = _whose(fd, each)
                if whose is not None:
                    forgotten = whose in ids
                    kept = kept or not forgotten
                if forgotten:
                    spans.append(_span(each))
        if spans and not kept:
            os.unlink(name, dir_fd=within)
        elif spans:
            os.close(rewritten(Path(name), fd, spans, os.fstat(fd).st_size, within=within))
    finally:
        os.close(fd)
