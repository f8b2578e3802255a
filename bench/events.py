"""How far rules for a package lie from the truth: `python -m bench.events` prints the tables of docs/method.md.

The physics are those of `bench.coverage`; what a program's counters show of them is drawn here: cycles by its clock,
instructions by how it stalls and by its mix, which has nothing to do with its power, misses by its traffic. The rules
see 10 s intervals of a package: its energy, static power as a site states it, CPU times and events of jobs. What is
compared is each job's part of the dynamic energy of each interval in which it has others beside it. *fit* is the
product's filter (`energy/work_power.py`), *fit by events* the same with events (`bench/event_model.py`). Beside the two
families stand their programs as they would be if they never waited and their watts moved unseen.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.coverage.kinds import parts_of, snap
from bench.coverage.physics import FAMILIES, Cores, Family, Floats, Nature, Random
from bench.event_model import EventPower, Events, Row
from perun_hpc.energy.attribute import KAPPA
from perun_hpc.energy.work_power import WorkPower

STEP_S = 0.05
INTERVAL_S = 10
AGES_S = (10, 30, 100, 240, 600)
MISS_SPREADS = (0.15, 0.5, 0.8)
"""How far the traffic behind a miss may differ from job to job: prefetches and write-backs are not in it."""
LEAST_PART = 0.02
"""Of the dynamic energy; what is less has no error worth a percentage."""
HZ = 2.5e9
LINE_B = 64
STATIC_ERROR = 0.08
WATCHED_S = 600
GAIN_ERROR = 0.03
SEED = 20261201
RULES = ("equal parts", "CPU time", "cycles", "instructions", "fit", "fit by events")
UNSEEN = (0.0, 0.15, 0.25)
"""How far the watts of programs that never wait move, in steps that last from some seconds to a minute (k=1)."""


@dataclass(frozen=True)
class Trial:
    """A package: its intervals as the rules see them, and each job's true dynamic joules in each, of memory apart.

    True is what the package's counter would show of it: its gain is the same for all rules.
    """

    cores: int
    rows: Sequence[Row]
    true_j: Sequence[Mapping[str, float]]
    memory_j: Sequence[Mapping[str, float]]


def simulate(rng: Random, family: Family, unseen: float | None = None, interval_s: float = INTERVAL_S) -> Trial:
    """Three to six jobs with cores of their own on one package, that come and go over ten minutes.

    `unseen`: they never wait, and their watts move so much.
    """
    machine = family.machine(rng)
    count = min(machine.cores, int(rng.integers(3, 7)))
    steps = round(WATCHED_S / STEP_S)
    natures: dict[int, Nature] = {job: family.nature(rng) for job in range(count)}
    lives = [_life(rng) for _ in range(count)]
    active = {}
    for job, (start_s, end_s) in enumerate(lives):
        level = float(rng.choice([1.0, rng.uniform(0.1, 1)]))
        times = np.arange(steps) * STEP_S
        there = (times >= start_s) & (times < end_s)
        busy_share = family.activity(rng, STEP_S, steps, level) if unseen is None else np.full(steps, level)
        active[job] = np.asarray(busy_share * there)
    cores = parts_of(rng, machine.cores, list(range(count)), False)
    powers = family.packages(rng, machine, STEP_S, cores, active, natures)
    for job in active if unseen else ():
        powers.dynamic[job] = powers.dynamic[job] * _moving(rng, steps, unseen or 0.0)
    busy = {job: _busy(cores, powers.seat, job, steps) for job in range(count)}
    events = {job: _events(rng, natures[job], busy[job], powers.clock[job]) for job in range(count)}
    stated_w = machine.idle_w * (1 + rng.normal(0, STATIC_ERROR))
    gain = 1 + family.error(rng, GAIN_ERROR)
    edges = sorted(
        {*np.arange(0.0, WATCHED_S + interval_s / 2, interval_s).tolist(), *(at for life in lives for at in life)}
    )
    rows, true_j, memory_j = [], [], []
    for from_s, to_s in zip(edges, edges[1:], strict=False):
        part = slice(round(from_s / STEP_S), round(to_s / STEP_S))
        energy_j = float(np.sum(powers.package()[part])) * STEP_S * gain
        live = [job for job, (start_s, end_s) in enumerate(lives) if start_s <= from_s and to_s <= end_s]
        if not live:
            continue
        cells = {f"job:{job}": _sums(events[job], part) for job in live}
        busy_ns = {f"job:{job}": float(np.sum(busy[job][part])) * STEP_S * 1e9 for job in live}
        rows.append(Row(round((to_s - from_s) * 1e9), round(energy_j * 1e6), round(stated_w * 1e6), busy_ns, cells))
        true_j.append({f"job:{job}": float(np.sum(powers.dynamic[job][part])) * STEP_S * gain for job in live})
        memory_j.append({f"job:{job}": float(np.sum(powers.memory[job][part])) * STEP_S for job in live})
    return Trial(machine.cores, rows, true_j, memory_j)


def _moving(rng: Random, steps: int, spread: float) -> Floats:
    """A factor that goes in steps, each as long as chance says."""
    found, at, mean_s = np.empty(steps), 0, rng.uniform(5, 60)
    while at < steps:
        until = at + max(1, int(rng.exponential(mean_s) / STEP_S))
        found[at:until] = math.exp(rng.normal(0, spread))
        at = until
    return found


def _life(rng: Random) -> tuple[float, float]:
    """When a job starts and ends."""
    start_s = snap(float(rng.uniform(0, WATCHED_S * 0.6)))
    return start_s, min(float(WATCHED_S), snap(start_s + float(np.exp(rng.uniform(np.log(20), np.log(WATCHED_S))))))


def _busy(cores: Sequence[Cores], seat: Mapping[tuple[int, int], Mapping[int, Floats]], job: int, steps: int) -> Floats:
    """Busy cores of a job: the busier thread of each whole, the other one as the rule of CPU time weighs it."""
    found = np.zeros(steps)
    numerator, denominator = KAPPA
    for place, group in enumerate(cores):
        shares = [seat[place, number].get(job, np.zeros(steps)) for number in range(len(group.seats))]
        most, every = np.max(shares, axis=0), np.sum(shares, axis=0)
        found += group.count * (most + numerator / denominator * (every - most))
    return found


def _events(rng: Random, nature: Nature, busy: Floats, clock: Floats) -> tuple[Floats, Floats, Floats]:
    """Cycles of cores, instructions and misses a second."""
    cycles = busy * clock * HZ
    a_cycle = 2.6 * (1 - nature.stalls) ** 1.2 * math.exp(rng.normal(0, 0.35))
    misses = busy * nature.traffic * 1e9 / LINE_B * math.exp(rng.normal(0, 0.15))
    return cycles, cycles * a_cycle, misses


def _sums(events: Sequence[Floats], part: slice) -> Events:
    cycles, instructions, misses = (int(np.sum(one[part]) * STEP_S) for one in events)
    return cycles, instructions, misses


@dataclass(frozen=True)
class Judged:
    """A job's part of an interval's dynamic energy: true, by a rule, and its bound (k=1) where the rule has one.

    `age` is the class of `AGES_S` for which the job has been there.
    """

    rule: str
    age: int
    true: float
    given: float
    u: float


def judged(trial: Trial) -> Iterator[Judged]:
    """Each job of each interval that has others beside it, by each rule; the fit knows what was until then."""
    age_s: dict[str, float] = {}
    power = WorkPower(trial.cores)
    by_events = EventPower(trial.cores, sorted({one for row in trial.rows for one in row.events}), STATIC_ERROR)
    for row, true_j in zip(trial.rows, trial.true_j, strict=True):
        for owner in row.events:
            age_s[owner] = age_s.get(owner, 0.0) + row.duration_ns / 1e9
        whole_j = sum(true_j.values())
        parts = power.take(row.duration_ns, row.total_uj, row.static_uw, STATIC_ERROR, row.busy_ns)
        watts = by_events.take(row)
        if len(row.events) < 2 or whole_j <= 0:
            continue
        weights = {
            "equal parts": dict.fromkeys(row.events, 1.0),
            "CPU time": row.busy_ns,
            "cycles": {owner: float(one[0]) for owner, one in row.events.items()},
            "instructions": {owner: float(one[1]) for owner, one in row.events.items()},
            "fit": parts.weights if parts else row.busy_ns,
            "fit by events": watts,
        }
        for owner, joules in true_j.items():
            age = next((one for one in AGES_S if age_s[owner] <= one), AGES_S[-1])
            if joules > LEAST_PART * whole_j:
                for rule, weight in weights.items():
                    u = parts.doubts.get(owner, 0.0) if parts and rule == "fit" else 0.0
                    yield Judged(rule, age, joules / whole_j, weight.get(owner, 0.0) / sum(weight.values()), u)


def memory_judged(trial: Trial, rng: Random, spread: float) -> Iterator[Judged]:
    """Each job's part of memory's dynamic energy by CPU time and by misses, whose traffic differs by such a spread."""
    bytes_a_miss = {owner: math.exp(rng.normal(0, spread)) for row in trial.rows for owner in row.events}
    for row, true_j in zip(trial.rows, trial.memory_j, strict=True):
        whole_j = sum(true_j.values())
        misses = {owner: one[2] * bytes_a_miss[owner] for owner, one in row.events.items()}
        if len(row.events) < 2 or whole_j <= 0:
            continue
        for owner, joules in true_j.items():
            if joules > LEAST_PART * whole_j:
                for rule, weight in (("CPU time", row.busy_ns), ("misses", misses)):
                    yield Judged(rule, 0, joules / whole_j, weight[owner] / (sum(weight.values()) or 1.0), 0.0)


def memory_table(trials: int, seed: int) -> str:
    """Root mean square of the relative error of a job's part of memory's dynamic energy."""
    lines = ["| memory | CPU time | " + " | ".join(f"misses, {100 * one:.0f} %" for one in MISS_SPREADS) + " |"]
    lines.append("|---" * (2 + len(MISS_SPREADS)) + "|")
    for family in FAMILIES:
        rng = np.random.default_rng(seed)
        made = [simulate(rng, FAMILIES[family]) for _ in range(trials)]
        cells = []
        for rule, spread in (("CPU time", 0.0), *(("misses", one) for one in MISS_SPREADS)):
            found = [one for trial in made for one in memory_judged(trial, rng, spread) if one.rule == rule]
            cells.append(f"{100 * math.sqrt(sum((one.given / one.true - 1) ** 2 for one in found) / len(found)):.0f}")
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def table(family: str, trials: int, seed: int, interval_s: float) -> str:
    """Root mean square of the relative error by rule and age, and how often the fit's bounds hold."""
    rng = np.random.default_rng(seed)
    found = [one for _ in range(trials) for one in judged(simulate(rng, FAMILIES[family], None, interval_s))]
    ages = ("10 s", "30 s", "100 s", "240 s", "longer")
    lines = [f"| {family}: the job is there for | {' | '.join(ages)} |", "|---" * 6 + "|"]
    bounds = []
    for rule in RULES:
        cells = []
        for age in AGES_S:
            mine = [one for one in found if one.rule == rule and one.age == age]
            error = math.sqrt(sum((one.given / one.true - 1) ** 2 for one in mine) / len(mine))
            cells.append(f"{100 * error:.0f}")
            if rule == "fit":
                covered = sum(abs(one.given - one.true) <= 2 * one.u for one in mine) / len(mine)
                bounds.append(f"{100 * covered:.0f}, {100 * np.median([2 * one.u / one.true for one in mine]):.0f}")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    lines.append(f"| fit: covered, width | {' | '.join(bounds)} |")
    return "\n".join(lines)


def unseen_table(trials: int, seed: int) -> str:
    """Programs that never wait: errors of a job's part by CPU time and by the fit, and how often its bounds hold."""
    lines = ["| never waiting | watts move by | CPU time | fit | covered, width |", "|---" * 5 + "|"]
    for family in FAMILIES:
        for spread in UNSEEN:
            rng = np.random.default_rng(seed)
            found = [one for _ in range(trials) for one in judged(simulate(rng, FAMILIES[family], spread))]
            cells = []
            for rule in ("CPU time", "fit"):
                mine = [one for one in found if one.rule == rule]
                error = math.sqrt(sum((one.given / one.true - 1) ** 2 for one in mine) / len(mine))
                cells.append(f"{100 * error:.0f}")
            covered = sum(abs(one.given - one.true) <= 2 * one.u for one in mine) / len(mine)
            cells.append(f"{100 * covered:.0f}, {100 * np.median([2 * one.u / one.true for one in mine]):.0f}")
            lines.append(f"| {family} | {100 * spread:.0f} % | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the table of each family."""
    parser = argparse.ArgumentParser(prog="python -m bench.events", description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--interval", type=float, default=INTERVAL_S, help="seconds between two readings")
    args = parser.parse_args(argv)
    for family in FAMILIES:
        print(table(family, args.trials, args.seed, args.interval), end="\n\n", flush=True)
    print(unseen_table(args.trials, args.seed), end="\n\n", flush=True)
    print(memory_table(args.trials, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
