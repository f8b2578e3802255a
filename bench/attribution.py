"""How far the attribution rules are from the truth: `python -m bench.attribution` prints the table of docs/method.md.

A simulated node makes power from what the rules do not know: every job has its own watts per core, a second thread that
adds its own part, and a clock that all cores of a package share and that falls with load. The simulator keeps its own
log of each job's joules; the rules see what an agent sees: counters in steps of 61 uJ, busy time in 10 ms ticks, CPU
time of cgroups. Static power is split by allocation on both sides, since that share is a convention, not a fact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from perun_hpc.energy.attribute import (
    DomainInput,
    DomainKind,
    GpuHolding,
    IntervalInput,
    JobInput,
    NodeInput,
    attribute,
)

NS_PER_S = 1_000_000_000
STEP_S = 0.05
INTERVAL_S = 10
SECONDS = 120
CORES = 16
"""On two packages of eight cores with two threads each: CPU c and c + 16 share core c."""
STATIC_W = 40.0
UNIT_UJ = 61.035
TICK_NS = 10_000_000

NODE = NodeInput(
    package_of={cpu: (cpu % CORES) // 8 for cpu in range(2 * CORES)},
    core_of={cpu: cpu % CORES for cpu in range(2 * CORES)},
    memory_b=256 * 2**30,
)

Load = Callable[[float, int], float]
"""Busy share (0 to 1) of the n-th CPU of a job at a time in s."""


@dataclass(frozen=True)
class HiddenJob:
    """A job and what the rules cannot see of it: watts of a busy core at full clock, what its second thread adds."""

    name: str
    cpus: tuple[int, ...]
    watts: float
    second: float
    load: Load
    heavy: float = 0.0
    """How much a busy core of it lowers the package's clock (wide vectors), as a share per core."""


@dataclass(frozen=True)
class Case:
    """One scenario."""

    name: str
    jobs: tuple[HiddenJob, ...]
    system: float = 0.002
    """Busy share of every CPU by the operating system, at 3 W a core."""


@dataclass
class Truth:
    """The simulator's log: joules of each owner on each package."""

    joules: dict[tuple[str, int], float] = field(default_factory=dict)

    def add(self, owner: str, package: int, joules: float) -> None:
        """One step's energy."""
        self.joules[owner, package] = self.joules.get((owner, package), 0.0) + joules

    def total(self, owner: str) -> float:
        """An owner's joules on both packages."""
        return sum(value for (name, _), value in self.joules.items() if name == owner)


def steady(share: float) -> Load:
    """The same load all the time."""
    return lambda at_s, number: share


def bursts(period_s: float, share: float) -> Load:
    """Full load for a part of every period, nothing for the rest."""
    return lambda at_s, number: 1.0 if at_s % period_s < share * period_s else 0.0


def serial_and_parallel(period_s: float) -> Load:
    """One thread works all the time, the others every other half period."""
    return lambda at_s, number: 1.0 if number == 0 or at_s % period_s < period_s / 2 else 0.02


def cpus(first: int, count: int, threads: bool = True) -> tuple[int, ...]:
    """Cores as Slurm gives them: both threads, or the first alone."""
    one = tuple(range(first, first + count))
    return one + tuple(cpu + CORES for cpu in one) if threads else one


@cache
def cases() -> tuple[Case, ...]:
    """The scenarios of the table; the same ones each time, since loads are functions, which are equal to none."""
    return (
        Case("two equal jobs", (
            HiddenJob("4 cores", cpus(0, 4, False), 6.0, 0.25, steady(1.0)),
            HiddenJob("4 cores", cpus(4, 4, False), 6.0, 0.25, steady(1.0)),
        )),
        Case("busy and half idle", (
            HiddenJob("4 cores busy", cpus(0, 4, False), 6.0, 0.25, steady(1.0)),
            HiddenJob("4 cores 10 %", cpus(4, 4, False), 6.0, 0.25, steady(0.1)),
        )),
        Case("memory-bound beside vector code", (
            HiddenJob("4 cores, 3.5 W", cpus(0, 4, False), 3.5, 0.25, steady(1.0)),
            HiddenJob("4 cores, 9 W", cpus(4, 4, False), 9.0, 0.25, steady(1.0), heavy=0.02),
        )),
        Case("both threads beside one", (
            HiddenJob("4 cores, 8 threads", cpus(0, 4), 6.0, 0.35, steady(1.0)),
            HiddenJob("4 cores, 4 threads", cpus(4, 4, False), 6.0, 0.25, steady(1.0)),
        )),
        Case("second thread nearly free", (
            HiddenJob("4 cores, 8 threads", cpus(0, 4), 6.0, 0.05, steady(1.0)),
            HiddenJob("4 cores, 4 threads", cpus(4, 4, False), 6.0, 0.25, steady(1.0)),
        )),
        Case("bursts beside steady load", (
            HiddenJob("4 cores, bursts", cpus(0, 4, False), 7.0, 0.25, bursts(3.0, 0.4)),
            HiddenJob("3 cores, steady", cpus(4, 3, False), 5.0, 0.25, steady(0.9)),
        )),
        Case("three jobs on two packages", (
            HiddenJob("2 cores", cpus(0, 2, False), 5.0, 0.25, steady(0.8)),
            HiddenJob("8 cores over both", cpus(4, 8, False), 6.5, 0.25, serial_and_parallel(8.0)),
            HiddenJob("4 cores", cpus(12, 4, False), 8.0, 0.25, steady(1.0), heavy=0.015),
        )),
    )  # fmt: skip


def clock_factor(active: float, heavy: float) -> float:
    """Power of a busy core against its power at full clock: the clock falls with load, power with its 2.4th power."""
    return float((1.0 - 0.015 * active - heavy) ** 2.4)


def simulate(case: Case, seed: int = 7) -> tuple[Truth, list[IntervalInput]]:
    """Run one scenario; returns the simulator's log and what an agent would have seen, interval by interval."""
    noise = random.Random(seed)
    truth = Truth()
    intervals: list[IntervalInput] = []
    counter_j = [0.0, 0.0]
    busy_s = [0.0] * (2 * CORES)
    used_s = {number: 0.0 for number in range(len(case.jobs))}
    before = _seen(counter_j, busy_s, used_s)
    steps = round(SECONDS / STEP_S)
    for step in range(1, steps + 1):
        _advance(case, step * STEP_S, noise, truth, counter_j, busy_s, used_s)
        if step % round(INTERVAL_S / STEP_S) == 0:
            after = _seen(counter_j, busy_s, used_s)
            intervals.append(_interval(case, len(intervals), before, after))
            before = after
    return truth, intervals


def _advance(
    case: Case,
    at_s: float,
    noise: random.Random,
    truth: Truth,
    counter_j: list[float],
    busy_s: list[float],
    used_s: dict[int, float],
) -> None:
    loads = [0.0] * (2 * CORES)
    holder: dict[int, int] = {}
    for number, job in enumerate(case.jobs):
        for position, cpu in enumerate(job.cpus):
            share = job.load(at_s, position) * noise.uniform(0.95, 1.0)
            loads[cpu] = share
            holder[cpu] = number
            used_s[number] += share * STEP_S
    for package in (0, 1):
        cores = range(8 * package, 8 * package + 8)
        active = sum(max(loads[core], loads[core + CORES]) for core in cores)
        heavy = sum(case.jobs[holder[core]].heavy * loads[core] for core in cores if core in holder)
        factor = clock_factor(active, heavy)
        for core in cores:
            high, low = sorted((loads[core], loads[core + CORES]), reverse=True)
            if core in holder:
                job = case.jobs[holder[core]]
                joules = factor * job.watts * (high + job.second * low) * STEP_S
                truth.add(f"job:{holder[core]}", package, joules)
                counter_j[package] += joules
            system = case.system * 3.0 * STEP_S
            truth.add("system", package, system)
            counter_j[package] += system
            for cpu in (core, core + CORES):
                busy_s[cpu] += min(1.0, loads[cpu] + case.system) * STEP_S
        counter_j[package] += STATIC_W * STEP_S
        for core in cores:
            owner = f"job:{holder[core]}" if core in holder else "idle"
            truth.add(owner, package, STATIC_W / 8 * STEP_S)


Seen = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _seen(counter_j: list[float], busy_s: list[float], used_s: dict[int, float]) -> Seen:
    """Counters in uJ by hardware steps, busy time in ticks, CPU time in ns."""
    return (
        tuple(int(int(joules * 1e6 / UNIT_UJ) * UNIT_UJ) for joules in counter_j),
        tuple(int(seconds * NS_PER_S) // TICK_NS * TICK_NS for seconds in busy_s),
        tuple(int(used_s[number] * NS_PER_S) for number in sorted(used_s)),
    )


def _interval(case: Case, number: int, before: Seen, after: Seen) -> IntervalInput:
    return IntervalInput(
        t0_ns=number * INTERVAL_S * NS_PER_S,
        t1_ns=(number + 1) * INTERVAL_S * NS_PER_S,
        node=NODE,
        domains=tuple(
            DomainInput(
                name=f"package-{package}",
                kind=DomainKind.PACKAGE,
                total_uj=after[0][package] - before[0][package],
                package=package,
                static_uw=int(STATIC_W * 1e6),
            )
            for package in (0, 1)
        ),
        jobs=tuple(
            JobInput(owner=f"job:{index}", cpus=frozenset(job.cpus), cpu_ns=after[2][index] - before[2][index])
            for index, job in enumerate(case.jobs)
        ),
        busy_ns={cpu: after[1][cpu] - before[1][cpu] for cpu in range(2 * CORES)},
    )


@dataclass(frozen=True)
class Outcome:
    """One job of one scenario: true joules, and what three rules give it."""

    case: str
    job: str
    true_j: float
    ours_j: float
    by_cores_j: float
    by_time_j: float


def outcomes() -> Iterator[Outcome]:
    """Every job of every scenario."""
    for case in cases():
        truth, intervals = simulate(case)
        ours: dict[str, int] = {}
        by_cores: dict[str, float] = {}
        by_time: dict[str, float] = {}
        for interval in intervals:
            total_uj = sum(domain.total_uj or 0 for domain in interval.domains)
            held = sum(len(job.cpus) for job in interval.jobs)
            used = sum(job.cpu_ns or 0 for job in interval.jobs)
            for domain in attribute(interval):
                for owner, energy_uj in domain.by_owner().items():
                    ours[owner] = ours.get(owner, 0) + energy_uj
            for job in interval.jobs:
                by_cores[job.owner] = by_cores.get(job.owner, 0.0) + total_uj * len(job.cpus) / held
                by_time[job.owner] = by_time.get(job.owner, 0.0) + total_uj * (job.cpu_ns or 0) / used
        for number, hidden in enumerate(case.jobs):
            owner = f"job:{number}"
            true_j = truth.total(owner)
            yield Outcome(
                case.name, hidden.name, true_j, ours[owner] / 1e6, by_cores[owner] / 1e6, by_time[owner] / 1e6
            )


@dataclass(frozen=True)
class MigOutcome:
    """One MIG instance: true joules, and the shares by activity and by slices alone."""

    name: str
    true_j: float
    activity_j: float
    slices_j: float


def mig_outcomes() -> Iterator[MigOutcome]:
    """A GPU of seven slices, 90 W idle: two jobs with other hidden watts per active slice, two slices free."""
    hidden = (("3 slices, 60 W/slice", 3, 0.9, 60.0), ("2 slices, 40 W/slice", 2, 0.5, 40.0))
    seconds, idle_w = 60, 90.0
    true_j = [idle_w * slices / 7 * seconds + slices * busy * watts * seconds for _, slices, busy, watts in hidden]
    total_uj = int((idle_w * seconds + sum(s * b * w * seconds for _, s, b, w in hidden)) * 1e6)
    results = []
    for with_activity in (True, False):
        interval = IntervalInput(
            t0_ns=0,
            t1_ns=seconds * NS_PER_S,
            node=NODE,
            domains=(
                DomainInput(name="gpu", kind=DomainKind.GPU, total_uj=total_uj, static_uw=int(idle_w * 1e6), slices=7),
            ),
            jobs=tuple(
                JobInput(
                    owner=f"job:{number}",
                    gpus={"gpu": GpuHolding(part=slices, activity=int(busy * 1000) if with_activity else None)},
                )
                for number, (_, slices, busy, _) in enumerate(hidden)
            ),
        )
        results.append(attribute(interval)[0].by_owner())
    for number, (name, *_) in enumerate(hidden):
        owner = f"job:{number}"
        yield MigOutcome(name, true_j[number], results[0][owner] / 1e6, results[1][owner] / 1e6)


def _error(value: float, true: float) -> str:
    return f"{100 * (value - true) / true:+.1f} %"


def table() -> str:
    """The tables as Markdown."""
    lines = [
        "| node shared by | job | true J | this rule | by cores held | by CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for one in outcomes():
        errors = " | ".join(_error(value, one.true_j) for value in (one.ours_j, one.by_cores_j, one.by_time_j))
        lines.append(f"| {one.case} | {one.job} | {one.true_j:.0f} | {errors} |")
    lines += ["", "| MIG instance | true J | by activity and slices | by slices |", "|---|---|---|---|"]
    for mig in mig_outcomes():
        errors = " | ".join(_error(value, mig.true_j) for value in (mig.activity_j, mig.slices_j))
        lines.append(f"| {mig.name} | {mig.true_j:.0f} | {errors} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
