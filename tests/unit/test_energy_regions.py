"""What regions used: the rule against a slow, obvious calculation, and its twin on arrays against the rule."""

from __future__ import annotations

import struct
from array import array

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perun_hpc.energy import region_arrays, region_energy, regions
from tests.examples import examples

LEAST, MOST = -(2**63), 2**63 - 1
intervals = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 80)), max_size=25)
readings = st.lists(st.tuples(st.integers(1, 30), st.integers(-200, 1000)), min_size=2, max_size=12)
moments = st.integers(-50, 400) | st.sampled_from((LEAST, LEAST + 1, -1, 0, MOST))
row = st.tuples(st.integers(-4, 3) | st.sampled_from((LEAST, regions.REST)), moments, moments)
rest = st.tuples(st.just(regions.REST), st.integers(0, 90) | moments, st.integers(0, 90) | moments)
cell = st.tuples(st.tuples(st.integers(-5, -2), st.integers(1, 90), st.integers(80, 400)), rest, rest, rest)
rows = st.lists(st.one_of(row.map(lambda one: (one,)), cell), max_size=40).map(
    lambda ones: [r for one in ones for r in one]
)
CELL = [(-2, 10, 110), (regions.REST, 5, 1), (regions.REST, 40, 30), (regions.REST, 12, 340)]


def points(pairs):
    """The unit steps of time that at least one interval covers."""
    return {point for start, length in pairs for point in range(start, start + length)}


def flat(pairs):
    return array("q", [moment for start, length in pairs for moment in (start, start + length)])


def arrays(pairs):
    starts = np.array([start for start, _ in pairs], dtype=np.int64)
    return starts, starts + np.array([length for _, length in pairs], dtype=np.int64)


def cumulative(steps):
    times, values = np.cumsum(steps, axis=0).T
    return times.astype(np.int64), values.astype(np.int64)


@examples(150)
@given(intervals, readings)
def test_amount_and_bounds_agree_with_counting_unit_steps(pairs, steps):
    times, values = cumulative(steps)
    used = regions.used(times.tolist(), values.tolist(), regions.union(flat(pairs)))
    covered, amount, low, high, touched = points(pairs), 0.0, 0, 0, 0
    for i in range(len(times) - 1):
        gap = range(times[i], times[i + 1])
        inside = sum(point in covered for point in gap)
        step = int(values[i + 1] - values[i])
        amount += step * inside / len(gap)
        low += step if inside == len(gap) else min(step, 0) if inside else 0
        high += step if inside == len(gap) else max(step, 0) if inside else 0
        touched += inside > 0
    assert used.amount == pytest.approx(amount, abs=0.5 * touched)
    assert (used.low, used.high) == (low, high)


@examples(300)
@given(rows, st.integers(-20, 200), st.integers(-20, 400))
@example([(0, 10, LEAST), (0, 10, MOST), (0, LEAST, 20), (0, 0, 0), (1, 5, 0)], 0, 100)
@example([(0, 1, MOST)] * 3, -20, MOST)
@example([*CELL, (0, 200, 220), *CELL[:3]], 0, 400)
@example([*CELL, *CELL], 60, 70)
def test_arrays_split_calls_like_the_rule(table, start_ns, end_ns):
    calls = array("q", [number for row in table for number in row])
    told = regions.by_region(calls, 3, start_ns, end_ns)
    found = region_arrays.by_region(calls, 3, start_ns, end_ns)
    assert list(found) == list(told)
    for region, one in told.items():
        other, lengths = found[region]
        assert lengths.calls <= one.calls
        assert lengths.mean * lengths.calls >= one.total_ns * (1 - 1e-12)
        assert other.coarse_ns == one.coarse_ns
        assert (other.calls, other.raised, other.still_open) == (one.calls, one.raised, one.still_open)
        assert other.total_ns == one.total_ns
        assert list(zip(*(part.tolist() for part in other.spans), strict=True)) == list(one.spans)
        assert all(start_ns <= begin < end <= end_ns for begin, end in one.spans)


def test_packed_calls_count_as_what_they_were_and_lie_in_the_middle_of_their_cell():
    calls = array("q", [number for row in [*CELL, (0, 200, 220)] for number in row])
    told = regions.by_region(calls, 1, 0, 1000)[0]
    assert (told.calls, told.raised, told.total_ns, told.coarse_ns) == (6, 1, 60, 70)
    assert list(told.spans) == [(45, 75), (200, 220)]
    lengths = region_arrays.by_region(calls, 1, 0, 1000)[0][1]
    assert (lengths.calls, lengths.mean, lengths.longest) == (6, 10, 20)
    # Five packed ones with a sum of 40 and of squares of 340, and one of 20.
    assert lengths.deviation == pytest.approx(((340 + 400 - 6 * 10**2) / 5) ** 0.5)
    assert region_arrays.count(calls, 1) == 6


@examples(300)
@given(intervals, readings, st.data())
def test_arrays_cover_and_use_like_the_rule(pairs, steps, data):
    times, values = cumulative(steps)
    spans, lists = region_arrays.union(*arrays(pairs)), regions.union(flat(pairs))
    assert list(zip(*(part.tolist() for part in spans), strict=True)) == list(lists)
    covered = region_arrays.covered(times, spans)
    assert {place: ns for place, ns in enumerate(covered.tolist()) if ns} == dict(
        regions.covered(times.tolist(), lists)
    )
    known = np.array(data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times))))
    columns = np.stack((values, np.where(known, values, np.nan), 2.0 * values))
    ceilings = np.array([np.inf, 8.0, 20.0]) * 1e9
    found = region_arrays.Readings(times, columns, ceilings).used(spans)
    for column, (seen, factor) in enumerate(((known | True, 1), (known, 1), (known | True, 2))):
        limits = regions.Limits(0, None if column == 0 else round(ceilings[column]))
        told = regions.used(times[seen].tolist(), (factor * values[seen]).tolist(), lists, limits)
        assert found.amount[column] == pytest.approx(told.amount, abs=0.5 * len(times) + 1e-6)
        rounded = len(times)  # the rule's bounds are whole numbers
        assert found.low[column] - rounded <= told.low <= found.low[column] + 1e-6
        assert found.high[column] - 1e-6 <= told.high <= found.high[column] + rounded
        assert (found.counted[column], found.edges[column]) == (told.counted, told.edges)
        assert found.rest_ns[column] == pytest.approx(told.rest_ns)
        inside = dict(regions.covered(times[seen].tolist(), lists)) if seen.sum() > 1 else {}
        assert found.covered_ns[column] == sum(inside.values())


def as_rows(calls, together, whole):
    """Rows of calls that follow each other: of each `together` one cell, every `whole`th call one by one."""
    rows = [(0, begin, end) for begin, end in calls[::whole]] if whole else []
    packed = [one for at, one in enumerate(calls) if not whole or at % whole]
    for at in range(0, len(packed), together):
        part = packed[at : at + together]
        lengths = [end - begin for begin, end in part]
        numbers = (len(part), 0), (sum(lengths), sum(lengths)), (max(lengths), sum(one**2 for one in lengths))
        rows += [(-2, part[0][0], part[-1][1]), *((regions.REST, *pair) for pair in numbers)]
    return array("q", [number for row in rows for number in row])


@examples(300)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1, max_size=30),
    st.integers(1, 12),
    st.sampled_from((0, 0, 2, 3)),
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.lists(st.integers(2, 9), min_size=1, max_size=50),
    st.tuples(st.integers(0, 60), st.integers(100, 2000)),
)
@example([(0, 20), (0, 20), (60, 1)], 3, 0, [10] * 10, [9] * 4 + [2] * 6, (0, 2000))
def test_bounds_hold_wherever_packed_calls_were_in_their_cell(pattern, together, whole, gaps, watts, life):
    calls, now = [], 5
    for gap, length in pattern:
        calls.append((now + gap, now + gap + length))
        now += gap + length
    power = np.repeat([watts[at % len(watts)] for at in range(now // 10 + 80)], 10)
    times = np.cumsum([0, *gaps])
    while times[-1] < now:
        times = np.append(times, times[-1] + gaps[len(times) % len(gaps)])
    sums = np.concatenate(([0], np.cumsum(power)))
    values = sums[times]
    ran = [max(0, min(end, life[1]) - max(begin, life[0])) and (begin, end) for begin, end in calls]
    truth = sum(int(sums[min(one[1], life[1])] - sums[max(one[0], life[0])]) for one in ran if one)
    rows = as_rows(calls, together, whole)

    one = regions.by_region(rows, 1, *life)[0]
    for limits in (regions.NO_LIMITS, regions.Limits(2 * 10**9, 9 * 10**9)):
        used = regions.used(times.tolist(), values.tolist(), one.spans, limits, one.loose)
        assert used.low - len(times) <= truth <= used.high + len(times)
        assert used.counted <= truth
        assert used.low <= used.high
    other = region_arrays.by_region(rows, 1, *life)[0][0]
    columns = region_arrays.Readings(times, np.stack((values, values)).astype(float), np.array([np.inf, 9e9]))
    found = columns.used(other.spans, other.loose)
    for column, limits in enumerate((regions.NO_LIMITS, regions.Limits(0, 9 * 10**9))):
        told = regions.used(times.tolist(), values.tolist(), one.spans, limits, one.loose)
        assert found.counted[column] == told.counted
        assert found.low[column] == pytest.approx(told.low, abs=len(times))
        assert found.high[column] == pytest.approx(told.high, abs=len(times))
        assert found.edges[column] == told.edges
        assert found.rest_ns[column] == pytest.approx(told.rest_ns)


def test_where_cells_are_nearly_as_long_as_half_an_interval_nothing_is_estimated():
    """Calls are everywhere alike; that readings see no contrast says only that the middle of cells was a guess."""
    table, now, ms = array("q"), 10**6, 10**6
    for at in range(250):
        length = (400 + at % 7 * 17) * ms
        numbers = (200, 0), (length * 3 // 10, length * 3 // 10), (ms - 1, 10**15)
        for row in ((-2, now, now + length), *((regions.REST, *pair) for pair in numbers)):
            table.extend(row)
        now += length
    times = list(range(0, now, 10**9))
    values = [time * 130 // 1000 for time in times]  # 200 W in calls, 100 W beside them
    limits = regions.Limits(90 * 10**6, 210 * 10**6)
    one = regions.by_region(table, 1, 0, now)[0]
    found = region_energy.estimate(times, values, one.spans, limits, True, one.coarse_ns, one.loose)
    truth = one.spans.time_ns * 200 // 1000
    assert found.method is region_energy.Method.BOUNDED
    assert found.low_uj <= truth <= found.high_uj
    assert abs(found.uj - truth) < 2 * found.u_uj


def test_cells_that_lie_over_each_other_are_laid_over_readings_in_little_time():
    times, cells = list(range(0, 10_000, 10)), [(5, 9000, 1, 8000)] * 5000
    found = regions.within(times, cells)
    assert len(found) == 900
    assert all(most >= 10 for place, (_, most) in found.items() if 0 < place < 899)


@given(intervals)
def test_union_covers_the_same_time_and_never_overlaps(pairs):
    spans = list(regions.union(flat(pairs)))
    assert all(before < begin for (_, before), (begin, _) in zip(spans, spans[1:], strict=False))
    assert points((begin, end - begin) for begin, end in spans) == points(pairs)
    assert regions.union(flat(pairs)).time_ns == len(points(pairs))


def test_a_gap_in_one_sensor_leaves_the_others_as_they_are():
    times = np.array([0, 10, 20, 30], dtype=np.int64)
    whole = np.array([0.0, 10, 20, 30])
    holed = np.array([0.0, np.nan, 20, 30])
    late = np.array([np.nan, 10, 20, 30])
    never = np.array([np.nan, np.nan, np.nan, 30])
    spans = np.array([0]), np.array([15])
    used = region_arrays.Readings(times, np.stack([whole, holed, late, never])).used(spans)
    assert used.amount == pytest.approx([15, 15, 5, 0])
    assert used.low.tolist() == [10, 0, 0, 0]
    assert used.high.tolist() == [20, 20, 10, 0]
    assert used.covered_ns.tolist() == [15, 15, 5, 0]


def test_a_week_of_nanoseconds_loses_no_precision():
    week = 7 * 86_400 * 10**9
    times = np.arange(0, week + 1, 60 * 10**9, dtype=np.int64) + 10**15
    power_uw = 250_000_000
    energy = (times - times[0]) * (power_uw / 1e9)
    start = times[-1] - 1_000_000_000
    spans = np.array([start]), np.array([start + 300_000_000])
    used = region_arrays.Readings(times, energy[None, :]).used(spans)
    assert used.amount[0] / 0.3e6 == pytest.approx(250, rel=1e-6)


def test_the_mean_of_a_gauge_is_time_weighted_and_leaves_out_what_is_not_known():
    times = np.array([0, 1, 4], dtype=np.int64)
    whole = np.array([0]), np.array([4])
    assert region_arrays.mean(times, np.array([300.0, 300, 300]), whole) == 300
    assert region_arrays.mean(times, np.array([0.0, 600, 0]), whole) == 300
    assert region_arrays.mean(times, np.array([np.nan, 600, 0]), whole) == 300
    assert region_arrays.mean(times, np.array([np.nan, 600, 600]), (np.array([0]), np.array([2]))) == 600
    assert region_arrays.mean(times, np.array([np.nan, 600, np.nan]), whole) is None
    assert region_arrays.mean(times, np.array([1.0, 2, 3]), (np.array([5]), np.array([9]))) is None


def test_calls_are_split_by_region_with_raised_and_open_ones():
    calls = array("q", [1, 10, 20, 0, 11, -15, 1, 30, 0, 1, 0, 0])
    found = regions.by_region(calls, 2, 0, 50)
    first, second = found[0], found[1]
    assert (list(first.spans), first.calls, first.raised, first.still_open) == ([(11, 15)], 1, 1, 0)
    assert (list(second.spans), second.calls, second.raised, second.still_open) == ([(10, 20), (30, 50)], 2, 0, 1)
    assert second.total_ns == 30
    assert regions.by_region(array("q"), 2, 0, 50) == region_arrays.by_region(array("q"), 2, 0, 50) == {}


def test_a_row_that_never_began_is_no_call():
    """A thread that was killed between taking its row and writing into it; it got the whole life of its rank."""
    calls = memoryview(struct.pack("<6q", 0, 0, 0, 0, 20, 30)).cast("q")
    assert list(regions.by_region(calls, 1, 0, 100)[0].spans) == [(20, 30)]
