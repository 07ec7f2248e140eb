"""`verbatim verify` and `verbatim doctor`: is this archive whole, would this machine do. Both only look."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from archive.errors import ArchiveError
from archive.proof.keys import public_key
from archive.proof.report import Damaged, Numbers, Proof, Report, counted
from archive.proof.transparency import Comparison, compare
from archive.proof.verdict import named, unproven
from archive.proof.verify import verify as check
from gateway.commands.options import Whole, WrongInput, read_settings, settings_options, sha256
from gateway.logs import one_line

SHOWN: Final = 100
"""Lines of one kind that are printed."""

WORTH: Final[dict[Proof, str]] = {
    "signed": "which is signed",
    "sealed": "which is sealed and not signed",
    "not sealed": "which is not sealed yet: until it is, whoever can write there may have written this line",
}
"""Of the hour in which a removal is told of."""

MARKS: Final = {"ok": "ok   ", "warn": "warn ", "fail": "FAIL "}


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--key", metavar="KEY", help="The public key that must vouch for each hour that is over: 64 digits, or a file that holds it.")
@click.option("--head", metavar="SHA256", callback=sha256, help="The head that an earlier look told of: its seal must still be there.")
@click.option(
    "--jobs", type=Whole(1, 256), metavar="NUMBER", default=1, show_default=True, help="Processes to look at several hours at once."
)
@click.option("--transparency", is_flag=True, help="Show instead what the gateway did not forward as it had received it.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as one JSON object.")
@settings_options("archive")
def verify(paths: tuple[Path, ...], key: str | None, head: str | None, jobs: int, transparency: bool, as_json: bool, **flags: Any) -> None:
    """Check that recordings are complete and as they were: nothing missing, nothing damaged, sealed hours unchanged.

    PATHS are folders of recordings or single files; without any, the archive of the settings. Needs nothing but the files. Says what is
    missing, between which times and why, and what is damaged, in which file at which byte. Hours that are not sealed are checked by
    their checksums and numbers only.

    Without --key, whoever can write to the folder can seal it anew. Without --head, kept elsewhere, newest hours that are gone with their
    seals do not show: nothing that is left knows of them.

    With --transparency the question is another one: was each request handed to the upstream, and each response to the client, as it had
    come? Every record has digests of header names, sizes and hashes of both sides; exchanges where they differ beyond the rules for
    intermediaries are listed.

    The exit code is 0 when all is there, 1 when something is missing, damaged, not vouched for by the key, or was not forwarded unchanged,
    2 when it cannot be looked at.

    \b
    Examples:
      verbatim verify
      verbatim verify /mnt/backup/archive --key seal.pub --head 5f0c... --jobs 4
      verbatim verify 2026-11-20T10.jsonl.gz --json
      verbatim verify --transparency
    """
    if transparency and (key is not None or head is not None):
        raise WrongInput("--transparency asks what the gateway did; ask without it what --key and --head vouch for")
    chosen = list(paths) or [read_settings(flags, exists="check").archive]
    if transparency:
        _transparency(chosen, jobs, as_json)
    try:
        report = check(chosen, key=None if key is None else public_key(key), head=head, jobs=jobs)
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, ensure_ascii=False))
    else:
        for line in (report.sentence, *_shown(_details(report)), *_seals(report, key)):
            click.echo(one_line(line))
    sys.exit(0 if report.complete else 1)


def _transparency(paths: list[Path], jobs: int, as_json: bool) -> NoReturn:
    try:
        found = compare(paths, jobs=jobs)
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), default=str, ensure_ascii=False))
    else:
        for line in (found.sentence, *_shown(_differing(found))):
            click.echo(one_line(line))
    sys.exit(0 if found.unchanged else 1)


def _differing(found: Comparison) -> Iterator[str]:
    for it in found.differing:
        for what in it.what:
            yield f"differs   {it.id}  {it.at}  {it.file.name}  {what}"
    if found.differ > len(found.differing):
        yield f"differs   {found.differ - len(found.differing):,} further exchanges"


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """The first of each kind; an archive may have lost much."""
    kinds = Counter[str]()
    for line in lines:
        kind = line.split(maxsplit=1)[0]
        kinds[kind] += 1
        if kinds[kind] <= SHOWN:
            yield line
    for kind, number in kinds.items():
        if number > SHOWN:
            yield f"{kind:<9} {number - SHOWN:,} further: --json tells of them"


def _details(report: Report) -> Iterator[str]:
    for it in report.damaged:
        yield f"damaged   {_damaged(it)}"
    if report.damages > len(report.damaged):
        yield f"damaged   {report.damages - len(report.damaged):,} further places"
    for gone in report.gone:
        hour = f"hour {gone.segment}: " if gone.segment else ""
        held = "" if gone.records is None else f"; it held {counted(gone.records, 'record')}"
        yield f"gone      {hour}{gone.why}{held}"
    for hole in report.missing:
        yield f"missing   {_numbers(hole)}{_between(hole.since, hole.until)}: {hole.why}"
    for doubted in unproven(report, SHOWN):
        yield f"unproven  {doubted}"
    for run in report.repeated:
        places = f"twice in {run.first_file}" if run.first_file == run.second_file else f"in {run.first_file} and in {run.second_file}"
        yield f"repeated  {_numbers(run)}: {places}{', in one of them as lost, by a gap line' if run.gap else ''}"
    for gap in report.gaps:
        lost = f"{counted(gap.records, 'record')} of {counted(gap.exchanges, 'exchange')} lost, about {counted(gap.bytes, 'byte')}"
        yield f"gap       {gap.since} to {gap.until}: {lost if gap.records else 'writing paused, nothing was lost'}: {gap.why}"
    for removal in report.removals:
        still = f"; {counted(removal.pending, 'record' if removal.kind == 'forget' else 'hour')} still there" if removal.pending else ""
        what = f"{counted(removal.records, 'record')} of {counted(removal.segments, 'hour')} ({named(removal.hours, SHOWN)})"
        told = f"told of at {removal.at} by {removal.by} in {removal.told_in}, {WORTH[removal.proof]}"
        yield f"removed   {what}, {told}: {removal.why}{still}"
    elsewhere = ", or closed in an hour that was not given" if report.partial else ""
    for writer in report.writers:
        if writer.killed:
            yield f"killed    writer {writer.id}, last heard of at {writer.until}: what it had queued then is lost"
        elif not writer.closed:
            heard = f"last heard of at {writer.until}"
            yield f"open      writer {writer.id}, {heard}: still at work, or killed with what it had queued{elsewhere}"
    if report.set_aside:
        held = counted(sum(each.bytes for each in report.set_aside), "byte")
        yield f"aside     {held} in {counted(len(report.set_aside), 'file')} of quarantine: torn ends that crashes left"
    if report.strangers:
        yield f"strangers {counted(len(report.strangers), 'name')} that no writer makes, not looked at: {', '.join(report.strangers)}"


def _damaged(it: Damaged) -> str:
    which = ""
    if it.first_record is not None:
        several = it.last_record not in (None, it.first_record)
        which = f" (records {it.first_record} to {it.last_record}" if several else f" (record {it.first_record}"
        which += " of the hour, from 0" + (f"; exchange {it.id})" if it.id else ")")
    end = " (the file's end)" if it.torn else ""
    known = "; it was so when the hour was sealed" if it.known else ""
    return f"{it.file}: {counted(it.length, 'byte')} at {it.offset:,}{end}: {it.why}{which}{known}"


def _numbers(run: Numbers) -> str:
    numbers = f"number {run.first}" if run.count == 1 else f"numbers {run.first} to {run.last}"
    return f"{counted(run.count, 'record')} of writer {run.writer}, {numbers}"


def _between(since: str | None, until: str | None) -> str:
    if since is None or until is None:
        return f", after {since}" if since else f", before {until}" if until else ""
    return f", between {since} and {until}"


def _seals(report: Report, key: str | None) -> Iterator[str]:
    sealed = [hour.key for hour in report.hours if hour.sealed]
    if key is not None and not report.unproven:
        yield f"proven    {counted(len(sealed), 'hour')} by your key{'' if sealed else ': none is over yet'}"
    for signer in dict.fromkeys(filter(None, sealed)):
        checked = ", which was not checked against a key of yours (--key)" if key is None else ""
        yield f"seals     {counted(sealed.count(signer), 'hour')} signed by {signer}{checked}"
    if unsigned := sealed.count(None):
        yield f"seals     {counted(unsigned, 'hour')} not signed: without a signed seal after them, who can write here can seal them anew"
    if unpacked := [hour.file.name for hour in report.hours if hour.unpacked]:
        yield f"unpacked  {counted(len(unpacked), 'hour')}, each line as it was sealed, the gzip around it made anew: {', '.join(unpacked)}"
    if report.overdue and key is None:  # else they are told as unproven
        what = f"{counted(len(report.overdue), 'hour')} over and not sealed: {named(report.overdue, SHOWN)}"
        yield f"unsealed  {what}; if hours are sealed here, their seals were taken away, or `verbatim seal` is due"
    if report.worth_keeping:
        yield f"head      {report.head}: kept elsewhere and given with --head, it shows that nothing up to here was changed or taken away"
    elif report.head is not None:
        yield "head      do not keep this one: it would vouch for what is wrong here"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@settings_options("host", "port", "viewer", "viewer_host", "viewer_port", "archive", "record", "default_route", "min_free", routes=True)
def doctor(as_json: bool, **flags: Any) -> None:
    """Look for what would keep Verbatim from working here.

    Tries the ports, the disk, writing a record and reading it back, a connection to each upstream (no request is sent) and the clock.
    Says what to do about what is wrong. The exit code is 1 when something fails.

    \b
    Examples:
      verbatim doctor
      verbatim doctor --config /etc/verbatim.toml
    """
    from gateway.doctor import examine

    failed = False
    for finding in examine(read_settings(flags)):
        failed = failed or finding.state == "fail"
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(finding), ensure_ascii=False))
            continue
        click.echo(f"{MARKS[finding.state]} {finding.about:<16} {one_line(finding.text)}")
        if finding.state != "ok":
            click.echo(f"{'':<23} -> {finding.advice}")
    sys.exit(1 if failed else 0)
