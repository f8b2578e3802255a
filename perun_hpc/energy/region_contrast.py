"""How much more power ran inside a region's calls than beside them, from the intervals that they cover in part.

Nobody knows when it was used inside one interval between two readings. But where readings happen to cut calls, one
interval has more of the region than the next, and the more it has, the more (or less) it counts: the slope of power on
coverage is the region's power less that of its surroundings. Four things would be taken for it, and have slopes of
their own:

- what always runs right before or after a call: the time on both sides of each, up to the next one;
- what a call does at its beginning: its first moments;
- power that goes with how densely the region is called, or how long its calls take: the coverage that there would be if
  each call were spread until the next one;
- slow changes: only what varies inside a block of successive intervals counts.

How far the blocks disagree is the uncertainty (a jackknife), and by how much the beginnings of calls matter. Where
readings tell nothing (calls in step with them, too few, sensors that lag) there is no contrast, and the region has its
bounds alone (`region_energy`).

The one estimate of both engines: standard library, at most `MOST_INTERVALS` intervals and `MOST_SPANS` calls, spread
over the region's time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from perun_hpc.energy.regions import Spans

BLOCKS, FEWEST_BLOCKS, BLOCK = 16, 5, 6
"""Blocks of successive intervals: so many, at least so many, each at least so long."""
MOST_INTERVALS, MOST_SPANS = 8192, 65_536
NEAR = (16, 2)
"""How far before and after calls surroundings reach: an interval's length over these."""
LEAST_EFFECTIVE = 4.0
"""A contrast that rests on fewer blocks than this is none."""
MOST_BLURRED = 0.2
"""How much of the coverage's variance the age of readings, and what is not known of where calls ran, may be."""
LEAST_OWN = 1e-4
"""Coverage that follows from that of other surroundings up to this part is no surrounding of its own."""
MODEL_ERROR = 0.04
"""What the estimated part of a region's energy may be wrong by in any case, relative, k=1."""
_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's t of 97.5 %, by degrees of freedom."""

OWN, BEGINNING = 0, 1
"""Columns: the region's own coverage, and that of its calls' beginnings; then surroundings."""

Vector = list[float]
Matrix = list[list[float]]


@dataclass(frozen=True)
class Contrast:
    """Power inside of a region's calls less that of the other time of the intervals that they cover in part, in uW,
    and its standard uncertainty (k=1)."""

    uw: float
    u_uw: float


@dataclass(frozen=True)
class _Block:
    """Successive intervals from `first` on: how long each is, how its columns cover it (parts), and how much of that is
    inside the region."""

    first: int
    long_ns: Vector
    parts: list[Vector]
    inside: list[Vector]


class Coverage:
    """How a region and its surroundings cover the intervals between readings; laid over any column of these readings.

    Parameters
    ----------
    times_ns : of the readings, going on strictly.
    spans : when the region ran.
    age_ns : how old readings may be.
    coarse_ns : how far spans may lie beside the truth; more than half an interval, and readings tell nothing.
    """

    def __init__(self, times_ns: Sequence[int], spans: Spans, age_ns: float = 0.0, coarse_ns: int = 0) -> None:
        windows, interval_ns = _windows(times_ns, spans)
        windows = windows if 2 * coarse_ns <= interval_ns else []
        near_ns = [max(1, interval_ns // part) for part in NEAR]
        self._blocks = [_block(times_ns, begin, end, spans, near_ns) for begin, end in windows]
        self._squares = [_square(block) for block in self._blocks]
        self._kept: list[int] = []
        self._blurred = 1.0
        if not windows:
            return
        whole_ns = sum(sum(block.long_ns) for block in self._blocks)
        square = _total(self._squares)
        self._kept = _independent(square, whole_ns)
        self._rest = [math.fsum(_rest(block, column) for block in self._blocks) for column in range(len(square))]
        if self._kept and self._rest[OWN] > 0:
            rest = [self._rest[column] / self._rest[OWN] for column in self._kept]
            direction = _solved(_chosen(square, self._kept), rest)
            if direction is not None:
                self._blurred = (
                    (math.hypot(age_ns, coarse_ns) / interval_ns) ** 2 / 6 * _dot(direction, rest) * whole_ns
                )

    def contrast(self, values: Sequence[float]) -> Contrast | None:
        """Of the readings of one sum that goes on, in uJ; None where they do not tell."""
        if self._blurred > MOST_BLURRED:
            return None
        products = [[_product(block, values, column) for column in range(len(self._rest))] for block in self._blocks]
        found = self._fit(products, self._kept)
        if found is None or BEGINNING not in self._kept:
            return found
        alike = self._fit(products, [column for column in self._kept if column != BEGINNING])
        if alike is None:
            return None
        mean, apart = (found.uw + alike.uw) / 2, abs(found.uw - alike.uw) / 2
        return Contrast(mean, math.hypot(max(found.u_uw, alike.u_uw), apart))

    def _fit(self, products: list[Vector], kept: list[int]) -> Contrast | None:
        """By these columns."""
        rest = [self._rest[column] for column in kept]
        squares = [_chosen(one, kept) for one in self._squares]
        right = [[one[column] for column in kept] for one in products]
        square, product = _total(squares), [math.fsum(cells) for cells in zip(*right)]
        slopes, direction = _solved(square, product), _solved(square, rest)
        if slopes is None or direction is None:
            return None
        weights = [_form(one, direction) for one in squares]
        effective = sum(weights) ** 2 / sum(weight**2 for weight in weights)
        if not effective >= LEAST_EFFECTIVE:
            return None
        without = []
        for one, other in zip(squares, right):
            left = [[a - b for a, b in zip(row, less)] for row, less in zip(square, one)]
            found = _solved(left, [a - b for a, b in zip(product, other)])
            if found is None:
                return None
            without.append(_dot(found, rest) / rest[0])
        uw, mean, count = _dot(slopes, rest) / rest[0], math.fsum(without) / len(without), len(without)
        jackknife = math.sqrt((count - 1) / count * math.fsum((one - mean) ** 2 for one in without))
        student = _T[int(min(count, effective)) - 2] / 2
        return Contrast(uw, math.hypot(student * jackknife, uw * self._blurred / (1 - self._blurred)))


def _windows(times_ns: Sequence[int], spans: Spans) -> tuple[list[tuple[int, int]], int]:
    """Intervals (from, to) of each block, and their usual length in ns; none where there are too few."""
    reach = spans.reach
    if reach is None or len(times_ns) < 2:
        return [], 0
    # Without the first and the last: what else began or ended with the region is in them.
    first = bisect_right(times_ns, reach[0])
    last = bisect_left(times_ns, reach[1]) - 1
    count = last - first
    blocks = min(BLOCKS, count // BLOCK)
    if blocks < FEWEST_BLOCKS:
        return [], 0
    cuts = [first + count * block // blocks for block in range(blocks + 1)]
    most = max(BLOCK, MOST_INTERVALS // blocks)
    if len(spans) > MOST_SPANS:
        most = min(most, count * MOST_SPANS // len(spans) // blocks)
        if most < BLOCK:
            return [], 0
    return [(begin, min(end, begin + most)) for begin, end in zip(cuts, cuts[1:])], (
        times_ns[last] - times_ns[first]
    ) // count


def _block(times_ns: Sequence[int], first: int, end: int, spans: Spans, near_ns: Sequence[int]) -> _Block:
    times = times_ns[first : end + 1]
    long_ns = [float(after - before) for before, after in zip(times, times[1:])]
    here = spans.between(times[0] - max(near_ns), times[-1] + max(near_ns), beside=1)

    def laid(stretches: Iterable[Stretch]) -> Vector:
        return _laid(times, long_ns, stretches)

    own, beginning = laid((*one, 1.0) for one in here), laid(_beginnings(here, min(near_ns)))
    nothing = [0.0] * len(own)
    beside = [laid(side(here, ns)) for ns in near_ns for side in (_after, _before)]
    parts = [own, beginning, *beside, laid(_spread(here))]
    inside = [own, beginning, *(nothing for _ in beside), laid(_dense(here))]
    return _Block(first, long_ns, parts, inside)


Stretch = tuple[int, int, float]
"""From, to, weight."""


def _laid(times: Sequence[int], long_ns: Vector, stretches: Iterable[Stretch]) -> Vector:
    """How much of each interval stretches take that come in order."""
    part, place, last = [0.0] * len(long_ns), 0, len(long_ns)
    for begin, end, weight in stretches:
        begin = max(begin, times[0])
        if begin >= times[place + 1]:
            place = bisect_right(times, begin, place) - 1
            if place >= last:
                break
        at = place
        while begin < end and at < last:
            until = min(end, times[at + 1])
            part[at] += weight * (until - begin) / long_ns[at]
            begin, at = until, at + 1
    return part


def _beginnings(spans: Spans, near_ns: int) -> Iterator[Stretch]:
    """The first moments of each call."""
    return ((begin, min(end, begin + near_ns), 1.0) for begin, end in spans)


def _after(spans: Spans, near_ns: int) -> Iterator[Stretch]:
    """The time after each call, up to the next one."""
    last: int | None = None
    for begin, end in spans:
        if last is not None:
            yield last, min(begin, last + near_ns), 1.0
        last = end
    if last is not None:
        yield last, last + near_ns, 1.0


def _before(spans: Spans, near_ns: int) -> Iterator[Stretch]:
    """The time before each call, from the one before."""
    last: int | None = None
    for begin, end in spans:
        yield (begin - near_ns if last is None else max(last, begin - near_ns)), begin, 1.0
        last = end


def _spread(spans: Spans) -> Iterator[Stretch]:
    """Each call spread until the next one, with the part of that time that it takes."""
    for (begin, end), (after, _) in zip(spans, spans.later):
        yield begin, after, (end - begin) / (after - begin)


def _dense(spans: Spans) -> Iterator[Stretch]:
    """Each call with the part that it takes of the time until the next one."""
    for (begin, end), (after, _) in zip(spans, spans.later):
        yield begin, end, (end - begin) / (after - begin)


def _rest(block: _Block, column: int) -> float:
    """How much more of a column there is inside the region than in the intervals that it touches."""
    rows = zip(block.inside[column], block.parts[OWN], block.parts[column], block.long_ns)
    return math.fsum(long_ns * (inside - own * part) for inside, own, part, long_ns in rows)


def _chosen(square: Matrix, kept: Sequence[int]) -> Matrix:
    return [[square[row][column] for column in kept] for row in kept]


def _square(block: _Block) -> Matrix:
    """Sums of products of what varies inside a block, by length of intervals."""
    long_ns, whole = block.long_ns, sum(block.long_ns)
    varies = []
    for part in block.parts:
        mean = sum(map(float.__mul__, part, long_ns)) / whole
        varies.append([one - mean for one in part])
    weighted = [list(map(float.__mul__, one, long_ns)) for one in varies]
    return [[sum(map(float.__mul__, a, b)) for b in varies] for a in weighted]


def _product(block: _Block, values: Sequence[float], column: int) -> float:
    """As `_square`, of a surrounding with power, in uJ / s x ns."""
    first, long_ns, part = block.first, block.long_ns, block.parts[column]
    mean = sum(map(float.__mul__, part, long_ns)) / sum(long_ns)
    return 1e9 * math.fsum((one - mean) * (values[first + at + 1] - values[first + at]) for at, one in enumerate(part))


def _independent(square: Matrix, weight: float) -> list[int]:
    """The columns that others do not tell already."""
    kept: list[int] = []
    for column in range(len(square)):
        own = square[column][column]
        if kept:
            others = [[square[i][j] for j in kept] for i in kept]
            shared = [square[column][j] for j in kept]
            explained = _solved(others, shared)
            left = own - _dot(explained, shared) if explained is not None else 0.0
        else:
            left = own
        if left > LEAST_OWN * own and left > 1e-9 * weight:
            kept.append(column)
        elif column == 0:
            return []
    return kept


def _total(ones: Sequence[Matrix]) -> Matrix:
    return [[math.fsum(cells) for cells in zip(*rows)] for rows in zip(*ones)]


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other))


def _form(square: Matrix, one: Vector) -> float:
    return _dot([_dot(row, one) for row in square], one)


def _solved(square: Matrix, right: Sequence[float]) -> Vector | None:
    """The solution of a symmetric, positive system, by elimination; None where it has none that is certain."""
    rows = [[*row, value] for row, value in zip(square, right)]
    size = len(rows)
    for at in range(size):
        pivot = rows[at][at]
        if not pivot > 1e-12 * square[at][at] or not pivot > 0:
            return None
        for below in rows[at + 1 :]:
            factor = below[at] / pivot
            for column in range(at, size + 1):
                below[column] -= factor * rows[at][column]
    result = [0.0] * size
    for at in reversed(range(size)):
        result[at] = (rows[at][size] - _dot(rows[at][at + 1 : size], result[at + 1 :])) / rows[at][at]
    return result
