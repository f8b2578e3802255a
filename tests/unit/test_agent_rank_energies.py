"""Energies of ranks: parts of their step's, by CPU time; where that does not tell, none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from perun_hpc.agent.outbox import rank_energies, regions

S = 1_000_000_000


def record(static_uj: int = 0, source: str = "policy") -> dict[str, Any]:
    """A job of 100 s and 1 kJ on this node."""
    domain = {"component": "cpu", "energy_uj": 1_000_000_000, "static_uj": static_uj, "u_uj": 0, "doubts": {}}
    return {
        "start": {"real_ns": 0}, "end": {"real_ns": 100 * S}, "domains": {"package-0": domain},
        "static": {"package-0": {"uw": 1, "from": source}},
    }  # fmt: skip


def step(ranks: int, cpu_s: float | None, energy_j: float | None = 800, seconds: int = 100) -> dict[str, Any]:
    return {
        "step_id": 0, "start_ns": 0, "end_ns": seconds * S, "u_uj": 8_000_000,
        "energy_uj": None if energy_j is None else round(energy_j * 1e6),
        "cpu_ns": None if cpu_s is None else round(cpu_s * S), "ranks": [{"rank": rank} for rank in range(ranks)],
    }  # fmt: skip


def energies(one: dict[str, Any], cpu_s: dict[int, float], of: dict[str, Any] | None = None) -> list[Any]:
    (found,) = rank_energies.of_steps([one], {(0, rank): round(s * S) for rank, s in cpu_s.items()}, of or record())
    return [run.get("energy_uj", 0) / 1e6 if "energy_uj" in run else None for run in found["ranks"]]


def test_a_rank_has_its_part_by_cpu_time_and_an_equal_one_of_static_power() -> None:
    assert energies(step(2, 100), {0: 75, 1: 25}) == [600, 200]
    # All of 500 J are static; in the step's 100 s all of them fell, too: 300 J were work.
    assert energies(step(2, 100), {0: 75, 1: 25}, record(500_000_000)) == pytest.approx([475, 325])
    assert sum(energies(step(3, 100), {0: 60, 1: 30, 2: 7})) == pytest.approx(800)


def test_a_rank_that_is_alone_has_all_of_its_step_whatever_it_is_written_in() -> None:
    (found,) = rank_energies.of_steps([step(1, None)], {}, record())
    assert found["ranks"] == [{"rank": 0, "energy_uj": 800_000_000, "u_uj": 8_000_000}]


@pytest.mark.parametrize(
    ("one", "cpu_s"),
    [
        (step(2, 100), {}),  # no Python
        (step(2, 100), {0: 90}),  # one was killed
        (step(2, 100), {0: 40, 1: 30}),  # most of the rest was other programs
        (step(2, 100), {0: 0, 1: 0}),
        (step(2, 100, None), {0: 50, 1: 50}),  # the step's is not known
    ],
)
def test_where_cpu_times_do_not_tell_no_rank_has_an_energy(one: dict[str, Any], cpu_s: dict[int, float]) -> None:
    assert energies(one, cpu_s) == [None, None]


def test_bounds_hold_the_steps_the_ranks_watts_and_what_other_programs_used() -> None:
    (found,) = rank_energies.of_steps([step(2, 100)], {(0, 0): 45 * S, (0, 1): 45 * S}, record())
    work = regions.RANK_ERROR * 0.5 * math.hypot(0.5, 0.5)
    expected = math.hypot(8_000_000 * 0.5, 800_000_000 * math.hypot(work, 0.1 / 2))
    assert [run["u_uj"] for run in found["ranks"]] == [pytest.approx(expected, rel=1e-6)] * 2


def test_that_a_steps_static_part_is_not_the_jobs_is_doubted() -> None:
    """A step of half of the job's time with nearly all of its energy: its static part is smaller than the job's."""
    cpu_ns, half = {(0, 0): 75 * S, (0, 1): 25 * S}, step(2, 100, seconds=50)
    (of_half,) = rank_energies.of_steps([half], cpu_ns, record(500_000_000))
    (of_all,) = rank_energies.of_steps([step(2, 100)], cpu_ns, record(500_000_000))
    assert of_half["ranks"][0]["energy_uj"] > of_all["ranks"][0]["energy_uj"]
    assert of_half["ranks"][0]["u_uj"] > of_all["ranks"][0]["u_uj"]
