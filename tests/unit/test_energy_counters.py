from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainInput, DomainKind, IntervalInput, JobInput, NodeInput, attribute
from perun_hpc.energy.counters import Status, difference, longest_poll_ns, stands_still, what_lacks
from perun_hpc.energy.crosscheck import shows_too_little

S = 1_000_000_000
RANGE = 262_143_328_911
SENSOR = Sensor(
    id="powercap:package-0:energy", host="n1", backend="powercap", device="intel-rapl:0", domain="package-0",
    component="cpu", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", wrap_range=RANGE, update_ns=1_000_000,
    max_uw=500_000_000,
)  # fmt: skip


def test_last_minus_first():
    assert difference(SENSOR, Reading(5, 0), Reading(105, S)).ticks == 100


def test_wrap():
    result = difference(SENSOR, Reading(RANGE - 10, 0), Reading(5, S))
    assert (result.ticks, result.status) == (15, Status.WRAPPED)


def test_a_reset_of_the_counter_is_not_a_wrap():
    result = difference(SENSOR, Reading(RANGE // 2, 0), Reading(0, S))
    assert (result.ticks, result.status) == (None, Status.RESET)


def test_backwards_without_a_wrap_range_is_a_reset():
    result = difference(replace(SENSOR, wrap_range=None), Reading(7, 0), Reading(6, S))
    assert (result.ticks, result.status) == (None, Status.RESET)


def test_more_than_the_device_can_take_is_implausible():
    result = difference(SENSOR, Reading(0, 0), Reading(600_000_000, S))
    assert (result.ticks, result.status) == (None, Status.IMPLAUSIBLE)


def test_a_second_wrap_that_time_allows_is_ambiguous():
    result = difference(SENSOR, Reading(0, 0), Reading(100, 600 * S))
    assert (result.ticks, result.status, result.at_least) == (None, Status.AMBIGUOUS, 100)


def test_time_going_backwards_is_implausible():
    assert difference(SENSOR, Reading(0, S), Reading(1, 0)).status is Status.IMPLAUSIBLE


def test_a_failed_read_is_a_gap():
    result = difference(SENSOR, Reading(None, 0, "input/output error"), Reading(7, S))
    assert (result.ticks, result.status, result.why) == (None, Status.GAP, "input/output error")


def test_polls_are_frequent_enough_for_four_per_shortest_wrap():
    assert longest_poll_ns(SENSOR) == RANGE * S // (4 * 500_000_000)
    # AMD's unit of 2^-16 J: 65.5 kJ last 164 s at 400 W, so the poll must come every 41 s at the latest.
    amd = replace(SENSOR, wrap_range=2**32, scale_num=1_000_000, scale_den=2**16, max_uw=400_000_000)
    assert longest_poll_ns(amd) == 40_960_000_000
    assert longest_poll_ns(replace(SENSOR, wrap_range=None)) is None


@given(
    start=st.integers(0, RANGE - 1),
    powers_uw=st.lists(st.integers(0, 500_000_000), min_size=1, max_size=60),
    step_ns=st.integers(1_000_000, 60 * S),
)
def test_energy_is_independent_of_the_sampling_period(start, powers_uw, step_ns):
    true_uj = [0]
    for power_uw in powers_uw:
        true_uj.append(true_uj[-1] + power_uw * step_ns // S)
    readings = [Reading((start + uj) % RANGE, number * step_ns) for number, uj in enumerate(true_uj)]
    fine = [difference(SENSOR, before, after).ticks for before, after in zip(readings, readings[1:])]
    assert sum(fine) == true_uj[-1]
    coarse = difference(SENSOR, readings[0], readings[-1])
    # Either the one long interval gives the same energy to the uJ, or it says that it cannot know.
    assert coarse.ticks == true_uj[-1] or coarse.status is Status.AMBIGUOUS


@given(start=st.integers(0, RANGE - 1), before=st.integers(0, 10**9), elapsed_s=st.integers(1, 200))
def test_a_reset_to_zero_never_gives_more_than_the_ceiling(start, before, elapsed_s):
    result = difference(SENSOR, Reading(start, 0), Reading(before % RANGE, elapsed_s * S))
    if result.ticks is not None:
        assert 0 <= result.ticks <= 500_000_000 * elapsed_s + 500_000_000 // 500 + 1


@st.composite
def timelines(draw):
    """Times of readings, the power in between, which readings fail, and jobs with their start and end."""
    steps = draw(st.lists(st.tuples(st.integers(10**6, 9 * S), st.integers(0, 500_000_000)), min_size=2, max_size=25))
    fails = draw(st.sets(st.integers(1, len(steps) - 1), max_size=len(steps) // 2))
    jobs = [
        (f"job:{number}.0", draw(st.sets(st.integers(0, 7), min_size=1)), *sorted((draw(edge), draw(edge))))
        for number in range(draw(st.integers(0, 4)))
        for edge in [st.integers(0, len(steps))]
    ]
    return steps, fails, jobs, draw(st.integers(0, RANGE - 1)), draw(st.integers(0, 100_000_000))


@given(timelines())
def test_over_a_whole_timeline_the_shares_sum_to_what_the_counter_counted(timeline):
    steps, fails, jobs, start, static_uw = timeline
    node = NodeInput(package_of=dict.fromkeys(range(8), 0), core_of={cpu: cpu for cpu in range(8)})
    true_uj, at = 0, 0
    opened = Reading(start, 0)
    since = 0
    booked = 0
    for number, (step, power_uw) in enumerate(steps, 1):
        true_uj += power_uw * step // S
        at += step
        reading = (
            Reading(None, at, "eio")
            if number in fails and number < len(steps)
            else Reading((start + true_uj) % RANGE, at)
        )
        if reading.ticks is None:
            continue
        change = difference(SENSOR, opened, reading)
        if change.ticks is None:
            assert change.status is Status.AMBIGUOUS
            return
        present = [(owner, cpus, min(number, last) - max(since, first)) for owner, cpus, first, last in jobs]
        length = at - opened.mono_ns
        inputs = tuple(
            JobInput(
                owner=owner, cpus=frozenset(cpus), cpu_ns=length // 3, present_ns=length * span // (number - since)
            )
            for owner, cpus, span in present
            if span > 0
        )
        domain = DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=change.ticks, static_uw=static_uw)
        interval = IntervalInput(
            t0_ns=opened.mono_ns, t1_ns=at, node=node, domains=(domain,), jobs=inputs,
            busy_ns=dict.fromkeys(range(8), length // 2), gap=number - since > 1,
        )  # fmt: skip
        (shares,) = attribute(interval)
        booked += sum(shares.by_owner().values())
        opened, since = reading, number
    assert booked == true_uj


@pytest.mark.parametrize(
    ("seconds", "update_s", "tick_uj", "still"),
    [
        (1, 0.001, 61, True),
        (0.09, 0.001, 61, False),
        (0.1, 0.001, 61, True),
        (5, 1, 61, False),
        (5, 0.1, 1_000_000, False),
        (10, 0.1, 1_000_000, True),
    ],
)
def test_a_counter_that_a_watt_would_have_moved_and_that_has_not_moved_stands_still(seconds, update_s, tick_uj, still):
    sensor = replace(SENSOR, update_ns=round(update_s * S), scale_num=tick_uj, scale_den=1, resolution=1)
    first, last = Reading(7, 0), Reading(7, round(seconds * S))
    assert stands_still(sensor, first, last) is still
    assert not stands_still(sensor, first, last._replace(ticks=8))
    assert not stands_still(sensor, first._replace(ticks=None), last)
    assert not stands_still(replace(sensor, provenance=Provenance.SIMULATED), first, last)
    assert bool(what_lacks(sensor, first, last, accounted=True)) is still
    assert what_lacks(sensor, first, last, accounted=False) == ()


@pytest.mark.parametrize(("counted_uj", "busy_s", "too_little"), [
    (1_000_000, 64 * 10, True),  # 64 CPUs for 10 s, and one joule
    (12_800_000, 64 * 10, False),  # 20 mW each
    (0, 0.9, False),  # too short a time to say
    (0, 1, True),
])  # fmt: skip
def test_a_counter_of_cpus_shows_what_busy_ones_take_at_least(counted_uj, busy_s, too_little):
    busy_ns = round(busy_s * S)
    assert shows_too_little(SENSOR, counted_uj, busy_ns) is too_little
    coarse = replace(SENSOR, resolution=2_000_000 * SENSOR.scale_den // SENSOR.scale_num)
    assert not shows_too_little(coarse, counted_uj, 60 * S)  # its next step may be due
    for provenance in (Provenance.SIMULATED, Provenance.ESTIMATED):
        assert not shows_too_little(replace(SENSOR, provenance=provenance), counted_uj, busy_ns)
