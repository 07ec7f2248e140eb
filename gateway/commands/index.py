"""`verbatim index`: the index that lists and searches use, brought up to date at once or made anew from the recordings."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from archive.catalog.follow import Follower, start_over
from archive.catalog.tables import index_folder
from archive.folder import segments
from archive.proof.report import counted
from archive.reader import Progress, Reader
from gateway.commands.look import tell_closed
from gateway.commands.options import WrongInput, own_folder, read_settings, settings_options
from gateway.values import show_bytes

_POLL: Final = 0.2
_TENTHS: Final = 10
_TORN: Final = 1 << 20
_SETTLED: Final = 2.0
"""Fewer bytes than `_TORN` that stay unknown for so many seconds are what a crash left at the end of an hour: no record."""
_PATIENCE: Final = 30.0
"""Seconds without any progress after which the other one is given up."""


@click.command()
@click.option("--rebuild", is_flag=True, help="Make it anew from the recordings.")
@settings_options("archive")
def index(rebuild: bool, **flags: Any) -> None:
    """Bring the index of the recordings up to date, or make it anew.

    Lists and searches use it; without it they give the same answers, only later. The viewer keeps it up to date by itself, so this is for
    archives that no viewer has shown yet. It may be deleted at any time.

    \b
    Examples:
      verbatim index
      verbatim index --rebuild --archive /mnt/backup/archive
    """
    folder = read_settings(flags, exists="index").archive
    if index_folder(folder).parent == folder:  # else it is made in this user's cache
        own_folder(folder)
    segments(folder)  # a folder that cannot be read is told of before the index is
    began = time.monotonic()
    try:
        if rebuild:
            start_over(folder)
        with _shown() as show, contextlib.closing(Follower(folder)) as follower:
            while follower.step():
                show(Progress(*follower.progress()))
            held_up = follower.held_up
            if held_up == Follower.TAKEN:
                _wait(folder, show)
    except (OSError, sqlite3.Error) as error:
        raise WrongInput(f"the index cannot be written to {index_folder(folder)}: {error}") from None
    if held_up not in ("", Follower.TAKEN):
        raise WrongInput(f"the index is not complete: {held_up}")
    by = "The viewer has brought it" if held_up else "It is"
    hours, records = _held(folder)
    tell_closed(Reader(folder), nothing=not hours)
    click.echo(f"{by} up to date: {counted(hours, 'hour')}, {counted(records, 'record')}, {_size(folder)} in {index_folder(folder)}.")
    click.echo(f"This took {time.monotonic() - began:.1f} s.")


def _wait(folder: Path, show: Callable[[Progress | None], None]) -> None:
    """Until the one who follows is done. Raises WrongInput when it does not get on."""
    reader, before, since = Reader(folder), None, time.monotonic()
    while (progress := reader.progress()) is None or progress.behind:
        show(progress)
        if progress != before:
            before, since = progress, time.monotonic()
        still = time.monotonic() - since
        if progress is not None and progress.behind < _TORN and still > _SETTLED:
            return
        if still > _PATIENCE:
            raise WrongInput(f"the index is not complete: {Follower.TAKEN} and does not get on; its log says why")
        time.sleep(_POLL)


def _held(folder: Path) -> tuple[int, int]:
    covered = Reader(folder).covered()
    return len(covered), sum(covered.values())


def _size(folder: Path) -> str:
    return show_bytes(sum(path.stat().st_size for path in index_folder(folder).glob("*.sqlite*")))


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[Progress | None], None]]:
    """A bar on a terminal; a line for each tenth where the output goes elsewhere."""
    told = -1

    def line(progress: Progress | None) -> None:
        nonlocal told
        tenth = int(progress.share * _TENTHS) if progress is not None else 0
        if tenth > told:
            told = tenth
            click.echo(f"Indexing: {tenth * (100 // _TENTHS)} %", err=True)

    if not sys.stderr.isatty():
        yield line
        return
    with click.progressbar(length=1000, label="Indexing", file=sys.stderr) as bar:

        def move(progress: Progress | None) -> None:
            at = int(progress.share * 1000) if progress is not None else 0
            bar.update(max(0, at - bar.pos))

        yield move
        bar.update(1000 - bar.pos)
