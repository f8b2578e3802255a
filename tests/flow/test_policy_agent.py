"""What the policy says of agent and jobs shows in what the real agent does, and a change needs no restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse

from .agent_node import FakeNode, until

Make = Callable[..., FakeNode]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[FakeNode] = []

    def start(policy: str = "", begun: bool = True) -> FakeNode:
        node = FakeNode(tmp_path, policy)
        made.append(node)
        if begun:
            node.start()
            compiled(node)
        return node

    yield start
    for node in made:
        node.stop()


def compiled(node: FakeNode, former: str = "") -> str:
    """What the agent holds for its policy, waited for: another one than `former`."""
    path = node.spool / "policy.json"
    until(lambda: path.exists() and path.read_text() != former, "the policy is compiled")
    return path.read_text()


def change(node: FakeNode, policy: str) -> None:
    """The administrator writes another policy."""
    former = compiled(node)
    fresh = node.policy.with_suffix(".new")
    fresh.write_text(f"store:\n  archive: {node.archive}\n{policy}")
    fresh.replace(node.policy)
    compiled(node, former)


def job(node: FakeNode, job_id: int, **more: str | int) -> None:
    node.begin(job_id, **more)
    node.end(job_id, **more)


def ruled(node: FakeNode, job_id: int) -> bool:
    """Whether the job has its settings: the agent says so in its state, a moment after the hook's answer."""
    return any(session["key"] == f"{job_id}.0" and session["settings"] for session in node.state()["sessions"])


def track(node: FakeNode) -> dict[str, Any]:
    """The description of the one open trace."""
    until(lambda: any(node.spool.rglob("track.json")), "the trace begins")
    found: dict[str, Any] = json.loads(next(node.spool.rglob("track.json")).read_text())
    return found


def test_priority_and_cpus_are_the_policys_and_follow_it(make: Make) -> None:
    last, own = (
        max(os.sched_getaffinity(0)),
        os.getpriority(os.PRIO_PROCESS, 0),
    )  # who stands behind already stays there
    node = make(f"agent: {{nice: 13, cpu_affinity: '{last}'}}\n")
    assert node.agent is not None
    pid = node.agent.pid
    until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == max(own, 13), "the agent steps back")
    until(lambda: os.sched_getaffinity(pid) == {last}, "the agent keeps to its CPU")
    change(node, "agent: {nice: 15}\n")
    until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == max(own, 15), "the agent steps back further")
    until(lambda: os.sched_getaffinity(pid) == os.sched_getaffinity(0), "the agent may run everywhere again")
    assert node.agent.poll() is None


def test_an_agent_above_its_memory_cap_ends_and_the_record_says_why(make: Make) -> None:
    node = make(begun=False)
    # Below what `check` allows: an agent that really grew to the least cap would take long.
    policy = parse(f"store: {{archive: {node.archive}}}".encode(), "p")
    policy.site.values["agent.memory_cap_b"] = 1 << 20
    policy.site.origins["agent.memory_cap_b"] = "p:1"
    node.policy.unlink()
    node.spool.mkdir()
    (node.spool / "policy.json").write_text(json.dumps(compile_policy(policy)))
    agent = node.start(wait=False)
    until(lambda: node.answers() or agent.poll() is not None, "the agent answers")
    node.begin(1)
    until(lambda: agent.poll() is not None, "the agent ends")
    assert agent.returncode == 0
    node.policy.write_text(f"store:\n  archive: {node.archive}\n")
    node.start()
    node.end(1)
    assert any("memory cap" in gap["why"] for gap in node.record(1)["gaps"])


def test_an_agent_stays_if_resident_and_leaves_after_the_linger_time_if_not(make: Make) -> None:
    node = make("agent: {resident: true, linger: 0 s}\n")
    assert node.agent is not None
    job(node, 1)
    node.record(1)
    assert node.answers()
    change(node, "agent: {linger: 0 s}\n")
    until(lambda: node.agent is not None and node.agent.poll() is not None, "it leaves")


def test_the_hooks_deadline_is_handed_to_them(make: Make) -> None:
    node = make("hooks: {deadline: 250 ms}\n")
    told = node.run_dir / "hook.conf"
    until(lambda: told.exists() and "deadline_ms=250\n" in told.read_text(), "the deadline is written")
    assert f"policy={node.policy}\n" in told.read_text()
    change(node, "hooks: {deadline: 300 ms}\n")
    until(lambda: "deadline_ms=300\n" in told.read_text(), "the new deadline is written")


@pytest.mark.parametrize(
    "policy",
    [
        "monitor: {jobs: none}\n",
        "monitor: {jobs: opt-in}\n",
        "monitor: {canaries: 'n[2-3]'}\n",
        "monitor: {partitions: [gpu]}\n",
        "monitor: {accounts: [chem]}\n",
        "accounts: {physics: {monitor: {jobs: opt-in}}}\n",
        "nodes: {'n[1-2]': {monitor: {jobs: none}}}\n",
    ],
)
def test_a_job_that_the_policy_leaves_out_leaves_nothing(make: Make, policy: str) -> None:
    node = make(policy)
    job(node, 1, partition="main")
    change(node, "")
    job(node, 2, partition="main")
    assert node.record(2)["job_id"] == 2  # the same agent; what it shipped before would be there
    assert not node.boundary_path(1).exists()
    assert not (node.spool / "sessions" / "1.0").exists()
    # The node ledger closes all the same: somebody used the energy.
    assert {line["domain"] for line in node.ledger()} >= {"package-0", "dram-0"}


def test_who_opted_out_leaves_nothing_and_who_may_not_is_told(make: Make) -> None:
    node = make("monitor: {jobs: opt-out, user_options: ['off']}\naccounts: {chem: {monitor: {user_options: []}}}\n")
    job(node, 1, flag="=off")
    job(node, 2, flag="=off", account="chem")
    job(node, 3)
    assert node.record(3)["notes"] == []
    assert "'off'" in node.record(2)["settings"]["notes"][0]
    assert not node.boundary_path(1).exists()


def test_who_opted_in_at_submission_has_a_record_that_names_the_rank_it_lacks(make: Make) -> None:
    node = make("monitor: {jobs: opt-in, user_options: [period]}\n")
    job(node, 1)
    job(node, 2, flag="=period=5s")
    record = node.record(2)
    assert record["notes"] == ["submitted with --perun, but no rank registered on this node"]
    assert record["settings"]["sampling"]["period_ns"] == 5 * 10**9
    assert record["state"] == "closed"
    assert not node.boundary_path(1).exists()


def test_records_only_means_a_record_and_no_trace(make: Make) -> None:
    node = make("  trace: none\n  trace_min_duration: 0 s\n")
    job(node, 1)
    record = node.record(1)
    assert not record["trace"].get("stored")
    assert not any(node.spool.rglob("track.json"))
    assert record["settings"]["store"]["trace"] == "none"


def test_a_trace_is_as_dense_and_as_compressed_as_the_policy_says(make: Make) -> None:
    node = make("  trace_min_duration: 0 s\n  compression: 0\nsampling: {period: 2 s}\n")
    node.begin(1, exclusive="1")
    described = track(node)
    assert (described["period_ns"], described["level"]) == (2 * 10**9, 0)


def test_a_trace_of_a_shared_node_is_as_coarse_as_the_policy_says(make: Make) -> None:
    node = make("  trace_min_duration: 0 s\nprivacy: {shared_resolution: 20 s}\n")
    node.begin(1, cpus_on_node=1)
    assert track(node)["period_ns"] == 20 * 10**9


def test_a_job_keeps_the_settings_that_it_began_with(make: Make) -> None:
    node = make("  trace: none\nsampling: {period: 5 s}\n")
    node.begin(1)
    until(lambda: ruled(node, 1), "job 1 has its settings")
    change(node, "  trace: none\nsampling: {period: 7 s}\n")
    job(node, 2)
    node.end(1)
    first, second = node.record(1), node.record(2)
    assert first["settings"]["sampling"]["period_ns"] == 5 * 10**9
    assert first["settings"]["origins"]["sampling.period_ns"] == f"{node.policy}:4"
    assert second["settings"]["sampling"]["period_ns"] == 7 * 10**9
    assert first["policy_hash"] != second["policy_hash"]


def test_a_broken_policy_changes_nothing_and_is_logged_once(make: Make) -> None:
    node = make("sampling: {period: 5 s}\n")
    good = compiled(node)
    fresh = node.policy.with_suffix(".new")
    fresh.write_text("sampling: {perod: 1 s}\n")
    fresh.replace(node.policy)
    log = node.spool / "agent.log"
    until(lambda: "the last valid one stays in force" in log.read_text(), "it is logged")
    job(node, 1)
    job(node, 2)
    assert node.record(2)["settings"]["sampling"]["period_ns"] == 5 * 10**9
    assert compiled(node) == good
    assert log.read_text().count("the last valid one stays in force") == 1
    assert "did you mean 'period'?" in node.ask("status").fields["policy"]
