from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from perun_hpc.backend import mirrors, powercap
from perun_hpc.backend.amdsmi import APU_SOCKET
from perun_hpc.data_model.sensor import Kind, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.containment import NO_PLACE, plan, scope_sentence
from tests.sysfs import build


def make(root: Path, **zones: tuple[str, int]) -> Path:
    base = root / "sys/class/powercap"
    base.mkdir(parents=True, exist_ok=True)
    for zone, (name, energy) in zones.items():
        directory = base / zone
        directory.mkdir()
        (directory / "name").write_text(name + "\n")
        (directory / "energy_uj").write_text(f"{energy}\n")
        (directory / "max_energy_range_uj").write_text("262143328850\n")
    return base


def discover(root):
    return powercap.discover(root, clock=lambda: 42, pause=lambda seconds: None)


def values(found):
    return {s.domain: r.ticks for reader in found.readers for s, r in zip(reader.sensors, reader.read())}


def test_packages_parts_and_dram_beside_the_package(tmp_path):
    make(tmp_path, **{
        "intel-rapl:0": ("package-0", 10), "intel-rapl:0:0": ("core", 5), "intel-rapl:0:1": ("uncore", 1),
        "intel-rapl:0:2": ("dram", 3), "intel-rapl:1": ("package-1", 20), "intel-rapl:1:0": ("dram", 4),
    })  # fmt: skip
    found = discover(tmp_path)
    assert values(found) == {"package-0": 10, "core-0": 5, "uncore-0": 1, "dram-0": 3, "package-1": 20, "dram-1": 4}
    parents = {sensor.domain: sensor.parent for sensor in found.sensors}
    assert parents["core-0"] == "powercap:package-0:energy"
    assert parents["dram-0"] is None
    assert parents["package-0"] is None
    assert found.missing == ()
    assert all(s.provenance is Provenance.MEASURED and s.wrap_range == 262143328911 for s in found.sensors)


def test_psys_contains_packages_and_dram(tmp_path):
    make(tmp_path, **{
        "intel-rapl:0": ("package-0", 10), "intel-rapl:0:0": ("dram", 5), "intel-rapl:1": ("psys", 99),
    })  # fmt: skip
    parents = {sensor.domain: sensor.parent for sensor in discover(tmp_path).sensors}
    assert parents == {"package-0": "powercap:psys:energy", "dram-0": "powercap:psys:energy", "psys": None}


def test_the_second_door_to_a_package_is_counted_once(tmp_path):
    make(tmp_path, **{"intel-rapl-mmio:0": ("package-0", 11), "intel-rapl:0": ("package-0", 10)})
    found = discover(tmp_path)
    assert values(found) == {"package-0": 10}
    assert [one.what for one in found.missing] == ["intel-rapl-mmio:0 (package-0)"]


def test_mmio_stands_in_when_the_plain_door_is_closed(tmp_path):
    base = make(tmp_path, **{"intel-rapl-mmio:0": ("package-0", 11), "intel-rapl:0": ("package-0", 10)})
    (base / "intel-rapl:0/energy_uj").unlink()
    (base / "intel-rapl:0/energy_uj").symlink_to("missing")
    assert values(discover(tmp_path)) == {"package-0": 11}


class Counters:
    """Zones whose counters go on by so many uJ at each pause; those of one register have one file."""

    def __init__(self, root: Path, **zones: tuple[str, str, int]) -> None:
        self.base = make(root, **{zone: (name, 0) for zone, (name, _, _) in zones.items()})
        self.root, self.values = root, {register: start for _, register, start in zones.values()}
        self.steps = dict.fromkeys(self.values, 100)
        registers = root / "registers"
        registers.mkdir()
        for zone, (_, register, _) in zones.items():
            (self.base / zone / "energy_uj").unlink()
            (self.base / zone / "energy_uj").symlink_to(registers / register)
        self.pause(0)

    def pause(self, seconds: float) -> None:
        for register, step in self.steps.items():
            self.values[register] += step
            (self.root / "registers" / register).write_text(f"{self.values[register]}\n")

    def discover(self):
        return powercap.discover(self.root, pause=self.pause)


def dies(*registers: str, name: str = "package-0-die-{}") -> dict[str, tuple[str, str, int]]:
    return {f"intel-rapl:{place:x}": (name.format(place), one, 500) for place, one in enumerate(registers)}


def test_mirrored_dies_are_counted_once(tmp_path):
    found = Counters(tmp_path, **dies("a", "a", "a")).discover()
    assert [sensor.domain for sensor in found.sensors] == ["package-0-die-0"]
    assert [one.what for one in found.missing] == ["intel-rapl:1 (package-0-die-1)", "intel-rapl:2 (package-0-die-2)"]
    assert "same counter as intel-rapl:0" in found.missing[0].why


def test_counters_that_stand_still_are_not_taken_for_mirrors(tmp_path):
    make(tmp_path, **{"intel-rapl:0": ("package-0", 500), "intel-rapl:1": ("package-1", 500)})
    assert values(discover(tmp_path)) == {"package-0": 500, "package-1": 500}


def test_dies_that_merely_start_equal_are_both_kept(tmp_path):
    counters = Counters(tmp_path, **dies("a", "b"))
    counters.steps["b"] = 99
    assert len(counters.discover().sensors) == 2


def test_a_counter_that_moves_between_two_zones_readings_is_found_out_all_the_same(tmp_path):
    counters = Counters(tmp_path, **dies(*"aaaabbbb"))
    counters.values["b"] = 700
    running = threading.Event()
    registers = [tmp_path / "registers" / name for name in "ab"]

    def run() -> None:
        files = [os.open(one, os.O_WRONLY) for one in registers]
        for value in range(1_000_000, 2_000_000):
            for file, added in zip(files, (0, 3_000_000), strict=True):
                os.pwrite(file, f"{value + added}\n".encode(), 0)
            running.set()
            if done.is_set():
                return

    done = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    running.wait()
    try:
        found = powercap.discover(tmp_path)
    finally:
        done.set()
        thread.join()
    assert [sensor.domain for sensor in found.sensors] == ["package-0-die-0", "package-0-die-4"]


def test_what_stands_still_at_one_value_of_a_package_is_counted_once_until_it_counts(tmp_path):
    counters = Counters(tmp_path, **dies("a", "a"), **{"intel-rapl:2": ("package-1-die-0", "b", 500)})
    counters.steps = {}
    found = counters.discover()
    assert [sensor.domain for sensor in found.sensors] == ["package-0-die-0", "package-1-die-0"]
    (missing,) = found.missing
    assert (missing.what, missing.remedy) == ("intel-rapl:1 (package-0-die-1)", mirrors.AGAIN)
    before = readings(found)
    assert not mirrors.look_again(found.sensors, found.missing, before, readings(found))
    counters.steps = {"a": 7}
    counters.pause(0)
    assert mirrors.look_again(found.sensors, found.missing, before, readings(found))


def test_two_counters_that_turn_out_to_show_one_value_are_looked_at_again(tmp_path):
    counters = Counters(tmp_path, **dies("a", "b", name="package-{}"))
    counters.steps = {"a": 0, "b": 0}
    found = counters.discover()
    before = readings(found)
    assert not mirrors.look_again(found.sensors, (), before, readings(found))
    counters.steps = {"a": 9, "b": 9}
    counters.pause(0)
    assert mirrors.look_again(found.sensors, (), before, readings(found))
    counters.steps = {"a": 9, "b": 8}
    counters.pause(0)
    assert not mirrors.look_again(found.sensors, (), before, readings(found))


def readings(found):
    return {s.id: r for reader in found.readers for s, r in zip(reader.sensors, reader.read())}


def test_cores_of_a_die_that_is_left_out_are_no_package(tmp_path):
    zones = dies("a", "a") | {"intel-rapl:1:0": ("core", "c", 9), "intel-rapl:0:0": ("core", "d", 9)}
    chosen = plan(Counters(tmp_path, **zones).discover().sensors)
    assert [domain.name for domain in chosen.domains] == ["package-0-die-0"]
    assert {why for _, why in chosen.left_out} == {"contained in package-0-die-0"}


def test_cores_of_a_package_that_cannot_be_opened_are_no_package(tmp_path):
    base = make(
        tmp_path, **{"intel-rapl:0": ("package-0", 10), "intel-rapl:0:0": ("core", 5), "intel-rapl:1": ("package-1", 7)}
    )
    (base / "intel-rapl:0/energy_uj").unlink()
    (base / "intel-rapl:0/energy_uj").symlink_to("energy_uj")
    chosen = plan(discover(tmp_path).sensors)
    assert [domain.name for domain in chosen.domains] == ["package-1"]
    assert [why for _, why in chosen.left_out] == ["a part of package-0, which is not there"]


def test_memory_and_platforms_are_mirrored_too(tmp_path):
    zones = {
        "intel-rapl:0": ("package-0", "a", 5), "intel-rapl:0:0": ("dram", "d", 5), "intel-rapl:1": ("psys", "p", 5),
        "intel-rapl:2": ("package-1", "b", 9), "intel-rapl:2:0": ("dram", "d", 5), "intel-rapl:3": ("psys-1", "p", 5),
    }  # fmt: skip
    found = Counters(tmp_path, **zones).discover()
    assert sorted(sensor.domain for sensor in found.sensors) == ["dram-0", "package-0", "package-1", "psys-0"]


@pytest.mark.parametrize(("names", "parents"), [
    (("package-0", "psys", "package-1", "psys"), {"package-0": "psys-0", "package-1": "psys-1"}),
    (("package-0", "psys", "package-1", "psys-1"), {"package-0": "psys-0", "package-1": "psys-1"}),
    (("package-0", "package-1", "psys"), {"package-0": "psys", "package-1": "psys"}),
    (("package-0", "package-1", "psys-1"), {"package-0": None, "package-1": "psys-1"}),
    (("package-0-die-0", "package-0-die-1", "psys", "package-1-die-0", "psys-1"),
     {"package-0-die-0": "psys-0", "package-0-die-1": "psys-0", "package-1-die-0": "psys-1"}),
    (("package-0", "psys", "psys"), {"package-0": None}),
    (("psys", "package-0", "psys-0"), {"package-0": "psys-0"}),
])  # fmt: skip
def test_each_platform_contains_its_own_package(tmp_path, names, parents):
    make(tmp_path, **{f"intel-rapl:{place}": (name, 100 + place) for place, name in enumerate(names)})
    found = discover(tmp_path)
    known = {sensor.domain: sensor.parent and sensor.parent.split(":")[1] for sensor in found.sensors}
    assert {name: known[name] for name in parents} == parents
    chosen = plan(found.sensors)
    assert {meter.name for meter in chosen.meters} == set(parents.values()) - {None}
    others = len(names) - len(parents) - len(chosen.meters)
    assert [why for _, why in chosen.left_out] == ["its place among the others is unknown"] * others


@pytest.mark.parametrize(("most_uj", "step_uj"), [(262143328850, 61), (65532610987, 15), (4294967295000000, 1_000_000)])
def test_the_hardwares_unit_is_the_resolution(tmp_path, most_uj, step_uj):
    base = make(tmp_path, **{"intel-rapl:0": ("psys", 10)})
    (base / "intel-rapl:0/max_energy_range_uj").write_text(f"{most_uj}\n")
    (sensor,) = discover(tmp_path).sensors
    assert (sensor.resolution, sensor.wrap_range) == (step_uj, most_uj + step_uj)


def test_descriptors_stay_open_and_follow_the_value(tmp_path):
    base = make(tmp_path, **{"intel-rapl:0": ("package-0", 10)})
    found = discover(tmp_path)
    (reader,) = found.readers
    (base / "intel-rapl:0/energy_uj").write_text("12\n")
    (base / "intel-rapl:0/energy_uj").chmod(0)
    assert [(r.ticks, r.mono_ns) for r in reader.read()] == [(12, 42)]
    (base / "intel-rapl:0/energy_uj").write_text("broken\n")
    assert reader.read()[0].ticks is None
    reader.close()
    reader.close()


def test_a_marked_tree_is_simulated(tmp_path):
    (make(tmp_path, **{"intel-rapl:0": ("package-0", 10)}) / "perun_simulated").touch()
    assert {sensor.provenance for sensor in discover(tmp_path).sensors} == {Provenance.SIMULATED}


def test_the_configured_limit_bounds_the_plausible_power(tmp_path):
    base = make(tmp_path, **{"intel-rapl:0": ("package-0", 10)})
    (base / "intel-rapl:0/constraint_0_power_limit_uw").write_text("350000000\n")
    assert discover(tmp_path).sensors[0].max_uw == 1_050_000_000
    (base / "intel-rapl:0/constraint_1_power_limit_uw").write_text("4095875000000\n")
    assert discover(tmp_path).sensors[0].max_uw == 3_000_000_000


@pytest.mark.parametrize(("cpuinfo", "why"), [
    ("vendor_id : GenuineIntel\nflags : hypervisor\n", "virtual machine"),
    ("vendor_id : AuthenticAMD\nflags : sse\n", "no powercap zone"),
])  # fmt: skip
def test_nothing_there_says_why(tmp_path, cpuinfo, why):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    found = discover(tmp_path)
    assert found.readers == ()
    assert why in found.missing[0].why


def test_in_a_container_that_hides_the_counters_the_advice_is_to_show_them(tmp_path):
    (missing,) = discover(build("bug_docker_masked_powercap", tmp_path)).missing
    assert "container" in missing.why
    assert "systempaths=unconfined" in missing.remedy
    assert "intel_rapl_msr" not in missing.remedy


def test_a_virtual_machines_counters_that_stand_at_zero_are_none_and_one_that_counts_is(tmp_path):
    root = build("bug_vm_16_packages_zero", tmp_path)
    found = discover(root)
    assert (found.readers, len(found.missing)) == ((), 16)
    assert all("stand at 0" in one.why for one in found.missing)
    counter = root / "sys/class/powercap/intel-rapl:3/energy_uj"
    begins = powercap.discover(root, pause=lambda seconds: counter.write_text("61\n") and None)
    assert len(begins.sensors) == 16  # the hypervisor's own have just begun
    (root / "proc/cpuinfo").write_text("vendor_id : GenuineIntel\nflags : fpu\n")
    counter.write_text("0\n")
    assert len(discover(root).sensors) == 16


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_in_a_container_a_module_is_loaded_on_the_host(tmp_path, mark):
    (tmp_path / "run").mkdir()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("vendor_id : GenuineIntel\n")
    (tmp_path / mark).touch()
    (missing,) = discover(tmp_path).missing
    assert "intel_rapl_msr (Linux 5.8 or newer for AMD) on the host; in a container: " in missing.remedy


def test_fault_09_an_unreadable_dram_costs_only_itself_and_names_the_remedy(tmp_path):
    base = make(tmp_path, **{"intel-rapl:0": ("package-0", 10), "intel-rapl:0:0": ("dram", 5)})
    # Root may read everything; a link to itself can be opened by nobody.
    (base / "intel-rapl:0:0/energy_uj").unlink()
    (base / "intel-rapl:0:0/energy_uj").symlink_to("energy_uj")
    found = discover(tmp_path)
    assert values(found) == {"package-0": 10}
    (missing,) = found.missing
    assert missing.what == "intel-rapl:0:0 (dram)"
    assert "energy_uj" in missing.why
    assert "CAP_DAC_READ_SEARCH" in missing.remedy


def test_fault_09_zones_from_ten_on_are_found(tmp_path):
    # The kernel numbers them in hexadecimal.
    make(tmp_path, **{f"intel-rapl:{number:x}": (f"package-{number}", 100 + number) for number in range(18)})
    make(tmp_path, **{f"intel-rapl:{number:x}:{10:x}": ("dram", 7 + number) for number in (9, 10, 17)})
    expected = {f"package-{number}": 100 + number for number in range(18)}
    assert values(discover(tmp_path)) == expected | {"dram-9": 16, "dram-10": 17, "dram-17": 24}


def test_a_zone_of_a_name_that_no_kernel_gives_is_named(tmp_path):
    make(tmp_path, **{"intel-rapl:0": ("package-0", 10), "Zone 7": ("odd", 5)})
    found = discover(tmp_path)
    assert values(found) == {"package-0": 10}
    assert [one.what for one in found.missing] == ["Zone 7"]


def test_fault_09_a_node_with_psys_alone_reports_it(tmp_path):
    make(tmp_path, **{"intel-rapl:0": ("psys", 12345)})
    found = discover(tmp_path)
    assert values(found) == {"psys": 12345}
    assert found.sensors[0].component == "node"


@pytest.mark.parametrize(("flags", "noisy"), [("fpu sgx sgx_lc", True), ("fpu vme", False)])
def test_a_processor_that_filters_energies_is_flagged(tmp_path, flags, noisy):
    make(tmp_path, **{"intel-rapl:0": ("package-0", 10)})
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: {flags}\n\n")
    (sensor,) = discover(tmp_path).sensors
    assert ("SGX" in sensor.gain_source) is noisy


@pytest.mark.parametrize(
    ("vendor", "family", "model", "error"),
    [
        ("GenuineIntel", 6, 62, 0.08),  # Ivy Bridge
        ("GenuineIntel", 6, 63, 0.03),  # Haswell
        ("GenuineIntel", 6, 207, 0.03),  # Emerald Rapids
        ("AuthenticAMD", 21, 1, 0.08),  # Bulldozer
        ("AuthenticAMD", 23, 49, 0.08),  # Zen 2
        ("AuthenticAMD", 25, 1, 0.03),  # Zen 3
        ("HygonGenuine", 24, 0, 0.08),
        ("", "", "", 0.03),
    ],
)
def test_a_model_of_energy_is_not_taken_for_a_measurement(tmp_path, vendor, family, model, error):
    make(tmp_path, **{"intel-rapl:0": ("package-0", 10)})
    (tmp_path / "proc").mkdir()
    cpu = f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nflags\t\t: fpu\n\n"
    (tmp_path / "proc/cpuinfo").write_text(cpu + "processor\t: 1\n")
    (sensor,) = discover(tmp_path).sensors
    assert sensor.gain_error == error
    assert ("model" in sensor.gain_source) is (error == 0.08)


def test_the_package_of_an_apu_says_so_and_never_counts_beside_its_gpus_meter(tmp_path):
    zones = {"intel-rapl:0": ("package-0", 10), "intel-rapl:0:0": ("core", 5), "intel-rapl:1": ("package-1", 20)}
    make(tmp_path, **zones)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("vendor_id : AuthenticAMD\nmodel name : AMD Instinct MI300A Accelerator\n\n")
    packages = discover(tmp_path).sensors
    alone = plan(packages)
    assert [domain.name for domain in alone.domains] == ["package-0", "package-1"]
    assert "CPU packages of APUs (what of their GPUs and memory is in these is not documented)" in scope_sentence(alone)
    gpu = Sensor(
        id="amdsmi:gpu-a:energy", host="n", backend="amdsmi", device="0000:02:00.0", domain="gpu-a", component="gpu",
        kind=Kind.COUNTER, quantity=Quantity.ENERGY, unit="uJ", scope=APU_SOCKET,
    )  # fmt: skip
    both = plan([*packages, gpu])
    assert [domain.name for domain in both.domains] == ["gpu-a"]
    assert {sensor.domain: why for sensor, why in both.left_out} == {
        "package-0": NO_PLACE, "package-1": NO_PLACE, "core-0": NO_PLACE,
    }  # fmt: skip
    said = scope_sentence(both)
    assert "APU sockets (what of their CPUs and memory is in these is not documented)" in said
    assert "nobody knows where they belong: CPU cores, CPU package of an APU" in said
