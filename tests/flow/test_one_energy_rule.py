"""`perun monitor` and the node's agent account the same trees of kernel files: the same total, the same words.

Both read the same files at the same moments of one clock; the agent for a job that has the node for itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.boundary import Cost, boundary_record
from perun_hpc.agent.sources import machine as kernel
from perun_hpc.agent.sources.node import Node
from perun_hpc.backend import cray_pm, hwmon, powercap
from perun_hpc.backend.base import Reader
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.boundary import parse_boundary
from perun_hpc.data_model.data import DataNode, Metric, MetricType
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy.containment import Plan, scope_sentence
from perun_hpc.monitoring.orders import SCHEMA, SUMMARY
from perun_hpc.monitoring.results import host_node, read_summary
from perun_hpc.monitoring.tally import Tallies
from perun_hpc.process.clock import Clock
from tests.sysfs import HERE, build

S = 1_000_000_000
EPOCH_NS = 1_620_000_000 * S
SECONDS = 20
WATTS = {
    "intel-rapl:0": 100, "intel-rapl:0:0": 10, "intel-rapl:1": 120, "intel-rapl:1:0": 12, "intel-rapl-mmio:0": 100,
    "energy": 600, "cpu_energy": 110, "memory_energy": 51, "accel0_energy": 180, "accel1_energy": 176,
}  # fmt: skip
TREES = sorted(path.stem for path in HERE.glob("*.txt"))
TOTAL_W = {"intel_two_sockets": 242, "cray_ex": 600, "gh200": 700, "cgroup_v1": None, "cgroup_v2": None}
SILENT = "no number"


class Machine:
    """A tree whose counters count and whose clock goes on when the test says so."""

    def __init__(self, tree: str, root: Path) -> None:
        self.root = build(tree, root)
        self.now_ns = 0
        self._how: dict[str, str] = {}
        counters = root / "sys/cray/pm_counters"
        files = [*root.glob("sys/class/powercap/*/energy_uj"), *counters.glob("*energy"), *counters.glob("*power")]
        files += root.glob("sys/class/hwmon/*/device/power1_average")
        self._values = {path: int(path.read_text().split()[0]) for path in files}
        for cpu in range(2):
            topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True, exist_ok=True)
            (topology / "physical_package_id").write_text(f"{cpu}\n")
            (topology / "core_id").write_text("0\n")
        self._show()

    def readers(self) -> list[Reader]:
        """The backends that the agent reads itself, on the machine's clock."""
        found = [
            powercap.discover(self.root, lambda: self.now_ns, lambda seconds: None),
            hwmon.discover(self.root, lambda: self.now_ns),
            cray_pm.discover(self.root, lambda: self.now_ns, lambda: EPOCH_NS + self.now_ns),
        ]
        return [reader for one in found for reader in one.readers]

    def silence(self, name: str, how: str) -> None:
        """From now on `name` tells nothing (`SILENT`), or stands `still`."""
        self._how[name] = how
        self._show()

    def pass_second(self) -> None:
        self.now_ns += S
        for path, value in self._values.items():
            watts = WATTS.get(_name(path), 0)
            if self._how.get(_name(path)) == "still":
                self._values[path] = 0 if path.name == "power1_average" else value
            elif path.name == "energy_uj":
                most = int((path.parent / "max_energy_range_uj").read_text())
                self._values[path] = (value + watts * 10**6) % (most + 61)
            else:
                self._values[path] = value + watts
        self._show()

    def _show(self) -> None:
        for path, value in self._values.items():
            stamped = f"{value} J {(EPOCH_NS + self.now_ns) // 1000} us" if path.parent.name == "pm_counters" else value
            told = SILENT if self._how.get(_name(path)) == SILENT else str(stamped)
            path.write_text(told.ljust(40) + "\n")  # in place: the readers keep the file open


def _name(path: Path) -> str:
    if path.parent.name == "pm_counters":
        return path.name
    return path.parent.parent.name if path.parent.name == "device" else path.parent.name


@dataclass(frozen=True)
class Told:
    """What one of the two says."""

    energy_uj: int | None
    whole: bool
    why: str
    includes: str
    coverage: float


class ByMonitor:
    """The sums of a sampling process, and what is made of them."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine, self._directory = machine, directory
        self._readers = machine.readers()
        self._tallies = Tallies([sensor for reader in self._readers for sensor in reader.sensors], 10 * S)
        self._edges: list[dict] = []

    def read(self, last: bool) -> None:
        values = self._tallies.add([reading for reader in self._readers for reading in reader.read()])
        self._edges.append({"mono_ns": self._machine.now_ns, "values": values})

    def node(self) -> DataNode:
        self._directory.mkdir()
        summary = {
            "schema": SCHEMA, "host": "n1", "state": "complete", "why": "", "period_ns": S, "cpus": 2, "rows": 0,
            "edges": [self._edges[0], self._edges[-1]], "missing": [], "results": self._tallies.results(),
            "sensors": [sensor.to_json() for sensor in self._tallies.sensors],
        }  # fmt: skip
        (self._directory / SUMMARY).write_text(json.dumps(summary))
        return host_node(self._directory, read_summary(self._directory), ())

    def told(self) -> Told:
        node = self.node()
        energy_j = node.value(MetricType.ENERGY)
        told = self._tallies.energy_uj()
        assert told == (None if energy_j is None else round(energy_j * 1e6))
        data = node.metadata
        return Told(told, data["state"] == "complete", data["why"], data["includes"], data["coverage"])


class ByAgent:
    """The agent's meter with one job, and the record that is made of it."""

    def __init__(self, machine: Machine, base: Path) -> None:
        self._machine = machine
        paths = AgentPaths(base / "run", base / "spool", machine.root)
        paths.node.mkdir(parents=True)
        clock = Clock(lambda: machine.now_ns, lambda: EPOCH_NS + machine.now_ns)
        node = Node(machine.root, "n1", clock, readers=machine.readers())
        node.follow_gauges()
        self._register = Register("n1", 2)
        policy = PolicyKeeper(base / "policy.yaml", clock, "n1", (base / "policy.json",))
        visibility = Visibility(paths, self._register)
        topology = partial(kernel.topology, machine.root)
        self._meter = Meter(node, topology, self._register, policy, NodeLedger(paths), visibility, clock)
        self._session: Session | None = None

    def read(self, last: bool) -> None:
        snapshot = self._meter.end_interval(settle=last)
        if self._session is None:
            job = {"uid": "1000", "node": "n1", "cluster": "c", "nodelist": "n1", "num_nodes": "1", "exclusive": "1"}
            start = Edge(snapshot.real_ns, snapshot.mono_ns, 0, "hook")
            self._session = Session(SessionKey(1, 0), job, {}, "", "boot", start, cpus=[0, 1])
            self._session.edges_start = booking.take_edge(snapshot.readings, self._meter.sensors)
            self._register.live[self._session.key] = self._session
        self._last = snapshot

    def told(self) -> Told:
        session, meter = self._session, self._meter
        assert session is not None
        booking.note_what_lacks(session, self._last.readings, meter.sensors, meter.domains, ())
        record = boundary_record(
            session, Edge(self._last.real_ns, self._last.mono_ns, 0, "hook"), meter.sensors, "n1", 2, Cost(1, 1, 1, 1),
            booking.standard_uj(session, meter.domains), {}, scope_sentence(Plan(tuple(meter.domains.values()), ())),
        )  # fmt: skip
        summed = sum_boundaries([parse_boundary(json.dumps(record).encode(), "here")])
        # The job has all but the GPUs, which it did not ask for: the node's own figure is what both tell.
        return Told(
            summed.nodes[0].node_uj, record["state"] == "closed", record["why"] or "", record["scope"], summed.coverage
        )


def both(tree: str, base: Path, name: str = "", how: str = "", since_s: int = 0) -> tuple[Told, Told]:
    """What the monitor and the agent say of twenty seconds; `name` falls silent at `since_s`."""
    story = Machine(tree, base / "root")
    paths = ByMonitor(story, base / "monitor"), ByAgent(story, base / "agent")
    for second in range(SECONDS + 1):
        if second:
            story.pass_second()
        if name and second == since_s:
            story.silence(name, how)
        for path in paths:
            path.read(second == SECONDS)
    return paths[0].told(), paths[1].told()


@pytest.mark.parametrize("tree", TREES)
def test_every_tree_has_the_same_total_and_the_same_words(tree: str, tmp_path: Path) -> None:
    monitor, agent = both(tree, tmp_path)
    watts = TOTAL_W[tree]
    assert monitor.energy_uj == agent.energy_uj
    assert monitor.energy_uj == (None if watts is None else pytest.approx(watts * SECONDS * 10**6, abs=100))
    assert (monitor.whole, monitor.why, monitor.includes) == (agent.whole, agent.why, agent.includes)
    assert (monitor.whole, monitor.why) == (True, "")
    assert monitor.coverage == agent.coverage == (watts is not None)


COUNTERS = {
    ("intel_two_sockets", "intel-rapl:1"): (4_840, 120),
    ("intel_two_sockets", "intel-rapl:0:0"): (4_840, 10),
    ("cray_ex", "energy"): (12_000, 600 - 110 - 51 - 180 - 176),
    ("cray_ex", "accel1_energy"): (12_000, 0),
    ("gh200", "hwmon1"): (14_000, 450),
    ("gh200", "hwmon2"): (14_000, 0),
}
"""Joules in all, and watts that nobody knows of without this counter: none where a meter contains it."""
SILENCES = {"no value": (SILENT, 0), "stops": (SILENT, 8), "never moves": ("still", 0)}
CASES = [
    (*counter, silence) for counter in COUNTERS for silence in SILENCES
    if (counter[0], silence) != ("gh200", "never moves")  # constant power is nothing odd in a gauge
]  # fmt: skip


@pytest.mark.parametrize(("tree", "name", "silence"), CASES)
def test_a_silent_counter_is_partial_and_never_zero(tree: str, name: str, silence: str, tmp_path: Path) -> None:
    how, since_s = SILENCES[silence]
    monitor, agent = both(tree, tmp_path, name, how, since_s)
    assert (monitor.energy_uj, monitor.whole, monitor.why) == (agent.energy_uj, agent.whole, agent.why)
    assert monitor.includes == agent.includes
    whole_j, unknown_w = COUNTERS[tree, name]
    silent_s = SECONDS - (since_s - 1 if since_s else 0)
    assert monitor.energy_uj == pytest.approx((whole_j - unknown_w * silent_s) * 10**6, abs=100)
    assert not monitor.whole
    assert "reading of" in monitor.why or "stands still" in monitor.why
    assert max(monitor.coverage, agent.coverage) < 1


def test_what_no_counter_told_widens_the_uncertainty(tmp_path: Path) -> None:
    def u_j(name: str) -> float:
        story = Machine("intel_two_sockets", tmp_path / f"root{name}")
        monitor = ByMonitor(story, tmp_path / f"monitor{name}")
        for second in range(SECONDS + 1):
            story.pass_second()
            if name and second == 8:
                story.silence(name, SILENT)
            monitor.read(second == SECONDS)
        energy = monitor.node().metrics[MetricType.ENERGY]
        assert isinstance(energy, Metric)
        assert energy.uncertainty is not None
        return energy.uncertainty

    # Anything up to the ceiling of 3 x 205 W, for 12 s.
    assert u_j("intel-rapl:1") == pytest.approx(615 * 13 / 12**0.5, rel=0.01)
    assert u_j("") < 200


def test_a_host_whose_sensors_all_are_silent_has_no_energy_and_says_so(tmp_path: Path) -> None:
    story = Machine("cray_ex", tmp_path / "root")
    monitor = ByMonitor(story, tmp_path / "monitor")
    for name in ("energy", "cpu_energy", "memory_energy", "accel0_energy", "accel1_energy"):
        story.silence(name, SILENT)
    for _ in range(3):
        story.pass_second()
        monitor.read(False)
    node = monitor.node()
    assert not {kind for kind in node.metrics if "energy" in kind or "power" in kind}
    assert node.metadata["state"] == "partial"
    assert "no end reading of node" in node.metadata["why"]
