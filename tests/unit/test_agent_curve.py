"""The energy curve of a session: what stretches of time used, and how sure that is."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.measure.curve import Curve
from perun_hpc.energy.regions import union

TIMES = [0, 100, 200, 300, 400]
VALUES = [0, 1000, 1000, 5000, 6000]
CURVE = Curve(TIMES, VALUES)


def over(spans, curve=CURVE):
    """Energy and standard uncertainty, in uJ."""
    found = curve.over(union(array("q", [moment for span in spans for moment in span])))
    return found.uj, pytest.approx(found.u_uj)


def test_whole_intervals_are_certain():
    assert over([(0, 400)]) == (6000, 0)
    assert over([(100, 200), (300, 400)]) == (1000, 0)


def test_a_part_of_an_interval_is_uncertain_by_all_of_it():
    assert over([(0, 50)]) == (500, 500 / math.sqrt(3))
    assert over([(50, 350)]) == (5000, 2000 / math.sqrt(12))


def test_many_short_stretches_of_one_interval_are_no_more_uncertain_than_the_interval():
    spans = [(t, t + 1) for t in range(200, 300, 2)]
    assert over(spans) == (2000, 4000 / math.sqrt(12))


def test_stretches_that_tile_an_interval_leave_no_doubt():
    assert over([(t, t + 10) for t in range(200, 300, 10)]) == (4000, 0)


def test_outside_the_curve_nothing_is_used():
    assert over([(-50, -10), (450, 500)]) == (0, 0)
    assert over([(-50, 100), (300, 900)]) == (2000, 0)
    assert over([(0, 10)], Curve([], [])) == (0, 0)


@given(st.lists(st.integers(-50, 450), unique=True).map(sorted))
def test_the_doubt_is_that_of_the_intervals_covered_in_part(edges: list[int]):
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    doubtful = 0
    for t0, t1, v0, v1 in zip(TIMES, TIMES[1:], VALUES, VALUES[1:], strict=False):
        covered = sum(max(0, min(end, t1) - max(begin, t0)) for begin, end in spans)
        if 0 < covered < t1 - t0:
            doubtful += v1 - v0
    found = CURVE.over(union(array("q", edges[: len(edges) // 2 * 2])))
    assert found.high_uj - found.low_uj == doubtful
    assert found.low_uj <= found.uj <= found.high_uj
    assert max(found.uj - found.low_uj, found.high_uj - found.uj) == pytest.approx(found.u_uj * math.sqrt(3))
