"""A record's footprint: its energy, spread over the days on which it was used, times the site's factors."""

from __future__ import annotations

from collections.abc import Callable

from perun_hpc.accounting.daily import seconds_by_day
from perun_hpc.accounting.schema import EnergyRecord, Footprint
from perun_hpc.config.schema import Footprint as Settings
from perun_hpc.energy.footprint import Factors, Piece, footprint, from_policy


def factors(settings: Settings) -> Factors | None:
    """Return the factors that the policy states, None where it states none."""
    found = Factors(
        pue=from_policy(settings.pue),
        carbon_location=from_policy(settings.carbon_location),
        carbon_market=from_policy(settings.carbon_market),
        price=from_policy(settings.price),
    )
    return None if found == Factors() else found


def estimator(stated: Factors | None) -> Callable[[EnergyRecord], Footprint | None] | None:
    """Return what computes a record's footprint under these factors; None where there are none."""
    return None if stated is None else lambda record: estimate(record, stated)


def estimate(record: EnergyRecord, stated: Factors) -> Footprint | None:
    """Return a record's footprint, None where no energy is known."""
    if record.energy_uj is None:
        return None
    metered = next((c.domains for c in record.components if c.component == "node"), 0)
    made = footprint(_pieces(record), stated, at_wall=metered >= record.num_nodes > 0)
    return Footprint(
        facility_uj=None if made.facility_uj is None else round(made.facility_uj),
        co2_location_g=made.co2_location_g,
        co2_market_g=made.co2_market_g,
        cost=made.cost,
        currency=made.currency,
        lower_bound=made.lower_bound,
        sources=made.sources,
    )


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
