"""Job states as users type them."""

from __future__ import annotations

import pytest

from perun_hpc.errors import UsageError
from perun_hpc.slurm.states import CODES, FINAL_STATES, parse_states


def test_names_and_codes() -> None:
    assert parse_states(["running", "PD", "COMPLETED"]) == ("RUNNING", "PENDING", "COMPLETED")
    assert set(CODES.values()) >= FINAL_STATES
    assert parse_states([]) == ()


def test_an_unknown_state_names_the_allowed_ones() -> None:
    with pytest.raises(UsageError, match=r"'NOSUCH'.*CANCELLED, COMPLETED, .*TIMEOUT"):
        parse_states(["RUNNING", "NOSUCH"])
