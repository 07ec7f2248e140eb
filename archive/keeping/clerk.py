"""Clerk: writes down what is removed from an archive, before and after it is removed, as a writer of its own; and reads it back.

A removal that was told of and not closed was cut short: whoever finds it finishes it. Removes nothing itself.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from archive import member, skim
from archive.errors import ArchiveError, DamagedMember
from archive.exchange import Place
from archive.folder import segments
from archive.handle import open_segment
from archive.line import SERVICE_PART, close_line, open_line
from archive.member import Found
from archive.record import id_text, new_id
from archive.segment import Appender
from archive.service import Event, event

__all__ = ["Clerk", "Removal", "Removals", "alone", "user", "writer_of"]

_LINE: Final = 64 << 20
"""A removal's line is read up to this length; a thousand removed records make about 400 KB."""

Json = dict[str, Any]
Line = Callable[..., bytes]
"""Makes a line, given its `writer` and `seq`."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process removes, seals or packs in `folder`. Waits for one that does. Raises OSError where there is no folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def user() -> str:
    """Who runs this process: "user@host"."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's user need not have a name
        name = str(os.geteuid())
    return f"{name}@{socket.gethostname()}"


class Clerk:
    """The lines of one removal, in the segment of the hour in which they are written. One thread; every method blocks on the disk.

    `tell` before anything is removed, `close` when all of it is: a removal with a close line is over.
    """

    def __init__(self, folder: Path, *, version: str, removal: Removal | None = None) -> None:
        """With `removal`, one that another process did not live to close: it is carried on."""
        self._folder = folder
        self._version = version
        self._id = b"" if removal is None else removal.id
        self._seq = 0 if removal is None else removal.last + 1

    def tell(self, now: float, lines: Sequence[Line]) -> None:
        """Have these lines on the disk when it returns. Raises OSError: nothing may be removed yet, and lines that did go in are for the
        next to carry out.
        """
        if self._seq:
            self._write(now, lines)
            return
        self._id = new_id(int(now * 1000))
        self._write(now, [self._open(now), *lines])

    def close(self, now: float) -> None:
        """The removal is over. Raises OSError."""
        self._write(now, [lambda writer, seq: close_line(writer=writer, seq=seq, at=now, written=0, dropped=0)])

    def _open(self, now: float) -> Line:
        host, pid = socket.gethostname(), os.getpid()
        return lambda writer, seq: open_line(writer=writer, seq=seq, at=now, version=self._version, rules_hash="", host=host, pid=pid)

    def _write(self, now: float, lines: Sequence[Line]) -> None:
        writer = id_text(self._id)
        members = []
        for seq, line in enumerate(lines, self._seq):
            members.append(member.pack(line(writer=writer, seq=seq) + b"\n", id=self._id, part=SERVICE_PART, seq=seq))
        appender = Appender(self._folder)
        try:
            appended = appender.append(members, now)
            if appended.error is not None:
                raise appended.error
            appender.sync()
        finally:
            appender.close()
        self._seq += len(members)


@dataclass(slots=True)
class Removal:
    """What one clerk told."""

    id: bytes
    last: int = -1
    """Its highest number so far."""
    told: list[Place] = field(default_factory=list)
    """Its forget and prune lines, oldest first."""
    closed: bool = False


@dataclass(slots=True)
class _Read:
    """What is known of one segment."""

    state: tuple[int, int, int]
    """Device, inode and size of the file as it was before it was read."""
    position: int = 0
    """The end of the last whole record."""
    lines: list[tuple[str, bytes, int, Place]] = field(default_factory=list)
    """Kind, writer, number and place of each line that matters."""


class Removals:
    """The removals told of in a folder. Holds where their lines lie, not the lines. Not thread-safe; every method blocks on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, _Read] = {}

    def refresh(self) -> None:
        """Read what is new: by hopping, 100,000 records in 0.1 s; a segment that has not changed costs a `stat`. Raises OSError."""
        paths = {path.name: path for path in segments(self._folder)}
        for gone in self._read.keys() - paths.keys():
            del self._read[gone]
        for name, path in paths.items():
            try:
                about = path.stat(follow_symlinks=False)
                state = (about.st_dev, about.st_ino, about.st_size)
                if name not in self._read or self._read[name].state != state:
                    self._advance(name, state)
            except (ArchiveError, FileNotFoundError):  # it has gone just now
                self._read.pop(name, None)

    def all(self) -> list[Removal]:
        """Every removal, as of the last refresh, the oldest first."""
        found: dict[bytes, Removal] = {}
        closed: dict[bytes, int] = {}
        for _, read in sorted(self._read.items()):
            for kind, writer, seq, place in read.lines:
                if kind == "close":
                    closed[writer] = seq
                    continue
                removal = found.setdefault(writer, Removal(writer))
                removal.told.append(place)
                removal.last = max(removal.last, seq)
        for writer, removal in found.items():
            if writer in closed:
                removal.closed, removal.last = True, closed[writer]
        return list(found.values())

    def unfinished(self) -> list[Removal]:
        """Those cut short: told of and not closed. Only inside of `alone` is it sure that nobody is at work on them."""
        return [removal for removal in self.all() if not removal.closed]

    def events(self, removal: Removal) -> Iterator[Event]:
        """The lines of a removal, one after another. One that cannot be read is left out: what it told is not done. Raises OSError."""
        for place in removal.told:
            try:
                with open_segment(self._folder, place.segment) as handle:
                    line = handle.line(place.offset, limit=_LINE)
                yield event(skim.decode(line), place)
            except ArchiveError:
                continue

    def _advance(self, name: str, state: tuple[int, int, int]) -> None:
        read = self._read.get(name)
        with open_segment(self._folder, name) as handle:
            if read is None or read.state[:2] != handle.identity() or handle.end() < read.position:
                read = _Read(state)
            for each in handle.scan(read.position):
                if isinstance(each, Found):
                    read.position = each.offset + each.tag.length
                    if each.tag.part == SERVICE_PART:
                        read.lines += _line(handle.line, name, each)
        read.state = state
        self._read[name] = read


def _line(read: Callable[..., bytes], name: str, found: Found) -> Iterator[tuple[str, bytes, int, Place]]:
    try:
        line = skim.decode(read(found.offset, limit=_LINE))
    except DamagedMember:
        return
    kind = line.get("kind")
    if kind in ("forget", "prune", "close"):
        yield kind, found.tag.id, found.tag.seq, Place(name, found.offset, found.tag.length)


_WRITER: Final = re.compile(rb'"writer":"([!#-\[\]-~]{1,64})"')


def writer_of(begin: bytes) -> str | None:
    """The writer of the line that begins so: its name is among the first keys, before anything that others could have written."""
    match = _WRITER.search(begin[:1024])
    return match[1].decode("ascii") if match is not None else None
