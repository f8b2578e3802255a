"""What the ledger takes: records a second, a month's sums, one job; on SQLite, and PostgreSQL where it is installed.

Peers: bare rows without shares, sums, revisions or records, written by Python's sqlite3 in the same batches, and the
question answered by GROUP BY over that table. `PERUN_BENCH_RECORDS` sets how many records (default 1,000,000).
"""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from bench.result import Result
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.schema import EnergyRecord, Share
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from tests import postgres
from tests.accounting_data import boundary, domain, parsed, slurm_job

RECORDS = int(os.environ.get("PERUN_BENCH_RECORDS", "1000000"))
BATCH = 1000
DAYS = 365
FIRST = datetime(2025, 11, 1)
ASKS = 5


def run() -> Iterator[Result]:
    """Yield `ledger.ingest_per_s`, `ledger.usage_s`, `ledger.one_job_s`, then the same with `.postgresql`."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        ledger = open_ledger(str(root / "ledger.db"), create=True)
        plain = sqlite3.connect(root / "plain.db")
        plain.execute("PRAGMA journal_mode = WAL")
        plain.execute("PRAGMA synchronous = NORMAL")
        plain.execute("CREATE TABLE job (job_id INTEGER PRIMARY KEY, user, account, part, start_s, end_s, energy_uj)")
        ours_s, theirs_s = _fill(ledger, lambda records: _insert(plain, records))
        peer = "sqlite3, bare rows"
        yield Result("ledger.ingest_per_s", RECORDS / ours_s, "1/s", peer, RECORDS / theirs_s, higher_is_better=True)
        group = "SELECT account, strftime('%Y-%m', end_s, 'unixepoch'), SUM(energy_uj / 1e6) FROM job GROUP BY 1, 2"
        asked_s = _median(lambda: usage(ledger, ["account", "month"], Filter(), *_span()))
        yield Result(
            "ledger.usage_s", asked_s, "s", "sqlite3, GROUP BY", _median(lambda: plain.execute(group).fetchall())
        )
        one_s = _median(lambda: ledger.members("c", str(RECORDS // 2)))
        yield Result("ledger.one_job_s", one_s, "s")
        ledger.close()
        plain.close()
    if postgres.binaries() is None:
        return
    with postgres.server() as url:
        ledger = open_ledger(url, create=True)
        ours_s, _ = _fill(ledger, lambda _: 0.0)
        yield Result("ledger.ingest_per_s.postgresql", RECORDS / ours_s, "1/s", higher_is_better=True)
        yield Result(
            "ledger.usage_s.postgresql", _median(lambda: usage(ledger, ["account", "month"], Filter(), *_span())), "s"
        )
        yield Result("ledger.one_job_s.postgresql", _median(lambda: ledger.members("c", str(RECORDS // 2))), "s")
        ledger.close()


def _fill(ledger: Ledger, also: Callable[[Sequence[EnergyRecord]], float]) -> tuple[float, float]:
    """Put all records, a batch into each in turn; returns the seconds that either took."""
    ours_s = theirs_s = 0.0
    for records in _batches():
        begin_s = time.perf_counter()
        ledger.put(records)
        ours_s += time.perf_counter() - begin_s
        theirs_s += also(records)
    return ours_s, theirs_s


def _insert(plain: sqlite3.Connection, records: Sequence[EnergyRecord]) -> float:
    rows = [
        (r.job_id, r.user, r.account, r.partition, r.start_ns // 10**9, r.end_ns // 10**9, r.energy_uj) for r in records
    ]
    begin_s = time.perf_counter()
    with plain:
        plain.executemany("INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return time.perf_counter() - begin_s


def _batches() -> Iterator[list[EnergyRecord]]:
    """Two-node jobs of 200 users in 40 accounts over a year, in the order in which they end."""
    rng = random.Random(1)
    parts = {name: domain(name.split("-")[0], 8_000_000_000) for name in ("cpu-0", "cpu-1", "dram-0")}
    model = add_slurm(
        sum_boundaries([parsed(boundary(node=node, nodelist="n1,n2", domains=parts)) for node in ("n1", "n2")]),
        slurm_job(nodelist="n[1-2]", num_nodes=2),
    )
    job_id = 0
    while job_id < RECORDS:
        records = []
        for _ in range(min(BATCH, RECORDS - job_id)):
            job_id += 1
            end = FIRST + timedelta(seconds=DAYS * 86400 * job_id / (RECORDS + 1))
            user, energy_uj = rng.randrange(200), rng.randrange(10**9, 10**12)
            records.append(_vary(model, job_id, f"user{user:03d}", f"account{user % 40:02d}", end, energy_uj))
        yield records


def _vary(model: EnergyRecord, job_id: int, user: str, account: str, end: datetime, energy_uj: int) -> EnergyRecord:
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


def _span() -> tuple[str, str]:
    return FIRST.strftime("%Y-%m-%d"), (FIRST + timedelta(days=DAYS)).strftime("%Y-%m-%d")


def _median(ask: Callable[[], object]) -> float:
    taken = []
    for _ in range(ASKS):
        begin_s = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - begin_s)
    return statistics.median(taken)
