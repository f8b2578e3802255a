"""A kernel file whose read never comes back: it costs itself, and the agent's start neither its other sensors nor time.

A FIFO that nobody writes to hangs whoever opens it, as a stuck driver hangs whoever reads its file.
"""

from __future__ import annotations

import os
from pathlib import Path

from perun_hpc.agent.sources import finding
from perun_hpc.agent.sources.node import Node
from perun_hpc.backend.cray_pm import PmCounters
from perun_hpc.process.clock import MACHINE

W = 10**6
PATIENCE_NS = 3 * 10**9


def chip(root: Path, number: int, name: str, hangs: bool = False, label_hangs: bool = False) -> None:
    directory = root / f"sys/class/hwmon/hwmon{number}"
    directory.mkdir(parents=True)
    (directory / "name").write_text(f"{name}\n")
    if hangs:
        os.mkfifo(directory / "power1_input")
    else:
        (directory / "power1_input").write_text(f"{(100 + number) * W}\n")
    if label_hangs:
        os.mkfifo(directory / "power1_label")


def test_a_file_whose_read_hangs_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    chip(tmp_path, 0, "power_meter", hangs=True)
    chip(tmp_path, 1, "fam15h_power")
    found = finding.open_bounded(tmp_path, "hwmon", PATIENCE_NS, MACHINE)
    assert [sensor.domain for sensor in found.sensors] == ["package-0"]
    assert [reading.ticks for reader in found.readers for reading in reader.read()] == [101 * W]
    (missing,) = found.missing
    assert missing.what.startswith("hwmon0/power1_input")
    assert missing.why == "does not measure: a read of it did not come back"
    assert missing.component == "node"
    found.close()


def test_a_chip_that_hangs_before_its_inputs_are_known_is_named(tmp_path: Path) -> None:
    chip(tmp_path, 0, "power_meter", label_hangs=True)
    chip(tmp_path, 1, "fam15h_power")
    found = finding.open_bounded(tmp_path, "hwmon", PATIENCE_NS, MACHINE)
    assert [sensor.domain for sensor in found.sensors] == ["package-0"]
    assert [one.what for one in found.missing] == ["hwmon0"]
    found.close()


def test_where_all_hangs_the_backend_is_missing_and_is_tried_again_later(tmp_path: Path) -> None:
    for number in range(finding.TRIES + 1):
        chip(tmp_path, number, "power_meter", hangs=True)
    found = finding.open_bounded(tmp_path, "hwmon", PATIENCE_NS // 3, MACHINE)
    assert not found.readers
    assert found.missing[0].what == "hwmon"
    assert found.missing[0].why.startswith("does not measure: looking for it did not come to an end")


def test_the_node_opens_though_a_driver_hangs_and_knows_that_it_may_measure_later(tmp_path: Path) -> None:
    chip(tmp_path, 0, "power_meter", hangs=True)
    chip(tmp_path, 1, "fam15h_power")
    node = Node.open(tmp_path, ("hwmon",), MACHINE)
    assert [sensor.domain for sensor in node.sensors if sensor.backend == "hwmon"][:1] == ["package-0"]
    assert node.waits_for("hwmon")
    node.close()


def test_a_sensor_of_more_files_than_a_packet_takes_comes_whole(tmp_path: Path) -> None:
    directory = tmp_path / "sys/class/hwmon/hwmon0"
    directory.mkdir(parents=True)
    (directory / "name").write_text("altra_hwmon\n")
    for core in range(1, 11):
        (directory / f"energy{core}_label").write_text(f"Core Energy {core}\n")
        (directory / f"energy{core}_input").write_text(f"{core}\n")
    found = finding.open_bounded(tmp_path, "hwmon", PATIENCE_NS, MACHINE)
    (reader,) = found.readers
    assert reader.read()[0].ticks == sum(range(1, 11))
    found.close()


def zone(root: Path, number: int, hangs: str = "") -> None:
    for path, name in ((f"intel-rapl:{number}", f"package-{number}"), (f"intel-rapl:{number}:0", "core")):
        directory = root / "sys/class/powercap" / path
        directory.mkdir(parents=True)
        (directory / "name").write_text(f"{name}\n")
        (directory / "max_energy_range_uj").write_text("262143328850\n")
        if path == hangs:
            os.mkfifo(directory / "energy_uj")
        else:
            (directory / "energy_uj").write_text(f"{1000 + number}\n")


def test_a_zone_whose_read_hangs_is_named_and_the_other_packages_are_read(tmp_path: Path) -> None:
    zone(tmp_path, 0, hangs="intel-rapl:0")
    zone(tmp_path, 1)
    found = finding.open_bounded(tmp_path, "powercap", PATIENCE_NS, MACHINE)
    assert [sensor.domain for sensor in found.sensors] == ["package-1", "core-1"]
    (reader,) = found.readers
    assert [reading.ticks for reading in reader.read()] == [1001, 1001]
    assert {one.what: one.why for one in found.missing} == {
        "intel-rapl:0": "does not measure: a read of it did not come back",
        "intel-rapl:0:0": "it is a part of intel-rapl:0, a read of which did not come back",
    }
    found.close()


def test_a_part_whose_read_hangs_costs_its_package_nothing(tmp_path: Path) -> None:
    zone(tmp_path, 0, hangs="intel-rapl:0:0")
    node = Node.open(tmp_path, ("powercap",), MACHINE)
    assert [sensor.domain for sensor in node.sensors] == ["package-0"]
    assert node.waits_for("powercap")
    node.close()


def test_a_zone_of_power_that_hangs_is_named(tmp_path: Path) -> None:
    zone(tmp_path, 0)
    for number in (0, 1):
        directory = tmp_path / f"sys/class/powercap/arm-scmi:{number}"
        directory.mkdir()
        (directory / "name").write_text(f"domain {number}\n")
    os.mkfifo(tmp_path / "sys/class/powercap/arm-scmi:0/power_uw")
    (tmp_path / "sys/class/powercap/arm-scmi:1/power_uw").write_text("7000000\n")
    found = finding.open_bounded(tmp_path, "powercap", PATIENCE_NS, MACHINE)
    assert [sensor.domain for sensor in found.sensors] == ["package-0", "core-0", "arm-scmi-1-domain-1"]
    assert [one.what for one in found.missing] == ["arm-scmi:0"]
    found.close()


def pm_counters(root: Path, hangs: str = "") -> None:
    directory = root / "sys/cray/pm_counters"
    directory.mkdir(parents=True)
    (directory / "freshness").write_text("1\n")
    for name in ("energy", "cpu_energy", "accel0_energy", "power"):
        if name == hangs:
            os.mkfifo(directory / name)
        else:
            (directory / name).write_text(f"70 {'W' if name == 'power' else 'J'} 1700000000000000 us\n")


def test_a_file_of_crays_that_hangs_is_named_and_the_others_are_read_as_one_renewal(tmp_path: Path) -> None:
    pm_counters(tmp_path, hangs="accel0_energy")
    node = Node.open(tmp_path, ("cray_pm",), MACHINE)
    (reader,) = node.readers
    assert [sensor.domain for sensor in reader.sensors] == ["cray-cpu", "node", "node"]
    assert [reading.ticks for reading in reader.read()] == [70, 70, 70]
    assert [(one.what, one.component) for one in node.missing] == [("pm_counters/accel0_energy", "gpu")]
    assert node.waits_for("cray_pm")
    (tmp_path / "sys/cray/pm_counters/accel0_energy").unlink()
    (tmp_path / "sys/cray/pm_counters/accel0_energy").write_text("80 J 1700000000000000 us\n")
    node.renew("cray_pm", finding.open_bounded(tmp_path, "cray_pm", PATIENCE_NS, MACHINE))
    assert sorted(one.domain for one in node.sensors) == ["cray-accel0", "cray-cpu", "node", "node"]
    assert not node.missing
    node.close()


def test_freshness_that_moves_while_files_are_read_is_seen_by_whoever_was_handed_them(tmp_path: Path) -> None:
    pm_counters(tmp_path)
    found = finding.open_bounded(tmp_path, "cray_pm", PATIENCE_NS, MACHINE)
    (reader,) = found.readers
    assert isinstance(reader, PmCounters) and os.pread(reader.freshness, 8, 0) == b"1\n"
    found.close()
