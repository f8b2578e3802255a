"""`perun watch` live: who may, what it leaves behind in the job, and that it ends with it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from subprocess import PIPE, Popen
from typing import Any

import pytest

from devcluster import Cluster
from tests.slurm.mixed import PERUN, submit
from tests.slurm.test_store import policy, restart_collector, running, wait

pytestmark = pytest.mark.cluster
SEEN = "/home/alice/seen"


def steps(cluster: Cluster, job: int) -> dict[str, tuple[str, str]]:
    """Name -> state and exit code of the job's steps that were watchers."""
    words = ["sacct", "-nP", "-j", str(job), "--format=JobID,JobName,State,ExitCode"]
    rows = [line.split("|") for line in cluster.run(words, user="root", check=True).stdout.splitlines()]
    return {row[0]: (row[2], row[3]) for row in rows if row[1] == "perun-watch"}


@pytest.fixture
def stencil(cluster: Cluster) -> Iterator[int]:
    """A job on two nodes that runs until there is a file SEEN."""
    cluster.run(["rm", "-f", SEEN], check=True)
    wait = f"until [ -e {SEEN} ]; do sleep 0.2; done"
    job = submit(cluster, "-N2", "-n2", "--exclusive", "-J", "stencil", "--wrap", f"srun -n2 sh -c '{wait}'")
    yield job
    cluster.run(["scancel", str(job)], user="root")


def test_owner_and_root_watch_and_nobody_else_and_the_job_is_as_if_nobody_had(cluster: Cluster, stencil: int) -> None:
    job = stencil
    deadline = time.monotonic() + 90
    while "RUNNING" not in cluster.run(["squeue", "-hj", str(job), "-o", "%T"], user="root").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    watch = [PERUN, "watch", str(job), "--every", "1", "--json"]

    bob = cluster.run(watch, user="bob", timeout=60)
    assert bob.returncode == 77 and "not yours to watch" in bob.stderr and not bob.stdout

    for user in ("alice", "root"):  # the user has seen enough: Ctrl-C reaches the whole foreground
        watching = cluster.popen(watch, user=user, stdout=PIPE, stderr=PIPE, text=True)
        told: list[dict[str, Any]] = []
        while len(told) < 2 or told[-1]["nodes_speaking"] < 2:
            told.append(json.loads(watching.stdout.readline()))
        assert told[-1]["power_w"] > 10 and told[-1]["energy_j"] > (told[0]["energy_j"] or 0)
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
        assert "Traceback" not in said
        assert "RUNNING" in cluster.run(["squeue", "-hj", str(job), "-o", "%T"], user="root").stdout

    last = cluster.popen([PERUN, "watch", str(job)], user="alice", stdout=PIPE, stderr=PIPE, text=True)
    told = [last.stdout.readline()]
    while "so far  2 of 2 nodes" not in told[-1]:
        told.append(last.stdout.readline())
        assert told[-1], last.communicate(timeout=30)
    cluster.run(["touch", SEEN], user="alice", check=True)  # the job ends
    _, said = last.communicate(timeout=60)
    assert last.returncode == 0 and "has ended" in said

    cluster.wait_job(job)
    deadline = time.monotonic() + 90
    while len(seen := steps(cluster, job)) < 3 or any(state == "RUNNING" for state, _ in seen.values()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.5)
    assert set(seen.values()) == {("COMPLETED", "0:0")}, seen
    words = ["sacct", "-nPX", "-j", str(job), "--format=State,DerivedExitCode"]
    assert cluster.run(words, user="root").stdout.strip() == "COMPLETED|0:0"


def seen(watching: Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first figures of a watcher that are what is wanted; it is ended then."""
    assert watching.stdout is not None
    told: dict[str, Any] = {}
    while not (told and wanted(told)):
        line = watching.stdout.readline()
        assert line, watching.communicate(timeout=30)
        told = json.loads(line)
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=30)
    assert "Traceback" not in said
    return told


@pytest.mark.parametrize(("component", "nodes"), [("", 3), ("+0", 1), ("+1", 2)])
def test_a_heterogeneous_job_is_watched_whole_and_by_component(cluster: Cluster, component: str, nodes: int) -> None:
    job = submit(cluster, "-N1", "-n1", "--exclusive", "--wrap", "sleep 300", ":", "-N2", "-n2", "--exclusive")
    try:
        wait(lambda: "RUNNING" in cluster.run(["squeue", "-hj", str(job), "-o", "%T"], user="root").stdout, "it runs")
        line = [PERUN, "watch", f"{job}{component}", "--every", "1", "--json"]
        watching = cluster.popen(line, user="alice", stdout=PIPE, stderr=PIPE, text=True)
        told = seen(watching, lambda told: told["nodes_speaking"] == nodes)
        assert told["job"] == f"{job}{component}" and told["nodes"] == nodes and told["power_w"] > 10
    finally:
        cluster.run(["scancel", str(job)], user="root")


RIGHTS = {
    "coordinator": "add coordinator account=physics names=bob",
    "operator": "modify user bob set adminlevel=operator",
}
TAKEN = ("remove coordinator account=physics names=bob", "modify user bob set adminlevel=none")


@pytest.mark.parametrize("right", RIGHTS)
def test_who_sees_a_job_by_slurms_right_sees_what_its_nodes_told(cluster: Cluster, right: str) -> None:
    """Slurm lets its owner alone into a job; the collector gives these what it knows while it runs, and no more."""
    cluster.wait_idle()
    cluster.run(["sacctmgr", "-i", *RIGHTS[right].split()], user="root", check=True)
    try:  # a new collector asks for rights at once, else once an hour
        with (
            policy(cluster, lambda text: text.replace("flush: 5 s", "flush: 5 s\n  progress: 10 s")),
            running(cluster, "-A", "physics", "-N2", "--exclusive", wrap="srun sleep 290") as job,
        ):
            wait(lambda: "so far" in cluster.run([PERUN, "report", str(job)], user="bob").stdout, "bob may read it", 90)
            line = [PERUN, "watch", str(job), "--every", "1", "--json"]
            watching = cluster.popen(line, user="bob", stdout=PIPE, stderr=PIPE, text=True)
            assert seen(watching, lambda told: told["nodes_speaking"] == 2)["power_w"] > 10
            folder = f"/shared/perun/{cluster.name}/jobs/{int(job) // 1000}/{job}.0"
            assert cluster.run(["ls", folder], user="bob").returncode != 0
            cluster.run(["scancel", str(job)], check=True)
            cluster.wait_job(job)
            wait(lambda: cluster.run(["cat", f"{folder}/record.json"]).returncode == 0, "alice has the record")
            assert cluster.run(["cat", f"{folder}/record.json"], user="bob").returncode != 0
    finally:
        for take in TAKEN:
            cluster.run(["sacctmgr", "-i", *take.split()], user="root")
        restart_collector(cluster)


def test_what_does_not_run_cannot_be_watched(cluster: Cluster) -> None:
    done = cluster.run([PERUN, "watch", "99999999"], user="alice", timeout=60)
    assert done.returncode == 66 and "not in Slurm's queue" in done.stderr
    job = submit(cluster, "-N1", "--hold", "--wrap", "true")
    waits = cluster.run([PERUN, "watch", str(job)], user="alice", timeout=60)
    cluster.run(["scancel", str(job)], user="root")
    assert waits.returncode == 66 and "it is PENDING" in waits.stderr
