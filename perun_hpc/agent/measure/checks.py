"""Each GPU's energy counter held against its own power readings: a frozen counter must not pass for 0 J."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.counters import difference
from perun_hpc.energy.crosscheck import compare
from perun_hpc.energy.integrate import Integral, Rule, integrate

MAX_GAP_NS = 5_000_000_000
LEAST_NS = 30_000_000_000
"""Over a shorter time the check says nothing."""
_NOTHING = Integral(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class _Sum:
    """Counter and integral over the same moments."""

    counter_uj: int = 0
    power: Integral = _NOTHING

    def __add__(self, other: _Sum) -> _Sum:
        return self._combined(other, 1)

    def __sub__(self, other: _Sum) -> _Sum:
        return self._combined(other, -1)

    def _combined(self, other: _Sum, sign: int) -> _Sum:
        one, two = self.power, other.power
        power = Integral(
            one.energy_uj + sign * two.energy_uj,
            one.low_uj + sign * two.low_uj,
            None if one.high_uj is None or two.high_uj is None else one.high_uj + sign * two.high_uj,
            one.covered_ns + sign * two.covered_ns,
            one.gap_ns + sign * two.gap_ns,
        )
        return _Sum(self.counter_uj + sign * other.counter_uj, power)


class Checks:
    """Running sums per GPU; what a job's check says is the difference between its end and its start."""

    def __init__(self) -> None:
        self._pairs: dict[str, tuple[Sensor, Sensor]] = {}
        self._last: dict[str, tuple[Reading, Reading]] = {}
        self._sums: dict[str, _Sum] = {}
        self._starts: dict[str, dict[str, _Sum]] = {}

    def follow(self, sensors: Iterable[Sensor]) -> None:
        """Find the GPUs that have both; the averaged power is preferred, since it misses nothing between readings."""
        counters: dict[str, Sensor] = {}
        powers: dict[str, Sensor] = {}
        for sensor in sensors:
            if sensor.component != "gpu":
                continue
            if sensor.kind is Kind.COUNTER and sensor.quantity is Quantity.ENERGY:
                counters[sensor.domain] = sensor
            elif sensor.quantity is Quantity.POWER and (sensor.domain not in powers or _averaged(sensor)):
                powers[sensor.domain] = sensor
        self._pairs = {name: (counters[name], powers[name]) for name in counters if name in powers}

    def note(self, readings: Mapping[str, Reading]) -> None:
        """Take readings in; those that the device has not renewed change nothing."""
        for name, (counter, power) in self._pairs.items():
            now = readings.get(counter.id), readings.get(power.id)
            if now[0] is None or now[1] is None or now[0].ticks is None or now[1].ticks is None:
                continue
            last = self._last.get(name)
            if last is not None and now[1].mono_ns <= last[1].mono_ns:
                continue
            self._last[name] = (now[0], now[1])
            if last is not None:
                self._sums[name] = self._sums.get(name, _Sum()) + _between(counter, power, last, (now[0], now[1]))

    def begin(self, owner: str) -> None:
        """A job starts."""
        self._starts[owner] = dict(self._sums)

    def end(self, owner: str, held: Iterable[str]) -> dict[str, dict[str, Any]]:
        """A job ends: domain -> ratio of counter to integral, and what is wrong (empty: nothing), of those it held."""
        starts = self._starts.pop(owner, None)
        found: dict[str, dict[str, Any]] = {}
        for name in held if starts is not None else ():
            seen = self._sums.get(name, _Sum()) - (starts or {}).get(name, _Sum())
            check = compare(seen.counter_uj, seen.power)
            if check.ratio is not None and seen.power.covered_ns >= LEAST_NS:
                found[name] = {"ratio": round(check.ratio, 4), "flag": check.flag}
        return found


def _between(counter: Sensor, power: Sensor, last: tuple[Reading, Reading], now: tuple[Reading, Reading]) -> _Sum:
    """Nothing where the counter cannot be compared (a reset, a long gap)."""
    change = difference(counter, last[0], now[0])
    rule = Rule.TRAILING if _averaged(power) else Rule.LINEAR
    integral = integrate(power, (last[1], now[1]), last[1].mono_ns, now[1].mono_ns, MAX_GAP_NS, rule)
    if change.ticks is None or integral.gap_ns:
        return _Sum()
    return _Sum(counter.base(change.ticks), integral)


def _averaged(sensor: Sensor) -> bool:
    return sensor.id.endswith("-average")
