"""Pressure and losses as data: the clock is an argument, so the tests are tables."""

from __future__ import annotations

import doctest
from math import inf

from archive import pressure
from archive.pressure import Declined, Gap, Ledger, Pressure


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(pressure).failed == 0


def test_a_disk_that_takes_everything_is_never_paused() -> None:
    disk = Pressure(cooldown=2.0)
    for now in range(10):
        assert disk.may_try(now)
        assert disk.took(now) is None
    assert (disk.paused, disk.why, disk.wait(10)) == (False, "", 0.0)


def test_a_pause_runs_from_the_first_refusal_to_the_next_success() -> None:
    disk = Pressure(cooldown=2.0)
    for now in (100.0, 102.0, 104.5):
        assert disk.may_try(now)
        disk.refused(now, f"refused at {now}")
        assert (disk.paused, disk.may_try(now + 1.9), disk.wait(now + 0.5)) == (True, False, 1.5)
    assert disk.why == "refused at 104.5"
    assert disk.took(106.5) == Gap(100.0, 106.5, 0, 0, 0, "refused at 104.5")
    assert not disk.paused
    assert disk.took(107.0) is None


def test_a_clock_set_back_does_not_prolong_the_cooldown() -> None:
    disk = Pressure(cooldown=2.0)
    disk.refused(1000.0, "no space")
    assert disk.may_try(500.0)
    assert disk.wait(500.0) == 0.0
    assert disk.took(500.0) == Gap(1000.0, 1000.0, 0, 0, 0, "no space")


def test_a_ledger_counts_records_exchanges_and_bytes() -> None:
    ledger = Ledger()
    assert not ledger
    assert ledger.gap() is None
    ledger.lost(5.0, b"a" * 16, 100, "full")
    ledger.lost(6.0, b"b" * 16, 10, "no space")
    ledger.lost(4.0, b"a" * 16, 1, "full")
    assert ledger
    assert ledger.gap() == Gap(4.0, 6.0, 3, 2, 111, "full; no space")


def test_a_ledger_stays_small_however_much_is_lost() -> None:
    ledger = Ledger()
    for number in range(100_000):
        ledger.lost(number, number.to_bytes(16, "big"), 1, f"reason {number % 50}")
    gap = ledger.gap()
    assert gap is not None
    assert (gap.records, gap.exchanges, gap.since, gap.until) == (100_000, 100_000, 0, 99_999)
    assert len(gap.why) < 200
    assert len(ledger._recent) <= 8192


def test_a_pause_and_its_losses_are_one_gap() -> None:
    pause = Gap(10.0, 20.0, 0, 0, 0, "no space")
    assert pause.joined(None) == pause
    assert pause.joined(Gap(9.0, 12.0, 3, 2, 50, "full; no space")) == Gap(9.0, 20.0, 3, 2, 50, "no space; full")


def test_those_declined_are_told_of_at_once_and_then_once_in_a_while() -> None:
    declined = Declined()
    assert (bool(declined), declined.take(1.0, every=60), declined.patience(1.0, every=60)) == (False, None, inf)
    declined.add(2, 10.0)
    declined.add(1, 12.0)
    assert declined.patience(12.5, every=60) == 0.0
    assert declined.take(12.5, every=60) == (10.0, 12.0, 3)
    assert not declined
    declined.add(1, 20.0)
    assert (declined.take(42.5, every=60), declined.patience(42.5, every=60)) == (None, 30.0)
    assert declined.take(72.5, every=60) == (20.0, 20.0, 1)
    declined.add(1, 80.0)
    assert declined.take(80.0, every=0) == (80.0, 80.0, 1)


def test_a_clock_set_back_does_not_keep_those_declined_untold() -> None:
    declined = Declined()
    declined.add(1, 1000.0)
    assert declined.take(1000.0, every=60) is not None
    declined.add(1, 500.0)
    assert declined.take(500.0, every=60) == (500.0, 500.0, 1)
