"""A node without any counter on a real Slurm cluster: its jobs have an estimate, and all that sums them says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster import Cluster
from tests.slurm.breaks import NODE, PERUN, no_sensors, on, policy, until

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def bare(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster of which one node has no counters; its agent begins anew with them afterwards."""
    with no_sensors(cluster), policy("backends: [powercap]", "backends: [powercap, estimate]")(cluster):
        yield cluster
        on(cluster, NODE, f"{PERUN} agent stop", check=False)


def record(cluster: Cluster, job: str) -> dict[str, Any]:
    """The job's energy record, waited for."""
    path = cluster.shared / "perun" / cluster.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json"
    until(f"a record of job {job}", lambda: path.exists() and json.loads(path.read_text())["state"] != "")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_job_there_is_estimated_and_report_usage_and_audit_say_so(bare: Cluster) -> None:
    done = bare.run(["srun", "-Q", "-N2", "-w", f"n1,{NODE}", "sh", "-c", "sleep 2; echo $SLURM_JOB_ID"], check=True)
    job = done.stdout.split()[-1]
    told = record(bare, job)
    assert told["provenance"] in ("estimated", "simulated")  # the other node's counters are simulated
    assert 0 < told["estimated_uj"] < told["energy_uj"]
    assert told["missing"] == []
    (boundary,) = (json.loads(one.read_text()) for one in _boundaries(bare, job) if one.stem == NODE)
    (account,) = boundary["domains"].values()
    assert (account["provenance"], boundary["state"]) == ("estimated", "closed")
    alone = bare.run(["srun", "-Q", "-w", NODE, "sh", "-c", "sleep 1; echo $SLURM_JOB_ID"], check=True).stdout.split()[
        -1
    ]
    told = record(bare, alone)
    assert (told["provenance"], told["status"], told["estimated_uj"]) == ("estimated", "complete", told["energy_uj"])
    assert "estimated" in bare.run([PERUN, "report", alone], check=True).stdout
    assert "estimated" in bare.run([PERUN, "usage", "--by", "account"], user="perun", check=True).stdout
    until("its node ledger", lambda: "is estimated: nothing measures on" in _audit(bare))


def _boundaries(cluster: Cluster, job: str) -> Iterator[Any]:
    yield from (
        cluster.shared / "perun" / cluster.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "boundary"
    ).glob("*.json")


def _audit(cluster: Cluster) -> str:
    return cluster.run([PERUN, "audit"], user="perun", timeout=120).stdout
