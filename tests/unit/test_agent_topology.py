"""Which CPUs share a core, and which are whose package, as kernels of many machines show it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from perun_hpc.agent.sources import machine
from perun_hpc.energy.attribute import DomainInput, DomainKind, IntervalInput, JobInput, NodeInput, attribute
from perun_hpc.energy.containment import package_number

S = 10**9


def put(root: Path, cpu: int, **files: object) -> None:
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    topology.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (topology / name).write_text(f"{content}\n")


def cores(node: NodeInput) -> list[list[int]]:
    return sorted([cpu for cpu, core in node.core_of.items() if core == one] for one in set(node.core_of.values()))


def packages(root: Path, counters: Collection[int]) -> dict[int, int]:
    return dict(machine.topology(root, counters).package_of)


@pytest.mark.parametrize("siblings", ["thread_siblings_list", "core_cpus_list"])
def test_cpus_share_a_core_where_the_kernel_lists_them_together(tmp_path: Path, siblings: str) -> None:
    # An Opteron 6272 in small: core_id counts within a node of the package, modules are pairs of neighbours.
    for cpu in range(8):
        pair = f"{cpu - cpu % 2}-{cpu - cpu % 2 + 1}"
        put(tmp_path, cpu, physical_package_id=0, core_id=cpu % 4, **{siblings: pair})
    assert cores(machine.topology(tmp_path, ())) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_core_ids_that_begin_anew_in_each_die_are_other_cores(tmp_path: Path) -> None:
    # A virtual machine of two dies: 4 cores with two threads each, core_id 0 and 1 in each die.
    for cpu in range(8):
        core = cpu // 2
        put(tmp_path, cpu, physical_package_id=0, die_id=core // 2, core_id=core % 2)
    assert cores(machine.topology(tmp_path, ())) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for cpu in range(8):
        put(tmp_path, cpu, thread_siblings_list=cpu)
    assert len(cores(machine.topology(tmp_path, ()))) == 8


@pytest.mark.parametrize("listed", ["", "x", "9", "3-1", "0-99999999"])
def test_siblings_that_cannot_be_are_no_siblings(tmp_path: Path, listed: str) -> None:
    for cpu in range(2):
        put(tmp_path, cpu, physical_package_id=0, core_id=cpu, thread_siblings_list=listed)
    assert cores(machine.topology(tmp_path, ())) == [[0], [1]]


def test_a_cpu_without_a_topology_is_a_core(tmp_path: Path) -> None:
    for cpu in range(2):
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}").mkdir(parents=True)
    assert cores(machine.topology(tmp_path, ())) == [[0], [1]]


def test_a_cpu_that_is_switched_off_is_no_core_whichever_file_says_it(tmp_path: Path) -> None:
    for cpu in range(4):
        put(tmp_path, cpu, physical_package_id=0, core_id=cpu)
    for cpu, online in ((1, 1), (3, 0)):
        (tmp_path / f"sys/devices/system/cpu/cpu{cpu}/online").write_text(f"{online}\n")
    assert set(machine.topology(tmp_path, ()).core_of) == {0, 1, 2}
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1\n")
    assert set(machine.topology(tmp_path, ()).core_of) == {0, 1}


@pytest.mark.parametrize(("kernels", "counters", "expected"), [
    ((0, 1), (0, 1), {0: 0, 1: 1}),
    ((0, 1), (1,), {0: 0, 1: 1}),
    ((36, 2364), (0, 1), {0: 0, 1: 1}),
    ((36, 8442), (0, 1), {0: 0, 1: 1}),
    ((2364, 36), (0, 1), {0: 1, 1: 0}),
    ((0, 8), (0, 8), {0: 0, 1: 8}),
    ((0, 8), (0, 1), {0: 0, 1: 1}),
    ((36, 2364), (0,), {}),
    ((0, 0), (0, 1), {}),
    ((0, 1), (0, 1, 2, 3), {}),
    ((0, 1), (), {0: 0, 1: 1}),
])  # fmt: skip
def test_packages_are_the_counters_by_number_else_by_rank_else_not_known(
    tmp_path: Path, kernels: tuple[int, ...], counters: tuple[int, ...], expected: dict[int, int]
) -> None:
    for cpu, package in enumerate(kernels):
        put(tmp_path, cpu, physical_package_id=package)
    assert packages(tmp_path, counters) == expected


def test_a_package_of_unknown_cpus_is_shared_out_by_the_work_on_all(tmp_path: Path) -> None:
    node = NodeInput(package_of={}, core_of={cpu: cpu for cpu in range(4)}, memory_b=400)
    jobs = (
        JobInput(owner="job:1.0", cpus=frozenset({0, 1}), cpu_ns=3 * S, memory_b=100),
        JobInput(owner="job:2.0", cpus=frozenset({2}), cpu_ns=1 * S, memory_b=300),
    )
    domains = (
        DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=400, package=0),
        DomainInput(name="package-1", kind=DomainKind.PACKAGE, total_uj=80, package=1),
        DomainInput(name="dram-1", kind=DomainKind.DRAM, total_uj=40, package=1, static_uw=4),
    )
    busy = {0: 2 * S, 1: 1 * S, 2: 1 * S}
    found = attribute(IntervalInput(t0_ns=0, t1_ns=10 * S, node=node, domains=domains, jobs=jobs, busy_ns=busy))
    assert [one.by_owner() for one in found] == [
        {"job:1.0": 300, "job:2.0": 100},
        {"job:1.0": 60, "job:2.0": 20},
        {"job:1.0": 10, "job:2.0": 30},
    ]


def test_cpus_of_a_time_when_packages_were_not_known_have_none() -> None:
    known = NodeInput(package_of={0: 0, 1: 1}, core_of={0: 0, 1: 1})
    assert not machine.joined(known, NodeInput(package_of={}, core_of={0: 0})).package_of


@pytest.mark.parametrize(("counters", "expected"), [
    (("package-0", "package-1"), ["package-0", "package-0", "package-1", "package-1"]),
    # Cascade Lake-AP: two dies in a package, and a zone for each.
    (("package-0-die-0", "package-0-die-1", "package-1-die-0", "dram-1-die-1"),
     ["package-0-die-0", "package-0-die-1", "package-1-die-0", "dram-1-die-1"]),
    (("package-0-die-2", "package-0-die-3", "package-1"),
     ["package-0-die-2", "package-0-die-3", "package-1", "package-1"]),
    # AMD on Linux 6.9 and 6.10: a zone for each die, and all show their package's register, so that one is left.
    (("package-0-die-0", "package-1-die-0"),
     ["package-0-die-0", "package-0-die-0", "package-1-die-0", "package-1-die-0"]),
    (("package-0-die-0", "package-0-die-1", "package-0-die-2", "package-1"), []),
])  # fmt: skip
def test_a_die_with_a_counter_of_its_own_has_its_own_cpus(
    tmp_path: Path, counters: tuple[str, ...], expected: list[str]
) -> None:
    for cpu in range(8):
        put(tmp_path, cpu, physical_package_id=cpu // 4, die_id=cpu // 2 % 2, core_id=cpu % 2)
    found = packages(tmp_path, [one for one in map(package_number, counters) if one is not None])
    assert [found.get(cpu) for cpu in (0, 2, 4, 6) if found] == [package_number(one) for one in expected]
