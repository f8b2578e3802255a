"""What the ledger takes: records a second, a month's sums, one job; SQLite and PostgreSQL in turn.

Peers: bare rows without shares, sums, revisions or records, written by Python's sqlite3 in the same batches, and the
question answered by GROUP BY over that table; for whole commands `sacct` and `sreport` on as many jobs in slurmdbd
(`bench/slurm_ledger.py`). `PERUN_BENCH_RECORDS` sets how many records (default 1,000,000).
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from bench import slurm_ledger
from bench.result import Result, medians
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.record import EnergyRecord, Share
from tests import postgres
from tests.accounting_data import START_S, boundary, domain, parsed, put_incoming, slurm_job

RECORDS = int(os.environ.get("PERUN_BENCH_RECORDS", "1000000"))
BATCH = 1000
DAYS = 365
FIRST = datetime(2025, 11, 1)
MONTH = ("2026-06-01", "2026-06-30", "2026-07-01")
"""First day, last day, and the day after it."""
BACKLOG = 2000
ROUNDS = 5
USERS, ACCOUNTS = slurm_ledger.USERS, slurm_ledger.ACCOUNTS
SQLITE = ""
POSTGRESQL = ".postgresql"
ROOT = Path(__file__).resolve().parents[1]


def run() -> Iterator[Result]:
    """Yield ingest, sums and one job, each with `.postgresql` beside it; then whole commands beside Slurm's."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {SQLITE: str(root / "ledger.db")}
        if postgres.binaries() is not None:
            urls[POSTGRESQL] = stack.enter_context(postgres.server())
        ledgers = {name: open_ledger(url, create=True) for name, url in urls.items()}
        plain = sqlite3.connect(root / "plain.db")
        plain.execute("PRAGMA journal_mode = WAL")
        plain.execute("PRAGMA synchronous = NORMAL")
        plain.execute("CREATE TABLE job (job_id INTEGER PRIMARY KEY, user, account, part, start_s, end_s, energy_uj)")
        yield from _ingest(ledgers, plain)
        yield from _drain(root / "archive")
        yield from _questions(ledgers, plain)
        for ledger in ledgers.values():
            ledger.close()
        plain.close()
        why = slurm_ledger.missing()
        if why:
            print(f"bench ledger: without sacct as a peer: {why}", file=sys.stderr)
            return
        yield from _commands(urls, root)


def _ingest(ledgers: Mapping[str, Ledger], plain: sqlite3.Connection) -> Iterator[Result]:
    """Every batch goes into each database in turn."""
    taken_s = dict.fromkeys(ledgers, 0.0)
    plain_s = 0.0
    for records in batches():
        for name, ledger in ledgers.items():
            begin_s = time.perf_counter()
            ledger.put(records)
            taken_s[name] += time.perf_counter() - begin_s
        plain_s += _insert(plain, records)
    for name, seconds in taken_s.items():
        peer = "sqlite3, bare rows"
        figure = RECORDS / seconds
        yield Result(f"ledger.ingest_per_s{name}", figure, "1/s", peer, RECORDS / plain_s, higher_is_better=True)


def _drain(root: Path) -> Iterator[Result]:
    """The collector itself: from two boundary records a job on the disk to its record there and in a ledger."""
    jobs = {n: slurm_job(n, nodelist="n[1-2]", num_nodes=2) for n in range(1, BACKLOG + 1)}
    for number in jobs:
        for node in ("n1", "n2"):
            put_incoming(root, boundary(number, node, "n1,n2"))
    ledger = open_ledger(str(root / "ledger.db"), create=True)
    slurm = Slurm(lambda ids: [jobs[n] for n in ids if n in jobs], lambda since, until: [])
    collector = Collector(Archive(root, "c"), ledger, Tools(lambda: START_S + 200.0, slurm), deadline_s=900)
    begin_s = time.perf_counter()
    stored = collector.sweep().stored
    yield Result("ledger.drain_per_s", stored / (time.perf_counter() - begin_s), "1/s", n=stored, higher_is_better=True)
    ledger.close()


def _questions(ledgers: Mapping[str, Ledger], plain: sqlite3.Connection) -> Iterator[Result]:
    group = "SELECT account, strftime('%Y-%m', end_s, 'unixepoch'), SUM(energy_uj / 1e6) FROM job GROUP BY 1, 2"
    year = FIRST.strftime("%Y-%m-%d"), (FIRST + timedelta(days=DAYS)).strftime("%Y-%m-%d")
    arms = {
        name: _timed(lambda ledger=ledger: usage(ledger, ["account", "month"], Filter(), *year))  # type: ignore[misc]
        for name, ledger in ledgers.items()
    }
    taken = medians({**arms, "plain": _timed(lambda: plain.execute(group).fetchall())}, ROUNDS)
    for name in ledgers:
        yield Result(f"ledger.usage_s{name}", taken[name], "s", "sqlite3, GROUP BY", taken["plain"], n=ROUNDS)
    rng = random.Random(2)
    arms = {
        name: _timed(lambda ledger=ledger: ledger.members("c", str(rng.randrange(1, RECORDS))))  # type: ignore[misc]
        for name, ledger in ledgers.items()
    }
    for name, seconds in medians(arms, 10 * ROUNDS).items():
        yield Result(f"ledger.one_job_s{name}", seconds, "s", n=10 * ROUNDS)


def _commands(urls: Mapping[str, str], root: Path) -> Iterator[Result]:
    """A month by account, and one job, as commands that people type, from start to end of the process."""
    job = str(RECORDS // 2)
    first, last, after = MONTH
    ours_month, ours_job = {}, {}
    for name, url in urls.items():
        perun = [sys.executable, "-m", "perun_hpc.cli.main"]
        ours_month[name] = [*perun, "usage", "--by", "account", "-S", first, "-E", last, "--ledger", url]
        ours_job[name] = [*perun, "report", job, "--ledger", url, "--archive", str(root), "--cluster", "c"]
    sacct = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,Account,AllocTRES"]
    sacct_month = [*sacct, "--allusers", "-S", first, "-E", after]
    sacct_job = [*sacct, "-j", job]
    sreport = ["sreport", "-n", "-P", "-T", "energy", "cluster", "AccountUtilizationByUser"]
    sreport += [f"Start={first}", f"End={after}"]
    with slurm_ledger.filled(RECORDS, FIRST, DAYS) as cluster:
        for command, least in ((sacct_month, RECORDS // 20), (sacct_job, 1), (sreport, slurm_ledger.USERS)):
            if slurm_ledger.count(cluster, command) < least:
                raise RuntimeError(f"{command[0]} does not show the jobs: {' '.join(command)}")

        def theirs(command: Sequence[str]) -> Callable[[], float]:
            return lambda: slurm_ledger.ask_s(cluster, command)

        ours = {name: _process(command) for name, command in ours_month.items()}
        taken = medians({**ours, "sacct": theirs(sacct_month), "sreport": theirs(sreport)}, ROUNDS)
        for name in urls:
            for peer in ("sacct", "sreport"):
                yield Result(f"ledger.month_command_s{name}", taken[name], "s", peer, taken[peer], n=ROUNDS)
        ours = {name: _process(command) for name, command in ours_job.items()}
        taken = medians({**ours, "sacct": theirs(sacct_job)}, ROUNDS)
        for name in urls:
            yield Result(f"ledger.job_command_s{name}", taken[name], "s", "sacct", taken["sacct"], n=ROUNDS)


def _process(command: Sequence[str]) -> Callable[[], float]:
    """What times one run of a command on this machine, as the peer's are timed on the cluster's."""
    line = ["python3", "-c", slurm_ledger.TIMER, *command]
    return lambda: float(subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def _timed(ask: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        begin_s = time.perf_counter()
        ask()
        return time.perf_counter() - begin_s

    return seconds


def _insert(plain: sqlite3.Connection, records: Sequence[EnergyRecord]) -> float:
    rows = [
        (r.job_id, r.user, r.account, r.partition, r.start_ns // 10**9, r.end_ns // 10**9, r.energy_uj) for r in records
    ]
    begin_s = time.perf_counter()
    with plain:
        plain.executemany("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return time.perf_counter() - begin_s


def model() -> EnergyRecord:
    """A two-node job's record, to be varied."""
    parts = {name: domain(name.split("-")[0], 8_000_000_000) for name in ("cpu-0", "cpu-1", "dram-0")}
    return add_slurm(
        sum_boundaries([parsed(boundary(node=node, nodelist="n1,n2", domains=parts)) for node in ("n1", "n2")]),
        slurm_job(nodelist="n[1-2]", num_nodes=2),
    )


def batches() -> Iterator[list[EnergyRecord]]:
    """Two-node jobs of 200 users in 40 accounts over a year, in the order in which they end."""
    rng = random.Random(1)
    one = model()
    job_id = 0
    while job_id < RECORDS:
        records = []
        for _ in range(min(BATCH, RECORDS - job_id)):
            job_id += 1
            end = FIRST + timedelta(seconds=DAYS * 86400 * job_id / (RECORDS + 1))
            user, energy_uj = rng.randrange(USERS), rng.randrange(10**9, 10**12)
            records.append(vary(one, job_id, f"user{user:03d}", f"account{user % ACCOUNTS:02d}", end, energy_uj))
        yield records


def vary(model: EnergyRecord, job_id: int, user: str, account: str, end: datetime, energy_uj: int) -> EnergyRecord:
    """One job's record: whose, when it ended, its energy, on its two nodes' three domains each."""
    end_s = int(end.timestamp())
    day = end.strftime("%Y-%m-%d")
    first, rest = energy_uj // 6, energy_uj - 5 * (energy_uj // 6)
    shares = tuple(Share(s.node, s.domain, day, first if at else rest) for at, s in enumerate(model.shares))
    return replace(
        model,
        job_id=job_id,
        user=user,
        account=account,
        submit_s=end_s - 700,
        start_ns=(end_s - 600) * 10**9,
        end_ns=end_s * 10**9,
        energy_uj=energy_uj,
        shares=shares,
    )
