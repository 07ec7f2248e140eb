"""`verbatim ls`, `show`, `tail`: the archive on a terminal. Reads only; text that models wrote is shown without its control characters."""

from __future__ import annotations

import json
import signal
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final, TypeVar

import click

from archive.errors import ArchiveError
from archive.proof.report import counted
from archive.reader import Content, Entry, Exchange, Head, Page, Reader, upstream_ids
from gateway.commands.options import Whole, WrongInput, read_settings, settings_options
from gateway.logs import one_line

POLL: Final = 0.25
"""Seconds between two looks for new exchanges: as long as a person does not notice."""
C = TypeVar("C", bound=Callable[..., Any])

FRESH: Final = 200
"""Exchanges looked at for what is new; busier than that, the next look goes on."""


def named_options(command: C) -> C:
    """What the client called its calls, as options of a command that lists."""
    for name, help_text in (
        ("tag", "Only those with this tag."),
        ("user", "Only those on behalf of this user."),
        ("session", "Only those of this session."),
    ):
        command = click.option(f"--{name}", metavar="NAME", help=help_text)(command)
    return command


@click.command()
@click.option("-n", "--number", default=20, show_default=True, type=Whole(1, 1_000_000), metavar="NUMBER", help="How many, the newest.")
@click.option("--route", metavar="NAME", help="Only those of this route, for example openai.")
@click.option("--status", metavar="STATUS", help="Only those with this status: 200, 4xx, or none.")
@click.option("--text", help="Only those that say these words, as `search` has them.")
@named_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@settings_options("archive")
def ls(
    number: int,
    route: str | None,
    status: str | None,
    text: str | None,
    session: str | None,
    user: str | None,
    tag: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """List recorded exchanges, the newest last.

    \b
    Examples:
      verbatim ls
      verbatim ls -n 5 --status 4xx
      verbatim ls --text "Zürich" --json
      verbatim ls --session nightly-42 --user me@example.com
    """
    reader = opened(flags, "list")
    try:
        filters: dict[str, Any] = {"route": route, "status": status, "text": text, "session": session, "user": user, "tag": tag}
        entries = list(newest_of(reader, number, **filters))
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    tell_closed(reader, nothing=not entries)
    if not entries and not as_json:
        click.echo("Nothing is recorded here yet." if not any(filters.values()) else "Nothing recorded fits.", err=True)
    for entry in reversed(entries):
        click.echo(json.dumps(row(entry), ensure_ascii=False) if as_json else line(entry))


@click.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="The archive's own lines, exactly.")
@settings_options("archive")
def show(id: str, as_json: bool, **flags: Any) -> None:
    """Show one exchange: request, response, and where it lies.

    ID is an exchange's id, from `verbatim ls`, the log or the x-verbatim-id header. Its beginning, from 8 characters on, will do where no
    other exchange begins so; those of one minute share the first 8.

    \b
    Examples:
      verbatim show 01934f7e-8a6b-7c3d-9e1f-2a3b4c5d6e7f
      verbatim show 01934f7e-8a6b --json | jq .
    """
    reader = opened(flags, "read")
    try:
        exchange = reader.get(id)
    except ArchiveError as error:
        closed = closed_hours(reader)
        raise WrongInput(f"{error}; {closed}" if closed else str(error)) from None
    if as_json:
        for line in exchange.lines:
            click.echo(line)
        return
    for text in _page(exchange):
        click.echo(text)


@click.command()
@click.option("-n", "--number", default=10, show_default=True, type=Whole(0, 10_000), metavar="NUMBER", help="How many to begin with.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@settings_options("archive")
def tail(number: int, as_json: bool, **flags: Any) -> None:
    """Follow the recordings: a line for each exchange as it ends. Ctrl-C stops.

    \b
    Examples:
      verbatim tail
      verbatim tail -n 0 --json | jq .status
    """
    reader = opened(flags, "follow")
    tell_closed(reader, nothing=False)
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.default_int_handler)  # a second Ctrl-C interrupts whatever takes so long

    signal.signal(signal.SIGINT, stop)
    for entry in _follow(reader, number, stopped):
        click.echo(json.dumps(row(entry), ensure_ascii=False) if as_json else line(entry))
        sys.stdout.flush()


def opened(flags: dict[str, Any], what: str) -> Reader:
    """The archive that the flags name, read up to now. Raises WrongInput; `what` says what a missing one was wanted for."""
    reader = Reader(read_settings(flags, exists=what).archive)
    known = -1
    while known != (known := reader.refresh()):
        pass
    return reader


def closed_hours(reader: Reader) -> str:
    """What is to be said of hours that this user may not read; empty where there are none."""
    closed = reader.closed()
    if not closed:
        return ""
    whom = "the user it belongs" if len(closed) == 1 else "the user they belong"
    return f"{counted(len(closed), 'hour')} cannot be opened: permission denied; run this as {whom} to"


def tell_closed(reader: Reader, *, nothing: bool) -> None:
    """Say on standard error that some hours could not be read. Raises WrongInput where there is `nothing` else to show: it may be there."""
    closed = closed_hours(reader)
    if closed and nothing:
        raise WrongInput(closed)
    if closed:
        click.echo(f"{closed[:1].upper()}{closed[1:]}.", err=True)


def newest_of(reader: Reader, number: int, *, most: int = 500, **filters: Any) -> Iterator[Entry]:
    """The newest `number` entries that fit, newest first; `most` of them are looked for at a time."""
    before = None
    while number > 0:
        page: Page = reader.page(before=before, limit=min(number, most), **filters)
        yield from page.entries
        number -= len(page.entries)
        before = page.next
        if before is None:
            return


def _follow(reader: Reader, number: int, stopped: threading.Event) -> Iterator[Entry]:
    """The newest `number` that have ended, then each as it ends, until it is stopped."""
    first = list(newest_of(reader, FRESH))
    running = {entry.id for entry in first if entry.end is None}
    newest = max((entry.id for entry in first), default="")
    yield from reversed([entry for entry in first if entry.end is not None][:number])
    counter = reader.refresh()
    while not stopped.wait(POLL):
        if counter == (counter := reader.refresh()):
            continue
        fresh = []
        for entry in newest_of(reader, 1_000_000):
            if entry.id <= newest and not (running and entry.id >= min(running)):
                break
            fresh.append(entry)
        for entry in reversed(fresh):
            if entry.id > newest or entry.id in running:
                if entry.end is None:
                    running.add(entry.id)
                else:
                    running.discard(entry.id)
                    yield entry
        newest = max(newest, *(entry.id for entry in fresh), newest)


def row(entry: Entry) -> dict[str, Any]:
    """The exchange as an object of JSON."""
    told = {name: getattr(entry, name) for name in entry.__slots__}
    return {**told, "at": entry.at.isoformat().replace("+00:00", "Z")}


def line(entry: Entry) -> str:
    """The exchange as a line of a list."""
    took = "-" if entry.duration_ms is None else f"{entry.duration_ms:.0f}ms"
    what = f"{entry.method or '-'} {entry.target or '-'}"
    how = entry.end or "running"
    tail = "" if how == "complete" else f"  {how}"
    return one_line(f"{entry.at:%Y-%m-%d %H:%M:%S}  {entry.id}  {entry.status or '-':>3}  {took:>8}  {entry.route}  {what}{tail}")


def _page(exchange: Exchange) -> Iterator[str]:
    entry = exchange.entry
    first = "" if entry.ttfb_ms is None else f", first byte after {entry.ttfb_ms:.1f} ms"
    took = "" if entry.duration_ms is None else f", took {entry.duration_ms:.1f} ms"
    yield from (
        f"id        {entry.id}",
        f"when      {entry.at:%Y-%m-%d %H:%M:%S.%f} UTC{took}{first}",
        one_line(f"client    {entry.client}"),
        *map(one_line, _called(exchange)),
        one_line(f"upstream  {exchange.upstream.get('name')}  {exchange.upstream.get('url')}"),
        one_line(
            f"end       {entry.end or 'still running'}"
            + (f": {exchange.end['detail']}" if exchange.end and exchange.end.get("detail") else "")
        ),
    )
    if exchange.forwarding is not None:
        yield f"proof     {exchange.forwarding.sentence}"
        for what in exchange.forwarding.differences:
            yield one_line(f"differs   {what}")
    if exchange.redactions:
        yield one_line("redacted  " + ", ".join(str(it.get("where")) for it in exchange.redactions))
    for place in exchange.places:
        yield f"lies in   {place.segment}, {place.length} bytes at {place.offset}"
    for place, why in exchange.unread:
        yield one_line(f"unread    {place.segment} at {place.offset}: {why}")
    if exchange.request is not None:
        yield from _message(
            f"{exchange.request.method} {exchange.request.target} HTTP/{exchange.request.version}", exchange.request, exchange.request_body
        )
    if exchange.response is not None:
        made = "" if exchange.response.origin == "upstream" else f"   (made by the {exchange.response.origin})"
        start = f"HTTP/{exchange.response.version} {exchange.response.status} {exchange.response.reason}{made}"
        yield from _message(start, exchange.response, exchange.response_body)
    if exchange.messages:
        yield ""
        for message in exchange.messages:
            yield one_line(f"{message['at_ms']:>10.1f} ms  {message['side']:<8}  {message['type']:<6}  {_said(message)}")


def _called(exchange: Exchange) -> Iterator[str]:
    """What the client called the call, and what the upstream did."""
    entry = exchange.entry
    if entry.session:
        agent = f", agent {entry.agent}" if entry.agent else ""
        yield f"session   {entry.session}  ({entry.session_source or 'unknown'}){agent}"
    if entry.user:
        yield f"user      {entry.user}  ({entry.user_source or 'unknown'})"
    if entry.tags:
        yield f"tags      {', '.join(entry.tags)}"
    if metadata := exchange.client.get("metadata"):
        yield f"metadata  {json.dumps(metadata, ensure_ascii=False)}"
    if entry.kept != "full":
        yield f"kept      {entry.kept} only, as the client asked"
    for name, value in upstream_ids(exchange):
        yield f"upstream  {name}: {value}"


def _said(message: dict[str, Any]) -> str:
    text = message.get("text")
    if text is not None:
        return str(text)
    return f"({counted(len(b64decode(message.get('base64') or '')), 'byte')}, no text)"


def _message(start: str, head: Head, body: Content | None) -> Iterator[str]:
    yield ""
    yield one_line(start)
    for name, value in head.headers:
        yield one_line(f"{name}: {value}")
    if body is None or not body.data:
        return
    yield ""
    if body.text is None:
        yield f"({counted(len(body.data), 'byte')}, no text)"
    else:
        yield from map(one_line, _pretty(body.text).split("\n"))
    notes = [word for word, so in (("cut at the recording limit", body.truncated), ("not complete", not body.complete)) if so]
    if notes:
        yield f"({', '.join(notes)}; {counted(body.size, 'byte')} crossed)"


def _pretty(text: str) -> str:
    """JSON indented; anything else as it is."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return text.replace("\r\n", "\n").rstrip("\n")
