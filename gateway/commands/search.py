"""`verbatim search`: words in any recorded message, newest first, each with the place where they stand. Reads only."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from archive.errors import ArchiveError
from archive.reader import Entry, Exchange, Reader
from archive.skim import decode
from archive.words.query import Query
from archive.words.text import texts
from gateway.commands.look import line, named_options, newest_of, opened, row, tell_closed
from gateway.commands.options import Whole, WrongInput, settings_options
from gateway.logs import one_line

MOSTLY: Final = 0.9
"""Less of an archive than this in its index, and a search takes seconds where it might take milliseconds."""
MOST: Final = 50
"""Exchanges asked for at a time: the first are on the screen while the others are looked for."""


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--number", default=20, show_default=True, type=Whole(1, 1_000_000), metavar="NUMBER", help="How many, the newest.")
@click.option("--route", metavar="NAME", help="Only those of this route, for example openai.")
@click.option("--status", metavar="STATUS", help="Only those with this status: 200, 4xx, or none.")
@named_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@settings_options("archive")
def search(
    words: tuple[str, ...],
    number: int,
    route: str | None,
    status: str | None,
    session: str | None,
    user: str | None,
    tag: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Find exchanges by what was said in them, the newest first.

    All WORDS must be said, in any message or header of one exchange; case and accents do not matter. Words in quotation marks, or
    joined as in gpt-4o, must stand one after another; begin* finds all words that begin so.

    \b
    Examples:
      verbatim search zürich weather
      verbatim search invoice --route anthropic
      verbatim search "out of memory" --status 5xx
      verbatim search req_0a1b2c3d --json | jq .id
      verbatim search 'deploy*' -n 5
    """
    asked = " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)
    try:
        query = Query.parse(asked)
        reader = opened(flags, "search")
        filters: dict[str, Any] = {"route": route, "status": status, "session": session, "user": user, "tag": tag}
        found = newest_of(reader, number, most=MOST, text=asked, **filters)
        nothing = True
        for entry in found:
            nothing = False
            _show(entry, _snippet(reader, entry, query), as_json)
    except ArchiveError as error:
        raise WrongInput(str(error)) from None
    tell_closed(reader, nothing=nothing)
    if nothing and not as_json:
        click.echo("Nothing recorded says that.", err=True)
    progress = reader.progress()
    if progress is None or progress.share < MOSTLY:
        click.echo("Most of these recordings are not indexed yet; `verbatim index` makes searches quick.", err=True)


def _show(entry: Entry, snippet: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**row(entry), "snippet": snippet}, ensure_ascii=False))
    else:
        click.echo(line(entry))
        click.echo(f"    {snippet}")


def _snippet(reader: Reader, entry: Entry, query: Query) -> str:
    """Where the words stand, on one line; empty when it cannot be read just now."""
    try:
        exchange: Exchange = reader.get(entry.id)
        return one_line(" ".join(query.snippet(texts([decode(each) for each in exchange.lines if each])).split()))
    except ArchiveError:
        return ""
