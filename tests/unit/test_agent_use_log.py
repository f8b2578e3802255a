"""The journal of what steps used: after a kill they have what they had at the last reading that the state knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.jobs.use_log import UseLog
from perun_hpc.agent.measure import step_meter
from perun_hpc.data_model.job import SessionKey

S = 1_000_000_000


@pytest.fixture
def paths(tmp_path: Path) -> AgentPaths:
    found = AgentPaths(tmp_path / "run", tmp_path / "spool")
    found.session("7.0").mkdir(parents=True)
    return found


def session() -> Session:
    found = Session(SessionKey(7, 0), {"uid": "1000"}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    found.place = "7.0"
    return found


def work(one: Session, energy_uj: int, cpu_ns: int) -> None:
    """The job was given so much more energy, all of it for work."""
    account = one.domains.setdefault("package-0", DomainAccount("cpu", "CPU package", "simulated", "cores"))
    account.energy_uj += energy_uj
    account.dynamic_uj += energy_uj
    one.cpu_ns += cpu_ns


def run(one: Session, name: str, cpu_ns: int) -> None:
    if name not in one.uses:
        one.add_use(StepUse(name, 0, 0))
    one.uses[name].read((one.uses[name].read_ns or 0) + cpu_ns)


@pytest.mark.parametrize("name", ["1", "300"])
def test_a_step_that_ended_between_two_moments_of_a_shared_node_keeps_all_after_a_kill(
    paths: AgentPaths, name: str
) -> None:
    one, log = session(), UseLog(paths)
    run(one, name, S)
    work(one, 1_000_000, S)
    step_meter.share_out(one, {}, 10 * S)
    run(one, name, S)
    one.uses[name].finish(15 * S, 15 * S)
    step_meter.settle(one, 0, 10 * S)
    log.flush([one], 15 * S)  # the node is shared: its user may not see yet what it used since
    work(one, 1_000_000, S)
    step_meter.share_out(one, {}, 20 * S)
    log.flush([one], 20 * S)
    again = session()
    UseLog(paths).load(again, 20 * S)
    assert again.uses == one.uses
    assert sum(use.energy_uj or 0 for use in again.uses.values()) == pytest.approx(2_000_000, abs=4)


def test_what_the_state_does_not_know_of_counts_no_second_time(paths: AgentPaths) -> None:
    one, log = session(), UseLog(paths)
    run(one, "1", S)
    work(one, 1_000_000, S)
    step_meter.share_out(one, {}, 10 * S)
    log.flush([one], 10 * S)
    known = one.uses["1"].energy_uj
    run(one, "1", S)
    work(one, 1_000_000, S)
    step_meter.share_out(one, {}, 20 * S)
    assert one.uses["1"].energy_uj != known
    log.flush([one], 20 * S)
    again = session()
    UseLog(paths).load(again, 10 * S)
    assert again.uses["1"].energy_uj == known
