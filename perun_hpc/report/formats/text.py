"""A run as text: rounds and hosts, regions, and one sentence that says what the figures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Region, Stats, unit_of
from perun_hpc.data_model.sensor import worst

_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12}
_STEPS = {"J": "um kMGT", "W": "um kMGT", "s": "um ", "B": " kMGT", "B/s": " kMGT"}
"""The prefixes that a unit takes here where the configured one gives unwieldy figures; a blank is none."""
_WIDTH = 80
_TRAFFIC = (MetricType.DISK_READ, MetricType.DISK_WRITE, MetricType.NET_READ, MetricType.NET_WRITE)
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
    parts += _failure(tree, list(tree.walk(NodeType.NODE)))
    parts += _notes(runs)
    return "\n\n".join(parts)


def _column(metric: MetricType, values: Sequence[float | None], settings: UserSettings) -> list[str]:
    """Head and cells of a metric's column, in one unit that suits its largest value."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    factor, unit = readable(metric, largest, settings)
    head = f"{_NAMES.get(metric, metric.replace('_', ' '))}{f' / {unit}' if unit else ''}"
    return [head, *("-" if value is None else digits(value / factor) for value in values)]


def readable(metric: MetricType, value: float, settings: UserSettings) -> tuple[float, str]:
    """As `scaled`, but in a unit in which `value` has up to four digits before the point where the configured one
    does not do."""
    factor, unit = scaled(metric, settings)
    steps = [_FACTORS[prefix.strip()] for prefix in _STEPS.get(unit_of(metric), "")]
    if not steps or not value or 0.1 <= value / factor < 1e4:
        return factor, unit
    factor = max((step for step in steps if value >= step), default=steps[0])
    prefix = next(prefix for prefix, size in _FACTORS.items() if size == factor)
    return factor, prefix + unit_of(metric)


def digits(value: float) -> str:
    """A figure with three significant digits, more only before the point."""
    size = abs(value)
    return f"{value:.3g}" if size < 1 else f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def _hosts(runs: Sequence[DataNode], settings: UserSettings) -> str:
    rows, nodes = [["round", "host"]], []
    for run in runs:
        hosts = list(run.walk(NodeType.NODE))
        rows += [[run.id, host.id] for host in hosts]
        nodes += hosts
        if len(hosts) > 1:
            rows.append([run.id, "all"])
            nodes.append(run)
    return _blocks(rows, settings.metrics, [_figures(node) for node in nodes], settings)


def _devices(runs: Sequence[DataNode], settings: UserSettings) -> str:
    rows, nodes = [["round", "host", "device"]], []
    for run in runs:
        for host in run.walk(NodeType.NODE):
            for device in host.walk(NodeType.SENSOR):
                if any(kind in device.metrics for kind in settings.metrics):
                    rows.append([run.id, host.id, device.id])
                    nodes.append(device)
    return _blocks(rows, settings.metrics, [_figures(node) for node in nodes], settings)


def _figures(node: DataNode) -> dict[MetricType, float]:
    return {kind: value for kind in node.metrics if (value := node.value(kind)) is not None}


def _regions(regions: Sequence[tuple[str, Region]], settings: UserSettings) -> str:
    rows = [["round", "region", "host", "rank", "calls"]]
    for round_id, region in regions:
        calls = (
            f"{region.calls}"
            + (f" ({region.raised} raised)" if region.raised else "")
            + (f" ({region.open} open)" if region.open else "")
        )
        rows.append([round_id, region.name, region.host, str(region.rank), calls])
    figures = [{kind: metric.value for kind, metric in region.metrics.items()} for _, region in regions]
    return "regions (figures are the host's while the region ran)\n" + _blocks(
        rows, settings.region_metrics, figures, settings
    )


def _blocks(
    rows: Sequence[Sequence[str]],
    metrics: Sequence[str],
    figures: Sequence[Mapping[MetricType, float]],
    settings: UserSettings,
) -> str:
    """A table of the metrics that somebody has, without traffic that nobody had; as many tables below each other,
    each with the cells of `rows` in front, as it takes to stay within 80 columns."""
    tables = [[list(row) for row in rows]]
    for kind in map(MetricType, metrics):
        values = [of.get(kind) for of in figures]
        if all(value is None for value in values) or (kind in _TRAFFIC and not any(values)):
            continue
        column = _column(kind, values, settings)
        wider = [[*row, cell] for row, cell in zip(tables[-1], column, strict=True)]
        if _width(wider) > _WIDTH and len(wider[0]) > len(rows[0]) + 1:
            tables.append([[*row, cell] for row, cell in zip(rows, column, strict=True)])
        else:
            tables[-1] = wider
    return "\n\n".join(table(part) for part in tables)


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))) - 2


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
        return f"The application ran for {runtime:.3f} s; no sensor measured its energy."
    factor, unit = readable(MetricType.ENERGY, energy.sum, settings)
    names = {host.id for run in runs for host in run.walk(NodeType.NODE)}
    who = f"The {len(names)} hosts" if len(names) > 1 else "The host"
    span = f"{len(runs)} rounds of the application" if len(runs) > 1 else "the application"
    singles = [metric for run in runs if isinstance(metric := run.metrics.get(MetricType.ENERGY), Metric)]
    kind = worst(metric.provenance for metric in singles)
    doubt = sum(metric.uncertainty or 0.0 for metric in singles)
    outside = [
        f"{found.sum:.3g} {currency_or_gas}"
        for kind, currency_or_gas in ((MetricType.MONEY, settings.price_unit), (MetricType.CO2, "g CO2"))
        if isinstance(found := tree.metrics.get(kind), Stats)
    ]
    scope = sorted(
        {scope for run in runs for host in run.walk(NodeType.NODE) for scope in host.metadata.get("scope", ())}
    )
    return (
        f"{who} used {digits(energy.sum / factor)} {unit} ± {digits(2 * doubt / factor)} {unit}"
        f" (k=2, {kind}; {', '.join(scope)}) while {span} ran,"
        f" {sum(run.value(MetricType.RUNTIME) or 0.0 for run in runs):.3f} s"
        f"{': ' if outside else ''}{', '.join(outside)}."
    )


def _failure(tree: DataNode, hosts: Sequence[DataNode]) -> list[str]:
    """How the application ended, unless it ended well."""
    ends = [process for host in hosts for process in host.metadata.get("processes", ()) if process["code"]]
    ways: dict[str, list[int]] = {}
    for end in sorted(ends, key=lambda end: int(end.get("rank", 0))):
        way = f"signal {end['signal']}" if end["signal"] else f"exit code {end['code']}"
        ways.setdefault(way, []).append(end.get("rank", 0))
    several = int(tree.metadata.get("ranks") or 1) > 1
    if ways:
        said = [way + (f" ({_ranks(ranks)})" if several else "") for way, ranks in sorted(ways.items())]
        return [f"FAILED: the application ended with {', '.join(said)}."]
    raised = sorted(
        rank["rank"] for host in hosts for rank in host.metadata.get("ranks", ()) if rank["end"] == "raised"
    )
    if raised and several:
        return [f"FAILED: the application raised ({_ranks(raised)})."]
    return ["FAILED: the application raised."] if tree.metadata.get("status") == "SCRIPT_ERROR" else []


def _ranks(ranks: Sequence[int]) -> str:
    """Which ranks, a few of them by number."""
    some = ", ".join(str(rank) for rank in ranks[:5])
    return f"rank {some}" if len(ranks) == 1 else f"ranks {some}{' ...' if len(ranks) > 5 else ''}"


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
        f"{host.id}: {host.metadata.get('why') or 'a rank ended without handing in everything'}{_covered(host)}"
        for host in hosts
        if host.metadata.get("state") != "complete"
    ]
    if partial:
        notes.append("PARTIAL: " + "; ".join(partial))
    if factors := dict.fromkeys(one for run in runs for one in run.metadata.get("factors", ())):
        notes.append("Factors: " + "; ".join(factors))
    return notes


def _covered(host: DataNode) -> str:
    """How much of the time the counters' readings cover, where that is not all of it."""
    coverage = host.metadata.get("coverage", 1.0)
    return f" (readings cover {100 * coverage:.0f} % of the energy sensors' time)" if coverage < 0.995 else ""
