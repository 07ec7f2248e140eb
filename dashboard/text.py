"""Text that models and strangers wrote, made safe to look at: what cannot be seen is named, what could act is escaped.

Pure functions. Nothing here interprets text; JSON, event streams and bytes have modules of their own.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from itertools import islice

from markupsafe import Markup, escape

__all__ = ["clip", "clock", "day", "duration", "marked", "plain", "size"]

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls but tab and line feed
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # with the line above: Default_Ignorable_Code_Point
    "\u2028-\u202e"  # line and paragraph separators, bidirectional embeddings and overrides
    "\ud800-\udfff]"  # lone surrogates, which no UTF-8 page could carry
)
"""What a browser would draw as nothing, or use to reorder its neighbours (Unicode 16 DerivedCoreProperties, UAX 9).

U+FE0F alone is left out: it asks for the coloured form of an emoji, and is in every other emoji.
"""


def _name(char: str) -> str:
    """A short visible name that every font has: `\\r`, `\\x1b` for controls, `U+202E` for the rest."""
    code = ord(char)
    if char == "\r":
        return "\\r"
    return f"\\x{code:02x}" if code < 0xA0 else f"U+{code:04X}"


def plain(text: str) -> str:
    """`text` with each invisible or reordering character replaced by its name in angle brackets; safe in an attribute once escaped."""
    return _HIDDEN.sub(lambda found: f"\u27e8{_name(found[0])}\u27e9", text)


def _mark(found: re.Match[str]) -> str:
    char = found[0]
    if char == "\r" and found.string.startswith("\n", found.end()):
        return '<span class="esc">\\r</span>'  # an ordinary line end: worth a hint, not a badge on every line
    title = unicodedata.name(char, "CONTROL" if ord(char) < 0xA0 else "UNNAMED")
    return f'<span class="ctl" title="U+{ord(char):04X} {title}">{_name(char)}</span>'


def marked(text: str) -> Markup:
    """`text` as HTML: escaped, each invisible or reordering character drawn as a small badge with its Unicode name."""
    return Markup(_HIDDEN.sub(_mark, str(escape(text))))  # noqa: S704  escaped one call before; the marks are ours


def clip(text: str, most: int) -> str:
    """As much of `text` from its beginning as holds at most `most` characters that `marked` makes a badge of: each costs 70 of HTML."""
    found = next(islice(_HIDDEN.finditer(text), most, None), None)
    return text if found is None else text[: found.start()]


def size(count: int | None) -> str:
    """A number of bytes for people: `0 B`, `812 B`, `1.4 KiB`, `23 MiB`; a dash for None."""
    if count is None:
        return "\u2013"
    amount, unit = float(count), "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, bigger
    return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"


def duration(ms: float | None) -> str:
    """Milliseconds for people: `0.4 ms`, `12 ms`, `1.24 s`, `12.3 s`, `3 min 04 s`, `2 h 05 min`; a dash for None."""
    if ms is None:
        return "\u2013"
    if ms < 999.5:
        return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def day(at: datetime) -> str:
    """The day of `at` in UTC, as a heading: `Friday, 20 November 2026`."""
    at = at.astimezone(UTC)
    return f"{at:%A}, {at.day} {at:%B} {at.year}"


def clock(at: datetime) -> str:
    """The time of day of `at` in UTC to the millisecond: `10:00:00.123`."""
    at = at.astimezone(UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"
