"""The energy of a marked region: counted where readings allow it, else estimated, else within bounds.

The agent and `perun monitor` settle a region's energy here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from perun_hpc.energy import regions
from perun_hpc.energy.region_contrast import MODEL_ERROR, Contrast, Coverage
from perun_hpc.energy.regions import NO_LIMITS, NS_PER_S, RECTANGLE, Limits, Loose, Spans, Used
from perun_hpc.energy.uncertainty import PEAK

HALF_RECTANGLE = RECTANGLE / 2
SURE = 0.9
"""A figure of which readings count this part is counted, whatever the rest of it rests on."""


class Method(str, Enum):
    """What a region's energy rests on, from best to worst.

    Attributes
    ----------
    COUNTED : on what was counted between readings inside its calls, but for a tenth at most.
    ESTIMATED : on the slope of power on coverage, over intervals that it covers in part.
    BOUNDED : on what may have been used in these intervals at least and at most.
    """

    COUNTED = "counted"
    ESTIMATED = "estimated"
    BOUNDED = "bounded"


@dataclass(frozen=True)
class Estimate:
    """A region's energy in uJ, its standard uncertainty (k=1) without the sensors' gain, its bounds, its method."""

    uj: float
    u_uj: float
    low_uj: float
    high_uj: float
    method: Method


def settle(used: Used, contrast: Contrast | None, time_ns: int, age_ns: float = 0.0) -> Estimate:
    """The energy of a region, of what readings tell and of what its power is beside its surroundings'.

    Between its bounds nothing is likelier than anything else; the further one of them is the half of a rectangle.
    Contrast and bounds, which are independent, are weighed by their squares. A contrast that leaves the bounds is none.

    Parameters
    ----------
    used, contrast : over the same readings.
    time_ns : how long it was.
    age_ns : how old the readings at both ends of each run of intervals may be.
    """
    low, high = min(used.low, used.high), max(used.low, used.high)
    uj = min(max(used.amount, low), high)
    u_uj = max(uj - low, high - uj) / HALF_RECTANGLE
    weight = 0.0
    if contrast is not None and u_uj > 0:
        rest_s = used.rest_ns / NS_PER_S
        other_uj = used.amount + contrast.uw * rest_s
        u_other_uj = max(math.hypot(contrast.u_uw * rest_s, MODEL_ERROR * abs(other_uj - used.counted)), 1e-9)
        if low - 2 * u_other_uj <= other_uj <= high + 2 * u_other_uj:
            weight = u_uj**2 / (u_uj**2 + u_other_uj**2)
            uj = min(max((1 - weight) * uj + weight * other_uj, low), high)
            u_uj = min(u_uj * math.sqrt(1 - weight), max(uj - low, high - uj) / HALF_RECTANGLE)
    if age_ns and time_ns:
        old_uj = PEAK * abs(used.amount) / time_ns * age_ns
        u_uj = math.hypot(u_uj, old_uj * math.sqrt(used.edges / 6))
    if abs(used.counted) >= SURE * abs(used.amount):
        method = Method.COUNTED
    else:
        method = Method.ESTIMATED if weight >= 0.5 else Method.BOUNDED
    return Estimate(uj, u_uj, low, high, method)


def estimate(
    times_ns: Sequence[int],
    values: Sequence[int],
    spans: Spans,
    limits: Limits = NO_LIMITS,
    contrasted: bool = True,
    coarse_ns: int = 0,
    loose: Loose[Spans] | None = None,
) -> Estimate:
    """The energy of stretches of time, of the readings of one sum that goes on; see `regions.used`.

    Without `contrasted` only bounds are asked for, which costs less; `coarse_ns` is how far the stretches may lie
    beside the truth, `loose` where.
    """
    used = regions.used(times_ns, values, spans, limits, loose)
    contrast = None
    if contrasted and worth(used):
        contrast = Coverage(times_ns, spans, limits.age_ns, coarse_ns).contrast(values)
    return settle(used, contrast, spans.time_ns, limits.age_ns)


def worth(used: Used) -> bool:
    """Whether a contrast may tell more than what was counted."""
    return used.high - used.low > MODEL_ERROR * abs(used.amount)


def worst_method(methods: Iterable[str]) -> str:
    """The worst of some methods by name; empty where one is not known."""
    order = [one.value for one in Method]
    found = set(methods)
    return max(found, key=order.index) if found and found <= set(order) else ""
