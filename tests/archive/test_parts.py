"""The lines of one exchange: in the order of their numbers wherever they lie, one at a time, around what cannot be read."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from samples import HOUR, Shelf, in_parts, whole

from archive import member
from archive.errors import ArchiveError
from archive.exchange import Summary
from archive.member import scan
from archive.parts import Files, fold, fold_all, number, read, read_all


def places(folder: Path) -> list[tuple[str, int]]:
    """All members of a folder."""
    found = []
    for path in sorted(folder.glob("*.gz")):
        with path.open("rb") as file:
            found += [(path.name, each.offset) for each in scan(file)]
    return found


def never(name: str, offset: int, error: Exception) -> None:
    raise AssertionError(f"{name} at {offset}: {error}")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_are_taken_in_in_the_order_of_their_numbers(tmp_path: Path, order: tuple[int, ...]) -> None:
    records = in_parts([b"one ", b"two ", b"three"])
    shelf = Shelf(tmp_path)
    for hour, at in enumerate(order):
        shelf.put(records[at], at=HOUR + 3600 * hour)
    with Files(tmp_path) as files:
        summary, after = fold_all(places(tmp_path), files, never)
        assert (summary.parts, summary.end, summary.response_bytes, summary.method, after) == (3, "complete", 13, "POST", 3)
        assert (fold(Summary(), 0, places(tmp_path), files, never) is None) == (order != (0, 1, 2))
        assert [number(part) for part in read_all(places(tmp_path), files)] == [0, 1, 2]


def test_a_summary_goes_on_with_later_parts(tmp_path: Path) -> None:
    Shelf(tmp_path).put(in_parts([b"one ", b"two ", b"three"]))
    found = places(tmp_path)
    with Files(tmp_path) as files:
        begun = fold(Summary(), 0, found[:1], files, never)
        assert begun is not None
        assert fold(*begun, found[1:], files, never) == fold_all(found, files, never)


def test_what_cannot_be_read_is_noted_and_left_out(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    members = [bytearray(shelf.pack(each)) for each in in_parts([b"one ", b"two ", b"three"])]
    members[1][member.HEADER_LENGTH + 30] ^= 0x10
    shelf.raw(b"".join(members))
    noted: list[tuple[str, int]] = []
    with Files(tmp_path) as files:
        summary, _ = fold_all(places(tmp_path), files, lambda name, offset, error: noted.append((name, offset)))
        assert (summary.parts, summary.end) == (2, "complete")
        assert noted == places(tmp_path)[1:2]
        assert len(read_all(places(tmp_path), files)) == 2
        with pytest.raises(ArchiveError):
            read(places(tmp_path)[1], files)


def test_beyond_its_room_a_line_is_read_without_its_long_texts(tmp_path: Path) -> None:
    Shelf(tmp_path).put(whole(body=b"x" * (2 << 20)))
    (place,) = places(tmp_path)
    with Files(tmp_path) as files:
        assert len(read(place, files)["request"]["body"]["text"]) == 2 << 20
        assert read(place, files, room=1 << 20)["request"]["body"]["text"] == ""


def test_few_segments_are_open_at_once(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for hour in range(20):
        shelf.put(whole(HOUR + 3600 * hour), at=HOUR + 3600 * hour)
    with Files(tmp_path) as files:
        for place in places(tmp_path):
            read(place, files)
        assert len(files._open) == 8
