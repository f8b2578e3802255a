"""Jobs of every kind on the broken nodes, normal ones beside, and what became of them."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from devcluster import ClusterError
from tests.faults.ground import Ground

AT_ONCE = 4
COMMAND_S = 90.0
PATIENCE_S = 60.0
SUBMIT_S = 60.0
BUSY = re.compile(r"Unable to contact slurm controller|Connection refused|Socket timed out|Transport endpoint")


@dataclass(frozen=True)
class Job:
    """One job as Slurm ended it, and how often it was requeued."""

    job_id: int
    state: str
    restarts: int


@dataclass(frozen=True)
class Load:
    """What ran: jobs on broken nodes, those of them with flagged steps, normal ones beside, what went wrong."""

    broken: tuple[Job, ...]
    flagged: tuple[Job, ...]
    beside: tuple[Job, ...]
    errors: tuple[str, ...]


def run(ground: Ground, tag: str, count: int, flagged: bool = True) -> Load:
    """Run `count` jobs on the broken nodes, a fifth as many beside; returns when all are over.

    Of ten jobs five are `srun hostname` on one node, three batch jobs of two seconds on both, two flagged steps.
    """
    work: list[tuple[Callable[[Ground, str, str, bool], str], str, str, bool]] = []
    for number in range(count):
        node = ground.broken[number % 2]
        kind = number % 10
        if kind < 5 or (kind >= 8 and not flagged):
            work.append((_srun, node, tag, False))
        elif kind < 8:
            work.append((_sbatch, ",".join(ground.broken), tag, False))
        else:
            work.append((_srun, node, f"{tag}-perun", True))
        if number % 5 == 4:
            work.append((_srun, ground.sound[number // 5 % 2], f"{tag}-beside", False))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = list(pool.map(lambda one: one[0](ground, *one[1:]), work))
    names = (tag, f"{tag}-perun", f"{tag}-beside")
    said.append(_wait_empty(ground, names))
    jobs = _jobs(ground)
    plain, marked, beside = (tuple(jobs.get(name, ())) for name in names)
    return Load((*plain, *marked), marked, beside, tuple(text for text in said if text))


def _srun(ground: Ground, node: str, tag: str, flagged: bool) -> str:
    flag = ["--perun"] if flagged else []
    try:
        done = ground.cluster.run(["srun", "-J", tag, "-w", node, *flag, "hostname"], timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        return f"srun hangs for {COMMAND_S:.0f} s"
    if done.returncode == 0 and done.stdout == f"{node}\n":
        return ""
    return f"srun{' --perun' if flagged else ''}: {done.returncode} {(done.stderr or done.stdout).strip()[-300:]}"


def _sbatch(ground: Ground, nodes: str, tag: str, flagged: bool) -> str:
    line = ["sbatch", "--parsable", "-J", tag, "-o", "/dev/null", "-N2", "-w", nodes, "--wrap=srun hostname; sleep 2"]
    deadline = time.monotonic() + SUBMIT_S
    while True:
        done = ground.cluster.run(line, timeout=COMMAND_S)
        if done.returncode == 0:
            return ""
        if not BUSY.search(done.stderr) or time.monotonic() > deadline:
            return f"sbatch: {done.returncode} {done.stderr.strip()[-300:]}"
        time.sleep(1)


def _wait_empty(ground: Ground, names: Sequence[str], timeout_s: float = 240.0) -> str:
    """Wait until no job of these names is left; one that hangs is cancelled, and that is said.

    Slurm leaves the job of an srun that was lost between its allocation and its step to itself, for ever.
    """
    begin = time.monotonic()
    line = ["squeue", "-h", "-n", ",".join(names), "-o", "%i %T %r"]
    said = ""
    while True:
        done = ground.cluster.run(line, user="root", timeout=COMMAND_S)
        left = done.stdout.split("\n")[:-1]
        if done.returncode == 0 and not left:
            return said
        if time.monotonic() > begin + timeout_s:
            raise ClusterError(f"jobs do not end: {left} {done.stderr.strip()[-200:]}")
        if left and not said and time.monotonic() > begin + PATIENCE_S:
            said = f"cancelled after {PATIENCE_S:.0f} s: {len(left)} jobs, {left[0]}"
            for name in names:
                ground.cluster.run(["scancel", "-n", name], user="root")
        time.sleep(0.3)


def _jobs(ground: Ground) -> dict[str, list[Job]]:
    """Jobs that slurmctld remembers, by name."""
    done = ground.cluster.run(["scontrol", "-o", "show", "jobs"], user="root", check=True)
    found: dict[str, list[Job]] = {}
    for line in done.stdout.splitlines():
        words = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if not words.keys() >= {"JobId", "JobName", "JobState", "Restarts"}:
            continue  # a part of a job whose name breaks the line: none of ours
        found.setdefault(words["JobName"], []).append(
            Job(int(words["JobId"]), words["JobState"], int(words["Restarts"]))
        )
    return found
