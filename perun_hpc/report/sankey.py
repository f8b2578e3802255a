"""The site's balance as one Sankey picture, SVG or a page: each flow with its bounds, each gap by its name."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from perun_hpc.accounting.balance import FACILITY, JOBS, LOSSES, NODES, Balance, Edge
from perun_hpc.files import write_new
from perun_hpc.report import balance as words
from perun_hpc.report import drawing, inline
from perun_hpc.report.html import Html, joined, safe, table, tag
from perun_hpc.report.screen import Style

SUFFIXES = (".html", ".svg", ".png", ".pdf")
_WIDTH, _GAP, _LEAST, _LINE = 0.13, 0.03, 0.006, 0.027
_PLAIN = Style(False, True)
_COLOURS = {
    FACILITY: "#24292f", NODES: "#0072b2", JOBS: "#009e73", "idle": "#e69f00", "system": "#56b4e9", "off": "#8b949e",
    "boot": "#9a5ea1", "unobserved": "#d55e00", "unknown": "#d55e00", LOSSES: "#b3b9c0", "unseen": "#6e7781",
}  # fmt: skip
_OTHER = "#4d7ea8"
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1150px;margin:2rem auto;padding:0 1rem;color:#24292f}
svg{width:100%;height:auto}table{border-collapse:collapse}caption{text-align:left;font-weight:600}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;vertical-align:top}.n{text-align:right;white-space:nowrap}"""


@dataclass
class _Box:
    """A part of the site: its column, its energy (None: not known), what is said of it, and where it is drawn."""

    column: int
    energy_uj: int | None
    label: list[str]
    top: float = 0.0
    height: float = 0.0
    taken: float = 0.0


def write(made: Balance, target: Path) -> None:
    """Draw a balance into an HTML page, SVG, PNG or PDF, as the name of `target` says.

    `UnavailableError` without matplotlib.
    """
    drawing.check()
    if target.suffix == ".html":
        write_new(target, page(made).encode(), durable=False)
    else:
        begin, end = (f"{datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M}" for at_s in made.span)
        said = [f"{_title(made)} ({begin} to {end})", *(f"{one}." for one in made.notes)]
        above = "\n".join(line for text in said for line in textwrap.wrap(text, 150)).replace("$", r"\$")
        figure = draw(made)
        figure.suptitle(above, x=0.02, ha="left", fontsize=10, color="#24292f")
        drawing.save(figure, target)


def page(made: Balance) -> str:
    """The picture and its numbers as a page without scripts."""
    title = _title(made)
    rows = [
        [one.source or "", one.target, words.amount(one.amount, _PLAIN), words.share(made, one), one.amount.why]
        for one in words.in_order(made)
    ]
    numbers = table(["from", "to", "energy, bounds k=2", "of it", "what is not known, and why"], rows, "ttnnt")
    said = [words.hours(made.hours), words.meters(made.sources), *(f"{one}." for one in made.notes)]
    said += [f"Does not close: {one}." for one in made.findings]
    body = joined([
        tag("h1", title), Html(inline.svg(draw(made), {}, title)), numbers, joined([tag("p", one) for one in said])
    ])  # fmt: skip
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{safe(policy)}">\n'
        f"<title>{safe(title)}</title>\n<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _title(made: Balance) -> str:
    return f"{made.cluster}, {made.month}: where the energy went"


def draw(made: Balance) -> Any:
    """The figure, a `matplotlib.figure.Figure`."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    boxes = _boxes(made)
    deepest = max(box.top + box.height for box in boxes.values())
    figure = Figure(figsize=(13, max(6.5, 6.5 * deepest)), layout="constrained")
    axes = figure.subplots()
    for one in made.edges:
        if one.source:
            _ribbon(axes, boxes[one.source], boxes[one.target], _COLOURS.get(one.target, _OTHER))
    for name, box in boxes.items():
        colour, known = _COLOURS.get(name, _OTHER), bool(box.energy_uj and box.energy_uj > 0)
        axes.add_patch(
            Rectangle(
                (box.column, box.top), _WIDTH, max(box.height, _LEAST), lw=1, ec=colour,
                fc=colour if known else "none", ls="-" if known else ":",
            )
        )  # fmt: skip
        axes.text(
            box.column + _WIDTH + 0.02, box.top + max(box.height, _LINE * len(box.label)) / 2,
            "\n".join(box.label).replace("$", r"\$"), va="center", fontsize=8, color="#24292f", zorder=3,
        )  # fmt: skip
    axes.set(xlim=(-0.02, 3.75), ylim=(deepest + 0.02, -0.03))
    axes.set_axis_off()
    return figure


def _boxes(made: Balance) -> dict[str, _Box]:
    """Each part in its column, as high as its energy, in the order of the edges; 1 is all of the facility."""
    column = {"": -1, FACILITY: 0, NODES: 1, JOBS: 2}
    boxes = {one.target: _Box(column[one.source] + 1, one.amount.energy_uj, _label(one)) for one in made.edges}
    below: dict[str, int] = {}
    for one in made.edges:
        below[one.source] = below.get(one.source, 0) + max(0, one.amount.energy_uj or 0)
    whole = max(boxes[FACILITY].energy_uj or 0, below.get(FACILITY, 0), 1)
    ends = dict.fromkeys(range(4), 0.0)
    for name, box in boxes.items():
        energy_uj = box.energy_uj if box.energy_uj is not None else below.get(name, 0)
        box.height = max(0, energy_uj) / whole
        box.top = ends[box.column]
        ends[box.column] = box.top + max(box.height, _LINE * len(box.label)) + _GAP
    return boxes


def _label(one: Edge) -> list[str]:
    """Name, energy with bounds, and in lines of their own what is not known of it."""
    return [one.target, words.amount(one.amount, _PLAIN), *textwrap.wrap(one.amount.why, 48)]


def _ribbon(axes: Any, source: _Box, target: _Box, colour: str) -> None:
    """A flow as high as its target; one that is not known is a dotted line."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    left, right = source.column + _WIDTH, target.column
    middle = (left + right) / 2
    y0, y1, height = source.top + source.taken, target.top, target.height
    source.taken += height
    top = [(left, y0), (middle, y0), (middle, y1), (right, y1)]
    if not height:
        codes = [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]
        axes.add_patch(PathPatch(Curve(top, codes), fc="none", ec=colour, lw=0.8, ls=":"))
        return
    bottom = [(right, y1 + height), (middle, y1 + height), (middle, y0 + height), (left, y0 + height)]
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, Curve.LINETO, *[Curve.CURVE4] * 3, Curve.CLOSEPOLY]
    axes.add_patch(PathPatch(Curve([*top, *bottom, top[0]], codes), fc=colour, alpha=0.35, lw=0))
