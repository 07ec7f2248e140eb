"""JSON laid out for reading: indented and coloured, and nothing but the white space between tokens changed.

Works on the text, not on parsed values, so that the order of keys, duplicate keys, the spelling of numbers and text that stops in
the middle all stay as they crossed. Pure; time and output are linear in the budget, whatever the nesting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from dashboard.text import marked

__all__ = ["Layout", "compact", "layout", "looks_like_json"]

_TOKEN = re.compile(
    r'[ \t\r\n]*(?:(?P<string>"(?:[^"\\\x00-\x1f]|\\.)*+")|(?P<number>-?\d[\d.eE+-]*)|(?P<word>true|false|null)\b|(?P<mark>[][{},:]))',
)
"""One token after its white space (RFC 8259). Possessive, so that no text makes it go back."""

_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))")
_COLON = re.compile(r"[ \t\r\n]*:")
_COMMA = re.compile(r"[ \t\r\n]*,")
_START = re.compile(r'[ \t\r\n\ufeff]*(?:[{[]|"(?:[^"\\]|\\.)*+"[ \t\r\n]*\Z|(?:-?\d[\d.eE+-]*|true|false|null)[ \t\r\n]*\Z)')

_DEEPEST = 32
"""Levels that are indented; deeper ones stay at this depth, else `[[[[...` would cost its length squared."""
_BLOCKS = 12
"""Levels for which the stylesheet indents a block."""
_DATA = re.compile(r'"[!#-\[\]-~]{2048}')
"""A string that begins with this much ASCII without a space or an escape is data (an image, a signature), not something to read."""
_LONG = 100
"""A string longer than this, or of several lines, becomes a block of its own, indented as a whole, so that prose reads as prose."""
_TOKENS = 40_000
"""Tokens laid out at most: each costs about 50 bytes of HTML."""


@dataclass(frozen=True, slots=True)
class Layout:
    """HTML for a `<pre>`, and how many characters of the text are not in it."""

    html: Markup
    left_out: int


def looks_like_json(text: str) -> bool:
    """Whether `text` begins like an object or an array, or is one plain JSON value. Cheap; not a validation."""
    return _START.match(text) is not None


def _string(token: str, kind: str) -> str:
    """A string token as HTML: `\\n` also breaks the line, `\\u00e9` is its character, `\\u202e` a badge, the rest as it is spelt."""
    if _DATA.match(token):
        rest = len(token) - 256
        return f'<span class="{kind}">{marked(token[:256])}</span><span class="cut">\u2026 {rest:,} more characters, see raw</span>'
    pieces: list[str] = []
    at = 0
    for found in _ESCAPE.finditer(token):
        pieces.append(str(marked(token[at : found.start()])))
        pieces.append(_escape(found))
        at = found.end()
    pieces.append(str(marked(token[at:])))
    return f'<span class="{kind}">{"".join(pieces)}</span>'


def _escape(found: re.Match[str]) -> str:
    high, low, unit, letter = found.groups()
    if letter == "n":
        return '<span class="esc">\\n</span>\n'
    if high:
        return str(marked(bytes.fromhex(high + low).decode("utf-16-be")))
    if unit and not 0xD800 <= int(unit, 16) <= 0xDFFF and chr(int(unit, 16)).isprintable():
        return str(marked(chr(int(unit, 16))))
    return f'<span class="ctl">{marked(found[0])}</span>' if unit else str(marked(found[0]))


def layout(text: str) -> Layout:
    """`text` indented by two spaces. From the first thing that is no JSON on, the rest is shown as it is."""
    return _lay_out(text, breaks=True)


def compact(text: str) -> Layout:
    """`text` coloured, on as few lines as its strings need, with its own tokens and no white space of its own."""
    return _lay_out(text, breaks=False)


def _lay_out(text: str, *, breaks: bool) -> Layout:
    out: list[str] = []
    depth = at = tokens = 0
    previous = ""
    while tokens < _TOKENS and (found := _TOKEN.match(text, at)):
        kind, token = found.lastgroup or "", found[found.lastgroup or 0]
        tokens += 1
        at = found.end()
        closes = kind == "mark" and token in ("}", "]")
        if closes:
            depth = max(0, depth - 1)
        if breaks and _breaks_before(previous, token, closes):
            out.append(("" if previous.startswith("block") else "\n") + "  " * min(depth, _DEEPEST))
        if kind == "string" and breaks and (len(token) > _LONG or "\\n" in token) and not _COLON.match(text, at):
            comma = _COMMA.match(text, at)
            at = comma.end() if comma else at
            _block(out, _string(token, "str") + ("," if comma else ""), min(depth, _BLOCKS) + (previous == ":"))
            previous = "block," if comma else "block"
            continue
        out.append(_html(kind, token, text, at))
        if kind == "mark" and token in ("{", "["):
            depth += 1
        if token in (":" if breaks else ":,"):
            out.append(" ")
        previous = token if kind == "mark" else "value"
    rest = text[at:].strip(" \t\r\n")
    if tokens < _TOKENS:
        out.append(str(marked(rest)))
        rest = ""
    return Layout(Markup("".join(out)), len(rest))  # noqa: S704  every piece went through marked()


def _block(out: list[str], html: str, depth: int) -> None:
    """A block element: it breaks the line before and after by itself, so the line break and indent before it go."""
    if out and not out[-1].strip(" \n"):
        out.pop()
    out.append(f'<span class="block i{depth}">{html}</span>')


def _breaks_before(previous: str, token: str, closes: bool) -> bool:
    """A new line after `{`, `[` and `,` and before `}` and `]`, but `{}` and `[]` stay together."""
    if closes:
        return previous not in ("{", "[", "")
    return previous in ("{", "[", ",", "block,")


def _html(kind: str, token: str, text: str, end: int) -> str:
    if kind == "string":
        return _string(token, "key" if _is_key(text, end) else "str")
    if kind == "mark":
        return token
    return f'<span class="{"num" if kind == "number" else "word"}">{token}</span>'


def _is_key(text: str, end: int) -> bool:
    return _COLON.match(text, end) is not None
