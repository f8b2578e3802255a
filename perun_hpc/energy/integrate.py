"""Energy from power gauges: integration that knows its gaps, and counters made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

NS_PER_S = 1_000_000_000


def beyond(sensor: Sensor, reading: Reading) -> str:
    """Why a gauge's reading is none: it is above the sensor's ceiling; empty where it is not."""
    if reading.ticks is None or sensor.max_uw is None or sensor.base(reading.ticks) <= sensor.max_uw:
        return ""
    watts, most_w = (round(uw / 10**6) for uw in (sensor.base(reading.ticks), sensor.max_uw))
    return f"{watts} W, more than the {most_w} W that it can take (the policy's `energy` may say more)"


class Rule(StrEnum):
    """What a reading says about the time around it."""

    LINEAR = "linear"
    """The power at that moment; straight lines in between (trapezoid)."""

    TRAILING = "trailing"
    """The mean since the reading before (averaging sensors)."""


@dataclass(frozen=True, slots=True)
class Integral:
    """Energy of a gauge over a time span, in uJ, and how much of it readings cover.

    `low_uj` and `high_uj` bound it, if power between two readings stays between them and in gaps between 0 and the
    sensor's `max_uw`; `high_uj` is None when there are gaps and no `max_uw`.
    """

    energy_uj: int
    low_uj: int
    high_uj: int | None
    covered_ns: int
    gap_ns: int


def integrate(
    sensor: Sensor, readings: Sequence[Reading], t0_ns: int, t1_ns: int, max_gap_ns: int, rule: Rule = Rule.LINEAR
) -> Integral:
    """Integrate a power gauge over [t0_ns, t1_ns).

    Failed readings and those above the sensor's ceiling are gaps, as is what lies before the first and after the last.

    Parameters
    ----------
    sensor : the gauge; `max_uw` bounds the power in gaps.
    readings : in time order; those beyond the span's edges count for the pieces that reach into it.
    t0_ns, t1_ns : the time span.
    max_gap_ns : two readings farther apart have a gap between them.
    rule : what a reading says about the time around it.

    Returns
    -------
    The energy, its bounds, and how much of the time span readings cover.
    """
    twice = low = high = covered_ns = 0
    before: Reading | None = None
    for reading in readings:
        if reading.ticks is None or beyond(sensor, reading):
            before = None
            continue
        if before is not None and before.ticks is not None and 0 < reading.mono_ns - before.mono_ns <= max_gap_ns:
            start, end = max(t0_ns, before.mono_ns), min(t1_ns, reading.mono_ns)
            if start < end:
                first, last = _powers(sensor, before, reading, start, end, rule)
                twice += (first + last) * (end - start)
                low += min(first, last) * (end - start)
                high += max(first, last) * (end - start)
                covered_ns += end - start
        before = reading
    gap_ns = t1_ns - t0_ns - covered_ns
    bound = None if gap_ns and sensor.max_uw is None else (high + (sensor.max_uw or 0) * gap_ns) // NS_PER_S
    return Integral(twice // (2 * NS_PER_S), low // NS_PER_S, bound, covered_ns, gap_ns)


def _powers(sensor: Sensor, before: Reading, after: Reading, start: int, end: int, rule: Rule) -> tuple[int, int]:
    """Power in uW at both ends of a piece of the segment between two readings."""
    assert before.ticks is not None
    assert after.ticks is not None
    last = sensor.base(after.ticks)
    if rule is Rule.TRAILING:
        return last, last
    first = sensor.base(before.ticks)
    span = after.mono_ns - before.mono_ns
    rise = last - first
    return first + rise * (start - before.mono_ns) // span, first + rise * (end - before.mono_ns) // span


INTEGRATED = " (integrated power)"
"""How the scope of a counter ends that is made of a gauge."""


def is_integrated(sensor: Sensor) -> bool:
    """Whether a counter is made of a gauge: after power has fallen it may stand still for a while (`at`)."""
    return sensor.scope.endswith(INTEGRATED)


def counter_id(gauge: str) -> str:
    """The id of the counter that is made of a gauge."""
    return gauge.rpartition(":")[0] + ":energy"


_GENERATIONS = 2000
_GENERATION = 2**52


@dataclass(frozen=True, slots=True)
class SyntheticCounter:
    """An energy counter made of a power gauge; a value that is replaced at each reading.

    After a gap longer than `max_gap_ns` it continues at a lower value, so that every difference across the gap is seen
    as a reset and none silently lacks energy. Failed readings inside `max_gap_ns` are bridged.

    A gauge that is read seldom (a management controller every ten seconds) has a counter at every moment all the same:
    `at` takes its power to stay as it was read. What that was too much the counter stands still for afterwards.
    """

    source: Sensor
    max_gap_ns: int
    rule: Rule = Rule.LINEAR
    total: int = 0
    generation: int = 0
    last: Reading | None = None
    shown: int = 0

    @property
    def sensor(self) -> Sensor:
        """The counter as a sensor: energy in uJ, same domain and provenance, never wraps."""
        return replace(
            self.source,
            id=counter_id(self.source.id),
            kind=Kind.COUNTER,
            quantity=Quantity.ENERGY,
            unit="uJ",
            scale_num=1,
            scale_den=1,
            dtype="i8",
            wrap_range=None,
            scope=f"{self.source.scope}{INTEGRATED}",
        )

    def advance(self, reading: Reading) -> tuple[SyntheticCounter, Reading]:
        """The counter after one more reading of its source, and its own reading then.

        A mean over the time before is true for the middle of that time: power goes on from there as it was read.
        """
        why = beyond(self.source, reading)
        if reading.ticks is None or why:
            return self, Reading(None, reading.mono_ns, reading.error or why)
        if not self.source.lag_ns:
            return self._take(reading)
        state, counted = self._take(reading._replace(mono_ns=reading.mono_ns - self.source.lag_ns))
        state, by_now = state.at(reading.mono_ns)
        return state, by_now or counted

    def _take(self, reading: Reading) -> tuple[SyntheticCounter, Reading]:
        last = self.last
        if last is None:
            state = replace(self, last=reading)
        elif not 0 <= reading.mono_ns - last.mono_ns <= self.max_gap_ns:
            state = replace(self, last=reading, total=0, shown=0, generation=self.generation + 1)
        elif reading.mono_ns == last.mono_ns:
            state = self
        else:
            first, now = _powers(self.source, last, reading, last.mono_ns, reading.mono_ns, self.rule)
            state = replace(self, last=reading, total=self.total + (first + now) * (reading.mono_ns - last.mono_ns))
        return state._show(state.total, reading.mono_ns)

    def at(self, now_ns: int) -> tuple[SyntheticCounter, Reading | None]:
        """The counter at a moment after its source's last reading; None where that is too old, or there is none."""
        last = self.last
        if last is None or last.ticks is None or not 0 <= now_ns - last.mono_ns <= self.max_gap_ns:
            return self, None
        return self._show(self.total + 2 * self.source.base(last.ticks) * (now_ns - last.mono_ns), now_ns)

    def _show(self, total: int, mono_ns: int) -> tuple[SyntheticCounter, Reading]:
        """Never less than what was shown before: that would be seen as a reset."""
        shown = max(self.shown, total)
        base = (_GENERATIONS - self.generation) * _GENERATION
        return replace(self, shown=shown), Reading(base + shown // (2 * NS_PER_S), mono_ns)
