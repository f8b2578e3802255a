"""What the policy says of the node's sensors, against sensors found in a tree of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.node import Node
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.process.clock import MACHINE


@pytest.fixture
def node(tmp_path: Path) -> Node:
    zones = tmp_path / "sys/class/powercap"
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "dram"), ("intel-rapl:1", "psys")):
        (zones / zone).mkdir(parents=True)
        (zones / zone / "name").write_text(name)
        (zones / zone / "energy_uj").write_text("5000")
        (zones / zone / "max_energy_range_uj").write_text("262143328850")
    (tmp_path / "psu").write_text("energy=17\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 1 0 0 0 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    return Node.open(tmp_path, ("powercap", "procstat"), MACHINE)


def choice(text: str) -> Choice:
    return Choice.of(resolve(compile_policy(parse(text.encode(), "test")), JobFacts(node="n1")))


def ids(node: Node) -> set[str]:
    return {sensor.id for sensor in node.sensors if sensor.backend != "procstat"}


def test_without_a_word_everything_counts(node: Node) -> None:
    node.choose(choice("{}"))
    assert ids(node) == {f"powercap:{name}:energy" for name in ("package-0", "dram-0", "psys")}


def test_included_and_excluded_sensors(node: Node) -> None:
    node.choose(choice("sensors: {exclude: ['powercap:psys']}"))
    assert ids(node) == {"powercap:package-0:energy", "powercap:dram-0:energy"}
    node.choose(choice("sensors: {include: ['powercap:(package|psys)'], exclude: ['.*psys']}"))
    assert ids(node) == {"powercap:package-0:energy"}
    node.choose(choice("{}"))
    assert len(ids(node)) == 3


def test_only_the_named_backends_count_and_the_attributions_own(node: Node) -> None:
    before = [sensor.id for sensor in node.sensors if sensor.backend == "procstat"]
    node.choose(choice("sensors: {backends: [hwmon]}"))
    assert [sensor.id for sensor in node.sensors] == before != []
    assert node.read().busy_ns


def test_a_declared_file_is_a_sensor_and_one_that_is_not_there_is_named(node: Node) -> None:
    told = "{name: psu, path: /psu, pattern: 'energy=(\\d+)', kind: counter, unit: J, component: node}"
    gone = "{name: rack, path: /gone, kind: power, unit: W, component: other}"
    node.choose(choice(f"sensors: {{files: [{told}, {gone}]}}"))
    assert node.read().readings["file:psu:energy"].ticks == 17
    assert [one.what for one in node.not_there] == ["rack"]
    node.choose(choice("{}"))
    assert "file:psu:energy" not in node.read().readings


def test_the_sites_ceiling_holds_for_packages_only(node: Node) -> None:
    before = {sensor.id: sensor.max_uw for sensor in node.sensors}
    node.choose(choice("energy: {package_max: 280 W}"))
    after = {sensor.id: sensor.max_uw for sensor in node.sensors}
    assert after.pop("powercap:package-0:energy") == 280_000_000 != before.pop("powercap:package-0:energy")
    assert after == before


def one_of(domain: str, component: str) -> Sensor:
    return Sensor(
        id=f"hwmon:{domain}:power", host="n", backend="hwmon", device="x", domain=domain, component=component,
        kind=Kind.GAUGE, quantity=Quantity.POWER, unit="uW", max_uw=7,
    )  # fmt: skip


@pytest.mark.parametrize(("field", "domains"), [
    ("package_max", [("package-1", "cpu"), ("grace-0", "cpu"), ("cray-cpu0", "cpu")]),
    ("dram_max", [("dram-0", "dram"), ("cray-memory", "dram")]),
    ("gpu_max", [("gpu-GPU-1", "gpu")]),
    ("module_max", [("module-0", "node")]),
    ("node_max", [("node", "node"), ("psys", "node"), ("psys-1", "node")]),
])  # fmt: skip
def test_the_site_can_raise_every_ceiling(field: str, domains: list[tuple[str, str]]) -> None:
    everything = [("package-1", "cpu"), ("core-0", "cpu"), ("dram-0", "dram"), ("gpu-GPU-1", "gpu"), ("node", "node"),
                  ("module-0", "node"), ("ina226", "other"), *domains]  # fmt: skip
    sensors = [one_of(domain, component) for domain, component in dict.fromkeys(everything)]
    raised = {sensor.domain for sensor in choice(f"energy: {{{field}: 12 kW}}").sensors(sensors) if sensor.max_uw != 7}
    assert raised >= {domain for domain, _ in domains}
    for sensor in choice(f"energy: {{{field}: 12 kW}}").sensors(sensors):
        assert sensor.max_uw in (7, 12_000_000_000)
        assert (sensor.max_uw == 7) or sensor.component == domains[0][1]


def test_a_ceiling_that_the_site_raises_counts_from_the_next_reading_on(tmp_path: Path) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("power_meter")
    (chip / "power1_average").write_text("61000000000")
    node = Node.open(tmp_path, ("hwmon",), MACHINE)
    counter = node.read().readings["hwmon:node:energy"]
    assert counter.ticks is None
    assert counter.error is not None
    assert counter.error.startswith("61000 W, more than the 50000 W that it can take")
    node.choose(choice("energy: {node_max: 70 kW}"))
    assert node.read().readings["hwmon:node:energy"].ticks is not None
    node.close()
