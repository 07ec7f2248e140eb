"""An archive's folder: which names in it are ours, which hour each belongs to, how it and its files are made. Opens no segment.

An hour (UTC) is one segment in one of two forms: plain (gzip members, appended to) or packed (seekable zstd, made of a sealed hour).
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from archive.errors import Unwritable

__all__ = [
    "INDEX",
    "PACKED",
    "PLAIN",
    "QUARANTINE",
    "SEGMENT_NAME",
    "hour_after",
    "hour_of",
    "inner_folder",
    "is_hour",
    "is_sealed",
    "make_folder",
    "newest_sealed",
    "plain_name",
    "seal_path",
    "segment_name",
    "segments",
    "strangers",
    "sync_folder",
    "sync_name",
    "sync_names",
]

PLAIN: Final = ".jsonl.gz"
PACKED: Final = ".jsonl.zst"

_DAY: Final = (
    r"(?!0000)(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
"""Days that are in the calendar (proleptic Gregorian, as Python's), leap days included: a 31st of February is somebody else's file."""
_HOUR: Final = _DAY + r"T(?:[01][0-9]|2[0-3])"
SEGMENT_NAME: Final = re.compile(_HOUR + r"\.jsonl\.(?:gz|zst)")
"""Use with `fullmatch`: the only names a segment may have."""

_SEAL_NAME: Final = re.compile(_HOUR + r"\.seal\.json")

QUARANTINE: Final = "quarantine"
"""The folder beside the segments for bytes that recovery set aside."""
INDEX: Final = "index"
"""The folder beside the segments for what is derived from them: it may be deleted, and is then made again."""

_CANNOT_SYNC_NAMES: Final = (errno.EINVAL, errno.ENOTSUP)
"""What file systems answer that know no such thing, mostly those of other machines: there names are theirs to keep."""


def segment_name(unix_seconds: float) -> str:
    """The plain segment of that moment's hour, in UTC whatever TZ says: "2026-11-20T10.jsonl.gz"."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H") + PLAIN


def hour_of(name: str) -> str:
    """The hour that a segment's or seal's name begins with: "2026-11-20T10". Text order is time order."""
    return name[:13]


def is_hour(text: str) -> bool:
    """Whether it is an hour as names begin with, of a day that is in the calendar."""
    return bool(SEGMENT_NAME.fullmatch(plain_name(text)))


def hour_after(hour: str) -> str:
    """The hour that follows. Raises OverflowError after the year 9999, ValueError for what is no hour."""
    return (datetime.strptime(hour + "+0000", "%Y-%m-%dT%H%z") + timedelta(hours=1)).strftime("%Y-%m-%dT%H")


def plain_name(hour: str) -> str:
    """The name of that hour's segment in its plain form."""
    return hour + PLAIN


def seal_path(folder: Path, hour: str) -> Path:
    """Where the seal of that hour lies, or would."""
    return folder / f"{hour}.seal.json"


def is_sealed(folder: Path, hour: str) -> bool:
    """Whether that hour has its seal: nothing is appended to it any more. Raises OSError where that cannot be told."""
    try:
        return stat.S_ISREG(os.stat(seal_path(folder, hour), follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def newest_sealed(folder: Path) -> str:
    """The newest hour that has a seal or is packed (which is done to sealed ones only); empty where there is none."""
    try:
        with os.scandir(folder) as entries:
            return max((hour_of(e.name) for e in entries if _is_sealed_name(e.name) and e.is_file(follow_symlinks=False)), default="")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _is_sealed_name(name: str) -> bool:
    return bool(_SEAL_NAME.fullmatch(name) or (name.endswith(PACKED) and SEGMENT_NAME.fullmatch(name)))


def segments(folder: Path) -> list[Path]:
    """The segments in `folder`, one an hour, oldest first; other names, symbolic links and anything but files are left out. No folder:
    none. Where an hour has both forms, packing was cut short: the plain one is the one that counts.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if SEGMENT_NAME.fullmatch(e.name) and e.is_file(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    hours: dict[str, str] = {}
    for name in names:  # ".gz" before ".zst"
        hours.setdefault(hour_of(name), name)
    return [folder / name for name in hours.values()]


def strangers(folder: Path) -> list[str]:
    """Names in `folder` that no writer of ours makes, in order: nothing reads or changes them. Symbolic links are strangers whatever
    their name. No folder: none.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not _ours(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _ours(entry: os.DirEntry[str]) -> bool:
    if entry.name in (QUARANTINE, INDEX):
        return entry.is_dir(follow_symlinks=False)
    name = entry.name.removeprefix(".").removesuffix(".new")  # being written, or left by a crash in doing so
    return entry.is_file(follow_symlinks=False) and bool(SEGMENT_NAME.fullmatch(name) or _SEAL_NAME.fullmatch(name))


def make_folder(folder: Path) -> None:
    """Make `folder` and what is missing above it, each 0700 under any umask and on the disk. One that is there keeps its mode. Raises
    OSError.
    """
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            each.chmod(0o700)
            sync_name(each)


@contextmanager
def inner_folder(path: Path) -> Iterator[int]:
    """Inside, a descriptor of a folder within the archive, to make and remove files by (`dir_fd`): whatever takes its name meanwhile, they
    are in it. Through a symbolic link they would be anybody's, so that is refused. Raises Unwritable, FileNotFoundError, OSError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        what = "a symbolic link" if path.is_symlink() else "no folder"
        raise Unwritable(error.errno, f"{path.name} is {what}: refused; move it away") from None
    try:
        yield fd
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk: what was made, renamed or removed survives a power loss. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_names(fd)
    finally:
        os.close(fd)


def sync_names(fd: int) -> None:
    """As `sync_folder`, by a folder's descriptor."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC_NAMES:
            raise


def sync_name(folder: Path) -> None:
    """Have the name of `folder` itself on the disk, as far as the folder above lets us: one that may not be read cannot be synced. Raises
    OSError.
    """
    with suppress(PermissionError):
        sync_folder(folder / "..")
