"""What newer Slurms bring than Debian 12's, each where the one that is installed has it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster, site
from tests.slurm.test_line import assert_closes, assert_exact, boundary, energy_record, submit, until_running

pytestmark = pytest.mark.cluster

NODE = "n3"


def installed() -> tuple[int, int]:
    """The version of the Slurm of this machine; (0, 0) where there is none."""
    try:
        said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def needs(major: int, minor: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(installed() < (major, minor), reason=f"needs Slurm {major}.{minor:02} or newer")


def sacct(cluster: Cluster, job: int, *fields: str) -> list[dict[str, str]]:
    """What slurmdbd says of each run of a job, in their order."""
    line = ["sacct", "-X", "-D", "-n", "-P", "-j", str(job), "-o", ",".join(fields)]
    told = cluster.run(line, user="root", check=True, env={"SLURM_TIME_FORMAT": "%s"}).stdout
    return [dict(zip(fields, line.split("|"), strict=True)) for line in told.splitlines()]


@needs(25, 11)
def test_each_run_of_a_requeued_job_has_slurms_own_name(cluster: Cluster) -> None:
    """The Epilog of the first run says the second one's restart count, beside the first one's name and start."""
    job = submit(cluster, "-w", NODE, "--requeue", wrap="sleep 6")
    until_running(cluster, job)
    time.sleep(1)
    cluster.run(["scontrol", "requeue", str(job)], user="root", check=True)
    records = [boundary(cluster, job, NODE, restart) for restart in (0, 1)]
    cluster.wait_job(job, timeout=120)
    rows = sacct(cluster, job, "SLUID", "Start", "State")
    assert [row["State"] for row in rows] == ["REQUEUED", "COMPLETED"]
    for restart, (record, row) in enumerate(zip(records, rows, strict=True)):
        assert_exact(cluster, record)
        assert (record["sluid"], record["restart_count"]) == (row["SLUID"], restart)
        assert abs(record["start"]["real_ns"] / 1e9 - int(row["Start"])) < 5
        total = energy_record(cluster, job, restart)
        assert total["sluid"] == row["SLUID"]
    assert rows[0]["SLUID"] != rows[1]["SLUID"]
    assert records[0]["end"]["real_ns"] <= records[1]["start"]["real_ns"]
    assert records[0]["end"]["from"] == "hook"


@pytest.fixture
def told(cluster: Cluster) -> Iterator[Path]:
    """A prolog and an epilog of the site's beside ours, which write down their environment; where it lies."""
    directory = cluster.etc_slurm / "hooks.d"
    directory.mkdir()
    into = cluster.shared / "told"
    into.mkdir()
    for hook in ("prolog", "epilog"):
        own = directory / f"10-site-{hook}"
        own.write_text(f"#!/bin/sh\n/usr/bin/env > /shared/told/$SLURM_JOB_ID.{hook}\n")
        own.chmod(0o755)
        (directory / f"50-perun-{hook}").symlink_to(f"{site.PREFIX}/libexec/perun/{hook}")
    lines = ("Prolog=/etc/slurm/hooks.d/*prolog", "Epilog=/etc/slurm/hooks.d/*epilog")
    cluster.configure(lines, site.PLUGSTACK)
    cluster.reconfigure()
    cluster.restart("slurmd")
    yield into
    cluster.configure(site.SLURM_CONF, site.PLUGSTACK)
    cluster.reconfigure()
    cluster.restart("slurmd")
    for place in (directory, into):
        for path in place.iterdir():
            path.unlink()
        place.rmdir()


@needs(26, 5)
def test_what_slurm_tells_the_hooks_of_a_job_stands_in_its_record(cluster: Cluster, told: Path) -> None:
    job = submit(cluster, "-w", NODE, "--exclusive", "--qos=normal")
    cluster.wait_job(job)
    record = boundary(cluster, job, NODE)
    for hook in ("prolog", "epilog"):
        seen = dict(line.split("=", 1) for line in (told / f"{job}.{hook}").read_text().splitlines() if "=" in line)
        assert len(seen["SLURM_JOB_SLUID"]) == 14
        assert record["sluid"] == seen["SLURM_JOB_SLUID"]
        assert seen["SLURM_JOB_EXCLUSIVE"] == "NODE"
        assert seen["SLURM_JOB_QOS"] == energy_record(cluster, job)["qos"] == "normal"
        assert seen["SLURM_JOB_RESTART_COUNT"] == str(record["restart_count"]) == "0"
    assert {domain["method"] for domain in record["domains"].values()} == {"exclusive"}


@needs(26, 5)
def test_a_node_that_is_one_users_is_shared_by_her_jobs(cluster: Cluster) -> None:
    """`--exclusive=user` is not the node's being one job's, though the hooks' environment calls both exclusive."""
    busy = "timeout 4 sh -c 'while :; do :; done'; true"
    jobs = [submit(cluster, "-w", NODE, "-c", "1", "--exclusive=user", wrap=busy) for _ in range(2)]
    for job in jobs:
        assert cluster.wait_job(job) == "COMPLETED"
    records = [boundary(cluster, job, NODE) for job in jobs]
    starts, ends = ([record[edge]["mono_ns"] for record in records] for edge in ("start", "end"))
    assert max(starts) < min(ends), "they did not share it"
    assert_closes(cluster, records)
    for record in records:
        assert "exclusive" not in {record["domains"][f"package-{n}"]["method"] for n in (0, 1)}


RANK = "echo rank ${PERUN_RANK-none}"


def in_a_batch_job(cluster: Cluster, script: str, *options: str) -> tuple[int, str]:
    """Run a batch script of alice's on the node to its end; returns its id and what it printed."""
    line = ["sbatch", "--parsable", "-w", NODE, "-o", "/home/alice/newer-%j.out", *options]
    job = int(cluster.run(line, input=f"#!/bin/bash\n{script}\n", check=True).stdout.split(";")[0])
    assert cluster.wait_job(job) == "COMPLETED"
    return job, (cluster.home / "alice" / f"newer-{job}.out").read_text()


def ranks(record: dict[str, Any]) -> list[list[int]]:
    """The ranks of each step of a record."""
    return [sorted(rank["rank"] for rank in step["ranks"]) for step in record["steps"] if step["ranks"]]


@needs(26, 5)
def test_a_step_that_srun_does_not_wait_for_is_measured(cluster: Cluster) -> None:
    """It needs the job's own step manager, and no MPI of Slurm's; its output goes to a file."""
    script = f"""
        srun --async --mpi=none --perun -n2 -o async-%j sh -c '{RANK}; sleep 1' || exit
        swait --timeout=40
        cat async-$SLURM_JOB_ID
    """
    job, printed = in_a_batch_job(cluster, script, "-n2", "--stepmgr")
    assert sorted(line for line in printed.splitlines() if line.startswith("rank")) == ["rank 0", "rank 1"], printed
    record = boundary(cluster, job, NODE)
    assert_exact(cluster, record)
    assert ranks(record) == [[0, 1]]


@needs(24, 5)
def test_steps_under_a_jobs_own_step_manager_are_measured(cluster: Cluster) -> None:
    script = f"srun --perun -n2 sh -c '{RANK}'\nsrun --perun -n1 true"
    job, printed = in_a_batch_job(cluster, script, "-n2", "--stepmgr")
    assert sorted(line for line in printed.splitlines() if line.startswith("rank")) == ["rank 0", "rank 1"], printed
    record = boundary(cluster, job, NODE)
    assert_exact(cluster, record)
    assert ranks(record) == [[0, 1], [0]]


def agent_pid(cluster: Cluster) -> str:
    """Pid, in the node, of its agent; empty if none answers."""
    done = cluster.run([f"{site.PREFIX}/bin/perun", "agent", "status"], user="root", node=NODE)
    return done.stdout.split("pid ")[1].split(",")[0] if done.returncode == 0 else ""


@pytest.fixture
def in_job(cluster: Cluster) -> Iterator[Cluster]:
    """Hooks run inside the job's cgroup; no agent on the node."""
    cluster.wait_idle()
    text = (cluster.etc_slurm / "slurm.conf").read_text()
    assert "DeferBatch\n" in text
    (cluster.etc_slurm / "slurm.conf").write_text(text.replace("DeferBatch\n", "DeferBatch,RunInJob\n"))
    cluster.restart("slurmctld")
    cluster.restart("slurmd")
    cluster.wait_idle()
    cluster.run([f"{site.PREFIX}/bin/perun", "agent", "stop"], user="root", node=NODE)
    yield cluster
    (cluster.etc_slurm / "slurm.conf").write_text(text)
    cluster.restart("slurmctld")
    cluster.restart("slurmd")


@needs(24, 5)
def test_an_agent_that_a_hook_started_inside_a_job_outlives_the_job(in_job: Cluster) -> None:
    pids = []
    for _ in range(2):
        job = submit(in_job, "-w", NODE, wrap="sleep 3")
        assert in_job.wait_job(job) == "COMPLETED"
        assert_exact(in_job, boundary(in_job, job, NODE))
        in_job.wait_idle(nodes=[NODE])
        pids.append(agent_pid(in_job))
    assert pids[0] == pids[1] != ""
    groups = in_job.run(["cat", f"/proc/{pids[0]}/cgroup"], user="root", node=NODE, check=True).stdout
    assert "job_" not in groups and "slurmstepd" not in groups


@needs(26, 5)
def test_a_job_whose_memory_is_changed_is_one_run(cluster: Cluster) -> None:
    """sacct has two rows of it: the first is RESIZING, and the second began when it was changed."""
    job = submit(cluster, "-w", NODE, "--mem=200", wrap="sleep 8")
    until_running(cluster, job)
    time.sleep(3)
    cluster.run(["scontrol", "update", f"jobid={job}", "MinMemoryNode=100"], user="root", check=True)
    assert cluster.wait_job(job) == "COMPLETED"
    record = boundary(cluster, job, NODE)
    assert_exact(cluster, record)
    rows = sacct(cluster, job, "SLUID", "OriginalSLUID", "State", "Start")
    assert [row["State"] for row in rows] == ["RESIZING", "COMPLETED"], rows
    assert record["sluid"] in {row[name] for row in rows for name in ("SLUID", "OriginalSLUID")}
    deadline = time.monotonic() + 60
    while (total := energy_record(cluster, job))["state"] != "COMPLETED":
        assert time.monotonic() < deadline, total["state"]
        time.sleep(1)
    assert total["energy_uj"] == sum(domain["energy_uj"] for domain in record["domains"].values()) > 0
    assert abs(total["start_ns"] / 1e9 - int(rows[0]["Start"])) < 5
    assert not list((cluster.shared / "perun" / cluster.name / "jobs").glob(f"*/{job}.1*"))


@needs(23, 11)
def test_a_cluster_without_munge_is_measured_and_collected() -> None:
    """auth/slurm instead: hooks, a flagged step, the collector's questions and its line in slurmdbd."""
    cluster = Cluster("authslurm", auth="slurm", nodes=1)
    cluster.up()
    try:
        site.install(cluster)
        done = cluster.run(["srun", "--perun", "-w", "n1", "sh", "-c", RANK])
        assert (done.returncode, done.stdout) == (0, "rank 0\n"), done.stderr
        job = submit(cluster, "-w", "n1")
        assert cluster.wait_job(job) == "COMPLETED"
        assert_exact(cluster, boundary(cluster, job, "n1"))
        deadline = time.monotonic() + 90
        while not sacct(cluster, job, "AdminComment")[0]["AdminComment"].startswith("perun1:"):
            assert time.monotonic() < deadline, "slurmdbd does not have its line"
            time.sleep(1)
        assert cluster.daemon_pid("munged") is None
        report = cluster.run([f"{site.PREFIX}/bin/perun", "report", "--json", str(job)])
        assert json.loads(report.stdout)["energy_uj"] > 0
    finally:
        cluster.down()
