"""What a forget line keeps of each record, so that the rest stays provable; and what forget lines tell of, read back. Changes nothing."""

from __future__ import annotations

import contextlib
import errno
import os
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from archive import skim
from archive.errors import DamagedMember
from archive.folder import SEGMENT_NAME, plain_name, seal_path
from archive.handle import Handle, Plain, open_segment
from archive.keeping.clerk import Removals, writer_of
from archive.line import SERVICE_PART
from archive.member import Found, Tag
from archive.record import id_text

__all__ = ["Entries", "Key", "entries", "forgotten", "indexes", "told_of"]

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


def entries(folder: Path, hour: str, ids: Collection[bytes], gone: Collection[int], told: Mapping[Key, Json]) -> Iterator[Json]:
    """An entry for each record of `ids` in this hour that is not among those `told`. `gone`: the indexes of those removed before."""
    with open_segment(folder, plain_name(hour)) as handle:
        assert isinstance(handle, Plain)
        here = {_key(each.tag) for each in handle.scan() if isinstance(each, Found)} if told else set()
        taken = {*gone, *(it["index"] for key, it in told.items() if key not in here and isinstance(it.get("index"), int))}
        sealed = _sealed(folder, hour)
        index = -1
        for each in handle.scan():
            if not isinstance(each, Found):
                continue
            index += 1
            while index in taken:
                index += 1
            if each.tag.id in ids and each.tag.part != SERVICE_PART and _key(each.tag) not in told:
                yield _entry(handle, hour, index, each, sealed)


def _key(tag: Tag) -> Key:
    return tag.id, tag.part, tag.seq


def _entry(handle: Plain, hour: str, index: int, record: Found, sealed: Mapping[bytes, int]) -> Json:
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
        "writer": writer or _writer_beside(handle, record) or "",
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


def _writer_beside(handle: Plain, record: Found) -> str | None:
    """Whose line it must be: of the only writer in this hour who has the number before it, or the one after."""
    beside = (each for each in handle.scan() if isinstance(each, Found) and abs(each.tag.seq - record.tag.seq) == 1)
    names = {writer_of(handle.beginning(each.offset)) for each in islice(beside, _NEIGHBOURS)} - {None}
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


def indexes(told: Removals) -> dict[str, dict[int, bytes]]:
    """Of each hour the indexes of records that are there no more, as far as they were told of, and their leaf hashes; empty of those that
    could not be read."""
    found: dict[str, dict[int, bytes]] = {}
    for removal in told.all():
        if removal.closed:
            for each in told.events(removal):
                for hour, _, entry in told_of(each.detail or {}) if each.kind == "forget" else ():
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        found.setdefault(hour, {})[int(entry["index"])] = bytes.fromhex(entry["digest"] or "")
    return found


def told_of(detail: Json) -> Iterator[tuple[str, bytes, Json]]:
    """Hour, exchange and entry of what a forget line tells of. What is none of ours is left out: a line may hold anything."""
    removed = detail.get("removed")
    for each in removed if isinstance(removed, list) else ():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            hour, name = each["segment"], bytes.fromhex(each["id"].replace("-", ""))
            if SEGMENT_NAME.fullmatch(plain_name(hour)) and len(name) == 16:
                yield hour, name, each


def forgotten(folder: Path, hour: str, removals: Removals) -> dict[int, bytes]:
    """Of the records of a sealed hour those that are there no more because they were forgotten: number among those sealed, leaf hash."""
    sealed = _sealed(folder, hour)
    leaves = indexes(removals).get(hour, {}).values()
    return {sealed[leaf[:_DIGEST]]: leaf for leaf in leaves if leaf[:_DIGEST] in sealed}
