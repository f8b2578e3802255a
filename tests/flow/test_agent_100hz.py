"""A row every 10 ms for 20 s: every tick is there, or the record says that it was skipped."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.soak.sampler import POLICY, sample

from .agent_node import FakeNode, until


@pytest.mark.slow
def test_every_tick_is_there_or_recorded(tmp_path):
    seen = sample(tmp_path, 20)
    assert seen.rows == seen.recorded_rows > 500
    assert seen.missing <= seen.recorded_skipped
    assert seen.late == seen.recorded_late
    assert min(seen.offsets_us) >= 0


def programs(node: FakeNode) -> list[int]:
    """The agent's children that make rows."""
    assert node.agent is not None
    pid = node.agent.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in children if Path(f"/proc/{one}/comm").read_text() == "perun-sample\n"]


def test_who_makes_the_rows_ends_with_a_killed_agent_and_the_next_one_goes_on(tmp_path):
    node = FakeNode(tmp_path, policy=POLICY)
    try:
        node.start()
        node.begin(1, exclusive="1")
        until(lambda: programs(node), "a program makes the rows")
        (first,) = programs(node)
        time.sleep(1.5)
        node.kill()
        until(lambda: not Path(f"/proc/{first}").exists(), "it is gone, too")
        node.start()
        until(lambda: programs(node), "another one makes the rows")
        time.sleep(1.2)
        (second,) = programs(node)
        node.serve(package_uj=500_000)
        node.end(1)
        record = node.record(1)
        until(lambda: not Path(f"/proc/{second}").exists(), "it has ended with the job")
    finally:
        node.stop()
    assert record["domains"]["package-0"]["energy_uj"] == 500_000
    assert record["trace"]["rows"] > 100
