"""A clock far ahead of the archive, or of the time that passed, is doubted for a day."""

from __future__ import annotations

import pytest

from gateway.doubt import DAY, HOUR, Doubt

START = 1_795_082_400.0
ARCHIVE = [START - 40 * DAY + number * HOUR for number in range(40 * 24)]
"""Forty days, the last hour just over."""


def test_a_clock_that_agrees_with_the_archive_is_believed() -> None:
    for now in (START, START + 2.9 * DAY, START - 365 * DAY):
        assert Doubt(30).why(now, 0.0, ARCHIVE) is None
    assert Doubt(30).why(START + 999 * DAY, 0.0, []) is None
    assert Doubt(30).why(START + 999 * DAY, 0.0, [START + 999 * DAY]) is None, "nothing is older than this run"


@pytest.mark.parametrize("days", [4, 41, 3650])
def test_a_clock_far_ahead_of_the_archive_is_doubted_for_a_day(days: int) -> None:
    doubt = Doubt(30)
    now = START + days * DAY
    why = doubt.why(now, 5.0, [*ARCHIVE, now - 60])  # the open line of this run proves nothing
    assert why is not None
    assert why.endswith(f"UTC, {days} days after the newest recording")
    recorded = [now + number * HOUR for number in range(-1, 24)]
    assert doubt.why(now + DAY - 1, DAY + 4.0, [*ARCHIVE, *recorded]) is not None
    assert doubt.why(now + DAY, DAY + 5.0, [*ARCHIVE, *recorded]) is None
    assert doubt.why(now + DAY + 60, DAY + 65.0, [*ARCHIVE, *recorded]) is None


def test_a_clock_set_right_again_is_believed_at_once() -> None:
    doubt = Doubt(30)
    assert doubt.why(START + 400 * DAY, 0.0, ARCHIVE) is not None
    assert doubt.why(START + 60, 60.0, [*ARCHIVE, START + 400 * DAY]) is None
    assert doubt.why(START + 120, 120.0, [*ARCHIVE, START + 400 * DAY]) is None


def test_a_leap_of_the_clock_is_doubted() -> None:
    doubt = Doubt(30)
    assert doubt.why(START, 0.0, ARCHIVE) is None
    assert doubt.why(START + 60, 60.0, [*ARCHIVE, START]) is None
    leapt = START + 100 * DAY
    assert doubt.why(leapt, 120.0, [*ARCHIVE, START, leapt - 60]) is not None
    assert doubt.why(leapt + HOUR, 120.0 + HOUR, [*ARCHIVE, START, leapt]) is not None
    assert doubt.why(START + 2 * HOUR, 2 * HOUR, [*ARCHIVE, START, leapt]) is None, "it is back"
    assert doubt.why(leapt, 2 * HOUR + 60, [*ARCHIVE, START, leapt]) is not None, "and leaps again"


def test_a_clock_that_was_behind_and_is_set_right_is_believed() -> None:
    """A machine without a battery begins in 1970."""
    doubt = Doubt(30)
    assert doubt.why(60.0, 0.0, ARCHIVE) is None
    assert doubt.why(START + DAY, 60.0, [60.0, *ARCHIVE]) is None
    doubt = Doubt(30)
    assert doubt.why(60.0, 0.0, ARCHIVE) is None
    assert doubt.why(START + 40 * DAY, 60.0, ARCHIVE) is not None, "set wrong"
