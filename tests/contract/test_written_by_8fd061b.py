"""What commit 8fd061b left on a site's disks (`tests/fixtures/written_by_8fd061b`) is read by this version."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from perun_hpc.accounting.collect import Collector, Slurm, Summary, Tools
from perun_hpc.accounting.found import Places
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.lookup import find
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.running import publish_running
from perun_hpc.accounting.upkeep import backup, rebuild, restore, traces
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.boundary import read_boundary
from perun_hpc.slurm.sacct import SlurmJob
from perun_hpc.store.job_store import open_job, recode, repair
from perun_hpc.store.thin import thin
from tests.accounting_data import START_S, slurm_job
from tests.flow.agent_node import FakeNode

WRITTEN = Path(__file__).parent.parent / "fixtures" / "written_by_8fd061b"
OLD_S = START_S - 20 * 86_400
ONE_NODE_UJ = 8_000_000_000


class Site:
    """A copy of that site, a quarter of an hour after its last sweep."""

    def __init__(self, root: Path) -> None:
        shutil.copytree(WRITTEN / "archive", root / "archive")
        with sqlite3.connect(root / "ledger.db") as connection:
            connection.executescript((WRITTEN / "ledger.sql").read_text())
        self.now = START_S + 3700.0
        self.root = root
        self.archive = Archive(root / "archive", "c")
        self.ledger: Ledger = open_ledger(str(root / "ledger.db"), create=True, clock=lambda: self.now)

    def slurm(self, ids: Iterable[object]) -> list[SlurmJob]:
        wanted = {int(str(one)) for one in ids}
        old = {"submit_s": OLD_S - 5, "start_s": OLD_S, "end_s": OLD_S + 100}
        known = [slurm_job(n, nodelist="n[1-2]", num_nodes=2, **old) for n in (1, 3)] + [slurm_job(4, **old)]
        known += [slurm_job(n, run=int(n == 4)) for n in (2, 4, 6, 7)]
        return [job for job in known if job.job_id in wanted]

    def sweep(self) -> Summary:
        tools = Tools(lambda: self.now, Slurm(self.slurm, lambda since_s, until_s: []))
        summary = Collector(self.archive, self.ledger, tools, deadline_s=900).sweep()
        publish_running(self.archive, tools)
        return summary

    def energies(self, job_id: int) -> list[int | None]:
        return [record.energy_uj for record in self.ledger.members("c", str(job_id))]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.close()


def test_its_ledger_and_directories_answer_a_report(site: Site) -> None:
    for ledger in (str(site.root / "ledger.db"), None):
        places = Places(site.archive, ledger, site.slurm, due_s=site.now)
        assert [f.record.energy_uj for f in find("2", places)] == [2 * ONE_NODE_UJ]
        assert {f.record.start_ns // 10**9 for f in find("4", places)} >= {START_S}
        assert find("6", places)[0].record.missing[0] == "n2: damaged boundary record"
        assert find("7", places)[0].record.status == "missing"
    (running,) = find("8", Places(site.archive, None, site.slurm, due_s=site.now))
    assert (running.record.status, running.record.energy_uj) == ("running", ONE_NODE_UJ)


def test_its_boundary_records_are_read_and_collected(site: Site) -> None:
    records = [read_boundary(path) for path in sorted(site.archive.base.rglob("*.json")) if path.parent.name != "nodes"
               and path.parent.name in ("boundary", "1.0", "5.0")]  # fmt: skip
    assert len(records) == 10
    summary = site.sweep()
    assert (summary.stored, summary.damaged, summary.failed, summary.refused) == (2, 0, 0, 0)
    assert site.energies(5) == [ONE_NODE_UJ]
    assert list((site.archive.base / "incoming").iterdir()) == []
    assert site.sweep().stored == 0


def test_a_node_that_was_late_there_is_added_to_the_renamed_run(site: Site) -> None:
    site.sweep()
    assert site.energies(1) == [2 * ONE_NODE_UJ]
    assert [run.name for run in site.archive.all_runs() if run.job_id == 1] == [f"1.0@{OLD_S - 5}"]


def test_the_joules_that_it_lost_to_a_second_directory_come_back(site: Site) -> None:
    assert site.energies(3) == [ONE_NODE_UJ]
    rebuild(site.ledger, site.archive)
    assert site.energies(3) == [2 * ONE_NODE_UJ]
    (record,) = site.ledger.members("c", "3")
    assert (record.status, record.missing, [n.node for n in record.nodes]) == ("complete", (), ["n1", "n2"])
    assert rebuild(site.ledger, site.archive) == 0


def test_its_directories_fill_a_ledger_that_was_lost(site: Site) -> None:
    fresh = open_ledger(str(site.root / "fresh.db"), create=True)
    assert rebuild(fresh, site.archive) == 7
    assert [r.energy_uj for r in fresh.members("c", "3")] == [2 * ONE_NODE_UJ]
    for job in (1, 2, 4, 6, 7):
        assert sorted(map(str, (r.energy_uj for r in fresh.members("c", str(job))))) == sorted(
            map(str, site.energies(job))
        )
    fresh.close()


def test_its_ledger_is_backed_up_and_restored(site: Site) -> None:
    fresh = open_ledger(str(site.root / "fresh.db"), create=True)
    assert backup(site.ledger, site.root / "backup") == restore(fresh, site.root / "backup") == 7
    whole = usage(site.ledger, ["account"], Filter(), "0001-01-01", "9999-12-31")
    assert usage(fresh, ["account"], Filter(), "0001-01-01", "9999-12-31") == whole
    fresh.close()


def test_its_trace_is_opened_repaired_thinned_and_recoded(site: Site) -> None:
    (trace,) = traces(site.archive, site.archive.all_runs())
    assert trace.directory.name.startswith("2.")
    data = open_job(trace.directory)
    assert (list(data.node.values), data.sizes["time"]) == (["n1", "n2"], 60)
    before = data.energy.values.copy()
    now_ns = int(site.now * 1e9)
    assert repair(trace.directory, now_ns).losses == ()
    recode(trace.directory, now_ns)
    assert (open_job(trace.directory).energy.values == before).all()
    thin(trace.directory, 2, now_ns)
    assert open_job(trace.directory).energy.values[..., 0].tolist() == before[..., 0].tolist()


def test_an_agent_goes_on_with_its_spool(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    shutil.copytree(WRITTEN / "spool", node.spool)
    node.set_boot("22222222-2222-3333-4444-555555555555")
    node.start()
    try:
        sealed, live = node.record(20), node.record(21)
    finally:
        node.stop()
    assert (sealed["state"], sealed["domains"]["package-0"]["energy_uj"]) == ("closed", 2_000_000)
    assert live["state"] == "partial"
    assert {name: one["energy_uj"] for name, one in live["domains"].items()} == {
        "package-0": 1_000_000,
        "dram-0": 250_000,
    }
    assert not (node.spool / "node" / "state.json.damaged").exists()
