"""What people's commands cost, in CPU time of the whole process, beside an earlier build, a bare interpreter and sacct.

The earlier build (`bench.against`) is checked out beside this one, has a ledger of its own with the same jobs, and runs
in turn with it under the same interpreter, both from compiled modules, as installations have them. Slurm's commands ask
a slurmdbd with as many jobs (`bench/slurm_ledger.py`); without it they are left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import ledger as filling
from bench import slurm_ledger
from bench.against import ROOT, checked_out, commit
from bench.result import Result, medians
from devcluster import Cluster

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
_SACCT = ("sacct", "--allusers", "--allocations", "--noheader", "--format=JobID,JobName,User,State,Elapsed,AllocTRES")
_DAY = ("-S", "2026-10-01", "-E", "2026-10-02")
SLURMS: Mapping[str, Sequence[str]] = {
    "jobs_day": (*_SACCT, *_DAY),
    "report": (*_SACCT, "-j", "4711"),
    "usage": ("sreport", "-n", "-P", "-T", "energy", "cluster", "AccountUtilizationByUser", "Start=2026-10-01"),
}
"""What of Slurm's answers such a question."""
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
    """Yield CPU seconds of each command beside those of the earlier build, of the interpreter alone and of Slurm's."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        builds = {"ours": ROOT, commit(): stack.enter_context(checked_out(root / "against"))}
        slurms: dict[str, Callable[[], float]] = {}
        if why := slurm_ledger.missing():
            print(f"bench commands: without sacct as a peer: {why}", file=sys.stderr)
        else:
            cluster = stack.enter_context(slurm_ledger.filled(int(RECORDS), filling.FIRST, filling.DAYS))
            slurms = {title: _slurms(cluster, words) for title, words in SLURMS.items()}
        yield from _measured(builds, root, slurms)


def _slurms(cluster: Cluster, words: Sequence[str]) -> Callable[[], float]:
    return lambda: slurm_ledger.ask_s(cluster, words, slurm_ledger.CPU_TIMER)


def _measured(builds: Mapping[str, Path], root: Path, slurms: Mapping[str, Callable[[], float]]) -> Iterator[Result]:
    (root / "policy.yaml").write_text("{}")
    size_b: dict[str, float] = {}
    for name, build in builds.items():
        cpu_s(build, root, ["-c", _FILL, str(root / f"{name}.db")])
        size_b[name] = (root / f"{name}.db").stat().st_size / int(RECORDS)
    yield Result("commands.ledger_b", size_b["ours"], "B/record", commit(), size_b[commit()])
    for title, words in COMMANDS.items():
        arms = {name: _cpu(build, root, name, words) for name, build in builds.items()}
        for once in arms.values():
            once()  # its modules are compiled, its files are read
        arms["python"] = lambda: cpu_s(ROOT, root, ["-c", "pass"])
        if title in slurms:
            arms["slurm"] = slurms[title]
        taken = medians(arms, ROUNDS)
        yield Result(f"commands.{title}_cpu_s", taken["ours"], "s", commit(), taken[commit()], n=ROUNDS)
        yield Result(f"commands.{title}_cpu_s", taken["ours"], "s", "python -c pass", taken["python"], n=ROUNDS)
        if title in slurms:
            yield Result(f"commands.{title}_cpu_s", taken["ours"], "s", SLURMS[title][0], taken["slurm"], n=ROUNDS)


def _cpu(build: Path, root: Path, name: str, words: Sequence[str]) -> Callable[[], float]:
    where = ["--ledger", str(root / f"{name}.db"), "--archive", str(root), "--cluster", "c"]
    return lambda: cpu_s(build, root, ["-m", "perun_hpc.cli.main", *words, *where])


def cpu_s(build: Path, root: Path, arguments: Sequence[str], codes: Sequence[int] = (0,)) -> float:
    """Run the interpreter with a build's modules; its CPU time in seconds. `codes` are exit codes that it may have."""
    environ = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "PYTHONPYCACHEPREFIX": str(root / "compiled"),
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
