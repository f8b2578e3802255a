"""The published attribution error is what the simulator says, and the uncertainty in use covers it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.attribution import CORES, SECONDS, STATIC_W, cases, simulate, table
from perun_hpc.energy.attribute import attribute
from perun_hpc.energy.uncertainty import ATTRIBUTION_ERROR

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
    errors = []
    for case in cases():
        truth, intervals = simulate(case)
        for number, job in enumerate(case.jobs):
            owner = f"job:{number}"
            given_j = sum(shares.by_owner().get(owner, 0) for one in intervals for shares in attribute(one)) / 1e6
            static_j = STATIC_W / 8 * len({cpu % CORES for cpu in job.cpus}) * SECONDS
            errors.append((given_j - truth.total(owner)) / (given_j - static_j))
    rms = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert rms <= ATTRIBUTION_ERROR["cores"] <= 1.5 * rms
