"""How active each MIG instance was in the open interval, where the vendor's library shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perun_hpc.backend.gpus import Gpu, instance_of
from perun_hpc.data_model.sensor import Reading, Sensor

PPM = 1000
"""Readings are in thousandths."""


class Activity:
    """Running means; a reading stands for the time since the one before."""

    def __init__(self) -> None:
        self._sensors: dict[str, str] = {}
        self._last_ns: dict[str, int] = {}
        self._sums: dict[str, tuple[int, int]] = {}
        self._unknown: set[str] = set()

    def follow(self, sensors: Iterable[Sensor], gpus: Iterable[Gpu]) -> None:
        """Which sensors show which instance; of two the first. DCGM's have its numbers for its UUID."""
        uuids = {(gpu.domain, one.number): one.uuid for gpu in gpus for one in gpu.partitions if one.number}
        self._sensors = {}
        for one in sensors:
            name = instance_of(one.id)
            if name is not None:
                self._sensors.setdefault(uuids.get((one.domain, name), name), one.id)

    def note(self, readings: Mapping[str, Reading]) -> None:
        """Take readings in; those that are not renewed change nothing."""
        for uuid, sensor in self._sensors.items():
            reading = readings.get(sensor)
            before_ns = self._last_ns.get(uuid)
            if reading is None or (before_ns is not None and reading.mono_ns <= before_ns):
                continue
            self._last_ns[uuid] = reading.mono_ns
            if reading.ticks is None or before_ns is None:
                self._unknown.add(uuid)
                continue
            amount, seen_ns = self._sums.get(uuid, (0, 0))
            more_ns = reading.mono_ns - before_ns
            self._sums[uuid] = amount + reading.ticks * more_ns, seen_ns + more_ns

    def take(self) -> dict[str, int]:
        """Mean activity of each instance since the last call, in millionths; one that is missing is not known."""
        means = {
            uuid: amount * PPM // seen_ns for uuid, (amount, seen_ns) in self._sums.items() if uuid not in self._unknown
        }
        self._sums, self._unknown = {}, set()
        return means
