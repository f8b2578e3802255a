"""On a real Slurm: two jobs share a node, their watts are learnt by policy, and all sums close as they did before."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster

pytestmark = pytest.mark.cluster

NODE = "n2"
LINES = """
energy:
  package_sharing: cores+fit
"""
BUSY = "timeout 4 sh -c 'while :; do :; done'; true"
WAITING = "sleep 1.5; timeout 2 sh -c 'while :; do :; done'; sleep 1"


@pytest.fixture
def fitted(cluster: Cluster) -> Iterator[None]:
    """The cluster's policy with the filter, and intervals of a second."""
    policy = cluster.etc_perun / "policy.yaml"
    good = policy.read_text()
    assert "\nenergy:" not in good
    assert "sampling:\n" in good

    def put(text: str) -> None:
        fresh = policy.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(policy)

    put(good.replace("sampling:\n", "sampling:\n  interval: 1 s\n") + LINES)
    yield
    put(good)


def submitted(cluster: Cluster, what: str) -> str:
    line = ["sbatch", "--parsable", "-w", NODE, "-n1", "--mem=100", "-o", "/dev/null", f"--wrap={what}"]
    return cluster.run(line, check=True).stdout.strip()


def boundary(cluster: Cluster, job: str) -> dict[str, Any]:
    """The node's collected boundary record, waited for."""
    top = cluster.shared / "perun" / cluster.name
    path = top / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "boundary" / f"{NODE}.json"
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"job {job} has no record"
        time.sleep(0.2)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.usefixtures("fitted")
def test_jobs_that_share_a_node_close_with_it(cluster: Cluster) -> None:
    warm = submitted(cluster, "sleep 2")  # the policy counts from the next interval on
    cluster.wait_job(warm)
    jobs = [submitted(cluster, BUSY), submitted(cluster, WAITING)]
    for job in jobs:
        assert cluster.wait_job(job) == "COMPLETED"
    records = {job: boundary(cluster, job) for job in jobs}
    packages = [
        domain for one in records.values() for name, domain in one["domains"].items() if name.startswith("package")
    ]
    assert "cores+fit" in {one["method"] for one in packages}
    assert {one["method"] for one in packages} <= {"cores+fit", "cores", "exclusive"}
    shares: Counter[tuple[str, str]] = Counter()
    for line in node_ledger(cluster, *records.values()):
        assert sum(line["shares"].values()) == (line["total_uj"] or 0)
        shares.update({(owner, line["domain"]): uj for owner, uj in line["shares"].items()})
    for job, record in records.items():
        for name, domain in record["domains"].items():
            assert shares[f"job:{job}.0", name] == domain["energy_uj"]
            assert domain["static_uj"] + domain["dynamic_uj"] == domain["energy_uj"]
            assert (domain["u_uj"] > 0) == (domain["energy_uj"] > 0)
    said = cluster.run(["perun", "report", "--json", jobs[0]], check=True).stdout
    assert "cores+fit" in said


def node_ledger(cluster: Cluster, *records: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the node's ledger from the first job's start on, once they reach the last one's end."""
    first_ns = min(record["start"]["mono_ns"] for record in records)
    last_ns = max(record["end"]["mono_ns"] for record in records)
    directory: Path = cluster.shared / "perun" / cluster.name / "nodes" / NODE
    deadline = time.monotonic() + 60
    while True:
        lines = [json.loads(line) for file in sorted(directory.glob("????-??-??.jsonl")) for line in file.open()]
        if any(line["t1_ns"] >= last_ns for line in lines):
            return [line for line in lines if line["t1_ns"] > first_ns]
        assert time.monotonic() < deadline, "the node's ledger has not come"
        time.sleep(0.5)
