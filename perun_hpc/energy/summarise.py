"""Sums of energy figures that carry their worst provenance, the shares of each, and their coverage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perun_hpc.data_model.sensor import Provenance


@dataclass(frozen=True, slots=True)
class Part:
    """One figure that goes into a sum; `energy_uj` None means it is missing (never 0)."""

    energy_uj: int | None
    provenance: Provenance
    covered_ns: int
    gap_ns: int
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A sum of energies in uJ.

    Attributes
    ----------
    energy_uj : sum of the parts that are known; None when none is.
    provenance : the worst among the parts.
    by_provenance : energy of each provenance.
    covered_ns, gap_ns : time with and without readings, summed over the parts.
    missing : number of parts without a figure: the sum is then a lower bound.
    scopes : what the parts include, each once.
    """

    energy_uj: int | None
    provenance: Provenance
    by_provenance: Mapping[Provenance, int]
    covered_ns: int
    gap_ns: int
    missing: int
    scopes: tuple[str, ...]

    @property
    def coverage(self) -> float:
        """Share of the time that readings cover, 0 to 1."""
        whole = self.covered_ns + self.gap_ns
        return self.covered_ns / whole if whole else 0.0


def summarise(parts: Iterable[Part]) -> Figure:
    """Sum of the parts."""
    everything = list(parts)
    known = [part for part in everything if part.energy_uj is not None]
    by_provenance: dict[Provenance, int] = defaultdict(int)
    for part in known:
        by_provenance[part.provenance] += part.energy_uj or 0
    return Figure(
        energy_uj=sum(by_provenance.values()) if known else None,
        provenance=max((part.provenance for part in everything), key=lambda one: one.rank, default=Provenance.MEASURED),
        by_provenance=dict(by_provenance),
        covered_ns=sum(part.covered_ns for part in everything),
        gap_ns=sum(part.gap_ns for part in everything),
        missing=len(everything) - len(known),
        scopes=tuple(dict.fromkeys(part.scope for part in everything if part.scope)),
    )
