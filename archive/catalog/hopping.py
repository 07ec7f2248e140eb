"""What the catalog's follower does with headers: where records lie, and which segments are no more what they were.

Works inside the follower's transaction, on the connection it is given; hops over segments, and inflates only the archive's own lines.
"""

from __future__ import annotations

import sqlite3
import struct
import time
import zlib
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Final

from archive.catalog.rows import Covered
from archive.catalog.tail import State, about, still_there, tag_bytes
from archive.catalog.telling import Telling
from archive.errors import ArchiveError, DamagedMember
from archive.folder import PLAIN, hour_of, segments
from archive.handle import Handle, open_segment
from archive.line import SERVICE_PART
from archive.member import Damage, Found
from archive.skim import read_line

__all__ = ["Hopping"]

_HOP: Final = 20_000
"""Records hopped over in one step at most: 50 ms or so."""
_READ: Final = 4 << 20
_NOTED: Final = 16 << 10
"""The archive's own lines up to this length are kept in the catalog; longer ones, which tell of removals, are read where they lie."""

_ID: Final = struct.Struct("<16sIQ")


class Hopping:
    """Learns where records lie, and takes out what is gone. For the follower's thread; raises OSError, sqlite3.Error."""

    def __init__(self, folder: Path, db: sqlite3.Connection, known: dict[str, Covered], telling: Telling) -> None:
        """`known`: what was followed, by name; entries are replaced here and by `telling`."""
        self._folder = folder
        self._db = db
        self._known = known
        self._telling = telling
        self._listing: dict[str, State] = {}
        self._vouched: dict[str, State] = {}
        """In which state a segment was found to go on from what was followed of it."""
        self._ended: dict[str, State] = {}
        """Segments that were read to their end in this state, though it is no whole record."""
        self.dropped = False
        """Rows were taken out."""

    def look(self) -> None:
        """See which segments there are; all else here is about these."""
        self._listing = {path.name: about(path) for path in segments(self._folder)}

    def progress(self) -> tuple[int, int]:
        """Bytes of segments that the catalog knows, of how many."""
        known = 0
        for name, (_, _, size, _) in self._listing.items():
            if (it := self._known.get(name)) is not None and it.position:
                known += min(size, it.position) * it.told // it.position if name.endswith(PLAIN) else size * it.told // it.position
        return known, sum(state[2] for state in self._listing.values())

    def reconcile(self) -> bool:
        """Take out, or find again, one segment that is no more what it was. Returns whether there was one."""
        for name, covered in self._known.items():
            state = self._listing.get(name)
            now = name if state is not None else self._other_form(name)
            if now is None or (state is not None and self._is_known(covered, state)):
                continue
            if self._same_lines(covered, now):
                self._move(covered, now)
            else:
                self._drop(covered, forgotten=True)
            return True
        return False

    def bury(self) -> bool:
        """Take out one segment that is gone: after all lines were seen that could tell that it was forgotten."""
        for name, covered in self._known.items():
            if name not in self._listing:
                self._drop(covered, forgotten=self._is_forgotten(covered))
                return True
        return False

    def _is_known(self, covered: Covered, state: State) -> bool:
        if state[1] != covered.inode or (covered.name.endswith(PLAIN) and state[2] < covered.position):
            return False
        if self._vouched.get(covered.name) != state:
            try:
                with open_segment(self._folder, covered.name) as handle:
                    if not still_there(handle, covered):
                        return False
            except ArchiveError:
                return True  # it cannot be opened just now: nothing is known against it
            self._vouched[covered.name] = state
        return True

    def _other_form(self, name: str) -> str | None:
        return next((it for it in self._listing if hour_of(it) == hour_of(name)), None)

    def _same_lines(self, covered: Covered, name: str) -> bool:
        """Whether the segment `name` begins with the same records: copied, packed or unpacked, not changed."""
        if not covered.records:
            return False
        chain = count = 0
        last = None
        try:
            with open_segment(self._folder, name) as handle:
                for each in handle.scan():
                    if isinstance(each, Found):
                        chain, count, last = _chained([each], chain), count + 1, each
                        if count == covered.records:
                            break
        except ArchiveError:
            return False
        if last is None or (chain, count) != (covered.chain, covered.records):
            return False
        return name != covered.name or (last.offset == covered.last and tag_bytes(last.tag) == covered.tag)

    def _move(self, covered: Covered, name: str) -> None:
        """The same lines lie in another file: what the exchanges are and say is known, where they lie is learned anew."""
        if name == covered.name:
            self._put(replace(covered, inode=self._listing[name][1]))
            return
        key = (covered.key,)
        if self._db.execute("SELECT 1 FROM event WHERE segment = ? AND why IS NOT NULL", key).fetchone() is not None:
            self._drop(covered, forgotten=True)
            return
        del self._known[covered.name]
        self._db.execute("DELETE FROM part WHERE segment = ?", key)
        self._db.execute("DELETE FROM event WHERE segment = ?", key)
        anew = replace(covered, name=name, inode=self._listing[name][1], position=0, told=0, last=-1, tag=b"", chain=0, records=0)
        self._put(anew)
        with open_segment(self._folder, name) as handle:
            self._hop_on(handle, anew, self._listing[name], moved=covered.records)
        if covered.told == covered.position and name in self._known:
            self._put(replace(self._known[name], told=self._known[name].position))

    def _put(self, covered: Covered) -> None:
        self._db.execute("INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(covered))
        self._known[covered.name] = covered

    def _is_forgotten(self, covered: Covered) -> bool:
        return self._db.execute("SELECT 1 FROM forgotten WHERE hour = ?", (hour_of(covered.name),)).fetchone() is not None

    def _drop(self, covered: Covered, *, forgotten: bool) -> None:
        self._telling.dropped(covered, forgotten=forgotten)
        self.dropped = True
        self._known.pop(covered.name, None)
        self._vouched.pop(covered.name, None)
        self._ended.pop(covered.name, None)

    def hop(self, until: float) -> bool:
        """Learn where new records lie, the oldest segment first: so the tables grow at their ends. Returns whether there were any."""
        did = False
        for name, state in self._listing.items():
            covered = self._known.get(name)
            if self._ended.get(name) == state or (covered is not None and name.endswith(PLAIN) and covered.position == state[2]):
                continue
            try:
                with open_segment(self._folder, name) as handle:
                    did = self._hop_on(handle, covered, state) or did
            except ArchiveError:
                continue  # it cannot be opened just now
            if did and time.monotonic() > until:
                break
        return did

    def _hop_on(self, handle: Handle, covered: Covered | None, state: State, *, moved: int = 0) -> bool:
        """Some records further on in one segment; with `moved` that many, whose exchanges are known. Returns whether anything is known that
        was not before."""
        if handle.identity() != state[:2]:
            return False  # replaced since we listed it
        if covered is None:
            covered = Covered(self._new_key(), handle.name, state[1], 0, 0, -1, b"", 0, 0)
        elif not still_there(handle, covered):
            self._vouched.pop(covered.name, None)
            return True  # the next step begins with it
        found, damages = [], []
        waiting: list[Damage] = []  # with no record behind it, damage may yet turn into one, or be cut off
        for each in handle.scan(covered.position):
            if not isinstance(each, Found):
                waiting.append(each)
                continue
            if waiting:
                damages += waiting
                waiting.clear()
            found.append(each)
            if len(found) == (moved or _HOP):
                break
        else:
            self._ended[covered.name] = state
        if not found and covered.name in self._known:
            return False
        self._keep(handle, covered, found, damages, moved=bool(moved))
        return True

    def _keep(self, handle: Handle, covered: Covered, found: list[Found], damages: list[Damage], *, moved: bool) -> None:
        key = covered.key
        rows = sorted([(tag.id, key, offset) for offset, tag in found if tag.part != SERVICE_PART])
        self._db.executemany("INSERT OR IGNORE INTO part VALUES (?, ?, ?)", rows)
        if not moved and covered.name != next(reversed(self._listing)) and any(it.told for it in self._known.values()):
            # Parts behind others that were read already, perhaps: what the exchange is must be put together anew.
            self._db.executemany("INSERT OR IGNORE INTO again SELECT id FROM exchange WHERE id = ?", (row[:1] for row in rows))
        self._db.executemany(
            "INSERT OR REPLACE INTO event VALUES (?, ?, ?, NULL, ?)", ((key, it.offset, it.length, it.why) for it in damages)
        )
        for it in found:
            if it.tag.part == SERVICE_PART:
                self._note_line(handle, key, it.offset)
        last = found[-1] if found else None
        self._put(
            replace(
                covered,
                position=covered.position if last is None else last.offset + last.tag.length,
                last=covered.last if last is None else last.offset,
                tag=covered.tag if last is None else tag_bytes(last.tag),
                chain=_chained(found, covered.chain),
                records=covered.records + len(found),
            )
        )

    def _note_line(self, handle: Handle, key: int, offset: int) -> None:
        """One of the archive's own lines: kept, and taken to heart."""
        length, size = handle.lengths(offset)
        try:
            line = read_line(handle, offset, limit=min(size, _READ))
        except DamagedMember:
            line = None
        kept = line if line is not None and len(line) <= _NOTED else None
        self._db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, NULL)", (key, offset, length, kept))
        told = self._telling.learn(handle.name, offset, line) if line is not None else None
        removed = told.detail.get("removed") if told is not None and told.kind == "forget" and told.detail is not None else None
        for each in removed if isinstance(removed, list) else []:
            if isinstance(each, dict) and isinstance(hour := each.get("segment"), str):
                self._db.execute("INSERT OR IGNORE INTO forgotten VALUES (?)", (hour,))

    def _new_key(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(key), 0) + 1 FROM segment").fetchone()[0])


def _chained(found: Iterable[Found], chain: int) -> int:
    """CRC-32 over what headers say that is the same in a segment's every form."""
    return zlib.crc32(b"".join([_ID.pack(tag.id, tag.part, tag.seq) for _, tag in found]), chain)
