"""Power gauges that energy rests on, as counters: where a node has no counter, its gauge is integrated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from perun_hpc.data_model.sensor import Reading, Sensor
from perun_hpc.energy.containment import integrated, spare_meters
from perun_hpc.energy.integrate import SyntheticCounter

MAX_GAP_NS = 30_000_000_000
"""Two readings further apart leave a gap: nothing is known of the power in between."""


Left: TypeAlias = tuple[int, int, int, int, int]
"""Where a counter is left: its gauge's last ticks and their time (monotonic ns), its total, generation, shown total."""


class Gauges:
    """The synthetic counters of a node, by the id of their gauge."""

    def __init__(self) -> None:
        self._counters: dict[str, SyntheticCounter] = {}
        self._spare: frozenset[str] = frozenset()
        self._left: dict[str, Left] = {}

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The counters that energy rests on."""
        return tuple(counter.sensor for gauge, counter in self._counters.items() if gauge not in self._spare)

    def follow(self, sensors: Iterable[Sensor], silent: Collection[str] = ()) -> None:
        """Integrate the gauges among the sensors that energy rests on, and no others; known ones go on counting.

        A gauge may be described in another way than before: the policy raised its ceiling, say. Meters that would count
        in another one's place are integrated, too, so that nothing is lost where they do; `silent` ones give nothing.
        """
        known, everything = self._counters, list(sensors)
        chosen, spare = integrated(everything, silent), spare_meters(everything, silent)
        self._spare = frozenset(one.id for one in spare)
        self._counters = {
            one.id: replace(known[one.id], source=one) if one.id in known else self._begun(one)
            for one in (*chosen, *spare)
        }

    @property
    def left(self) -> dict[str, Left]:
        """Where the counters are, for the next agent."""
        return {
            gauge: (one.last.ticks, one.last.mono_ns, one.total, one.generation, one.shown)
            for gauge, one in self._counters.items()
            if one.last is not None and one.last.ticks is not None
        }

    def go_on_from(self, left: Mapping[str, Left]) -> None:
        """Go on where the last agent of this boot left the counters, also those of gauges that are found later."""
        self._left = dict(left)
        self._counters = {gauge: self._begun(one.source) for gauge, one in self._counters.items()}

    def _begun(self, gauge: Sensor) -> SyntheticCounter:
        counter = SyntheticCounter(gauge, MAX_GAP_NS)
        if gauge.id not in self._left:
            return counter
        ticks, mono_ns, total, generation, shown = self._left.pop(gauge.id)
        return replace(counter, last=Reading(ticks, mono_ns), total=total, generation=generation, shown=shown)

    def needs(self, sensors: Iterable[Sensor]) -> bool:
        """Whether one of these must be read often."""
        return any(sensor.id in self._counters for sensor in sensors)

    def take(self, readings: Mapping[str, Reading]) -> None:
        """Take in the gauges' readings."""
        for gauge, counter in self._counters.items():
            if gauge in readings:
                self._counters[gauge], _ = counter.advance(readings[gauge])

    def advance(self, readings: Mapping[str, Reading], now_ns: int) -> dict[str, Reading]:
        """Take in the gauges' readings; returns those of the counters, by their id, up to now where they are older."""
        counted: dict[str, Reading] = {}
        for gauge, counter in self._counters.items():
            if gauge in readings:
                state, reading = counter.advance(readings[gauge])
                if reading.ticks is not None:
                    state, by_now = state.at(now_ns)
                    reading = by_now or reading
                self._counters[gauge] = state
                counted[counter.sensor.id] = reading
        return counted
