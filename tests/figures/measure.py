"""Run jobs of each kind, and make a row of the table of each of their runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from devcluster import Cluster
from tests.figures.kinds import WAVES, Kind, until
from tests.figures.looks import (
    TAIL,
    Run,
    Seen,
    counted_uj,
    edges,
    ledger,
    node_ledger,
    profile,
    sacct,
    served_uj,
    spans,
    sreport,
    watched,
)
from tests.figures.table import Row

WINDOW_NS = 12_000_000_000
"""How old a node's watts may be: they move with `privacy.shared_resolution`."""


def measure(cluster: Cluster, names: Sequence[str]) -> list[Row]:
    """The rows of these kinds, or of all, with what sreport says of each."""
    waves = [[kind for kind in wave if not names or kind.name in names] for wave in WAVES]
    began_s = time.time()
    cluster.run(["srun", "-N4", "sleep", "1"], check=True)  # the agents are there
    cluster.wait_idle()
    rows = [row for wave in waves if wave for row in tried(cluster, wave)]
    hour_s = int(began_s) // 3600 * 3600
    said = sreport(cluster, hour_s, (int(time.time()) // 3600 + 1) * 3600)
    done: set[str] = set()
    for at, row in enumerate(rows):
        account = next(kind.account for wave in waves for kind in wave if kind.name == row.kind)
        if account not in done and account in said:
            rows[at] = replace(row, account_j=said[account])
        done.add(account)
    return rows


def tried(cluster: Cluster, wave: Sequence[Kind]) -> list[Row]:
    """Run the jobs of these kinds at once; a row for each run."""
    for kind in wave:
        _account(cluster, kind)
    with ThreadPoolExecutor(len(wave)) as pool:
        found = [row for rows in pool.map(lambda kind: _kind(cluster, kind), wave) for row in rows]
    cluster.wait_idle(timeout=120)
    return found


def _kind(cluster: Cluster, kind: Kind) -> list[Row]:
    jobs = kind.start(cluster)
    with watched(cluster, jobs[0], kind.nodes) as seen:
        kind.meanwhile(cluster, jobs[0])
        for job in jobs:
            cluster.wait_job(job, timeout=300)
    cluster.wait_idle(timeout=60, nodes=kind.nodes)
    rows = [_row(cluster, kind, run) for job in jobs for run in sacct(cluster, job)]
    rows[0] = _looked(cluster, kind, rows[0], sacct(cluster, jobs[0])[0], seen)
    if not kind.exclusive:
        rows.append(_together(cluster, rows, [sacct(cluster, job)[0] for job in jobs]))
    if "profile" in kind.name:
        rows[0] = replace(rows[0], profile=dict(profile(cluster, int(jobs[0]))))
    return rows


def _together(cluster: Cluster, rows: list[Row], runs: list[Run]) -> Row:
    """What two jobs on one node have, with what was nobody's there, beside the node's counters meanwhile."""
    within = [(spans(cluster, run, ledger(cluster, run)), run) for run in runs]
    ((node, _),) = within[0][0].items()
    first_ns, first = min((one[node][0], run.job) for one, run in within)
    last_ns, last = max((one[node][1], run.job) for one, run in within)
    read = {run.job: edges(cluster, run, node) for run in runs}
    others_uj = 0
    for line in until("the node's ledger", lambda: node_ledger(cluster, node, first_ns, last_ns)):
        others_uj += sum(uj for owner, uj in line["shares"].items() if not owner.startswith("job:"))
    return Row(
        kind=rows[0].kind,
        run="both, idle, system",
        ledger_j=sum(row.ledger_j or 0 for row in rows) + others_uj / 1e6,
        served_j=counted_uj(read[first], read[last]) / 1e6,
        sacct_j=sum(row.sacct_j or 0 for row in rows) + round(others_uj / 1e6),
        tail_j=sum(row.tail_j for row in rows),
        nodes=1,
    )


def _row(cluster: Cluster, kind: Kind, run: Run) -> Row:
    record = ledger(cluster, run)
    read = {node.node: edges(cluster, run, node.node) for node in record.nodes}
    served = sum(counted_uj(moments, moments) for moments in read.values())
    return Row(
        kind=kind.name,
        run=run.shown + (f" run {run.restart + 1}" if run.restart or run.state == "REQUEUED" else ""),
        ledger_j=None if record.energy_uj is None else record.energy_uj / 1e6,
        served_j=served / 1e6 if kind.exclusive else None,
        sacct_j=run.sacct_j,
        tail_j=TAIL.uj(record) / 1e6,
        nodes=len(record.nodes),
        steps=run.steps,
        short=record.elapsed_s < 2,
    )


def _looked(cluster: Cluster, kind: Kind, row: Row, run: Run, seen: list[Seen]) -> Row:
    """A row with the last figures that sstat and scontrol had of a run, and what was counted until then."""
    held = spans(cluster, run, ledger(cluster, run))
    end_ns = min(end for _, end in held.values())
    inside = [one for one in seen if one.at_ns < end_ns]
    for one in reversed(inside):
        if one.sstat_j is not None and row.sstat is None and kind.exclusive:
            counted = sum(served_uj(cluster, node, start, one.at_ns) for node, (start, _) in held.items())
            row = replace(row, sstat=(one.sstat_j, counted / 1e6))
        if one.watts is not None and row.watts is None and set(kind.nodes) == set(held):
            first_ns = max(max(start for start, _ in held.values()), one.at_ns - WINDOW_NS)
            counted = sum(served_uj(cluster, node, first_ns, one.at_ns) for node in kind.nodes)
            row = replace(row, watts=(one.watts, counted * 1e3 / (one.at_ns - first_ns)))
    return row


def _account(cluster: Cluster, kind: Kind) -> None:
    for words in (
        ["add", "account", kind.account, "Description=figures", "Organization=science"],
        ["add", "user", "alice", f"Account={kind.account}"],
    ):
        cluster.run(["sacctmgr", "-i", *words], user="root")
