"""Kinds of case that hurt the rules: neighbours that are one program, GPUs in parts, jobs that sleep, gaps, loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bench.coverage.devices import CPUS, FINE_S, GPU
from bench.coverage.hosts import Errors, Job, build
from bench.coverage.kinds import STEP_S, Trial, component_of, parts_of, snap, sums, whole
from bench.coverage.node import Node, Run
from bench.coverage.physics import Family, Floats, Nature, Random
from bench.coverage.sensors import Curve, Shown, sensor
from bench.coverage.verdict import Sample

SLICES = 7
SAYS = {"activity": "MIG, activity known", "slices": "MIG, by slices", "shards": "shards"}


def in_parts(how: str) -> Trial:
    """Two or three jobs on one GPU: MIG instances of known `activity`, without it (`slices`), or `shards`."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        errors, length = Errors.draw(family, rng), float(rng.uniform(60, 150))
        count = int(rng.integers(2, 4))
        held = [int(part) for part in ((3, 2, 2) if count == 3 else (4, 3))]
        times = (np.arange(int((length + 5) / FINE_S)) + 0.5) * FINE_S
        starts, ends = snap(2.0), snap(length - 2)
        idle_w, base_w = float(rng.uniform(30, 90)), float(rng.uniform(25, 70))
        busy: list[Floats] = []
        powers: list[Floats] = []
        for part in held:
            level, on_s = rng.uniform(0.3, 1), rng.uniform(2, 30)
            phase = ((times + rng.uniform(0, on_s)) % on_s < rng.uniform(0.4, 1) * on_s).astype(float)
            active = level * phase * ((times >= starts) & (times < ends))
            busy.append(active)
            # What an active slice takes is each program's own: memory-bound, tensor cores, a clock that all share.
            powers.append(active * part * base_w * float(np.exp(rng.normal(0, 0.35))))
        curve = Curve(FINE_S, idle_w + np.sum(powers, axis=0))
        gain = errors.nvml + family.scatter(rng)
        described = sensor("nvml", GPU, "gpu", 0.05, 100_000_000, 2.0 * float(np.max(curve.power)))
        shown = Shown(described, curve, gain, 0.0, 0.1, float(rng.uniform(0, 0.1)))
        seen = [Curve(FINE_S, one) if how == "activity" else None for one in busy]
        works = Curve(1.0, np.ones(int(length) + 6))
        runs = [
            Run(n, frozenset([n % 2]), 0, starts, ends, works, (GPU,), parts={GPU: part}, active={GPU: active})
            for n, (part, active) in enumerate(zip(held, seen))
        ]
        node = Node(
            CPUS, [shown], dict.fromkeys(CPUS.core_of, works), runs, length, float(rng.uniform(0, 10)),
            static={GPU: round(idle_w * (1 + rng.normal(0, 0.06)) * 1e6)},
            slices={} if how == "shards" else {GPU: SLICES},
        )  # fmt: skip
        for n, record in node.run().items():
            true_j = idle_w * held[n] / SLICES * (ends - starts) + Curve(FINE_S, powers[n]).between(starts, ends)
            yield Sample(f"GPU in parts, {SAYS[how]}", true_j, *component_of(record, "gpu"))

    return trial


def interrupted(what: str) -> Trial:
    """Two to four jobs that share a node, of which one is `suspended` for a time; or whose sensors leave `gaps`."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        length, count = float(rng.uniform(90, 200)), int(rng.integers(2, 5))
        jobs = [
            Job(snap(rng.uniform(1, 20)), snap(length - rng.uniform(1, 20)), float(rng.uniform(0.3, 1)), 0.8 / count)
            for _ in range(count)
        ]
        begin = snap(rng.uniform(25, length / 2))
        until = snap(begin + rng.uniform(5, length / 3))
        if what == "suspended":
            steps = int(length / STEP_S) + 1
            times = (np.arange(steps) + 0.5) * STEP_S
            awake = 1.0 - ((times >= begin) & (times < until))
            jobs[0] = replace(jobs[0], activity=family.activity(rng, STEP_S, steps, jobs[0].level) * awake)
        layout = [parts_of(rng, machine.cores, list(range(count)), False)]
        host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
        if what == "suspended":
            host.node.runs = [replace(host.node.runs[0], stopped=((begin, until),)), *host.node.runs[1:]]
        else:
            host.node.shown = [replace(one, silent=((begin, until),)) for one in host.node.shown]
        records = host.node.run()
        for n in range(count):
            yield Sample(f"CPU shared, {WORDS[what]}", host.truth[n]["cpu"], *component_of(records[n], "cpu"))

    return trial


WORDS = {"suspended": "one job suspended for a time", "gaps": "sensors silent for a time"}


def spinning(rng: Random, family: Family) -> Iterator[Sample]:
    """A job whose processes wait in a loop, at full CPU time and little power, beside one that works."""
    machine, errors = family.machine(rng), Errors.draw(family, rng)
    length = float(rng.uniform(60, 200))
    loops = Nature(float(rng.uniform(0.5, 0.8)), 0.0, 0.1, 0.1)
    ends = snap(length - 2)
    jobs = [Job(snap(rng.uniform(1, 10)), ends, 1.0, 0.3, loops), Job(snap(rng.uniform(1, 10)), ends, 1.0, 0.5)]
    mine = int(rng.integers(1, machine.cores))
    layout = [[whole(mine, 0), whole(machine.cores - mine, 1)]]
    host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
    records = host.node.run()
    for n, kind in enumerate(("CPU of a job that waits in a loop", "CPU of the job beside it")):
        yield Sample(kind, host.truth[n]["cpu"], *component_of(records[n], "cpu"))


TRIALS: dict[str, Trial] = {
    "sums-alike": sums(True, alike=True),
    "mig-activity": in_parts("activity"),
    "mig-slices": in_parts("slices"),
    "shards": in_parts("shards"),
    "suspended": interrupted("suspended"),
    "gaps": interrupted("gaps"),
    "spinning": spinning,
}
