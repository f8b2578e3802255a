"""A job as a picture: power over time by component, its steps, how busy the hosts were, and each host's power."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perun_hpc.accounting.summing import METER, doubts_of
from perun_hpc.data_model.record import EnergyRecord, Step
from perun_hpc.energy.uncertainty import RANDOM, added, combined_uj
from perun_hpc.report import drawing
from perun_hpc.report.over_time import ALONE
from perun_hpc.report.screen import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from perun_hpc.report.curves import Envelope, Floats, JobCurves

    Flags = npt.NDArray[np.bool_]

INK, MUTED, GRID, STEP, GAP = "#1f2328", "#59636e", "#d1d9e0", "#009e73", "#c2410c"
LEFT, RIGHT, WIDTH = 64, 84, 960
"""Space beside the panels and the whole width, in points; a page shows a point as a pixel of a wide screen."""
LEGEND, TITLE, BETWEEN, BOTTOM = 30, 26, 20, 44
LANES = 6
"""Steps that are drawn one above the other where they run at once; of more at once there is only the number."""
LEVELS = 64
"""Colours of the heat map: a power is seen to one part in so many of the highest."""
CELLS = 2_000_000
"""Cells of the heat map at most: a screen has as many, and a file of 4,000 hosts stays small."""
COLOUR_MAP = "viridis"
"""Even in brightness, for people who see red and green alike and for paper."""


@dataclass(frozen=True)
class Panel:
    """Where axes are in the picture, in points from its upper left corner."""

    name: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Heat:
    """The heat map's cells: W by host and time, and what its colours reach to."""

    watts: npt.NDArray[np.float64]
    most: float


@dataclass(frozen=True)
class Picture:
    """A figure, a `matplotlib.figure.Figure`, and what a page needs to show values where the pointer is."""

    figure: Any
    width: float
    height: float
    panels: tuple[Panel, ...]
    heat: Heat | None


def draw(record: EnergyRecord, curves: JobCurves, title: bool = True) -> Picture:
    """Draw a job; `title` names it in the picture, for one that stands alone."""
    drawing.check()
    from matplotlib import rc_context

    steps = steps_with_times(record)
    heat = heat_of(curves)
    heights = [("power", 250.0)]
    if steps:
        lanes = max(lanes_of(steps)) + 1
        heights.append(("steps", 17.0 * min(lanes, LANES) + (14 if lanes > LANES else 0)))
    shown = functions_with_times(record)
    if shown:
        heights.append(("functions", 24.0 * len(shown)))
    if curves.cpu is not None or curves.gpu is not None:
        heights.append(("use", 96.0))
    if curves.memory is not None:
        heights.append(("memory", 72.0))
    if heat is not None:
        heights.append(("hosts", float(min(420, max(80, 14 * len(curves.hosts))))))
    above = LEGEND + (TITLE if title else 0)
    height = above + sum(each for _, each in heights) + BETWEEN * (len(heights) - 1) + BOTTOM
    with rc_context({"font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "perun", "hatch.linewidth": 1.0}):
        return _drawn(record, curves, steps, heat, heights, height, above)


def _drawn(
    record: EnergyRecord,
    curves: JobCurves,
    steps: Sequence[Step],
    heat: Heat | None,
    heights: Sequence[tuple[str, float]],
    height: float,
    above: int,
) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    panels: list[Panel] = []
    axes: dict[str, Any] = {}
    top = float(above)
    for name, each in heights:
        panel = Panel(name, LEFT, top, WIDTH - LEFT - RIGHT, each)
        axes[name] = _axes(figure, panel, height, axes.get("power"))
        panels.append(panel)
        top += each + BETWEEN
    divisor, unit = time_unit(float(curves.edges_s[-1]))
    edges = curves.edges_s / divisor
    _power(axes["power"], curves, edges, bound_of(record))
    if "steps" in axes:
        _steps(axes["steps"], record, steps, divisor)
    if "functions" in axes:
        _functions(axes["functions"], record, divisor)
    if "use" in axes:
        _use(axes["use"], curves, edges)
    if curves.memory is not None:
        _memory(axes["memory"], curves.memory, edges)
    if heat is not None:
        _hosts(figure, axes["hosts"], curves, heat, edges, panels[-1], height)
    last = axes[heights[-1][0]]
    last.set_xlabel(f"time since the job's start / {unit}", color=MUTED)
    last.xaxis.label.set_gid("time-label")
    for name in axes:
        axes[name].tick_params(labelbottom=axes[name] is last, bottom=axes[name] is last)
    axes["power"].set_xlim(float(edges[0]), float(edges[-1]))
    if above > LEGEND:
        name = f"Job {record.display_id}  {printable(record.name)}"[:90]
        figure.text(LEFT / WIDTH, 1 - 18 / height, name, color=INK, size=13, weight="bold", parse_math=False)
    return Picture(figure, float(WIDTH), height, tuple(panels), heat)


def _axes(figure: Any, panel: Panel, height: float, beside: Any) -> Any:
    low = height - panel.top - panel.height
    place = (panel.left / WIDTH, low / height, panel.width / WIDTH, panel.height / height)
    made = figure.add_axes(place, sharex=beside)
    made.set_gid(f"panel-{panel.name}")
    made.patch.set_visible(False)
    made.spines[["top", "right", "left"]].set_visible(False)
    made.spines["bottom"].set_color(GRID)
    made.tick_params(colors=MUTED, length=0, labelsize=10)
    made.grid(color=GRID, lw=0.8)
    made.set_axisbelow(True)
    return made


def bound_of(record: EnergyRecord) -> float | None:
    """What the power may be wrong by at any time, k = 2, as a part of it: what errs alike from begin to end.

    None where that is not known, where it is all of the power, and where others used the job's nodes: then the curves
    are of the whole nodes, and the job's bounds are not theirs.
    """
    parts = [part for part in record.components if part.component != METER or len(record.components) == 1]
    alone = all(method in ALONE for part in parts for method in part.methods)
    energy_uj = sum(part.energy_uj for part in parts)
    if not alone or energy_uj <= 0 or not record.u_uj:
        return None
    doubts = added(doubts_of(part) for part in parts)
    bound = 2 * combined_uj({cause: uj for cause, uj in doubts.items() if cause != RANDOM}) / energy_uj
    return bound if 0 < bound < 1 else None


def _power(axes: Any, curves: JobCurves, edges: Floats, bound: float | None) -> None:
    import numpy as np

    drawing.stack(axes, edges, curves.components)
    total = curves.total
    if not np.array_equal(total.low, total.high, equal_nan=True):
        axes.stairs(total.high, edges, baseline=total.low, fill=True, color=INK, alpha=0.25, lw=0,
                    label="least to most within")  # fmt: skip
    axes.stairs(total.mean, edges, baseline=None, color=INK, lw=1.1, label="all of these")
    for way, label in ((1, "bounds (k = 2)"), (-1, "_")) if bound is not None else ():
        axes.stairs(total.mean * (1 + way * (bound or 0)), edges, baseline=None, color=INK, lw=0.9, ls=(0, (1, 1.6)),
                    label=label)  # fmt: skip
    if curves.meter is not None:
        axes.stairs(
            curves.meter,
            edges,
            baseline=None,
            color=drawing.COLOURS["node"],
            lw=1.3,
            ls=(0, (5, 2)),
            label="nodes' meters",
        )
    _gaps(axes, edges, np.isnan(total.mean), "not read")
    _gaps(axes, edges, (curves.reporting < curves.nodes) & ~np.isnan(total.mean), "not all hosts read", 0.035)
    peak = max(float(np.nanmax(total.high)), float(np.nanmax(total.mean)) * (1 + (bound or 0)))
    if curves.meter is not None:
        peak = max(peak, float(np.nanmax(curves.meter)))
    axes.set_ylim(0, 1.06 * peak or 1.0)
    scaled_watts(axes, peak, f"power ({curves.provenance})")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.008, 1.005), ncols=8, frameon=False, fontsize=10.5, labelcolor=INK,
        handlelength=1.3, columnspacing=1.4, borderpad=0.2,
    )  # fmt: skip


def scaled_watts(axes: Any, peak: float, what: str) -> None:
    """Label a power axis in W, kW or MW."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    divisor, unit = next(((d, u) for d, u in ((1e6, "MW"), (1e3, "kW")) if peak >= d), (1.0, "W"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / divisor:g}"))
    axes.set_ylabel(f"{what} / {unit}", color=MUTED)


def _gaps(axes: Any, edges: Floats, where: Flags, label: str, height: float = 1.0) -> None:
    """Hatch the columns in which something is not known, from the panel's top `height` of it down."""
    from matplotlib.patches import Rectangle

    for first, last in runs(where):
        whole = height == 1.0
        patch = Rectangle(
            (float(edges[first]), 1 - height), float(edges[last] - edges[first]), height,
            transform=axes.get_xaxis_transform(), facecolor="none" if whole else GAP, alpha=None if whole else 0.55,
            edgecolor=GAP, hatch="////" if whole else None, lw=0, label=label,
        )  # fmt: skip
        axes.add_patch(patch)
        label = "_"


def runs(where: Flags) -> Iterator[tuple[int, int]]:
    """First and one after the last of each stretch of true values."""
    import numpy as np

    borders = np.flatnonzero(np.diff(np.concatenate(([False], where, [False])).astype(np.int8)))
    yield from zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True)


def steps_with_times(record: EnergyRecord) -> list[Step]:
    """The steps whose times are known, as they began."""
    known = [step for step in record.steps if record.start_ns and step.end_ns > step.start_ns > 0]
    return sorted(known, key=lambda step: (step.start_ns, step.end_ns, step.step_id))


def lanes_of(steps: Sequence[Step]) -> list[int]:
    """For each step, in order of their starts, the first lane that is free when it starts."""
    ends: list[int] = []
    lanes = []
    for step in steps:
        lane = next((place for place, end in enumerate(ends) if end <= step.start_ns), len(ends))
        ends[lane : lane + 1] = [step.end_ns]
        lanes.append(lane)
    return lanes


def _steps(axes: Any, record: EnergyRecord, steps: Sequence[Step], divisor: float) -> None:
    lanes = lanes_of(steps)
    whole_ns = max(1, record.end_ns - record.start_ns)
    for lane, step in zip(lanes, steps, strict=True):
        if lane >= LANES:
            continue
        begin = (step.start_ns - record.start_ns) / 1e9 / divisor
        length_ns = step.end_ns - step.start_ns
        axes.barh(lane, length_ns / 1e9 / divisor, left=begin, height=0.72, color=STEP, edgecolor="#ffffff", lw=0.5)
        name = printable(step.step_id)
        if length_ns / whole_ns * WIDTH > 9 * len(name) + 6:
            axes.annotate(
                name[:24], (begin, lane), (4, 0), textcoords="offset points", color="#ffffff", size=9.5, va="center",
                weight="bold", annotation_clip=True, clip_on=True, parse_math=False,
            )  # fmt: skip
    count = min(max(lanes) + 1, LANES)
    hidden = sum(lane >= LANES for lane in lanes)
    axes.set_ylim(count - 0.5 + (0.8 if hidden else 0), -0.5)
    if hidden:
        axes.text(0, count + 0.05, f" and {hidden} more at once", color=MUTED, size=9.5, va="center")
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.set_ylabel("steps", color=MUTED, rotation=0, ha="right", va="center")


@dataclass(frozen=True)
class Ran:
    """When a function ran: the part of its ranks' time in stretches of `width_s` from `start_s` of the job on."""

    name: str
    start_s: float
    width_s: float
    parts: tuple[float, ...]


def functions_with_times(record: EnergyRecord) -> list[Ran]:
    """The functions whose times are known, of more than `LANES` those that used most."""
    known = [one for one in record.regions if one.ran and one.ranks and record.start_ns]
    known.sort(key=lambda one: -(one.energy_uj or one.time_ns))
    return [
        Ran(one.name, (one.ran[1] * one.ran[0] - record.start_ns) / 1e9, one.ran[0] / 1e9,
            tuple(min(1.0, permille / 1000 / one.ranks) for permille in one.ran[2:]))
        for one in known[:LANES]
    ]  # fmt: skip


def _functions(axes: Any, record: EnergyRecord, divisor: float) -> None:
    """A lane for each: how high it is filled is the part of the ranks' time."""
    import numpy as np

    shown = functions_with_times(record)
    for lane, one in enumerate(shown):
        edges = (one.start_s + one.width_s * np.arange(len(one.parts) + 1)) / divisor
        floor = lane + 0.42
        axes.stairs(floor - 0.84 * np.array(one.parts), edges, baseline=floor, fill=True, color=STEP, lw=0)
        axes.axhline(floor, color=GRID, lw=0.8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.yaxis.tick_right()
    axes.set_yticks(range(len(shown)))
    axes.set_yticklabels([_short(one.name, 13) for one in shown], parse_math=False)
    axes.grid(visible=False, axis="y")
    axes.set_ylabel("functions", color=MUTED, rotation=0, ha="right", va="center")


def _use(axes: Any, curves: JobCurves, edges: Floats) -> None:
    import numpy as np

    for name, found in (("cpu", curves.cpu), ("gpu", curves.gpu)):
        if found is None:
            continue
        colour = drawing.COLOURS[name]
        if not np.array_equal(found.low, found.high, equal_nan=True):
            axes.stairs(found.high, edges, baseline=found.low, fill=True, color=colour, alpha=0.18, lw=0)
        axes.stairs(found.mean, edges, baseline=None, color=colour, lw=1.5, ls="-" if name == "cpu" else (0, (4, 1.5)),
                    label=f"{drawing.LABELS[name]} busy")  # fmt: skip
        _gaps(axes, edges, np.isnan(found.mean), "_")
    axes.set_ylim(0, 105)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("busy / %", color=MUTED)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.2,
        borderpad=0.1,
    )  # fmt: skip


def _memory(axes: Any, found: Envelope, edges: Floats) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    peak = float(np.nanmax(found.high))
    divisor, unit = next(((d, u) for d, u in ((2.0**40, "TiB"), (2.0**30, "GiB")) if peak >= d), (2.0**20, "MiB"))
    colour = drawing.COLOURS["dram"]
    if not np.array_equal(found.low, found.high, equal_nan=True):
        axes.stairs(found.high / divisor, edges, baseline=found.low / divisor, fill=True, color=colour, alpha=0.3, lw=0)
    axes.stairs(found.mean / divisor, edges, baseline=None, color=colour, lw=1.5)
    _gaps(axes, edges, np.isnan(found.mean), "_")
    axes.set_ylim(0, 1.08 * peak / divisor or 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_ylabel(f"memory of\nnodes / {unit}", color=MUTED)


def heat_of(curves: JobCurves) -> Heat | None:
    """The heat map's cells: fewer columns where there are many hosts; None for one, of which it would say nothing."""
    import numpy as np

    from perun_hpc.report.curves import mean

    if len(curves.hosts) < 2:
        return None
    watts = np.stack([host.watts for host in curves.hosts])
    columns = watts.shape[1]
    together = max(1, -(-columns // 480), -(-watts.size // CELLS))
    filled = np.pad(watts, ((0, 0), (0, -columns % together)), constant_values=np.nan)
    cells = mean(filled.reshape(len(watts), -1, together), 2)
    return Heat(cells, float(np.nanmax(cells)) if not np.isnan(cells).all() else 1.0)


def _hosts(figure: Any, axes: Any, curves: JobCurves, heat: Heat, edges: Floats, panel: Panel, height: float) -> None:
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    colours = colormaps[COLOUR_MAP].resampled(LEVELS).with_extremes(bad=(0, 0, 0, 0))
    count = len(curves.hosts)
    columns = len(edges) - 1
    together = -(-columns // heat.watts.shape[1])
    right = float(edges[0] + (edges[1] - edges[0]) * together * heat.watts.shape[1])
    shown = axes.imshow(
        heat.watts, aspect="auto", interpolation="none", cmap=colours, vmin=0, vmax=heat.most,
        extent=(float(edges[0]), right, count - 0.5, -0.5),
    )  # fmt: skip
    shown.set_gid("heat")
    if np.isnan(heat.watts).any():
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor="none", edgecolor=GAP,
                                 hatch="////", lw=0, zorder=shown.get_zorder() - 1))  # fmt: skip
    axes.grid(visible=False)
    labelled = range(count) if count <= panel.height / 13 else range(0, count, -(-count // int(panel.height / 30)))
    axes.set_yticks(list(labelled))
    axes.set_yticklabels([_short(curves.hosts[place].node) for place in labelled], parse_math=False)
    low = height - panel.top - panel.height
    bar = figure.add_axes(((WIDTH - RIGHT + 14) / WIDTH, low / height, 10 / WIDTH, panel.height / height))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.colorbar(shown, cax=bar, ticks=MaxNLocator(4))
    bar.set_gid("colours")
    bar.tick_params(colors=MUTED, length=0, labelsize=9.5)
    bar.set_title("W", color=MUTED, size=9.5, pad=4)
    for spine in bar.spines.values():
        spine.set_visible(False)


def _short(node: str, most: int = 9) -> str:
    safe = printable(node)
    return safe if len(safe) <= most else f"…{safe[1 - most :]}"


def time_unit(length_s: float) -> tuple[float, str]:
    """Seconds in the unit that an axis of this length is labelled in, and its name."""
    return next(((d, u) for d, u in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")) if length_s >= 3 * d), (1.0, "s"))
