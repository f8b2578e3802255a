"""Conditions of a machine, from trees that look like /sys and /proc, and on their way to `perun compare`."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.agent.sources.conditions import conditions
from perun_hpc.agent.sources.cpu_settings import EVERY_NS, CpuSettings
from perun_hpc.data_model.record import Condition, from_json, to_json
from perun_hpc.errors import DataError
from perun_hpc.report.subjects import of_records
from tests.accounting_data import boundary, parsed, slurm_job


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text + "\n")


def shown(root: Path) -> dict[str, str]:
    seen = CpuSettings(root)
    seen.look(0)
    return conditions(root, seen.now)


def test_what_the_kernel_shows_is_named(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name : Xeon 9\n\nprocessor : 1\nmodel name : Xeon 9")
    put(tmp_path, "proc/sys/kernel/osrelease", "6.1.0-13-amd64")
    for policy in (0, 1):
        put(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_governor", "performance")
        put(tmp_path, f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_max_freq", str(3_500_000 - policy))
    put(tmp_path, "sys/devices/system/cpu/intel_pstate/no_turbo", "1")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "250000000")
    put(tmp_path, "sys/class/powercap/intel-rapl:0:0/name", "dram")
    put(tmp_path, "sys/class/powercap/intel-rapl:0:0/constraint_0_power_limit_uw", "1000000")
    assert shown(tmp_path) == {
        "processor": "Xeon 9", "kernel": "6.1.0-13-amd64", "governor": "performance", "clock limit": "3.5 GHz",
        "boost": "off", "power cap": "250 W",
    }  # fmt: skip


def test_how_cpus_are_set_is_looked_at_every_few_seconds(tmp_path: Path) -> None:
    governor = "sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    put(tmp_path, governor, "powersave")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "250000000")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/constraint_1_power_limit_uw", "300000000")
    seen = CpuSettings(tmp_path)
    assert seen.idle_key == ""
    assert seen.look(0)
    assert seen.now == {"governor": "powersave", "power cap": "250 W", "short-term power cap": "300 W"}
    assert seen.idle_key == "powersave 250W 300W"
    put(tmp_path, governor, "performance")
    assert not seen.look(EVERY_NS // 2)
    assert seen.idle_key == "powersave 250W 300W"
    assert seen.look(EVERY_NS - 20_000_000)  # looks that are five seconds apart are so never to the nanosecond
    assert seen.idle_key == "performance 250W 300W"
    assert not seen.look(3 * EVERY_NS)


def test_a_machine_that_shows_nothing_has_none(tmp_path: Path) -> None:
    assert shown(tmp_path) == {}
    put(tmp_path, "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq", "<unknown>")
    assert shown(tmp_path) == {}


def test_a_record_has_the_conditions_of_all_its_nodes() -> None:
    nodes = [
        parsed({**boundary(node=node, nodelist="n[1-2]"), "conditions": {"power cap": cap, "kernel": "6.1"}})
        for node, cap in (("n1", "250 W"), ("n2", "200 W"))
    ]
    record = add_slurm(sum_boundaries(nodes), slurm_job(nodelist="n[1-2]", num_nodes=2))
    assert record.conditions == (Condition("kernel", ("6.1",)), Condition("power cap", ("200 W", "250 W")))
    assert from_json(to_json(record)).conditions == record.conditions
    assert of_records([record]).conditions["power cap"] == "200 W and 250 W"


def test_conditions_that_are_no_texts_are_damage() -> None:
    with pytest.raises(DataError):
        parsed({**boundary(), "conditions": {"kernel": 6}})
