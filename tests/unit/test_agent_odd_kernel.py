"""Whatever the kernel says of CPUs and cgroups, the meter goes on and every domain's shares sum to its total."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.daemon import INLINE
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy.attribute import (
    DomainInput,
    DomainKind,
    GpuHolding,
    IntervalInput,
    JobInput,
    NodeInput,
    attribute,
)
from perun_hpc.energy.counters import busy_between
from perun_hpc.process.clock import MACHINE
from tests.examples import examples

CPUS = 4
NUMBER = st.integers(-(10**19), 10**19)
TIMES = st.one_of(st.integers(-100, 10_000), NUMBER)


@given(
    st.dictionaries(st.integers(0, 5), NUMBER), st.dictionaries(st.integers(0, 5), NUMBER), st.sets(st.integers(0, 5))
)
def test_a_busy_time_is_a_difference_of_two_or_not_known(before, after, cpus):
    busy, unread = busy_between(before, after, cpus)
    assert not busy.keys() & unread.keys()
    assert busy.keys() | unread.keys() == (before.keys() | after.keys() or cpus)
    for cpu, ns in busy.items():
        assert ns == after[cpu] - before[cpu] >= 0
    assert all(unread.values())


GPU = st.builds(GpuHolding, part=st.integers(-3, 9), activity=st.none() | NUMBER)
JOB = st.builds(
    JobInput,
    owner=st.sampled_from([f"job:{number}.0" for number in range(4)]),
    cpus=st.frozensets(st.integers(0, 7), max_size=5),
    cpu_ns=st.none() | NUMBER,
    memory_b=NUMBER,
    gpus=st.dictionaries(st.just("gpu-0"), GPU),
    suspended=st.booleans(),
    exclusive=st.booleans(),
    present_ns=st.none() | NUMBER,
)


@examples(300)
@given(
    duration_ns=st.integers(-10, 10**12),
    jobs=st.lists(JOB, max_size=4, unique_by=lambda job: job.owner),
    busy=st.dictionaries(st.integers(0, 7), NUMBER),
    unread=st.dictionaries(st.integers(0, 7), st.just("went backwards")),
    totals=st.lists(st.none() | st.integers(-(10**15), 10**15), min_size=4, max_size=4),
    slices=st.none() | st.integers(-2, 7),
    gap=st.booleans(),
    unseen=st.booleans(),
)
def test_attribution_has_an_answer_to_every_input_and_loses_no_energy(
    duration_ns, jobs, busy, unread, totals, slices, gap, unseen
):
    node = NodeInput(package_of=dict.fromkeys(range(6), 0), core_of={cpu: cpu // 2 for cpu in range(6)}, memory_b=2**30)
    domains = (
        DomainInput(name="package-0", kind=DomainKind.PACKAGE, total_uj=totals[0], static_uw=5_000_000),
        DomainInput(name="dram-0", kind=DomainKind.DRAM, total_uj=totals[1], static_uw=1_000_000),
        DomainInput(name="gpu-0", kind=DomainKind.GPU, total_uj=totals[2], slices=slices, static_uw=-7),
        DomainInput(name="psys", kind=DomainKind.METER, total_uj=totals[3], leaves=("package-0", "dram-0")),
    )
    found = attribute(
        IntervalInput(
            t0_ns=0,
            t1_ns=duration_ns,
            node=node,
            domains=domains,
            jobs=tuple(jobs),
            busy_ns=busy,
            unread=unread,
            gap=gap,
            unseen=unseen,
        )
    )
    assert len(found) == len(domains)
    for domain in found:
        if domain.total_uj is not None:
            assert sum(domain.by_owner().values()) == domain.total_uj


@pytest.mark.parametrize("online", ["0-70000", "999999", "3-1", "", "none", "0,,3"])
def test_cpus_online_that_cannot_be_are_those_of_the_directories(tmp_path, online):
    for cpu in range(CPUS):
        put(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", f"{cpu}\n")
    put(tmp_path / "sys/devices/system/cpu/online", f"{online}\n")
    assert set(machine.topology(tmp_path, ()).core_of) == set(range(CPUS))


LINE = st.one_of(
    st.tuples(st.integers(0, CPUS), TIMES).map(lambda told: f"cpu{told[0]} {told[1]} 0 0 0 0 0 0 0 0 0"),
    st.sampled_from(["cpu0", "cpux 1 2 3 4 5 6 7 8", "cpu1 1 2 3", "intr 0", "", "\N{BLACK STAR}"]),
)
STEP = st.fixed_dictionaries(
    {
        "stat": st.lists(LINE, max_size=6),
        "usage": st.dictionaries(st.integers(1, 2), st.one_of(TIMES.map(str), st.sampled_from(["", "many", "1e9"]))),
        "cpus": st.dictionaries(st.integers(1, 2), st.sampled_from(["0-1", "2-3", "0-x", "", "3-1", "\N{BLACK STAR}"])),
        "parent": TIMES.map(str),
        "online": st.sampled_from(["0-3", "0-2", "0", "", "3,1", "none", "0-70000"]),
        "package_uj": st.integers(0, 1_000),
    }
)


@examples(60)
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_the_meter_goes_on_whatever_the_kernel_says(steps):
    with tempfile.TemporaryDirectory() as base:
        follow(Path(base), steps)


def follow(base: Path, steps: list[dict]) -> None:
    paths = AgentPaths(base / "run", base / "spool", base / "root")
    paths.node.mkdir(parents=True)
    root = paths.root
    zone = root / "sys/class/powercap/intel-rapl:0"
    put(zone / "name", "package-0\n")
    put(zone / "max_energy_range_uj", "262143328850\n")
    put(zone / "energy_uj", "0\n")
    for cpu in range(CPUS):
        put(root / f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", f"{cpu}\n")
    put(root / "proc/stat", "cpu0 0 0 0 0 0 0 0 0\n")
    put(root / "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    node = Node.open(root, INLINE, MACHINE)
    register = Register("n1", CPUS)
    policy = PolicyKeeper(base / "policy.yaml", MACHINE, "n1", (base / "policy.json",))
    ledger = NodeLedger(paths)
    meter = Meter(node, partial(machine.topology, root), register, policy, ledger, Visibility(paths, register), MACHINE)
    meter.end_interval()
    for number in (1, 2):
        key = SessionKey(number, 0)
        register.live[key] = Session(key, {"cpus_on_node": "2"}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    counted = 0
    for step in steps:
        counted += step["package_uj"]
        put(zone / "energy_uj", f"{counted}\n")
        put(root / "proc/stat", "\n".join(step["stat"]) + "\n")
        put(root / "sys/devices/system/cpu/online", step["online"] + "\n")
        cgroups = root / "sys/fs/cgroup"
        put(cgroups / "cpuacct/slurm/cpuacct.usage", step["parent"])
        for job, usage in step["usage"].items():
            put(cgroups / f"cpuacct/slurm/uid_0/job_{job}/cpuacct.usage", usage)
        for job, cpus in step["cpus"].items():
            put(cgroups / f"cpuset/slurm/uid_0/job_{job}/cpuset.cpus", cpus)
        meter.end_interval()
    ledger.flush()
    node.close()
    lines = [json.loads(line) for path in paths.node.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert all(sum(line["shares"].values()) == (line["total_uj"] or 0) for line in lines)
    assert sum(line["total_uj"] or 0 for line in lines) == counted
    given_uj = sum(uj for line in lines for owner, uj in line["shares"].items() if owner.startswith("job:"))
    assert sum(session.energy_uj for session in register.live.values()) == given_uj


def put(path: Path, text: str) -> None:
    """Change a file in place, as the kernel's are: descriptors stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(text.encode())
        file.truncate()
