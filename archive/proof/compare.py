"""What of a sealed hour is not as it was sealed: each changed, added, removed or moved record by name. Called when the sums differ.

The seal's digests, in their order, are laid beside those of the file; what fits nowhere is named by its neighbours. Reads one segment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from archive.folder import hour_of, seal_path
from archive.handle import Plain, open_file
from archive.member import Damage, Tag
from archive.proof.manifest import DIGEST_LENGTH, Seal
from archive.proof.merkle import root_of
from archive.proof.report import Damaged
from archive.proof.walk import Checked, Walk
from archive.record import id_text

__all__ = ["compare"]

_ADDED: Final = "added after the hour was sealed"
_CHANGED: Final = "its line is not the one that was sealed"
_PACKING: Final = "its bytes are not those that were sealed, though they inflate to the same line"
_MOVED: Final = "it is not in its place: records were put in another order"
_SEVERAL: Final = 4
"""Records from which on their number says something."""


class _Item(NamedTuple):
    """A record of the file, or a stretch of bytes that is none."""

    offset: int
    length: int
    found: Checked | Damage


def compare(path: Path, seal: Seal, removed: Mapping[int, str]) -> list[Damaged]:
    """What of the segment at `path` is not as its seal has it: nothing, when all that is gone was told of.

    `removed` says which records a forget line tells of, with their leaf hashes (hex).
    Blocks for as long as inflating it takes. Memory grows by about 300 bytes a record. Raises OSError, NotFound.
    """
    with open_file(path) as handle:
        plain = isinstance(handle, Plain)
        walk = Walk(handle, digests=plain)
        items = [_Item(each.offset, each.length if isinstance(each, Damage) else each.tag.length, each) for each in walk]
    if told := _told_otherwise(path, seal, removed):
        return told
    headers = walk.headers | {item.offset: item.found.tag for item in items if isinstance(item.found, Checked)}
    here = _Alignment(path, seal, items, headers, plain=plain)
    findings = list(here.findings(removed))
    if _is_unpacked(findings, len(items)):
        return _sums(path, seal, here, removed, None)
    return findings or _sums(path, seal, here, removed, walk.sha256)


def _is_unpacked(findings: Sequence[Damaged], records: int) -> bool:
    """Whether only the gzip around the lines is another, and that of most of them: the hour was packed, and unpacked by another compressor.
    Around a few lines it is the work of a hand, or of the disk, and they are named; so they are where there are but a few."""
    return records >= _SEVERAL and 2 * len(findings) > records and all(each.why == _PACKING for each in findings)


def _told_otherwise(path: Path, seal: Seal, removed: Mapping[int, str]) -> list[Damaged]:
    """A forget line cannot make room for anything but what was sealed at that place."""
    wrong = [at for at, digest in removed.items() if bytes.fromhex(digest)[:DIGEST_LENGTH] != _digest(seal.lines, at)]
    return [
        Damaged(path, 0, 0, "a forget line tells of another record than the one that was sealed", first_record=at, last_record=at)
        for at in sorted(wrong)
    ]


def _digest(digests: bytes, at: int) -> bytes:
    return digests[at * DIGEST_LENGTH : (at + 1) * DIGEST_LENGTH]


class _Alignment:
    """The items of a file beside the records of its seal."""

    def __init__(self, path: Path, seal: Seal, items: Sequence[_Item], headers: Mapping[int, Tag], *, plain: bool) -> None:
        self._path = path
        self._headers = headers
        self._seal = seal
        self._items = items
        self._plain = plain
        self._members = {_digest(seal.members, at): at for at in range(seal.records)} if plain else {}
        self._lines = {_digest(seal.lines, at): at for at in range(seal.records)}
        self._places = [self._place(item.found) for item in items]
        self._times = Counter(self._places)
        anchors = _longest_rising(self._places)
        self._anchored = [place if at in anchors else None for at, place in enumerate(self._places)]
        self.present = {place for place in self._places if place is not None}
        """Records of the seal whose line is in the file, wherever."""
        self.leaves = {
            place: item.found.leaf
            for place, item in zip(self._anchored, items, strict=True)
            if place is not None and isinstance(item.found, Checked)
        }

    def _place(self, found: Checked | Damage) -> int | None:
        if isinstance(found, Damage):
            return None
        exact = self._members.get(found.digest)
        return self._lines.get(found.leaf[:DIGEST_LENGTH]) if exact is None else exact

    def findings(self, removed: Mapping[int, str]) -> Iterator[Damaged]:
        """In the order of the file."""
        known = Counter((each.length, each.why) for each in self._seal.damaged)
        place, end, between = 0, 0, list[tuple[_Item, int | None]]()
        for item, anchored, placed in [*zip(self._items, self._anchored, self._places, strict=True), (None, self._seal.records, None)]:
            if item is not None and anchored is None:
                if isinstance(item.found, Damage) and known[item.length, item.found.why]:
                    known[item.length, item.found.why] -= 1
                else:
                    between.append((item, placed))
                continue
            expected = [at for at in range(place, anchored or 0) if at not in removed and at not in self.present]
            yield from self._between(end, between, expected)
            between = []
            if item is not None and isinstance(item.found, Checked):
                yield from self._anchor(item, anchored or 0)
                place, end = (anchored or 0) + 1, item.offset + item.length

    def _anchor(self, item: _Item, place: int) -> Iterator[Damaged]:
        found = item.found
        assert isinstance(found, Checked)
        if self._plain and found.digest != _digest(self._seal.members, place):
            yield self._named(item, _PACKING, place)

    def _between(self, end: int, items: Sequence[tuple[_Item, int | None]], expected: Sequence[int]) -> Iterator[Damaged]:
        """Between two records that are in their places: these items, where these records were."""
        strange = [item for item, placed in items if placed is None]
        for item, placed in items:
            if placed is not None:
                twice = self._times[placed] > 1
                yield self._named(item, f"{_ADDED}: it is there twice" if twice else _MOVED, placed)
        for at, item in enumerate(strange):
            last = at == len(strange) - 1
            if at >= len(expected):
                yield self._named(item, _ADDED if isinstance(item.found, Checked) else f"{_ADDED}: {item.found.why}", None)
                continue
            why = _CHANGED if isinstance(item.found, Checked) else item.found.why
            yield self._named(item, why, expected[at], expected[-1] if last else expected[at])
        if expected and not strange:
            yield Damaged(self._path, end, 0, "taken out after the hour was sealed", first_record=expected[0], last_record=expected[-1])

    def _named(self, item: _Item, why: str, first: int | None, last: int | None = None) -> Damaged:
        found = item.found
        return Damaged(
            self._path,
            item.offset,
            item.length,
            why,
            torn=isinstance(found, Damage) and found.torn,
            first_record=first,
            last_record=first if last is None else last,
            id=id_text(tag.id) if (tag := self._headers.get(item.offset)) is not None else None,
        )


def _longest_rising(places: Sequence[int | None]) -> set[int]:
    """The positions of a longest strictly rising subsequence: the most records that are in their order (patience sorting)."""
    tails: list[int] = []
    at_tail: list[int] = []
    before: dict[int, int | None] = {}
    for at, place in enumerate(places):
        if place is None:
            continue
        pile = bisect_left(tails, place)
        before[at] = at_tail[pile - 1] if pile else None
        tails[pile : pile + 1] = [place]
        at_tail[pile : pile + 1] = [at]
    chosen: set[int] = set()
    at_last = at_tail[-1] if at_tail else None
    while at_last is not None:
        chosen.add(at_last)
        at_last = before[at_last]
    return chosen


def _sums(path: Path, seal: Seal, here: _Alignment, removed: Mapping[int, str], sha256: str | None) -> list[Damaged]:
    """Every digest fits: then the sums must, too, or it is the seal that is wrong. `sha256`: the file's, where it should fit."""
    leaves = [here.leaves.get(at) or bytes.fromhex(removed[at]) for at in range(seal.records)]
    if root_of(leaves).hex() != seal.root:
        where = seal_path(path.parent, hour_of(path.name))
        return [Damaged(where, 0, where.stat().st_size, "its root is not that of the records it lists")]
    if sha256 in (None, seal.sha256) or removed:
        return []
    if not seal.damaged:
        where = seal_path(path.parent, hour_of(path.name))
        return [Damaged(where, 0, where.stat().st_size, "its SHA-256 is not that of the records it lists")]
    return [
        Damaged(path, it.offset, it.length, "bytes that were damaged when the hour was sealed were changed since") for it in seal.damaged
    ]
