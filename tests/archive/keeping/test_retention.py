"""Retention: what goes by age and by bytes, and how soon a disk is full. The clock is an argument."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import HOUR, Shelf, whole

from archive.folder import hour_of, segment_name
from archive.keeping.retention import Hour, began, choose, hours, outlook, plan

DAY = 86_400.0
OLDEST = HOUR - 10 * DAY


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "archive")


def row(count: int, size: int = 100, *, every: float = 3600.0, first: float = OLDEST) -> list[Hour]:
    """Hours of `size` bytes each, the first at `first`."""
    return [Hour(hour_of(segment_name(first + number * every)), size) for number in range(count)]


def chosen(found: list[Hour], *, now: float = HOUR, **bounds: int) -> list[str]:
    return [hour.hour for hour, _ in choose(found, now=now, **{"keep_days": 0, "keep_bytes": 0, **bounds})]


def test_without_bounds_everything_stays() -> None:
    assert chosen(row(1000)) == []


def test_hours_that_ended_before_the_days_kept_go() -> None:
    found = row(48)
    ends = began(found[4].hour) + 3600
    assert chosen(found, keep_days=3, now=ends + 3 * DAY) == [it.hour for it in found[:5]]
    assert chosen(found, keep_days=3, now=ends + 3 * DAY - 1) == [it.hour for it in found[:4]]


def test_the_oldest_hours_go_until_the_rest_fits() -> None:
    found = row(10, 100)
    assert chosen(found, keep_bytes=1000) == []
    assert chosen(found, keep_bytes=999) == [found[0].hour]
    assert chosen(found, keep_bytes=350) == [it.hour for it in found[:7]]


def test_both_bounds_hold_and_each_says_why() -> None:
    found = row(10, 100)
    now = began(found[2].hour) + 3600 + DAY
    reasons = [why for _, why in choose(found, keep_days=1, keep_bytes=500, now=now)]
    assert reasons == ["older than 1 day"] * 3 + ["beyond 500 bytes"] * 2


def test_a_bound_is_told_as_people_write_it() -> None:
    for size, said in ((1, "1 byte"), (1500, "1,500 bytes"), (15_360, "15 KiB"), (50 << 30, "50 GiB")):
        ((_, why),) = choose([Hour("2026-11-19T10", 1 << 40)], keep_days=0, keep_bytes=size, now=HOUR + DAY)
        assert why == f"beyond {said}"


def test_the_current_hour_and_later_ones_never_go() -> None:
    found = row(3, 100, first=HOUR)
    assert chosen(found, keep_bytes=1, now=HOUR) == []
    assert chosen(found, keep_bytes=1, now=HOUR + 3601) == [found[0].hour]
    assert chosen(found, keep_days=1, now=HOUR - 400 * DAY) == []


def test_bytes_count_both_forms_and_the_seal(tmp_path: Path) -> None:
    names = {
        "2026-11-19T10.jsonl.gz": 10,
        "2026-11-19T10.jsonl.zst": 5,
        "2026-11-19T10.seal.json": 3,
        "2026-11-19T11.jsonl.zst": 7,
        "2026-11-19T12.seal.json": 2,
    }
    others = ["notes.txt", "2026-11-19T10.jsonl.gz.1", ".2026-11-19T13.jsonl.gz.new", "2026-02-31T10.jsonl.gz", "2026-11-19T99.seal.json"]
    for name in [*names, *others]:
        (tmp_path / name).write_bytes(bytes(names.get(name, 1000)))
    (tmp_path / "2026-11-19T14.jsonl.gz").symlink_to("notes.txt")
    assert hours(tmp_path) == [Hour("2026-11-19T10", 18), Hour("2026-11-19T11", 7), Hour("2026-11-19T12", 2)]
    assert hours(tmp_path / "nowhere") == []


def test_a_plan_counts_what_goes_and_what_stays(shelf: Shelf) -> None:
    shelf.open(HOUR)
    shelf.put([whole(HOUR + 1), whole(HOUR + 2)])
    shelf.put(whole(HOUR + 3601))
    shelf.put(whole(HOUR + 2 * 3600 + 1))
    made = plan(shelf.folder, keep_days=0, keep_bytes=1, now=HOUR + 2 * 3600 + 60)
    assert [(it.hour, it.records, it.why) for it in made.doomed] == [
        ("2026-11-19T10", 3, "beyond 1 byte"),
        ("2026-11-19T11", 1, "beyond 1 byte"),
    ]
    assert (made.records, made.hours_left) == (4, 1)
    assert made.bytes_left == (shelf.folder / "2026-11-19T12.jsonl.gz").stat().st_size
    assert made.over == made.bytes_left - 1
    assert made.bytes == sum((shelf.folder / f"{it.hour}.jsonl.gz").stat().st_size for it in made.doomed)


@pytest.mark.parametrize(
    ("bounds", "free", "days"),
    [
        ({}, 24_000, 10.0),  # 100 bytes an hour, 2,400 a day
        ({"keep_days": 30}, 24_000, 10.0),  # 30 days are 72,000 bytes, 24,000 of them are there
        ({"keep_days": 11}, 24_000, None),
        ({"keep_days": 11}, 2_000, 2_000 / 2_400),
        ({"keep_bytes": 40_000}, 24_000, None),
        ({"keep_bytes": 80_000}, 24_000, 10.0),
        ({"keep_days": 30, "keep_bytes": 40_000}, 24_000, None),
    ],
)
def test_the_outlook_weighs_growth_against_space_and_bounds(bounds: dict[str, int], free: int, days: float | None) -> None:
    found = row(240, 100)
    seen = outlook(found, free=free, now=HOUR, **{"keep_days": 0, "keep_bytes": 0, **bounds})
    assert seen.bytes_a_day == pytest.approx(2400, rel=0.02)
    assert seen.days == (None if days is None else pytest.approx(days, rel=0.02))


def test_an_archive_at_rest_fills_no_disk() -> None:
    assert outlook([], free=1, keep_days=0, keep_bytes=0, now=HOUR).days is None
    assert outlook(row(5), free=1, keep_days=0, keep_bytes=0, now=HOUR).days is None


def test_a_young_archive_grows_at_its_own_pace() -> None:
    assert outlook(row(1, 100, first=HOUR), free=2400, keep_days=0, keep_bytes=0, now=HOUR + 60).days == pytest.approx(1.0)
    assert outlook(row(2, 100, first=HOUR), free=2400, keep_days=0, keep_bytes=0, now=HOUR + 7200).days == pytest.approx(1.0)
