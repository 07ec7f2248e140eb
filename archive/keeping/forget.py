"""Forgetting: the records of chosen exchanges are told of (by the clerk) and then cut out of their segments, all others byte for byte the
same; with them goes what recovery set aside of them and what is derived from them.

Choosing is separate, so that it can be shown first. Cut short anywhere, the rest is done by whoever calls `finish`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.catalog import derived
from archive.errors import ArchiveError, DamagedMember, NotFound
from archive.folder import PACKED, QUARANTINE, SEGMENT_NAME, hour_of, inner_folder, plain_name, seal_path, segments, sync_folder, sync_names
from archive.handle import Handle, Plain, open_segment
from archive.keeping.clerk import Clerk, Removal, Removals, writer_of
from archive.keeping.pack import Refused, unpack
from archive.line import SERVICE_PART, forget_line
from archive.member import HEADER_LENGTH, Damage, Found, Tag, read_tag, scan
from archive.record import id_text
from archive.recovery import Span, rewritten
from archive.segment import Appender

__all__ = ["carry_out", "finish", "forgotten"]

_MOST: Final = 1000
"""Records in one forget line: about 400 KB, so that any reader takes it in."""
_DIGEST: Final = 8
"""Bytes by which a seal knows a line."""
_READ: Final = 1 << 20
_NEIGHBOURS: Final = 32
"""Records looked at to find whose a damaged one is: two for each writer that is at work in an hour."""

Json = dict[str, Any]
Key = tuple[bytes, int, int]
"""Exchange, part and number: what tells a record from all others."""
Entries = dict[str, dict[Key, Json]]
"""Of each hour what was told of its records."""


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
    hours, count = _tell(folder, clerk, ids, _indexes(told), {}, by=by, why=why, clock=clock)
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
        for hour, name, entry in _told(each.detail or {}):
            ids.add(name)
            part, seq = entry.get("part"), entry.get("seq")
            if isinstance(part, int) and isinstance(seq, int):
                told.setdefault(hour, {})[name, part, seq] = entry
    detail = events[0].detail or {}
    clerk = Clerk(folder, version=version, removal=removal)
    _make_plain(folder, ids, removals)
    by, why = str(detail.get("by", "")), str(detail.get("why", ""))
    hours, _ = _tell(folder, clerk, ids, _indexes(removals), told, by=by, why=why, clock=clock)
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
        entries = list(_entries(folder, hour, ids, gone.get(hour, ()), known))
        now = clock()
        lines = [partial(forget_line, at=now, by=by, why=why, removed=entries[at : at + _MOST]) for at in range(0, len(entries), _MOST)]
        if lines:
            clerk.tell(now, lines)
            count += len(entries)
    return hours, count


def forgotten(folder: Path, hour: str, removals: Removals) -> dict[int, bytes]:
    """Of the records of a sealed hour those that are there no more because they were forgotten: number among those sealed, leaf hash."""
    sealed = _sealed(folder, hour)
    leaves = _indexes(removals).get(hour, {}).values()
    return {sealed[leaf[:_DIGEST]]: leaf for leaf in leaves if leaf[:_DIGEST] in sealed}


# What a forget line keeps of a record.


def _entries(folder: Path, hour: str, ids: Collection[bytes], gone: Collection[int], told: Mapping[Key, Json]) -> Iterator[Json]:
    """An entry for each record of `ids` in this hour that is not among those `told`. `gone`: the indexes of those removed before."""
    with open_segment(folder, plain_name(hour)) as handle:
        assert isinstance(handle, Plain)
        found = [each for each in handle.scan() if isinstance(each, Found)]
        here = {_key(each.tag) for each in found}
        taken = {*gone, *(it["index"] for key, it in told.items() if key not in here and isinstance(it.get("index"), int))}
        sealed = _sealed(folder, hour)
        index = -1
        for each in found:
            index += 1
            while index in taken:
                index += 1
            if each.tag.id in ids and each.tag.part != SERVICE_PART and _key(each.tag) not in told:
                yield _entry(handle, hour, index, each, sealed, found)


def _key(tag: Tag) -> Key:
    return tag.id, tag.part, tag.seq


def _entry(handle: Plain, hour: str, index: int, record: Found, sealed: Mapping[bytes, int], found: Sequence[Found]) -> Json:
    """Of a record that cannot be read what its header says, and the hash of its bytes."""
    tag = record.tag
    begin, digest = _digest(handle, record)
    if digest is not None:
        index = sealed.get(digest[:_DIGEST], index)
    writer = writer_of(begin or handle.beginning(record.offset))
    return {
        "segment": hour,
        "index": index,
        "id": id_text(tag.id),
        "part": tag.part,
        "writer": writer or _writer_beside(handle, record, found) or "",
        "seq": tag.seq,
        "digest": None if digest is None else digest.hex(),
        "member": _member(handle.fileno(), record),
        "bytes": tag.length,
    }


def _digest(handle: Handle, record: Found) -> tuple[bytes, bytes | None]:
    """How the line begins, and its leaf hash; none of a line that cannot be read to its end."""
    leaf, begin = sha256(b"\0"), b""
    try:
        for piece in handle.pieces(record.offset):
            begin = begin or piece
            leaf.update(piece)
    except DamagedMember:
        return begin, None
    return begin, leaf.digest()


def _member(fd: int, record: Found) -> str | None:
    member = sha256()
    try:
        for piece in _bytes(fd, record.offset, record.tag.length):
            member.update(piece)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None  # the disk itself cannot read them
    return member.hexdigest()


def _writer_beside(handle: Plain, record: Found, found: Sequence[Found]) -> str | None:
    """Whose line it must be: of the only writer in this hour who has the number before it, or the one after."""
    beside = [each for each in found if abs(each.tag.seq - record.tag.seq) == 1]
    names = {writer_of(handle.beginning(each.offset)) for each in beside[:_NEIGHBOURS]} - {None}
    return names.pop() if len(names) == 1 else None


def _bytes(fd: int, at: int, length: int) -> Iterator[bytes]:
    end = at + length
    while at < end and (data := os.pread(fd, min(_READ, end - at), at)):
        at += len(data)
        yield data


def _sealed(folder: Path, hour: str) -> dict[bytes, int]:
    """Where the seal of that hour has each line, by the beginning of its digest. Empty without a seal, or with one that cannot be read."""
    try:
        lines = b64decode(skim.decode(seal_path(folder, hour).read_bytes())["digests"]["lines"])
    except (OSError, DamagedMember, ValueError, KeyError, TypeError):
        return {}
    return {lines[at : at + _DIGEST]: at // _DIGEST for at in range(0, len(lines), _DIGEST)}


def _indexes(told: Removals) -> dict[str, dict[int, bytes]]:
    """Of each hour the indexes of records that are there no more, as far as they were told of, and their leaf hashes; empty of those that
    could not be read."""
    found: dict[str, dict[int, bytes]] = {}
    for removal in told.all():
        if removal.closed:
            for each in told.events(removal):
                for hour, _, entry in _told(each.detail or {}) if each.kind == "forget" else ():
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        found.setdefault(hour, {})[int(entry["index"])] = bytes.fromhex(entry["digest"] or "")
    return found


def _told(detail: Json) -> Iterator[tuple[str, bytes, Json]]:
    """Hour, exchange and entry of what a forget line tells of. What is none of ours is left out: a line may hold anything."""
    removed = detail.get("removed")
    for each in removed if isinstance(removed, list) else ():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            hour, name = each["segment"], bytes.fromhex(each["id"].replace("-", ""))
            if SEGMENT_NAME.fullmatch(plain_name(hour)) and len(name) == 16:
                yield hour, name, each


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
