"""The kinds of case: each makes one trial and returns what was printed beside what is true."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from bench.coverage.hosts import Errors, Host, Job, build
from bench.coverage.physics import Cores, Family, Random, Seat
from bench.coverage.verdict import Sample
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.boundary import Boundary

STEP_S = 0.05

Trial = Callable[[Random, Family], Iterator[Sample]]


def snap(at_s: float, step_s: float = STEP_S) -> float:
    """A moment of the simulation's steps."""
    return round(at_s / step_s) * step_s


def life(rng: Random, short: bool) -> tuple[float, float, float]:
    """When a job starts and ends, and how long a node is watched."""
    long_s = float(np.exp(rng.uniform(np.log(0.5), np.log(10)))) if short else float(rng.uniform(30, 240))
    start = snap(rng.uniform(2, 20))
    return start, start + snap(long_s) + STEP_S, start + long_s + 5


def component_of(boundary: Boundary, name: str) -> tuple[float, float]:
    """Energy and standard uncertainty of a component on one node, as the record sums it, in J."""
    record = sum_boundaries([boundary])
    for one in record.components:
        if one.component == name:
            return one.energy_uj / 1e6, one.u_uj / 1e6
    return 0.0, 0.0


def _samples(
    host: Host, records: Mapping[int, Boundary], kinds: Mapping[str, str], jobs: Sequence[int]
) -> Iterator[Sample]:
    for n in jobs:
        for component, kind in kinds.items():
            printed, u = component_of(records[n], component)
            yield Sample(kind, host.truth[n][component], printed, u)


def whole(cores: int, job: int, threads: int = 2) -> Cores:
    """Cores that one job has to itself: both threads, or the first alone."""
    return Cores(cores, (Seat((job,)), Seat((job,) if threads == 2 else ())))


def free(cores: int) -> Cores:
    """Cores that nobody holds."""
    return Cores(cores, (Seat(()), Seat(())))


def exclusive(short: bool) -> Trial:
    """One job alone on its node."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        start, end, length = life(rng, short)
        job = Job(start, end, rng.uniform(0.3, 1), 1.0, exclusive=True)
        layout = [[whole(machine.cores, 0)] for _ in range(int(rng.integers(1, 3)))]
        host = build(rng, family, machine, layout, [job], errors, length, STEP_S, "unknown")
        size = "short" if short else "long"
        kinds = {"cpu": f"CPU exclusive, {size}", "dram": f"memory exclusive, {size}"}
        yield from _samples(host, host.node.run(), kinds, [0])

    return trial


def parts_of(rng: Random, cores: int, jobs: Sequence[int], full: bool) -> list[Cores]:
    """Give jobs random numbers of a package's cores, some left free."""
    weights = rng.dirichlet(np.full(len(jobs) + (0 if full else 1), 2.0))
    counts = np.maximum(1, np.floor(weights[: len(jobs)] * (cores - len(jobs)))).astype(int)
    groups = [whole(int(count), job, int(rng.integers(1, 3))) for count, job in zip(counts, jobs)]
    left = cores - int(counts.sum())
    return [*groups, free(left)] if left > 0 else groups


def shared(static: str, short: bool = False) -> Trial:
    """Two to five jobs with cores of their own, that come and go."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        length = 40.0 if short else float(rng.uniform(60, 240))
        count = int(rng.integers(2, 6))
        jobs: list[Job] = []
        for _ in range(count):
            start = snap(rng.uniform(0.5, length * 0.3))
            end = snap(min(length - 0.5, start + rng.uniform(0.4, 1) * length))
            if short and len(jobs) < (count + 1) // 2:
                start = snap(rng.uniform(1, length * 0.7))
                end = snap(start + np.exp(rng.uniform(np.log(0.5), np.log(10))))
            level = rng.choice([1.0, rng.uniform(0.1, 1)])
            jobs.append(Job(start, end, float(level), float(rng.uniform(0.2, 1) / count)))
        packages = int(rng.integers(1, 3))
        where = rng.integers(packages, size=count)
        layout = [
            parts_of(rng, machine.cores, mine, False) if (mine := [n for n in range(count) if where[n] == p]) else
            [free(machine.cores)]
            for p in range(packages)
        ]  # fmt: skip
        host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, static)
        asked = range((count + 1) // 2) if short else range(count)
        kinds = {"cpu": f"CPU shared{', short' if short else ''}, static {static}"}
        if static == "learnt" and not short:
            kinds["dram"] = "memory shared"
        yield from _samples(host, host.node.run(), kinds, list(asked))

    return trial


def threads(rng: Random, family: Family) -> Iterator[Sample]:
    """Two jobs that have one thread each of the same cores, beside a third."""
    machine, errors = family.machine(rng), Errors.draw(family, rng)
    length = float(rng.uniform(60, 200))
    jobs = [Job(snap(rng.uniform(1, 10)), snap(length - rng.uniform(1, 10)), 1.0, 0.3) for _ in range(3)]
    both = int(rng.integers(1, machine.cores // 2 + 1))
    layout = [[Cores(both, (Seat((0,)), Seat((1,)))), whole(machine.cores - both, 2)]]
    host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
    yield from _samples(host, host.node.run(), {"cpu": "CPU, two jobs on one core's threads"}, [0, 1])


def oversubscribed(rng: Random, family: Family) -> Iterator[Sample]:
    """Two or three jobs on the same CPUs (OverSubscribe=FORCE), beside one with cores of its own."""
    machine, errors = family.machine(rng), Errors.draw(family, rng)
    length = float(rng.uniform(60, 200))
    crowd = int(rng.integers(2, 4))
    jobs = [
        Job(snap(rng.uniform(1, 10)), snap(length - rng.uniform(1, 10)), float(rng.uniform(0.3, 1)), 0.2)
        for _ in range(crowd + 1)
    ]
    taken = int(rng.integers(2, machine.cores))
    seat = Seat(tuple(range(crowd)))
    second = seat if rng.random() < 0.5 else Seat(())
    own = int(rng.integers(0, taken))  # the first has some of these cores to itself
    groups = [Cores(taken - own, (seat, second)), whole(own, 0)] if own else [Cores(taken, (seat, second))]
    layout = [[*groups, whole(machine.cores - taken, crowd)]]
    host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
    yield from _samples(host, host.node.run(), {"cpu": "CPU oversubscribed"}, list(range(crowd)))


def sleeper(static: str) -> Trial:
    """A job that sleeps on its cores beside one that works."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        length = float(rng.uniform(60, 200))
        ends = snap(length - 2)
        jobs = [Job(snap(rng.uniform(1, 10)), ends, 0.001, 0.3), Job(snap(rng.uniform(1, 10)), ends, 1.0, 0.5)]
        mine = int(rng.integers(1, machine.cores))
        layout = [[whole(mine, 0), whole(machine.cores - mine, 1)]]
        host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, static)
        records = host.node.run()
        yield from _samples(host, records, {"cpu": f"CPU of a sleeper beside a busy job, static {static}"}, [0])
        yield from _samples(host, records, {"cpu": f"CPU of the busy job beside a sleeper, static {static}"}, [1])

    return trial


def sums(shared_nodes: bool, alike: bool = False) -> Trial:
    """A job on two to eight nodes of one type: CPUs and memory of all of them.

    `alike`: what runs beside it is one program on all of them (an array, another job of several nodes).
    """

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        nature, others = family.nature(rng), family.nature(rng) if alike else None
        start, end, length = life(rng, False)
        records, true_j = [], 0.0
        for number in range(int(rng.integers(2, 9))):
            mine = Job(
                start, end, rng.uniform(0.5, 1), 0.5 if shared_nodes else 1.0, nature, exclusive=not shared_nodes
            )
            jobs = [mine]
            layout = [[whole(machine.cores, 0)]]
            if shared_nodes:
                jobs.append(Job(snap(rng.uniform(0.5, 5)), snap(length - 1), rng.uniform(0.3, 1), 0.4, others))
                cores = int(rng.integers(1, machine.cores))
                layout = [[whole(cores, 0), whole(machine.cores - cores, 1)]]
            host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
            records.append(host.node.run(f"n{number}")[0])
            true_j += host.truth[0]["cpu"] + host.truth[0]["dram"]
        record = sum_boundaries(records)
        beside = ", beside one program" if alike else ", beside others"
        kind = f"sum over shared nodes{beside}" if shared_nodes else "sum over exclusive nodes"
        yield Sample(kind, true_j, (record.energy_uj or 0) / 1e6, record.u_uj / 1e6)

    return trial


TRIALS: dict[str, Trial] = {
    "exclusive-long": exclusive(False),
    "exclusive-short": exclusive(True),
    "shared-policy": shared("policy"),
    "shared-learnt": shared("learnt"),
    "shared-unknown": shared("unknown"),
    "shared-short-learnt": shared("learnt", True),
    "shared-short-unknown": shared("unknown", True),
    "threads": threads,
    "oversubscribed": oversubscribed,
    "sleeper-policy": sleeper("policy"),
    "sleeper-learnt": sleeper("learnt"),
    "sleeper-unknown": sleeper("unknown"),
    "sums-exclusive": sums(False),
    "sums-shared": sums(True),
}
