"""How a job's end meets the counters of its node: what others wait for, and what was never the job's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import MAX_FAILURES, Edge, Session
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources.node import Node
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.containment import plan
from perun_hpc.process.clock import MACHINE
from perun_hpc.process.server import Peer
from perun_hpc.wire.message import Message

S = 1_000_000_000


class Asked(Exception):
    """A reading was asked for, with what became of parts of meters that give none."""


class AskedMeter:
    def end_interval(self, settle: bool, whole: object) -> None:
        raise Asked(settle)


@pytest.mark.parametrize("live", [1, 2])
def test_a_part_of_a_meter_that_fails_is_given_up_only_where_no_other_job_waits_for_it(live: int) -> None:
    register = Register("n1", 4)
    for number in range(1, live + 1):
        key = SessionKey(number, 0)
        register.live[key] = Session(key, {}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    rest: list[Any] = [None] * 9
    jobs = Jobs(rest[0], "boot", rest[1], register, AskedMeter(), *rest[2:8], [], MACHINE)  # type: ignore[arg-type]
    message = Message("job-end", {"job_id": "1", "restart_count": "0", "hook_mono_ns": "9"})
    with pytest.raises(Asked) as asked:
        jobs.verbs["job-end"](message, Peer(1, 0, 0), ())
    assert asked.value.args == (live == 1,)


class BrokenMeter:
    """No interval ends; what it holds of a session is the node's."""

    def __init__(self, node: Node) -> None:
        self.forget = node.forget

    def end_interval(self, settle: bool, whole: object) -> None:
        raise ValueError


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_session_that_is_set_aside_without_an_end_keeps_no_file_open(tmp_path: Path) -> None:
    step = tmp_path / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_1/step_0/user"
    step.mkdir(parents=True)
    (step / "cgroup.events").write_text("frozen 0\n")
    (step.parent.parent / "cpu.stat").write_text("usage_usec 5\n")
    node, register, paths = Node(tmp_path, "n1", MACHINE, []), Register("n1", 4), AgentPaths(*[tmp_path] * 3)
    session = Session(SessionKey(1, 0), {}, {}, "", "boot", Edge(0, 0, 0, "hook"), failures=MAX_FAILURES)
    register.live[session.key] = session
    before = open_files()
    assert node.use(session).cpu_ns == 5000
    assert open_files() > before
    meter: Any = BrokenMeter(node)
    nobody: list[Any] = [None] * 4
    Jobs(
        paths, "boot", node, register, meter, Visibility(paths, register), *nobody, save=lambda: None, later=[],
        clock=MACHINE,
    ).set_aside()  # fmt: skip
    assert register.ended == [session]
    assert open_files() == before


def counter(backend: str, domain: str, component: str) -> Sensor:
    return Sensor(
        id=f"{backend}:{domain}:energy", host="n1", backend=backend, device=domain, domain=domain, component=component,
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", provenance=Provenance.MEASURED,
    )  # fmt: skip


@pytest.mark.parametrize(("held", "partial"), [((), False), (("gpu-A",), True)])
def test_a_gpu_that_stands_still_is_news_for_the_job_that_held_it_alone(held: tuple[str, ...], partial: bool) -> None:
    sensors = (counter("powercap", "package-0", "cpu"), counter("nvml", "gpu-A", "gpu"))
    domains = {one.name: one for one in plan(sensors).domains}
    session = Session(SessionKey(1, 0), {}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    first = {sensors[0].id: Reading(0, 0), sensors[1].id: Reading(7, 0)}
    session.edges_start = booking.take_edge(first, sensors)
    last = {sensors[0].id: Reading(900 * S, 60 * S), sensors[1].id: Reading(7, 60 * S)}
    booking.note_what_lacks(session, last, sensors, domains, held)
    assert bool(session.why) is partial
    assert ("gpu-A" in session.domains) is partial
