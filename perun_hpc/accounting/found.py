"""Where jobs' records are looked for, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perun_hpc.archive.places import Archive
from perun_hpc.data_model.record import EnergyRecord

if TYPE_CHECKING:
    from perun_hpc.slurm.sacct import SlurmJob

UNKNOWN = "unknown to Slurm's accounting and to perun, or not yours to see"


@dataclass(frozen=True)
class Found:
    """A record and where it came from, in words."""

    record: EnergyRecord
    source: str


@dataclass(frozen=True)
class Places:
    """Where to look: the cluster's archive, the ledger's URL, and sacct (`query_jobs` with its cluster bound, and
    `query_between`).

    What ended before the epoch time `due_s` has its record by now, or will never have one; the collector sweeps every
    `sweep_s` seconds. `tell` is called with a job whose record is damaged, and why: that costs itself alone.
    """

    archive: Archive
    ledger: str | None
    sacct: Callable[[Iterable[str]], list[SlurmJob]] | None
    due_s: float
    sweep_s: float = 60.0
    between: Callable[[int, int, Sequence[str]], list[SlurmJob]] | None = None
    tell: Callable[[str, str], object] = field(default=lambda job, why: None)
