"""A record's part in every local day: what the usage sums are made of. Pure, integer, and exact in total."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from perun_hpc.data_model.record import EnergyRecord

MEASURES = (
    "jobs", "unmeasured", "energy_uj", "idle_uj", "wasted_uj", "modelled_uj", "estimated_uj",
    "simulated_uj", "footprint_uj", "gpu_held_s", "gpu_watched_s", "gpu_idle_s", "cpu_s", "co2_mg", "cost_millicents",
    "co2_market_mg", "co2_upstream_mg", "co2_life_cycle_mg",
)  # fmt: skip
"""The columns that a day holds. A job counts on the day on which it ended.

`gpu_watched_s` is the part of the held time of which it is known whether the GPU was idle, `footprint_uj` the energy
that CO2 and cost are of. `co2_mg` is scope 2, location-based, `co2_market_mg` market-based, `co2_upstream_mg` scope 3,
category 3; `co2_life_cycle_mg` has scopes 2 and 3 in one, location-based. None is ever added to another.
"""

Vector = tuple[int, ...]


def spread(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights` (none negative) into integers that sum to it.

    Without any weight the last part takes all.
    """
    if len(weights) == 1:
        return [total]
    whole = sum(weights)
    if whole <= 0:
        return [0] * (len(weights) - 1) + [total]
    parts, seen, given = [], 0, 0
    for weight in weights:
        seen += weight
        upto = total * seen // whole
        parts.append(upto - given)
        given = upto
    return parts


def local_day(epoch_s: float) -> str:
    """Return the local calendar day of an epoch time."""
    return datetime.fromtimestamp(epoch_s).strftime("%Y-%m-%d")


def seconds_by_day(start_s: int, end_s: int) -> dict[str, int]:
    """Return how many seconds of [start, end] lie in each local day; an empty interval has its day with 0."""
    days: dict[str, int] = {}
    at = start_s
    while True:
        now = datetime.fromtimestamp(at)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time()).timestamp()
        upto = min(end_s, int(midnight))
        days[now.strftime("%Y-%m-%d")] = max(upto - at, 0)
        if upto >= end_s:
            return days
        at = upto


def by_day(record: EnergyRecord) -> dict[str, Vector]:
    """Return the record's measures (in the order of `MEASURES`) per local day; each sums to the record's value."""
    # A job that never started counts on the day of its end.
    start_s, end_s = (record.start_ns or record.end_ns) // 1_000_000_000, record.end_ns // 1_000_000_000
    seconds = seconds_by_day(start_s, max(end_s, start_s))
    last = max(seconds)
    energies: dict[str, int] = {}
    for share in record.shares:
        energies[share.day] = energies.get(share.day, 0) + share.energy_uj
    days = sorted({*seconds, *energies})
    held = [seconds.get(day, 0) for day in days]
    energy = [energies.get(day, 0) for day in days]
    weights = [max(e, 0) for e in energy]
    foot = record.footprint
    named = ("co2_location_g", "co2_market_g", "co2_upstream_g", "co2_life_cycle_g")
    co2_mg = [round(((getattr(foot, name) if foot else None) or 0.0) * 1000) for name in named]
    cost = (foot.cost if foot else None) or 0.0
    columns = (
        [int(day == last) for day in days],
        [int(day == last and record.energy_uj is None) for day in days],
        energy,
        spread(record.idle_uj, weights),
        spread(record.wasted_uj, weights),
        spread(record.modelled_uj, weights),
        spread(record.estimated_uj, weights),
        energy if record.simulated else [0] * len(days),
        energy if foot and foot.known else [0] * len(days),
        spread(record.gpu_held_s, held),
        spread(0 if record.gpu_idle_s is None else record.gpu_held_s, held),
        spread(record.gpu_idle_s or 0, held),
        spread((record.cpu_ns or 0) // 1_000_000_000, held),
        spread(co2_mg[0], weights),
        spread(round(cost * 100_000), weights),
        *(spread(mg, weights) for mg in co2_mg[1:]),
    )
    return dict(zip(days, zip(*columns, strict=True), strict=True))


def add(a: Vector, b: Iterable[int], sign: int = 1) -> Vector:
    """Return a + sign * b."""
    return tuple(x + sign * y for x, y in zip(a, b, strict=True))
