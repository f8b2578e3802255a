"""What the policy says of whose jobs count holds on a real Slurm, from the next job on and without any restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster

pytestmark = pytest.mark.cluster

NODE = "n3"
JOBS = "  jobs: all\n  user_options: [notrace, period]\n"
"""What the demo's policy, which is installed here, says of them."""

Change = Callable[[str], None]


@pytest.fixture
def change(cluster: Cluster) -> Iterator[Change]:
    """Put other lines in the place of `JOBS`."""
    policy = cluster.etc_perun / "policy.yaml"
    good = policy.read_text()
    assert JOBS in good

    def put(lines: str) -> None:
        fresh = policy.with_suffix(".new")
        fresh.write_text(good.replace(JOBS, lines))
        fresh.replace(policy)

    yield put
    put(JOBS)


def srun(cluster: Cluster, *options: str) -> str:
    """Run a job on the node; returns its id."""
    line = ["srun", "-Q", "-w", NODE, *options, "sh", "-c", "echo $SLURM_JOB_ID"]
    return cluster.run(line, check=True, timeout=90).stdout.split()[-1]


def directory(cluster: Cluster, job: str) -> Path:
    return cluster.shared / "perun" / cluster.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0"


def boundary(cluster: Cluster, job: str) -> dict[str, Any]:
    """The node's collected boundary record, waited for."""
    path = directory(cluster, job) / "boundary" / f"{NODE}.json"
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"job {job} has no record"
        time.sleep(0.2)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def notes(record: dict[str, Any]) -> list[str]:
    """What a record says beside that nobody knows the node's static power yet."""
    return [note for note in record["notes"] if not note.startswith("static power of ")]


def test_who_opts_out_at_submission_leaves_no_record(cluster: Cluster, change: Change) -> None:
    change("  jobs: opt-out\n  user_options: ['off', notrace, period]\n")
    out, in_ = srun(cluster, "--perun=off"), srun(cluster)
    assert boundary(cluster, in_)["settings"]["monitor"]["jobs"] == "opt-out"
    assert not directory(cluster, out).exists()
    change(JOBS)
    refused = boundary(cluster, srun(cluster, "--perun=off"))
    assert "'off'" in refused["settings"]["notes"][0]


def test_who_opts_in_at_submission_has_one_even_without_a_flagged_step(cluster: Cluster, change: Change) -> None:
    change("  jobs: opt-in\n  user_options: [period]\n")
    line = ["sbatch", "--parsable", "-w", NODE, "-o", "/dev/null", "--perun=period=2s", "--wrap=true"]
    flagged = cluster.run(line, check=True).stdout.strip()
    cluster.wait_job(flagged)
    plain, step = srun(cluster), srun(cluster, "--perun")
    record = boundary(cluster, flagged)
    assert record["settings"]["sampling"]["period_ns"] == 2 * 10**9
    assert notes(record) == ["submitted with --perun, but no rank registered on this node"]
    assert notes(boundary(cluster, step)) == []
    assert not directory(cluster, plain).exists()
