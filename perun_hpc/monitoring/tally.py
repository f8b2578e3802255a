"""What a run's figures need of each sensor, kept while sampling: two edge readings and running sums, never the
readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.counters import Status, difference
from perun_hpc.energy.integrate import SyntheticCounter
from perun_hpc.monitoring.columns import top_energy

NS_PER_S = 1_000_000_000


@dataclass
class CounterTally:
    """A counter over a run: last minus first with wraps resolved; what is not known is a gap, never 0.

    `ticks` sums the known differences; a failed reading is bridged by the next good one.
    """

    sensor: Sensor
    ticks: int = 0
    covered_ns: int = 0
    gap_ns: int = 0
    peak_per_s: float = 0.0
    first: Reading | None = None
    last: Reading | None = None
    whys: dict[str, int] = field(default_factory=dict)

    def add(self, reading: Reading) -> None:
        """Take the next reading."""
        if reading.ticks is None:
            self._note(reading.error or "no reading")
            return
        before, self.last = self.last, reading
        if before is None:
            self.first = reading
            return
        step = difference(self.sensor, before, reading)
        if step.ticks is None or step.status in (Status.GAP, Status.RESET):
            self.gap_ns += max(0, step.elapsed_ns)
            self._note(step.why)
            return
        self.ticks += step.ticks
        self.covered_ns += step.elapsed_ns
        if step.elapsed_ns > 0:
            self.peak_per_s = max(self.peak_per_s, self.sensor.base(step.ticks) * NS_PER_S / step.elapsed_ns)

    def _note(self, why: str) -> None:
        self.whys[why] = self.whys.get(why, 0) + 1

    @property
    def base(self) -> int:
        """The difference in the quantity's base unit."""
        return self.sensor.base(self.ticks)

    def result(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "base": self.base, "covered_ns": self.covered_ns, "gap_ns": self.gap_ns, "peak_per_s": self.peak_per_s,
            "whys": self.whys,
        }  # fmt: skip


@dataclass
class GaugeTally:
    """A gauge over a run: time-weighted mean (straight lines between readings), least and greatest value."""

    sensor: Sensor
    twice_area: int = 0
    covered_ns: int = 0
    gap_ns: int = 0
    low: int | None = None
    high: int | None = None
    last: Reading | None = None
    whys: dict[str, int] = field(default_factory=dict)

    def add(self, reading: Reading) -> None:
        """Take the next reading; time on both sides of a failed one is a gap."""
        before, self.last = self.last, reading
        elapsed_ns = 0 if before is None else max(0, reading.mono_ns - before.mono_ns)
        if reading.ticks is None:
            why = reading.error or "no reading"
            self.whys[why] = self.whys.get(why, 0) + 1
            self.gap_ns += elapsed_ns
            return
        self.low = reading.ticks if self.low is None else min(self.low, reading.ticks)
        self.high = reading.ticks if self.high is None else max(self.high, reading.ticks)
        if before is None:
            return
        if before.ticks is None:
            self.gap_ns += elapsed_ns
        else:
            self.twice_area += (before.ticks + reading.ticks) * elapsed_ns
            self.covered_ns += elapsed_ns

    def result(self) -> dict[str, Any]:
        """The figures as JSON values, in the quantity's base unit."""
        base = self.sensor.base
        mean = self.twice_area / (2 * self.covered_ns) if self.covered_ns else self.low
        scale = self.sensor.scale_num / self.sensor.scale_den
        return {
            "mean": None if mean is None else mean * scale,
            "min": None if self.low is None else base(self.low),
            "max": None if self.high is None else base(self.high),
            "covered_ns": self.covered_ns, "gap_ns": self.gap_ns, "whys": self.whys,
        }  # fmt: skip


class Tallies:
    """The tallies of a row of sensors; power gauges whose domain has no energy counter get a synthetic one behind them.

    `sensors` are the row's columns: the given ones, then the synthetic counters.
    """

    def __init__(self, sensors: Sequence[Sensor], max_gap_ns: int) -> None:
        counted = {s.domain for s in sensors if s.quantity is Quantity.ENERGY and s.kind is Kind.COUNTER}
        self._given = len(sensors)
        self._synthetic: list[tuple[int, SyntheticCounter]] = [
            (column, SyntheticCounter(sensor, max_gap_ns))
            for column, sensor in enumerate(sensors)
            if sensor.quantity is Quantity.POWER and sensor.kind is Kind.GAUGE and sensor.domain not in counted
        ]
        self.sensors = (*sensors, *(counter.sensor for _, counter in self._synthetic))
        self._tallies: list[CounterTally | GaugeTally] = [
            CounterTally(sensor) if sensor.kind is Kind.COUNTER else GaugeTally(sensor) for sensor in self.sensors
        ]

    def add(self, readings: Sequence[Reading]) -> tuple[int | None, ...]:
        """Take one row of readings of the given sensors; returns the raw values of all columns."""
        row = list(readings)
        for place, (column, counter) in enumerate(self._synthetic):
            state, reading = counter.advance(readings[column])
            self._synthetic[place] = (column, state)
            row.append(reading)
        for tally, reading in zip(self._tallies, row, strict=True):
            tally.add(reading)
        return tuple(reading.ticks for reading in row)

    def energy_uj(self) -> int | None:
        """Energy of the host so far (`top_energy`); None without any energy sensor."""
        tallies = [self._tallies[column] for column in top_energy(self.sensors)]
        return sum(tally.base for tally in tallies if isinstance(tally, CounterTally)) if tallies else None

    def results(self) -> list[dict[str, Any]]:
        """One set of figures per column."""
        return [tally.result() for tally in self._tallies]
