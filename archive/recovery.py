"""Recovery: what a crash or a power loss left in a segment that is still written to is set aside, so that plain gzip reads the rest.

Nothing is thrown away, and damage of any other origin is left as it is. Works on a descriptor its caller has locked; appends nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from archive.errors import DamagedMember
from archive.folder import QUARANTINE, inner_folder, make_folder, sync_folder, sync_names
from archive.member import Damage, Found, data_from, inflated, scan

__all__ = ["Span", "Survey", "rewritten", "set_aside", "survey"]

_DOUBTED: Final = 64
"""How many unsound members in a row are cut off at the end; what lies before them is for the readers to report."""
_UNSYNCED: Final = 128 << 20
"""How far back from the end a power loss may have left pages unwritten: more than one second of writing at its fastest."""
_MARK: Final = 1 << 20
_SECTOR: Final = 512
"""Every file system's blocks are multiples of it, so what was never written ends at a multiple of it."""
_ZEROS: Final = bytes(16)
"""So many zeros in a row are rare in deflated data and in no header. A suspicion only: then a checksum decides."""
_COPY: Final = 1 << 20


class Span(NamedTuple):
    """Bytes of a segment: from `start` to before `end`."""

    start: int
    end: int


class Survey(NamedTuple):
    """What is the matter with a segment."""

    end: int
    """Where it ought to end: what follows is torn, or members whose data is not what was written."""
    lost: list[Span]
    """Before `end`, in order: where the disk never wrote what it had taken, with whole members behind. A power loss does that."""


def survey(fd: int, start: int, size: int) -> Survey:
    """Look at a segment of `size` bytes from `start`, a member's beginning, on. From 0 its last members' data is looked at, too."""
    last: deque[Found | Damage] = deque(maxlen=_DOUBTED)
    marks = [start]
    end, broken = size, -1
    with open(fd, "rb", buffering=0, closefd=False) as file:
        for each in scan(file, start):
            if isinstance(each, Damage) and each.torn:
                end = each.offset
                break
            last.append(each)
            if isinstance(each, Damage):
                broken = each.offset
            if each.offset - marks[-1] >= _MARK:
                marks.append(each.offset)
        if start:
            return Survey(end, [])
        while last and not _sound(fd, last[-1]):
            end = last.pop().offset
        since = max((mark for mark in marks if mark <= end - _UNSYNCED), default=0)
        doubtful = broken >= since or _never_written(fd, Span(since, end))
        return _without_end(end, list(_lost(file, fd, since, end)) if doubtful else [])


def _without_end(end: int, lost: list[Span]) -> Survey:
    while lost and lost[-1].end >= end:
        end = lost.pop().start
    return Survey(end, lost)


def _sound(fd: int, last: Found | Damage) -> bool:
    """After a power loss the length may be right and the data not there: is this really what was written?"""
    if isinstance(last, Damage):
        return False
    try:
        for _ in inflated(_read(fd, Span(last.offset, last.offset + last.tag.length)), most=_COPY):
            pass
    except DamagedMember:
        return False
    return True


def _read(fd: int, span: Span) -> Iterator[bytes]:
    at = span.start
    while at < span.end and (data := os.pread(fd, min(_COPY, span.end - at), at)):
        yield data
        at += len(data)


def _lost(file: BinaryIO, fd: int, since: int, end: int) -> Iterator[Span]:
    """The stretches from `since` to `end` in which sectors are zeros that members had filled, joined where they touch."""
    begun: Span | None = None
    for each in scan(file, since):
        if each.offset >= end:
            break
        span = Span(each.offset, each.offset + (each.tag.length if isinstance(each, Found) else each.length))
        if not _never_written(fd, span) or _sound(fd, each):
            continue
        if begun is not None and begun.end < span.start:
            yield begun
            begun = None
        begun = Span(span.start if begun is None else begun.start, span.end)
    if begun is not None:
        yield begun


def _never_written(fd: int, span: Span) -> bool:
    """Whether a sector of it ends in zeros, as one does that was taken and never written, or written in part before.

    No member begins with a zero: where one should begin, and the sector goes on in nothing else, a single one is enough.
    """
    if data_from(fd, span.start) != span.start:
        return True  # a hole
    first = span.start % _SECTOR
    at = span.start - first
    while at < span.end:
        piece = os.pread(fd, min(_COPY, -(-(span.end - at) // _SECTOR) * _SECTOR), at)
        if at <= span.start and not any(piece[first:_SECTOR]):
            return True
        if any(piece[sector - len(_ZEROS) : sector] == _ZEROS for sector in range(_SECTOR, len(piece) + 1, _SECTOR)):
            return True
        if not piece:
            break
        at += len(piece)
    return False


def set_aside(folder: Path, name: str, fd: int, spans: Sequence[Span]) -> Path:
    """Copy `spans` of the segment `name` to one file in the quarantine folder, each as far from its beginning as the first is from it.

    It is on the disk, its name too, when this returns. Raises OSError, and then leaves nothing behind; Unwritable where the quarantine
    folder is a symbolic link.
    """
    quarantine = folder / QUARANTINE
    if not os.path.lexists(quarantine):
        make_folder(quarantine)
    first = spans[0].start
    aside = f"{name}.{first}.{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}"
    with inner_folder(quarantine) as within:
        target = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=within)
        try:
            os.fchmod(target, 0o600)
            for span in spans:
                _copy(fd, span, target, span.start - first)
            os.ftruncate(target, spans[-1].end - first)
            os.fsync(target)
            sync_names(within)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=within)  # half a copy would say that the bytes are safe
            raise
        finally:
            os.close(target)
    return quarantine / aside


def rewritten(path: Path, fd: int, without: Sequence[Span], end: int, *, within: int | None = None) -> int:
    """Put a copy of the file at `path` in its place that ends at `end` and lacks the spans `without`; its descriptor.

    `within`: the folder that a relative `path` lies in, as a descriptor. The copy is locked and on the disk before it takes the name, so
    at any moment the one or the other lies there. Raises OSError; under the name lies a whole file all the same.
    """
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=within)  # left by a crash in doing this: we hold the lock
    target = os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=within)
    try:
        os.fchmod(target, 0o600)
        fcntl.flock(target, fcntl.LOCK_EX)
        at = 0
        for span in [*without, Span(end, end)]:
            _append(fd, Span(at, span.start), target)
            at = span.end
        os.fsync(target)
        os.replace(new, path, src_dir_fd=within, dst_dir_fd=within)
        if within is None:
            sync_folder(path.parent)
        else:
            sync_names(within)
    except OSError:
        os.close(target)
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=within)
        raise
    return target


def _append(source: int, span: Span, target: int) -> None:
    for data in _read(source, span):
        written = 0
        while written < len(data):
            written += os.write(target, memoryview(data)[written:])


def _copy(source: int, span: Span, target: int, to: int) -> None:
    """Copy bytes as they are and holes as holes: a power loss can leave gigabytes of them, which then cost nothing."""
    at = data_from(source, span.start)
    while at is not None and at < span.end:
        data = os.pread(source, min(_COPY, span.end - at), at)
        if not data:
            break
        at = data_from(source, at + os.pwrite(target, data, at - span.start + to))
