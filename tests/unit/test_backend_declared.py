"""Sensors that a site declares by driver and label, and powercap zones that show a power."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.backend import file, hwmon, powercap
from perun_hpc.backend.base import Discovery
from perun_hpc.backend.file import Declaration
from perun_hpc.config.policy import parse
from perun_hpc.data_model.sensor import Provenance
from perun_hpc.energy.containment import plan, scope_sentence
from perun_hpc.errors import ConfigError

W = 10**6


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / "sys/class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def declared(root: Path, **more: str) -> Discovery:
    return file.discover(root, [Declaration(**{"name": "x", "kind": "power", "component": "node", **more})])


def ticks(found: Discovery) -> list[int | None]:
    return [reading.ticks for reader in found.readers for reading in reader.read()]


SCMI = {
    "hwmon/hwmon4/name": "scmi_sensors", "hwmon/hwmon4/energy2_input": 7_000_000, "hwmon/hwmon4/energy2_label": "SOC_E",
    "hwmon/hwmon4/power1_input": 30 * W, "hwmon/hwmon4/power1_label": "SOC",
}  # fmt: skip


def test_a_driver_and_a_label_find_the_input_whatever_number_hwmon_gave_it(tmp_path):
    for number in (4, 9):
        root = tree(tmp_path / str(number), {name.replace("hwmon4", f"hwmon{number}"): v for name, v in SCMI.items()})
        assert ticks(declared(root, driver="scmi_sensors", label="SOC")) == [30 * W]
        counted = declared(root, driver="scmi_sensors", label="SOC_E", kind="counter")
        (sensor,) = counted.sensors
        assert (ticks(counted), sensor.kind, sensor.unit) == ([7_000_000], "counter", "uJ")


def test_what_the_site_gives_a_place_is_no_longer_one_of_which_nobody_knows(tmp_path):
    root = tree(tmp_path, SCMI)
    chosen = plan([*hwmon.discover(root).sensors, *declared(root, driver="scmi_sensors", label="SOC").sensors])
    assert [domain.sensor.id for domain in chosen.meters] == ["file:x:power"]
    assert {sensor.id: why for sensor, why in chosen.left_out} == {
        "hwmon:scmi-sensors-soc:power": "the site calls it file:x:power",
        "hwmon:scmi-sensors-soc-e:energy": "its place among the others is unknown",
    }


def test_two_meters_without_a_label_are_told_apart_by_their_devices(tmp_path):
    for number, watts in ((0, 262), (1, 131)):
        tree(tmp_path, {f"hwmon/hwmon{number}/name": "power_meter", f"hwmon/hwmon{number}/power1_average": watts * W})
        device = tmp_path / f"sys/devices/ACPI000D:0{number}"
        device.mkdir(parents=True)
        (tmp_path / f"sys/class/hwmon/hwmon{number}/device").symlink_to(device)
    assert ticks(declared(tmp_path, driver="power_meter", device="ACPI000D:01")) == [131 * W]
    (missing,) = declared(tmp_path, driver="power_meter").missing
    assert missing.why == (
        "2 inputs of power are called 'power1' by the driver 'power_meter': "
        "hwmon0/power1_average of ACPI000D:00, hwmon1/power1_average of ACPI000D:01"
    )
    (missing,) = declared(tmp_path, driver="power_meter", label="System").missing
    assert missing.why == "0 inputs of power are called 'System' by the driver 'power_meter'"


def test_a_rail_of_volts_and_amperes_can_be_declared(tmp_path):
    files = {"name": "ina3221", "in2_label": "VDD_X", "in2_input": 5000, "curr2_input": 300}
    root = tree(tmp_path, {f"hwmon/hwmon1/{name}": content for name, content in files.items()})
    assert ticks(declared(root, driver="ina3221", label="VDD_X")) == [1_500_000]


@pytest.mark.parametrize(("line", "why"), [
    ("driver: d, path: /p, unit: W", "exactly one of path, driver"),
    ("label: l", "exactly one of path, driver"),
    ("driver: d, unit: uW", "a driver's sensor has no unit"),
    ("path: /p", "'unit' is missing"),
    ("path: /p, unit: W, label: l", "a path has no label"),
])  # fmt: skip
def test_a_policy_says_path_and_unit_or_driver_and_label(line, why):
    with pytest.raises(ConfigError, match=why):
        parse(f"sensors: {{files: [{{name: a, kind: power, component: node, {line}}}]}}".encode(), "test")
    parse(b"sensors: {files: [{name: a, kind: power, component: node, driver: d, label: l, device: '1-0040'}]}", "test")


ZONES = {
    "powercap/arm-scmi:0/name": "SOC", "powercap/arm-scmi:0/power_uw": 41 * W,
    "powercap/arm-scmi:0/constraint_0_max_power_uw": 900 * W,
    "powercap/arm-scmi:0:0/name": "SOC", "powercap/arm-scmi:0:0/power_uw": 11 * W,
    "powercap/dtpm:0/name": "package", "powercap/dtpm:0/power_uw": 5 * W,
}  # fmt: skip


def test_zones_that_show_a_power_are_read_named_and_added_to_nothing(tmp_path):
    found = powercap.discover(tree(tmp_path, ZONES))
    assert ticks(found) == [41 * W, 11 * W, 5 * W] and not found.missing
    assert [sensor.id for sensor in found.sensors] == [
        "powercap:arm-scmi-0-soc:power", "powercap:arm-scmi-0-0-soc:power", "powercap:dtpm-0-package:power",
    ]  # fmt: skip
    assert [sensor.provenance for sensor in found.sensors] == [Provenance.MEASURED] * 2 + [Provenance.MODELLED]
    assert found.sensors[0].max_uw == 2700 * W
    assert scope_sentence(plan(found.sensors)).endswith(
        "nobody knows where they belong: arm-scmi SOC, dtpm package, computed by the kernel's energy model."
    )
    assert ticks(declared(tmp_path, driver="dtpm", label="package", component="cpu")) == [5 * W]


def test_a_zone_that_does_not_monitor_its_power_is_named(tmp_path):
    tree(tmp_path, {**ZONES, "powercap/arm-scmi:0/power_uw": ""})
    found = powercap.discover(tmp_path)
    assert ticks(found) == [11 * W, 5 * W]
    assert [(one.what, one.why) for one in found.missing] == [
        ("arm-scmi:0 (SOC)", "does not measure: the file holds no number"),
    ]  # fmt: skip


def test_a_zone_that_counts_energy_is_read_once(tmp_path):
    rapl = {"name": "package-0", "energy_uj": 5, "power_uw": 9, "max_energy_range_uj": 262143328850}
    tree(tmp_path, {f"powercap/intel-rapl:0/{name}": content for name, content in rapl.items()})
    assert [sensor.id for sensor in powercap.discover(tmp_path).sensors] == ["powercap:package-0:energy"]
