"""hwmon's chips: which input is what, and what is done about those that do not answer."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.backend import hwmon
from perun_hpc.backend.base import Discovery
from perun_hpc.energy.containment import plan, scope_sentence

MW = 1000
W = 10**6
NOBODY = 65534


def chips(root: Path, found: Mapping[str, Mapping[str, object]], devices: Mapping[str, str] | None = None) -> Path:
    """Write hwmon's chips; `devices` are the paths below /sys/devices that their `device` links lead to."""
    for chip, files in found.items():
        directory = root / "sys/class/hwmon" / chip
        directory.mkdir(parents=True)
        for name, content in files.items():
            (directory / name).write_text(f"{content}\n")
        if devices and chip in devices:
            device = root / "sys/devices" / devices[chip]
            device.mkdir(parents=True, exist_ok=True)
            (directory / "device").symlink_to(device)
    return root


OPEN: list[Discovery] = []


def discovered(root: Path) -> Discovery:
    """What there is; closed when the test is over."""
    OPEN.append(hwmon.discover(root))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def shown(root: Path) -> dict[str, int | None]:
    """Domain -> ticks."""
    found = discovered(root)
    return {s.domain: r.ticks for reader in found.readers for s, r in zip(reader.sensors, reader.read(), strict=True)}


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A directory that a user who is not root may read, as such a user; root may read everything."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield base
    finally:
        if root:
            os.seteuid(0)
        for path in base.rglob("*"):
            path.chmod(0o755)
        shutil.rmtree(base)


LABELS = [
    # driver, stem, label, domain, component, is inside
    ("ibmpowernv", "energy1", "System", "node", "node", None),
    ("ibmpowernv", "energy1", "Chip 8", "package-8", "cpu", None),
    ("ibmpowernv", "power1", "Chip 0 Memory", "dram-0", "dram", None),
    ("amd_energy", "energy9", "Esocket1", "package-1", "cpu", None),
    ("zenergy", "energy9", "Esocket0", "package-0", "cpu", None),
    ("apm_xgene", "power1", "CPU power", "package-0", "cpu", None),
    ("amd_hsmp_hwmon", "power1", None, "package-0", "cpu", None),
    ("fam15h_power", "power1", None, "package-0", "cpu", None),
    ("macsmc_hwmon", "power1", "Total System Power", "node", "node", None),
    ("corsairpsu", "power1", "power total", "node", "node", None),
    ("aem1", "energy1", None, "node", "node", None),
    ("aem2", "power4", None, "limit-power4", "other", None),
    ("power_meter", "power1", None, "node", "node", None),
    ("power_meter", "power1", "Module Power Socket 1", "module-1", "node", None),
    ("scmi_sensors", "energy1", "SOC", "scmi-sensors-soc", "other", None),
]


@pytest.mark.parametrize(("driver", "stem", "label", "domain", "component", "_"), LABELS)
def test_driver_and_label_say_what_an_input_is(tmp_path, driver, stem, label, domain, component, _):
    files = {"name": driver, f"{stem}_input": 5 * W, **({f"{stem}_label": label} if label else {})}
    (sensor,) = discovered(chips(tmp_path, {"hwmon0": files})).sensors
    assert (sensor.domain, sensor.component) == (domain, component)
    assert sensor.quantity == ("energy" if stem.startswith("energy") else "power")


def test_a_habana_card_is_known_by_its_driver_whatever_it_is_called(tmp_path):
    chips(tmp_path, {"hwmon3": {"name": "HL225", "power1_input": 90 * W}}, {"hwmon3": "pci0000:19/0000:19:00.0"})
    driver = tmp_path / "sys/bus/pci/drivers/habanalabs"
    driver.mkdir(parents=True)
    (tmp_path / "sys/devices/pci0000:19/0000:19:00.0/driver").symlink_to(driver)
    (sensor,) = discovered(tmp_path).sensors
    assert (sensor.domain, sensor.component) == ("gpu-0000-19-00-0", "gpu")


def test_cores_are_inside_their_own_package_and_rails_inside_their_chip(tmp_path):
    files = {"name": "amd_energy"}
    for number in range(4):
        files |= {f"energy{number + 1}_input": 7, f"energy{number + 1}_label": f"Ecore{number:03}"}
    for number in range(2):
        files |= {f"energy{number + 5}_input": 9, f"energy{number + 5}_label": f"Esocket{number}"}
    found = discovered(chips(tmp_path, {"hwmon0": files})).sensors
    assert {sensor.domain: sensor.parent for sensor in found if sensor.component == "other"} == {
        "core000": "hwmon:package-0:energy", "core001": "hwmon:package-0:energy",
        "core002": "hwmon:package-1:energy", "core003": "hwmon:package-1:energy",
    }  # fmt: skip
    assert {why for _, why in plan(found).left_out} == {"contained in package-0", "contained in package-1"}


def test_a_part_that_nothing_read_contains_is_named_by_the_drivers_own_word(tmp_path):
    files = {"name": "ibmpowernv", "energy1_input": 7 * W, "energy1_label": "Chip 0 ", "energy2_input": 9 * W}
    found = discovered(chips(tmp_path, {"hwmon0": {**files, "energy2_label": "APSS 5 "}}))
    assert scope_sentence(plan(found.sensors)).endswith("nobody knows where they belong: APSS 5, a part of the node.")


def test_sockets_are_counted_in_the_order_of_their_devices_not_of_hwmons_numbers(tmp_path):
    chips(
        tmp_path,
        {"hwmon1": {"name": "amd_hsmp_hwmon", "power1_input": 90 * W},
         "hwmon4": {"name": "amd_hsmp_hwmon", "power1_input": 45 * W}},
        {"hwmon1": "platform/AMDI0097:01", "hwmon4": "platform/AMDI0097:00"},
    )  # fmt: skip
    assert shown(tmp_path) == {"package-0": 45 * W, "package-1": 90 * W}


def test_an_input_keeps_its_id_when_hwmon_numbers_others_first(tmp_path):
    rails = {"name": "ina226", "power1_input": 3 * W}, {"name": "ina226", "power1_input": 5 * W}

    def boot(number: int, names: tuple[str, str], bus: int) -> Path:
        devices = (f"platform/c240000.i2c/i2c-{bus}/{bus}-{address}" for address in ("0040", "0041"))
        return chips(tmp_path / str(number), dict(zip(names, rails)), dict(zip(names, devices)))

    assert (
        shown(boot(1, ("hwmon0", "hwmon1"), 1))
        == shown(boot(2, ("hwmon7", "hwmon2"), 5))
        == {"ina226-power1-c240000-i2c-0040": 3 * W, "ina226-power1-c240000-i2c-0041": 5 * W}
    )


def test_a_usb_power_supply_is_known_by_its_port(tmp_path):
    supplies = {
        f"hwmon{n}": {"name": "corsairpsu", "power1_input": n * W, "power1_label": "power total"} for n in (1, 2)
    }
    devices = {f"hwmon{n}": f"usb1/1-{n}/1-{n}:1.0/0003:1B1C:1C1E.000{n + 3}" for n in (1, 2)}
    assert shown(chips(tmp_path, supplies, devices)) == {
        "corsairpsu-power-total-1-1-1-0": W, "corsairpsu-power-total-1-2-1-0": 2 * W,
    }  # fmt: skip


def test_two_meters_that_may_contain_each_other_are_nobodys_and_named(tmp_path):
    meters = {f"hwmon{n}": {"name": "power_meter", "power1_average": n * 100 * W} for n in (1, 2)}
    devices = {"hwmon1": "ACPI/ACPI000D:00", "hwmon2": "ACPI/ACPI000D:01"}
    found = discovered(chips(tmp_path, meters, devices)).sensors
    assert not plan(found).domains
    assert sorted(sensor.id for sensor, _ in plan(found).left_out) == [
        "hwmon:power-meter-power1-acpi000d-01:power", "hwmon:power-meter-power1:power",
    ]  # fmt: skip
    assert {sensor.scope for sensor in found} == {"node, by its ACPI power meter, one of 2"}


def test_of_two_meters_the_one_that_answers_is_the_nodes(tmp_path):
    chips(tmp_path, {
        "hwmon1": {"name": "power_meter", "power1_average": 0xFFFFFFFF * MW},
        "hwmon2": {"name": "power_meter", "power1_average": 131 * W},
    })  # fmt: skip
    assert shown(tmp_path) == {"node": 131 * W}
    (missing,) = discovered(tmp_path).missing
    assert (missing.what, missing.why) == (
        "hwmon1/power1_average (power_meter power1)", "does not measure: all ones, which is no value",
    )  # fmt: skip


@pytest.mark.parametrize("answer", [
    0xFFFFFFFF * MW, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF * MW, 0xFFFF * W, 2**63 - 1, 2**64 - 1, 2**64, 0, -1,
    "", "12.5", "1_000", "12 W", "0x10", "\N{FULLWIDTH DIGIT ONE}", "NaN",
])  # fmt: skip
def test_a_meter_that_answers_no_power_is_not_the_nodes_and_named(tmp_path, answer):
    found = discovered(chips(tmp_path, {"hwmon1": {"name": "power_meter", "power1_average": answer}}))
    assert not found.sensors
    assert [one.what for one in found.missing] == ["hwmon1/power1_average (power_meter power1)"]


def test_a_meter_that_stops_answering_powers_later_has_gaps_and_says_why(tmp_path):
    root = chips(tmp_path, {"hwmon1": {"name": "power_meter", "power1_average": 131 * W}})
    (reader,) = discovered(root).readers
    (root / "sys/class/hwmon/hwmon1/power1_average").write_text(f"{0xFFFFFFFF * MW}\n")
    (reading,) = reader.read()
    assert (reading.ticks, reading.error) == (None, "all ones, which is no value")
    assert reader.ticks() == [None]


@pytest.mark.parametrize(
    ("interval_ms", "update_ns"),
    [(50, 50 * 10**6), (300_000, 300 * 10**9), (0xFFFFFFFF, 10**9), (0, 10**9), (-1, 10**9)],
)
def test_an_absurd_average_interval_is_taken_for_none(tmp_path, interval_ms, update_ns):
    files = {"name": "power_meter", "power1_average": 9 * W, "power1_average_interval": interval_ms}
    (sensor,) = discovered(chips(tmp_path, {"hwmon1": files})).sensors
    assert sensor.update_ns == update_ns


def test_a_ceiling_follows_the_devices_own_limit_and_no_absurd_one(tmp_path):
    found = discovered(chips(tmp_path, {
        "hwmon0": {"name": "fam15h_power", "power1_input": 9 * W, "power1_crit": 4000 * W},
        "hwmon1": {"name": "power_meter", "power1_average": 9 * W, "power1_cap_max": 0xFFFFFFFF * MW},
    })).sensors  # fmt: skip
    assert {sensor.domain: sensor.max_uw for sensor in found} == {"package-0": 12_000 * W, "node": 50_000 * W}


def test_a_battery_is_no_meter_of_the_node(tmp_path):
    files = {"name": "power_meter", "power1_average": 9 * W, "power1_is_battery": 1}
    (sensor,) = discovered(chips(tmp_path, {"hwmon1": files})).sensors
    assert sensor.component == "other"


def test_volts_times_amperes_of_a_jetsons_rails(tmp_path):
    files = {
        "name": "ina3221", "in1_label": "VDD_IN", "in1_input": 5000, "curr1_input": 2000, "curr4_input": 3,
        "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 700, "in7_input": 1,
    }  # fmt: skip
    root = chips(tmp_path, {"hwmon1": files})
    assert shown(root) == {"node": 10 * W, "package-0": 3_500_000}
    (root / "sys/class/hwmon/hwmon1/curr1_input").write_text("no number\n")
    assert shown(root) == {"package-0": 3_500_000}


def test_the_counters_of_an_altras_cores_are_its_package_together(tmp_path):
    found = {}
    for socket in range(2):
        found[f"hwmon{socket}"] = {"name": "altra_hwmon", "temp1_input": 52000}
        for core in range(12):
            counter = {f"energy{core + 1}_input": (core + 1) * W, f"energy{core + 1}_label": f"Core Energy {core:03}"}
            found[f"hwmon{socket}"] |= counter
    root = chips(tmp_path, found, {"hwmon0": "platform/AMPC0005:01", "hwmon1": "platform/AMPC0005:00"})
    assert shown(root) == {"package-0": 78 * W, "package-1": 78 * W}
    (root / "sys/class/hwmon/hwmon0/energy3_input").write_text(f"{13 * W}\n")
    assert shown(root) == {"package-0": 78 * W, "package-1": 88 * W}
    (root / "sys/class/hwmon/hwmon0/energy3_input").write_text("no number\n")
    assert shown(root) == {"package-0": 78 * W}


def test_a_chip_that_cannot_be_listed_costs_only_itself():
    with as_nobody() as base:
        found = {"hwmon0": {"name": "ina226"}, "hwmon1": {"name": "fam15h_power", "power1_input": 5 * W}}
        root = chips(base, found)
        (root / "sys/class/hwmon/hwmon0").chmod(0)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        found = discovered(root)
        assert [sensor.domain for sensor in found.sensors] == ["package-0"]
        (missing,) = found.missing
        assert missing.what == "hwmon0" and missing.why.endswith("cannot be listed: permission denied")


CHIP = st.fixed_dictionaries(
    {"name": st.sampled_from(["power_meter", "ina226", "ina3221", "fam15h_power", "ibmpowernv", "a b"])},
    optional={
        "power1_input": st.integers(-5, 2**65), "power1_average": st.integers(0, 10**10),
        "energy1_input": st.integers(),
        "power1_label": st.sampled_from(["System", "Chip 0", "Chip 0 Vdd", "a", "A", "2", ""]),
        "energy1_label": st.sampled_from(["System", "Chip 0", "a-2", ""]), "power2_input": st.integers(0, 10**9),
        "power2_label": st.sampled_from(["System", "a", "a-2"]),
        "power1_oem_info": st.sampled_from(["Module Power Socket 0", "Grace Power Socket 0", "x"]),
        "curr1_input": st.integers(-9, 9), "in1_input": st.integers(0, 9),
        "in1_label": st.sampled_from(["VDD_IN", "CPU"]),
    },
)  # fmt: skip


@given(found=st.lists(st.tuples(CHIP, st.sampled_from(["", "x/1-0040", "y/1-0040", "a/B:00", "a/B:01"])), max_size=5))
def test_no_two_inputs_have_one_id_and_every_one_is_read_or_named(found):
    with tempfile.TemporaryDirectory() as base:
        names = [f"hwmon{number}" for number in range(len(found))]
        devices = {name: device for name, (_, device) in zip(names, found) if device}
        root = chips(Path(base), {name: files for name, (files, _) in zip(names, found)}, devices)
        everything = discovered(root)
        ids = [sensor.id for sensor in everything.sensors]
        assert len(set(ids)) == len(ids)
        domains = [(sensor.domain, sensor.quantity) for sensor in everything.sensors]
        assert len(set(domains)) == len(domains)
        for sensor in everything.sensors:
            assert sensor.parent is None or (sensor.parent in ids and sensor.parent != sensor.id)
        chosen = plan(everything.sensors)
        assert len(chosen.domains) + len(chosen.left_out) == len(ids)
        said = [sensor.device for sensor in everything.sensors] + [one.what for one in everything.missing]
        for name, (files, _) in zip(names, found):
            for file in files:
                stem, _, kind = file.partition("_")
                averaged = kind == "input" and f"{stem}_average" in files
                if stem[:-1] in ("power", "energy") and kind in ("input", "average") and not averaged:
                    assert any(one.startswith(f"{name}/{file}") for one in said), (name, file)
        everything.close()
