"""The ledger on a real cluster: mixed jobs under kills close; what users see is what sacct shows them."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.slurm import site
from tests.slurm.cluster import Cluster

pytestmark = pytest.mark.cluster

PERUN = f"{site.PREFIX}/bin/perun"
ROUNDS = 6
"""Each round submits ten jobs of all kinds; twenty rounds are the 200 of a long run."""


def submit(cluster: Cluster, *options: str, user: str = "alice") -> int:
    command = ["sbatch", "--parsable", "--output=/dev/null", *options]
    done = cluster.run(command, user=user, cwd=f"/home/{user}", check=True)
    return int(done.stdout.strip().split(";")[0])


def perun(cluster: Cluster, *words: str, user: str = "perun") -> Any:
    return cluster.run([PERUN, *words], user=user, timeout=120)


def ours(cluster: Cluster, leaders: list[int]) -> list[dict[str, str]]:
    """All runs that sacct knows of these jobs, their array tasks, het components and requeues."""
    fields = "JobIDRaw,JobID,State,Start,NodeList"
    wanted = ",".join(map(str, leaders))
    done = cluster.run(["sacct", "-X", "-D", "-n", "-P", "-j", wanted, "-o", fields], user="root", check=True)
    return [dict(zip(fields.split(","), line.split("|"), strict=True)) for line in done.stdout.splitlines()]


def records(cluster: Cluster) -> dict[int, list[dict[str, Any]]]:
    done = perun(cluster, "jobs", "--format", "json", "--limit", "100000")
    found: dict[int, list[dict[str, Any]]] = {}
    for record in json.loads(done.stdout):
        found.setdefault(record["job_id"], []).append(record)
    return found


def settle(cluster: Cluster, leaders: list[int], timeout: float = 120) -> list[dict[str, str]]:
    """Wait until every run that got nodes has its record with Slurm's state, and slurmdbd's line."""
    deadline = time.monotonic() + timeout
    while True:
        # Cancelled while pending: no nodes. Requeued while its nodes are still made ready: never started, says Slurm.
        known = ours(cluster, leaders)
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


def kill_collector(cluster: Cluster) -> None:
    pid = site.collector_pid(cluster)
    if pid is not None:
        cluster.run(["kill", "-9", str(pid)], user="root")
    time.sleep(0.3)
    site.start_collector(cluster)


@pytest.fixture(scope="module")
def mixed(cluster: Cluster) -> list[int]:
    """Jobs of two users, side by side, while collector and slurmdbd are killed; their leaders' ids."""
    rng = random.Random(6)
    leaders: list[int] = []
    short = ["--wrap", "sleep 0.5; python3 -c 'sum(range(3000000))'"]
    requeued: list[int] = []
    for number in range(ROUNDS):
        user = rng.choice(["alice", "bob"])
        leaders += [
            submit(cluster, "-n1", *short, user="alice"),
            submit(cluster, "-n1", *short, user="bob"),
            submit(cluster, "-N2", "-n3", "--wrap", "srun sleep 0.5", user=user),
            submit(cluster, "--array=1-3", *short, user=user),
            submit(cluster, "-n1", ":", "-n1", "--wrap", "srun sleep 0.5", user=user),
            submit(cluster, "-n1", "--wrap", "false", user=user),
            submit(cluster, "-J", "'\"; \x1b[31m $(reboot)", "-n2", *short, user=user),
        ]
        cancelled = submit(cluster, "-n1", "--wrap", "sleep 60", user=user)
        again = submit(cluster, "-n1", "--requeue", "--wrap", "sleep 3", user=user)
        leaders += [cancelled, again]
        requeued.append(again)
        if number % 2 == 0:
            kill_collector(cluster)
        if number == 1:
            cluster.stop("slurmdbd", kill=True)
        if number == 3:
            cluster.start("slurmdbd")
        time.sleep(1)
        cluster.run(["scancel", str(cancelled)], user="root")
        cluster.run(["scontrol", "requeue", str(again)], user="root")
    for job in requeued:
        cluster.wait_job(job, timeout=120)
    cluster.wait_idle(timeout=120)
    kill_collector(cluster)
    return leaders


def test_mixed_jobs_under_kills_close(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    have = records(cluster)
    runs: dict[int, int] = {}
    for row in rows:
        runs[int(row["JobIDRaw"])] = runs.get(int(row["JobIDRaw"]), 0) + 1
    every: dict[int, int] = {}
    for row in ours(cluster, mixed):
        every[int(row["JobIDRaw"])] = every.get(int(row["JobIDRaw"]), 0) + 1
    # A run that never started, for Slurm, may have had a prolog, and then has a record.
    wrong = {job: len(have[job]) for job in runs if not runs[job] <= len(have[job]) <= every[job]}
    assert wrong == {}
    assert {record["status"] for job in runs for record in have[job]} <= {"complete", "partial"}
    # A partial record says itself what is not in it; of the others everything must close.
    whole = [job for job in runs if all(record["status"] == "complete" for record in have[job])]
    assert len(whole) > len(runs) // 2
    deadline = time.monotonic() + 60
    while True:
        # The node ledgers of the last jobs come with the agents' next shipment.
        audit = json.loads(perun(cluster, "audit", "--json").stdout)
        about = [
            finding
            for finding in audit["findings"]
            if any(re.search(rf"\bjob {job}\b", f"{finding['where']} {finding['what']}") for job in whole)
            or "do not sum" in finding["what"]
        ]
        if not about or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert about == []
    for account in audit["accounts"]:
        assert account["total_uj"] == account["jobs_uj"] + sum(account["others_uj"].values())


def test_slurmdbd_holds_the_records_line(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    newest = {row["JobIDRaw"] for row in rows}
    deadline = time.monotonic() + 90
    while True:
        wanted = ",".join(sorted(newest))
        done = cluster.run(["sacct", "-X", "-n", "-P", "-j", wanted, "-o", "JobIDRaw,AdminComment"], user="root")
        lines = dict(line.split("|", 1) for line in done.stdout.splitlines())
        lacking = [job for job, line in lines.items() if job in newest and not line.startswith("perun1:")]
        if not lacking or time.monotonic() > deadline:
            break
        time.sleep(2)
    assert lacking == []


def test_arrays_and_het_jobs_by_the_ids_that_users_write(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    names = [row["JobID"] for row in rows if "_" in row["JobID"] or "+" in row["JobID"]]
    assert any("_" in name for name in names) and any("+" in name for name in names)
    for name in (next(n for n in names if "_" in n), next(n for n in names if "+" in n)):
        report = perun(cluster, "report", name)
        assert report.returncode == 0 and f"Job {name}" in report.stdout and "simulated" in report.stdout


def test_a_terminal_is_safe_from_job_names(cluster: Cluster, mixed: list[int]) -> None:
    for form in ("table", "csv"):
        assert "\x1b" not in perun(cluster, "jobs", "--format", form).stdout
    assert "\\x1b[31m $(reboot)" in perun(cluster, "jobs", "--format", "csv").stdout


@pytest.fixture
def private(cluster: Cluster) -> Iterator[None]:
    """`PrivateData` in slurmdbd.conf."""
    path = cluster.etc_slurm / "slurmdbd.conf"
    before = path.read_text()
    path.write_text(before + "PrivateData=jobs,usage,users,accounts\n")
    cluster.restart("slurmdbd")
    yield
    path.write_text(before)
    cluster.restart("slurmdbd")


def test_another_users_job_is_what_sacct_says(cluster: Cluster, private: None) -> None:
    job = submit(cluster, "-n1", "--wrap", "sleep 1", user="alice")
    cluster.wait_job(job)
    settle(cluster, [job])
    mine = perun(cluster, "report", str(job), user="alice")
    assert mine.returncode == 0 and "the job's directory" in mine.stdout
    theirs = perun(cluster, "report", str(job), user="bob")
    nobody = perun(cluster, "report", "99999999", user="bob")
    assert theirs.returncode == nobody.returncode == 66
    assert theirs.stdout == nobody.stdout == ""
    assert theirs.stderr.replace(str(job), "N") == nobody.stderr.replace("99999999", "N")
    listing = perun(cluster, "jobs", "--allusers", user="bob").stdout
    assert "alice" not in listing
    assert perun(cluster, "usage", user="bob").returncode == 77


def test_a_running_job_says_that_it_runs(cluster: Cluster) -> None:
    job = submit(cluster, "-n1", "--wrap", "sleep 30")
    deadline = time.monotonic() + 20
    while "RUNNING" not in cluster.run(["squeue", "-h", "-j", str(job), "-o", "%T"], user="root").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    deadline = time.monotonic() + 20
    while True:
        report = perun(cluster, "report", str(job), user="alice")
        if "still runs" in report.stdout or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    cluster.run(["scancel", str(job)], user="root")
    assert "RUNNING" in report.stdout and "energies come at its end" in report.stdout
