"""Numbers as people read them: energies with their bounds, powers, durations, sizes. Pure."""

from __future__ import annotations

import math
from datetime import datetime

LAST_NS = 1 << 62
_STEPS = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def energy(uj: int | None) -> str:
    """`18.4 kJ`; `-` for None."""
    return "-" if uj is None else _scaled(uj / 1e6, "J")


def energy_with_bounds(uj: int | None, u_uj: int) -> tuple[str, str]:
    """Return value and expanded uncertainty (k=2) in one unit, to the uncertainty's second digit.

    The uncertainty is empty where none is known (0).
    """
    if uj is None:
        return "-", ""
    if u_uj <= 0:
        return energy(uj), ""
    bound = 2 * u_uj / 1e6
    factor, prefix = _step(max(abs(uj) / 1e6, bound))
    digits = max(0, min(6, 1 - math.floor(math.log10(bound / factor))))
    return f"{uj / 1e6 / factor:.{digits}f} {prefix}J", f"{bound / factor:.{digits}f} {prefix}J"


def bounded(uj: int | None, u_uj: int, sign: str, most_uj: int | None = None) -> str:
    """`8.00 kJ ± 0.16 kJ`; `at most 3.2 J` where the bound exceeds the value, `-` where nothing is known.

    `most_uj`: it is part of what is not more than that.
    """
    if uj is None or unresolved(uj, u_uj):
        return "-"
    if within_bound(uj, u_uj):
        upper_uj = max(uj, 0) + 2 * u_uj
        return f"at most {energy(upper_uj if most_uj is None else min(upper_uj, most_uj))}"
    value, bound = energy_with_bounds(uj, u_uj)
    return f"{value} {sign} {bound}" if bound else value


def figure(uj: int, u_uj: int, at_most: str = "at most") -> str:
    """`8.00 kJ`, where its bound stands elsewhere; `at most 3.2 J` where the bound exceeds the value."""
    return f"{at_most} {energy(max(uj, 0) + 2 * u_uj)}" if within_bound(uj, u_uj) else energy(uj)


def upper_part(uj: int, u_uj: int) -> float | None:
    """How many times an energy its upper end is, where nothing else is known of it; None where more is."""
    return (uj + 2 * u_uj) / uj if within_bound(uj, u_uj) and uj > 0 else None


def within_bound(uj: int, u_uj: int) -> bool:
    """Whether the expanded uncertainty (k=2) exceeds the value: nothing was distinguished from 0."""
    return u_uj > 0 and uj < 2 * u_uj


def unresolved(uj: int | None, u_uj: int) -> bool:
    """Whether a figure is 0 without a bound: less than the sensors resolve, or nothing was counted."""
    return uj == 0 and u_uj <= 0


def watt_hours(uj: int) -> str:
    """`5.12 Wh`."""
    return _scaled(uj / 3.6e9, "Wh")


def with_watt_hours(uj: int, u_uj: int, origin: str) -> str:
    """`5.12 Wh   measured`; what was not distinguished from 0 has no value in Wh either."""
    return origin if within_bound(uj, u_uj) else f"{watt_hours(uj)}   {origin}"


def joule_seconds(js: float) -> str:
    """`1.84 MJ s`: an energy times a time."""
    return f"{_scaled(js, 'J')} s"


def mass(g: float) -> str:
    """`1.20 kg`; tonnes from 1000 kg on."""
    return f"{g / 1e6:.3g} t" if g >= 1e6 else _scaled(g, "g")


def power(mw: int | float | None) -> str:
    """`116 W`; `-` for None."""
    return "-" if mw is None else _scaled(mw / 1e3, "W")


def money(value: float, currency: str) -> str:
    """`0.21 EUR`; `<0.01 EUR` for less than half a cent, never 0 for more than nothing."""
    return f"{'<0.01' if 0 < value < 0.005 else f'{value:.2f}'} {currency}".rstrip()


def size(b: int | None) -> str:
    """`3.1 GiB`; `-` for None."""
    if b is None:
        return "-"
    value, units = float(b), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.3g} {units[0]}" if value < 1000 else f"{value:.0f} {units[0]}"


def percent(part: float, whole: float = 1.0) -> str:
    """`87 %`; never 100 % for less than the whole, never 0 % for more than nothing."""
    if whole == 0:
        return "-"
    share = 100 * part / whole
    if 99.5 <= share < 100:
        return f"{min(share, 99.9):.1f} %"
    if 0 < share < 0.5:
        return "<0.5 %"
    return f"{share:.0f} %"


def duration(seconds: float) -> str:
    """`1-02:03:04` as Slurm writes it; below a minute with tenths of a second: `2.3 s`, below one in `45 ms`."""
    if 0 < seconds < 0.1:
        return "<1 ms" if seconds < 0.001 else f"{seconds * 1e3:.2g} ms"
    if 0 <= seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{text}" if days else text


def span(start_ns: int, end_ns: int) -> str:
    """How long it was from one moment to another (ns), as `duration`; `-` where one of them is not known (0)."""
    return duration((end_ns - start_ns) / 1e9) if 0 < start_ns <= end_ns else "-"


def moment(ns: int, after_ns: int | None = None) -> str:
    """`2026-11-01 12:00:00` of local time; the time alone on the day of `after_ns`."""
    if not 0 <= ns < LAST_NS:
        return "-"
    moment = datetime.fromtimestamp(ns / 1e9)
    if (
        after_ns is not None
        and 0 <= after_ns < LAST_NS
        and moment.date() == datetime.fromtimestamp(after_ns / 1e9).date()
    ):
        return moment.strftime("%H:%M:%S")
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _step(value: float) -> tuple[float, str]:
    for factor, prefix in _STEPS:
        if abs(value) >= factor:
            return factor, prefix
    return _STEPS[-1]


def _scaled(value: float, unit: str) -> str:
    if value == 0:
        return f"0 {unit}"
    factor, prefix = _step(value)
    scaled = value / factor
    digits = max(0, 2 - math.floor(math.log10(abs(scaled)))) if abs(scaled) < 100 else 0
    return f"{scaled:.{digits}f} {prefix}{unit}"
