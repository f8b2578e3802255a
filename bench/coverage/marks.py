"""Kinds of case inside a job: steps, ranks, regions, laid over the job's curve as the agent's reader does it."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.coverage.hosts import Errors, Job, build
from bench.coverage.kinds import Trial, free, whole
from bench.coverage.node import Run, StepRun
from bench.coverage.physics import Cores, Family, Random
from bench.coverage.sensors import Curve, ns
from bench.coverage.verdict import Sample
from perun_hpc.agent.measure import curve
from perun_hpc.agent.outbox import rank_energies, regions
from perun_hpc.data_model import rank_data

FINE_S = 0.01
LENGTH_S = 70.0
REGION = "work"


def steps(rng: Random, family: Family) -> Iterator[Sample]:
    """An exclusive job of two to four steps, one after the other."""
    machine, errors = family.machine(rng), Errors.draw(family, rng)
    start, end = 4.0, LENGTH_S - 3
    cuts = np.sort(rng.uniform(start + 1, end - 1, int(rng.integers(1, 4))))
    bounds = [start + 0.2, *cuts.tolist(), end - 0.2]
    count = int(LENGTH_S / FINE_S) + 1
    times = np.arange(count) * FINE_S
    levels = rng.uniform(0.1, 1, len(bounds) - 1)
    level = np.concatenate(([0.02], levels, [0.02]))[np.searchsorted(bounds, times)]
    active = family.activity(rng, FINE_S, count, 1.0) * level
    job = Job(start, end, 1.0, 1.0, exclusive=True, activity=active)
    host = build(rng, family, machine, [[whole(machine.cores, 0)]], [job], errors, LENGTH_S, FINE_S, "learnt")
    (run,) = host.node.runs
    host.node.steps = [
        StepRun(n, begin, until, run.busy, len(run.cpus)) for n, (begin, until) in enumerate(zip(bounds, bounds[1:]))
    ]
    host.node.run()
    for step, begin, until in zip(host.node.last_record["steps"], bounds, bounds[1:]):
        true_j = sum(one.between(begin, until) for one in host.parts.values())
        yield Sample("steps of an exclusive job", true_j, step["energy_uj"] / 1e6, step["u_uj"] / 1e6)


def beside(seen: bool, kind: str) -> Trial:
    """Two or three steps at once, of different programs on CPUs of their own, in an exclusive job.

    Where they are not `seen` to begin and end they are shorter than the time between two readings.
    """

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        start, end = 3.0, LENGTH_S - 3
        size, count = int(rng.integers(2, 4)), int(LENGTH_S / FINE_S) + 1
        times, lives, jobs = np.arange(count) * FINE_S, [], []
        for _ in range(size):
            begin = float(rng.uniform(start + 1, end / 2 if seen else end - 6))
            until = float(rng.uniform(end / 2 + 1, end - 1)) if seen else begin + float(rng.uniform(0.5, 4))
            lives.append((round(begin / FINE_S) * FINE_S, round(until / FINE_S) * FINE_S))
            inside = (times >= lives[-1][0]) & (times < lives[-1][1])
            active = family.activity(rng, FINE_S, count, float(rng.uniform(0.3, 1))) * np.where(inside, 1.0, 0.0)
            jobs.append(Job(start, end, 1.0, 1.0 / size, activity=active))
        each = machine.cores // size
        layout = [[*(whole(each, n) for n in range(size)), *_rest(machine.cores - each * size)]]
        host = build(rng, family, machine, layout, jobs, errors, LENGTH_S, FINE_S, "learnt")
        runs_of = host.node.runs
        together = _one_job(host.node.runs)
        host.node.runs, host.node.seen = [together], seen
        host.node.steps = [StepRun(n, *lives[n], runs_of[n].busy, len(together.cpus) // size) for n in range(size)]
        host.node.run()
        rest = sum((one.power for one in host.parts.values()), np.zeros(count))
        for n in range(size):
            rest = rest - host.curves[n, "cpu"].power - host.curves[n, "dram"].power
        held = len(together.cpus) // size / len(together.cpus)
        for step, (begin, until), n in zip(host.node.last_record["steps"], lives, range(size)):
            true = Curve(FINE_S, host.curves[n, "cpu"].power + host.curves[n, "dram"].power + held * rest)
            yield Sample(kind, true.between(begin, until), step["energy_uj"] / 1e6, step["u_uj"] / 1e6)

    return trial


def ranks(how: str, call_s: tuple[float, float], grid_s: float, kind: str, as_whole: bool = False) -> Trial:
    """Ranks of an exclusive job that call a region: `alike`, `uneven` (+-40 % in time) or only `one` of them works.

    `as_whole`: what is asked for is not the region's energy but all of each rank's.
    """

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        start, end = 3.0, LENGTH_S - 3
        size = 1 if how == "single" else int(rng.integers(2, min(6, machine.cores) + 1))
        count = int(LENGTH_S / FINE_S) + 1
        calls = _calls(rng, start + 1, end - 1, call_s)
        inside = np.zeros(count)
        for begin, until in calls:
            inside[int(begin / FINE_S) : int(until / FINE_S)] = 1.0
        within, outside = rng.uniform(0.5, 1), rng.uniform(0.1, 0.9)
        jobs, activity = [], []
        for n in range(size):
            level = {"uneven": rng.uniform(0.6, 1.0), "one": 1.0 if n == 0 else 0.02}.get(how, 1.0)
            shape = np.where(inside > 0, within, outside) * level * (1 + 0.03 * rng.standard_normal())
            activity.append(np.clip(shape, 0, 1))
            jobs.append(Job(start, end, 1.0, 1.0 / size, activity=activity[-1]))
        nature = family.nature(rng)
        for job in jobs:  # ranks of one program differ in what they do at the same time
            job.nature = replace(nature, switched=nature.switched * float(np.exp(rng.normal(0, 0.15))))
        each = machine.cores // size
        layout = [[*(whole(each, n) for n in range(size)), *_rest(machine.cores - each * size)]]
        host = build(rng, family, machine, layout, jobs, errors, LENGTH_S, FINE_S, "learnt")
        together = _one_job(host.node.runs)
        ranks_of = host.node.runs
        host.node.runs = [together]
        host.node.points_s = grid_s
        if as_whole:
            host.node.steps = [StepRun(0, start, end, together.busy, len(together.cpus))]
        host.node.run()
        cpu_ns = [round(run.busy.between(start, end) * 1e9) for run in ranks_of]
        nothing = np.zeros(count)
        whole_w = sum((one.power for one in host.parts.values()), nothing)
        owned = sum((host.curves[n, what].power for n in range(size) for what in ("cpu", "dram")), nothing)

        def true_j(rank: int, times: Sequence[tuple[float, float]]) -> float:
            mine = host.curves[rank, "cpu"].power + host.curves[rank, "dram"].power
            # What nobody's cores made (idle cores, the system) is the ranks' in equal parts: the job holds the node.
            true = Curve(FINE_S, mine + (whole_w - owned) / size)
            return sum(true.between(begin, until) for begin, until in times)

        if as_whole:
            record = host.node.last_record
            (step,) = ({**one, "ranks": [{"rank": n} for n in range(size)]} for one in record["steps"])
            (found,) = rank_energies.of_steps([step], {(0, n): ns for n, ns in enumerate(cpu_ns)}, record)
            for run in found["ranks"]:
                yield Sample(kind, true_j(run["rank"], [(start, end)]), run["energy_uj"] / 1e6, run["u_uj"] / 1e6)
            return
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            curve.extend(directory / regions.CURVE, host.node.points[together.key])
            record = _with_steps(host.node.last_record, [[_run(n, start, end) for n in range(size)]])
            (directory / "ranks").mkdir()
            for n in range(size):
                (directory / "ranks" / f"0-{n}.rank").write_bytes(_handed(n, size, calls, start, end, cpu_ns[n]))
            rows, problems, _ = regions.of_session(directory, record)
        assert not problems, problems
        for row in rows:
            yield Sample(kind, true_j(row["rank"], calls), row["energy_uj"] / 1e6, row["u_uj"] / 1e6)

    return trial


def _rest(cores: int) -> list[Cores]:
    return [free(cores)] if cores else []


def _calls(rng: Random, start: float, end: float, length_s: tuple[float, float]) -> list[tuple[float, float]]:
    """Calls of a region, with as much time between them."""
    found: list[tuple[float, float]] = []
    at = start + rng.uniform(0, length_s[1])
    mean = float(np.exp(rng.uniform(np.log(length_s[0]), np.log(length_s[1]))))
    while True:
        begin = at
        until = begin + max(FINE_S, round(mean * rng.uniform(0.7, 1.3) / FINE_S) * FINE_S)
        begin = round(begin / FINE_S) * FINE_S
        until = begin + round((until - at) / FINE_S) * FINE_S
        if until > end:
            return found or [(start + 1, start + 1 + FINE_S * max(1, round(mean / FINE_S)))]
        found.append((begin, until))
        at = until + mean * rng.uniform(0.3, 2)


def _one_job(runs: Sequence[Run]) -> Run:
    busy = Curve(FINE_S, np.sum([run.busy.power for run in runs], axis=0))
    cpus = frozenset().union(*(run.cpus for run in runs))
    return Run(0, cpus, runs[0].memory_b * len(runs), runs[0].start_s, runs[0].end_s, busy, exclusive=True)


def _run(rank: int, begin: float, until: float) -> dict[str, Any]:
    return {
        "rank": rank,
        "local_rank": rank,
        "pid": 1,
        "start_ns": ns(begin),
        "end_ns": ns(until),
        "start_mono_ns": ns(begin),
        "end_mono_ns": ns(until),
        "has_data": True,
    }


def _with_steps(record: dict[str, Any], runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    steps = [{"step_id": n, "tasks": len(run), "nodes": 1, "command": "", "ranks": run} for n, run in enumerate(runs)]
    return {**record, "steps": steps}


def _handed(rank: int, size: int, calls: list[tuple[float, float]], start: float, end: float, cpu_ns: int) -> bytes:
    """What a rank hands over, as the launcher writes it."""
    about = {"step_id": "0", "rank": rank, "local_rank": rank, "ntasks": size, "nnodes": 1, "pid": 1, "host": "node"}
    rows = array("q", [value for begin, until in calls for value in (0, ns(begin), ns(until))])
    samples = [(ns(start), 0, 0), (ns(end), cpu_ns, 0)]
    return b"".join(rank_data.final(about, "exit", [REGION], rows.tobytes(), samples))


TRIALS: dict[str, Trial] = {
    "steps": steps,
    "steps-beside": beside(True, "steps at once in an exclusive job"),
    "steps-short": beside(False, "steps at once, shorter than the time between readings"),
    "ranks-alike": ranks("alike", (12, 25), 1.0, "a rank's region of seconds, ranks alike"),
    "ranks-uneven": ranks("uneven", (12, 25), 1.0, "a rank's region of seconds, ranks uneven"),
    "rank-alike": ranks("alike", (12, 25), 1.0, "a rank as a whole, ranks alike", as_whole=True),
    "rank-uneven": ranks("uneven", (12, 25), 1.0, "a rank as a whole, ranks uneven", as_whole=True),
    "ranks-one": ranks("one", (12, 25), 1.0, "a rank's region of seconds, one rank works"),
    "regions-above": ranks("single", (0.15, 2.0), 0.1, "regions longer than the sampling step (100 ms)"),
    "regions-fine": ranks("single", (10, 12), 0.02, "regions of 10 s, sampled every 20 ms"),
    "regions-below": ranks("single", (0.02, 0.3), 1.0, "regions shorter than the sampling step (1 s)"),
}
