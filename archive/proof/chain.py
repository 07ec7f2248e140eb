"""The seals of one folder beside each other: is each as it was written, does each name the one before it, who signed. Reads seals only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from archive.errors import DamagedSeal
from archive.folder import hour_of, seal_path
from archive.proof.manifest import Previous, Seal, parse_seal
from archive.proof.report import Damaged, Gone
from archive.proof.seal import seal_bytes

__all__ = ["Chain", "Link", "read_link"]

_OUTSIDE: Final = "it is not in the chain: no later seal leads to it"


@dataclass(frozen=True, slots=True)
class Link:
    """One seal as it lies there."""

    path: Path
    hour: str
    size: int
    sha256: str
    seal: Seal | None
    why: str = ""
    """Why there is no seal in these bytes, or why it cannot be trusted."""


def read_link(folder: Path, hour: str) -> Link | None:
    """The seal of that hour, without its digests; None when it has none. Raises OSError."""
    path = seal_path(folder, hour)
    try:
        data = seal_bytes(folder, hour)
        if data is None:
            return None
    except DamagedSeal as error:
        return Link(path, hour, 0, "", None, str(error))
    digest = sha256(data).hexdigest()
    try:
        seal = parse_seal(data)
    except DamagedSeal as error:
        return Link(path, hour, len(data), digest, None, str(error))
    if seal.segment != hour:
        return Link(path, hour, len(data), digest, None, f"it is the seal of another hour, {seal.segment}")
    why = "" if seal.holds() else "its signature is not that of the key it names"
    return Link(path, hour, len(data), digest, replace(seal, members=b"", lines=b""), why)


class Chain:
    """What the seals of a folder say of each other and of what lies beside them."""

    def __init__(self, links: Sequence[Link], segments: Sequence[Path], pruned: Mapping[str, str | None]) -> None:
        """`segments` lie in the folder; `pruned` are the hours that prune lines tell of, with the SHA-256 of their seals."""
        self.links = links
        self._by_hour = {link.hour: link for link in links}
        self._segments = {hour_of(path.name): path for path in segments}
        self._pruned = pruned

    def damaged(self) -> Iterator[Damaged]:
        """Seals that are not as they were written, and hours that are in no chain though they should be."""
        yield from (_whole(link, link.why) for link in self.links if link.why)
        yield from sorted(self._breaks(), key=lambda each: each.file)
        yield from self._unsealed()

    def _breaks(self) -> Iterator[Damaged]:
        """Follow the chain from its newest seal: what is not named in it, and what is not as it was when it was named."""
        at = len(self.links) - 1
        while at > 0:
            link, before = self.links[at], self.links[at - 1]
            at -= 1
            if link.seal is None:
                continue  # told of already
            named = link.seal.previous
            if named is None and link is not self.links[-1]:
                yield from (_whole(each, _OUTSIDE) for each in self.links[: at + 1])  # the chain begins here, as the next seal vouches
                return
            if named is None or named.segment >= link.hour:
                yield _whole(link, f"it does not name the seal before it, that of {before.hour}")
                continue
            while at >= 0 and self.links[at].hour > named.segment:
                yield _whole(self.links[at], _OUTSIDE)
                at -= 1
            if at >= 0 and self.links[at].hour == named.segment and self.links[at].sha256 != named.sha256:
                yield _whole(self.links[at], f"it was changed or replaced after {link.hour} was sealed, whose seal names another")

    def _unsealed(self) -> Iterator[Damaged]:
        newest = self.links[-1].hour if self.links else ""
        sealed = {link.hour for link in self.links}
        for hour, path in self._segments.items():
            if hour < newest and hour not in sealed and hour not in self._pruned:
                why = "it has no seal though a later hour has one: its seal was taken away, or the hour was put here later"
                yield Damaged(path, 0, path.stat().st_size, why)

    def gone(self) -> Iterator[Gone]:
        """Hours that were sealed and are not there, and that no prune line tells of."""
        for link in self.links:
            if link.hour not in self._segments and link.hour not in self._pruned:
                records = link.seal.records if link.seal is not None else None
                yield Gone(link.hour, records, "its seal is there and its records are not")
        there = {link.hour for link in self.links} | self._segments.keys()
        for link in self.links:
            named = link.seal.previous if link.seal is not None else None
            if named is not None and named.segment < link.hour and named.segment not in there and not self._told(named):
                yield Gone(named.segment, None, f"the seal of {link.hour} names it, and neither it nor its seal is there")

    def _told(self, named: Previous) -> bool:
        return self._pruned.get(named.segment) == named.sha256

    def vouched(self, key: str | None) -> frozenset[str]:
        """The hours whose seals `key` (a public key; any when None) has signed, or that the chain leads back to from one that it has
        signed: a signature vouches for the whole chain before it."""
        found, named = set[str](), None
        for link in reversed(self.links):
            if link.seal is None:
                continue
            signed = not link.why and link.seal.key is not None and key in (None, link.seal.key)
            if signed or named == Previous(link.hour, link.sha256):
                found.add(link.hour)
                named = link.seal.previous
        return frozenset(found)

    def unvouched(self, hour: str) -> str | None:
        """Why that hour, which is not among those vouched for by a key, is not; to be read after "it is". None when it has no seal."""
        link = self._by_hour.get(hour)
        if link is None:
            return None
        if link.seal is None or link.why:
            return "sealed, but its seal is not as it was made"
        if link.seal.key is None:
            return "not signed, nor is a later hour with your key"
        return f"signed by {link.seal.key}, not by your key"


def _whole(link: Link, why: str) -> Damaged:
    return Damaged(link.path, 0, link.size, why)
