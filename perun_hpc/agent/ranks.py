"""Ranks of flagged steps: who may register, and what they hand over; everything that comes from a user is checked."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from perun_hpc.agent.server import Peer
from perun_hpc.agent.session import RankRun, Session, Step, plain
from perun_hpc.errors import AccessError, DataError, NotFoundError
from perun_hpc.store.files import write_new

MAX_RANKS = 4096
"""Ranks of one job run that one node keeps."""
MAX_DATA_B = 32 * 1024 * 1024
"""Most that one rank may hand over."""
MAX_JOB_DATA_B = 256 * 1024 * 1024
"""Most that all ranks of a session may hand over."""
_F_GET_SEALS = 1034
_PIECE_B = 1 << 20


def number(fields: Mapping[str, str], key: str, most: int = 2**32 - 1) -> int:
    """A number that a user sent; DataError if it is none or too large."""
    text = fields.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise DataError(f"{key} {text[:20]!r}: a number up to {most} was expected")
    return int(text)


def check_member(root: Path, peer: Peer, session: Session) -> None:
    """Refuse a peer that is not of the job: another user's, or a process outside the job's cgroup."""
    if peer.uid != session.uid:
        raise AccessError(f"job {session.key.job_id} is not yours")
    try:
        lines = (root / f"proc/{peer.pid}/cgroup").read_text()
    except OSError as error:
        raise AccessError("your process is gone") from error
    names = [f"job_{session.key.job_id}"]
    if session.job.get("sluid"):
        names += [session.job["sluid"], f"job_{session.job['sluid']}"]
    parts = set(re.split(r"[/\n:]", lines))
    of_slurm = any(re.fullmatch(r"job_\w+|slurmstepd\.scope|slurm(_\w+)?", part) for part in parts)
    # Without any of Slurm's cgroups (proctrack/linuxproc) the user id is all there is.
    if of_slurm and not parts.intersection(names):
        raise AccessError(f"your process is not part of job {session.key.job_id}")


def register(session: Session, fields: Mapping[str, str], pid: int, mono_ns: int, real_ns: int) -> tuple[Step, RankRun]:
    """Add a rank to its step, or bring it up to date."""
    step_id = number(fields, "step_id")
    rank = number(fields, "rank", 2**31)
    name = str(step_id)
    step = session.steps.get(name)
    if sum(len(one.ranks) for one in session.steps.values()) >= MAX_RANKS:
        raise DataError(f"more than {MAX_RANKS} ranks on one node: this one is not kept")
    if step is None:
        step = Step(
            step_id=step_id,
            tasks=number(fields, "ntasks", 2**31) if fields.get("ntasks") else 1,
            nodes=number(fields, "nnodes", 2**31) if fields.get("nnodes") else 1,
            command=plain(fields.get("command", ""), 512),
            options=plain(fields.get("options", ""), 512),
        )
        session.steps[name] = step
    local = number(fields, "local_rank", 2**31) if fields.get("local_rank") else 0
    former = step.ranks.get(str(rank))
    if former is not None and former.end_ns is None:
        raise DataError(f"rank {rank} of step {step_id} runs already")
    run = RankRun(rank, local, pid, real_ns, start_mono_ns=mono_ns)
    step.ranks[str(rank)] = run
    return step, run


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


def content(fd: int) -> bytes:
    """What a rank's memory holds, up to the cap and without the empty pages behind a table that was still growing."""
    parts: list[bytes] = []
    at = 0
    while at < MAX_DATA_B:
        part = os.pread(fd, min(_PIECE_B, MAX_DATA_B - at), at)
        if not part or (at and not any(part)):
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def keep(directory: Path, step_id: int, rank: int, data: bytes) -> None:
    """Put a rank's data into the session's directory, for the time when the job has ended."""
    target = directory / "ranks"
    target.mkdir(mode=0o750, exist_ok=True)
    held = sum(path.stat().st_size for path in target.iterdir())
    if held + len(data) > MAX_JOB_DATA_B:
        raise DataError(f"the ranks of this job handed over more than {MAX_JOB_DATA_B} bytes: these are not kept")
    write_new(target / f"{step_id}-{rank}.rank", data, durable=False)


def ended(run: RankRun, mono_ns: int, real_ns: int) -> None:
    """Note a rank's end, once."""
    if run.end_ns is None:
        run.end_ns, run.end_mono_ns = real_ns, mono_ns
