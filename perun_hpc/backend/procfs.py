"""CPU times, memory, disks and interfaces from /proc, as the functions of psutil of the same names tell them.

Importing psutil costs more than all that a run needs of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SECTOR_B = 512
"""The unit of /proc/diskstats, whatever the disk's own sectors are (kernel, block/genhd.c)."""


class CpuTimes(NamedTuple):
    """Times of one CPU since boot, in ticks; guest times are part of user and nice."""

    user: int
    nice: int
    system: int
    idle: int
    iowait: int = 0
    irq: int = 0
    softirq: int = 0
    steal: int = 0
    guest: int = 0
    guest_nice: int = 0


class Memory(NamedTuple):
    """Bytes of the node."""

    total: int
    available: int


class DiskBytes(NamedTuple):
    """Bytes since boot."""

    read_bytes: int
    write_bytes: int


class NetBytes(NamedTuple):
    """Bytes since the interface was made."""

    bytes_recv: int
    bytes_sent: int


class ProcFs:
    """The files of /proc below a root; each function reads its file anew and raises OSError or ValueError."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"

    def cpu_times(self, percpu: bool = True) -> list[CpuTimes]:
        """Of each logical CPU, or of all together."""
        times = []
        for line in self._lines("stat"):
            name, *fields = line.split()
            if not name.startswith("cpu"):
                break
            if (name != "cpu") is percpu:
                times.append(CpuTimes(*map(int, fields[: len(CpuTimes._fields)])))
        return times

    def virtual_memory(self) -> Memory:
        """Of the node."""
        kib = {name: words.split() for name, _, words in (line.partition(":") for line in self._lines("meminfo"))}
        try:
            return Memory(*(int(kib[name][0]) * 1024 for name in ("MemTotal", "MemAvailable")))
        except KeyError as error:
            raise ValueError(f"/proc/meminfo has no {error.args[0]}") from None

    def disk_io_counters(self, perdisk: bool = True) -> dict[str, DiskBytes]:
        """By disk and partition."""
        assert perdisk
        rows = (line.split() for line in self._lines("diskstats"))
        return {row[2]: DiskBytes(int(row[5]) * SECTOR_B, int(row[9]) * SECTOR_B) for row in rows if len(row) > 9}

    def net_io_counters(self, pernic: bool = True) -> dict[str, NetBytes]:
        """By interface."""
        assert pernic
        rows = (line.rpartition(":") for line in self._lines("net/dev")[2:])
        fields = {name.strip(): words.split() for name, _, words in rows}
        return {name: NetBytes(int(words[0]), int(words[8])) for name, words in fields.items()}

    def _lines(self, name: str) -> list[str]:
        return (self._proc / name).read_text(encoding="ascii", errors="replace").splitlines()
