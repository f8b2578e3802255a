"""CPU utilisation of all cores, memory, physical disks and real network interfaces, through psutil.

Utilisation is the difference of CPU times between two reads of this very reader: nobody else's reads spoil it, and
all cores come from one read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.sysfile import text
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

_IDLE = ("idle", "iowait")
_PART_OF_USER = ("guest", "guest_nice")


def utilisation_permille(before: Any, after: Any) -> int | None:
    """Busy share of the time between two of psutil's cpu_times tuples; None when no time has passed."""
    fields = [name for name in after._fields if name not in _PART_OF_USER]
    whole = sum(getattr(after, name) - getattr(before, name) for name in fields)
    idle = sum(getattr(after, name) - getattr(before, name) for name in fields if name in _IDLE)
    return round(1000 * max(0.0, min(1.0, (whole - idle) / whole))) if whole > 0 else None


class HostActivity:
    """Reader of everything psutil is used for; `source` is the psutil module or a stand-in with its functions."""

    def __init__(self, source: Any, disks: tuple[str, ...], nics: tuple[str, ...], clock: Clock = monotonic_ns) -> None:
        """Take the first CPU times at once, so that the first read already has a difference."""
        self._source = source
        self._disks, self._nics = disks, nics
        self._clock = clock
        self._before = source.cpu_times(percpu=True)
        self._cpus = len(self._before)
        sensors = [_sensor("cpu", "cpu", "utilisation", Quantity.UTILISATION, Kind.GAUGE, "all CPUs of the node")]
        sensors += [
            _sensor(f"cpu-{cpu}", "cpu", "utilisation", Quantity.UTILISATION, Kind.GAUGE, f"logical CPU {cpu}")
            for cpu in range(self._cpus)
        ]
        sensors.append(_sensor("memory", "dram", "data", Quantity.DATA, Kind.GAUGE, "memory in use on the node"))
        for disk in disks:
            sensors += [
                _sensor(f"disk-{disk}", "disk", way, Quantity.DATA, Kind.COUNTER, f"bytes, whole disk {disk}")
                for way in ("read", "write")
            ]
        for nic in nics:
            sensors += [
                _sensor(f"net-{nic}", "net", way, Quantity.DATA, Kind.COUNTER, f"bytes, interface {nic}")
                for way in ("read", "write")
            ]
        self._sensors = tuple(sensors)

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """All CPUs, each CPU, memory, disks, interfaces."""
        return self._sensors

    def read(self) -> tuple[Reading, ...]:
        """One read of each kind; a kind that fails makes gaps of its sensors alone."""
        return (*self._utilisation(), self._memory(), *self._disk(), *self._network())

    def _utilisation(self) -> list[Reading]:
        try:
            after = self._source.cpu_times(percpu=True)
        except Exception as error:
            return self._gaps(1 + self._cpus, error)
        now = self._clock()
        before, self._before = self._before, after
        if len(after) != len(before):
            return self._gaps(1 + self._cpus, ValueError("the number of CPUs changed"))
        each = [utilisation_permille(old, new) for old, new in zip(before, after)]
        known = [value for value in each if value is not None]
        whole = round(sum(known) / len(known)) if known else None
        why = "no time has passed since the last read"
        if len(each) != self._cpus:  # psutil does not say which are there
            why, each = "the number of CPUs changed", [None] * self._cpus
        return [Reading(value, now, why if value is None else None) for value in (whole, *each)]

    def _memory(self) -> Reading:
        try:
            memory = self._source.virtual_memory()
        except Exception as error:
            return self._gaps(1, error)[0]
        return Reading(memory.total - memory.available, self._clock())

    def _disk(self) -> list[Reading]:
        return self._pairs(
            self._disks, lambda: self._source.disk_io_counters(perdisk=True), "read_bytes", "write_bytes"
        )

    def _network(self) -> list[Reading]:
        return self._pairs(self._nics, lambda: self._source.net_io_counters(pernic=True), "bytes_recv", "bytes_sent")

    def _pairs(self, names: tuple[str, ...], read: Any, first: str, second: str) -> list[Reading]:
        if not names:
            return []
        try:
            counters = read()
        except Exception as error:
            return self._gaps(2 * len(names), error)
        now = self._clock()
        readings = []
        for name in names:
            for field in (first, second):
                if name in counters:
                    readings.append(Reading(getattr(counters[name], field), now))
                else:
                    readings.append(Reading(None, now, f"{name} is gone"))
        return readings

    def _gaps(self, count: int, error: Exception) -> list[Reading]:
        now = self._clock()
        return [Reading(None, now, str(error) or type(error).__name__)] * count

    def close(self) -> None:
        """Nothing is held open."""


def _sensor(domain: str, component: str, name: str, quantity: Quantity, kind: Kind, scope: str) -> Sensor:
    return Sensor(
        id=f"psutil:{domain}:{name}",
        host=host_name(),
        backend="psutil",
        device=domain.partition("-")[2] or domain,
        domain=domain,
        component=component,
        kind=kind,
        quantity=quantity,
        unit="permille" if quantity is Quantity.UTILISATION else "B",
        dtype="u2" if quantity is Quantity.UTILISATION else "u8",
        scope=scope,
    )


def physical_disks(root: Path) -> tuple[str, ...]:
    """Whole disks with hardware behind them: neither partitions nor loop, RAM, device-mapper or RAID devices."""
    return _listed(root / "sys/block", lambda entry: (entry / "device").exists())


def real_nics(root: Path) -> tuple[str, ...]:
    """Interfaces with hardware behind them, InfiniBand included; neither lo nor bridges, tunnels or veth."""
    return _listed(
        root / "sys/class/net", lambda entry: (entry / "device").exists() and text(entry / "operstate") != "down"
    )


def _listed(directory: Path, accept: Any) -> tuple[str, ...]:
    try:
        return tuple(sorted(entry.name for entry in directory.iterdir() if accept(entry)))
    except OSError:
        return ()


def discover(root: Path = Path("/"), clock: Clock = monotonic_ns) -> Discovery:
    """CPU, memory, disks and interfaces of this machine (psutil itself always reads the machine it runs on)."""
    try:
        import psutil
    except ImportError:
        return Discovery(
            missing=(Missing("psutil", "the Python package psutil is not installed", "pip install psutil"),)
        )
    disks = tuple(disk for disk in physical_disks(root) if disk in (psutil.disk_io_counters(perdisk=True) or {}))
    return Discovery((HostActivity(psutil, disks, real_nics(root), clock),))
