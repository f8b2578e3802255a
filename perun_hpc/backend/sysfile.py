"""Small kernel files kept open and read again and again."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from perun_hpc.backend.base import Clock, Reader, monotonic_ns
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

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


def entries(directory: Path) -> list[Path]:
    """What a directory holds, in order of the names; nothing where it cannot be listed."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def number(path: Path) -> int | None:
    """Content of a small file that holds one integer, None when it cannot be read or holds none."""
    content = text(path)
    return None if content is None else integer(content.encode())


def integer(content: bytes) -> int | None:
    """The number of at most 64 bits that a file holds and nothing else; None where it holds anything else.

    `int` would also take underscores, other scripts' digits and any length.
    """
    digits = content.strip()
    if not digits.removeprefix(b"-").isdigit() or len(digits) > 20:
        return None
    value = int(digits)
    return value if -(1 << 63) <= value < 1 << 64 else None


DUMB = "does not measure"
"""How a reason begins why a sensor that is there was not taken: it may do so later."""
HANGS = f"{DUMB}: a read of it did not come back"
LOOK = "look for a stuck driver in the kernel's log"
"""What helps against that."""


def unheard(what: str) -> None:
    """Nobody asks what is about to be read."""


_ALL_ONES = (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1
"""What firmware answers that knows no value: `Unknown` in ACPI, a signed number that overflowed."""
_SHORT_ONES = (1 << 16) - 1


def doubt(sensor: Sensor, ticks: int) -> str:
    """Why a value cannot be what the sensor shows; empty where it can.

    A power is not negative, a machine that is on takes some, and no source shows all ones. Whether it is more than the
    device can take is the ceiling's to say, which the site may raise (`energy.integrate`).
    """
    if sensor.quantity not in (Quantity.POWER, Quantity.ENERGY):
        return ""
    if ticks < 0:
        return f"a negative {sensor.quantity}"
    if sensor.kind is not Kind.GAUGE:
        return "all ones, which is no value" if ticks in _ALL_ONES[2:] else ""
    if ticks == 0 and sensor.component == "node":
        return "0 W, though the machine is on"
    value = sensor.base(ticks)
    if any(value == ones * unit for ones in _ALL_ONES for unit in (1, 1000, 10**6)) or value == _SHORT_ONES * 10**6:
        return "all ones, which is no value"
    return ""


def implausible(sensor: Sensor) -> tuple[int, tuple[int, ...]]:
    """What `doubt` says of ticks of 63 bits, as data: less than the first is no value, nor any of the second."""
    if sensor.quantity not in (Quantity.POWER, Quantity.ENERGY):
        return -(1 << 63) + 1, ()
    shown = {0, _SHORT_ONES * 10**6, *(ones * unit for ones in _ALL_ONES for unit in (1, 1000, 10**6))}
    # The least ticks that are that much; a unit is never smaller than the base unit here.
    ticks = {-(-value * sensor.scale_den // sensor.scale_num) for value in shown} | set(_ALL_ONES)
    return 0, tuple(sorted(one for one in ticks if one < 1 << 63 and doubt(sensor, one)))


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
        self._counts: bool | None = None
        self.cost_ns = 0
        """How long its first read took; 0 where nobody measured it."""
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
        other._sensors, other.cost_ns = sensors, self.cost_ns
        other._descriptors, self._descriptors = self._descriptors, [-1] * len(self._descriptors)
        return other

    def read(self) -> tuple[Reading, ...]:
        """Read every file from its start."""
        pread, clock = os.pread, self._clock
        contents: list[bytes | OSError] = []
        times_ns = []
        for descriptor in self._descriptors:
            try:
                contents.append(pread(descriptor, 64, 0))
            except OSError as error:
                contents.append(error)
            times_ns.append(clock())
        ticks = self._plain(contents)
        if ticks is not None:
            return tuple(map(Reading, ticks, times_ns))
        return tuple(map(_checked, self._sensors, contents, times_ns))

    def ticks(self) -> list[int | None]:
        """What `read` says, without times and reasons."""
        with contextlib.suppress(OSError):
            contents = [os.pread(descriptor, 64, 0) for descriptor in self._descriptors] if self._all_count else []
            if (ticks := self._plain(contents)) is not None:
                return [*ticks]
        return [reading.ticks for reading in self.read()]

    @property
    def _all_count(self) -> bool:
        if self._counts is None:
            self._counts = all(sensor.kind is Kind.COUNTER for sensor in self._sensors)
        return self._counts

    def _plain(self, contents: Sequence[bytes | OSError]) -> list[int] | None:
        """What files of counters hold, at a third of the cost of each by itself; None where one is to be looked at."""
        with contextlib.suppress(TypeError, ValueError):  # one that failed, an empty one
            if contents and self._all_count and b"".join(contents).translate(None, b"\n").isdigit():  # type: ignore[arg-type]
                ticks = [*map(int, contents)]  # type: ignore[arg-type]
                if max(ticks) < _ALL_ONES[2]:
                    return ticks
        return None

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._descriptors = [-1] * len(self._descriptors)


class Combined:
    """A reader of one sensor that several files make up: a power as mV times mA, an energy as the sum of its parts'."""

    def __init__(self, sensor: Sensor, files: Sequence[Path], clock: Clock = monotonic_ns) -> None:
        """Open the files; OSError passes, after those already open were closed. Counters add, gauges multiply."""
        self._files = NumberFiles(tuple((replace(sensor, quantity=Quantity.COUNT), file) for file in files), clock)
        self._sensor = sensor
        self.cost_ns = 0

    @classmethod
    def of(cls, sensor: Sensor, descriptors: Sequence[int], clock: Clock = monotonic_ns) -> Combined:
        """A reader of files that somebody else opened; it closes them."""
        reader = cls(sensor, (), clock)
        factors = (replace(sensor, quantity=Quantity.COUNT),) * len(descriptors)
        reader._files = NumberFiles.of(factors, descriptors, clock)
        return reader

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The one sensor."""
        return (self._sensor,)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The open files."""
        return self._files.descriptors

    def relabelled(self, sensors: tuple[Sensor, ...]) -> Combined:
        """The same open files under another description; this reader gives them up."""
        other = Combined(sensors[0], ())
        other.cost_ns = self.cost_ns
        other._files = self._files.relabelled(self._files.sensors)
        return other

    def read(self) -> tuple[Reading, ...]:
        """Read the files; what they make is of the time of the last."""
        factors = self._files.read()
        lost = next((one for one in factors if one.ticks is None), None)
        if lost is not None:
            return (lost,)
        combine = sum if self._sensor.kind is Kind.COUNTER else math.prod
        ticks = combine(one.ticks or 0 for one in factors)
        why = doubt(self._sensor, ticks)
        return (Reading(None if why else ticks, factors[-1].mono_ns, why or None),)

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _checked(sensor: Sensor, content: bytes | OSError, mono_ns: int) -> Reading:
    if isinstance(content, OSError):
        return Reading(None, mono_ns, reason(content))
    ticks = integer(content)
    if ticks is None:
        return Reading(None, mono_ns, "the file holds no number")
    why = doubt(sensor, ticks)
    return Reading(None, mono_ns, why) if why else Reading(ticks, mono_ns)


Files: TypeAlias = NumberFiles | Combined
"""A reader of open kernel files."""


def open_files(sensor: Sensor, files: Sequence[Path], clock: Clock = monotonic_ns) -> Files:
    """A reader of one sensor's file or files; OSError passes."""
    return NumberFiles(((sensor, files[0]),), clock) if len(files) == 1 else Combined(sensor, files, clock)


def descriptors_of(reader: Reader) -> list[tuple[Sensor, tuple[int, ...]]]:
    """Each sensor of a reader with the open files that it is read from; none where that are no kernel files."""
    held: tuple[int, ...] | None = getattr(reader, "descriptors", None)
    if held is None or isinstance(reader, Combined):
        return [(sensor, held or ()) for sensor in reader.sensors]
    return [(sensor, (fd,)) for sensor, fd in zip(reader.sensors, held, strict=True)]


def number_files(readers: Iterable[Reader]) -> dict[str, int]:
    """The open file of each sensor that is read from one number in one file, by the sensors' ids."""
    files: dict[str, int] = {}
    for reader in readers:
        if isinstance(reader, NumberFiles):
            files |= {sensor.id: fd for sensor, fd in zip(reader.sensors, reader.descriptors, strict=True)}
    return files


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
