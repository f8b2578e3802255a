"""How much faster several collectors drain a backlog than one, on PostgreSQL, where each wait for a disk takes longer.

Archive and database wait alike (`slow_sync.c`): 2 ms longer, as on a parallel file system, and 10 and 20 ms, as on one
with much to do, where the cores of this machine are not what limits. Each round has an archive and a database of its
own; one, two and four collectors take turns. The CPU's limit stands beside: the CPU time that collectors and server
took, a job and as so many cores at work. `PERUN_BENCH_JOBS` sets how many jobs of two nodes wait (default 2,000),
`PERUN_BENCH_ROUNDS` (3) how often, `PERUN_BENCH_WAITS` (2,10,20) the ms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.against import ROOT
from bench.drain import FILL, shim_in, slowly
from bench.nodes import spent_by_all
from bench.result import Median, Result, Skipped, interleaved
from perun_hpc.accounting.ledger import open_ledger
from tests import postgres
from tests.accounting_data import START_S

JOBS = int(os.environ.get("PERUN_BENCH_JOBS", "2000"))
COLLECTORS = (1, 2, 4)
ROUNDS = int(os.environ.get("PERUN_BENCH_ROUNDS", "3"))
WAITS_MS = tuple(int(ms) for ms in os.environ.get("PERUN_BENCH_WAITS", "2,10,20").split(","))
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


@dataclass(frozen=True)
class Drained:
    """One round: seconds, and the CPU seconds of all collectors and of the server."""

    s: float
    collectors_s: float
    server_s: float


def run() -> Iterator[Result]:
    """Yield jobs a second of one, two and four collectors, and what they and the server took of the cores."""
    if postgres.binaries() is None:
        raise Skipped("no PostgreSQL server here: install the package postgresql")
    with tempfile.TemporaryDirectory() as name:
        shim = shim_in(Path(name))
        for ms in WAITS_MS:
            rounds: dict[int, list[Drained]] = {n: [] for n in COLLECTORS}
            taken = interleaved({str(n): _drained(shim, ms, n, rounds[n]) for n in COLLECTORS}, ROUNDS)
            rate = {n: Median.of(JOBS / one for one in taken[str(n)]) for n in COLLECTORS}
            for n in COLLECTORS:
                peer, theirs = ("one collector", rate[1]) if n > 1 else ("", None)
                yield Result(f"shards.{ms}ms.jobs_per_s.{n}", rate[n], "1/s", peer, theirs, ROUNDS, True)
                own = {"collectors": [one.collectors_s for one in rounds[n]], "server": [o.server_s for o in rounds[n]]}
                for whose, spent in own.items():
                    cost = Median.of(one / JOBS * 1e3 for one in spent)
                    yield Result(f"shards.{ms}ms.cpu_of_{whose}.{n}", cost, "ms/job", n=ROUNDS)
                cores = Median.of((one.collectors_s + one.server_s) / one.s for one in rounds[n])
                yield Result(f"shards.{ms}ms.cores.{n}", cores, f"of {os.cpu_count()}", n=ROUNDS)


def _drained(shim: Path, ms: int, count: int, rounds: list[Drained]) -> Callable[[], float]:
    """What fills a backlog and drains it with some collectors; seconds. Into `rounds` goes all that is known of it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = slowly(shim, ms * 1000)

    def seconds() -> float:
        before = {key: os.environ.get(key) for key in slow}
        os.environ.update(slow)  # for the server, which inherits it
        try:
            with tempfile.TemporaryDirectory() as place, postgres.server(fsync=True) as url:
                for key in slow:
                    os.environ.pop(key)
                rounds.append(_one_round(Path(place), url, count, {**environ, **slow}, environ))
                return rounds[-1].s
        finally:
            os.environ.update({key: value for key, value in before.items() if value is not None})

    return seconds


def _one_round(place: Path, url: str, count: int, slow: dict[str, str], environ: dict[str, str]) -> Drained:
    subprocess.run([sys.executable, "-c", FILL, place, str(JOBS)], env=environ, cwd=ROOT, check=True)
    made = open_ledger(url, create=True)
    made.partitions.make({int(START_S)}, time.time())  # what a month costs once
    made.close()
    words = [sys.executable, "-c", _COLLECT, str(place), url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    working = [subprocess.Popen(words, env=slow, cwd=ROOT, **pipes) for _ in range(count)]  # type: ignore[call-overload]
    for one in working:
        one.stdout.readline()
    os.sync()
    server = postgres.postmaster(url)
    before, begin_s = spent_by_all(server), time.perf_counter()
    for one in working:
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [json.loads(one.stdout.readline()) for one in working]
    taken_s, after = time.perf_counter() - begin_s, spent_by_all(server)
    for one in working:
        one.communicate()
    stored = sum(one["stored"] for one in said)
    if stored != JOBS:
        raise RuntimeError(f"{count} collectors: {stored} of {JOBS} jobs were stored")
    spent_s = sum(after[what] - before[what] for what in ("self_s", "children_s"))
    return Drained(taken_s, sum(one["cpu_s"] for one in said), spent_s)
