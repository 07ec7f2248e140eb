"""`verbatim pack` and `verbatim unpack`: sealed hours to a fraction of their size, and back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from archive.errors import ArchiveError
from archive.folder import PACKED, hour_of, is_sealed, segments
from archive.keeping import upkeep
from archive.keeping.clerk import Removals, alone
from archive.keeping.forget import forgotten
from archive.keeping.pack import Refused, Repacked
from archive.keeping.pack import pack as pack_hour
from archive.keeping.pack import unpack as unpack_hour
from archive.keeping.retention import began
from archive.proof.report import counted
from gateway import __version__
from gateway.commands.options import Decimal, WrongInput, own_folder, read_settings, settings_options
from gateway.logs import one_line
from gateway.values import show_bytes

_DAY: Final = 86_400.0
_HOUR: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2})?)(?:\.jsonl\.(?:gz|zst))?")
"""An hour, a day, or the name of an hour's file."""

DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show what would be done.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object an hour.")
HOURS = click.argument("hours", nargs=-1, metavar="[HOUR|DAY]...")


@click.command()
@HOURS
@click.option("--older-than", type=Decimal(min=0), metavar="DAYS", help="All sealed hours that are over for so many days.")
@DRY_RUN
@JSON
@settings_options("archive")
def pack(hours: tuple[str, ...], older_than: float | None, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Pack sealed hours to a fraction of their size, without losing a byte of a line.

    Agents send their whole history with every turn, so an hour of theirs gets five to twenty times smaller. `zstd -dc` reads packed hours,
    and everything of Verbatim's does, too. Each line is proved by the hour's seal before the gzip file goes. `verbatim serve` packs by
    itself where pack_after_days is set.

    \b
    Examples:
      verbatim pack --older-than 7
      verbatim pack 2026-11-20T10 2026-11-21
      verbatim pack --older-than 0 --dry-run
    """
    if bool(hours) == (older_than is not None):
        raise WrongInput("say what to pack: hours such as 2026-11-20T10, days such as 2026-11-20, or --older-than DAYS")
    settings = read_settings(flags, exists="pack")
    folder, now = settings.archive, time.time()
    if older_than is None:
        chosen = _chosen(folder, hours, packed=False)
        for each in chosen:
            if not is_sealed(folder, hour_of(each.name)):
                raise WrongInput(f"{hour_of(each.name)} is not sealed, and nothing else may be packed; seal what is over: verbatim seal")
    else:
        limit = now - older_than * _DAY
        plain = [path for path in segments(folder) if not path.name.endswith(PACKED)]
        chosen = [path for path in plain if is_sealed(folder, hour_of(path.name)) and began(hour_of(path.name)) + 3600 <= limit]
    _do(folder, chosen, pack_hour, "pack", settings.min_free, dry_run, as_json)


@click.command()
@HOURS
@click.option("--all", "everything", is_flag=True, help="All packed hours.")
@DRY_RUN
@JSON
@settings_options("archive")
def unpack(hours: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool, **flags: Any) -> None:
    """Make the gzip files of packed hours again: the same lines, a gzip member each.

    How they were compressed is not kept, so such a file may differ from the one that was sealed, while its lines do not; `verbatim verify`
    proves them by the seal. It says of each hour which of the two it is.

    \b
    Examples:
      verbatim unpack 2026-11-20T10
      verbatim unpack --all
    """
    if bool(hours) == everything:
        raise WrongInput("say what to unpack: hours such as 2026-11-20T10, days such as 2026-11-20, or --all")
    settings = read_settings(flags, exists="unpack")
    folder = settings.archive
    chosen = [path for path in segments(folder) if path.name.endswith(PACKED)] if everything else _chosen(folder, hours, packed=True)
    _do(folder, chosen, unpack_hour, "unpack", settings.min_free, dry_run, as_json)


def _chosen(folder: Path, named: Sequence[str], *, packed: bool) -> list[Path]:
    """The segments of the hours and days that were named, oldest first. Raises WrongInput where there is none for one of them."""
    found: dict[str, Path] = {}
    for text in named:
        match = _HOUR.fullmatch(text)
        if match is None:
            raise WrongInput(f"{text!r} is no hour or day; write 2026-11-20T10 or 2026-11-20")
        there = {hour_of(path.name): path for path in segments(folder) if path.name.startswith(match[1])}
        fitting = {hour: path for hour, path in there.items() if path.name.endswith(PACKED) == packed}
        if not there:
            raise WrongInput(f"there are no recordings of {match[1]} in {folder}")
        if not fitting:
            raise WrongInput(f"{match[1]} is {'not packed' if packed else 'packed already'}")
        found |= fitting
    return [found[hour] for hour in sorted(found)]


def _do(
    folder: Path,
    chosen: Sequence[Path],
    work: Callable[..., Repacked | Refused],
    word: str,
    keep_free: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    if dry_run:
        _plan(chosen, word, as_json)
        return
    own_folder(folder)
    done: list[Repacked] = []
    refused = 0
    try:
        for each in _each(folder, chosen, work, keep_free):
            if as_json:
                click.echo(json.dumps({"done": isinstance(each, Repacked)} | asdict(each)))
            elif isinstance(each, Refused):
                click.echo(one_line(f"not {word}ed: {each.why}"), err=True)
            else:
                click.echo(_said(each, word))
            refused += isinstance(each, Refused)
            done += [each] if isinstance(each, Repacked) else []
    except (ArchiveError, OSError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise WrongInput(
            f"it was not done to its end: {text}; what was {word}ed is safe, and the same command goes on with the rest"
        ) from None
    if not as_json and len(chosen) != 1:
        before, after = sum(it.before for it in done), sum(it.after for it in done)
        click.echo(f"{counted(len(done), 'hour')} {word}ed: {show_bytes(before)} are {show_bytes(after)}" if done else f"nothing to {word}")
    if refused:
        raise click.exceptions.Exit(1)


def _each(folder: Path, chosen: Sequence[Path], work: Callable[..., Repacked | Refused], keep_free: int) -> Iterator[Repacked | Refused]:
    """One hour after the other, each alone in the folder: who waits to seal or to forget something waits for an hour at most."""
    removals = Removals(folder)
    for path in chosen:
        hour = hour_of(path.name)
        with alone(folder):
            upkeep.finish(folder, removals, version=__version__)
            result = work(folder, hour, forgotten=forgotten(folder, hour, removals), keep_free=keep_free)
        yield result


def _plan(chosen: Sequence[Path], word: str, as_json: bool) -> None:
    sizes = [path.stat().st_size for path in chosen]
    for path, size in zip(chosen, sizes, strict=True):
        hour = hour_of(path.name)
        click.echo(json.dumps({"done": False, "hour": hour, "before": size}) if as_json else f"would {word} {hour}: {show_bytes(size)}")
    if not as_json:
        click.echo(f"{counted(len(chosen), 'hour')}, {show_bytes(sum(sizes))}" if chosen else f"nothing to {word}")


def _said(each: Repacked, word: str) -> str:
    sizes = f"{word}ed {each.hour}: {show_bytes(each.before)} are {show_bytes(each.after)}"
    if word == "pack":
        return f"{sizes}, {each.before / each.after:.1f} times smaller; {counted(each.records, 'record')}, each line proved by the seal"
    if not each.proved:
        return f"{sizes}; every line as it was packed, and no seal to prove it by"
    return f"{sizes}; {'the file that was sealed, byte for byte' if each.same else 'every line as it was sealed, compressed anew'}"
