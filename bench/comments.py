"""What perun's line in AdminComment costs on a real slurmdbd: a job, in sessions side by side, and of an array.

The jobs go into slurmdbd's tables by SQL (`slurm_ledger`): single ones, and an array. sacctmgr, slurmdbd and MariaDB
are the host's. Last of all perun's own flush writes the lines of `PERUN_BENCH_JOBS` (default 2,000) tasks of an array
of `PERUN_BENCH_TASKS` (default 100,000), and all of them are read back.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from datetime import datetime

from bench import slurm_ledger
from bench.against import ROOT
from bench.result import Result, Skipped

JOBS = int(os.environ.get("PERUN_BENCH_JOBS", "2000"))
TASKS = int(os.environ.get("PERUN_BENCH_TASKS", "100000"))
SESSIONS = (1, 8, 32, 64)
EACH = 8
"""Commands of a session."""
_TELL = """
import json, os, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
cluster, tasks, jobs, each = sys.argv[1], *map(int, sys.argv[2:5])
text = "perun1:rev=1:st=complete:pv=measured:n=1/1:cov=1000000:e=18420000000/155000000:crc=1a2b3c4d"
def spent_s(*names):
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = path.read_text().rpartition(")")
        except OSError:
            continue
        if before.partition("(")[2] in names:
            total += sum(map(int, after.split()[11:13])) / os.sysconf("SC_CLK_TCK")
    return total
def session(which):
    lines = [f'modify job where jobid={one} cluster={cluster} set AdminComment="{text}"' for one in which]
    text_in = "\\n".join(lines) + "\\n"
    subprocess.run(["sacctmgr", "--immediate", "--quiet"], input=text_in, text=True, capture_output=True)
figures, at = {}, tasks + 1
def timed(name, sessions):
    cpu_s, begin_s = spent_s("mariadbd", "slurmdbd"), time.perf_counter()
    with ThreadPoolExecutor(len(sessions)) as pool:
        list(pool.map(session, sessions))
    count = sum(map(len, sessions))
    figures[name] = {"per_s": count / (time.perf_counter() - begin_s),
                     "cpu_ms": (spent_s("mariadbd", "slurmdbd") - cpu_s) / count * 1e3}
timed("first", [range(at, at + each)])
for count in map(int, sys.argv[5].split(",")):
    timed(str(count), [range(at + n * each, at + (n + 1) * each) for n in range(count)])
    at += count * each
timed("task", [[f"1_{n}" for n in range(tasks // 2, tasks // 2 + each)]])
timed("own_id", [range(tasks // 2 + each, tasks // 2 + 2 * each)])

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.slurmdbd import Dbd, Flushed, flush
from perun_hpc.accounting.summing import missing_record
from perun_hpc.slurm.sacct import query_jobs
ask = lambda ids: query_jobs(ids, cluster, members=False)
with tempfile.TemporaryDirectory() as place:
    ledger = open_ledger(place + "/ledger.db", create=True)
    ids = list(range(1, jobs + 1))
    for first in range(0, jobs, 1000):
        ledger.put([missing_record(job, cluster, "") for job in ask(ids[first : first + 1000])], queue=True)
    cpu_s, begin_s, written = time.process_time(), time.perf_counter(), 0
    while written < jobs and (done := flush(ledger, cluster, Dbd(ask), True, 1000, 10)) != Flushed():
        written += done.written
    figures["flush"] = {"per_s": written / (time.perf_counter() - begin_s),
                        "cpu_ms": (time.process_time() - cpu_s) / jobs * 1e3}
    ledger.queue_arrays(cluster, [1])
    figures["sum"] = flush(ledger, cluster, Dbd(ask), True, 1000, 10, arrays=True).written
first, second = ask([1, 2])
figures["sum"] += first.admin_comment.startswith(f"perun2:tasks=0/{jobs}:") + second.admin_comment.startswith("perun1:")
figures["held"] = sum(job.admin_comment.startswith("perun") for job in ask(ids))
print(json.dumps(figures))
"""


def run() -> Iterator[Result]:
    """Yield jobs a second, and the CPU time of slurmdbd and MariaDB for one."""
    if why := slurm_ledger.missing():
        raise Skipped(why)
    singles = (sum(SESSIONS) + 1) * EACH
    array = (
        f"UPDATE `{slurm_ledger.NAME}_job_table` SET id_array_job = 1, id_array_task = id_job WHERE id_job <= {TASKS}"
    )
    with slurm_ledger.filled(TASKS + singles, datetime(2026, 11, 1), 10) as cluster:
        slurm_ledger.sql(cluster, array)
        words = [sys.executable, "-c", _TELL, slurm_ledger.NAME, str(TASKS), str(JOBS), str(EACH)]
        words.append(",".join(map(str, SESSIONS)))
        done = cluster.run(words, user="root", timeout=1800, env={"PYTHONPATH": str(ROOT)}, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    if figures["held"] != JOBS:
        raise RuntimeError(f"slurmdbd holds {figures['held']} of {JOBS} lines")
    if figures["sum"] != 3:
        raise RuntimeError("the array's own job does not hold the array's sum, or other tasks do")
    one = figures["1"]
    for count in SESSIONS:
        found = figures[str(count)]
        peer, theirs = ("one session", one["per_s"]) if count > 1 else ("", None)
        yield Result(f"comments.jobs_per_s.{count}", found["per_s"], "1/s", peer, theirs, higher_is_better=True)
    yield Result("comments.cpu_ms", one["cpu_ms"], "ms")
    yield Result("comments.cpu_ms.array", figures["own_id"]["cpu_ms"], "ms", "by its task", figures["task"]["cpu_ms"])
    yield Result("comments.flush.jobs_per_s", figures["flush"]["per_s"], "1/s")
    yield Result("comments.flush.cpu_ms", figures["flush"]["cpu_ms"], "ms")
