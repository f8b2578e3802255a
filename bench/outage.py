"""A long outage of slurmdbd at a busy site: what it costs to compare days of 500,000 jobs with the ledger, and memory.

sacct is simulated: a function answers its command line in sacct's own form. While days are compared no job needs a
record (as where the policy leaves them out), so that what is measured is asking, parsing and comparing. Then records
that were stored without sacct are completed. `PERUN_BENCH_DAYS` sets how many days are caught up (default 2; a month
takes as much per day), `PERUN_BENCH_JOBS` how many records are completed (default 20,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.against import ROOT
from bench.result import Result

DAYS = int(os.environ.get("PERUN_BENCH_DAYS", "2"))
JOBS_A_DAY = 500_000
RECORDS = int(os.environ.get("PERUN_BENCH_JOBS", "20000"))
_COMPLETE = """
import json, resource, sys, tempfile, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive
from perun_hpc.slurm.sacct import query_jobs
from tests.accounting_data import START_S, boundary, put_incoming
from tests.fake_slurm import ROW
records = int(sys.argv[1])
times = {"Submit": START_S - 5, "Start": START_S, "End": START_S + 100}
def answer(words, given, timeout_s):
    options = dict(one.split("=", 1) for one in words if one.startswith("--") and "=" in one)
    end, fields = options["--delimiter"], options["--format"].split(",")
    rows = ({**ROW, **times, "JobIDRaw": one, "JobID": one} for one in words[words.index("-j") + 1].split(","))
    return "\\n".join("".join(f"{row.get(name, '')}{end}" for name in fields) for row in rows) + "\\n"
with tempfile.TemporaryDirectory() as name:
    for number in range(1, records + 1):
        put_incoming(Path(name), boundary(number))
    archive, ledger = Archive(Path(name), "c"), open_ledger(name + "/ledger.db", create=True)
    now = lambda: START_S + 2000.0
    stored = Collector(archive, ledger, Tools(now), 900).sweep().stored
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    slurm = Slurm(lambda ids: query_jobs(ids, "c", answer), lambda since, until: [])
    cpu_s, begin_s = time.process_time(), time.perf_counter()
    completed = Collector(archive, ledger, Tools(now, slurm), 900).sweep().completed
    print(json.dumps({"stored": stored, "completed": completed, "cpu_s": time.process_time() - cpu_s,
                      "s": time.perf_counter() - begin_s, "before_mb": before_mb,
                      "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
_CATCH_UP = """
import json, resource, sys, tempfile, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive
from perun_hpc.slurm.sacct import query_between
from tests.accounting_data import START_S
from tests.fake_slurm import ROW
days, a_day = int(sys.argv[1]), int(sys.argv[2])
slices, rows = [], 0
def answer(words, given, timeout_s):
    global rows
    options = dict(one.split("=", 1) for one in words if one.startswith("--") and "=" in one)
    since_s, until_s = (int(words[words.index(flag) + 1][3:]) for flag in ("-S", "-E"))
    fields = options["--format"].split(",")
    slices.append(until_s - since_s)
    lines = []
    for number in range(since_s * a_day // 86_400, until_s * a_day // 86_400):
        end_s = number * 86_400 // a_day
        row = {**ROW, "JobIDRaw": number, "JobID": number, "Submit": end_s - 700, "Start": end_s - 600, "End": end_s}
        lines.append("".join(f"{row.get(name, '')}{options['--delimiter']}" for name in fields))
    rows += len(lines)
    return "\\n".join(lines) + "\\n"
now_s = [float(START_S)]
with tempfile.TemporaryDirectory() as name:
    ledger = open_ledger(name + "/ledger.db", create=True, clock=lambda: now_s[0])
    slurm = Slurm(lambda ids: [], lambda since, until: query_between(since, until, ("--allusers",), None, answer))
    tools = Tools(lambda: now_s[0], slurm, expects=lambda job: False)
    ledger.marks.set_compared("c", START_S)
    (Path(name) / "c").mkdir()
    now_s[0] += days * 86_400 + 900
    begin_s, sweeps = time.process_time(), 0
    while (ledger.marks.compared_until_s("c") or 0) < START_S + days * 86_400:
        summary = Collector(Archive(Path(name), "c"), ledger, tools, 900).sweep()
        sweeps += 1
        assert not summary.failed, summary.notes
print(json.dumps({"cpu_s": time.process_time() - begin_s, "rows": rows, "slices": len(slices), "longest_s": max(slices),
                  "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def run() -> Iterator[Result]:
    """Yield CPU seconds a day of the outage, records a second that are completed, and the most memory of each."""
    figures = _said(_CATCH_UP, DAYS, JOBS_A_DAY)
    if figures["rows"] < DAYS * JOBS_A_DAY:
        raise RuntimeError(f"{figures['rows']} of {DAYS * JOBS_A_DAY} jobs were compared")
    yield Result("outage.cpu_s_a_day", figures["cpu_s"] / DAYS, "s")
    yield Result("outage.rows_a_question", figures["rows"] / figures["slices"], "")
    yield Result("outage.rss_mb", figures["rss_mb"], "MB")
    figures = _said(_COMPLETE, RECORDS)
    if not figures["stored"] == figures["completed"] == RECORDS:
        raise RuntimeError(f"{figures['completed']} of {RECORDS} records were completed")
    yield Result("outage.completed_per_s", RECORDS / figures["s"], "1/s")
    yield Result("outage.completed_cpu_ms", figures["cpu_s"] / RECORDS * 1e3, "ms")
    yield Result("outage.completed_rss_mb", figures["rss_mb"], "MB")


def _said(program: str, *numbers: int) -> dict[str, float]:
    """What a program of its own prints."""
    words = [sys.executable, "-c", program, *map(str, numbers)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environ, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    said: dict[str, float] = json.loads(done.stdout)
    return said
