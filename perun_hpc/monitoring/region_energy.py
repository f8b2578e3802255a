"""What regions used: intervals laid over cumulative readings, all calls and all sensors at once.

Everything is linear in the covered share of each gap between two readings, so that calls, readings and sensors add
instead of multiplying: 10^5 calls over 10^5 readings of 50 sensors are one interpolation and one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Used:
    """What one region used, per column of the readings.

    Attributes
    ----------
    amount : by straight lines between readings.
    low, high : certain bounds for columns that never fall (counters): what gaps that lie wholly inside, or are
    touched at
        all, counted.
    time_ns : length of the union of the intervals; `covered_ns` of it lies between the first and the last reading.
    """

    amount: Floats
    low: Floats
    high: Floats
    time_ns: int
    covered_ns: int


def union(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Disjoint intervals in order that cover the same time; empty ones are dropped."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    keep = ends > starts
    starts, ends = starts[keep], ends[keep]
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    first = np.concatenate(([True], starts[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return starts[first], reach[last]


def used(times_ns: Ints, columns: Floats, starts: Ints, ends: Ints) -> Used:
    """Lay intervals over readings.

    Parameters
    ----------
    times_ns : times of the readings, strictly increasing; shape (readings,).
    columns : cumulative values (counters, or running integrals of gauges); shape (sensors, readings), NaN where there
    is none.
    starts, ends : intervals in the same clock; they may overlap.
    """
    starts, ends = union(starts, ends)
    time_ns = int((ends - starts).sum())
    count = len(columns)
    if len(times_ns) < 2 or not len(starts):
        nothing = np.zeros(count)
        return Used(nothing, nothing, nothing, time_ns, 0)
    holes = np.isnan(columns).any(axis=1)
    amount, low, high = np.zeros(count), np.zeros(count), np.zeros(count)
    share, covered_ns = _shares(times_ns, starts, ends)
    whole = ~holes
    amount[whole], low[whole], high[whole] = _apply(share, columns[whole])
    for column in np.flatnonzero(holes):
        valid = ~np.isnan(columns[column])
        if valid.sum() >= 2:
            own, _ = _shares(times_ns[valid], starts, ends)
            amount[column], low[column], high[column] = (
                part[0] for part in _apply(own, columns[column : column + 1, valid])
            )
    return Used(amount, low, high, time_ns, covered_ns)


def _shares(times_ns: Ints, starts: Ints, ends: Ints) -> tuple[Floats, int]:
    """The covered share of each gap between readings, and the covered time in all."""
    origin = times_ns[0]
    edges = np.empty(2 * len(starts))
    edges[0::2], edges[1::2] = starts - origin, ends - origin
    covered = np.empty(len(edges))
    lengths = np.cumsum(ends - starts)
    covered[0::2], covered[1::2] = np.concatenate(([0], lengths[:-1])), lengths
    at_readings = np.interp((times_ns - origin).astype(float), edges, covered)
    spans = np.diff(times_ns)
    share = np.diff(at_readings) / spans
    # Sums of large floats are off by less than a nanosecond: what is that close to nothing or to all, is.
    share[share * spans < 0.5] = 0.0
    share[(1 - share) * spans < 0.5] = 1.0
    return share, round(float(at_readings[-1] - at_readings[0]))


def _apply(share: Floats, columns: Floats) -> tuple[Floats, Floats, Floats]:
    steps = np.diff(columns, axis=1)
    return steps @ share, steps @ (share >= 1.0), steps @ (share > 0.0)


def integral(times_ns: Ints, gauge: Floats) -> Floats:
    """Running integral of a gauge over time in value x ns; time beside a NaN adds nothing and is NaN itself."""
    steps = np.diff(times_ns) * (gauge[1:] + gauge[:-1]) / 2
    return np.concatenate(([0.0], np.nancumsum(steps)))


def by_region(calls: Any, regions: int, end_ns: int) -> list[tuple[Ints, Ints, int, int, int]]:
    """Split the rows of a rank's calls: per region (starts, ends, calls, raised, open).

    `calls` is a flat buffer of int64 rows (region, start_ns, end_ns); a call that was still open ends at `end_ns`.
    """
    table = np.frombuffer(calls, dtype="<i8").reshape(-1, 3) if len(calls) else np.empty((0, 3), dtype="<i8")
    table = table[table[:, 1] > 0]
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    bounds = np.searchsorted(table[:, 0], np.arange(regions + 1))
    result = []
    for region in range(regions):
        rows = table[bounds[region] : bounds[region + 1]]
        raised, still_open = rows[:, 2] < 0, rows[:, 2] == 0
        ends = np.where(still_open, max(end_ns, 0), np.abs(rows[:, 2])).astype(np.int64)
        result.append((rows[:, 1].astype(np.int64), ends, len(rows), int(raised.sum()), int(still_open.sum())))
    return result
