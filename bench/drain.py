"""How fast the collector drains a backlog: this build beside an earlier one, on a fast disk and on one that waits.

The earlier build is made to sync every commit, as this one does. "2ms": fsync, fdatasync and syncfs take 2 ms longer
(`slow_sync.c`), as a parallel file system's do. Each collection is a process of its own on a backlog of its own; those
of both builds take turns. `PERUN_BENCH_JOBS` sets how many jobs of two nodes wait (default 2,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.against import ROOT, checked_out, commit
from bench.result import Median, Result, Skipped, interleaved

JOBS = int(os.environ.get("PERUN_BENCH_JOBS", "2000"))
ROUNDS = 5
DELAYS_US = {"local": 0, "2ms": 2000}
FILL = """
import sys
from pathlib import Path
from tests.accounting_data import boundary, put_incoming
for number in range(1, int(sys.argv[2]) + 1):
    for node in ("n1", "n2"):
        put_incoming(Path(sys.argv[1]), boundary(number, node, "n1,n2"))
"""
_DRAIN = """
import json, resource, sys, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from tests.accounting_data import START_S, slurm_job
try:
    from perun_hpc.archive.places import Archive
except ImportError:
    from perun_hpc.accounting.archive import Archive
jobs = {n: slurm_job(n, nodelist="n[1-2]", num_nodes=2) for n in range(1, int(sys.argv[2]) + 1)}
ledger = open_ledger(sys.argv[1] + "/ledger.db", create=True)
slurm = Slurm(lambda ids: [jobs[n] for n in ids if n in jobs], lambda since, until: [])
collector = Collector(Archive(Path(sys.argv[1]), "c"), ledger, Tools(lambda: START_S + 200.0, slurm), deadline_s=900)
begin_s, cpu_s = time.perf_counter(), time.process_time()
stored = collector.sweep().stored
figures = {"s": time.perf_counter() - begin_s, "cpu_s": time.process_time() - cpu_s, "stored": stored,
           "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
print(json.dumps(figures))
"""
_NORMAL, _FULL = "PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"


def run() -> Iterator[Result]:
    """Yield jobs a second of both builds, and what limits ours: CPU time and syncs a job."""
    with tempfile.TemporaryDirectory() as name, checked_out(Path(name) / "against") as other:
        root = Path(name)
        _make_durable(other / "perun_hpc/accounting/ledger.py")
        shim = shim_in(root)
        for title, us in DELAYS_US.items():
            last: dict[str, Mapping[str, float]] = {}
            builds = {"ours": ROOT, commit(): other}
            arms = {arm: _drained(build, root, shim, us, arm, last) for arm, build in builds.items()}
            taken = interleaved(arms, ROUNDS)
            rate = {arm: Median.of(JOBS / one for one in seconds) for arm, seconds in taken.items()}
            peer = rate[commit()]
            yield Result(f"drain.jobs_per_s.{title}", rate["ours"], "1/s", commit(), peer, ROUNDS, True)
            ours, theirs = last["ours"], last[commit()]
            for figure, unit in (("cpu_s", "s/job"), ("syncs", "1/job")):
                yield Result(f"drain.{figure}.{title}", ours[figure] / JOBS, unit, commit(), theirs[figure] / JOBS)
        yield Result("drain.rss_mb", ours["rss_mb"], "MB", commit(), theirs["rss_mb"])


def shim_in(root: Path) -> Path:
    """Build what makes waits for a disk longer."""
    shim, source = root / "slow_sync.so", ROOT / "bench/slow_sync.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", shim, source, "-ldl"], check=True)
    root.chmod(0o755)  # a database's server is another user's
    return shim


def slowly(shim: Path, us: int) -> dict[str, str]:
    """The environment of a process whose waits for a disk take so many microseconds longer."""
    return {"LD_PRELOAD": str(shim), "PERUN_BENCH_SYNC_US": str(us)}


def counted(syncs: Path) -> int:
    """How many calls that wait for a disk were counted in a file."""
    return int.from_bytes(syncs.read_bytes(), sys.byteorder)


def _make_durable(ledger: Path) -> None:
    """Let a build of before sync every commit; one that does already stays."""
    text = ledger.read_text()
    if _FULL in text or not (ledger.parent / "database.py").exists():
        ledger.write_text(text.replace(_NORMAL, _FULL))
        if _FULL not in ledger.read_text():
            raise Skipped(f"{commit()}: its ledger cannot be made durable")


def _drained(
    build: Path, root: Path, shim: Path, us: int, arm: str, last: dict[str, Mapping[str, float]]
) -> Callable[[], float]:
    """What fills a backlog and collects it with a build; seconds of the sweep. All its figures go into `last`."""
    environ = {**os.environ, "PYTHONPATH": str(build)}
    slow = {**slowly(shim, us), "PERUN_BENCH_SYNCS": str(root / "syncs")}

    def seconds() -> float:
        with tempfile.TemporaryDirectory(dir=root) as place:
            words = [sys.executable, "-c"]
            subprocess.run([*words, FILL, place, str(JOBS)], env=environ, cwd=build, check=True)
            (root / "syncs").unlink(missing_ok=True)
            os.sync()
            done = subprocess.run(
                [*words, _DRAIN, place, str(JOBS)],
                env={**environ, **slow}, cwd=build, check=True, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            figures: dict[str, float] = json.loads(done.stdout)
            if figures["stored"] != JOBS:
                raise RuntimeError(f"{arm}: {figures['stored']} of {JOBS} jobs were stored")
            last[arm] = {**figures, "syncs": counted(root / "syncs")}
            return figures["s"]

    return seconds
