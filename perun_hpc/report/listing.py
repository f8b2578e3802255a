"""Many jobs, one line each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime

from perun_hpc.data_model.record import EnergyRecord, known
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import WIDTH, Style, cells, printable, table
from perun_hpc.slurm.states import CODES

_WIDTHS = ((10, 8, 10), (8, 8, 10), (6, 6, 10), (6, 6, 3))
"""Columns of name, user and state, from the most that they get to the least; three hold a state's short code."""
_CODE_OF = {state: code for code, state in CODES.items()}


def jobs_listing(records: Sequence[EnergyRecord], style: Style, now_s: float, total: bool = False) -> list[str]:
    """Return a table of jobs at the epoch time `now_s`; with `total` a line with their sum.

    Names and states give way where it would be wider than the screen.
    """
    head = ("job", "name", "user", "state", "start", "time", "energy", "source")
    right = (False, False, False, False, False, True, True, False)
    lines: list[str] = []
    for widths in _WIDTHS:
        rows = [_row(r, style, now_s, *widths) for r in records]
        if total:
            known = [(r.energy_uj, r.u_uj) for r in records if r.energy_uj is not None]
            whole = q.figure(sum(uj for uj, _ in known), sum(u for _, u in known), style.at_most) if known else "-"
            rows.append(["", "", "", "", count(len(records), "job"), "", whole, ""])
        lines = table(rows, head, right, style)
        if max(map(cells, lines)) <= WIDTH:
            break
    return [style.bold(lines[0]), *lines[1:]]


def idle_listing(records: Sequence[EnergyRecord], style: Style) -> list[str]:
    """Return a table of jobs that held accelerators without using them."""
    rows = [
        [
            r.display_id,
            r.name,
            r.user,
            f"{r.gpus}",
            f"{r.gpu_held_s / 3600:.3g} h",
            q.percent(r.gpu_idle_s or 0, r.gpu_held_s),
            q.energy(r.idle_uj),
        ]
        for r in records
    ]
    head = ("job", "name", "user", "GPUs", "held", "idle", "idle energy")
    lines = table(rows, head, (False, False, False, True, True, True, True), style, widest=16)
    return [style.bold(lines[0]), *lines[1:]]


_COLUMNS = (
    "cluster", "job_id", "restart_count", "display_id", "name", "user", "account", "partition", "qos", "state",
    "status", "provenance", "start_ns", "end_ns", "num_nodes", "cpus", "gpus", "energy_uj", "u_uj", "coverage",
    "idle_uj", "wasted_uj", "gpu_held_s", "gpu_idle_s", "revision",
)  # fmt: skip


def jobs_csv(records: Sequence[EnergyRecord]) -> str:
    """Return CSV with a head; what is not known is empty. Text a spreadsheet would run as a formula gets a quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for record in records:
        writer.writerow([csv_cell(known(record, name)) for name in _COLUMNS])
    return out.getvalue()


def csv_cell(value: object) -> object:
    """Return a value that is safe in CSV: names are what some user typed."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = printable(value)
        return "'" + text if text[:1] in ("=", "+", "-", "@") else text
    return value


def _row(r: EnergyRecord, style: Style, now_s: float, name: int, user: int, state: int) -> list[str]:
    started = datetime.fromtimestamp(r.start_ns / 1e9).strftime("%m-%d %H:%M") if r.start_ns else "-"
    never = r.status == "missing" and not r.start_ns
    awaited = "never ran" if never else {"awaited": "not yet"}.get(r.status, r.status)
    source = awaited if r.energy_uj is None else r.provenance[:9] + (" so far" if r.status == "running" else "")
    elapsed_s = max(now_s - r.start_ns / 1e9, 0) if r.status in ("running", "pending") else r.elapsed_s
    if r.energy_uj is None:
        energy = "-"
    elif q.unresolved(r.energy_uj, r.u_uj):
        energy = "not known"
    else:
        energy = q.figure(r.energy_uj, r.u_uj, style.at_most)
        if r.status == "partial" and not q.within_bound(r.energy_uj, r.u_uj):
            energy = f"{style.at_least} {energy}"
    return [
        r.display_id,
        style.fit(r.name, name).rstrip(),
        style.fit(r.user or str(r.uid or ""), user).rstrip(),
        style.fit((r.state if len(r.state) <= state else _CODE_OF.get(r.state, r.state)) or "-", state).rstrip(),
        started,
        q.duration(elapsed_s) if r.start_ns else "-",
        energy,
        source,
    ]
