"""What a marked region used: its calls made disjoint, and laid over readings of the energy so far.

The rule of both engines. The agent takes it as it stands here (standard library, whole numbers); for the many sensors
of `perun monitor` the same steps are done on arrays (`region_arrays`), and a test holds the two together.

Calls are rows of (region, start_ns, end_ns), as a rank hands them over (`data_model/rank_data.py`). A row that names no
region, or that never began (`start_ns` of 0 or less), is no call; one whose `end_ns` is 0 was open when the rank ended,
a negative one raised at `-end_ns`. What lies outside of the rank's life is cut off.

Many short calls of one region may be packed: four rows are a `Cell` then. When its calls ran is known to the length of
the cell; their time is put into its middle.
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
class Loose(Generic[T]):
    """Where the time of a region with packed calls may lie.

    Attributes
    ----------
    sure : when calls ran that are not packed.
    cells : begin and end in ns, and how much of the time between them is the region's: at least, at most.
    """

    sure: T
    cells: Sequence[tuple[int, int, int, int]]


@dataclass(frozen=True)
class Marked(Generic[T]):
    """The calls of one region of one rank.

    Attributes
    ----------
    calls, raised, still_open : how many there were, were left by an exception, were never left.
    total_ns : how long all calls took together.
    spans : when at least one of them ran.
    coarse_ns : how far `spans` may lie beside the truth.
    loose : of packed calls, None where there are none.
    """

    calls: int
    raised: int
    still_open: int
    total_ns: int
    spans: T
    coarse_ns: int = 0
    loose: Loose[T] | None = None


CELL, REST, CELL_INTS = -2, -(1 << 62), 12
"""The first of a cell's rows names `CELL` less its region, the others `REST`."""
_MOST_PACKED = 1 << 40


@dataclass(frozen=True)
class Cell:
    """Calls of one region between two moments, packed; `squares` is the sum of the squares of their lengths, in ns."""

    region: int
    first_ns: int
    last_ns: int
    calls: int
    raised: int
    total_ns: int
    covered_ns: int
    longest_ns: int
    squares: int


@dataclass(frozen=True)
class Packed:
    """The packed calls of one region; `calls`, `raised` and `total_ns` are of the `cells` that are left.

    Attributes
    ----------
    spans : begin and end of each cell's calls, in the middle of its time, and behind those of the one before.
    loose : where they may lie, see `Loose.cells`.
    coarse_ns : how far they may lie beside the truth.
    """

    cells: Sequence[Cell]
    spans: Sequence[tuple[int, int]]
    loose: Sequence[tuple[int, int, int, int]]
    calls: int
    raised: int
    total_ns: int
    coarse_ns: int


def packed(cells: Iterable[Cell], start_ns: int, end_ns: int) -> Packed:
    """Lay the cells of a region out; no two of them have counted the same time. What is not between two moments is cut
    off."""
    kept, spans, loose = [], [], []
    calls = raised = total_ns = coarse_ns = reach_ns = 0
    for cell in sorted(cells, key=lambda cell: (cell.first_ns, cell.last_ns)):
        calls, raised = calls + cell.calls, raised + cell.raised
        loose_ns = cell.last_ns - cell.first_ns - cell.covered_ns
        begin = max(cell.first_ns + loose_ns // 2, reach_ns)
        reach_ns = begin + cell.covered_ns
        coarse_ns = max(coarse_ns, loose_ns, begin - cell.first_ns)
        earliest, latest = max(cell.first_ns, start_ns), min(cell.last_ns, end_ns)
        if cell.covered_ns and latest > earliest:
            cut_ns = cell.last_ns - cell.first_ns - (latest - earliest)
            most_ns = min(cell.covered_ns, latest - earliest)
            loose.append((earliest, latest, max(0, cell.covered_ns - cut_ns), most_ns))
        begin, end = max(begin, start_ns), min(reach_ns, end_ns)
        if end > begin:
            kept.append(cell)
            spans.append((begin, end))
            total_ns += cell.total_ns * (end - begin) // cell.covered_ns
        elif not cell.covered_ns and start_ns <= cell.first_ns and cell.last_ns <= end_ns:
            kept.append(cell)  # all of its time is another's, too
            total_ns += cell.total_ns
    return Packed(kept, spans, loose, calls, raised, total_ns, coarse_ns)


def cell_of(rows: Sequence[int], regions: int) -> Cell | None:
    """What four rows say, flat; None if they are no cell, or say what cannot be."""
    if len(rows) < CELL_INTS or not REST < rows[0] <= CELL or any(rows[at] != REST for at in (3, 6, 9)):
        return None
    cell = Cell(CELL - rows[0], rows[1], rows[2], rows[4], rows[5], rows[7], rows[8], rows[10], rows[11])
    can_be = (
        cell.region < regions
        and 0 < cell.first_ns <= cell.last_ns
        and 0 <= cell.raised <= cell.calls < _MOST_PACKED
        and cell.calls > 0
        and 0 <= cell.covered_ns <= min(cell.total_ns, cell.last_ns - cell.first_ns)
        and 0 <= cell.longest_ns <= cell.last_ns - cell.first_ns
        and cell.total_ns <= cell.calls * cell.longest_ns
        and cell.squares >= 0
    )
    return cell if can_be else None


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
    cells: dict[int, list[Cell]] = {}
    for at in range(0, len(calls) - 2, 3):
        region, begin, end = calls[at], calls[at + 1], calls[at + 2]
        if region <= CELL:
            if (cell := cell_of(calls[at : at + CELL_INTS], regions)) is not None:
                cells.setdefault(cell.region, []).append(cell)
            continue
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
    for region in sorted(counts.keys() | cells.keys()):
        number, raised, still_open, total_ns = counts.get(region, (0, 0, 0, 0))
        more = packed(cells.get(region, ()), start_ns, end_ns)
        flat = spans.pop(region, array("q"))
        loose = Loose(union(flat), more.loose) if more.loose else None
        for span in more.spans:
            flat.extend(span)
        result[region] = Marked(
            number + more.calls,
            raised + more.raised,
            still_open,
            total_ns + more.total_ns,
            union(flat),
            more.coarse_ns,
            loose,
        )
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


def within(times_ns: Sequence[int], cells: Sequence[tuple[int, int, int, int]]) -> dict[int, tuple[int, int]]:
    """How much of the time of cells (see `Loose.cells`) is in intervals between two readings, at least and at most.

    Where cells lie over each other more than packed calls do, how much at most is not looked at one by one.
    """
    found: dict[int, tuple[int, int]] = {}
    left, far = 4 * (len(cells) + len(times_ns)), (len(times_ns), 0)
    for begin, end, least_ns, most_ns in cells:
        first, last = max(0, bisect_right(times_ns, begin) - 1), min(len(times_ns) - 1, bisect_left(times_ns, end))
        left -= last - first
        if left < 0:
            far = min(far[0], first), max(far[1], last)
            continue
        for place in range(first, last):
            part_ns = min(end, times_ns[place + 1]) - max(begin, times_ns[place])
            low_ns, high_ns = found.get(place, (0, 0))
            low_ns += max(0, least_ns - (end - begin - part_ns))
            found[place] = low_ns, high_ns + min(part_ns, most_ns)
    for place in range(*far):
        found[place] = found.get(place, (0, 0))[0], times_ns[place + 1] - times_ns[place]
    return found


def _inside(
    times_ns: Sequence[int], spans: Iterable[tuple[int, int]], loose: Loose[Spans] | None
) -> Iterator[tuple[int, int, int, int]]:
    """The intervals that are touched, and how long each is covered: as it is laid out, at least, at most."""
    if loose is None:
        yield from ((place, ns, ns, ns) for place, ns in covered(times_ns, spans))
        return
    laid, sure, cells = (
        dict(covered(times_ns, spans)),
        dict(covered(times_ns, loose.sure)),
        within(times_ns, loose.cells),
    )
    for place in sorted(laid.keys() | cells.keys()):
        least_ns, most_ns = cells.get(place, (0, 0))
        alone_ns, long_ns = sure.get(place, 0), times_ns[place + 1] - times_ns[place]
        yield place, laid.get(place, 0), min(long_ns, max(alone_ns, least_ns)), min(long_ns, alone_ns + most_ns)


def used(
    times_ns: Sequence[int],
    values: Sequence[int],
    spans: Iterable[tuple[int, int]],
    limits: Limits = NO_LIMITS,
    loose: Loose[Spans] | None = None,
) -> Used:
    """Lay stretches of time over the readings of one sum that goes on (a counter, a gauge's running integral).

    Parameters
    ----------
    times_ns, values : of the readings that are known.
    spans : disjoint, in order.
    limits : of the power behind that sum.
    loose : where spans of packed calls may lie instead; bounds hold wherever they do.
    """
    amount = low = high = counted = edges = 0
    rest_ns, before = 0.0, -2
    floor_uw, ceiling_uw = limits.floor_uw, limits.ceiling_uw
    for place, inside_ns, least_ns, most_ns in _inside(times_ns, spans, loose) if len(times_ns) > 1 else ():
        step, long_ns = values[place + 1] - values[place], times_ns[place + 1] - times_ns[place]
        if inside_ns:
            edges, before = edges + (place > before + 1), place
        amount += (2 * step * inside_ns + long_ns) // (2 * long_ns)
        rest_ns += inside_ns * (1 - inside_ns / long_ns)
        if least_ns == long_ns:
            low, high, counted = low + step, high + step, counted + step
            continue
        least, most = min(step, 0), max(step, 0)
        if step > 0:
            floor = min(floor_uw / NS_PER_S, step / long_ns)
            least, most = math.floor(floor * least_ns), math.ceil(step - floor * (long_ns - most_ns))
            if ceiling_uw is not None:
                ceiling = max(ceiling_uw / NS_PER_S, step / long_ns)
                least = max(least, math.floor(step - ceiling * (long_ns - least_ns)))
                most = min(most, math.ceil(ceiling * most_ns))
        low, high = low + least, high + most
    return Used(amount, low, high, counted, rest_ns, edges)
