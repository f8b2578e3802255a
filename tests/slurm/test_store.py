"""Where records and traces go on a real cluster: while a job runs, and where nodes share no file system."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster, site
from perun_hpc.archive.certificates import Certificates
from perun_hpc.store import job_store
from tests.certificates import Authority

pytestmark = pytest.mark.cluster

PERUN = f"{site.PREFIX}/bin/perun"
SHARED = "/shared/perun"
LOCAL = "/var/spool/perun/archive"
"""An archive that only the controller has: this path is each host's own."""


@contextlib.contextmanager
def policy(cluster: Cluster, change: Callable[[str], str]) -> Iterator[None]:
    """Another policy for a while, and a collector that was started under it."""
    path = cluster.etc_perun / "policy.yaml"
    former = path.read_text()
    path.write_text(change(former))
    try:
        restart_collector(cluster)
        yield
    finally:
        path.write_text(former)
        restart_collector(cluster)


def restart_collector(cluster: Cluster, signal: str = "TERM") -> None:
    pid = site.collector_pid(cluster)
    if pid is not None:
        cluster.run(["kill", f"-{signal}", str(pid)], user="root", check=True)
        wait(lambda: site.collector_pid(cluster) is None, "the collector ends")
    site.start_collector(cluster)


def wait(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.2)
    return found


def submit(cluster: Cluster, *options: str, wrap: str) -> int:
    command = ["sbatch", "--parsable", "-o", "/dev/null", *options, f"--wrap={wrap}"]
    return int(cluster.run(command, check=True).stdout.strip().split(";")[0])


@contextlib.contextmanager
def running(cluster: Cluster, *options: str, wrap: str) -> Iterator[int]:
    """A job that is not left behind."""
    job = submit(cluster, *options, wrap=wrap)
    try:
        yield job
    finally:
        cluster.run(["scancel", str(job)])


def record_in(archive: Path, job: int, seconds: float = 60) -> dict[str, Any]:
    path = archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json"
    wait(path.exists, f"the record of job {job}", seconds)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def values_in(job: Path) -> int:
    """Number of energy readings that can be read in a job's store by now."""
    return int(job_store.open_job(job).energy.notnull().sum())


def test_a_running_job_shows_its_owner_what_it_used_so_far(cluster: Cluster) -> None:
    def growing(text: str) -> str:
        text = text.replace("period: 1 s", "period: 100 ms")
        return text.replace("flush: 5 s", "flush: 5 s\n  progress: 10 s\n  write: archive")

    cluster.wait_idle()
    with policy(cluster, growing), running(cluster, "-N2", "--exclusive", wrap="srun sleep 290") as job:

        def report(user: str = "alice") -> str:
            done = cluster.run([PERUN, "report", str(job)], user=user)
            return done.stdout if "so far" in done.stdout else ""

        text = wait(report, "alice sees energy so far", 90)
        assert "the job still runs" in text and "not known yet" not in text
        assert not report("bob")
        archive = cluster.shared / "perun" / cluster.name
        assert not (archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json").exists()
        asked = f"select count(*) from job where job_id = {job}"
        code = f"import sqlite3; print(sqlite3.connect('/var/lib/perun/ledger.db').execute('{asked}').fetchone())"
        assert cluster.run([f"{site.PREFIX}/bin/python", "-c", code], user="perun").stdout == "(0,)\n"
        # A chunk is a minute at this period: then alice can read the trace of the job that runs.
        trace = f"{SHARED}/{cluster.name}/jobs/{int(job) // 1000}/{job}.0/job.zarr"
        read = f"import zarr; print(zarr.open_group('{trace}', mode='r')['samples/energy'])"
        python = f"{site.PREFIX}/bin/python"
        wait(lambda: cluster.run([python, "-c", read]).stdout, "alice reads the trace so far", 120)
        data = job_store.open_job(archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0")
        assert data.attrs["state"] == "open" and "running" in data.node_status.values
        # How much of the first minute is the job's depends on when it began.
        wait(lambda: values_in(archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0") > 0, "there are values in it", 70)
        cluster.run(["scancel", str(job)], check=True)
        record = record_in(archive, job)
        assert job_store.open_job(archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0").attrs["state"] == "complete"
        assert record["status"] == "complete"
        wait(lambda: not (archive / "running" / f"{job}.0").exists(), "what was said so far is gone")
        assert not (archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "running.json").exists()
        shown = cluster.run([PERUN, "report", str(job)]).stdout
        assert "so far" not in shown and "CANCELLED" in shown


def test_a_flagged_step_in_ten_milliseconds_outlives_the_program_that_makes_its_rows(cluster: Cluster) -> None:
    def fine(text: str) -> str:
        return text.replace("period: 1 s", "period: 10 ms").replace("period_min: 100 ms", "period_min: 10 ms")

    def programs() -> list[int]:
        done = cluster.run(["pgrep", "-x", "perun-sample"], user="root", node="n1")
        return [int(word) for word in done.stdout.split()]

    def in_force() -> bool:
        done = cluster.run(["cat", "/run/perun/agent/policy.json"], user="root", node="n1")
        return re.search(r"\b10000000\b", done.stdout) is not None

    program = "import perun_hpc, time\n@perun_hpc.monitor()\ndef work():\n    time.sleep(8)\nwork()"
    script = f"srun --perun /shared/science/bin/python -c '{program}'"
    cluster.wait_idle()
    with policy(cluster, fine), contextlib.ExitStack() as stack:
        cluster.run(["srun", "-wn1", "true"], check=True)  # there is an agent
        wait(in_force, "the node has the policy")
        cluster.wait_idle()
        job = stack.enter_context(running(cluster, "-wn1", "--exclusive", wrap=script))
        (pid,) = wait(programs, "a program makes the rows")
        agent = int(cluster.run(["ps", "-o", "ppid=", str(pid)], user="root", node="n1", check=True).stdout)
        facts = "for p in $0 $1; do grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:|Cpus_allowed:)' /proc/$p/status; "
        facts += "cat /proc/$p/cgroup; ps -o ni= $p; done"
        words = ["sh", "-c", facts, str(agent), str(pid)]
        lines = cluster.run(words, user="root", node="n1", check=True).stdout.splitlines()
        assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]  # it may what the agent may, where the agent may
        time.sleep(2)
        cluster.run(["kill", "-9", str(pid)], user="root", node="n1", check=True)
        killed_ns = time.time_ns()
        archive = cluster.shared / "perun" / cluster.name
        record = record_in(archive, job, 90)
        assert record["status"] == "complete" and not programs()
        data = job_store.open_job(archive / "jobs" / str(job // 1000) / f"{job}.0")
        times = data.energy.dropna("time", how="all").time.values.astype("datetime64[ns]").astype(int)
        assert (times < killed_ns - 1_200_000_000).sum() > 50 and (times > killed_ns + 1_200_000_000).sum() > 50
        regions = [one["energy_uj"] > 0 for one in record["regions"] if one["name"] == "work"]
        assert regions == [True], record


def test_without_a_shared_file_system_everything_comes_over_munge(cluster: Cluster) -> None:
    def local(text: str) -> str:
        return text.replace("archive: /shared/perun", f"archive: {LOCAL}\n  collector: ctl:6871\n  progress: 10 s")

    cluster.run(["mkdir", "-m", "711", "-p", LOCAL], user="perun", check=True)
    archive = cluster.spool_dir("ctl") / "perun" / "archive" / cluster.name
    before = set((cluster.shared / "perun" / cluster.name).glob("*/*"))
    cluster.wait_idle()
    with policy(cluster, local):
        program = "import perun_hpc, time\n@perun_hpc.monitor()\ndef work():\n    time.sleep(2)\nwork()"
        script = f"srun --perun -N2 -n2 /shared/science/bin/python -c '{program}'"
        job = submit(cluster, "-N2", "--exclusive", wrap=script)
        assert cluster.wait_job(job) == "COMPLETED"
        record = record_in(archive, job)
        assert record["status"] == "complete" and len(record["nodes"]) == 2, record["missing"]
        assert [region["name"] for region in record["regions"]] == ["work"]
        data = job_store.open_job(archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0")
        assert set(data.node_status.values.tolist()) == {"complete"}
        steps = data.energy.diff("time")  # the first tick of all may be before one of the nodes began
        assert not bool((steps < 0).any()) and bool((steps > 0).any())
        assert "energy" in cluster.run([PERUN, "report", str(job)], user="perun").stdout.lower()
        wait(lambda: sorted((archive / "nodes").glob("n[12]/*.jsonl")), "the node ledgers come, too")

        # A collector that is killed, and one that is not there when the job ends.
        job = submit(cluster, "-N4", wrap="sleep 3")
        pid = site.collector_pid(cluster)
        cluster.run(["kill", "-9", str(pid)], user="root", check=True)
        assert cluster.wait_job(job) == "COMPLETED"
        time.sleep(2)
        assert not (archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json").exists()
        site.start_collector(cluster)
        # Nodes try again at moments of their own; who comes after the deadline amends the record.
        wait(lambda: len(record_in(archive, job, 90)["nodes"]) == 4, "all four nodes are in", 90)
        assert record_in(archive, job)["status"] == "complete"

        # Nobody but the agents is listened to.
        said = "import socket; s = socket.create_connection(('ctl', 6871)); s.sendall(b'{}\\n'); print(s.recv(999))"
        assert "no list of files" in cluster.run(["python3", "-c", said], node="n1").stdout
        assert "user " in alice_hands_over(cluster)
    assert set((cluster.shared / "perun" / cluster.name).glob("*/*")) == before, "nothing went to the shared archive"


def test_without_munge_everything_comes_by_certificates(cluster: Cluster, tmp_path: Path) -> None:
    tls = "/var/spool/perun/tls"  # each host's own

    def by_certificates(text: str) -> str:
        files = ", ".join(f"{name}: {tls}/{name}" for name in ("cert", "key", "ca"))
        store = f"archive: {LOCAL}\n  collector: ctl:6871\n  progress: 10 s\n  tls: {{{files}}}"
        return text.replace("archive: /shared/perun", store)

    authority = Authority.begin(tmp_path / "site")
    for host in ("ctl", "n1", "n2", "n3", "n4"):
        give(cluster, host, authority.issue(host, [f"DNS:{host}"], usage="serverAuth,clientAuth"))
    cluster.run(["mkdir", "-m", "711", "-p", LOCAL], user="perun", check=True)
    archive = cluster.spool_dir("ctl") / "perun" / "archive" / cluster.name
    cluster.wait_idle()
    with policy(cluster, by_certificates):
        job = submit(cluster, "-N2", "-w", "n[1-2]", "--exclusive", wrap="srun --perun -n2 sleep 2")
        assert cluster.wait_job(job) == "COMPLETED"
        record = record_in(archive, job)
        assert record["status"] == "complete" and len(record["nodes"]) == 2, record["missing"]
        assert set(
            job_store.open_job(archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0").node_status.values.tolist()
        ) == {"complete"}
        doctor = cluster.run([PERUN, "doctor", "--role", "compute", "--verbose"], user="root", node="n1").stdout
        assert "collector-reached" in doctor and "CRITICAL collector" not in doctor
        assert "out of date in 20 days" in doctor

        # A node whose certificate is another's: what it has stays with it, and both ends say why.
        give(cluster, "n3", authority.issue("other", ["DNS:n9"]))
        job = submit(cluster, "-w", "n3", "--exclusive", wrap="sleep 1")
        assert cluster.wait_job(job) == "COMPLETED"
        why = "node n3 shows a certificate of n9"

        def told() -> bool:
            return why in cluster.run([PERUN, "collect", "--status"], user="perun").stdout.replace("\n", " ")

        wait(told, "perun collect --status names it")
        wait(lambda: why in cluster.run([PERUN, "agent", "status"], user="root", node="n3").stdout, "so does the node")
        give(cluster, "n3", authority.issue("n3", ["DNS:n3"]))
        assert record_in(archive, job, 120)["status"] == "complete"

        # Neither munge's credential nor somebody without a certificate is listened to.
        assert "by certificates only" in cluster.run(
            ["python3", "-c", SAYS], node="n1"
        ).stdout  # fmt: skip


SAYS = "import socket; s = socket.create_connection(('ctl', 6871)); s.sendall(b'{}\\n'); print(s.recv(999))"


def give(cluster: Cluster, host: str, ours: Certificates) -> None:
    """Put a host's certificates where its service user alone reads the key."""
    home = cluster.spool_dir(host) / "perun"
    owner = home.stat()
    target = home / "tls"
    target.mkdir(mode=0o700, exist_ok=True)
    os.chown(target, owner.st_uid, owner.st_gid)
    for name, source in (("cert", ours.cert), ("key", ours.key), ("ca", ours.ca)):
        part = target / f"{name}.part"
        part.write_bytes(source.read_bytes())
        part.chmod(0o600)
        os.chown(part, owner.st_uid, owner.st_gid)
        part.replace(target / name)


def alice_hands_over(cluster: Cluster) -> str:
    """What alice is told, with her own, valid credential."""
    code = (
        "from perun_hpc.archive import stream\n"
        "try:\n"
        "    stream.send({'record.json': b'{}'}, {'what': 'session', 'name': '1.0'}, ('ctl', 6871), stream.Munge())\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    done = cluster.run([f"{site.PREFIX}/bin/python", "-c", code], user="alice", node="n1")
    assert "may not hand over" in done.stdout, done.stdout + done.stderr
    return done.stdout
