"""The published attribution error is what the simulator says, and the uncertainty in use covers it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest

from bench.attribution import cases, simulate, table
from perun_hpc.energy.attribute import attribute
from perun_hpc.energy.uncertainty import Split

METHOD = Path(__file__).parents[2] / "docs/method.md"


def test_docs_method_publishes_the_present_table():
    assert table() in METHOD.read_text(), "run python -m bench.attribution and put its output into docs/method.md"


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_every_simulated_interval_closes_on_its_counter(case):
    _, intervals = simulate(case)
    for interval in intervals:
        for domain, shares in zip(interval.domains, attribute(interval)):
            assert sum(shares.by_owner().values()) == domain.total_uj


def test_the_stated_uncertainty_covers_the_mean_square_error_and_is_not_padded():
    """Every job's error against its own standard uncertainty: their mean square is about 1, and never above it."""
    ratios = []
    for case in cases():
        truth, intervals = simulate(case)
        given_j, doubt_j = Counter(), Counter()
        for shares in (shares for one in intervals for shares in attribute(one)):
            split = Split.of((share.static_uj, share.dynamic_uj) for share in shares.shares)
            for share in shares.shares:
                given_j[share.owner] += share.energy_uj / 1e6
                doubt_j[share.owner] += math.hypot(*split.sharing_doubt_uj(share.dynamic_uj, shares.method)) / 1e6
        for number in range(len(case.jobs)):
            owner = f"job:{number}"
            ratios.append((given_j[owner] - truth.total(owner)) / doubt_j[owner])
    rms = math.sqrt(sum(ratio**2 for ratio in ratios) / len(ratios))
    assert 0.3 <= rms <= 1
