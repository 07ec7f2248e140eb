"""Segment: one hour (UTC) of members in one file that only ever grows. Appends whole batches or nothing.

Several processes may append to one folder. What a crash left in a file is `archive.recovery`'s to find. This module does not queue, wait
for space, or know what a line says.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from archive.errors import NotFound, Unwritable
from archive.folder import (
    PLAIN,
    hour_after,
    hour_of,
    is_sealed,
    make_folder,
    newest_sealed,
    plain_name,
    segment_name,
    segments,
    sync_folder,
    sync_name,
)
from archive.recovery import Span, rewritten, set_aside, survey

__all__ = ["Appended", "Appender", "Held"]

_BATCH: Final = 1024
"""Members in one writev: IOV_MAX of Linux, macOS and the BSDs."""
_CACHED: Final = 64 << 20
"""Bytes at a segment's end that stay in the kernel's cache after they are synced: far more than who follows the archive is behind."""
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
      over, its last member's checksum compared, and what a power loss left unwritten before it set aside in the same way.
    - A batch is written at the end in one go. When the disk takes only some of it, the file is cut back to the last whole member.
    - A segment that was deleted, moved or replaced, or whose folder was, is made anew.
    - A clock that is set back does not lead to an older hour than one this appender has written to, nor to one that is sealed: the
      first hour after all sealed ones is taken instead.
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
        self._unkept: OSError | None = None
        """Why something that was written cannot be synced any more, until `sync` has told of it."""
        self._new_names = False
        """A file was opened whose name is not yet sure to survive a power loss, whoever made it."""

    @property
    def name(self) -> str:
        """The segment last appended to; empty before the first."""
        return self._name

    def append(self, members: Sequence[bytes], now: float) -> Appended:
        """Append `members`, whole, to the segment of `now` (unix seconds). Does not raise for anything the disk does."""
        name = max(segment_name(now), self._name)
        try:
            for _ in range(_TRIES):
                if self._fd < 0 or name != self._name:
                    name = _unsealed(self._folder, name)
                with self._locked(name):
                    if not self._sealed():  # a seal is put there under the same lock
                        set_aside = self._check_end()
                        count, error = self._write(members)
                        return Appended(count, error, set_aside)
                self._forget()
            raise Unwritable(errno.EBUSY, f"{name} is sealed faster than it can be opened")
        except OSError as error:
            self._forget()
            return Appended(0, error)

    def recover(self) -> list[Path]:
        """Check the two newest segments and set aside what a crash left in them; the quarantine files. Raises OSError.

        Two: power may be lost in the first second of an hour, before what was written last in the hour before was synced.
        """
        found = [path.name for path in segments(self._folder)[-2:] if path.name.endswith(PLAIN)]
        aside: list[Path | None] = []
        try:
            for name in found:
                with self._locked(name):
                    if not self._sealed():
                        aside.append(self._check_end())
                        self._unlink_if_empty()
        finally:
            self._forget()
            self._name = ""  # looked at, not written to: it does not bind us to its hour
        return [path for path in aside if path is not None]

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
                sealed = self._sealed()
                set_aside = None if sealed else self._check_end()
                if not (sealed or self._end):
                    self._unlink_if_empty()
                    why = "it was empty, and is removed" if set_aside is None else "its bytes were no records, and were set aside"
                    raise NotFound(f"nothing is left of segment {name}: {why}")
                yield Held(self._fd, set_aside)
        finally:
            self._forget()
            self._name = ""

    def sync(self) -> None:
        """Have everything appended so far on the disk (fdatasync; the folder too where a file is new to us). Raises OSError.

        A failure is never retried: the kernel has dropped the pages and a second call would only pretend (PostgreSQL, 2018). The
        descriptor is let go, so that what is written later is told the truth about itself. Names are another matter: the folder is
        synced again and again until it succeeds once.
        """
        failure, self._unkept = self._unkept, None
        for fd in self._unsynced:
            try:
                os.fdatasync(fd)
                _uncache(fd, self._end if fd == self._fd else 0)
            except OSError as error:
                failure = error
            if fd != self._fd:
                _close(fd)
        self._unsynced.clear()
        if failure is None and self._new_names:
            try:
                self._sync_names()
            except OSError as error:
                failure = error
        if failure is not None:
            self._forget()
            raise failure

    def _sync_names(self) -> None:
        sync_folder(self._folder)
        sync_name(self._folder)  # another writer may have made the folder a moment ago
        self._new_names = False

    def close(self) -> None:
        """Let go of the files. Does not sync. May be called twice."""
        for fd in {self._fd, *self._unsynced} - {-1}:
            _close(fd)
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
                self._unlock()

    def _unlock(self) -> None:
        """Let others append. A lock that cannot be given back (the disk is another machine's, and gone) goes with its descriptor."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            if self._fd in self._unsynced:
                self._unsynced.remove(self._fd)
                self._unkept = error
            _close(self._fd)
            self._fd = -1

    def _open(self, name: str) -> int:
        path = self._folder / name
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not to hang on a FIFO
        try:
            fd = os.open(path, flags)
        except FileNotFoundError:
            make_folder(self._folder)
            fd = os.open(path, flags | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unwritable(errno.ELOOP, f"{name} is a symbolic link: refused") from None
            raise
        self._fd, self._name, self._end = fd, name, 0  # from here on it is let go of whatever happens
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unwritable(errno.EINVAL, f"{name} is no regular file: refused")
        if stat.S_IMODE(found.st_mode) != 0o600 and found.st_uid == os.geteuid():
            os.fchmod(fd, 0o600)  # a umask took bits away, or a copy tool gave some
        self._new_names = True
        return fd

    def _still_there(self, fd: int, name: str) -> bool:
        try:
            return os.path.samestat(os.stat(self._folder / name, follow_symlinks=False), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        """Let go of the current segment and its lock; it is opened and checked anew when next needed."""
        if self._fd in self._unsynced:
            self._unlock()  # stays open to be synced
        elif self._fd >= 0:
            _close(self._fd)
        self._fd = -1

    def _sealed(self) -> bool:
        return is_sealed(self._folder, hour_of(self._name))

    def _check_end(self) -> Path | None:
        """Bring `_end` to the end of the file; what a crash left is set aside first. Raises OSError, and then nothing was cut off."""
        size = os.fstat(self._fd).st_size
        if size == self._end:
            return None
        found = survey(self._fd, self._end if self._end < size else 0, size)
        if found.end == size and not found.lost:
            self._end = size
            return None
        torn = [Span(found.end, size)] if found.end < size else []
        path = set_aside(self._folder, self._name, self._fd, [*found.lost, *torn])
        if found.lost:
            new = rewritten(self._folder / self._name, self._fd, found.lost, found.end)
            self._forget()
            self._fd = new
            self._end = os.fstat(new).st_size
        else:
            os.ftruncate(self._fd, found.end)
            if self._durable:
                os.fdatasync(self._fd)  # before anything is appended: a power loss must not mix the old end with the new
            self._end = found.end
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


def _uncache(fd: int, end: int) -> None:
    """Let the kernel have back the memory in which it caches what was written (and synced) long ago; with `end` 0 all of it.

    Who follows the archive reads its end, and a recorder must not push other programs' files out of memory. New pages are then
    taken from those: in a virtual machine ones never touched before cost ten times as much to write into.
    """
    if hasattr(os, "posix_fadvise"):  # not on macOS
        length = end - _CACHED
        if length > 0 or not end:
            os.posix_fadvise(fd, 0, max(length, 0), os.POSIX_FADV_DONTNEED)


def _close(fd: int) -> None:
    with suppress(OSError):  # what it would tell of is synced, or was never promised; the descriptor is gone all the same (close(2))
        os.close(fd)


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


def _unsealed(folder: Path, name: str) -> str:
    """`name`, or the first hour after all sealed ones where it is not after them."""
    sealed = newest_sealed(folder)
    if hour_of(name) > sealed:
        return name
    try:
        return plain_name(hour_after(sealed))
    except OverflowError:  # the year 9999
        raise Unwritable(errno.EINVAL, f"the hour {sealed} is sealed, and no hour comes after it") from None
