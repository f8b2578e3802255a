"""CPU time of every logical CPU and the node's memory, from /proc/stat and /proc/meminfo, one read each."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.sysfile import read_all, reason
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

NS_PER_S = 1_000_000_000
CPUS, MEMORY = "procstat:cpu:time", "procstat:memory:data"
"""The ids of the sensors."""
MALFORMED = {CPUS: "malformed /proc/stat", MEMORY: "no MemAvailable"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
KEPT_NS = 90_000_000
"""Rows of a trace repeat a reading that is younger: CPU time moves in steps of 10 ms, and at every read the kernel adds
it up over all CPUs. A little under 100 ms, so that a trace of that period has a new one in every row."""


STAT_B = 65536
"""More than the lines of 500 CPUs."""
HEAD_B = 256
"""The first lines of /proc/meminfo: MemTotal, MemFree, MemAvailable."""


def busy_ticks(stat: str) -> dict[int, int]:
    """Busy time per logical CPU in USER_HZ ticks from the text of /proc/stat.

    Busy is user, nice, system, irq, softirq and steal; idle and iowait are not. Guest time is part of user.
    """
    busy = {}
    for line in stat.splitlines():
        if not line.startswith("cpu"):
            break
        fields = line.split()
        if fields[0] != "cpu":
            numbers = [int(field) for field in fields[1:9]]
            busy[int(fields[0][3:])] = sum(numbers) - numbers[3] - numbers[4]
    return busy


def busy_ns(stat: str) -> dict[int, int]:
    """The same in ns."""
    return {cpu: ticks * NS_PER_S // TICKS_PER_S for cpu, ticks in busy_ticks(stat).items()}


def memory_used_b(meminfo: str) -> int | None:
    """Bytes in use (MemTotal - MemAvailable) from the text of /proc/meminfo."""
    kib = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemTotal", "MemAvailable"):
            kib[name] = int(rest.split()[0])
    return (kib["MemTotal"] - kib["MemAvailable"]) * 1024 if len(kib) == 2 else None


class ProcStat:
    """Reader of the node's CPU time (a counter) and memory in use (a gauge).

    `last_busy_ns` holds the busy time per logical CPU of the last `read`, since boot; nothing where that failed.
    """

    def __init__(self, root: Path = Path("/"), clock: Clock = monotonic_ns) -> None:
        """Open /proc/stat and /proc/meminfo below `root`; OSError passes."""
        self._clock = clock
        self._stat = os.open(root / "proc/stat", os.O_RDONLY | os.O_CLOEXEC)
        self._memory = os.open(root / "proc/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        self.last_busy_ns: dict[int, int] = {}
        self._kept: list[int | None] = []
        self._kept_ns = 0
        host = host_name()
        self._sensors = (
            Sensor(
                id=CPUS,
                host=host, backend="procstat", device="/proc/stat", domain="cpu", component="cpu",
                kind=Kind.COUNTER, quantity=Quantity.TIME, unit=f"1/{TICKS_PER_S} s", scale_num=NS_PER_S,
                scale_den=TICKS_PER_S, update_ns=KEPT_NS + NS_PER_S // TICKS_PER_S, scope="busy time of all CPUs",
            ),
            Sensor(
                id=MEMORY, host=host, backend="procstat", device="/proc/meminfo", domain="memory", component="dram",
                kind=Kind.GAUGE, quantity=Quantity.DATA, unit="B", resolution=1024, update_ns=KEPT_NS,
                scope="memory in use on the node",
            ),
        )  # fmt: skip

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """CPU time, memory in use."""
        return self._sensors

    @property
    def files(self) -> dict[str, int]:
        """The open file behind each sensor, by its id."""
        return {CPUS: self._stat, MEMORY: self._memory}

    def read(self) -> tuple[Reading, ...]:
        """Read both files."""
        return self._read_stat(), self._read_memory()

    def ticks(self) -> list[int | None]:
        """What `read` says, for a row of a trace: at most `KEPT_NS` old."""
        now_ns = self._clock()
        if not self._kept or now_ns - self._kept_ns > KEPT_NS:
            self._kept, self._kept_ns = [reading.ticks for reading in self.read()], now_ns
        return self._kept

    def _read_stat(self) -> Reading:
        try:
            ticks = busy_ticks(self._cpu_lines())
        except (OSError, ValueError, IndexError) as error:
            self.last_busy_ns = {}
            return Reading(None, self._clock(), reason(error) if isinstance(error, OSError) else MALFORMED[CPUS])
        self.last_busy_ns = {cpu: count * NS_PER_S // TICKS_PER_S for cpu, count in ticks.items()}
        return Reading(sum(ticks.values()), self._clock())

    def _cpu_lines(self) -> str:
        """The file, or as much as holds every CPU: what ends the reading of all of it would make the kernel add up all
        CPUs once more.
        """
        head = os.pread(self._stat, STAT_B, 0)
        return head.decode("ascii", "replace") if b"\nintr " in head else read_all(self._stat)

    def _read_memory(self) -> Reading:
        try:
            used = memory_used_b(os.pread(self._memory, HEAD_B, 0).decode("ascii", "replace"))
        except (OSError, ValueError, IndexError) as error:
            used, why = None, reason(error) if isinstance(error, OSError) else "malformed /proc/meminfo"
        else:
            why = MALFORMED[MEMORY]
        return Reading(used, self._clock(), why if used is None else None)

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._stat, self._memory):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._stat = self._memory = -1


def discover(root: Path = Path("/"), clock: Clock = monotonic_ns) -> Discovery:
    """The node's CPU time and memory."""
    try:
        return Discovery((ProcStat(root, clock),))
    except OSError as error:
        return Discovery(missing=(Missing("/proc/stat", f"cannot be opened: {reason(error)}", "mount /proc"),))
