"""A trace that lost something says so in the job's record, whose energy is none the worse for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.boundary import read_boundary

from .agent_node import FakeNode, until

POLICY = "  trace_min_duration: 0 s\n  flush: 1 s\nsampling:\n  period: 100 ms\n  interval: 200 ms\n"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, POLICY)
    yield fake
    fake.stop()


def test_rows_that_a_crash_tore_are_named_in_the_record(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    journals = node.spool / "sessions" / "1.0" / "tracks" / "100ms"
    until(lambda: any(path.stat().st_size > 2000 for path in journals.glob("*.journal")), "rows are in the journal")
    node.kill()
    journal = max(journals.glob("*.journal"))
    os.truncate(journal, journal.stat().st_size - 5)
    node.start()
    node.serve(3_000_000)
    node.end(1)
    record = node.record(1)
    assert record["state"] == "closed"
    assert record["trace"]["state"] == "partial" and "torn" in record["trace"]["why"]
    total = sum_boundaries([read_boundary(node.boundary_path(1))])
    assert (total.status, total.energy_uj) == ("complete", 3_000_000)
    (said,) = total.missing
    assert said.startswith("n1: its trace is partial: the last") and "torn" in said


def test_a_short_job_without_a_trace_lacks_nothing(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    try:
        node.start()
        node.begin(1, exclusive="1")
        node.serve(1_000_000)
        node.end(1)
        node.record(1)
        assert sum_boundaries([read_boundary(node.boundary_path(1))]).missing == ()
    finally:
        node.stop()
