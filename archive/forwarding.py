"""What a record says of both sides, in a line for people: forwarded unchanged, or what differs. Pure; believes what it reads.

Whether the record bears it out is for `archive.proof.transparency` to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Forwarding", "forwarding"]

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Whether the gateway handed on what it had received, as the exchange's last record says."""

    sentence: str
    """Without a full stop."""
    differences: tuple[str, ...]
    """What no rule explains; empty: unchanged."""


def forwarding(parts: Sequence[Json], *, origin: str | None) -> Forwarding | None:
    """Of the lines of one exchange, in order; `origin` is who answered. None where none of them tells: it has not ended, or is older.

    Raises KeyError, TypeError or ValueError for a line that is not of the schema.
    """
    proof = next((part["transparency"] for part in reversed(parts) if part.get("transparency")), None)
    if proof is None:
        return None
    differences = tuple(str(each) for each in proof["differences"])
    return Forwarding("Not forwarded unchanged" if differences else _unchanged(proof, origin), differences)


def _unchanged(proof: Json, origin: str | None) -> str:
    request, response = proof["request"], proof["response"]
    short = [_short(side, crossed) for side, crossed in (("request", request), ("response", response)) if crossed is not None]
    if origin == "gateway" or response is None:
        sent = request is not None and request["names"][1] is not None
        what = "Request forwarded unchanged" if sent else "Nothing was forwarded"
        what += ", answered by the gateway itself" if origin == "gateway" else ", no answer came"
        short = short[:1] if sent else []
    else:
        what = "Forwarded unchanged, both ways"
    cut = ", ".join(filter(None, short))
    again = ", at the second try" if int(proof["retried"]) else ""
    return what + again + (f", as far as it went: {cut}" if cut else "")


def _short(side: str, crossed: Json) -> str:
    received, forwarded = (int(size) for size in crossed["size"])
    return "" if received == forwarded else f"{forwarded:,} of {received:,} bytes of the {side}"
