"""`verbatim verify` and `verbatim doctor`: is this archive whole, would this machine do. Both only look."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from archive.errors import ArchiveError
from archive.verify import Report
from archive.verify import verify as check
from gateway.commands.options import WrongInput, read_settings, settings_options
from gateway.logs import one_line

MARKS: Final = {"ok": "ok   ", "warn": "warn ", "fail": "FAIL "}


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole report as one JSON object.")
@settings_options("archive")
def verify(paths: tuple[Path, ...], as_json: bool, **flags: Any) -> None:
    """Check that recordings are whole: nothing damaged, nothing missing that no gap record tells of.

    PATHS are folders of recordings or single files; without any, the archive of the settings. Needs nothing but the files.
    The exit code is 0 when they are whole, 1 when something is damaged or missing, 2 when they cannot be looked at.

    \b
    Examples:
      verbatim verify
      verbatim verify /mnt/backup/archive
      verbatim verify 2026-11-20T10.jsonl.gz --json
    """
    chosen = list(paths) or [read_settings(flags, exists="check").archive]
    try:
        report = check(chosen)
    except (ArchiveError, OSError) as error:
        raise WrongInput(str(error)) from None
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, ensure_ascii=False))
    else:
        for line in _report(report):
            click.echo(one_line(line))
    sys.exit(0 if report.complete else 1)


def _report(report: Report) -> Iterator[str]:
    for it in report.damaged:
        yield f"damaged   {it.file}: {it.length} bytes at {it.offset}: {it.why}" + (" (the file's end)" if it.torn else "")
    if report.damages > len(report.damaged):
        yield f"damaged   {report.damages - len(report.damaged)} further places"
    for run in report.missing:
        yield f"missing   {run.count} records of writer {run.writer}, numbers {run.first} to {run.last}"
    for run in report.repeated:
        yield f"repeated  {run.count} records of writer {run.writer}, numbers {run.first} to {run.last}"
    for gap in report.gaps:
        yield f"gap       {gap.since} to {gap.until}: {gap.records} records of {gap.exchanges} exchanges lost, {gap.bytes} bytes: {gap.why}"
    for writer in report.writers:
        if not writer.closed:
            yield f"open      writer {writer.id} has not closed: it still runs, or was killed and lost what it had queued"
    what = "whole" if report.complete else "NOT whole"
    yield f"{what}: {report.members} records of {report.exchanges} exchanges in {report.files} files, {report.bytes} bytes"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@settings_options(routes=True)
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
