"""What the collector's figures for monitoring say when things go wrong, and whom they name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.accounting.audit_mark import Audit, note_audit
from perun_hpc.accounting.backlog import note_sweep
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.site_figures import MOST, SILENT_S, SiteFigures
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.metrics import OPENMETRICS, Family, text
from tests.accounting_data import boundary, domain, parsed, put_incoming, slurm_job
from tests.unit.test_agent_textfile import promtool

LATELY_S = time.time() - 500


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(str(tmp_path / "ledger.db"), create=True)
    yield made
    made.close()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    (tmp_path / "archive" / "c").mkdir(parents=True)
    return Archive(tmp_path / "archive", "c")


def put(ledger: Ledger, job_id: int, uj: int, **other: str | int) -> None:
    data = boundary(job_id, domains={"package-0": domain("cpu", uj)}, start_s=LATELY_S, **other)
    times = {"start_s": int(LATELY_S), "end_s": int(LATELY_S) + 100}
    names = {name: other[name] for name in ("account", "user", "partition") if name in other}
    ledger.put([add_slurm(sum_boundaries([parsed(data)]), slurm_job(job_id, **times, **names))])


def values(families: list[Family], name: str) -> dict[tuple[str, ...], float]:
    """Label values but the cluster's -> value, of one family."""
    found = {}
    for family in families:
        for sample in family.samples if family.name == name else ():
            found[tuple(value for label, value in sample.labels.items() if label != "cluster")] = sample.value
    return found


def collect(ledger: Ledger, archive: Archive, *labels: str, progress_s: float | None = 60.0) -> list[Family]:
    return SiteFigures(ledger).collect([archive], labels, progress_s)


def test_nobody_is_named_unless_it_is_asked_for(ledger: Ledger, archive: Archive) -> None:
    put(ledger, 1, 5_000_000, user="alice", account="secret")
    for openmetrics in (False, True):
        said = text(collect(ledger, archive), openmetrics)
        assert b"alice" not in said and b"secret" not in said
    named = collect(ledger, archive, "account")
    assert values(named, "perun_ledger_account_energy_joules") == {("secret",): 5.0}
    assert values(named, "perun_ledger_user_energy_joules") == {}
    assert values(collect(ledger, archive, "user"), "perun_ledger_user_energy_joules") == {("alice",): 5.0}


def test_names_beyond_the_most_are_left_out_and_counted(ledger: Ledger, archive: Archive) -> None:
    records = []
    for number in range(MOST + 3):
        data = boundary(number + 1, user=f"u{number}", domains={"package-0": domain("cpu", 1_000_000 + number)})
        records.append(sum_boundaries([parsed(data)]))
    ledger.put(records)
    found = collect(ledger, archive, "user")
    named = values(found, "perun_ledger_user_energy_joules")
    assert len(named) == MOST
    assert ("u0",) not in named and (f"u{MOST + 2}",) in named
    assert values(found, "perun_ledger_left_out_names") == {("partition",): 0, ("user",): 3}


def test_a_node_that_says_nothing_of_a_job_that_runs_is_silent(ledger: Ledger, archive: Archive) -> None:
    for job, node, ago_s in ((1, "n1", 5), (1, "n2", SILENT_S + 60), (2, "n3", SILENT_S + 60), (3, "n3", 20)):
        path = archive.base / "running" / f"{job}.0" / f"{node}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (time.time() - ago_s, time.time() - ago_s))
    found = collect(ledger, archive)
    assert values(found, "perun_nodes_with_jobs") == {(): 3}
    assert values(found, "perun_silent_nodes") == {(): 1}
    assert values(collect(ledger, archive, progress_s=3600.0), "perun_silent_nodes") == {(): 0}
    assert values(collect(ledger, archive, progress_s=None), "perun_silent_nodes") == {}


def test_without_the_ledger_what_the_archive_says_is_still_served(ledger: Ledger, archive: Archive) -> None:
    put_incoming(archive.root, boundary(1))
    with ledger.write() as connection:
        connection.execute("DROP TABLE usage_day")
    found = collect(ledger, archive)
    assert values(found, "perun_ledger_up") == {(): 0}
    assert values(found, "perun_ledger_energy_joules") == {}  # missing is not 0
    assert values(found, "perun_backlog_entries")["waiting",] == 1


def test_sweeps_that_fail_and_audits_are_figures(ledger: Ledger, archive: Archive) -> None:
    assert values(collect(ledger, archive), "perun_audit_findings") == {}
    note_sweep(archive, 1000.0, 1010.0, "stored", True, 990.0)
    note_sweep(archive, 2000.0, 2003.0, "no ledger", False)
    note_audit(archive, Audit(1500.0, "2026-11-21", "2026-11-22", 7))
    found = collect(ledger, archive)
    for name, value in (
        ("perun_collector_failing", 1),
        ("perun_collector_sweep_timestamp_seconds", 2003.0),
        ("perun_collector_sweep_duration_seconds", 3.0),
        ("perun_collector_success_timestamp_seconds", 1010.0),
        ("perun_collector_compared_timestamp_seconds", 990.0),
        ("perun_audit_findings", 7),
        ("perun_audit_timestamp_seconds", 1500.0),
    ):
        assert values(found, name) == {(): value}, name
    archive.audit.write_text("{")
    assert values(collect(ledger, archive), "perun_audit_findings") == {}


def test_jobs_of_the_last_day_are_counted_by_their_status(ledger: Ledger, archive: Archive) -> None:
    put(ledger, 1, 5_000_000)
    put(ledger, 2, 5_000_000, state="partial", why="killed")
    old = boundary(3, start_s=LATELY_S - 10 * 86_400)
    ledger.put([sum_boundaries([parsed(old)])])
    found = values(collect(ledger, archive), "perun_recent_jobs")
    assert found == {("complete",): 1, ("partial",): 1, ("missing",): 0}
    assert values(collect(ledger, archive), "perun_ledger_jobs") == {("main",): 3}


def test_names_that_users_choose_are_escaped(ledger: Ledger, archive: Archive) -> None:
    put(ledger, 1, 5_000_000, account='a"} 1\nperun_x 2\\', partition="p" * 500)
    said = text(collect(ledger, archive, "account"))
    assert b"\nperun_x" not in said
    assert b"p" * 129 not in said
    done = promtool(said)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_ends_as_it_must_and_names_units() -> None:
    family = Family("perun_node_energy_joules", "E.", (), counter=True)
    assert text([family], openmetrics=True) == b"# EOF\n"
    assert OPENMETRICS.startswith("application/openmetrics-text")
