"""Suspended jobs with the real agent: an interval ends at each change, and who is suspended pays for itself only."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.agent_node import FakeNode, until

STATIC_W = 1
STATIC = f"energy:\n  package_static: {STATIC_W} W\n"
"""More than the counters show while everything sleeps, whose energy then is the static part."""

J = 1_000_000
SLEEPING_UJ = 400


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, STATIC, cgroup_version=request.param)
    fake.start()
    until((fake.spool / "policy.json").exists, "the policy is compiled")
    assert fake.answers()  # and rules by now
    yield fake
    fake.stop()


def begin(node: FakeNode, job: int, cpus: str = "0-1") -> None:
    node.cgroup(job, cpus, 0)
    node.freeze(job, False)
    node.begin(job, cpus_on_node=2)
    assert node.answers()  # after what the hook does not wait for: it has looked at the job's cgroup


def package_lines(node: FakeNode) -> list[dict[str, Any]]:
    return [line for line in node.ledger() if line["domain"] == "package-0"]


def seen(node: FakeNode, change: Callable[[], None]) -> int:
    """Change something and wait until an interval ended for it; returns when that was (monotonic)."""
    change()
    changed_ns = time.monotonic_ns()
    until(lambda: package_lines(node)[-1]["t1_ns"] > changed_ns, "an interval ends at the change")
    assert node.answers()  # it has saved its state, too
    return int(next(line["t1_ns"] for line in package_lines(node) if line["t1_ns"] > changed_ns))


def with_energy(node: FakeNode, total_uj: int) -> dict[str, Any]:
    """The one interval in which the counter counted so much."""
    (line,) = [line for line in package_lines(node) if line["total_uj"] == total_uj]
    return line


def test_a_preempted_job_pays_for_itself_and_never_for_its_preemptor(node: FakeNode) -> None:
    begin(node, 1)
    node.serve(4 * J, 0, {0: 1, 1: 1})
    node.cgroup(1, "0-1", 2)
    frozen_ns = seen(node, lambda: node.freeze(1, True))
    assert with_energy(node, 4 * J)["shares"]["job:1.0"] >= 2 * J
    begin(node, 2)
    node.serve(3 * J, 0, {0: 1, 1: 1})
    node.cgroup(2, "0-1", 2)
    node.end(2)
    preempted = with_energy(node, 3 * J)
    assert "job:1.0" not in preempted["shares"]
    assert preempted["shares"]["job:2.0"] >= J
    node.serve(SLEEPING_UJ)
    thawed_ns = seen(node, lambda: node.freeze(1, False))
    assert with_energy(node, SLEEPING_UJ)["shares"] == {"job:1.0": SLEEPING_UJ // 2, "idle": SLEEPING_UJ // 2}
    node.serve(1 * J, 0, {0: 1})
    node.cgroup(1, "0-1", 3)
    node.end(1)
    record = node.record(1)
    package = record["domains"]["package-0"]
    assert package["suspended_uj"] == SLEEPING_UJ // 2
    assert package["energy_uj"] == sum(line["shares"].get("job:1.0", 0) for line in package_lines(node))
    assert record["usage"]["suspended_ns"] == thawed_ns - frozen_ns
    other = node.record(2)
    assert (other["domains"]["package-0"]["suspended_uj"], other["usage"]["suspended_ns"]) == (0, 0)


def test_a_job_frozen_just_before_an_intervals_end_is_charged_as_suspended_from_then_on(node: FakeNode) -> None:
    begin(node, 1)
    node.serve(4 * J, 0, {0: 1, 1: 1})
    node.cgroup(1, "0-1", 2)
    node.freeze(1, True)
    begin(node, 2, "2-3")  # ends the interval
    node.serve(SLEEPING_UJ)
    node.end(2)
    node.freeze(1, False)
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["energy_uj"] >= 2 * J
    assert record["domains"]["package-0"]["suspended_uj"] == SLEEPING_UJ // 2


def test_steps_that_end_or_begin_while_a_job_is_suspended(node: FakeNode) -> None:
    node.freeze(1, False, "0", "1")
    begin(node, 1)
    seen(node, lambda: node.freeze(1, True, "0", "1", "batch"))
    node.serve(SLEEPING_UJ)
    for step in node.root.glob("sys/fs/cgroup/**/job_1/step_1"):
        shutil.rmtree(step)
    begin(node, 2, "2-3")
    assert with_energy(node, SLEEPING_UJ)["shares"] == {"job:1.0": SLEEPING_UJ // 2, "idle": SLEEPING_UJ // 2}
    seen(node, lambda: node.freeze(1, False, "2"))  # a step that runs: the job does
    seen(node, lambda: node.freeze(1, True, "2"))
    node.end(2)
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["suspended_uj"] == record["domains"]["package-0"]["energy_uj"]


def test_a_job_that_is_cancelled_while_it_is_suspended(node: FakeNode) -> None:
    begin(node, 1)
    seen(node, lambda: node.freeze(1, True))
    node.serve(SLEEPING_UJ)
    for top in node.root.glob("sys/fs/cgroup/**/job_1"):
        shutil.rmtree(top)
    node.end(1)
    record = node.record(1)
    assert record["domains"]["package-0"]["suspended_uj"] == record["domains"]["package-0"]["energy_uj"]
    assert record["domains"]["package-0"]["energy_uj"] == SLEEPING_UJ // 2
    assert record["state"] == "closed"


@pytest.mark.parametrize("resumed", [False, True], ids=["still", "resumed"])
def test_an_agent_that_is_killed_while_a_job_is_suspended(node: FakeNode, resumed: bool) -> None:
    begin(node, 1)
    seen(node, lambda: node.freeze(1, True))
    node.kill()
    node.serve(SLEEPING_UJ, 0, {0: 1})  # no policy rules yet when the next agent reads it: static power is not known
    node.cgroup(1, "0-1", 1)
    if resumed:
        node.freeze(1, False)
    node.start()
    node.freeze(1, False)
    node.end(1)
    record = node.record(1)
    # Half of it is taken for static, of which the job's two of four cores have half; the rest is by CPU time.
    paid_uj = record["domains"]["package-0"]["energy_uj"]
    assert paid_uj == pytest.approx(SLEEPING_UJ * 3 // 4, abs=2)  # by a power, which is rounded
    assert record["domains"]["package-0"]["suspended_uj"] == (0 if resumed else paid_uj)
    assert resumed or record["usage"]["suspended_ns"] > 0
