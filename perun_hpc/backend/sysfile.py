"""Small kernel files kept open and read again and again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from perun_hpc.backend.base import Clock, monotonic_ns
from perun_hpc.data_model.sensor import Reading, Sensor

MOST_B = 16 << 20
"""More than any file of the kernel's that is read here; a site may declare anything to be a sensor."""


def text(path: Path) -> str | None:
    """Stripped content of a small file, None when it cannot be read."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_CLOEXEC
        )  # hundreds a second: a text file costs half as much again
    except OSError:
        return None
    try:
        return read_all(descriptor).strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)


def number(path: Path) -> int | None:
    """Content of a small file that holds one integer, None when it cannot be read or holds none."""
    content = text(path)
    try:
        return None if content is None else int(content)
    except ValueError:
        return None


def reason(error: OSError) -> str:
    """One phrase for a failed system call."""
    return (error.strerror or str(error)).lower()


def read_all(descriptor: int) -> str:
    """Text of an open file from its start: whole, but for a device without an end."""
    parts = []
    offset = 0
    while offset < MOST_B and (part := os.pread(descriptor, 65536, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts).decode("ascii", "replace")


class NumberFiles:
    """A reader of files that hold one integer each; the descriptors stay open, so privileges can be dropped."""

    def __init__(self, sensors: tuple[tuple[Sensor, Path], ...], clock: Clock = monotonic_ns) -> None:
        """Open all files; OSError passes, after those already open were closed."""
        self._sensors = tuple(sensor for sensor, _ in sensors)
        self._clock = clock
        self._descriptors: list[int] = []
        try:
            for _, path in sensors:
                self._descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    @classmethod
    def of(cls, sensors: tuple[Sensor, ...], descriptors: Sequence[int], clock: Clock = monotonic_ns) -> NumberFiles:
        """A reader of files that somebody else opened; it closes them."""
        reader = cls((), clock)
        reader._sensors, reader._descriptors = sensors, list(descriptors)
        return reader

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors, in the order of the files."""
        return self._sensors

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files, in the same order."""
        return tuple(self._descriptors)

    def relabelled(self, sensors: tuple[Sensor, ...]) -> NumberFiles:
        """The same open files under other descriptions; this reader gives them up."""
        other = NumberFiles((), self._clock)
        other._sensors = sensors
        other._descriptors, self._descriptors = self._descriptors, [-1] * len(self._descriptors)
        return other

    def read(self) -> tuple[Reading, ...]:
        """Read every file from its start."""
        pread, clock = os.pread, self._clock
        readings = []
        for descriptor in self._descriptors:
            try:
                readings.append(Reading(int(pread(descriptor, 64, 0)), clock()))
            except OSError as error:
                readings.append(Reading(None, clock(), reason(error)))
            except ValueError:
                readings.append(Reading(None, clock(), "the file holds no number"))
        return tuple(readings)

    def ticks(self) -> list[int | None]:
        """What `read` says, without times and reasons, at a third of its cost."""
        try:
            return [int(os.pread(descriptor, 64, 0)) for descriptor in self._descriptors]
        except (OSError, ValueError):
            return [reading.ticks for reading in self.read()]

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._descriptors = [-1] * len(self._descriptors)


class Absent:
    """A reader of sensors that are not there now: gaps, until they are found again."""

    def __init__(self, sensors: tuple[Sensor, ...], why: str, clock: Clock = monotonic_ns) -> None:
        self._sensors = sensors
        self._why = why
        self._clock = clock

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The sensors."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """A gap for each."""
        now_ns = self._clock()
        return tuple(Reading(None, now_ns, self._why) for _ in self._sensors)

    def close(self) -> None:
        """Nothing is open."""
