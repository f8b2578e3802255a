"""What questions cost when the ledger grows by what they do not ask for: the CPU time of whole commands, warm.

Two ledgers have as many jobs a day, of the same users on the same nodes, one for ten days, the other fifty times as
long; each question's answer is as long in both. The long ledger's rows are made by SQL from the short one's, moved by
ten days at a time. `PERUN_BENCH_RECORDS` sets the short one's records (default 100,000), `PERUN_BENCH_TIMES` how much
longer the other is (default 50).
"""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from bench import ledger as filling
from bench.against import ROOT
from bench.commands import cpu_s
from bench.result import Result, medians
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.data_model.record import EnergyRecord

RECORDS = int(os.environ.get("PERUN_BENCH_RECORDS", "100000"))
TIMES = int(os.environ.get("PERUN_BENCH_TIMES", "50"))
DAYS = 10
NODES = 1000
ROUNDS = 7
FIRST = filling.FIRST
OLD = (FIRST + timedelta(days=3)).strftime("%Y-%m-%d")
"""A day in both ledgers."""
YEAR = 365
DIRECTORIES = 1000
"""In the short ledger's archive."""
BATCH = 1000
OF_A_BATCH = 200
"""As many as a collector takes together."""


def run() -> Iterator[Result]:
    """Yield each question's CPU seconds at the long ledger beside those at the short one, then a year's sums by day."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "policy.yaml").write_text("{}")
        for which, count in (("short", DIRECTORIES), ("long", DIRECTORIES * TIMES)):
            fill_archive(root / which, count)
        short, long = root / "short.db", root / "long.db"
        _fill(short)
        _lengthen(short, long)
        size_b = long.stat().st_size / (RECORDS * TIMES)
        yield Result("growth.ledger_b", size_b, "B/record")
        for title, words in questions():
            arms = {which.stem: _asked(root, which, words) for which in (short, long)}
            taken = medians(arms, ROUNDS)
            peer = f"{RECORDS:.0e} records, not {RECORDS * TIMES:.0e}"
            yield Result(f"growth.{title}_cpu_s", taken["long"], "s", peer, taken["short"], n=ROUNDS)
        last = (FIRST + timedelta(days=min(YEAR, DAYS * TIMES) - 1)).strftime("%Y-%m-%d")
        words = ("usage", "--by", "user,day", "-S", FIRST.strftime("%Y-%m-%d"), "-E", last)
        seconds = medians({"long": _asked(root, long, words)}, ROUNDS)["long"]
        yield Result("growth.usage_user_day_cpu_s", seconds, "s", n=ROUNDS)
        yield from batches("growth", {path.stem: str(path) for path in (short, long)})
        begin_s = time.perf_counter()
        with closing(sqlite3.connect(long)) as raw, closing(sqlite3.connect(root / "copy.db")) as copy:
            raw.backup(copy)
        yield Result("growth.copy_s", time.perf_counter() - begin_s, "s")


def batches(bench: str, places: Mapping[str, str]) -> Iterator[Result]:
    """What a batch of a collector's takes, new and amended, in seconds of a clock, of the short ledger and the long."""
    ledgers = {which: open_ledger(place) for which, place in places.items()}
    counts = {"short": RECORDS, "long": RECORDS * TIMES}
    peer = f"{RECORDS:.0e} records, not {RECORDS * TIMES:.0e}"
    for title, batch in (("put", new), ("amend", amended)):
        arms = {
            which: put(ledger, partial(batch, ledger, counts[which], random.Random(1)))
            for which, ledger in ledgers.items()
        }
        taken = medians(arms, ROUNDS)
        yield Result(f"{bench}.{title}_{OF_A_BATCH}_s", taken["long"], "s", peer, taken["short"], n=ROUNDS)
    for ledger in ledgers.values():
        ledger.close()


def put(ledger: Ledger, batch: Callable[[], list[EnergyRecord]]) -> Callable[[], float]:
    """What takes the next batch; it returns the seconds of the ledger alone."""

    def seconds() -> float:
        records = batch()
        begin_s = time.perf_counter()
        stored = ledger.put(records)
        taken_s = time.perf_counter() - begin_s
        if sum(one.changed for one in stored) < OF_A_BATCH:
            raise RuntimeError("the ledger did not take the batch")
        return taken_s

    return seconds


def new(ledger: Ledger, count: int, rng: random.Random) -> list[EnergyRecord]:
    """Jobs that end with the ledger."""
    model, first = filling.model(), 10**9 + rng.randrange(10**9)
    end = FIRST + timedelta(days=DAYS * count / RECORDS)
    return [
        _on_nodes(filling.vary(model, first + at, f"user{at:03d}", f"account{at % 40:02d}", end, 10**9))
        for at in range(OF_A_BATCH)
    ]


def amended(ledger: Ledger, count: int, rng: random.Random) -> list[EnergyRecord]:
    """Jobs from anywhere, of which more is known now."""
    found = ledger.load(rng.sample(range(1, count), OF_A_BATCH))
    return [replace(one, exit_code=(one.exit_code or 0) + 1, inputs=f"{rng.getrandbits(64):016x}") for one in found]


def questions() -> Iterator[tuple[str, Sequence[str]]]:
    """Yield names of questions, and the words of their commands."""
    day = ("-S", OLD, "-E", f"{OLD}T23:59:59")
    yield "jobs_old_day", ("jobs", "-a", *day)
    yield "jobs_node", ("jobs", "-N", "n0017", *day)
    yield "jobs_user", ("jobs", "-u", "user017", *day)
    yield "jobs_nobody", ("jobs", "-u", "nobody", "-S", FIRST.strftime("%Y-%m-%d"))
    yield "jobs_no_node", ("jobs", "-N", "nowhere", *day)
    yield "jobs_account", ("jobs", "-a", "-A", "account07", *day)
    yield "jobs_failed", ("jobs", "-a", "-s", "FAILED", *day)
    yield "top", ("top", *day)
    yield "report", ("report", str(RECORDS // 3))
    yield "usage_day", ("usage", "-S", OLD, "-E", OLD)
    yield "audit_day", ("audit", "--no-slurm", "-S", OLD, "-E", OLD)


def _asked(root: Path, ledger: Path, words: Sequence[str]) -> Callable[[], float]:
    where = ["--ledger", str(ledger), "--archive", str(root / ledger.stem), "--cluster", "c"]
    # An audit that finds something ends with 1: no node of this ledger has counted.
    return lambda: cpu_s(ROOT, root, ["-m", "perun_hpc.cli.main", *words, *where], codes=(0, 1))


def _fill(path: Path) -> None:
    with closing(open_ledger(str(path), create=True)) as ledger:
        put_all(ledger)


def put_all(ledger: Ledger) -> None:
    """Put the short ledger's records."""
    model = filling.model()
    for at in range(0, RECORDS, BATCH):
        ledger.put(
            [_on_nodes(filling.vary(model, number, *_whose(number))) for number in range(at + 1, at + BATCH + 1)]
        )


def fill_archive(root: Path, count: int) -> None:
    """Directories of jobs, the first `DIRECTORIES` of them of the old day, the others of later ones."""
    first = RECORDS * 3 // DAYS + 10
    for number in (*range(first, first + DIRECTORIES), *range(2 * RECORDS, 2 * RECORDS + count - DIRECTORIES)):
        place = root / "c" / "jobs" / f"{int(number) // 1000}" / f"{number}.0" / "boundary"
        place.mkdir(parents=True)
        (place / "n1.json").write_text("{}")


def _whose(number: int) -> tuple[str, str, datetime, int]:
    """User, account, end, energy in uJ: every user has jobs on every day."""
    user = number * 7919 % filling.USERS
    end = FIRST + timedelta(seconds=DAYS * 86_400 * number / (RECORDS + 1))
    return f"user{user:03d}", f"account{user % filling.ACCOUNTS:02d}", end, 10**9 + number * 104_729 % 10**11


def _on_nodes(record: EnergyRecord) -> EnergyRecord:
    first = record.job_id * 2 % NODES
    names = {"n1": f"n{first:04d}", "n2": f"n{first + 1:04d}"}
    return replace(
        record,
        nodelist=",".join(names.values()),
        nodes=tuple(replace(one, node=names[one.node]) for one in record.nodes),
        shares=tuple(replace(one, node=names[one.node]) for one in record.shares),
    )


def _lengthen(short: Path, long: Path) -> None:
    """Make the long ledger of copies of the short one's rows, each ten days and as many job ids later."""
    open_ledger(str(long), create=True).close()
    with sqlite3.connect(long, isolation_level=None) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA cache_size = -500000")
        raw.execute("ATTACH ? AS short", (str(short),))
        for table in ("job", "record", "job_share", "usage_day"):
            columns = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            moved = ", ".join(_MOVED.get((table, name), _MOVED.get(("", name), name)) for name in columns)
            for number in range(TIMES):
                step = {"ids": number * RECORDS, "s": number * DAYS * 86_400, "days": f"+{number * DAYS} days"}
                used = {name: value for name, value in step.items() if f":{name}" in moved}
                raw.execute(f"INSERT OR IGNORE INTO {table} SELECT {moved} FROM short.{table}", used)
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()


_MOVED = {
    ("job", "id"): "id + :ids",
    ("job", "job_id"): "job_id + :ids",
    ("", "job"): "job + :ids",
    ("", "submit_s"): "submit_s + :s",
    ("", "start_s"): "start_s + :s",
    ("", "end_s"): "end_s + :s",
    ("", "day"): "date(day, :days)",
}
