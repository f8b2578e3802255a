"""Decorated functions and regions of MPI steps on two nodes, with an agent and without."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from devcluster import Cluster, site
from tests.mpi_programs import ALLREDUCE_PY

pytestmark = pytest.mark.cluster

GUARD_S = 60
HERE = "/shared/alice-mpi"
PYTHON = f"{site.SCIENCE}/bin/python"
PERUN = f"{site.PREFIX}/bin/perun"

REGIONS_PY = (
    """
from perun_hpc import monitor, window
with monitor("io"), window("w") as w:
    pass
"""
    + ALLREDUCE_PY
)
FILES = {"regions.py": REGIONS_PY}


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Iterator[str]:
    """n1 and n2 in one job of alice's, and her programs."""
    cluster.run(["rm", "-rf", HERE], user="root", check=True)
    cluster.run(["mkdir", HERE], user="root", check=True)
    cluster.run(["chown", "alice:", HERE], user="root", check=True)
    for name, text in FILES.items():
        cluster.run(["sh", "-c", f"cat > {HERE}/{name}"], input=text, check=True)
    done = cluster.run(["salloc", "--no-shell", "-w", "n1,n2", "--exclusive"], check=True)
    found = re.search(r"Granted job allocation (\d+)", done.stderr)
    assert found, done.stderr
    deadline = time.monotonic() + 30
    while not agent_pid(cluster):  # the job's hook has started it
        assert time.monotonic() < deadline, "no agent on n2"
        time.sleep(0.2)
    yield found[1]
    cluster.run(["scancel", found[1]], check=True)
    cluster.wait_job(found[1])


def on_n2(cluster: Cluster, *command: str) -> str:
    return cluster.run(list(command), user="root", node="n2", check=True).stdout


def agent_pid(cluster: Cluster) -> str:
    """Pid, in n2, of its agent; empty if none answers."""
    done = cluster.run([PERUN, "agent", "status"], user="root", node="n2")
    return done.stdout.split("pid ")[1].split(",")[0] if done.returncode == 0 else ""


def dead_agent(cluster: Cluster) -> None:
    """The job's Epilog starts the next one."""
    if agent_pid(cluster):
        on_n2(cluster, PERUN, "agent", "stop")


DECORATED_PY = """
import os
from mpi4py import MPI
from perun_hpc import perun
@perun(app_name="{app}", include_backends="estimate")
def main():
    return MPI.COMM_WORLD.rank
{call}
print(f"sum {{MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank)}}\\n", end="", flush=True)
"""


@pytest.mark.parametrize("callers", ["all", "one"])
def test_a_decorated_function_on_two_nodes_is_gathered_where_all_ranks_call_it(
    cluster: Cluster, job: str, callers: str
) -> None:
    """Ranks of several nodes meet in the directory for results."""
    call = "main()" if callers == "all" else "if MPI.COMM_WORLD.rank == 1: main()"
    text = DECORATED_PY.format(app=callers, call=call)
    cluster.run(["sh", "-c", f"cat > {HERE}/decorated.py"], input=text, check=True)
    package = cluster.run(
        [f"{site.PREFIX}/bin/python", "-c", "import perun_hpc; print(perun_hpc.__path__[0])"], check=True
    ).stdout.strip()
    cluster.run(["sh", "-c", f"mkdir -p {HERE}/lib && ln -sfn {package} {HERE}/lib/perun_hpc"], check=True)
    step = ["srun", f"--jobid={job}", "--overlap", "--mpi=pmi2", "-w", "n1,n2", "-N2", "-n4"]
    environ = ["--export=ALL,PYTHONPATH=" + ":".join([f"{HERE}/lib", *packages(cluster)])]
    done = cluster.run([*step, *environ, PYTHON, "decorated.py"], cwd=HERE, timeout=GUARD_S)
    assert (done.returncode, done.stdout) == (0, "sum 6\n" * 4), done.stderr
    found = list((cluster.shared / "alice-mpi" / "perun_results").glob(f"{callers}/*/run.json"))
    if callers == "one":
        assert done.stderr.count("not all ranks of this launch came") == 1
        return
    (path,) = found
    hosts = json.loads(path.read_text())["nodes"]["0"]["nodes"]
    assert sorted(rank["rank"] for host in hosts.values() for rank in host["metadata"]["ranks"]) == [0, 1, 2, 3]
    assert len(hosts) == 2
    assert not [
        entry.name for entry in (cluster.shared / "alice-mpi" / "perun_results").iterdir() if "meet" in entry.name
    ]


def packages(cluster: Cluster) -> list[str]:
    """Where perun's own environment has what it needs beside it."""
    line = [f"{site.PREFIX}/bin/python", "-c", "import numpy, pathlib; print(pathlib.Path(numpy.__path__[0]).parent)"]
    return cluster.run(line, check=True).stdout.split()


def test_a_program_with_regions_runs_where_no_agent_takes_its_rank(cluster: Cluster, job: str) -> None:
    """The users' own Python has nothing of perun: the package comes with the launcher."""
    dead_agent(cluster)
    step = ["srun", f"--jobid={job}", "--overlap", "--mpi=pmi2", "-w", "n1,n2", "-N2", "-n4", "--perun"]
    done = cluster.run([*step, PYTHON, "regions.py"], cwd=HERE, timeout=GUARD_S)
    assert (done.returncode, done.stdout) == (0, "sum 6\n" * 4), done.stderr
    assert "this step runs without measurement" in done.stderr
