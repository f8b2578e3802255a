"""The collector closes traces with what the boundary records say; repair, recoding and thinning by command."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import xarray

from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.collect import close_trace
from perun_hpc.cli.main import main
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.accounting_data import START_S, boundary, put_incoming
from tests.soak.store_data import rows, sensors


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A collected job of two nodes: one has a trace, the other says why it has none."""
    made = sensors(4)
    store = NodeStore.open(
        tmp_path / "session",
        cluster="c",
        job_id="4711",
        restart_count=0,
        node="n1",
        sensors=made,
        period_ns=layout.NS_PER_S,
        start_ns=START_S * layout.NS_PER_S,
        sync_ns=None,
    )
    for index, row in enumerate(rows(made, 100, seed=1)):
        store.append(START_S + index, row)
    store.seal()
    archive = Archive(tmp_path / "archive", "c")
    directory = archive.job(Run(4711, 0))
    directory.mkdir(parents=True)
    ship(tmp_path / "session", directory, ["n1", "n2"])
    region = {"step_id": 0, "rank": 0, "name": "solve", "calls": 3, "time_ns": 5, "energy_uj": 2_000_000, "u_uj": 1}
    both = {"nodelist": "n1,n2"}
    put_incoming(archive.root, boundary(node="n1", regions=[region], trace={"stored": True}, **both))
    put_incoming(archive.root, boundary(node="n2", trace={"stored": False, "why": "disk full"}, **both))
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    Collector(archive, ledger, Tools(lambda: START_S + 200.0, finalise=close_trace), 900).sweep()
    ledger.close()
    return directory


def test_a_trace_has_the_records_regions_and_the_reason_of_a_missing_node(job: Path) -> None:
    regions = xarray.open_zarr(job / layout.STORE, group="regions", chunks=None)
    assert (regions.name.values.tolist(), regions.node.values.tolist()) == (["solve"], ["n1"])
    assert statuses(job) == ["complete", "missing: disk full"]


def statuses(job: Path) -> list[str]:
    return [str(status) for status in job_store.open_group(job)["node_status"][:]]  # type: ignore[index]


def collect(job: Path, *words: str) -> int:
    return main(["collect", "--archive", str(job.parents[3]), *words])


def test_traces_are_recoded_thinned_and_repaired_by_command(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = job_store.open_job(job).load()
    assert collect(job, "--recode", "4711") == 0
    assert (job / layout.RECODED).exists()
    assert before.energy.equals(job_store.open_job(job).load().energy)
    assert statuses(job) == ["complete", "missing: disk full"]
    assert collect(job, "--recode", "--older-than", "2100-01-01") == 0
    assert "recoded before" in capsys.readouterr().out
    assert collect(job, "--thin", "10", "4711.0") == 0
    thinned = job_store.open_job(job).load()
    assert int(thinned.energy.notnull().sum()) < int(before.energy.notnull().sum())
    assert collect(job, "--repair", "4711") == 0
    assert "0 losses" in capsys.readouterr().out
    shard = next(path for path in (job / layout.STORE / layout.MAIN / "energy").iterdir() if path.name[0] in "c0")
    shard.write_bytes(shard.read_bytes()[:-3])
    assert collect(job, "--repair", "4711") == 0
    assert shard.name in capsys.readouterr().out
    assert (job / layout.ASIDE).is_dir()
    assert statuses(job)[1] == "missing: disk full"


def test_the_policy_says_how_old_a_trace_is_when_it_is_recoded(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("store:\n  recode_after: 30 d\n")
    monkeypatch.setenv("PERUN_POLICY", str(policy))
    assert collect(job, "--recode") == 0
    assert not (job / layout.RECODED).exists()
    old = time.time() - 31 * 86_400
    os.utime(job / "record.json", (old, old))
    assert collect(job, "--recode") == 0
    assert (job / layout.RECODED).exists()
    assert collect(job, "--repair") == 64


@pytest.mark.parametrize("words", [["--recode"], ["--thin", "2", "4711", "--older-than", "2100-01-01"], ["4711"]])
def test_what_is_meant_must_be_said(job: Path, words: list[str]) -> None:
    assert collect(job, *words) == 64


def test_a_job_without_a_trace_is_named(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect(job, "--repair", "4712") != 0
    assert "4712" in capsys.readouterr().err


def late_trace(archive: Archive, session: Path) -> None:
    """n2's trace, put where its job's directory was, and its record."""
    store = NodeStore.open(
        session, cluster="c", job_id="4711", restart_count=0, node="n2", sensors=sensors(4), period_ns=layout.NS_PER_S,
        start_ns=START_S * layout.NS_PER_S + 1000, sync_ns=None,
    )  # fmt: skip
    for index, row in enumerate(rows(sensors(4), 100, seed=2)):
        store.append(START_S + index, row)
    store.seal()
    ship(session, archive.job(Run(4711, 0)), ["n1", "n2"])
    put_incoming(archive.root, boundary(node="n2", nodelist="n1,n2", trace={"stored": True}, revision=2))


def test_a_late_nodes_trace_goes_into_the_renamed_runs_store(job: Path, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", "c")
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    now = [START_S + 9 * 86_400.0]
    collector = Collector(archive, ledger, Tools(lambda: now[0], finalise=close_trace), 900)
    collector.sweep()
    (moved,) = archive.all_runs()
    before = job_store.open_job(archive.job(moved)).load()
    late_trace(archive, tmp_path / "late")
    now[0] += 3 * 86_400
    collector.sweep()
    ledger.close()
    assert list(archive.all_runs()) == [moved] and moved.submit_s is not None
    assert statuses(archive.job(moved)) == ["complete", "complete"]
    both = job_store.open_job(archive.job(moved)).load()
    assert both.energy.sel(node="n1").equals(before.energy.sel(node="n1"))
    assert int(both.energy.sel(node="n2").notnull().sum()) > 300


def test_a_late_nodes_trace_that_does_not_fit_stays_and_costs_no_energy(job: Path, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", "c")
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    now = [START_S + 9 * 86_400.0]
    collector = Collector(archive, ledger, Tools(lambda: now[0], finalise=close_trace), 900)
    collector.sweep()
    (moved,) = archive.all_runs()
    (archive.job(moved) / layout.track_file(layout.MAIN)).write_text("torn")
    late_trace(archive, tmp_path / "late")
    collector.sweep()
    assert [r.energy_uj for r in ledger.members("c", "4711")] == [16_000_000_000]
    ledger.close()
    assert (archive.job(Run(4711, 0)) / layout.PLAN).exists()


def test_the_trace_of_a_node_with_an_older_perun_comes_into_its_jobs_directory(tmp_path: Path) -> None:
    archive, made = Archive(tmp_path / "archive", "c"), sensors(4)
    for node, directory in (("n1", archive.bucket(4) / "4711.0"), ("n2", archive.jobs / "4711.0")):
        spool = tmp_path / node
        store = NodeStore.open(
            spool, cluster="c", job_id="4711", restart_count=0, node=node, sensors=made, period_ns=layout.NS_PER_S,
            start_ns=START_S * layout.NS_PER_S, sync_ns=None,
        )  # fmt: skip
        for index, row in enumerate(rows(made, 100, seed=1)):
            store.append(START_S + index, row)
        store.seal()
        directory.mkdir(parents=True)
        ship(spool, directory, ["n1", "n2"])
        put_incoming(archive.root, boundary(node=node, nodelist="n[1-2]", trace={"stored": True}))
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    Collector(archive, ledger, Tools(lambda: START_S + 200.0, finalise=close_trace), 900).sweep()
    ledger.close()
    assert statuses(archive.bucket(4) / "4711.0") == ["complete", "complete"]
    assert [path.name for path in archive.jobs.iterdir()] == ["4"]
