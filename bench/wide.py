"""Jobs of very many nodes in the collector: CPU time and most memory of one sweep, beside an earlier build.

One job of 1,000 and one of 8,192 nodes, fifty of 1,000 nodes at once, and a job that runs on 4,096 nodes, looked at
for the first time and again when no node has said anything new. Each is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.against import ROOT, checked_out, commit
from bench.result import Result

CASES = {"one_1000": (1, 1000), "one_8192": (1, 8192), "fifty_1000": (50, 1000)}
RUNNING = 4096
SKIPPED_BY_THE_OTHER = ("fifty_1000",)
"""What takes an earlier build minutes and gigabytes."""
_FILL = """
import sys
from pathlib import Path
from tests.accounting_data import boundary, domain
root, where, jobs, nodes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
import json
parts = {name: domain(name.split("-")[0], 8_000_000_000) for name in ("cpu-0", "cpu-1", "dram-0")}
for job in range(1, jobs + 1):
    directory = root / "c" / where / f"{job}.0"
    directory.mkdir(parents=True)
    for at in range(1, nodes + 1):
        one = boundary(job, f"n{at}", f"n[1-{nodes}]", domains=parts)
        one["num_nodes"] = nodes
        (directory / f"n{at}.json").write_text(json.dumps(one))
"""
_SWEEP = """
import json, resource, sys, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.running import publish_running
from tests.accounting_data import START_S
try:
    from perun_hpc.archive.places import Archive
except ImportError:
    from perun_hpc.accounting.archive import Archive
archive, tools = Archive(Path(sys.argv[1]), "c"), Tools(lambda: START_S + 200.0)
ledger = open_ledger(sys.argv[1] + "/ledger.db", create=True)
figures, state = {}, {}
def spent(name, work):
    begin_s = time.process_time()
    made = work()
    figures[name] = time.process_time() - begin_s
    return made
if sys.argv[2] == "incoming":
    figures["made"] = spent("first", lambda: Collector(archive, ledger, tools, 900).sweep().stored)
else:
    Path(sys.argv[1], "c", "jobs").mkdir(exist_ok=True)
    figures["made"] = spent("first", lambda: publish_running(archive, tools))
    spent("again", lambda: publish_running(archive, tools))
figures["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(figures))
"""


def run() -> Iterator[Result]:
    """Yield CPU seconds and megabytes of each case."""
    with tempfile.TemporaryDirectory() as name, checked_out(Path(name) / "against") as other:
        root, builds = Path(name), {"ours": ROOT, commit(): other}
        for title, (jobs, nodes) in CASES.items():
            arms = {arm: build for arm, build in builds.items() if arm == "ours" or title not in SKIPPED_BY_THE_OTHER}
            yield from _compared(
                title, {arm: _swept(build, root, "incoming", jobs, nodes) for arm, build in arms.items()}
            )
        yield from _compared(
            "running", {arm: _swept(build, root, "running", 1, RUNNING) for arm, build in builds.items()}
        )


def _compared(title: str, taken: dict[str, dict[str, float]]) -> Iterator[Result]:
    ours, theirs = taken["ours"], taken.get(commit(), {})
    for name, figure in ours.items():
        if name != "made":
            unit = "MB" if name == "rss_mb" else "s"
            called = name if unit == "MB" else f"{name}_cpu_s"
            yield Result(f"wide.{title}.{called}", figure, unit, commit() if theirs else "", theirs.get(name))


def _swept(build: Path, root: Path, where: str, jobs: int, nodes: int) -> dict[str, float]:
    """What one collection of a build took."""
    environ = {**os.environ, "PYTHONPATH": str(build)}
    with tempfile.TemporaryDirectory(dir=root) as place:
        words = [sys.executable, "-c"]
        subprocess.run([*words, _FILL, place, where, str(jobs), str(nodes)], env=environ, cwd=build, check=True)
        done = subprocess.run(
            [*words, _SWEEP, place, where], env=environ, cwd=build, check=True, stdout=subprocess.PIPE, text=True
        )
    figures: dict[str, float] = json.loads(done.stdout)
    if figures["made"] != jobs:
        raise RuntimeError(f"{build}: {figures['made']} of {jobs} jobs were collected")
    return figures
