"""Forgetting: the records of chosen exchanges are told of (by the clerk) and then cut out of their segments, all others byte for byte the
same; with them goes what recovery set aside of them and what is derived from them.

Choosing is separate, so that it can be shown first. Cut short anywhere, the rest is done by whoever calls `finish`.
"""

from __future__ import annotations

import contextlib
import os
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.catalog import derived
from archive.errors import ArchiveError, DamagedMember, NotFound
from archive.folder import PACKED, QUARANTINE, SEGMENT_NAME, hour_of, plain_name, seal_path, segments, sync_folder
from archive.handle import Plain, open_segment
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

Json = dict[str, Any]


def carry_out(folder: Path, ids: Collection[bytes], *, by: str, why: str, version: str, clock: Callable[[], float] = time.time) -> int:
    """Remove every record of these exchanges; returns how many. Call it inside of `alone`, for exchanges that have ended.

    Blocks: for what is removed as long as inflating it takes, and for a copy of each segment concerned; writers to the current hour
    wait meanwhile. Raises OSError, NotFound; what has been told of by then is for `finish`.
    """
    told = Removals(folder)
    told.refresh()
    _make_plain(folder, ids, told)
    gone = _indexes(told)
    clerk = Clerk(folder, version=version)
    hours, count = [], 0
    for path in segments(folder):
        hour = hour_of(path.name)
        if not _holds(folder, path.name, ids):
            continue
        hours.append(hour)
        entries = list(_entries(folder, hour, ids, gone.get(hour, {})))
        now = clock()
        lines = [partial(forget_line, at=now, by=by, why=why, removed=entries[at : at + _MOST]) for at in range(0, len(entries), _MOST)]
        if lines:
            clerk.tell(now, lines)
            count += len(entries)
    _remove(folder, hours, ids)
    if count:
        clerk.close(clock())
    return count


def finish(folder: Path, removals: Removals, removal: Removal, *, version: str, clock: Callable[[], float] = time.time) -> bool:
    """Carry on where another was cut short; False when this removal is no forgetting. Blocks; call it inside of `alone`. Raises OSError,
    NotFound."""
    events = [each for each in removals.events(removal) if each.kind == "forget"]
    told = [(hour, name) for each in events for hour, name, _ in _told(each.detail or {})]
    if not events:
        return False
    ids = {name for _, name in told}
    _make_plain(folder, ids, removals)
    _remove(folder, {hour for hour, _ in told}, ids)
    Clerk(folder, version=version, removal=removal).close(clock())
    return True


def forgotten(folder: Path, hour: str, removals: Removals) -> dict[int, bytes]:
    """Of the records of a sealed hour those that are there no more because they were forgotten: number among those sealed, leaf hash."""
    sealed = _sealed(folder, hour)
    leaves = _indexes(removals).get(hour, {}).values()
    return {sealed[leaf[:_DIGEST]]: leaf for leaf in leaves if leaf[:_DIGEST] in sealed}


# What a forget line keeps of a record.


def _entries(folder: Path, hour: str, ids: Collection[bytes], gone: Collection[int]) -> Iterator[Json]:
    """An entry for each record of `ids` in this hour. `gone`: the indexes of those removed before.

    A record that cannot be read has none: nothing proves what it was. It goes all the same.
    """
    with open_segment(folder, plain_name(hour)) as handle:
        assert isinstance(handle, Plain)
        sealed = _sealed(folder, hour)
        index = -1
        for each in handle.scan():
            if not isinstance(each, Found):
                continue
            index += 1
            while index in gone:
                index += 1
            if each.tag.id in ids and each.tag.part != SERVICE_PART:
                with contextlib.suppress(DamagedMember):
                    yield _entry(handle, hour, index, each, sealed)


def _entry(handle: Plain, hour: str, index: int, found: Found, sealed: Mapping[bytes, int]) -> Json:
    tag = found.tag
    leaf, begin = sha256(b"\0"), b""
    for piece in handle.pieces(found.offset):
        begin = begin or piece
        leaf.update(piece)
    member = sha256()
    for piece in _bytes(handle.fileno(), found.offset, tag.length):
        member.update(piece)
    return {
        "segment": hour,
        "index": sealed.get(leaf.digest()[:_DIGEST], index),
        "id": id_text(tag.id),
        "part": tag.part,
        "writer": writer_of(begin) or "",
        "seq": tag.seq,
        "digest": leaf.hexdigest(),
        "member": member.hexdigest(),
        "bytes": tag.length,
    }


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
    """Of each hour the indexes of records that are there no more, as far as they were told of, and their leaf hashes."""
    found: dict[str, dict[int, bytes]] = {}
    for removal in told.all():
        if removal.closed:
            for each in told.events(removal):
                for hour, _, entry in _told(each.detail or {}) if each.kind == "forget" else ():
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        found.setdefault(hour, {})[int(entry["index"])] = bytes.fromhex(entry["digest"])
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
    for hour in sorted(hours):
        _rewrite(folder, plain_name(hour), ids)
        for name in (hour + PACKED, f".{hour}{PACKED}.new"):  # what packing left when it was cut short
            (folder / name).unlink(missing_ok=True)
    _clear_quarantine(folder, ids)
    sync_folder(folder)
    derived.forget(folder, ids)


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
                (folder / f".{name}.new").unlink(missing_ok=True)  # a copy that a crash left: it may hold what was forgotten since
    except NotFound:
        (folder / f".{name}.new").unlink(missing_ok=True)
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


def _clear_quarantine(folder: Path, ids: Collection[bytes]) -> None:
    """Cut out of the quarantine files what begins with a header of one of `ids`, up to the next header; remove those left with none."""
    quarantine = folder / QUARANTINE
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(quarantine)):
            with contextlib.suppress(ArchiveError, FileNotFoundError):
                _clear_file(quarantine / name, ids)
        sync_folder(quarantine)


def _clear_file(path: Path, ids: Collection[bytes]) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # a symbolic link, a socket: not ours
    with open(fd, "rb", buffering=0) as file:
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
            path.unlink()
        elif spans:
            os.close(rewritten(path, fd, spans, os.fstat(fd).st_size))
