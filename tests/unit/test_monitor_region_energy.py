"""Region energies against a slow, obvious calculation."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perun_hpc.monitoring.region_energy import by_region, integral, union, used

intervals = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 80)), max_size=25)
readings = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1000)), min_size=2, max_size=12)


def covered_points(pairs):
    """The unit steps of time that at least one interval covers."""
    return {point for start, length in pairs for point in range(start, start + length)}


@settings(max_examples=150, deadline=None)
@given(intervals, readings)
def test_amount_and_bounds_agree_with_counting_unit_steps(pairs, steps):
    times = np.cumsum([step for step, _ in steps]).astype(np.int64)
    counter = np.cumsum([amount for _, amount in steps]).astype(float)
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    ends = starts + np.array([length for _, length in pairs], dtype=np.int64)
    result = used(times, counter[None, :], starts, ends)
    points = covered_points(pairs)
    assert result.time_ns == len(points)
    amount = low = high = 0.0
    for i in range(len(times) - 1):
        gap = range(times[i], times[i + 1])
        inside = sum(point in points for point in gap)
        step = counter[i + 1] - counter[i]
        amount += step * inside / len(gap)
        low += step if inside == len(gap) else 0
        high += step if inside else 0
    assert result.amount[0] == pytest.approx(amount, abs=1e-6)
    assert result.low[0] == pytest.approx(low)
    assert result.high[0] == pytest.approx(high)


@given(intervals)
def test_union_covers_the_same_time_and_never_overlaps(pairs):
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    ends = starts + np.array([length for _, length in pairs], dtype=np.int64)
    first, last = union(starts, ends)
    assert (first[1:] > last[:-1]).all()
    assert covered_points(zip(first.tolist(), (last - first).tolist(), strict=True)) == covered_points(pairs)


def test_a_gap_in_one_sensor_leaves_the_others_as_they_are():
    times = np.array([0, 10, 20, 30], dtype=np.int64)
    whole = np.array([0.0, 10, 20, 30])
    holed = np.array([0.0, np.nan, 20, 30])
    result = used(times, np.stack([whole, holed]), np.array([0]), np.array([15]))
    assert result.amount == pytest.approx([15, 15])
    assert result.low.tolist() == [10, 0]
    assert result.high.tolist() == [20, 20]


def test_a_week_of_nanoseconds_loses_no_precision():
    week = 7 * 86_400 * 10**9
    times = np.arange(0, week + 1, 60 * 10**9, dtype=np.int64) + 10**15
    power_uw = 250_000_000
    energy = (times - times[0]) * (power_uw / 1e9)
    start = times[-1] - 1_000_000_000
    result = used(times, energy[None, :], np.array([start]), np.array([start + 300_000_000]))
    assert result.amount[0] / 0.3e6 == pytest.approx(250, rel=1e-6)


def test_the_integral_of_a_gauge_is_time_weighted():
    times = np.array([0, 1, 4], dtype=np.int64)
    assert integral(times, np.array([300.0, 300, 300])).tolist() == [0, 300, 1200]
    assert integral(times, np.array([0.0, 600, 0])).tolist() == [0, 300, 1200]


def test_calls_are_split_by_region_with_raised_and_open_ones():
    calls = array("q", [1, 10, 20, 0, 11, -15, 1, 30, 0, 1, 0, 0])
    first, second = by_region(calls, 2, end_ns=50)
    assert (first[0].tolist(), first[1].tolist(), first[2:]) == ([11], [15], (1, 1, 0))
    assert (second[0].tolist(), second[1].tolist(), second[2:]) == ([10, 30], [20, 50], (2, 0, 1))
    assert [part[2] for part in by_region(array("q"), 2, 50)] == [0, 0]
