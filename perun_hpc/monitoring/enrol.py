"""Registering a rank with the node's agent, where this is a Slurm step on a node that has one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from perun_hpc.comm import place_from, slurm_step
from perun_hpc.errors import PerunError

# The wire is imported where a step has been found: most runs of `perun monitor` are in none.

DEADLINE_S = 3.0
"""For an agent that is there and busy, since the ranks of a host must not differ in whether it takes them; where there
is none, nobody waits."""
_LONGEST = 4000


def reachable(environ: Mapping[str, str] = os.environ, socket: str | None = None) -> bool:
    """Whether this is a task of a Slurm step, on a node whose agent answers."""
    place = place_from({key: value for key, value in environ.items() if key.startswith("SLURM_")})
    if place.source != "slurm":
        return False
    from perun_hpc.wire.client import AGENT_SOCKET, request

    try:
        return request("status", {}, timeout_s=DEADLINE_S, path=socket or AGENT_SOCKET).verb == "ok"
    except PerunError:
        return False


def enrol(
    command: Sequence[str], environ: Mapping[str, str] = os.environ, socket: str | None = None
) -> dict[str, str] | None:
    """Register this process with the agent as a rank; returns the launcher's variables, None where no agent takes it.

    Called by the very process that is to be the rank, before it executes the command; the rank ends with the process.
    """
    known = task(environ)
    if known is None:
        return None
    from perun_hpc.wire.client import AGENT_SOCKET, request

    socket = socket or AGENT_SOCKET
    job_id, _, restart = known["PERUN_JOB"].partition(".")
    fields = {
        "job_id": job_id, "restart_count": restart, "step_id": known["PERUN_STEP"], "rank": known["PERUN_RANK"],
        "local_rank": known["PERUN_LOCAL_RANK"], "ntasks": known["PERUN_NTASKS"], "nnodes": known["PERUN_NNODES"],
        "command": shlex.join(command)[:_LONGEST], "options": environ.get("PERUN_OPTIONS", ""),
    }  # fmt: skip
    try:
        reply = request("rank-start", fields, timeout_s=DEADLINE_S, path=socket)
    except PerunError:
        return None
    if reply.verb != "ok":
        return None
    return {
        **known, "PERUN_SOCKET": socket,
        "PERUN_PERIOD_MS": reply.get("period_ms") or "", "PERUN_RESOLUTION_MS": reply.get("resolution_ms") or "",
    }  # fmt: skip


def task(environ: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """What the launcher's variables say of a task of a Slurm step, without an agent's socket; None where this is
    none."""
    job_id, step_id = environ.get("SLURM_JOB_ID", ""), slurm_step(environ)
    place = place_from({key: value for key, value in environ.items() if key.startswith("SLURM_")})
    if not (job_id.isascii() and job_id.isdigit()) or step_id is None or place.source != "slurm":
        return None
    return {
        "PERUN_JOB": f"{job_id}.{environ.get('SLURM_RESTART_COUNT', '0')}", "PERUN_STEP": step_id,
        "PERUN_RANK": str(place.rank), "PERUN_LOCAL_RANK": str(place.host_rank),
        "PERUN_NTASKS": str(place.size), "PERUN_NNODES": str(place.hosts or 1),
    }  # fmt: skip
