"""Try one fault: break, run jobs, heal, see what was lost and whether everything recovers by itself."""

from __future__ import annotations

import collections
import contextlib
import re
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from devcluster import ClusterError
from tests.faults import load
from tests.faults.catalogue import Fault
from tests.faults.ground import Ground, repeated
from tests.stamp import stamp

SETTLE_S = 90.0
QUIET_S = 12.0
RECOVER_S = 120.0
RECORD_S = 30.0
AUDIT_S = 20.0
NOT_LEARNT = "static power of "
"""So begins what each record of a cluster says that is as young as one of these; it tells nothing of a fault."""
NO_RANK = "submitted with --perun, but no rank registered on this node"
BAD = ("drain", "drng", "down", "fail")


@dataclass
class Result:
    """What happened; times of hooks in ms, on the broken nodes only."""

    name: str
    control: bool
    jobs: int = 0
    beside: int = 0
    failed: int = 0
    beside_failed: int = 0
    requeued: int = 0
    bad_nodes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    hook_ms: list[float] = field(default_factory=list)
    hook_failures: int = 0
    complete: int = 0
    partial: int = 0
    missing: int = 0
    absent: int = 0
    flagged: int = 0
    flagged_unseen: int = 0
    flagged_unnamed: int = 0
    said: dict[str, int] = field(default_factory=dict)
    late_ms: list[float] = field(default_factory=list)
    recovered_s: float | None = None
    audit: list[str] = field(default_factory=list)
    seconds: float = 0.0
    of: str = ""


def measure(ground: Ground, fault: Fault, count: int, control: bool = False) -> Result:
    """Try a fault with `count` jobs; `control` switches perun off, to see what Slurm does without it."""
    result = Result(fault.name, control, of=stamp())
    begin = time.monotonic()
    ground.cluster.wait_idle()
    switch = ground.cluster.etc_perun / "disable"
    if control:
        switch.touch()
    try:
        found = set() if control else ground.audit()
        _warm(ground)
        hooks = ground.hook_runs()
        bad: set[str] = set()
        with repeated(lambda: bad.update(_bad_nodes(ground)), 1.0), fault.breaker(ground):
            jobs = load.run(ground, f"f{uuid.uuid4().hex[:8]}", count, fault.flagged)
        healed = time.monotonic()
        ground.cluster.wait_idle(120)
        result.bad_nodes = sorted(bad)
        _count(result, ground, jobs, hooks)
        if not control:
            _recover(result, ground, healed)
            _records(result, ground, jobs)
            for look in ground.looks:
                said, wrong = look(healed)
                result.said[said] = 1
                result.errors += wrong
            result.audit = _audit(ground, found)
    finally:
        switch.unlink(missing_ok=True)
        ground.later.close()
        ground.looks.clear()
    result.seconds = time.monotonic() - begin
    return result


def _warm(ground: Ground) -> None:
    """A job on all nodes: there are agents, and nothing waits."""
    ground.cluster.run(["srun", "-N4", "true"], check=True, timeout=120)
    ground.cluster.wait_idle()


def _bad_nodes(ground: Ground) -> Iterable[str]:
    states = ground.cluster.states()
    return [f"{node} {state}" for node, state in states.items() if any(word in state for word in BAD)]


def _count(result: Result, ground: Ground, jobs: load.Load, hooks: dict[str, int]) -> None:
    result.jobs, result.beside = len(jobs.broken), len(jobs.beside)
    result.failed = sum(job.state != "COMPLETED" for job in jobs.broken)
    result.beside_failed = sum(job.state != "COMPLETED" for job in jobs.beside)
    result.requeued = sum(job.restarts > 0 for job in (*jobs.broken, *jobs.beside))
    result.errors = list(jobs.errors)
    times = ground.hook_times(hooks)
    result.hook_ms = [round(ms, 2) for _, ms, _ in times]
    result.hook_failures = sum(status != 0 for _, _, status in times)


def _recover(result: Result, ground: Ground, healed: float) -> None:
    """Normal jobs on all nodes until one has a complete record, without anybody's help."""
    while time.monotonic() < healed + RECOVER_S:
        with contextlib.suppress(ClusterError):
            record = _recorded(ground, _normal_job(ground))
            if record is not None and record["status"] == "complete" and len(record["nodes"]) == 4:
                result.recovered_s = time.monotonic() - healed
                return


def _recorded(ground: Ground, job: int) -> dict[str, Any] | None:
    """The job's record, waited for."""
    deadline = time.monotonic() + RECORD_S
    while (record := ground.record(job, 0)) is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return record


def _normal_job(ground: Ground) -> int:
    done = ground.cluster.run(["srun", "-N4", "sh", "-c", "echo $SLURM_JOB_ID"], check=True, timeout=120)
    return int(done.stdout.split()[0])


def _records(result: Result, ground: Ground, jobs: load.Load) -> None:
    """Wait until the records do not change any more, then count what they say."""
    runs = [(job.job_id, restart) for job in (*jobs.broken, *jobs.beside) for restart in range(job.restarts + 1)]
    deadline = time.monotonic() + SETTLE_S
    former: dict[tuple[int, int], str] = {}
    quiet_since = time.monotonic()
    while time.monotonic() < deadline:
        records = {run: record for run in runs if (record := ground.record(*run)) is not None}
        now = {run: str(record["status"]) + str(record["revision"]) for run, record in records.items()}
        if now != former:
            former, quiet_since = now, time.monotonic()
        whole = len(now) == len(runs) and all(record["status"] == "complete" for record in records.values())
        if whole or (len(now) == len(runs) and time.monotonic() - quiet_since > QUIET_S):
            break
        time.sleep(0.5)
    said: collections.Counter[str] = collections.Counter()
    for run in runs:
        found = records.get(run)
        if found is None:
            result.absent += 1
            continue
        status = found["status"]
        setattr(result, status, getattr(result, status) + 1)
        gaps = [text for text in ground.gaps(*run) if not text.startswith(NOT_LEARNT)]
        said.update({_plain(text) for text in (*found["missing"], *gaps)})
        said.update({f"{_plain(node['why'])}" for node in found["nodes"] if node["why"]})
        result.late_ms += [round(node["late_ns"] / 1e6, 1) for node in found["nodes"]]
    result.said = dict(said.most_common())
    result.flagged = len(jobs.flagged)
    for job in jobs.flagged:
        record = ground.record(job.job_id, job.restarts)
        if record is None or not any(step["step_id"].isdigit() for step in record["steps"]):
            result.flagged_unseen += 1
            result.flagged_unnamed += NO_RANK not in ground.gaps(job.job_id, job.restarts)


def _audit(ground: Ground, known: set[str]) -> list[str]:
    """What the audit finds beyond what it found before, once slurmdbd and collector have caught up."""
    deadline = time.monotonic() + AUDIT_S
    while (found := ground.audit() - known) and time.monotonic() < deadline:
        time.sleep(2)
    return sorted(found)


def _plain(text: str) -> str:
    """A sentence without the numbers and names that differ from job to job."""
    return re.sub(r"\bn\d\b", "NODE", re.sub(r"\d{3,}|\d+\.\d+", "N", text))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(len(ordered) * share * 1000) // 1000) - 1)]
