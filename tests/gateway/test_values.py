"""Sizes, times and switches as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.values import BadValueError, boolean, duration, number, show_bytes, show_duration, show_size, size


@given(st.integers(0, 1 << 50))
def test_a_size_reads_as_it_is_shown(count: int) -> None:
    assert size(show_size(count)) == count


@given(st.integers(0, 10**6))
def test_a_time_reads_as_it_is_shown(tenths: int) -> None:
    assert duration(show_duration(tenths / 10)) == pytest.approx(tenths / 10, rel=1e-5)


@pytest.mark.parametrize("value", ["", "x", "-1", "1e3", "1 apple", "64 MiBs", "1.2.3", -1, 1.5, True, None, "1" * 20, "\u0661"])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(BadValueError):
        size(value)


@pytest.mark.parametrize("value", ["", "x", "-1", "1 apple", -1, float("nan"), float("inf"), True, None, []])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(BadValueError):
        duration(value)


@pytest.mark.parametrize("value", ["", "x", "-", "- 1", "1-", "1.0", 1.0, True, None])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(BadValueError):
        number(value)


@pytest.mark.parametrize("value", ["", "2", "truely", 1, 0, None])
def test_what_is_no_switch_is_refused(value: object) -> None:
    with pytest.raises(BadValueError):
        boolean(value)


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (812, "812 B"), (1434, "1.4 KiB"), (23 << 20, "23 MiB"), (5 << 40, "5.0 TiB"), (5000 << 40, "5000 TiB")],
)
def test_about_so_many_bytes(count: int, shown: str) -> None:
    assert show_bytes(count) == shown
