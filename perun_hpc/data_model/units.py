"""Quantities and the integer base unit that each is stored in."""

from __future__ import annotations

from enum import StrEnum


class Quantity(StrEnum):
    """What a sensor measures."""

    ENERGY = "energy"
    POWER = "power"
    DATA = "data"
    TIME = "time"
    UTILISATION = "utilisation"
    FREQUENCY = "frequency"
    TEMPERATURE = "temperature"
    COUNT = "count"
    FLAGS = "flags"
    POWER_LIMIT = "power_limit"


BASE_UNIT: dict[Quantity, str] = {
    Quantity.ENERGY: "uJ",
    Quantity.POWER: "uW",
    Quantity.DATA: "B",
    Quantity.TIME: "ns",
    Quantity.UTILISATION: "permille",
    Quantity.FREQUENCY: "kHz",
    Quantity.TEMPERATURE: "mC",
    Quantity.COUNT: "1",
    Quantity.FLAGS: "1",
    Quantity.POWER_LIMIT: "uW",
}
"""One integer unit per quantity: `ticks * scale_num // scale_den` of a sensor is in this unit."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))
_DISPLAY: dict[Quantity, tuple[float, str]] = {
    Quantity.ENERGY: (1e-6, "J"),
    Quantity.POWER: (1e-6, "W"),
    Quantity.DATA: (1.0, "B"),
    Quantity.TIME: (1e-9, "s"),
    Quantity.FREQUENCY: (1e3, "Hz"),
    Quantity.POWER_LIMIT: (1e-6, "W"),
}


_PLAIN = {
    **{quantity: factor for quantity, (factor, _) in _DISPLAY.items()},
    Quantity.UTILISATION: 0.1,
    Quantity.TEMPERATURE: 1e-3,
}
"""From the base unit to J, W, B, s, Hz, % and degrees Celsius."""


def plain(base: float, quantity: Quantity) -> float:
    """A value in its base unit as one in J, W, B, s, Hz, % or degrees Celsius."""
    return base * _PLAIN.get(quantity, 1.0)


def human(base: int, quantity: Quantity) -> str:
    """Text of a value in its base unit, for people: `human(1_500_000, Quantity.ENERGY)` is `1.5 J`."""
    if quantity is Quantity.UTILISATION:
        return f"{base / 10:.1f} %"
    if quantity is Quantity.TEMPERATURE:
        return f"{base / 1000:.0f} C"
    if quantity is Quantity.FLAGS:
        return f"0x{base:x}"
    if quantity is Quantity.COUNT:
        return str(base)
    factor, unit = _DISPLAY[quantity]
    value = base * factor
    for size, prefix in _PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"
