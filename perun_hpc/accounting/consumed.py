"""sacct's ConsumedEnergy beside the ledger's joules, where perun's energy plugin is what makes it.

Slurm asks the plugin for the last time when the job's processes end, and the ledger's figure ends in the Epilog: the
two differ by a tail, whose bound is the job's power times the time for which Slurm's figure may be older or guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from perun_hpc.accounting.audit import Finding
from perun_hpc.data_model.record import EnergyRecord, NodeEnergy
from perun_hpc.data_model.wording import count
from perun_hpc.slurm.conf import ENERGY_PLUGIN, Config
from perun_hpc.slurm.sacct import CLOCK_S, SlurmJob, by_id, pair_runs

COUNTS_S = 3.0
"""So long a figure counts after the moment of which it is, and goes on with its power (`agent/slurm_figures.py`)."""
POLL_S = 30.0
"""Slurm's own JobAcctGatherFrequency."""
_TASK = re.compile(r"(?:^|,)(?:task=)?(\d{1,9})(?:,|$)", re.IGNORECASE)


PAGE = 500
"""Jobs whose records are in memory at once."""
Load = Callable[[Sequence[int]], Iterable[EnergyRecord]]
"""The records of all runs of these jobs."""


@dataclass(frozen=True)
class Tail:
    """By how many seconds of a job's power Slurm's figure may differ: its polls, and what is seen of shared nodes."""

    poll_s: float
    shared_s: float

    def uj(self, record: EnergyRecord, ended_s: int | None = None) -> int:
        """The most by which the two figures of a run may differ; `ended_s` is its end as Slurm says it."""
        return sum(self._node_uj(node, ended_s) for node in record.nodes)

    def _node_uj(self, node: NodeEnergy, ended_s: int | None) -> int:
        """Slurm has whole joules of each node; a node that the job had for itself the whole time has no moments."""
        held_s = max(1e-9, (node.end_ns - node.start_ns) / 1e9)
        watts = max((node.energy_uj or 0) / 1e6 / held_s, (node.peak_mw or 0) / 1e3)
        completing_s = 0.0 if ended_s is None else max(0.0, node.end_ns / 1e9 - ended_s)
        moments_s = 0.0 if node.energy_uj == node.node_uj else 2 * self.shared_s + COUNTS_S
        return round(1e6 * (1 + watts * (self.poll_s + COUNTS_S + completing_s + moments_s)))


@dataclass(frozen=True)
class Compared:
    """How many runs have one figure within the tail, how many sacct has none of, and how many were left out.

    Left out are runs whose record is not complete, or was amended after its first revision: Slurm's figure is fixed.
    """

    agree: int
    blank: int
    left_out: int
    findings: list[Finding]

    @property
    def text(self) -> str:
        """One clause for the audit's summary."""
        parts = [f"{count(self.agree, 'job')} with sacct's ConsumedEnergy within its tail"]
        if self.blank:
            parts.append(f"{self.blank} of which sacct has no figure")
        if self.left_out:
            parts.append(f"{self.left_out} not compared (partial, or amended since)")
        return ", ".join(parts)


def whose(config: Config) -> str:
    """Say why ConsumedEnergy is not the ledger's on this cluster; empty where it is."""
    kind = config.one("AcctGatherEnergyType").lower()
    if ENERGY_PLUGIN in config.words("AcctGatherEnergyType"):
        return ""
    if kind in ("", "none", "acct_gather_energy/none"):
        return "sacct's ConsumedEnergy was not compared: Slurm has no energy plugin (AcctGatherEnergyType)"
    return f"sacct's ConsumedEnergy was not compared: it is {kind}'s, of whole nodes"


def poll_s(config: Config) -> float:
    """How often Slurm asks, by JobAcctGatherFrequency: `30`, or `task=30,energy=10`; 0 is at the end alone."""
    found = _TASK.search(config.one("JobAcctGatherFrequency"))
    return float(found[1]) if found else POLL_S


def compare(jobs: Iterable[SlurmJob], load: Load, tail: Tail) -> Compared:
    """Compare the runs that have ended; a figure of 0 J is none, as of a time before the plugin."""
    agree = blank = left_out = 0
    findings: list[Finding] = []
    for runs, ours in _by_job(jobs, load):
        spans = [(one.start_ns // 10**9, one.end_ns // 10**9) for one in ours]
        for index, at in sorted(pair_runs(runs, spans, CLOCK_S, [one.sluid for one in ours]).items()):
            job, record = runs[index], ours[at]
            if not job.ended:
                continue
            if record.status != "complete" or record.revision > 1:
                left_out += 1
            elif not job.consumed_j:
                blank += 1
            elif record.energy_uj is None:
                findings.append(Finding(f"job {job.shown_id}", f"sacct has {job.consumed_j} J, the ledger nothing"))
            else:
                off_uj = job.consumed_j * 1_000_000 - record.energy_uj
                most_uj = tail.uj(record, job.end_s)
                if abs(off_uj) <= most_uj:
                    agree += 1
                    continue
                what = f"sacct has {job.consumed_j} J, the ledger {record.energy_uj / 1e6:.0f} J"
                findings.append(Finding(f"job {job.shown_id}", f"{what}: the tail is {most_uj / 1e6:.0f} J", off_uj))
    return Compared(agree, blank, left_out, findings)


def _by_job(jobs: Iterable[SlurmJob], load: Load) -> Iterator[tuple[list[SlurmJob], list[EnergyRecord]]]:
    """Yield the runs of each job as Slurm knows them, and their records."""
    known = by_id(jobs)
    ids = sorted(known)
    for first in range(0, len(ids), PAGE):
        page = ids[first : first + PAGE]
        held: dict[int, list[EnergyRecord]] = {}
        for record in load(page):
            held.setdefault(record.job_id, []).append(record)
        for job_id in page:
            yield known[job_id], held.get(job_id, [])
