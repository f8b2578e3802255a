"""Steps by the directories that Slurm makes for them, one controller after the other under version 1."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.measure import step_meter
from perun_hpc.agent.measure.learning import Figure
from perun_hpc.agent.measure.step_meter import StepMeter
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.sources.step_watch import StepWatch
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import MACHINE
from tests.unit.test_process_watching import overflow

S = 1_000_000_000


class Steps:
    """A live job, and the directories that Slurm makes for it."""

    def __init__(self, root: Path) -> None:
        self.top = root / "sys/fs/cgroup"
        for controller in ("freezer", "cpuacct"):
            (self.top / controller / "slurm/uid_1000").mkdir(parents=True)
        self.node = Node(root, "n1", MACHINE, readers=[])
        self.register = Register("n1", 4)
        start = Edge(MACHINE.mono_ns(), MACHINE.real_ns(), 0, "hook")
        self.session = Session(SessionKey(7, 0), {"uid": "1000"}, {}, "", "boot", start)
        self.register.live[self.session.key] = self.session
        self.meter = StepMeter(self.node, self.register, StepWatch(self.node, MACHINE), MACHINE)

    def directory(self, controller: str, step: str = "") -> Path:
        return self.top / controller / "slurm/uid_1000/job_7" / (f"step_{step}" if step else "")

    def make(self, controller: str, step: str = "") -> None:
        self.directory(controller, step).mkdir()
        if controller == "cpuacct":
            (self.directory(controller, step) / "cpuacct.usage").write_text("5\n")

    def remove(self, controller: str, step: str) -> None:
        shutil.rmtree(self.directory(controller, step))


def test_a_job_without_a_cgroup_is_looked_for_when_the_kernel_tells_of_one(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    listed: list[str] = []

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.listdir", "os.scandir"):
            listed.append(str(arguments[0]))

    sys.addaudithook(note)
    steps.meter.meet(steps.session)
    for place in ("cpuacct/slurm", "cpuacct/slurm/uid_1000"):
        listed.clear()
        for _ in range(5):
            steps.meter.keep()
        assert [one for one in listed if one.endswith(place)] == []
    steps.make("freezer")
    steps.make("cpuacct")
    assert steps.meter.hear() == [steps.session]
    assert steps.session.key in steps.node.cgroups


@pytest.mark.parametrize("gone", [("freezer", "cpuacct"), ("",)])
def test_a_job_whose_places_come_after_it_is_found_within_a_second(tmp_path: Path, gone: Sequence[str]) -> None:
    steps = Steps(tmp_path)
    for one in gone:
        shutil.rmtree(steps.top / one)
    steps.meter.meet(steps.session)
    for controller in ("freezer", "cpuacct"):
        (steps.top / controller / "slurm/uid_1000").mkdir(parents=True)
        steps.make(controller)
    steps.meter.keep()
    assert steps.session.key in steps.node.cgroups


@pytest.mark.parametrize("looks", [1, 3])
def test_a_step_of_which_its_last_directory_is_still_to_come_goes_on(tmp_path: Path, looks: int) -> None:
    steps = Steps(tmp_path)
    steps.make("freezer")
    steps.meter.keep()  # all that there is of the job is its freezer
    steps.make("freezer", "batch")
    steps.make("cpuacct")
    steps.node.use(steps.session)
    for session in steps.meter.hear():
        steps.meter.look(session)
    use = steps.session.uses["batch"]
    assert use.end_mono_ns is None
    for _ in range(looks - 1):  # on a node that is very busy it takes Slurm longer than it takes to look again
        steps.meter.look(steps.session)
    steps.make("cpuacct", "batch")
    steps.meter.keep()
    if looks > 1:
        steps.meter.look(steps.session)  # as every interval's end does
    assert (use.end_mono_ns, use.cpu_ns) == (None, 5)
    steps.remove("cpuacct", "batch")
    steps.meter.hear()
    steps.meter.look(steps.session)
    assert use.end_mono_ns is not None


def test_a_step_that_is_heard_of_and_gone_before_anybody_looked_has_ended(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    steps.make("cpuacct")
    steps.meter.keep()
    steps.make("cpuacct", "0")
    steps.remove("cpuacct", "0")
    for session in steps.meter.hear():
        steps.meter.look(session)
    assert steps.session.uses["0"].end_mono_ns is not None


NO_WATCH = """
import pathlib, sys
from tests.unit.test_agent_step_meter import Steps
steps = Steps(pathlib.Path(sys.argv[1]))
steps.make("cpuacct")
steps.meter.meet(steps.session)
steps.make("cpuacct", "0")
assert steps.meter.hear() == []
assert steps.meter.want_looks
steps.meter.keep()
assert "0" in steps.session.uses
"""


def test_steps_are_looked_for_each_second_where_others_have_all_watches_of_the_user(tmp_path: Path) -> None:
    none = ["unshare", "-Ur", "sh", "-c", 'echo 0 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    if subprocess.run([*none, "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no namespace of users here")
    subprocess.run([*none, sys.executable, "-c", NO_WATCH, str(tmp_path)], check=True)


def test_steps_of_which_the_kernel_could_not_tell_are_looked_for(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    steps.make("cpuacct")
    steps.meter.keep()
    overflow(steps.directory("cpuacct"))
    shutil.rmtree(steps.directory("cpuacct"))
    for step in ("", "0"):  # in a directory that is another one
        steps.make("cpuacct", step)
    assert steps.meter.hear() == [steps.session]
    steps.meter.look(steps.session)
    assert "0" in steps.session.uses
    steps.make("cpuacct", "1")
    assert steps.meter.hear() == [steps.session]


@pytest.mark.parametrize(("exclusive", "alive_s", "doubt_j"), [
    ("1", 10, 9.0),  # it may have worked all the time
    ("1", 1, 4.0),  # the node slept for most of it, as when it learnt its static power
    ("", 1, 9.0),  # others may have worked
])  # fmt: skip
def test_learnt_static_power_is_surer_of_steps_beside_which_the_node_slept(
    exclusive: str, alive_s: int, doubt_j: float
) -> None:
    job = {"uid": "1000", "exclusive": exclusive}
    one = Session(SessionKey(7, 0), job, {}, "", "boot", Edge(0, 0, 0, "hook"))
    one.cpus = [0, 1]
    account = one.domains["package-0"] = DomainAccount("cpu", "CPU package", "simulated", "exclusive")
    account.static_uj, account.dynamic_uj, one.cpu_ns = 100_000_000, 50_000_000, 10 * S
    one.add_use(StepUse("1", 0, 0, held=1))
    one.uses["1"].read(10 * S)
    one.uses["1"].finish(alive_s * S, alive_s * S)
    one.uses["1"].settled = True
    step_meter.share_out(one, {"package-0": Figure(10_000_000, "learnt")}, 10 * S)
    moved = 1 - alive_s / 10 / 2  # static power that is too low is taken for its work, but for what it holds
    assert abs(one.uses["1"].static_uj) / 1e6 / moved == pytest.approx(doubt_j, abs=0.15)
