"""What ten million calls of a marked function take under `perun monitor`, beside an earlier build.

Memory of the program and of perun together at its most (their parts of shared pages, `Pss`), the results on disk, and
microseconds a call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.against import ROOT, checked_out, commit
from bench.result import Median, Result, interleaved

ROUNDS = 3
CALLS = 10_000_000
PROGRAM = f"""
import time
from perun_hpc import monitor
@monitor()
def tiny(): pass
begin = time.perf_counter()
for _ in range({CALLS}): tiny()
print((time.perf_counter() - begin) / {CALLS} * 1e6)
"""


@dataclass(frozen=True)
class Took:
    """Of one run: memory and disk in MB, time in us a call."""

    memory_mb: float
    disk_mb: float
    call_us: float


def run() -> Iterator[Result]:
    """Yield `calls.1e7.{memory_mb,disk_mb,us}` beside an earlier build."""
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as name, checked_out(Path(name) / "against") as other:
        builds = {"ours": ROOT, commit(): other}
        taken = interleaved({one: partial(_monitored, build) for one, build in builds.items()}, ROUNDS)
    for figure, unit in (("memory_mb", "MB"), ("disk_mb", "MB"), ("call_us", "us")):
        ours, theirs = (Median.of(getattr(one, figure) for one in taken[build]) for build in builds)
        yield Result(f"calls.1e7.{figure}", ours, unit, commit(), theirs, n=ROUNDS)


def _monitored(build: Path) -> Took:
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as home:
        (Path(home) / "program.py").write_text(PROGRAM)
        process = subprocess.Popen(
            [sys.executable, "-m", "perun_hpc.cli.main", "monitor", "program.py"],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(build)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        most_b = 0
        while process.poll() is None:
            most_b = max(most_b, _tree_b(process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        said = process.stdout.readline()
        disk_b = sum(path.stat().st_size for path in Path(home).rglob("*") if path.is_file())
        return Took(most_b / 1e6, disk_b / 1e6, float(said))


def _tree_b(pid: int) -> int:
    """Memory of a process and its descendants; nothing of one that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = " ".join((task / "children").read_text() for task in tasks).split()
    except (OSError, ProcessLookupError):
        return 0
    own_kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return own_kib * 1024 + sum(_tree_b(int(child)) for child in children)
