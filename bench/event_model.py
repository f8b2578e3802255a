"""What hardware events would add to `energy/work_power.py`: its filter with what cycles, instructions and misses show.

An owner's watts have three terms more, alike for all on a package: by how fast its clock is, by its instructions a
cycle and by its misses a cycle. It is written with matrices, apart from the product's; without events (`known=False`)
both are one filter, which a test holds them to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perun_hpc.energy import work_power as wp

Floats = npt.NDArray[np.float64]
CLOCK, INSTRUCTIONS, MISSES = (1.5, 0.7), (0.0, 0.1), (0.0, 0.1)
"""What a clock twice as fast, and e times as many instructions or misses a cycle, add to the watts; with spreads."""
USUAL_HZ, USUAL_INSTRUCTIONS, USUAL_MISSES = 2.6e9, 1.3, 0.0125
BY_EVENTS = 4
"""Place of the first of these among the state's figures; owners' pairs follow."""
FIRST_OWNER = BY_EVENTS + 3
Events = tuple[int, int, int]
"""Cycles, instructions, last-level misses."""


@dataclass(frozen=True, slots=True)
class Row:
    """An interval of a package: its length, energy and static power, core time and events by owner."""

    duration_ns: int
    total_uj: int
    static_uw: int
    busy_ns: Mapping[str, float]
    events: Mapping[str, Events]


class EventPower:
    """The filter of a package of so many cores, with all owners that will come."""

    def __init__(self, cores: int, owners: Sequence[str], static_error: float, known: bool = True) -> None:
        self._cores, self._static_error, self._known = cores, static_error, known
        self._place = {owner: FIRST_OWNER + 2 * number for number, owner in enumerate(owners)}
        self._x = np.zeros(FIRST_OWNER + 2 * len(owners))
        self._c = np.zeros((len(self._x), len(self._x)))
        self._seen: set[str] = set()
        self._work_w = 0.0

    def take(self, row: Row) -> dict[str, float]:
        """Learn from an interval; watts of each owner's work in it."""
        seconds, static_w = row.duration_ns / wp.NS_PER_S, row.static_uw / 1e6
        busy = {owner: ns / row.duration_ns for owner, ns in row.busy_ns.items() if ns >= 1}
        if not self._seen:
            self._begin(static_w, sum(busy.values()))
        self._pass(seconds, static_w, busy)
        slopes = {owner: self._slopes(owner, cores, row) for owner, cores in busy.items()}
        if row.duration_ns >= wp.LEAST_NS:
            above_w = row.total_uj / 1e6 / seconds - static_w
            self._observe(seconds, above_w, static_w, sum(slopes.values(), np.zeros_like(self._x)))
        least_w = wp.LEAST_PART * self._watts
        return {owner: max(least_w * busy[owner], float(one @ self._x)) for owner, one in slopes.items()}

    @property
    def _watts(self) -> float:
        return max(float(self._x[wp.W]), wp.LEAST_W)

    def _begin(self, static_w: float, cores: float) -> None:
        usual_w = wp.WATTS[0]
        self._x[wp.W] = usual_w
        self._x[wp.WAKE] = wp.WAKING[0] * static_w
        self._work_w = usual_w * cores
        spreads = [wp.WATTS[1], wp.WAKING[1] * static_w, self._static_error * static_w, self._drift_w(static_w)]
        for at, (mean, spread) in enumerate((CLOCK, INSTRUCTIONS, MISSES) if self._known else (), BY_EVENTS):
            self._x[at] = mean * usual_w
            spreads.append(spread * usual_w)
        self._c[: len(spreads), : len(spreads)] = np.diag(np.square(spreads))
        self._first = np.diag(self._c)[: wp.DRIFT].copy()

    def _drift_w(self, static_w: float) -> float:
        return math.hypot(wp.DRIFT_OF_WORK * self._work_w, wp.DRIFT_OF_STATIC * static_w)

    def _pass(self, seconds: float, static_w: float, busy: Mapping[str, float]) -> None:
        spreads = (wp.OWNERS_SPREAD * self._watts, wp.MOVING_SPREAD * self._watts)
        for owner in busy.keys() - self._seen:
            for at, spread_w in enumerate(spreads, self._place[owner]):
                self._c[at, at] = spread_w**2
        self._seen |= busy.keys()
        self._work_w += (self._watts * sum(busy.values()) - self._work_w) * min(1.0, seconds / wp.DRIFT_S)
        for at, first in enumerate(self._first):
            self._c[at, at] = max(self._c[at, at], min(first, self._c[at, at] + first * seconds / wp.ANEW_S))
        keep, spread = np.ones_like(self._x), np.zeros_like(self._x)
        keep[wp.DRIFT], spread[wp.DRIFT] = math.exp(-seconds / wp.DRIFT_S), self._drift_w(static_w)
        for owner in self._seen:
            at = self._place[owner]
            keep[at : at + 2] = math.exp(-seconds / wp.OWNERS_S), math.exp(-seconds / wp.MOVING_S)
            spread[at : at + 2] = spreads
        self._x = self._x * keep
        self._c = self._c * np.outer(keep, keep) + np.diag(np.square(spread) * (1 - np.square(keep)))

    def _slopes(self, owner: str, cores: float, row: Row) -> Floats:
        found = np.zeros_like(self._x)
        at = self._place[owner]
        found[[wp.W, at, at + 1]] = cores
        if self._known:
            cycles, instructions, misses = (max(1, one) for one in row.events[owner])
            found[BY_EVENTS] = cores * (cycles / row.busy_ns[owner] * wp.NS_PER_S / USUAL_HZ - 1)
            found[BY_EVENTS + 1] = cores * math.log(instructions / cycles / USUAL_INSTRUCTIONS)
            found[BY_EVENTS + 2] = cores * math.log(misses / cycles / USUAL_MISSES)
        return found

    def _observe(self, seconds: float, above_w: float, static_w: float, slopes: Floats) -> None:
        whole, awake = float(slopes[wp.W]), wp.AWAKE * self._cores
        slopes[[wp.WAKE, wp.OFFSET, wp.DRIFT]] = min(1.0, whole / awake), 1.0, 1.0
        noise = np.square([wp.NOISE_OF_WORK * self._work_w, wp.NOISE_OF_STATIC * static_w, wp.NOISE_W]).sum() / seconds
        moved = self._c @ slopes
        variance = float(slopes @ moved) + noise + ((wp.ASLEEP * static_w) ** 2 if whole < awake else 0.0)
        self._x = self._x + moved * (above_w - float(slopes @ self._x)) / variance
        self._c = self._c - np.outer(moved, moved) / variance
