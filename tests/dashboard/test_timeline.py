"""The drawing of where the time went."""

from __future__ import annotations

from dashboard.timeline import WIDTH, Tick, bar


def test_a_finished_exchange_fills_the_drawing() -> None:
    drawn = bar(250.0, 1000.0, [(250.0, ""), (500.0, ""), (500.1, ""), (1000.0, "")])
    assert drawn is not None
    assert (drawn.first, drawn.end) == (WIDTH // 4, WIDTH)
    assert [tick.x for tick in drawn.ticks] == [250, 500, 1000]


def test_a_running_exchange_ends_at_its_last_known_moment() -> None:
    drawn = bar(100.0, None, [(100.0, "client"), (400.0, "upstream")])
    assert drawn is not None
    assert drawn.span_ms == 400.0
    assert drawn.ticks == (Tick(250, "client"), Tick(1000, "upstream"))


def test_without_times_there_is_no_drawing() -> None:
    assert bar(None, None, []) is None
    assert bar(0.0, 0.0, []) is None


def test_a_mark_after_the_end_stays_inside() -> None:
    drawn = bar(10.0, 20.0, [(30.0, "")])
    assert drawn is not None
    assert drawn.end < WIDTH
    assert drawn.ticks[0].x == WIDTH
