"""The AMD SMI backend against a shared library with AMD SMI's ABI, behind AMD's own Python package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from perun_hpc.backend.gpus import Gpu, Held, doubtful, resolve
from perun_hpc.backend.render_nodes import render_nodes as the_render_nodes
from perun_hpc.data_model.sensor import Reading, Sensor
from perun_hpc.energy.counters import difference
from tests.sysfs import build
from tests.vendor_stubs import STUBS, built, read

PACKAGE = importlib.util.find_spec("amdsmi")

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
    pytest.mark.skipif(PACKAGE is None, reason="the Python package amdsmi is not installed"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("amd")
    source = (STUBS / "amdsmi.c").read_text()
    own = set(re.findall(r"^int (amdsmi_\w+)\(", source, re.MULTILINE))
    wrapper = (Path(PACKAGE.origin).parent / "amdsmi_wrapper.py").read_text()
    wanted = set(re.findall(r"_libraries\['libamd_smi\.so'\]\.(\w+)", wrapper))
    assert own <= wanted | {"amdsmi_shut_down"}
    rest = "".join(f"int {name}(void) {{ return NOT_SUPPORTED; }}\n" for name in sorted(wanted - own))
    (directory / "amdsmi.c").write_text(source + rest)
    built(directory / "amdsmi.c", directory / "libamd_smi.so")
    (directory / "dev").mkdir()
    (directory / "dev/kfd").touch()
    return directory


@pytest.fixture
def amd(library, tmp_path):
    def run(text, reads=2, gpus=False):
        config = tmp_path / "config"
        config.write_text(text)
        environ = {name: value for name, value in os.environ.items() if name not in ("ROCM_PATH", "ROCM_HOME")}
        done, log = read("amdsmi", library, config, reads, root=library, environ=environ)
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        sensors = [Sensor.from_json(one) for one in data["sensors"]]
        rows = [[Reading(*one) for one in row] for row in data["rows"]]
        return tuple(Gpu.from_json(one) for one in data["gpus"]) if gpus else (sensors, rows, data["missing"], log)

    return run


def test_every_value_is_the_one_that_the_library_served(amd):
    sensors, rows, missing, log = amd("gpu uuid-a 3 0 250 250\n", reads=4)
    assert missing == []
    ids = [sensor.id for sensor in sensors]
    energy = ids.index("amdsmi:gpu-uuid-a:energy")
    served = [int(line[2]) for line in log if line[0] == "energy"]
    assert [row[energy].ticks for row in rows] == served[-4:]
    steps = difference(sensors[energy], rows[0][energy], rows[-1][energy]).ticks
    assert (sensors[energy].scale_num, sensors[energy].scale_den) == (15259, 1000)
    assert sensors[energy].base(steps) == steps * 15259 // 1000
    assert {row[ids.index("amdsmi:gpu-uuid-a:power")].ticks for row in rows} == {250}
    unsupported = rows[-1][ids.index("amdsmi:gpu-uuid-a:utilisation")]
    assert unsupported.ticks is None
    assert "NOT_SUPPORTED" in unsupported.error
    assert log[-1][0] == "shut_down"


def test_clock_and_power_limit_are_there_where_the_gpu_shows_them(amd):
    sensors, rows, *_ = amd("gpu uuid-a 3 0 250 250 1700 560\ngpu uuid-b 4 0 250 250\n")
    shown = {sensor.id: sensor.base(row.ticks) for sensor, row in zip(sensors, rows[-1]) if row.ticks is not None}
    assert shown["amdsmi:gpu-uuid-a:clock-gfx"] == 1_700_000
    assert shown["amdsmi:gpu-uuid-a:power-limit"] == 560_000_000
    assert not [sensor.id for sensor in sensors if "uuid-b" in sensor.id and sensor.id.endswith(("gfx", "limit"))]


@pytest.mark.parametrize(("counted", "why"), [(0, "frozen"), (-250, "backwards"), (100, "100 W where 250 W")])
def test_an_accumulator_that_power_contradicts_is_left_out_and_named(amd, counted, why):
    sensors, rows, missing, _ = amd(f"gpu uuid-a 3 0 250 {counted}\n")
    assert [sensor.id.rpartition(":")[2] for sensor in sensors] == ["power", "memory", "utilisation"]
    assert rows[-1][0].ticks == 250
    assert why in missing[0][1]


def test_a_gpu_that_shows_neither_energy_nor_power_is_named(amd):
    sensors, _, missing, _ = amd("gpu uuid-a 3 0 0 0\n")
    assert [sensor.id.rpartition(":")[2] for sensor in sensors] == ["memory", "utilisation"]
    ((what, why, _),) = missing
    assert what == "energy and power of the AMD GPU 0000:03:00.0"
    assert why == "its accumulator: it is frozen, and it shows no power"


def test_an_accumulator_beside_no_power_is_trusted_once_it_moves(amd):
    sensors, rows, missing, _ = amd("gpu uuid-a 3 0 0 250\n")
    assert [sensor.id.rpartition(":")[2] for sensor in sensors] == ["energy", "memory", "utilisation"]
    assert missing == []
    assert rows[-1][0].ticks > rows[0][0].ticks


def test_partitions_of_one_gpu_are_counted_once(amd):
    sensors, _, _, _ = amd("gpu uuid-a 3 0 250 250\ngpu uuid-b 3 1 250 250\ngpu uuid-c 4 0 300 300\n")
    assert {sensor.device for sensor in sensors} == {"0000:03:00.0", "0000:04:00.0"}


@pytest.mark.parametrize(("device", "apu"), [("0x74a0", True), ("0x74a1", False), ("", False)])
def test_the_meter_of_an_apu_says_that_nobody_knows_what_it_contains(amd, library, device, apu):
    place = library / "sys/bus/pci/devices/0000:03:00.0"
    place.mkdir(parents=True, exist_ok=True)
    (place / "device").write_text(f"{device}\n")
    sensors, *_ = amd("gpu uuid-a 3 0 250 250\n")
    shutil.rmtree(library / "sys")
    assert {sensor.scope.startswith("APU") for sensor in sensors} == {apu}


def render_nodes(root, nodes):
    shutil.rmtree(root / "sys", ignore_errors=True)
    for pci, number in nodes.items():
        (root / "sys/bus/pci/devices" / pci / "drm" / f"renderD{number}").mkdir(parents=True)
        (root / "sys/bus/pci/devices" / pci / "drm" / f"card{number - 127}").mkdir()


def test_slurms_number_is_a_place_among_the_render_nodes_whatever_the_librarys_order(amd, library):
    render_nodes(library, {"0000:33:00.0": 130, "0000:44:00.0": 128, "0000:55:00.0": 129})
    gpus = amd("gpu uuid-a 51 0 250 250\ngpu uuid-b 68 0 250 250\ngpu uuid-c 85 0 250 250\n", gpus=True)
    assert [(gpu.uuid, gpu.minor) for gpu in gpus] == [("uuid-a", 130), ("uuid-b", 128), ("uuid-c", 129)]
    assert resolve(["0"], gpus) == resolve(["128"], gpus) == (Held("gpu-uuid-b"),)
    assert resolve(["1", "2"], gpus) == (Held("gpu-uuid-c"), Held("gpu-uuid-a"))
    assert resolve(["0"], gpus, "pci") == (Held("gpu-uuid-a"),)
    assert resolve(["0000:33:00.0"], gpus) == (Held("gpu-uuid-a"),)
    assert resolve(["3"], gpus) == ()
    assert doubtful(["0", "128"], gpus) == ("0",)


def test_a_job_with_a_partition_holds_its_part_of_the_whole_gpu(amd, library):
    """The kernel shows the first partition's render node at the PCI device, the others' at platform devices."""
    render_nodes(library, {"0000:66:00.0": 140, "0000:77:00.0": 144})
    for number in (141, 142, 143):
        xcp = library / f"sys/devices/platform/amdgpu_xcp.{number - 141}/drm/renderD{number}"
        xcp.mkdir(parents=True, exist_ok=True)
    gpus = amd("gpu uuid-a 102 0 250 250\ngpu uuid-p 102 1 250 250\ngpu uuid-b 119 0 300 300\n", gpus=True)
    assert [(gpu.uuid, gpu.slices) for gpu in gpus] == [("uuid-a", 2), ("uuid-b", None)]
    assert resolve(["141"], gpus) == resolve(["1"], gpus) == (Held("gpu-uuid-a", 1),)
    assert resolve(["0", "1"], gpus) == (Held("gpu-uuid-a", 2),)
    assert resolve(["2"], gpus) == resolve(["2"], gpus, "pci") == resolve(["144"], gpus) == (Held("gpu-uuid-b"),)
    assert doubtful(["0", "1", "2"], gpus) == ()


def test_slurms_24_numbers_are_six_partitions_of_each_of_four_gpus(amd, library):
    shutil.rmtree(library / "sys", ignore_errors=True)
    build("gpus_mi300a_partitions", library)
    gpus = amd("".join(f"gpu uuid-{n} {n << 8 | 2} {part} 550 550\n" for n in range(4) for part in range(6)), gpus=True)
    assert [(gpu.pci, gpu.slices) for gpu in gpus] == [(f"{n:04}:02:00.0", 6) for n in range(4)]
    for numbers in ("auto", "pci"):
        assert [resolve([str(n)], gpus, numbers) for n in range(25)] == [
            *((Held(f"gpu-uuid-{n // 6}", 1),) for n in range(24)), (),
        ]  # fmt: skip
    assert resolve([str(n) for n in range(4, 9)], gpus) == (Held("gpu-uuid-0", 2), Held("gpu-uuid-1", 3))
    assert doubtful(list(map(str, range(24))), gpus) == ()


def test_six_partitions_of_each_of_four_gpus_have_the_render_nodes_that_the_kernel_gave_them(tmp_path):
    root = build("gpus_mi300a_partitions", tmp_path)
    for gpu in range(4):
        first = 128 + 8 * gpu
        assert the_render_nodes(root, f"{gpu:04}:02:00.0", 6) == tuple(range(first, first + 6))
        assert the_render_nodes(root, f"{gpu:04}:02:00.0", 1) == (first,)


def test_where_the_compute_driver_says_it_the_nodes_are_those(tmp_path):
    root = build("gpus_mi300a_partitions", tmp_path)
    for node, minor in enumerate((130, 132, 128), 4):
        properties = root / f"sys/class/kfd/kfd/topology/nodes/{node}/properties"
        properties.parent.mkdir(parents=True)
        told = f"simd_count 152\nlocation_id {0x200 + node - 4}\ndomain 0\ndrm_render_minor {minor}\n"
        properties.write_text(told + "unique_id 18446744073709551615\n")
    assert the_render_nodes(root, "0000:02:00.0", 6) == (130, 132, 128)
    assert the_render_nodes(root, "0001:02:00.0", 2) == (136, 137)
