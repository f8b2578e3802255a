"""From what a run left on disk to its tree of results: metrics of a host, of a run, of several runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model import codec
from perun_hpc.data_model.data import (
    Aggregate,
    DataNode,
    DeviceType,
    Metric,
    MetricType,
    NodeType,
    Stats,
)
from perun_hpc.data_model.rank_data import RankData
from perun_hpc.data_model.sensor import Kind, Missing, Sensor, worst
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.monitoring.columns import counts_cpu_time
from perun_hpc.monitoring.host_energy import Figure, HostEnergy
from perun_hpc.monitoring.orders import SCHEMA, SUMMARY
from perun_hpc.monitoring.ranks import read_ranks
from perun_hpc.monitoring.rundir import of_ranks

if TYPE_CHECKING:
    from perun_hpc.monitoring.child import Ended

NS_PER_S = 1_000_000_000
BY_USER = "stated by the user"

_GROUPS: dict[str, DeviceType] = {
    "cpu": DeviceType.CPU, "dram": DeviceType.RAM, "gpu": DeviceType.GPU, "node": DeviceType.NODE,
    "disk": DeviceType.DISK, "net": DeviceType.NET,
}  # fmt: skip
_ENERGY: dict[str, tuple[MetricType, MetricType]] = {
    "cpu": (MetricType.CPU_ENERGY, MetricType.CPU_POWER),
    "dram": (MetricType.DRAM_ENERGY, MetricType.DRAM_POWER),
    "gpu": (MetricType.GPU_ENERGY, MetricType.GPU_POWER),
    "other": (MetricType.OTHER_ENERGY, MetricType.OTHER_POWER),
}
"""Of each component of `HostEnergy`; `other` is what meters count beside their parts."""


_OWN: dict[DeviceType | None, tuple[MetricType, ...]] = {
    DeviceType.CPU: (MetricType.CPU_UTIL,),
    DeviceType.RAM: (MetricType.DRAM_MEM,),
    DeviceType.GPU: (MetricType.GPU_UTIL, MetricType.GPU_MEM),
    DeviceType.NET: (MetricType.NET_READ, MetricType.NET_WRITE),
    DeviceType.DISK: (MetricType.DISK_READ, MetricType.DISK_WRITE),
}
_GAUGES: dict[tuple[Quantity, str], tuple[MetricType, float]] = {
    (Quantity.UTILISATION, "cpu"): (MetricType.CPU_UTIL, 0.1),
    (Quantity.UTILISATION, "gpu"): (MetricType.GPU_UTIL, 0.1),
    (Quantity.DATA, "dram"): (MetricType.DRAM_MEM, 1.0), (Quantity.DATA, "gpu"): (MetricType.GPU_MEM, 1.0),
    (Quantity.FREQUENCY, "cpu"): (MetricType.CPU_CLOCK, 1e3), (Quantity.FREQUENCY, "gpu"): (MetricType.GPU_CLOCK, 1e3),
    (Quantity.POWER, "cpu"): (MetricType.POWER, 1e-6), (Quantity.POWER, "gpu"): (MetricType.POWER, 1e-6),
    (Quantity.POWER, "dram"): (MetricType.POWER, 1e-6), (Quantity.POWER, "node"): (MetricType.POWER, 1e-6),
    (Quantity.POWER, "other"): (MetricType.POWER, 1e-6),
}  # fmt: skip
"""What a gauge's mean is, by its quantity and component, and the factor from its base unit."""


def read_summary(directory: Path) -> dict[str, Any]:
    """What the sampling process wrote of a host; DataError if it is not there or damaged."""
    path = directory / SUMMARY
    try:
        summary = json.loads(path.read_bytes())
        if summary["schema"] != SCHEMA:
            raise DataError(f"{path}: not of schema {SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    assert isinstance(summary, dict)
    return summary


def host_node(
    directory: Path,
    summary: dict[str, Any],
    ended: Iterable[Ended],
    own: Sequence[RankData] = (),
    with_regions: bool = True,
) -> DataNode:
    """The tree of one host.

    Parameters
    ----------
    directory : of the host's part of the run.
    summary : of its sampling process.
    ended : how the commands of this host's ranks ended.
    with_regions : needs numpy, and zarr where the run was longer than a sampling period.
    own : data of ranks that are this very process, or were gathered, beside those that came by the rank server.
    """
    own_sensors = [Sensor.from_json(sensor) for sensor in summary["sensors"]]
    parts = [read_summary(part) for part in of_ranks(directory) if (part / SUMMARY).exists()]
    sensors = [*own_sensors, *(Sensor.from_json(sensor) for part in parts for sensor in part["sensors"])]
    results: list[dict[str, Any]] = [result for part in (summary, *parts) for result in part["results"]]
    first_ns, last_ns = (summary["edges"][place]["mono_ns"] for place in (0, -1))
    runtime_s = (last_ns - first_ns) / NS_PER_S
    node = DataNode(summary["host"], NodeType.NODE, device_type=DeviceType.NODE)
    for column, sensor in enumerate(sensors):
        kind = _GROUPS.get(sensor.component, DeviceType.OTHER)
        group = node.nodes.setdefault(kind, DataNode(kind, NodeType.DEVICE_GROUP, device_type=kind))
        group.nodes[sensor.id] = _sensor_node(sensor, results[column], runtime_s)
    missing = [codec.decode(Missing, one) for one in summary["missing"]]
    energy = HostEnergy(sensors, results, last_ns - first_ns, missing)
    metrics = _host_metrics(sensors, results, energy, runtime_s, int(summary["cpus"]))
    node.metrics.update({metric.type: metric for metric in metrics})
    for group in node.nodes.values():
        group.metrics.update(_group_metrics(group.device_type, node.metrics))
    ranks, problems = read_ranks(directory / "ranks")
    ranks = [*ranks, *own]
    if with_regions and any(rank.names for rank in ranks):
        node.regions = _regions(directory, summary, own_sensors, ranks)
    whole = summary["state"] if all(rank.whole for rank in ranks) else "partial"
    node.metadata = {
        "state": "partial" if energy.lacks else whole,
        "why": "; ".join([*([summary["why"]] if summary["why"] else []), *energy.lacks, *problems]),
        "machine": summary.get("machine"),
        "cpus": int(summary["cpus"]),
        "start_real_ns": summary["start_real_ns"],
        "period_ns": summary["period_ns"],
        "rows": summary["rows"],
        "missing": summary["missing"],
        "scope": sorted({sensors[column].scope for column in energy.bearing}),
        "includes": energy.scope,
        "coverage": energy.coverage,
        "ranks": [_rank_entry(rank) for rank in ranks],
        "processes": [
            {
                "rank": e.rank,
                "code": e.code,
                "signal": e.signal,
                "cpu_ns": e.cpu_ns,
                "rss_peak_b": e.rss_peak_b,
                "runtime_ns": e.end_ns - e.start_ns,
            }
            for e in ended
        ],
    }
    return node


def _group_metrics(
    kind: DeviceType | None, of_host: Mapping[MetricType, Metric | Stats]
) -> dict[MetricType, Metric | Stats]:
    """Those of a host's metrics that are of one kind of device; its energy and power by these names, too."""
    own = {one: of_host[one] for one in _OWN.get(kind, ()) if one in of_host}
    for component, named in _ENERGY.items():
        if _GROUPS.get(component) is kind:
            for plain, one in zip((MetricType.ENERGY, MetricType.POWER), named, strict=True):
                if isinstance(found := of_host.get(one), Metric):
                    own |= {one: found, plain: replace(found, type=plain)}
    return own


def own_share(host: DataNode, cpu_ns: int) -> dict[str, Any] | None:
    """What is the application's own of its host's CPU time and of its CPUs' energy: a model, since nothing measures it.

    Parameters
    ----------
    host : with its metrics.
    cpu_ns : CPU time of the application's processes.

    Returns
    -------
    `cpu_ns`, `busy_ns` of all CPUs in the same time, `energy_j` and its provenance where the CPUs' is known,
    `uncertainty_j` (k=1, of the sensors alone) where that is; None where their utilisation is not.
    """
    busy, runtime, cpus = host.value(MetricType.CPU_UTIL), host.value(MetricType.RUNTIME), host.metadata["cpus"]
    if busy is None or runtime is None:
        return None
    # What others count of the same time cannot be less, whatever the ticks of their clock.
    busy_ns = max(cpu_ns, round(busy / 100 * runtime * cpus * NS_PER_S))
    share: dict[str, Any] = {"cpu_ns": cpu_ns, "busy_ns": busy_ns}
    energy = host.metrics.get(MetricType.CPU_ENERGY)
    if isinstance(energy, Metric) and busy_ns:
        share["energy_j"] = energy.value * cpu_ns / busy_ns
        share["provenance"] = worst((energy.provenance, "modelled"))
        if energy.uncertainty is not None:
            share["uncertainty_j"] = energy.uncertainty * cpu_ns / busy_ns
    return share


def _rank_entry(rank: RankData) -> dict[str, Any]:
    keep = ("pid", "python", "end", "mpi", "dropped")
    calls = 0
    if len(rank.calls):
        from perun_hpc.energy.region_arrays import count

        calls = count(rank.calls, len(rank.names))
    return {"rank": rank.rank, "calls": calls, **{key: rank.header.get(key) for key in keep}}


def _sensor_node(sensor: Sensor, result: dict[str, Any], runtime_s: float) -> DataNode:
    node = DataNode(sensor.id, NodeType.SENSOR, metadata={"sensor": sensor.to_json(), "result": result})
    if sensor.quantity is Quantity.ENERGY and sensor.kind is Kind.COUNTER:
        if result["base"] is None:
            return node  # it gave nothing, which is not 0 J
        joules = result["base"] / 1e6
        node.metrics[MetricType.ENERGY] = Metric(MetricType.ENERGY, joules, provenance=sensor.provenance)
        if runtime_s > 0:
            node.metrics[MetricType.POWER] = Metric(MetricType.POWER, joules / runtime_s, provenance=sensor.provenance)
    elif sensor.kind is Kind.GAUGE and result.get("mean") is not None:
        if (kind := _GAUGES.get((sensor.quantity, sensor.component))) is not None:
            shown = Metric(kind[0], result["mean"] * kind[1], Aggregate.MEAN, provenance=sensor.provenance)
            node.metrics[shown.type] = shown
    else:
        node.metrics.update({metric.type: metric for metric in _traffic([sensor], [result], runtime_s)})
    return node


def _host_metrics(
    sensors: Sequence[Sensor], results: Sequence[dict[str, Any]], energy: HostEnergy, runtime_s: float, cpus: int
) -> list[Metric]:
    metrics = [Metric(MetricType.RUNTIME, runtime_s, Aggregate.MAX)]
    if (total := energy.total()) is not None:
        metrics += _energy_pair(MetricType.ENERGY, MetricType.POWER, total, runtime_s)
    for component, kinds in _ENERGY.items():
        if (figure := energy.of(component)) is not None:
            metrics += _energy_pair(*kinds, figure, runtime_s)
    counted = counts_cpu_time(sensors)
    for sensor, result in zip(sensors, results, strict=True):
        if (
            sensor.quantity is Quantity.TIME
            and sensor.kind is Kind.COUNTER
            and sensor.domain == "cpu"
            and result["base"] is not None
            and runtime_s > 0
        ):
            metrics.append(
                Metric(MetricType.CPU_UTIL, result["base"] / NS_PER_S / runtime_s / cpus * 100, Aggregate.MEAN)
            )
        elif sensor.quantity is Quantity.DATA and sensor.kind is Kind.GAUGE and result["mean"] is not None:
            kind_of = MetricType.GPU_MEM if sensor.component == "gpu" else MetricType.DRAM_MEM
            metrics.append(Metric(kind_of, result["mean"]))
        elif sensor.quantity is Quantity.UTILISATION and result.get("mean") is not None:
            if sensor.component == "gpu":
                metrics.append(Metric(MetricType.GPU_UTIL, result["mean"] / 10, Aggregate.MEAN))
            elif sensor.domain == "cpu" and not counted:
                metrics.append(Metric(MetricType.CPU_UTIL, result["mean"] / 10, Aggregate.MEAN))
    return _merged(metrics + _traffic(sensors, results, runtime_s))


def _traffic(sensors: Sequence[Sensor], results: Sequence[dict[str, Any]], runtime_s: float) -> list[Metric]:
    kinds = {
        ("net", "read"): MetricType.NET_READ, ("net", "write"): MetricType.NET_WRITE,
        ("disk", "read"): MetricType.DISK_READ, ("disk", "write"): MetricType.DISK_WRITE,
    }  # fmt: skip
    return [
        Metric(kind, result["base"] / runtime_s)
        for sensor, result in zip(sensors, results, strict=True)
        for (component, word), kind in kinds.items()
        if sensor.quantity is Quantity.DATA and sensor.kind is Kind.COUNTER and sensor.component == component
        and word in sensor.id and result["base"] is not None and runtime_s > 0
    ]  # fmt: skip


def _merged(metrics: Sequence[Metric]) -> list[Metric]:
    """One metric per type: sums, or the mean or maximum, by its rule."""
    result: dict[MetricType, list[Metric]] = {}
    for metric in metrics:
        result.setdefault(metric.type, []).append(metric)
    return [group[0] if len(group) == 1 else combine(group) for group in result.values()]


def combine(metrics: Sequence[Metric]) -> Metric:
    """Metrics of one type of several parts as one, by their rule; uncertainties of one instrument's kind add."""
    first = metrics[0]
    values = [metric.value for metric in metrics]
    value = {
        Aggregate.SUM: math.fsum(values),
        Aggregate.MEAN: math.fsum(values) / len(values),
        Aggregate.MAX: max(values),
        Aggregate.MIN: min(values),
    }[first.agg]
    known = [metric.uncertainty for metric in metrics if metric.uncertainty is not None]
    # With one part's not known the whole's is not.
    uncertainty = sum(known) if len(known) == len(metrics) else None
    return Metric(first.type, value, first.agg, uncertainty, worst(metric.provenance for metric in metrics))


def _energy_pair(energy: MetricType, power: MetricType, figure: Figure, runtime_s: float) -> list[Metric]:
    joules, u_j, provenance = figure.energy_uj / 1e6, figure.u_uj / 1e6, figure.provenance
    pair = [Metric(energy, joules, uncertainty=u_j, provenance=provenance)]
    if runtime_s > 0:
        pair.append(Metric(power, joules / runtime_s, uncertainty=u_j / runtime_s, provenance=provenance))
    return pair


def _regions(
    directory: Path, summary: dict[str, Any], sensors: Sequence[Sensor], ranks: Sequence[RankData]
) -> list[Any]:
    from perun_hpc.monitoring.region_results import regions

    return regions(directory, summary, sensors, ranks)


def run_node(run_id: str, hosts: Sequence[DataNode], settings: UserSettings) -> DataNode:
    """One run of an application: its hosts with overhead, and their sums with PUE, money and CO2."""
    node = DataNode(
        run_id, NodeType.RUN, nodes={host.id: with_overhead(host, settings.power_overhead) for host in hosts}
    )
    types = list(dict.fromkeys(kind for host in node.nodes.values() for kind in host.metrics))
    for kind in types:
        parts = [metric for host in node.nodes.values() if isinstance(metric := host.metrics.get(kind), Metric)]
        node.metrics[kind] = combine(parts)
    energy = node.metrics.get(MetricType.ENERGY)
    if isinstance(energy, Metric):
        joules = energy.value * settings.pue
        uncertainty = None if energy.uncertainty is None else energy.uncertainty * settings.pue
        node.metrics[MetricType.ENERGY] = Metric(MetricType.ENERGY, joules, energy.agg, uncertainty, energy.provenance)
    outside = _outside(node.metrics.get(MetricType.ENERGY), settings)
    node.metrics.update({metric.type: metric for metric in outside[0]})
    states = [host.metadata.get("state", "complete") for host in node.nodes.values()]
    node.metadata = {"state": "complete" if states and all(state == "complete" for state in states) else "partial"}
    if outside[1]:
        node.metadata["factors"] = list(outside[1])
    return node


def _outside(energy: Metric | Stats | None, settings: UserSettings) -> tuple[list[Metric], tuple[str, ...]]:
    """What an energy costs and emits by the factors that the user states, and where these are from."""
    stated = settings.price_factor, settings.emissions_factor
    if not isinstance(energy, Metric) or stated == (None, None):
        return [], ()
    from perun_hpc.energy import footprint  # most runs state none

    (price, carbon), today = stated, time.strftime("%Y-%m-%d")
    costs = emits = None
    unknown: tuple[str, ...] = ()
    if price is not None:
        costs = footprint.constant(price, settings.price_source or BY_USER, today, settings.price_unit)
    try:
        if isinstance(carbon, str):
            emits = footprint.national_intensity(carbon)
        elif carbon is not None:
            emits = footprint.constant(carbon, settings.emissions_source or BY_USER, today)
    except NotFoundError as error:  # the run has ended, and its energy is known
        unknown = (str(error),)
    factors = footprint.Factors(price=costs, carbon_location=emits)
    found = footprint.footprint([footprint.Piece(0, 1, round(energy.value * 1e6))], factors, at_wall=False)
    emitted = found.co2_location_g if found.co2_life_cycle_g is None else found.co2_life_cycle_g
    amounts = ((MetricType.MONEY, found.cost), (MetricType.CO2, emitted))
    doubt = energy.uncertainty / energy.value if energy.uncertainty is not None and energy.value > 0 else None
    metrics = [
        Metric(kind, amount, uncertainty=None if doubt is None else amount * doubt, provenance=energy.provenance)
        for kind, amount in amounts
        if amount is not None
    ]
    return metrics, (*found.sources, *unknown)


def with_overhead(host: DataNode, overhead_w: float) -> DataNode:
    """A host with a constant power added that no sensor sees."""
    energy, power, runtime = (host.metrics.get(k) for k in (MetricType.ENERGY, MetricType.POWER, MetricType.RUNTIME))
    if overhead_w and isinstance(energy, Metric) and isinstance(power, Metric) and isinstance(runtime, Metric):
        host.metrics[MetricType.POWER] = Metric(
            power.type, power.value + overhead_w, power.agg, power.uncertainty, worst((power.provenance, "estimated"))
        )
        host.metrics[MetricType.ENERGY] = Metric(
            energy.type, energy.value + overhead_w * runtime.value, energy.agg, energy.uncertainty,
            worst((energy.provenance, "estimated")),
        )  # fmt: skip
    return host


def multi_run_node(run_id: str, runs: Sequence[DataNode], metadata: dict[str, Any]) -> DataNode:
    """Several rounds under one id, with statistics over them."""
    node = DataNode(run_id, NodeType.MULTI_RUN, metadata=metadata, nodes={run.id: run for run in runs})
    types = dict.fromkeys(kind for run in runs for kind in run.metrics)
    for kind in types:
        values = [value for run in runs if (value := run.value(kind)) is not None]
        node.metrics[kind] = Stats.of(kind, values)
    node.metrics[MetricType.N_RUNS] = Metric(MetricType.N_RUNS, float(len(runs)))
    return node


def round_of(run: DataNode) -> str:
    """The part of its run's directory in which a round lies."""
    return str(run.metadata.get("round", run.id))
