"""Sums of many jobs: energy, CO2, cost, GPU-hours and waste per group, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from perun_hpc.accounting.questions import Usage
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.listing import csv_cell
from perun_hpc.report.screen import WIDTH, Style, cells, cells_of, table

_CSV = ("jobs", "unmeasured", "energy_kwh", "idle_kwh", "wasted_kwh", "modelled_kwh", "estimated_kwh", "simulated_kwh",
        "footprint_kwh", "gpu_held_h", "gpu_watched_h", "gpu_idle_h", "cpu_h", "co2_kg", "cost",
        "co2_market_kg", "co2_upstream_kg", "co2_life_cycle_kg")  # fmt: skip
_CARBON = {
    "market": "market-based (scope 2)",
    "upstream": "upstream (scope 3, category 3)",
    "life_cycle": "life-cycle (scopes 2 and 3 in one)",
}
_ENERGIES = ("energy", "idle", "wasted", "modelled", "estimated", "simulated", "footprint")

_NAME, _SHORTEST_NAME = 16, 6
"""Columns of a name, at most and at least."""


def usage_table(
    rows: Sequence[Usage], whole: dict[str, int], by: Sequence[str], style: Style, currency: str | None
) -> list[str]:
    """Return a table of 80 columns, with a line for the sum (`whole`, the rows' `total`) and what it does not hold.

    CO2 and cost stand in it unless `currency` is None; where there is no space, in a table below.
    """
    if not rows:
        return ["no jobs in this time"]
    figures = [_energies(u.values) for u in rows]
    prices = [] if currency is None else [_footprint(u.values, currency) for u in rows]
    groups = [[u.group[0] or "-", *u.group[1:]] for u in rows]
    if len(rows) > 1:
        groups.append(["sum", *[""] * (len(by) - 1)])
        figures.append(_energies(whole))
        prices.append(_footprint(whole, currency))
    head = ("jobs", "energy", "wasted", "GPU h", "idle")
    foot = ("CO2e", "cost")
    if currency is None:
        lines = _fitted(groups, figures, by, head, style)
    else:
        both = [[*left, *right] for left, right in zip(figures, prices, strict=True)]
        lines = _fitted(groups, both, by, (*head, *foot), style)
        if max(map(cells, lines)) > WIDTH:
            lines = [
                *_fitted(groups, figures, by, head, style), "", *_fitted(groups, prices, by, foot, style)
            ]  # fmt: skip
    return [*lines, *_remarks(whole, currency is not None)]


def _fitted(
    groups: Sequence[list[str]], figures: Sequence[list[str]], by: Sequence[str], head: Sequence[str], style: Style
) -> list[str]:
    """Lay out a table whose names give way where it gets narrow; days, months and figures never do."""
    named = [name not in ("day", "month", "year") for name in by]
    right = [False] * len(by) + [True] * len(head)
    titles = [*by, *head]
    rows = [[*left, *rest] for left, rest in zip(groups, figures, strict=True)]
    needed = [cells_of(column) for column in zip(*rows, strict=True)]
    # Laid out once, at the width that fits: there may be tens of thousands of rows.
    width = next((w for w in range(_NAME, _SHORTEST_NAME, -1) if _width(needed, titles, named, w) <= WIDTH), 0)
    width = max(width, _SHORTEST_NAME)
    for at in (at for at, name in enumerate(named) if name and needed[at] > width):
        for row in rows:
            row[at] = style.fit(row[at], width).rstrip()
    lines = table(rows, titles, right, style)
    return [style.bold(lines[0]), *lines[1:]]


def _width(needed: Sequence[int], titles: Sequence[str], named: Sequence[bool], width: int) -> int:
    """Columns of a table whose names get `width` cells, other cells what they need."""
    taken = [min(need, width) if name else need for need, name in zip(needed, named, strict=False)]
    taken += needed[len(named) :]
    return sum(max(need, cells(title)) for need, title in zip(taken, titles, strict=True)) + 2 * (len(titles) - 1)


def total(rows: Sequence[Usage]) -> dict[str, int]:
    """Return the sum of all groups."""
    # All have the same names in the same order; row by row, as they lie in memory.
    columns = zip(*[u.values.values() for u in rows], strict=True)
    return dict(zip(rows[0].values, map(sum, columns), strict=True)) if rows else {}


def usage_json(rows: Sequence[Usage], by: Sequence[str]) -> list[dict[str, Any]]:
    """Return one object per group, energies in uJ as they are summed; null are energies of jobs that nobody measured,
    and CO2 and cost without a factor."""
    energies = tuple(f"{name}_uj" for name in _ENERGIES)

    def shown(name: str, values: dict[str, int]) -> int | None:
        if name.startswith(("co2_", "cost_")):
            return values[name] or None
        return values[name] if name not in energies or _measured(values) else None

    return [{**dict(zip(by, u.group, strict=True)), **{name: shown(name, u.values) for name in u.values}} for u in rows]


def usage_csv(rows: Sequence[Usage], by: Sequence[str]) -> str:
    """Return CSV with a head; energies in kWh, times in hours; energies of jobs that nobody measured are empty, and so
    are CO2 and cost for which the site states no factor."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*by, *_CSV])
    for u in rows:
        v = u.values
        energies = [_kwh(v[f"{k}_uj"]) if _measured(v) else "" for k in _ENERGIES]
        hours = [f"{v[k] / 3600:.3f}" for k in ("gpu_held_s", "gpu_watched_s", "gpu_idle_s", "cpu_s")]
        outside = [_stated(v["co2_mg"], 6), _stated(v["cost_millicents"], 5)]
        outside += [_stated(v[f"co2_{name}_mg"], 6) for name in _CARBON]
        writer.writerow([*map(csv_cell, u.group), v["jobs"], v["unmeasured"], *energies, *hours, *outside])
    return out.getvalue()


def _energies(v: dict[str, int]) -> list[str]:
    """Jobs, energy, the wasted part, GPU-hours, the idle part."""
    energy = q.watt_hours(v["energy_uj"]) if _measured(v) else "-"
    wasted = q.percent(v["wasted_uj"], v["energy_uj"])
    # Of the time that somebody watched: what was not watched is neither idle nor used.
    idle = q.percent(v["gpu_idle_s"], v["gpu_watched_s"])
    return [f"{v['jobs']}", energy, wasted, f"{v['gpu_held_s'] / 3600:.4g}", idle]


def _footprint(v: dict[str, int], currency: str | None) -> list[str]:
    """CO2 and cost."""
    co2 = q.mass(v["co2_mg"] / 1e3) if v["co2_mg"] else "-"
    return [co2, q.money(v["cost_millicents"] / 1e5, currency or "") if v["cost_millicents"] else "-"]


def _measured(v: dict[str, int]) -> bool:
    """Whether a sum of no energy is a figure: of jobs that nobody measured it is none."""
    return bool(v["energy_uj"] or not v["unmeasured"])


def _remarks(v: dict[str, int], priced: bool) -> list[str]:
    """Say what part of the sum is not measured, and which jobs are not in it."""
    remarks = []
    if v["unmeasured"]:
        remarks.append(f"{v['unmeasured']} of {count(v['jobs'], 'job')} not measured: not in the energies")
    for name in ("modelled", "estimated", "simulated"):
        if v[f"{name}_uj"]:
            remarks.append(f"{q.percent(v[f'{name}_uj'], v['energy_uj'])} of the energy is {name}")
    if v["gpu_watched_s"] < v["gpu_held_s"]:
        unwatched_h = (v["gpu_held_s"] - v["gpu_watched_s"]) / 3600
        remarks.append(f"nobody watched whether GPUs were idle for {unwatched_h:.4g} h, which are not in that share")
    if priced and v["footprint_uj"] != v["energy_uj"]:
        remarks.append(f"CO2 and cost are of {q.percent(v['footprint_uj'], v['energy_uj'])} of the energy")
    others = [f"{q.mass(v[f'co2_{name}_mg'] / 1e3)} {what}" for name, what in _CARBON.items() if v[f"co2_{name}_mg"]]
    if priced and others:
        remarks.append(f"CO2e in the table is location-based, scope 2; besides, never added: {', '.join(others)}")
    return ["", *(f"{r}." for r in remarks)] if remarks else []


def _stated(value: int, digits: int) -> str:
    """A sum of millionths, say, as a number with so many digits; 0 is that of no factor, or of nothing measured."""
    return f"{value / 10**digits:.{digits}f}" if value else ""


def _kwh(uj: int) -> str:
    return f"{uj / 3.6e12:.6f}"
