"""Hidden power as sensors show it: gains, offsets, renewal, trailing means, sensors that look a part of the time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.coverage.physics import Floats, Random
from perun_hpc.backend.powercap import MEMORY_OFFSET_UW
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

NS_PER_S = 1_000_000_000
START_NS = 5_000 * NS_PER_S
"""Monotonic time of a trial's moment 0."""


def ns(at_s: float) -> int:
    """Monotonic time of a moment."""
    return START_NS + round(at_s * NS_PER_S)


@dataclass
class Curve:
    """Hidden power over time, W, as energy up to any moment."""

    step_s: float
    power: Floats
    _sum: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._sum = np.concatenate(([0.0], np.cumsum(self.power) * self.step_s))

    def until(self, at_s: float) -> float:
        """Joules from moment 0."""
        place = min(max(at_s / self.step_s, 0.0), len(self._sum) - 1.0)
        low = min(int(place), len(self._sum) - 2)
        return float(self._sum[low] + (place - low) * (self._sum[low + 1] - self._sum[low]))

    def between(self, from_s: float, to_s: float) -> float:
        """Joules of a stretch of time."""
        return self.until(to_s) - self.until(from_s)


@dataclass(frozen=True)
class Shown:
    """A hidden curve behind one sensor.

    Attributes
    ----------
    gain, offset_w : what the sensor counts wrongly.
    renewed_s, phase_s : how often, and at which moments, its value is renewed.
    window_s : a gauge shows the mean of so long before; 0: a counter.
    silent : from when to when it gives no reading.
    """

    sensor: Sensor
    curve: Curve
    gain: float = 0.0
    offset_w: float = 0.0
    renewed_s: float = 0.001
    phase_s: float = 0.0
    window_s: float = 0.0
    silent: tuple[tuple[float, float], ...] = ()

    def read(self, at_s: float) -> Reading:
        """What it shows at a moment."""
        if any(begin <= at_s < until for begin, until in self.silent):
            return Reading(None, ns(at_s), "no answer")
        renewals = np.floor((at_s - self.phase_s) / self.renewed_s + 1e-9)
        true_s = max(0.0, float(renewals) * self.renewed_s + self.phase_s)
        if self.window_s:
            watts = self.curve.between(true_s - self.window_s, true_s) / min(self.window_s, max(true_s, 1e-3))
            return Reading(round(watts * (1 + self.gain) * 1e6), ns(at_s))
        joules = self.curve.until(true_s) * (1 + self.gain) + self.offset_w * true_s
        return Reading(int(joules * 1e6 / 61) * 61 + 10**9, ns(at_s))


def duty(curve: Curve, rng: Random, part: float = 0.25, period_s: float = 0.1) -> Curve:
    """What a sensor makes of a curve that looks at the first part of each period only and takes it for the whole."""
    per = max(1, round(period_s / curve.step_s))
    power = curve.power
    start = int(rng.integers(per))
    seen = np.empty_like(power)
    looked = max(1, round(per * part))
    seen[:start] = power[: max(1, start)].mean()
    for at in range(start, len(power), per):
        seen[at : at + per] = power[at : at + looked].mean()
    return Curve(curve.step_s, seen)


def sensor(
    backend: str,
    domain: str,
    component: str,
    gain_error: float,
    update_ns: int,
    max_w: float,
    kind: Kind = Kind.COUNTER,
    name: str = "",
    lag_ns: int = 0,
    sampled_ns: int = 0,
) -> Sensor:
    """A sensor as its backend would describe it."""
    quantity = Quantity.ENERGY if kind is Kind.COUNTER else Quantity.POWER
    return Sensor(
        id=f"{backend}:{domain}:{name or quantity.value}",
        host="node",
        backend=backend,
        device=domain,
        domain=domain,
        component=component,
        kind=kind,
        quantity=quantity,
        unit="uJ" if kind is Kind.COUNTER else "uW",
        gain_error=gain_error,
        offset_uw=MEMORY_OFFSET_UW if component == "dram" else 0,
        update_ns=update_ns,
        lag_ns=lag_ns,
        sampled_ns=sampled_ns,
        max_uw=round(max_w * 1e6),
        scope=domain,
    )
