"""The energy curve of a session: what stretches of time used, and how sure that is."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.measure.curve import Curve

TIMES = [0, 100, 200, 300, 400]
VALUES = [0, 1000, 1000, 5000, 6000]
CURVE = Curve(TIMES, VALUES)


def test_whole_intervals_are_certain():
    assert CURVE.over([(0, 400)]) == (6000, 0)
    assert CURVE.over([(100, 200), (300, 400)]) == (1000, 0)


def test_a_part_of_an_interval_is_uncertain_by_all_of_it():
    assert CURVE.over([(0, 50)]) == (500, math.ceil(1000 / math.sqrt(12)))
    assert CURVE.over([(50, 350)]) == (5000, math.ceil(2000 / math.sqrt(12)))


def test_many_short_stretches_of_one_interval_are_no_more_uncertain_than_the_interval():
    spans = [(t, t + 1) for t in range(200, 300, 2)]
    assert CURVE.over(spans) == (2000, math.ceil(4000 / math.sqrt(12)))


def test_stretches_that_tile_an_interval_leave_no_doubt():
    assert CURVE.over([(t, t + 10) for t in range(200, 300, 10)]) == (4000, 0)


def test_outside_the_curve_nothing_is_used():
    assert CURVE.over([(-50, -10), (450, 500)]) == (0, 0)
    assert CURVE.over([(-50, 100), (300, 900)]) == (2000, 0)
    assert Curve([], []).over([(0, 10)]) == (0, 0)


@given(st.lists(st.integers(-50, 450), unique=True).map(sorted))
def test_the_doubt_is_that_of_the_intervals_covered_in_part(edges: list[int]):
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    doubtful = 0
    for t0, t1, v0, v1 in zip(TIMES, TIMES[1:], VALUES, VALUES[1:], strict=False):
        covered = sum(max(0, min(end, t1) - max(begin, t0)) for begin, end in spans)
        if 0 < covered < t1 - t0:
            doubtful += v1 - v0
    energy_uj, u_uj = CURVE.over(spans)
    assert u_uj == math.ceil(doubtful / math.sqrt(12))
    assert 0 <= energy_uj <= 6000
