"""RAPL's counters through the kernel's power PMU: one read of a perf group instead of a file for each domain.

`/sys/bus/event_source/devices/power/{type,cpumask,events/energy-*}` (arch/x86/events/rapl.c) names the events, which
`perf_event_open` opens on one CPU of each package. A file of powercap's costs an interrupt of a CPU of its package; a
group costs one for all. The sensors stay powercap's: a group stands in for their files once its values agreed with them
and it cost less, and every `CHECK`th reading is the files' own, and one a minute, and one for which no event counted
anything: those of a package whose CPUs are offline stand still. Not run on hardware.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import eq
from pathlib import Path
from typing import NamedTuple, TypeAlias

from perun_hpc.backend.base import Clock, Reader, monotonic_ns
from perun_hpc.backend.sysfile import NumberFiles, entries, integer, number, reason, text
from perun_hpc.data_model.sensor import GAP, Reading, Sensor
from perun_hpc.process import confine

PMU = "sys/bus/event_source/devices/power"
FAMILIES = {"pkg": "package", "cores": "core", "ram": "dram", "gpu": "uncore", "psys": "psys"}
"""What powercap calls the domain of an event."""
FIRST_READINGS, PATIENCE_NS = 10, 60_000_000_000
"""So many readings are compared at least, and for so long a counter is given to move far enough."""
LEAST_STEPS = 100
"""So far a counter must have moved: one that stands still agrees with everything."""
STEPS, PART = 2, 10_000
"""Values agree within so many steps of the counter and this part of what it counted; units are rounded in powercap's
driver (61035 for 61035.16 pJ), and that of memory is a third of a percent off on some servers."""
CHECK, CHECK_NS = 64, 60_000_000_000
"""Each so manyth reading is that of the files, and one after so long."""
FILES_READ = "powercap's files are read"
"""How the state begins where no group stands in for any."""
_DISABLED, _GROUP, _CLOEXEC = 1, 8, 8
_ENABLE, _DISABLE, _WHOLE_GROUP = 0x2400, 0x2401, 1
_ATTR_B = 128
_COUNTS_B = 8 * 17
"""How many, and each: more than there are domains."""


class Member(NamedTuple):
    """Where a sensor's value lies in a group: its leader, its place, and uJ per count as a fraction; what was shown of
    it last (`GAP`: nothing)."""

    leader: int
    place: int
    num: int
    den: int
    last: int = GAP


Shown: TypeAlias = dict[str, tuple[int, int]]
"""What sensors showed last where a group is or was read, by their ids, and when a group or a file was there first."""


@dataclass
class Group:
    """Events of one CPU that are read at once; they count from `start` on."""

    cpu: int
    ids: tuple[str, ...]
    scales: tuple[tuple[int, int], ...]
    fds: tuple[int, ...]
    counting: bool = False

    def start(self) -> None:
        """Let it count; OSError passes."""
        if not self.counting:
            fcntl.ioctl(self.fds[0], _ENABLE, _WHOLE_GROUP)
            self.counting = True

    def stop(self) -> None:
        """Let it count no more."""
        if self.counting:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.fds[0], _DISABLE, _WHOLE_GROUP)
            self.counting = False

    def read(self) -> list[int]:
        """What each event has counted, in uJ; OSError where the kernel gives nothing (its CPUs are offline)."""
        data = os.read(self.fds[0], _COUNTS_B)
        if len(data) != 8 + 8 * len(self.fds):
            raise OSError(errno.ENODEV, "the group counts no more")
        counts = memoryview(data).cast("q")[1:]
        return [count * num // den for count, (num, den) in zip(counts, self.scales, strict=True)]

    def close(self) -> None:
        """Close the events."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fds = ()


@dataclass(frozen=True)
class Pmu:
    """The groups that could be opened, and why others could not; events without a sensor of powercap's are none."""

    groups: tuple[Group, ...] = ()
    why: tuple[str, ...] = ()
    shown: Shown = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, sensors: Iterable[Sensor]) -> Pmu:
        """Open the events of powercap's sensors, not yet counting, while the process may (CAP_PERFMON)."""
        base = root / PMU
        kind, cpus = number(base / "type"), _cpus(text(base / "cpumask") or "")
        if kind is None or not 0 <= kind < 1 << 32:
            return cls((), (f"no power PMU: {base / 'type'} is not there, or names none",))
        domains = {one.domain: one for one in sensors if one.backend == "powercap" and _fits(one)}
        groups, why, taken = list[Group](), list[str](), set[str]()
        events = _events(base / "events")
        for cpu in cpus:
            names = [_domain(root, cpu, family, domains, taken) for family, _, _ in events]
            found = [(domains[one].id, *event[1:]) for one, event in zip(names, events, strict=True) if one]
            taken |= {one for one in names if one}
            if not found:
                continue
            try:
                fds = _open_group(kind, [config for _, config, _ in found], cpu)
            except OSError as error:
                why.append(f"no group of power events on CPU {cpu}: {reason(error)}")
                continue
            groups.append(Group(cpu, tuple(one[0] for one in found), tuple(one[2] for one in found), fds))
        if not groups and not why:
            why.append("no event of the power PMU was of a sensor of powercap's when the agent began")
        return cls(tuple(groups), tuple(why))

    def over(self, files: NumberFiles, wanted: bool) -> NumberFiles:
        """A reader of these files, which gives them up, and, where `wanted`, of the groups; the same reader where no
        group is of any."""
        ids = {one.id for one in files.sensors}
        groups = tuple(one for one in self.groups if wanted and ids.intersection(one.ids))
        return PowerFiles.over(files, groups, self.shown) if groups or ids & self.shown.keys() else files

    def stop(self) -> None:
        """Let none count; who reads them begins anew."""
        for one in self.groups:
            one.stop()

    def close(self) -> None:
        """Close the groups."""
        for one in self.groups:
            one.close()


def _fits(sensor: Sensor) -> bool:
    """Whether a group may stand in for the sensor's file: its modulus is known, and half of 63 bits at most."""
    return sensor.wrap_range is not None and 0 < sensor.wrap_range < 1 << 62


def _cpus(words: str) -> list[int]:
    """CPUs of a list as the kernel writes it: `0,24-25`; none where it is something else."""
    found: list[int] = []
    for word in words.split(",") if words else ():
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", word)
        if match is None:
            return []
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _events(directory: Path) -> list[tuple[str, int, tuple[int, int]]]:
    """Family of the domain, configuration, uJ per count, of the events that are understood."""
    found = []
    for file in entries(directory):
        family = FAMILIES.get(file.name.removeprefix("energy-")) if file.name.startswith("energy-") else None
        match = re.fullmatch(r"event=(0x[0-9a-f]{1,8}|0|[1-9]\d{0,8})", text(file) or "")
        scale = _scale(text(directory / f"{file.name}.scale") or "")
        if family and match and scale and text(directory / f"{file.name}.unit") == "Joules":
            found.append((family, int(match[1], 0), scale))
    return sorted(found, key=lambda one: list(FAMILIES.values()).index(one[0]))


def _scale(words: str) -> tuple[int, int] | None:
    """UJ per count, from joules per count in decimal digits; None where that is nothing a counter can have."""
    match = re.fullmatch(r"(\d{1,40})(?:\.(\d{1,40}))?(?:e(-?\d{1,2}))?", words)
    if match is None:
        return None
    places = 6 - len(match[2] or "") + int(match[3] or 0)
    num, den = int(match[1] + (match[2] or "")) * 10 ** max(0, places), 10 ** max(0, -places)
    num, den = num // math.gcd(num, den), den // math.gcd(num, den)
    return (num, den) if 0 < num < 1 << 62 and den < 1 << 62 else None


def _domain(root: Path, cpu: int, family: str, domains: dict[str, Sensor], taken: set[str]) -> str | None:
    """The domain of an event on that CPU; a platform's event is the first package's alone where there is one only."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    package, die = number(topology / "physical_package_id"), number(topology / "die_id")
    if package is None:
        return None
    names = [f"{family}-{package}-die-{die}", f"{family}-{package}"]
    if family == "psys" and package == 0:
        names.append("psys")
    return next((one for one in names if one in domains and one not in taken), None)


def _open_group(kind: int, configs: Sequence[int], cpu: int) -> tuple[int, ...]:
    fds: list[int] = []
    try:
        for config in configs:
            fds.append(_open_event(kind, config, cpu, fds[0] if fds else -1))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return tuple(fds)


def _open_event(kind: int, config: int, cpu: int, leader: int) -> int:
    """perf_event_open(2); the leader waits to be enabled, and others count with it."""
    attr = bytearray(_ATTR_B)
    struct.pack_into("=IIQQQQQ", attr, 0, kind, _ATTR_B, config, 0, 0, _GROUP, _DISABLED if leader < 0 else 0)
    return confine.perf_event_open(bytes(attr), -1, cpu, leader, _CLOEXEC)


@dataclass
class _Track:
    """What is known of one sensor: place among the files, in its group; by what both differ, and how sure that is."""

    place: int
    member: int
    wrap: int
    step: int
    base: int = -1
    doubt: int = 0
    at: int = 0
    first: int = 0
    moved: int = 0
    drift: int = 0

    def hold(self, file: int, before: int, after: int) -> int:
        """Compare a file's value with what the group counted around it; by how many uJ more than allowed it is off.

        Held against each other are what both counted since the last comparison, and since the first.
        """
        wide = after - before
        if self.base < 0:
            self.base, self.first = (file - after) % self.wrap, wide
            self.doubt, self.at = wide, after
            return 0
        off = (file - self.base - before) % self.wrap
        off -= self.wrap if off > self.wrap // 2 else 0
        excess = off if off < 0 else max(0, off - wide)
        since, steps = after - self.at, STEPS * self.step
        once = abs(excess) - (steps + since // PART + self.doubt)
        self.moved, self.drift = self.moved + since, self.drift + excess
        in_all = abs(self.drift) - (steps + self.moved // PART + self.first)
        self.base, self.doubt, self.at = (self.base + excess) % self.wrap, wide, after
        return max(0, once, in_all)

    def value(self, uj: int) -> int:
        """The counter's value by what the group has counted."""
        return (self.base + uj) % self.wrap


@dataclass
class _Part:
    """A group with the sensors that it may stand in for, what it said last, and what its reads and those of their
    files took at least."""

    group: Group
    tracks: list[_Track]
    counted: list[int]
    group_ns: int = 1 << 62
    files_ns: int = 1 << 62


class PowerFiles(NumberFiles):
    """Powercap's files, of which groups of the power PMU stand in for some as soon as that is found good."""

    @classmethod
    def over(
        cls,
        files: NumberFiles,
        groups: Sequence[Group],
        shown: Shown,
        clock: Clock = monotonic_ns,
        timer: Clock = monotonic_ns,
    ) -> PowerFiles:
        """Take over the files; a group that does not begin to count is none, and said so.

        `shown`, which is kept, is what readers of before showed by the groups: no value is less for now. `timer` times
        the reads.
        """
        reader = cls((), clock)
        reader._sensors, reader.cost_ns = files.sensors, files.cost_ns
        reader._descriptors, files._descriptors = files._descriptors, [-1] * len(files._descriptors)
        reader.why, reader.changes, reader._known = [], 0, set()
        reader._round, reader._trying, reader._parts = 0, True, []
        reader._began_ns, reader._timer = reader._clock(), timer
        reader._checked_ns, reader._shown, reader.is_wanted = reader._began_ns, shown, bool(groups)
        reader._places = places = {one.id: place for place, one in enumerate(reader._sensors)}
        for group in groups:
            try:
                group.start()
                counted = group.read()
            except OSError as error:
                group.stop()
                reader.why.append(f"CPU {group.cpu}: {reason(error)}")
                continue
            tracks = [
                _Track(places[name], member, reader._sensors[places[name]].wrap_range or 1,
                       reader._sensors[places[name]].resolution)
                for member, name in enumerate(group.ids) if name in places and _fits(reader._sensors[places[name]])
            ]  # fmt: skip
            reader._parts.append(_Part(group, tracks, counted))
        reader._settle()
        return reader

    why: list[str]
    """Why sensors are read from their files all the same."""
    changes: int
    """How often other sensors came to be read from groups."""
    is_wanted: bool
    """Whether groups were to be tried."""
    _known: set[str]
    _round: int
    _trying: bool
    _began_ns: int
    _checked_ns: int
    _timer: Clock
    _shown: Shown
    _places: dict[str, int]
    _parts: list[_Part]
    _rest: NumberFiles
    _others: list[int]

    @property
    def state(self) -> str:
        """One line on what is read how."""
        count = sum(len(one.tracks) for one in self._parts)
        said = f"{len(self._parts)} groups for {count} counters" if count else FILES_READ
        words = [f"compared with powercap's files: {count} counters" if self._trying and count else said, *self.why]
        return "; ".join(words)

    @property
    def members(self) -> dict[str, Member]:
        """Where the values of sensors lie that groups stand in for, by the sensors' ids; none during the trial."""
        found = {}
        for part in [] if self._trying else self._parts:
            for one in part.tracks:
                last, _ = self._shown.get(name := part.group.ids[one.member], (GAP, 0))
                found[name] = Member(part.group.fds[0], one.member, *part.group.scales[one.member], last)
        return found

    def read(self) -> tuple[Reading, ...]:
        """As of the files; a value of a group's is of the end of the group's read."""
        if (values := self._grouped()) is None:
            read = super().read()
            steady = self._steady([one.ticks for one in read])
            return tuple(one._replace(ticks=ticks) for one, ticks in zip(read, steady, strict=True))
        found: list[Reading | None] = [None] * len(self._sensors)
        for place, (ticks, mono_ns) in values.items():
            found[place] = Reading(ticks, mono_ns)
        for place, one in zip(self._others, self._rest.read(), strict=True):
            found[place] = one
        return tuple(one for one in found if one is not None)

    def ticks(self) -> list[int | None]:
        """What `read` says, without times and reasons."""
        if (values := self._grouped()) is None:
            return self._steady(super().ticks())
        found: list[int | None] = [None] * len(self._sensors)
        for place, (ticks, _) in values.items():
            found[place] = ticks
        for place, one in zip(self._others, self._rest.ticks(), strict=True):
            found[place] = one
        return found

    def _steady(self, values: list[int | None]) -> list[int | None]:
        """Values of files, none of them less than what was shown, which a group may have been a little ahead with."""
        if self._shown or self._parts:
            now_ns = self._clock()
            names = {part.group.ids[one.member] for part in self._parts for one in part.tracks}
            for name in names | self._shown.keys() & self._places.keys():
                place = self._places[name]
                value = values[place]
                if value is None:
                    continue
                values[place] = held = self._not_less(name, place, value, now_ns)
                if held == value and name not in names:
                    self._shown.pop(name, None)
        return values

    def _not_less(self, name: str, place: int, value: int, now_ns: int) -> int:
        """A value, or the last one where that is a little more, which would be taken for a counter that wrapped; such a
        one holds for a minute."""
        wrap = self._sensors[place].wrap_range or 1
        last, since_ns = self._shown.get(name, (value, 0))
        if 0 < (last - value) % wrap < wrap >> 10 and now_ns - since_ns < CHECK_NS:
            return last
        self._shown[name] = value % wrap, now_ns
        return value

    def _grouped(self) -> dict[int, tuple[int, int]] | None:
        """Place -> value and time, of the sensors of groups; None: it is the files' turn."""
        if not self._parts:
            return None
        due = self._trying or self._round % CHECK == 0 or self._clock() - self._checked_ns >= CHECK_NS
        self._round += 1
        values: dict[int, tuple[int, int]] = {}
        try:
            for part in () if due else self._parts:
                before, part.counted = part.counted, part.group.read()
                now_ns = self._clock()
                due = due or all(map(eq, before, part.counted))
                values |= {one.place: (one.value(part.counted[one.member]), now_ns) for one in part.tracks}
        except OSError as error:
            self._drop(part, reason(error))
            return None
        if due:
            self._compare()
            return None
        sensors = self._sensors
        return {
            place: (self._not_less(sensors[place].id, place, value, now_ns), now_ns)
            for place, (value, now_ns) in values.items()
        }

    def _compare(self) -> None:
        """Hold each group against the files, and say what follows from that."""
        self._checked_ns = self._clock()
        for part in tuple(self._parts):
            fds = [self._descriptors[one.place] for one in part.tracks]
            try:
                times = [self._timer()]
                before = part.group.read()
                times.append(self._timer())
                files = [integer(os.pread(fd, 64, 0)) for fd in fds]
                times.append(self._timer())
                after = part.counted = part.group.read()
                times.append(self._timer())
            except OSError as error:
                self._drop(part, reason(error))
                continue
            part.group_ns = min(part.group_ns, times[1] - times[0], times[3] - times[2])  # the first one is cold
            part.files_ns = min(part.files_ns, (times[2] - times[1]) // len(fds))
            for one, value in zip(tuple(part.tracks), files, strict=True):
                if value is None or not 0 <= value < one.wrap:
                    self._leave(part, one, "its file holds no number of its range")
                elif over := one.hold(value, before[one.member], after[one.member]):
                    self._leave(part, one, f"the group's value is {over} uJ further from its file's than it may be")
            if len(part.tracks) < len(files) and not self._trying:
                self._weigh(part)
        if self._trying:
            self._try_on()
        self._settle()

    def _try_on(self) -> None:
        """End the trial where enough is known, and keep the groups that are cheaper."""
        tracks = [one for part in self._parts for one in part.tracks]
        slow = [one for one in tracks if one.moved < LEAST_STEPS * one.step]
        if self._round < FIRST_READINGS or (slow and self._clock() - self._began_ns < PATIENCE_NS):
            return
        self._trying = False
        for part in tuple(self._parts):
            for one in [one for one in part.tracks if one in slow]:
                self._leave(part, one, "it hardly counts")
            self._weigh(part)

    def _weigh(self, part: _Part) -> None:
        """Drop a group that costs no less than the files that it stands in for."""
        took_ns = part.files_ns * len(part.tracks)
        if part.tracks and part.group_ns >= took_ns:
            us = f"{part.group_ns / 1000:.1f} us, its files {took_ns / 1000:.1f} us"
            self._drop(part, f"not cheaper: a read of the group takes {us}")

    def _leave(self, part: _Part, one: _Track, why: str) -> None:
        part.tracks.remove(one)
        self.why.append(f"{self._sensors[one.place].domain}: {why}")

    def _drop(self, part: _Part, why: str) -> None:
        part.tracks.clear()
        self.why.append(f"CPU {part.group.cpu}: {why}")
        self._settle()

    def _settle(self) -> None:
        """Read the files of all that no group stands in for."""
        for part in self._parts:
            if not part.tracks:
                part.group.stop()
        self._parts = [one for one in self._parts if one.tracks]
        now = set(self.members)
        self.changes, self._known = self.changes + (now != self._known), now
        taken = {one.place for part in self._parts for one in part.tracks}
        self._others = [place for place in range(len(self._sensors)) if place not in taken]
        sensors = tuple(self._sensors[place] for place in self._others)
        self._rest = NumberFiles.of(sensors, [self._descriptors[place] for place in self._others], self._clock)


def members_of(readers: Iterable[Reader]) -> dict[str, Member]:
    """Where the values of sensors lie that groups stand in for, by the sensors' ids."""
    found: dict[str, Member] = {}
    for reader in readers:
        if isinstance(reader, PowerFiles):
            found |= reader.members
    return found
