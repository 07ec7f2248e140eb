"""Which exchanges somebody means: by id, by session, by age; and which of them still run. Reads segments; changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from archive import skim
from archive.errors import ArchiveError, BadName, DamagedMember, NotFound
from archive.exchange import Summary
from archive.folder import hour_of, segments
from archive.handle import Handle, open_segment
from archive.line import SERVICE_PART
from archive.member import Found
from archive.reader import Reader
from archive.record import id_text

__all__ = ["Choice", "Chosen", "choose"]

_DIGITS: Final = re.compile(r"[0-9a-f]{8,32}")


@dataclass(slots=True)
class Chosen:
    """One exchange that was meant."""

    id: bytes
    records: int = 0
    bytes: int = 0
    """Of its records as they lie in their segments; of packed ones the bytes of their lines."""
    hours: list[str] = field(default_factory=list)
    last: tuple[int, str, int] = (-1, "", 0)
    """Its last part: number, segment, offset."""

    @property
    def at(self) -> datetime:
        """When it began, by its id, to the millisecond."""
        return datetime.fromtimestamp(int.from_bytes(self.id[:6], "big") / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Choice:
    """Exchanges in the order in which they began."""

    chosen: list[Chosen]
    running: list[Chosen]
    """Meant, too, but not ended yet: more of them is still to be written."""


def choose(folder: Path, *, ids: Collection[str] = (), session: str | None = None, before: float | None = None) -> Choice:
    """The exchanges of these ids (or prefixes of at least 8 digits that only one exchange has), or else those of a session, or begun
    before a moment (Unix seconds), or both.

    Blocks: it hops over every segment; a session is found by reading the beginning of each exchange, and all of it where its body may
    tell. Raises BadName for what is no id, NotFound where an id is not there or not the only one.
    """
    fits = _by_id(ids) if ids else _by(session, before)
    meant: dict[bytes, Chosen | None] = {}
    for path in segments(folder):
        with suppress(NotFound), open_segment(folder, path.name) as handle:
            for each in handle.scan():
                if isinstance(each, Found) and each.tag.part != SERVICE_PART:
                    _take(meant, handle, each, fits)
    chosen = sorted((each for each in meant.values() if each is not None), key=lambda it: it.id)
    for digits in ids:
        _only(digits, chosen)
    running = {each.id for each in _running(folder, chosen)}
    return Choice([it for it in chosen if it.id not in running], [it for it in chosen if it.id in running])


Fits = Callable[[Handle, Found], bool]


def _take(meant: dict[bytes, Chosen | None], handle: Handle, found: Found, fits: Fits) -> None:
    tag = found.tag
    if tag.id not in meant:
        meant[tag.id] = Chosen(tag.id) if fits(handle, found) else None
    chosen = meant[tag.id]
    if chosen is None:
        return
    chosen.records += 1
    chosen.bytes += tag.length
    hour = hour_of(handle.name)
    if hour not in chosen.hours:
        chosen.hours.append(hour)
    chosen.last = max(chosen.last, (tag.part, handle.name, found.offset))


def _by_id(ids: Collection[str]) -> Fits:
    prefixes = tuple(map(_digits, ids))
    return lambda _, found: found.tag.id.hex().startswith(prefixes)


def _by(session: str | None, before: float | None) -> Fits:
    limit = None if before is None else max(0, int(before * 1000)).to_bytes(8, "big")[-6:]

    def fits(handle: Handle, found: Found) -> bool:
        return (limit is None or found.tag.id[:6] < limit) and (session is None or _is_of(session, handle, found))

    return fits


def _digits(text: str) -> str:
    digits = text.lower().replace("-", "")
    if not _DIGITS.fullmatch(digits) or text.lower() not in {digits, id_text(bytes.fromhex(digits.ljust(32, "0")))[: len(text)]}:
        raise BadName(f"{text!r} is no id: an id is 32 hexadecimal digits, or the first 8 or more of them")
    return digits


def _only(text: str, chosen: list[Chosen]) -> None:
    found = sum(each.id.hex().startswith(_digits(text)) for each in chosen)
    if not found:
        raise NotFound(f"no exchange begins with {text}")
    if found > 1:
        raise NotFound(f"several exchanges begin with {text}; give more of its digits")


def _is_of(session: str, handle: Handle, found: Found) -> bool:
    """Whether an exchange belongs to a session: by its line, or as a list shows it, by its request's body (`archive.naming`)."""
    if _recorded(handle, found) == session:
        return True
    try:
        # Names with characters that a line escapes are not told apart by looking for them.
        plain = session.isascii() and not set(session) & {'"', "\\"}
        if plain and not skim.contains(handle, found.offset, session.lower().encode()):
            return False
        summary = Summary()
        summary.fold(skim.skim(handle, found.offset))
    except ArchiveError:
        return False  # what cannot be read is of no session
    return summary.session == session


def _recorded(handle: Handle, found: Found) -> str | None:
    """The session in the line. `client` is among the first keys of its line, so usually only the beginning is inflated."""
    try:
        begin = next(handle.pieces(found.offset), b"").decode("utf-8", "replace")
        at = begin.find('"client":')
        try:
            client, _ = json.JSONDecoder().raw_decode(begin, at + 9)
        except ValueError:  # it goes on beyond the piece
            client = skim.skim(handle, found.offset).get("client")
    except ArchiveError:
        return None  # what cannot be read is of no session
    name = client.get("session") if isinstance(client, dict) else None
    return name if isinstance(name, str) else None


def _running(folder: Path, chosen: list[Chosen]) -> Iterator[Chosen]:
    reader: Reader | None = None
    for each in chosen:
        if _ended(folder, each):
            continue
        reader = reader or Reader(folder)
        with suppress(NotFound):  # none of it can be read: nothing will be added to it
            if reader.get(id_text(each.id)).entry.end is None:
                yield each


def _ended(folder: Path, chosen: Chosen) -> bool:
    _, name, offset = chosen.last
    try:
        with open_segment(folder, name) as handle:
            return skim.skim(handle, offset).get("end") is not None
    except (NotFound, DamagedMember):
        return False
