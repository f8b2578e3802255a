"""A small step of perun's own beside a running job's, on each of its nodes: through Slurm, which decides who may."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from perun_hpc.errors import AccessError, NotFoundError, UnavailableError, UsageError
from perun_hpc.slurm.command import attempt, environment, failure

NO_FLAG = {"SLURM_SPANK__SLURM_SPANK_OPTION_perun_perun": "off"}
"""The step is not a flagged one, whatever the site's default is."""
HARMLESS = frozenset({"PATH", "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_TIME_FORMAT", "LC_ALL", "LD_LIBRARY_PATH"})
"""What of root's environment a job's user is given."""
LINE_B = 4096
"""A line of a node's is shorter; what is longer comes in pieces that are none."""
_STOP_S = 10.0
_UNKNOWN = "Invalid job id"
"""What squeue says, and fails, of a job that is long gone or never was."""


@dataclass(frozen=True)
class Running:
    """A job, or a component of a heterogeneous one, as squeue shows it; `shown_id` is `4711`, `4711_3` or `4711+1`."""

    job_id: str
    state: str
    user: str
    nodes: int
    shown_id: str
    name: str


def running(job: str) -> list[Running]:
    """The running job of this id, as a user writes it; of a heterogeneous one's plain id its components that run.

    Raises
    ------
    NotFoundError
        Where Slurm shows none, or one that does not run.
    UsageError
        Where it is an array of several tasks.
    UnavailableError
        Where Slurm does not answer.
    """
    done = attempt(["squeue", "--noheader", f"--jobs={job}", "--format=%A|%T|%u|%D|%i|%j"], None, 30.0)
    if done.returncode != 0 and _UNKNOWN not in done.stderr:
        raise UnavailableError(failure("squeue", done))
    rows = [line.split("|", 5) for line in done.stdout.splitlines() if line.count("|") >= 5]
    known = [Running(row[0], row[1], row[2], int(row[3]) if row[3].isdigit() else 1, *row[4:]) for row in rows]
    if "+" in job:  # Slurm shows all components, whichever is asked for
        known = [one for one in known if one.shown_id == job]
    if not known:
        raise NotFoundError(f"job {job}: not in Slurm's queue, or not yours to see: perun report {job}")
    run = [one for one in known if one.state in ("RUNNING", "SUSPENDED")]
    if len(known) > 1 and not all("+" in one.shown_id for one in known):
        which = [one.shown_id for one in run][:1] or [f"{job}_1"]
        raise UsageError(f"job {job} has several tasks in the queue: name one, such as {which[0]}")
    if not run:
        raise NotFoundError(f"job {job} does not run: it is {known[0].state}")
    return run


def command(jobs: Sequence[Running], program: Sequence[str]) -> list[str]:
    """The srun that starts `program JOBID` once on each node: beside what runs there, with none of it for itself.

    A component is reached through the whole job alone, and its processes see the whole job's id.
    """
    whole = jobs[0].shown_id.partition("+")[0] if "+" in jobs[0].shown_id else jobs[0].job_id
    words = ["srun", "-Q", f"--jobid={whole}"]
    for job in jobs:
        _, _, component = job.shown_id.partition("+")
        words += [":"] if job is not jobs[0] else []
        words += [f"--het-group={component}"] if component else []
        words += [
            "--overlap", f"--nodes={job.nodes}", f"--ntasks={job.nodes}", "--ntasks-per-node=1", "--cpus-per-task=1",
            "--mem=0", "--gres=none", "--mpi=none", "--cpu-bind=none", "--unbuffered", "--kill-on-bad-exit=0",
            "--chdir=/", "--job-name=perun-watch", *program, job.job_id,
        ]  # fmt: skip
    return words


@contextlib.contextmanager
def lines(jobs: Sequence[Running], program: Sequence[str]) -> Iterator[Iterator[str]]:
    """What the program says on all nodes, line by line, until it ends; leaving ends it, and nothing else of the job.

    The program's stdin ends when this process leaves, or is gone, and it is to end then: a step that Slurm has to end
    would stand among the job's as cancelled. Root becomes the job's user for it, since Slurm lets nobody else in.

    Raises
    ------
    AccessError
        Where Slurm does not let the caller into the job.
    UnavailableError
        Where the step cannot be started.
    """
    try:
        process = subprocess.Popen(
            command(jobs, program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for this process, which ends the step in order
            **_as_whom(jobs[0]),
        )
    except OSError as error:
        raise UnavailableError(f"srun: {error.strerror or error}: run it where Slurm's commands are") from error
    try:
        yield _said(process, jobs[0])
    finally:
        _end(process)


def _said(process: subprocess.Popen[str], job: Running) -> Iterator[str]:
    assert process.stdout is not None and process.stderr is not None
    begun, stdout = False, process.stdout
    for line in iter(lambda: stdout.readline(LINE_B), ""):
        begun = True
        yield line
    if begun:
        return
    errors = [line.strip() for line in process.stderr if line.strip()]
    process.wait()
    text = errors[-1].removeprefix("srun: error: ") if errors else f"srun: exit code {process.returncode}"
    if any("denied" in line.lower() or "permission" in line.lower() for line in errors):
        raise AccessError(f"job {job.job_id} is not yours to watch: Slurm says: {text}")
    raise UnavailableError(f"job {job.job_id}: no step of perun's could be started there: {text}")


def _as_whom(job: Running) -> dict[str, Any]:
    """As whom srun runs, and in which environment: root's child is the job's user's, who may read its environment."""
    own = environment(os.environ)
    if os.geteuid() != 0:
        return {"env": {**own, **NO_FLAG}}
    try:
        user = pwd.getpwnam(job.user)
    except KeyError as error:
        raise UnavailableError(f"job {job.job_id}: its user {job.user} is not known on this host") from error
    shown = {name: value for name, value in own.items() if name in HARMLESS}
    environ = {**shown, "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, **NO_FLAG}
    return {"env": environ, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _end(process: subprocess.Popen[str]) -> None:
    """End the step: its tasks' stdin ends; what does not end by that is ended by Slurm."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for stop in (process.terminate, process.kill):
        try:
            process.wait(_STOP_S)
            break
        except subprocess.TimeoutExpired:
            stop()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
