"""`perun monitor` and the node's agent account the same trees of kernel files: the same total, the same words."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.data_model.data import Metric, MetricType
from perun_hpc.data_model.sensor import Kind, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.monitoring.host_energy import Figure, HostEnergy
from tests.flow.two_paths import SECONDS, SILENT, ByAgent, ByMonitor, Machine, both
from tests.sysfs import text

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


STALLS = [
    (tree, name) for tree, name in COUNTERS
    if tree != "gh200" and "accel" not in name  # a gauge may show one power for long, and a GPU be switched off
]  # fmt: skip


@pytest.mark.parametrize(("tree", "name"), STALLS)
def test_a_counter_that_moves_no_more_is_partial_from_then_on(tree: str, name: str, tmp_path: Path) -> None:
    monitor, agent = both(tree, tmp_path, name, "still", 8)
    assert (monitor.energy_uj, monitor.whole, monitor.why) == (agent.energy_uj, agent.whole, agent.why)
    whole_j, unknown_w = COUNTERS[tree, name]
    # A node's meter that counts in joules every 0.1 s or more is found out after a second or two.
    late_uj = 2 * 517 * 10**6 if name == "energy" else 100
    assert monitor.energy_uj == pytest.approx((whole_j - unknown_w * (SECONDS - 8)) * 10**6, abs=late_uj)
    assert (monitor.whole, monitor.why.count("its counter stands still")) == (False, 1)
    assert max(monitor.coverage, agent.coverage) < 1


@pytest.mark.parametrize(("cpus", "whole"), [(64, False), (8, True), (0, True)])
def test_a_counter_that_shows_less_than_busy_cpus_take_is_no_measurement(
    cpus: int, whole: bool, tmp_path: Path
) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    tree = [f"{zone}/name = package-0", f"{zone}/energy_uj = 7", f"{zone}/max_energy_range_uj = 262143328850"]
    tree += [f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id = 0" for cpu in range(64)]
    machine = Machine("\n".join([*tree, f"move {zone}/energy_uj 1"]), tmp_path / "root")
    if cpus:
        machine.work(cpus)
    ways = ByMonitor(machine, tmp_path / "monitor"), ByAgent(machine, tmp_path / "agent", 10)
    for second in range(SECONDS + 1):
        if second:
            machine.pass_second()
        for way in ways:
            way.read(second == SECONDS)
    monitor, agent = (way.told() for way in ways)
    assert (monitor.energy_uj, monitor.whole, monitor.why) == (agent.energy_uj, agent.whole, agent.why)
    assert monitor.energy_uj == (SECONDS * 10**6 if whole else None)
    assert monitor.why == ("" if whole else "package-0: its counter shows less than its CPUs take")


def test_a_short_run_on_counters_that_never_move_has_no_energy(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    tree = [f"{zone}/name = package-0", f"{zone}/energy_uj = 0", f"{zone}/max_energy_range_uj = 262143328850"]
    machine = Machine("\n".join(tree), tmp_path / "root")
    ways = ByMonitor(machine, tmp_path / "monitor"), ByAgent(machine, tmp_path / "agent")
    for row in range(2):
        for way in ways:
            way.read(row == 1)
        machine.now_ns += 200_000_000
    for told in (way.told() for way in ways):
        assert (told.energy_uj, told.whole) == (None, False)


def test_what_no_counter_told_widens_the_uncertainty(tmp_path: Path) -> None:
    def u_j(name: str) -> float:
        story = Machine(text("intel_two_sockets"), tmp_path / f"root{name}")
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


def test_a_high_ceiling_does_not_make_edges_doubtful_that_saw_little(tmp_path: Path) -> None:
    story = Machine(
        "sys/class/hwmon/hwmon1/name = power_meter\nsys/class/hwmon/hwmon1/power1_average = 400000000\n"
        "sys/class/hwmon/hwmon1/power1_average_interval = 1000\n",
        tmp_path / "root",
    )
    monitor = ByMonitor(story, tmp_path / "monitor")
    for second in range(SECONDS + 1):
        if second:
            story.pass_second()
        monitor.read(second == SECONDS)
    energy = monitor.node().metrics[MetricType.ENERGY]
    # Two edges of a second, and a quarter of the mean's lag, at 1.3 times 400 W, and 3 % of 8 kJ; the ceiling of 50 kW
    # would make it 20 kJ.
    assert energy.uncertainty == pytest.approx(((2 * (650 / 12**0.5) ** 2) + 240**2) ** 0.5, rel=0.01)


def test_a_host_whose_sensors_all_are_silent_has_no_energy_and_says_so(tmp_path: Path) -> None:
    story = Machine(text("cray_ex"), tmp_path / "root")
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


def test_a_meters_rest_is_as_doubtful_as_the_meter_and_what_it_contains(tmp_path: Path) -> None:
    """1000 W of a node, 900 W of them a package's: 5 % and 3 % of these are more than any part of the 100 W between."""
    sensor = Sensor(
        id="powercap:package-0:energy", host="h", backend="powercap", device="d", domain="package-0", component="cpu",
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", gain_error=0.03,
    )  # fmt: skip
    meter = replace(sensor, id="ipmi:node:energy", backend="ipmi", domain="node", component="node", gain_error=0.05)
    results = [{"base": uj, "covered_ns": 10**9, "peak_per_s": 0.0} for uj in (900_000, 1_000_000)]
    energy = HostEnergy([sensor, meter], results, 10**9)
    assert energy.total() == Figure(1_000_000, 50_000, Provenance.MEASURED)
    rest = energy.of("other")
    assert rest == Figure(100_000, math.ceil(math.hypot(50_000, 27_000)), Provenance.MEASURED)
