"""Sealing an hour that is over: one manifest with the Merkle root of its lines, chained to the one before it, signed where a key is given.

A seal is made under the segment's lock and never changed. Whether an archive still is as its seals say is asked in `archive.proof.verify`.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from archive.errors import DamagedSeal, Unsealable
from archive.folder import PLAIN, hour_of, plain_name, seal_path, segments, sync_folder
from archive.handle import open_file
from archive.member import Damage
from archive.proof.keys import Key
from archive.proof.manifest import DIGEST_LENGTH, Previous, Seal, SealedDamage, SealedWriter, parse_seal
from archive.proof.merkle import Frontier
from archive.proof.walk import Walk
from archive.segment import Appender

__all__ = [
    "GRACE",
    "Previous",
    "Seal",
    "SealedDamage",
    "SealedWriter",
    "closed_hours",
    "left_out",
    "parse_seal",
    "read_seal",
    "seal_bytes",
    "seal_hour",
    "sealed_hours",
]

GRACE: Final = 120.0
"""Seconds after an hour's end before it is sealed: a batch may be under way, clocks of several machines may differ."""

_LARGEST: Final = 1 << 30
"""No seal is larger: it has 22 bytes a record."""

# Reading.


def sealed_hours(folder: Path) -> list[str]:
    """The hours that have a seal, whatever it is worth, oldest first. No folder: none."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(hour_of(name) for name in names if name == seal_path(folder, hour_of(name)).name)


def read_seal(folder: Path, hour: str) -> Seal | None:
    """The seal of that hour; None when it has none. Raises DamagedSeal for one that is not as it was written, and OSError."""
    data = seal_bytes(folder, hour)
    if data is None:
        return None
    seal = parse_seal(data)
    if seal.segment != hour:
        raise DamagedSeal(f"it is the seal of another hour, {seal.segment}")
    return seal


def seal_bytes(folder: Path, hour: str) -> bytes | None:
    """The file as it is; None when there is none. Raises DamagedSeal for what is no regular file, and OSError."""
    try:
        fd = os.open(seal_path(folder, hour), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedSeal("it is a symbolic link") from None
        raise
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _LARGEST:
            raise DamagedSeal("it is no regular file of a seal's size")
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


# Making.


def closed_hours(folder: Path, now: float, grace: float = GRACE) -> list[str]:
    """Hours that are over since `grace` seconds and not sealed, oldest first; seal them in this order. Not those older than a seal."""
    over = datetime.fromtimestamp(now - grace, UTC).strftime("%Y-%m-%dT%H")
    newest = max(sealed_hours(folder), default="")
    return [hour for hour in _plain_hours(folder) if newest < hour < over]


def left_out(folder: Path) -> list[str]:
    """Hours without a seal that are older than a sealed one: put there later, or robbed of their seal. They cannot be sealed any more."""
    sealed = sealed_hours(folder)
    newest = max(sealed, default="")
    return [hour for path in segments(folder) if (hour := hour_of(path.name)) < newest and hour not in sealed]


def _plain_hours(folder: Path) -> list[str]:
    return [hour_of(path.name) for path in segments(folder) if path.name.endswith(PLAIN)]


def seal_hour(folder: Path, hour: str, *, key: Key | None = None, now: float, version: str) -> Seal:
    """Seal that hour, durably, and return its seal; the one that is there when it is sealed already.

    Holds the segment's lock meanwhile, so that a writer which is late cannot append in between; sets a torn end aside first. Blocks for
    a second per 300 MB of lines or so. `now` (Unix seconds) is noted. Killed at any moment it leaves the seal whole or not at all.

    Raises Unsealable when an older hour must come first or a later one is sealed, NotFound when there is no such segment, DamagedSeal
    when what lies there is no seal, OSError for what the disk does.
    """
    appender = Appender(folder, durable=False)
    with appender.held(plain_name(hour)) as held:
        there = read_seal(folder, hour)
        if there is not None:
            return there
        previous = _previous(folder, hour)
        os.fdatasync(held.fd)  # a power loss must not take away what the seal says is there
        seal = _signed(_manifest(folder, hour, now, version, previous, key), key)
        _put(folder, hour, seal.to_bytes())
        return seal


def _previous(folder: Path, hour: str) -> Previous | None:
    sealed = sealed_hours(folder)
    if sealed and sealed[-1] > hour:
        raise Unsealable(f"{hour} cannot be sealed any more: {sealed[-1]}, a later hour, is sealed without it")
    first = next((each for each in _plain_hours(folder) if each < hour and (not sealed or each > sealed[-1])), None)
    if first is not None:
        raise Unsealable(f"{hour} cannot be sealed before {first}, which is older")
    if not sealed:
        return None
    data = seal_bytes(folder, sealed[-1])
    if data is None:
        raise Unsealable(f"the seal of {sealed[-1]} was taken away just now; try again")
    return Previous(sealed[-1], sha256(data).hexdigest())


def _manifest(folder: Path, hour: str, now: float, version: str, previous: Previous | None, key: Key | None) -> Seal:
    frontier, line_bytes = Frontier(), 0
    members, lines = bytearray(), bytearray()
    tallies: dict[str, _Tally] = {}
    damaged: list[SealedDamage] = []
    with open_file(folder / plain_name(hour)) as handle:
        walk = Walk(handle, digests=True)
        for each in walk:
            if isinstance(each, Damage):
                damaged.append(SealedDamage(each.offset, each.length, each.why))
                continue
            frontier.push(each.leaf)
            line_bytes += each.size
            members += each.digest
            lines += each.leaf[:DIGEST_LENGTH]
            tally = tallies.get(each.writer)
            if tally is None:
                tally = tallies[each.writer] = _Tally(each.tag.seq)
            tally.add(each.tag.seq, each.kind)
    if walk.sha256 is None:
        raise Unsealable(f"{hour} cannot be sealed: the disk cannot read all of it; save what can be read, and move the file away")
    return Seal(
        segment=hour,
        sealed_at=datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        verbatim=version,
        bytes=walk.bytes,
        sha256=walk.sha256,
        records=len(frontier),
        line_bytes=line_bytes,
        root=frontier.root().hex(),
        writers=tuple(SealedWriter(name, it.first, it.last, it.records, it.opened, it.closed) for name, it in sorted(tallies.items())),
        damaged=tuple(damaged),
        previous=previous,
        key=None if key is None else key.public,
        members=bytes(members),
        lines=bytes(lines),
    )


class _Tally:
    """What one writer has in the hour."""

    __slots__ = ("closed", "first", "last", "opened", "records")

    def __init__(self, seq: int) -> None:
        self.first = self.last = seq
        self.records = 0
        self.opened = self.closed = False

    def add(self, seq: int, kind: str) -> None:
        self.records += 1
        self.first, self.last = min(self.first, seq), max(self.last, seq)
        self.opened = self.opened or kind == "open"
        self.closed = self.closed or kind == "close"


def _signed(seal: Seal, key: Key | None) -> Seal:
    if key is None:
        return seal
    return replace(seal, signature=base64.b64encode(key.sign(seal.statement())).decode())


def _put(folder: Path, hour: str, data: bytes) -> None:
    """Write it beside, have it on the disk, then give it its name. One at a time: the segment is locked."""
    path = seal_path(folder, hour)
    new = folder / f".{path.name}.new"  # left by a crash it is written over, by the next who seals this hour
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(folder)
