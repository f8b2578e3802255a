"""A recorded trace played back as a reader, for tests and for looking into a node's past.

A recording is JSON lines: first `{"sensors": [SENSOR, ...]}`, then one `[[ticks or null, mono_ns, error or null], ...]`
per read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from perun_hpc.data_model.sensor import Provenance, Reading, Sensor
from perun_hpc.errors import DataError


class Replay:
    """Reader that returns the recorded readings one after the other, then gaps."""

    def __init__(self, sensors: tuple[Sensor, ...], rows: Iterable[tuple[Reading, ...]]) -> None:
        """Sensors are marked simulated: what is replayed is not measured now."""
        self._sensors = tuple(replace(sensor, provenance=Provenance.SIMULATED) for sensor in sensors)
        self._rows = iter(rows)
        self._last_ns = 0

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The recorded sensors."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """The next recorded row."""
        row = next(self._rows, None)
        if row is None:
            return tuple(Reading(None, self._last_ns, "the recording has ended") for _ in self._sensors)
        self._last_ns = max((reading.mono_ns for reading in row), default=self._last_ns)
        return row

    def close(self) -> None:
        """Nothing is held open."""


def load(path: Path) -> Replay:
    """Read a recording; DataError names the damaged line."""
    sensors: tuple[Sensor, ...] = ()
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            data = json.loads(line)
            if number == 1:
                sensors = tuple(Sensor.from_json(sensor) for sensor in data["sensors"])
                continue
            row = tuple(Reading(ticks, mono_ns, error) for ticks, mono_ns, error in data)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: {error}: record it again") from error
        if len(row) != len(sensors):
            raise DataError(f"{path}, line {number}: {len(row)} readings for {len(sensors)} sensors: record it again")
        rows.append(row)
    return Replay(sensors, rows)


def header(sensors: tuple[Sensor, ...]) -> str:
    """First line of a recording."""
    return json.dumps({"sensors": [sensor.to_json() for sensor in sensors]}) + "\n"


def line(readings: tuple[Reading, ...]) -> str:
    """One further line of a recording."""
    return json.dumps([[one.ticks, one.mono_ns, one.error] for one in readings]) + "\n"
