"""Static power of a package, learnt from the node itself while it idles."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

from perun_hpc.data_model import codec

NS_PER_S = 1_000_000_000
DAY_NS = 86_400 * NS_PER_S

SHORTEST_NS = 10 * NS_PER_S
MOST_BUSY = 0.005
ENOUGH_NS = 30 * 60 * NS_PER_S
DAYS = 30
PERCENTILE = 5
BIN_UW = 100_000
"""Intervals are kept as a histogram of 0.1 W per day: a few kilobytes however long the node lives."""


@dataclass(frozen=True, slots=True)
class StaticPower:
    """Idle intervals of one domain over the last 30 days; a value, replaced at each interval.

    `bins[day][power // BIN_UW]` is the idle time in ns seen at that power on that day (days since the epoch).
    """

    bins: dict[int, dict[int, int]] = field(default_factory=dict)

    def observe(self, real_ns: int, duration_ns: int, energy_uj: int, busy_ns: int, cpus: int) -> StaticPower:
        """Take a closed interval into account if it is long and idle enough, else return the same value.

        Parameters
        ----------
        real_ns : the interval's time, CLOCK_REALTIME; decides its day.
        duration_ns, energy_uj : its length and what the domain used in it.
        busy_ns : the CPUs' busy time in it, summed.
        cpus : how many CPUs the domain has.

        Returns
        -------
        The value with the interval in it, without days that are older than 30; the same object where it does not count.
        """
        if duration_ns < SHORTEST_NS or energy_uj < 0 or cpus < 1:
            return self
        if busy_ns >= MOST_BUSY * duration_ns * cpus:
            return self
        day = real_ns // DAY_NS
        power_bin = energy_uj * NS_PER_S // duration_ns // BIN_UW
        bins = {one: dict(seen) for one, seen in self.bins.items() if day - DAYS < one <= day}
        today = bins.setdefault(day, {})
        today[power_bin] = today.get(power_bin, 0) + duration_ns
        return replace(self, bins=bins)

    @property
    def seen_ns(self) -> int:
        """For how long the domain was seen idle."""
        return sum(time_ns for seen in self.bins.values() for time_ns in seen.values())

    def estimate_uw(self) -> int | None:
        """The 5th percentile of idle power in uW (lower edge of its bin); None before 30 minutes were seen."""
        summed: dict[int, int] = {}
        for seen in self.bins.values():
            for power_bin, time_ns in seen.items():
                summed[power_bin] = summed.get(power_bin, 0) + time_ns
        whole = sum(summed.values())
        if whole < ENOUGH_NS:
            return None
        reached = 0
        for power_bin in sorted(summed):
            reached += summed[power_bin]
            if reached * 100 >= whole * PERCENTILE:
                return power_bin * BIN_UW
        return None

    def plus(self, other: StaticPower, day: int) -> StaticPower:
        """Join what was seen of one domain in two lives of its node, as before and after it lost its disk.

        Parameters
        ----------
        other : the same domain's. Of a power on a day on which both saw it the longer time counts: they may have
            seen the same.
        day : today, in days since the epoch.

        Returns
        -------
        What both say of the 30 days that end with `day`.
        """
        bins: dict[int, dict[int, int]] = {}
        for one, seen in (*self.bins.items(), *other.bins.items()):
            if day - DAYS < one <= day:
                kept = bins.setdefault(one, {})
                for power_bin, time_ns in seen.items():
                    kept[power_bin] = max(time_ns, kept.get(power_bin, 0))
        return replace(self, bins=bins)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return cast("dict[str, Any]", codec.encode(self.bins))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StaticPower:
        """Inverse of `to_json`."""
        return cls(codec.decode(dict[int, dict[int, int]], data))
