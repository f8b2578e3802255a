"""Trees of kernel files of many machines, by both ways to a figure: they say what `tests/sysfs/table.py` says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from perun_hpc.agent.measure.intervals import packages
from perun_hpc.agent.sources import machine as kernel
from perun_hpc.backend import cgroup
from perun_hpc.energy.containment import plan
from tests.flow.two_paths import SECONDS, Machine, both, inputs
from tests.sysfs import NAMES, text
from tests.sysfs.table import TABLE

ROWS = [
    pytest.param(name, marks=[pytest.mark.xfail(reason=row.fault, strict=True)] if row.fault else [])
    for name, row in TABLE.items()
]


def test_every_tree_has_its_row_in_the_order_of_their_names() -> None:
    assert list(TABLE) == NAMES


@pytest.mark.parametrize("name", ROWS)
def test_a_tree_tells_what_the_table_says(name: str, tmp_path: Path) -> None:
    row = TABLE[name]
    monitor, agent = both(name, tmp_path, every_s=10)
    assert monitor.energy_uj == agent.energy_uj == _uj(row.total_w)
    assert _named(monitor.domains_uj, row.watts) == {one: _uj(watts) for one, watts in row.watts.items()}
    assert _named(agent.domains_uj, row.watts) == {one: _uj(watts) for one, watts in row.watts.items()}
    assert (monitor.whole, monitor.includes) == (agent.whole, agent.includes)
    assert sorted(monitor.why.split("; ")) == sorted(agent.why.split("; "))
    assert monitor.whole == row.whole
    assert bool(monitor.why) != row.whole
    if row.whole:
        assert monitor.coverage == agent.coverage == (row.total_w is not None)
    machine = Machine(text(name), tmp_path / "again")
    found = machine.discover()
    sensors = [sensor for one in found for sensor in one.sensors]
    chosen = plan(sensors)
    assert sorted(one.name for one in chosen.meters) == sorted(row.meters)
    said = " ".join([
        monitor.why, monitor.includes, *(f"{sensor.id} {sensor.device} {why}" for sensor, why in chosen.left_out),
        *(f"{sensor.id} {sensor.device}" for sensor in sensors),
        *(f"{missing.what} {missing.why}" for one in found for missing in one.missing),
    ])  # fmt: skip
    for word in row.words:
        assert word in said
    topology = kernel.topology(machine.root, packages(chosen.domains))
    assert row.cores in (None, len(set(topology.core_of.values())))
    for job, (used_ms, its_cpus) in row.jobs.items():
        found_job = cgroup.find_job(machine.root, job, node="n1")
        assert found_job is not None
        assert (found_job.read()[cgroup.CPU].ticks or 0) // 1_000_000 == used_ms
        assert found_job.cpus() == its_cpus
    for package, cpus in (row.packages or {}).items():
        assert {cpu for cpu, its in topology.package_of.items() if its == package} == cpus


def _uj(watts: float | None) -> object:
    return None if watts is None else pytest.approx(watts * SECONDS * 10**6, abs=100)


def _named(domains: Mapping[str, int | None], patterns: Mapping[str, object]) -> dict[str, int | None]:
    """The domains under the pattern that each fits, if one does."""
    return {next((one for one in patterns if fnmatchcase(name, one)), name): uj for name, uj in domains.items()}


@pytest.mark.parametrize("name", NAMES)
def test_no_file_of_energy_or_power_is_passed_over_in_silence(name: str, tmp_path: Path) -> None:
    assert not passed_over(Machine(text(name), tmp_path))


def passed_over(machine: Machine) -> list[str]:
    """Files of a tree that show energy or power, and that are neither read nor named."""
    found = machine.discover()
    sensors = [sensor for one in found for sensor in one.sensors]
    ids = [sensor.id for sensor in sensors]
    assert len(set(ids)) == len(ids), "two sensors have one id"
    chosen = plan(sensors)
    accounted = [domain.sensor.id for domain in chosen.domains] + [sensor.id for sensor, _ in chosen.left_out]
    assert sorted(accounted) == sorted(ids), "a sensor is neither a domain nor left out with a reason"
    read = {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir() if link.exists()}
    named = [f"{missing.what} {missing.why}" for one in found for missing in one.missing]
    for one in found:
        one.close()
    return [
        str(path.relative_to(machine.root))
        for path in inputs(machine.root)
        if os.path.realpath(path) not in read
        and not (path.name.endswith("_input") and path.with_name(path.name[:-5] + "average").exists())
        and not any(path.parent.name in one or path.name in one for one in named)
    ]
