"""`verbatim prune` and `verbatim forget`: the two commands that remove recordings. Each shows what would go, and asks."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from archive.errors import ArchiveError, NotFound, Unwritable
from archive.keeping import retention, upkeep
from archive.keeping.choice import Choice, Chosen, choose
from archive.keeping.clerk import Removals, alone, user
from archive.keeping.forget import carry_out as forget_records
from archive.keeping.prune import carry_out as remove_hours
from archive.keeping.retention import Plan
from archive.record import id_text
from gateway import __version__
from gateway.commands.options import WrongInput, own_folder, read_settings, refused, settings_options
from gateway.logs import one_line
from gateway.values import show_bytes

SHOWN: Final = 20
"""Hours or exchanges that a plan shows one by one."""

AGES: Final = {"m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_AGE: Final = re.compile(r"([0-9]{1,6}) ?([a-z]+)")

DRY_RUN = click.option("--dry-run", is_flag=True, help="Only show what would go.")
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
JSON = click.option("--json", "as_json", is_flag=True, help="The plan as one JSON object; with --dry-run or --yes.")


@click.command()
@DRY_RUN
@YES
@JSON
@settings_options("archive", "keep_days", "keep_bytes")
def prune(dry_run: bool, yes: bool, as_json: bool, **flags: Any) -> None:
    """Remove the oldest recordings, by the hour, to keep within bounds.

    The bounds are the settings keep_days and keep_bytes, which `verbatim serve` keeps to by itself. Shows first what would go, and asks.
    The current hour never goes. What went, and when, stays written in the recordings.

    \b
    Examples:
      verbatim prune --dry-run
      verbatim prune --keep-days 30
      verbatim prune --keep-bytes 50GiB --yes
    """
    settings = read_settings(flags, exists="prune")
    own_folder(settings.archive)
    if not (settings.keep_days or settings.keep_bytes):
        raise WrongInput("nothing says what to keep: give --keep-days or --keep-bytes, or set keep_days or keep_bytes")
    _ask_somehow(dry_run, yes, as_json)
    folder = settings.archive
    with _said(folder):
        _finish(folder, dry_run)
        plan = retention.plan(folder, keep_days=settings.keep_days, keep_bytes=settings.keep_bytes, now=time.time())
        _show(_pruning(plan), _pruning_json(plan), as_json)
        if plan.doomed and _agreed(dry_run, yes, "Remove them?"):
            with alone(folder):
                upkeep.finish(folder, Removals(folder), version=__version__)
                freed = remove_hours(folder, plan.doomed, by=user(), version=__version__)
            _say(f"Removed: {_many(len(plan.doomed), 'hour')}, {show_bytes(freed)}.", as_json)


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--session", metavar="NAME", help="All exchanges of this session.")
@click.option("--before", metavar="DATE|AGE", help="All exchanges that began before: 2026-11-20, 2026-11-20T10:30 (UTC), 30d, 12h.")
@click.option("--why", metavar="TEXT", help="The reason, to be kept in the recordings. It must not quote what is to be forgotten.")
@DRY_RUN
@YES
@JSON
@settings_options("archive")
def forget(
    ids: tuple[str, ...], session: str | None, before: str | None, why: str | None, dry_run: bool, yes: bool, as_json: bool, **flags: Any
) -> None:
    """Remove exchanges from the recordings, so that nothing of them is left.

    Shows first what would go, and asks. All other records stay byte for byte as they are; that something was removed, by whom and when,
    stays written in the recordings, with digests, so that `verbatim verify` can still prove the rest. An exchange that still runs stays.
    Copies elsewhere (backups, snapshots) are not reached.

    \b
    Examples:
      verbatim forget 01934f7e-8a6b-7c3d-9e1f-2a3b4c5d6e7f
      verbatim forget --session run-20261120T101500Z-1a2b3c
      verbatim forget --before 90d --dry-run
    """
    if bool(ids) == bool(session is not None or before is not None):
        raise WrongInput("say what to forget: ids, or --session NAME, or --before DATE|AGE")
    limit = None if before is None else _moment(before, time.time())
    folder = read_settings(flags, exists="forget from").archive
    own_folder(folder)
    _ask_somehow(dry_run, yes, as_json)
    reason = why or ("asked for by id" if ids else "asked for by session" if session is not None else f"begun before {_stamp(limit)}")
    with _said(folder):
        finished = _finish(folder, dry_run)
        try:
            chosen = choose(folder, ids=ids, session=session, before=limit)
        except NotFound:
            if not finished:
                raise
            return  # that was it
        if ids and chosen.running:
            raise WrongInput(f"{id_text(chosen.running[0].id)} is still running; forget it when it has ended")
        _show(_forgetting(chosen), _forgetting_json(chosen), as_json)
        if chosen.chosen and _agreed(dry_run, yes, "Forget them for good?"):
            with alone(folder):
                upkeep.finish(folder, Removals(folder), version=__version__)
                count = forget_records(folder, {it.id for it in chosen.chosen}, by=user(), why=reason, version=__version__)
            _say(f"Forgotten: {_many(count, 'record')} of {_many(len(chosen.chosen), 'exchange')}.", as_json)


def _moment(text: str, now: float) -> float:
    """Unix seconds of a date, or of an age before `now`. Raises WrongInput."""
    age = _AGE.fullmatch(text.strip().lower())
    if age is not None and age[2] in AGES:
        return now - int(age[1]) * AGES[age[2]]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise WrongInput(f"--before: {text!r} is no date or age; write 2026-11-20, 2026-11-20T10:30, 30d or 12h") from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _stamp(moment: float | None) -> str:
    return datetime.fromtimestamp(moment or 0.0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ask_somehow(dry_run: bool, yes: bool, as_json: bool) -> None:
    if as_json and not (dry_run or yes):
        raise WrongInput("--json asks nobody: give --dry-run or --yes with it")


def _agreed(dry_run: bool, yes: bool, question: str) -> bool:
    if dry_run:
        return False
    if yes:
        return True
    try:
        return click.confirm(question)
    except click.Abort:
        raise WrongInput("nobody answered, so nothing was removed; --yes removes without asking") from None


def _show(lines: Iterator[str], as_object: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(as_object, ensure_ascii=False))
        return
    for line in lines:
        click.echo(one_line(line))


def _say(text: str, as_json: bool) -> None:
    if not as_json:
        click.echo(text)


def _finish(folder: Path, dry_run: bool) -> bool:
    """Carry on with what was agreed to before and cut short, so that nobody is asked for it again. Whether there was anything."""
    if dry_run:
        return False
    with alone(folder):
        done = upkeep.finish(folder, Removals(folder), version=__version__)
    if done:
        click.echo(f"finished first: {_many(done, 'removal')} that had been cut short", err=True)
    return bool(done)


@contextlib.contextmanager
def _said(folder: Path) -> Iterator[None]:
    """What goes wrong inside is said in one sentence, and whether something was begun."""
    try:
        yield
    except (ArchiveError, OSError) as error:
        if isinstance(error, Unwritable):
            text = error.strerror or "it cannot be written to"
        else:
            text = refused(error) if isinstance(error, OSError) else str(error)
        raise WrongInput(f"{text}. It is not done to its end; the same command again goes on with it" if _begun(folder) else text) from None


def _begun(folder: Path) -> bool:
    removals = Removals(folder)
    with contextlib.suppress(OSError):
        removals.refresh()
    return bool(removals.unfinished())


def _many(count: int, one: str) -> str:
    return f"{count} {one}{'s' * (count != 1)}"


def _pruning(plan: Plan) -> Iterator[str]:
    for each in plan.doomed[:SHOWN]:
        yield f"{each.hour}  {_many(each.records, 'record'):>17}  {show_bytes(each.bytes):>9}  {each.why}"
    if len(plan.doomed) > SHOWN:
        yield f"... and {_many(len(plan.doomed) - SHOWN, 'hour')} more, up to {plan.doomed[-1].hour}"
    goes = f"To go: {_many(len(plan.doomed), 'hour')}, {_many(plan.records, 'record')}, {show_bytes(plan.bytes)}."
    yield f"{goes if plan.doomed else 'Nothing goes.'} To stay: {_many(plan.hours_left, 'hour')}, {show_bytes(plan.bytes_left)}."
    if plan.over:
        yield f"The current hour alone is {show_bytes(plan.over)} beyond keep_bytes; it never goes."


def _pruning_json(plan: Plan) -> dict[str, Any]:
    rows = [{"hour": it.hour, "records": it.records, "bytes": it.bytes, "why": it.why} for it in plan.doomed]
    left = {"hours_left": plan.hours_left, "bytes_left": plan.bytes_left, "bytes_over": plan.over}
    return {"hours": rows, "records": plan.records, "bytes": plan.bytes, **left}


def _forgetting(found: Choice) -> Iterator[str]:
    for each in found.chosen[:SHOWN]:
        yield f"{each.at:%Y-%m-%d %H:%M:%S}  {id_text(each.id)}  {_many(each.records, 'record')}  {show_bytes(each.bytes)}"
    if len(found.chosen) > SHOWN:
        yield f"... and {_many(len(found.chosen) - SHOWN, 'exchange')} more, up to {found.chosen[-1].at:%Y-%m-%d %H:%M:%S}"
    hours = {hour for each in found.chosen for hour in each.hours}
    records, size = sum(it.records for it in found.chosen), sum(it.bytes for it in found.chosen)
    what = (
        f"To forget: {_many(len(found.chosen), 'exchange')}, {_many(records, 'record')} in {_many(len(hours), 'hour')}, {show_bytes(size)}."
    )
    yield what if found.chosen else "Nothing recorded fits."
    if found.running:
        yield f"{_many(len(found.running), 'exchange')} of those meant still running: left as they are."


def _forgetting_json(found: Choice) -> dict[str, Any]:
    return {"exchanges": [_row(each) for each in found.chosen], "running": [id_text(each.id) for each in found.running]}


def _row(each: Chosen) -> dict[str, Any]:
    at = each.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"id": id_text(each.id), "at": at, "records": each.records, "bytes": each.bytes, "hours": each.hours}
