"""perun 1.0.0's names of sensors and backends, and filters by them."""

from __future__ import annotations

import pytest

from perun_hpc.backend.catalog import Selection
from perun_hpc.data_model.perun_names import perun_names
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity


def sensor(backend: str, domain: str, name: str, component: str = "cpu", device: str = "x") -> Sensor:
    quantity = {
        "utilisation": Quantity.UTILISATION, "energy": Quantity.ENERGY, "power": Quantity.POWER,
        "clock-sm": Quantity.FREQUENCY,
    }.get(name, Quantity.DATA)  # fmt: skip
    kind = Kind.COUNTER if name in ("energy", "read", "write") else Kind.GAUGE
    return Sensor(
        id=f"{backend}:{domain}:{name}", host="h", backend=backend, device=device, domain=domain, component=component,
        kind=kind, quantity=quantity, unit="1",
    )  # fmt: skip


NODE = [
    sensor("powercap", "package-1", "energy"),
    sensor("powercap", "dram-0", "energy", "dram"),
    sensor("powercap", "psys", "energy", "node"),
    sensor("hwmon", "grace-0", "power", device="hwmon3/power1_average"),
    sensor("hwmon", "package-1", "power", device="hwmon4/power2_average"),
    sensor("hwmon", "node", "power", "node", device="hwmon1/power1_average"),
    sensor("nvml", "gpu-GPU-bbbb", "energy", "gpu"),
    sensor("nvml", "gpu-GPU-bbbb", "power", "gpu"),
    sensor("nvml", "gpu-GPU-aaaa", "memory", "gpu"),
    sensor("nvml", "gpu-GPU-aaaa", "clock-sm", "gpu"),
    sensor("amdsmi", "gpu-1234", "memory", "gpu"),
    sensor("psutil", "cpu", "utilisation"),
    sensor("psutil", "cpu-0", "utilisation"),
    sensor("psutil", "cpu-11", "utilisation"),
    sensor("psutil", "memory", "data", "dram"),
    sensor("psutil", "disk-sda", "read", "disk"),
    sensor("psutil", "net-eth0", "write", "net"),
]


def test_each_sensor_that_perun_knows_has_perun_s_name():
    assert list(perun_names(NODE).values()) == [
        "cpu_1_package-1", "ram_0_dram", "grace_power_socket_0_hwmon3_power1", "cpu_power_socket_1_hwmon4_power2",
        "CUDA:0_POWER", "CUDA:0_POWER", "CUDA:1_MEM", "CUDA:1_CLOCK_SM", "ROCM:1234_MEM", "CPU_USAGE_0", "CPU_USAGE_11",
        "RAM_USAGE", "DISK_READ_BYTES_sda", "NET_WRITE_BYTES_eth0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({"include_sensors": ("CPU_USAGE_1$",)}, []),
        ({"include_sensors": ("^CPU_USAGE_0$", "CUDA:0_")}, [6, 7, 12]),
        ({"include_sensors": ("CPU_USAGE", "psutil:memory"), "exclude_sensors": ("CPU_USAGE_([1-9]+)",)}, [12, 14]),
        ({"exclude_sensors": (".",)}, []),
    ],
)
def test_a_filter_goes_by_either_name(filters, chosen):
    assert Selection(**filters).sensors(NODE) == {NODE[place].id for place in chosen}


def test_backends_go_by_either_name():
    assert Selection(include_backends=("powercap_rapl",)).backend("powercap")
    assert not Selection(exclude_backends=("hwmon-grace",)).backend("hwmon")
    assert not Selection(include_backends=("powercap_rapl",)).backend("psutil")


def test_what_perun_s_own_default_leaves_out_may_be_missing():
    left_out = ("CPU_FREQ_([1-9]+)", "^CPU_FREQ_1$", "DISK_READ_BYTES_", "NET_WRITE_BYTES_")
    assert Selection(exclude_sensors=left_out).unmatched([]) == ""
    assert (
        Selection(include_sensors=left_out[:1])
        .unmatched(NODE)
        .startswith("nothing here matches include_sensors: 'CPU_FREQ_([1-9]+)': ")
    )


def test_every_expression_that_matches_nothing_is_named_in_one_line():
    chosen = Selection(("nvml", "rapl"), ("estimat",), ("psutil", "ram_9"), ("gpu",))
    assert chosen.unmatched(NODE) == (
        "nothing here matches include_backends: 'rapl', include_sensors: 'ram_9', exclude_sensors: 'gpu': "
        "perun sensors --all lists the names that there are"
    )
