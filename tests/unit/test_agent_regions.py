"""Steps and regions of ranks: what part of the job's energy each gets, and what that may be wrong by."""

from __future__ import annotations

import math
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.outbox import regions
from perun_hpc.data_model import activity, rank_data


def domain(energy_uj: int, static_uj: int = 0, **doubts: int) -> dict[str, Any]:
    causes = {name.replace("_", " "): uj for name, uj in doubts.items()}
    return {"component": "cpu", "energy_uj": energy_uj, "static_uj": static_uj, "u_uj": 1, "doubts": causes}


def record(domains: dict[str, Any], ranks: int = 2, source: str = "policy") -> dict[str, Any]:
    runs = [{"rank": rank, "start_mono_ns": 1, "end_mono_ns": 101} for rank in range(ranks)]
    return {
        "end": {"mono_ns": 101},
        "domains": domains,
        "static": {"package-0": {"uw": 1, "from": source}},
        "steps": [{"step_id": 0, "ranks": runs}],
    }


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A job that used 1200 uJ between two readings; two ranks call a region all that time."""
    (tmp_path / "ranks").mkdir()
    (tmp_path / "curve.bin").write_bytes(array("q", (1, 0, 101, 1_200)).tobytes())
    for rank, cpu_ns in enumerate((90, 30)):
        hand_over(tmp_path, rank, cpu_ns)
    return tmp_path


def hand_over(directory: Path, rank: int, cpu_ns: int | None) -> None:
    samples = [] if cpu_ns is None else [(1, 7, 0), (101, 7 + cpu_ns, 0)]
    parts = rank_data.final({"rank": rank}, "exit", ["solve"], array("q", (0, 1, 101)).tobytes(), samples)
    (directory / f"ranks/0-{rank}.rank").write_bytes(b"".join(parts))


def energies(directory: Path, of: dict[str, Any]) -> list[int]:
    rows, problems, _ = regions.of_session(directory, of)
    assert not problems
    return [row["energy_uj"] for row in rows]


def test_the_gain_of_the_sensors_is_in_what_a_step_used(session: Path) -> None:
    (step,) = regions.with_energies(session, record({"package-0": domain(2400, gain_powercap=72, random=999)}))
    assert (step["energy_uj"], step["u_uj"]) == (1200, 36)
    of_before = {"package-0": {"component": "cpu", "energy_uj": 2400, "static_uj": 0, "u_uj": 240}}
    (step,) = regions.with_energies(session, record(of_before))
    assert step["u_uj"] == 120


def test_a_ranks_region_has_its_part_of_the_ranks_cpu_time_and_an_equal_one_of_static_power(session: Path) -> None:
    assert energies(session, record({"package-0": domain(2400)})) == [900, 300]
    assert energies(session, record({"package-0": domain(2400, 2400)})) == [600, 600]
    assert energies(session, record({"package-0": domain(2400, 1200)})) == [750, 450]


def test_a_rank_without_cpu_time_is_taken_for_one_like_the_others(session: Path) -> None:
    hand_over(session, 2, None)
    assert energies(session, record({"package-0": domain(2400)}, 3)) == [600, 200, 400]
    for rank in range(3):
        hand_over(session, rank, None)
    assert energies(session, record({"package-0": domain(2400)}, 3)) == [400, 400, 400]


def test_a_ranks_region_may_be_wrong_by_the_watts_of_its_work_and_by_static_power(session: Path) -> None:
    (row, _), _, _ = regions.of_session(session, record({"package-0": domain(2400, 1200)}))
    watts = math.hypot(regions.RANK_ERROR, regions.UNEVEN)  # three times the CPU time: not the same work
    work = watts * 0.5 * 0.75 * math.hypot(0.25, 0.25)
    static = 0.08 * 0.5 * (0.5 - 0.75)
    assert row["u_uj"] == math.ceil(1200 * math.hypot(work, static))


def test_ranks_that_used_the_same_cpu_time_are_surer_of_their_parts(session: Path) -> None:
    for rank in range(2):
        hand_over(session, rank, 60)
    (row, _), _, _ = regions.of_session(session, record({"package-0": domain(2400)}))
    assert row["u_uj"] == math.ceil(1200 * regions.RANK_ERROR * 0.5 * math.hypot(0.5, 0.5))


def cost_s(directory: Path, ranks: int, each: int) -> float:
    """Processor time in which the regions of so many ranks, so many of each, are read."""
    (directory / "ranks").mkdir(parents=True)
    (directory / "curve.bin").write_bytes(array("q", (1, 0, 101, 1_200)).tobytes())
    names = [f"region {number}" for number in range(each)]
    calls = array("q", (one for number in range(each) for one in (number, 1, 101))).tobytes()
    for rank in range(ranks):
        parts = rank_data.final({"rank": rank}, "exit", names, calls, [(1, 7, 0), (101, 97, 0)])
        (directory / f"ranks/0-{rank}.rank").write_bytes(b"".join(parts))
    begun_s = time.process_time()
    rows, *_ = regions.of_session(directory, record({}, ranks))
    assert len(rows) == ranks * each
    return time.process_time() - begun_s


def test_a_region_costs_alike_however_many_ranks_a_node_has(tmp_path: Path) -> None:
    """Ranks and regions come from users, and what reads them has bounds."""
    assert cost_s(tmp_path / "many", 500, 16) < 3 * cost_s(tmp_path / "few", 16, 500)


def test_a_record_says_when_the_longest_regions_of_a_rank_ran(tmp_path: Path) -> None:
    (tmp_path / "ranks").mkdir()
    width, names = activity.LEAST_NS, [f"f{number}" for number in range(regions.MAX_SHOWN + 1)]
    of = record({}, 1)
    of["start"], of["end"] = {"mono_ns": 1, "real_ns": 1 + 5 * width}, {"mono_ns": 8 * width}
    of["steps"][0]["ranks"][0]["end_mono_ns"] = 8 * width
    calls = [one for n in range(len(names)) for one in (n, width, 2 * width + width // 2 - n)]
    parts = rank_data.final({"rank": 0}, "exit", names, array("q", calls).tobytes(), [])
    (tmp_path / "ranks/0-0.rank").write_bytes(b"".join(parts))
    rows, *_ = regions.of_session(tmp_path, of)
    known = {row["name"]: row["ran"] for row in rows if "ran" in row}
    assert known == {name: [width, 6, 1000, 500] for name in names[:-1]}
