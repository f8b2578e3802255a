"""What upkeep of an archive costs as it grows: `perun ledger rebuild`, `retention` that packs, `rebuild` from packs,
`delete`: most memory and CPU time of each command, at so many jobs and at ten times as many.

Jobs have one node and no trace, and two hundred owners. `PERUN_BENCH_JOBS` sets the fewer (default 2,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.against import ROOT
from bench.node_load import record_of
from bench.result import Result
from bench.site_jobs import Job
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import BOUNDARIES, RECORD, Archive, Run
from perun_hpc.data_model.boundary import parse_boundary
from perun_hpc.data_model.record import to_json
from tests.soak.store_data import START

JOBS = int(os.environ.get("PERUN_BENCH_JOBS", "2000"))
TIMES = 10
STEPS = {
    "rebuild": ("rebuild",),
    "pack": ("retention",),
    "rebuild_packed": ("--ledger", "{other}", "rebuild"),
    "delete": ("delete", "--before", "2030-01-01"),
}


@dataclass(frozen=True)
class _Cost:
    cpu_s: float
    rss_mb: float


def run() -> Iterator[Result]:
    """Yield each command's most memory beside that at a tenth of the jobs, and its CPU time a job."""
    costs = {count: _costs(count) for count in (JOBS, JOBS * TIMES)}
    for step in STEPS:
        few, many = costs[JOBS][step], costs[JOBS * TIMES][step]
        peer = f"{JOBS:,} jobs, not {JOBS * TIMES:,}"
        yield Result(f"upkeep.{step}_mb", many.rss_mb, "MB", peer, few.rss_mb)
        yield Result(
            f"upkeep.{step}_cpu_ms_a_job", many.cpu_s / (JOBS * TIMES) * 1e3, "ms", peer, few.cpu_s / JOBS * 1e3
        )


def _costs(count: int) -> dict[str, _Cost]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "policy.yaml").write_text("store: {pack_after: 8 d}\n")
        archive = Archive(root / "archive", "c")
        for number in range(1, count + 1):
            _leave(archive, number)
        costs = {}
        for step, words in STEPS.items():
            costs[step] = _cost(root, [word.format(other=root / "other.db") for word in words])
        if any(archive.all_runs()) or any(archive.jobs.rglob("*.zip")):
            raise RuntimeError("something is left of what was deleted")
        return costs


def _leave(archive: Archive, number: int) -> None:
    """What the collector leaves of a job, long ago."""
    data = json.dumps(record_of(Job(number, 1, 1, START, START + 30), 1, 0, True)).encode()
    directory = archive.make_job(Run(number, 0))
    (directory / BOUNDARIES).mkdir()
    (directory / BOUNDARIES / "n00001.json").write_bytes(data)
    (directory / RECORD).write_text(to_json(sum_boundaries([parse_boundary(data, "bench")])))
    os.utime(directory / RECORD, (START + 60, START + 60))


def _cost(root: Path, words: list[str]) -> _Cost:
    where = ["--ledger", str(root / "ledger.db"), "--archive", str(root / "archive"), "--cluster", "c"]
    command = [sys.executable, "-m", "perun_hpc.cli.main", "ledger", *where, *words]
    environ = {**os.environ, "PERUN_POLICY": str(root / "policy.yaml")}
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL)
    _, status, spent = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"perun ledger {words[-1]}: exit code {process.returncode}")
    return _Cost(spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024)
