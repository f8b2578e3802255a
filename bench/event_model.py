"""Watts behind hardware events: a fit of a package's own energy by what jobs' cycles, instructions and misses were.

An interval's dynamic energy of a package is taken for sum_j s_j (a cycles_j + b instructions_j + c misses_j) + rest:
a, b and c are the package's, none negative; s_j is how much more the same events of job j take (wider vectors, other
data), known beforehand to 35 %. The rest is what no event shows, which is not to be taken for a job: what static power
is wrong by, and a drift of 4 % of the mean dynamic power that keeps for a minute. All are fitted together by least
squares over the intervals so far, with bounds from the curvature at the fit.

Not a part of the agent: `bench.events` shows what it would bring, and docs/method.md what that decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NS_PER_S = 1_000_000_000
PRIOR = (0.75, 0.23, 0.02)
"""How much of the dynamic energy cycles, instructions and misses are taken to explain before anything is known."""
PRIOR_SPREAD = 0.3
"""How far, relative (k=1), each of these may lie from that."""
SCALE_SPREAD = 0.35
DRIFT = 0.04
DRIFT_NS = 60 * NS_PER_S
OWN_SPREAD = 0.16
"""How far the watts of one program's events move about from one interval to another, relative (k=1)."""
ROUNDS = 12
OWN_NS = 20 * NS_PER_S
"""How long they stay where they went."""
MOST_ROWS = 120
LEAST_NS = NS_PER_S // 2
"""Intervals shorter than this say more about a counter's edges than about jobs."""
Events = tuple[int, int, int]
"""Cycles, instructions, last-level misses."""


@dataclass(frozen=True, slots=True)
class Row:
    """An interval of a package: its length, its dynamic energy that jobs explain, their events by owner."""

    duration_ns: int
    energy_uj: int
    events: Mapping[str, Events]


@dataclass(frozen=True, slots=True)
class Fit:
    """What events take, in uJ each, and each job's scale; `misfit` is what is left against what is expected of it.

    `spread` is the covariance of the coefficients (relative to themselves) and then of the jobs' scales, as `owners`.
    """

    taken_uj: tuple[float, float, float]
    scales: Mapping[str, float]
    owners: tuple[str, ...]
    spread: Sequence[Sequence[float]]
    misfit: float

    def energies(self, events: Mapping[str, Events]) -> dict[str, float]:
        """What jobs' events take, in uJ; of a job that the fit has not seen at scale 1."""
        return {owner: self.scales.get(owner, 1.0) * _dot(self.taken_uj, one) for owner, one in events.items()}

    def part_errors(self, events: Mapping[str, Events]) -> dict[str, float]:
        """Standard uncertainty (k=1) of each job's part of an interval's energy, relative to the whole."""
        energies = self.energies(events)
        whole = sum(energies.values())
        if whole <= 0:
            return dict.fromkeys(events, 0.0)
        terms = [
            {owner: self.scales.get(owner, 1.0) * taken * one[k] for owner, one in events.items()}
            for k, taken in enumerate(self.taken_uj)
        ]
        place = {owner: 3 + number for number, owner in enumerate(self.owners)}
        found = {}
        for owner, energy in energies.items():
            q = energy / whole
            slopes = [0.0] * (3 + len(self.owners))
            own = 0.0
            for k, term in enumerate(terms):
                slopes[k] = (term[owner] - q * sum(term.values())) / whole
            for other, theirs in energies.items():
                slope = ((other == owner) - q) * theirs / whole
                if other in place:
                    slopes[place[other]] = slope / max(1e-9, self.scales[other])
                else:
                    own += (slope * SCALE_SPREAD) ** 2
            square = sum(a * b * s for a, row in zip(slopes, self.spread) for b, s in zip(slopes, row))
            found[owner] = math.sqrt(max(0.0, square) + own)
        return found


def fit(rows: Sequence[Row], static_u_uw: float = 0.0) -> Fit | None:
    """Fit the package's coefficients and the jobs' scales to intervals in the order of time; None: nothing to fit.

    Parameters
    ----------
    rows : the intervals so far; of more than `MOST_ROWS` the last ones count.
    static_u_uw : standard uncertainty (k=1) of the static power that was taken off, the same in all intervals.
    """
    used = [row for row in rows if row.duration_ns >= LEAST_NS and row.energy_uj > 0 and _sum(row)][-MOST_ROWS:]
    if not used:
        return None
    energy = sum(row.energy_uj for row in used)
    totals = [sum(one[k] for row in used for one in row.events.values()) for k in range(3)]
    prior = [part * energy / total if total else 0.0 for part, total in zip(PRIOR, totals)]
    mean_uw = energy * NS_PER_S / sum(row.duration_ns for row in used)
    owners = tuple(sorted({owner for row in used for owner in row.events}))
    scales = dict.fromkeys(owners, 1.0)
    taken = list(prior)
    rests = _Rests(used, mean_uw, static_u_uw)
    weights = [_weight(row, mean_uw, taken) for row in used]
    for _ in range(ROUNDS):
        taken = _coefficients(used, weights, scales, prior, rests)
        scales = _scales(used, weights, taken, owners, rests)
    left = [
        row.energy_uj - rest - sum(scales[o] * _dot(taken, one) for o, one in row.events.items())
        for row, rest in zip(used, rests.energies())
    ]
    misfit = math.sqrt(sum(w * one * one for w, one in zip(weights, left)) / len(left))
    spread = _spread(used, weights, taken, scales, owners, prior, rests)
    return Fit((taken[0], taken[1], taken[2]), scales, owners, spread, misfit)


class _Rests:
    """Power that no event shows, in units of its spread: what static power is wrong by, and a drift a minute long."""

    def __init__(self, rows: Sequence[Row], mean_uw: float, static_u_uw: float) -> None:
        self._columns: list[dict[int, float]] = []
        self._drift_uw = DRIFT * mean_uw
        at_ns, minutes = 0, []
        for row in rows:
            minutes.append(at_ns // DRIFT_NS)
            at_ns += row.duration_ns
        self.count = 1 + minutes[-1] - minutes[0] + 1
        for row, minute in zip(rows, minutes):
            seconds = row.duration_ns / NS_PER_S
            self._columns.append({0: static_u_uw * seconds, 1 + minute - minutes[0]: self._drift_uw * seconds})
        self.found = [0.0] * self.count

    def slopes(self, number: int) -> Mapping[int, float]:
        """Of an interval: unknown -> uJ that one unit of it is."""
        return self._columns[number]

    def energies(self) -> list[float]:
        """What they are in each interval, in uJ."""
        return [sum(self.found[k] * uj for k, uj in column.items()) for column in self._columns]


def _dot(taken: Sequence[float], events: Events) -> float:
    return taken[0] * events[0] + taken[1] * events[1] + taken[2] * events[2]


def _sum(row: Row) -> int:
    return sum(sum(one) for one in row.events.values())


def _weight(row: Row, mean_uw: float, taken: Sequence[float]) -> float:
    """One over an interval's variance: what programs move about for a while, and what readings do."""
    seconds = row.duration_ns / NS_PER_S
    while_ns = max(1.0, OWN_NS / row.duration_ns)
    moving = sum((OWN_SPREAD * _dot(taken, one)) ** 2 for one in row.events.values()) * while_ns
    return 1.0 / ((0.01 * mean_uw * seconds) ** 2 + moving)


def _coefficients(
    rows: Sequence[Row],
    weights: Sequence[float],
    scales: Mapping[str, float],
    prior: Sequence[float],
    rests: _Rests,
) -> list[float]:
    """Non-negative least squares in three unknowns, in parts of what was known beforehand: the best of all faces."""
    live = [k for k in range(3) if prior[k] > 0]
    normal = [[0.0] * 3 for _ in range(3)]
    right = [0.0] * 3
    for row, weight, rest in zip(rows, weights, rests.energies()):
        x = [prior[k] * sum(scales[o] * one[k] for o, one in row.events.items()) for k in range(3)]
        for i in live:
            right[i] += weight * x[i] * (row.energy_uj - rest)
            for j in live:
                normal[i][j] += weight * x[i] * x[j]
    for k in live:
        normal[k][k] += 1.0 / PRIOR_SPREAD**2
        right[k] += 1.0 / PRIOR_SPREAD**2
    best, least = [0.0] * 3, math.inf
    for face in range(1, 8):
        free = [k for k in live if face >> k & 1]
        if len(free) != bin(face).count("1"):
            continue
        inverse = _inverse([[normal[i][j] for j in free] for i in free])
        solved = [sum(a * right[j] for a, j in zip(line, free)) for line in inverse]
        if min(solved) < 0:
            continue
        full = [0.0] * 3
        for k, value in zip(free, solved):
            full[k] = value
        loss = sum(full[i] * normal[i][j] * full[j] for i in free for j in free)
        loss -= 2 * sum(full[k] * right[k] for k in free)
        if loss < least:
            best, least = full, loss
    return [best[k] * prior[k] for k in range(3)]


def _scales(
    rows: Sequence[Row], weights: Sequence[float], taken: Sequence[float], owners: Sequence[str], rests: _Rests
) -> dict[str, float]:
    """Jobs' scales, and the rests with them, by least squares with what is known of them beforehand."""
    place = {owner: number for number, owner in enumerate(owners)}
    size = len(owners) + rests.count
    normal = [[0.0] * size for _ in range(size)]
    right = [0.0] * size
    for number in range(size):
        known = 1.0 / SCALE_SPREAD**2 if number < len(owners) else 1.0
        normal[number][number] = known
        right[number] = known if number < len(owners) else 0.0
    for number, (row, weight) in enumerate(zip(rows, weights)):
        there = [(place[owner], _dot(taken, one)) for owner, one in row.events.items()]
        there += [(len(owners) + k, uj) for k, uj in rests.slopes(number).items()]
        for i, mine in there:
            right[i] += weight * mine * row.energy_uj
            for j, theirs in there:
                normal[i][j] += weight * mine * theirs
    solved = [sum(a * b for a, b in zip(line, right)) for line in _inverse(normal)]
    rests.found = solved[len(owners) :]
    return {owner: min(3.0, max(0.2, one)) for owner, one in zip(owners, solved)}


def _spread(
    rows: Sequence[Row],
    weights: Sequence[float],
    taken: Sequence[float],
    scales: Mapping[str, float],
    owners: Sequence[str],
    prior: Sequence[float],
    rests: _Rests,
) -> list[list[float]]:
    """Covariance of all unknowns at the fit: coefficients relative to themselves, scales, rests."""
    size = 3 + len(owners) + rests.count
    place = {owner: 3 + number for number, owner in enumerate(owners)}
    normal = [[0.0] * size for _ in range(size)]
    for k in range(3):
        spread = PRIOR_SPREAD * prior[k] / taken[k] if taken[k] > 0 else 1.0
        normal[k][k] = 1.0 / max(1e-6, spread) ** 2
    for number in range(3, size):
        normal[number][number] = 1.0 / SCALE_SPREAD**2 if number < 3 + len(owners) else 1.0
    for number, (row, weight) in enumerate(zip(rows, weights)):
        slopes = {3 + len(owners) + k: uj for k, uj in rests.slopes(number).items()}
        for k in range(3):
            slopes[k] = sum(scales[owner] * taken[k] * one[k] for owner, one in row.events.items())
        for owner, one in row.events.items():
            slopes[place[owner]] = _dot(taken, one)
        for i, mine in slopes.items():
            for j, theirs in slopes.items():
                normal[i][j] += weight * mine * theirs
    return _inverse(normal)


def _inverse(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Inverse of a positive definite matrix by Gauss and Jordan."""
    size = len(matrix)
    rows = [[*line, *(1.0 if i == j else 0.0 for j in range(size))] for i, line in enumerate(matrix)]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column][column] or 1e-300
        rows[column] = [value / lead for value in rows[column]]
        for other in range(size):
            factor = rows[other][column]
            if other != column and factor:
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[column])]
    return [line[size:] for line in rows]
