"""How much faster several collectors drain a backlog than one, on PostgreSQL, where each wait for a disk takes 2 ms.

Archive and database wait alike (`slow_sync.c`). Each round has an archive and a database of its own; one, two and four
collectors take turns. The CPU's limit stands beside: what the work took of all cores. `PERUN_BENCH_JOBS` sets how many
jobs of two nodes wait (default 2,000).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.against import ROOT
from bench.drain import DELAYS_US, FILL, shim_in, slowly
from bench.result import Median, Result, Skipped, interleaved
from perun_hpc.accounting.ledger import open_ledger
from tests import postgres

JOBS = int(os.environ.get("PERUN_BENCH_JOBS", "2000"))
COLLECTORS = (1, 2, 4)
ROUNDS = 3
_COLLECT = """
import json, os, sys, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive
from tests.accounting_data import START_S
archive, ledger = Archive(Path(sys.argv[1]), "c"), open_ledger(sys.argv[2])
tools = Tools(lambda: START_S + 200.0)
print("ready", flush=True)
sys.stdin.readline()
began_s, stored = time.process_time(), 0
while list(archive.incoming()):
    stored += Collector(archive, ledger, tools, 900).sweep().stored
    time.sleep(0.02)
print(json.dumps({"stored": stored, "cpu_s": time.process_time() - began_s}), flush=True)
"""


def run() -> Iterator[Result]:
    """Yield jobs a second of one, two and four collectors, and the share of all cores that these took."""
    if postgres.binaries() is None:
        raise Skipped("no PostgreSQL server here: install the package postgresql")
    with tempfile.TemporaryDirectory() as name:
        shim, busy = shim_in(Path(name)), dict.fromkeys(COLLECTORS, 0.0)
        taken = interleaved({str(n): _drained(shim, n, busy) for n in COLLECTORS}, ROUNDS)
    rate = {n: Median.of(JOBS / one for one in taken[str(n)]) for n in COLLECTORS}
    for n in COLLECTORS:
        peer, theirs = ("one collector", rate[1]) if n > 1 else ("", None)
        yield Result(f"shards.jobs_per_s.{n}", rate[n], "1/s", peer, theirs, ROUNDS, higher_is_better=True)
        yield Result(f"shards.cores.{n}", busy[n], f"of {os.cpu_count()}", n=ROUNDS)


def _drained(shim: Path, count: int, busy: dict[int, float]) -> Callable[[], float]:
    """What fills a backlog and drains it with some collectors; seconds. Into `busy` go the cores that were at work."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = slowly(shim, DELAYS_US["2ms"])

    def seconds() -> float:
        before = {key: os.environ.get(key) for key in slow}
        os.environ.update(slow)  # for the server, which inherits it
        try:
            with tempfile.TemporaryDirectory() as place, postgres.server(fsync=True) as url:
                for key in slow:
                    os.environ.pop(key)
                return _one_round(Path(place), url, count, {**environ, **slow}, environ, busy)
        finally:
            os.environ.update({key: value for key, value in before.items() if value is not None})

    return seconds


def _one_round(
    place: Path, url: str, count: int, slow: dict[str, str], environ: dict[str, str], busy: dict[int, float]
) -> float:
    subprocess.run([sys.executable, "-c", FILL, place, str(JOBS)], env=environ, cwd=ROOT, check=True)
    open_ledger(url, create=True).close()
    words = [sys.executable, "-c", _COLLECT, str(place), url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    working = [subprocess.Popen(words, env=slow, cwd=ROOT, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    for one in working:
        one.stdout.readline()
    os.sync()
    idle_s, begin_s = _idle_s(), time.perf_counter()
    for one in working:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [json.loads(one.stdout.readline()) for one in working]
    taken_s = time.perf_counter() - begin_s
    busy[count] = (os.cpu_count() or 1) - (_idle_s() - idle_s) / taken_s
    for one in working:
        one.communicate()
    stored = sum(one["stored"] for one in said)
    if stored != JOBS:
        raise RuntimeError(f"{count} collectors: {stored} of {JOBS} jobs were stored")
    return taken_s


def _idle_s() -> float:
    """Seconds that this machine's cores had nothing to do, since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
