"""Who is alone on a node, and what a job sees whose neighbour comes after it: nothing fine from then on (PLATYPUS)."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node, Snapshot
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.backend.cgroup import find_parent
from perun_hpc.backend.procstat import ProcStat
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import MACHINE
from perun_hpc.store.node_store import NodeStore

S = 1_000_000_000
FINE_NS, COARSE_NS = S // 5, 10 * S
SETTLED = 12
"""Rows until a trace has compared the clocks again."""
EVERYTHING = list(range(4))
"""The cpuset of a job that Slurm does not confine, on a node of four CPUs."""


def session(job_id: int, cpus: list[int] | None = None, **job: str) -> Session:
    found = Session(SessionKey(job_id, 0), {"uid": "1", **job}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    found.cpus = cpus or []
    return found


@pytest.mark.parametrize(
    ("own", "others", "alone"),
    [
        (session(1, cpus_on_node="4"), [], True),
        (session(1, cpus_per_node="4(x2)"), [], True),
        (session(1, exclusive="1"), [], True),
        (session(1, EVERYTHING, cpus_on_node="2"), [], False),
        (session(1, EVERYTHING), [], False),
        (session(1, EVERYTHING, cpus_on_node="nonsense"), [], False),
        (session(1), [], False),
        (session(1, cpus_on_node="4"), [session(2, cpus_on_node="4")], False),
        (session(1, exclusive="1"), [session(2)], False),
        (session(1, exclusive="user", cpus_on_node="2"), [], False),
    ],
)
def test_alone_is_who_has_all_cpus_by_slurms_count_and_nobody_beside(
    own: Session, others: list[Session], alone: bool
) -> None:
    register = Register("n1", cpus=4)
    register.live = {one.key: one for one in (own, *others)}
    assert register.alone(own) is alone


def test_a_neighbour_that_is_not_measured_is_one() -> None:
    own, other = session(1, exclusive="1"), session(2)
    other.monitored = False
    register = Register("n1", cpus=4)
    register.live = {one.key: one for one in (own, other)}
    assert not register.alone(own)


@pytest.mark.parametrize(("start_s", "seen_s"), [(15, [15, 30, 40]), (10.5, [10.5, 20, 30, 40]), (28, [28, 40])])
def test_on_a_shared_node_the_first_moment_after_a_start_is_no_finer_than_the_others(
    tmp_path: Path, start_s: float, seen_s: list[float]
) -> None:
    register = Register("n1", cpus=4)
    visibility = Visibility(AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path), register)
    own, other = session(1), session(2)
    own.start = Edge(0, int(start_s * S), 0, "hook")
    register.live = {one.key: one for one in (own, other)}
    seen = [visibility.shown(own)[0]]
    for moment_s in (20, 30, 40):
        if moment_s > start_s:
            visibility.show_all(Snapshot(moment_s * S, moment_s * S, {}, {}))
            seen.append(visibility.shown(own)[0])
    assert sorted(set(seen)) == [int(one * S) for one in seen_s]
    assert min(after - before for before, after in zip(sorted(set(seen)), sorted(set(seen))[1:], strict=False)) >= 9 * S


def test_beside_a_stricter_job_nobody_sees_more_finely_than_it_allows(tmp_path: Path) -> None:
    """Also for as long as its work is in what is shown next."""
    register = Register("n1", cpus=4)
    visibility = Visibility(AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path), register)
    own, strict = session(1), session(2)
    strict.settings = {"privacy": {"shared_resolution_ns": 60 * S}}
    seen = []
    for second in range(10, 240, 10):
        register.live = {one.key: one for one in ((own, strict) if 80 < second <= 130 else (own,))}
        visibility.moments.heed(register.live.values())
        visibility.moments.take(second * S, 10 * S)
        visibility.show_all(Snapshot(second * S, second * S, {}, {}))
        seen.append(visibility.shown(own)[0] // S)
    assert sorted(set(seen)) == [*range(10, 90, 10), *range(180, 240, 10)]


SLURM = {
    "version 1": "freezer/slurm/uid_1000/{}/step_0",
    "version 2": "system.slice/slurmstepd.scope/{}/step_0/user/task_0",
}


@pytest.mark.parametrize("layout", SLURM.values(), ids=SLURM)
@pytest.mark.parametrize(
    ("jobs", "strangers"),
    [
        ({"job_1": "7"}, False),
        ({"job_1": "7", "job_2": ""}, False),
        ({"job_1": "7", "job_2": "8"}, True),
        ({"job_1": "7", "s1ABC": "8"}, True),
        ({"sXYZ": "7", "system": "8"}, False),
        ({"job_2": "8"}, True),
    ],
)
def test_a_job_that_no_hook_told_of_is_seen_by_its_processes(
    tmp_path: Path, layout: str, jobs: dict[str, str], strangers: bool
) -> None:
    for name, pids in jobs.items():
        directory = tmp_path / "sys/fs/cgroup" / layout.format(name)
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").write_text(pids)
    node = Node(tmp_path, "n1", MACHINE, readers=[])
    node.parent = find_parent(tmp_path, "n1")
    own = session(1, exclusive="1", sluid="sXYZ")
    register = Register("n1", cpus=4)
    register.live = {own.key: own}
    register.strangers = node.strangers(register.live.values())
    assert register.strangers is strangers
    assert register.alone(own) is not strangers
    node.close()


@pytest.fixture
def traces(tmp_path: Path) -> tuple[Traces, Register, Meter, Session]:
    """A trace of a job that has a node of one CPU for itself, six seconds after its start."""
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    node = Node(tmp_path, "n1", MACHINE, readers=[ProcStat(tmp_path)])
    node.follow_gauges()
    register = Register("n1", 1)
    policy = PolicyKeeper(tmp_path / "policy.yaml", MACHINE, "n1", (tmp_path / "policy.json",))
    visibility = Visibility(paths, register)
    meter = Meter(node, partial(machine.topology, tmp_path), register, policy, NodeLedger(paths), visibility, MACHINE)
    found = Traces(paths, node, register, visibility, MACHINE)
    own = session(1, cpus_on_node="1")
    own.start = Edge(time.time_ns() - 6 * S, time.monotonic_ns() - 6 * S, 0, "hook")
    own.settings = dict(policy.settings({}, "n1", "").to_json())
    own.settings["sampling"] = {**own.settings["sampling"], "period_ns": FINE_NS}
    own.settings["store"] = {**own.settings["store"], "trace": "all", "trace_min_duration_ns": 0}
    register.live[own.key] = own
    paths.session(own.key.name).mkdir(parents=True)
    NodeStore.recover(tmp_path)  # its modules are here when the trace compares the two clocks
    found.begin(own, time.monotonic_ns())
    rows(found, meter, SETTLED)
    return found, register, meter, own


def to_wall() -> int:
    return time.time_ns() - time.monotonic_ns()


def apart(times: list[int]) -> set[int]:
    """How far moments are apart; the clocks are compared once in a while, and moved by less than a millisecond."""
    return {round((after - before) / 1e6) * 1_000_000 for before, after in zip(times, times[1:], strict=False)}


def rows(traces: Traces, meter: Meter, number: int) -> list[int]:
    """Let so many rows be due one after the other; when each was (monotonic)."""
    times = []
    for _ in range(number):
        times.append(traces.due_ns)
        now_ns = traces.due_ns + S // 1000
        traces.sample(now_ns, now_ns + to_wall(), None, meter)
    return times


def test_the_trace_of_a_job_gets_coarse_as_its_neighbour_comes(traces: Any) -> None:
    kept, register, meter, own = traces
    fine = rows(kept, meter, 30)
    assert apart(fine) == {FINE_NS}
    other = session(2)
    register.live[other.key] = other
    kept.begin(own, fine[-1])
    rows(kept, meter, 1)  # what was due stays undone, or is the row of a common moment
    coarse = rows(kept, meter, 5)
    assert apart(coarse) == {COARSE_NS}
    for due_ns in coarse:
        assert (due_ns + to_wall() + S // 2) % COARSE_NS < S, "on the node's own moments"
    del register.live[other.key]
    rows(kept, meter, 1)
    again = rows(kept, meter, 10)
    assert apart(again) == {FINE_NS}
    assert apart([coarse[-1], again[0]]) == {COARSE_NS + FINE_NS}, "fine again from a common moment on"
    own.end = Edge(own.start.real_ns + 100 * S, own.start.mono_ns + 100 * S, 0, "hook")
    kept.seal(own)
    assert own.trace["stored"] and own.trace["period_ns"] == FINE_NS
    assert own.trace["rows"] >= SETTLED - 1 + 30 + 5 + 1 + 10, "what was written while alone stays"


def test_a_stranger_makes_it_coarse_too(traces: Any) -> None:
    kept, register, meter, _ = traces
    rows(kept, meter, 3)
    register.strangers = True
    rows(kept, meter, 1)
    coarse = rows(kept, meter, 3)
    assert apart(coarse) == {COARSE_NS}


def test_an_agent_that_takes_a_fine_trace_over_beside_a_neighbour_goes_on_coarsely(traces: Any, tmp_path: Path) -> None:
    kept, register, meter, own = traces
    last = rows(kept, meter, 12)[-1]
    kept.pause()
    other = session(2)
    register.live[other.key] = other
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool", tmp_path)
    (tmp_path / "sys").mkdir()
    node = Node(tmp_path, "n1", MACHINE, readers=[ProcStat(tmp_path)])
    node.follow_gauges()
    after = Traces(paths, node, register, Visibility(paths, register), MACHINE)
    snapshot = node.read(fresh=True)
    after.resume(own, replace(snapshot, mono_ns=last, real_ns=last + to_wall()))
    rows(after, meter, 1)
    coarse = rows(after, meter, 3)
    assert apart(coarse) == {COARSE_NS}
    own.end = Edge(own.start.real_ns + 100 * S, own.start.mono_ns + 100 * S, 0, "hook")
    after.seal(own)
    assert own.trace["rows"] >= SETTLED - 1 + 12 + 3 and own.trace["period_ns"] == FINE_NS
