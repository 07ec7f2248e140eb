"""Packing sealed hours to a fraction of their size, and making gzip files of them again: the same lines, proved by the seal.

One form is removed only when the other is on the disk under its name and was read back. A crash leaves one of them, or both, and then the
plain one counts. Which hours, and when, is for the caller to say; so is `archive.clerk.alone`, which both need around them.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Final, NamedTuple, TypeVar

import zstandard

from archive.chunk import FRAME, LONGEST, OPENING, RECORDS, WINDOW_LOG, Chunk, pack_head, pack_rows, seek_table
from archive.errors import ArchiveError, DamagedMember, NotFound
from archive.folder import PACKED, plain_name, sync_folder
from archive.handle import Handle, Plain, open_segment
from archive.manifest import DIGEST_LENGTH, Seal
from archive.member import Damage, Found, Tag, inflate
from archive.member import pack as pack_member
from archive.merkle import Frontier, leaf_hash
from archive.packed import Frame, Packed, Stored
from archive.record import id_text
from archive.seal import read_seal
from archive.segment import Appender
from archive.walk import Checked, Walk

__all__ = ["DEFAULT_LEVEL", "Refused", "Repacked", "pack", "packed_name", "unpack"]

DEFAULT_LEVEL: Final = 3
"""Of zstd's: 9 is a third as quick and makes files a tenth smaller."""
_TABLES: Final = {"hash_log": 20, "chain_log": 16, "min_match": 6}
"""Larger tables of what was seen where than the level has by itself: they find what was said tens of MB ago as well as long-distance
matching (zstd(1), --long) does, in half the time (resent histories: 450 MB/s and 22:1, against 230 MB/s and 21:1)."""
_BATCH: Final = 1 << 20
_SMALL: Final = 4 << 20
"""A longer line is inflated piece by piece."""
_AHEAD: Final = 4
"""Batches of lines that wait for a thread to take them up."""
_SPARE: Final = 16 << 20
"""Bytes to be left free beyond the largest that the new file can be."""

T = TypeVar("T")


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

    Blocks for a second per 300 MB of lines or so, on two cores; takes about 250 MB of memory, for three threads, whatever the hour holds.
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


# Writing the packed form: one thread inflates, one packs and writes, and this one reads back and proves.


def _write_packed(plain: Plain, fd: int, level: int, proof: _Proof) -> None:
    chunks: list[Chunk] = []
    _write(fd, OPENING)
    with (
        closing(_ahead(_batches(plain), _AHEAD)) as batches,
        closing(_ahead(_chunks(batches, fd, level), 1)) as stored,
        Packed(os.dup(fd), plain.name, frame=Frame(), arriving=_noted(stored, chunks)) as arriving,
    ):
        proof.all(Walk(arriving))
    _write(fd, seek_table(chunks))
    with Packed(os.dup(fd), plain.name) as whole:
        if whole.end() != proof.line_bytes or not whole.sound:
            raise DamagedMember("what was written cannot be read back")


def _noted(stored: Iterable[Stored], chunks: list[Chunk]) -> Iterator[Stored]:
    for each in stored:
        chunks.append(each.chunk)
        yield each


class _Planned(NamedTuple):
    """A member, and how long its line is by its trailer's word."""

    found: Found
    size: int


def _plan(plain: Plain) -> Iterator[list[_Planned]]:
    """The records of each chunk to be."""
    group: list[_Planned] = []
    raw = 0
    for each in plain.scan():
        if isinstance(each, Damage):
            raise DamagedMember(f"{each.length} bytes at {each.offset} are no record: {each.why}")
        trailer = os.pread(plain.fileno(), 4, each.offset + each.tag.length - 4)
        size = int.from_bytes(trailer, "little")
        if size > LONGEST:
            raise DamagedMember(f"the line at {each.offset} is longer than {LONGEST >> 20} MiB")
        if group and (raw + size > FRAME or len(group) == RECORDS):
            yield group
            group, raw = [], 0
        group.append(_Planned(each, size))
        raw += size
    if group:
        yield group


def _batches(plain: Plain) -> Iterator[list[Tag] | bytes]:
    """For each chunk first its records, then all of its lines, some at a time."""
    for group in _plan(plain):
        yield [it.found.tag._replace(length=it.size) for it in group]
        for run in _runs(group):
            offset, tag = run[0].found
            if tag.length > _SMALL or run[0].size > _SMALL:
                yield from plain.pieces(offset)
                continue
            data = memoryview(os.pread(plain.fileno(), run[-1].found.offset + run[-1].found.tag.length - offset, offset))
            lines = []
            for (at, (_, length, *_)), size in run:
                member = data[at - offset : at - offset + length]
                if len(member) != length:
                    raise DamagedMember(f"the file was cut off at {at}")
                lines.append(inflate(member, limit=size))
            yield b"".join(lines)


def _runs(group: list[_Planned]) -> Iterator[list[_Planned]]:
    """Members to be read and inflated together: about a MiB of lines, or a single longer one."""
    run: list[_Planned] = []
    total = 0
    for each in group:
        weight = max(each.size, each.found.tag.length)
        if run and total + weight > _BATCH:
            yield run
            run, total = [], 0
        run.append(each)
        total += weight
    yield run


def _chunks(batches: Iterable[list[Tag] | bytes], fd: int, level: int) -> Iterator[Stored]:
    """Pack and write each chunk, and tell of it when it is written."""
    options = zstandard.ZstdCompressionParameters.from_level(level, window_log=WINDOW_LOG, write_checksum=True, **_TABLES)
    compressor = zstandard.ZstdCompressor(compression_params=options)
    at, base, left = len(OPENING), 0, 0
    tags: list[Tag] = []
    out: list[bytes] = []
    for batch in batches:
        if isinstance(batch, list):
            tags, out = batch, []
            left = sum(tag.length for tag in tags)
            frame = compressor.compressobj(size=left)
            continue
        out.append(frame.compress(batch))
        left -= len(batch)
        if left == 0:
            out.append(frame.flush())
            raw, table = sum(tag.length for tag in tags), pack_rows(tags)
            chunk = Chunk(base, raw, sum(map(len, out)), len(tags), len(table))
            _write(fd, b"".join((pack_head(chunk), table, *out)))
            yield Stored(fd, at, chunk)
            at, base = at + chunk.length, base + raw


def _ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, up to `depth` of them ahead. To be closed."""
    queue: Queue[tuple[T] | BaseException | None] = Queue(depth)
    stop = Event()

    def make() -> None:
        try:
            for item in items:
                queue.put((item,))
                if stop.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # for the other thread to raise
            queue.put(error)

    thread = Thread(target=make, name="pack", daemon=True)
    thread.start()
    try:
        while (made := queue.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        stop.set()
        while thread.is_alive():
            with suppress(Empty):
                queue.get(timeout=0.01)


# Writing the plain form.


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
            _write(fd, b"".join(members))
            members, size = [], 0
    _write(fd, b"".join(members))
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


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
