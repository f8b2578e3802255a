"""The energy of regions that no reading lies inside of: what is estimated, and what bounds hold whatever happened."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.data_model import rank_data
from perun_hpc.data_model.data import MetricType
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.region_energy import Estimate, Method, estimate, worst_method
from perun_hpc.energy.regions import Limits, Spans, union
from perun_hpc.monitoring.region_results import of_readings
from tests.examples import examples

MS = 1_000_000
S = 1000 * MS
Piece = tuple[int, int, bool]
"""How long (ns), at what power (uW), whether in the region."""


class Story:
    """A program as pieces, and what a counter shows of it that is read each second from `phase_ns` on."""

    def __init__(self, pieces: Sequence[Piece], phase_ns: int = 0, step_ns: int = S, late_ns: int = 0) -> None:
        self.moments = np.array([0, *accumulate(long_ns for long_ns, _, _ in pieces)])
        self.energies = np.array([0.0, *accumulate(long_ns * uw / 1e9 for long_ns, uw, _ in pieces)])
        self.times = list(range(phase_ns, int(self.moments[-1]), step_ns))
        shown = np.interp(np.array(self.times) - late_ns, self.moments, self.energies)
        self.values = np.rint(shown).astype(int).tolist()
        inside = zip(self.moments.tolist(), self.moments[1:].tolist(), pieces)
        self.spans = union(array("q", [at for begin, end, piece in inside if piece[2] for at in (begin, end)]))

    @property
    def true_uj(self) -> float:
        first, last = self.times[0], self.times[-1]
        begins, ends = (np.interp(at, self.moments, self.energies) for at in np.clip(list(self.spans), first, last).T)
        return float((ends - begins).sum())

    def found(self, limits: Limits = Limits(), contrasted: bool = True) -> Estimate:  # noqa: B008 - frozen
        return estimate(self.times, self.values, self.spans, limits, contrasted)


def loop(random: Random, count: int, *functions: tuple[int, int, bool], spread: float = 0.3) -> list[Piece]:
    """Functions in turn, each as long as its time times 1 +- spread."""
    return [
        (round(long_ns * random.uniform(1 - spread, 1 + spread)), uw, mine)
        for _ in range(count)
        for long_ns, uw, mine in functions
    ]


def holds(story: Story, found: Estimate) -> bool:
    return abs(found.uj - story.true_uj) <= 2 * found.u_uj


watts = st.integers(10, 500).map(lambda one: one * 10**6)


@examples(30)
@given(st.integers(0, 10**6), watts, watts, st.integers(20, 400), st.integers(20, 400), st.integers(0, 999))
def test_two_powers_are_told_apart_exactly(
    seed: int, inside_uw: int, beside_uw: int, mine_ms: int, other_ms: int, phase_ms: int
) -> None:
    """Not by straight lines between readings, however many calls there are: they converge to the surroundings."""
    count = 90_000 // (mine_ms + other_ms)
    pieces = loop(Random(seed), count, (mine_ms * MS, inside_uw, True), (other_ms * MS, beside_uw, False))
    story = Story(pieces, phase_ms * MS)
    found = story.found()
    assert holds(story, found)
    assert found.low_uj <= story.true_uj + 100 and story.true_uj - 100 <= found.high_uj
    if found.method is Method.ESTIMATED and found.u_uj < 0.05 * story.true_uj:
        assert found.uj == pytest.approx(story.true_uj, rel=0.02)


pieces = st.lists(st.tuples(st.integers(1, 4 * S), st.integers(50, 800).map(lambda one: one * 10**6), st.booleans()),
                  min_size=1, max_size=60)  # fmt: skip


@examples(200)
@given(pieces, st.integers(0, S - 1), st.booleans(), st.sampled_from((None, 800 * 10**6, 2 * 10**9)))
def test_bounds_hold_whatever_ran_when(ran: list[Piece], phase_ns: int, floored: bool, ceiling_uw: int | None) -> None:
    story = Story([*ran, (S, 50 * 10**6, False)], phase_ns)
    if len(story.times) < 2 or not len(story.spans):
        return
    found = story.found(Limits(50 * 10**6 if floored else 0, ceiling_uw), contrasted=False)
    rounding_uj = 2 * len(story.times) + 2
    assert found.low_uj - rounding_uj <= story.true_uj <= found.high_uj + rounding_uj
    assert abs(found.uj - story.true_uj) <= 2 * found.u_uj + rounding_uj


@pytest.mark.parametrize("seed", range(6))
def test_what_always_runs_after_a_call_is_not_taken_for_the_call(seed: int) -> None:
    random = Random(seed)
    pieces: list[Piece] = []
    for _ in range(400):
        pieces += loop(random, 1, (70 * MS, 300 * 10**6, True), (50 * MS, 450 * 10**6, False))
        pieces.append((round(random.expovariate(1 / 500) * MS) + 1, 100 * 10**6, False))
    story = Story(pieces, 317 * MS)
    assert holds(story, story.found(Limits(age_ns=MS)))


@pytest.mark.parametrize("seed", range(6))
def test_power_that_follows_how_densely_a_region_is_called_is_not_taken_for_the_region(seed: int) -> None:
    random, pieces = Random(seed), []
    for number in range(1500):
        dense = 0.5 + 0.45 * np.sin(number / 60)
        pieces += loop(random, 1, (round(105 * dense * MS), round((50 + 300 * dense) * 10**6), True), spread=0.1)
        pieces += loop(random, 1, (round(105 * (1 - dense) * MS), round((50 + 100 * dense) * 10**6), False), spread=0.1)
    story = Story(pieces, 123 * MS)
    found = story.found(Limits(age_ns=MS))
    assert holds(story, found) and found.method is Method.ESTIMATED


def test_calls_in_step_with_the_readings_have_bounds_that_hold() -> None:
    """A tenth of each second at five times the power: no reading shows it."""
    story = Story([(100 * MS, 1000 * 10**6, True), (900 * MS, 100 * 10**6, False)] * 120, 500 * MS)
    found = story.found(Limits(80 * 10**6))
    assert found.method is Method.BOUNDED
    assert holds(story, found)
    assert found.high_uj < 120 * 190 * 10**6  # less than all of these seconds


@pytest.mark.parametrize("ms", [1, 30, 400])
def test_one_call_has_bounds_that_hold(ms: int) -> None:
    story = Story([(50 * S, 100 * 10**6, False), (ms * MS, 700 * 10**6, True), (50 * S, 100 * 10**6, False)], 300 * MS)
    found = story.found(Limits(80 * 10**6, 800 * 10**6))
    assert found.method is Method.BOUNDED and holds(story, found)
    assert found.high_uj <= ms * MS * 800 / 1000 + 1


def test_readings_that_may_be_older_than_the_calls_tell_nothing_of_them() -> None:
    pieces = loop(Random(3), 1500, (30 * MS, 400 * 10**6, True), (50 * MS, 100 * 10**6, False))
    assert Story(pieces).found(Limits(age_ns=MS)).method is Method.ESTIMATED
    assert Story(pieces).found(Limits(age_ns=500 * MS)).method is Method.BOUNDED


def test_a_long_region_is_counted() -> None:
    story = Story([(10 * S, 100 * 10**6, False), (60 * S, 400 * 10**6, True), (10 * S, 100 * 10**6, False)], 300 * MS)
    found = story.found()
    assert found.method is Method.COUNTED and holds(story, found)
    assert found.u_uj < 0.02 * found.uj


def test_more_calls_than_are_looked_at_are_estimated_all_the_same() -> None:
    pieces = loop(Random(4), 18_000, (200 * MS, 400 * 10**6, True), (300 * MS, 100 * 10**6, False))
    story = Story(pieces, 7 * MS)
    assert len(story.times) > 8192
    found = story.found(Limits(age_ns=MS))
    assert found.method is Method.ESTIMATED
    assert found.uj == pytest.approx(story.true_uj, rel=0.02)


def test_a_run_finds_what_a_job_finds() -> None:
    """`perun monitor` and the agent's reader over the same readings, with two packages beside one."""
    pieces = loop(Random(5), 400, (70 * MS, 300 * 10**6, True), (130 * MS, 120 * 10**6, False))
    story = Story(pieces, 10 * MS)
    packages = [
        Sensor(
            id=f"powercap:package-{number}:energy", host="h", backend="powercap", device="d",
            domain=f"package-{number}", component="cpu", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ",
            update_ns=MS,
        )
        for number in range(2)
    ]  # fmt: skip
    values = np.array([[one - story.values[0] for one in story.values]] * 2, dtype=float)
    table = array("q", [number for begin, end in story.spans for number in (0, begin + 1, end + 1)])
    times = np.array(story.times) + 1
    about = [(1, 0, 0), (int(story.moments[-1]) + 1, 0, 0)]
    rank = rank_data.parse(b"".join(rank_data.final({"rank": 0}, "exit", ["relax"], table.tobytes(), about)))
    edges = [{"mono_ns": int(times[0])}, {"mono_ns": int(times[-1])}]
    results = [{"base": int(row[-1]), "covered_ns": int(times[-1] - times[0])} for row in values]
    summary = {"host": "h", "cpus": 4, "edges": edges, "results": results}
    (region,) = of_readings(times, values, packages, [rank], summary)
    energy, found = region.metrics[MetricType.ENERGY], story.found(Limits(age_ns=MS))
    assert (energy.method, found.method) == ("estimated", Method.ESTIMATED)
    assert energy.value == pytest.approx(2 * found.uj / 1e6, rel=1e-6)
    assert energy.uncertainty == pytest.approx(2 * found.u_uj / 1e6, rel=0.01)
    assert energy.value == pytest.approx(2 * story.true_uj / 1e6, rel=0.02)


def test_the_worst_method_is_that_of_a_sum() -> None:
    assert worst_method(["counted", "estimated"]) == "estimated"
    assert worst_method(["bounded", "counted"]) == "bounded"
    assert worst_method(["counted", ""]) == worst_method([]) == ""


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 50)), max_size=20), st.integers(0, 300), st.integers(0, 99)
)
def test_spans_between_two_moments_are_those_that_are_there(some: list[tuple[int, int]], begin: int, long: int) -> None:
    spans = union(array("q", [at for start, length in some for at in (start, start + length)]))
    there = [one for one in spans if one[1] > begin and one[0] < begin + long]
    found = list(spans.between(begin, begin + long))
    assert [one for one in found if one[1] > begin and one[0] < begin + long] == there
    assert len(found) <= len(there) + 2
    assert isinstance(spans.later, Spans) and list(spans.later) == list(spans)[1:]
