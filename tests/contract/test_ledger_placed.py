"""A boundary record is held against the place where it lies, and its owner against those of the other nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.backlog import look
from perun_hpc.accounting.collect import Collector, Slurm, Summary, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.running import publish_running
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.main import main
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, boundary, put_incoming, slurm_job

FORGED = {
    "another job": {"job_id": 4712},
    "another run": {"restart_count": 1},
    "another node": {"node": "n2", "nodelist": "n[1-2]"},
    "a longer name": {"node": "n1.example", "nodelist": "n1.example"},
    "a shorter name": {"node": "n", "nodelist": "n"},
    "another cluster": {"cluster": "d"},
}


class Site:
    """An archive, its ledger, and whom its jobs' directories were opened to."""

    def __init__(self, root: Path) -> None:
        self.archive = Archive(root, "c")
        self.ledger = open_ledger(str(root / "ledger.db"), create=True)
        self.jobs: list[SlurmJob] = []
        self.opened: list[tuple[str, int]] = []
        slurm = Slurm(lambda ids: [one for one in self.jobs if one.job_id in set(ids)], lambda since, until: [])
        self.tools = Tools(
            lambda: START_S + 110.0, slurm, publish=lambda path, uid, others: self.opened.append((path.name, uid))
        )

    def sweep(self) -> Summary:
        return Collector(self.archive, self.ledger, self.tools, deadline_s=0.0).sweep()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def put(site: Site, content: dict[str, Any], name: str = "n1", kind: str = "incoming") -> Path:
    """Put a record where node `name` puts those of job 4711."""
    path = put_incoming(site.archive.root, content)
    target = site.archive.base / kind / "4711.0" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    return path.rename(target)


@pytest.mark.parametrize("what", FORGED)
def test_what_is_of_another_place_is_set_aside_and_named(
    site: Site, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(site, boundary(**FORGED[what]))
    summary = site.sweep()
    assert (summary.stored, summary.damaged) == (0, 1)
    assert not site.ledger.members("c", "4711") and not site.ledger.members("c", "4712")
    assert [one.what for one in look(site.archive).damaged] == ["job 4711.0, n1"]
    assert main(["collect", "--status", "--archive", str(site.archive.root), "--cluster", "c"]) == 1
    assert "job 4711.0, n1" in " ".join(capsys.readouterr().out.split())
    # Its node's own record counts when it comes, alone, and now as later.
    put(site, boundary())
    assert site.sweep().stored == 1
    put(site, boundary(revision=2))
    site.sweep()
    (record,) = site.ledger.members("c", "4711")
    assert [node.node for node in record.nodes] == ["n1"] and record.energy_uj == 8_000_000_000


def three_nodes(site: Site) -> None:
    """Job 4711 ran on n1 and n2; root of n9 says that it ran there, too."""
    for node in ("n1", "n2", "n9"):
        put(site, boundary(node=node, nodelist="n[1-2,9]", num_nodes=3), node)


def test_a_node_that_slurm_did_not_give_to_a_job_has_no_part_in_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.jobs = [slurm_job(nodelist="n[1-2]", num_nodes=2)]
    three_nodes(site)
    assert (site.sweep().aside, site.sweep().stored) == (1, 1)
    (record,) = site.ledger.members("c", "4711")
    assert ([node.node for node in record.nodes], record.energy_uj) == (["n1", "n2"], 16_000_000_000)
    put(site, boundary(node="n9", nodelist="n[1-2,9]", num_nodes=3, revision=2), "n9")  # also when it comes later
    assert site.sweep().aside == 1 and site.sweep().stored == 0
    assert [node.node for node in site.ledger.members("c", "4711")[0].nodes] == ["n1", "n2"]
    ((place, why),) = [(one.what, one.why) for one in look(site.archive).aside]
    assert place == "4711.0-n9" and "ran on n1, n2 according to sacct" in why
    assert len(list((site.archive.aside / place).glob("*.json"))) == 2
    where = ["--archive", str(site.archive.root), "--ledger", str(site.archive.root / "ledger.db"), "--cluster", "c"]
    assert main(["audit", "--no-slurm", "--json", *where]) == 1
    assert "aside/4711.0-n9" in capsys.readouterr().out
    (site.archive.aside / place / "allowed").touch()
    site.sweep()
    (record,) = site.ledger.members("c", "4711")
    assert [node.node for node in record.nodes] == ["n1", "n2", "n9"] and not look(site.archive).aside


def test_slurms_word_of_a_job_that_goes_on_counts_and_what_it_learns_later_too(site: Site) -> None:
    """slurmdbd has a job's nodes as it starts, and a later change of them only after a while."""
    site.jobs = [slurm_job(nodelist="n[1-2]", num_nodes=2, state="RUNNING", end_s=None)]
    three_nodes(site)
    assert (site.sweep().aside, site.sweep().stored) == (1, 1)
    site.jobs = [slurm_job(nodelist="n[1-2,9]", num_nodes=3)]
    site.sweep()
    (record,) = site.ledger.members("c", "4711")
    assert [node.node for node in record.nodes] == ["n1", "n2", "n9"] and not look(site.archive).aside


@pytest.mark.parametrize("answer", ["none", "another run", "no nodes"])
def test_without_slurms_word_of_the_run_evidence_counts(site: Site, answer: str) -> None:
    if answer != "none":
        later = {"start_s": START_S + 500_000, "end_s": START_S + 500_100, "submit_s": START_S + 500_000}
        site.jobs = [slurm_job(nodelist="n[1-2]", **later) if answer == "another run" else slurm_job(nodelist="")]
    three_nodes(site)
    assert site.sweep().stored == 1
    assert len(site.ledger.members("c", "4711")[0].nodes) == 3


@pytest.mark.parametrize("name", ["n1", "n1@1700000000", "n1.0123456789abcdef.taken"])
def test_a_record_under_its_nodes_name_is_taken_also_beside_another_one(site: Site, name: str) -> None:
    put(site, boundary(), name)
    assert site.sweep().stored == 1


@pytest.mark.parametrize("what", FORGED)
def test_what_is_of_another_place_tells_no_owner_of_a_running_job(site: Site, what: str) -> None:
    put(site, boundary(state="running", uid=2000, **FORGED[what]), kind="running")
    assert publish_running(site.archive, site.tools) == 0
    assert not site.opened


def test_a_job_whose_nodes_name_two_owners_is_opened_to_neither_until_slurm_tells(site: Site) -> None:
    nodes = {"nodelist": "n[1-2]", "num_nodes": 2}
    put(site, boundary(node="n1", uid=1000, **nodes), "n1")
    put(site, boundary(node="n2", uid=2000, user="mallory", **nodes), "n2")
    assert site.sweep().stored == 1
    (record,) = site.ledger.members("c", "4711")
    assert (record.uid, record.user, record.energy_uj) == (None, "", 16_000_000_000)
    assert any("1000, 2000" in note for note in record.notes)
    assert site.opened == []
    site.jobs = [slurm_job(nodelist="n[1-2]", num_nodes=2)]
    site.sweep()
    (record,) = site.ledger.members("c", "4711")
    assert record.uid == site.jobs[0].uid and site.opened == [(Run(4711, 0).name, record.uid)]


def test_a_job_whose_nodes_agree_is_opened_to_its_owner(site: Site) -> None:
    nodes = {"nodelist": "n[1-2]", "num_nodes": 2}
    for name in ("n1", "n2"):
        put(site, boundary(node=name, uid=1000, **nodes), name)
    site.sweep()
    assert site.opened == [("4711.0", 1000)]
