"""A job that runs: its owner sees what it used so far, and nothing of that is ever booked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.found import Places
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.lookup import find
from perun_hpc.accounting.running import publish_running
from perun_hpc.archive.places import RUNNING, Archive, Run
from perun_hpc.data_model.record import from_json
from perun_hpc.errors import NotFoundError
from perun_hpc.report.job import job_report
from perun_hpc.report.screen import Style
from tests.accounting_data import boundary

from .agent_node import FakeNode, until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, "  progress: 10 s\n  trace: none\nsampling:\n  interval: 200 ms\n")
    yield fake
    fake.stop()


def said(node: FakeNode, job_id: int) -> dict[str, Any]:
    path = node.archive / "test" / "running" / f"{job_id}.0" / "n1.json"
    until(path.exists, "the node says what the job used so far")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_running_job_shows_its_energy_so_far_and_only_its_end_is_booked(node: FakeNode, tmp_path: Path) -> None:
    published: list[tuple[Path, int]] = []
    tools = Tools(time.time, publish=lambda path, uid, others: published.append((path, uid)))
    archive, ledger = Archive(node.archive, "test"), open_ledger(str(tmp_path / "ledger.db"), create=True)
    collector = Collector(archive, ledger, tools, deadline_s=900)
    node.start()
    node.begin(7, exclusive="1")
    node.serve(package_uj=12_000_000, dram_uj=1_000_000)
    record = said(node, 7)
    assert record["state"] == "running" and record["end"]["from"] == "running"
    assert not list((node.archive / "test").glob("incoming/*"))

    assert collector.sweep().stored == 0
    assert publish_running(archive, tools) == 1
    job = archive.job(Run(7, 0))
    assert (job, 1000) in published and [path.name for path in job.iterdir()] == [RUNNING]
    assert publish_running(archive, tools) == 0, "nothing is newer"
    (found,) = find("7", Places(archive, None, None, 0.0))
    assert found.record.status == "running"
    assert found.record.energy_uj == sum(part["energy_uj"] for part in record["domains"].values()) > 0
    text = "\n".join(job_report(found.record, found.source, Style(False, False)))
    assert "so far" in text and "the job still runs" in text
    assert not ledger.members("test", "7")

    node.serve(package_uj=5_000_000)
    node.end(7)
    node.record(7)
    assert collector.sweep().stored == 1
    publish_running(archive, tools)
    assert not (archive.base / "running" / "7.0").exists() and not (job / RUNNING).exists()
    (booked,) = ledger.members("test", "7")
    assert (booked.status, booked.energy_uj) == ("complete", 18_000_000)
    assert find("7", Places(archive, None, None, 0.0))[0].record.energy_uj == 18_000_000


def test_a_policy_that_says_never_hears_nothing(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, "  progress: never\n  trace: none\nsampling:\n  interval: 200 ms\n")
    try:
        node.start()
        node.begin(9, exclusive="1")
        time.sleep(12)
        node.end(9)
        node.record(9)
        assert not (node.archive / "test" / "running").exists()
    finally:
        node.stop()


def test_what_was_said_so_far_names_the_nodes_that_have_not_told(tmp_path: Path) -> None:
    directory = tmp_path / "c" / "running" / "4711.0"
    directory.mkdir(parents=True)
    (directory / "n1.json").write_text(json.dumps({**boundary(nodelist="n[1-2]"), "state": "running"}))
    (directory / "n2.json").write_text("{ torn")
    archive = Archive(tmp_path, "c")
    assert publish_running(archive, Tools(time.time)) == 1
    record = from_json((archive.job(Run(4711, 0)) / RUNNING).read_bytes())
    assert record.status == "running" and record.missing_nodes == ()
    assert len(record.missing) == 1 and "1 of 2 nodes have reported" in record.missing[0]
    assert record.coverage <= 0.5
    (archive.job(Run(4711, 0)) / RUNNING).write_text("{ torn")
    with pytest.raises(NotFoundError):
        find("4711", Places(archive, None, None, 0.0))
