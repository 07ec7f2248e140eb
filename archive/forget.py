"""Forgetting: the records of chosen exchanges are told of (`archive.clerk`) and then cut out of their segments, all others byte for byte
the same; with them goes what recovery set aside of them and what is derived from them.

Choosing is separate, so that it can be shown first. Cut short anywhere, the rest is done by whoever calls `finish`.
"""

from __future__ import annotations

import contextlib
import os
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.clerk import Clerk, Removal, Removals, writer_of
from archive.errors import ArchiveError, DamagedMember, NotFound
from archive.folder import PACKED, QUARANTINE, SEGMENT_NAME, hour_of, plain_name, seal_path, segments, sync_folder
from archive.handle import Plain, open_segment
from archive.line import SERVICE_PART, forget_line
from archive.member import HEADER_LENGTH, Damage, Found, read_tag, scan
from archive.record import id_text
from archive.recovery import Span, rewritten
from archive.segment import Appender

__all__ = ["carry_out", "finish"]

_MOST: Final = 1000
"""Records in one forget line: about 400 KB, so that any reader takes it in."""
_DIGEST: Final = 8
"""Bytes by which a seal knows a line."""
_READ: Final = 1 << 20

Json = dict[str, Any]
Tag = tuple[bytes, int, int]
"""Exchange, part and number: what a record's header says of it."""


def carry_out(folder: Path, ids: Collection[bytes], *, by: str, why: str, version: str, clock: Callable[[], float] = time.time) -> int:
    """Remove every record of these exchanges; returns how many. Call it inside of `alone`, for exchanges that have ended.

    Blocks: for what is removed as long as inflating it takes, and for a copy of each segment concerned; writers to the current hour
    wait meanwhile. Raises OSError, NotFound; what has been told of by then is for `finish`.
    """
    _make_plain(folder, ids)
    told = Removals(folder)
    told.refresh()
    gone = _indexes(told)
    clerk = Clerk(folder, version=version)
    wanted: dict[str, set[Tag]] = {}
    for path in segments(folder):
        hour = hour_of(path.name)
        entries = list(_entries(folder, hour, ids, gone.get(hour, set())))
        if entries or _holds_torn(folder, path.name, ids):
            wanted[hour] = set(map(_tag, entries))
        now = clock()
        lines = [partial(forget_line, at=now, by=by, why=why, removed=entries[at : at + _MOST]) for at in range(0, len(entries), _MOST)]
        if lines:
            clerk.tell(now, lines)
    _remove(folder, wanted, ids)
    if any(wanted.values()):
        clerk.close(clock())
    return sum(map(len, wanted.values()))


def finish(folder: Path, removals: Removals, removal: Removal, *, version: str, clock: Callable[[], float] = time.time) -> bool:
    """Carry on where another was cut short; False when this removal is no forgetting. Blocks; call it inside of `alone`. Raises OSError,
    NotFound."""
    wanted: dict[str, set[Tag]] = {}
    found = False
    for each in removals.events(removal):
        if each.kind == "forget":
            found = True
            for hour, entry in _told(each.detail or {}):
                wanted.setdefault(hour, set()).add(_tag(entry))
    if not found:
        return False
    ids = {tag[0] for tags in wanted.values() for tag in tags}
    _make_plain(folder, ids)
    _remove(folder, wanted, ids)
    Clerk(folder, version=version, removal=removal).close(clock())
    return True


# What a forget line keeps of a record.


def _entries(folder: Path, hour: str, ids: Collection[bytes], gone: set[int]) -> Iterator[Json]:
    """An entry for each record of `ids` in this hour. `gone`: the indexes of those removed before."""
    with contextlib.suppress(NotFound), open_segment(folder, plain_name(hour)) as handle:
        assert isinstance(handle, Plain)
        sealed: dict[bytes, int] | None = None
        index = -1
        for each in handle.scan():
            if not isinstance(each, Found):
                continue
            index += 1
            while index in gone:
                index += 1
            if each.tag.part == SERVICE_PART or each.tag.id not in ids:
                continue
            if sealed is None:
                sealed = _sealed(folder, hour)
            entry = _entry(handle, hour, index, each)
            if entry["digest"] is not None:
                entry["index"] = sealed.get(bytes.fromhex(entry["digest"])[:_DIGEST], index)
            yield entry


def _entry(handle: Plain, hour: str, index: int, found: Found) -> Json:
    tag = found.tag
    leaf, begin = sha256(b"\0"), b""
    digest: str | None = None
    try:
        for piece in handle.pieces(found.offset):
            begin = begin or piece
            leaf.update(piece)
        digest = leaf.hexdigest()
    except DamagedMember:
        pass  # nothing proves what it was; it goes all the same
    member = sha256()
    for piece in _bytes(handle.fileno(), found.offset, tag.length):
        member.update(piece)
    return {
        "segment": hour,
        "index": index,
        "id": id_text(tag.id),
        "part": tag.part,
        "writer": writer_of(begin),
        "seq": tag.seq,
        "digest": digest,
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


def _indexes(told: Removals) -> dict[str, set[int]]:
    """Of each hour the indexes of records that are there no more, as far as they were told of."""
    found: dict[str, set[int]] = {}
    for removal in told.all():
        if removal.closed:
            for each in told.events(removal):
                for hour, entry in _told(each.detail or {}) if each.kind == "forget" else ():
                    if isinstance(entry.get("index"), int):
                        found.setdefault(hour, set()).add(entry["index"])
    return found


def _told(detail: Json) -> Iterator[tuple[str, Json]]:
    """The entries of a forget line that can be what one of ours wrote."""
    removed = detail.get("removed")
    for each in removed if isinstance(removed, list) else ():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            _tag(each)
            if SEGMENT_NAME.fullmatch(plain_name(each["segment"])):
                yield each["segment"], each


def _tag(entry: Json) -> Tag:
    name, part, seq = bytes.fromhex(entry["id"].replace("-", "")), entry["part"], entry["seq"]
    if len(name) != 16 or not (isinstance(part, int) and isinstance(seq, int)) or part == SERVICE_PART:
        raise ValueError("no record of an exchange")
    return name, part, seq


# Removing: each step may be done again.


def _make_plain(folder: Path, ids: Collection[bytes]) -> None:
    """Have every hour that holds a record of `ids` in its plain form: only there can members be cut out."""
    for path in segments(folder):
        if path.name.endswith(PACKED) and _holds(folder, path.name, ids):
            raise NotFound(f"{path.name} is packed; unpack it first: verbatim unpack {hour_of(path.name)}")


def _holds(folder: Path, name: str, ids: Collection[bytes]) -> bool:
    with contextlib.suppress(NotFound), open_segment(folder, name) as handle:
        return any(isinstance(each, Found) and each.tag.id in ids and each.tag.part != SERVICE_PART for each in handle.scan())
    return False


def _remove(folder: Path, wanted: dict[str, set[Tag]], ids: Collection[bytes]) -> None:
    for hour, tags in sorted(wanted.items()):
        _rewrite(folder, plain_name(hour), tags, ids)
        for name in (hour + PACKED, f".{hour}{PACKED}.new"):  # what packing left when it was cut short
            (folder / name).unlink(missing_ok=True)
    _clear_quarantine(folder, ids)
    sync_folder(folder)


def _rewrite(folder: Path, name: str, tags: set[Tag], ids: Collection[bytes]) -> None:
    """Put a copy without these records, and without torn ones of `ids`, in the segment's place, unless it has none of them."""
    appender = Appender(folder)
    try:
        with appender.held(name) as held, open(held.fd, "rb", buffering=0, closefd=False) as file:
            spans, kept = [], False
            for each in scan(file):
                if isinstance(each, Found):
                    goes = (each.tag.id, each.tag.part, each.tag.seq) in tags
                    length = each.tag.length
                else:
                    goes = _begins(held.fd, each.offset) in ids
                    length = each.length
                kept = kept or not goes
                if goes:
                    spans.append(Span(each.offset, each.offset + length))
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


def _holds_torn(folder: Path, name: str, ids: Collection[bytes]) -> bool:
    """Whether bytes of that segment that are no whole record begin as one of `ids`."""
    with contextlib.suppress(NotFound), open_segment(folder, name) as handle:
        return isinstance(handle, Plain) and any(
            isinstance(each, Damage) and _begins(handle.fileno(), each.offset) in ids for each in handle.scan()
        )
    return False


def _begins(fd: int, offset: int) -> bytes | None:
    """Whose record begins there, whole or not; None where no header is."""
    tag = read_tag(os.pread(fd, HEADER_LENGTH, offset))
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
            whose = _begins(fd, each.offset)
            if whose is not None:
                forgotten = whose in ids
                kept = kept or not forgotten
            if forgotten:
                spans.append(Span(each.offset, each.offset + (each.tag.length if isinstance(each, Found) else each.length)))
        if spans and not kept:
            path.unlink()
        elif spans:
            os.close(rewritten(path, fd, spans, os.fstat(fd).st_size))
