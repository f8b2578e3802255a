"""Power of a machine without any power sensor, estimated from its CPU utilisation.

P = idle + (full - idle) x utilisation, of all CPUs together. It is never measured, never mixed silently with
measurements, and its uncertainty is wide unless a site states what its nodes draw: processors take between 1.5 and
9.4 W per logical CPU at their rated power.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.procstat import KEPT_NS, NS_PER_S, busy_ns
from perun_hpc.backend.sysfile import read_all, reason
from perun_hpc.data_model.sensor import Kind, Missing, Provenance, Reading, Sensor
from perun_hpc.data_model.units import Quantity

NAME = "estimate:cpu:energy"


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Power of a logical CPU, in uW, or of all together (`whole`): idle, and busy; how wrong (k=1), and who says so."""

    idle_uw: int = 1_000_000
    full_uw: int = 4_000_000
    relative_error: float = 0.75
    source: str = (
        "assumed 1 W idle and 4 W busy per logical CPU (64 cores with 128 threads: 128 W to 512 W); processors' rated "
        "powers are 1.5 to 9.4 W per logical CPU"
    )
    whole: bool = False


ASSUMED = Coefficients()


class Estimate:
    """Reader of one synthetic energy counter, which advances with the CPU time of /proc/stat.

    `static_uw` is what the CPUs take when all are idle. The counter is one of this boot: another reader of the same
    coefficients on as many CPUs goes on with it, and any other is another counter, by its id, unless they are assumed.
    """

    def __init__(
        self, root: Path, coefficients: Coefficients, clock: Clock = monotonic_ns, lasting: bool = False
    ) -> None:
        """Open /proc/stat below `root`; OSError passes. `lasting`: the id says what it counts by."""
        self._clock = clock
        self._stat = os.open(root / "proc/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._cpus = max(1, len(busy_ns(read_all(self._stat))))
        parts = 1 if coefficients.whole else self._cpus
        self.static_uw, full_uw = coefficients.idle_uw * parts, coefficients.full_uw * parts
        self._rise_uw = full_uw - self.static_uw
        self._seen: tuple[int, Mapping[int, int], int] | None = None
        self._kept: list[int | None] = []
        self._kept_ns = 0
        self._sensor = Sensor(
            id=f"{NAME}-{self.static_uw // 1000}-{full_uw // 1000}-{self._cpus}" if lasting else NAME,
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
            max_uw=2 * full_uw,
            scope="CPUs, estimated from their utilisation",
            provenance=Provenance.ESTIMATED,
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The estimated energy of all CPUs."""
        return (self._sensor,)

    def read(self) -> tuple[Reading, ...]:
        """Energy since boot: idle power for the whole time, and the rest for the busy time.

        A CPU that goes offline takes its busy time with it, and one that comes brings some: neither is energy.
        """
        now = self._clock()
        try:
            busy = busy_ns(read_all(self._stat))
        except (OSError, ValueError, IndexError) as error:
            return (Reading(None, now, str(error)),)
        if self._seen is None:
            energy = self._energy(now, sum(busy.values()))
        else:
            then, before, energy = self._seen
            worked = sum(max(0, ns - before[cpu]) for cpu, ns in busy.items() if cpu in before)
            energy += self._energy(now - then, worked)
        self._seen = now, busy, energy
        return (Reading(energy // (NS_PER_S * self._cpus), now),)

    def _energy(self, elapsed_ns: int, worked_ns: int) -> int:
        """In uJ x 1e9 x CPUs, so that nothing is lost to rounding however often it is read."""
        return self._cpus * self.static_uw * elapsed_ns + self._rise_uw * worked_ns

    def ticks(self) -> list[int | None]:
        """What `read` says, for a row of a trace: at most `KEPT_NS` old."""
        now_ns = self._clock()
        if not self._kept or now_ns - self._kept_ns > KEPT_NS:
            self._kept, self._kept_ns = [reading.ticks for reading in self.read()], now_ns
        return self._kept

    def close(self) -> None:
        """Close the file."""
        if self._stat >= 0:
            with contextlib.suppress(OSError):
                os.close(self._stat)
        self._stat = -1


def discover(
    root: Path = Path("/"), clock: Clock = monotonic_ns, coefficients: Coefficients = ASSUMED, lasting: bool = False
) -> Discovery:
    """The estimate; it exists wherever /proc/stat does. `lasting`: see `Estimate`."""
    try:
        return Discovery((Estimate(root, coefficients, clock, lasting),))
    except (OSError, ValueError, IndexError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is malformed"
        return Discovery(missing=(Missing("estimate", f"/proc/stat: {why}", "mount /proc"),))
