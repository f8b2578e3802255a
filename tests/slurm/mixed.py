"""Mixed jobs of two users, side by side, while collector and slurmdbd are killed; and whether their ledger closes.

The cluster's tests run some tens of such jobs, the soak suite hundreds.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from devcluster import Cluster, site

PERUN = f"{site.PREFIX}/bin/perun"
FIELDS = "JobIDRaw,JobID,State,Start,NodeList"
SHORT = ("--wrap", "sleep 0.5; python3 -c 'sum(range(3000000))'")
OUTAGE_EVERY = 5
"""slurmdbd is killed once in so many rounds, and stays away for one or two."""
TIMEOUT_EVERY = 6
"""Once in so many rounds a job runs into its time limit, of which a minute is the shortest."""


@dataclass(frozen=True)
class Mixed:
    """What was done: the ids that sbatch printed, and how often what was killed."""

    leaders: list[int]
    collector_kills: int
    slurmdbd_kills: int


def submit(cluster: Cluster, *options: str, user: str = "alice") -> int:
    """Submit a job; returns its id."""
    command = ["sbatch", "--parsable", "--output=/dev/null", *options]
    done = cluster.run(command, user=user, cwd=f"/home/{user}", check=True)
    return int(done.stdout.strip().split(";")[0])


def perun(cluster: Cluster, *words: str, user: str = "perun") -> Any:
    """Run `perun` on the controller, by default as the service user."""
    return cluster.run([PERUN, *words], user=user, timeout=120)


def submit_mixed(cluster: Cluster, rounds: int, seed: int) -> Mixed:
    """Submit ten jobs of all kinds in each round, with kills when the seed decides, and wait for their end."""
    rng = random.Random(seed)
    leaders: list[int] = []
    waited: list[int] = []
    killed = set(rng.sample(range(rounds), rounds // 2))
    outages = {first + rng.randrange(3): rng.randrange(1, 3) for first in range(0, rounds - 2, OUTAGE_EVERY)}
    back = -1
    later: list[tuple[int, list[str]]] = []
    for number in range(rounds):
        user = rng.choice(["alice", "bob"])
        leaders += [
            submit(cluster, "-n1", *SHORT, user="alice"),
            submit(cluster, "-n1", *SHORT, user="bob"),
            submit(cluster, "-N2", "-n3", "--wrap", "srun sleep 0.5", user=user),
            submit(cluster, "--array=1-3", *SHORT, user=user),
            submit(cluster, "-n1", ":", "-n1", "--wrap", "srun sleep 0.5", user=user),
            submit(cluster, "-n1", "--wrap", "false", user=user),
            submit(cluster, "-J", "'\"; \x1b[31m $(reboot)", "-n2", *SHORT, user=user),
        ]
        cancelled = submit(cluster, "-n1", "--wrap", "sleep 60", user=user)
        again = submit(cluster, "-n1", "--requeue", "--wrap", "sleep 15", user=user)
        leaders += [cancelled, again]
        waited.append(again)
        if number % TIMEOUT_EVERY == 0:
            waited.append(submit(cluster, "-n1", "--time=1", "--wrap", "sleep 600", user=user))
            leaders.append(waited[-1])
        if number in killed:
            kill_collector(cluster)
        if number in outages:
            cluster.stop("slurmdbd", kill=True)
            back = number + outages[number]
        elif number == back:
            cluster.start("slurmdbd")
        time.sleep(rng.uniform(0.5, 1.5))
        # At once they may hit a job that still waits or whose nodes are made ready, a round later one that runs.
        orders = [(cancelled, ["scancel", str(cancelled)]), (again, ["scontrol", "requeue", str(again)])]
        give(cluster, later, running=True)
        give(cluster, orders if number % 2 else (), running=False)
        later = [] if number % 2 else orders
    give(cluster, later, running=True)
    if back >= rounds:
        cluster.start("slurmdbd")
    for job in waited:
        cluster.wait_job(job, timeout=240)
    cluster.wait_idle(timeout=240)
    kill_collector(cluster)
    return Mixed(leaders, len(killed) + 1, len(outages))


def give(cluster: Cluster, orders: Iterable[tuple[int, list[str]]], running: bool) -> None:
    """Give orders about jobs as root, where `running` once the job has run for a second."""
    for job, order in orders:
        deadline = time.monotonic() + 20
        while running and time.monotonic() < deadline:
            done = cluster.run(["squeue", "-h", "-j", str(job), "-t", "RUNNING", "-o", "%M"], user="root")
            if done.stdout.strip() not in ("", "0:00"):
                break
            time.sleep(0.2)
        cluster.run(order, user="root")


def kill_collector(cluster: Cluster) -> None:
    """Kill -9 the collector, and start another as a service manager would."""
    pid = site.collector_pid(cluster)
    if pid is not None:
        cluster.run(["kill", "-9", str(pid)], user="root")
    time.sleep(0.3)
    site.start_collector(cluster)


def known_to_slurm(cluster: Cluster, leaders: Iterable[int]) -> list[dict[str, str]]:
    """All runs that sacct knows of these jobs, their array tasks, het components and requeues."""
    wanted = ",".join(map(str, leaders))
    done = cluster.run(["sacct", "-X", "-D", "-n", "-P", "-j", wanted, "-o", FIELDS], user="root", check=True)
    return [dict(zip(FIELDS.split(","), line.split("|"), strict=True)) for line in done.stdout.splitlines()]


def records(cluster: Cluster) -> dict[int, list[dict[str, Any]]]:
    """The ledger's records of today by job id."""
    done = perun(cluster, "jobs", "--format", "json", "--limit", "100000")
    found: dict[int, list[dict[str, Any]]] = {}
    for record in json.loads(done.stdout):
        found.setdefault(record["job_id"], []).append(record)
    return found


def settle(cluster: Cluster, leaders: Iterable[int], timeout: float = 120) -> list[dict[str, str]]:
    """Wait until every run that got nodes has its record with Slurm's state; returns sacct's rows of these runs."""
    deadline = time.monotonic() + timeout
    while True:
        # Cancelled while pending: no nodes. Requeued while its nodes are still made ready: never started, says Slurm.
        known = known_to_slurm(cluster, leaders)
        rows = [row for row in known if row["NodeList"] != "None assigned" and row["Start"] not in ("None", "Unknown")]
        have = records(cluster)
        lacking = [
            row
            for row in rows
            if not any(r["state"] == row["State"].split()[0] for r in have.get(int(row["JobIDRaw"]), []))
        ]
        if not lacking:
            return rows
        assert time.monotonic() < deadline, f"no finished record of {lacking[:5]}"
        time.sleep(1)


def wrong_counts(cluster: Cluster, leaders: Iterable[int], rows: Iterable[dict[str, str]]) -> dict[int, int]:
    """The jobs with more or fewer records than Slurm knows runs, and how many records they have."""
    have = records(cluster)
    ran = Counter(int(row["JobIDRaw"]) for row in rows)
    every = Counter(int(row["JobIDRaw"]) for row in known_to_slurm(cluster, leaders))
    # A run that never started, for Slurm, may have had a prolog, and then has a record.
    return {job: len(have[job]) for job in ran if not ran[job] <= len(have[job]) <= every[job]}


def audit_of(cluster: Cluster, jobs: Iterable[int], timeout: float = 60) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The audit, and its findings about these jobs and about sums; waits for the agents' last shipments."""
    wanted = [re.compile(rf"\bjob {job}\b") for job in jobs]
    deadline = time.monotonic() + timeout
    while True:
        audit = json.loads(perun(cluster, "audit", "--json").stdout)
        about = [
            finding
            for finding in audit["findings"]
            if any(one.search(f"{finding['where']} {finding['what']}") for one in wanted)
            or "do not sum" in finding["what"]
        ]
        if not about or time.monotonic() > deadline:
            return audit, about
        time.sleep(2)


def reported(jobs: Iterable[int], have: dict[int, list[dict[str, Any]]]) -> set[int]:
    """The jobs whose last run some node reported: of another one slurmdbd's line would have nothing to tell."""
    return {job for job in jobs if max(have[job], key=lambda record: record["start_ns"])["status"] != "missing"}


def without_line(cluster: Cluster, jobs: Iterable[int], timeout: float = 90) -> list[str]:
    """The jobs whose line slurmdbd does not hold in time."""
    wanted = ",".join(map(str, sorted(jobs)))
    deadline = time.monotonic() + timeout
    while True:
        done = cluster.run(["sacct", "-X", "-n", "-P", "-j", wanted, "-o", "JobIDRaw,AdminComment"], user="root")
        lines = dict(line.split("|", 1) for line in done.stdout.splitlines())
        lacking = [job for job, line in lines.items() if not line.startswith("perun1:")]
        if not lacking or time.monotonic() > deadline:
            return lacking
        time.sleep(2)
