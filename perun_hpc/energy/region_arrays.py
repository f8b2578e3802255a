"""The rule of `regions` on arrays: all calls and all sensors at once.

Calls, readings and sensors add instead of multiplying: 10^5 calls over 10^5 readings of 50 sensors are one search and
two matrix products. Nothing is decided here: a test holds each step against its twin in `regions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perun_hpc.energy.regions import Marked

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Spans = tuple[Ints, Ints]
"""Begins and ends."""

_LEAST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Used:
    """What was used during stretches of time, per column: see `regions.Used`.

    `covered_ns` is how much of that time lies between the first and the last reading of each column.
    """

    amount: Floats
    low: Floats
    high: Floats
    covered_ns: Ints


def by_region(calls: Any, regions: int, start_ns: int, end_ns: int) -> dict[int, tuple[Marked[Spans], Ints]]:
    """See `regions.by_region`; `calls` is a buffer of int64 of this machine's order. With each region how long each of
    its calls was in that time, in ns; those that were not in it are left out there."""
    table = np.frombuffer(calls, dtype=np.int64).reshape(-1, 3) if len(calls) else np.empty((0, 3), dtype=np.int64)
    table = table[(table[:, 0] >= 0) & (table[:, 0] < regions) & (table[:, 1] > 0)]
    table = table[np.argsort(table[:, 0], kind="stable")]
    numbers, first = np.unique(table[:, 0], return_index=True)
    result = {}
    for number, rows in zip(numbers.tolist(), np.split(table, first[1:]), strict=True) if len(table) else ():
        marked = rows[:, 2]
        raised, still_open = marked < 0, marked == 0
        ends = np.where(still_open, end_ns, np.abs(np.where(marked == _LEAST, _LEAST + 1, marked)))
        begins, ends = np.maximum(rows[:, 1], start_ns), np.minimum(ends, end_ns)
        some = ends > begins
        begins, ends = begins[some], ends[some]
        lengths = ends - begins
        marked_calls = len(rows), int(raised.sum()), int(still_open.sum()), _sum(lengths)
        result[number] = Marked(*marked_calls, union(begins, ends)), lengths
    return result


def _sum(lengths: Ints) -> int:
    """The sum of lengths, which may have more than 64 bits."""
    return (int((lengths >> 32).sum()) << 32) + int((lengths & 0xFFFFFFFF).sum())


def union(starts: Ints, ends: Ints) -> Spans:
    """See `regions.union`."""
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


def covered(times_ns: Ints, spans: Spans) -> Ints:
    """How long each interval between two readings is covered, 0 for those that `regions.covered` leaves out."""
    starts, ends = spans
    if not len(starts):
        return np.zeros(max(0, len(times_ns) - 1), dtype=np.int64)
    before = np.concatenate(([0], np.cumsum(ends - starts)))
    place = np.searchsorted(starts, times_ns, side="right")
    last = np.maximum(place - 1, 0)
    so_far = np.where(place > 0, before[last] + np.minimum(times_ns, ends[last]) - starts[last], 0)
    return np.diff(so_far)


class Readings:
    """Readings of many sums that go on (counters), to lay stretches of time over: see `regions.used`.

    Parameters
    ----------
    times_ns : times of the readings, strictly increasing; shape (readings,).
    columns : sums since the first reading; shape (sensors, readings), NaN where one is not known: the readings of that
        column are then those that are.
    """

    def __init__(self, times_ns: Ints, columns: Floats) -> None:
        self._count = len(columns)
        holes = np.isnan(columns).any(axis=1)
        parts: list[tuple[Any, Ints, Floats]] = [(~holes, times_ns, columns[~holes] if holes.any() else columns)]
        for column in np.flatnonzero(holes).tolist():
            known = ~np.isnan(columns[column])
            parts.append(([column], times_ns[known], columns[column : column + 1, known]))
        self._parts = []
        for chosen, times, values in parts:
            if values.size and len(times) > 1:
                steps = np.diff(values, axis=1)
                self._parts.append((chosen, times, steps, np.minimum(steps, 0) if (steps < 0).any() else None))

    def used(self, spans: Spans) -> Used:
        """What was used during disjoint stretches of time in order."""
        amount, low, high = (np.zeros(self._count) for _ in range(3))
        covered_ns = np.zeros(self._count, dtype=np.int64)
        for chosen, times_ns, steps, falls in self._parts:
            inside_ns, long_ns = covered(times_ns, spans), np.diff(times_ns)
            whole = inside_ns == long_ns
            touched = (inside_ns > 0) & ~whole
            share, sure, part = (steps @ np.stack((inside_ns / long_ns, whole, touched), axis=1)).T
            fall = 0.0 if falls is None else falls @ touched
            amount[chosen], low[chosen], high[chosen] = share, sure + fall, sure + part - fall
            covered_ns[chosen] = inside_ns.sum()
        return Used(amount, low, high, covered_ns)


def mean(times_ns: Ints, gauge: Floats, spans: Spans) -> float | None:
    """Mean of a gauge over stretches of time, weighted by time: straight lines between readings, without the time
    beside one that failed (NaN). None where nothing is left."""
    inside_ns, middle = covered(times_ns, spans), (gauge[1:] + gauge[:-1]) / 2
    known = ~np.isnan(middle)
    time_ns = int(inside_ns[known].sum())
    return float((middle[known] * inside_ns[known]).sum()) / time_ns if time_ns else None
