"""The newest Slurm: jobs of every kind in short, where their cgroups lie, and a clock that is a year ahead."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from guest import energy, live, perun, slurm
from guest.shell import require, run
from guest.steps import Again, Step

SLICE = "hpc.slice"


def other_slice(kept: dict[str, Any], said: list[str]) -> Again | None:
    # By cgroup.conf(5): no slurmstepd may be left, and slurmd's own unit lies in the same slice.
    run("systemctl", "stop", "slurmd")
    run("systemctl", "stop", "*slurmstepd.scope")
    Path("/etc/slurm/cgroup.conf").write_text(f"CgroupPlugin=cgroup/v2\nConstrainCores=yes\nCgroupSlice={SLICE}\n")
    drop_in = Path("/etc/systemd/system/slurmd.service.d/slice.conf")
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(f"[Service]\nSlice={SLICE}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "slurmd", "perun-agent")
    slurm.await_ready()
    perun.await_agent(120)
    job = slurm.submit("--exclusive", wrap=live.SPIN)
    slurm.await_running(job)
    (where, *_) = slurm.directories(job)
    slurm.await_state(job, "COMPLETED", "FAILED")
    found = live.closed(job)
    energy.check_counters(found)
    require(
        found["usage"]["cpu_ns"] > 5e9, f"{found['usage']['cpu_ns']} ns of CPU time of a job that computed for 10 s"
    )
    below = str(where.relative_to("/sys/fs/cgroup"))
    require(below.startswith(SLICE), f"its cgroup is {below}")
    require(re.search(r"/s[0-9A-Z]{13}\b", below), f"no SLUID in {below}")
    require(found["sluid"] == where.name, f"the record's SLUID is {found['sluid']}, the cgroup {where.name}")
    said.append(below)
    return None


def to_next_year(kept: dict[str, Any], said: list[str]) -> Again | None:
    kept["year"] = time.gmtime().tm_year
    return Again.NEXT_YEAR


def next_year(kept: dict[str, Any], said: list[str]) -> Again | None:
    require(time.gmtime().tm_year == kept["year"] + 1, f"it is {time.gmtime().tm_year}")
    slurm.await_ready()
    job = slurm.submit("--exclusive", wrap="sleep 10")
    slurm.await_state(job, "COMPLETED")
    perun.await_agent(180)
    job = slurm.submit("--exclusive", wrap="sleep 10")
    slurm.await_state(job, "COMPLETED")
    energy.check_counters(live.closed(job))
    record = perun.record(job)
    require(record["status"] == "complete", f"the record is {record['status']}")
    ended_s = record["end_ns"] / 1e9
    require(abs(time.time() - ended_s) < 120, f"it ended at {time.ctime(ended_s)}, now it is {time.ctime()}")
    said.append(f"{time.strftime('%Y-%m-%d', time.gmtime(ended_s))}, the record is whole")
    return None


STEPS = [
    *live.START,
    *live.JOBS,
    Step("CgroupSlice", "the job's cgroup is in another slice, named by its SLUID", other_slice),
    live.END,
    Step("power off", "the clock is set a year ahead", to_next_year),
    Step("next year", "a job, its record", next_year),
]
