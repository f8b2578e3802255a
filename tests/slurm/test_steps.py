"""Energies of steps on a real Slurm, against what the simulator says that it served."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from devcluster import Cluster, site
from tests.slurm.test_line import boundary, energy_record

pytestmark = pytest.mark.cluster

WORK = """
    import sys, time
    until = time.process_time() + float(sys.argv[1])
    while time.process_time() < until:
        pass
"""
SCRIPT = """
    #!/bin/sh
    work="/usr/bin/python3 work.py"
    $work 1
    srun --exact -n1 -c1 --perun $work 3 &
    srun --exact -n1 -c1 $work 1 &
    wait
    srun -n1 true
    srun -n1 $work 2
"""
BATCH, EXTERN = -5, -4


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> int:
    """Alone on a node: a script that works itself, two steps at once (one is flagged), a short one, a last one."""
    home = cluster.home / "alice"
    (home / "work.py").write_text(textwrap.dedent(WORK))
    (home / "steps.sh").write_text(textwrap.dedent(SCRIPT).lstrip())
    command = ["sbatch", "--parsable", "-o", "/dev/null", "-N1", "--exclusive", "-w", "n1", "steps.sh"]
    job = int(cluster.run(command, check=True).stdout.strip().split(";")[0])
    assert cluster.wait_job(job, timeout=180) == "COMPLETED"
    return job


def served_uj(cluster: Cluster, record: dict[str, Any], step: dict[str, Any]) -> int:
    """What the node's counters counted while a step ran."""
    start = record["start"]
    moments = [start["mono_ns"] + step[edge] - start["real_ns"] for edge in ("start_ns", "end_ns")]
    total_uj = 0
    for sensor in record["sensors"]:
        before, after = (cluster.served.value_at(record["node"], sensor["device"], one) for one in moments)
        assert before is not None and after is not None
        total_uj += (after - before) % sensor["wrap_range"]
    return total_uj


def test_every_step_has_its_part_and_all_together_no_more_than_their_job(cluster: Cluster, job: int) -> None:
    record = boundary(cluster, job, "n1")
    steps = {step["step_id"]: step for step in record["steps"]}
    assert set(steps) == {EXTERN, BATCH, 0, 1, 2, 3}
    energies = {number: step["energy_uj"] for number, step in steps.items()}
    whole_uj = sum(domain["energy_uj"] for domain in record["domains"].values())
    assert sum(energies.values()) <= whole_uj
    assert sum(energies.values()) > 0.8 * whole_uj  # what is no step's is before the script and after it
    flagged, beside = sorted((0, 1), key=lambda number: not steps[number]["ranks"])  # they began at once, in any order
    for number, cpu_s in {BATCH: 1, flagged: 3, beside: 1, 3: 2}.items():
        assert cpu_s <= steps[number]["cpu_ns"] / 1e9 < cpu_s + 1.5, number
    assert energies[2] > 0 and energies[2] + 2 * steps[2]["u_uj"] > 0
    # The last one had the node for itself: what was counted while it ran is its, but for what the script did.
    alone_uj = served_uj(cluster, record, steps[3])
    assert abs(energies[3] - alone_uj) <= 2 * steps[3]["u_uj"] + 0.1 * alone_uj
    assert len(steps[flagged]["ranks"]) == 1
    assert not steps[beside]["ranks"]


def test_the_report_lists_them_by_slurms_names(cluster: Cluster, job: int) -> None:
    record = energy_record(cluster, job)
    assert {step["step_id"] for step in record["steps"]} == {"batch", "extern", "0", "1", "2", "3"}
    screen = cluster.run([f"{site.PREFIX}/bin/perun", "report", str(job)], check=True).stdout
    assert "Steps (6)" in screen
    assert "batch" in screen
    one = cluster.run([f"{site.PREFIX}/bin/perun", "report", f"{job}.batch"], check=True).stdout
    assert "of the job's" in one
