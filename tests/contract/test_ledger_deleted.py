"""What was deleted counts once, whatever brings its evidence back: backups, nodes that report late, directories."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.packing import Access
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.record import EnergyRecord
from tests.accounting_data import DAY, START_S, boundary, domain, parsed, put_incoming, slurm_job
from tests.contract.conftest import empty
from tests.examples import examples

pytestmark = pytest.mark.usefixtures("utc")
BOTH = "n1,n2"
EVERYBODY = upkeep.Who(before_s=1 << 40)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = open_ledger(ledger_url, create=True, clock=lambda: float(START_S + 1000))
    empty(opened)
    yield opened
    empty(opened)
    opened.close()


def energy_uj(job_id: int, node: str, revision: int) -> int:
    return job_id * 1000 + int(node[1:]) * 100 + revision


def record(job_id: int, nodes: Mapping[str, int]) -> EnergyRecord:
    """A record of a two-node job of which some nodes have reported, each in some revision."""
    return sum_boundaries(
        [
            parsed(
                boundary(
                    job_id,
                    node,
                    BOTH,
                    domains={"package-0": domain("cpu", energy_uj(job_id, node, revision))},
                    revision=revision,
                )
            )
            for node, revision in nodes.items()
        ]
    )


def sums(ledger: Ledger, *by: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Jobs and energy by group."""
    found = usage(ledger, list(by) or ["account"], Filter(), DAY, DAY)
    return {one.group: (one.values["jobs"], one.values["energy_uj"]) for one in found if any(one.values.values())}


def everything(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    with ledger.read() as connection:
        return {
            table: [tuple(row) for row in connection.execute(f"SELECT * FROM {table}")]
            for table in ("job", "record", "job_share", "usage_day", "deleted", "amendment")
        }


def test_a_backup_made_before_a_deletion_changes_nothing_in_the_same_ledger(ledger: Ledger, tmp_path: Path) -> None:
    ledger.put([add_slurm(record(1, {"n1": 1, "n2": 1}), slurm_job(1, name="secret")), record(2, {"n1": 1})])
    ledger.put([missing_record(slurm_job(3), "c", "no node reported this job")])
    before = sums(ledger)
    upkeep.backup(ledger, tmp_path / "b")
    assert upkeep.delete(ledger, upkeep.Who(user="alice")) == 3
    left = everything(ledger)
    assert upkeep.restore(ledger, tmp_path / "b") == 3
    assert everything(ledger) == left
    assert sums(ledger) == before and sums(ledger, "user") == {("removed",): next(iter(before.values()))}
    assert "alice" not in str(left) and "secret" not in str(left) and ledger.members("c", "1") == []


def test_a_node_that_reports_after_the_deletion_brings_its_run_back_whole(ledger: Ledger) -> None:
    ledger.put([add_slurm(record(1, {"n1": 1}), slurm_job(1, num_nodes=2, nodelist="n[1-2]"))])
    upkeep.delete(ledger, EVERYBODY)
    (put,) = ledger.put([record(1, {"n2": 1})])
    whole = energy_uj(1, "n1", 1) + energy_uj(1, "n2", 1)
    assert (put.changed, put.record.energy_uj, put.record.user, put.record.status) == (True, whole, "alice", "complete")
    assert sums(ledger, "user") == {("alice",): (1, whole)} and everything(ledger)["deleted"] == []
    upkeep.delete(ledger, EVERYBODY)
    assert sums(ledger, "user") == {("removed",): (1, whole)}


def test_a_newer_revision_replaces_what_was_deleted(ledger: Ledger) -> None:
    ledger.put([record(1, {"n1": 1, "n2": 1})])
    upkeep.delete(ledger, EVERYBODY)
    ledger.put([record(1, {"n1": 2})])
    assert sums(ledger, "user") == {("alice",): (1, energy_uj(1, "n1", 2) + energy_uj(1, "n2", 1))}


def test_a_job_id_that_comes_again_is_another_run(ledger: Ledger) -> None:
    ledger.put([record(1, {"n1": 1})])
    upkeep.delete(ledger, EVERYBODY)
    again = parsed(boundary(1, start_s=START_S + 3600))
    (put,) = ledger.put([sum_boundaries([again])])
    assert put.changed and len(everything(ledger)["deleted"]) == 1
    assert sums(ledger) == {("physics",): (2, energy_uj(1, "n1", 1) + 8_000_000_000)}


def test_a_job_that_nobody_reported_is_not_missing_again_once_it_is_deleted(ledger: Ledger) -> None:
    lost = missing_record(slurm_job(1), "c", "no node reported this job")
    ledger.put([lost])
    upkeep.delete(ledger, EVERYBODY)
    (put,) = ledger.put([lost])
    assert put.deleted and not put.changed and sums(ledger) == {("physics",): (1, 0)}
    ledger.put([record(1, {"n1": 1})])
    assert sums(ledger, "user") == {("alice",): (1, energy_uj(1, "n1", 1))}


def test_an_audit_finds_the_same_before_and_after_a_deletion(ledger: Ledger) -> None:
    ledger.put([record(1, {"n1": 1, "n2": 1}), record(2, {"n1": 1})])

    def seen() -> tuple[Any, ...]:
        days = [(DAY, DAY), ("2026-11-20", "2026-11-21"), ("2026-11-23", "2026-12-01")]
        shares = [ledger.shares_between("c", *both) for both in days]
        runs = [ledger.runs_between("c", START_S + after_s, START_S + 1000) for after_s in (0, 101)]
        return shares, runs, ledger.spans("c", [1, 2, 3]), ledger.spans("d", [1])

    before = seen()
    assert len(before[0][0]) == 3 and before[0][1:] == [{}, {}] and len(before[2]) == 2
    upkeep.delete(ledger, EVERYBODY)
    assert seen() == before


def test_what_a_deletion_left_is_in_the_next_backup(ledger: Ledger, tmp_path: Path) -> None:
    ledger.put([record(1, {"n1": 1}), record(2, {"n1": 1})])
    upkeep.backup(ledger, tmp_path / "before")
    upkeep.delete(ledger, EVERYBODY)
    upkeep.backup(ledger, tmp_path / "after")
    total = sums(ledger)
    for order in (("after", "before"), ("before", "after")):
        empty(ledger)
        for name in (*order, *order):
            upkeep.restore(ledger, tmp_path / name)
            assert sums(ledger) == total
        assert len(ledger.members("c", "1")) == (order[0] == "before")


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_sums_are_exact_whatever_is_deleted_backed_up_and_restored(
    ledger: Ledger, tmp_path: Path, data: st.DataObject
) -> None:
    empty(ledger)
    known: dict[int, dict[str, int]] = {}
    backups = 0
    for what in data.draw(st.lists(st.sampled_from(["put", "put", "delete", "backup", "restore"]), max_size=14)):
        if what == "put":
            job_id = data.draw(st.integers(1, 2))
            nodes = data.draw(st.dictionaries(st.sampled_from(["n1", "n2"]), st.integers(1, 3), min_size=1))
            ledger.put([record(job_id, nodes)])
            held = known.setdefault(job_id, {})
            held.update({node: max(revision, held.get(node, 0)) for node, revision in nodes.items()})
        elif what == "delete":
            upkeep.delete(ledger, EVERYBODY)
        elif what == "backup":
            upkeep.backup(ledger, tmp_path / f"b{backups}")
            backups += 1
        elif backups:
            upkeep.restore(ledger, tmp_path / f"b{data.draw(st.integers(0, backups - 1))}")
        total = sum(energy_uj(job_id, *one) for job_id, nodes in known.items() for one in nodes.items())
        assert sums(ledger) == ({("physics",): (len(known), total)} if known else {})


def test_evidence_that_is_shipped_again_after_a_deletion_leaves_nothing(ledger: Ledger, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", "c")
    job = slurm_job(1)
    slurm = Slurm(lambda ids: [job], lambda since_s, until_s: [job])
    collector = Collector(archive, ledger, Tools(lambda: START_S + 2000.0, slurm), 900)
    put_incoming(archive.root, boundary(1))
    assert collector.sweep().stored == 1
    before = sums(ledger)
    keeping = upkeep.Keeping(ledger, Access(), START_S)
    assert upkeep.delete(ledger, EVERYBODY, lambda gone: upkeep.remove_directories(archive, gone, keeping)) == 1
    put_incoming(archive.root, boundary(1))
    ledger.marks.set_compared("c", START_S - 100)
    summary = collector.sweep()
    assert (summary.stored, summary.missing, summary.failed) == (0, 0, 0)
    assert sums(ledger) == before and upkeep.rebuild(ledger, archive) == 0
    assert [path for path in archive.root.rglob("*") if path.is_file() and path.name != "sweep.json"] == []
