"""Slurm's own commands show perun's joules: sacct, sstat, sreport, scontrol, beside the ledger, on a real Slurm."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devcluster import Cluster
from devcluster.site import CHECKOUT, SLURM_CONF

pytestmark = pytest.mark.cluster

PLUGIN = "acct_gather_energy_perun.so"
SPIN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"
POLL_S = 5
"""JobAcctGatherFrequency's task= of the cluster."""


def until(what: str, condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.3)
    return found


def switch(cluster: Cluster, lines: tuple[str, ...], daemons: tuple[str, ...] = ("slurmctld", "slurmd")) -> None:
    cluster.configure((*SLURM_CONF, *lines))
    for daemon in daemons:
        cluster.restart(daemon)
    cluster.wait_idle()


@pytest.fixture(scope="module")
def energy(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the plugin, switched on and off as docs/install.md says."""
    directory = cluster.shared / "plugins"
    directory.mkdir(exist_ok=True)
    shutil.copyfile(CHECKOUT / "slurm" / "build" / PLUGIN, directory / PLUGIN)
    found = cluster.run(["scontrol", "show", "config"], user="root").stdout
    (there,) = re.findall(r"^PluginDir += (\S+)", found, re.MULTILINE)
    policy = cluster.etc_perun / "policy.yaml"
    good = policy.read_text()
    fresh = policy.with_suffix(".new")
    fresh.write_text(good + "metrics: {slurm: true}\n")
    fresh.replace(policy)
    lines = (
        f"PluginDir=/shared/plugins:{there}",
        "AcctGatherEnergyType=acct_gather_energy/perun",
        "AcctGatherNodeFreq=2",
    )
    switch(cluster, lines)
    yield cluster
    fresh.write_text(good)
    fresh.replace(policy)
    switch(cluster, ())


def sacct(cluster: Cluster, job: str, *more: str) -> dict[str, str]:
    """ConsumedEnergyRaw of a job and its steps, in J as Slurm writes it."""
    words = ["sacct", "-j", job, "-n", "-P", "-o", "JobIDRaw,ConsumedEnergyRaw", *more]
    lines = cluster.run(words, user="root").stdout.split()
    found = dict(line.split("|") for line in lines)
    return {name: energy for name, energy in found.items() if name.partition(".")[0] == job}


def record(cluster: Cluster, job: str) -> dict[str, Any]:
    path = cluster.shared / "perun" / cluster.name / "jobs" / f"{job}.0" / "record.json"
    until(f"the record of {job}", path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def run(cluster: Cluster, *options: str, seconds: int, user: str = "alice") -> str:
    """A batch job that computes; its id once it is over."""
    program = ["python3", "-c", SPIN.format(seconds)]
    return submit(cluster, options, "exec " + " ".join(f"'{word}'" for word in program), user)


def submit(cluster: Cluster, options: tuple[str, ...], script: str, user: str = "alice") -> str:
    words = ["sbatch", "--parsable", "-o", "/dev/null", *options]
    done = cluster.run(words, user=user, input=f"#!/bin/sh\n{script}\n")
    job = done.stdout.strip()
    assert job, done.stderr
    return job


def agrees(cluster: Cluster, job: str) -> tuple[float, float, float]:
    """What sacct and the record say, in J, and the most by which they may differ: docs/ledger.md's tail."""
    cluster.wait_job(job)
    found = record(cluster, job)
    (said,) = sacct(cluster, job, "-X").values()
    ours = found["energy_uj"] / 1e6
    watts = ours / max(1e-9, (found["end_ns"] - found["start_ns"]) / 1e9)
    assert said, f"a blank beside {ours:.0f} J"
    return float(said), ours, 1 + watts * (POLL_S + 3) * found["num_nodes"]


def test_a_job_that_is_alone_has_its_ledgers_joules(energy: Cluster) -> None:
    job = run(energy, "--exclusive", "-w", "n1", seconds=12)
    said, ours, tail = agrees(energy, job)
    assert abs(said - ours) <= tail


def test_a_nodes_watts_are_what_its_counters_counted(energy: Cluster) -> None:
    def watts() -> int:
        shown = energy.run(["scontrol", "show", "node", "n1"], user="bob").stdout
        (found,) = re.findall(r"CurrentWatts=(\S+)", shown)
        return int(found) if found.isdigit() else 0

    submit(energy, ("--exclusive", "-w", "n1"), "sleep 45")
    assert 10 < until("the node's watts", watts) < 1000


def test_jobs_that_share_a_node_have_their_own_parts(energy: Cluster) -> None:
    """Slurm's own plugins give each of them all that the node used."""
    busy = run(energy, "-n1", "-w", "n2", seconds=36)
    idle = submit(energy, ("-n1", "-w", "n2"), "sleep 36", user="bob")
    (said_busy, ours_busy, tail), (said_idle, ours_idle, other) = (agrees(energy, job) for job in (busy, idle))
    assert said_idle < said_busy
    # Seen at the node's own moments, ten seconds apart at least: the figure is that old at the most.
    for said, ours, more in ((said_busy, ours_busy, tail), (said_idle, ours_idle, other)):
        assert said <= ours + 1
        assert ours - said <= more * 14 / 8


def test_two_nodes_an_array_and_a_job_that_is_suspended(energy: Cluster) -> None:
    two = run(energy, "--exclusive", "-N2", "-w", "n1,n2", seconds=8)
    array = run(energy, "--exclusive", "-w", "n3", "--array=1-2", seconds=6)
    stopped = run(energy, "--exclusive", "-w", "n4", seconds=10)
    until("it runs", lambda: "RUNNING" in energy.run(["squeue", "-h", "-o", "%T", "-j", stopped]).stdout)
    time.sleep(3)
    energy.run(["scontrol", "suspend", stopped], user="root", check=True)
    time.sleep(4)
    energy.run(["scontrol", "resume", stopped], user="root", check=True)
    energy.wait_job(array)
    tasks = energy.run(["sacct", "-X", "-n", "-P", "-j", array, "-o", "JobIDRaw"], user="root").stdout.split()
    assert len(tasks) == 2
    for job in (two, *tasks, stopped):
        said, ours, tail = agrees(energy, job)
        assert abs(said - ours) <= tail, job


def test_an_agent_that_is_gone_leaves_blanks_and_no_job_fails(energy: Cluster) -> None:
    job = submit(energy, ("--exclusive", "-w", "n1"), "sleep 60")
    until("its figure", lambda: _sstat(energy, job))
    pid = energy.run(["pgrep", "-o", "-f", "perun_hpc.agent"], user="root", node="n1").stdout.split()[0]
    energy.run(["kill", "-STOP", pid], user="root", node="n1", check=True)
    until("a blank", lambda: _sstat(energy, job) is None)
    energy.run(["kill", "-CONT", pid], user="root", node="n1", check=True)
    until("its figure again", lambda: _sstat(energy, job))
    energy.run(["scancel", job])
    energy.wait_job(job)


def _sstat(cluster: Cluster, job: str) -> str | None:
    words = ["sstat", "-n", "-P", "-j", f"{job}.extern", "-o", "ConsumedEnergyRaw"]
    said = cluster.run(words, user="root").stdout.strip()
    return said if said not in ("", "0") else None
