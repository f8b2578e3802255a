"""HPE Cray's node counters in /sys/cray/pm_counters, with their freshness.

Each file holds `VALUE UNIT TIMESTAMP us`; that time stamp is the reading's time. They are renewed about ten times a
second, all together; `freshness` counts the renewals: when it moved while the files were read, they belong to two
moments and are read again. The node's energy contains CPU, memory and accelerators.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.stamps import Stamps
from perun_hpc.backend.sysfile import reason
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

COUNTERS = Path("sys/cray/pm_counters")
UPDATE_NS = 100_000_000
NS_PER_US = 1000
TRIES = 3

_FILE = re.compile(r"^(?:(?P<part>cpu\d*|memory\d*|accel\d*)_)?(?P<what>energy|power)$")
_COMPONENT = {"cpu": "cpu", "memory": "dram", "accel": "gpu"}
_MAX_UW = {"cpu": 1_500_000_000, "memory": 500_000_000, "accel": 1_500_000_000, "node": 8_000_000_000}


class PmCounters:
    """Reader of all energy and power files, one moment for all of them."""

    def __init__(self, directory: Path, clock: Clock = monotonic_ns, real_clock: Clock = time.time_ns) -> None:
        """Open every known file of the directory; OSError passes."""
        self._clock = clock
        self._stamps = Stamps(clock, real_clock)
        self._descriptors: list[int] = []
        names = sorted(file.name for file in directory.iterdir() if _FILE.match(file.name))
        try:
            for name in ["freshness", *names]:
                self._descriptors.append(os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise
        self._sensors = tuple(_sensor(name) for name in names)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """One sensor per energy or power file."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """Read all files within one renewal; after three tries that were overtaken every sensor is a gap."""
        for _ in range(TRIES):
            before = self._freshness()
            readings = tuple(self._one(descriptor) for descriptor in self._descriptors[1:])
            if before is None or before == self._freshness():
                return readings
        now = self._clock()
        return tuple(Reading(None, now, "the counters were renewed while they were read") for _ in self._sensors)

    def _freshness(self) -> bytes | None:
        try:
            return os.pread(self._descriptors[0], 64, 0)
        except OSError:
            return None

    def _one(self, descriptor: int) -> Reading:
        try:
            value, _, stamp_us, *_ = os.pread(descriptor, 128, 0).split()
            return self._stamps.reading(int(value), int(stamp_us) * NS_PER_US)
        except OSError as error:
            return Reading(None, self._clock(), reason(error))
        except (ValueError, IndexError):
            return Reading(None, self._clock(), "malformed content")

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._descriptors = [-1] * len(self._descriptors)


def _sensor(name: str) -> Sensor:
    match = _FILE.match(name)
    assert match is not None
    is_energy = match["what"] == "energy"
    part = match["part"] or "node"
    family = part.rstrip("0123456789")
    number = part[len(family) :]
    domain = "cray-" + part if part != "node" else "node"
    quantity = Quantity.ENERGY if is_energy else Quantity.POWER
    scope = "node: CPU, memory, accelerators and board" if part == "node" else f"{family} {number}".strip()
    return Sensor(
        id=f"cray_pm:{domain}:{quantity}",
        host=host_name(),
        backend="cray_pm",
        device=f"/{COUNTERS}/{name}",
        domain=domain,
        component=_COMPONENT.get(family, "node"),
        kind=Kind.COUNTER if is_energy else Kind.GAUGE,
        quantity=quantity,
        unit="J" if is_energy else "W",
        scale_num=1_000_000,
        gain_error=0.03,
        gain_source="assumed 3 % (k=1)",
        update_ns=UPDATE_NS,
        max_uw=_MAX_UW[family],
        scope=scope,
        parent=None if part == "node" else f"cray_pm:node:{quantity}",
    )


def discover(root: Path = Path("/"), clock: Clock = monotonic_ns, real_clock: Clock = time.time_ns) -> Discovery:
    """The node's counters, if the node has them."""
    directory = root / COUNTERS
    if not directory.is_dir():
        return Discovery()
    try:
        return Discovery((PmCounters(directory, clock, real_clock),))
    except OSError as error:
        return Discovery(missing=(Missing("pm_counters", f"{directory}: {reason(error)}", "check the files' modes"),))
