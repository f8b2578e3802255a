"""Where jobs' records are looked for, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from perun_hpc.archive import kept
from perun_hpc.archive.places import RECORD, RUNNING, Archive
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import DataError

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


def from_directory(job_id: int, places: Places, submits: Iterable[int] = ()) -> list[Found]:
    """What is kept of a job's runs, as far as the caller may read it; `submits` as for `places.possible`.

    A damaged record is left out, and `places.tell` called.
    """
    found = []
    for run in kept.runs(places.archive, job_id, submits):
        for name, source in ((RECORD, "the job's directory"), (RUNNING, "what its nodes said last")):
            try:
                text = kept.read(places.archive, run, name)
                found.append(Found(from_json(text, str(places.archive.job(run) / name)), source))
                break
            except OSError:
                continue
            except DataError as error:
                if name == RECORD:  # what is said while a job runs is said anew soon
                    places.tell(str(job_id), str(error))
                    break
    return found
