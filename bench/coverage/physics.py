"""Hidden physics of nodes: where their power comes from, drawn at random for each trial.

Two families. Constants of the product may be tuned on `TUNING`; `WITHHELD` makes its power in other ways (other clocks,
other loads, other memory, other spreads) and only judges. Neither knows the product's rules, but for the one convention
that no physics decides: static power belongs to whoever holds the cores or the bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Nature:
    """What a program is like, which no sensor shows.

    Attributes
    ----------
    switched : switched capacitance of a busy core against the usual, a factor of its power.
    stalls : share of its busy time in which a core waits for memory.
    traffic : memory traffic of a busy core, in GB/s.
    second : what a core's second thread adds to its power, as a share of the first one's.
    """

    switched: float
    stalls: float
    traffic: float
    second: float


@dataclass(frozen=True)
class Seat:
    """One thread of some alike cores, and who runs on it: several where CPUs are oversubscribed."""

    jobs: tuple[int, ...]


@dataclass(frozen=True)
class Cores:
    """Alike cores of one package: how many, and who sits on each of their threads."""

    count: int
    seats: tuple[Seat, ...]


@dataclass
class Powers:
    """Hidden power of one package and its memory over time, W; `dynamic` and `memory` by job, -1 being the system.

    `seat` is the busy share of each seat (place of the cores, place of the seat) by job, `clock` that of each job's
    cores against the nominal one.
    """

    static: Floats
    dynamic: dict[int, Floats]
    memory_static: Floats
    memory: dict[int, Floats]
    seat: dict[tuple[int, int], dict[int, Floats]] = field(default_factory=dict)
    clock: dict[int, Floats] = field(default_factory=dict)

    def package(self) -> Floats:
        """All of the package."""
        return self.static + sum(self.dynamic.values(), np.zeros_like(self.static))

    def dram(self) -> Floats:
        """All of its memory."""
        return self.memory_static + sum(self.memory.values(), np.zeros_like(self.static))


@dataclass(frozen=True)
class Machine:
    """A type of node: what a package of it uses.

    `idle_w`, `core_w`, `cap_w` : static power, a busy core, the cap; `memory_w`, `traffic_w` : memory's static power,
    and that of one GB/s.
    """

    cores: int
    idle_w: float
    core_w: float
    cap_w: float
    memory_w: float
    traffic_w: float


class Family(Protocol):
    """One way in which nodes make power."""

    def machine(self, rng: Random) -> Machine:
        """A type of node."""

    def nature(self, rng: Random) -> Nature:
        """A program."""

    def activity(self, rng: Random, step_s: float, count: int, level: float) -> Floats:
        """Busy share of a program's CPUs over time."""

    def static(self, rng: Random, machine: Machine, step_s: float, heat: Floats, awake: Floats) -> Floats:
        """Static power over time, of a package that makes `heat` (W beside it); `awake`: whether anybody works."""

    def packages(
        self, rng: Random, machine: Machine, step_s: float, cores: Sequence[Cores], active: Mapping[int, Floats],
        natures: Mapping[int, Nature],
    ) -> Powers:  # fmt: skip
        """A package with its memory on which such programs run."""

    def gpu(self, rng: Random, step_s: float, working: Floats) -> Floats:
        """Power of a GPU, W; `working` is 1 while its job runs."""

    def error(self, rng: Random, relative: float) -> float:
        """What sensors of one model count wrongly, all alike, where a standard uncertainty of `relative` is stated."""

    def scatter(self, rng: Random) -> float:
        """What one sensor counts wrongly beside its model."""

    def offset_w(self, rng: Random) -> float:
        """What a memory counter adds, whatever it counts."""


def seats(cores: Sequence[Cores], active: Mapping[int, Floats]) -> dict[tuple[int, int], dict[int, Floats]]:
    """Busy share of every seat by job: whoever shares a CPU waits for the others in proportion."""
    found = {}
    for place, group in enumerate(cores):
        for number, seat in enumerate(group.seats):
            wanted = {job: active[job] for job in seat.jobs}
            crowd = sum(wanted.values(), np.zeros_like(next(iter(active.values()))))
            space = 1.0 / np.maximum(1.0, crowd)
            found[place, number] = {job: one * space for job, one in wanted.items()}
    return found


def core_powers(
    cores: Sequence[Cores],
    seat: Mapping[tuple[int, int], Mapping[int, Floats]],
    natures: Mapping[int, Nature],
    watts: Mapping[int, Floats | float],
) -> dict[int, Floats]:
    """Power by job of all cores at nominal clock: the less busy thread adds its part only."""
    found: dict[int, Floats] = {}
    for place, group in enumerate(cores):
        by_seat = [
            {job: share * watts[job] for job, share in seat[place, number].items()}
            for number in range(len(group.seats))
        ]
        busy = [sum(seat[place, n].values(), np.float64(0)) for n in range(len(group.seats))]
        factor: Floats | float = 1.0
        if len(by_seat) == 2:
            both = np.minimum(busy[0], busy[1])
            jobs = {job for one in by_seat for job in one}
            added = float(np.mean([natures[job].second for job in jobs])) if jobs else 0.0
            total = np.maximum(busy[0] + busy[1], 1e-9)
            factor = (total - (1.0 - added) * both) / total
        for one in by_seat:
            for job, power in one.items():
                found[job] = found.get(job, 0.0) + group.count * power * factor
    return found


def wander(rng: Random, step_s: float, count: int, spread: float, time_s: float) -> Floats:
    """A level that drifts around 0 (Ornstein-Uhlenbeck), of standard deviation `spread`."""
    points = max(2, int(count * step_s / (time_s / 8)) + 2)
    keep = np.exp(-1 / 8)
    noise = rng.standard_normal(points) * spread * np.sqrt(1 - keep**2)
    level = np.empty(points)
    level[0] = rng.standard_normal() * spread
    for at in range(1, points):
        level[at] = keep * level[at - 1] + noise[at]
    return _line(
        np.asarray(np.arange(count) * step_s), np.asarray(np.arange(points) * (count * step_s / (points - 1))), level
    )


def _line(at: Floats, places: Floats, values: Floats) -> Floats:
    """Straight lines between values."""
    return np.asarray(np.interp(at, places, values), dtype=np.float64)


class Tuning:
    """One clock for all cores of a package, by turbo steps and a power cap; leakage follows the die's temperature."""

    def machine(self, rng: Random) -> Machine:
        """Of some sizes and powers."""
        cores = int(rng.choice([8, 12, 16, 24]))
        core_w = rng.uniform(3.5, 8.0)
        return Machine(
            cores,
            idle_w=rng.uniform(15, 60),
            core_w=core_w,
            cap_w=cores * core_w * rng.uniform(0.9, 1.5) + 40,
            memory_w=rng.uniform(4, 15),
            traffic_w=rng.uniform(0.15, 0.4),
        )

    def nature(self, rng: Random) -> Nature:
        """A program by its spreads."""
        stalls = float(rng.beta(1.5, 3))
        return Nature(float(np.exp(rng.normal(0, 0.28))), stalls, 0.3 + 8 * stalls, float(rng.uniform(0.1, 0.5)))

    def activity(self, rng: Random, step_s: float, count: int, level: float) -> Floats:
        """A level with its changes."""
        return np.clip(level * np.exp(wander(rng, step_s, count, 0.1, rng.uniform(3, 40))), 0.0, 1.0)

    def static(self, rng: Random, machine: Machine, step_s: float, heat: Floats, awake: Floats) -> Floats:
        """Static power and what moves it."""
        points = max(2, int(len(heat) * step_s) + 1)  # one a second
        grid = np.linspace(0, len(heat) - 1, points).astype(int)
        level, keep = np.empty(points), np.exp(-1 / 40)
        level[0] = heat[0]
        for at in range(1, points):
            level[at] = keep * level[at - 1] + (1 - keep) * heat[grid[at]]
        warm = _line(np.arange(len(heat), dtype=np.float64), grid.astype(np.float64), level)
        watts: Floats = machine.idle_w * (1 + 0.12 * warm / max(1.0, machine.cap_w)) * (0.96 + 0.04 * awake)
        return watts

    def packages(
        self, rng: Random, machine: Machine, step_s: float, cores: Sequence[Cores], active: Mapping[int, Floats],
        natures: Mapping[int, Nature],
    ) -> Powers:  # fmt: skip
        """Clocks, cores, uncore, memory."""
        count = len(next(iter(active.values())))
        seat = seats(cores, active)
        watts: dict[int, Floats | float] = {}
        for job, nature in natures.items():
            phases = np.exp(wander(rng, step_s, count, 0.12, rng.uniform(5, 60)))
            watts[job] = machine.core_w * nature.switched * (1 - 0.55 * nature.stalls) * phases
        nominal = core_powers(cores, seat, natures, watts)
        busy = np.zeros(count)
        for place, group in enumerate(cores):
            shares = [sum(seat[place, n].values(), np.zeros(count)) for n in range(len(group.seats))]
            busy += group.count * np.max(shares, axis=0)
        clock = 1.2 - 0.25 * busy / machine.cores
        factor = clock * (0.55 + 0.45 * clock) ** 2
        demand = sum(nominal.values(), np.zeros(count)) * factor
        capped = np.minimum(1.0, machine.cap_w / np.maximum(demand, 1.0))
        factor = factor * capped
        moved = {
            job: sum(
                (group.count * seat[place, n].get(job, 0.0)
                 for place, group in enumerate(cores) for n in range(len(group.seats))),
                np.zeros(count),
            ) * natures[job].traffic
            for job in active
        }  # fmt: skip
        whole = sum(moved.values(), np.zeros(count))
        knee = 5.0 * machine.cores
        uncore = 0.35 * machine.idle_w * (1 - np.exp(-whole / knee))
        share = {job: one / np.maximum(whole, 1e-9) for job, one in moved.items()}
        dynamic = {job: nominal.get(job, np.zeros(count)) * factor + uncore * share[job] for job in active}
        static = self.static(rng, machine, step_s, sum(dynamic.values(), np.zeros(count)), (busy > 0.02).astype(float))
        through = 3 * knee * (1 - np.exp(-whole / (3 * knee)))  # channels fill up
        memory = {job: machine.traffic_w * through * share[job] for job in active}
        clocks = dict.fromkeys(active, np.asarray(clock * np.cbrt(capped)))
        return Powers(static, dynamic, np.full(count, machine.memory_w), memory, seat, clocks)

    def gpu(self, rng: Random, step_s: float, working: Floats) -> Floats:
        """Idle power and phases of work."""
        idle_w, top_w = rng.uniform(30, 90), rng.uniform(200, 700)
        times = np.arange(len(working)) * step_s
        period_s, part = float(np.exp(rng.uniform(np.log(0.02), np.log(2)))), rng.uniform(0.3, 1.0)
        kernels = ((times % period_s) < part * period_s).astype(float)
        level = np.clip(0.7 + wander(rng, step_s, len(working), 0.15, rng.uniform(1, 30)), 0.1, 1.0)
        return np.asarray(idle_w + (top_w - idle_w) * level * kernels * working)

    def error(self, rng: Random, relative: float) -> float:
        """What a model counts wrongly."""
        return float(rng.normal(0, 0.9 * relative))

    def scatter(self, rng: Random) -> float:
        """What one sensor counts wrongly."""
        return float(rng.normal(0, 0.008))

    def offset_w(self, rng: Random) -> float:
        """What a memory counter adds."""
        return float(rng.normal(0, 1.0))


class Withheld:
    """Every core has a clock of its own by how it stalls; programs compute and communicate in turn and are of three
    classes; the package wakes up as a whole; the space's air comes and goes."""

    def machine(self, rng: Random) -> Machine:
        """Of some sizes and powers."""
        cores = int(rng.integers(6, 33))
        core_w = float(np.exp(rng.normal(np.log(5.0), 0.3)))
        return Machine(
            cores,
            idle_w=cores * rng.uniform(1.0, 4.0) + 8,
            core_w=core_w,
            cap_w=1e9,
            memory_w=rng.uniform(3, 20),
            traffic_w=rng.uniform(0.1, 0.35),
        )

    def nature(self, rng: Random) -> Nature:
        """A program by its spreads."""
        mean, stalls = [(0.8, 0.15), (1.0, 0.3), (1.45, 0.1), (0.85, 0.65)][int(rng.integers(4))]
        stalls = float(np.clip(stalls * rng.uniform(0.6, 1.4), 0, 0.9))
        return Nature(
            mean * rng.uniform(0.85, 1.15), stalls, 0.2 + 9 * stalls**1.5, float(rng.triangular(0, 0.25, 0.7))
        )

    def activity(self, rng: Random, step_s: float, count: int, level: float) -> Floats:
        """A level with its changes."""
        long_s, part = rng.uniform(0.5, 20), rng.uniform(0.6, 0.95)
        state = np.empty(count)
        at, on = 0, bool(rng.random() < part)
        while at < count:
            mean_s = long_s * (part if on else 1 - part)
            until = at + max(1, int(rng.exponential(mean_s) / step_s))
            state[at:until] = 1.0 if on else 0.45
            at, on = until, not on
        return np.clip(level * state / (part + 0.45 * (1 - part)), 0.0, 1.0)

    def static(self, rng: Random, machine: Machine, step_s: float, heat: Floats, awake: Floats) -> Floats:
        """Static power and what moves it."""
        times = np.arange(len(heat)) * step_s
        air = 0.04 * np.sin(2 * np.pi * times / rng.uniform(200, 900) + rng.uniform(0, 6.3))
        watts: Floats = machine.idle_w * (0.93 + air + 0.09 * awake)
        return watts

    def packages(
        self, rng: Random, machine: Machine, step_s: float, cores: Sequence[Cores], active: Mapping[int, Floats],
        natures: Mapping[int, Nature],
    ) -> Powers:  # fmt: skip
        """Clocks, cores, uncore, memory."""
        count = len(next(iter(active.values())))
        seat = seats(cores, active)
        watts: dict[int, Floats | float] = {}
        clocks: dict[int, Floats] = {}
        for job, nature in natures.items():
            # Wide vectors clock lower; a core that waits still takes half of its power.
            clock = 0.8 + 0.35 * (1 - nature.stalls) - 0.25 * (nature.switched - 1) + rng.normal(0, 0.03)
            watts[job] = machine.core_w * nature.switched * (0.45 + 0.55 * (1 - nature.stalls) * clock**3)
            clocks[job] = np.full(count, clock)
        made = core_powers(cores, seat, natures, watts)
        dynamic = {job: made.get(job, np.zeros(count)) for job in active}
        held = {
            job: sum(
                (group.count * seat[place, n].get(job, 0.0)
                 for place, group in enumerate(cores) for n in range(len(group.seats))),
                np.zeros(count),
            )
            for job in active
        }  # fmt: skip
        whole = np.zeros(count)
        for job, busy in held.items():
            moved = busy * natures[job].traffic
            whole += moved
            dynamic[job] = dynamic[job] + 0.06 * moved
        awake = np.asarray(sum(held.values(), np.zeros(count)) > 0.05 * machine.cores, dtype=np.float64)
        static = self.static(rng, machine, step_s, sum(dynamic.values(), np.zeros(count)), awake)
        memory = {job: np.asarray(machine.traffic_w * busy * natures[job].traffic) for job, busy in held.items()}
        return Powers(static, dynamic, machine.memory_w * (0.9 + 0.1 * awake), memory, seat, clocks)

    def gpu(self, rng: Random, step_s: float, working: Floats) -> Floats:
        """Idle power and phases of work."""
        idle_w, top_w = rng.uniform(20, 120), rng.uniform(150, 1000)
        count = len(working)
        level, at = np.empty(count), 0
        mean_s = float(np.exp(rng.uniform(np.log(0.02), np.log(3))))
        while at < count:
            until = at + max(1, int(rng.exponential(mean_s) / step_s))
            level[at:until] = rng.beta(1.2, 0.8)
            at = until
        since = np.maximum.accumulate(np.where(np.diff(working, prepend=0) > 0, np.arange(count), 0))
        warm = 1 - np.exp(-(np.arange(count) - since) * step_s / 30)
        return idle_w * (1 + 0.1 * warm * working) + (top_w - idle_w) * level * working

    def error(self, rng: Random, relative: float) -> float:
        """What a model counts wrongly."""
        return float(rng.uniform(-1.6, 1.6) * relative)

    def scatter(self, rng: Random) -> float:
        """What one sensor counts wrongly."""
        return float(rng.normal(0, 0.01))

    def offset_w(self, rng: Random) -> float:
        """What a memory counter adds."""
        return float(rng.uniform(-1.8, 1.8))


FAMILIES: dict[str, Family] = {"tuning": Tuning(), "withheld": Withheld()}
