from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.backend import powercap
from perun_hpc.data_model.sensor import Provenance


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


def test_mirrored_dies_are_counted_once(tmp_path):
    base = make(tmp_path, **{"intel-rapl:0": ("package-0-die-0", 500), "intel-rapl:1": ("package-0-die-1", 500)})

    def both_move(seconds):
        for zone in ("intel-rapl:0", "intel-rapl:1"):
            (base / zone / "energy_uj").write_text("777\n")

    found = powercap.discover(tmp_path, pause=both_move)
    assert values(found) == {"package-0-die-0": 777}
    assert "same counter as intel-rapl:0" in found.missing[0].why


def test_counters_that_stand_still_are_not_taken_for_mirrors(tmp_path):
    make(tmp_path, **{"intel-rapl:0": ("package-0", 500), "intel-rapl:1": ("package-1", 500)})
    assert values(discover(tmp_path)) == {"package-0": 500, "package-1": 500}


def test_dies_that_merely_start_equal_are_both_kept(tmp_path):
    base = make(tmp_path, **{"intel-rapl:0": ("package-0-die-0", 500), "intel-rapl:1": ("package-0-die-1", 500)})

    def one_moves(seconds):
        (base / "intel-rapl:0/energy_uj").write_text("777\n")

    assert values(powercap.discover(tmp_path, pause=one_moves)) == {"package-0-die-0": 777, "package-0-die-1": 500}


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
    make(tmp_path, **{f"intel-rapl:{number}": (f"package-{number}", 100 + number) for number in range(12)})
    assert values(discover(tmp_path)) == {f"package-{number}": 100 + number for number in range(12)}


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
