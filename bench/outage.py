"""A long outage of slurmdbd at a busy site: what it costs to compare days of 500,000 jobs with the ledger, and memory.

sacct is simulated: a function answers its command line in sacct's own form. No job needs a record (as where the policy
leaves them out), so that what is measured is asking, parsing and comparing. `PERUN_BENCH_DAYS` sets how many days are
caught up (default 2); a month takes as much per day.
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
    """Yield CPU seconds a day of the outage, and the most memory."""
    words = [sys.executable, "-c", _CATCH_UP, str(DAYS), str(JOBS_A_DAY)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environ, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(done.stdout)
    if figures["rows"] < DAYS * JOBS_A_DAY:
        raise RuntimeError(f"{figures['rows']} of {DAYS * JOBS_A_DAY} jobs were compared")
    yield Result("outage.cpu_s_a_day", figures["cpu_s"] / DAYS, "s")
    yield Result("outage.rows_a_question", figures["rows"] / figures["slices"], "")
    yield Result("outage.rss_mb", figures["rss_mb"], "MB")
