"""What a sensor is, what one reading of it is, and what is said of one that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, cast

from perun_hpc.data_model import codec
from perun_hpc.data_model.units import BASE_UNIT, Quantity
from perun_hpc.errors import DataError


class Kind(StrEnum):
    """Whether a sensor counts up since some start, or shows a present value."""

    COUNTER = "counter"
    GAUGE = "gauge"


class Provenance(StrEnum):
    """Where a figure comes from, from best to worst."""

    MEASURED = "measured"
    MODELLED = "modelled"
    ESTIMATED = "estimated"
    SIMULATED = "simulated"

    @property
    def rank(self) -> int:
        """0 for the best; a sum carries the highest rank of its parts."""
        return _RANKS[self]


_RANKS = {one: rank for rank, one in enumerate(Provenance)}


def worst(provenances: Iterable[str]) -> Provenance:
    """The worst of several provenances, which a sum of figures carries; measured without any."""
    return max(map(Provenance, provenances), key=_RANKS.__getitem__, default=Provenance.MEASURED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """One source of numbers on one host; a value, shared by every process that speaks about it.

    Attributes
    ----------
    id : unique on the host, `backend:domain:quantity`, e.g. `powercap:package-0:energy`; stable across reboots.
    host : short host name.
    backend : name of the backend that reads it.
    device : stable identity of the hardware: UUID, PCI address, sysfs path or interface name.
    domain : energy domain it belongs to: `package-0`, `dram-0`, `gpu-<uuid>`, `psys`, `node`, `core-0`, ...;
        for sensors that are no energy the part of the machine (`cpu`, `memory`, `disk-sda`, `net-eth0`).
    component : cpu, dram, gpu, node, disk, net, other.
    kind, quantity : see the enums.
    unit : name of one tick as the source gives it (`uJ`, `mJ`, `2^-16 J`, ...).
    scale_num, scale_den : exact factor from ticks to the quantity's base unit (`units.BASE_UNIT`).
    dtype : numpy-style type that holds the ticks (`u8`, `i8`, `u4`, ...).
    wrap_range : a counter restarts from 0 after this many ticks; None when it never wraps.
    resolution : smallest step of the source, in ticks.
    gain_error : relative standard uncertainty (k=1) of the source, and `gain_source`, the text it was taken from.
    offset_uw : standard uncertainty (k=1) of a constant power that the source adds or lacks, whatever it shows.
    update_ns : interval at which the source renews its value (tau): an edge reading is at most this old.
    lag_ns : how much older than its time a gauge's value is in the mean: half of the time that it is the mean over, and
        half of `update_ns` where the source does not say when a value was renewed.
    sampled_ns : it looks at a part of each stretch of so long and takes it for the whole; 0: it always looks.
    max_uw : plausibility ceiling of the power behind an energy counter or power gauge; None when none is known.
    scope : one phrase: what the figure includes.
    parent : id of the sensor that contains this one, None at the top of its tree.
    provenance : measured, modelled, estimated or simulated.
    """

    id: str
    host: str
    backend: str
    device: str
    domain: str
    component: str
    kind: Kind
    quantity: Quantity
    unit: str
    scale_num: int = 1
    scale_den: int = 1
    dtype: str = "u8"
    wrap_range: int | None = None
    resolution: int = 1
    gain_error: float = 0.0
    gain_source: str = ""
    offset_uw: int = 0
    update_ns: int = 0
    lag_ns: int = 0
    sampled_ns: int = 0
    max_uw: int | None = None
    scope: str = ""
    parent: str | None = None
    provenance: Provenance = Provenance.MEASURED

    def base(self, ticks: int) -> int:
        """Ticks in the quantity's base unit; for counters call it on differences, once, never on raw values."""
        return ticks * self.scale_num // self.scale_den

    @property
    def base_unit(self) -> str:
        """Name of the base unit, e.g. `uJ`."""
        return BASE_UNIT[self.quantity]

    def to_json(self) -> dict[str, Any]:
        """All attributes as JSON values."""
        return cast("dict[str, Any]", codec.encode(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Sensor:
        """Inverse of `to_json`; unknown keys are ignored, a missing or wrong one raises DataError."""
        try:
            sensor = codec.decode(cls, data)
            "".join(value for value in data.values() if isinstance(value, str)).encode()
            if sensor.scale_den < 1:
                raise ValueError("the scale divides by nothing")
            return sensor
        except codec.MISFITS as error:
            name = data.get("id", "?") if isinstance(data, dict) else "?"
            raise DataError(f"sensor description {name!r} is damaged: {error}") from error


class Reading(NamedTuple):
    """One raw value: `ticks` None is a gap (then `error` says why), never 0; `mono_ns` is when the value was true.

    A named tuple, since thousands are made per second and a frozen dataclass takes three times as long.
    """

    ticks: int | None
    mono_ns: int
    error: str | None = None


class Rise(NamedTuple):
    """How a sensor's raw ticks go from each of several rows to the next, where none is missing.

    Attributes
    ----------
    least, most : of the steps.
    fastest : the row to which the step was the greatest for its time.
    moved : the last row that is not as the one before it; 0: none.
    """

    least: int
    most: int
    fastest: int
    moved: int


def rises(rise: Rise | None) -> bool:
    """Whether it is known that all is there and nothing falls."""
    return rise is not None and rise.least >= 0


GAP = -(1 << 63)
"""Among ticks that are integers alone, in a row, a block or a file: a reading without any."""
NOT_DUE = "not due"
"""Why a reading is none whose source is asked less often than others: what it showed last holds."""
NONE_NEEDED = "none needed: "


@dataclass(frozen=True, slots=True)
class Missing:
    """A sensor that is known but cannot be read: what it is, why not, and what an administrator can do.

    `component` is that of a sensor whose energy figures lack for it, as `Sensor` has it; empty where they lack nothing.
    """

    what: str
    why: str
    remedy: str
    component: str = ""

    @property
    def lacks(self) -> bool:
        """Whether figures lack something for it; a remedy that is `none needed: WHY` says that they do not."""
        return not self.remedy.startswith(NONE_NEEDED)
