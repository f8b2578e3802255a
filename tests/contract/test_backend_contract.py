"""What every reader promises: a reading per sensor, gaps instead of exceptions, rising times, a harmless close."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.backend import cgroup, cray_pm, estimate, file, hwmon, ipmi, powercap, procstat
from perun_hpc.backend import psutil as psutil_backend
from perun_hpc.backend.base import Discovery
from perun_hpc.backend.catalog import BACKENDS, Home
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.energy.integrate import SyntheticCounter
from tests.sysfs import build

PACKAGE = Path(powercap.__file__).parent


def _proc(root):
    (root / "proc").mkdir()
    (root / "proc/stat").write_text("cpu0 1 1 1 1 1 1 1 1 0 0\n")
    (root / "proc/meminfo").write_text("MemTotal: 2 kB\nMemAvailable: 1 kB\n")
    return root


def _dcmi(root):
    (root / "dev").mkdir()
    (root / "dev/ipmi0").touch()
    return ipmi.discover(root, run=lambda: "Current Power : 9 Watts\n")


def _file(root):
    (root / "x").write_text("5\n")
    return file.discover(root, [file.Declaration(name="x", path="x", kind="power", unit="W", component="other")])


OPENED = {
    "powercap": lambda root: powercap.discover(build("intel_two_sockets", root)),
    "hwmon": lambda root: hwmon.discover(build("gh200", root)),
    "cray_pm": lambda root: cray_pm.discover(build("cray_ex", root), real_clock=lambda: 1_620_000_000 * 10**9),
    "cgroup": lambda root: Discovery((cgroup.find_job(build("cgroup_v2", root), "7"),)),
    "procstat": lambda root: procstat.discover(_proc(root)),
    "estimate": lambda root: estimate.discover(_proc(root)),
    "psutil": lambda root: psutil_backend.discover(root),
    "ipmi": _dcmi,
    "file": _file,
}


@pytest.mark.parametrize("name", OPENED)
def test_reader(name, tmp_path):
    found = OPENED[name](tmp_path)
    assert found.readers
    for reader in found.readers:
        named = reader.sensors
        earlier = 0
        for _ in range(3):
            readings = reader.read()
            assert len(readings) == len(reader.sensors)
            for reading in readings:
                assert (reading.ticks is None) == (reading.error is not None)
                assert reading.ticks is None or isinstance(reading.ticks, int)
                assert reading.mono_ns >= earlier
            earlier = min(reading.mono_ns for reading in readings)
            assert reader.sensors == named
    ids = [sensor.id for sensor in found.sensors]
    assert len(set(ids)) == len(ids)
    for sensor in found.sensors:
        backend, domain, _ = sensor.id.split(":")
        assert (backend, domain) == (sensor.backend, sensor.domain)
        assert sensor.scale_num > 0 and sensor.scale_den > 0
        assert sensor.scope
        assert Sensor.from_json(json.loads(json.dumps(sensor.to_json()))) == sensor
        if sensor.quantity in ("energy", "power"):
            assert sensor.gain_error > 0 and sensor.gain_source
            assert sensor.max_uw is not None and sensor.update_ns > 0
    found.close()
    found.close()
    for reader in found.readers:
        assert len(reader.read()) == len(reader.sensors)


def test_a_gauge_of_power_becomes_a_counter_of_energy(tmp_path):
    for sensor in OPENED["hwmon"](tmp_path).sensors:
        counter = SyntheticCounter(sensor, 10**9).sensor
        assert (counter.domain, counter.kind, counter.unit) == (sensor.domain, "counter", "uJ")


@pytest.mark.parametrize(
    "backend", [one.name for one in BACKENDS if one.home is Home.INLINE] + ["cgroup", "file", "base"]
)
def test_what_runs_in_the_agent_imports_the_standard_library_only(backend):
    # -S: no site-packages, so nothing but the standard library and ourselves can be found.
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parents[1])!r}); import perun_hpc.backend.{backend}; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign <= {"perun_hpc"}


def test_every_catalogued_backend_has_a_module_with_discover():
    for backend in BACKENDS:
        tree = ast.parse((PACKAGE / f"{backend.name}.py").read_text())
        assert "discover" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
