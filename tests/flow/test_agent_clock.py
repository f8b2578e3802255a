"""The agent's parts on a clock that the test turns: what takes a job half a minute takes none here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.booking import take_edge
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.boundary import Cost, boundary_record
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.sources.workers import Worker
from perun_hpc.backend.gpus import Gpu
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.process.clock import Clock

S = 1_000_000_000
BOOTED_NS = 1_800_000_000 * S
"""Seconds since the epoch at the boot."""
POWER_MW = 300_000


class Turned:
    """Both times, from the boot on."""

    def __init__(self) -> None:
        self.ns = 0
        self.clock = Clock(lambda: self.ns, lambda: BOOTED_NS + self.ns)


class Card(Worker):
    """A GPU as its child says: it draws 300 W, and its counter stands still from some moment on."""

    def __init__(self, root: Path, clock: Clock, frozen_ns: int) -> None:
        super().__init__("nvml", root, clock)
        self.gpus = (Gpu("GPU-a", "0000:01:00.0", 0, "card"),)
        self._frozen_ns = frozen_ns
        self._energy = self._one("energy", Quantity.ENERGY, Kind.COUNTER, "mJ")
        self._power = self._one("power-average", Quantity.POWER, Kind.GAUGE, "mW")

    @staticmethod
    def _one(name: str, quantity: Quantity, kind: Kind, unit: str) -> Sensor:
        whose: dict[str, Any] = {"host": "n1", "backend": "nvml", "device": "a", "domain": "gpu-GPU-a"}
        return Sensor(
            id=f"nvml:gpu-GPU-a:{name}",
            **whose,
            component="gpu",
            kind=kind,
            quantity=quantity,
            unit=unit,
            scale_num=1000,
            max_uw=1_000_000_000,
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        return self._energy, self._power

    def read(self) -> tuple[Reading, ...]:
        now_ns = self.clock.mono_ns()
        return Reading(min(now_ns, self._frozen_ns) * POWER_MW // S, now_ns), Reading(POWER_MW, now_ns)


def record_of(base: Path, frozen_s: int, lasts_s: int) -> dict[str, Any]:
    """The record of a job with the GPU that lasts so long, on a node whose counter stands still from some second on."""
    (base / "proc").mkdir()
    (base / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    paths, turned = AgentPaths(base / "run", base / "spool", base), Turned()
    paths.node.mkdir(parents=True)
    node = Node(base, "n1", turned.clock, workers=[Card(base, turned.clock, frozen_s * S)])
    policy = PolicyKeeper(base / "policy.yaml", turned.clock, "n1", (base / "policy.json",))
    register = Register("n1", 1)
    visibility, topology = Visibility(paths, register), partial(machine.topology, base)
    meter = Meter(node, topology, register, policy, NodeLedger(paths), visibility, turned.clock)
    meter.account_anew()
    begun = meter.end_interval()
    key = SessionKey(1, 0)
    start = Edge(begun.real_ns, begun.mono_ns, 0, "hook")
    job = {"gpus": "0", "cpus_on_node": "1"}
    session = register.live[key] = Session(key, job, policy.settings({}, "n1", "").to_json(), "", "boot", start)
    session.edges_start = take_edge(begun.readings, meter.sensors)
    meter.checks.begin(key.owner)
    for _ in range(lasts_s):
        turned.ns += S
        if meter.is_due(turned.clock.mono_ns(), turned.clock.real_ns()):
            meter.end_interval()
        meter.poll()
    ended = meter.end_interval()
    session.edges_end = take_edge(ended.readings, meter.sensors)
    del register.live[key]
    meter.forget(session)
    session.end = Edge(ended.real_ns, ended.mono_ns, 0, "hook")
    node.close()
    return boundary_record(session, session.end, meter.sensors, "n1", 1, Cost(0, 0, 0, 0), {}, meter.static, "")


def test_a_counter_that_stands_still_is_named_in_the_record(tmp_path: Path) -> None:
    record = record_of(tmp_path, frozen_s=6, lasts_s=36)
    check = record["checks"]["gpu-GPU-a"]
    assert check["ratio"] < 0.5
    assert check["flag"]
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] == 6 * 300_000_000


@pytest.mark.parametrize(("lasts_s", "checks"), [(36, {"gpu-GPU-a": {"ratio": 1.0, "flag": ""}}), (20, {})])
def test_one_that_goes_on_passes_and_a_short_job_is_not_judged(
    tmp_path: Path, lasts_s: int, checks: dict[str, Any]
) -> None:
    record = record_of(tmp_path, frozen_s=100, lasts_s=lasts_s)
    assert record["checks"] == checks
    assert record["domains"]["gpu-GPU-a"]["energy_uj"] == lasts_s * 300_000_000
