"""A run as text: rounds and hosts, regions, and one sentence that says what the figures are."""

from __future__ import annotations

from collections.abc import Sequence

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Region, Stats, unit_of
from perun_hpc.monitoring.results import worst

_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "u": 1e-6}
_NAMES = {MetricType.DRAM_MEM: "memory", MetricType.GPU_MEM: "GPU memory"}


def scaled(metric: MetricType, settings: UserSettings) -> tuple[float, str]:
    """What a metric's value is divided by, and the unit that it is then in, by the configuration's units."""
    unit = unit_of(metric)
    prefix = {
        "J": settings.joule,
        "W": settings.watt,
        "s": settings.second,
        "B": settings.byte,
        "B/s": settings.byte,
    }.get(unit, "")
    return _FACTORS[prefix], (settings.price_unit if metric is MetricType.MONEY else prefix + unit)


def render(tree: DataNode, settings: UserSettings) -> str:
    """The whole text."""
    runs = list(tree.walk(NodeType.RUN))
    parts = [f"perun: {tree.metadata.get('app', '')}, run {tree.id}"]
    if any(run.nodes for run in runs):
        parts.append(_hosts(runs, settings) if settings.group_by == "host" else _devices(runs, settings))
    regions = [(run.id, region) for run in runs for host in run.walk(NodeType.NODE) for region in host.regions]
    if regions:
        parts.append(_regions(regions, settings))
    parts.append(summary(tree, runs, settings))
    parts += _notes(runs)
    return "\n\n".join(parts)


def _metrics(names: Sequence[str], nodes: Sequence[DataNode]) -> list[MetricType]:
    return [kind for kind in map(MetricType, names) if any(kind in node.metrics for node in nodes)]


def _cell(value: float | None, metric: MetricType, settings: UserSettings) -> str:
    if value is None:
        return "-"
    factor, _ = scaled(metric, settings)
    value /= factor
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.1 else f"{value:.3g}"


def _head(metric: MetricType, settings: UserSettings) -> str:
    unit = scaled(metric, settings)[1]
    return f"{_NAMES.get(metric, metric.replace('_', ' '))}{f' / {unit}' if unit else ''}"


def _hosts(runs: Sequence[DataNode], settings: UserSettings) -> str:
    hosts = [host for run in runs for host in run.walk(NodeType.NODE)]
    kinds = _metrics(settings.metrics, [*hosts, *runs])
    rows = [["round", "host", *(_head(kind, settings) for kind in kinds)]]
    for run in runs:
        children = list(run.walk(NodeType.NODE))
        rows += [[run.id, host.id, *(_cell(host.value(kind), kind, settings) for kind in kinds)] for host in children]
        if len(children) > 1:
            rows.append([run.id, "all", *(_cell(run.value(kind), kind, settings) for kind in kinds)])
    return table(rows)


def _devices(runs: Sequence[DataNode], settings: UserSettings) -> str:
    devices = [device for run in runs for device in run.walk(NodeType.SENSOR)]
    kinds = _metrics(settings.metrics, devices)
    rows = [["round", "host", "device", *(_head(kind, settings) for kind in kinds)]]
    for run in runs:
        for host in run.walk(NodeType.NODE):
            for device in host.walk(NodeType.SENSOR):
                if any(kind in device.metrics for kind in kinds):
                    rows.append(
                        [run.id, host.id, device.id, *(_cell(device.value(kind), kind, settings) for kind in kinds)]
                    )
    return table(rows)


def _regions(regions: Sequence[tuple[str, Region]], settings: UserSettings) -> str:
    kinds = [k for k in map(MetricType, settings.region_metrics) if any(k in region.metrics for _, region in regions)]
    rows = [["round", "region", "host", "rank", "calls", *(_head(kind, settings) for kind in kinds)]]
    for round_id, region in regions:
        calls = (
            f"{region.calls}"
            + (f" ({region.raised} raised)" if region.raised else "")
            + (f" ({region.open} open)" if region.open else "")
        )
        cells = [
            _cell(region.metrics[kind].value if kind in region.metrics else None, kind, settings) for kind in kinds
        ]
        rows.append([round_id, region.name, region.host, str(region.rank), calls, *cells])
    return "regions (figures are the host's while the region ran)\n" + table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns below the first one; numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    number = [all(_is_number(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, number, strict=True)
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *(line(row) for row in rows[1:])])


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(".", "", 1).replace("e-", "", 1).isdigit()


def summary(tree: DataNode, runs: Sequence[DataNode], settings: UserSettings) -> str:
    """One sentence: energy, money, CO2, and what kind of figures they are."""
    energy = tree.metrics.get(MetricType.ENERGY)
    runtime = tree.value(MetricType.RUNTIME) or 0.0
    job_id = next((run.metadata["job_id"] for run in runs if "job_id" in run.metadata), None)
    if job_id is not None:
        return f"The application ran for {runtime:.3f} s; the node's agent measures it: perun report {job_id}."
    if not isinstance(energy, Stats):
        return f"The application ran for {runtime:.3f} s; no sensor told its energy."
    factor, unit = scaled(MetricType.ENERGY, settings)
    over = f"{len(runs)} rounds used" if len(runs) > 1 else "The application used"
    singles = [metric for run in runs if isinstance(metric := run.metrics.get(MetricType.ENERGY), Metric)]
    kind = worst(metric.provenance for metric in singles)
    doubt = sum(metric.uncertainty or 0.0 for metric in singles)
    money, co2 = (
        found.sum if isinstance(found := tree.metrics.get(k), Stats) else 0.0
        for k in (MetricType.MONEY, MetricType.CO2)
    )
    scope = sorted(
        {scope for run in runs for host in run.walk(NodeType.NODE) for scope in host.metadata.get("scope", ())}
    )
    return (
        f"{over} {energy.sum / factor:.3f} {unit} +- {2 * doubt / factor:.3f} (k=2, {kind}; {', '.join(scope)})"
        f" in {sum(run.value(MetricType.RUNTIME) or 0.0 for run in runs):.3f} s:"
        f" {money:.4g} {settings.price_unit}, {co2:.4g} g CO2."
    )


def _notes(runs: Sequence[DataNode]) -> list[str]:
    notes = []
    hosts = [host for run in runs for host in run.walk(NodeType.NODE)]
    if any(
        m.provenance == "estimated"
        for run in runs
        for m in run.metrics.values()
        if isinstance(m, Metric) and m.type is MetricType.ENERGY
    ):
        notes.append(
            "ESTIMATE: no power sensor can be read here; "
            "the energy is estimated from CPU utilisation (perun sensors says why)."
        )
    partial = [
        f"{host.id}: {host.metadata.get('why') or 'a rank ended without handing in everything'}"
        for host in hosts
        if host.metadata.get("state") != "complete"
    ]
    if partial:
        notes.append("PARTIAL: " + "; ".join(partial))
    return notes
