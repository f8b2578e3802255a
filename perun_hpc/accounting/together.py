"""Several runs as one sum: what an array, a heterogeneous job or a list of jobs used together, and how sure that is.

Sensors of one kind err alike in all of the runs: doubts of one cause are added with their signs, what errs each time
anew by its squares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from perun_hpc.accounting.summing import METER, doubts_of
from perun_hpc.data_model.record import EnergyRecord, worst_provenance
from perun_hpc.energy.uncertainty import Doubts, added, combined_uj


@dataclass(frozen=True)
class Together:
    """The sum of `runs` runs; `u_uj` is the standard uncertainty (k=1), None energies are of no known run.

    `known` of the runs have an energy: 0 without a bound is none, but less than the sensors resolve. A sum with a run
    that is not whole, or has none, is a `lower_bound`.
    """

    runs: int
    known: int
    energy_uj: int | None
    u_uj: int
    provenance: str
    lower_bound: bool
    wasted_uj: int
    idle_uj: int


@dataclass(frozen=True)
class Member:
    """One job of several with all its runs, the newest last."""

    runs: tuple[EnergyRecord, ...]

    @property
    def newest(self) -> EnergyRecord:
        """The run that counts for state and times."""
        return self.runs[-1]

    @property
    def sum(self) -> Together:
        """What its runs used, those before a requeue included."""
        return together(self.runs)


def together(records: Iterable[EnergyRecord]) -> Together:
    """Return the sum of several runs."""
    runs = list(records)
    known = [r for r in runs if r.energy_uj is not None and (r.energy_uj or r.u_uj)]
    return Together(
        runs=len(runs),
        known=len(known),
        energy_uj=sum(r.energy_uj or 0 for r in known) if known else None,
        u_uj=u_together(known),
        provenance=worst_provenance([r.provenance for r in known]) if known else "missing",
        lower_bound=any(r.start_ns and (r.status != "complete" or not (r.energy_uj or r.u_uj)) for r in runs),
        wasted_uj=sum(r.wasted_uj for r in known),
        idle_uj=sum(r.idle_uj for r in known),
    )


def u_together(records: Sequence[EnergyRecord]) -> int:
    """Return the standard uncertainty (k=1) in uJ of a sum of runs.

    Of a run whose record does not say what errs (Slurm's comment, a record of before) all of its uncertainty may have
    one cause with that of the others.
    """
    doubts, rest_uj = doubts_together(records)
    return combined_uj(doubts) + rest_uj


def doubts_together(records: Sequence[EnergyRecord]) -> tuple[Doubts, int]:
    """Return what a sum of runs may be wrong by, by its cause, and what is added to that of records without causes."""
    known = [r for r in records if any(c.doubts for c in r.components)]
    rest_uj = sum(r.u_uj for r in records if not any(c.doubts for c in r.components))
    return added(_doubts(r) for r in known), rest_uj


def members(records: Iterable[EnergyRecord]) -> list[Member]:
    """Put the runs of each job together, in the order in which the jobs come."""
    found: dict[str, list[EnergyRecord]] = {}
    for record in records:
        found.setdefault(record.display_id, []).append(record)
    return [Member(tuple(runs)) for runs in found.values()]


def _doubts(record: EnergyRecord) -> Doubts:
    counted = [c for c in record.components if c.component != METER or len(record.components) == 1]
    return added(doubts_of(c) for c in counted)
