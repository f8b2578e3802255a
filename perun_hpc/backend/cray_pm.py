"""HPE Cray's node counters in /sys/cray/pm_counters, with their freshness.

Each file holds `VALUE UNIT TIMESTAMP us`; that time stamp is the reading's time. They are renewed about ten times a
second, all together, though their stamps lie up to 200 ms apart; `freshness` counts the renewals: when it moved while
the files were read, they belong to two renewals and are read again. The stamps are the controller's, whose clock may be
off; that the values are alive shows in what changes.

The node's energy contains CPU, memory and accelerators. `cpu_energy` is the sum of `cpu0_energy` and on, where these
are (GH200 blades), and stands for them elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.stamps import RenewedStamps
from perun_hpc.backend.sysfile import DUMB, HANGS, LOOK, doubt, integer, reason, unheard
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

COUNTERS = Path("sys/cray/pm_counters")
UPDATE_NS = 200_000_000
NS_PER_US = 1000
TRIES = 3
RENEWED = "the counters were renewed while they were read"

FRESHNESS = "freshness"
_FILE = re.compile(r"^(?:(?P<part>cpu\d*|memory\d*|accel\d*)_)?(?P<what>energy|power)$")
_COMPONENT = {"cpu": "cpu", "memory": "dram", "accel": "gpu"}
_MAX_UW = {"cpu": 3_000_000_000, "memory": 2_000_000_000, "accel": 5_000_000_000, "node": 50_000_000_000}
"""The files of all CPUs, or all memory, have as many times that as there may be sockets."""
_SOCKETS = 8


class PmCounters:
    """Reader of energy and power files, one renewal for all of them."""

    def __init__(
        self, directory: Path, names: Sequence[str], clock: Clock = monotonic_ns, real_clock: Clock = time.time_ns
    ) -> None:
        """Open the files of these names; OSError passes. Without `freshness` the files' own contents say the same."""
        self._clock = clock
        self._stamps = RenewedStamps(clock, real_clock)
        self._descriptors: list[int] = []
        self._freshness = -1
        try:
            with contextlib.suppress(OSError):
                self._freshness = os.open(directory / FRESHNESS, os.O_RDONLY | os.O_CLOEXEC)
            for name in names:
                self._descriptors.append(os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise
        self._sensors = tuple(_sensor(name, names) for name in names)

    @classmethod
    def of(cls, sensors: tuple[Sensor, ...], descriptors: Sequence[int], freshness: int) -> PmCounters:
        """A reader of files that somebody else opened, `freshness` being -1 where there is none; it closes them."""
        reader = cls(Path(), ())
        reader._sensors, reader._descriptors, reader._freshness = sensors, list(descriptors), freshness
        return reader

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files, in the order of the sensors."""
        return tuple(self._descriptors)

    @property
    def freshness(self) -> int:
        """The open file that counts renewals, -1 where there is none."""
        return self._freshness

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """One sensor per energy or power file."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """Read all files within one renewal; after three tries that were overtaken every sensor is a gap."""
        for _ in range(TRIES):
            before = self._renewals()
            contents = [_content(descriptor) for descriptor in self._descriptors]
            if before is None or before == self._renewals():
                return self._within_renewal(before, contents)
        now = self._clock()
        return tuple(Reading(None, now, RENEWED) for _ in self._sensors)

    def _renewals(self) -> bytes | None:
        content = _content(self._freshness)
        return content if isinstance(content, bytes) else None

    def _within_renewal(self, renewals: bytes | None, contents: list[bytes | str]) -> tuple[Reading, ...]:
        values = [_value(content) for content in contents]
        stamps_ns = [value[1] for value in values if isinstance(value, tuple)]
        why = self._stamps.note((renewals, contents), max(stamps_ns)) if stamps_ns else ""
        return tuple(self._one(sensor, value, why) for sensor, value in zip(self._sensors, values, strict=True))

    def _one(self, sensor: Sensor, value: tuple[int, int] | str, why: str) -> Reading:
        if isinstance(value, str):
            return Reading(None, self._clock(), value)
        ticks, stamp_ns = value
        why = why or doubt(sensor, ticks)
        return Reading(None, self._clock(), why) if why else self._stamps.reading(ticks, stamp_ns)

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._freshness, *self._descriptors):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._freshness, self._descriptors = -1, [-1] * len(self._descriptors)


def _content(descriptor: int) -> bytes | str:
    """What a file holds; text says why that is not known."""
    try:
        return os.pread(descriptor, 128, 0)
    except OSError as error:
        return reason(error)


def _value(content: bytes | str) -> tuple[int, int] | str:
    """Value and time stamp (ns of the controller's clock); text says why there are none."""
    if isinstance(content, str):
        return content
    words = content.split()
    ticks, stamp_us = (integer(words[0]), integer(words[2])) if len(words) >= 3 else (None, None)
    return "malformed content" if ticks is None or stamp_us is None else (ticks, stamp_us * NS_PER_US)


def _component(name: str) -> str:
    match = _FILE.match(name)
    return _COMPONENT.get((match["part"] or "").rstrip("0123456789"), "node") if match else ""


def _sensor(name: str, names: Sequence[str]) -> Sensor:
    match = _FILE.match(name)
    assert match is not None
    is_energy = match["what"] == "energy"
    part = match["part"] or "node"
    family = part.rstrip("0123456789")
    number = part[len(family) :]
    domain = "cray-" + part if part != "node" else "node"
    quantity = Quantity.ENERGY if is_energy else Quantity.POWER
    scope = "node: CPU, memory, accelerators and board" if part == "node" else f"{family} {number}".strip()
    whole = not number and part != "node"
    in_parts = whole and any(re.fullmatch(rf"{family}\d+_{match['what']}", one) for one in names)
    component = "other" if in_parts else _COMPONENT.get(family, "node")
    return Sensor(
        id=f"cray_pm:{domain}:{quantity}",
        host=host_name(),
        backend="cray_pm",
        device=f"/{COUNTERS}/{name}",
        domain=domain,
        component=component,
        kind=Kind.COUNTER if is_energy else Kind.GAUGE,
        quantity=quantity,
        unit="J" if is_energy else "W",
        scale_num=1_000_000,
        gain_error=0.03,
        gain_source="assumed 3 % (k=1)",
        update_ns=UPDATE_NS,
        max_uw=_MAX_UW[family] * (_SOCKETS if whole else 1),
        scope=scope,
        parent=None if part == "node" else f"cray_pm:node:{quantity}",
    )


def discover(
    root: Path = Path("/"),
    clock: Clock = monotonic_ns,
    real_clock: Clock = time.time_ns,
    about: Callable[[str], None] = unheard,
    skip: Collection[str] = (),
) -> Discovery:
    """The node's counters, if the node has them; a file that cannot be read, or holds no value, costs itself.

    `about` hears of each file before it is read, and `skip` names those that are not to be: a read may never come back.
    """
    directory = root / COUNTERS
    try:
        names = sorted(file.name for file in directory.iterdir() if _FILE.match(file.name))
    except (FileNotFoundError, NotADirectoryError):
        return Discovery()
    except OSError as error:
        return Discovery(missing=(Missing("pm_counters", f"{directory}: {reason(error)}", "check the files' modes"),))
    missing = []
    answering = []
    for name in names:
        if name in skip:
            missing.append(Missing(f"pm_counters/{name}", HANGS, LOOK, _component(name)))
            continue
        about(name)
        try:
            alone = PmCounters(directory, (name,), clock, real_clock)
        except OSError as error:
            missing.append(
                Missing(
                    f"pm_counters/{name}", f"cannot be read: {reason(error)}", "check the file's mode", _component(name)
                )
            )
            continue
        (first,) = alone.read()
        alone.close()
        if first.ticks is None and first.error != RENEWED:
            missing.append(
                Missing(f"pm_counters/{name}", f"{DUMB}: {first.error}", "look at the blade", _component(name))
            )
        else:
            answering.append(name)
    readers = (PmCounters(directory, answering, clock, real_clock),) if answering else ()
    return Discovery(readers, tuple(missing))
