"""When the disk deserves a word."""

from __future__ import annotations

import pytest
from samples import HOUR

from archive.folder import hour_of, segment_name
from archive.keeping.retention import Hour
from gateway.alarms import Bounds, growth, space

MIB = 1 << 20


@pytest.mark.parametrize(("free", "state"), [(0, "fail"), (255, "fail"), (256, "warn"), (1023, "warn"), (1024, None)])
def test_few_free_bytes_are_an_alarm(free: int, state: str | None) -> None:
    alarm = space(free * MIB, 256 * MIB)
    assert (alarm.state if alarm else None) == state


def test_without_a_mark_no_space_is_too_little() -> None:
    assert space(0, 0) is None


@pytest.mark.parametrize(
    ("bounds", "days", "said"),
    [
        (Bounds(0, 0, 0), 13, "in 13 days"),
        (Bounds(0, 0, 0), 15, None),
        (Bounds(0, 0, 0), 1, "in 24 hours"),
        (Bounds(24 * MIB, 0, 0), 5, "in 4 days"),
        (Bounds(24 * MIB, 0, 0), 0, "in 0 hours"),
        (Bounds(0, 4, 0), 5, None),
        (Bounds(0, 400, 0), 5, "before keep_days = 400 frees enough"),
        (Bounds(0, 400, 9000 * MIB), 5, "before keep_days = 400 or keep_bytes = 9000MiB frees enough"),
        (Bounds(0, 400, 100 * MIB), 5, None),
    ],
)
def test_growth_is_an_alarm_when_nothing_will_stop_it_in_time(bounds: Bounds, days: int, said: str | None) -> None:
    found = [Hour(hour_of(segment_name(HOUR - number * 3600)), MIB) for number in range(72, 0, -1)]  # 24 MiB a day
    seen, alarm = growth(found, days * 24 * MIB, bounds, HOUR)
    assert seen.bytes_a_day == pytest.approx(24 * MIB)
    assert (alarm is None) == (said is None)
    if alarm is not None and said is not None:
        assert said in alarm.text
