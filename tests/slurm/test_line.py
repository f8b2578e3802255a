"""The line on a real cluster: what every record rests on is what the simulated counters served, to the tick."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster

pytestmark = pytest.mark.cluster

PREFIX = "/opt/perun-hpc"
READ_NS = 1_000_000_000
"""An agent that is preempted between a read and the clock says a later time; all nodes share two cores."""


def archive(cluster: Cluster) -> Path:
    return cluster.shared / "perun" / cluster.name


def boundary(cluster: Cluster, job: int | str, node: str, restart: int = 0, timeout: float = 240) -> dict[str, Any]:
    """One node's boundary record, waited for; the collector moves it."""
    name = f"{job}.{restart}"
    base = archive(cluster)
    places = [
        base / "incoming" / name / f"{node}.json",
        base / "jobs" / f"{int(job) // 1000}" / name / "boundary" / f"{node}.json",
    ]
    deadline = time.monotonic() + timeout
    while True:
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                found: dict[str, Any] = json.loads(place.read_text())
                return found
        assert time.monotonic() < deadline, f"no record of job {name} from {node}"
        time.sleep(0.1)


def energy_record(cluster: Cluster, job: int | str, restart: int = 0, timeout: float = 240) -> dict[str, Any]:
    path = archive(cluster) / "jobs" / f"{int(job) // 1000}" / f"{job}.{restart}" / "record.json"
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"no energy record of job {job}.{restart}"
        time.sleep(0.1)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def assert_exact(cluster: Cluster, record: dict[str, Any]) -> None:
    """Every edge was served at that moment; what the node counted is the difference; the shares sum up."""
    assert record["state"] == "closed", record["why"]
    assert record["simulated"]
    assert len(record["sensors"]) == 4
    for sensor in record["sensors"]:
        edges = record["edges"][sensor["id"]]
        for edge in (edges["start"], edges["end"]):
            until_ns = edge["mono_ns"]
            served = cluster.served.was_served(
                record["node"], sensor["device"], edge["ticks"], until_ns - READ_NS, until_ns
            )
            assert served, (sensor["id"], edge, cluster.served.moments(record["node"], sensor["device"], edge["ticks"]))
        counted = (edges["end"]["ticks"] - edges["start"]["ticks"]) % sensor["wrap_range"]
        domain = record["domains"][sensor["domain"]]
        # Across a wrap the served numbers themselves are rounded: 2^32 hardware units are no whole number of uJ.
        slack = 1 if edges["end"]["ticks"] < edges["start"]["ticks"] else 0
        assert abs(domain["node_uj"] - counted) <= slack
        shares = sum(share["energy_uj"] for share in record["shares"] if share["domain"] == sensor["domain"])
        assert shares == domain["energy_uj"] <= domain["node_uj"]


def submit(cluster: Cluster, *options: str, wrap: str = "sleep 2") -> int:
    command = ["sbatch", "--parsable", "-o", "/dev/null", *options, f"--wrap={wrap}"]
    return int(cluster.run(command, check=True).stdout.strip().split(";")[0])


def agent_pid(cluster: Cluster, node: str) -> str:
    """Pid, in the node, of its agent; empty if none answers."""
    done = cluster.run([f"{PREFIX}/bin/perun", "agent", "status"], user="root", node=node)
    return done.stdout.split("pid ")[1].split(",")[0] if done.returncode == 0 else ""


def ledger_lines(cluster: Cluster, node: str) -> list[dict[str, Any]]:
    """The node ledger as it lies on the node."""
    done = cluster.run(["sh", "-c", "cat /var/spool/perun/node/*.jsonl"], user="root", node=node, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def wake(cluster: Cluster) -> None:
    """Jobs until an agent is on every node: one that starts cold on a slow machine may miss a first job's ranks.

    slurmd also reads a changed slurm.conf only a moment after `scontrol reconfigure`.
    """
    for _ in range(10):
        cluster.run(["srun", "-N4", "true"], check=True)
        if all(agent_pid(cluster, node) for node in cluster.nodes):
            return
    pytest.fail("no agent was started by Prolog")


@pytest.fixture(scope="module", autouse=True)
def warm(cluster: Cluster) -> None:
    """Every node has its agent."""
    wake(cluster)


def test_a_job_on_two_nodes_without_any_flag(cluster: Cluster) -> None:
    job = submit(cluster, "-N2")
    assert cluster.wait_job(job) == "COMPLETED"
    total = energy_record(cluster, job)
    records = [boundary(cluster, job, node) for node in ("n1", "n2")]
    for record in records:
        assert_exact(cluster, record)
    expected = sum(domain["energy_uj"] for record in records for domain in record["domains"].values())
    assert total["energy_uj"] == expected > 0, records


def test_ten_two_second_jobs_in_a_row(cluster: Cluster) -> None:
    jobs = [submit(cluster, "-w", "n1", "-c", "4") for _ in range(10)]
    for job in jobs:
        assert cluster.wait_job(job, timeout=90) == "COMPLETED"
    records = [boundary(cluster, job, "n1") for job in jobs]
    for record in records:
        assert_exact(cluster, record)
        assert all(domain["energy_uj"] == domain["node_uj"] for domain in record["domains"].values())
    ends = [record["end"]["mono_ns"] for record in records]
    starts = [record["start"]["mono_ns"] for record in records]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_an_array_has_a_record_per_task(cluster: Cluster) -> None:
    cluster.run(["sbatch", "-o", "/dev/null", "--array=1-3", "-J", "tasks", "--wrap=sleep 1"], check=True)
    jobs: list[int] = []
    deadline = time.monotonic() + 60
    while len(jobs) < 3:  # tasks that wait have the array's own number
        assert time.monotonic() < deadline, jobs
        listed = cluster.run(["squeue", "-h", "-r", "-n", "tasks", "-t", "all", "-o", "%A"], check=True).stdout
        jobs = sorted({int(job) for job in listed.split()})
        time.sleep(0.1)
    assert len(jobs) == 3
    for job in jobs:
        cluster.wait_job(job)
        node = next(iter(energy_record(cluster, job)["nodes"]))
        assert_exact(cluster, boundary(cluster, job, node if isinstance(node, str) else node["node"]))


def test_a_het_job_has_a_record_per_component(cluster: Cluster) -> None:
    first = submit(cluster, "-w", "n1", ":", "-w", "n2")
    cluster.wait_job(first)
    for job, node in ((first, "n1"), (first + 1, "n2")):
        record = boundary(cluster, job, node)
        assert_exact(cluster, record)
        assert record["het_job_id"] == str(first)


def test_a_cancelled_job_has_a_record(cluster: Cluster) -> None:
    job = submit(cluster, "-w", "n3", wrap="sleep 60")
    until_running(cluster, job)
    cluster.run(["scancel", str(job)], check=True)
    assert_exact(cluster, boundary(cluster, job, "n3"))


def test_a_requeued_job_has_two_records(cluster: Cluster) -> None:
    """On two nodes: one that comes back to its own node is now and then started without Prolog by slurmd 22.05."""
    job = submit(cluster, "-w", "n2", "--requeue", wrap='[ -n "$SLURM_RESTART_COUNT" ] || sleep 100; sleep 1')
    until_running(cluster, job)
    cluster.run(["scontrol", "requeuehold", str(job)], check=True)
    assert_exact(cluster, boundary(cluster, job, "n2", 0))
    cluster.wait_idle(nodes=["n2"])
    cluster.run(["scontrol", "update", f"jobid={job}", "reqnodelist=n3"], user="root", check=True)
    cluster.run(["scontrol", "release", str(job)], user="root", check=True)
    assert_exact(cluster, boundary(cluster, job, "n3", 1))


def test_two_jobs_share_a_node_and_the_counter_closes(cluster: Cluster) -> None:
    busy = "timeout 3 sh -c 'while :; do :; done'; true"
    jobs = [submit(cluster, "-w", "n4", "-c", "1", wrap=busy), submit(cluster, "-w", "n4", "-c", "2", wrap=busy)]
    for job in jobs:
        assert cluster.wait_job(job) == "COMPLETED"
    assert_closes(cluster, [boundary(cluster, job, "n4") for job in jobs])


def test_three_jobs_share_a_node_and_one_is_suspended(cluster: Cluster) -> None:
    busy = "timeout 8 sh -c 'while :; do :; done'; true"
    half = "timeout 8 sh -c 'while :; do n=0; while [ $n -lt 50000 ]; do n=$((n+1)); done; sleep 0.1; done'; true"
    jobs = [
        submit(cluster, "-w", "n4", "-c", "1", wrap=busy),
        submit(cluster, "-w", "n4", "-c", "2", wrap=f"{busy} & {busy} & wait"),
        submit(cluster, "-w", "n4", "-c", "1", wrap=half),
    ]
    for job in jobs:
        until_running(cluster, job)
    cluster.run(["scontrol", "suspend", str(jobs[0])], user="root", check=True)
    time.sleep(3)
    cluster.run(["scontrol", "resume", str(jobs[0])], user="root", check=True)
    for job in jobs:
        assert cluster.wait_job(job) == "COMPLETED"
    records = [boundary(cluster, job, "n4") for job in jobs]
    assert_closes(cluster, records)
    for record in records:  # each on one package or both
        assert record["domains"]["package-0"]["energy_uj"] + record["domains"]["package-1"]["energy_uj"] > 0


def test_a_suspended_job_pays_for_itself_and_not_for_the_job_on_its_cores(cluster: Cluster) -> None:
    """Its own wall clock: busy until it is suspended, 5 s alone and asleep, then another job has all of its cores."""
    busy = "timeout 5 sh -c 'while :; do :; done'; true"
    asleep = submit(cluster, "-w", "n4", "-c", "4", wrap=busy)
    until_running(cluster, asleep)
    time.sleep(2)
    cluster.run(["scontrol", "suspend", str(asleep)], user="root", check=True)
    time.sleep(5)  # Slurm freezes it 2 s after it warned it
    awake = submit(cluster, "-w", "n4", "-c", "4", wrap=busy)
    assert cluster.wait_job(awake) == "COMPLETED"
    cluster.run(["scontrol", "resume", str(asleep)], user="root", check=True)
    assert cluster.wait_job(asleep) == "COMPLETED"
    records = [boundary(cluster, job, "n4") for job in (asleep, awake)]
    assert_closes(cluster, records)
    mine, other = records
    from_ns, to_ns = other["start"]["mono_ns"], other["end"]["mono_ns"]
    beside = [one for one in ledger_lines(cluster, "n4") if from_ns <= one["t0_ns"] and one["t1_ns"] <= to_ns]
    assert sum(one["shares"].get(f"job:{awake}.0", 0) for one in beside) > 0
    assert not any(one["shares"].get(f"job:{asleep}.0") for one in beside)
    suspended_uj = sum(domain["suspended_uj"] for domain in mine["domains"].values())
    assert 0 < suspended_uj < sum(domain["energy_uj"] for domain in mine["domains"].values())
    assert mine["usage"]["suspended_ns"] > to_ns - from_ns
    assert other["usage"]["suspended_ns"] == sum(domain["suspended_uj"] for domain in other["domains"].values()) == 0
    told = cluster.run(
        ["sacct", "-n", "-P", "-X", "-j", str(asleep), "-o", "Suspended"], user="root", check=True
    ).stdout
    slurm_s = sum(int(part) * 60**place for place, part in enumerate(reversed(told.strip().split(":"))))
    # Slurm counts from its warning on; either end is seen within a second, and the node's two cores are busy.
    assert abs(mine["usage"]["suspended_ns"] / 1e9 - slurm_s) < 4


def assert_closes(cluster: Cluster, records: list[dict[str, Any]]) -> None:
    """Jobs that shared a node: their shares, idle and system make up the counter's difference, in every domain."""
    for record in records:
        assert_exact(cluster, record)
    (node,) = {record["node"] for record in records}
    first = min(records, key=lambda record: record["start"]["mono_ns"])
    last = max(records, key=lambda record: record["end"]["mono_ns"])
    for sensor in first["sensors"]:
        lines = [line for line in ledger_lines(cluster, node) if line["domain"] == sensor["domain"]]
        lines = [
            line
            for line in lines
            if line["t0_ns"] >= first["start"]["mono_ns"] and line["t1_ns"] <= last["end"]["mono_ns"]
        ]
        assert all(sum(line["shares"].values()) == line["total_uj"] for line in lines)
        begin, end = first["edges"][sensor["id"]]["start"]["ticks"], last["edges"][sensor["id"]]["end"]["ticks"]
        assert abs(sum(line["total_uj"] for line in lines) - (end - begin) % sensor["wrap_range"]) <= 1
        for record in records:
            given = sum(line["shares"].get(f"job:{record['job_id']}.0", 0) for line in lines)
            assert given == record["domains"][sensor["domain"]]["energy_uj"]


def test_a_flagged_step_shows_its_ranks_and_regions(cluster: Cluster) -> None:
    program = (
        "import os, perun_hpc, time\n@perun_hpc.monitor()\ndef work():\n    time.sleep(0.5)\nwork()\nwork()\n"
        "print(os.environ['SLURM_JOB_ID'])"
    )
    done = cluster.run(["srun", "--perun", "-w", "n1,n2", "-n2", "/shared/science/bin/python", "-c", program])
    assert done.returncode == 0, done.stderr
    (job,) = {int(line) for line in done.stdout.split()}
    record = boundary(cluster, job, "n1")
    assert_exact(cluster, record)
    (step,) = [one for one in record["steps"] if one["step_id"] == 0]  # beside Slurm's own, `extern`
    assert [rank["rank"] for rank in step["ranks"]] == [0]
    (region,) = record["regions"]
    assert (region["name"], region["calls"]) == ("work", 2)
    assert region["time_ns"] >= 1_000_000_000
    # Of a node that others may share it has a row at every moment of the wall clock's grid, here of ten seconds.
    trace = record["trace"]
    begin, end = (record[edge]["real_ns"] // trace["period_ns"] for edge in ("start", "end"))
    assert end - begin - 1 <= trace["rows"] <= end - begin, trace
    assert (trace["stored"], trace["state"], trace["skipped"]) == (trace["rows"] > 0, "complete", 0), trace


# Faults: jobs run, no node drains (checked after every test by the fixture `healthy`).


@contextlib.contextmanager
def replaced(path: Path, text: str) -> Iterator[None]:
    former = path.read_bytes()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(former)


def runs(cluster: Cluster, nodes: int = 4) -> None:
    done = cluster.run(["srun", f"-N{nodes}", "hostname"])
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == nodes


def test_garbage_for_a_policy_changes_nothing(cluster: Cluster) -> None:
    with replaced(cluster.etc_perun / "policy.yaml", "\0{{{: garbage\n\t- [" * 50):
        job = submit(cluster, "-w", "n1")
        assert cluster.wait_job(job) == "COMPLETED"
        assert_exact(cluster, boundary(cluster, job, "n1"))
        runs(cluster)


def test_a_killed_agent_costs_the_job_nothing(cluster: Cluster) -> None:
    with told_to_end(cluster) as wrap:
        job = submit(cluster, "-w", "n1", wrap=wrap)
        until_running(cluster, job)
        time.sleep(0.5)
        cluster.run(["kill", "-9", agent_pid(cluster, "n1")], user="root", node="n1", check=True)
    assert cluster.wait_job(job) == "COMPLETED"
    record = boundary(cluster, job, "n1")
    assert_exact(cluster, record)
    assert [gap["why"] for gap in record["gaps"]] == ["the agent was restarted"]


def test_a_stopped_agent_holds_no_job_up(cluster: Cluster) -> None:
    begin = time.monotonic()
    runs(cluster)
    usual_s = time.monotonic() - begin
    pid = agent_pid(cluster, "n2")
    cluster.run(["kill", "-STOP", pid], user="root", node="n2", check=True)
    try:
        begin = time.monotonic()
        runs(cluster)
        assert time.monotonic() - begin < 20 + usual_s
    finally:
        cluster.run(["kill", "-CONT", pid], user="root", node="n2", check=True)


def test_the_kill_switch(cluster: Cluster) -> None:
    cluster.wait_idle()  # a job before this one has had its Epilog
    switch = cluster.etc_perun / "disable"
    switch.touch()
    try:
        job = submit(cluster, "-w", "n1", wrap="true")
        assert cluster.wait_job(job) == "COMPLETED"
    finally:
        switch.unlink()
    time.sleep(2)
    assert not list(archive(cluster).glob(f"*/{job}.0"))


def test_a_job_whose_end_the_switch_hid_makes_room_for_the_next_one(cluster: Cluster) -> None:
    cluster.wait_idle()
    switch = cluster.etc_perun / "disable"
    with told_to_end(cluster) as wrap:
        hidden = submit(cluster, "-w", "n4", wrap=wrap)
        until_running(cluster, hidden)
        time.sleep(2)  # its cgroup was seen
        switch.touch()
    try:
        cluster.wait_job(hidden)
        cluster.wait_idle(nodes=["n4"])
    finally:
        switch.unlink()
    next_one = submit(cluster, "-w", "n4", "--exclusive", wrap="sleep 100")
    record = boundary(cluster, hidden, "n4")
    assert record["state"] == "partial" and record["why"] == "no job-end message"
    cluster.run(["scancel", str(next_one)], check=True)
    assert cluster.wait_job(next_one) == "CANCELLED"


def test_without_python_jobs_run(cluster: Cluster) -> None:
    python = cluster.opt / "bin" / "python"
    for node in cluster.nodes:
        cluster.run([f"{PREFIX}/bin/perun", "agent", "stop"], user="root", node=node)
    python.rename(python.with_name("python.away"))
    try:
        runs(cluster)
    finally:
        python.with_name("python.away").rename(python)
    runs(cluster)


def test_a_full_spool_keeps_no_job_from_running(cluster: Cluster) -> None:
    cluster.run([f"{PREFIX}/bin/perun", "agent", "stop"], user="root", node="n3")
    spool = "/var/spool/perun"
    tiny = f"mount -t tmpfs -o size=16k,mode=755 tmpfs {spool} && head -c 1M /dev/zero > {spool}/fill; true"
    cluster.run(["sh", "-c", tiny], user="root", node="n3", check=True)
    try:
        job = submit(cluster, "-w", "n3")
        assert cluster.wait_job(job) == "COMPLETED"
        cluster.run(["rm", "/var/spool/perun/fill"], user="root", node="n3", check=True)
        cluster.run(["mount", "-o", "remount,size=8m", "/var/spool/perun"], user="root", node="n3", check=True)
        assert_exact(cluster, boundary(cluster, job, "n3"))
    finally:
        cluster.run([f"{PREFIX}/bin/perun", "agent", "stop"], user="root", node="n3")
        cluster.run(["umount", "-l", "/var/spool/perun"], user="root", node="n3", check=True)


@contextlib.contextmanager
def told_to_end(cluster: Cluster) -> Iterator[str]:
    """What a job does that ends once the block has, however long that takes."""
    flag = Path(cluster.shared) / "end"
    flag.unlink(missing_ok=True)
    try:
        yield "until [ -e /shared/end ]; do sleep 0.1; done"
    finally:
        flag.touch()


def until_running(cluster: Cluster, job: int, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while "RUNNING" not in cluster.run(["squeue", "-h", "-j", str(job), "-o", "%T"], check=True).stdout:
        assert time.monotonic() < deadline, f"job {job} does not start"
        time.sleep(0.1)
