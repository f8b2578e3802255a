"""The NVML backend against a shared library with NVML's ABI, loaded through the same dlopen as the real one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.backend.gpus import Gpu, Held, instance_of, resolve
from perun_hpc.data_model.sensor import Reading, Sensor
from perun_hpc.energy.containment import plan
from perun_hpc.energy.counters import Status, difference
from perun_hpc.energy.integrate import SyntheticCounter
from tests.vendor_stubs import STUBS, built, read

ENERGY = "nvml:gpu-GPU-a:energy"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    directory = tmp_path_factory.mktemp("nvml")
    built(STUBS / "nvml.c", directory / "libnvidia-ml.so.1")
    return directory


class Seen:
    def __init__(self, data, log):
        self.sensors = [Sensor.from_json(one) for one in data["sensors"]]
        self.rows = [[Reading(*one) for one in row] for row in data["rows"]]
        self.missing = data["missing"]
        self.back = data["back"]
        self.gpus = [Gpu.from_json(one) for one in data["gpus"]]
        self.log = log

    def column(self, sensor_id):
        index = [sensor.id for sensor in self.sensors].index(sensor_id)
        return self.sensors[index], [row[index] for row in self.rows]

    def served(self, function, gpu, field):
        return [int(line[3]) for line in self.log if line[:3] == [function, str(gpu), str(field)]]


@pytest.fixture
def nvml(library, tmp_path):
    def run(text, reads=3, pause_s=0.02, packages=None):
        config = tmp_path / "config"
        config.write_text(text)
        environ = {**os.environ, **({} if packages is None else {"PYTHONPATH": str(packages)})}
        done, log = read("nvml", library, config, reads, pause_s, environ=environ)
        assert done.returncode == 0, done.stderr
        return Seen(json.loads(done.stdout), log)

    return run


def test_every_value_is_the_one_that_the_library_served(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\n", reads=5)
    for name, field, kind in (("energy", 83, "energy"), ("power-average", 185, "power"), ("power", 186, "power")):
        _, readings = seen.column(f"nvml:gpu-GPU-a:{name}")
        served = seen.served(kind, 0, field)
        assert [reading.ticks for reading in readings] == served[-5:]
    sensor, readings = seen.column("nvml:gpu-GPU-a:energy")
    energy_uj = sensor.base(difference(sensor, readings[0], readings[-1]).ticks)
    assert energy_uj == (readings[-1].ticks - readings[0].ticks) * 1000 > 0
    assert sensor.max_uw == 1_400_000_000
    assert seen.log[-1][0] == "nvmlShutdown"


def test_one_field_call_serves_energy_and_both_powers_with_one_time_stamp(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\n")
    times = {seen.column(f"nvml:gpu-GPU-a:{name}")[1][1].mono_ns for name in ("energy", "power-average", "power")}
    assert len(times) == 1


def test_a_lost_gpu_is_a_gap_and_the_other_goes_on(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\ngpu GPU-b 1 200000 0 0\nlost 0 8\n", reads=8)
    _, lost = seen.column("nvml:gpu-GPU-a:energy")
    assert lost[0].ticks is not None
    assert lost[-1].ticks is None
    assert "lost" in lost[-1].error.lower()
    assert seen.column("nvml:gpu-GPU-a:memory")[1][-1].ticks is None
    assert all(one.ticks is not None for one in seen.column("nvml:gpu-GPU-b:energy")[1])


def test_twelve_gpus_are_named_by_uuid(nvml):
    seen = nvml("".join(f"gpu GPU-{i:02} {i} 100000 0 0\n" for i in range(12)))
    assert [gpu.uuid for gpu in seen.gpus] == [f"GPU-{i:02}" for i in range(12)]
    assert len({sensor.domain for sensor in seen.sensors}) == 12
    assert len({sensor.id for sensor in seen.sensors}) == len(seen.sensors)


def test_permuted_minors_reach_the_right_device(nvml):
    seen = nvml("gpu GPU-aaaa 2 1 0 0\ngpu GPU-bbbb 0 1 0 0\ngpu GPU-cccc 1 1 0 0\n")
    # Slurm's index 0 is /dev/nvidia0, which NVML shows as its second GPU.
    assert resolve(["0"], seen.gpus) == (Held("gpu-GPU-bbbb"),)
    assert resolve(["2", "GPU-cccc"], seen.gpus) == (Held("gpu-GPU-aaaa"), Held("gpu-GPU-cccc"))
    assert resolve(["00000000:10:00.0"], seen.gpus) == (Held("gpu-GPU-aaaa"),)
    assert resolve(["7", "GPU-zzzz", "no"], seen.gpus) == ()


def test_mig_has_energy_for_the_parent_alone(nvml):
    seen = nvml("gpu GPU-a 0 400000 0 7\ninstance 0 MIG-1 3\ninstance 0 MIG-2 2\n")
    (gpu,) = seen.gpus
    assert gpu.slices == 7
    assert resolve(["MIG-1"], seen.gpus) == (Held("gpu-GPU-a", 3),)
    assert resolve(["MIG-1", "MIG-2"], seen.gpus) == (Held("gpu-GPU-a", 5),)
    sensor, readings = seen.column("nvml:gpu-GPU-a:energy")
    assert "7 MIG slices" in sensor.scope
    assert all(reading.ticks is not None for reading in readings)
    assert not [sensor for sensor in seen.sensors if sensor.id.endswith("utilisation")]
    assert not [sensor for sensor in seen.sensors if "activity" in sensor.id]


def test_gpm_tells_how_active_each_mig_instance_is(nvml):
    mig = "gpu GPU-a 0 400000 0 7\ninstance 0 MIG-1 3\ninstance 0 MIG-2 2\n"
    seen = nvml(f"{mig}active 0 0 80\nactive 0 1 5\n", reads=4, pause_s=0.11)
    for uuid, thousandths in (("MIG-1", 800), ("MIG-2", 50)):
        sensor, readings = seen.column(f"nvml:gpu-GPU-a:activity-{uuid}")
        assert (sensor.quantity, sensor.domain, instance_of(sensor.id)) == ("utilisation", "gpu-GPU-a", uuid)
        # Found out by trying, so that the first sample is taken before the first read.
        assert [reading.ticks for reading in readings][1:] == [thousandths] * 3
        assert len({reading.mono_ns for reading in readings}) == 4
    taken = [int(line[3]) for line in seen.log if line[0] == "sample"]
    assert (len(taken), sum(taken)) == (8, 0)


def test_two_looks_at_the_same_activity_are_one_moment(nvml):
    mig = "gpu GPU-a 0 400000 0 7\ninstance 0 MIG-1 3\nactive 0 0 80\n"
    _, readings = nvml(mig, reads=5, pause_s=0).column("nvml:gpu-GPU-a:activity-MIG-1")
    assert len({reading.mono_ns for reading in readings}) == 1


def test_a_superchips_counter_is_the_modules_and_says_so(nvml):
    seen = nvml("gpu GPU-a 0 120000 700000 0\n")
    sensor, _ = seen.column("nvml:gpu-GPU-a:energy")
    assert sensor.scope.startswith("module")
    assert sensor.max_uw == 10_000_000_000  # not the GPU's own limit: its CPU and memory are in it
    _, power = seen.column("nvml:gpu-GPU-a:power")
    assert power[-1].ticks == 700_000


def test_a_backward_counter_is_a_reset_not_energy(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\nbackward 0 6\n", reads=6)
    sensor, readings = seen.column("nvml:gpu-GPU-a:energy")
    counts = [reading.ticks for reading in readings]
    steps = [difference(sensor, before, after) for before, after in zip(readings, readings[1:])]
    known = [None if after < before else after - before for before, after in zip(counts, counts[1:])]
    assert known.count(None) == 1
    assert [step.ticks for step in steps] == known
    assert [step.status for step in steps] == [Status.RESET if ticks is None else Status.OK for ticks in known]
    assert difference(sensor, readings[0], readings[-1]).ticks is None


def test_a_frozen_counter_adds_nothing_and_power_shows_it(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\nfrozen 0 5\n", reads=6)
    sensor, readings = seen.column("nvml:gpu-GPU-a:energy")
    assert difference(sensor, readings[-2], readings[-1]).ticks == 0
    assert readings[-2].mono_ns < readings[-1].mono_ns
    assert seen.column("nvml:gpu-GPU-a:power")[1][-1].ticks == 300_000


def test_a_value_with_an_old_time_stamp_is_a_gap(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\nstale 0 6\n", reads=6)
    last = seen.column("nvml:gpu-GPU-a:energy")[1][-1]
    assert last.ticks is None
    assert last.error.startswith("frozen")


def test_a_slow_call_is_made_less_often_but_energy_always(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\nslow nvmlDeviceGetMemoryInfo 3000\n", reads=20, pause_s=0)
    _, memory = seen.column("nvml:gpu-GPU-a:memory")
    assert [reading.ticks is not None for reading in memory].count(True) == 2
    assert {reading.error for reading in memory if reading.ticks is None} == {"not due"}
    assert all(reading.ticks is not None for reading in seen.column("nvml:gpu-GPU-a:energy")[1])


def test_an_old_driver_without_fields_still_shows_energy(nvml):
    seen = nvml("gpu GPU-a 0 300000 0 0\nnofields 0\n", reads=4)
    _, readings = seen.column("nvml:gpu-GPU-a:energy")
    assert [reading.ticks for reading in readings] == seen.served("energy", 0, 83)[-4:]


def test_a_gpu_of_which_the_library_knows_no_limit_is_believed_up_to_any_gpus(nvml):
    """Where 0 W is the answer nothing that the GPU shows would be possible."""
    seen = nvml("gpu GPU-a 0 300000 0 0\nnolimit 0\n")
    sensor, readings = seen.column(ENERGY)
    assert sensor.max_uw == 5_000_000_000
    assert difference(sensor, readings[0], readings[-1]).status is Status.OK


NO_COUNTER = "gpu GPU-a 0 250000 0 0\nlacks 0 83\nlacks 0 185\nlacks 0 186\nnocounter 0\n"


def test_a_gpu_without_an_energy_counter_is_asked_for_its_power_which_is_integrated(nvml):
    """A P100 or a K80: no field of the newer calls, and no energy by the older one."""
    seen = nvml(NO_COUNTER, reads=4)
    sensor, readings = seen.column("nvml:gpu-GPU-a:power-usage")
    assert [reading.ticks for reading in readings] == seen.served("usage", 0, 0)[-4:] == [250_000] * 4
    assert (sensor.quantity, sensor.update_ns, seen.missing) == ("power", 1_000_000_000, [])
    (leaf,) = plan(seen.sensors).leaves
    assert leaf.sensor.id == sensor.id
    counter, first = SyntheticCounter(sensor, 10**10).advance(Reading(250_000, 0))
    counter, last = counter.advance(Reading(250_000, 3 * 10**9))
    assert counter.sensor.scope.endswith("(integrated power)")
    assert last.ticks - first.ticks == 3 * 250_000_000


def test_power_that_energy_rests_on_is_read_however_slow_it_is(nvml):
    seen = nvml(f"{NO_COUNTER}slow nvmlDeviceGetPowerUsage 3000\n", reads=4, pause_s=0)
    assert [reading.ticks for reading in seen.column("nvml:gpu-GPU-a:power-usage")[1]] == [250_000] * 4


def test_a_gpu_with_nothing_but_the_newer_power_is_integrated_by_that(nvml):
    seen = nvml("gpu GPU-a 0 250000 0 0\nlacks 0 83\nnocounter 0\n")
    assert [leaf.sensor.id for leaf in plan(seen.sensors).leaves] == ["nvml:gpu-GPU-a:power"]
    assert not seen.served("usage", 0, 0)


def test_a_driver_that_shows_energy_but_no_field_of_power_is_asked_for_power_the_old_way(nvml):
    seen = nvml("gpu GPU-a 0 250000 0 0\nlacks 0 185\nlacks 0 186\n")
    assert [leaf.sensor.id for leaf in plan(seen.sensors).leaves] == [ENERGY]
    assert seen.column("nvml:gpu-GPU-a:power-usage")[1][-1].ticks == 250_000


def test_a_gpu_that_shows_neither_energy_nor_power_is_named_with_the_reason(nvml):
    """A virtual GPU: its memory and clocks are shown."""
    seen = nvml(f"{NO_COUNTER}nousage 0\ngpu GPU-b 1 200000 0 0\n")
    ((what, why, remedy),) = seen.missing
    assert what == "energy and power of GPU-a (Stub GPU, 0000:10:00.0)"
    assert why == "NVML shows neither: energy: Not Supported; power: Not Supported"
    assert "virtual" in remedy
    assert [leaf.name for leaf in plan(seen.sensors).leaves] == ["gpu-GPU-b"]
    assert seen.column("nvml:gpu-GPU-a:memory")[1][-1].ticks


LACKS = ("NVML_FI_DEV_POWER_", "NVML_POWER_SCOPE_", "nvmlGpm", "nvmlDeviceGetCurrentClocksEventReasons")
OLD = f"""\
import importlib.util, sys, sysconfig
spec = importlib.util.spec_from_file_location("real_pynvml", sysconfig.get_path("purelib") + "/pynvml.py")
real = sys.modules["real_pynvml"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)
globals().update({{name: one for name, one in vars(real).items() if not name.startswith(("__", *{LACKS!r}))}})
"""


@pytest.mark.parametrize(("file", "remedy"), [
    ("pynvml.py", "pip install -U nvidia-ml-py"),
    ("pynvml/__init__.py", "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py"),
])  # fmt: skip
def test_with_an_old_package_gpus_are_read_as_it_can_and_the_right_advice_is_given(nvml, tmp_path, file, remedy):
    module = tmp_path / "packages" / file
    module.parent.mkdir(parents=True)
    module.write_text(OLD)
    seen = nvml("gpu GPU-a 0 250000 0 0\n", reads=4, packages=tmp_path / "packages")
    ((what, why, advice),) = seen.missing
    assert what == "power fields of NVIDIA GPUs"
    assert str(module) in why
    assert advice == remedy
    assert [reading.ticks for reading in seen.column(ENERGY)[1]] == seen.served("energy", 0, 83)[-4:]
    assert seen.column("nvml:gpu-GPU-a:power-usage")[1][-1].ticks == 250_000


def test_without_the_library_there_are_no_sensors_and_no_error():
    command = [sys.executable, str(STUBS / "read_backend.py"), "nvml", "1", "0"]
    environ = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if not any(Path("/proc/driver/nvidia/gpus").glob("*")):
        assert found["sensors"] == []


def test_fault_07_ranks_that_each_see_gpu_0_are_told_apart_by_uuid(nvml):
    # Ten devices of 100 W, each shown as index 0 to its rank: by UUID they stay ten, and sum to 1000 W.
    seen = nvml("".join(f"gpu GPU-{i} {9 - i} 100000 0 0\n" for i in range(10)))
    energies = [sensor for sensor in seen.sensors if sensor.id.endswith(":energy")]
    assert len({sensor.domain for sensor in energies}) == 10
    powers = [seen.column(f"nvml:gpu-GPU-{i}:power")[1][-1].ticks for i in range(10)]
    assert sum(powers) == 1_000_000
    assert len(plan(seen.sensors).leaves) == 10


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("", ""),
        ("drained 1 {here}\n", "0000:11:00.0 is being drained (nvidia-smi drain)"),
        ("drained 1 {here}.not\n", ""),
        ("recovery 0 1\n", "the driver asks for a reset of 0000:10:00.0"),
        ("recovery 0 4\n", "the driver asks for a reset of 0000:10:00.0"),
        ("recovery 0 2\n", ""),  # a reboot needs nobody to let go
        ("recovery 0 1\nnofields 0\n", ""),
    ],
)
def test_a_gpu_that_is_drained_or_wants_a_reset_is_wanted_back(nvml, more, why):
    seen = nvml("gpu GPU-a 0 300000 0 0\ngpu GPU-b 1 300000 0 0\n" + more.format(here=__file__))
    assert seen.back == [why]
