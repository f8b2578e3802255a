"""Many jobs, one line each."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime

from perun_hpc.accounting.schema import EnergyRecord
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, printable, table


def jobs_listing(records: Sequence[EnergyRecord], style: Style, now_s: float, total: bool = False) -> list[str]:
    """Return a table of jobs at the epoch time `now_s`; with `total` a line with their sum."""
    rows = [_row(r, style, now_s) for r in records]
    if total:
        known = [r.energy_uj for r in records if r.energy_uj is not None]
        rows.append(["", "", "", "", f"{len(records)} jobs", "", q.energy(sum(known)) if known else "-", ""])
    head = ("job", "name", "user", "state", "start", "time", "energy", "source")
    lines = table(rows, head, (False, False, False, False, False, True, True, False), style, widest=16)
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
        writer.writerow([csv_cell(getattr(record, name)) for name in _COLUMNS])
    return out.getvalue()


def csv_cell(value: object) -> object:
    """Return a value that is safe in CSV: names are what some user typed."""
    if value is None:
        return ""
    if isinstance(value, str):
        text = printable(value)
        return "'" + text if text[:1] in ("=", "+", "-", "@") else text
    return value


def _row(r: EnergyRecord, style: Style, now_s: float) -> list[str]:
    started = datetime.fromtimestamp(r.start_ns / 1e9).strftime("%m-%d %H:%M") if r.start_ns else "-"
    mark = {"partial": " (partial)", "missing": "", "running": " so far"}.get(r.status, "")
    never = r.status == "missing" and not r.start_ns
    awaited = "never ran" if never else {"awaited": "not yet"}.get(r.status, r.status)
    source = awaited if r.energy_uj is None else r.provenance[:9] + mark
    elapsed_s = max(now_s - r.start_ns / 1e9, 0) if r.status == "running" else r.elapsed_s
    return [
        r.display_id,
        style.fit(r.name, 10).rstrip(),
        style.fit(r.user or str(r.uid or ""), 8).rstrip(),
        style.fit(r.state or "-", 10).rstrip(),
        started,
        q.duration(elapsed_s) if r.start_ns else "-",
        "not known" if q.unresolved(r.energy_uj, r.u_uj) else q.energy(r.energy_uj),
        source,
    ]
