"""Collectors beside each other on PostgreSQL: they share the work, and one that is killed costs nothing."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.accounting.turns import LEASE, SHARDS
from perun_hpc.archive.places import Archive, Run
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import DAY, START_S, boundary, parsed, put_incoming, slurm_job
from tests.contract.conftest import empty

JOBS = 400
NODE_UJ = 8_000_000_000
DEADLINE_S = 900
COLLECTOR = """
import sys, time
from pathlib import Path
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive, Run
from tests.accounting_data import START_S
archive, ledger = Archive(Path(sys.argv[1]), "c"), open_ledger(sys.argv[2])
while list(archive.incoming()) or archive.taken():
    Collector(archive, ledger, Tools(lambda: START_S + 200.0), 900).sweep()
    time.sleep(0.01)
"""


def record(job_id: int = 1) -> EnergyRecord:
    return sum_boundaries([parsed(boundary(job_id))])


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[Ledger]:
    made = open_ledger(postgres_url, create=True)
    yield made
    empty(made)
    made.close()


def arrive(root: Path, jobs: int) -> None:
    for number in range(1, jobs + 1):
        for node in ("n1", "n2"):
            put_incoming(root, boundary(number, node, "n1,n2"))


def collector(root: Path, ledger: Ledger, holder: str, slurm: Slurm | None = None) -> Collector:
    made = Collector(Archive(root, "c"), ledger, Tools(lambda: START_S + 200.0, slurm), DEADLINE_S)
    made.holder = holder
    return made


@pytest.mark.parametrize("seed", range(3))
def test_whichever_collector_is_killed_nothing_is_lost_or_doubled(
    ledger: Ledger, postgres_url: str, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    arrive(tmp_path, JOBS)
    words = [sys.executable, "-c", COLLECTOR, str(tmp_path), postgres_url]
    working = [Popen(words, stdout=DEVNULL, stderr=DEVNULL) for _ in range(3)]
    until_s = time.monotonic() + 120
    archive, midway = Archive(tmp_path, "c"), 0
    while any(one.poll() is None for one in working):
        assert time.monotonic() < until_s
        time.sleep(rng.uniform(0.01, 0.1))
        at = rng.randrange(len(working))
        begun = archive.jobs.exists() and any(archive.jobs.iterdir())
        if working[at].poll() is None and begun and midway < 6:
            working[at].send_signal(signal.SIGKILL)
            working[at].wait()
            midway += 1
            working[at] = Popen(words, stdout=DEVNULL, stderr=DEVNULL)
    assert [one.returncode for one in working] == [0, 0, 0]
    assert midway
    for number in range(1, JOBS + 1):
        (record,) = ledger.members("c", str(number))
        assert record.energy_uj == 2 * NODE_UJ
        directory = archive.job(Run(number, 0))
        assert json.loads((directory / "record.json").read_text())["energy_uj"] == 2 * NODE_UJ
        assert sorted(path.name for path in (directory / "boundary").iterdir()) == ["n1.json", "n2.json"]
    (sums,) = usage(ledger, ["cluster"], Filter(), DAY, DAY)
    assert (sums.values["jobs"], sums.values["energy_uj"]) == (JOBS, 2 * NODE_UJ * JOBS)


def test_what_one_collector_puts_waits_for_no_other_one_and_a_lease_for_none(ledger: Ledger, postgres_url: str) -> None:
    other = open_ledger(postgres_url)
    for shard in (3, 4):
        assert ledger.acquire(f"shard:{shard}", f"holder of {shard}")
    with ThreadPoolExecutor(2) as pool:
        with ledger.write(beside=True) as connection:
            ledger._check_lease(connection, "shard:3", "holder of 3")  # as one that is at its records
            put = pool.submit(other.put, [record(4)], False, ("shard:4", "holder of 4"))
            assert put.result(30)[0].changed
            assert pool.submit(other.acquire, "shard:5", "another").result(30)
            assert not pool.submit(other.acquire, "shard:3", "another").result(30)
            taken_over = pool.submit(other.acquire, "shard:3", "another", dead=lambda _: True)
            everywhere = pool.submit(other.put, [record(5)])
            time.sleep(0.5)
            assert not taken_over.done()
            assert not everywhere.done()
        assert taken_over.result(30)
        assert everywhere.result(30)[0].changed
    with pytest.raises(UnavailableError, match="took over"):
        ledger.put([record(3)], lease=("shard:3", "holder of 3"))
    other.close()


def test_records_that_are_put_beside_each_other_have_ids_of_their_own(ledger: Ledger, postgres_url: str) -> None:
    others = [open_ledger(postgres_url) for _ in range(4)]

    def put(shard: int) -> list[int]:
        lease, found = (f"shard:{shard}", f"holder of {shard}"), []
        assert others[shard].acquire(*lease)
        for at in range(20):
            records = [record(number * 4 + shard) for number in range(at * 3, at * 3 + 3)]
            found += [one.job for one in others[shard].put(records, lease=lease)]
        return found

    with ThreadPoolExecutor(4) as pool:
        ids = [job for found in pool.map(put, range(4)) for job in found]
    assert sorted(ids) == list(range(min(ids), min(ids) + 240))
    for number in range(240):
        (found,) = ledger.members("c", str(number))
        assert found == record(number)
    (sums,) = usage(ledger, ["cluster"], Filter(), DAY, DAY)
    assert (sums.values["jobs"], sums.values["energy_uj"]) == (240, 240 * (record().energy_uj or 0))
    for one in others:
        one.close()


def test_two_that_put_records_of_the_same_days_never_wait_for_each_other(ledger: Ledger, postgres_url: str) -> None:
    """Two runs of one name, the one of the later day first; another collector changes these days in their order."""
    days = ("2025-11-24", "2025-11-25")

    def run(day: str, number: int, job_id: int) -> EnergyRecord:
        share = {"day": day, "domain": "package-0", "energy_uj": NODE_UJ}
        return sum_boundaries([parsed(boundary(job_id, start_s=START_S + number * 86_400, shares=[share]))])

    ledger.put([run(day, number, 4) for number, day in enumerate(days)])
    assert ledger.acquire("shard:3", "here")
    change = "UPDATE usage_day SET energy_uj = energy_uj WHERE day = :day"
    with ThreadPoolExecutor(1) as pool:
        with ledger.write(beside=True) as connection:
            connection.execute(change, {"day": days[0]})
            later = [run(day, number, 3) for number, day in enumerate(days)][::-1]
            put = pool.submit(ledger.put, later, False, ("shard:3", "here"))
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"
            until_s = time.monotonic() + 30
            while connection.value(waits) is None:
                assert time.monotonic() < until_s
                connection.execute("SELECT pg_stat_clear_snapshot()")
            connection.execute(change, {"day": days[1]})
        assert [one.changed for one in put.result(30)] == [True, True]
    (sums,) = usage(ledger, ["cluster"], Filter(), *days)
    assert sums.values["energy_uj"] == 4 * NODE_UJ


def test_what_another_collector_is_at_is_left_to_it(ledger: Ledger, tmp_path: Path) -> None:
    arrive(tmp_path, 2 * SHARDS)
    assert ledger.acquire(f"{LEASE}:c:3", "elsewhere:1")
    first = collector(tmp_path, ledger, "here:1")
    assert first.sweep().stored == 2 * SHARDS - 2
    assert first.leads
    assert {run.job_id % SHARDS for run, _ in Archive(tmp_path, "c").incoming()} == {3}
    ledger.release(f"{LEASE}:c:3", "elsewhere:1")
    assert collector(tmp_path, ledger, "here:1").sweep().stored == 2


def test_who_is_forgotten_holds_up_one_part_and_waits_for_it(ledger: Ledger, tmp_path: Path) -> None:
    ledger.put([record(3)])
    arrive(tmp_path, 2 * SHARDS)
    stored: list[int] = []

    def first(records: Sequence[EnergyRecord]) -> None:
        stored.append(collector(tmp_path, ledger, "elsewhere:1").sweep().stored)

    assert ledger.acquire(f"{LEASE}:c:3", "elsewhere:1")
    with pytest.raises(UnavailableError, match="run it again"):
        upkeep.delete(ledger, upkeep.Who(user="alice"), first)
    ledger.release(f"{LEASE}:c:3", "elsewhere:1")
    assert upkeep.delete(ledger, upkeep.Who(user="alice"), first) == 1
    assert stored == [2 * SHARDS - 2]
    assert {run.job_id % SHARDS for run, _ in Archive(tmp_path, "c").incoming()} == {3}
    assert ledger.acquire(f"{LEASE}:c:3", "elsewhere:1")


def test_one_that_does_not_lead_collects_and_leaves_the_rest(ledger: Ledger, tmp_path: Path) -> None:
    arrive(tmp_path, 5)
    assert ledger.acquire(f"{LEASE}:c", "elsewhere:1")
    asked: list[tuple[int, int]] = []

    def between(since_s: int, until_s: int) -> list[SlurmJob]:
        asked.append((since_s, until_s))
        return []

    second = collector(
        tmp_path,
        ledger,
        "here:2",
        Slurm(lambda ids: [slurm_job(n, nodelist="n[1-2]", num_nodes=2) for n in ids], between),
    )
    assert second.sweep().stored == 5
    assert not second.leads
    assert asked == []
    with ledger.read() as connection:
        assert [row.name for row in connection.execute("SELECT name FROM lease")] == [f"{LEASE}:c"]


@pytest.mark.parametrize("lost", ["taken over", "taken over and given back"])
def test_a_collector_that_paused_for_longer_than_its_lease_puts_no_older_record_in_a_newer_ones_place(
    ledger: Ledger, postgres_url: str, tmp_path: Path, lost: str
) -> None:
    """It has put its records into the ledger and written them beside their places; another one knows more by then."""
    put_incoming(tmp_path, boundary(7, "n1", "n1,n2"))
    late_s, archive = START_S + 2000.0, Archive(tmp_path, "c")
    later = open_ledger(postgres_url, clock=lambda: time.time() + 1000)
    paused: list[bool] = []

    def stop_and_go_on(*_: object) -> None:
        if not paused:
            paused.append(True)
            put_incoming(tmp_path, boundary(7, "n2", "n1,n2"))
            second = Collector(archive, later, Tools(lambda: late_s), DEADLINE_S)
            second.holder = "elsewhere:2"
            assert second.sweep().stored == 1
            if lost == "taken over":
                assert later.acquire(f"{LEASE}:c:7", "elsewhere:2")

    first = Collector(archive, ledger, Tools(lambda: late_s, sync=stop_and_go_on), DEADLINE_S)
    first.holder = "here:1"
    with pytest.raises(UnavailableError, match="took over"):
        first.sweep()
    (record,) = ledger.members("c", "7")
    assert record.energy_uj == 2 * NODE_UJ
    written = json.loads((archive.job(Run(7, 0)) / "record.json").read_text())
    assert (written["energy_uj"], written["revision"]) == (record.energy_uj, record.revision)
    assert not [path.name for path in archive.job(Run(7, 0)).iterdir() if path.name.startswith(".")]
    later.close()


def test_sqlite_has_one_collector(tmp_path: Path) -> None:
    made = open_ledger(str(tmp_path / "ledger.db"), create=True)
    assert Collector(Archive(tmp_path, "c"), made, Tools(lambda: 0.0), DEADLINE_S).shards == 1
    made.close()
