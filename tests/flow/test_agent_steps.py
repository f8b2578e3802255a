"""Energies of all steps with the real agent: what their cgroups show, of steps of any length, alone and beside others.

Counters and CPU times move only when the test moves them, and all static power is 0: energies are those of the work,
whenever the agent happened to look.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.boundary import read_boundary
from perun_hpc.data_model.record import EnergyRecord
from tests.flow.agent_node import ALL_BY_WORK, FakeNode, until

J = 1_000_000
BATCH, EXTERN, FURTHER = -5, -4, -1


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path, ALL_BY_WORK, cgroup_version=request.param)
    fake.start()
    until((fake.spool / "policy.json").exists, "the policy is compiled")
    assert fake.answers()  # and rules by now
    yield fake
    fake.stop()


class Work:
    """A job whose steps work: each second of CPU time is a joule."""

    def __init__(self, node: FakeNode, job: int = 1, cpus: str = "0-3") -> None:
        self.node, self.job, self.cpus = node, job, cpus
        self.used: dict[str, float] = {}
        node.begin(job, cpus_on_node=4 if cpus == "0-3" else 1)
        assert node.answers()  # after what the hook does not wait for: it watches for the job's cgroup
        node.cgroup(job, cpus, 0)
        self.make("extern", "batch")

    def make(self, *steps: str) -> None:
        for step in steps:
            self.used[step] = 0.0
            self.node.step(self.job, step, 0, self.cpus)
        assert self.node.answers()

    def work(self, **seconds: float) -> None:
        """Steps `s0`, `batch` and so on use CPU time, as their job's cgroup counts, too."""
        for name, more in seconds.items():
            step = name.removeprefix("s")
            self.used[step] += more
            self.node.step(self.job, step, self.used[step])
        self.node.cgroup(self.job, self.cpus, sum(self.used.values()))
        whole = sum(seconds.values())
        self.node.serve(round(whole * J), 0, {int(self.cpus[0]): whole})

    @contextlib.contextmanager
    def unwatched(self) -> Iterator[None]:
        """Whatever is done here the agent sees at once, when it is done."""
        assert self.node.agent is not None
        self.node.agent.send_signal(signal.SIGSTOP)
        yield
        self.node.agent.send_signal(signal.SIGCONT)
        assert self.node.answers()

    def unseen(self, seconds: float, *steps: str) -> None:
        """Steps begin, work and end while the agent looks away: what they used their job's cgroup keeps."""
        with self.unwatched():
            for step in steps:
                self.node.step(self.job, step, 0)
            self.used["unseen"] = seconds
            self.node.cgroup(self.job, self.cpus, sum(self.used.values()))
            self.node.serve(round(seconds * J), 0, {int(self.cpus[0]): seconds})
            for step in steps:
                self.node.end_step(self.job, step)

    def end(self, *steps: str) -> None:
        for step in steps:
            self.node.end_step(self.job, step)
        assert self.node.answers()

    def over(self) -> dict[int, dict[str, Any]]:
        self.end("batch", "extern")
        self.node.end(self.job)
        return rows(self.node.record(self.job))


def rows(record: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """A record's steps by their numbers; together they have no more than the job."""
    found = {step["step_id"]: step for step in record["steps"]}
    whole_uj = sum(one["energy_uj"] or 0 for one in record["domains"].values())
    assert sum(step.get("energy_uj") or 0 for step in found.values()) <= whole_uj
    return found


def energies(steps: dict[int, dict[str, Any]]) -> dict[int, float]:
    return {number: pytest.approx(step["energy_uj"] / J, abs=0.011) for number, step in steps.items()}


def test_steps_in_turn_and_at_once_have_their_own_work(node: FakeNode) -> None:
    job = Work(node)
    job.work(batch=0.5)
    job.make("0")
    job.work(s0=3)
    job.end("0")
    job.make("1", "2")
    job.work(s1=1, s2=4)
    job.end("1")
    job.end("2")
    steps = job.over()
    assert energies(steps) == {0: 3, 1: 1, 2: 4, BATCH: 0.5, EXTERN: 0}
    assert steps[0]["cpu_ns"] == pytest.approx(3e9)
    assert steps[0]["end_ns"] > steps[0]["start_ns"]
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == pytest.approx(8.5 * J, rel=1e-6)
    assert node.record(1)["flagged"] is False


def test_a_step_between_two_readings_has_what_no_other_one_used(node: FakeNode) -> None:
    job = Work(node)
    job.work(batch=0.1)
    job.unseen(0.7, "0")
    steps = job.over()
    assert energies(steps)[0] == 0.7
    assert steps[0]["u_uj"] > 0


def test_steps_that_begin_and_end_together_unread_have_bounds_that_hold(node: FakeNode) -> None:
    job = Work(node)
    job.unseen(4, "0", "1")  # of which the one may have had as much as the other, or all
    steps = job.over()
    for step in (steps[0], steps[1]):
        assert step["energy_uj"] > 0
        assert step["energy_uj"] - 2 * step["u_uj"] <= 0
        assert step["energy_uj"] + 2 * step["u_uj"] >= 4 * J


def test_a_batch_script_that_works_itself_has_its_job(node: FakeNode) -> None:
    job = Work(node)
    job.work(batch=6)
    assert energies(job.over()) == {BATCH: 6, EXTERN: 0}


def test_steps_of_a_job_that_shares_the_node(node: FakeNode) -> None:
    job, other = Work(node, 1, "1"), Work(node, 2, "2")
    job.make("0", "1")
    job.work(s0=2, s1=6)
    other.work(batch=5)
    job.end("0")
    job.work(s1=1)
    job.end("1")
    assert energies(job.over()) == {0: 2, 1: 7, BATCH: 0, EXTERN: 0}
    assert energies(other.over()) == {BATCH: 5, EXTERN: 0}


def test_steps_go_on_after_a_kill(node: FakeNode) -> None:
    job = Work(node)
    job.make("0")
    job.work(s0=2)
    node.begin(9)  # ends an interval, and the state is saved
    node.kill()
    job.work(s0=1)
    node.start()
    job.work(s0=1)
    node.end(9)
    job.end("0")
    steps = job.over()
    record = node.record(1)
    assert record["domains"]["package-0"]["energy_uj"] > 3 * J
    assert steps[0]["energy_uj"] == pytest.approx(record["domains"]["package-0"]["energy_uj"], rel=0.02)
    assert steps[0]["cpu_ns"] == pytest.approx(4e9)


def test_of_very_many_steps_those_of_higher_numbers_are_one_sum(node: FakeNode) -> None:
    job = Work(node)
    for number in range(250, 270):
        job.make(str(number))
        job.work(**{f"s{number}": 0.1})
        job.end(str(number))
    steps = job.over()
    assert set(steps) == {*range(250, 256), FURTHER, BATCH, EXTERN}
    assert steps[FURTHER]["steps"] == 14
    assert steps[FURTHER]["energy_uj"] == pytest.approx(1.4 * J, abs=0.02 * J)


def test_the_collector_has_them_by_slurms_names(node: FakeNode) -> None:
    job = Work(node)
    job.make("0")
    job.work(s0=3, batch=1)
    job.end("0")
    job.over()
    record: EnergyRecord = sum_boundaries([read_boundary(node.boundary_path(1))])
    assert [step.step_id for step in record.steps] == ["batch", "0", "extern"]
    assert sum(step.energy_uj or 0 for step in record.steps) <= (record.energy_uj or 0)
    assert record.steps[1].why == ""


def test_cpu_time_of_a_job_whose_cgroup_went_before_an_interval_ended_is_what_it_had_counted(node: FakeNode) -> None:
    """Beside another one whose cgroup has gone: whose the time is that the cgroup above both counts is not known."""
    job, other = Work(node, 1, "1"), Work(node, 2, "2")
    job.work(batch=2)
    other.work(batch=1)
    for one in (job, other):
        one.end("batch", "extern")
        node.end_cgroup(one.job)
    for one in (job, other):
        node.end(one.job)
    assert [node.record(number)["usage"]["cpu_ns"] for number in (1, 2)] == [2e9, 1e9]


def test_without_inotify_steps_are_looked_for_each_second(tmp_path: Path) -> None:
    """As where others have all that the kernel gives a user; here it gives none in a user namespace."""
    none = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"'
    within = ["unshare", "-r", "sh", "-c", none, "sh"]
    refused = subprocess.run([*within, "true"], capture_output=True, text=True)
    if refused.returncode:
        pytest.skip(f"no user namespace: {refused.stderr.strip()}")
    node = FakeNode(tmp_path, ALL_BY_WORK)
    node.start(within=within)
    try:
        job = Work(node)
        job.make("0")
        seen = node.spool / "sessions/1.0/uses.jsonl"
        until(lambda: seen.exists() and '"0"' in seen.read_text(), "the step is seen")
        with job.unwatched():  # else it may look between two of the files
            job.work(s0=3)
        steps = job.over()
    finally:
        node.stop()
    assert energies(steps) == {0: 3, BATCH: 0, EXTERN: 0}
    said = (node.spool / "agent.log").read_text()
    assert said.count("steps are looked for each second") == said.count("fs.inotify.max_user_instances") == 1, said
