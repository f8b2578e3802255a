"""What a facility meter counted in a time, with its bounds, by its file in `ARCHIVE/CLUSTER/facility`.

The collector writes such files with two columns (a counter), the poller with more (docs/meters.md): where the poller's
has a gap nothing is known, a counter's difference covers whatever lies between two readings.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.accounting.audit import meter_rows
from perun_hpc.archive.meter_readings import files_of

UJ_PER_KWH = 3.6e12

K = 2
"""Bounds are expanded uncertainties of this factor."""
LEAST_COVERED = 0.5
"""Of a time of which a meter saw less nothing is said."""


@dataclass(frozen=True)
class Row:
    """One reading: what was counted since the first one, in uJ, and for how many seconds of that time it is known."""

    time_s: float
    energy_uj: int
    covered_s: float


@dataclass(frozen=True)
class Amount:
    """An energy in uJ and its bounds (k=2); None where it is not known.

    `why` says why it is not known, or what it rests on. Bounds of None: nobody stated what it may be wrong by.
    `partly`: there is more, of which nothing is known, and the bounds are those of what is.
    """

    energy_uj: int | None
    low_uj: int | None = None
    high_uj: int | None = None
    why: str = ""
    partly: bool = False

    def __add__(self, other: Amount) -> Amount:
        """Both together, their errors taken for alike; not known where one of them is not."""
        why = "; ".join(dict.fromkeys(filter(None, (self.why, other.why))))
        low_uj, high_uj = _sum(self.low_uj, other.low_uj), _sum(self.high_uj, other.high_uj)
        return Amount(_sum(self.energy_uj, other.energy_uj), low_uj, high_uj, why)

    def minus(self, other: Amount, why: str) -> Amount:
        """What is left of this without another."""
        if self.energy_uj is None or other.energy_uj is None:
            return Amount(None, why=why)
        low = None if self.low_uj is None or other.high_uj is None else self.low_uj - other.high_uj
        high = None if self.high_uj is None or other.low_uj is None else self.high_uj - other.low_uj
        return Amount(self.energy_uj - other.energy_uj, low, high, why)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


ZERO = Amount(0, 0, 0)


def bounded(energy_uj: int, u_uj: float | None, why: str = "") -> Amount:
    """An energy with its standard uncertainty (k=1); None: not known."""
    if u_uj is None:
        return Amount(energy_uj, None, None, why)
    return Amount(energy_uj, round(energy_uj - K * u_uj), round(energy_uj + K * u_uj), why)


def read_meter_rows(path: Path, since_s: float, until_s: float, range_uj: int | None = None) -> list[Row]:
    """Return a meter's readings around a time (epoch seconds), in their order; `DataError` where a file holds none.

    A counter that went back began anew, at the end of its range where that is known: else what it counted in between is
    not.
    """
    rows: list[Row] = []
    shown_uj = 0
    found = {row for one in files_of(path, since_s, until_s) for row in meter_rows(one)}
    for time_s, kwh, covered_s in sorted(found, key=lambda one: one[:2]):
        uj = round(kwh * UJ_PER_KWH)
        if not rows:
            rows.append(Row(time_s, 0, covered_s or 0.0))
        else:
            step_uj = uj - shown_uj
            if step_uj < 0 and range_uj is not None:
                step_uj += range_uj
            step_s = time_s - rows[-1].time_s if step_uj >= 0 else 0.0
            rows.append(
                Row(
                    time_s,
                    rows[-1].energy_uj + max(0, step_uj),
                    rows[-1].covered_s + step_s if covered_s is None else covered_s,
                )
            )
        shown_uj = uj
    return rows


def metered(rows: Sequence[Row], since_s: float, until_s: float, u: float | None) -> Amount:
    """What a meter counted between two times (epoch seconds); a step over an edge counts in proportion.

    Where it did not see all of the time, its mean power holds for the rest, and the bounds reach from nothing to the
    most that it showed.

    Parameters
    ----------
    rows : of the meter.
    since_s, until_s : the time.
    u : the meter's relative standard uncertainty (k=1); None: nobody stated it.
    """
    if until_s <= since_s:
        return ZERO
    times = [row.time_s for row in rows]
    seen_uj = seen_s = most_uw = less_uj = more_uj = 0.0
    for index in range(max(1, bisect_left(times, since_s)), min(len(rows), bisect_right(times, until_s) + 1)):
        before, after = rows[index - 1], rows[index]
        step_s = after.time_s - before.time_s
        part_s = min(after.time_s, until_s) - max(before.time_s, since_s)
        if step_s > 0 and part_s > 0 and after.covered_s > before.covered_s:
            uw = (after.energy_uj - before.energy_uj) / step_s
            seen_uj += uw * part_s
            seen_s += part_s
            most_uw = max(most_uw, uw)
            if part_s < step_s:  # how the step's energy lies in it is not known
                less_uj += uw * part_s
                more_uj += uw * (step_s - part_s)
    covered = seen_s / (until_s - since_s)
    if covered < LEAST_COVERED:
        return Amount(None, why=f"the meter saw {100 * covered:.0f} % of the time")
    whole = covered > 0.999_999
    energy_uj = round(seen_uj if whole else seen_uj / covered)
    why = "" if whole else f"the meter saw {100 * covered:.1f} % of the time"
    if u is None:
        return Amount(energy_uj, None, None, why)
    blind_uj = 0.0 if whole else most_uw * (until_s - since_s - seen_s)
    low, high = seen_uj - less_uj, seen_uj + more_uj + blind_uj
    return Amount(energy_uj, round(low * (1 - K * u)), round(high * (1 + K * u)), why)
