"""How far sharing by hardware events is from the truth: `python -m bench.events` prints the tables of docs/method.md.

The physics are those of `bench.coverage`; what a program's counters show of them is drawn here: cycles by its clock,
instructions by how it stalls and by its mix, which has nothing to do with its power, misses by its traffic. The rules
see 10 s intervals of a package: its energy, static power as a site states it, CPU times and events of jobs. What is
compared is each job's part of the dynamic energy of each interval in which it has others beside it.
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
from bench.event_model import Events, Row, fit
from perun_hpc.energy.attribute import KAPPA

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
RULES = ("equal parts", "CPU time", "cycles", "instructions", "events")


@dataclass(frozen=True)
class Trial:
    """A package: its intervals as the rules see them, and each job's true dynamic joules in each, of memory apart.

    True is what the package's counter would show of it: its gain is the same for all rules.
    """

    rows: Sequence[Row]
    cpu_s: Sequence[Mapping[str, float]]
    true_j: Sequence[Mapping[str, float]]
    memory_j: Sequence[Mapping[str, float]]
    static_u_uw: float


def simulate(rng: Random, family: Family) -> Trial:
    """Three to six jobs with cores of their own on one package, that come and go over ten minutes."""
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
        active[job] = family.activity(rng, STEP_S, steps, level) * there
    cores = parts_of(rng, machine.cores, list(range(count)), False)
    powers = family.packages(rng, machine, STEP_S, cores, active, natures)
    busy = {job: _busy(cores, powers.seat, job, steps) for job in range(count)}
    events = {job: _events(rng, natures[job], busy[job], powers.clock[job]) for job in range(count)}
    stated_w = machine.idle_w * (1 + rng.normal(0, STATIC_ERROR))
    gain = 1 + family.error(rng, GAIN_ERROR)
    edges = sorted({*np.arange(0.0, WATCHED_S + 1, INTERVAL_S).tolist(), *(at for life in lives for at in life)})
    rows, cpu_s, true_j, memory_j = [], [], [], []
    for from_s, to_s in zip(edges, edges[1:], strict=False):
        part = slice(round(from_s / STEP_S), round(to_s / STEP_S))
        energy_j = float(np.sum(powers.package()[part])) * STEP_S * gain - stated_w * (to_s - from_s)
        live = [job for job, (start_s, end_s) in enumerate(lives) if start_s <= from_s and to_s <= end_s]
        if not live:
            continue
        cells = {f"job:{job}": _sums(events[job], part) for job in live}
        rows.append(Row(round((to_s - from_s) * 1e9), round(max(0.0, energy_j) * 1e6), cells))
        cpu_s.append({f"job:{job}": float(np.sum(busy[job][part])) * STEP_S for job in live})
        true_j.append({f"job:{job}": float(np.sum(powers.dynamic[job][part])) * STEP_S * gain for job in live})
        memory_j.append({f"job:{job}": float(np.sum(powers.memory[job][part])) * STEP_S for job in live})
    return Trial(rows, cpu_s, true_j, memory_j, STATIC_ERROR * stated_w * 1e6)


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
    for number, (row, cpu_s, true_j) in enumerate(zip(trial.rows, trial.cpu_s, trial.true_j, strict=True)):
        for owner in row.events:
            age_s[owner] = age_s.get(owner, 0.0) + row.duration_ns / 1e9
        whole_j = sum(true_j.values())
        if len(row.events) < 2 or whole_j <= 0:
            continue
        found = fit(trial.rows[: number + 1], trial.static_u_uw)
        weights = {
            "equal parts": dict.fromkeys(row.events, 1.0),
            "CPU time": cpu_s,
            "cycles": {owner: float(one[0]) for owner, one in row.events.items()},
            "instructions": {owner: float(one[1]) for owner, one in row.events.items()},
            "events": found.energies(row.events) if found else cpu_s,
        }
        errors = found.part_errors(row.events) if found else {}
        for owner, joules in true_j.items():
            age = next((one for one in AGES_S if age_s[owner] <= one), AGES_S[-1])
            if joules > LEAST_PART * whole_j:
                for rule, weight in weights.items():
                    u = errors.get(owner, 0.0) if rule == "events" else 0.0
                    yield Judged(rule, age, joules / whole_j, weight[owner] / (sum(weight.values()) or 1.0), u)


def memory_judged(trial: Trial, rng: Random, spread: float) -> Iterator[Judged]:
    """Each job's part of memory's dynamic energy by CPU time and by misses, whose traffic differs by such a spread."""
    bytes_a_miss = {owner: math.exp(rng.normal(0, spread)) for row in trial.rows for owner in row.events}
    for row, cpu_s, true_j in zip(trial.rows, trial.cpu_s, trial.memory_j, strict=True):
        whole_j = sum(true_j.values())
        misses = {owner: one[2] * bytes_a_miss[owner] for owner, one in row.events.items()}
        if len(row.events) < 2 or whole_j <= 0:
            continue
        for owner, joules in true_j.items():
            if joules > LEAST_PART * whole_j:
                for rule, weight in (("CPU time", cpu_s), ("misses", misses)):
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


def table(family: str, trials: int, seed: int) -> str:
    """Root mean square of the relative error by rule and age, and how often the bounds of events hold."""
    rng = np.random.default_rng(seed)
    found = [one for _ in range(trials) for one in judged(simulate(rng, FAMILIES[family]))]
    ages = ("10 s", "30 s", "100 s", "240 s", "longer")
    lines = [f"| {family}: the job is there for | {' | '.join(ages)} |", "|---" * 6 + "|"]
    bounds = []
    for rule in RULES:
        cells = []
        for age in AGES_S:
            mine = [one for one in found if one.rule == rule and one.age == age]
            error = math.sqrt(sum((one.given / one.true - 1) ** 2 for one in mine) / len(mine))
            cells.append(f"{100 * error:.0f}")
            if rule == "events":
                covered = sum(abs(one.given - one.true) <= 2 * one.u for one in mine) / len(mine)
                bounds.append(f"{100 * covered:.0f}, {100 * np.median([2 * one.u / one.true for one in mine]):.0f}")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    lines.append(f"| events: covered, width | {' | '.join(bounds)} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Print the table of each family."""
    parser = argparse.ArgumentParser(prog="python -m bench.events", description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    for family in FAMILIES:
        print(table(family, args.trials, args.seed), end="\n\n", flush=True)
    print(memory_table(args.trials, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
