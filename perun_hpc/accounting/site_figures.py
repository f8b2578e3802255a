"""What a monitoring system hears of a site: names, units and labels of the collector's figures (docs/monitoring.md).

Sums of the ledger are gauges: an amended or deleted record takes something away, which would look like a counter that
began anew, and count all that stands there once more.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields

from perun_hpc._version import __version__
from perun_hpc.accounting.audit_mark import last_audit
from perun_hpc.accounting.backlog import Entry, Sweep, last_sweep, look
from perun_hpc.accounting.ledger import OF_CLUSTER, Ledger
from perun_hpc.accounting.questions import Filter, Usage, usage
from perun_hpc.accounting.running import last_words
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.metrics import Family, Sample, gauge, joules
from perun_hpc.errors import PerunError

MOST = 1000
"""Values of one label, those with the most energy; how many are left out is a figure, too."""
SUMS_EVERY_S = 300
"""The sums are over all that the ledger has: a quarter of a second for a million jobs a year."""
LATELY_S = 86_400
SILENT_S = 600
"""A node that has said nothing of a job of its own for longer is silent, or five times `store.progress`."""
_FIRST, _LAST = "0000-00-00", "9999-99-99"


@dataclass(frozen=True)
class _Held:
    """Sums as of a moment."""

    at_s: float
    families: tuple[Family, ...]


class SiteFigures:
    """Collects the figures after each sweep; sums that cost something are kept for a while."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held: dict[str, _Held] = {}

    def collect(self, archives: Iterable[Archive], labels: Collection[str], progress_s: float | None) -> list[Family]:
        """Return all figures as of now.

        `labels` says who may be named (`account`, `user`), `progress_s` how often nodes report jobs that run.
        """
        found = [gauge("perun_collector_info", "The collector that runs, by its version.", 1, version=__version__)]
        answers = 1
        for archive in archives:
            found += _of_collector(archive, time.time(), progress_s)
            try:
                found += self._of_ledger(archive.cluster, labels)
            except PerunError:
                answers = 0
        return [*found, gauge("perun_ledger_up", "Whether the ledger answered.", answers)]

    def _of_ledger(self, cluster: str, labels: Collection[str]) -> Iterator[Family]:
        held = self._held.get(cluster)
        if held is None or time.monotonic() - held.at_s > SUMS_EVERY_S:
            sums = (*_by_partition(self._ledger, cluster), *_by_names(self._ledger, cluster, labels))
            held = self._held[cluster] = _Held(time.monotonic(), sums)
        yield from held.families
        yield lately(self._ledger, cluster, time.time())


def _by_partition(ledger: Ledger, cluster: str) -> Iterator[Family]:
    rows = usage(ledger, ("partition",), Filter(cluster=cluster), _FIRST, _LAST)
    for name, about, key, scale in (
        ("energy_joules", "Energy of the jobs in the ledger.", "energy_uj", 1_000_000),
        ("wasted_energy_joules", "Energy of jobs that failed.", "wasted_uj", 1_000_000),
        ("idle_energy_joules", "Energy of GPUs that were held and not used.", "idle_uj", 1_000_000),
        ("modelled_energy_joules", "Energy that was shared out by a model.", "modelled_uj", 1_000_000),
        ("estimated_energy_joules", "Energy that no sensor measured.", "estimated_uj", 1_000_000),
        ("simulated_energy_joules", "Energy of simulated sensors.", "simulated_uj", 1_000_000),
        ("jobs", "Jobs in the ledger.", "jobs", 1),
        ("unmeasured_jobs", "Jobs of which no energy is known.", "unmeasured", 1),
    ):
        samples = (Sample(r.values[key] / scale, {"cluster": cluster, "partition": r.group[0]}) for r in rows[:MOST])
        yield Family(f"perun_ledger_{name}", about, tuple(samples))
    yield _left_out(cluster, "partition", rows)


def _by_names(ledger: Ledger, cluster: str, labels: Collection[str]) -> Iterator[Family]:
    for label in ("account", "user"):
        if label in labels:
            rows = usage(ledger, (label,), Filter(cluster=cluster), _FIRST, _LAST)
            samples = (
                Sample(joules(r.values["energy_uj"]), {"cluster": cluster, label: r.group[0]}) for r in rows[:MOST]
            )
            yield Family(f"perun_ledger_{label}_energy_joules", f"Energy of the jobs of each {label}.", tuple(samples))
            yield _left_out(cluster, label, rows)


def _left_out(cluster: str, label: str, rows: Collection[Usage]) -> Family:
    about = "Names beyond the most that are given, by label; their energies are in no figure of that label."
    return gauge("perun_ledger_left_out_names", about, max(0, len(rows) - MOST), cluster=cluster, label=label)


def lately(ledger: Ledger, cluster: str, now_s: float) -> Family:
    """How the jobs of the last day were reported: `missing` are those of which no node said anything."""
    values = {"c": cluster, "since": int(now_s) - LATELY_S}
    query = f"SELECT status, COUNT(*) FROM job WHERE {OF_CLUSTER} AND end_s >= :since GROUP BY status"
    with ledger.read() as connection:
        found = {row[0]: row[1] for row in connection.execute(query, values)}
    numbers = {"complete": 0, "partial": 0, "missing": 0} | found
    samples = (Sample(number, {"cluster": cluster, "status": status}) for status, number in numbers.items())
    return Family(
        "perun_recent_jobs", "Jobs that ended in the last day, by the status of their record.", tuple(samples)
    )


def _of_collector(archive: Archive, now_s: float, progress_s: float | None) -> Iterator[Family]:
    cluster, sweep = archive.cluster, last_sweep(archive)
    if sweep is not None:
        yield from _of_sweep(cluster, sweep)
    backlog = look(archive)
    for kind in (one.name for one in fields(backlog)):
        entries: tuple[Entry, ...] = getattr(backlog, kind)
        about = "What lies in the archive and is in no record yet, by kind."
        yield gauge("perun_backlog_entries", about, len(entries), cluster=cluster, kind=kind)
        oldest_s = entries[0].since_s if entries else None
        about = "Since when the eldest of them lies there."
        yield gauge("perun_backlog_oldest_timestamp_seconds", about, oldest_s, cluster=cluster, kind=kind)
    if progress_s is not None:
        heard = last_words(archive)
        late_s = max(SILENT_S, 5 * progress_s)
        silent = sum(now_s - heard_s > late_s for heard_s in heard.values())
        yield gauge("perun_nodes_with_jobs", "Nodes that reported a job that runs.", len(heard), cluster=cluster)
        yield gauge("perun_silent_nodes", "Those of them that say nothing any more.", silent, cluster=cluster)
    audit = last_audit(archive)
    if audit is not None:
        yield gauge("perun_audit_timestamp_seconds", "When perun audit ran last.", audit.at_s, cluster=cluster)
        yield gauge(
            "perun_audit_findings", "What did not close; 0: the ledger closes.", audit.findings, cluster=cluster
        )


def _of_sweep(cluster: str, sweep: Sweep) -> Iterator[Family]:
    for name, about, value in (
        ("sweep_timestamp_seconds", "When the last sweep ended.", sweep.ended_s),
        ("sweep_duration_seconds", "How long the last sweep took.", max(0.0, sweep.ended_s - sweep.began_s)),
        ("success_timestamp_seconds", "When the last sweep that went well ended.", sweep.well_s),
        ("failing", "Whether sweeps fail now.", int(sweep.failing_s is not None)),
        ("compared_timestamp_seconds", "Up to when sacct's jobs were compared with the records.", sweep.compared_s),
    ):
        yield gauge(f"perun_collector_{name}", about, value, cluster=cluster)
