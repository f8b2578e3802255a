from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from perun_hpc.backend import cgroup, cray_pm, estimate, file, gpus, hwmon, ipmi, procstat
from perun_hpc.backend import psutil as psutil_backend
from perun_hpc.backend.catalog import BACKENDS, Selection, discover_all, has_power, open_backend
from perun_hpc.data_model import cpu_list
from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity, human
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import adding_up, plan, scope_sentence
from perun_hpc.energy.counters import difference
from perun_hpc.errors import DataError, NotFoundError
from tests.sysfs import build

S = 1_000_000_000


def by_domain(found):
    return {s.domain: r for reader in found.readers for s, r in zip(reader.sensors, reader.read())}


def by_id(found):
    return {s.id: r for reader in found.readers for s, r in zip(reader.sensors, reader.read())}


# --- hwmon


def test_grace_rails_are_known_by_their_labels(tmp_path):
    found = hwmon.discover(build("gh200", tmp_path))
    assert {name: reading.ticks for name, reading in by_domain(found).items()} == {
        "module-0": 700_000_000, "grace-0": 250_000_000, "package-0": 100_000_000, "sysio-0": 20_000_000,
    }  # fmt: skip
    parents = {sensor.domain: sensor.parent for sensor in found.sensors}
    assert parents == {
        "module-0": None,
        "grace-0": "hwmon:module-0:power",
        "package-0": "hwmon:grace-0:power",
        "sysio-0": "hwmon:grace-0:power",
    }
    assert {sensor.update_ns for sensor in found.sensors} == {50_000_000}


def test_any_energy_or_power_input_is_found_and_gpu_drivers_are_left_to_their_backends(tmp_path):
    for chip, files in {
        "hwmon0": {"name": "amd_energy", "energy1_input": "12", "energy1_label": "Esocket0"},
        "hwmon1": {"name": "amdgpu", "power1_average": "5"},
        "hwmon2": {"name": "ina3221", "power1_input": "7", "power1_label": "VDD"},
    }.items():
        for name, content in files.items():
            target = tmp_path / "sys/class/hwmon" / chip / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content + "\n")
    found = hwmon.discover(tmp_path)
    assert {name: reading.ticks for name, reading in by_domain(found).items()} == {
        "package-0": 12,
        "ina3221-vdd": 7,
    }
    assert {sensor.kind for sensor in found.sensors} == {Kind.COUNTER, Kind.GAUGE}
    (named,) = found.missing
    assert (named.what, named.lacks) == ("hwmon1 (amdgpu)", False)


def test_fault_08_a_superchips_module_is_the_nodes_figure_and_nothing_is_added_to_it(tmp_path):
    found = hwmon.discover(build("gh200", tmp_path))
    readings = by_domain(found)
    gpu = Sensor(
        id="nvml:gpu-A:energy", host="n", backend="nvml", device="0009:01:00.0", domain="gpu-A", component="gpu",
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="mJ", scale_num=1000,
    )  # fmt: skip
    chosen = plan([*found.sensors, gpu])
    assert readings["module-0"].ticks == 700_000_000
    assert [domain.name for domain in adding_up(chosen.domains, {*readings, "gpu-A"})] == ["module-0"]
    (module,) = chosen.meters
    assert set(module.leaves) == {"grace-0", "gpu-A"}
    assert {sensor.domain for sensor, _ in chosen.left_out} == {"package-0", "sysio-0"}


def test_fault_08_graces_rails_are_never_added_to_a_module_reading_of_nvml(tmp_path):
    found = hwmon.discover(build("gh200", tmp_path))
    gpu = Sensor(
        id="nvml:gpu-A:energy", host="n", backend="nvml", device="0009:01:00.0", domain="gpu-A", component="gpu",
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="mJ", scale_num=1000, scope="module: GPU, its CPU and memory",
    )  # fmt: skip
    assert [domain.name for domain in plan([*found.sensors, gpu]).domains] == ["gpu-A"]


def test_fault_08_a_node_power_meter_is_the_nodes_and_contains_everything(tmp_path):
    directory = tmp_path / "sys/class/hwmon/hwmon0"
    directory.mkdir(parents=True)
    (directory / "name").write_text("power_meter\n")
    (directory / "power1_average").write_text("412000000\n")
    found = hwmon.discover(build("intel_two_sockets", tmp_path))
    (sensor,) = found.sensors
    assert (sensor.domain, sensor.component) == ("node", "node")
    chosen = plan([*found.sensors, *open_backend("powercap", tmp_path).sensors])
    (meter,) = chosen.meters
    assert set(meter.leaves) == {"package-0", "package-1", "dram-0", "dram-1"}
    assert "cooling" in scope_sentence(chosen)


# --- Cray

CRAY_NS = 1_620_000_000 * S


def test_cray_counters_in_joules_with_the_node_on_top(tmp_path):
    found = cray_pm.discover(build("cray_ex", tmp_path), lambda: 5 * S, lambda: CRAY_NS + 40_000_000)
    readings = by_id(found)
    # The files were written 40 ms ago, by their own time stamps.
    assert readings["cray_pm:node:energy"].mono_ns == 5 * S - 40_000_000
    assert readings["cray_pm:node:energy"].ticks == 99340
    sensors = {sensor.id: sensor for sensor in found.sensors}
    assert sensors["cray_pm:node:energy"].base(99340) == 99_340_000_000
    assert sensors["cray_pm:cray-accel1:energy"].parent == "cray_pm:node:energy"
    assert len(sensors) == 10
    chosen = plan(found.sensors)
    assert {leaf.name for leaf in chosen.leaves} == {"cray-cpu", "cray-memory", "cray-accel0", "cray-accel1"}
    assert [meter.name for meter in chosen.meters] == ["node"]


def test_cray_files_that_are_renewed_while_they_are_read_are_read_again_then_a_gap(tmp_path):
    freshness = build("cray_ex", tmp_path) / "sys/cray/pm_counters/freshness"
    freshness.unlink()
    freshness.symlink_to("/proc/self/io")  # it counts what is read: another content each time
    (reader,) = cray_pm.discover(tmp_path, lambda: 7, lambda: CRAY_NS).readers
    assert {reading.error for reading in reader.read()} == {"the counters were renewed while they were read"}
    freshness.unlink()
    freshness.write_text("4711\n")
    (steady,) = cray_pm.discover(tmp_path, lambda: 7, lambda: CRAY_NS).readers
    assert {reading.mono_ns for reading in steady.read()} == {7}
    assert None not in {reading.ticks for reading in steady.read()}


def test_crays_cpus_are_never_added_to_module_readings_of_nvml(tmp_path):
    found = cray_pm.discover(build("cray_gh200_ex254n", tmp_path))
    gpus = [
        Sensor(
            id=f"nvml:gpu-{n}:energy", host="n", backend="nvml", device=f"000{n}:01:00.0", domain=f"gpu-{n}",
            component="gpu", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="mJ", scale_num=1000,
            scope="module: GPU, its CPU and memory",
        )
        for n in range(4)
    ]  # fmt: skip
    chosen = plan([*found.sensors, *gpus])
    assert {leaf.name for leaf in chosen.leaves} == {f"gpu-{n}" for n in range(4)}
    (meter,) = chosen.meters
    assert set(meter.leaves) == {f"gpu-{n}" for n in range(4)}
    why = {sensor.domain: why for sensor, why in chosen.left_out if sensor.quantity == "energy"}
    assert why["cray-cpu0"] == "contained in gpu-0, whose energy is its module's"
    assert why["cray-cpu"] == "contained in node"


class Blade:
    """A blade whose controller renews its files when the test says so, by a clock that is off."""

    def __init__(self, root: Path, off_s: float) -> None:
        self.directory = build("cray_ex", root) / "sys/cray/pm_counters"
        self.now_ns, self._off_ns, self._renewed = 100 * S, int(off_s * S), 0
        self.renew()
        (self.reader,) = cray_pm.discover(root, lambda: self.now_ns, lambda: CRAY_NS + self.now_ns).readers

    def renew(self, late_ns: int = 0) -> None:
        """All files anew, `energy` stamped `late_ns` before the others."""
        self._renewed += 1
        (self.directory / "freshness").write_text(f"{self._renewed}\n")
        for path in [*self.directory.glob("*energy"), *self.directory.glob("*power")]:
            stamp_ns = CRAY_NS + self.now_ns + self._off_ns - (late_ns if path.name == "energy" else 0)
            value, unit, *_ = path.read_text().split()
            path.write_text(f"{value} {unit} {stamp_ns // 1000} us\n")

    def read(self) -> dict[str, Reading]:
        pairs = zip(self.reader.sensors, self.reader.read(), strict=True)
        return {sensor.domain: reading for sensor, reading in pairs if sensor.quantity == "energy"}


@pytest.mark.parametrize("off_s", [-3600, -60, -2.5, 0, 0.5, 60])
def test_a_cray_controllers_clock_may_be_off_and_its_files_stamps_apart(tmp_path, off_s):
    blade = Blade(tmp_path, off_s)
    blade.read()
    for _ in range(5):
        blade.now_ns += S
        blade.renew(late_ns=193_000_000)
        readings = blade.read()
        assert readings["cray-cpu"].mono_ns == blade.now_ns
        assert readings["node"].mono_ns == blade.now_ns - 193_000_000


def test_cray_counters_that_are_not_renewed_are_frozen_whatever_their_stamps_say(tmp_path):
    blade = Blade(tmp_path, 3600)
    blade.read()
    blade.now_ns += 60 * S
    assert None not in {reading.ticks for reading in blade.read().values()}
    blade.now_ns += S
    assert {reading.error for reading in blade.read().values()} == {"frozen: not renewed for 61 s"}
    blade.renew()
    assert None not in {reading.ticks for reading in blade.read().values()}


def test_a_cray_file_that_holds_no_value_costs_itself(tmp_path):
    directory = build("cray_ex", tmp_path) / "sys/cray/pm_counters"
    (directory / "energy").write_text("no value\n")
    (directory / "accel0_energy").unlink()
    (directory / "accel0_energy").mkdir()
    (directory / "freshness").unlink()
    found = cray_pm.discover(tmp_path)
    assert {one.what: one.why for one in found.missing} == {
        "pm_counters/accel0_energy": "does not measure: is a directory",
        "pm_counters/energy": "does not measure: malformed content",
    }
    assert len(found.sensors) == 8
    assert None not in {reading.ticks for reader in found.readers for reading in reader.read()}


# --- cgroups


def test_cgroup_v1(tmp_path):
    job = cgroup.find_job(build("cgroup_v1", tmp_path), "1")
    # Slurm has no blkio controller: bytes read and written are a gap.
    assert [reading.ticks for reading in job.read()] == [4_905_524_868, 8_888_320, None, None]
    assert job.peak_memory_b() == 10_113_024
    assert job.memory_limit_b() is None
    assert job.cpus() == frozenset({0})
    assert cgroup.find_parent(tmp_path).read()[cgroup.CPU].ticks == 4_905_524_868
    assert cgroup.find_job(tmp_path, "6") is None


@pytest.mark.parametrize("content", ["x", "0-x", "\udcff", "0-70000", "9" * 5000])
def test_a_cpuset_that_no_kernel_writes_is_not_known(tmp_path, content):
    job = cgroup.find_job(build("cgroup_v1", tmp_path), "1")
    for name in ("cpuset.cpus", "cpuset.effective_cpus"):
        (tmp_path / f"sys/fs/cgroup/cpuset/slurm_n1/uid_2001/job_1/{name}").write_text(
            content, errors="surrogateescape"
        )
    assert job.cpus() is None


def test_cgroup_v1_bytes_read_and_written_where_a_site_counts_them(tmp_path):
    file = tmp_path / "sys/fs/cgroup/blkio/slurm/uid_1000/job_5/blkio.throttle.io_service_bytes_recursive"
    file.parent.mkdir(parents=True)
    file.write_text("8:0 Read 100\n8:0 Write 200\n8:0 Total 300\n8:16 Read 1\n8:16 Write 2\nTotal 303\n")
    readings = cgroup.find_job(tmp_path, "5").read()
    assert [readings[cgroup.READ].ticks, readings[cgroup.WRITE].ticks] == [101, 202]


def test_cgroup_v2_by_job_id_and_by_sluid(tmp_path):
    job = cgroup.find_job(build("cgroup_v2", tmp_path), "7")
    assert [reading.ticks for reading in job.read()] == [2_500_000_000, 1_048_576, 101, 202]
    assert job.peak_memory_b() == 2_097_152
    assert job.cpus() == frozenset({4, 5})
    # CgroupJobIdPaths=yes of cgroup.conf (26.05.2): the job has a SLUID, and its directory its number.
    assert cgroup.find_job(tmp_path, "7", sluid="sDJRTT5Z2SYP99").read()[cgroup.CPU].ticks == 2_500_000_000
    by_sluid = cgroup.find_job(tmp_path, "99", sluid="sDJRTT5Z2SYP00")
    assert by_sluid.read()[cgroup.CPU].ticks == 700_000_000
    assert by_sluid.cpus() == frozenset({6})
    assert cgroup.find_parent(tmp_path).read()[cgroup.CPU].ticks == 9_000_000_000


FREEZERS = {
    "cgroup_v1": ("1", "sys/fs/cgroup/freezer/slurm_n1/uid_2001/job_1", "freezer.state", "FROZEN\n", "THAWED\n"),
    "cgroup_v2": (
        "7",
        "sys/fs/cgroup/system.slice/n1_slurmstepd.scope/job_7",
        "user/cgroup.events",
        "populated 1\nfrozen 1\n",
        "populated 1\nfrozen 0\n",
    ),
}


@pytest.mark.parametrize("tree", FREEZERS)
def test_a_job_is_suspended_when_every_step_but_extern_is_frozen(tmp_path, tree):
    number, top, file, frozen, thawed = FREEZERS[tree]
    job = cgroup.find_job(build(tree, tmp_path), number)
    steps = sorted(step for step in (tmp_path / top).glob("step_*") if step.name != "step_extern")
    assert job.suspended(tmp_path) is True
    (tmp_path / top / "step_extern" / file).write_text(thawed)
    assert job.suspended(tmp_path) is True  # extern has nothing that runs
    for step in steps:
        (step / file).write_text(thawed)
        assert job.suspended(tmp_path) is False
        (step / file).write_text(frozen)
        assert job.suspended(tmp_path) is True
    fresh = tmp_path / top / "step_9" / file
    fresh.parent.mkdir(parents=True)
    assert job.suspended(tmp_path) is True  # a step of which the kernel says nothing yet
    fresh.write_text(thawed)
    assert job.suspended(tmp_path) is False
    shutil.rmtree(tmp_path / top / "step_9")
    assert job.suspended(tmp_path) is True
    for step in steps:
        (step / file).write_text(thawed)
    (tmp_path / top / "step_extern" / file).write_text(frozen)
    assert job.suspended(tmp_path) is False
    for step in steps:
        shutil.rmtree(step)
    assert job.suspended(tmp_path) is True  # nothing but extern, and that is frozen


def test_a_job_whose_freezer_is_still_freezing_runs(tmp_path):
    job = cgroup.find_job(build("cgroup_v1", tmp_path), "1")
    (tmp_path / FREEZERS["cgroup_v1"][1] / "step_0/freezer.state").write_text("FREEZING\n")
    assert job.suspended(tmp_path) is False


def test_stopped_processes_do_not_suspend_a_job_that_has_a_freezer(tmp_path):
    number, top, file, _, thawed = FREEZERS["cgroup_v2"]
    job = cgroup.find_job(build("cgroup_v2", tmp_path), number)
    for step in (tmp_path / top).glob("step_*"):
        (step / file).write_text(thawed)
    for stat in tmp_path.glob("proc/2*/stat"):
        stat.write_text(stat.read_text().replace(") R ", ") T "))
    assert job.suspended(tmp_path) is False


def test_an_allocation_without_a_step_is_frozen_by_no_slurm_and_counts_as_running(tmp_path):
    job = cgroup.find_job(build("cgroup_v1", tmp_path), "2")  # Slurm 22.05 had suspended it
    assert job.suspended(tmp_path) is False


def test_without_a_freezer_a_job_is_suspended_when_its_processes_are_stopped(tmp_path):
    steps = tmp_path / "sys/fs/cgroup/cpuset/slurm/uid_1000/job_5"
    for step, pids in (("step_0", "101\n102\n104\n"), ("step_extern", "103\n")):
        (steps / step).mkdir(parents=True)
        (steps / step / "cgroup.procs").write_text(pids)
    states = {101: "(python (x)) T", 102: "(slurmstepd) S", 103: "(sleep) S", 104: "(sh) Z"}
    for pid, state in states.items():
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/stat").write_text(f"{pid} {state} 1 101\n")
    job = cgroup.find_job(tmp_path, "5")
    assert job.suspended(tmp_path) is True  # slurmstepd, extern and what is dead do not count
    (tmp_path / "proc/101/stat").write_text("101 (python (x)) R 1 101\n")
    assert job.suspended(tmp_path) is False
    (tmp_path / "proc/101/stat").unlink()
    assert job.suspended(tmp_path) is False  # extern's alone is left
    (tmp_path / "proc/103/stat").unlink()
    assert job.suspended(tmp_path) is None


def test_nodes_that_share_a_machine_see_their_own_part_of_a_job(tmp_path):
    for node, used in (("n1", 1), ("n2", 2)):
        directory = tmp_path / f"sys/fs/cgroup/cpuacct/slurm_{node}/uid_1000/job_5"
        directory.mkdir(parents=True)
        (directory / "cpuacct.usage").write_text(f"{used}\n")
        scope = tmp_path / f"sys/fs/cgroup/system.slice/{node}_slurmstepd.scope/job_6"
        scope.mkdir(parents=True)
        (scope / "cpu.stat").write_text(f"usage_usec {used}\n")
    for node, used in (("n1", 1), ("n2", 2)):
        assert cgroup.find_job(tmp_path, "5", node=node).read()[cgroup.CPU].ticks == used
        assert cgroup.find_job(tmp_path, "6", node=node).read()[cgroup.CPU].ticks == 1000 * used


def test_of_several_slurmd_of_other_names_the_one_with_jobs_is_the_only_one_that_is_known(tmp_path):
    for node, jobs in (("a", ()), ("b", ("5",)), ("c", ())):
        for top in ("", *(f"/uid_0/job_{job}" for job in jobs)):
            directory = tmp_path / f"sys/fs/cgroup/cpuacct/slurm_{node}{top}"
            directory.mkdir(parents=True)
            (directory / "cpuacct.usage").write_text("7\n")
    assert cgroup.find_parent(tmp_path, "n1").read()[cgroup.CPU].ticks == 7
    assert cgroup.find_job(tmp_path, "5", node="n1").read()[cgroup.CPU].ticks == 7
    (tmp_path / "sys/fs/cgroup/cpuacct/slurm_c/uid_0/job_5").mkdir(parents=True)
    assert cgroup.find_parent(tmp_path, "n1") is None
    assert cgroup.find_job(tmp_path, "5", node="n1") is None  # a job of both: nobody says which part is n1's
    assert cgroup.find_parent(tmp_path, "b").read()[cgroup.CPU].ticks == 7
    (tmp_path / "sys/fs/cgroup/cpuacct/slurm_b/uid_0/job_5/cpuacct.usage").write_text("3\n")
    assert cgroup.find_job(tmp_path, "5", node="b").read()[cgroup.CPU].ticks == 3


def test_the_scope_of_a_slice_that_was_slurms_before_is_not_its_parent(tmp_path):
    for place, used in (("system.slice", 1), ("slurm.slice", 2)):
        scope = tmp_path / f"sys/fs/cgroup/{place}/slurmstepd.scope"
        (scope / "system").mkdir(parents=True)
        (scope / "cpu.stat").write_text(f"usage_usec {used}\n")
    (tmp_path / "sys/fs/cgroup/slurm.slice/slurmstepd.scope/job_7").mkdir()
    assert cgroup.find_parent(tmp_path).read()[cgroup.CPU].ticks == 2000


@pytest.mark.parametrize(
    "scope",
    [
        "slurm.slice/slurmstepd.scope",
        "hpc.slice/hpc-slurm.slice/n1_slurmstepd.scope",
        "system.slice/system-s.slice/slurmstepd.scope",
    ],
)
def test_slurms_scope_may_lie_in_a_slice_of_its_own(tmp_path, scope):
    for top in (f"sys/fs/cgroup/{scope}", f"sys/fs/cgroup/{scope}/job_7"):
        (tmp_path / top).mkdir(parents=True)
        (tmp_path / top / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 1\n")
    (tmp_path / f"sys/fs/cgroup/{scope}/job_7/cpuset.cpus.effective").write_text("4-5\n")
    users = tmp_path / "sys/fs/cgroup/user.slice/user-1000.slice/slurmstepd.scope/job_8"
    users.mkdir(parents=True)  # whoever has a slice of his own makes no job
    job = cgroup.find_job(tmp_path, "7")
    assert job.read()[cgroup.CPU].ticks == 2_500_000_000
    assert job.cpus() == frozenset({4, 5})
    assert cgroup.find_parent(tmp_path).read()[cgroup.CPU].ticks == 2_500_000_000
    assert cgroup.find_job(tmp_path, "8") is None


@pytest.mark.parametrize(("jobs", "own", "cpus"), [
    ("cpuset/slurm/uid_0/job_1", "cpuset/slurm/system", "0,32"),
    ("cpuset/slurm_n1/uid_0/job_1", "cpuset/slurm_n1/system", "0"),
    ("system.slice/slurmstepd.scope/job_1", "system.slice/slurmd.service", "0-1"),
    ("system.slice/n1_slurmstepd.scope/job_1", "system.slice/slurmd@n1.service", "0-1"),
    ("slurm.slice/slurmstepd.scope/job_1", "slurm.slice/slurmd.service", "7"),
    ("system.slice/slurmstepd.scope/job_1", "system.slice/slurmstepd.scope/slurmd", "2"),
])  # fmt: skip
def test_the_cpus_that_slurm_keeps_for_the_system_are_those_of_its_daemon(tmp_path, jobs, own, cpus):
    cgroups = tmp_path / "sys/fs/cgroup"
    (cgroups / jobs).mkdir(parents=True)
    assert cgroup.reserved_cpus(tmp_path, "n1") == frozenset()
    (cgroups / own).mkdir(parents=True)
    for content, found in (("", frozenset()), ("x", frozenset()), (cpus, cpu_list.parse(cpus))):
        (cgroups / own / "cpuset.cpus").write_text(f"{content}\n")
        assert cgroup.reserved_cpus(tmp_path, "n1") == found


def test_a_cpuset_that_constrains_nothing_is_none(tmp_path):
    job = tmp_path / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_1"
    job.mkdir(parents=True)
    (job / "cpuset.cpus.effective").write_text("0-3\n")
    (job / "cpuset.cpus").write_text("\n")
    assert cgroup.find_job(tmp_path, "1").cpus() is None
    (job / "cpuset.cpus").write_text("0-3\n")
    assert cgroup.find_job(tmp_path, "1").cpus() == frozenset(range(4))


def test_a_job_whose_cgroup_is_gone_is_a_gap(tmp_path):
    job = cgroup.find_job(build("cgroup_v2", tmp_path), "7")
    job.close()
    assert {reading.ticks for reading in job.read()} == {None}


def test_the_kernels_own_v2_cpu_stat(tmp_path):
    for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        if (top / "cgroup.controllers").exists() and os.access(top, os.W_OK):
            break
    else:
        pytest.skip("no writable cgroup v2 hierarchy")
    directory = top / f"perun-unit-test-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    try:
        job = cgroup.JobCgroup("job-1", {"": directory})
        before = job.read()[cgroup.CPU].ticks
        code = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
        command = f"echo $$ > {directory}/cgroup.procs && exec {sys.executable} -c '{code}'"
        subprocess.run(["sh", "-c", command], check=True)
        used_ns = job.read()[cgroup.CPU].ticks - before
        assert used_ns >= 200_000_000
        job.close()
    finally:
        directory.rmdir()


# --- /proc


STAT = """cpu  40 0 20 100 10 0 0 0 0 0
cpu0 30 0 10 50 5 0 0 0 0 0
cpu1 10 0 10 50 5 0 0 0 0 0
intr 1
"""


def test_busy_time_is_without_idle_and_iowait():
    tick_ns = S // procstat.TICKS_PER_S
    assert procstat.busy_ns(STAT) == {0: 40 * tick_ns, 1: 20 * tick_ns}


def proc(root: Path, stat: str = STAT) -> Path:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(stat)
    (root / "proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    return root


def test_procstat_reads_each_file_once(tmp_path):
    (reader,) = procstat.discover(proc(tmp_path), lambda: 9).readers
    assert reader.read() == (Reading(60, 9), Reading(600 * 1024, 9))
    assert set(reader.last_busy_ns) == {0, 1}
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000 kB\n")
    assert reader.read()[1].ticks is None


def test_fault_10_a_machine_without_power_sensors_gets_a_marked_estimate(tmp_path):
    catalog = discover_all(
        proc(tmp_path), names=None, selection=Selection(exclude_backends=("psutil", "nvml", "amdsmi"))
    )
    (sensor,) = [sensor for sensor in catalog.sensors if sensor.quantity is Quantity.ENERGY]
    assert sensor.provenance is Provenance.ESTIMATED
    assert sensor.gain_error >= 0.5
    assert "assumed" in sensor.gain_source
    assert "estimated" in scope_sentence(plan(catalog.sensors))
    catalog.close()


def test_fault_10_an_estimate_is_never_mixed_with_a_measurement(tmp_path):
    proc(build("intel_two_sockets", tmp_path))
    catalog = discover_all(tmp_path, selection=Selection(exclude_backends=("psutil", "nvml", "amdsmi")))
    assert "estimate" not in catalog.found
    both = plan([*catalog.sensors, *estimate.discover(tmp_path).sensors])
    assert {domain.sensor.provenance for domain in both.domains} == {Provenance.MEASURED}


@pytest.mark.parametrize(("scope", "measures"), [
    ("GPU (H100)", False),
    ("module: GPU, its CPU and memory (GH200)", True),
    ("APU socket, in which it is not documented", True),
])  # fmt: skip
def test_a_gpus_meter_in_which_its_cpu_is_leaves_nothing_to_estimate(scope, measures):
    told = {"host": "h", "backend": "nvml", "device": "d", "domain": "gpu-a", "component": "gpu"}
    meter = Sensor(id="nvml:gpu-a:energy", kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="mJ", scope=scope, **told)
    assert has_power([meter]) is measures


def test_the_estimate_follows_the_busy_time(tmp_path):
    now = 0
    (reader,) = estimate.discover(proc(tmp_path), lambda: now).readers
    (before,) = reader.read()
    now = 10 * S
    ticks = 5 * procstat.TICKS_PER_S
    (tmp_path / "proc/stat").write_text(f"cpu0 {30 + ticks} 0 10 50 5 0 0 0 0 0\ncpu1 10 0 10 50 5 0 0 0 0 0\n")
    (after,) = reader.read()
    # Two CPUs for 10 s at 1 W idle, and 3 W more for 5 s on one of them.
    assert difference(reader.sensors[0], before, after).ticks == 35_000_000


# --- psutil


Times = namedtuple("Times", "user system idle iowait guest")
Memory = namedtuple("Memory", "total available")
Disk = namedtuple("Disk", "read_bytes write_bytes")
Net = namedtuple("Net", "bytes_recv bytes_sent")


class FakePsutil:
    def __init__(self, rows):
        self.rows = iter(rows)

    def cpu_times(self, percpu):
        return next(self.rows)

    def virtual_memory(self):
        return Memory(100, 40)

    def disk_io_counters(self, perdisk):
        raise OSError("no disks today")

    def net_io_counters(self, pernic):
        return {"ib0": Net(5, 6)}


def test_fault_06_utilisation_is_of_all_cores_from_one_read_of_its_own():
    rows = [
        [Times(0, 0, 0, 0, 0)] * 2,
        [Times(9, 1, 0, 0, 9), Times(10, 0, 0, 0, 0)],  # both busy; guest time is part of user
        [Times(9, 1, 10, 0, 9), Times(15, 0, 0, 5, 0)],
    ]
    reader = psutil_backend.HostActivity(FakePsutil(rows), ("sda",), ("ib0", "ib1"))
    sensors = [sensor.id for sensor in reader.sensors]
    first = dict(zip(sensors, reader.read()))
    assert first["psutil:cpu:utilisation"].ticks == 1000
    assert first["psutil:cpu-0:utilisation"].ticks == first["psutil:cpu-1:utilisation"].ticks == 1000
    assert first["psutil:memory:data"].ticks == 60
    assert first["psutil:disk-sda:read"].error == "no disks today"
    assert first["psutil:net-ib0:write"].ticks == 6
    assert first["psutil:net-ib1:read"].error == "ib1 is gone"
    second = dict(zip(sensors, reader.read()))
    assert second["psutil:cpu-0:utilisation"].ticks == 0
    assert second["psutil:cpu-1:utilisation"].ticks == 500
    assert second["psutil:cpu:utilisation"].ticks == 250


def test_utilisation_goes_on_when_a_cpu_goes_or_comes():
    both = [[Times(9 * row, 0, 0, 0, 0), Times(0, 0, 9 * row, 0, 0)] for row in range(3)]
    one = [[Times(90 + 9 * row, 0, 0, 0, 0)] for row in range(2)]
    again = [[Times(500 + 9 * row, 0, 0, 0, 0), Times(0, 0, 500 + 9 * row, 0, 0)] for row in range(2)]
    reader = psutil_backend.HostActivity(FakePsutil([*both[:2], *one, *again]), (), ())
    assert [reader.read()[0].ticks for _ in range(5)] == [500, None, 1000, None, 500]
    reader = psutil_backend.HostActivity(FakePsutil([*both[:2], *one, *again]), (), ())
    assert [reader.read()[1].ticks for _ in range(5)] == [1000, None, None, None, 1000]


def test_only_physical_disks_and_real_interfaces(tmp_path):
    for path in (
        "sys/block/sda/device",
        "sys/block/loop0",
        "sys/block/dm-0",
        "sys/class/net/ib0/device",
        "sys/class/net/lo",
    ):
        (tmp_path / path).mkdir(parents=True)
    assert psutil_backend.physical_disks(tmp_path) == ("sda",)
    assert psutil_backend.real_nics(tmp_path) == ("ib0",)


# --- IPMI


DCMI = "Current Power                        : 164 Watts\nAverage Power over sampling duration : 9 watts\n"


def test_dcmi_uses_the_current_power_only(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()
    found = ipmi.discover(tmp_path, run=lambda: DCMI + "Power Measurement                    : Active\n")
    assert by_id(found)["ipmi:node:power"].ticks == 164
    assert ipmi.discover(tmp_path / "nowhere").missing == ()


@pytest.mark.parametrize(("output", "why"), [
    ("Current Power : 0 Watts\n", "0 W"), ("nothing\n", "Current Power"),
])  # fmt: skip
def test_dcmi_that_does_not_answer_is_missing_with_its_reason(tmp_path, output, why):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()
    found = ipmi.discover(tmp_path, run=lambda: output)
    assert found.readers == ()
    assert why in found.missing[0].why


# --- declared files and recordings


def test_a_declared_file(tmp_path):
    (tmp_path / "meter").write_text("rack 7: 4567 W\n")
    declared = [
        file.Declaration.from_policy(
            {
                "name": "pdu",
                "path": "/meter",
                "kind": "power",
                "unit": "W",
                "component": "node",
                "pattern": r": (\d+) W",
            }
        ),
        file.Declaration(name="gone", path="/nowhere", kind="power", unit="W", component="node"),
        file.Declaration(name="wrong", path="/meter", kind="counter", unit="W", component="node"),
        file.Declaration(name="greedy", path="/meter", kind="power", unit="W", component="node", pattern=r"\d+"),
    ]
    found = file.discover(tmp_path, declared)
    assert by_id(found)["file:pdu:power"].ticks == 4567
    assert found.sensors[0].base(4567) == 4_567_000_000
    assert [one.what for one in found.missing] == ["gone", "wrong", "greedy"]
    (tmp_path / "meter").write_text("off\n")
    assert by_id(found)["file:pdu:power"].ticks is None


def test_a_declared_counter_in_mj_wraps_where_the_site_says(tmp_path):
    (tmp_path / "e").write_text("3999999999\n")
    declared = file.Declaration(
        name="e", path="e", kind="counter", unit="mJ", component="cpu", range_uj=4_000_000_000_000
    )
    (reader,) = file.discover(tmp_path, [declared]).readers
    (before,) = reader.read()
    (tmp_path / "e").write_text("4\n")
    (after,) = reader.read()
    assert reader.sensors[0].base(difference(reader.sensors[0], before, after).ticks) == 5000


# --- GPUs as the kernel driver names them


def test_gpus_from_the_kernel_driver(tmp_path):
    for bus, uuid, minor in (("0000:3b:00.0", "GPU-x", 1), ("0000:86:00.0", "GPU-y", 0)):
        directory = tmp_path / "proc/driver/nvidia/gpus" / bus
        directory.mkdir(parents=True)
        (directory / "information").write_text(f"Model: \t\t NVIDIA X\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n")
    found = gpus.from_proc(tmp_path)
    assert [(gpu.uuid, gpu.pci, gpu.minor) for gpu in found] == [
        ("GPU-x", "0000:3b:00.0", 1),
        ("GPU-y", "0000:86:00.0", 0),
    ]
    assert gpus.resolve(["0"], found) == (gpus.Held("gpu-GPU-y"),)


# --- the catalog


def test_a_package_that_is_too_old_is_to_be_renewed(tmp_path):
    (tmp_path / "psutil.py").write_text("__version__ = '2.0'\n")
    program = "from perun_hpc.backend.catalog import open_backend; print(open_backend('psutil').missing[0])"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert "remedy='pip install -U psutil: it is of a version without that'" in done.stdout


def test_each_backend_fails_alone(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu0 broken\n")
    found = open_backend("estimate", tmp_path)
    assert found.readers == ()
    assert found.missing[0].why == "/proc/stat: it is malformed"
    with pytest.raises(NotFoundError, match="powercap"):
        open_backend("powrcap")
    assert len({backend.name for backend in BACKENDS}) == len(BACKENDS)


def test_selection_matches_at_the_start(tmp_path):
    (sensor, *_) = open_backend("powercap", build("intel_two_sockets", tmp_path)).sensors
    assert Selection(include_sensors=("powercap",)).sensors([sensor])
    assert not Selection(include_sensors=("package",)).sensors([sensor])
    assert not Selection(exclude_sensors=(".*package-0",)).sensors([sensor])
    assert not Selection(include_backends=("nvml",)).backend("powercap")


# --- sensors as values


def test_a_sensor_survives_json(tmp_path):
    for sensor in open_backend("powercap", build("intel_two_sockets", tmp_path)).sensors:
        assert Sensor.from_json(sensor.to_json() | {"later": 1}) == sensor
    with pytest.raises(DataError, match="damaged"):
        Sensor.from_json({"id": "x"})


def test_values_for_people():
    assert human(1_500_000, Quantity.ENERGY) == "1.5 J"
    assert human(700_000_000, Quantity.POWER) == "700 W"
    assert human(455, Quantity.UTILISATION) == "45.5 %"
    assert human(0, Quantity.DATA) == "0 B"


def test_amd_units_are_exact_fractions():
    sensor = Sensor(
        id="x:y:energy", host="n", backend="x", device="d", domain="y", component="cpu", kind=Kind.COUNTER,
        quantity=Quantity.ENERGY, unit="2^-16 J", scale_num=1_000_000, scale_den=2**16,
    )  # fmt: skip
    assert sensor.base(2**16 * 3) == 3_000_000
    assert sensor.base(1) == 15


def test_second_sources_of_the_same_hardware_are_left_out(tmp_path):
    build("cray_ex", build("intel_two_sockets", tmp_path))
    chosen = plan([*open_backend("powercap", tmp_path).sensors, *cray_pm.discover(tmp_path).sensors])
    assert {leaf.name for leaf in chosen.leaves if leaf.kind is DomainKind.PACKAGE} == {"package-0", "package-1"}
    assert {sensor.domain for sensor, why in chosen.left_out if "same hardware" in why} == {"cray-cpu", "cray-memory"}
