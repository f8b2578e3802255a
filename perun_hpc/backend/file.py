"""Sensors that a site declares in its policy: a number in a file, with its meaning."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, Reader, host_name, monotonic_ns
from perun_hpc.backend.sysfile import read_all, reason
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One declared sensor.

    `pattern` is a regular expression whose first group holds the integer (default: the first integer in the file);
    `scale` turns one unit into the quantity's base unit, as a fraction or decimal text (`1000`, `1/65536`, `0.25`).
    """

    name: str
    path: str
    kind: str = "gauge"
    quantity: str = "power"
    unit: str = "W"
    scale: str = "1000000"
    pattern: str = r"(-?\d+)"
    domain: str = "node"
    component: str = "node"
    wrap_range: int | None = None
    update_ms: int = 1000
    max_w: int | None = None
    relative_error: float = 0.05
    scope: str = "declared by the site"


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
        self._descriptor = os.open(root / declaration.path.lstrip("/"), os.O_RDONLY | os.O_CLOEXEC)

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
        try:
            return (Reading(int(match[1]), self._clock()),)
        except ValueError:
            return (Reading(None, self._clock(), f"not an integer: {match[1]!r}"),)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._descriptor = -1


def _sensor(declaration: Declaration) -> Sensor:
    try:
        scale = Fraction(declaration.scale)
        kind, quantity = Kind(declaration.kind), Quantity(declaration.quantity)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"sensor {declaration.name!r} in the policy: {error}") from error
    return Sensor(
        id=f"file:{declaration.name}:{quantity}",
        host=host_name(),
        backend="file",
        device=declaration.path,
        domain=declaration.domain,
        component=declaration.component,
        kind=kind,
        quantity=quantity,
        unit=declaration.unit,
        scale_num=scale.numerator,
        scale_den=scale.denominator,
        dtype="i8",
        wrap_range=declaration.wrap_range,
        gain_error=declaration.relative_error,
        gain_source="declared by the site",
        update_ns=declaration.update_ms * 1_000_000,
        max_uw=None if declaration.max_w is None else declaration.max_w * 1_000_000,
        scope=declaration.scope,
    )


def discover(root: Path, declarations: Iterable[Declaration], clock: Clock = monotonic_ns) -> Discovery:
    """All declared sensors, each opened alone."""
    readers: list[Reader] = []
    missing = []
    for declaration in declarations:
        try:
            readers.append(DeclaredFile(declaration, root, clock))
        except OSError as error:
            why = f"cannot open {declaration.path}: {reason(error)}"
            missing.append(Missing(declaration.name, why, "correct the path in the policy"))
        except ConfigError as error:
            missing.append(Missing(declaration.name, str(error), "correct the policy"))
    return Discovery(tuple(readers), tuple(missing))
