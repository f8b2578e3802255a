"""What people's commands cost, in CPU time of the whole process, beside an earlier build and a bare interpreter.

The earlier build (`bench.against`) is checked out beside this one, has a ledger of its own with the same jobs, and runs
in turn with it under the same interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.against import ROOT, checked_out, commit
from bench.result import Result, medians

RECORDS = os.environ.get("PERUN_BENCH_RECORDS", "20000")
ROUNDS = 9
COMMANDS: Mapping[str, Sequence[str]] = {
    "jobs": ("jobs",),
    "jobs_day": ("jobs", "-S", "2026-10-01", "-E", "2026-10-02"),
    "jobs_node": ("jobs", "-N", "n1", "-S", "2026-10-01", "-E", "2026-10-02"),
    "jobs_user": ("jobs", "-u", "nobody", "-S", "2025-01-01"),
    "report": ("report", "4711"),
    "usage": ("usage", "-S", "2026-10-01"),
    "usage_days": ("usage", "--by", "user,day", "-S", "2025-11-01"),
}
_FILL = """
import sys
from bench import ledger as filling
batches = getattr(filling, "batches", None) or filling._batches
from perun_hpc.accounting.ledger import open_ledger
ledger = open_ledger(sys.argv[1], create=True)
for records in batches():
    ledger.put(records)
ledger.close()
"""


def run() -> Iterator[Result]:
    """Yield CPU seconds of each command beside those of the earlier build, and of the interpreter alone."""
    with tempfile.TemporaryDirectory() as name, checked_out(Path(name) / "against") as other:
        yield from _both({"ours": ROOT, commit(): other}, Path(name))


def _both(builds: Mapping[str, Path], root: Path) -> Iterator[Result]:
    (root / "policy.yaml").write_text("{}")
    size_b: dict[str, float] = {}
    for name, build in builds.items():
        cpu_s(build, root, ["-c", _FILL, str(root / f"{name}.db")])
        size_b[name] = (root / f"{name}.db").stat().st_size / int(RECORDS)
    yield Result("commands.ledger_b", size_b["ours"], "B/record", commit(), size_b[commit()])
    for title, words in COMMANDS.items():
        arms = {name: _cpu(build, root, name, words) for name, build in builds.items()}
        arms["python"] = lambda: cpu_s(ROOT, root, ["-c", "pass"])
        taken = medians(arms, ROUNDS)
        yield Result(f"commands.{title}_cpu_s", taken["ours"], "s", commit(), taken[commit()], n=ROUNDS)
        yield Result(f"commands.{title}_cpu_s", taken["ours"], "s", "python -c pass", taken["python"], n=ROUNDS)


def _cpu(build: Path, root: Path, name: str, words: Sequence[str]) -> Callable[[], float]:
    where = ["--ledger", str(root / f"{name}.db"), "--archive", str(root), "--cluster", "c"]
    return lambda: cpu_s(build, root, ["-m", "perun_hpc.cli.main", *words, *where])


def cpu_s(build: Path, root: Path, arguments: Sequence[str], codes: Sequence[int] = (0,)) -> float:
    """Run the interpreter with a build's modules; its CPU time in seconds. `codes` are exit codes that it may have."""
    environ = {
        **os.environ,
        "PYTHONPATH": str(build),
        "PERUN_BENCH_RECORDS": RECORDS,
        "PERUN_POLICY": str(root / "policy.yaml"),
    }
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=root, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise RuntimeError(f"{' '.join(arguments)[:200]} of {build}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime
