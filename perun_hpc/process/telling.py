"""Inside a step of a job, on one of its nodes: what the agent there says of the job's energy, a line of JSON each time.

`perun watch` has Slurm start it. It asks at most once in `every_s` and says what is new; the agent decides how often
that is (`privacy.shared_resolution` where the node is shared). Its stdin is srun's: it ends as soon as whoever watches
closes that, or is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from perun_hpc.errors import PerunError
from perun_hpc.wire.client import AGENT_SOCKET, request

LEAST_S = 1.0
"""More often than that nobody asks: each answer to a job that is alone costs the node a reading."""


def tell(
    job_id: str,
    environ: Mapping[str, str],
    every_s: float,
    say: Callable[[str], None],
    wait: Callable[[float], None],
    path: str = AGENT_SOCKET,
) -> None:
    """Say the energy of the job whose step this is, until `say` or `wait` ends it.

    `job_id` is the component's in a heterogeneous job, whose processes are given that of the whole.
    """
    node = environ.get("SLURMD_NODENAME", "")
    job = {"job_id": job_id, "restart_count": environ.get("SLURM_RESTART_COUNT") or "0"}
    last: Mapping[str, Any] = {}
    while True:
        said = _ask(job, path)
        if said != last:
            say(json.dumps({"node": node, "job": job_id, **said}))
            last = said
        wait(max(every_s, LEAST_S))


def _ask(job: Mapping[str, str], path: str) -> dict[str, Any]:
    try:
        reply = request("window", job, timeout_s=5.0, path=path)
        if reply.verb != "ok":
            return {"error": (reply.get("reason") or "no reason given")[:200]}
        said = {key: int(reply.fields[key]) for key in ("energy_uj", "mono_ns", "resolution_ms")}
        return {**said, **({"gpus": json.loads(reply.fields["gpus"])} if reply.fields.get("gpus") else {})}
    except (PerunError, KeyError, ValueError) as error:
        return {"error": str(error)[:200]}


def tell_in_step(job_id: str, every_s: float) -> int:
    """The same on stdout until stdin ends; 0 however it is ended, so that the job's exit codes stay its own."""

    def end(number: int = 0, frame: object = None) -> None:
        os._exit(0)

    def say(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def wait(seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            readable, _, _ = select.select([0], [], [], left_s)
            if readable and not os.read(0, 4096):
                end()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    try:
        tell(job_id, os.environ, every_s, say, wait)
    except OSError:  # nobody reads any more
        end()
    return 0
