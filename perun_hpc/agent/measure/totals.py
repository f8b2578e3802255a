"""What each domain's counter counted since the agent began, by who got it: the node ledger's sums, for monitoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perun_hpc.energy.attribute import IDLE, OTHER, SYSTEM, UNKNOWN, UNOBSERVED

JOBS = "jobs"
"""All jobs together, beside the names of the ledger's other parties."""
PARTIES = (JOBS, IDLE, SYSTEM, UNKNOWN, UNOBSERVED)


class Totals:
    """Sums of closed intervals.

    Attributes
    ----------
    shares_uj : by domain, of those that were measured, and party; only what is above 0, so that they never fall.
    rest_uj : by domain, of meters' rests, which are signed.
    gap_ns : by domain, how long its counter gave nothing.
    """

    def __init__(self) -> None:
        self.shares_uj: dict[str, dict[str, int]] = {}
        self.rest_uj: dict[str, int] = {}
        self.gap_ns: dict[str, int] = {}

    def add(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in what the node ledger says of intervals."""
        for line in lines:
            domain, total_uj = line["domain"], line["total_uj"]
            gap_ns = line["t1_ns"] - line["t0_ns"] if total_uj is None else 0
            self.gap_ns[domain] = self.gap_ns.get(domain, 0) + gap_ns
            if total_uj is None:
                continue
            if domain.startswith(OTHER):
                self.rest_uj[domain] = self.rest_uj.get(domain, 0) + total_uj
                continue
            sums = self.shares_uj.get(domain)
            if sums is None:
                sums = self.shares_uj[domain] = dict.fromkeys(PARTIES, 0)
            for owner, energy_uj in line["shares"].items():
                party = JOBS if owner.startswith("job:") else owner
                sums[party] = sums.get(party, 0) + max(0, energy_uj)

    @property
    def all_uj(self) -> int:
        """What all parties together were given: the parts, or the meter where that is all that the node has."""
        if self.shares_uj:
            return sum(energy_uj for sums in self.shares_uj.values() for energy_uj in sums.values())
        return sum(self.rest_uj.values())
