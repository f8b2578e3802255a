"""The regions of a host's ranks as results: each region's intervals laid over the run's readings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perun_hpc.data_model.data import Aggregate, Metric, MetricType, Region
from perun_hpc.data_model.rank_data import RankData
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.monitoring import region_energy, trace
from perun_hpc.monitoring.columns import counts_cpu_time, top_energy

NS_PER_S = 1_000_000_000


def regions(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor], ranks: Sequence[RankData], end_ns: int
) -> list[Region]:
    """All regions of all ranks of a host, ranks in order, regions as they were defined."""
    times_ns, columns = _cumulative(directory, summary, sensors)
    result = []
    for rank in sorted(ranks, key=lambda rank: rank.rank):
        split = region_energy.by_region(rank.calls, len(rank.names), end_ns)
        for name, (starts, ends, calls, raised, still_open) in zip(rank.names, split, strict=True):
            if not calls:
                continue
            used = region_energy.used(times_ns, columns, starts, ends)
            metrics = {metric.type: metric for metric in _metrics(sensors, used, int(summary["cpus"]))}
            total_s = float((ends - starts).sum()) / NS_PER_S
            result.append(
                Region(
                    name,
                    summary["host"],
                    rank.rank,
                    calls,
                    used.time_ns / NS_PER_S,
                    total_s,
                    raised,
                    still_open,
                    metrics,
                )
            )
    return result


def _cumulative(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor]
) -> tuple[region_energy.Ints, region_energy.Floats]:
    """Readings as running sums: counters since the first reading in base units, gauges as their integral over time."""
    times_ns, values = trace.read(directory, summary, sensors)
    for column, sensor in enumerate(sensors):
        if sensor.kind is Kind.GAUGE and len(times_ns):
            values[column] = region_energy.integral(times_ns, values[column])
    return times_ns, values


def _metrics(sensors: Sequence[Sensor], used: region_energy.Used, cpus: int) -> list[Metric]:
    metrics = [Metric(MetricType.RUNTIME, used.time_ns / NS_PER_S, Aggregate.MAX)]
    if not used.covered_ns:
        return metrics
    covered_s = used.covered_ns / NS_PER_S
    top = list(top_energy(sensors))
    groups = [(MetricType.ENERGY, MetricType.POWER, top)]
    for component, energy, power in (
        ("cpu", MetricType.CPU_ENERGY, MetricType.CPU_POWER),
        ("dram", MetricType.DRAM_ENERGY, MetricType.DRAM_POWER),
        ("gpu", MetricType.GPU_ENERGY, MetricType.GPU_POWER),
    ):
        groups.append((energy, power, [column for column in top if sensors[column].component == component]))
    for energy, power, columns in groups:
        if columns:
            amount, low, high = (float(part[columns].sum()) / 1e6 for part in (used.amount, used.low, used.high))
            provenance = max((sensors[column].provenance for column in columns), key=lambda p: p.rank)
            metrics.append(Metric(energy, amount, provenance=provenance, low=low, high=high))
            metrics.append(
                Metric(power, amount / covered_s, provenance=provenance, low=low / covered_s, high=high / covered_s)
            )
    counted = counts_cpu_time(sensors)
    for column, sensor in enumerate(sensors):
        if sensor.kind is Kind.COUNTER and sensor.quantity is Quantity.TIME and sensor.domain == "cpu":
            share = float(used.amount[column]) / used.covered_ns / cpus * 100
            metrics.append(Metric(MetricType.CPU_UTIL, share, Aggregate.MEAN))
        elif sensor.quantity is Quantity.UTILISATION and sensor.domain == "cpu" and not counted:
            metrics.append(
                Metric(MetricType.CPU_UTIL, float(used.amount[column]) / used.covered_ns / 10, Aggregate.MEAN)
            )
        elif sensor.kind is Kind.GAUGE and sensor.quantity is Quantity.DATA and sensor.component == "dram":
            metrics.append(Metric(MetricType.DRAM_MEM, float(used.amount[column]) / used.covered_ns))
    return metrics
