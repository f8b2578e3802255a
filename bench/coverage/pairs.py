"""Two jobs held against each other: the printed ratio of their energies beside the true one."""

from __future__ import annotations

from collections.abc import Iterator

from bench.coverage.hosts import Errors, Job, build
from bench.coverage.kinds import STEP_S, Trial, snap, whole
from bench.coverage.physics import Cores, Family, Random, Seat
from bench.coverage.verdict import Sample
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.boundary import Boundary
from perun_hpc.energy.comparison import Run, energies
from perun_hpc.report.subjects import of_records


def same_node(shared: bool) -> Trial:
    """Two programs one after the other on one node: alone, or beside a third that is there all the time."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        first, second = (snap(rng.uniform(30, 120)) for _ in range(2))
        jobs = [
            _job(rng, 5.0, first, not shared, rng.uniform(0.2, 0.5)),
            _job(rng, 10.0 + first, second, not shared, rng.uniform(0.2, 0.5)),
        ]
        length = 15.0 + first + second
        mine = int(rng.integers(1, machine.cores)) if shared else machine.cores
        layout = [[Cores(mine, (Seat((0, 1)), Seat((0, 1))))]]
        if shared:
            jobs.append(Job(snap(1.0), snap(length - 1), rng.uniform(0.3, 1), 0.4))
            layout[0].append(whole(machine.cores - mine, 2))
        host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
        records = host.node.run()
        truth = [sum(host.truth[n].values()) for n in (0, 1)]
        kind = "ratio of two jobs, same shared node" if shared else "ratio of two jobs, same node"
        yield _sample(kind, records[0], records[1], truth[1] / truth[0])

    return trial


def other_nodes(rng: Random, family: Family) -> Iterator[Sample]:
    """Two programs on a node each, of one type, whose sensors err each in its own way."""
    machine = family.machine(rng)
    records, truth = [], []
    for number in (1, 2):
        seconds = snap(rng.uniform(30, 120))
        host = build(
            rng, family, machine, [[whole(machine.cores, 0)]], [_job(rng, 5.0, seconds, True, 1.0)],
            Errors.draw(family, rng), seconds + 10, STEP_S, "learnt",
        )  # fmt: skip
        records.append(host.node.run(f"n{number}")[0])
        truth.append(sum(host.truth[0].values()))
    yield _sample("ratio of two jobs, other nodes", records[0], records[1], truth[1] / truth[0])


def _job(rng: Random, start_s: float, seconds: float, exclusive: bool, memory: float) -> Job:
    return Job(
        snap(start_s), snap(start_s + seconds), rng.uniform(0.3, 1), 1.0 if exclusive else memory, exclusive=exclusive
    )


def _sample(kind: str, first: Boundary, second: Boundary, true: float) -> Sample:
    found = energies([_run(first)], [_run(second)])
    return Sample(kind, true, 1 + found.change, (1 + found.change) * found.bound / 2)


def _run(boundary: Boundary) -> Run:
    subject = of_records([sum_boundaries([boundary])])
    return subject.run(list(subject.parts))


TRIALS: dict[str, Trial] = {
    "pair-same": same_node(False),
    "pair-shared": same_node(True),
    "pair-other": other_nodes,
}
