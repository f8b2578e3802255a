"""What questions and batches cost in PostgreSQL when the ledger grows by months that they do not ask for.

As `bench/growth.py`: two ledgers of as many jobs a day, ten days and fifty times as long, partitioned by month; and
how long it takes to partition one of before. A question's cost is the CPU time of its command and of its server.
`PERUN_BENCH_RECORDS` sets the short one's records (default 20,000), `PERUN_BENCH_TIMES` how much longer the other is.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from bench import growth
from bench.against import ROOT
from bench.commands import cpu_s
from bench.result import Result, Skipped, medians
from bench.running import ended_cpu_s
from perun_hpc.accounting.database import Database, opened
from perun_hpc.accounting.ledger import Ledger, open_ledger
from tests import postgres

RECORDS = int(os.environ.get("PERUN_BENCH_RECORDS", "20000"))
REPEATS = 5
OLDER = 10
"""How much longer than the short one the ledger of before is."""


def run() -> Iterator[Result]:
    """Yield each question's CPU seconds at the long ledger beside the short one's, then batches, then the change."""
    if postgres.binaries() is None:
        raise Skipped("no PostgreSQL server here")
    growth.RECORDS = RECORDS
    with tempfile.TemporaryDirectory() as name, postgres.server() as server:
        root = Path(name)
        (root / "policy.yaml").write_text("{}")
        urls = {which: _made(server, which) for which in ("short", "long", "older")}
        for which, url in urls.items():
            growth.fill_archive(root / which, growth.DIRECTORIES)
            _fill(url, {"short": 1, "long": growth.TIMES, "older": OLDER}[which], partitioned=which != "older")
        peer = f"{RECORDS:.0e} records, not {RECORDS * growth.TIMES:.0e}"
        for title, words in growth.questions():
            arms = {which: _asked(root, which, urls[which], words) for which in ("short", "long")}
            taken = medians(arms, growth.ROUNDS)
            yield Result(f"months.{title}_cpu_s", taken["long"], "s", peer, taken["short"], n=growth.ROUNDS)
        with closing(open_ledger(urls["long"])) as ledger, ledger.read() as connection:
            size_b = connection.value("SELECT pg_database_size(current_database())")
        yield Result("months.ledger_b", size_b / (RECORDS * growth.TIMES), "B/record")
        yield from growth.batches("months", {which: urls[which] for which in ("short", "long")})
        begin_s = time.perf_counter()
        open_ledger(urls["older"], create=True).close()
        yield Result("months.partition_s", (time.perf_counter() - begin_s) / (RECORDS * OLDER) * 1e6, "s/1e6")


def _made(server: str, name: str) -> str:
    """A database of the server's; its URL."""
    import psycopg

    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/perun?", f"/{name}?")


def _asked(root: Path, which: str, url: str, words: Sequence[str]) -> Callable[[], float]:
    where = ["--ledger", url, "--archive", str(root / which), "--cluster", "c"]

    def seconds() -> float:
        # In turn with others the server's clock, of ticks of 10 ms, is read around several.
        before_s = _server_s(url)
        ours_s = sum(
            cpu_s(ROOT, root, ["-m", "perun_hpc.cli.main", *words, *where], codes=(0, 1)) for _ in range(REPEATS)
        )
        time.sleep(0.1)  # the last of its processes is counted as it is reaped
        return (ours_s + _server_s(url) - before_s) / REPEATS

    return seconds


def _server_s(url: str) -> float:
    """CPU seconds of the server's processes that have ended: of a connection, as it was closed."""
    return ended_cpu_s(postgres.postmaster(url))


def _fill(url: str, times: int, partitioned: bool) -> None:
    """Fill a ledger with the short one's records, and with copies of them, each ten days and as many ids later."""
    last_s = (growth.FIRST + timedelta(days=growth.DAYS * times)).timestamp()
    if not partitioned:
        Database(*opened(url, create=True)).prepare(create=True)
    with closing(_open(url, last_s, partitioned)) as ledger:
        growth.put_all(ledger)
        ledger.partitions.make(range(int(growth.FIRST.timestamp()), int(last_s), 86_400), last_s)
        with ledger.write() as connection:
            for table in ("job", "record", "job_share", "usage_day"):
                columns = connection.columns(table)
                moved = ", ".join(_MOVED.get((table, name)) or _MOVED.get(("", name), name) for name in columns)
                of_short = {"usage_day": ""}.get(table, f"WHERE {'id' if table == 'job' else 'job'} <= {RECORDS}")
                connection.execute(
                    f"INSERT INTO {table} SELECT {moved} FROM {table}, generate_series(1, {times - 1}) AS n {of_short}"
                    " ON CONFLICT DO NOTHING"
                )
    with closing(_open(url, last_s, partitioned)) as ledger, ledger.write() as connection:
        connection.execute("ANALYZE")


def _open(url: str, now_s: float, partitioned: bool) -> Ledger:
    return Ledger(*opened(url, create=False), lambda: now_s) if not partitioned else open_ledger(
        url, create=True, clock=lambda: now_s
    )  # fmt: skip


_MOVED = {
    ("job", "id"): f"id + n * {RECORDS}",
    ("job", "job_id"): f"job_id + n * {RECORDS}",
    ("", "job"): f"job + n * {RECORDS}",
    ("", "submit_s"): f"submit_s + n * {growth.DAYS * 86_400}",
    ("", "start_s"): f"start_s + n * {growth.DAYS * 86_400}",
    ("", "end_s"): f"end_s + n * {growth.DAYS * 86_400}",
    ("", "day"): f"to_char(day::date + n * {growth.DAYS}, 'YYYY-MM-DD')",
}
