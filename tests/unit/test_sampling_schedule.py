from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.energy.schedule import Schedule

SECOND = 1_000_000_000


def test_ticks_fall_on_the_wall_clock_grid() -> None:
    schedule = Schedule.starting(SECOND, mono_ns=500, real_ns=1_700_000_000 * SECOND + 300)
    assert schedule.due_mono_ns == 500 + SECOND - 300
    tick, schedule = schedule.take(schedule.due_mono_ns)
    assert tick is not None
    assert (tick.index, tick.late_ns, tick.skipped) == (1_700_000_001, 0, 0)
    assert schedule.next_index == 1_700_000_002


def test_nothing_is_due_before_its_time() -> None:
    schedule = Schedule.starting(SECOND, 0, 10 * SECOND)
    tick, same = schedule.take(schedule.due_mono_ns - 1)
    assert tick is None
    assert same == schedule


def test_overdue_ticks_are_counted_as_skipped_and_the_newest_is_taken() -> None:
    schedule = Schedule.starting(SECOND, 0, 10 * SECOND)
    tick, schedule = schedule.take(schedule.due_mono_ns + 3 * SECOND + 7)
    assert tick is not None
    assert (tick.index, tick.skipped, tick.late_ns) == (14, 3, 7)
    assert schedule.due_mono_ns == 5 * SECOND


def test_two_nodes_tick_at_the_same_wall_clock_moment() -> None:
    one = Schedule.starting(SECOND, 123, 50 * SECOND + 1)
    two = Schedule.starting(SECOND, 987_654, 50 * SECOND + 999)
    assert one.due_mono_ns - 123 + 50 * SECOND + 1 == two.due_mono_ns - 987_654 + 50 * SECOND + 999


@pytest.mark.parametrize("step_ns", [3600 * SECOND, -3600 * SECOND, 500_000_000])
def test_a_clock_step_neither_loses_nor_repeats_a_tick(step_ns: int) -> None:
    schedule = Schedule.starting(SECOND, 0, 10 * SECOND)
    indices = []
    for n in range(1, 6):
        mono_ns = n * SECOND
        real_ns = 10 * SECOND + mono_ns + (step_ns if n >= 3 else 0)
        schedule = schedule.observe(mono_ns, real_ns)
        tick, schedule = schedule.take(mono_ns)
        assert tick is not None
        assert tick.skipped == 0
        indices.append(tick.index)
    assert indices == [11, 12, 13, 14, 15]
    assert schedule.step_ns == step_ns


def test_a_slewed_clock_is_followed() -> None:
    schedule = Schedule.starting(SECOND, 0, 10 * SECOND)
    for n in range(1, 3601):
        mono_ns = n * SECOND
        schedule = schedule.observe(mono_ns, 10 * SECOND + mono_ns + n * 400_000)
        _, schedule = schedule.take(schedule.due_mono_ns)
    assert schedule.step_ns == 0
    assert schedule.offset_ns == 10 * SECOND + 3600 * 400_000


@given(
    period_ns=st.integers(10_000_000, 3600 * SECOND),
    real_ns=st.integers(10**18, 2 * 10**18),
    waits=st.lists(st.integers(0, 20 * SECOND), min_size=1, max_size=50),
)
def test_every_index_is_either_taken_or_counted_as_skipped(period_ns: int, real_ns: int, waits: list[int]) -> None:
    schedule = Schedule.starting(period_ns, 0, real_ns)
    first, mono_ns, taken, skipped = schedule.next_index, 0, 0, 0
    for wait_ns in waits:
        mono_ns += wait_ns
        tick, schedule = schedule.observe(mono_ns, real_ns + mono_ns).take(mono_ns)
        if tick is not None:
            taken += 1
            skipped += tick.skipped
            assert 0 <= tick.late_ns < period_ns
            assert tick.index * period_ns <= real_ns + mono_ns
    assert schedule.next_index - first == taken + skipped


def test_a_period_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Schedule.starting(0, 0, 0)
