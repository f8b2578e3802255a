"""The ledger's contract, held against SQLite and a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from perun_hpc.accounting.daily import MEASURES, by_day
from perun_hpc.accounting.database import SQLITE
from perun_hpc.accounting.ledger import Ledger, Put, Refused, open_ledger
from perun_hpc.accounting.questions import Filter, jobs, usage
from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError, NotFoundError, UnavailableError, UsageError
from tests.accounting_data import DAY, START_S, boundary, domain, parsed, slurm_job
from tests.contract.conftest import empty
from tests.examples import examples

pytestmark = pytest.mark.usefixtures("utc")
CLOCK = [float(START_S + 1000)]


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = open_ledger(ledger_url, create=True, clock=lambda: CLOCK[0])
    yield opened
    empty(opened)
    opened.close()


def record(job_id: int = 4711, energy_uj: int = 8_000_000_000, **other: Any) -> EnergyRecord:
    return sum_boundaries([parsed(boundary(job_id, domains={"package-0": domain("cpu", energy_uj)}, **other))])


def stored_days(ledger: Ledger) -> dict[tuple[str, ...], tuple[int, ...]]:
    with ledger.read() as connection:
        rows = connection.execute("SELECT * FROM usage_day").fetchall()
        rows = [row._asdict() for row in rows]
    keys = ("cluster", "day", "account", "user_name", "partition_name", "qos")
    found = {tuple(row[k] for k in keys): tuple(int(row[m]) for m in MEASURES) for row in rows}
    return {key: value for key, value in found.items() if any(value)}


def expected_days(records: list[EnergyRecord]) -> dict[tuple[str, ...], tuple[int, ...]]:
    found: dict[tuple[str, ...], tuple[int, ...]] = {}
    for r in records:
        for day, vector in by_day(r).items():
            key = (r.cluster, day, r.account, r.user, r.partition, r.qos)
            found[key] = tuple(a + b for a, b in zip(found.get(key, (0,) * len(vector)), vector, strict=True))
    return {key: value for key, value in found.items() if any(value)}


def test_the_same_inputs_change_nothing(ledger: Ledger) -> None:
    first = ledger.put([record()], queue=True)[0]
    assert first.changed and first.record.revision == 1
    again = ledger.put([record()], queue=True)[0]
    assert not again.changed and again.job == first.job
    assert ledger.load([first.job]) == [first.record]


def test_a_late_node_is_the_next_revision_and_seen(ledger: Ledger) -> None:
    first = boundary(4711, "n1", "n1,n2")
    ledger.put([sum_boundaries([parsed(first)])])
    put = ledger.put([sum_boundaries([parsed(first), parsed(boundary(4711, "n2", "n1,n2"))])])[0]
    assert put.record.revision == 2 and put.record.status == "complete"
    with ledger.read() as connection:
        rows = [tuple(row) for row in connection.execute("SELECT revision, before_uj, after_uj FROM amendment")]
    assert rows == [(2, 8_000_000_000, 16_000_000_000)]
    assert stored_days(ledger) == expected_days([put.record])


def test_slurms_data_may_come_first_or_later_and_is_kept(ledger: Ledger) -> None:
    bare = ledger.put([record()])[0]
    named = ledger.put([add_slurm(record(), slurm_job(qos="long"))])[0]
    assert named.job == bare.job and named.record.qos == "long" and named.record.revision == 1
    kept = ledger.put([record()])[0]
    assert kept.record == named.record and not kept.changed
    amended = ledger.put([record(energy_uj=9)])[0]
    assert (amended.record.qos, amended.record.energy_uj, amended.record.revision) == ("long", 9, 2)
    assert stored_days(ledger) == expected_days([amended.record])


def test_a_report_after_the_missing_record_replaces_it(ledger: Ledger) -> None:
    lost = ledger.put([missing_record(slurm_job(), "c", "no node reported this job")])[0]
    assert lost.record.energy_uj is None
    found = ledger.put([record()])[0]
    assert (found.job, found.record.revision, found.record.status) == (lost.job, 2, "complete")
    assert found.record.state == "COMPLETED"
    repeated = ledger.put([missing_record(slurm_job(), "c", "no node reported this job")])[0]
    assert repeated.record == found.record


def test_recycled_ids_and_requeues_are_rows_of_their_own(ledger: Ledger) -> None:
    later_s = START_S + 90 * 86400
    puts = ledger.put(
        [
            record(),
            record(restart_count=1),
            record(start_s=later_s, shares=[{"day": "2027-02-20", "domain": "package-0", "energy_uj": 8_000_000_000}]),
        ]
    )
    assert len({p.job for p in puts}) == 3
    assert len(ledger.members("c", "4711")) == 3


def test_arrays_and_het_jobs_by_the_ids_that_users_write(ledger: Ledger) -> None:
    ledger.put(
        [
            add_slurm(record(10), slurm_job(10, shown_id="10_7")),
            add_slurm(record(11), slurm_job(11, shown_id="10_8")),
            add_slurm(record(20), slurm_job(20, shown_id="20+0")),
            add_slurm(record(21), slurm_job(21, shown_id="20+1")),
        ]
    )
    assert [r.job_id for r in ledger.members("c", "10")] == [10, 11]
    assert [r.job_id for r in ledger.members("c", "10_8")] == [11]
    assert [r.job_id for r in ledger.members("c", "20+1")] == [21]
    assert ledger.members("c", "20+9") == []


def test_filters(ledger: Ledger) -> None:
    ledger.put(
        [
            add_slurm(record(1), slurm_job(1, state="FAILED")),
            add_slurm(record(2, node="n2", nodelist="n2"), slurm_job(2, user="bob", account="biology", nodelist="n2")),
            add_slurm(record(3), slurm_job(3, partition="short")),
        ]
    )

    def ids(**other: Any) -> list[int]:
        return [r.job_id for r in jobs(ledger, Filter(cluster="c", **other), 100)]

    assert ids() == [1, 2, 3]
    assert ids(users=("bob",)) == [2]
    assert ids(states=("FAILED",)) == [1]
    assert ids(partitions=("short",)) == [3]
    assert ids(nodes=("n2",)) == [2]
    assert ids(accounts=("physics", "biology")) == [1, 2, 3]
    assert ids(since_s=START_S + 101) == []
    assert ids(until_s=START_S - 1) == []
    assert ids(since_s=START_S + 50, until_s=START_S + 60) == [1, 2, 3]
    assert [r.job_id for r in jobs(ledger, Filter(), 2)] == [2, 3]


def test_names_that_slurm_keeps_in_lower_case_match_in_any_case(ledger: Ledger) -> None:
    slurm = slurm_job(1, account="chemlab", qos="high")
    ledger.put([add_slurm(record(1), slurm)])
    ledger.put([replace(record(2), account="ChemLab", qos="High", partition="Main")])  # as typed: no slurmdbd here
    for wanted in (
        Filter(accounts=("CHEMLAB",)),
        Filter(accounts=("chemlab",)),
        Filter(qos=("HIGH",)),
        Filter(users=("Alice",)),
        Filter(cluster="C"),
    ):
        assert [r.job_id for r in jobs(ledger, wanted, 10)] == [1, 2]
        (total,) = usage(ledger, ["account", "qos"], wanted, "2026-11-21", "2026-11-24")
        assert (total.group, total.values["jobs"]) == (("chemlab", "high"), 2)
    assert [r.job_id for r in jobs(ledger, Filter(partitions=("main",)), 10)] == [1]
    assert [r.account for r in jobs(ledger, Filter(), 10)] == ["chemlab", "ChemLab"]


def test_usage_sums_beyond_64_bits(ledger: Ledger) -> None:
    huge = 4 * 10**18
    ledger.put([record(n, huge, uid=n, user=f"u{n}") for n in range(1, 6)])
    (total,) = usage(ledger, ["account", "month"], Filter(), DAY, DAY)
    assert total.group == ("physics", DAY[:7])
    assert total.values["energy_uj"] == 5 * huge
    assert total.values["jobs"] == 5
    assert usage(ledger, ["user"], Filter(users=("u3",)), DAY, DAY)[0].values["energy_uj"] == huge
    assert usage(ledger, ["user"], Filter(), "2026-11-23", "2026-12-01") == []


def test_negative_energies_sum_exactly(ledger: Ledger) -> None:
    ledger.put([record(1, -1_500_000, uid=1, user="a"), record(2, 2_700_001, uid=2, user="b")])
    assert usage(ledger, ["account"], Filter(), DAY, DAY)[0].values["energy_uj"] == 1_200_001


def test_hostile_names_are_data(ledger: Ledger) -> None:
    name = "x'); DROP TABLE job; --\x1b[31m"
    ledger.put([add_slurm(record(), slurm_job(name=name, user="o'hara"))])
    (found,) = jobs(ledger, Filter(users=("o'hara",)), 10)
    assert found.name == name


def test_one_collector_at_a_time(ledger: Ledger) -> None:
    assert ledger.acquire("collect", "a")
    assert not ledger.acquire("collect", "b")
    assert ledger.acquire("collect", "a")
    CLOCK[0] += 1000
    assert ledger.acquire("collect", "b")
    with pytest.raises(UnavailableError, match="took over"):
        ledger.put([record()], lease=("collect", "a"))
    assert ledger.members("c", "4711") == []
    ledger.release("collect", "b")
    assert ledger.acquire("collect", "a")


def test_the_queue_for_slurmdbd(ledger: Ledger) -> None:
    put = ledger.put([record()], queue=True)[0]
    assert [(d.job, d.tries) for d in ledger.due("c", 10)] == [(put.job, 0)]
    ledger.postpone([(put.job, 60)])
    assert ledger.due("c", 10) == []
    CLOCK[0] += 61
    assert [(d.job, d.tries) for d in ledger.due("c", 10)] == [(put.job, 1)]
    ledger.settle([put.job])
    assert ledger.due("c", 10) == []


def too_large(job_id: int) -> EnergyRecord:
    """A record with a number that fits no column of 64 bits."""
    return replace(record(job_id), u_uj=1 << 63)


@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_record_that_the_database_refuses_fails_alone_and_is_named(ledger: Ledger, place: int) -> None:
    records = [record(n) for n in range(1, 8)]
    bad = records[place] = too_large(place + 1)
    with pytest.raises(DataError):
        ledger.put(records)
    assert stored_days(ledger) == {}
    answers = ledger.offer(records, queue=True)
    (refused,) = [answer for answer in answers if isinstance(answer, Refused)]
    assert answers[place] is refused and refused.record == bad and "does not take it" in refused.why
    kept = [r for r in records if r is not bad]
    assert [answer.record for answer in answers if isinstance(answer, Put)] == kept
    assert stored_days(ledger) == expected_days(kept)
    assert len(ledger.due("c", 10)) == 6
    assert ledger.members("c", str(bad.job_id)) == []
    assert not any(isinstance(a, Put) and a.changed for a in ledger.offer(records))


@pytest.mark.parametrize("name", ["nul\0", "half a pair \ud800"])
def test_text_that_a_database_refuses_fails_alone(ledger: Ledger, name: str) -> None:
    answers = ledger.offer([record(1), replace(record(2), name=name), record(3)])
    taken = [isinstance(answer, Put) for answer in answers]
    # SQLite stores a NUL.
    assert taken == [True, "\0" in name and ledger.dialect == SQLITE, True]


def test_a_sum_beyond_64_bits_is_refused_and_the_others_stay_exact(ledger: Ledger) -> None:
    huge = 4 * 10**18
    answers = ledger.offer([record(1, huge), record(2, huge), record(3, huge), record(4, 7)])
    assert [isinstance(answer, Put) for answer in answers] == [True, True, False, True]
    (total,) = usage(ledger, ["account"], Filter(), DAY, DAY)
    assert total.values["energy_uj"] == 2 * huge + 7


def test_twice_the_same_run_in_one_batch_is_one_record(ledger: Ledger) -> None:
    named = add_slurm(record(), slurm_job())
    answers = ledger.offer([named, record(2), named])
    assert [isinstance(answer, Put) and answer.changed for answer in answers] == [True, True, False]
    assert stored_days(ledger) == expected_days([named, record(2)])


def test_rows_without_slurms_data_come_in_pages_the_newest_first(ledger: Ledger) -> None:
    ledger.put([record(n, start_s=START_S + n // 2) for n in range(1, 8)])
    ledger.put([add_slurm(record(8), slurm_job(8))])
    pages = list(ledger.without_state("c", 3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [r.job_id for page in pages for r in ledger.load(page)] == [7, 6, 5, 4, 3, 2, 1]
    assert list(ledger.without_state("other", 3)) == []


def test_migrating_twice_does_nothing(ledger: Ledger) -> None:
    ledger.put([record()])
    again = open_ledger(ledger.url, create=True)
    assert len(again.members("c", "4711")) == 1
    again.close()


@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.booleans()), max_size=12), st.integers(1, 5))
def test_sums_per_day_always_equal_the_records(ledger: Ledger, events: list[tuple[int, int, bool]], batch: int) -> None:
    empty(ledger)
    states = ["COMPLETED", "FAILED"]
    records = []
    for job_id, version, named in events:
        made = record(job_id, 1000 + version)
        records.append(add_slurm(made, slurm_job(job_id, state=states[version % 2])) if named else made)
    for at in range(0, len(records), batch):
        # One sweep puts every run once; later versions of the same run come in later sweeps.
        for one in {r.job_id: r for r in records[at : at + batch]}.values():
            ledger.put([one])
    stored = [r for job_id in range(1, 5) for r in ledger.members("c", str(job_id))]
    assert stored_days(ledger) == expected_days(stored)


def test_a_ledger_is_nobodys_business(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch(mode=0o666)
    path.chmod(0o666)
    ledger = open_ledger(str(path), create=True)
    ledger.put([record()])
    assert {p.name: p.stat().st_mode & 0o007 for p in tmp_path.iterdir()} == {
        "ledger.db": 0,
        "ledger.db-wal": 0,
        "ledger.db-shm": 0,
    }
    ledger.close()
    fresh = open_ledger(str(tmp_path / "new" / "ledger.db"), create=True)
    assert (tmp_path / "new" / "ledger.db").stat().st_mode & 0o777 == 0o600
    fresh.close()


def test_no_ledger_and_no_sense(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no ledger here"):
        open_ledger(str(tmp_path / "none.db"))
    with pytest.raises(UsageError):
        open_ledger("nonsense://x")
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at\n" * 100)
    with pytest.raises(UnavailableError):
        open_ledger(str(tmp_path / "text.db"))
