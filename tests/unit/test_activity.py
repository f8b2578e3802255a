"""When functions ran: in stretches that fit those of other nodes, whoever wrote them."""

from __future__ import annotations

import pytest

from perun_hpc.data_model.activity import LEAST_NS, MOST, of_spans, parsed, together, width_ns

W = LEAST_NS


def test_stretches_are_powers_of_two_and_some_dozens_cover_a_job() -> None:
    for length_ns in (1, 10**9, 3600 * 10**9, 10**15):
        width = width_ns(length_ns)
        assert width & (width - 1) == 0 and width >= LEAST_NS
        assert length_ns <= width * (MOST - 1) and (width == LEAST_NS or length_ns > width // 2 * (MOST - 1))


def test_spans_are_laid_over_the_wall_clocks_stretches() -> None:
    assert of_spans([(W // 2, W), (2 * W, 3 * W + W // 4)], 10 * W, W) == [W, 10, 500, 0, 1000, 250]
    assert of_spans([], 0, W) == []
    assert of_spans([(0, 1), (9 * MOST * W, 9 * MOST * W + 5)], 0, W) == []  # no record is made longer by a clock


def test_ranks_are_summed_in_the_longest_stretches_of_theirs() -> None:
    assert together([[W, 10, 500, 1000], [W, 11, 200, 300]]) == (W, 10, 500, 1200, 300)
    assert together([[W, 10, 500, 1000], [2 * W, 5, 100, 900]]) == (2 * W, 5, 850, 900)
    assert together([]) == together([(), ()]) == ()
    assert together([(W, 0, 1), (W, 10**6, 1)]) == ()


@pytest.mark.parametrize(
    "told",
    [None, "x", [], [W, 1], [W, -1, 5], [W + 1, 1, 5], [1, 1, 5], [W, 1, 5.0], [W, 1, True], [W, 1, 1 << 62],
     [W, 1, *[1] * (2 * MOST + 1)], {"a": 1}],
)  # fmt: skip
def test_what_cannot_be_is_nothing(told: object) -> None:
    assert parsed(told) == ()


def test_what_can_be_is_kept() -> None:
    assert parsed([W, 3, 0, 1000]) == (W, 3, 0, 1000)
