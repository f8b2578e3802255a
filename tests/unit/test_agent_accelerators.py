"""Accelerators that a Cray's controller or a card's meter counts: which of them a job held."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.measure.holdings import doubts, held
from perun_hpc.agent.sources.node import Node
from perun_hpc.process.clock import MACHINE
from tests.sysfs import build


def node(tree: str, root: Path) -> Node:
    return Node.open(build(tree, root), ("cray_pm", "hwmon"), MACHINE)


def parts(names: list[str], machine: Node) -> dict[str, int]:
    return {domain: hold.part for domain, hold in held({"gpus": ",".join(names)}, machine).items()}


def test_slurms_numbers_are_the_numbers_of_crays_accelerators(tmp_path):
    blade = node("cray_gh200_ex254n", tmp_path)
    assert parts(["0", "2"], blade) == {"cray-accel0": 1, "cray-accel2": 1}
    assert doubts({"gpus": "0,2"}, blade) == ""
    assert parts(["4"], blade) == {}
    assert doubts({"gpus": "4"}, blade).startswith("GPU 4 is none that can be read here")


def test_nvidias_names_are_those_of_crays_accelerators_in_the_order_of_pci_addresses(tmp_path):
    for number, (pci, minor) in enumerate([("0039:01:00.0", 3), ("0009:01:00.0", 0), ("0029:01:00.0", 2)]):
        gpu = tmp_path / "proc/driver/nvidia/gpus" / pci
        gpu.mkdir(parents=True)
        (gpu / "information").write_text(f"GPU UUID: GPU-{number}abcdefg\nDevice Minor: {minor}\n")
    last = tmp_path / "proc/driver/nvidia/gpus/0019:01:00.0"
    last.mkdir()
    (last / "information").write_text("GPU UUID: GPU-3abcdefg\nDevice Minor: 1\n")
    blade = node("cray_gh200_ex254n", tmp_path)
    assert parts(["GPU-3abcdefg"], blade) == {"cray-accel1": 1}
    assert parts(["3"], blade) == {"cray-accel3": 1}


@pytest.mark.parametrize(("names", "holds"), [
    (["0"], {"cray-accel0": 1}),
    (["0", "1"], {"cray-accel0": 2}),
    (["1", "2", "7"], {f"cray-accel{n}": 1 for n in (0, 1, 3)}),
])  # fmt: skip
def test_two_of_slurms_gpus_are_one_of_crays_accelerators(tmp_path, names, holds):
    for number, bus in enumerate(("c1", "c6", "c9", "ce", "d1", "d6", "d9", "de")):
        pci = f"0000:{bus}:00.0"
        (tmp_path / "sys/bus/pci/devices" / pci / f"drm/renderD{128 + number}").mkdir(parents=True)
        (tmp_path / "sys/bus/pci/drivers/amdgpu" / pci).mkdir(parents=True)
    assert parts(names, node("cray_ex235a_frontier", tmp_path)) == holds


def test_gpus_that_do_not_divide_among_the_accelerators_are_nobodys_and_named(tmp_path):
    for bus in ("c1", "c6", "c9"):
        (tmp_path / f"sys/bus/pci/drivers/amdgpu/0000:{bus}:00.0").mkdir(parents=True)
    blade = node("cray_ex235a_frontier", tmp_path)
    assert parts(["0"], blade) == {}
    assert doubts({"gpus": "0"}, blade).startswith("GPU 0 is none that can be read here")


def test_a_jetsons_gpu_rail_is_its_only_gpu(tmp_path):
    assert parts(["0"], node("hwmon_jetson_ina3221", tmp_path)) == {"gpu-hwmon1": 1}


def intel(root: Path, cards: dict[str, tuple[int, str, str]]) -> Node:
    """A node with Intel GPUs: PCI address -> render node, driver, label of its only energy (empty: none)."""
    for number, (pci, (minor, driver, label)) in enumerate(cards.items()):
        device = root / "sys/bus/pci/devices" / pci
        (device / f"drm/renderD{minor}").mkdir(parents=True)
        chip = root / f"sys/class/hwmon/hwmon{number}"
        chip.mkdir(parents=True)
        (chip / "device").symlink_to(device)
        (chip / "name").write_text(driver + "\n")
        (chip / "energy1_input").write_text("1000\n")
        if label:
            (chip / "energy1_label").write_text(label + "\n")
    return Node.open(root, ("hwmon",), MACHINE)


def test_intels_cards_are_held_by_slurms_numbers_of_their_render_nodes_or_addresses(tmp_path):
    cards = {"0000:9a:00.0": (128, "i915", ""), "0000:3a:00.0": (130, "i915", ""), "0000:6a:00.0": (129, "i915", "")}
    machine = intel(tmp_path, cards)
    assert parts(["0"], machine) == {"gpu-0000-9a-00-0": 1}
    assert parts(["1", "2"], machine) == {"gpu-0000-6a-00-0": 1, "gpu-0000-3a-00-0": 1}
    assert parts(["0000:3a:00.0"], machine) == {"gpu-0000-3a-00-0": 1}
    assert doubts({"gpus": "0"}, machine).startswith("GPU 0 taken by its device file")


def test_a_card_that_shows_its_package_only_is_that(tmp_path):
    cards = {"0000:03:00.0": (128, "xe", "card"), "0000:04:00.0": (129, "xe", "pkg")}
    machine = intel(tmp_path, cards)
    assert parts(["0", "1"], machine) == {"gpu-0000-03-00-0": 1, "gpu-0000-04-00-0-package": 1}


def test_a_card_with_both_is_one_gpu(tmp_path):
    machine = intel(tmp_path, {"0000:03:00.0": (128, "xe", "card")})
    chip = tmp_path / "sys/class/hwmon/hwmon0"
    (chip / "energy2_input").write_text("900\n")
    (chip / "energy2_label").write_text("pkg\n")
    machine.close()
    machine = Node.open(tmp_path, ("hwmon",), MACHINE)
    assert len(machine.sensors) == 2
    assert parts(["0"], machine) == {"gpu-0000-03-00-0": 1}
    assert parts(["1"], machine) == {}
