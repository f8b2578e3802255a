"""Power of a machine without any power sensor, estimated from its CPU utilisation.

P = CPUs x (idle + (full - idle) x utilisation), with stated coefficients per logical CPU. It is never measured, never
mixed silently with measurements, and its uncertainty is wide: real machines differ from it by a factor of two.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.procstat import NS_PER_S, busy_ns
from perun_hpc.backend.sysfile import read_all, reason
from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Watts per logical CPU, in uW, and where they are from."""

    idle_uw: int = 1_000_000
    full_uw: int = 4_000_000
    relative_error: float = 0.5
    source: str = "assumed 1 W idle and 4 W busy per logical CPU (a 64-core, 128-thread server: 128 W to 512 W)"


class Estimate:
    """Reader of one synthetic energy counter, which advances with the CPU time of /proc/stat."""

    def __init__(self, root: Path, coefficients: Coefficients, clock: Clock = monotonic_ns) -> None:
        """Open /proc/stat below `root`; OSError passes."""
        self._clock = clock
        self._coefficients = coefficients
        self._stat = os.open(root / "proc/stat", os.O_RDONLY | os.O_CLOEXEC)
        cpus = len(busy_ns(read_all(self._stat)))
        self._sensor = Sensor(
            id="estimate:cpu:energy",
            host=host_name(),
            backend="estimate",
            device="/proc/stat",
            domain="cpu",
            component="cpu",
            kind=Kind.COUNTER,
            quantity=Quantity.ENERGY,
            unit="uJ",
            gain_error=coefficients.relative_error,
            gain_source=coefficients.source,
            update_ns=NS_PER_S // os.sysconf("SC_CLK_TCK"),
            max_uw=2 * cpus * coefficients.full_uw,
            scope="CPUs, estimated from their utilisation",
            provenance=Provenance.ESTIMATED,
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The estimated energy of all CPUs."""
        return (self._sensor,)

    def read(self) -> tuple[Reading, ...]:
        """Energy since boot: idle power for the whole time, and the rest for the busy time."""
        now = self._clock()
        try:
            busy = busy_ns(read_all(self._stat))
        except (OSError, ValueError, IndexError) as error:
            return (Reading(None, now, str(error)),)
        power = self._coefficients
        energy = len(busy) * power.idle_uw * now + (power.full_uw - power.idle_uw) * sum(busy.values())
        return (Reading(energy // NS_PER_S, now),)

    def close(self) -> None:
        """Close the file."""
        if self._stat >= 0:
            with contextlib.suppress(OSError):
                os.close(self._stat)
        self._stat = -1


def discover(root: Path = Path("/"), clock: Clock = monotonic_ns) -> Discovery:
    """The estimate; it exists wherever /proc/stat does."""
    try:
        return Discovery((Estimate(root, Coefficients(), clock),))
    except OSError as error:
        return Discovery(missing=(Missing("estimate", f"/proc/stat: {reason(error)}", "mount /proc"),))
