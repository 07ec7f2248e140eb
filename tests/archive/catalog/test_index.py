"""Where members lie: learned in steps, kept within bounds, told in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import HOUR, Shelf

from archive import member
from archive.catalog.index import Index
from archive.folder import segment_name
from archive.record import new_id

Plan = list[tuple[int, int]]
"""(minutes after HOUR at which an exchange began, minutes it took until it was written)."""


def lay(folder: Path, plan: Plan) -> dict[bytes, list[str]]:
    """Members of exchanges that began and were written at these times; each id with its segments."""
    shelf, placed = Shelf(folder), {}
    for began, took in sorted(plan, key=lambda it: it[0] + it[1]):
        name = new_id(int((HOUR + began * 60) * 1000))
        at = HOUR + (began + took) * 60
        shelf.raw(member.pack(b"{}\n", id=name, part=0, seq=0), at)
        placed[name] = [segment_name(at)]
    return placed


@given(
    plan=st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0, 0, 1, 61, 200])), min_size=1, max_size=25),
    held=st.sampled_from([1, 5, 1000]),
    at=st.integers(0, 24),
)
def test_a_walk_tells_every_exchange_once_newest_first(tmp_path_factory: pytest.TempPathFactory, plan: Plan, held: int, at: int) -> None:
    folder = tmp_path_factory.mktemp("walk") / "archive"
    placed = lay(folder, plan)
    index = Index(folder, held=held)
    index.refresh()
    expected = sorted(placed, reverse=True)
    assert list(index.walk(None)) == expected
    before = expected[at % len(expected)]
    assert list(index.walk(before)) == [each for each in expected if each < before]
    fresh = Index(folder, held=held)
    fresh.refresh()
    assert [name for name, _ in fresh.find(before)] == placed[before]
    assert fresh.matching(before, before) == {before}


def test_every_part_is_found_whichever_segments_hold_it(tmp_path: Path) -> None:
    shelf, name = Shelf(tmp_path / "archive"), new_id(int(HOUR * 1000))
    rng = random.Random(5)
    expected = []
    for hour in range(6):
        for _ in range(rng.randrange(3)):
            at = HOUR + 3600 * hour
            path = tmp_path / "archive" / segment_name(at)
            expected.append((path.name, path.stat().st_size if path.exists() else 0))
            shelf.raw(member.pack(b"{}\n", id=name, part=len(expected), seq=0), at)
    index = Index(tmp_path / "archive")
    index.refresh()
    assert len(expected) > 4
    assert index.find(name) == expected
    assert index.find(new_id(0)) == []


def test_the_counter_moves_with_what_changes_and_only_then(tmp_path: Path) -> None:
    index, shelf = Index(tmp_path / "archive"), Shelf(tmp_path / "archive")
    counts = [index.refresh()]

    def changed() -> bool:
        counts.append(index.refresh())
        return counts[-1] != counts[-2]

    assert not changed()
    packed = member.pack(b"{}\n", id=new_id(int(HOUR * 1000)), part=0, seq=0)
    path = shelf.raw(packed)
    assert changed()
    assert not changed()
    shelf.raw(packed[:20])
    changed()
    assert not changed()
    shelf.raw(packed[20:])
    assert changed()
    path.unlink()
    assert changed()
    assert not changed()


def test_segments_that_may_not_be_opened_are_tried_again_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, now, tried = Shelf(tmp_path / "archive"), [0.0], []
    packed = member.pack(b"{}\n", id=new_id(int(HOUR * 1000)), part=0, seq=0)
    shelf.raw(packed)
    refused = {shelf.raw(packed, HOUR + 3600).name}

    def may_open(folder: Path, name: str) -> bool:
        tried.append(name)
        return name not in refused

    monkeypatch.setattr("archive.catalog.index.may_open", may_open)
    index = Index(tmp_path / "archive", clock=lambda: now[0])
    index.refresh()
    assert index.closed() == index.closed() == sorted(refused)
    assert index.followed() == (0, len(packed))  # what cannot be read is not waited for
    assert len(tried) == 2
    refused.clear()
    now[0] += 11
    assert index.closed() == []
    refused.add(shelf.raw(packed, HOUR + 7200).name)
    index.refresh()
    assert index.closed() == sorted(refused)  # another segment is looked at at once
