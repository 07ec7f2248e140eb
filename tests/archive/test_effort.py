"""When a member is worth compressing: compressed by rule, stored while the writer is behind and the disk is not."""

from __future__ import annotations

import pytest

from archive.effort import BEHIND_BYTES, BEHIND_RECORDS, DISK_SHARE, Effort


def test_a_writer_that_keeps_up_compresses() -> None:
    effort = Effort(adaptive=True)
    assert not effort.stores(0, 0)
    assert not effort.stores(BEHIND_RECORDS - 1, BEHIND_BYTES - 1)


@pytest.mark.parametrize(("waiting", "size"), [(BEHIND_RECORDS, 0), (1, BEHIND_BYTES)])
def test_behind_in_records_or_in_bytes_is_behind(waiting: int, size: int) -> None:
    assert Effort(adaptive=True).stores(waiting, size)
    assert not Effort(adaptive=False).stores(waiting, size)


def test_who_is_in_a_hurry_does_not_compress_unless_the_disk_is_slow() -> None:
    effort = Effort(adaptive=True)
    assert effort.stores(0, 0, hurried=True)
    assert not Effort(adaptive=False).stores(0, 0, hurried=True)
    for _ in range(20):
        effort.spent(0.1, 0.09)
    assert not effort.stores(0, 0, hurried=True)


def test_where_the_disk_is_what_lags_fewer_bytes_are_written() -> None:
    effort = Effort(adaptive=True)
    for _ in range(20):
        effort.spent(0.1, 0.09)
    assert not effort.stores(10_000, 1 << 30)
    for _ in range(20):
        effort.spent(0.1, 0.1 * DISK_SHARE / 2)
    assert effort.stores(10_000, 1 << 30)


def test_one_slow_write_is_no_slow_disk() -> None:
    effort = Effort(adaptive=True)
    effort.spent(0.1, 0.1)
    effort.spent(0.0, 0.0)  # a trip too short for the clock says nothing
    assert effort.stores(10_000, 1 << 30)
