"""A kernel file whose read never comes back: it costs itself, and the agent's start neither its other sensors nor time.

A FIFO that nobody writes to hangs whoever opens it, as a stuck driver hangs whoever reads its file.
"""

from __future__ import annotations

import os
from pathlib import Path

from perun_hpc.agent.sources import finding
from perun_hpc.agent.sources.node import Node
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
