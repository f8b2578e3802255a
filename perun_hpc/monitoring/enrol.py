"""Registering a rank with the node's agent, where this is a Slurm step on a node that has one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence

from perun_hpc.comm import place_from
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
    """Tell the agent of this process as a rank; returns the launcher's variables, None where no agent takes it.

    Called by the very process that is to be the rank, before it executes the command; the rank ends with the process.
    """
    job_id, step_id = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    place = place_from({key: value for key, value in environ.items() if key.startswith("SLURM_")})
    if not job_id.isdigit() or place.source != "slurm":
        return None
    from perun_hpc.wire.client import AGENT_SOCKET, request

    socket = socket or AGENT_SOCKET
    restart = environ.get("SLURM_RESTART_COUNT", "0")
    fields = {
        "job_id": job_id, "restart_count": restart, "step_id": step_id, "rank": str(place.rank),
        "local_rank": str(place.host_rank), "ntasks": str(place.size), "nnodes": str(place.hosts or 1),
        "command": shlex.join(command)[:_LONGEST], "options": environ.get("PERUN_OPTIONS", ""),
    }  # fmt: skip
    try:
        reply = request("rank-start", fields, timeout_s=DEADLINE_S, path=socket)
    except PerunError:
        return None
    if reply.verb != "ok":
        return None
    return {
        "PERUN_SOCKET": socket, "PERUN_JOB": f"{job_id}.{restart}", "PERUN_STEP": step_id, "PERUN_RANK": fields["rank"],
        "PERUN_LOCAL_RANK": fields["local_rank"], "PERUN_NTASKS": fields["ntasks"], "PERUN_NNODES": fields["nnodes"],
        "PERUN_PERIOD_MS": reply.get("period_ms") or "", "PERUN_RESOLUTION_MS": reply.get("resolution_ms") or "",
    }  # fmt: skip
