"""Ranks of flagged steps: who may register, and what they hand over; everything that comes from a user is checked."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.backend.cgroup import find_job, find_parent, job_in, job_names
from perun_hpc.data_model.wording import cut
from perun_hpc.errors import AccessError, DataError, NotFoundError
from perun_hpc.process.server import Peer

MAX_RANKS = 4096
"""Ranks of one job run that one node keeps: sixteen steps of one rank per CPU on a node with 256."""
MAX_USER_RANKS = 2 * MAX_RANKS
"""Ranks of all jobs of one user that run on the node: two such jobs take some 10 MB of the agent."""
MAX_TEXT_B = 512
"""Most bytes of a step's command, and of its options."""
MAX_JOB_TEXT_B = 256 * 1024
"""Most bytes of all commands and options of one job run."""
USER_PART = 4, 5
"""One user's ranks may hold this part of the descriptors for ranks: with 16,384 open files that are `MAX_RANKS`."""
RANKS_LEFT_OUT = f"ranks left out: a node keeps {MAX_RANKS} of a job and {MAX_USER_RANKS} of a user"
TEXTS_LEFT_OUT = f"commands of steps left out: a node keeps {MAX_JOB_TEXT_B} bytes of them"
RUNTIMES = (
    *("apptainer", "bwrap", "ch-run", "crun", "docker", "enroot", "nerdctl"),
    *("podman", "runc", "sarus", "shifter", "singularity", "udocker"),
)
"""Programs that start containers: what runs there is a child of the rank, and without its launcher."""
_OUTSIDE = {
    "container": "in a container where the launcher is not seen",
    "prefix": "where the installation is not there or did not answer",
}
_F_GET_SEALS = 1034


def of_one_user(most: int) -> int:
    """How many of the descriptors for ranks one user may hold."""
    return most * USER_PART[0] // USER_PART[1]


def number(fields: Mapping[str, str], key: str, most: int = 2**32 - 1) -> int:
    """A number that a user sent; DataError if it is none or too large."""
    text = fields.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise DataError(f"{key} {text[:20]!r}: a number up to {most} was expected")
    return int(text)


def check_member(root: Path, peer: Peer, session: Session) -> None:
    """Refuse a peer that is not of the job: another user's, or a process outside the job's cgroup.

    On a node without any of Slurm's cgroups (proctrack/linuxproc) the user id is all there is.
    """
    if peer.uid != session.uid:
        raise AccessError(f"job {session.key.job_id} is not yours")
    inside = _is_inside(root, peer.pid, session)
    if inside is None:
        inside = find_parent(root, session.job.get("node")) is None
    if not inside:
        raise AccessError(f"your process is not part of job {session.key.job_id}")


def _is_inside(root: Path, pid: int, session: Session) -> bool | None:
    """Whether a process is in the job's cgroup; None where it is in none of Slurm's."""
    try:
        lines = os.fsdecode((root / f"proc/{pid}/cgroup").read_bytes())  # names hold any bytes but / and NUL
    except OSError:
        return _is_listed(root, pid, session)
    names = job_names(str(session.key.job_id), session.job.get("sluid"))
    found = {job_in(line.partition(":")[2].partition(":")[2]) for line in lines.split("\n")} - {None}
    return not found.isdisjoint(names) if found else None


def _is_listed(root: Path, pid: int, session: Session) -> bool | None:
    """The same for a process that /proc does not show (hidepid): the job's cgroup lists its processes to everybody."""
    if any(run.pid == pid and run.end_ns is None for step in session.steps.values() for run in step.ranks.values()):
        return True  # it was looked up when it registered, and is watched since
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        raise AccessError("your process is gone") from error
    job = find_job(root, str(session.key.job_id), session.job.get("sluid"), session.job.get("node"))
    if job is None:
        return None
    try:
        return pid in job.processes()
    finally:
        job.close()


def register(session: Session, fields: Mapping[str, str], pid: int, mono_ns: int, real_ns: int) -> tuple[Step, RankRun]:
    """Add a rank to its step, or bring it up to date."""
    step_id = number(fields, "step_id")
    rank = number(fields, "rank", 2**31)
    name = str(step_id)
    step = session.steps.get(name)
    if session.ranks >= MAX_RANKS:
        session.leave_out(RANKS_LEFT_OUT)
        raise DataError(f"more than {MAX_RANKS} ranks on one node: this one is not kept")
    if step is None:
        command, options = cut(fields.get("command", ""), MAX_TEXT_B), cut(fields.get("options", ""), MAX_TEXT_B)
        text_b = len((command + options).encode())
        if session.text_b + text_b > MAX_JOB_TEXT_B:
            session.leave_out(TEXTS_LEFT_OUT)
            command, options = "", ""
        step = Step(
            step_id=step_id,
            tasks=number(fields, "ntasks", 2**31) if fields.get("ntasks") else 1,
            nodes=number(fields, "nnodes", 2**31) if fields.get("nnodes") else 1,
            command=command,
            options=options,
        )
        session.add_step(step)
    local = number(fields, "local_rank", 2**31) if fields.get("local_rank") else 0
    former = step.ranks.get(str(rank))
    if former is not None and former.end_ns is None:
        raise DataError(f"rank {rank} of step {step_id} runs already")
    run = RankRun(rank, local, pid, real_ns, start_mono_ns=mono_ns)
    session.add_rank(name, run)
    return step, run


def from_outside(fields: Mapping[str, str]) -> str:
    """Why a rank that registers is measured from outside, as the job's record says it; empty where it need not be."""
    words = fields.get("command", "").split(maxsplit=1)
    runtime = os.path.basename(words[0]) if words else ""  # noqa: PTH119 - a user's text
    where = _OUTSIDE.get(
        fields.get("outside", ""), f"that start a container ({runtime})" if runtime in RUNTIMES else ""
    )
    return f"flagged steps {where}: measured from outside, without regions" if where else ""


def find(session: Session, fields: Mapping[str, str], pid: int) -> RankRun:
    """The registered rank that a message is about; it must come from that very process."""
    step = session.steps.get(str(number(fields, "step_id")))
    run = step.ranks.get(str(number(fields, "rank", 2**31))) if step else None
    if run is None:
        raise NotFoundError("this rank did not register")
    if run.pid != pid:
        raise AccessError("this rank is another process")
    return run


def check_memory(fd: int) -> int:
    """The size of a memory file that a rank handed over; DataError for anything else, which a read could hang on."""
    try:
        fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError as error:
        raise DataError("rank data must come as a memory file (memfd)") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise DataError("rank data must come as a memory file (memfd)")
    return status.st_size
