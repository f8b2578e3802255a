"""Standard uncertainty of an energy (GUM, JCGM 100): gain, edges, gaps, attribution."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

NS_PER_S = 1_000_000_000

ATTRIBUTION_ERROR: dict[str, float] = {
    "exclusive": 0.0,
    "holder": 0.0,
    "unheld": 0.0,
    "cores": 0.20,
    "memory+cores": 0.40,
    "slices": 0.45,
    "parts": 0.45,
    "presence": 0.50,
    "residual": 0.50,
    "negative residual": 1.0,
    "gap": 1.0,
}
"""Relative standard uncertainty of a share's dynamic part by method; docs/method.md says where each is from."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A device's energy and its relative gain error; devices of one `model` err together."""

    energy_uj: float
    relative: float
    model: str


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


def standard_uj(
    gains: Iterable[Gain] = (),
    edges: Iterable[Edge] = (),
    gaps: Iterable[Gap] = (),
    attribution_uj: Iterable[float] = (),
) -> int:
    """Standard uncertainty (k=1) in uJ, rounded up.

    Gain errors within one model add linearly, never by the root of N: the same shunt design errs the same way. An edge
    and a gap are rectangular distributions.

    Parameters
    ----------
    gains : energies with the gain errors of their devices.
    edges : readings at the interval's edges that may be old.
    gaps : times without readings.
    attribution_uj : standard uncertainties of modelled shares, in uJ.

    Returns
    -------
    The root of the sum of their squares, in uJ.
    """
    square = _gain_square(gains)
    square += sum((edge.max_uw * edge.tau_ns / NS_PER_S) ** 2 / 12 for edge in edges)
    square += sum(((gap.max_uw - gap.min_uw) * gap.duration_ns / NS_PER_S) ** 2 / 12 for gap in gaps)
    square += sum(part**2 for part in attribution_uj)
    return math.ceil(math.sqrt(square))


def gain_uj(gains: Iterable[Gain]) -> float:
    """What gain errors alone add to the standard uncertainty (k=1), in uJ."""
    return math.sqrt(_gain_square(gains))


def _gain_square(gains: Iterable[Gain]) -> float:
    by_model: dict[str, float] = defaultdict(float)
    for gain in gains:
        by_model[gain.model] += abs(gain.energy_uj) * gain.relative
    return sum(value**2 for value in by_model.values())


def attribution_uj(dynamic_uj: int, method: str) -> float:
    """Standard uncertainty of a share's dynamic part under an attribution method.

    Parameters
    ----------
    dynamic_uj : the share's dynamic part, in uJ.
    method : a key of `ATTRIBUTION_ERROR`; another one is a KeyError.

    Returns
    -------
    The uncertainty (k=1) in uJ.
    """
    return abs(dynamic_uj) * ATTRIBUTION_ERROR[method]
