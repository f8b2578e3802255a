"""Sums of many jobs: energy, CO2, cost, GPU-hours and waste per group, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from perun_hpc.accounting.questions import Usage
from perun_hpc.report import quantities as q
from perun_hpc.report.listing import csv_cell
from perun_hpc.report.screen import Style, table

_CSV = ("jobs", "unmeasured", "energy_kwh", "idle_kwh", "wasted_kwh", "modelled_kwh", "simulated_kwh", "gpu_held_h",
        "gpu_idle_h", "cpu_h", "co2_kg", "cost")  # fmt: skip


def usage_table(rows: Sequence[Usage], by: Sequence[str], style: Style, currency: str | None) -> list[str]:
    """Return a table of 80 columns, with a line for the sum and what the sum does not hold.

    CO2 and cost stand in it unless `currency` is None.
    """
    whole = total(rows)
    cells = [_cells(list(u.group), u.values, currency) for u in rows]
    if len(rows) > 1:
        cells.append(_cells(["sum", *[""] * (len(by) - 1)], whole, currency))
    head = [*by, "jobs", "energy", "wasted", "GPU h", "idle", *(("CO2e", "cost") if currency is not None else ())]
    right = [False] * len(by) + [True] * (len(head) - len(by))
    lines = table(cells, head, right, style, widest=16)
    return [style.bold(lines[0]), *lines[1:], *_remarks(whole)]


def total(rows: Sequence[Usage]) -> dict[str, int]:
    """Return the sum of all groups."""
    names = rows[0].values if rows else {}
    return {name: sum(u.values[name] for u in rows) for name in names}


def usage_json(rows: Sequence[Usage], by: Sequence[str]) -> list[dict[str, Any]]:
    """Return one object per group, energies in uJ as they are summed."""
    return [{**dict(zip(by, u.group, strict=True)), **u.values} for u in rows]


def usage_csv(rows: Sequence[Usage], by: Sequence[str]) -> str:
    """Return CSV with a head; energies in kWh, times in hours."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*by, *_CSV])
    for u in rows:
        v = u.values
        energies = [_kwh(v[f"{k}_uj"]) for k in ("energy", "idle", "wasted", "modelled", "simulated")]
        hours = [f"{v[k] / 3600:.3f}" for k in ("gpu_held_s", "gpu_idle_s", "cpu_s")]
        outside = [f"{v['co2_mg'] / 1e6:.3f}", f"{v['cost_millicents'] / 1e5:.2f}"]
        writer.writerow([*map(csv_cell, u.group), v["jobs"], v["unmeasured"], *energies, *hours, *outside])
    return out.getvalue()


def _cells(group: list[str], v: dict[str, int], currency: str | None) -> list[str]:
    shown = [*(g or "-" for g in group[:1]), *group[1:], f"{v['jobs']}", q.watt_hours(v["energy_uj"])]
    shown += [q.percent(v["wasted_uj"], v["energy_uj"]) if v["energy_uj"] else "-"]
    shown += [f"{v['gpu_held_s'] / 3600:.4g}", q.percent(v["gpu_idle_s"], v["gpu_held_s"]) if v["gpu_held_s"] else "-"]
    if currency is not None:
        shown += [f"{v['co2_mg'] / 1e6:.4g} kg", q.money(v["cost_millicents"] / 1e5, currency)]
    return shown


def _remarks(v: dict[str, int]) -> list[str]:
    """Say what part of the sum is not measured, and which jobs are not in it."""
    if not v:
        return []
    remarks = []
    if v["unmeasured"]:
        remarks.append(f"{v['unmeasured']} of {v['jobs']} jobs were not measured and are not in the energies")
    for name in ("modelled", "simulated"):
        if v[f"{name}_uj"]:
            remarks.append(f"{q.percent(v[f'{name}_uj'], v['energy_uj'])} of the energy is {name}")
    return ["", *(f"{r}." for r in remarks)] if remarks else []


def _kwh(uj: int) -> str:
    return f"{uj / 3.6e12:.6f}"
