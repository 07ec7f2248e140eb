"""What every run of an archive's upkeep begins with: finish removals that were cut short, sweep up what a crash left half made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from archive.errors import NotFound, Unwritable
from archive.folder import PACKED, QUARANTINE, SEGMENT_NAME, hour_of, inner_folder, plain_name, sync_folder
from archive.keeping import forget, prune
from archive.keeping.clerk import Removals
from archive.segment import Appender

__all__ = ["finish", "sweep"]


def finish(folder: Path, removals: Removals, *, version: str, clock: Callable[[], float] = time.time) -> int:
    """Carry on with every removal that was cut short; how many there were. Call it inside of `archive.keeping.clerk.alone`. Raises OSError,
    NotFound."""
    removals.refresh()
    count = 0
    for removal in removals.unfinished():
        count += prune.finish(folder, removals, removal, version=version, clock=clock) or forget.finish(
            folder, removals, removal, version=version, clock=clock
        )
    return count


def sweep(folder: Path) -> list[str]:
    """Remove what a crash left half made: copies that never got their name, packed hours beside their plain ones. Their names.

    Call it inside of `archive.keeping.clerk.alone`. Raises OSError.
    """
    swept = []
    for name in _files(folder):
        made = name.removeprefix(".").removesuffix(".new")
        unnamed = name == f".{made}.new"
        doubled = name.endswith(PACKED) and SEGMENT_NAME.fullmatch(name) and os.path.lexists(folder / plain_name(hour_of(name)))
        if (unnamed or doubled) and _of_hour(made):
            with _quiet(folder, plain_name(hour_of(made))):
                (folder / name).unlink(missing_ok=True)
            swept.append(name)
    with contextlib.suppress(FileNotFoundError, Unwritable), inner_folder(folder / QUARANTINE) as within:
        for name in _files(within):
            if name.startswith(".") and name.endswith(".new"):
                os.unlink(name, dir_fd=within)
                swept.append(f"{QUARANTINE}/{name}")
    if swept:
        sync_folder(folder)
    return swept


def _files(folder: Path | int) -> list[str]:
    """Regular files; all else is somebody else's."""
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if each.is_file(follow_symlinks=False))


def _of_hour(name: str) -> bool:
    return bool(SEGMENT_NAME.fullmatch(name)) or (name.endswith(".seal.json") and bool(SEGMENT_NAME.fullmatch(plain_name(hour_of(name)))))


@contextlib.contextmanager
def _quiet(folder: Path, name: str) -> Iterator[None]:
    """While nobody is at work on that segment: recovery makes copies without being alone."""
    appender = Appender(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(appender.close)
        with contextlib.suppress(NotFound):
            stack.enter_context(appender.held(name))
        yield
