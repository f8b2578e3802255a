"""No everyday question reads a whole table: what the databases say of how they would answer it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.database import SQLITE, Connection, opened
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.own_sums import rows_of
from perun_hpc.accounting.questions import LONG_S, Filter, jobs, largest, usage
from perun_hpc.accounting.site_figures import lately
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Run
from perun_hpc.data_model.record import EnergyRecord
from tests.accounting_data import DAY, START_S, boundary, parsed, slurm_job
from tests.contract.conftest import empty

pytestmark = pytest.mark.usefixtures("utc")
NOW_S = START_S + 3600
SPAN: dict[str, Any] = {"cluster": "c", "since_s": START_S - 3600, "until_s": NOW_S}


class Asked(Connection):
    """Notes the plan of each question before it is asked."""

    plans: list[tuple[str, list[str]]]

    def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> Any:
        if sql.startswith("SELECT") and "LIMIT 0" not in sql and not sql.startswith("SELECT set_config"):
            self.plans.append((sql, self._scans(sql, values)))
        return super().execute(sql, values)

    def stream(self, sql: str, values: Mapping[str, Any] | None = None) -> Iterator[Any]:
        yield from self.execute(sql, values)

    def _scans(self, sql: str, values: Mapping[str, Any] | None) -> list[str]:
        """Steps that read all of a table or index."""
        if self.dialect == SQLITE:
            rows = super().execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            return [row.detail for row in rows if row.detail.startswith("SCAN")]
        super().execute("SET LOCAL enable_seqscan = off")  # a small table is read whole by right
        (plan,) = super().execute(f"EXPLAIN (FORMAT JSON) {sql}", values).fetchone()[0]
        return list(_whole_reads(plan["Plan"]))


def _whole_reads(node: Mapping[str, Any]) -> Iterator[str]:
    kind = node["Node Type"]
    if "Scan" in kind and kind not in ("Bitmap Heap Scan", "Subquery Scan") and "Index Cond" not in node:
        yield json.dumps(node)
    for part in node.get("Plans", ()):
        yield from _whole_reads(part)


class Observed(Ledger):
    """A ledger whose questions' plans are noted."""

    plans: list[tuple[str, list[str]]]
    asked_by = Asked

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with super().read() as connection:
            asked = self.asked_by(connection.raw, connection.dialect)
            asked.plans = self.plans
            yield asked


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Observed]:
    made = Observed(*opened(ledger_url, create=True), lambda: float(NOW_S))
    made.plans = []
    made.prepare(create=True)
    made.put([add_slurm(sum_boundaries([parsed(boundary(n))]), slurm_job(n)) for n in range(1, 30)])
    yield made
    empty(made)
    made.close()


QUESTIONS: dict[str, Callable[[Ledger], object]] = {
    "jobs": lambda ledger: jobs(ledger, Filter(**SPAN), 1000),
    "jobs of a node": lambda ledger: jobs(ledger, Filter(**SPAN, nodes=("n1",)), 1000),
    "jobs of a user": lambda ledger: jobs(ledger, Filter(**SPAN, users=("alice",)), 1000),
    "jobs of an account": lambda ledger: jobs(ledger, Filter(**SPAN, accounts=("physics",)), 1000),
    "jobs with most energy": lambda ledger: largest(ledger, Filter(**SPAN), "energy", 10),
    "a job": lambda ledger: ledger.members("c", "7"),
    "a task": lambda ledger: ledger.members("c", "7_1"),
    "a component": lambda ledger: ledger.members("c", "7+1"),
    "usage": lambda ledger: usage(ledger, ["account"], Filter(cluster="c"), DAY, DAY),
    "usage by user and day": lambda ledger: usage(ledger, ["user", "day"], Filter(cluster="c"), DAY, DAY),
    "audit: shares": lambda ledger: ledger.shares_between("c", DAY, DAY),
    "audit: runs": lambda ledger: ledger.runs_between("c", START_S, NOW_S),
    "audit: spans": lambda ledger: ledger.spans("c", [1, 2]),
    "audit: first": lambda ledger: ledger.first_start_s("c"),
    "audit: places": lambda ledger: list(ledger.places_between("c", START_S, NOW_S)),
    "collector: ended": lambda ledger: ledger.ended_runs("c", START_S, NOW_S),
    "collector: unnamed": lambda ledger: list(ledger.without_state("c", 100)),
    "collector: due": lambda ledger: ledger.due("c", 10),
    "collector: names": lambda ledger: ledger.named("c", [1, 2]),
    "collector: known": lambda ledger: ledger.records_of("c", [1, 2]),
    "collector: figures of the last day": lambda ledger: lately(ledger, "c", NOW_S),
    "collector: sums for users": lambda ledger: rows_of(ledger, "c", DAY[:7]),
    "retention": lambda ledger: upkeep.matching(ledger, upkeep.Who(before_s=START_S)),
    "retention: records": lambda ledger: list(upkeep._batches(ledger, upkeep.Who(before_s=START_S, named=True))),
    "forgetting": lambda ledger: upkeep.matching(ledger, upkeep.Who(user="bob")),
    "forgetting: records": lambda ledger: list(upkeep._batches(ledger, upkeep.Who(user="bob"))),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_question_reads_no_whole_table(ledger: Observed, what: str) -> None:
    ledger.plans.clear()
    QUESTIONS[what](ledger)
    assert ledger.plans
    assert [(sql, scans) for sql, scans in ledger.plans if scans] == []


def test_a_whole_read_would_be_seen(ledger: Observed) -> None:
    ledger.plans.clear()
    with ledger.read() as connection:
        connection.execute("SELECT COUNT(*) FROM job WHERE cpus > 3")
        connection.execute("SELECT id FROM job ORDER BY end_s")
    assert [bool(scans) for _, scans in ledger.plans] == [True, True]


BEFORE, SINCE = -1, 1
ASKS_FOR = {"collector: figures of the last day": {SINCE}, "retention": {BEFORE}, "retention: records": {BEFORE}}
"""Questions that have no end, or no beginning, and ask for what lies there."""


@pytest.mark.parametrize("side", [BEFORE, SINCE])
@pytest.mark.parametrize("what", sorted(QUESTIONS))
def test_what_ran_at_other_times_costs_a_question_nothing(tmp_path: Path, what: str, side: int) -> None:
    """Counted in steps of SQLite's machine: a plan may name an index and read all of it."""
    if side in ASKS_FOR.get(what, ()):
        return
    made = open_ledger(str(tmp_path / "ledger.db"), create=True)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def cost() -> int:
        nonlocal steps
        steps = 0
        QUESTIONS[what](made)
        return steps

    made.put([ONE])
    with made.read() as connection:
        connection.raw.set_progress_handler(count, 10)
    before = cost()
    made.put(of_other_times(side))
    assert before <= cost() <= 1.2 * before + 20
    made.close()


ONE = add_slurm(sum_boundaries([parsed(boundary(1))]), slurm_job(1))


def of_other_times(side: int) -> list[EnergyRecord]:
    """Two thousand jobs like that one, a month and more before it or after it."""
    found = []
    for number in range(2000):
        later_ns = side * (30 + number % 60) * 86_400 * 10**9
        moved = {"start_ns": ONE.start_ns + later_ns, "end_ns": ONE.end_ns + later_ns}
        day = datetime.fromtimestamp((ONE.end_ns + later_ns) // 10**9).strftime("%Y-%m-%d")
        shares = tuple(replace(share, day=day) for share in ONE.shares)
        found.append(replace(ONE, job_id=3 + number, submit_s=None, shares=shares, **moved))
    return found


class Counted(Asked):
    """Notes, by how many rows PostgreSQL touched, what it did for a question."""

    def _scans(self, sql: str, values: Mapping[str, Any] | None) -> list[str]:
        Connection.execute(self, "SET LOCAL enable_seqscan = off")
        (plan,) = Connection.execute(self, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", values).fetchone()[0]
        return ["row"] * int(_touched(plan["Plan"]))


def _touched(node: Mapping[str, Any]) -> float:
    parts = node.get("Plans", ())
    kept = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (kept * node["Actual Loops"] if not parts else 0.0) + sum(map(_touched, parts))


@pytest.mark.parametrize("side", [BEFORE, SINCE])
def test_what_ran_at_other_times_is_not_touched_in_postgresql(postgres_url: str, side: int) -> None:
    made = Observed(*opened(postgres_url, create=True), lambda: float(NOW_S))
    made.plans, made.asked_by = [], Counted
    made.prepare(create=True)
    asked = [what for what in sorted(QUESTIONS) if side not in ASKS_FOR.get(what, ())]

    def rows() -> dict[str, int]:
        found = {}
        for what in asked:
            made.plans.clear()
            QUESTIONS[what](made)
            found[what] = sum(len(touched) for _, touched in made.plans)
        return found

    try:
        made.put([ONE])
        alone = rows()
        made.put(of_other_times(side))
        with made.write() as connection:
            connection.execute("ANALYZE")
        beside = rows()
        assert {what: (alone[what], beside[what]) for what in asked if beside[what] > alone[what] + 10} == {}
    finally:
        empty(made)
        made.close()


def test_jobs_of_an_old_time_are_all_found_however_long_they_ran(ledger: Observed) -> None:
    ledger_jobs = []
    for number, seconds in ((101, 100), (102, LONG_S - 1), (103, LONG_S), (104, LONG_S + 1), (105, 40 * 86_400)):
        told = slurm_job(number, start_s=START_S, end_s=START_S + seconds)
        ledger_jobs.append(add_slurm(sum_boundaries([parsed(boundary(number, seconds=seconds))]), told))
    ledger.put(ledger_jobs)
    at = Filter(cluster="c", since_s=START_S, until_s=START_S + 1)
    assert {101, 102, 103, 104, 105} <= {r.job_id for r in jobs(ledger, at, 1000)}
    later = Filter(cluster="c", since_s=START_S + LONG_S, until_s=START_S + LONG_S)
    assert [r.job_id for r in jobs(ledger, later, 1000)] == [103, 104, 105]
    assert [r.job_id for r in jobs(ledger, later, 2)] == [104, 105]
    assert jobs(ledger, later, 0) == []


def test_all_records_of_a_user_are_found_page_by_page_and_nobody_elses(ledger: Observed) -> None:
    names, count = ("bob", "Bob", "bobby"), 3 * upkeep.BATCH + 30
    ledger.put([
        replace(ONE, job_id=1000 + at, submit_s=None, user=names[at % 3], end_ns=ONE.end_ns + at % 7 * 10**9)
        for at in range(count)
    ])  # fmt: skip
    mine = {1000 + number: ONE.end_ns // 10**9 + number % 7 for number in range(count) if number % 3 == 0}
    for before_s in (None, ONE.end_ns // 10**9 + 4):
        pages = list(upkeep._batches(ledger, upkeep.Who(user="bob", before_s=before_s)))
        found = [record.job_id for page in pages for _, record in page]
        assert sorted(found) == [job for job, end_s in mine.items() if before_s is None or end_s < before_s]
        assert len(pages) == (2 if before_s is None else 1)
        assert upkeep.matching(ledger, upkeep.Who(user="bob", before_s=before_s)) == len(found)


def test_the_names_of_directories_are_those_of_the_time_asked_for_each_once(ledger: Observed) -> None:
    again = [slurm_job(7, submit_s=START_S + at, start_s=START_S + at, end_s=START_S + at + 100) for at in (9000, 9999)]
    told = [sum_boundaries([parsed(boundary(7, start_s=one.start_s or 0))]) for one in again]
    ledger.put([add_slurm(one, job) for one, job in zip(told, again, strict=True)])
    runs = list(ledger.places_between("c", START_S + 9000, START_S + 20_000))
    times = {None, START_S + 9000, START_S + 9100, START_S + 9999, START_S + 10_099}
    assert sorted(run.name for run in runs) == sorted(Run(7, 0, at_s).name for at_s in times)


def test_a_ledger_without_the_indexes_answers_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_ledger(str(path), create=True).close()
    with sqlite3.connect(path) as raw:
        for name in ("job_user", "job_account", "job_start", "job_long", "usage_day_day", "deleted_end"):
            raw.execute(f"DROP INDEX {name}")
        raw.execute("DELETE FROM migration WHERE number = 9")
        assert raw.execute("PRAGMA page_size").fetchone() == (16_384,)
    raw.close()
    reader = open_ledger(str(path))
    assert jobs(reader, Filter(**SPAN), 10) == []
    reader.close()
    open_ledger(str(path), create=True).close()
    with sqlite3.connect(path) as raw:
        found = raw.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'index' AND name = 'job_user'").fetchone()
    raw.close()
    assert found == (1,)
