"""By policy a real agent learns what jobs' work draws from the package's own counter, and its record says so."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.flow.agent_node import FakeNode

STATIC_W = 0.1
"""Little, for the counter stands still from when it is served until the agent reads it."""
WATTS = {1: 4.0, 2: 12.0}
POLICY = f"energy: {{package_static: {STATIC_W} W, package_sharing: cores+fit}}\nsampling: {{interval: 60 s}}\n"
LONG_S = 0.7


class Busy:
    """Two jobs of one CPU each. They work, and the counter moves, only within the interval that is open: who was busy
    before the agent read, and is charged after it, would have been busier than a CPU can be.
    """

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.cpu_s = dict.fromkeys(WATTS, 0.0)
        self.moving_uj: Counter[int] = Counter()
        self.idle_s = 0.0
        """The longest time that it took the agent to read what was served."""

    def work(self, *jobs: int) -> None:
        """Let some of them be busy from now on, for much longer than the node then stands still."""
        since_s = time.monotonic()
        time.sleep(max(LONG_S, 3 * self.idle_s))
        seconds = time.monotonic() - since_s
        for job in jobs:
            self.cpu_s[job] += seconds
            self.moving_uj[job] += round(WATTS[job] * seconds * 1e6)
            self.node.cgroup(job, str(job), self.cpu_s[job])
        drawn_w = STATIC_W + sum(WATTS[job] for job in jobs)
        self.node.serve(round(drawn_w * seconds * 1e6), 0, dict.fromkeys(jobs, seconds))

    def end_interval(self, job: int) -> None:
        """Have the agent read, which it does when a job begins."""
        since_s = time.monotonic()
        self.node.begin(job, cpus_on_node=1)
        self.idle_s = max(self.idle_s, time.monotonic() - since_s)


@pytest.mark.parametrize("version", [1, 2])
def test_of_two_jobs_as_busy_as_each_other_the_one_that_draws_more_gets_more(tmp_path: Path, version: int) -> None:
    node = FakeNode(tmp_path, POLICY, cgroup_version=version, zones={"intel-rapl:0": "package-0"})
    node.start()
    try:
        for job in WATTS:
            node.cgroup(job, str(job), 0)
        busy = Busy(node)
        busy.end_interval(1)
        for number, jobs in enumerate([(1,), (1, 2), (2,), (1, 2), (1, 2)]):
            busy.work(*jobs)
            busy.end_interval(2 if number == 0 else 10 + number)
        for job in WATTS:
            node.end(job)
        found = {job: node.record(job)["domains"]["package-0"] for job in WATTS}
        lines = [line for line in node.ledger() if line["domain"] == "package-0"]
    finally:
        node.stop()
    assert {one["method"] for one in found.values()} == {"cores+fit"}
    assert {one["provenance"] for one in found.values()} == {"simulated"}
    by_time = sum(busy.moving_uj.values()) * busy.cpu_s[2] / sum(busy.cpu_s.values())
    off = {"fit": found[2]["dynamic_uj"] - busy.moving_uj[2], "time": by_time - busy.moving_uj[2]}
    assert abs(off["fit"]) < 0.6 * abs(off["time"])
    for job, one in found.items():
        assert abs(one["dynamic_uj"] - busy.moving_uj[job]) < 2 * one["u_uj"]
    shares: Counter[str] = Counter()
    for line in lines:
        assert sum(line["shares"].values()) == line["total_uj"]
        shares.update(line["shares"])
    assert {f"job:{job}.0": one["energy_uj"] for job, one in found.items()} == {
        owner: uj for owner, uj in shares.items() if owner in ("job:1.0", "job:2.0")
    }
