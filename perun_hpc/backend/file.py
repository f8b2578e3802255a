"""Sensors that a site declares in its policy: a number in a file, with its meaning."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.backend import chips, hwmon, zone_power
from perun_hpc.backend.base import Clock, Discovery, Reader, host_name, monotonic_ns
from perun_hpc.backend.sysfile import Files, doubt, integer, open_files, read_all, reason
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import ConfigError

FACILITY = "facility"
"""The component of a meter that the collector reads: no node has a part in it."""
UNITS: dict[str, tuple[int, int]] = {"u": (1, 1), "m": (1000, 1), "": (1_000_000, 1)}
"""Prefix of J or W: factor to uJ or uW."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One declared sensor, as the policy's `sensors.files` holds it.

    `kind` is `counter` (of energy) or `power`; `unit` one of uJ, mJ, J, uW, mW, W; `range_uj` is where a counter wraps;
    `pattern` is a regular expression whose first group holds the integer. Instead of a path and a unit there may be a
    `driver` of hwmon or powercap, with the `label` of its input and its `device` where these fit several.
    """

    name: str
    kind: str
    component: str
    path: str = ""
    unit: str = ""
    driver: str = ""
    label: str = ""
    device: str = ""
    range_uj: int | None = None
    pattern: str = r"(-?\d+)"

    @classmethod
    def from_policy(cls, table: Mapping[str, Any]) -> Declaration:
        """From one entry of the compiled policy; unknown keys are ignored."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in table.items() if key in names and value is not None})


class DeclaredFile:
    """Reader of one declared sensor; the descriptor stays open."""

    def __init__(self, declaration: Declaration, root: Path = Path("/"), clock: Clock = monotonic_ns) -> None:
        """OSError passes when the file cannot be opened; a wrong declaration raises ConfigError."""
        self._clock = clock
        self._sensor = _sensor(declaration)
        try:
            self._pattern = re.compile(declaration.pattern)
        except re.error as error:
            raise ConfigError(f"sensor {declaration.name!r}: pattern {declaration.pattern!r}: {error}") from error
        if self._pattern.groups != 1:
            raise ConfigError(f"sensor {declaration.name!r}: the pattern needs exactly one group around the number")
        self._descriptor = os.open(
            root / declaration.path.lstrip("/"),
            os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC,  # a pipe would be waited for
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The declared sensor."""
        return (self._sensor,)

    def read(self) -> tuple[Reading, ...]:
        """Read the file from its start."""
        try:
            match = self._pattern.search(read_all(self._descriptor))
        except OSError as error:
            return (Reading(None, self._clock(), reason(error)),)
        if match is None:
            return (Reading(None, self._clock(), "the declared pattern does not match"),)
        ticks = integer(match[1].encode())
        if ticks is None or ticks >= 1 << 63:
            return (Reading(None, self._clock(), f"no integer of 64 bits: {match[1][:40]!r}"),)
        why = doubt(self._sensor, ticks)
        return (Reading(None if why else ticks, self._clock(), why or None),)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def _sensor(declaration: Declaration) -> Sensor:
    counter = declaration.kind == "counter"
    prefix, letter = declaration.unit[:-1], declaration.unit[-1:]
    if declaration.kind not in ("counter", "power") or prefix not in UNITS or letter != ("J" if counter else "W"):
        fit = "uJ, mJ or J" if counter else "uW, mW or W"
        raise ConfigError(
            f"sensor {declaration.name!r}: a {declaration.kind} has no unit {declaration.unit!r}: use {fit}"
        )
    numerator, denominator = UNITS[prefix]
    quantity = Quantity.ENERGY if counter else Quantity.POWER
    wraps = declaration.range_uj
    return Sensor(
        id=f"file:{declaration.name}:{quantity}",
        host=host_name(),
        backend="file",
        device=declaration.path,
        domain="node" if declaration.component == "node" else declaration.name,
        component=declaration.component,
        kind=Kind.COUNTER if counter else Kind.GAUGE,
        quantity=quantity,
        unit=declaration.unit,
        scale_num=numerator,
        scale_den=denominator,
        dtype="i8",
        wrap_range=wraps * denominator // numerator if wraps else None,
        gain_error=0.05,
        gain_source="assumed 5 % (k=1) for a sensor that the site declares",
        update_ns=1_000_000_000,
        max_uw=chips.NODE_UW,
        scope=f"{declaration.name}, declared by the site",
    )


def _of_driver(root: Path, declaration: Declaration, clock: Clock) -> Files:
    """The one input that the driver calls so; OSError passes, ConfigError where there is none, or are several."""
    driver, device = declaration.driver, declaration.device
    counter = declaration.kind == "counter"
    label = declaration.label or ("energy1" if counter else "power1")
    found = hwmon.called(root, driver, label, device, Quantity.ENERGY if counter else Quantity.POWER)
    if not counter and not device:
        found += zone_power.called(root, driver, label)
    if len(found) != 1:
        places = ": " + ", ".join(place for place, _ in found) if found else ""
        what = "energy" if counter else "power"
        raise ConfigError(f"{len(found)} inputs of {what} are called {label!r} by the driver {driver!r}{places}")
    ((place, files),) = found
    sensor = dataclasses.replace(
        _sensor(dataclasses.replace(declaration, unit="uJ" if counter else "uW")), device=place
    )
    return open_files(sensor, files, clock)


def discover(root: Path, declarations: Iterable[Declaration], clock: Clock = monotonic_ns) -> Discovery:
    """All declared sensors of a node, each opened alone."""
    readers: list[Reader] = []
    missing = []
    for declaration in declarations:
        if declaration.component == FACILITY:
            continue
        try:
            if declaration.driver:
                readers.append(_of_driver(root, declaration, clock))
            else:
                readers.append(DeclaredFile(declaration, root, clock))
        except OSError as error:
            why = f"cannot open {declaration.path or declaration.driver}: {reason(error)}"
            missing.append(Missing(declaration.name, why, "correct the path in the policy"))
        except ConfigError as error:
            missing.append(Missing(declaration.name, str(error), "correct the policy"))
    return Discovery(tuple(readers), tuple(missing))
