"""What a marked region used: its calls made disjoint, and laid over readings of the energy so far.

The rule of both engines. The agent takes it as it stands here (standard library, whole numbers); for the many sensors
of `perun monitor` the same steps are done on arrays (`region_arrays`), and a test holds the two together.

Calls are rows of (region, start_ns, end_ns), as a rank hands them over (`data_model/rank_data.py`). A row that names no
region, or that never began (`start_ns` of 0 or less), is no call; one whose `end_ns` is 0 was open when the rank ended,
a negative one raised at `-end_ns`. What lies outside of the rank's life is cut off.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

NS_PER_S = 1_000_000_000
RECTANGLE = math.sqrt(12)
"""The width of a rectangular distribution in its standard deviations (GUM, JCGM 100, 4.3.7)."""


class Spans:
    """Disjoint stretches of time in order, flat: some hundred thousand of them in a few MB."""

    def __init__(self, flat: array[int]) -> None:
        self._flat = flat

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Their begins and ends."""
        flat = self._flat
        return ((flat[at], flat[at + 1]) for at in range(0, len(flat), 2))

    def __len__(self) -> int:
        return len(self._flat) // 2

    @property
    def time_ns(self) -> int:
        """How long they are together."""
        return sum(end - begin for begin, end in self)

    @property
    def reach(self) -> tuple[int, int] | None:
        """The begin of the first and the end of the last."""
        return (self._flat[0], self._flat[-1]) if self._flat else None

    @property
    def later(self) -> Spans:
        """All but the first."""
        return Spans(self._flat[2:])

    def between(self, begin: int, end: int, beside: int = 0) -> Spans:
        """Those that are in a stretch of time, at least in part, and so many on each side of it."""
        flat = self._flat
        first = bisect_right(flat, begin) // 2 - beside
        return Spans(flat[2 * max(0, first) : 2 * ((bisect_left(flat, end) + 1) // 2 + beside)])


@dataclass(frozen=True)
class Marked(Generic[T]):
    """The calls of one region of one rank.

    Attributes
    ----------
    calls, raised, still_open : how many there were, were left by an exception, were never left.
    total_ns : how long all calls took together.
    spans : when at least one of them ran.
    """

    calls: int
    raised: int
    still_open: int
    total_ns: int
    spans: T


@dataclass(frozen=True)
class Limits:
    """What is known of power and of readings, whatever a region did.

    Attributes
    ----------
    floor_uw, ceiling_uw : power that is never fallen below and, where one is known, never exceeded.
    age_ns : how old readings may be.
    """

    floor_uw: int = 0
    ceiling_uw: int | None = None
    age_ns: float = 0.0


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Used:
    """What was used during stretches of time, as far as readings tell.

    Attributes
    ----------
    amount : by straight lines between readings.
    low, high : bounds that hold whenever it was used: what was counted between readings that lie wholly inside, and of
        intervals that are touched the least and the most that the limits of power allow.
    counted : of `amount`, that of intervals that lie wholly inside.
    rest_ns : sum of c (1 - c / d) over the intervals, c of whose length d are inside.
    edges : runs of touched intervals: each begins and ends with a reading that may be old.
    """

    amount: float
    low: float
    high: float
    counted: float = 0.0
    rest_ns: float = 0.0
    edges: int = 0


def by_region(calls: Sequence[int], regions: int, start_ns: int, end_ns: int) -> dict[int, Marked[Spans]]:
    """The calls of each region that has any, in order; `regions` is how many there are, the times the rank's life."""
    spans: dict[int, array[int]] = {}
    counts: dict[int, list[int]] = {}
    for at in range(0, len(calls) - 2, 3):
        region, begin, end = calls[at], calls[at + 1], calls[at + 2]
        if not 0 <= region < regions or begin <= 0:
            continue
        if region not in counts:
            counts[region], spans[region] = [0, 0, 0, 0], array("q")
        count = counts[region]
        count[0] += 1
        count[1] += end < 0
        count[2] += end == 0
        begin, end = max(begin, start_ns), min(abs(end) or end_ns, end_ns)
        if end > begin:
            count[3] += end - begin
            spans[region].append(begin)
            spans[region].append(end)
    result = {}
    for region in sorted(counts):
        number, raised, still_open, total_ns = counts[region]
        result[region] = Marked(number, raised, still_open, total_ns, union(spans.pop(region)))
    return result


def union(flat: array[int]) -> Spans:
    """Disjoint stretches that cover the same time as some begins and ends, given in turn; none of them is empty."""
    begins = flat[::2]
    order: Iterable[int] = range(len(begins))
    if any(begins[at] < begins[at - 1] for at in range(1, len(begins))):
        order = sorted(order, key=begins.__getitem__)
    merged = array("q")
    for place in order:
        begin, end = flat[2 * place], flat[2 * place + 1]
        if merged and begin <= merged[-1]:
            merged[-1] = max(merged[-1], end)
        elif end > begin:
            merged.append(begin)
            merged.append(end)
    return Spans(merged)


def covered(times_ns: Sequence[int], spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The intervals between two readings that stretches of time touch, in order, and how long each is covered.

    `times_ns` go on strictly; what lies before the first or after the last is in no interval.
    """
    current, inside_ns = -1, 0
    for begin, end in spans:
        begin, end = max(begin, times_ns[0]), min(end, times_ns[-1])
        place = current
        if place < 0 or begin >= times_ns[place + 1]:
            place = bisect_right(times_ns, begin, max(place, 0)) - 1
        while begin < end:
            until = min(end, times_ns[place + 1])
            if place != current:
                if current >= 0:
                    yield current, inside_ns
                current, inside_ns = place, 0
            inside_ns += until - begin
            begin, place = until, place + 1
    if current >= 0:
        yield current, inside_ns


def used(
    times_ns: Sequence[int], values: Sequence[int], spans: Iterable[tuple[int, int]], limits: Limits = NO_LIMITS
) -> Used:
    """Lay stretches of time over the readings of one sum that goes on (a counter, a gauge's running integral).

    Parameters
    ----------
    times_ns, values : of the readings that are known.
    spans : disjoint, in order.
    limits : of the power behind that sum.
    """
    amount = low = high = counted = edges = 0
    rest_ns, before = 0.0, -2
    floor_uw, ceiling_uw = limits.floor_uw, limits.ceiling_uw
    for place, inside_ns in covered(times_ns, spans) if len(times_ns) > 1 else ():
        step, long_ns = values[place + 1] - values[place], times_ns[place + 1] - times_ns[place]
        edges, before = edges + (place > before + 1), place
        if inside_ns == long_ns:
            amount, low, high, counted = amount + step, low + step, high + step, counted + step
            continue
        amount += (2 * step * inside_ns + long_ns) // (2 * long_ns)
        rest_ns += inside_ns * (1 - inside_ns / long_ns)
        outside_ns = long_ns - inside_ns
        least, most = min(step, 0), max(step, 0)
        if step > 0:
            floor = min(floor_uw / NS_PER_S, step / long_ns)
            least, most = math.floor(floor * inside_ns), math.ceil(step - floor * outside_ns)
            if ceiling_uw is not None:
                ceiling = max(ceiling_uw / NS_PER_S, step / long_ns)
                least = max(least, math.floor(step - ceiling * outside_ns))
                most = min(most, math.ceil(ceiling * inside_ns))
        low, high = low + least, high + most
    return Used(amount, low, high, counted, rest_ns, edges)
