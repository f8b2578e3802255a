"""Whether two energies differ: what both have in common cancels, what each has for itself stays; repeats say the rest.

A sensor that counts 3 % too much counts 3 % too much in both of two runs on the same nodes: their ratio knows nothing
of it (JCGM 100, F.1.2.3). All here is in logarithms of energies, so that doubts are relative ones. Formulas and what is
assumed stand in docs/method.md, *Comparisons*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from perun_hpc.energy.uncertainty import RANDOM, Doubts

COMMON = ("gain", "offset", "static")
"""Causes that two runs by the same sensors of the same nodes have in common, by their first word."""
NEVER_COMMON = frozenset(("gain estimate", "gain unknown"))
"""An estimate knows CPU time alone, and is wrong in another way for another program."""
OWN = 0.1
"""The part of a common error that each run has for itself: a gain moves a little with load and warmth (assumed)."""
ALPHA, POWER = 0.05, 0.8
"""Risks of a test of a difference: to see one that is none, 5 %; to see one that is there, 80 %."""
PROVED = 0.02
"""The difference for which the number of repeats is said."""
MANY = 1000
"""More repeats than these nobody makes."""

_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t at 97.5 % for 1 to 30 degrees of freedom."""


@dataclass(frozen=True)
class Run:
    """One run: its energy in J, how long it took, what it may be wrong by, and which part of it each node used.

    `doubts` are relative (k=1) by cause, with their signs. `parts` sum to 1; empty where nobody knows the nodes.
    """

    energy_j: float
    elapsed_s: float
    doubts: Mapping[str, float]
    parts: Mapping[str, float]

    @classmethod
    def of(cls, energy_uj: int, elapsed_s: float, doubts: Doubts, nodes_uj: Mapping[str, int]) -> Run:
        """Of an energy above 0 in uJ, its doubts in uJ, and what each node used of it."""
        whole = sum(uj for uj in nodes_uj.values() if uj > 0)
        return cls(
            energy_uj / 1e6,
            elapsed_s,
            {cause: uj / energy_uj for cause, uj in doubts.items()},
            {node: uj / whole for node, uj in nodes_uj.items() if uj > 0} if whole else {},
        )

    @property
    def delay_product_js(self) -> float:
        """Energy times time, in J s."""
        return self.energy_j * self.elapsed_s

    @property
    def random(self) -> float:
        """What errs each time anew, relative, k=1."""
        return self.doubts.get(RANDOM, 0.0)


@dataclass(frozen=True)
class Difference:
    """How much more one side's figure is than the other's, and how sure that is.

    Attributes
    ----------
    change : as a fraction of the first side's figure: -0.03 is 3 % less.
    log : the same as the difference of logarithms.
    bound : what it may be wrong by (95 %), of sensors and repeats together, on the logarithm.
    systematic : the part of the sensors that more repeats leave as it is (k=1).
    spread : how far runs of one side lie from each other (standard deviation of the logarithm); None: not known.
    """

    change: float
    log: float
    bound: float
    systematic: float
    spread: float | None

    @property
    def within(self) -> bool:
        """Whether the bounds explain it: no difference was seen."""
        return abs(self.log) <= self.bound

    @property
    def low(self) -> float:
        """The least change that the bounds allow."""
        return math.expm1(self.log - self.bound)

    @property
    def high(self) -> float:
        """The greatest."""
        return math.expm1(self.log + self.bound)


def common_part(first: Sequence[Run], second: Sequence[Run]) -> float:
    """Which part of two sides' energies was used on the same nodes, 0 to 1; 0 where nobody knows the nodes."""
    if not all(run.parts for run in (*first, *second)):
        return 0.0
    one, other = (_mean([run.parts for run in side]) for side in (first, second))
    return sum(min(part, other[node]) for node, part in one.items() if node in other)


def systematic(first: Sequence[Run], second: Sequence[Run]) -> float:
    """What the ratio of two sides may be wrong by however often they are repeated, relative, k=1.

    Relative doubts a and b of one cause leave a^2 + b^2 - 2 r a b (JCGM 100, 5.2.2). Where it is one that sensors have
    in common, r = 1 - (1 - m)^2 - (OWN m)^2, with the part m of the energies that is from the same nodes: what is from
    others errs together within its side, and on its own beside the other.
    """
    a, b = (mean_doubts(side) for side in (first, second))
    m = common_part(first, second)
    square = 0.0
    for cause in (a.keys() | b.keys()) - {RANDOM}:
        one, other = a.get(cause, 0.0), b.get(cause, 0.0)
        common = cause.split(" ")[0] in COMMON and cause not in NEVER_COMMON
        r = 1 - (1 - m) ** 2 - (OWN * m) ** 2 if common else 0.0
        square += one**2 + other**2 - 2 * r * one * other
    return math.sqrt(max(0.0, square))


def energies(first: Sequence[Run], second: Sequence[Run], known: tuple[float, int] | None = None) -> Difference:
    """How the energies of two sides differ.

    Parameters
    ----------
    first, second : one run or more of each.
    known : spread (of the logarithm) and its degrees of freedom that other runs of this work showed; it counts where
        neither side has repeats.

    Returns
    -------
    The difference of the geometric means, with bounds.
    """
    return _difference([run.energy_j for run in first], [run.energy_j for run in second], first, second, known)


def delay_products(first: Sequence[Run], second: Sequence[Run], known: tuple[float, int] | None = None) -> Difference:
    """How energy times time differs: the sensors' doubts are the energy's, the clock has none."""
    figures = [[run.delay_product_js for run in side] for side in (first, second)]
    return _difference(figures[0], figures[1], first, second, known)


def times(first: Sequence[Run], second: Sequence[Run]) -> Difference:
    """How the times differ; of one run each there is no bound, since nobody knows their spread."""
    bare = [[Run(run.energy_j, run.elapsed_s, {}, {}) for run in side] for side in (first, second)]
    figures = [[run.elapsed_s for run in side] for side in bare]
    return _difference(figures[0], figures[1], bare[0], bare[1], None)


def spread(figures: Sequence[float]) -> tuple[float, int] | None:
    """Standard deviation of the logarithms and its degrees of freedom; None of fewer than two."""
    if len(figures) < 2:
        return None
    logs = [math.log(one) for one in figures]
    mean = math.fsum(logs) / len(logs)
    return math.sqrt(math.fsum((one - mean) ** 2 for one in logs) / (len(logs) - 1)), len(logs) - 1


def repeats(spread: float, systematic: float, wanted: float = PROVED) -> int | None:
    """How many runs of each side prove a difference of `wanted`, with `POWER` at `ALPHA`, two-sided.

    n = 2 (z_0.975 + z_0.8)^2 s^2 / d^2 + z_0.975^2 / 4, where d = ln(1 + wanted) less twice what the sensors leave;
    the last term is what the test by Student's t needs more than one by the normal distribution (Guenther, 1981).

    Parameters
    ----------
    spread : of single runs.
    systematic : of `Difference`.
    wanted : the difference, as a fraction.

    Returns
    -------
    At least 2; None where the sensors leave more in doubt than that, however many there are, or `MANY` are too few.
    """
    seen = math.log1p(wanted) - 2 * systematic
    if seen <= 0:
        return None
    z = NormalDist().inv_cdf(1 - ALPHA / 2)
    n = 2 * ((z + NormalDist().inv_cdf(POWER)) * spread / seen) ** 2 + z * z / 4
    return max(2, math.ceil(n)) if n <= MANY else None


def t_975(freedom: float) -> float:
    """Student's t at 97.5 %; degrees of freedom are rounded down, infinitely many are the normal distribution."""
    z = NormalDist().inv_cdf(1 - ALPHA / 2)
    if freedom >= len(_T) + 1:
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return _T[max(1, int(freedom)) - 1]


def _difference(
    one: Sequence[float],
    other: Sequence[float],
    first: Sequence[Run],
    second: Sequence[Run],
    known: tuple[float, int] | None,
) -> Difference:
    log = _mean_log(other) - _mean_log(one)
    left = systematic(first, second)
    seen = [spread(one), spread(other)]
    floors = [sum(run.random**2 for run in side) / len(side) ** 2 for side in (first, second)]
    if all(seen):
        freedom, squares = _welch([s for s in seen if s], (len(one), len(other)))
    elif (only := next((s for s in seen if s), known)) is not None:
        freedom, squares = float(only[1]), [only[0] ** 2 / len(one), only[0] ** 2 / len(other)]
    else:
        freedom, squares = math.inf, [0.0, 0.0]
    # Repeats show what errs each time anew as well; few of them may show too little.
    own = sum(max(pair) for pair in zip(squares, floors, strict=True))
    bound = math.hypot(t_975(freedom) * math.sqrt(own), 2 * left)
    return Difference(math.expm1(log), log, bound, left, _pooled([s for s in seen if s] or ([known] if known else [])))


def _welch(seen: Sequence[tuple[float, int]], counts: tuple[int, int]) -> tuple[float, list[float]]:
    """Degrees of freedom (Welch-Satterthwaite) and the squares of both means' standard errors."""
    squares = [s**2 / n for (s, _), n in zip(seen, counts, strict=True)]
    below = sum(square**2 / freedom for square, (_, freedom) in zip(squares, seen, strict=True))
    return (sum(squares) ** 2 / below if below else float(min(f for _, f in seen))), squares


def _pooled(seen: Iterable[tuple[float, int]]) -> float | None:
    rows = list(seen)
    freedom = sum(f for _, f in rows)
    return math.sqrt(sum(s**2 * f for s, f in rows) / freedom) if freedom else None


def _mean_log(figures: Sequence[float]) -> float:
    return math.fsum(math.log(one) for one in figures) / len(figures)


def mean_doubts(runs: Sequence[Run]) -> dict[str, float]:
    """The relative doubts of a mean of runs: what has one cause errs in all of them alike."""
    doubts = _mean([run.doubts for run in runs])
    square = sum(run.random**2 for run in runs)
    return {**doubts, RANDOM: math.sqrt(square) / len(runs)} if square else doubts


def _mean(maps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: math.fsum(one.get(key, 0.0) for one in maps) / len(maps) for row in maps for key in row}
