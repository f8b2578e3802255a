"""Simulated RAPL counters of every node, advanced from the CPU time really spent there.

Run as a program (``python3 -I -S simulator.py CONFIG.json``) it serves, per node, a tree that looks like the kernel's
powercap class and a ``/proc/stat`` of the node's own CPU time. Imported, it reads the program's log of what it served.

What is served
    Two packages and one dram zone each: ``intel-rapl:0``, ``intel-rapl:0:0``, ``intel-rapl:1``, ``intel-rapl:1:0``, in
    ``/sys/devices/virtual/powercap/intel-rapl`` with flat links in ``/sys/class/powercap``; ``energy_uj`` has mode 0400
    (as since the Platypus fix, Linux commit 949dd0104c49). Beside the zones lies a file ``perun_simulated``. The CPUs'
    ``physical_package_id`` says 0 and 1 in turn (see :mod:`layout`).
    ``energy_uj`` changes in place through a mapping of the file: one aligned 16-byte store per change, so that a
    reader, also one with an old descriptor, sees the old or the new value and no mixture. The text is the number, a
    newline, and more newlines up to 16 bytes.

The counters
    As in the kernel's intel_rapl_common.c: a 32-bit count of hardware units; a package unit is 61.035 uJ, a dram unit
    15.3 uJ; ``energy_uj`` is ``count * unit_nj // 1000``, ``max_energy_range_uj`` is that of 0xffffffff: 262143328850
    and 65712999613. Energy is summed in integers of 1e-9 uJ (uW times ns), so that nothing is lost by rounding.

The power model
    Package p draws ``static_uw`` plus ``dynamic_uj`` per core second of CPU time on its CPUs (CPU c of the machine
    belongs to package c mod 2); its dram ``dram_static_uw`` plus ``dram_share`` (in 1/1000) of the package's dynamic
    energy. CPU time is that of the node's cgroup, ``cpuacct.usage_all``. The coefficients differ per node.

The log
    One record per node and tick in ``<log_dir>/<node>.served``: see :data:`RECORD`. Times are CLOCK_MONOTONIC and
    CLOCK_REALTIME in ns. A value is visible from between ``begin_ns`` and ``end_ns`` of its record until between the
    two of the next record.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import mmap
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ZONES = ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0")
NAMES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "dram", "intel-rapl:1": "package-1", "intel-rapl:1:0": "dram"}
UNIT_NJ = {"intel-rapl:0": 61035, "intel-rapl:0:0": 15300, "intel-rapl:1": 61035, "intel-rapl:1:0": 15300}
COUNTS = 1 << 32
MAX_UJ = {zone: (COUNTS - 1) * unit // 1000 for zone, unit in UNIT_NJ.items()}
MARK = "simulated by perun-hpc tests\n"
VALUE_BYTES = 16
STAT_BYTES = 4096
STAT_EVERY_S = 0.1
GONE = (1 << 64) - 1

RECORD = struct.Struct("<QQQQQ4Q")
"""begin_ns, end_ns (monotonic), real_ns (of begin), cpu_ns of packages 0 and 1, values of ZONES (GONE: none)."""


class Served(NamedTuple):
    """One served value: visible from ``mono_ns`` (monotonic) on, ``real_ns`` is the same moment in real time."""

    mono_ns: int
    real_ns: int
    value: int


class CpuTime(NamedTuple):
    """CPU time of a node, in ns since its cgroup was made, per package."""

    mono_ns: int
    package_0_ns: int
    package_1_ns: int


def zone_directory(tree: Path, zone: str) -> Path:
    """Directory of a zone below ``.../powercap``, nested as in the kernel."""
    package = zone if zone.count(":") == 1 else zone.rpartition(":")[0]
    return tree / "intel-rapl" / package / ("" if zone == package else zone)


# ---------------------------------------------------------------------------------------------------------- reading


class ServedLog:
    """Reader of what a simulator served; new records are read as they come.

    Parameters
    ----------
    log_dir
        The directory of the simulator's logs.
    """

    def __init__(self, log_dir: Path) -> None:
        self.log_dir = log_dir
        self._records: dict[str, list[tuple[int, ...]]] = {}
        self._offsets: dict[str, int] = {}

    def records(self, node: str) -> list[tuple[int, ...]]:
        """All records of a node so far, see :data:`RECORD`."""
        known = self._records.setdefault(node, [])
        with (self.log_dir / f"{node}.served").open("rb") as log:
            log.seek(self._offsets.get(node, 0))
            data = log.read()
        whole = len(data) - len(data) % RECORD.size
        known.extend(RECORD.iter_unpack(data[:whole]))
        self._offsets[node] = self._offsets.get(node, 0) + whole
        return known

    def served(self, node: str, zone: str) -> list[Served]:
        """Every value served by a zone, in order; times when it was removed are left out."""
        column = 5 + ZONES.index(zone)
        return [Served(r[0], r[2], r[column]) for r in self.records(node) if r[column] != GONE]

    def value_at(self, node: str, zone: str, mono_ns: int) -> int | None:
        """Value visible at a moment (within the store's own microseconds); None if there was none."""
        records = self._covering(node, mono_ns)
        index = bisect.bisect_right(records, mono_ns, key=lambda record: record[1]) - 1
        value = records[index][5 + ZONES.index(zone)] if index >= 0 else GONE
        return None if value == GONE else value

    def was_served(self, node: str, zone: str, value: int, t0_ns: int, t1_ns: int) -> bool:
        """Whether a read between two moments (monotonic ns) can have returned ``value``."""
        column = 5 + ZONES.index(zone)
        records = self._covering(node, t1_ns)
        index = max(0, bisect.bisect_right(records, t0_ns, key=lambda record: record[1]) - 1)
        while index < len(records) and records[index][0] <= t1_ns:
            if records[index][column] == value:
                return True
            index += 1
        return False

    def moments(self, node: str, zone: str, value: int) -> list[tuple[int, int]]:
        """Intervals (monotonic ns) in which a value was visible; for failed assertions."""
        column = 5 + ZONES.index(zone)
        records = self.records(node)
        ends = [record[1] for record in records[1:]] + [time.monotonic_ns()]
        return [(r[0], end) for r, end in zip(records, ends, strict=True) if r[column] == value]

    def cpu_time(self, node: str) -> list[CpuTime]:
        """The node's true CPU time at every tick."""
        return [CpuTime(r[0], r[3], r[4]) for r in self.records(node)]

    def _covering(self, node: str, mono_ns: int, wait_s: float = 1.0) -> list[tuple[int, ...]]:
        """Records of a node, waiting until they reach ``mono_ns`` or no more come."""
        deadline = time.monotonic() + wait_s
        while True:
            records = self.records(node)
            if (records and records[-1][1] >= mono_ns) or time.monotonic() > deadline:
                return records
            time.sleep(0.005)


# ---------------------------------------------------------------------------------------------------------- serving


@dataclass
class Counter:
    """One energy counter; ``total`` counts 1e-9 uJ since its start (uW ns)."""

    unit_nj: int
    start_count: int
    total: int = 0
    frozen: bool = False
    gone: bool = False

    def value_uj(self) -> int:
        """The counter's reading in uJ."""
        count = (self.start_count + self.total // (self.unit_nj * 1_000_000)) % COUNTS
        return count * self.unit_nj // 1000


@dataclass(frozen=True)
class Coefficients:
    """The hidden power model of one package and its dram."""

    static_uw: int
    dynamic_uj: int
    dram_static_uw: int
    dram_share: int


def coefficients(seed: str, node: str, package: int) -> Coefficients:
    """Draw a package's coefficients: 18-30 W static, 9-16 J per core second, dram 3-6 W static and 10-25 %."""
    draw = random.Random(f"{seed}/{node}/{package}")
    return Coefficients(
        static_uw=draw.randrange(18_000_000, 30_000_000),
        dynamic_uj=draw.randrange(9_000_000, 16_000_000),
        dram_static_uw=draw.randrange(3_000_000, 6_000_000),
        dram_share=draw.randrange(100, 250),
    )


def start_count(seed: str, nodes: list[str], node: str, zone: str, boot: int) -> int:
    """Where a counter starts: anywhere, but package-0 of the second node (of the only one) 1500 J below its wrap.

    At 18-30 W idle that zone wraps within 50-83 s, and sooner under load. After a power cycle all start near zero.
    """
    draw = random.Random(f"{seed}/{node}/{zone}/{boot}")
    if boot:
        return draw.randrange(1000, 100_000)
    if zone == "intel-rapl:0" and node == nodes[min(1, len(nodes) - 1)]:
        return COUNTS - 1_500_000_000 // 61
    return draw.randrange(COUNTS // 20, COUNTS - COUNTS // 20)


class CpuReader:
    """CPU time of a cgroup per CPU of the machine, (user, system) in ns."""

    def __init__(self, directory: Path) -> None:
        for name in ("cpuacct.usage_all", "cpu.stat"):
            with contextlib.suppress(FileNotFoundError):
                self._fd = os.open(directory / name, os.O_RDONLY)
                self._version2 = name == "cpu.stat"
                return
        raise FileNotFoundError(f"neither cpuacct.usage_all nor cpu.stat in {directory}")

    def read(self) -> list[tuple[int, int]]:
        """Read all CPUs' times; with cgroup version 2, which has no per-CPU times, they are split evenly."""
        words = os.pread(self._fd, 65536, 0).split()
        if not self._version2:
            return [(int(words[i + 1]), int(words[i + 2])) for i in range(3, len(words), 3)]
        table = dict(zip(words[::2], words[1::2], strict=False))
        cpus = os.cpu_count() or 1
        return [(int(table[b"user_usec"]) * 1000 // cpus, int(table[b"system_usec"]) * 1000 // cpus)] * cpus


class Node:
    """One node's counters, files and log."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        self.name = name
        self.seed: str = config["seed"]
        self.names: list[str] = list(config["nodes"])
        self.tree = Path(config["live_dir"]) / name / "powercap"
        self.cpu = CpuReader(Path(config["nodes"][name]))
        self.model = [coefficients(self.seed, name, package) for package in (0, 1)]
        self.boot = 0
        self.counters: dict[str, Counter] = {}
        self.power_on()
        self._maps = {zone: self._create_zone(zone) for zone in ZONES}
        self._stat = self._create_stat(Path(config["live_dir"]) / name / "stat")
        self._stat_tail = b"".join(
            line for line in Path("/proc/stat").read_bytes().splitlines(True) if not line.startswith((b"cpu", b"intr"))
        )
        log = Path(config["log_dir"]) / f"{name}.served"
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o644)
        self._last_ns = time.monotonic_ns()
        self._last_cpu = self._package_ns(self.cpu.read())
        self._start_ns = self._last_ns
        self.stat_jumps = False
        self._stats = 0

    def power_on(self) -> None:
        """Start all counters as after a power cycle; the first time, as a node that has long been up."""
        for zone in ZONES:
            start = start_count(self.seed, self.names, self.name, zone, self.boot)
            self.counters[zone] = Counter(UNIT_NJ[zone], start)
        self.boot += 1

    def _create_zone(self, zone: str) -> mmap.mmap:
        directory = zone_directory(self.tree, zone)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text, mode in (
            ("name", f"{NAMES[zone]}\n", 0o444),
            ("max_energy_range_uj", f"{MAX_UJ[zone]}\n", 0o444),
            ("enabled", "1\n", 0o644),
        ):
            (directory / name).write_text(text)
            (directory / name).chmod(mode)
        return self._map(directory / "energy_uj", 0o400, VALUE_BYTES)

    @staticmethod
    def _map(path: Path, mode: int, size: int) -> mmap.mmap:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        os.fchmod(fd, mode)
        os.ftruncate(fd, size)
        mapping = mmap.mmap(fd, size)
        os.close(fd)
        return mapping

    def _create_stat(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o444)
        os.fchmod(fd, 0o444)
        return fd

    @staticmethod
    def _package_ns(times: list[tuple[int, int]]) -> list[int]:
        return [sum(u + s for u, s in times[0::2]), sum(u + s for u, s in times[1::2])]

    def tick(self) -> None:
        """Advance the counters to now, serve them, log them."""
        cpu = self._package_ns(self.cpu.read())
        now_ns = time.monotonic_ns()
        elapsed_ns = now_ns - self._last_ns
        for package in (0, 1):
            model = self.model[package]
            dynamic = model.dynamic_uj * (cpu[package] - self._last_cpu[package])
            core, dram = self.counters[ZONES[2 * package]], self.counters[ZONES[2 * package + 1]]
            if not core.frozen:
                core.total += model.static_uw * elapsed_ns + dynamic
            if not dram.frozen:
                dram.total += model.dram_static_uw * elapsed_ns + dynamic * model.dram_share // 1000
        self._last_ns, self._last_cpu = now_ns, cpu
        self.serve()

    def serve(self) -> None:
        """Store the values where readers see them, and log them."""
        values = [GONE if counter.gone else counter.value_uj() for counter in self.counters.values()]
        texts = [b"%d" % value for value in values]
        begin_ns, real_ns = time.monotonic_ns(), time.time_ns()
        for zone, value, text in zip(ZONES, values, texts, strict=True):
            if value != GONE:
                self._maps[zone][0:VALUE_BYTES] = text.ljust(VALUE_BYTES, b"\n")
        end_ns = time.monotonic_ns()
        os.write(self._log, RECORD.pack(begin_ns, end_ns, real_ns, *self._last_cpu, *values))

    def serve_stat(self) -> None:
        """Rewrite the node's /proc/stat: user, system and idle time of this node only, in 1/100 s."""
        wall = (time.monotonic_ns() - self._start_ns) // 10_000_000
        self._stats += 1
        lines: list[str] = []
        sums = [0, 0, 0]
        for index, (user, system) in enumerate(self.cpu.read()):
            ticks = (user // 10_000_000, system // 10_000_000)
            if self.stat_jumps and index % 2 and self._stats % 2:
                ticks = (ticks[0] // 2, ticks[1] // 2)
            idle = max(0, wall - sum(ticks))
            for place, value in enumerate((*ticks, idle)):
                sums[place] += value
            lines.append(f"cpu{index} {ticks[0]:012d} 0 {ticks[1]:012d} {idle:012d} 0 0 0 0 0 0\n")
        head = f"cpu  {sums[0]:012d} 0 {sums[1]:012d} {sums[2]:012d} 0 0 0 0 0 0\n"
        os.pwrite(self._stat, head.encode() + "".join(lines).encode() + self._stat_tail, 0)

    def remove(self, zone: str) -> None:
        """Take a zone's counter away: the file is gone, an open descriptor reads nothing."""
        if self.counters[zone].gone:
            return
        self.counters[zone].gone = True
        self._maps[zone].close()
        path = zone_directory(self.tree, zone) / "energy_uj"
        os.truncate(path, 0)
        path.unlink()

    def restore(self, zone: str) -> None:
        """Bring a removed counter back; it went on counting."""
        if not self.counters[zone].gone:
            return
        self._maps[zone] = self._map(zone_directory(self.tree, zone) / "energy_uj", 0o400, VALUE_BYTES)
        self.counters[zone].gone = False

    def command(self, words: dict[str, Any]) -> dict[str, Any]:
        """Carry out one of the tests' knobs; the answer holds the values then served."""
        zones = list(ZONES) if words.get("zone") is None else [str(words["zone"])]
        self.tick()
        do = words["do"]
        if do == "power_cycle":
            for zone in ZONES:
                self.restore(zone)
            self.power_on()
        elif do in KNOBS:
            for zone in zones:
                KNOBS[do](self, zone, words)
        else:
            return {"error": f"unknown command {do}: {' '.join(KNOBS)} power_cycle"}
        self.serve()
        return {zone: None if self.counters[zone].gone else self.counters[zone].value_uj() for zone in ZONES}

    def freeze(self, zone: str, frozen: bool) -> None:
        """Stop a counter, or let it go on from where it stands."""
        self.counters[zone].frozen = frozen

    def jump(self, jumps: bool) -> None:
        """Let the busy time of every other CPU fall back to half of it, and return, at every renewal of /proc/stat."""
        self.stat_jumps = jumps

    def set_value(self, zone: str, value_uj: int) -> None:
        """Set a counter to the last of its units at or below a value."""
        counter = self.counters[zone]
        counter.start_count, counter.total = value_uj * 1000 // counter.unit_nj % COUNTS, 0


KNOBS: dict[str, Callable[[Node, str, dict[str, Any]], None]] = {
    "values": lambda node, zone, words: None,
    "freeze": lambda node, zone, words: node.freeze(zone, True),
    "thaw": lambda node, zone, words: node.freeze(zone, False),
    "stat_jumps": lambda node, zone, words: node.jump(True),
    "stat_steady": lambda node, zone, words: node.jump(False),
    "set": lambda node, zone, words: node.set_value(zone, int(words["value_uj"])),
    "remove": lambda node, zone, words: node.remove(zone),
    "restore": lambda node, zone, words: node.restore(zone),
    "mode": lambda node, zone, words: (zone_directory(node.tree, zone) / "energy_uj").chmod(int(words["mode"])),
}


def class_directory(path: Path) -> None:
    """Write what /sys/class/powercap holds: flat links to the zones, and the mark."""
    path.mkdir(parents=True, exist_ok=True)
    device = Path("../../devices/virtual/powercap")
    for name, target in [("intel-rapl", device / "intel-rapl")] + [(z, zone_directory(device, z)) for z in ZONES]:
        (path / name).symlink_to(target)
    (path / "perun_simulated").write_text(MARK)


def ticks(period_s: float) -> Iterator[float]:
    """Yield the moments at which to tick; missed ones are skipped, the phase is kept."""
    due = time.monotonic()
    while True:
        due += period_s * max(1, -(-(time.monotonic() - due) // period_s))
        yield due


def serve(config: dict[str, Any]) -> None:
    """Serve all nodes until killed."""
    nodes = {name: Node(name, config) for name in config["nodes"]}
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(config["control"])
    next_stat = 0.0
    ready = False
    for due in ticks(config["period_s"]):
        for node in nodes.values():
            node.tick()
        if time.monotonic() >= next_stat:
            next_stat = time.monotonic() + STAT_EVERY_S
            for node in nodes.values():
                node.serve_stat()
        if not ready:
            ready = True
            Path(config["ready"]).touch()
        while (left := due - time.monotonic()) > 0:
            control.settimeout(left)
            try:
                message, sender = control.recvfrom(4096)
            except TimeoutError:
                break
            answer(nodes, control, message, sender)


def answer(nodes: dict[str, Node], control: socket.socket, message: bytes, sender: Any) -> None:
    """Carry out a command of the tests and answer it."""
    try:
        words = json.loads(message)
        reply = nodes[words["node"]].command(words)
    except (ValueError, KeyError, OSError) as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        control.sendto(json.dumps(reply).encode(), sender)


def send(control: Path, words: dict[str, Any], timeout_s: float = 5.0) -> dict[str, int | None]:
    """Send a command to a running simulator and return the values that it serves afterwards.

    Raises
    ------
    RuntimeError
        If the simulator refuses the command.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
        mine.settimeout(timeout_s)
        mine.bind("")  # an abstract address chosen by the kernel, see unix(7)
        mine.sendto(json.dumps(words).encode(), str(control))
        reply: dict[str, Any] = json.loads(mine.recv(4096))
    if "error" in reply:
        raise RuntimeError(f"simulator: {reply['error']}")
    return reply


def main() -> None:
    """Detach and serve: one double fork, then the pid file names it."""
    config: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    with contextlib.suppress(OSError):
        os.nice(-10)
    Path(config["pid_file"]).write_text(str(os.getpid()))
    serve(config)


if __name__ == "__main__":
    main()
