"""What was removed on purpose: what forget and prune lines tell of, what of it is gone, and what stands behind the lines. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from archive.proof.facts import Facts
from archive.proof.ledger import Removed, Told
from archive.proof.manifest import DIGEST_LENGTH, Seal
from archive.proof.report import Proof, Removal, RemovedFrom

__all__ = ["Line", "Removals"]

_WORTH: Final[Sequence[Proof]] = ("not sealed", "sealed", "signed")


class Line(NamedTuple):
    """A forget or prune line, the file it stands in, and what stands behind that."""

    told: Told
    file: Path
    proof: Proof


class Removals:
    """All forget and prune lines together."""

    def __init__(self, lines: Sequence[Line], there: Mapping[str, Facts], *, whole: bool) -> None:
        """`there` are the hours that are looked at; `whole`: a folder of them is, so that an hour which is not there is gone."""
        self._lines = lines
        self._there = there
        self._whole = whole
        self._records: dict[str, list[tuple[str, Removed]]] = {}
        """Of each hour what forget lines tell of, and when they did."""
        for each in lines:
            for it in each.told.records:
                self._records.setdefault(it.segment, []).append((each.told.at, it))
        self.pruned = {hour.segment: hour.seal for each in lines for hour in each.told.hours}
        """The hours that prune lines tell of, with the SHA-256 of their seals."""

    def concern(self, hour: str) -> bool:
        """Whether a forget line tells of records of that hour."""
        return hour in self._records

    def taken_out(self, hour: str, seal: Seal) -> dict[int, str]:
        """The records that forget lines tell of, by their number in the seal, with their leaf hashes. What was told of before it was made
        is in it only if it went later."""
        digests = [seal.lines[at : at + DIGEST_LENGTH].hex() for at in range(0, len(seal.lines), DIGEST_LENGTH)]
        return {
            it.index: it.digest
            for at, it in self._records.get(hour, ())
            if it.digest and (at > seal.sealed_at or digests[it.index : it.index + 1] == [it.digest[: 2 * DIGEST_LENGTH]])
        }

    def told(self) -> list[Removal]:
        """Line by line."""
        return [self._removal(*each) for each in self._lines]

    def removed(self) -> list[RemovedFrom]:
        """Hour by hour what is gone, each record once, however many lines tell of it."""
        found: dict[tuple[str, str], tuple[set[object], int, Proof]] = {}
        for told, _, proof in self._lines:
            for it in told.records:
                if it.segment in self._there and not self._still(it):
                    which, _, best = found.get(("forget", it.segment), (set(), 0, proof))
                    which.add((it.writer, it.seq))
                    found["forget", it.segment] = which, len(which), max(best, proof, key=_WORTH.index)
            for hour in told.hours:
                if self._whole and hour.segment not in self._there:
                    _, _, best = found.get(("prune", hour.segment), (set(), 0, proof))
                    found["prune", hour.segment] = set(), hour.records, max(best, proof, key=_WORTH.index)
        return [
            RemovedFrom("forget" if kind == "forget" else "prune", hour, count, proof)
            for (kind, hour), (_, count, proof) in sorted(found.items(), key=lambda it: it[0])
        ]

    def _removal(self, told: Told, file: Path, proof: Proof) -> Removal:
        if told.kind == "forget":
            hours = sorted({it.segment for it in told.records})
            still = sum(map(self._still, told.records))
            return Removal("forget", told.at, told.by, told.why, told.count, len(hours), still, hours, file, proof)
        hours = sorted(hour.segment for hour in told.hours)
        still = sum(hour in self._there for hour in hours)
        return Removal("prune", told.at, told.by, told.why, told.count, len(hours), still, hours, file, proof)

    def _still(self, it: Removed) -> bool:
        return it.segment in self._there and self._there[it.segment].log.holds(it.writer, it.seq)
