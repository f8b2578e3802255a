"""What counting events by cgroup would cost a job: `python -m bench.counting`, as root, with a cgroup2 mounted.

Two processes, each in a cgroup of its own, hand a byte to each other on one CPU, so that every handing over is a switch
between cgroups: the worst case. Compared is the CPU time of both for a round trip, without events and with a group of
three for each cgroup on each CPU, as `perf_event_open` opens it with PERF_FLAG_PID_CGROUP; and what it takes to open,
read and close them. Where the processor has no counters (virtual machines) the events are the kernel's own: task clock,
context switches, page faults. Nothing of perun's counts a job so; docs/method.md says why.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from perun_hpc.process import confine

ROUNDS = 15
TRIPS = 20_000
HARDWARE, SOFTWARE = 0, 1
SETS = {
    "hardware": [(HARDWARE, 0), (HARDWARE, 1), (HARDWARE, 3)],
    "software": [(SOFTWARE, 1), (SOFTWARE, 3), (SOFTWARE, 2)],
}
"""Cycles, instructions, cache misses; task clock, context switches, page faults (linux/perf_event.h)."""
READ_FORMAT = 1 | 2 | 8
"""Time enabled and running, the whole group at once."""
PID_CGROUP = 1 << 2
ATTR_BYTES = 128


def opened(event: tuple[int, int], pid: int, cpu: int, group: int, flags: int) -> int:
    """A descriptor of an event.

    Raises
    ------
    OSError
        as perf_event_open(2) says.
    """
    kind, config = event
    attr = bytearray(ATTR_BYTES)
    struct.pack_into("IIQQQQQ", attr, 0, kind, ATTR_BYTES, config, 0, 0, READ_FORMAT, 0)
    return confine.perf_event_open(bytes(attr), pid, cpu, group, flags)


def kind_of_events() -> str:
    """Which of `SETS` this machine has."""
    try:
        os.close(opened(SETS["hardware"][0], 0, -1, -1, 0))
    except OSError as error:
        print(f"cycles: {error.strerror}: not run on hardware counters, but on software events")
        return "software"
    return "hardware"


@contextlib.contextmanager
def counted(cgroups: Sequence[Path], kind: str) -> Iterator[list[int]]:
    """Count a set in these cgroups, on every CPU; yields the groups' leaders."""
    descriptors: list[int] = []
    leaders: list[int] = []
    try:
        for cgroup in cgroups:
            directory = os.open(cgroup, os.O_RDONLY)
            for cpu in sorted(os.sched_getaffinity(0)):
                leader = -1
                for event in SETS[kind]:
                    descriptors.append(opened(event, directory, cpu, leader, PID_CGROUP))
                    if leader < 0:
                        leader = descriptors[-1]
                leaders.append(leader)
            os.close(directory)
        yield leaders
    finally:
        for number in descriptors:
            os.close(number)


def sums(leaders: Sequence[int]) -> list[int]:
    """The three counts over all CPUs; what was counted for a part of its time only is not the whole."""
    found = [0, 0, 0]
    for leader in leaders:
        _, enabled, running, *values = struct.unpack("6Q", os.read(leader, 48))
        if running < enabled:
            print("others count, too: the kernel gave these events a part of the time")
        found = [one + value for one, value in zip(found, values, strict=True)]
    return found


def round_trip_ns(cgroups: Sequence[Path], cpu: int) -> float:
    """CPU time of both processes for one round trip, ns."""
    there, back = os.pipe(), os.pipe()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = []
    for number, (cgroup, source, sink) in enumerate(
        zip(cgroups, (there[0], back[0]), (back[1], there[1]), strict=True)
    ):
        child = os.fork()
        if child == 0:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
            os.sched_setaffinity(0, {cpu})
            if number:
                os.write(sink, b"x")
            for _ in range(TRIPS):
                os.read(source, 1)
                os.write(sink, b"x")
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    for number in (*there, *back):
        os.close(number)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used_s * 1e9 / TRIPS


def main() -> int:
    """Print what is measured."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    tops = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    if not tops or os.geteuid() != 0:
        print("needs root and a cgroup2 file system")
        return 1
    cgroups = [tops[0] / f"perun-counting-{os.getpid()}-{number}" for number in range(2)]
    for cgroup in cgroups:
        cgroup.mkdir()
    try:
        report(cgroups)
    finally:
        for cgroup in cgroups:
            cgroup.rmdir()
    return 0


def report(cgroups: Sequence[Path]) -> None:
    """Measure in turn, so that a machine that is busy is so for both."""
    kind, cpu = kind_of_events(), min(os.sched_getaffinity(0))
    plain, events, opening, reading = [], [], [], []
    for _ in range(ROUNDS):
        plain.append(round_trip_ns(cgroups, cpu))
        begin_ns = time.process_time_ns()
        with counted(cgroups, kind) as leaders:
            opening.append((time.process_time_ns() - begin_ns) / len(leaders))
            events.append(round_trip_ns(cgroups, cpu))
            begin_ns = time.process_time_ns()
            found = sums(leaders)
            reading.append((time.process_time_ns() - begin_ns) / len(leaders))
    print(f"{kind} events of {len(cgroups)} cgroups on {len(leaders) // len(cgroups)} CPUs, the last counts {found}")
    print(f"n = {ROUNDS}, load {os.getloadavg()[0]:.0f}; the median, the least and the most")
    added = [(with_ns - without_ns) / 2 for with_ns, without_ns in zip(events, plain, strict=True)]
    shown = {
        "a round trip of two switches, without": plain,
        "a round trip of two switches, with": events,
        "added to a switch": added,
        "opening a group of three": opening,
        "reading a group of three": reading,
    }
    for name, values in shown.items():
        print(f"{name}: {statistics.median(values):.0f} ns ({min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    sys.exit(main())
