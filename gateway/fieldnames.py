"""The names of one head's fields and what follows from them alone, looked at once: clients of one kind send the same names each time.

For the record only; used in the keeper. Nothing here knows a field's value. Sans-I/O.
"""

from __future__ import annotations

from typing import Final

from archive.record import Fields
from gateway.redaction import suspects
from gateway.sessions import tells

__all__ = ["Names", "names_of"]

KNOWN: Final = 1024
"""Sets of names remembered; forgotten together when there are more: a client may invent names without end."""
SHORT: Final = 4096
"""Bytes of names in a set that is remembered. So all of them take less than 20 MB, whatever clients send; in practice some KB."""


class Names:
    """What one head's fields are called. Shared by all heads with these names: nobody changes it."""

    __slots__ = ("given", "lower", "places", "suspects", "tells")

    def __init__(self, given: tuple[bytes, ...]) -> None:
        self.given = given
        """As they were spelled, in order."""
        self.lower = tuple([name.lower() for name in given])
        self.places: dict[bytes, tuple[int, ...]] = {}
        """Where the fields of each name stand, by the name in lower case."""
        for at, name in enumerate(self.lower):
            self.places[name] = (*self.places.get(name, ()), at)
        self.suspects = suspects(given)
        """As `redaction.suspects`."""
        self.tells = tells(self.lower)
        """As `sessions.tells`."""


_known: dict[tuple[bytes, ...], Names] = {}


def names_of(fields: Fields) -> Names:
    """The names of these fields. Never raises."""
    given = tuple([name for name, _ in fields])
    names = _known.get(given)
    if names is None:
        names = Names(given)
        if names.suspects is not None and sum(map(len, given)) <= SHORT:
            if len(_known) >= KNOWN:
                _known.clear()
            _known[given] = names
    return names
