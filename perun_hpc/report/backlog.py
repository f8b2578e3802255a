"""How the collector fares, in words: its last sweep, what waits for it, what it could not take."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from perun_hpc.accounting.backlog import Backlog, Entry, Sweep
from perun_hpc.data_model.wording import count
from perun_hpc.report.quantities import duration
from perun_hpc.report.screen import Style, wrapped

NAMED = 5
"""Jobs that one line names."""


def status(cluster: str, sweep: Sweep | None, backlog: Backlog, late_s: float, now_s: float, style: Style) -> list[str]:
    """Return the lines for one cluster; a sweep that is older than `late_s` is late."""
    trouble = troubles(sweep, backlog, late_s, now_s)
    lines = [style.bold(f"Cluster {cluster}"), *wrapped(last(sweep, now_s), 4, "  - ")]
    lines += wrapped(
        _entries("waiting in incoming/ for nodes or a sweep", backlog.waiting, now_s) or "nothing waits in incoming/",
        4,
        "  - ",
    )
    if sweep is not None and sweep.compared_s is not None:
        lines += wrapped(f"sacct's jobs compared with the records up to {_time(sweep.compared_s)}", 4, "  - ")
    return lines + (
        [style.warn("Look at"), *(line for one in trouble for line in wrapped(one, 4, "  - "))] if trouble else []
    )


def troubles(sweep: Sweep | None, backlog: Backlog, late_s: float, now_s: float) -> list[str]:
    """Return what an administrator must look at, one sentence each."""
    found = []
    if sweep is not None and sweep.failing_s is not None:
        well = f"the last that succeeded ended {_time(sweep.well_s)}" if sweep.well_s else "none has succeeded yet"
        found.append(f"sweeps fail since {_since(sweep.failing_s, now_s)}, {well}: {sweep.outcome}")
    elif sweep is not None and now_s - sweep.ended_s > late_s:
        found.append(f"no sweep since {_since(sweep.ended_s, now_s)}: is perun collect running?")
    found.append(_entries("refused by the ledger (the evidence waits in incoming/)", backlog.refused, now_s))
    found.append(_entries("damaged boundary records set aside", backlog.damaged, now_s))
    found.append(_entries("set aside in aside/, counted nowhere", backlog.aside, now_s))
    return [one for one in found if one]


def last(sweep: Sweep | None, now_s: float) -> str:
    """Return a sentence about the last sweep."""
    if sweep is None:
        return "no sweep has been recorded: see that perun collect runs"
    took = duration(max(0.0, sweep.ended_s - sweep.began_s))
    ago = duration(max(0, now_s - sweep.ended_s))
    return f"last sweep {_time(sweep.ended_s)}, {ago} ago, took {took}: {sweep.outcome}"


def waiting(backlog: Backlog, now_s: float) -> str:
    """Return a phrase on what waits; empty where nothing does."""
    return _entries("waiting in incoming/ for nodes or a sweep", backlog.waiting, now_s)


def on_the_way(jobs: Sequence[str]) -> str:
    """Return a phrase on jobs that ended so lately that their nodes may still say what they used."""
    more = f" and {len(jobs) - NAMED} more" if len(jobs) > NAMED else ""
    return f"records on the way of {count(len(jobs), 'job')} that ended lately: {', '.join(jobs[:NAMED])}{more}"


def _entries(what: str, entries: Sequence[Entry], now_s: float) -> str:
    if not entries:
        return ""
    names = ", ".join(one.what for one in entries[:NAMED])
    more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
    why = f": {entries[0].why}" if entries[0].why else ""
    since = f"{'the oldest since' if len(entries) > 1 else 'since'} {_since(entries[0].since_s, now_s)}"
    return f"{what}: {len(entries)}, {since}: {names}{more}{why}"


def _since(time_s: float, now_s: float) -> str:
    return f"{_time(time_s)} ({duration(max(0, now_s - time_s))})"


def _time(time_s: float) -> str:
    return f"{datetime.fromtimestamp(int(time_s)):%Y-%m-%d %H:%M:%S}"
