"""The second user on a real cluster, the quick part; `python -m tests.attack` does all of it, and for longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster import Cluster
from tests.attack import cases, first_comer, service

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def siege(cluster: Cluster) -> Iterator[cases.Siege]:
    """Alice's job on the node, and bob's program where he finds it."""
    with cases.Siege(cluster, timed=False).laid() as laid:
        yield laid


@pytest.mark.parametrize("case", ["verbs", "forged", "memory", "connections", "ranks", "heavy"])
def test_bob_gets_nothing_and_alice_notices_nothing(siege: cases.Siege, case: str) -> None:
    result = cases.attack(siege, case, 3)
    assert result.held, result.outcome
    assert result.n > 0


@pytest.mark.parametrize("case", ["shared-memory", "long-steps", "many-calls", "long-names"])
def test_one_job_does_not_take_down_accounting(siege: cases.Siege, case: str) -> None:
    result = cases.CASES[case](siege)
    assert result.held, result.outcome
    assert result.n > 0


def test_energy_on_a_shared_node_is_coarse(siege: cases.Siege) -> None:
    result = cases.attack(siege, "window", 35)
    assert result.held, result.outcome


def test_slurms_own_commands_are_as_coarse(siege: cases.Siege) -> None:
    result = cases.slurm_figures(siege)
    assert result.held, result.outcome
    assert result.n > 0


@pytest.mark.parametrize("case", ["wake", "root-phase", "swapped-link", "handed-over"])
def test_what_the_service_believes_is_not_bobs_to_say(siege: cases.Siege, case: str) -> None:
    result = service.CASES[case](siege)
    assert result.held, result.outcome
    assert result.n > 0


def test_who_makes_alices_places_first_holds_nothing_of_hers_up(siege: cases.Siege) -> None:
    result = first_comer.first_comer(siege)
    assert result.held, result.outcome
    assert result.n > 0


@pytest.mark.parametrize("case", ["files", "process", "owned", "environment", "reports", "poison"])
def test_nothing_of_bobs_is_believed_or_run(siege: cases.Siege, case: str) -> None:
    result = cases.CASES[case](siege)
    assert result.held, result.outcome
    assert result.n > 0
