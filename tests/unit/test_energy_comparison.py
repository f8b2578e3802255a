"""Differences of energies: what cancels, what stays, how many repeats prove something, how often the bounds hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.energy import comparison
from perun_hpc.energy.comparison import Run, common_part, energies, repeats, spread, systematic, t_975, times
from perun_hpc.energy.uncertainty import RANDOM

GAIN = 0.03


def run(energy_j: float, node: str = "n1", gain: float = GAIN, random: float = 0.001, backend: str = "powercap") -> Run:
    return Run(energy_j, 100.0, {f"gain {backend}": gain, RANDOM: random}, {node: 1.0})


def test_three_percent_are_seen_on_the_same_node_and_not_on_another() -> None:
    same = energies([run(1000)], [run(970)])
    assert not same.within and same.change == pytest.approx(-0.03)
    assert same.high < 0
    assert energies([run(1000)], [run(970, node="n2")]).within


def test_of_sensors_of_two_kinds_on_one_node_nothing_cancels() -> None:
    assert systematic([run(1000)], [run(970, backend="ipmi")]) == pytest.approx(GAIN * math.sqrt(2))


def test_where_half_of_the_nodes_are_others_half_of_the_gain_stays() -> None:
    gain = {"gain powercap": GAIN}
    first, second = Run(1.0, 1.0, gain, {"n1": 0.5, "n2": 0.5}), Run(1.0, 1.0, gain, {"n1": 0.5, "n3": 0.5})
    assert common_part([first], [second]) == pytest.approx(0.5)
    alone = systematic([run(1)], [run(1, node="n2")])
    assert systematic([first], [second]) == pytest.approx(alone / 2, rel=0.01)


@pytest.mark.parametrize("cause", ["gain estimate", "gain unknown", "sharing cpu", "all 4711"])
def test_what_is_no_gain_of_a_sensor_never_cancels(cause: str) -> None:
    one = Run(1.0, 1.0, {cause: 0.2}, {"n1": 1.0})
    assert systematic([one], [one]) == pytest.approx(0.2 * math.sqrt(2))


def test_nodes_that_nobody_knows_are_other_nodes() -> None:
    bare = Run(1.0, 1.0, {"gain powercap": GAIN}, {})
    assert common_part([bare], [run(1)]) == 0
    assert systematic([bare], [run(1)]) == pytest.approx(GAIN * math.sqrt(2))


def test_a_part_that_weighs_more_in_one_run_cancels_the_less() -> None:
    """The GPU's gain is in both, but one of them uses the CPU alone."""
    cpu = Run(1.0, 1.0, {"gain powercap": 0.03}, {"n1": 1.0})
    mixed = Run(1.0, 1.0, {"gain powercap": 0.015, "gain nvml": 0.025}, {"n1": 1.0})
    left = systematic([cpu], [mixed])
    assert left == pytest.approx(math.hypot(0.015, 0.025), rel=0.01)


def test_repeats_show_what_one_run_does_not() -> None:
    first = [run(e) for e in (1000, 1008, 991, 1003)]
    second = [run(e) for e in (968, 975, 961, 970)]
    found = energies(first, second)
    assert not found.within and found.spread == pytest.approx(0.0066, abs=5e-4)
    assert energies(first[:2], second[:2]).bound > found.bound  # two repeats know little of their spread


def test_repeats_that_agree_by_chance_are_not_surer_than_their_sensors() -> None:
    noisy = [run(1000, random=0.05), run(1000, random=0.05)]
    assert energies(noisy, noisy).bound > 2 * 0.05


def test_a_single_run_beside_repeats_has_their_spread() -> None:
    before = [run(e) for e in (1000, 1040, 960, 1020, 980)]
    found = energies(before, [run(950)])
    s, freedom = spread([one.energy_j for one in before]) or (0.0, 0)
    assert found.bound >= t_975(freedom) * s * math.sqrt(1 + 1 / 5)
    assert found.within


def test_one_run_each_has_the_spread_that_earlier_ones_showed() -> None:
    bare, told = energies([run(1000)], [run(970)]), energies([run(1000)], [run(970)], (0.02, 7))
    assert bare.spread is None and told.spread == pytest.approx(0.02)
    assert not bare.within and told.within


def test_times_of_one_run_each_have_no_bound() -> None:
    assert times([run(1)], [run(1)]).bound == 0


@pytest.mark.parametrize(
    ("spread_", "needed"),
    [(0.001, 2), (0.01, 6), (0.02, 18)],
)
def test_repeats_by_hand(spread_: float, needed: int) -> None:
    """16 s^2 / d^2, the rule of thumb, and one more."""
    found = repeats(spread_, 0.0)
    assert found is not None and abs(found - needed) <= 1


def test_what_no_repeats_can_prove() -> None:
    assert repeats(0.01, 0.012) is None
    assert repeats(3.0, 0.0) is None


def test_as_many_repeats_as_are_told_prove_it_as_often_as_is_told() -> None:
    """By simulation: 2 % more, spread 1 %; the test sees it in about 80 % of trials."""
    rng = np.random.default_rng(20261130)
    number = repeats(0.01, 0.0)
    assert number is not None
    seen = 0
    for _ in range(400):
        first, second = np.exp(rng.normal(0, 0.01, number)), 1.02 * np.exp(rng.normal(0, 0.01, number))
        sides = [[Run(float(e), 1.0, {}, {"n1": 1.0}) for e in side] for side in (first, second)]
        seen += not energies(*sides).within
    assert 0.74 <= seen / 400 <= 0.92


@pytest.mark.parametrize("place", ["same", "other"])
@pytest.mark.parametrize("counts", [(1, 1), (3, 3), (5, 1), (2, 8)])
def test_bounds_hold(place: str, counts: tuple[int, int]) -> None:
    """True ratios lie inside the bounds in 95 % of many simulated pairs (99.9 % of such tests pass at 92 %).

    Nodes' gains are drawn anew for each pair, and a tenth of them for each run; runs vary, of single ones by what errs
    each time anew alone, since nobody could know more.
    """
    rng = np.random.default_rng([1, *counts, len(place)])
    trials, covered = 600, 0
    for _ in range(trials):
        gains = {"n1": rng.normal(0, GAIN), "n2": rng.normal(0, GAIN)}
        varies = 0.01 if max(counts) > 1 else 0.0
        sides = []
        for node, count in zip(("n1", "n1" if place == "same" else "n2"), counts):
            own = rng.normal(0, comparison.OWN * GAIN)  # of the side's program
            shown = [
                1000 * math.exp(rng.normal(0, varies) + rng.normal(0, 0.002) + gains[node] + own) for _ in range(count)
            ]
            sides.append([run(one, node, random=0.002) for one in shown])
        covered += energies(*sides).within  # the truth is that they do not differ
    assert covered / trials >= 0.92


@given(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=6), st.lists(st.floats(0.1, 1e9), min_size=1, max_size=6))
def test_turned_round_a_difference_is_its_opposite(first: list[float], second: list[float]) -> None:
    one, other = [run(e) for e in first], [run(e) for e in second]
    there, back = energies(one, other), energies(other, one)
    assert there.log == pytest.approx(-back.log, abs=1e-9)
    assert there.bound == pytest.approx(back.bound)
    assert there.within == back.within or abs(abs(there.log) - there.bound) < 1e-9


def test_students_t_is_that_of_the_tables() -> None:
    known = {1: 12.706, 4: 2.776, 30: 2.042, 40: 2.021, 120: 1.980, math.inf: 1.960}
    for freedom, expected in known.items():
        assert t_975(freedom) == pytest.approx(expected, abs=6e-4)
