"""On which line of a TOML text a key stands, for error messages: `tomllib` tells it for syntax errors only. Pure; guesses, never raises."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["line_of"]

_TABLE = re.compile(r"\s*\[\[?([^\[\]#]+)\]\]?\s*(?:#.*)?\Z")
_KEY = re.compile(r"\s*((?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*'|\s*\.\s*)+?)\s*=")


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line (from 1) on which the key `path` is set or begins, else that of the longest beginning of it that is written down."""
    wanted = tuple(path)
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = _words(match[1])
            here = table
        elif match := _KEY.match(line):
            here = (*table, *_words(match[1]))
        else:
            continue
        depth = min(len(here), len(wanted))
        if here[:depth] == wanted[:depth] and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _words(dotted: str) -> tuple[str, ...]:
    """`routes."my llm".upstream` as its three words."""
    return tuple(word.strip().strip("\"'") for word in re.findall(r"\"[^\"]*\"|'[^']*'|[^.\s\"']+", dotted))
