"""Figures of metrics as people read them: in a unit that suits them, with three digits."""

from __future__ import annotations

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import MetricType, unit_of

_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12}
_STEPS = {"J": "um kMGT", "W": "um kMGT", "s": "um ", "B": " kMGT", "B/s": " kMGT"}
"""The prefixes that a unit takes where the configured one gives unwieldy figures; a blank is none."""


def scaled(metric: MetricType, settings: UserSettings) -> tuple[float, str]:
    """What a metric's value is divided by, and the unit that it is then in, by the configuration's units."""
    unit = unit_of(metric)
    prefix = {
        "J": settings.joule,
        "W": settings.watt,
        "s": settings.second,
        "B": settings.byte,
        "B/s": settings.byte,
    }.get(unit, "")
    return _FACTORS[prefix], (settings.price_unit if metric is MetricType.MONEY else prefix + unit)


def readable(metric: MetricType, value: float, settings: UserSettings) -> tuple[float, str]:
    """As `scaled`, but in a unit in which `value` has up to four digits before the point where the configured one
    does not do."""
    factor, unit = scaled(metric, settings)
    steps = [_FACTORS[prefix.strip()] for prefix in _STEPS.get(unit_of(metric), "")]
    if not steps or not value or 0.1 <= value / factor < 1e4:
        return factor, unit
    factor = max((step for step in steps if value >= step), default=steps[0])
    prefix = next(prefix for prefix, size in _FACTORS.items() if size == factor)
    return factor, prefix + unit_of(metric)


def digits(value: float) -> str:
    """A figure with three significant digits, more only before the point."""
    size = abs(value)
    return f"{value:.3g}" if size < 1 else f"{value:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}"


def quantity(metric: MetricType, value: float, settings: UserSettings) -> str:
    """A figure with its unit."""
    factor, unit = readable(metric, value, settings)
    return f"{digits(value / factor)} {unit}".rstrip()


def at_most(value: float, uncertainty: float | None) -> float | None:
    """The upper end of a figure (k=2) whose bound exceeds it, so that nothing else is known; None for any other."""
    return value + 2 * uncertainty if uncertainty is not None and 0 <= value < 2 * uncertainty else None


def bounded(joules: float, doubt: float | None, settings: UserSettings) -> tuple[str, str]:
    """`3000 J ± 4.00 J`; `at most 17.5 J` where the bound exceeds the value; and what is in brackets behind it."""
    if doubt is None:
        return quantity(MetricType.ENERGY, joules, settings), "bounds not known"
    most = at_most(joules, doubt)
    if most is not None:
        return f"at most {quantity(MetricType.ENERGY, most, settings)}", "k=2"
    factor, unit = readable(MetricType.ENERGY, joules, settings)
    return f"{digits(joules / factor)} {unit} ± {digits(2 * doubt / factor)} {unit}", "k=2"
