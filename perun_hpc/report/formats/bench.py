"""The format of github-action-benchmark: name, unit, value, range and, of what no sensor measured, extra."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Stats
from perun_hpc.data_model.sensor import Provenance, worst
from perun_hpc.report.formats.figures import scaled

_STATS = {"avg": "mean", "mean": "mean", "max": "max", "min": "min", "std": "std", "sum": "sum"}


def render(tree: DataNode, settings: UserSettings) -> str:
    """The chosen metrics of the application, with the chosen statistics over the rounds, then those of its regions."""
    app, runs = str(tree.metadata.get("app", "")), [run.metrics for run in tree.walk(NodeType.RUN)]
    regions = [region.metrics for host in tree.walk(NodeType.NODE) for region in host.regions]
    entries: list[dict[str, object]] = []
    for kind in map(MetricType, settings.metrics):
        found = tree.metrics.get(kind)
        if not isinstance(found, Stats):
            continue
        factor, unit = scaled(kind, settings)
        for name in settings.metric_stats:
            value = getattr(found, _STATS[name]) / factor
            entry = {"name": f"{app} - {kind} - {name}", "unit": unit, "value": value}
            entries.append({**entry, "range": f"{found.std / factor:.6g}", **_origin(runs, kind)})
    for region, values in _region_values(tree, settings).items():
        for kind, series in values.items():
            factor, unit = scaled(kind, settings)
            mean = sum(series) / len(series)
            spread = (max(series) - min(series)) / 2
            name = f"{app} - {region} - {kind}"
            entry = {"name": name, "unit": unit, "value": mean / factor, "range": f"{spread / factor:.6g}"}
            entries.append({**entry, **_origin(regions, kind)})
    factor, unit = scaled(MetricType.ENERGY, settings)
    for region, calls in _call_energies(tree).items():
        mean, spread = sum(calls) / len(calls) / factor, (max(calls) - min(calls)) / 2 / factor
        name = f"{app} - {region} - energy per call"
        entry = {"name": name, "unit": unit, "value": mean, "range": f"{spread:.6g}"}
        entries.append({**entry, **_origin(regions, MetricType.ENERGY)})
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


def _origin(parts: Iterable[Mapping[MetricType, Metric | Stats]], kind: MetricType) -> dict[str, str]:
    """Where a figure is from, the worst of its parts', unless that is a sensor."""
    known = [found.provenance for part in parts if isinstance(found := part.get(kind), Metric)]
    return {"extra": str(worst(known))} if known and worst(known) != Provenance.MEASURED else {}


def _region_values(tree: DataNode, settings: UserSettings) -> dict[str, dict[MetricType, list[float]]]:
    """Per region and metric the values of all rounds, hosts and ranks."""
    result: dict[str, dict[MetricType, list[float]]] = {}
    for host in tree.walk(NodeType.NODE):
        for region in host.regions:
            for kind in map(MetricType, settings.region_metrics):
                if kind in region.metrics:
                    result.setdefault(region.name, {}).setdefault(kind, []).append(region.metrics[kind].value)
    return result


def _call_energies(tree: DataNode) -> dict[str, list[float]]:
    """Per region the energy of a call of each round, host and rank, in J; none where only a bound is known of one."""
    result: dict[str, list[float | None]] = {}
    for host in tree.walk(NodeType.NODE):
        for region in host.regions:
            result.setdefault(region.name, []).append(region.call_energy_j)
    known = {name: [value for value in values if value is not None] for name, values in result.items()}
    return {name: values for name, values in known.items() if len(values) == len(result[name])}
