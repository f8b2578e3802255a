"""From energy to CO2 and cost, by factors that name their source and date; others are refused.

What the GHG Protocol keeps apart stays apart: emissions of generating the electricity (scope 2), location- and
market-based; those of the fuels' way to the power plant and of the grid's losses (scope 3, category 3). A life-cycle
factor has both in one, a marginal one says what a kWh more would emit: each is a figure of its own, in no scope.

A PUE (ISO/IEC 30134-2) multiplies energy at the wall. Without a node meter or a calibrated model of the node the energy
at hand is less than that, and the result is a lower bound.
"""

from __future__ import annotations

import bisect
import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from perun_hpc.errors import ConfigError, NotFoundError
from perun_hpc.inputs import read_text

NS_PER_S = 1_000_000_000
UJ_PER_KWH = 3_600_000_000_000
MAX_SERIES_B = 4 << 20
"""A value every quarter of an hour, for five years; what that becomes is held in the collector's memory."""
_REST = "columns beyond the first line's"


@dataclass(frozen=True, slots=True)
class Factor:
    """A step function of time: `values[i]` holds from `from_ns[i]` (CLOCK_REALTIME) on, the first also before.

    `source` and `date` say who published it and when; `note` has, with commas, what it counts (operational, life-cycle,
    marginal, a PUE's category and period), or the currency. `u` is its relative standard uncertainty (k=1); None: its
    source states none.
    """

    values: tuple[float, ...]
    from_ns: tuple[int, ...]
    source: str
    date: str
    note: str = ""
    u: float | None = None

    def __post_init__(self) -> None:
        if not self.source.strip() or not self.date.strip():
            raise ConfigError(
                "a factor without source and date is refused: name both in the policy's footprint section"
            )
        if not self.values or len(self.values) != len(self.from_ns) or list(self.from_ns) != sorted(set(self.from_ns)):
            raise ConfigError(f"the factor of {self.source!r} needs values with rising times")

    @property
    def words(self) -> tuple[str, ...]:
        """What the note says, one by one."""
        return tuple(self.note.split(", "))

    def at(self, real_ns: int) -> float:
        """The value in force at a time."""
        return self.values[max(0, bisect.bisect_right(self.from_ns, real_ns) - 1)]


def constant(value: float, source: str, date: str, note: str = "") -> Factor:
    """A factor that does not change.

    Parameters
    ----------
    value : of the factor, at all times.
    source, date : who published it, and when.
    note : the stage (operational, life-cycle) or the currency.

    Returns
    -------
    The factor; `ConfigError` without a source or a date.
    """
    return Factor((value,), (0,), source, date, note)


def series(
    text: str,
    source: str,
    date: str,
    note: str = "",
    where: str = "",
    low: float = -math.inf,
    high: float = math.inf,
) -> Factor:
    """A factor from CSV text with the columns `time` (UTC, ISO 8601: from then on) and `value`.

    Parameters
    ----------
    text : the CSV.
    source, date, note : as of `constant`.
    where : the file, for messages.
    low, high : what a value may be.

    Raises
    ------
    ConfigError
        Naming the line that is wrong, and what would be right.

    Returns
    -------
    The factor, in the order of its times.
    """
    where = where or f"the series of {source!r}"
    seen: dict[int, tuple[float, int]] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_REST)
    try:
        names = reader.fieldnames or ()
        if not {"time", "value"} <= set(names) or len(set(names)) < len(names):
            shown = ascii(text.partition("\n")[0].strip()[:60])
            raise ConfigError(f"{where}, line 1: {shown}: write the columns time,value there")
        for row in reader:
            when_s, value = _row(row, f"{where}, line {reader.line_num}", low, high)
            if when_s in seen:
                first = seen[when_s][1]
                raise ConfigError(
                    f"{where}, line {reader.line_num}: has the time of line {first}: leave one of them out"
                )
            seen[when_s] = value, reader.line_num
    except csv.Error as error:
        line = reader.reader.line_num  # the dictionary reader's own is that of the last row that it gave
        raise ConfigError(f"{where}, line {line}: not CSV ({error}): correct the line") from error
    if not seen:
        raise ConfigError(f"{where}: no values: write a line with a time and a value below the first line")
    times = sorted(seen)
    values, from_ns = tuple(seen[when_s][0] for when_s in times), tuple(when_s * NS_PER_S for when_s in times)
    return Factor(values, from_ns, source, date, note)


def _row(row: Mapping[str | None, Any], where: str, low: float, high: float) -> tuple[int, float]:
    """Time (epoch seconds) and value of one line; ConfigError for what is none."""
    if _REST in row:
        raise ConfigError(f"{where}: more columns than the first line names: decimals are written with a point")
    try:
        when = datetime.fromisoformat((row["time"] or "").strip())
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
        when_s = round(when.timestamp())
    except (ValueError, OverflowError) as error:
        shown = ascii((row["time"] or "")[:40])
        raise ConfigError(f"{where}: {shown} is no time: write UTC like 2026-01-31T13:00Z") from error
    try:
        value = float(row["value"] or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        bounds = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
        shown = ascii((row["value"] or "")[:40])
        raise ConfigError(f"{where}: {shown} is no value: write a number{bounds}, or leave the line out")
    return when_s, value


def _read(path: str) -> str:
    try:
        return read_text(Path(path), MAX_SERIES_B)
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror}: write the series there, or correct footprint in the policy"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}, {error}") from error


def from_policy(
    table: Mapping[str, Any] | None,
    read: Callable[[str], str] = _read,
    low: float = -math.inf,
    high: float = math.inf,
) -> Factor | None:
    """A factor as the policy's `footprint` section holds it.

    Parameters
    ----------
    table : of the section; None or empty: the site states no such factor.
    read : gives the text of a series' file.
    low, high : what a value of a series may be.

    Returns
    -------
    The factor; None for an empty table.

    Raises
    ------
    ConfigError
        for one that cannot be: says file, line and remedy.
    """
    if not table:
        return None
    note = _note(table)
    source, date = str(table.get("source") or ""), str(table.get("date") or "")
    if table.get("series"):
        path = str(table["series"])
        return replace(series(read(path), source, date, note, path, low, high), u=table.get("u"))
    for key in ("value", "g_per_kwh", "per_kwh"):
        if table.get(key) is not None:
            return replace(constant(float(table[key]), source, date, note), u=table.get("u"))
    raise ConfigError("a factor needs a value or a series: give one in the policy's footprint section")


def _note(table: Mapping[str, Any]) -> str:
    """What a factor counts, as its table says: a PUE of less than a year is an interim one (ISO/IEC 30134-2)."""
    losses = {"included": "with the grid's losses", "excluded": "without the grid's losses"}
    first = table.get("stage") or table.get("currency")
    words = [str(word) for word in (first, table.get("kind"), table.get("category")) if word]
    if table.get("losses"):
        words.append(losses[table["losses"]])
    words += [str(table[key]).replace(",", "") for key in ("region", "period") if table.get(key)]
    if "category" in table or "period" in table:
        words += [] if annual(table) else ["interim"]
        words += [] if table.get("category") else ["category not stated"]
        words += [] if table.get("period") else ["period not stated"]
    return ", ".join(words)


def annual(table: Mapping[str, Any]) -> bool:
    """Whether a PUE is one by ISO/IEC 30134-2: of twelve months or more, and no series of shorter ones."""
    first, _, last = str(table.get("period") or "").partition("/")
    if table.get("series") or not first:
        return False
    if not last:
        return True
    try:
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).days >= 364
    except ValueError:
        return False


def national_intensity(country: str) -> Factor:
    """Yearly mean carbon intensity of a country's electricity (g/kWh, ISO 3166 alpha-3), from our offline table.

    It is a life-cycle factor, of no scope of the GHG Protocol: of what is generated there, without trade and losses.
    """
    text = resources.files("perun_hpc.energy").joinpath("intensities.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        if row["country"] == country.upper():
            note = f"{row['stage']}, average, of what is generated there, without trade, without the grid's losses"
            return constant(float(row["g_per_kwh"]), row["source"], row["year"], note)
    raise NotFoundError(
        f"no carbon intensity for country {country!r}: use its three letters, as in DEU, or your own g/kWh"
    )


@dataclass(frozen=True, slots=True)
class Piece:
    """Energy used evenly over [t0_ns, t1_ns) of CLOCK_REALTIME."""

    t0_ns: int
    t1_ns: int
    energy_uj: int


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of a site; None where it states none."""

    pue: Factor | None = None
    carbon_location: Factor | None = None
    carbon_market: Factor | None = None
    price: Factor | None = None
    carbon_upstream: Factor | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an energy means outside the machine; None where no factor says it.

    `facility_uj` is the energy times PUE. CO2 in grams, none of them ever added to another: `co2_location_g` and
    `co2_market_g` are scope 2, `co2_upstream_g` is scope 3, category 3; `co2_life_cycle_g` and `co2_life_market_g` have
    both scopes in one; `co2_marginal_g` is what that much more would emit. `u` is the relative standard uncertainty
    (k=1) of each figure by PUE and factor, where these state theirs. `lower_bound` is true when the energy was not
    measured at the wall or no PUE was stated; `sources` names every factor with its source and date.
    """

    facility_uj: float | None
    co2_location_g: float | None
    co2_market_g: float | None
    cost: float | None
    currency: str
    lower_bound: bool
    sources: tuple[str, ...]
    co2_upstream_g: float | None = None
    co2_life_cycle_g: float | None = None
    co2_life_market_g: float | None = None
    co2_marginal_g: float | None = None
    u: Mapping[str, float] = field(default_factory=dict)


FIGURES = {
    "co2_location_g": "CO2 location-based",
    "co2_market_g": "CO2 market-based",
    "co2_upstream_g": "CO2 upstream",
    "co2_life_cycle_g": "CO2 life-cycle, location-based",
    "co2_life_market_g": "CO2 life-cycle, market-based",
    "co2_marginal_g": "CO2 marginal",
}
"""Figures of CO2, and what sources call their factors."""


def carbon_figures(factors: Factors) -> dict[str, Factor]:
    """Which figure each of a site's factors of carbon gives."""
    found = {}
    if (location := factors.carbon_location) is not None:
        marginal, whole = "marginal" in location.words, "life-cycle" in location.words
        found["co2_marginal_g" if marginal else "co2_life_cycle_g" if whole else "co2_location_g"] = location
    if (market := factors.carbon_market) is not None:
        found["co2_life_market_g" if "life-cycle" in market.words else "co2_market_g"] = market
    if factors.carbon_upstream is not None:
        found["co2_upstream_g"] = factors.carbon_upstream
    return found


def footprint(pieces: Iterable[Piece], factors: Factors, at_wall: bool) -> Footprint:
    """Apply a site's factors to energies, each product taken over time before it is summed.

    Parameters
    ----------
    pieces : energies with the times in which they were used.
    factors : the site's.
    at_wall : whether the energies were measured at the wall; otherwise the result is a lower bound.

    Returns
    -------
    What the sum of the pieces means; None where the site states no factor.
    """
    everything = list(pieces)
    unit = constant(1.0, "no PUE stated", "-")
    pue = factors.pue or unit

    def total(factor: Factor | None) -> float | None:
        if factor is None:
            return None
        return math.fsum(piece.energy_uj / UJ_PER_KWH * _mean_product(piece, pue, factor) for piece in everything)

    carbon = carbon_figures(factors)
    used = [("PUE", factors.pue), *((FIGURES[name], factor) for name, factor in carbon.items())]
    sources = tuple(
        f"{name}: {factor.source}, {factor.date}" + (f" ({factor.note})" if factor.note else "")
        for name, factor in (*used, ("price", factors.price))
        if factor is not None
    )
    facility = (
        None
        if factors.pue is None
        else math.fsum(piece.energy_uj * _mean_product(piece, pue, unit) for piece in everything)
    )
    return Footprint(
        facility_uj=facility,
        cost=total(factors.price),
        currency=factors.price.note if factors.price else "",
        lower_bound=not at_wall or factors.pue is None,
        sources=sources,
        u=_stated_u({"facility_uj": None, **carbon}, factors.pue),
        **{name: total(carbon.get(name)) for name in FIGURES},
    )


def _stated_u(figures: Mapping[str, Factor | None], pue: Factor | None) -> dict[str, float]:
    """Relative standard uncertainties by factors; a figure of which one of its factors states none has none."""
    found = {}
    for name, factor in figures.items():
        parts = [one.u for one in (pue, factor) if one is not None]
        known = [u for u in parts if u is not None]
        if parts and len(known) == len(parts):
            found[name] = math.hypot(*known)
    return found


def _mean_product(piece: Piece, first: Factor, second: Factor) -> float:
    """Time-weighted mean of a product of two step functions over a piece."""
    if piece.t1_ns <= piece.t0_ns:
        return first.at(piece.t0_ns) * second.at(piece.t0_ns)
    inside = {time for time in (*first.from_ns, *second.from_ns) if piece.t0_ns < time < piece.t1_ns}
    cuts = [piece.t0_ns, *sorted(inside), piece.t1_ns]
    weighted = math.fsum(first.at(a) * second.at(a) * (b - a) for a, b in zip(cuts, cuts[1:]))
    return weighted / (piece.t1_ns - piece.t0_ns)
