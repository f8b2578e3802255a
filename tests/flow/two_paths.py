"""A tree of kernel files whose counters run, accounted by `perun monitor`'s parts and by the node agent's.

Both read the same files at the same moments of one clock; the agent for a job that has the node for itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from perun_hpc.backend import cray_pm, hwmon, powercap, procstat
from perun_hpc.backend.base import Discovery, Reader
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model import codec
from perun_hpc.data_model.boundary import parse_boundary
from perun_hpc.data_model.data import DataNode, MetricType
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import plan
from perun_hpc.monitoring.orders import SCHEMA, SUMMARY
from perun_hpc.monitoring.results import host_node, read_summary
from perun_hpc.monitoring.tally import Tallies
from perun_hpc.process.clock import Clock
from tests.sysfs import moves, text, write

S = 1_000_000_000
US_PER_S = 1_000_000
SECONDS = 20
SILENT = "no number"
_NOW_US = 1_620_000_000 * US_PER_S
_INPUTS = (
    "sys/class/powercap/*/energy_uj", "sys/cray/pm_counters/*energy", "sys/cray/pm_counters/*power",
    "sys/class/hwmon/*/power*_average", "sys/class/hwmon/*/power*_input", "sys/class/hwmon/*/energy*_input",
    "sys/class/hwmon/*/device/power*_average", "sys/class/hwmon/*/device/power*_input",
    "sys/class/hwmon/*/device/energy*_input",
)  # fmt: skip


def inputs(root: Path) -> list[Path]:
    """Every file below a tree's root that shows energy or power; a link that leads nowhere is none."""
    return sorted(file for pattern in _INPUTS for file in root.glob(pattern) if file.exists())


_OPEN: list[Reader] = []
"""Readers of machines, until `close_readers`: hundreds of trees would take more descriptors than a process has."""


def close_readers() -> None:
    """Close every reader that a machine has given out."""
    while _OPEN:
        _OPEN.pop().close()


class Machine:
    """A tree (its text) whose counters count and whose clock goes on when the test says so."""

    def __init__(self, tree: str, root: Path) -> None:
        self.root = write(tree, root, _NOW_US)
        self._begin_ns = self.now_ns = 1000 * S
        self._how: dict[str, str] = {}
        self._busy_cpus = 0
        self._watts = {root / path: watts for path, watts in moves(tree).items()}
        self._values: dict[Path, int] = {}
        self._stamps_us: dict[Path, int] = {}
        for path in inputs(root):
            words = [] if path.is_symlink() else path.read_text().split()
            if words and words[0].isdigit():
                self._values[path] = int(words[0])
            if len(words) == 4:
                self._stamps_us[path] = int(words[2])
        self._epoch_ns = 1000 * max(self._stamps_us.values(), default=_NOW_US)
        if not (root / "sys/devices/system/cpu").is_dir():
            for cpu in range(2):
                topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
                topology.mkdir(parents=True)
                (topology / "physical_package_id").write_text(f"{cpu}\n")
                (topology / "core_id").write_text("0\n")
        self._show()

    def real_ns(self) -> int:
        """Its clock of the day."""
        return self._epoch_ns + self.now_ns - self._begin_ns

    def work(self, cpus: int) -> None:
        """From now on so many CPUs are busy, and /proc shows it; before the first reading."""
        self._busy_cpus = cpus
        (self.root / "proc").mkdir(exist_ok=True)
        (self.root / "proc/meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
        self._show()

    def discover(self) -> list[Discovery]:
        """What the backends find that the agent reads itself, on the machine's clock."""
        found = [
            *([procstat.discover(self.root, lambda: self.now_ns)] if self._busy_cpus else []),
            powercap.discover(self.root, lambda: self.now_ns, self._pass),
            hwmon.discover(self.root, lambda: self.now_ns),
            cray_pm.discover(self.root, lambda: self.now_ns, self.real_ns),
        ]
        _OPEN.extend(reader for one in found for reader in one.readers)
        return found

    def silence(self, name: str, how: str) -> None:
        """From now on `name` tells nothing (`SILENT`), or stands `still`."""
        self._how[name] = how
        self._show()

    def pass_second(self) -> None:
        """A second later the counters have counted."""
        self._pass(1)

    def _pass(self, seconds: float) -> None:
        self.now_ns += round(seconds * S)
        for path, value in self._values.items():
            watts = self._watts.get(path, 0)
            if self._how.get(_name(path)) == "still":
                self._values[path] = 0 if path.name == "power1_average" else value
            elif path.name == "energy_uj":
                most = int((path.parent / "max_energy_range_uj").read_text())
                self._values[path] = (value + round(watts * seconds * 10**6)) % (most + 61)
            elif watts:
                self._values[path] = value + round(watts * seconds * (1 if path in self._stamps_us else 10**6))
        self._show()

    def _show(self) -> None:
        if self._busy_cpus:
            ticks = (self.now_ns - self._begin_ns) * procstat.TICKS_PER_S // S
            lines = [f"cpu{cpu} {ticks:<9} 0 0 0 0 0 0 0 0 0\n" for cpu in range(self._busy_cpus)]
            (self.root / "proc/stat").write_text("".join(lines))
        for path, value in self._values.items():
            told = str(value)
            if path in self._stamps_us:
                unit = "J" if path.name.endswith("energy") else "W"
                told = f"{value} {unit} {self._stamps_us[path] + (self.now_ns - self._begin_ns) // 1000} us"
            if self._how.get(_name(path)) == SILENT:
                told = SILENT
            path.write_text(told.ljust(40) + "\n")  # in place: the readers keep the file open


def _name(path: Path) -> str:
    if path.parent.name == "pm_counters":
        return path.name
    return path.parent.parent.name if path.parent.name == "device" else path.parent.name


@dataclass(frozen=True)
class Told:
    """What one of the two says; `domains_uj` is what each domain but the meters counted."""

    energy_uj: int | None
    whole: bool
    why: str
    includes: str
    coverage: float
    domains_uj: Mapping[str, int | None] = field(default_factory=dict)


class ByMonitor:
    """The sums of a sampling process, and what is made of them."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine, self._directory = machine, directory
        discovered = machine.discover()
        self._readers = [reader for found in discovered for reader in found.readers]
        self._missing = [codec.encode(one) for found in discovered for one in found.missing]
        self._tallies = Tallies([sensor for reader in self._readers for sensor in reader.sensors], 10 * S)
        self._edges: list[dict] = []

    def read(self, last: bool) -> None:
        """One row; the agent's way needs to know whether it is the `last`."""
        values = self._tallies.add([reading for reader in self._readers for reading in reader.read()])
        self._edges.append({"mono_ns": self._machine.now_ns, "values": values})

    def node(self) -> DataNode:
        """The host's tree of results."""
        self._directory.mkdir()
        summary = {
            "schema": SCHEMA, "host": "n1", "state": "complete", "why": "", "period_ns": S, "cpus": 2, "rows": 0,
            "edges": [self._edges[0], self._edges[-1]], "start_real_ns": self._machine.real_ns(),
            "missing": self._missing, "results": self._tallies.results(),
            "sensors": [sensor.to_json() for sensor in self._tallies.sensors],
        }  # fmt: skip
        (self._directory / SUMMARY).write_text(json.dumps(summary))
        return host_node(self._directory, read_summary(self._directory), ())

    def told(self) -> Told:
        """What it says at the end."""
        node = self.node()
        energy_j = node.value(MetricType.ENERGY)
        told = self._tallies.energy_uj()
        assert told == (None if energy_j is None else round(energy_j * 1e6))
        data = node.metadata
        pairs = zip(self._tallies.sensors, self._tallies.results(), strict=True)
        shown = {sensor.id: result.get("base") for sensor, result in pairs}
        leaves = [one for one in plan(self._tallies.sensors).counted if one.kind is not DomainKind.METER]
        domains = {leaf.name: shown[leaf.sensor.id] for leaf in leaves}
        return Told(told, data["state"] == "complete", data["why"], data["includes"], data["coverage"], domains)


class ByAgent:
    """The agent's meter with one job, and the record that is made of it."""

    def __init__(self, machine: Machine, base: Path, every_s: int = 1, beside: Sequence[Reader] = ()) -> None:
        """`beside` are readers of what no file of the tree shows."""
        self._machine, self._every_s, self._rows = machine, every_s, 0
        paths = AgentPaths(base / "run", base / "spool", machine.root)
        paths.node.mkdir(parents=True)
        clock = Clock(lambda: machine.now_ns, machine.real_ns)
        discovered = machine.discover()
        readers: list[Reader] = [*(reader for found in discovered for reader in found.readers), *beside]
        missing = tuple(one for found in discovered for one in found.missing)
        node = Node(machine.root, "n1", clock, readers=readers, not_there=missing)
        node.follow_gauges()
        topology = partial(kernel.topology, machine.root)
        self._cpus = sorted(topology(()).core_of)
        self._register = Register("n1", len(self._cpus))
        policy = PolicyKeeper(base / "policy.yaml", clock, "n1", (base / "policy.json",))
        visibility = Visibility(paths, self._register)
        self._meter = Meter(node, topology, self._register, policy, NodeLedger(paths), visibility, clock)
        self._session: Session | None = None

    def read(self, last: bool) -> None:
        """A second of the agent's loop; the first reading is the job's start, the `last` its end."""
        self._rows += 1
        if self._rows % self._every_s != 1 % self._every_s and not last:
            self._meter.poll()
            return
        snapshot = self._meter.end_interval(settle=last)
        if self._session is None:
            job = {"uid": "1000", "node": "n1", "cluster": "c", "nodelist": "n1", "num_nodes": "1", "exclusive": "1"}
            start = Edge(snapshot.real_ns, snapshot.mono_ns, 0, "hook")
            self._session = Session(SessionKey(1, 0), job, {}, "", "boot", start, cpus=self._cpus)
            self._session.edges_start = booking.take_edge(snapshot.readings, self._meter.sensors)
            self._register.live[self._session.key] = self._session
        self._last = snapshot

    def look_for_silence(self) -> tuple[str, ...]:
        """What the agent does every ten seconds."""
        return self._meter.look_for_silence(self._machine.now_ns)

    def record(self) -> dict[str, Any]:
        """The job's record so far."""
        session, meter = self._session, self._meter
        assert session is not None
        booking.note_what_lacks(session, self._last.readings, meter.sensors, meter.domains, ())
        return boundary_record(
            session, Edge(self._last.real_ns, self._last.mono_ns, 0, "hook"), meter.sensors, "n1", len(self._cpus),
            Cost(1, 1, 1, 1), booking.doubts(session, meter.domains), {}, meter.scope,
        )  # fmt: skip

    def told(self) -> Told:
        """What the job's record says."""
        session, meter = self._session, self._meter
        assert session is not None
        record = self.record()
        summed = sum_boundaries([parse_boundary(json.dumps(record).encode(), "here")])
        leaves = [name for name, domain in meter.domains.items() if domain.kind is not DomainKind.METER]
        accounts = session.domains
        domains = {
            name: accounts[name].node_uj if name in accounts and accounts[name].covered_ns else None for name in leaves
        }
        # The job has all but the GPUs, which it did not ask for: the node's own figure is what both tell.
        energy_uj, why = summed.nodes[0].node_uj, record["why"] or ""
        return Told(energy_uj, record["state"] == "closed", why, record["scope"], summed.coverage, domains)


def both(tree: str, base: Path, name: str = "", how: str = "", since_s: int = 0, every_s: int = 1) -> tuple[Told, Told]:
    """What the monitor and the agent say of twenty seconds; `name` falls silent at `since_s`.

    The agent ends an interval every `every_s`.
    """
    story = Machine(text(tree), base / "root")
    paths = ByMonitor(story, base / "monitor"), ByAgent(story, base / "agent", every_s)
    for second in range(SECONDS + 1):
        if second:
            story.pass_second()
        if name and second == since_s:
            story.silence(name, how)
        for path in paths:
            path.read(second == SECONDS)
    return paths[0].told(), paths[1].told()
