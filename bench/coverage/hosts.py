"""Simulated hosts: who sits where, what it truly uses, and the sensors that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.coverage.node import REAL_NS, Node, Run
from bench.coverage.physics import Cores, Family, Floats, Machine, Nature, Powers, Random
from bench.coverage.sensors import NS_PER_S, Curve, Shown, sensor
from perun_hpc.agent.measure.learning import Learning
from perun_hpc.energy.attribute import NodeInput
from perun_hpc.energy.static import StaticPower

SYSTEM = -1
RAPL_ERROR = 0.03
STATED = 0.06
"""How far the nodes of a type lie from the static power that a policy states for them (standard deviation)."""


@dataclass
class Job:
    """A program, when it runs, how busy it keeps its CPUs, and its memory as a share of the node's."""

    start_s: float
    end_s: float
    level: float = 1.0
    memory: float = 0.0
    nature: Nature | None = None
    gpus: tuple[str, ...] = ()
    exclusive: bool = False
    activity: Floats | None = None


@dataclass
class Errors:
    """What the sensors of one model count wrongly, on whatever node."""

    rapl: float
    nvml: float
    meter: float

    @classmethod
    def draw(cls, family: Family, rng: Random) -> Errors:
        """A model of each."""
        return cls(family.error(rng, RAPL_ERROR), family.error(rng, 0.05), family.error(rng, 0.05))


@dataclass
class Host:
    """A node with its truth: hidden joules of each job by component, W of everything over time by package."""

    node: Node
    truth: dict[int, dict[str, float]]
    curves: dict[tuple[int, str], Curve] = field(default_factory=dict)
    """(job, component) -> its hidden power."""
    parts: dict[str, Curve] = field(default_factory=dict)
    """Domain -> hidden power."""


def cpus_of(packages: int, cores: int) -> NodeInput:
    """CPU c and c + all cores are the threads of core c."""
    every = packages * cores
    return NodeInput(
        package_of={cpu: cpu % every // cores for cpu in range(2 * every)},
        core_of={cpu: cpu % every for cpu in range(2 * every)},
        memory_b=256 << 30,
    )


def build(
    rng: Random,
    family: Family,
    machine: Machine,
    layout: Sequence[Sequence[Cores]],
    jobs: Sequence[Job],
    errors: Errors,
    length_s: float,
    step_s: float,
    static: str = "policy",
    extra: Sequence[Shown] = (),
) -> Host:
    """A host whose packages are laid out so; `static`: `policy`, `learnt` or `unknown`."""
    count = int(length_s / step_s) + 1
    times = (np.arange(count) + 0.5) * step_s
    topology = cpus_of(len(layout), machine.cores)
    present = [((times >= job.start_s) & (times < job.end_s)).astype(float) for job in jobs]
    natures = {n: job.nature or family.nature(rng) for n, job in enumerate(jobs)}
    natures[SYSTEM] = Nature(0.7, 0.3, 1.0, 0.25)
    active = {}
    for n, job in enumerate(jobs):
        shape = job.activity if job.activity is not None else family.activity(rng, step_s, count, job.level)
        active[n] = shape * present[n]
    active[SYSTEM] = np.full(count, float(rng.uniform(0.001, 0.006)))
    parts: dict[str, Curve] = {}
    own: dict[tuple[int, str], Floats] = {}
    busy: dict[int, Floats] = {cpu: np.zeros(count) for cpu in topology.core_of}
    used: dict[int, Floats] = {n: np.zeros(count) for n in range(len(jobs))}
    cpus: dict[int, set[int]] = {n: set() for n in range(len(jobs))}
    shown: list[Shown] = list(extra)
    for package, groups in enumerate(layout):
        seated = [
            Cores(group.count, tuple(type(seat)((*seat.jobs, SYSTEM)) for seat in group.seats)) for group in groups
        ]
        powers = family.packages(rng, machine, step_s, seated, active, natures)
        first = 0
        for place, group in enumerate(seated):
            cores = [package * machine.cores + first + at for at in range(group.count)]
            first += group.count
            for number in range(len(group.seats)):
                shares = powers.seat[place, number]
                for core in cores:
                    cpu = core + number * len(layout) * machine.cores
                    busy[cpu] = sum(shares.values(), np.zeros(count))
                    for who in groups[place].seats[number].jobs:
                        cpus[who].add(cpu)
                for who in groups[place].seats[number].jobs:
                    used[who] = used[who] + group.count * shares[who]
        parts[f"package-{package}"], parts[f"dram-{package}"] = (
            Curve(step_s, powers.package()), Curve(step_s, powers.dram()),
        )  # fmt: skip
        _give(own, powers, _held(groups, present, machine.cores), "cpu")
        for name in ("package", "dram"):
            domain = f"{name}-{package}"
            component, ceiling_w = ("cpu", 1500.0) if name == "package" else ("dram", 500.0)
            described = sensor("powercap", domain, component, RAPL_ERROR, 1_000_000, ceiling_w)
            offset_w = family.offset_w(rng) if name == "dram" else 0.0
            gain = errors.rapl + family.scatter(rng)
            shown.append(Shown(described, parts[domain], gain, offset_w, 0.001, float(rng.uniform(0, 0.001))))
        own.update({(n, f"dram-{package}"): powers.memory[n] for n in range(len(jobs))})
        own[SYSTEM, f"dram-static-{package}"] = powers.memory_static
    for n, job in enumerate(jobs):  # memory by bytes, on a package by the part of the CPUs there
        for package in range(len(layout)):
            here = sum(1 for cpu in cpus[n] if topology.package_of[cpu] == package) / max(1, len(cpus[n]))
            share = np.minimum(1.0, job.memory * here * len(layout)) * present[n]
            power = own[SYSTEM, f"dram-static-{package}"] * share + own.pop((n, f"dram-{package}"))
            if job.exclusive:
                power = parts[f"dram-{package}"].power
            own[n, "dram"] = own.get((n, "dram"), np.zeros(count)) + power
        if job.exclusive:
            own[n, "cpu"] = sum(
                (parts[f"package-{package}"].power for package in range(len(layout))), np.zeros(count)
            )  # fmt: skip
    runs = [
        Run(
            n,
            frozenset(cpus[n]),
            round(job.memory * topology.memory_b),
            job.start_s,
            job.end_s,
            Curve(step_s, used[n]),
            job.gpus,
            job.exclusive,
        )
        for n, job in enumerate(jobs)
    ]
    curves = {key: Curve(step_s, power) for key, power in own.items() if key[0] != SYSTEM}
    node = Node(
        topology,
        shown,
        {cpu: Curve(step_s, one) for cpu, one in busy.items()},
        runs,
        length_s,
        phase_s=float(rng.uniform(0, 10)),
        poll_phase_s=float(rng.uniform(0.01, 0.99)),
    )
    _know_static(node, rng, family, machine, step_s, errors, static, len(layout))
    truth = {
        n: {what: curves[n, what].between(job.start_s, job.end_s) for what in ("cpu", "dram")}
        for n, job in enumerate(jobs)
    }
    return Host(node, truth, curves, parts)


def _held(groups: Sequence[Cores], present: Sequence[Floats], cores: int) -> dict[int, Floats]:
    """Share of a package's cores that each job holds: of a core with several by threads, of a thread equally."""
    found: dict[int, Floats] = {}
    for group in groups:
        jobs = sorted({job for seat in group.seats for job in seat.jobs})
        there = {job: present[job] for job in jobs}
        several = sum(there.values(), np.zeros_like(present[0])) > 1.5
        for job in jobs:
            shares = []
            for seat in group.seats:
                crowd = sum((there[other] for other in seat.jobs), np.zeros_like(present[0]))
                shares.append(there[job] / np.maximum(crowd, 1.0) if job in seat.jobs else np.zeros_like(present[0]))
            taken = [
                (sum((there[other] for other in seat.jobs), np.zeros_like(present[0])) > 0).astype(float)
                for seat in group.seats
            ]
            split = sum(shares, np.zeros_like(present[0])) / np.maximum(sum(taken, np.zeros_like(present[0])), 1.0)
            found[job] = found.get(job, 0.0) + np.where(several, split, there[job]) * group.count / cores
    return found


def _give(own: dict[tuple[int, str], Floats], powers: Powers, held: dict[int, Floats], what: str) -> None:
    for job, dynamic in powers.dynamic.items():
        if job != SYSTEM:
            static = powers.static * held.get(job, 0.0)
            own[job, what] = own.get((job, what), np.zeros_like(dynamic)) + static + dynamic


def _know_static(
    node: Node, rng: Random, family: Family, machine: Machine, step_s: float, errors: Errors, how: str, packages: int
) -> None:
    """What is known of static power before the first job: the policy's figures, an idle hour, or nothing."""
    if how == "policy":
        for package in range(packages):
            node.static = {
                **node.static,
                f"package-{package}": round(machine.idle_w * (1 + rng.normal(0, STATED)) * 1e6),
                f"dram-{package}": round(machine.memory_w * (1 + rng.normal(0, STATED)) * 1e6),
            }
    if how in ("policy", "learnt"):  # the policy says nothing of memory: that is learnt either way
        known = {}
        for one in node.shown:
            if one.sensor.component not in ("cpu", "dram"):
                continue
            power = StaticPower()
            for window in range(40):
                rest = np.zeros(1000)
                watts = float(np.mean(family.static(rng, machine, 1.0, rest, rest)))
                if one.sensor.component == "dram":
                    watts = machine.memory_w * float(rng.normal(1, 0.01))
                joules = (watts * (1 + one.gain) + one.offset_w) * 60
                power = power.observe(
                    REAL_NS - (40 - window) * 60 * NS_PER_S, 60 * 10**9, max(0, round(joules * 1e6)), 0, 1
                )
            known[one.sensor.domain] = power.to_json()
        node.learning = Learning()
        node.learning.restore(known)
    if how == "policy":
        node.static = {name: uw for name, uw in node.static.items() if name.startswith("package")}
