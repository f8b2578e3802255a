"""Kinds of case with GPUs and node meters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.coverage.hosts import Errors, Job, build
from bench.coverage.kinds import STEP_S, Trial, component_of, life, parts_of, snap, whole
from bench.coverage.node import Node, Run
from bench.coverage.physics import Family, Random
from bench.coverage.sensors import Curve, Shown, duty, sensor
from bench.coverage.verdict import Sample
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.sensor import Kind
from perun_hpc.energy.attribute import NodeInput

FINE_S = 0.005
GPU = "gpu-0"
CPUS = NodeInput(package_of={0: 0, 1: 0}, core_of={0: 0, 1: 1}, memory_b=1 << 30)


def gpu(how: str, short: bool) -> Trial:
    """A job alone on a GPU whose sensor is a `counter`, a 1 s `average`, or looks `part` of the time."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        errors = Errors.draw(family, rng)
        start, end, length = life(rng, short)
        if not short:
            end = min(end, start + 90)
            length = end + 5
        count = int(length / FINE_S)
        times = (np.arange(count) + 0.5) * FINE_S
        works = start + rng.uniform(0, 0.3) * (end - start)  # a job begins on its CPUs
        stops = end - rng.uniform(0, 0.1) * (end - start)
        curve = Curve(FINE_S, family.gpu(rng, FINE_S, ((times >= works) & (times < stops)).astype(float)))
        gain = errors.nvml + family.scatter(rng)
        ceiling_w = 2.0 * float(np.max(curve.power)) * rng.uniform(1, 1.3)
        if how == "average":
            described = sensor(
                "nvml", GPU, "gpu", 0.05, 100_000_000, ceiling_w, Kind.GAUGE, "power-average", 10**9 // 2
            )
            shown = Shown(described, curve, gain, 0.0, 0.1, float(rng.uniform(0, 0.1)), 1.0)
        else:
            sampled_ns = 100_000_000 if how == "part" else 0
            described = sensor("nvml", GPU, "gpu", 0.05, 100_000_000, ceiling_w, sampled_ns=sampled_ns)
            seen = duty(curve, rng) if how == "part" else curve
            renewed = float(rng.uniform(0.02, 0.1))
            shown = Shown(described, seen, gain, 0.0, renewed, float(rng.uniform(0, renewed)))
        run = Run(0, frozenset([0]), 0, start, end, Curve(1.0, np.ones(int(length) + 2)), (GPU,))
        busy = {cpu: Curve(1.0, np.ones(int(length) + 2)) for cpu in CPUS.core_of}
        node = Node(
            CPUS, [shown], busy, [run], length, float(rng.uniform(0, 10)), poll_phase_s=float(rng.uniform(0, 1))
        )
        printed_j, u_j = component_of(node.run()[0], "gpu")
        words = {
            "counter": "energy counter",
            "average": "1 s average",
            "part": "counter that looks a quarter of the time",
        }
        yield Sample(f"GPU by {words[how]}, {'short' if short else 'long'}", curve.between(start, end), printed_j, u_j)

    return trial


def metered(shared: bool, short: bool) -> Trial:
    """A node with a meter (1 s average, ceiling of 20 kW) beside RAPL: what supplies lose and fans use is its rest."""

    def trial(rng: Random, family: Family) -> Iterator[Sample]:
        machine, errors = family.machine(rng), Errors.draw(family, rng)
        start, end, length = life(rng, short)
        jobs = [Job(start, end, float(rng.uniform(0.3, 1)), 0.4, exclusive=not shared)]
        layout = [[whole(machine.cores, 0)] for _ in range(2)]
        if shared:
            jobs.append(Job(snap(rng.uniform(0.5, 5)), snap(length - 1), float(rng.uniform(0.3, 1)), 0.4))
            layout = [parts_of(rng, machine.cores, [0, 1], True) for _ in range(2)]
        host = build(rng, family, machine, layout, jobs, errors, length, STEP_S, "learnt")
        leaves = np.sum([one.power for one in host.parts.values()], axis=0)
        base_w, loss = rng.uniform(20, 120), rng.uniform(0.04, 0.15)
        whole_node = Curve(STEP_S, base_w + (1 + loss) * leaves)
        described = sensor("ipmi", "node", "node", 0.05, 1_000_000_000, 20_000.0, Kind.GAUGE, "", 10**9)
        gain = errors.meter + family.scatter(rng)
        host.node.shown = [
            *host.node.shown,
            Shown(described, whole_node, gain, 0.0, 1.0, float(rng.uniform(0, 1)), 1.0),
        ]
        record = sum_boundaries([host.node.run()[0]])
        size = "short" if short else "long"
        if not shared:
            true_j = whole_node.between(start, end)
            yield Sample(
                f"exclusive node with a meter, {size}", true_j, (record.energy_uj or 0) / 1e6, record.u_uj / 1e6
            )
            other = next((one for one in record.components if one.component == "other"), None)
            if other is not None:
                rest_j = true_j - sum(one.between(start, end) for one in host.parts.values())
                yield Sample(f"rest of the meter, {size}", rest_j, other.energy_uj / 1e6, other.u_uj / 1e6)
            return
        mine_j = host.truth[0]["cpu"] + host.truth[0]["dram"]
        cores = sum(1 for cpu in host.node.runs[0].cpus if cpu < 2 * machine.cores) / (2 * machine.cores)
        held = [max(cores, 0.4), max(1 - cores, 0.4)]
        true_j = mine_j * (1 + loss) + base_w * (end - start) * held[0] / max(1.0, sum(held))
        yield Sample(
            f"job on a shared node with a meter, {size}", true_j, (record.energy_uj or 0) / 1e6, record.u_uj / 1e6
        )

    return trial


TRIALS: dict[str, Trial] = {
    "gpu-counter-long": gpu("counter", False),
    "gpu-counter-short": gpu("counter", True),
    "gpu-part-long": gpu("part", False),
    "gpu-part-short": gpu("part", True),
    "gpu-average-long": gpu("average", False),
    "gpu-average-short": gpu("average", True),
    "meter-exclusive-long": metered(False, False),
    "meter-exclusive-short": metered(False, True),
    "meter-shared-long": metered(True, False),
}
