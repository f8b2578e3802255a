"""A container plugin beside perun's in plugstack.conf, in either order, on a real Slurm: no flagged step fails."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import Cluster
from devcluster.site import CHECKOUT, PLUGSTACK

pytestmark = pytest.mark.cluster

HIDDEN = "/opt/perun-hpc:/run/perun"
"""What a container does not have: the prefix and the agent's socket."""
PLUGIN = "optional /shared/test_container.so"


@pytest.fixture(params=["perun first", "perun last"])
def order(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    built = Path(CHECKOUT / "build" / "container")
    subprocess.run(
        ["make", "-s", "-C", str(CHECKOUT / "slurm"), f"BUILD={built}", f"{built}/test_container.so"], check=True
    )
    shutil.copyfile(built / "test_container.so", cluster.shared / "test_container.so")
    lines = [*PLUGSTACK, PLUGIN] if request.param == "perun first" else [PLUGIN, *PLUGSTACK]
    cluster.configure(plugstack=lines)
    yield request.param
    cluster.configure(plugstack=PLUGSTACK)


def step(cluster: Cluster, *flags: str, hidden: str = HIDDEN) -> subprocess.CompletedProcess[str]:
    told = [f"--export=ALL,TEST_HIDDEN={hidden}"] if hidden else []
    return cluster.run(["srun", "-w", "n1,n2", "-n4", *told, *flags, "sh", "-c", "ls /opt/perun-hpc | wc -l; exit 3"])


def test_a_step_in_a_container_runs_as_without_the_flag(cluster: Cluster, order: str) -> None:
    plain, flagged = step(cluster), step(cluster, "--perun")
    assert plain.stdout == "0\n" * 4, plain.stderr
    assert (flagged.returncode, flagged.stdout) == (plain.returncode, plain.stdout) == (3, "0\n" * 4), flagged.stderr
    said = [line for line in flagged.stderr.splitlines() if line.startswith("perun: ")]
    if order == "perun last":
        line = (
            "perun: the launcher is not seen here (a container?): this step is measured from outside, without regions"
        )
        assert said == [line] * 2  # one per node
    else:
        assert said == []


def test_a_step_without_a_container_has_its_launcher_in_either_order(cluster: Cluster, order: str) -> None:
    done = cluster.run(["srun", "-w", "n1", "--perun", "sh", "-c", "echo $PERUN_RANK $PERUN_SOCKET $PYTHONPATH"])
    words = done.stdout.split()
    assert (done.returncode, words[:2]) == (0, ["0", "/run/perun/agent.sock"]), done.stderr
    assert words[2].endswith("/perun_hpc/inject/path")
