from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.data_model.boundary import parse_boundary

from .agent_node import ZONES, FakeNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    yield fake
    fake.stop()


def test_edges_are_the_values_that_were_served_and_energy_is_their_difference(node: FakeNode) -> None:
    node.start()
    node.serve(package_uj=5_000_000, dram_uj=70_000)
    at_start = dict(node.counters)
    node.begin(4711, exclusive="1")
    node.serve(package_uj=12_345_678, dram_uj=999_999)
    at_end = dict(node.counters)
    node.end(4711)
    node.serve(package_uj=1_000_000)
    record = node.record(4711)
    edges = record["edges"]["powercap:package-0:energy"]
    assert edges["start"]["ticks"] == at_start["intel-rapl:0"]
    assert edges["end"]["ticks"] == at_end["intel-rapl:0"]
    assert record["edges"]["powercap:dram-0:energy"]["start"]["ticks"] == at_start["intel-rapl:0:0"]
    assert record["state"] == "closed"
    assert record["simulated"]
    assert record["domains"]["package-0"]["node_uj"] == 12_345_678
    assert record["domains"]["package-0"]["energy_uj"] == 12_345_678
    assert record["domains"]["dram-0"]["energy_uj"] == 999_999
    assert record["end"]["exit_code"] == "0:0"
    parse_boundary(node.boundary_path(4711).read_bytes(), "test")


def test_shares_of_every_interval_sum_to_the_counters_difference(node: FakeNode) -> None:
    node.start()
    node.cgroup(1, "0-1", 0)
    node.cgroup(2, "2", 0)
    first = node.counters["intel-rapl:0"]
    node.begin(1)
    node.serve(3_000_001, 17, {0: 0.5})
    node.cgroup(1, "0-1", 0.5)
    node.begin(2)
    node.serve(5_000_003, 19, {0: 0.25, 2: 1.0, 3: 0.1})
    node.cgroup(1, "0-1", 0.75)
    node.cgroup(2, "2", 1.0)
    node.end(1)
    node.serve(1_000_007, 23, {2: 0.3})
    node.cgroup(2, "2", 1.3)
    node.end(2)
    records = [node.record(1), node.record(2)]
    node.stop()
    lines = [line for line in node.ledger() if line["domain"] == "package-0"]
    assert all(sum(line["shares"].values()) == line["total_uj"] for line in lines)
    assert sum(line["total_uj"] for line in lines) == node.counters["intel-rapl:0"] - first
    for record in records:
        owner = f"job:{record['job_id']}.0"
        given = sum(line["shares"].get(owner, 0) for line in lines)
        assert given == record["domains"]["package-0"]["energy_uj"] > 0
    assert records[0]["domains"]["package-0"]["node_uj"] == 3_000_001 + 5_000_003


def test_a_message_that_comes_twice_changes_nothing(node: FakeNode) -> None:
    node.start()
    start = node.job(7)
    node.ask("job-start", **start)
    node.serve(1_000)
    node.ask("job-start", **start)
    node.serve(2_000)
    end = node.job(7)
    node.ask("job-end", **end)
    record = node.record(7)
    node.serve(4_000)
    node.ask("job-end", **end)
    node.ask("job-start", **start)
    assert node.ask("status").fields["sessions"] == ""
    assert node.record(7) == record
    assert record["domains"]["package-0"]["node_uj"] == 3_000


def test_an_end_without_a_start_leaves_a_partial_record(node: FakeNode) -> None:
    node.start()
    node.end(8)
    record = node.record(8)
    assert record["state"] == "partial"
    assert "no job-start message" in record["why"]


def test_a_second_agent_ends_at_once(node: FakeNode) -> None:
    node.start()
    first = node.agent
    assert node.start(wait=False).wait(20) == 0
    node.agent = first
    assert node.answers()


def test_the_epilog_of_a_requeued_job_names_the_next_run(node: FakeNode) -> None:
    node.start()
    node.begin(5)
    node.serve(1_000)
    node.end(5, restart_count=1)
    node.serve(10_000)
    node.begin(5, restart_count=1)
    node.serve(2_000)
    node.end(5, restart_count=1)
    assert node.record(5, 0)["domains"]["package-0"]["node_uj"] == 1_000
    second = node.record(5, 1)
    assert second["state"] == "closed"
    assert second["domains"]["package-0"]["node_uj"] == 2_000


def test_a_run_that_was_never_ended_ends_when_the_next_one_starts(node: FakeNode) -> None:
    node.start()
    node.begin(5)
    node.serve(1_000)
    node.begin(5, restart_count=1)
    record = node.record(5, 0)
    assert record["why"] == "no job-end message"
    assert record["domains"]["package-0"]["node_uj"] == 1_000


def test_a_counter_that_can_wrap_fast_is_read_often_whatever_the_storage_period(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, "sampling: {period: 60 s, period_max: 1 h}\n")
    for zone in ZONES:  # at the ceiling of 3 kW, 6 kJ last two seconds: a reading every half second at the latest
        (node.root / "sys/class/powercap" / zone / "max_energy_range_uj").write_text("6000000000\n")
    node.start()
    try:
        node.begin(1)
        time.sleep(2.5)
        node.end(1)
        node.record(1)
    finally:
        node.stop()
    lines = [line for line in node.ledger() if line["domain"] == "package-0"]
    assert len(lines) >= 3
    assert max(line["t1_ns"] - line["t0_ns"] for line in lines) < 2_000_000_000
