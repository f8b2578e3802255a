"""The rule of `regions` on arrays: all calls and all sensors at once.

Calls, readings and sensors add instead of multiplying: 10^5 calls over 10^5 readings of 50 sensors are one search and
two matrix products. Nothing is decided here: a test holds each step against its twin in `regions`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from perun_hpc.energy import regions
from perun_hpc.energy.region_contrast import Contrast, Coverage
from perun_hpc.energy.regions import CELL, CELL_INTS, REST, Cell, Loose, Marked, cell_of, packed, within

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Spans = tuple[Ints, Ints]
"""Begins and ends."""

_LEAST = np.iinfo(np.int64).min
MOST_NS = 1 << 62


@dataclass(frozen=True)
class Used:
    """What was used during stretches of time, per column: see `regions.Used`.

    `covered_ns` is how much of that time lies between the first and the last reading of each column.
    """

    amount: Floats
    low: Floats
    high: Floats
    counted: Floats
    rest_ns: Floats
    edges: Ints
    covered_ns: Ints

    def together(self, columns: Sequence[int]) -> regions.Used:
        """Of some columns' sum."""
        chosen = list(columns)
        amount, low, high, counted = (
            float(one[chosen].sum()) for one in (self.amount, self.low, self.high, self.counted)
        )
        rest_ns, edges = float(self.rest_ns[chosen].max()), int(self.edges[chosen].max())
        return regions.Used(amount, low, high, counted, rest_ns, edges)


@dataclass(frozen=True)
class Lengths:
    """How long a region's calls were: how many, their mean, standard deviation and maximum, in ns."""

    calls: int
    mean: float
    deviation: float
    longest: int


def by_region(calls: Any, regions: int, start_ns: int, end_ns: int) -> dict[int, tuple[Marked[Spans], Lengths]]:
    """See `regions.by_region`; `calls` is a buffer of int64 of this machine's order. With each region how long each of
    its calls was in that time, in ns; those that were not in it are left out there."""
    table = _table(calls)
    cells: dict[int, list[Cell]] = {}
    for cell in _cells(table, regions):
        cells.setdefault(cell.region, []).append(cell)
    table = _calls(table, regions)
    table = table[np.argsort(table[:, 0], kind="stable")]
    numbers, first = np.unique(table[:, 0], return_index=True)
    rows = dict(zip(numbers.tolist(), np.split(table, first[1:]), strict=True)) if len(table) else {}
    nothing = np.empty((0, 3), dtype=np.int64)
    return {
        region: _marked(rows.get(region, nothing), cells.get(region, ()), start_ns, end_ns)
        for region in sorted(rows.keys() | cells.keys())
    }


def count(calls: Any, regions: int) -> int:
    """How many calls of regions there are in a table."""
    table = _table(calls)
    return len(_calls(table, regions)) + sum(cell.calls for cell in _cells(table, regions))


def _table(calls: Any) -> Ints:
    return np.frombuffer(calls, dtype=np.int64).reshape(-1, 3) if len(calls) else np.empty((0, 3), dtype=np.int64)


def _calls(table: Ints, regions: int) -> Ints:
    """The rows that are calls."""
    return table[(table[:, 0] >= 0) & (table[:, 0] < regions) & (table[:, 1] > 0)]


def _cells(table: Ints, regions: int) -> Iterator[Cell]:
    for place in np.flatnonzero((table[:, 0] <= CELL) & (table[:, 0] > REST)).tolist():
        cell = cell_of(table[place : place + CELL_INTS // 3].ravel().tolist(), regions)
        if cell is not None:
            yield cell


def _marked(rows: Ints, cells: Sequence[Cell], start_ns: int, end_ns: int) -> tuple[Marked[Spans], Lengths]:
    marked = rows[:, 2]
    raised, still_open = marked < 0, marked == 0
    ends = np.where(still_open, end_ns, np.abs(np.where(marked == _LEAST, _LEAST + 1, marked)))
    begins, ends = np.maximum(rows[:, 1], start_ns), np.minimum(ends, end_ns)
    some = ends > begins
    begins, ends = begins[some], ends[some]
    lengths = ends - begins
    more = packed(cells, start_ns, end_ns)
    loose = Loose(union(begins, ends), more.loose) if more.loose else None
    if more.spans:
        beside = np.array(more.spans, dtype=np.int64)
        begins, ends = np.concatenate((begins, beside[:, 0])), np.concatenate((ends, beside[:, 1]))
    found = Marked(
        len(rows) + more.calls,
        int(raised.sum()) + more.raised,
        int(still_open.sum()),
        _sum(lengths) + more.total_ns,
        union(begins, ends),
        more.coarse_ns,
        loose,
    )
    return found, _lengths(lengths, more.cells)


def _lengths(lengths: Ints, cells: Sequence[Cell]) -> Lengths:
    """Of calls one by one and of packed ones: both parts' squared deviations, and that of their means."""
    parts = [(len(lengths), float(lengths.mean()), float(lengths.var()) * len(lengths))] if len(lengths) else []
    if cells:
        calls, total = sum(cell.calls for cell in cells), sum(cell.total_ns for cell in cells)
        squares = sum(cell.squares for cell in cells)
        parts.append((calls, total / calls, max(0.0, (squares * calls - total**2) / calls)))
    calls = sum(number for number, _, _ in parts)
    if not calls:
        return Lengths(0, 0.0, 0.0, 0)
    mean = sum(number * own for number, own, _ in parts) / calls
    apart = sum(squared + number * (own - mean) ** 2 for number, own, squared in parts)
    longest = max([int(lengths.max(initial=0)), *(cell.longest_ns for cell in cells)])
    return Lengths(calls, mean, math.sqrt(apart / (calls - 1)) if calls > 1 else 0.0, longest)


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


def _bounds(times_ns: Ints, loose: Loose[Spans]) -> Spans:
    """How long each interval between two readings is covered at least and at most."""
    sure, long_ns = covered(times_ns, loose.sure), np.diff(times_ns)
    cells = np.zeros((2, len(long_ns)), dtype=np.int64)
    found = within(times_ns.tolist(), loose.cells)
    if found:
        cells[:, list(found)] = np.minimum(np.array(list(found.values()), dtype=object).T, MOST_NS).astype(np.int64)
    return np.minimum(long_ns, np.maximum(sure, cells[0])), np.minimum(long_ns, sure + cells[1])


class Readings:
    """Readings of many sums that go on (counters), to lay stretches of time over: see `regions.used`.

    Parameters
    ----------
    times_ns : times of the readings, strictly increasing; shape (readings,).
    columns : sums since the first reading; shape (sensors, readings), NaN where one is not known: the readings of that
        column are then those that are.
    ceilings_uw : power that each column never exceeds; infinite where none is known. Shape (sensors,).
    """

    def __init__(self, times_ns: Ints, columns: Floats, ceilings_uw: Floats | None = None) -> None:
        self._count = len(columns)
        ceilings = np.full(self._count, np.inf) if ceilings_uw is None else ceilings_uw
        holes = np.isnan(columns).any(axis=1)
        parts: list[tuple[Ints, Ints, Floats]] = [
            (np.flatnonzero(~holes), times_ns, columns[~holes] if holes.any() else columns)
        ]
        for column in np.flatnonzero(holes).tolist():
            known = ~np.isnan(columns[column])
            parts.append((np.array([column]), times_ns[known], columns[column : column + 1, known]))
        self._parts = [
            (chosen, times, values, np.diff(values, axis=1), ceilings[chosen, None] / regions.NS_PER_S)
            for chosen, times, values in parts
            if values.size and len(times) > 1
        ]

    def used(self, spans: Spans, loose: Loose[Spans] | None = None) -> Used:
        """What was used during disjoint stretches of time in order; bounds hold wherever packed calls lie (`loose`)."""
        amount, low, high, counted, rest_ns = (np.zeros(self._count) for _ in range(5))
        edges, covered_ns = (np.zeros(self._count, dtype=np.int64) for _ in range(2))
        for chosen, times_ns, _, steps, ceilings in self._parts:
            inside_ns, long_ns = covered(times_ns, spans), np.diff(times_ns)
            least_ns, most_ns = (inside_ns, inside_ns) if loose is None else _bounds(times_ns, loose)
            whole = least_ns == long_ns
            touched = ((inside_ns > 0) | (most_ns > 0)) & ~whole
            share, counted[chosen] = (steps @ np.stack((inside_ns / long_ns, whole), axis=1)).T
            some, inside, outside = steps[:, touched], most_ns[touched], (long_ns - least_ns)[touched]
            ceiling = np.maximum(ceilings, some / long_ns[touched])
            rising = some > 0
            with np.errstate(invalid="ignore"):
                least = np.where(rising, np.maximum(0, some - ceiling * outside), some)
                most = np.where(rising, np.minimum(some, ceiling * inside), 0)
            amount[chosen] = share
            low[chosen], high[chosen] = counted[chosen] + least.sum(axis=1), counted[chosen] + most.sum(axis=1)
            rest_ns[chosen] = (inside_ns * (1 - inside_ns / long_ns)).sum()
            edges[chosen] = int((np.diff(np.concatenate(([False], inside_ns > 0)).astype(np.int8)) > 0).sum())
            covered_ns[chosen] = inside_ns.sum()
        return Used(amount, low, high, counted, rest_ns, edges, covered_ns)

    def contrasts(self, spans: Spans, age_ns: float, coarse_ns: int = 0) -> Contrasts:
        """What readings tell of the power of stretches of time beside that of their surroundings; `coarse_ns` is how
        far these may lie beside the truth."""
        flat = array("q", np.stack(spans, axis=1).ravel().tobytes())
        laid = [
            (chosen, values, Coverage(times_ns.tolist(), regions.Spans(flat), age_ns, coarse_ns))
            for chosen, times_ns, values, _, _ in self._parts
        ]
        return Contrasts(laid)


class Contrasts:
    """A region laid over the readings of all columns, once: see `region_contrast`."""

    def __init__(self, laid: Sequence[tuple[Ints, Floats, Coverage]]) -> None:
        self._laid = laid

    def of(self, columns: Sequence[int], used: Used) -> Contrast | None:
        """Of some columns' sum; those with gaps of their own add linearly. None where one of them does not tell."""
        uw = u_uw = 0.0
        whole_ns = float(used.rest_ns[list(columns)].max())
        for chosen, values, coverage in self._laid:
            rows = np.isin(chosen, columns)
            if not rows.any():
                continue
            found = coverage.contrast(values[rows].sum(axis=0).tolist())
            if found is None or not whole_ns:
                return None
            part = float(used.rest_ns[chosen[0]]) / whole_ns
            uw, u_uw = uw + found.uw * part, u_uw + found.u_uw * part
        return Contrast(uw, u_uw)


def mean(times_ns: Ints, gauge: Floats, spans: Spans) -> float | None:
    """Mean of a gauge over stretches of time, weighted by time: straight lines between readings, without the time
    beside one that failed (NaN). None where nothing is left."""
    inside_ns, middle = covered(times_ns, spans), (gauge[1:] + gauge[:-1]) / 2
    known = ~np.isnan(middle)
    time_ns = int(inside_ns[known].sum())
    return float((middle[known] * inside_ns[known]).sum()) / time_ns if time_ns else None
