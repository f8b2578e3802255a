"""Standard uncertainty of an energy (GUM, JCGM 100): gain, edges, gaps, sampling, sharing.

What may be wrong with a figure is kept apart by its cause. What has one cause errs together, whatever the domain, the
node or the time (JCGM 100, 5.2.2): it is added with its sign, so that what a meter's rest has too much its leaves have
too little. `RANDOM` is what errs each time anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from perun_hpc.data_model.sensor import Sensor

NS_PER_S = 1_000_000_000

RANDOM = "random"
"""The cause of what errs each time anew."""

Doubts: TypeAlias = Mapping[str, int]
"""Cause -> standard uncertainty (k=1) in uJ, with the sign in which it errs beside others of that cause."""

SHARING_ERROR: dict[str, float] = {
    "exclusive": 0.0,
    "holder": 0.0,
    "unheld": 0.0,
    "cores": 0.34,
    "cores+fit": 0.34,
    "memory+cores": 1.0,
    "slices": 0.65,
    "slices+activity": 0.40,
    "parts": 0.65,
    "presence": 0.70,
    "residual": 0.50,
}
"""How far the watts of one owner's work lie from what a method takes them for, relative, k=1; see docs/method.md."""

STATIC_ERROR: dict[str, float] = {"policy": 0.08, "learnt": 0.09, "nodes": 0.11, "otherwise": 0.2, "unknown": 0.72}
"""Relative standard uncertainty of static power by where it comes from: the nodes of a type differ and heat moves it;
of one that was learnt while governor or caps were others (`otherwise`) it is assumed; of one that is not known half of
the least power seen is taken: it is anything from nothing to that (a rectangle, 0.58), and heat moves it, too."""

DRIFT_ERROR = 0.04
"""What of the above is left while nobody works, of static power that a node has learnt: it learnt it then, and air and
heat move it. The rest comes with work: what works is warmer, and nothing of it sleeps."""

PEAK = 1.3
"""Power at an edge against the highest mean power that was seen in an interval."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A device's energy and its relative gain error; devices of one `model` err together."""

    energy_uj: float
    relative: float
    model: str

    @property
    def doubts(self) -> dict[str, int]:
        """The same as a doubt by its cause."""
        return {f"gain {self.model}": round(self.energy_uj * self.relative)}


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge reading: it may be `tau_ns` old, at a power of at most `max_uw`."""

    max_uw: int
    tau_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without readings, in which power was between `min_uw` and `max_uw`."""

    min_uw: int
    max_uw: int
    duration_ns: int


def random_uj(edges: Iterable[Edge] = (), gaps: Iterable[Gap] = (), others_uj: Iterable[float] = ()) -> int:
    """What errs each time anew (k=1), in uJ, rounded up: the root of the sum of squares.

    Parameters
    ----------
    edges : readings at an interval's edges that may be old; each is a rectangular distribution.
    gaps : times without readings, rectangular, too.
    others_uj : further standard uncertainties.

    Returns
    -------
    It, in uJ.
    """
    square = sum((edge.max_uw * edge.tau_ns / NS_PER_S) ** 2 for edge in edges)
    square += sum(((gap.max_uw - gap.min_uw) * gap.duration_ns / NS_PER_S) ** 2 for gap in gaps)
    return math.ceil(math.sqrt(square / 12 + sum(one**2 for one in others_uj)))


def of_sensor(sensor: Sensor, energy_uj: float, covered_ns: float = 0) -> dict[str, int]:
    """What a sensor counts wrongly of an energy that it counted in so much time, alike on all sensors of its backend.

    Gains add linearly, with the energies' signs, never by the root of N: the same shunt design errs the same way.

    Parameters
    ----------
    sensor : which one.
    energy_uj : what it counted.
    covered_ns : how long that took, for a counter that is off by a constant power.

    Returns
    -------
    Cause -> standard uncertainty (k=1) in uJ.
    """
    gain = Gain(energy_uj, sensor.gain_error, sensor.backend).doubts
    offset_uj = round(sensor.offset_uw * covered_ns / NS_PER_S)
    return {**gain, f"offset {sensor.backend}": offset_uj} if offset_uj else gain


# What has one cause.


def static_error(source: str, working: float = 1.0) -> float:
    """Relative standard uncertainty (k=1) of static power from such a source over time of which a part is `working`."""
    error = STATIC_ERROR.get(source, 0.0)
    if source != "learnt" or working >= 1:
        return error
    return math.hypot(DRIFT_ERROR, math.sqrt(error**2 - DRIFT_ERROR**2) * max(0.0, working))


def added(parts: Iterable[Doubts]) -> dict[str, int]:
    """The doubts of a sum: those of one cause with their signs, the random ones by their squares."""
    result: dict[str, int] = {}
    square = 0
    for doubts in parts:
        for cause, uj in doubts.items():
            if cause == RANDOM:
                square += uj**2
            else:
                result[cause] = result.get(cause, 0) + uj
    if square:
        result[RANDOM] = math.isqrt(square - 1) + 1
    return result


def combined_uj(doubts: Doubts) -> int:
    """Standard uncertainty (k=1) in uJ, rounded up: causes are independent of each other."""
    square = sum(uj**2 for uj in doubts.values())
    return math.isqrt(square - 1) + 1 if square else 0


def standard_uj(gains: Iterable[Gain] = (), edges: Iterable[Edge] = (), gaps: Iterable[Gap] = ()) -> int:
    """Standard uncertainty (k=1) of one energy in uJ, rounded up, for whom the causes do not matter.

    Parameters
    ----------
    gains : energies with the gain errors of their devices; those of one model add linearly, with the energies' signs.
    edges : readings at the interval's edges that may be old.
    gaps : times without readings.

    Returns
    -------
    The root of the sum of their squares, in uJ.
    """
    return combined_uj(added([*(gain.doubts for gain in gains), {RANDOM: random_uj(edges, gaps)}]))


# How a domain was shared out.


@dataclass(frozen=True, slots=True)
class Split:
    """One interval of one domain, shared out: its static and dynamic parts, and the squares of all dynamic shares."""

    static_uj: int
    dynamic_uj: int
    squares: int

    @classmethod
    def of(cls, parts: Iterable[tuple[int, int]]) -> Split:
        """Of the owners' static and dynamic parts."""
        rows = list(parts)
        return cls(sum(s for s, _ in rows), sum(d for _, d in rows), sum(d * d for _, d in rows))

    def static_doubt_uj(self, static_uj: int, dynamic_uj: int, relative: float) -> int:
        """What an owner's energy is wrong by where static power is wrong by its standard uncertainty.

        The more static, the less dynamic: r S (s - q), where s and q are the owner's parts of both.

        Parameters
        ----------
        static_uj, dynamic_uj : the owner's.
        relative : standard uncertainty of static power, of `STATIC_ERROR`.

        Returns
        -------
        The doubt (k=1) in uJ, with its sign.
        """
        if self.dynamic_uj <= 0:
            return 0
        return round(relative * (static_uj - self.static_uj * dynamic_uj / self.dynamic_uj))

    def sharing_doubt_uj(self, dynamic_uj: int, method: str, known_uj: int | None = None) -> tuple[int, int]:
        """Standard uncertainty of an owner's dynamic part: nobody knows the watts behind anybody's work.

        An owner whose work takes more watts than its weight says gets too little, and the others too much: with q_k the
        parts of all owners, sigma D q (1 - q) for its own watts, and sigma D q times the root of the sum of the others'
        q_k^2 for theirs. Who worked alone is sure.

        Parameters
        ----------
        dynamic_uj : the owner's.
        method : a key of `SHARING_ERROR`; what is not there is nobody's to say.
        known_uj : what both together are, where that is known: sigma then only says how they stand to each other.

        Returns
        -------
        The doubt (k=1) in uJ for its own watts, which are the same wherever it runs, and for the others'.
        """
        sigma = SHARING_ERROR.get(method, 1.0)
        if not sigma or self.dynamic_uj <= 0 or dynamic_uj <= 0:
            return 0, 0
        q = dynamic_uj / self.dynamic_uj
        others = max(0.0, self.squares / self.dynamic_uj**2 - q * q)
        own, theirs = sigma * dynamic_uj * (1 - q), sigma * dynamic_uj * math.sqrt(others)
        if known_uj is not None and (own or theirs):
            own, theirs = (one * known_uj / math.hypot(own, theirs) for one in (own, theirs))
        return round(own), round(theirs)
