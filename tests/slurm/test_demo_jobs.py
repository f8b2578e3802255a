"""The demo's three jobs: the records, the report and slurmdbd's line say what the simulated counters served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from devcluster import Cluster, site
from tests.slurm.test_line import assert_exact, boundary, energy_record, submit, wake

pytestmark = pytest.mark.cluster

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="module")
def programs(cluster: Cluster) -> None:
    """Agents on all nodes, and the demo's programs in the user's home, the C one compiled with the user's own MPI."""
    wake(cluster)
    for name in ("stencil.py", "pingpong.c"):
        shutil.copyfile(DEMO / name, cluster.home / "alice" / name)
        (cluster.home / "alice" / name).chmod(0o644)
    cluster.run([f"{site.SCIENCE}/bin/mpicc", "-O2", "-o", "pingpong", "pingpong.c"], check=True)


@pytest.mark.parametrize(
    ("options", "wrap", "nodes", "ranks", "functions"),
    [
        pytest.param(("-N2", "-n2"), "srun sleep 2", 2, 0, set(), id="plain"),
        pytest.param(
            ("-N4", "-n8", "--exclusive"),
            f"srun --perun {site.SCIENCE}/bin/python stencil.py 3",
            4,
            8,
            {"exchange", "relax"},
            id="mpi4py",
        ),
        pytest.param(("-N2", "-n4", "--exclusive"), "srun --perun ./pingpong 2", 2, 4, set(), id="compiled"),
    ],
)
@pytest.mark.usefixtures("programs")
def test_records_and_report_are_what_was_served(
    cluster: Cluster, options: tuple[str, ...], wrap: str, nodes: int, ranks: int, functions: set[str]
) -> None:
    job = submit(cluster, *options, wrap=wrap)
    assert cluster.wait_job(job, timeout=90) == "COMPLETED"
    record = energy_record(cluster, job)
    names = [node["node"] for node in record["nodes"]]
    assert len(names) == nodes
    parts = [boundary(cluster, job, name) for name in names]
    for part in parts:
        assert_exact(cluster, part)
    given = [domain["energy_uj"] for part in parts for domain in part["domains"].values()]
    assert record["energy_uj"] == sum(given)
    if "--exclusive" in options:
        assert given == [domain["node_uj"] for part in parts for domain in part["domains"].values()]
        assert record["modelled_uj"] == 0
    assert record["provenance"] == "simulated"
    assert sum(len(step["ranks"]) for part in parts for step in part["steps"]) == ranks
    assert {region["name"] for part in parts for region in part["regions"]} == functions

    told = json.loads(cluster.run([f"{site.PREFIX}/bin/perun", "report", "--json", str(job)], check=True).stdout)
    assert told["energy_uj"] == record["energy_uj"]
    screen = cluster.run([f"{site.PREFIX}/bin/perun", "report", str(job)], check=True).stdout
    assert "simulated" in screen and f"{nodes} of {nodes} nodes" in screen
    assert all(function in screen for function in functions)


MANY = """
from perun_hpc import monitor

@monitor()
def tiny():
    pass

for _ in range(3_000_000):
    tiny()
"""


@pytest.mark.usefixtures("programs")
def test_three_million_calls_of_a_function_are_all_in_the_record(cluster: Cluster) -> None:
    """As rows of their own they would take 72 MB, of which a node keeps 32 of a rank."""
    (cluster.home / "alice" / "many.py").write_text(MANY)
    job = submit(cluster, "-wn1", "-N1", "-n1", "--exclusive", wrap=f"srun --perun {site.SCIENCE}/bin/python many.py")
    assert cluster.wait_job(job, timeout=90) == "COMPLETED"
    energy_record(cluster, job)
    part = boundary(cluster, job, "n1")
    assert [(region["name"], region["calls"]) for region in part["regions"]] == [("tiny", 3_000_000)], part["notes"]
    (tiny,) = part["regions"]
    (rank,) = (rank for step in part["steps"] for rank in step["ranks"])
    assert 0 < tiny["time_ns"] < rank["end_mono_ns"] - rank["start_mono_ns"]
    assert 0 < tiny["energy_uj"] < sum(domain["energy_uj"] for domain in part["domains"].values())
