"""How fast the GPUs of a job could work: clock, power limit, and for how long limit or heat held the clock down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perun_hpc.data_model.record import Device
from perun_hpc.report import quantities as q

CLOCK = "GPU clock at work"
LIMIT = "GPU power limit"
CAPPED = "GPU time held down by the power limit"
SLOWED = "GPU time slowed by heat or the hardware"
SEEN = 0.5
"""Of less than so much of its time a share of time says nothing of the whole."""


@dataclass(frozen=True)
class _Figure:
    """`apart`: values that differ by more are others; a part of the larger one where `relative`."""

    of: Callable[[Device], float | None]
    text: Callable[[float], str]
    apart: float
    relative: bool


def mhz(khz: float) -> str:
    """A clock, as people read it."""
    return f"{khz / 1e3:.0f} MHz"


def _part(ns: int, d: Device) -> float | None:
    return ns / d.braked_ns if d.braked_ns and d.braked_ns >= SEEN * d.held_ns else None


_FIGURES = {
    CLOCK: _Figure(lambda d: d.clock_khz, mhz, 0.02, True),
    LIMIT: _Figure(lambda d: d.limit_mw, q.power, 0.005, True),
    CAPPED: _Figure(lambda d: _part(d.capped_ns, d), q.percent, 0.05, False),
    SLOWED: _Figure(lambda d: _part(d.slowed_ns, d), q.percent, 0.02, False),
}


def paces(devices: Iterable[Device]) -> dict[str, float]:
    """The figures of a job's GPUs by name, the mean of those that are known; nothing that no GPU tells."""
    found = {}
    for name, figure in _FIGURES.items():
        known = [value for d in devices if (value := figure.of(d)) is not None]
        if known:
            found[name] = math.fsum(known) / len(known)
    return found


def differing(
    one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]
) -> list[tuple[str, tuple[str, str]]]:
    """Of which figures two variants had other values, as texts; each variant is the `paces` of its runs."""
    found = []
    for name, figure in _FIGURES.items():
        known = [[run[name] for run in runs if name in run] for runs in (one, other)]
        means = [math.fsum(values) / len(values) if values else None for values in known]
        if not _alike(means[0], means[1], figure):
            texts = ["not known" if value is None else figure.text(value) for value in means]
            found.append((name, (texts[0], texts[1])))
    return found


def as_json(known: Mapping[str, float]) -> dict[str, float]:
    """The figures of `paces` for programs: Hz, W and parts of 1."""
    names = {CLOCK: ("clock_hz", 1e3), LIMIT: ("power_limit_w", 1e-3)}
    others = {CAPPED: ("power_limit_part", 1.0), SLOWED: ("slowed_part", 1.0)}
    return {key: known[name] * by for name, (key, by) in {**names, **others}.items() if name in known}


def _alike(one: float | None, other: float | None, figure: _Figure) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= figure.apart * (max(one, other) if figure.relative else 1.0)


def words(d: Device) -> list[str]:
    """What is known of one GPU, for a line of its job's report."""
    found = [] if d.clock_khz is None else [f"{mhz(d.clock_khz)} at work"]
    capped, slowed = _part(d.capped_ns, d), _part(d.slowed_ns, d)
    if d.limit_mw is not None:
        held = f", which held it down for {q.percent(capped)} of it" if capped else ""
        found.append(f"limit {q.power(d.limit_mw)}{held}")
    elif capped:
        found.append(f"held down by its power limit for {q.percent(capped)} of it")
    return [*found, *([f"slowed by heat or the hardware for {q.percent(slowed)} of it"] if slowed else [])]


def slowed(d: Device) -> float:
    """The part of its time in which heat or the hardware slowed a GPU; 0 where nobody saw that."""
    return _part(d.slowed_ns, d) or 0.0
