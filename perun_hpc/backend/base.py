"""What every backend provides: readers, found by a function `discover`."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from perun_hpc.data_model.sensor import Missing, Reading, Sensor

Clock = Callable[[], int]
"""Returns CLOCK_MONOTONIC in ns; tests hand in their own."""

monotonic_ns: Clock = time.monotonic_ns


class Reader(Protocol):
    """Something that reads several sensors in one go."""

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors, in the order of the readings; fixed for the reader's life."""

    def read(self) -> tuple[Reading, ...]:
        """One reading per sensor; a sensor that fails yields a gap with its reason, this never raises."""

    def close(self) -> None:
        """Give back descriptors and library handles; a second call does nothing."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a backend found: open readers, and the known sensors that cannot be read."""

    readers: tuple[Reader, ...] = ()
    missing: tuple[Missing, ...] = ()

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors of all readers."""
        return tuple(sensor for reader in self.readers for sensor in reader.sensors)

    def close(self) -> None:
        """Close all readers."""
        for reader in self.readers:
            reader.close()


def host_name() -> str:
    """This machine's short name, as Slurm calls nodes."""
    return socket.gethostname().split(".", 1)[0]
