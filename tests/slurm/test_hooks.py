"""The hooks on a real Slurm: whatever has happened to the agent, jobs run and no node drains (conftest checks that)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import Cluster, site

pytestmark = pytest.mark.cluster

NODE = "n4"
"""Where things are broken."""


def on_node(cluster: Cluster, script: str) -> str:
    """Run a shell script as root on the node; returns what it printed."""
    return cluster.run(["sh", "-c", script], user="root", node=NODE, check=True).stdout


def agents(cluster: Cluster) -> list[int]:
    """Pids of the node's agents; their short-lived children look the same, but have them as parents."""
    return [int(pid) for pid in on_node(cluster, "pgrep -P 1 -f -- '[p]erun_hpc.agent' || true").split()]


def signal_agents(cluster: Cluster, name: str) -> None:
    for pid in agents(cluster):
        on_node(cluster, f"kill -{name} {pid}")


def inbox(cluster: Cluster) -> list[str]:
    """Names of the messages that wait on the node."""
    return on_node(cluster, "ls /run/perun/inbox 2>/dev/null || true").split()


def until(what: str, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, f"not in a minute: {what}"
        time.sleep(0.1)


def job(cluster: Cluster) -> None:
    """A job on the node runs as it should, and the node is free again."""
    done = cluster.run(["srun", "-w", NODE, "hostname"])
    assert (done.returncode, done.stdout) == (0, f"{NODE}\n")
    cluster.wait_idle(nodes=[NODE])


@pytest.fixture
def running(cluster: Cluster) -> Cluster:
    """The cluster with a healthy agent on the node."""
    signal_agents(cluster, "CONT")
    cluster.wait_idle(nodes=[NODE])
    until("an agent", lambda: (job(cluster), bool(agents(cluster)))[1])
    until("an empty inbox", lambda: not inbox(cluster))
    return cluster


def test_the_agent_outlives_the_hook_that_started_it(running: Cluster) -> None:
    signal_agents(running, "KILL")
    job(running)
    (first,) = agents(running)
    job(running)
    assert agents(running) == [first]
    parent, group, session, terminal = on_node(running, f"ps -o ppid=,pgid=,sid=,tty= -p {first}").split()
    assert (parent, terminal) == ("1", "?")
    assert group == session != str(first)
    assert "slurm" not in on_node(running, f"cat /proc/{first}/cgroup")
    variables = on_node(running, f"tr '\\0' '\\n' < /proc/{first}/environ").splitlines()
    assert {line.split("=")[0] for line in variables} <= {"PATH", "LANG", "PERUN_POLICY"}


def test_a_killed_agent_is_replaced(running: Cluster) -> None:
    (before,) = agents(running)
    signal_agents(running, "KILL")
    job(running)
    (after,) = agents(running)
    assert after != before


def test_a_stopped_agent_delays_nothing_for_long_and_learns_it_later(running: Cluster) -> None:
    signal_agents(running, "STOP")
    job(running)
    kept = inbox(running)
    assert ["job-start" in name for name in kept] == [True, False]
    signal_agents(running, "CONT")
    until("the inbox is read", lambda: not set(kept) & set(inbox(running)))


def test_a_broken_policy_changes_nothing(running: Cluster) -> None:
    policy = running.etc_perun / "policy.yaml"
    good = policy.read_text()
    try:
        policy.write_text("a: [1,\n\x00\t}")
        signal_agents(running, "KILL")
        job(running)
        job(running)
    finally:
        policy.write_text(good)


@pytest.fixture
def without_python(running: Cluster) -> Iterator[Path]:
    """No interpreter in the installation and no agent on the node."""
    python = running.opt / "bin" / "python"
    signal_agents(running, "KILL")
    python.rename(python.with_name("python.gone"))
    yield python
    if not python.is_symlink():
        python.with_name("python.gone").rename(python)


def test_without_python_jobs_run_and_the_next_agent_learns_of_them(running: Cluster, without_python: Path) -> None:
    job(running)
    kept = inbox(running)
    assert ["job-start" in name for name in kept] == [True, False]
    without_python.with_name("python.gone").rename(without_python)
    job(running)
    until("the inbox is read", lambda: not set(kept) & set(inbox(running)))


SLOW_GROUP = "/sys/fs/cgroup/cpu/perun"


@pytest.fixture
def slow(running: Cluster) -> Iterator[Cluster]:
    """No agent on the node, and one that is started has a twentieth of a CPU: the hook puts it into this cgroup."""
    group = SLOW_GROUP
    on_node(running, f"mkdir -p {group} && echo 5000 > {group}/cpu.cfs_quota_us")
    signal_agents(running, "KILL")
    try:
        yield running
    finally:
        on_node(running, f"echo -1 > {group}/cpu.cfs_quota_us")
        signal_agents(running, "KILL")
        until("the cgroup is empty", lambda: not on_node(running, f"cat {group}/cgroup.procs"))
        on_node(running, f"rmdir {group}")


def test_where_the_agent_starts_too_slowly_the_record_begins_with_the_job(slow: Cluster) -> None:
    command = ["sbatch", "--parsable", "-o", "/dev/null", "-w", NODE, "--wrap=sleep 40"]
    job = int(slow.run(command, check=True).stdout)
    assert slow.wait_job(job, timeout=180) == "COMPLETED"
    on_node(slow, f"echo -1 > {SLOW_GROUP}/cpu.cfs_quota_us")  # what comes now is not what is tested
    path = slow.shared / "perun" / slow.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json"
    told = path.parent / "boundary" / f"{NODE}.json"
    until("its node's record", told.exists)  # one that says that no node reported may have come before
    boundary = json.loads(told.read_text())
    assert boundary["start"]["from"] == "inbox"
    late_ns = boundary["start"]["late_ns"]
    assert late_ns > 1_000_000_000, "an agent with a twentieth of a CPU was in time"
    (gap,) = [one for one in boundary["gaps"] if one["sensor"] == "agent"]
    assert gap["to_ns"] - gap["from_ns"] == late_ns
    record = json.loads(path.read_text())
    assert any("are not in its energy" in note for note in record["notes"]), record["notes"]
    assert record["coverage"] < 1 and record["energy_uj"] is not None
    asked = ["sacct", "-nXo", "start%20", "-j", str(job)]
    start_s = int(slow.run(asked, check=True, env={"SLURM_TIME_FORMAT": "%s"}).stdout)
    assert abs(record["start_ns"] / 1e9 - start_s) < 3


def test_a_full_inbox_changes_nothing(running: Cluster, without_python: Path) -> None:
    on_node(running, "cd /run/perun/inbox && seq -f %g.junk 4096 | xargs touch")
    try:
        job(running)
        assert len(inbox(running)) == 4096
    finally:
        on_node(running, "cd /run/perun/inbox && find . -name '*.junk' -delete")


def test_a_run_directory_that_is_a_file_changes_nothing(running: Cluster) -> None:
    signal_agents(running, "KILL")
    on_node(running, "mv /run/perun /run/perun.kept && touch /run/perun")
    try:
        job(running)
    finally:
        on_node(running, "rm -rf /run/perun && mv /run/perun.kept /run/perun")


def test_the_kill_switch_silences_the_hooks(running: Cluster) -> None:
    switch = running.etc_perun / "disable"
    signal_agents(running, "KILL")
    switch.touch()
    try:
        job(running)
        assert agents(running) == []
        assert inbox(running) == []
    finally:
        switch.unlink()


def test_a_node_is_switched_off_from_the_controller(running: Cluster) -> None:
    """Hooks and plugin; nothing is written on the node."""
    perun = f"{site.PREFIX}/bin/perun"
    step = ["srun", "-w", NODE, "--perun", "sh", "-c", "echo PERUN:$PERUN_RANK"]
    signal_agents(running, "KILL")
    running.run([perun, "off", NODE], user="root", check=True)
    try:
        job(running)
        assert agents(running) == []
        assert inbox(running) == []
        done = running.run(step)
        assert (done.returncode, done.stdout) == (0, "PERUN:\n"), done.stderr
        assert agents(running) == []
    finally:
        running.run([perun, "on", NODE], user="root", check=True)
    running.wait_idle(nodes=[NODE])
    assert running.run(step).stdout == "PERUN:0\n"
    assert len(agents(running)) == 1


def test_many_jobs_at_once_start_one_agent(running: Cluster) -> None:
    signal_agents(running, "KILL")
    script = f"for i in 1 2 3 4; do srun -w {NODE} -n1 --overcommit hostname & done; wait"
    done = running.run(["sh", "-c", script], timeout=120)
    assert done.stdout == f"{NODE}\n" * 4
    running.wait_idle(nodes=[NODE])
    assert len(agents(running)) == 1


@pytest.fixture
def chained(running: Cluster) -> Iterator[Cluster]:
    """The site's own prolog and ours, by a pattern in slurm.conf."""
    directory = running.etc_slurm / "prolog.d"
    directory.mkdir()
    own = directory / "10-site"
    own.write_text("#!/bin/sh\necho $SLURM_JOB_ID >> /run/site-prolog\n")
    own.chmod(0o755)
    (directory / "50-perun-prolog").symlink_to(f"{site.PREFIX}/libexec/perun/prolog")
    running.configure(("Prolog=/etc/slurm/prolog.d/*", site.SLURM_CONF[1]), site.PLUGSTACK)
    running.reconfigure()
    running.restart("slurmd", NODE)  # reconfigure returns before slurmd has read the file
    yield running
    running.configure(site.SLURM_CONF, site.PLUGSTACK)
    running.reconfigure()
    running.restart("slurmd")
    shutil.rmtree(directory)


def test_hooks_of_the_site_run_beside_ours(chained: Cluster) -> None:
    signal_agents(chained, "KILL")
    job(chained)
    assert len(on_node(chained, "cat /run/site-prolog").split()) == 1
    assert len(agents(chained)) == 1
