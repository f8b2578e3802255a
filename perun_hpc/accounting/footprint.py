"""A record's footprint: its energy, spread over the days on which it was used, times the site's factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from perun_hpc.accounting.daily import seconds_by_day
from perun_hpc.accounting.site import Site
from perun_hpc.accounting.wall import at_wall
from perun_hpc.config.kinds import Number, Table
from perun_hpc.config.schema import FIELDS
from perun_hpc.config.schema import Footprint as Settings
from perun_hpc.data_model.record import CARBON, Embodied, EnergyRecord, Footprint, Spread
from perun_hpc.energy.footprint import Factor, Factors, Piece, footprint, from_policy
from perun_hpc.errors import ConfigError

NAMES = ("pue", "carbon_location", "carbon_market", "carbon_upstream", "price")
ModelOf = Callable[[str], Mapping[str, Any] | None]
_MOST_PRICE = 1000.0
"""Of a kWh; a series may have negative prices, as exchanges do."""


def _no_model(node: str) -> None:
    return None


class Estimator:
    """What the energy of records means by a site's factors: CO2 and cost.

    A series lies in a file that somebody else writes. One that cannot be read leaves its last good values in force;
    where there are none yet, records say why they have no footprint. No record waits for it.
    """

    def __init__(self) -> None:
        self._good: dict[str, tuple[Mapping[str, Any], Factor]] = {}
        self._stamps: dict[str, tuple[Mapping[str, Any], object]] = {}
        self._faults: dict[str, str] = {}
        self._stated: tuple[str, ...] = ()
        self._wall_model: ModelOf = _no_model
        self._embodied: ModelOf = _no_model

    def renew(
        self, settings: Settings, wall_model: ModelOf | None = None, embodied: ModelOf | None = None
    ) -> list[str]:
        """Look at the site's series again; returns what has just become wrong, one sentence each.

        By a node's name `wall_model` gives the model from what its sensors show to what it draws at the wall, and
        `embodied` what making it emitted.
        """
        self._wall_model, self._embodied = wall_model or _no_model, embodied or _no_model
        before = dict(self._faults)
        self._stated = tuple(name for name in NAMES if getattr(settings, name))
        self._faults = {name: why for name, why in self._faults.items() if name in self._stated}
        for name in self._stated:
            table = getattr(settings, name)
            stamp = (table, _stamp(table))
            if self._stamps.get(name) == stamp:
                continue
            self._stamps[name] = stamp
            if self._good.get(name, (table, None))[0] != table:
                del self._good[name]
            try:
                self._good[name] = (table, stated_factor(name, table))
                self._faults.pop(name, None)
            except ConfigError as error:
                self._faults[name] = f"{name}: {error}"
        return [
            f"footprint.{why}; {'the last good series counts' if name in self._good else 'records have no footprint'}"
            for name, why in self._faults.items()
            if before.get(name) != why
        ]

    def __call__(self, record: EnergyRecord) -> Footprint | None:
        """Return a record's footprint, None where the site states nothing that it follows from, or nobody reported."""
        made, embodied = self._of_energy(record), embodied_of(record, self._embodied)
        return made if embodied is None else replace(made or unknown(), embodied=embodied)

    def _of_energy(self, record: EnergyRecord) -> Footprint | None:
        if not self._stated or record.energy_uj is None:
            return None
        absent = [self._faults[name] for name in self._stated if name not in self._good]
        if absent:
            return unknown(*absent)
        try:
            stated = Factors(**{name: self._good[name][1] for name in self._stated})
            return estimate(record, stated, self._wall_model)
        except (ArithmeticError, ValueError, OSError) as error:  # times that no calendar has, say
            return unknown(f"not computed: {error}")


def stated_factor(name: str, table: Mapping[str, Any]) -> Factor:
    """Return one factor of the policy's section `footprint`; `ConfigError` says what is wrong with its series."""
    kinds = FIELDS[f"footprint.{name}"].kind
    assert isinstance(kinds, Table)
    number = next(key.kind for key in kinds.keys.values() if isinstance(key.kind, Number))
    low, high = (-_MOST_PRICE, _MOST_PRICE) if name == "price" else (number.low, number.high)
    found = from_policy(table, low=low, high=high)
    assert found is not None
    if name == "carbon_location" and table.get("series") and not table.get("kind"):
        return replace(found, note=f"{found.note}, average or marginal not stated")
    return found


class Estimators:
    """An estimator for each partition that has factors of its own (another region, another PUE), and the site's."""

    def __init__(self) -> None:
        self._of: dict[str, Estimator] = {"": Estimator()}

    def renew(self, site: Site) -> list[str]:
        """Look at the policy's factors again; returns what has just become wrong, one sentence each."""
        self._of = {name: self._of.get(name) or Estimator() for name in ("", *site.factored)}
        said: dict[str, None] = {}
        for name, estimator in self._of.items():
            where = f"partition {name}: " if name else ""
            faults = estimator.renew(site.footprint(name), site.wall_model, site.embodied)
            said |= {f"{where}{why}": None for why in faults}
        return list(said)

    def __call__(self, record: EnergyRecord) -> Footprint | None:
        """Return a record's footprint by the factors of its partition."""
        return self._of.get(record.partition, self._of[""])(record)


def stated_factors(site: Site) -> dict[str, Factor]:
    """Return all factors of the policy by their names; those of a partition as `PARTITION/NAME`."""
    found = {}
    for partition in ("", *site.factored):
        settings = site.footprint(partition)
        for name in NAMES:
            table = getattr(settings, name)
            if table and (not partition or table != getattr(site.settings.footprint, name)):
                found[f"{partition}/{name}".lstrip("/")] = stated_factor(name, table)
    return found


def unknown(*why: str) -> Footprint:
    """Return the footprint that nobody knows, with the reasons."""
    return Footprint(None, None, None, None, "", True, why)


def _stamp(table: Mapping[str, Any]) -> object:
    """Return what changes with the file of a series."""
    try:
        status = Path(str(table.get("series") or "/")).stat()
    except OSError as error:
        return error.errno
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def estimate(record: EnergyRecord, stated: Factors, wall_model: ModelOf = _no_model) -> Footprint | None:
    """Return a record's footprint, None where no energy is known; that of its nodes without a meter by their model."""
    if record.energy_uj is None:
        return None
    metered = next((c.domains for c in record.components if c.component == "node"), 0) >= record.num_nodes > 0
    wall = None if metered else at_wall(record, wall_model)
    pieces = _pieces(record)
    if wall is not None:
        pieces = [replace(one, energy_uj=one.energy_uj * wall.energy_uj // record.energy_uj) for one in pieces]
    made = footprint(pieces, stated, at_wall=metered or wall is not None)
    return Footprint(
        facility_uj=None if made.facility_uj is None else round(made.facility_uj),
        cost=made.cost,
        currency=made.currency,
        lower_bound=made.lower_bound,
        sources=(*(wall.sources if wall else ()), *made.sources),
        bounds=_bounds(record, made.u, wall.u if wall else None),
        **{name: getattr(made, name) for name in CARBON},
    )


def embodied_of(record: EnergyRecord, stated: ModelOf) -> Embodied | None:
    """Return what a job's nodes write off of their making while it has them, by the CPUs that it reserved of each.

    As of a sealed month (ISO/IEC 21031), but for a node that is given out more than once. `stated` gives the policy's
    `footprint.embodied` of a node; None where it does of no node that reported.
    """
    sums, count = dict.fromkeys(("kg", "low", "high"), 0.0), 0
    sources: dict[str, None] = {}
    for node in record.nodes:
        table = stated(node.node)
        if not table or node.end_ns <= node.start_ns:
            continue
        part = min(1.0, node.cpus / node.node_cpus) if node.cpus and node.node_cpus else 1.0
        part *= (node.end_ns - node.start_ns) / table["lifetime_ns"]
        for name in sums:
            sums[name] += 1000 * table[name] * part
        sources[f"embodied: {table['source']}, {table['date']}"] = None
        count += 1
    without = max(len(record.nodes), record.num_nodes) - count
    return Embodied(sums["kg"], sums["low"], sums["high"], count, without, tuple(sources)) if count else None


def _bounds(record: EnergyRecord, stated: Mapping[str, float], at_wall_u: float | None) -> tuple[Spread, ...]:
    """Return what each figure may be wrong by: of its energy, and of the factors that state theirs."""
    if not record.energy_uj:
        return ()
    energy = record.u_uj / abs(record.energy_uj) if at_wall_u is None else at_wall_u
    return tuple(Spread(name, math.hypot(energy, u)) for name, u in stated.items())


def _pieces(record: EnergyRecord) -> list[Piece]:
    energies: dict[str, int] = {}
    for share in record.shares:
        energies[share.day] = energies.get(share.day, 0) + share.energy_uj
    at_s, end_s = record.start_ns // 10**9, record.end_ns // 10**9
    pieces = []
    for day, seconds in sorted(seconds_by_day(at_s, max(end_s, at_s)).items()):
        pieces.append(Piece(at_s * 10**9, (at_s + seconds) * 10**9, energies.pop(day, 0)))
        at_s += seconds
    # A clock that is off can book energy on a day outside the job's own times: it counts at the end.
    rest = sum(energies.values())
    return [*pieces, Piece(record.end_ns, record.end_ns, rest)] if rest else pieces
