"""The ledger's partitions by month in PostgreSQL: made in time, found by questions, never the reason for a loss."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from subprocess import PIPE, Popen, run
from typing import Any

import pytest

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.database import Connection, Database, opened
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.partitions import KEYS, PAUSE_S, partitioned, parts
from perun_hpc.accounting.questions import Filter, jobs, usage
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.data_model.record import EnergyRecord, to_json
from tests.accounting_data import NS, START_S, boundary, parsed, slurm_job
from tests.postgres import binaries

pytestmark = pytest.mark.usefixtures("utc")
NOW_S = START_S + 3600
"""In November 2026."""
DECEMBER_S = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
OPENING = """
import sys
from perun_hpc.accounting.ledger import open_ledger
sys.stdin.readline()
open_ledger(sys.argv[1], create=True, clock=lambda: float(sys.argv[2])).close()
"""


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """The URL of a database of one's own."""
    psycopg = pytest.importorskip("psycopg")
    name = f"own_{time.monotonic_ns()}"
    server = postgres_url.replace("+psycopg", "")
    with psycopg.connect(server, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}")
    yield postgres_url.replace("/perun?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as raw:
        raw.execute(f"DROP DATABASE {name} WITH (FORCE)")


def sql(url: str, text: str) -> list[Any]:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as raw:
        cursor = raw.execute(text)
        return cursor.fetchall() if cursor.description else []


def at_month(number: int, month: int, year: int = 2026, nodes: str = "n1") -> EnergyRecord:
    """A job that ended in the middle of a month."""
    start_s = int(datetime(year, month, 15, 12, tzinfo=UTC).timestamp())
    day = f"{year}-{month:02d}-15"
    shares = [{"day": day, "domain": "package-0", "energy_uj": 8_000_000_000}]
    return add_slurm(
        sum_boundaries([parsed(boundary(number, start_s=start_s, shares=shares, nodelist=nodes))]),
        slurm_job(number, submit_s=start_s - 10, start_s=start_s, end_s=start_s + 100),
    )


def plain(url: str, records: list[EnergyRecord]) -> None:
    """A ledger as it was before it had partitions."""
    Database(*opened(url, create=True)).prepare(create=True)
    with closing(Ledger(*opened(url, create=True), lambda: float(NOW_S))) as ledger:
        ledger.put(records)


def open_at(url: str, now_s: float = NOW_S) -> Ledger:
    return open_ledger(url, create=True, clock=lambda: float(now_s))


def everything(url: str) -> list[str]:
    with closing(open_ledger(url)) as ledger:
        return [to_json(record) for some in upkeep._batches(ledger, upkeep.Who()) for _, record in some]


def names(url: str) -> list[str]:
    with closing(open_ledger(url)) as ledger, ledger.read() as connection:
        assert partitioned(connection)
        return [part.name for part in parts(connection)]


def rows(url: str, part: str) -> list[int]:
    return [sql(url, f"SELECT COUNT(*) FROM {table}_{part}")[0][0] for table in KEYS]


MANY = [at_month(number, 1 + number % 11) for number in range(1, 45)]


def test_a_ledger_of_before_is_partitioned_where_it_lies(url: str) -> None:
    ahead = at_month(99, 6, 2031)
    plain(url, [*MANY, ahead])
    before, sums = everything(url), sql(url, "SELECT * FROM usage_day ORDER BY day, user_name")
    open_at(url).close()
    assert names(url) == ["before", "rest"]
    assert rows(url, "before") == [44, 45, 45]
    assert rows(url, "rest") == [1, 0, 0]
    assert everything(url) == before
    assert sql(url, "SELECT * FROM usage_day ORDER BY day, user_name") == sums
    with closing(open_at(url, DECEMBER_S + 60)) as ledger:
        ledger.put([*MANY, ahead, at_month(100, 12)])
        assert [r.job_id for r in ledger.members("c", "100")] == [100]
        assert [r.job_id for r in ledger.members("c", "99")] == [99]
        shares = ledger.shares_between("c", "2026-01-01", "2031-12-31")
        assert len(shares) == 46
        assert sum(shares.values()) == 46 * 8_000_000_000
    assert names(url) == ["before", "2026_12", "2027_01", "rest"]
    assert rows(url, "2026_12") == [1, 1, 1]
    assert everything(url)[:45] == before


def test_a_row_of_before_that_is_amended_moves_and_is_found(url: str) -> None:
    first = at_month(11, 11, nodes="n1,n2")
    plain(url, [*MANY[:10], first])
    open_at(url).close()
    start_s = first.start_ns // NS
    late = boundary(11, "n2", "n1,n2", start_s=start_s, seconds=DECEMBER_S + 30 - start_s)
    with closing(open_at(url, DECEMBER_S + 60)) as ledger:
        (put,) = ledger.put(
            [add_slurm(sum_boundaries([parsed(late)]), slurm_job(11, submit_s=start_s - 10, start_s=start_s))]
        )
        assert put.record.revision == 2
        assert put.record.end_ns == (DECEMBER_S + 30) * NS
        assert ledger.members("c", "11") == [put.record]
        assert jobs(ledger, Filter(since_s=DECEMBER_S, until_s=DECEMBER_S + 60), 10)[0].job_id == 11
        assert len(ledger.shares_between("c", "2026-11-01", "2026-12-31")) == 3
    assert rows(url, "2026_12") == [1, 1, 2]
    assert rows(url, "before") == [10, 10, 10]


def test_partitioning_may_be_killed_at_any_moment(url: str) -> None:
    plain(url, MANY)
    before = everything(url)
    rng = random.Random(1)
    for _ in range(12):
        child = Popen([sys.executable, "-c", OPENING, url, str(NOW_S)], stdin=PIPE, text=True)
        assert child.stdin is not None
        time.sleep(0.2)
        child.stdin.write("\n")
        child.stdin.flush()
        time.sleep(rng.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert everything(url) == before
    open_at(url).close()
    assert names(url)[0] == "before"
    assert everything(url) == before


def test_collectors_that_start_together_partition_once(url: str) -> None:
    plain(url, MANY)
    failed: list[BaseException] = []

    def start(number: int) -> None:
        try:
            with closing(open_at(url, DECEMBER_S + 60)) as ledger:
                ledger.put([at_month(number, 12)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(200 + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert names(url) == ["before", "2027_01", "rest"]
    assert len(everything(url)) == len(MANY) + 4


def test_months_are_made_when_they_are_wanted_and_one_ahead(url: str) -> None:
    with closing(open_at(url)) as ledger:
        ledger.put([at_month(1, 11)])
        assert names(url) == ["2026_11", "2026_12", "rest"]
        ledger.put([at_month(2, 3, 2021), at_month(3, 2, 2031), at_month(4, 1, 1970)])
    assert names(url) == ["2021_03", "2026_11", "2026_12", "rest"]
    assert rows(url, "2021_03") == [1, 1, 1]
    assert rows(url, "rest") == [2, 2, 2]
    with closing(open_at(url, int(datetime(2031, 2, 20, tzinfo=UTC).timestamp()))) as ledger:
        ledger.put([at_month(5, 2, 2031)])
        assert [r.job_id for r in ledger.members("c", "3")] == [3]
    assert rows(url, "2031_02") == [2, 2, 2]
    assert rows(url, "rest") == [1, 1, 1]


def test_who_may_not_make_tables_loses_nothing(url: str, caplog: pytest.LogCaptureFixture) -> None:
    role = f"writer_{time.monotonic_ns()}"
    plain(url, MANY)
    sql(url, f"CREATE ROLE {role} LOGIN")
    sql(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
    sql(url, f"GRANT CREATE ON SCHEMA public TO {role}")
    writer = f"postgresql+psycopg://{role}@{url.partition('@')[2]}"
    open_at(writer).close()
    assert "the ledger is not partitioned, the next start tries again" in caplog.text
    assert len(everything(url)) == len(MANY)
    open_at(url).close()
    now_s = float(DECEMBER_S + 60)
    with closing(open_ledger(writer, clock=lambda: now_s)) as ledger:
        ledger.put([at_month(300, 12)])
        ledger.put([at_month(301, 12)])
        assert [r.job_id for r in ledger.members("c", "300")] == [300]
        assert sum("rest takes what comes" in one.getMessage() for one in caplog.records) == 1
    assert rows(url, "rest") == [2, 2, 2]
    with closing(open_at(url, now_s + PAUSE_S)) as ledger:
        ledger.put([at_month(302, 12)])
    assert rows(url, "2026_12") == [3, 3, 3]
    assert rows(url, "rest") == [0, 0, 0]
    sql(url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_month_whose_name_is_taken_stops_no_other_one(url: str, caplog: pytest.LogCaptureFixture) -> None:
    plain(url, MANY)
    sql(url, "CREATE TABLE job_2026_12 (whose INTEGER)")
    open_at(url).close()
    now_s = [DECEMBER_S + 60.0]
    with closing(open_ledger(url, create=True, clock=lambda: now_s[0])) as ledger:
        ledger.put([at_month(500, 12), at_month(501, 1, 2027)])
        assert names(url) == ["before", "2027_01", "rest"] and rows(url, "rest") == [1, 1, 1]
        assert "no partition 2026_12 for now" in caplog.text and "already exists" in caplog.text
        sql(url, "ALTER TABLE job_2026_12 RENAME TO elsewhere")
        ledger.put([at_month(502, 12)])
        assert rows(url, "rest") == [2, 2, 2]
        now_s[0] += PAUSE_S
        ledger.put([at_month(503, 12)])
        assert rows(url, "2026_12") == [3, 3, 3] and rows(url, "rest") == [0, 0, 0]


def test_whoever_dumps_a_ledger_may_dump_its_new_months(url: str) -> None:
    plain(url, MANY)
    role = f"dumper_{time.monotonic_ns()}"
    sql(url, f"CREATE ROLE {role} LOGIN")
    sql(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    with closing(open_at(url)) as ledger:
        ledger.put([at_month(500, 11)])
    with closing(open_at(url, DECEMBER_S + 60)) as ledger:
        ledger.put([at_month(501, 12)])
    host, programs = url.partition("host=")[2], binaries()
    assert programs is not None
    database = url.rpartition("/perun-pg")[0].rpartition("?")[0].rpartition("/")[2]
    dump = [programs / "pg_dump", "-h", host, "-U", role, database]
    done = run(dump, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE public.job_2027_01" in done.stdout
    sql(url, f"DROP OWNED BY {role}")
    sql(url, f"DROP ROLE {role}")


def test_views_keep_a_ledger_as_it_is_until_they_are_gone(url: str, caplog: pytest.LogCaptureFixture) -> None:
    plain(url, MANY)
    sql(url, "CREATE VIEW mine AS SELECT job_id, energy_uj FROM job")
    with closing(open_at(url)) as ledger:
        assert "rest on its tables (mine)" in caplog.text
        ledger.put([at_month(100, 11)])
        assert len(jobs(ledger, Filter(), 100)) == 45
    assert sql(url, "SELECT COUNT(*) FROM mine") == [(45,)]
    sql(url, "DROP VIEW mine")
    open_at(url).close()
    assert rows(url, "before") == [45, 45, 45]


def test_what_else_a_site_has_on_a_ledger_keeps_it_as_it_is(url: str, caplog: pytest.LogCaptureFixture) -> None:
    plain(url, MANY)
    sql(url, "CREATE TABLE ticket (job BIGINT CONSTRAINT of_job REFERENCES job (id))")
    sql(url, "CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    sql(url, "CREATE TRIGGER tell AFTER INSERT ON record EXECUTE FUNCTION told()")
    with closing(open_at(url)) as ledger:
        assert "(of_job, tell): drop them first" in caplog.text
        ledger.put([at_month(100, 11)])
    sql(url, "INSERT INTO ticket SELECT id FROM job WHERE job_id = 100")
    sql(url, "DROP TABLE ticket")
    sql(url, "DROP TRIGGER tell ON record")
    open_at(url).close()
    assert rows(url, "before") == [45, 45, 45]


def test_a_reader_that_stays_is_not_waited_for(url: str, caplog: pytest.LogCaptureFixture) -> None:
    plain(url, MANY)
    open_at(url).close()
    with closing(open_at(url, DECEMBER_S + 60)) as ledger, closing(open_ledger(url)) as reader:
        with reader.read() as connection:
            assert connection.value("SELECT COUNT(*) FROM job") == len(MANY)
            ledger.put([at_month(300, 12)])
            assert "canceling statement due to lock timeout" in caplog.text
            assert upkeep.delete(ledger, upkeep.Who(before_s=NOW_S)) == len(MANY)
            assert rows(url, "before") == [0, 0, 0]
        assert rows(url, "rest") == [1, 1, 1]
        assert [r.job_id for r in reader.members("c", "300")] == [300]
        assert ledger.partitions.drop_empty(NOW_S + 30 * 86_400) == 1
    assert names(url) == ["rest"]


def test_months_that_are_deleted_leave_no_tables(url: str) -> None:
    with closing(open_at(url)) as ledger:
        ledger.put([at_month(number, number) for number in range(1, 12)])
        energy = usage(ledger, [], Filter(), "2026-01-01", "2026-12-31")[0].values["energy_uj"]
        may_s = int(datetime(2026, 5, 20, tzinfo=UTC).timestamp())
        assert upkeep.delete(ledger, upkeep.Who(before_s=may_s)) == 5
        assert names(url)[0] == "2026_05"
        assert rows(url, "2026_05") == [0, 0, 0]
        assert usage(ledger, [], Filter(), "2026-01-01", "2026-12-31")[0].values["energy_uj"] == energy
        ledger.put([at_month(12, 2)])
        assert names(url)[:2] == ["2026_02", "2026_05"]


def test_a_month_that_another_command_dropped_is_made_again(url: str) -> None:
    now_s = [float(NOW_S)]
    with closing(open_ledger(url, create=True, clock=lambda: now_s[0])) as ledger:
        ledger.put([at_month(1, 3), at_month(2, 10)])
        with closing(open_at(url)) as other:
            assert upkeep.delete(other, upkeep.Who(before_s=NOW_S - 180 * 86_400)) == 1
        assert "2026_03" not in names(url)
        now_s[0] += PAUSE_S
        ledger.put([at_month(3, 3)])
    assert rows(url, "2026_03") == [1, 1, 1] and rows(url, "rest") == [0, 0, 0]


def test_a_time_asked_for_is_looked_for_in_its_months_alone(url: str) -> None:
    plain(url, [at_month(99, 1)])
    with closing(open_at(url, NOW_S - 300 * 86_400)) as ledger:
        ledger.put([at_month(98, 1)])
    seen: list[set[str]] = []

    with closing(open_at(url)) as ledger:
        ledger.put([at_month(number, 1 + number % 11) for number in range(1, 23)])
        may, day = [int(datetime(2026, 5, at, tzinfo=UTC).timestamp()) for at in (14, 16)], "2026-05-15"
        ids = {row[0]: row[1] for row in sql(url, "SELECT id, end_s FROM job_2026_05")}
        touched(ledger, seen, lambda asked: jobs(asked, Filter(cluster="c", since_s=may[0], until_s=may[1]), 10))
        touched(ledger, seen, lambda asked: asked.load(ids))
        touched(ledger, seen, lambda asked: asked.shares_between("c", day, day))
        touched(ledger, seen, lambda asked: asked.runs_between("c", *may))
    few = {f"job_2026_{month:02d}" for month in range(5, 13)} | {"job_rest"}
    # The few runs that are longer than usual may have ended in any later month.
    assert {name for name in seen[0] if name.startswith("job_2026")} <= few
    assert seen[0] & {"record_2026_04", "record_2026_06", "job_2026_04", "job_before"} == set()
    assert {"record_2026_05", "job_2026_05"} <= seen[0]
    assert seen[1] - {"record_before", "job_share_before"} == {"record_2026_05", "job_share_2026_05"}
    assert seen[2] & {f"job_share_2026_{month:02d}" for month in range(1, 5)} == set()
    assert "job_share_2026_05" in seen[2]
    assert seen[3] == {"job_2026_05", "deleted"}


@pytest.mark.parametrize("ahead", [0, 1, 2, 40, 700])
def test_shares_of_a_node_whose_clock_is_ahead_are_in_their_day(url: str, ahead: int) -> None:
    day = (datetime(2026, 5, 15, tzinfo=UTC) + timedelta(days=ahead)).strftime("%Y-%m-%d")
    open_at(url).close()
    with closing(open_at(url)) as ledger:
        for number, energy_uj in ((1, 8_000_000_000), (1, 9_000_000_000), (2, 8_000_000_000)):
            record = at_month(number, 5)
            share = replace(record.shares[0], day=day, energy_uj=energy_uj)
            ledger.put([replace(record, revision=record.revision + 1, energy_uj=energy_uj, shares=(share,))])
        ledger.put([at_month(3, 5)])
        found = ledger.shares_between("c", day, day)
        assert {job for _, job in found} == {(1, 0), (2, 0)} | ({(3, 0)} if not ahead else set())
        assert {at[1] for at, _ in found} == {day}
        (record,) = ledger.members("c", "1")
        assert [one.day for one in record.shares] == [day]
        assert found[("n1", day, "package-0"), (1, 0)] == record.energy_uj


def touched(ledger: Ledger, seen: list[set[str]], ask: Any) -> None:
    """Add the tables that a question reads, by the server's own plans."""
    from tests.contract.test_ledger_plans import Asked, Observed

    class Named(Asked):
        def _scans(self, sql: str, values: Any) -> list[str]:
            (plan,) = Connection.execute(self, f"EXPLAIN (FORMAT JSON) {sql}", values).fetchone()[0]
            return sorted(relations(plan["Plan"]))

    observed = Observed(*opened(ledger.url, create=False), lambda: float(NOW_S))
    observed.plans, observed.asked_by = [], Named
    with closing(observed):
        ask(observed)
    seen.append({name for _, found in observed.plans for name in found})


def relations(node: dict[str, Any]) -> Iterator[str]:
    if "Relation Name" in node:
        yield node["Relation Name"]
    for part in node.get("Plans", ()):
        yield from relations(part)
