"""What a run's figures need of each sensor, kept while sampling: two edge readings and running sums, never the
readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub, truediv
from typing import Any, NamedTuple

from perun_hpc.data_model.sensor import Kind, Provenance, Reading, Rise, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import EnergyDomain, integrated, plan
from perun_hpc.energy.counters import STILL, ceiling_ticks, difference, stands_still, what_lacks
from perun_hpc.energy.crosscheck import NO_MEASUREMENT, may_stand_still, shows_too_little
from perun_hpc.energy.integrate import SyntheticCounter

NS_PER_S = 1_000_000_000


class Elapsed(NamedTuple):
    """How far several rows are apart, each from the one before it, in ns."""

    each: Sequence[int]
    shortest: int
    longest: int


class Times:
    """When several rows were read (CLOCK_MONOTONIC)."""

    def __init__(self, mono_ns: Sequence[int]) -> None:
        self.mono_ns = mono_ns
        self._elapsed: dict[int, Elapsed] = {}

    def elapsed_ns(self, before_ns: int) -> Elapsed:
        """From each to the next, the first one since `before_ns`; made once for all columns."""
        found = self._elapsed.get(before_ns)
        if found is None:
            each = list(map(sub, self.mono_ns, (before_ns, *self.mono_ns)))
            found = self._elapsed[before_ns] = Elapsed(each, min(each), max(each))
        return found


@dataclass
class CounterTally:
    """A counter over a run: last minus first with wraps resolved; what is not known is a gap, never 0.

    `ticks` sums the known differences; a failed reading is bridged by the next good one. `breaks` says why others are
    not known.
    """

    sensor: Sensor
    ticks: int = 0
    covered_ns: int = 0
    gap_ns: int = 0
    peak_per_s: float = 0.0
    first: Reading | None = None
    last: Reading | None = None
    end: Reading | None = None
    whys: dict[str, int] = field(default_factory=dict)
    breaks: list[str] = field(default_factory=list)
    accounted: bool = False
    """Whether the host's energy rests on it."""
    doubted: str = ""
    """Why what it shows is no measurement."""
    _still: Reading | None = None
    """Since when it stands where it is; `_seen_still`: up to when that is known to be no measurement."""
    _seen_still: Reading | None = None

    def add(self, reading: Reading) -> bool:
        """Take the next reading; False where nobody knows what was counted since the one before it."""
        self.end = reading
        if reading.ticks is None:
            self._note(reading.error or "no reading")
            return True
        before, self.last = self.last, reading
        if before is None:
            self.first = reading
            return True
        step = difference(self.sensor, before, reading)
        if step.ticks is None:
            self.gap_ns += max(0, step.elapsed_ns)
            self._break(step.why)
            return False
        if step.ticks or self._still is None:
            self._still = self._seen_still = before if not step.ticks else reading
        if not step.ticks and self.accounted and self._measures_nothing(reading):
            still_ns = reading.mono_ns - (self._seen_still or before).mono_ns
            self.covered_ns = max(0, self.covered_ns - (still_ns - step.elapsed_ns))
            self.gap_ns += still_ns
            self._seen_still = reading
            self._break(STILL)
            return False
        self.ticks += step.ticks
        self.covered_ns += step.elapsed_ns
        if step.elapsed_ns > 0:
            self.peak_per_s = max(self.peak_per_s, self.sensor.base(step.ticks) * NS_PER_S / step.elapsed_ns)
        return True

    def add_many(self, ticks: Sequence[int], times: Times, rise: Rise | None = None) -> bool:
        """Take several readings, all there, as `add` would one after the other: at once where nothing is amiss."""
        before = self.last
        if before is None or before.ticks is None or not self._add_plain(before, before.ticks, ticks, times, rise):
            return all([self.add(Reading(*one)) for one in zip(ticks, times.mono_ns, strict=True)])
        return True

    def _add_plain(self, before: Reading, first: int, ticks: Sequence[int], times: Times, rise: Rise | None) -> bool:
        """Take them at once, `first` being what was read before; False, and nothing taken, where something is amiss."""
        elapsed_ns = times.elapsed_ns(before.mono_ns)
        if elapsed_ns.shortest <= 0:
            return False
        step = ticks[0] - first
        rise = rise or rise_of(step, ticks, elapsed_ns.each)
        least, most = min(step, rise.least), max(step, rise.most)
        if not self._plain(least, most, elapsed_ns):
            return False
        self.ticks += ticks[-1] - first
        self.covered_ns += times.mono_ns[-1] - before.mono_ns
        self._note_rate(step, elapsed_ns.each[0])
        if rise.fastest:
            self._note_rate(ticks[rise.fastest] - ticks[rise.fastest - 1], elapsed_ns.each[rise.fastest])
        self.end = self.last = Reading(ticks[-1], times.mono_ns[-1])
        if most:
            self._still = self._seen_still = Reading(ticks[rise.moved], times.mono_ns[rise.moved])
        elif self._still is None:
            self._still = self._seen_still = before
        return True

    def _note_rate(self, step: int, elapsed_ns: int) -> None:
        self.peak_per_s = max(self.peak_per_s, self.sensor.base(step) * NS_PER_S / elapsed_ns)

    def _plain(self, least: int, most: int, elapsed_ns: Elapsed) -> bool:
        """Whether none of these steps is a wrap, a reset, too much, after too long a time or a standstill."""
        simulated = self.sensor.provenance is Provenance.SIMULATED
        must_move = self.accounted and not simulated and not may_stand_still(self.sensor)
        if elapsed_ns.shortest <= 0 or least < must_move:
            return False
        ceiling, wraps = ceiling_ticks(self.sensor, elapsed_ns.shortest), self.sensor.wrap_range
        if ceiling is None:
            return True
        return most <= ceiling and (wraps is None or wraps > (ceiling_ticks(self.sensor, elapsed_ns.longest) or 0))

    def _break(self, why: str) -> None:
        self._note(why)
        if why not in self.breaks:
            self.breaks.append(why)

    def _measures_nothing(self, reading: Reading) -> bool:
        """Whether it has stood where it is for longer than whatever is on lets it."""
        still = self._still
        return still is not None and not may_stand_still(self.sensor) and stands_still(self.sensor, still, reading)

    def _note(self, why: str) -> None:
        self.whys[why] = self.whys.get(why, 0) + 1

    @property
    def so_far(self) -> int:
        """What was counted by now, in the quantity's base unit."""
        return self.sensor.base(self.ticks)

    @property
    def base(self) -> int | None:
        """The difference in the quantity's base unit; None where it is not known: the counter gave nothing."""
        if not self.covered_ns or self.first is None or self.last is None:
            return None
        silent = self.accounted and not self.ticks and stands_still(self.sensor, self.first, self.last)
        return None if silent or self.doubted else self.so_far

    def result(self) -> dict[str, Any]:
        """The figures as JSON values; `lacks` says why an energy is not, or not wholly, known."""
        lacks: tuple[str, ...] = ()
        if self.sensor.quantity is Quantity.ENERGY and self.end is not None:
            lacks = what_lacks(self.sensor, self.first, self.end, self.accounted)
            lacks += (f"{self.sensor.domain}: {self.doubted}",) if self.doubted and not lacks else ()
        return {
            "base": self.base, "covered_ns": self.covered_ns, "gap_ns": self.gap_ns, "peak_per_s": self.peak_per_s,
            "whys": self.whys, "breaks": self.breaks, "lacks": lacks,
        }  # fmt: skip


@dataclass
class Rest:
    """What a meter counted beside the domains that it contains, from moments at which it and all of them were read."""

    meter: CounterTally
    leaves: dict[str, CounterTally]
    _energy_uj: int = 0
    _settled_uj: int = 0

    def take(self, known: bool) -> None:
        """After each row; `known` is what the meter's `add` said."""
        if known and all(_was_read(one) for one in (self.meter, *self.leaves.values())):
            self._energy_uj += self._open_uj - self._settled_uj
        elif known:
            return
        self._settled_uj = self._open_uj

    @property
    def _open_uj(self) -> int:
        return self.meter.so_far - sum(leaf.so_far for leaf in self.leaves.values())

    @property
    def by_now(self) -> int | None:
        """In uJ up to the meter's last reading; a domain that gives nothing any more is part of it. None: not known."""
        if self.meter.base is None:
            return None
        return self._energy_uj + (self._open_uj - self._settled_uj if _was_read(self.meter) else 0)

    def result(self) -> dict[str, Any]:
        """As JSON values: the energy, and whose is not in it."""
        return {"uj": self.by_now, "beside": list(self.leaves)}


def rise_of(step: int, ticks: Sequence[int], elapsed_ns: Sequence[int]) -> Rise:
    """How ticks go from row to row, each so long after the one before; of one row there is but the step up to it."""
    steps = list(map(sub, ticks[1:], ticks)) or [step]
    rates = list(map(truediv, steps, elapsed_ns[1:]))
    moved = next((place for place in range(len(ticks) - 1, 0, -1) if steps[place - 1]), 0)
    return Rise(min(steps), max(steps), rates.index(max(rates)) + 1 if rates else 0, moved)


def _was_read(tally: CounterTally) -> bool:
    return tally.end is not None and tally.end.ticks is not None


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


class Column(NamedTuple):
    """Raw ticks of one sensor in several rows, why there are none, by the row, and how they rise, if that is known."""

    ticks: Sequence[int]
    whys: Mapping[int, str]
    rise: Rise | None = None


def _readings(ticks: Sequence[int], mono_ns: Sequence[int], whys: Mapping[int, str]) -> Iterator[Reading]:
    for row, (one, ns) in enumerate(zip(ticks, mono_ns, strict=True)):
        yield Reading(None, ns, whys[row]) if row in whys else Reading(one, ns)


class Tallies:
    """The tallies of a row of sensors; power gauges that energy rests on get a synthetic counter behind them.

    `sensors` are the row's columns: the given ones, then the synthetic counters.
    """

    def __init__(self, sensors: Sequence[Sensor], max_gap_ns: int) -> None:
        gauges = {sensor.id for sensor in integrated(sensors)}
        self._given = len(sensors)
        self._cpus = sum(one.quantity is Quantity.UTILISATION and one.domain.startswith("cpu-") for one in sensors) or 1
        self._synthetic: list[tuple[int, SyntheticCounter]] = [
            (column, SyntheticCounter(sensor, max_gap_ns))
            for column, sensor in enumerate(sensors)
            if sensor.id in gauges
        ]
        self.sensors = (*sensors, *(counter.sensor for _, counter in self._synthetic))
        self._tallies: list[CounterTally | GaugeTally] = [
            CounterTally(sensor) if sensor.kind is Kind.COUNTER else GaugeTally(sensor) for sensor in self.sensors
        ]
        domains = plan(self.sensors).counted
        self._leaves = {one.name: self._counter(one) for one in domains if one.kind is not DomainKind.METER}
        self._rests = {
            one.sensor.id: Rest(self._counter(one), {leaf: self._leaves[leaf] for leaf in one.leaves})
            for one in domains
            if one.kind is DomainKind.METER
        }

    def _counter(self, domain: EnergyDomain) -> CounterTally:
        (tally,) = (one for one in self._tallies if one.sensor.id == domain.sensor.id and isinstance(one, CounterTally))
        tally.accounted = True
        return tally

    def add(self, readings: Sequence[Reading]) -> tuple[int | None, ...]:
        """Take one row of readings of the given sensors; returns the raw values of all columns."""
        row = list(readings)
        for place, (column, counter) in enumerate(self._synthetic):
            state, reading = counter.advance(readings[column])
            self._synthetic[place] = (column, state)
            row.append(reading)
        broken = set()
        for tally, reading in zip(self._tallies, row, strict=True):
            if tally.add(reading) is False:
                broken.add(tally.sensor.id)
        for name, rest in self._rests.items():
            rest.take(name not in broken)
        return tuple(reading.ticks for reading in row)

    def add_rows(self, columns: Mapping[int, Column], mono_ns: Sequence[int]) -> dict[int, list[int | None]]:
        """Take several rows of some of the given sensors, by their columns; returns the raw values of the synthetic
        counters of these, by theirs.

        What a meter counted beside others is reckoned once, at the end of these rows.
        """
        made: dict[int, list[int | None]] = {}
        times = Times(mono_ns)
        broken = set()
        for column, (ticks, whys, rise) in columns.items():
            tally = self._tallies[column]
            if isinstance(tally, CounterTally) and not whys:
                known = tally.add_many(ticks, times, rise)
            else:
                known = all([tally.add(one) is not False for one in _readings(ticks, mono_ns, whys)])
            if not known:
                broken.add(tally.sensor.id)
        for place, (column, counter) in enumerate(self._synthetic):
            if column not in columns:
                continue
            ticks, whys, _ = columns[column]
            shown: list[int | None] = []
            for reading in _readings(ticks, mono_ns, whys):
                counter, reading = counter.advance(reading)
                shown.append(reading.ticks)
                if self._tallies[self._given + place].add(reading) is False:
                    broken.add(counter.sensor.id)
            self._synthetic[place] = (column, counter)
            made[self._given + place] = shown
        for name, rest in self._rests.items():
            rest.take(name not in broken)
        return made

    def _hold_against_cpu_time(self) -> None:
        """Doubt what CPU packages and meters of all show, where it is less than the CPUs can have taken."""
        busy_ns = self._busy_ns()
        packages = [one for one in self._leaves.values() if one.sensor.component == "cpu"]
        shown_uj = sum(one.so_far for one in packages)
        for one in (*packages, *(rest.meter for rest in self._rests.values())):
            counted_uj = shown_uj if one.sensor.component == "cpu" else one.so_far
            little = not may_stand_still(one.sensor) and shows_too_little(one.sensor, counted_uj, busy_ns)
            one.doubted = NO_MEASUREMENT if little else ""

    def _busy_ns(self) -> int:
        """How long the CPUs worked, as far as a sensor of the row shows it."""
        for tally in self._tallies:
            if tally.sensor.domain != "cpu":
                continue
            if isinstance(tally, CounterTally) and tally.sensor.quantity is Quantity.TIME:
                return tally.so_far
            if isinstance(tally, GaugeTally) and tally.sensor.quantity is Quantity.UTILISATION:
                return tally.twice_area * tally.sensor.scale_num * self._cpus // (2000 * tally.sensor.scale_den)
        return 0

    def energy_uj(self) -> int | None:
        """Energy of the host so far: its domains and what meters count beside them; None where none is known."""
        self._hold_against_cpu_time()
        parts = [*(leaf.base for leaf in self._leaves.values()), *(rest.by_now for rest in self._rests.values())]
        known = [part for part in parts if part is not None]
        return sum(known) if known else None

    def results(self) -> list[dict[str, Any]]:
        """One set of figures per column; a meter's has its `rest`."""
        self._hold_against_cpu_time()
        found = [tally.result() for tally in self._tallies]
        for tally, result in zip(self._tallies, found, strict=True):
            if tally.sensor.id in self._rests:
                result["rest"] = self._rests[tally.sensor.id].result()
        return found
