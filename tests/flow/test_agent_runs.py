"""Two runs of one name on one node: each has a session, a directory in the spool and a record of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .agent_node import FakeNode, until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, "  trace: all\n  trace_min_duration: 1 ms\n")
    yield fake
    fake.stop()


def records(node: FakeNode, job_id: int, number: int) -> list[dict[str, Any]]:
    """What arrived of a job's runs, the oldest first."""
    incoming = node.archive / f"test/incoming/{job_id}.0"
    until(lambda: len(list(incoming.glob("*.json"))) == number, f"{number} records of job {job_id}")
    return sorted(
        (json.loads(path.read_text()) for path in incoming.glob("*.json")), key=lambda r: r["start"]["mono_ns"]
    )


def energies(found: list[dict[str, Any]]) -> list[int]:
    return [record["domains"]["package-0"]["energy_uj"] for record in found]


def test_a_start_under_another_sluid_ends_the_run_before(node: FakeNode) -> None:
    node.start()
    node.begin(5, exclusive="1", sluid="sA1")
    node.serve(1_000_000)
    node.begin(5, exclusive="1", sluid="sA1")  # the same word twice
    node.serve(1_000_000)
    node.begin(5, exclusive="1", sluid="sA2")
    node.serve(4_000_000)
    node.end(5, sluid="sA2")
    first, second = records(node, 5, 2)
    assert energies([first, second]) == [2_000_000, 4_000_000]
    assert (first["sluid"], second["sluid"]) == ("sA1", "sA2")
    assert (first["why"], second["why"]) == ("no job-end message", None)


def test_a_word_of_the_run_before_that_comes_late_changes_nothing(node: FakeNode) -> None:
    node.start()
    old = node.job(5, exclusive="1", sluid="sA1")
    node.begin(5, exclusive="1", sluid="sA2")
    node.serve(1_000_000)
    assert node.ask("job-start", **old).verb == "ok"
    node.serve(2_000_000)
    node.end(5, sluid="sA2")
    (only,) = records(node, 5, 1)
    assert energies([only]) == [3_000_000] and only["sluid"] == "sA2"


@pytest.mark.parametrize("killed", [False, True])
def test_a_job_id_that_comes_again_beside_an_unshipped_session_has_a_directory_of_its_own(
    node: FakeNode, killed: bool
) -> None:
    away = node.archive.with_name("away")
    node.archive.rename(away)  # not mounted
    node.start()
    for energy_uj in (1_000_000, 2_000_000, 4_000_000):
        node.begin(6, exclusive="1", sluid=f"sB{energy_uj}")  # else records so near in time are one run's
        node.serve(energy_uj)
        if killed:
            node.kill()
            node.start()
        node.end(6)
    until(lambda: len(list(node.spool.glob("sessions/*/boundary.json"))) == 3, "three sealed sessions")
    assert sorted(path.name for path in (node.spool / "sessions").iterdir()) == ["6.0", "6.0-1", "6.0-2"]
    away.rename(node.archive)
    found = records(node, 6, 3)
    assert energies(found) == [1_000_000, 2_000_000, 4_000_000]
    assert [record["why"] for record in found] == [None] * 3
    until(lambda: list((node.spool / "sessions").iterdir()) == [], "the spool is empty")
