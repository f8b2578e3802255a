"""No revision holds less evidence than the one before: late nodes, names given away, ids that come again, lost data."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from subprocess import run as run_command
from typing import Any

import pytest

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.evidence import combine
from perun_hpc.accounting.found import Places
from perun_hpc.accounting.homes import record_in
from perun_hpc.accounting.keeping import read_kept
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.lookup import find
from perun_hpc.accounting.packing import Access
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.running import publish_running
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.places import RECORD, RUNNING, Archive, Run
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import UnavailableError
from tests.accounting_data import START_S, boundary, domain, put_incoming, slurm_job
from tests.contract.test_ledger_collector import DEADLINE_S, World

NODE_UJ = 8_000_000_000
WEEK_S = 7 * 86_400
BOTH = "n1,n2"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def energies(world: World, job_id: int = 4711) -> list[int | None]:
    return [record.energy_uj for record in world.ledger.members("c", str(job_id))]


def put_and_sweep(world: World, *records: dict[str, Any]) -> None:
    for record in records:
        put_incoming(world.root, record)
    world.collector().sweep()


def rename(world: World) -> None:
    """Let the runs so far give their names away."""
    world.now += WEEK_S + 7200
    world.collector().sweep()


def two_nodes_then_renamed(world: World, slurm: bool = True) -> Run:
    """n1's record collected, n2 in repair, the run renamed."""
    world.jobs = [slurm_job(num_nodes=2, nodelist="n[1-2]")] if slurm else []
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    rename(world)
    return Run(4711, 0, START_S - 5 if slurm else START_S + 100)


@pytest.mark.parametrize("slurm", [True, False])
def test_a_late_node_is_added_to_a_renamed_run(world: World, slurm: bool) -> None:
    moved = two_nodes_then_renamed(world, slurm)
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH, seconds=130))
    (record,) = world.ledger.members("c", "4711")
    assert (record.energy_uj, record.revision, record.status) == (2 * NODE_UJ, 2, "complete")
    assert list(world.archive.all_runs()) == [moved]
    assert record_in(world.archive, moved) == record
    assert [b.node for b in read_kept(world.archive, moved)] == ["n1", "n2"]
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH, seconds=130, revision=2))  # its end is another now
    assert energies(world) == [2 * NODE_UJ] and list(world.archive.all_runs()) == [moved]


def test_what_slurm_tells_late_goes_to_the_renamed_directory(world: World) -> None:
    moved = two_nodes_then_renamed(world, slurm=False)
    world.jobs = [slurm_job(num_nodes=2, nodelist="n[1-2]", state="FAILED")]
    world.collector().sweep()
    assert list(world.archive.all_runs()) == [moved]
    assert record_in(world.archive, moved).state == "FAILED"


def test_what_slurm_tells_of_an_old_run_leaves_the_record_of_the_new_one_alone(world: World) -> None:
    moved = two_nodes_then_renamed(world, slurm=False)
    later = world.now - 200
    put_and_sweep(world, boundary(start_s=later))
    world.jobs = [slurm_job(num_nodes=2, nodelist="n[1-2]", state="FAILED")]
    world.collector().sweep()
    assert record_in(world.archive, Run(4711, 0)).start_ns == later * 10**9
    assert record_in(world.archive, moved).state == "FAILED"


def test_a_node_with_a_wrong_clock_belongs_to_its_run(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH, start_s=START_S - 9000))
    assert energies(world) == [2 * NODE_UJ]
    assert list(world.archive.all_runs()) == [Run(4711, 0)]


def test_a_late_node_of_an_old_run_does_not_touch_the_run_that_has_its_name_now(world: World) -> None:
    moved = two_nodes_then_renamed(world)
    later = world.now - 200
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH, start_s=later))
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH), boundary(node="n1", nodelist=BOTH, start_s=later))
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH, start_s=later))
    assert energies(world) == [2 * NODE_UJ, 2 * NODE_UJ]
    assert list(world.archive.all_runs()) == [Run(4711, 0), moved]


def test_an_id_that_comes_again_within_a_week_renames_the_run_before_it(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    later = START_S + 3 * 86_400
    world.now = later + 200.0
    put_and_sweep(world, boundary(start_s=later))
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH))
    assert energies(world) == [2 * NODE_UJ, NODE_UJ]
    assert [run.name for run in world.archive.all_runs()] == ["4711.0", f"4711.0@{START_S + 100}"]


def test_two_runs_of_one_name_may_wait_together(world: World) -> None:
    delivery = ArchiveDelivery(world.root)
    later = START_S + 30 * 86_400
    for start_s in (START_S, later):
        session = world.root / "spool" / "4711.0"
        session.mkdir(parents=True, exist_ok=True)
        delivery.session(session, boundary(start_s=start_s))
    world.now = later + 200.0
    assert world.collector().sweep().stored == 2
    assert energies(world) == [NODE_UJ, NODE_UJ]
    assert list((world.archive.base / "incoming").iterdir()) == []


def test_a_late_node_does_not_tear_the_next_run_of_its_name_apart(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    late = boundary(node="n2", nodelist=BOTH)  # together with a run within the hours by which a clock may be wrong
    again = [boundary(node=node, nodelist=BOTH, start_s=START_S + 3600) for node in ("n1", "n2")]
    world.now += 3600
    put_incoming(world.root, late)
    incoming = world.archive.base / "incoming" / "4711.0"
    for record in again:
        (incoming / f"{record['node']}@{START_S + 3600}.json").write_text(json.dumps(record))
    world.collector().sweep()
    assert energies(world) == [2 * NODE_UJ, 2 * NODE_UJ]


def test_a_node_in_an_old_runs_missing_record_is_completed_under_its_own_name(world: World) -> None:
    world.jobs = [slurm_job(), slurm_job(4712)]
    put_and_sweep(world, boundary(4712))
    world.now += 2 * DEADLINE_S
    assert world.collector().sweep().missing == 1
    rename(world)
    put_and_sweep(world, boundary())
    (record,) = world.ledger.members("c", "4711")
    assert (record.energy_uj, record.revision) == (NODE_UJ, 2)
    assert [run.name for run in world.archive.all_runs() if run.job_id == 4711] == [f"4711.0@{START_S - 5}"]


def other_energy(uj: int, **more: Any) -> dict[str, Any]:
    return boundary(domains={"package-0": domain("cpu", uj)}, **more)


def test_an_older_record_of_a_node_never_replaces_a_newer_one(world: World) -> None:
    put_and_sweep(world, other_energy(5, revision=2, nodelist=BOTH), boundary(node="n2", nodelist=BOTH))
    put_and_sweep(world, other_energy(3, revision=1, nodelist=BOTH))
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH, revision=2))
    (record,) = world.ledger.members("c", "4711")
    assert record.energy_uj == 5 + NODE_UJ
    assert sorted(b.revision for b in read_kept(world.archive, Run(4711, 0))) == [2, 2]


@pytest.mark.parametrize(("edge", "source"), [("start", "epilog"), ("end", "restart")])
def test_a_record_without_its_start_or_end_never_replaces_one_that_was_collected(
    world: World, edge: str, source: str
) -> None:
    put_and_sweep(world, boundary())
    for attempt in range(4):  # whatever its bytes
        late = boundary(domains={}, perun_version=str(attempt))
        late[edge]["from"] = source
        put_and_sweep(world, late)
        assert energies(world) == [NODE_UJ]


def test_a_record_without_its_end_counts_until_the_whole_one_comes_and_beside_a_late_node(world: World) -> None:
    cut_off = other_energy(5, nodelist=BOTH)
    cut_off["end"]["from"] = "restart"
    put_and_sweep(world, cut_off, boundary(node="n2", nodelist=BOTH))
    (record,) = world.ledger.members("c", "4711")
    assert record.energy_uj == 5 + NODE_UJ
    older = replace(record, nodes=tuple(replace(one, revision=1) for one in record.nodes))  # as it was ranked before
    assert combine(older, record) == older
    assert combine(older, replace(record, inputs="other")).inputs == "other"  # the same evidence, summed anew
    put_and_sweep(world, other_energy(7, nodelist=BOTH))
    assert energies(world) == [7 + NODE_UJ]


def test_what_a_node_puts_there_while_its_record_is_collected_stays(world: World) -> None:
    newer = other_energy(5, revision=2)

    def meanwhile(record: EnergyRecord) -> None:
        put_incoming(world.root, newer)

    put_incoming(world.root, boundary())
    tools = Tools(lambda: world.now, footprint=meanwhile)
    Collector(world.archive, world.ledger, tools, DEADLINE_S).sweep()
    assert energies(world) == [NODE_UJ]
    world.collector().sweep()
    assert energies(world) == [5]


def test_a_late_node_is_added_where_the_other_nodes_records_are_gone(world: World) -> None:
    moved = two_nodes_then_renamed(world)
    hidden: list[EnergyRecord] = []
    keeping = upkeep.Keeping(world.ledger, Access(), world.now)
    assert upkeep.pseudonymise(world.ledger, upkeep.Who(user="alice"), hidden.extend) == 1
    assert upkeep.hide_in_directories(world.archive, hidden, keeping) == 1
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH))
    (record,) = world.ledger.members("c", "4711")
    assert (record.energy_uj, record.revision, record.status, record.missing) == (2 * NODE_UJ, 2, "complete", ())
    assert (sum(s.energy_uj for s in record.shares), record.components[0].energy_uj) == (2 * NODE_UJ, 2 * NODE_UJ)
    (total,) = usage(world.ledger, ["user"], Filter(), "0001-01-01", "9999-12-31")
    assert (total.group, total.values["energy_uj"]) == ((hidden[0].user,), 2 * NODE_UJ)
    assert not [p for p in world.archive.job(moved).rglob("*.json") if "alice" in p.read_text()]
    # A newer record of a node whose first one is gone: the rest stays.
    put_and_sweep(world, other_energy(5, revision=2, nodelist=BOTH))
    (record,) = world.ledger.members("c", "4711")
    assert record.energy_uj == sum(s.energy_uj for s in record.shares) == NODE_UJ + 5
    assert sum(c.energy_uj for c in record.components) == NODE_UJ + 5


def test_an_older_backup_takes_nothing_away(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    upkeep.backup(world.ledger, world.root / "backup")
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH))
    before = world.ledger.members("c", "4711")
    upkeep.restore(world.ledger, world.root / "backup")
    assert world.ledger.members("c", "4711") == before and energies(world) == [2 * NODE_UJ]


def test_a_restored_ledger_gets_what_came_after_the_backup_from_the_directories(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    upkeep.backup(world.ledger, world.root / "backup")
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH), boundary(4712))
    command = [sys.executable, "-m", "perun_hpc.cli.main", "ledger", "--ledger", str(world.root / "new.db")]
    command += ["--archive", str(world.root), "--cluster", "c", "restore", str(world.root / "backup")]
    done = run_command(command, capture_output=True, text=True, check=True)
    assert "1 record of" in done.stdout and "2 records taken from the jobs' directories" in done.stdout
    fresh = open_ledger(str(world.root / "new.db"))
    assert [r.energy_uj for job in ("4711", "4712") for r in fresh.members("c", job)] == [2 * NODE_UJ, NODE_UJ]
    fresh.close()


def test_a_late_node_reaches_a_ledger_that_knows_less_than_the_directory(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    fresh = open_ledger(str(world.root / "new.db"), create=True, clock=lambda: world.now)
    world.ledger.close()
    world.ledger = fresh
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH))
    assert energies(world) == [2 * NODE_UJ]


def test_an_amendment_does_not_take_evidence_out_of_a_directory_that_knows_more(world: World) -> None:
    world.now += DEADLINE_S
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    upkeep.backup(world.ledger, world.root / "backup")
    put_and_sweep(world, boundary(node="n2", nodelist=BOTH))
    world.ledger.close()
    world.ledger = open_ledger(str(world.root / "new.db"), create=True, clock=lambda: world.now)
    upkeep.restore(world.ledger, world.root / "backup")
    world.jobs = [slurm_job(num_nodes=2, nodelist="n[1-2]")]
    world.collector().sweep()
    there = record_in(world.archive, Run(4711, 0))
    assert (there.state, there.energy_uj) == ("COMPLETED", 2 * NODE_UJ)
    upkeep.rebuild(world.ledger, world.archive)
    assert energies(world) == [2 * NODE_UJ]


def test_a_record_of_a_newer_perun_that_was_set_aside_is_read_once_it_can_be(world: World) -> None:
    put_and_sweep(world, boundary(node="n1", nodelist=BOTH))
    path = put_incoming(world.root, boundary(node="n2", nodelist=BOTH))
    readable = path.read_text()
    path.write_text(readable.replace("perun.boundary/1", "perun.boundary/2"))
    world.now += DEADLINE_S
    world.collector().sweep()
    assert energies(world) == [NODE_UJ]
    aside = world.archive.boundaries(Run(4711, 0)) / "n2.json.damaged"
    aside.write_text(readable)
    upkeep.rebuild(world.ledger, world.archive)
    (record,) = world.ledger.members("c", "4711")
    assert (record.energy_uj, record.missing) == (2 * NODE_UJ, ())


def test_what_a_late_node_says_of_a_renamed_run_does_not_make_it_run_again(world: World) -> None:
    moved = two_nodes_then_renamed(world)
    directory = world.archive.base / "running" / "4711.0"
    directory.mkdir(parents=True)
    (directory / "n2.json").write_text(json.dumps({**boundary(node="n2", nodelist=BOTH), "state": "running"}))
    assert publish_running(world.archive, Tools(lambda: world.now)) == 0
    assert list(world.archive.all_runs()) == [moved] and not directory.exists()


def test_a_job_that_runs_under_a_name_that_an_old_run_has_is_shown(world: World) -> None:
    put_and_sweep(world, boundary())
    later = START_S + 3 * 86_400
    world.now = later + 200.0
    directory = world.archive.base / "running" / "4711.0"
    directory.mkdir(parents=True)
    (directory / "n1.json").write_text(json.dumps({**boundary(start_s=later), "state": "running"}))
    assert publish_running(world.archive, Tools(lambda: world.now)) == 1
    assert (world.archive.job(Run(4711, 0)) / RUNNING).exists()
    assert (world.archive.job(Run(4711, 0, START_S + 100)) / RECORD).exists()


def test_a_run_of_which_nothing_was_heard_for_a_week_leaves_no_figures_behind(world: World) -> None:
    directory = world.archive.base / "running" / "4711.0"
    directory.mkdir(parents=True)
    (directory / "n1.json").write_text(json.dumps({**boundary(), "state": "running"}))
    assert publish_running(world.archive, Tools(lambda: world.now)) == 1
    figures = world.archive.job(Run(4711, 0)) / RUNNING
    for days, there in ((6, True), (8, False)):
        heard_s = time.time() - days * 86_400
        os.utime(directory, (heard_s, heard_s))
        os.utime(figures, ns=(directory.stat().st_mtime_ns, directory.stat().st_mtime_ns))
        assert publish_running(world.archive, Tools(lambda: world.now)) == 0
        assert (figures.exists(), directory.exists()) == (there, there)


def test_an_owner_finds_a_run_that_was_renamed_when_nobody_knew_its_submission(world: World) -> None:
    two_nodes_then_renamed(world, slurm=False)
    places = Places(world.archive, None, lambda ids: [slurm_job(num_nodes=2)], due_s=world.now)
    (found,) = find("4711", places)
    assert (found.record.energy_uj, found.source) == (NODE_UJ, "the job's directory")


def test_users_who_are_deleted_or_hidden_leave_no_stale_directory_behind(world: World) -> None:
    put_and_sweep(world, boundary())
    path = world.archive.job(Run(4711, 0)) / RECORD
    stale = record_in(world.archive, Run(4711, 0))
    path.write_text(json.dumps(replace(stale, start_ns=stale.start_ns + 10**9), default=vars))
    gone: list[EnergyRecord] = []
    assert upkeep.delete(world.ledger, upkeep.Who(user="alice"), gone.extend) == 1
    assert upkeep.remove_directories(world.archive, gone, upkeep.Keeping(world.ledger, Access(), world.now)) == 1


class Other:
    """Another collector that does a whole sweep when it is told to, in the middle of the first one's."""

    def __init__(self, world: World, late: dict[str, Any]) -> None:
        self.world = world
        self.late = late
        self.done = False

    def sweep(self) -> None:
        if not self.done:
            self.done = True
            put_incoming(self.world.root, self.late)
            self.world.now += 1000  # the first one's lease has ended
            other = Collector(self.world.archive, self.world.ledger, Tools(lambda: self.world.now), DEADLINE_S)
            other.holder = "elsewhere:1"
            other.sweep()


def test_a_lease_taken_over_before_the_ledgers_word_costs_nothing(world: World) -> None:
    world.now += DEADLINE_S
    put_incoming(world.root, boundary(node="n1", nodelist=BOTH))
    other = Other(world, boundary(node="n2", nodelist=BOTH))
    tools = Tools(lambda: world.now, footprint=lambda record: other.sweep())
    with pytest.raises(UnavailableError, match="another collector took over"):
        Collector(world.archive, world.ledger, tools, DEADLINE_S).sweep()
    world.collector().sweep()
    assert energies(world) == [2 * NODE_UJ]
    assert record_in(world.archive, Run(4711, 0)).energy_uj == 2 * NODE_UJ


def test_a_lease_taken_over_after_the_ledgers_word_costs_nothing(world: World) -> None:
    world.now += DEADLINE_S
    put_incoming(world.root, boundary(node="n1", nodelist=BOTH))
    other = Other(world, other_energy(5, node="n1", nodelist=BOTH, revision=2))
    tools = Tools(lambda: world.now, publish=lambda directory, uid, others: other.sweep())
    Collector(world.archive, world.ledger, tools, DEADLINE_S).sweep()
    world.collector().sweep()
    assert energies(world) == [5]
    assert record_in(world.archive, Run(4711, 0)).energy_uj == 5
    assert [b.revision for b in read_kept(world.archive, Run(4711, 0))] == [2]
    fresh = open_ledger(str(world.root / "new.db"), create=True)
    upkeep.rebuild(fresh, Archive(world.root, "c"))
    assert [r.energy_uj for r in fresh.members("c", "4711")] == [5]
    fresh.close()


def test_a_clock_that_was_ahead_holds_up_neither_renaming_nor_comparison(world: World) -> None:
    put_and_sweep(world, boundary())
    now = world.now
    world.now += 400 * 86_400
    world.collector().sweep()
    world.now = now + 30 * 86_400
    world.collector().sweep()
    later = int(world.now)
    world.now += 200
    put_and_sweep(world, boundary(2, start_s=later))
    world.jobs = [slurm_job(2, start_s=later, end_s=later + 100), slurm_job(3, start_s=later, end_s=later + 100)]
    world.now += 2 * DEADLINE_S
    assert world.collector().sweep().missing == 1
    rename(world)
    assert {run.job_id: run.submit_s is not None for run in world.archive.all_runs()} == {2: True, 3: True, 4711: True}


def test_collectors_that_are_run_by_hand_beside_each_other_double_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perun_hpc.cli.main", "collect", "--once", "--no-slurm", "--deadline", "0"]
    command += ["--archive", str(tmp_path / "archive"), "--ledger", str(tmp_path / "ledger.db")]
    open_ledger(str(tmp_path / "ledger.db"), create=True).close()
    for node in ("n1", "n2"):
        for job_id in range(1, 41):
            put_incoming(tmp_path / "archive", boundary(job_id, node, BOTH))
        processes = [Popen(command, stdout=DEVNULL, stderr=PIPE, text=True) for _ in range(3)]
        said = [(process.communicate()[1], process.returncode) for process in processes]
        assert all(code == 0 or "another collector" in text for text, code in said), said
        assert any(code == 0 for _, code in said)
    ledger = open_ledger(str(tmp_path / "ledger.db"))
    assert [r.energy_uj for job_id in range(1, 41) for r in ledger.members("c", str(job_id))] == [2 * NODE_UJ] * 40
    ledger.close()
    assert list((tmp_path / "archive" / "c" / "incoming").iterdir()) == []
