"""Settings' values as people write them: sizes, durations, booleans; and back. Pure; knows no setting's name."""

from __future__ import annotations

import math
import re

__all__ = ["BadValueError", "boolean", "duration", "number", "show_bytes", "show_duration", "show_size", "size"]

_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)\Z")

SIZES = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
    "t": 1 << 40,
    "tib": 1 << 40,
}
SIZES |= {"kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
"""IEC units are powers of 1024, SI units powers of 1000 (IEC 80000-13); a bare letter is meant as IEC, as in nginx and ulimit."""

DURATIONS = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "min": 60.0, "h": 3600.0}

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class BadValueError(Exception):
    """A value that cannot be read. The message says what is expected: "must be a size such as 64MiB"."""


def size(value: object) -> int:
    """Bytes: a whole number, or text such as "64MiB". Raises BadValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value >= 0:
            return value
    elif isinstance(value, str) and (match := _NUMBER_AND_UNIT.match(value.strip())) and match[2].lower() in SIZES:
        unit = SIZES[match[2].lower()]
        return int(match[1]) * unit if match[1].isdigit() else int(float(match[1]) * unit)
    raise BadValueError("must be a size in bytes, or text such as 64MiB")


def duration(value: object) -> float:
    """Seconds: a number, or text such as "10s", "500ms", "2m". Raises BadValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str) and (match := _NUMBER_AND_UNIT.match(value.strip())) and match[2].lower() in DURATIONS:
        return float(match[1]) * DURATIONS[match[2].lower()]
    raise BadValueError("must be a number of seconds, or text such as 10s, 500ms or 2m")


def number(value: object) -> int:
    """A whole number, below 0 too; text of digits counts, for flags and the environment. Raises BadValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,15}", value.strip()):
        return int(value)
    raise BadValueError("must be a whole number")


def boolean(value: object) -> bool:
    """True or false; "1", "yes", "on" and their opposites count, for the environment. Raises BadValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (word := value.strip().lower()) in _TRUE | _FALSE:
        return word in _TRUE
    raise BadValueError("must be true or false")


def show_size(count: int) -> str:
    """`count` bytes in the largest IEC unit that divides it: "64MiB", "96KiB", "1000"."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def show_bytes(count: float) -> str:
    """About `count` bytes, for people: "812 B", "1.4 KiB", "23 MiB"."""
    unit = "B"
    for bigger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, bigger
    return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"


def show_duration(seconds: float) -> str:
    """Seconds without a needless fraction: "10", "0.5"."""
    return f"{seconds:g}"
