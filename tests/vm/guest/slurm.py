"""Slurm in the guest: its first start, jobs, what it says of them."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from guest.shell import Failed, run, tried, wait

NODE = "n1"
CLUSTER = "vm"
GRANT = (
    "CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED VIA unix_socket; "
    "CREATE DATABASE IF NOT EXISTS slurm_acct; GRANT ALL ON slurm_acct.* TO slurm@localhost;"
)
ACCOUNTS = """\
add account physics Description=physics Organization=science
add account biology Description=biology Organization=science
add user alice Account=physics DefaultAccount=physics
add user bob Account=biology DefaultAccount=biology
"""
LET_GO = Path("/home/alice/let-go")
UNTIL_LET_GO = f"until [ -e {LET_GO} ]; do sleep 1; done"
"""A job of alice's that ends within a second of `let_go`, however slow the machine is."""
LOST_S = 32
"""After so long from its start slurmctld takes a job as lost that a node does not know: BatchStartTimeout, and 10 s."""
DAEMONS = ("munge", "mariadb", "slurmdbd", "slurmctld", "slurmd")


def first_start() -> None:
    """Give slurmdbd its database, and the users their accounts."""
    run("systemctl", "stop", "slurmd", "slurmctld")  # which would register with a database that is not there
    wait("MariaDB", lambda: tried("mariadb", "-e", "SELECT 1")[0] == 0)
    run("mariadb", "-e", GRANT)
    run("systemctl", "restart", "slurmdbd")
    wait("slurmdbd", lambda: tried("sacctmgr", "-n", "show", "cluster")[0] == 0)
    run("sacctmgr", "-i", input=f"add cluster {CLUSTER}\n{ACCOUNTS}")
    run("systemctl", "start", "--no-block", "slurmctld", "slurmd")


def await_ready(timeout: float = 180, state: str = "idle") -> None:
    """Wait until every daemon's unit is active and the node takes jobs, or is in another state."""
    for name in DAEMONS:
        wait(name, lambda name=name: run("systemctl", "is-active", name), timeout)  # type: ignore[misc]
    wait(f"the node to be {state}", lambda: node_state() == state, timeout)


def node_state() -> str:
    """The node's state in sinfo's word."""
    return run("sinfo", "-h", "-o", "%T").strip()


def submit(*options: str, wrap: str, user: str = "alice") -> int:
    """Submit a batch job; returns its id."""
    line = ["sbatch", "--parsable", "--output=job-%j.out", *options, f"--wrap={wrap}"]
    return int(run(*line, user=user).strip().split(";")[0])


def submit_until_let_go(*options: str) -> int:
    """Submit an exclusive batch job that runs until `let_go`; returns its id once it runs."""
    LET_GO.unlink(missing_ok=True)
    job = submit("--exclusive", *options, wrap=UNTIL_LET_GO)
    await_running(job)
    return job


def let_go() -> None:
    """Have the job of `submit_until_let_go` end."""
    LET_GO.touch()


def output(job: int, user: str = "alice") -> str:
    """What a job printed."""
    return Path(f"/home/{user}/job-{job}.out").read_text()


def admin_comment(job: int) -> str:
    """What slurmdbd holds in a job's AdminComment."""
    return run("sacct", "-n", "-P", "-X", "-j", str(job), "-o", "AdminComment").strip()


def field(job: int, name: str) -> str:
    """One field of `scontrol show job`."""
    shown = run("scontrol", "--oneliner", "show", "job", str(job))
    found = re.search(rf"\b{name}=(\S+)", shown)
    if found is None:
        raise Failed(f"no {name} of job {job} in {shown[:300]}")
    return found[1]


def await_state(job: int, *states: str, timeout: float = 180) -> str:
    """Wait for one of a job's states."""
    return wait(f"job {job} to be {' or '.join(states)}", lambda: _one_of(field(job, "JobState"), states), timeout)


def _one_of(state: str, states: Sequence[str]) -> str | None:
    return state if state in states else None


def await_running(job: int, timeout: float = 180) -> None:
    """Wait until a job runs, its batch script has begun, and a second of it is over."""
    await_state(job, "RUNNING", timeout=timeout)
    wait(f"job {job}'s processes", lambda: directories(job), timeout)
    time.sleep(1)


def controller_age_s() -> float:
    """How long slurmctld's unit has been active."""
    since_us = int(run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", "slurmctld"))
    return time.monotonic() - since_us / 1e6


def directories(job: int) -> list[Path]:
    """The job's cgroup, by its processes: which name Slurm gives it is Slurm's."""
    found: set[Path] = set()
    for line in run("scontrol", "listpids", str(job)).splitlines()[1:]:
        pid = line.split()[0]
        if pid.isdigit():
            below, step, _ = Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2].partition("/step_")
            if step:
                found.add(Path(f"/sys/fs/cgroup{below}"))
    return sorted(found)


def version() -> str:
    """Slurm's version."""
    return run("slurmd", "-V").split()[-1]
