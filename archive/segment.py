"""Segment: one hour (UTC) of members in one file that only ever grows. Appends whole batches or nothing.

Several processes may append to one folder. What a crash left at a file's end is set aside, never thrown away; damage in the middle
is left as it is. This module does not queue, wait for space, or know what a line says.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from archive.errors import DamagedMember, NotFound, Unwritable
from archive.folder import PLAIN, QUARANTINE, hour_of, make_folder, seal_path, segment_name, segments, sync_folder
from archive.member import Found, data_from, scan, unpack

__all__ = ["Appended", "Appender", "Held"]

_CHECKED: Final = 64 << 20
"""The last member's line is inflated up to this much to check it; a longer one is trusted by its header alone."""
_COPY: Final = 1 << 20
_BATCH: Final = 1024
"""Members in one writev: IOV_MAX of Linux, macOS and the BSDs."""
_DOUBTED: Final = 64
"""How far back from the end unsound members are looked for on opening; what lies before them is for the readers to report."""
_TRIES: Final = 8
"""How often a segment may be replaced between our opening and our locking it before we say so."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: the first `count` members are in the segment, whole; `error` says why the rest are not, and is None
    when there is no rest. `set_aside` names the quarantine file when a torn end was found on the way."""

    count: int
    error: OSError | None = None
    set_aside: Path | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A locked segment: its descriptor, for reading (good while it is held), and the quarantine file when a torn end was set aside."""

    fd: int
    set_aside: Path | None


class Appender:
    """Appends members to the segment of the hour in which they are written.

    For one thread. Every method but the constructor may block: on the disk, and on the lock while another process appends.

    - Between locking and unlocking a segment its end is looked at: where another writer moved it, the new members are hopped over, and
      what is torn at the very end is copied to the quarantine folder and then cut off. Opening a segment, the whole of it is hopped
      over and its last member's checksum compared.
    - A batch is written at the end in one go. When the disk takes only some of it, the file is cut back to the last whole member.
    - A segment that was deleted, moved or replaced, or whose folder was, is made anew.
    - A clock that is set back does not lead to an older hour than one this appender has written to.
    - Segments are 0600, opened without following symbolic links; anything but a regular file is refused.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """`durable`: someone calls `sync`, so a segment left behind at the hour is kept open until then."""
        self._folder = folder
        self._durable = durable
        self._name = ""
        self._fd = -1
        self._end = 0
        """Up to here the file is known to be whole members (or damage that is not ours to touch)."""
        self._unsynced: list[int] = []
        """Descriptors to sync: the current one when it was written to, and those of hours gone by."""
        self._new_names = False
        """A file was created whose name is not yet sure to survive a power loss."""

    @property
    def name(self) -> str:
        """The segment last appended to; empty before the first."""
        return self._name

    def append(self, members: Sequence[bytes], now: float) -> Appended:
        """Append `members`, whole, to the segment of `now` (unix seconds). Does not raise for anything the disk does."""
        try:
            with self._locked(max(segment_name(now), self._name)):
                set_aside = self._check_end()
                count, error = self._write(members)
                return Appended(count, error, set_aside)
        except OSError as error:
            self._forget()
            return Appended(0, error)

    def recover(self) -> Path | None:
        """Check the newest segment's end and set aside what is torn: what a crash in the hour before may have left. Raises OSError."""
        found = segments(self._folder)
        if not found or not found[-1].name.endswith(PLAIN):
            return None
        try:
            with self._locked(found[-1].name):
                set_aside = self._check_end()
                self._unlink_if_empty()
                return set_aside
        finally:
            self._forget()
            self._name = ""  # looked at, not written to: it does not bind us to its hour

    @contextmanager
    def held(self, name: str) -> Iterator[Held]:
        """Inside, nobody appends to the segment `name`, and under this name lies the file that is locked: for those who seal or replace it.

        A torn end is set aside first, unless the hour is sealed: then it stays as it is. Use an appender of its own for this. Raises
        NotFound where there is nothing to hold, OSError for what the disk does.
        """
        if not os.path.lexists(self._folder / name):
            raise NotFound(f"there is no segment {name}")
        try:
            with self._locked(name):
                sealed = seal_path(self._folder, hour_of(name)).exists()
                set_aside = None if sealed else self._check_end()
                if not (sealed or self._end):
                    self._unlink_if_empty()
                    raise NotFound(f"nothing is left of segment {name}: its bytes were no records, and were set aside")
                yield Held(self._fd, set_aside)
        finally:
            self._forget()
            self._name = ""

    def sync(self) -> None:
        """Have everything appended so far on the disk (fdatasync; the folder too where a file is new). Raises OSError.

        A failure is never retried: the kernel has dropped the pages and a second call would only pretend (PostgreSQL, 2018). The
        descriptor is let go, so that what is written later is told the truth about itself.
        """
        failure: OSError | None = None
        for fd in self._unsynced:
            try:
                os.fdatasync(fd)
            except OSError as error:
                failure = error
            if fd != self._fd:
                os.close(fd)
        self._unsynced.clear()
        if failure is None and self._new_names:
            try:
                sync_folder(self._folder)
            except OSError as error:
                failure = error
        self._new_names = False
        if failure is not None:
            self._forget()
            raise failure

    def close(self) -> None:
        """Let go of the files. Does not sync. May be called twice."""
        for fd in {self._fd, *self._unsynced} - {-1}:
            os.close(fd)
        self._fd = -1
        self._unsynced.clear()

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Inside, `self._fd` is the segment `name` as it lies in the folder, locked for us alone."""
        if name != self._name:
            self._forget()
        for _ in range(_TRIES):
            fd = self._fd
            if fd < 0:
                fd = self._open(name)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if self._still_there(fd, name):
                break
            self._forget()
        else:
            raise Unwritable(errno.EBUSY, f"{name} is replaced faster than it can be opened")
        try:
            yield
        finally:
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _open(self, name: str) -> int:
        path = self._folder / name
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not to hang on a FIFO
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            make_folder(self._folder)
            fd = os.open(path, flags | os.O_CREAT, 0o600)
            self._new_names = True
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unwritable(errno.ELOOP, f"{name} is a symbolic link: refused") from None
            raise
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise Unwritable(errno.EINVAL, f"{name} is no regular file: refused")
        if stat.S_IMODE(found.st_mode) != 0o600 and found.st_uid == os.geteuid():
            os.fchmod(fd, 0o600)  # a umask took bits away, or a copy tool gave some
        self._fd, self._name, self._end = fd, name, 0
        return fd

    def _still_there(self, fd: int, name: str) -> bool:
        try:
            return os.path.samestat(os.stat(self._folder / name, follow_symlinks=False), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        """Let go of the current segment and its lock; it is opened and checked anew when next needed."""
        if self._fd in self._unsynced:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # stays open to be synced
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _check_end(self) -> Path | None:
        """Bring `_end` to the end of the file; a torn end is set aside first. Raises OSError, and then nothing was cut off."""
        size = os.fstat(self._fd).st_size
        if size == self._end:
            return None
        start = self._end if self._end < size else 0
        end = size
        last: deque[Found] = deque(maxlen=_DOUBTED)
        with open(self._fd, "rb", buffering=0, closefd=False) as file:
            for each in scan(file, start):
                if isinstance(each, Found):
                    last.append(each)
                elif each.torn:
                    end = each.offset
        while start == 0 and last and not self._sound(last[-1]):
            end = last.pop().offset
        set_aside = None if end == size else self._set_aside(end, size)
        self._end = end
        return set_aside

    def _sound(self, last: Found) -> bool:
        """After a power loss the length may be right and the data not there: is the last member really what was written?"""
        if last.tag.length > _CHECKED:
            return True
        try:
            unpack(os.pread(self._fd, last.tag.length, last.offset), limit=_CHECKED)
        except DamagedMember:
            return False
        return True

    def _set_aside(self, start: int, end: int) -> Path:
        folder = self._folder / QUARANTINE
        make_folder(folder)
        when = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        path = folder / f"{self._name}.{start}.{when}"
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(target, 0o600)
            _copy(self._fd, start, end, target)
            os.fsync(target)
        except OSError:
            path.unlink(missing_ok=True)  # half a copy would say that the bytes are safe
            raise
        finally:
            os.close(target)
        os.ftruncate(self._fd, start)
        return path

    def _write(self, members: Sequence[bytes]) -> tuple[int, OSError | None]:
        """How many members went in whole, and what stopped the rest. The file ends with a whole member either way, or is let go."""
        if self._fd not in self._unsynced and self._durable:
            self._unsynced.append(self._fd)
        count = 0
        while count < len(members):
            batch = members[count : count + _BATCH]
            whole, size, error = _write_batch(self._fd, batch)
            count += whole
            self._end += size
            if error is not None:
                try:
                    os.ftruncate(self._fd, self._end)
                    self._unlink_if_empty()
                except OSError:
                    self._forget()  # the torn end is found, and set aside, when the segment is next opened
                return count, error
        return count, None

    def _unlink_if_empty(self) -> None:
        """No bytes are no gzip: `zcat` would call it an error. Who waits for the lock will see that the file is gone."""
        if self._end == 0:
            (self._folder / self._name).unlink()
            self._forget()


def _write_batch(fd: int, members: Sequence[bytes]) -> tuple[int, int, OSError | None]:
    """Members and bytes that went in whole, and why no more. A short write goes on until the disk says what is the matter."""
    lengths = list(map(len, members))
    total = sum(lengths)
    written = 0
    error: OSError | None = None
    try:
        written = os.writev(fd, members)
        while written < total:
            more = os.write(fd, memoryview(b"".join(members))[written:])
            if more == 0:
                error = OSError(errno.EIO, "the disk takes nothing and gives no reason")
                break
            written += more
    except OSError as failure:
        error = failure
    if written == total:
        return len(members), total, None
    count = size = 0
    for length in lengths:
        if size + length > written:
            break
        count, size = count + 1, size + length
    return count, size, error


def _copy(source: int, start: int, end: int, target: int) -> None:
    """Copy bytes as they are and holes as holes: a power loss can leave gigabytes of them, which then cost nothing."""
    at = data_from(source, start)
    while at is not None and at < end:
        data = os.pread(source, min(_COPY, end - at), at)
        if not data:
            break
        written = os.pwrite(target, data, at - start)
        at = data_from(source, at + written)
    os.ftruncate(target, end - start)
