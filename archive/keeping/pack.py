"""Packing sealed hours to a fraction of their size, and making gzip files of them again: the same lines, proved by the seal.

One form is removed only when the other is on the disk under its name and was read back. A crash leaves one of them, or both, and then the
plain one counts. Which hours, and when, is for the caller to say; so is `archive.keeping.clerk.alone`, which both need around them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from archive.chunk import LONGEST, Chunk, seek_table
from archive.errors import ArchiveError, DamagedMember, NotFound
from archive.folder import PACKED, plain_name, sync_folder
from archive.frame import Frame, Stored
from archive.handle import Handle, Plain, open_segment
from archive.keeping.packing import DEFAULT_LEVEL, chunks_written, write_all
from archive.member import Damage
from archive.member import pack as pack_member
from archive.packed import Packed
from archive.proof.manifest import DIGEST_LENGTH, Seal
from archive.proof.merkle import Frontier, leaf_hash
from archive.proof.seal import read_seal
from archive.proof.walk import Checked, Walk
from archive.record import id_text
from archive.segment import Appender

__all__ = ["DEFAULT_LEVEL", "Refused", "Repacked", "pack", "packed_name", "unpack"]

_BATCH: Final = 1 << 20
_SPARE: Final = 16 << 20
"""Bytes to be left free beyond the largest that the new file can be."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """What was done. The other form is gone."""

    hour: str
    records: int
    line_bytes: int
    before: int
    """Bytes of the file that was there."""
    after: int
    """Bytes of the one there is now."""
    proved: bool
    """Each line was held against the hour's seal. False only when there was none to unpack by."""
    same: bool = False
    """Unpacked: it is the file that was sealed, byte for byte, and not only line for line."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was changed."""

    hour: str
    why: str
    """One sentence without its full stop, also for whoever runs it."""


Forgotten = Mapping[int, bytes]
"""Of records that were taken out of a sealed hour: number among those sealed, leaf hash."""


def packed_name(hour: str) -> str:
    """The name of that hour's segment in its packed form."""
    return hour + PACKED


def pack(
    folder: Path, hour: str, *, forgotten: Forgotten | None = None, level: int = DEFAULT_LEVEL, keep_free: int = 0
) -> Repacked | Refused:
    """Put the packed form of a sealed hour in the place of the plain one. Every line is read back and held against the seal before.

    Blocks for a second per 300 MB of lines or so, on two cores; takes about 180 MB of memory, whatever the hour holds.
    Leaves `keep_free` bytes of the disk free, or refuses. Raises OSError for what the disk does; then nothing was changed.
    """
    try:
        seal = read_seal(folder, hour)
        if seal is None:
            return Refused(hour, f"{hour} is not sealed, and nothing else may be packed; seal what is over: verbatim seal")
        if seal.damaged:
            return Refused(hour, f"{hour} was sealed with {len(seal.damaged)} damaged places in it, and stays as it is")
        proof = _Proof(seal, forgotten or {})
        with Appender(folder, durable=False).held(plain_name(hour)) as held:
            before = os.fstat(held.fd).st_size
            if why := _no_room(folder, before + keep_free):
                return Refused(hour, f"{hour} is not packed: {why}")
            with open_segment(folder, plain_name(hour)) as plain, _new_file(folder / packed_name(hour)) as fd:
                assert isinstance(plain, Plain)
                _write_packed(plain, fd, level, proof)
                after = os.fstat(fd).st_size
            _remove(folder / plain_name(hour))
    except NotFound:
        done = os.path.lexists(folder / packed_name(hour))
        return Refused(hour, f"{hour} is packed already" if done else f"there is no hour {hour} here")
    except ArchiveError as error:
        return Refused(hour, f"{hour} cannot be packed: {error}")
    return Repacked(hour, proof.records, proof.line_bytes, before, after, proved=True)


def unpack(folder: Path, hour: str, *, forgotten: Forgotten | None = None, keep_free: int = 0) -> Repacked | Refused:
    """Put the plain form of an hour in the place of the packed one: the same lines in the same order, a gzip member each.

    How they were deflated is not kept, so the file need not be the one that was sealed byte for byte; `Repacked.same` says. Where both
    forms are there (a crash), the plain one is proved and the packed one goes. Blocks for a second per 100 MB of lines or so. `keep_free`
    and OSError as with `pack`.
    """
    try:
        seal = read_seal(folder, hour)
        path, other = folder / plain_name(hour), folder / packed_name(hour)
        with open_segment(folder, other.name) as packed:
            before = other.stat().st_size
            if os.path.lexists(path):
                if seal is None:
                    return Refused(hour, f"{hour} is there in both forms, and no seal says which lines it should have")
                proof, digest, after = _proved(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), _Proof(seal, forgotten or {}))
            else:
                if why := _no_room(folder, (packed.end() if seal is None else seal.bytes) + keep_free):
                    return Refused(hour, f"{hour} is not unpacked: {why}")
                with _new_file(path) as fd:
                    root = _write_plain(packed, fd)
                    proof, digest, after = _proved(os.dup(fd), _Proof(seal, forgotten or {}, root=root))
            _remove(other)
    except NotFound:
        done = os.path.lexists(folder / plain_name(hour))
        return Refused(hour, f"{hour} is not packed" if done else f"there is no hour {hour} here")
    except ArchiveError as error:
        return Refused(hour, f"{hour} cannot be unpacked: {error}")
    same = seal is not None and seal.sha256 == digest
    return Repacked(hour, proof.records, proof.line_bytes, before, after, proved=seal is not None, same=same)


def _no_room(folder: Path, size: int) -> str | None:
    """What stands in the way of `size` more bytes; None when nothing does."""
    about = os.statvfs(folder)
    free, needed = about.f_bavail * about.f_frsize, size + _SPARE
    return None if free >= needed else f"it takes {needed >> 20} MiB of disk for a while, and {free >> 20} are free"


class _Proof:
    """The lines that were read back, held against the seal; without a seal, against the root of what was read."""

    def __init__(self, seal: Seal | None, forgotten: Forgotten, *, root: bytes | None = None) -> None:
        self._seal = seal
        self._forgotten = forgotten
        self._root = root if seal is None else bytes.fromhex(seal.root)
        self._frontier = Frontier()
        self.records = 0
        self.line_bytes = 0

    def all(self, walk: Iterable[Checked | Damage]) -> None:
        """Raises DamagedMember, and says which record, for anything but the lines that were sealed."""
        for each in walk:
            if isinstance(each, Damage):
                raise DamagedMember(f"{each.length} bytes at {each.offset} are no sound record: {each.why}")
            self._take(each)
        self._fill(b"")
        missing = 0 if self._seal is None else self._seal.records - self._frontier.size
        if missing:
            raise DamagedMember(f"{missing} of its sealed records are not there")
        if self._frontier.root() != self._root:
            raise DamagedMember("its lines are not those that were sealed")

    def _take(self, each: Checked) -> None:
        self._fill(each.leaf)
        if self._seal is not None:
            at = self._frontier.size * DIGEST_LENGTH
            if each.leaf[:DIGEST_LENGTH] != self._seal.lines[at : at + DIGEST_LENGTH]:
                where = f"record {self._frontier.size} at {each.offset}, of exchange {id_text(each.tag.id)}"
                raise DamagedMember(f"{where}, is not the one that was sealed there")
        self._frontier.push(each.leaf)
        self.records += 1
        self.line_bytes += each.size

    def _fill(self, leaf: bytes) -> None:
        """In the places of forgotten records their hashes stand. One that was told of and is there all the same is taken as it is."""
        while (told := self._forgotten.get(self._frontier.size, leaf)) != leaf:
            self._frontier.push(told)


# Writing.


def _write_packed(plain: Plain, fd: int, level: int, proof: _Proof) -> None:
    """Two threads write, and this one reads back what they have written."""
    chunks: list[Chunk] = []
    with (
        closing(chunks_written(plain, fd, level)) as stored,
        Packed(os.dup(fd), plain.name, frame=Frame(), arriving=_noted(stored, chunks)) as arriving,
    ):
        proof.all(Walk(arriving))
    write_all(fd, seek_table(chunks))
    with Packed(os.dup(fd), plain.name) as whole:
        if whole.end() != proof.line_bytes or not whole.sound:
            raise DamagedMember("what was written cannot be read back")


def _noted(stored: Iterable[Stored], chunks: list[Chunk]) -> Iterator[Stored]:
    for each in stored:
        chunks.append(each.chunk)
        yield each


def _write_plain(packed: Handle, fd: int) -> bytes:
    """Returns the root over the lines that were written."""
    frontier = Frontier()
    members: list[bytes] = []
    size = 0
    for each in packed.scan():
        if isinstance(each, Damage):
            raise DamagedMember(each.why)
        line = packed.line(each.offset, limit=LONGEST)
        frontier.push(leaf_hash(line))
        members.append(pack_member(line, id=each.tag.id, part=each.tag.part, seq=each.tag.seq))
        size += len(members[-1])
        if size > _BATCH:
            write_all(fd, b"".join(members))
            members, size = [], 0
    write_all(fd, b"".join(members))
    return frontier.root()


def _proved(fd: int, proof: _Proof) -> tuple[_Proof, str | None, int]:
    """The proof of a plain file, its SHA-256 and its length. Takes over the descriptor."""
    with Plain(fd, "") as plain:
        walk = Walk(plain)
        proof.all(walk)
        return proof, walk.sha256, walk.bytes


# Files.


@contextmanager
def _new_file(path: Path) -> Iterator[int]:
    """A new file that gets the name `path`, durably, when the block is left; gone if anything was raised."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # left by a crash
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        yield fd
        os.fsync(fd)
        os.rename(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    sync_folder(path.parent)


def _remove(path: Path) -> None:
    path.unlink()
    sync_folder(path.parent)
