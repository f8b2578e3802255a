"""The regions of a host's ranks as results: each region's intervals laid over the run's readings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perun_hpc.data_model.data import Aggregate, Metric, MetricType, Region
from perun_hpc.data_model.rank_data import RankData
from perun_hpc.data_model.sensor import Kind, Sensor, worst
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.region_arrays import Floats, Ints, Readings, Spans, Used, by_region, covered, mean
from perun_hpc.energy.region_energy import HALF_RECTANGLE, settle, worth
from perun_hpc.energy.regions import Loose
from perun_hpc.energy.uncertainty import added, combined_uj, of_sensor
from perun_hpc.monitoring import trace
from perun_hpc.monitoring.columns import counts_cpu_time
from perun_hpc.monitoring.host_energy import HostEnergy

NS_PER_S = 1_000_000_000
_ENERGIES = (
    ("", MetricType.ENERGY, MetricType.POWER),
    ("cpu", MetricType.CPU_ENERGY, MetricType.CPU_POWER),
    ("dram", MetricType.DRAM_ENERGY, MetricType.DRAM_POWER),
    ("gpu", MetricType.GPU_ENERGY, MetricType.GPU_POWER),
)
"""The component, empty for all together, and what it used."""


def regions(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor], ranks: Sequence[RankData]
) -> list[Region]:
    """All regions of all ranks of a host, ranks in order, regions as they were defined."""
    times_ns, values = trace.read(directory, summary, sensors)
    return of_readings(times_ns, values, sensors, ranks, summary)


def of_readings(
    times_ns: Ints, values: Floats, sensors: Sequence[Sensor], ranks: Sequence[RankData], summary: dict[str, Any]
) -> list[Region]:
    """The same from the readings of a run: its edges first and last, counters from 0, NaN where there is none."""
    first_ns, last_ns = (int(summary["edges"][place]["mono_ns"]) for place in (0, -1))
    energy = HostEnergy(sensors, summary["results"], last_ns - first_ns)
    host = _Host(times_ns, values, sensors, energy, int(summary["cpus"]))
    whole_j = (energy.known_uj or 0.0) / 1e6
    result = []
    for rank in sorted(ranks, key=lambda rank: rank.rank):
        calls = by_region(rank.calls, len(rank.names), *_life(rank, first_ns, last_ns))
        for number, (marked, lengths) in calls.items():
            starts, ends = marked.spans
            time_s = float((ends - starts).sum()) / NS_PER_S
            figures = host.figures(marked.spans, marked.coarse_ns, marked.loose)
            metrics = [Metric(MetricType.RUNTIME, time_s, Aggregate.MAX), *figures]
            result.append(
                Region(
                    rank.names[number],
                    summary["host"],
                    rank.rank,
                    marked.calls,
                    time_s,
                    marked.total_ns / NS_PER_S,
                    marked.raised,
                    marked.still_open,
                    {metric.type: metric for metric in metrics},
                    lengths.mean / NS_PER_S,
                    lengths.deviation / NS_PER_S,
                    lengths.longest / NS_PER_S,
                    *_of_energy(metrics, marked.calls, whole_j),
                )
            )
    return result


def _of_energy(metrics: Sequence[Metric], calls: int, whole_j: float) -> tuple[float | None, float | None]:
    """The energy of a call in J, and the part of `whole_j` that all calls had; None where that is not known."""
    found = next((one for one in metrics if one.type is MetricType.ENERGY), None)
    if found is None or found.at_most or found.value <= 0:
        return None, None
    return found.value / calls if calls else None, found.value / whole_j if whole_j else None


def _life(rank: RankData, first_ns: int, last_ns: int) -> tuple[int, int]:
    """When a rank lived: as its own samples say, which a killed one has none of at its end; then as long as the run."""
    moments = rank.samples[::3]
    if not len(moments):
        return first_ns, last_ns
    return min(first_ns, moments[0]), moments[-1] if rank.whole else last_ns


class _Host:
    """A host's readings; figures of stretches of time leave sensors out that gave no two readings around them."""

    def __init__(
        self, times_ns: Ints, values: Floats, sensors: Sequence[Sensor], energy: HostEnergy, cpus: int
    ) -> None:
        self._energy = energy
        self._times_ns, self._values, self._sensors, self._cpus = times_ns, values, sensors, cpus
        counters = [column for column, sensor in enumerate(sensors) if sensor.kind is Kind.COUNTER]
        self._rows = {column: row for row, column in enumerate(counters)}
        ceilings = [math.inf if (sensor := sensors[one]).max_uw is None else float(sensor.max_uw) for one in counters]
        self._counters = Readings(times_ns, values[counters], np.array(ceilings))
        self._age_ns = max((sensors[one].update_ns + sensors[one].lag_ns // 4 for one in energy.bearing), default=0)

    def figures(self, spans: Spans, coarse_ns: int = 0, loose: Loose[Spans] | None = None) -> Iterator[Metric]:
        """All figures of some stretches of time, which may lie so far beside the truth, and there."""
        used = self._counters.used(spans, loose)
        yield from self._energies(used, spans, coarse_ns, int(covered(self._times_ns[[0, -1]], spans).sum()))
        by_time = counts_cpu_time(self._sensors)
        for column, sensor in enumerate(self._sensors):
            if sensor.domain == "cpu" and sensor.kind is Kind.COUNTER and sensor.quantity is Quantity.TIME:
                row = self._rows[column]
                if used.covered_ns[row]:
                    busy = float(used.amount[row] / used.covered_ns[row])
                    yield Metric(MetricType.CPU_UTIL, busy / self._cpus * 100, Aggregate.MEAN)
            level = mean(self._times_ns, self._values[column], spans) if sensor.kind is Kind.GAUGE else None
            if level is None:
                continue
            if sensor.domain == "cpu" and sensor.quantity is Quantity.UTILISATION and not by_time:
                yield Metric(MetricType.CPU_UTIL, level / 10, Aggregate.MEAN)
            elif sensor.component == "dram" and sensor.quantity is Quantity.DATA:
                yield Metric(MetricType.DRAM_MEM, level)

    def _energies(self, used: Used, spans: Spans, coarse_ns: int, whole_ns: int) -> Iterator[Metric]:
        """`whole_ns`: how long it was; what a counter did not give of it is anything up to its ceiling."""
        contrasts = None
        for component, energy, power in _ENERGIES:
            wanted = self._energy.columns(component) if component else self._energy.bearing
            columns = [column for column in wanted if used.covered_ns[self._rows[column]]]
            if not columns:
                continue
            rows = [self._rows[column] for column in columns]
            together = used.together(rows)
            age_ns = max(self._sensors[one].update_ns + self._sensors[one].lag_ns // 4 for one in columns)
            contrast = None
            if worth(together):
                contrasts = contrasts or self._counters.contrasts(spans, self._age_ns, coarse_ns)
                contrast = contrasts.of(rows, used)
            found = settle(together, contrast, whole_ns, age_ns)
            provenance = worst(self._sensors[column].provenance for column in columns)
            unseen_uj = sum(
                (self._sensors[column].max_uw or 0) * (whole_ns - int(used.covered_ns[self._rows[column]])) / NS_PER_S
                for column in wanted
            )
            scale = found.uj / together.amount if together.amount else 1.0
            each = zip(columns, (used.amount[rows] * scale).tolist(), strict=True)
            gains = combined_uj(added(of_sensor(self._sensors[column], one) for column, one in each))
            doubt_uj = math.hypot(found.u_uj, gains, unseen_uj / HALF_RECTANGLE)
            # Power is of the time in which each counter showed something.
            a_second = float((used.amount[rows] / used.covered_ns[rows]).sum()) * NS_PER_S
            per_s = a_second / together.amount if together.amount else NS_PER_S / whole_ns
            for kind, unit in ((energy, 1e-6), (power, per_s * 1e-6)):
                more = unseen_uj * 1e-6 if kind is energy else unseen_uj * 1e-6 / (whole_ns / NS_PER_S)
                yield Metric(
                    kind,
                    found.uj * unit,
                    uncertainty=doubt_uj * unit,
                    provenance=provenance,
                    low=found.low_uj * unit,
                    high=found.high_uj * unit + more,
                    method=found.method.value,
                )
