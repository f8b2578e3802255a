"""A container plugin beside perun's in plugstack.conf, in either order, on a real Slurm: no flagged step fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import Cluster
from devcluster.site import CHECKOUT, PLUGSTACK, PREFIX

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


PROGRAM = """
import os, sys, time
try:
    import perun_hpc
    mark = perun_hpc.monitor()
except ImportError:
    def mark(function): return function
@mark
def work():
    time.sleep(1.2)
work()
print(os.environ["SLURM_JOB_ID"], file=sys.stderr)
print("done")
sys.exit(3)
"""
SEEN = ["bwrap", "--dev-bind", "/", "/", "--unshare-pid"]
"""A container that sees all that the host does, but processes: the program is no child of the task that Slurm knows."""
RUN_HIDDEN = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /run/perun && exec "$@"', "sh"]
"""One whose run directory is hidden, while the launcher is seen and the program is the task itself."""
ALL_HIDDEN = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", "/run/perun", "--tmpfs", "/opt"]


@pytest.mark.parametrize(
    ("within", "flag", "regions", "note"),
    [
        ([], ["--perun"], True, ""),
        (SEEN, ["--perun"], False, "that start a container (bwrap)"),
        (ALL_HIDDEN, ["--perun"], False, "that start a container (bwrap)"),
        (["unshare", "-rm"], ["--perun"], True, ""),
        (RUN_HIDDEN, ["--perun"], False, ""),
        (SEEN, [], True, ""),
    ],
    ids=["no container", "all seen", "nothing of perun seen", "its own mounts", "run directory hidden", "perun launch"],
)
def test_what_a_program_in_a_container_is_measured_by(
    cluster: Cluster, within: list[str], flag: list[str], regions: bool, note: str
) -> None:
    """Its output and exit code are those of the step without perun, whatever it sees; its energy is measured."""
    if within and shutil.which(within[0]) is None:
        pytest.skip(f"{within[0]} is not installed")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        python = ["/shared/science/bin/python", "-c", PROGRAM]
        return cluster.run(["srun", "-Q", "-w", "n1", *words, *python])

    plain = run(*within)
    ours = run(*flag, *within) if flag else run(*within, f"{PREFIX}/bin/perun", "launch")
    assert (plain.stdout, plain.returncode) == ("done\n", 3), plain.stderr
    assert (ours.stdout, ours.returncode) == ("done\n", 3), ours.stderr
    (job,) = (line for line in ours.stderr.splitlines() if not line.startswith("srun: error: n1: task 0: Exited"))
    path = cluster.shared / "perun" / cluster.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json"
    until("the record", path.exists)
    record = json.loads(path.read_text())
    assert record["status"] == "complete"
    assert [region["name"] for region in record["regions"]] == (["work"] if regions else [])
    (step,) = [one for one in record["steps"] if one["step_id"] == "0"]  # beside Slurm's own, `extern`
    assert step["energy_uj"] > 0 and step["end_ns"] - step["start_ns"] > 1.1e9
    said = [text for text in record["notes"] if "from outside" in text]
    assert len(said) == bool(note) and all(note in text for text in said)


def until(what: str, condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.2)


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
