"""Comparing an hour with its seal: whatever was done to it, exactly the records that were touched are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rig_seal import TEN, filled, forged, members, seal_all
from samples import HOUR, Shelf, whole

from archive import member
from archive.folder import seal_path
from archive.proof.compare import compare
from archive.proof.manifest import Seal
from archive.proof.merkle import leaf_hash
from archive.proof.seal import read_seal

COUNT = 9


class Hour:
    """One sealed hour of nine records, and strangers to put into it."""

    def __init__(self, folder: Path) -> None:
        shelf = Shelf(folder)
        shelf.open()
        self.path = shelf.put([whole(HOUR + at, body=b"%d" % at * 30) for at in range(1, COUNT)])
        (self.seal,) = seal_all(folder)
        self.members = members(self.path)
        self.strangers = [Shelf(folder, seq=900 + at).pack(whole(HOUR + at)) for at in range(COUNT + 1)]

    def leaf(self, index: int) -> str:
        return leaf_hash(member.unpack(self.members[index], limit=1 << 20)).hex()


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Hour:
    return Hour(tmp_path_factory.mktemp("compared") / "archive")


@given(
    flipped=st.dictionaries(st.integers(0, COUNT - 1), st.tuples(st.integers(0, 10_000), st.integers(0, 7)), max_size=4),
    deleted=st.sets(st.integers(0, COUNT - 1), max_size=4),
    forgotten=st.sets(st.integers(0, COUNT - 1), max_size=4),
    added=st.sets(st.integers(0, COUNT), max_size=3),
)
def test_exactly_the_records_that_were_touched_are_named(
    hour: Hour, flipped: dict[int, tuple[int, int]], deleted: set[int], forgotten: set[int], added: set[int]
) -> None:
    parts = [bytearray(each) for each in hour.members]
    for index, (at, bit) in flipped.items():
        parts[index][at % len(parts[index])] ^= 1 << bit
    gone = deleted | forgotten
    out = bytearray()
    for index in range(COUNT + 1):
        if index in added:
            out += hour.strangers[index]
        if index < COUNT and index not in gone:
            out += parts[index]
    hour.path.write_bytes(out)
    found = compare(hour.path, hour.seal, {index: hour.leaf(index) for index in forgotten})
    named = {
        index
        for each in found
        if each.first_record is not None and each.last_record is not None
        for index in range(each.first_record, each.last_record + 1)
    }
    # A record that was to be forgotten and is named with its damaged neighbours is one whose bytes nobody can tell any more.
    assert named - forgotten == (deleted | (flipped.keys() - gone)) - forgotten
    assert bool(found) == bool(added or (deleted | (flipped.keys() - gone)) - forgotten)
    size = len(out)
    assert all(0 <= each.offset <= each.offset + each.length <= size for each in found)


def test_an_hour_as_it_was_sealed_has_nothing_to_name(hour: Hour) -> None:
    hour.path.write_bytes(b"".join(hour.members))
    assert compare(hour.path, hour.seal, {}) == []


@given(st.permutations(range(COUNT)))
def test_any_other_order_is_named_and_no_record_is_missed_in_it(hour: Hour, order: list[int]) -> None:
    hour.path.write_bytes(b"".join(hour.members[index] for index in order))
    found = compare(hour.path, hour.seal, {})
    assert bool(found) == (order != sorted(order))
    assert all("not in its place" in each.why for each in found)


def test_a_record_told_of_that_was_never_there_is_named(hour: Hour) -> None:
    hour.path.write_bytes(b"".join(hour.members[1:]))
    for index, leaf in ((0, "00" * 32), (COUNT, hour.leaf(0)), (-1, hour.leaf(0))):
        (found,) = compare(hour.path, hour.seal, {index: leaf})
        assert "another record" in found.why


def test_digests_that_fit_a_root_that_does_not_are_the_seals_fault(tmp_path: Path) -> None:
    shelf = filled(tmp_path / "archive")
    path = shelf.folder / f"{TEN}.jsonl.gz"
    for changes in ({"root": "00" * 32}, {"sha256": "00" * 32}):
        forged(shelf.folder, TEN, **changes)
        seal = read_seal(shelf.folder, TEN)
        assert isinstance(seal, Seal)
        (found,) = compare(path, seal, {})
        assert (found.file, found.offset, found.length) == (seal_path(shelf.folder, TEN), 0, seal_path(shelf.folder, TEN).stat().st_size)


def test_gzip_made_anew_around_the_only_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path / "archive")
    path = shelf.put(whole(HOUR + 1))
    (seal,) = seal_all(shelf.folder)
    (data,) = members(path)
    tag = member.read_tag(data)
    assert tag is not None
    line = member.unpack(data, limit=1 << 20)
    monkeypatch.setattr(member, "_LEVEL", 3)
    path.write_bytes(member.pack(line, id=tag.id, part=tag.part, seq=tag.seq))
    (found,) = compare(path, seal, {})
    assert found.first_record == 0
