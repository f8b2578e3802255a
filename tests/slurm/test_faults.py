"""Ten jobs under each of the fastest faults of tests.faults; `make faults` runs a hundred under every one."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from devcluster import Cluster
from tests.faults.__main__ import harm
from tests.faults.catalogue import FAULTS
from tests.faults.ground import Ground
from tests.faults.measure import measure

pytestmark = pytest.mark.cluster


STARVED = "no reading during the job"
"""Said of a job that was over before the agent had the CPU; that happens on a machine as busy as this one."""


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.fast])
def test_a_fault_costs_no_job_no_node_and_no_record(cluster: Cluster, name: str) -> None:
    result = measure(Ground(cluster), FAULTS[name], 10)
    told = json.dumps(asdict(result), indent=1)  # a text is shown whole where a test fails
    assert not harm(result), told
    assert result.complete + result.partial == result.jobs + result.beside == 12, told
    assert result.partial <= sum(times for why, times in result.said.items() if why.startswith(STARVED)), told
