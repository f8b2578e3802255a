"""Kinds of jobs, each alone on the nodes that it names and under an account of its own."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from devcluster import Cluster

SPIN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"
LONG_S, SHORT_S = 28, 12
"""The longer ones see two moments of `privacy.shared_resolution`."""


def until(what: str, condition: Callable[[], Any], seconds: float = 90) -> Any:
    """Wait for something; what it is once it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.3)
    return found


def spin(seconds: float) -> str:
    """A shell command that computes for so long."""
    return f"python3 -c '{SPIN.format(seconds)}'"


def submit(cluster: Cluster, options: Sequence[str], script: str, user: str = "alice") -> str:
    """Submit a batch job; its id."""
    words = ["sbatch", "--parsable", "-o", "/dev/null", *options]
    done = cluster.run(words, user=user, input=f"#!/bin/sh\n{script}\n")
    job = done.stdout.strip()
    assert job, done.stderr
    return job


def running(cluster: Cluster, job: str) -> None:
    """Wait until a job runs."""
    until("it runs", lambda: "RUNNING" in cluster.run(["squeue", "-h", "-o", "%T", "-j", job]).stdout)


@dataclass(frozen=True)
class Kind:
    """One kind: what it is, its nodes, what submits it; then what happens to it while it runs.

    `submit` gets the cluster and the options that name account and nodes, and returns the ids, of those that begin at
    once several.
    """

    name: str
    what: str
    nodes: tuple[str, ...]
    submit: Callable[[Cluster, list[str]], list[str]]
    meanwhile: Callable[[Cluster, str], None] = lambda cluster, job: None
    exclusive: bool = True

    @property
    def account(self) -> str:
        """Its own in Slurm."""
        return "fig" + re.sub(r"\W", "", self.name)

    def start(self, cluster: Cluster) -> list[str]:
        """Submit it."""
        options = [f"--account={self.account}", *(["--exclusive"] if self.exclusive else [])]
        return self.submit(cluster, options)


def _batch(script: str, *more: str) -> Callable[[Cluster, list[str]], list[str]]:
    return lambda cluster, options: [submit(cluster, [*options, *more], script)]


def _two_users(cluster: Cluster, options: list[str]) -> list[str]:
    words = [*options, "-n1", "-w", "n2"]
    return [submit(cluster, words, spin(LONG_S + 8)), submit(cluster, words, f"sleep {LONG_S + 8}")]


def _salloc(cluster: Cluster, options: list[str]) -> list[str]:
    words = ["salloc", *options, "-w", "n3", "srun", "python3", "-c", SPIN.format(SHORT_S)]
    process = cluster.popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = ""
    while "Granted" not in said:
        more = process.stderr.readline()
        assert more, said
        said += more
    threading.Thread(target=process.communicate).start()
    return re.findall(r"Granted job allocation (\d+)", said)


def _suspended(cluster: Cluster, job: str) -> None:
    running(cluster, job)
    time.sleep(4)
    cluster.run(["scontrol", "suspend", job], user="root", check=True)
    time.sleep(5)
    cluster.run(["scontrol", "resume", job], user="root", check=True)


def _requeued(cluster: Cluster, job: str) -> None:
    running(cluster, job)
    time.sleep(8)
    cluster.run(["scontrol", "requeue", job], user="root", check=True)


PARALLEL = f"srun --exact -n1 -c1 {spin(SHORT_S)} &\nsrun --exact -n1 -c1 sleep {SHORT_S} &\nwait"
IN_TURN = f"srun -n1 {spin(6)}\nsrun -n1 {spin(3)}"

WAVES: tuple[tuple[Kind, ...], ...] = (
    (
        Kind("one node", "exclusive, a batch script without srun", ("n1",), _batch(spin(LONG_S), "-wn1")),
        Kind("shared", "two jobs of half a node, one computes", ("n2",), _two_users, exclusive=False),
        Kind("suspended", "exclusive, stopped for 5 s", ("n3",), _batch(spin(SHORT_S), "-wn3"), _suspended),
        Kind("profile", "exclusive, --profile=energy", ("n4",), _batch(f"srun {spin(LONG_S)}", "-wn4",
             "--profile=energy", "--acctg-freq=task=5,energy=2")),
    ),
    (
        Kind("two nodes", "exclusive, a step on both", ("n1", "n2"), _batch(f"srun {spin(SHORT_S)}", "-N2", "-wn1,n2")),
        Kind("array", "exclusive, two tasks", ("n3",), _batch(spin(6), "-wn3", "--array=1-2")),
        Kind("requeued", "exclusive, after 8 s", ("n4",), _batch(spin(SHORT_S), "-wn4", "--requeue"), _requeued),
    ),
    (Kind("four nodes", "exclusive, a step on all", ("n1", "n2", "n3", "n4"), _batch(f"srun {spin(SHORT_S)}", "-N4")),),
    (
        Kind("heterogeneous", "a component each on two nodes", ("n1", "n2"), lambda cluster, options: [submit(
             cluster, [*options, "-wn1", ":", *options, "-wn2"], f"srun --het-group=0,1 {spin(SHORT_S)}")]),
        Kind("salloc", "exclusive, a step", ("n3",), _salloc),
        Kind("under 1 s", "exclusive", ("n4",), _batch("true", "-wn4")),
    ),
    (
        Kind("parallel steps", "exclusive, one computes", ("n1",), _batch(PARALLEL, "-wn1", "-n2")),
        Kind("steps in turn", "exclusive, 6 s and 3 s", ("n2",), _batch(IN_TURN, "-wn2")),
    ),
)  # fmt: skip
"""Those of a wave run at once, on nodes of their own."""
