"""The table of a run: the program, round by round and host by host, below it its regions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Region, Stats
from perun_hpc.report.formats.figures import at_most, digits, quantity, readable

WIDTH = 80
MANY_ROUNDS = 12
"""More rounds than this are shown by their statistics alone."""
LONGEST_NAME = 28
TRAFFIC = (MetricType.DISK_READ, MetricType.DISK_WRITE, MetricType.NET_READ, MetricType.NET_WRITE)
_NAMES = {MetricType.DRAM_MEM: "memory", MetricType.GPU_MEM: "GPU memory"}
ESTIMATED, AT_MOST = "~", "<"
"""Before a figure that is estimated, and before an upper bound that stands for what readings do not tell."""
_CALLS = ("a call", "±", "max")
"""Heads of how long a region's single calls took."""
_PER_CALL, _SHARE = "per call", "share"
"""Heads of the energy of a call in the mean, and of a region's part of its host's energy."""


@dataclass
class Row:
    """A line: where it belongs (round, host, rank), what it is, what is known of it; `marks` stand before figures."""

    lead: tuple[str, ...]
    what: str
    figures: Mapping[MetricType, float]
    calls: str = ""
    of_calls: tuple[float, float, float] | None = None
    call_energy_j: float | None = None
    share: float | None = None
    marks: Mapping[MetricType, str] = field(default_factory=dict)


def table(tree: DataNode, settings: UserSettings) -> str:
    """The whole table, within 80 columns: as many below each other as that takes, mostly one. Empty where nothing was
    measured."""
    runs = list(tree.walk(NodeType.RUN))
    if not any(run.nodes for run in runs):
        return ""
    rows = [*_program(tree, runs, settings), *_regions(runs, settings)]
    keep = [place for place in range(3) if len({row.lead[place] for row in rows} - {""}) > 1]
    leads = [
        [("round", "host", "rank")[place] for place in keep],
        *([row.lead[place] for place in keep] for row in rows),
    ]
    front = [[*lead, cell] for lead, cell in zip(leads, ["", *(row.what for row in rows)], strict=True)]
    columns: list[list[str]] = []
    if any(row.calls for row in rows):
        columns.append(["calls", "", *(row.calls for row in rows)])
    wanted = [kind for kind in map(MetricType, dict.fromkeys((*settings.metrics, *settings.region_metrics)))]
    for kind in wanted:
        if (kind not in TRAFFIC or settings.group_by == "device") and any(kind in row.figures for row in rows):
            columns.append(_column(kind, rows, settings))
    front.insert(1, [""] * len(front[0]))
    calls = [*_energy_of_calls(rows, settings), *_single_calls(rows, settings)]
    if _width([[*row, *cells] for row, cells in zip(front, zip(*columns, *calls), strict=True)]) <= WIDTH:
        return "".join(_blocks(front, [*columns, *calls]))
    return "\n\n".join([*_blocks(front, columns), *_blocks(front, calls)])


def traffic(tree: DataNode, settings: UserSettings) -> str:
    """One line of what disks and networks carried; empty where that was nothing."""
    if settings.group_by == "device":
        return ""  # of each device, in the table
    rounds = max(1, sum(1 for _ in tree.walk(NodeType.RUN)))
    shown = []
    for kind in TRAFFIC:
        rate = math.fsum(host.value(kind) or 0.0 for host in tree.walk(NodeType.NODE)) / rounds
        if kind in settings.metrics and rate:
            shown.append(f"{kind.replace('_', ' ')} {quantity(kind, rate, settings)}")
    return f"Traffic: {', '.join(shown)}." if shown else ""


def name_of(region: str) -> str:
    """A region as the program's author knows it, on one short line."""
    plain = "".join(char if char.isprintable() else "?" for char in region)
    return plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 3] + "..."


def _program(tree: DataNode, runs: Sequence[DataNode], settings: UserSettings) -> Iterable[Row]:
    app = name_of(str(tree.metadata.get("app") or "program"))
    for run in runs if len(runs) <= MANY_ROUNDS else ():
        hosts = list(run.walk(NodeType.NODE))
        for host in hosts:
            yield _row((run.id, host.id, ""), app, [host], settings)
            if settings.group_by == "device":
                for device in host.walk(NodeType.SENSOR):
                    if _figures(device, settings.metrics):
                        yield _row((run.id, host.id, ""), f"  {device.id}", [device], settings)
        if len(hosts) > 1:
            yield _row((run.id, "all", ""), app, [run], settings)
    if len(runs) > 1:
        shown = [_figures(run, settings.metrics) for run in runs]
        hosts_of_all = {host.id for run in runs for host in run.walk(NodeType.NODE)}
        where = "all" if len(hosts_of_all) > 1 else next(iter(hosts_of_all), "")
        several = {kind: [one[kind] for one in shown if kind in one] for one in shown for kind in one}
        of_all = {kind: Stats.of(kind, values) for kind, values in several.items()}
        yield _row(("mean", where, ""), app, runs, settings)
        spread = {kind: one.std for kind, one in of_all.items() if len(several[kind]) > 1}
        yield Row(("±", where, ""), app, spread)


def _row(lead: tuple[str, ...], what: str, nodes: Sequence[DataNode], settings: UserSettings) -> Row:
    """The means of what is known of these nodes. All are read by the same sensors, so that means are no surer."""
    figures, marks = {}, {}
    for kind in map(MetricType, settings.metrics):
        known = [value for node in nodes if (value := node.value(kind)) is not None]
        if not known:
            continue
        metrics = [found for node in nodes if isinstance(found := node.metrics.get(kind), Metric)]
        doubts = [one.uncertainty for one in metrics if one.uncertainty is not None]
        most = at_most(_mean(known), _mean(doubts) if doubts and len(doubts) == len(known) else None)
        figures[kind], marks[kind] = (_mean(known), "") if most is None else (most, AT_MOST)
    return Row(lead, what, figures, marks=marks)


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)


def _figures(node: DataNode, wanted: Sequence[str]) -> dict[MetricType, float]:
    return {kind: value for kind in map(MetricType, wanted) if (value := node.value(kind)) is not None}


def _regions(runs: Sequence[DataNode], settings: UserSettings) -> Iterable[Row]:
    """A line for each region of a rank, the mean over the rounds in which it ran."""
    found: dict[tuple[str, int, str], list[Region]] = {}
    for run in runs:
        for host in run.walk(NodeType.NODE):
            for region in host.regions:
                found.setdefault((region.host, region.rank, region.name), []).append(region)
    for (host_name, rank, name), ones in found.items():
        known = {
            kind: metrics
            for kind in map(MetricType, settings.region_metrics)
            if (metrics := [one.metrics[kind] for one in ones if kind in one.metrics])
        }
        marks = {kind: _mark(metrics) for kind, metrics in known.items()}
        yield Row(
            ("mean" if len(runs) > 1 else runs[0].id, host_name, str(rank)),
            f"  {name_of(name)}",
            {
                kind: _mean(
                    one.value + (2 * (one.uncertainty or 0.0) if marks[kind] == AT_MOST else 0) for one in metrics
                )
                for kind, metrics in known.items()
            },
            _calls(ones),
            _of_calls(ones),
            _mean_of_all([one.call_energy_j for one in ones]),
            _mean_of_all([one.share for one in ones]),
            marks,
        )


def _of_calls(ones: Sequence[Region]) -> tuple[float, float, float]:
    """How long a call took over all rounds: mean, standard deviation, the longest; in s."""
    calls = sum(max(one.calls, 1) for one in ones)
    mean_s = math.fsum(max(one.calls, 1) * one.mean_s for one in ones) / calls
    squares = math.fsum(max(one.calls, 1) * (one.std_s**2 + (one.mean_s - mean_s) ** 2) for one in ones)
    return mean_s, math.sqrt(squares / calls), max(one.max_s for one in ones)


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def _mark(metrics: Sequence[Metric]) -> str:
    """What stands before a region's figure: whether it is an upper bound, estimated, or counted."""
    bounds = all(one.method is not None and one.at_most for one in metrics)
    if bounds:
        return AT_MOST
    return ESTIMATED if any(one.method in ("estimated", "bounded") for one in metrics) else ""


def _calls(ones: Sequence[Region]) -> str:
    total, raised, still_open = (sum(numbers) for numbers in zip(*((o.calls, o.raised, o.open) for o in ones)))
    return f"{total}" + (f" ({raised} raised)" if raised else "") + (f" ({still_open} open)" if still_open else "")


def _column(kind: MetricType, rows: Sequence[Row], settings: UserSettings) -> list[str]:
    """Head, unit and cells of a metric, in one unit that suits the largest value."""
    factor, unit = readable(kind, max(abs(row.figures.get(kind, 0.0)) for row in rows), settings)
    cells = [
        "" if (value := row.figures.get(kind)) is None else row.marks.get(kind, "") + digits(value / factor)
        for row in rows
    ]
    return [_NAMES.get(kind, kind.replace("_", " ")), unit, *cells]


def _energy_of_calls(rows: Sequence[Row], settings: UserSettings) -> list[list[str]]:
    """What the calls of regions cost, where some of it is known; what is not is `-`."""
    known = [row.call_energy_j for row in rows if row.call_energy_j is not None]
    if not known:
        return []
    factor, unit = readable(MetricType.ENERGY, max(known), settings)
    columns = [[_PER_CALL, unit], [_SHARE, "%"]]
    for row in rows:
        mark = row.marks.get(MetricType.ENERGY, "")
        nothing = "" if row.of_calls is None else "-"
        for column, value, divisor in zip(columns, (row.call_energy_j, row.share), (factor, 0.01), strict=True):
            column.append(nothing if value is None else mark + digits(value / divisor))
    return columns


def _single_calls(rows: Sequence[Row], settings: UserSettings) -> list[list[str]]:
    known = [row.of_calls for row in rows if row.of_calls is not None]
    if not known or all(row.calls in ("", "1") for row in rows):
        return []
    factor, unit = readable(MetricType.RUNTIME, max(longest for _, _, longest in known), settings)
    return [
        [head, unit, *("" if row.of_calls is None else digits(row.of_calls[place] / factor) for row in rows)]
        for place, head in enumerate(_CALLS)
    ]


def _blocks(front: Sequence[Sequence[str]], columns: Sequence[Sequence[str]]) -> list[str]:
    """Tables of these columns, each with `front` before them and without the lines that are empty in it."""
    tables = [[list(row) for row in front]]
    for column in columns:
        wider = [[*row, cell] for row, cell in zip(tables[-1], column, strict=True)]
        if _width(wider) > WIDTH and len(wider[0]) > len(front[0]) + 1:
            tables.append([[*row, cell] for row, cell in zip(front, column, strict=True)])
        else:
            tables[-1] = wider
    ends = len(front[0])
    filled = [[*one[:2], *(row for row in one[2:] if any(row[ends:]))] for one in tables]
    return [_aligned(one, ends) for one in filled if len(one) > 2]


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]))) - 2


def _aligned(rows: Sequence[Sequence[str]], front: int) -> str:
    """Head, units and cells below them; figures to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if place < front else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), line(rows[1]), "  ".join("-" * width for width in widths), *map(line, rows[2:])])
