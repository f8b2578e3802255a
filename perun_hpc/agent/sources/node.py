"""The node as the agent sees it: open readers, the moment's readings, and each job's cgroup."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.sources import finding, workers
from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.gauges import Gauges
from perun_hpc.agent.sources.workers import Worker
from perun_hpc.backend import accelerators, catalog, estimate, mirrors
from perun_hpc.backend.base import Discovery, Reader, host_name
from perun_hpc.backend.cgroup import JobCgroup, find_job, find_parent, job_names, reserved_cpus
from perun_hpc.backend.estimate import Estimate
from perun_hpc.backend.power_pmu import FILES_READ, Pmu, PowerFiles
from perun_hpc.backend.procstat import ProcStat
from perun_hpc.backend.sysfile import DUMB, Absent, Files, NumberFiles, descriptors_of
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Missing, Reading, Sensor
from perun_hpc.energy.containment import SILENT
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard

if TYPE_CHECKING:
    from perun_hpc.agent.sources.fast_rows import FastRows


class JobUse(NamedTuple):
    """What a job's cgroup said: CPU time so far, memory (peak, limit), CPUs, whether suspended; None: not known.

    `inode` distinguishes cgroups (0: none was seen): without PrologFlags=Contain a job's cgroup goes with its last step
    and another one comes with the next, whose CPU time begins at 0.
    """

    cpu_ns: int | None = None
    mem_peak_b: int | None = None
    cpus: frozenset[int] | None = None
    suspended: bool | None = None
    memory_b: int | None = None
    inode: int = 0


NO_USE = JobUse()
"""Of a job without a cgroup."""


@dataclass(frozen=True)
class Snapshot:
    """All readings of one moment."""

    mono_ns: int
    real_ns: int
    readings: Mapping[str, Reading]
    busy_ns: Mapping[int, int]

    def ticks(self, ids: Iterable[str]) -> list[int | None]:
        """Raw ticks of some sensors, None where there is no reading."""
        return [self.readings[one].ticks if one in self.readings else None for one in ids]


class Renewed(NamedTuple):
    """What became of a backend's sensors.

    `anew` are ids of counters that do not go on where they were: their files are others, and nothing shows that what
    they count is the same. `mirrors` says of those that turned out to show another one's counter which that is.
    """

    anew: set[str]
    mirrors: tuple[str, ...]


@dataclass
class Node:
    """The readers of this node; opened once, while the process may."""

    root: Path
    name: str
    clock: Clock
    readers: list[Reader] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    gauges: Gauges = field(default_factory=Gauges)
    cgroups: dict[SessionKey, JobCgroup] = field(default_factory=dict)
    parent: JobCgroup | None = None
    choice: Choice = field(default_factory=Choice)
    declared: list[Reader] = field(default_factory=list)
    estimated: tuple[Estimate, ...] = ()
    """What stands in where nothing measures the CPUs or the node."""
    sampled: tuple[Reader, ...] = ()
    """Who reads what `ids` names, as far as that is no counter made of gauges."""
    quick: tuple[Callable[[], Iterable[int | None]], ...] = ()
    ids: tuple[str, ...] = ()
    """Whose ticks `sample` returns, in order; another tuple as soon as there are other sensors."""
    fast: FastRows | None = None
    """Who makes rows now, at a pace that is too fast for this process."""
    fast_ns: int = 0
    """CPU time of those who did so before."""
    not_there: tuple[Missing, ...] = ()
    accelerators: Mapping[str, str] = field(default_factory=dict)
    """Domains of accelerators that no vendor's library counts, with their PCI addresses."""
    pmu: Pmu = field(default_factory=Pmu)
    """Groups of the power PMU, opened with the rest; they count where the policy wants them."""
    silent: frozenset[str] = frozenset()
    """Sensors, by their ids, that have given nothing for a while and in whose place others count (`fallback`)."""
    _missing: dict[str, tuple[Missing, ...]] = field(default_factory=dict)
    _chosen: tuple[Choice, tuple[Sensor, ...], tuple[Sensor, ...]] | None = None
    """A choice, the sensors that were found, and those of them that it takes: asked for again and again."""
    _parent_of: str = ""
    _changes: int = 0

    @classmethod
    def open(cls, root: Path, backends: Iterable[str], clock: Clock) -> Node:
        """Open the given backends; one that fails is missing, nothing more."""
        node = cls(root, host_name(), clock)
        for name in backends:
            found = (
                finding.open_bounded(root, name, finding.PATIENCE_NS, clock)
                if finding.may_hang(root, name)
                else catalog.open_backend(name, root)
            )
            node.readers.extend(node._quick_ones(name, found))
            node._missing[name] = found.missing
        node.pmu = Pmu.open(root, (sensor for reader in node.readers for sensor in reader.sensors))
        node.follow_estimate()
        node.follow_gauges()
        return node

    @property
    def missing(self) -> tuple[Missing, ...]:
        """What is known of this process' own sensors and cannot be read."""
        return tuple(one for found in self._missing.values() for one in found)

    def waits_for(self, backend: str) -> bool:
        """Whether something of a backend's is there that did not measure when it was found; it may do so by now."""
        return any(one.why.startswith(DUMB) for one in self._missing.get(backend, ()))

    @property
    def unread(self) -> tuple[Missing, ...]:
        """What is known of all sensors, the children's and the declared ones too, and cannot be read."""
        theirs = (one for worker in self.workers for one in worker.missing)
        aside = (
            Missing(one.id, SILENT, "look at its driver or firmware; another source counts until it answers again")
            for one in (self._sources if self.silent else ()) if one.id in self.silent
        )  # fmt: skip
        return (*theirs, *self.missing, *self.not_there, *aside)

    def renew(self, backend: str, found: Discovery) -> Renewed:
        """Read a backend's sensors from what was found of them now; one that is gone stays, as a gap."""
        former = [reader for reader in self.readers if any(one.backend == backend for one in reader.sensors)]
        slow = [reader for worker in self.workers if worker.name == backend for reader in worker.held]
        before = _files([*former, *slow])
        after = _files(found.readers)
        by_child = {one.sensors[0].id for one in _slow(found)}
        there = {name: one for name, one in before.items() if one[1]}  # what was gone is gone
        if (there, self._missing.get(backend), {one.sensors[0].id for one in slow}) == (after, found.missing, by_child):
            for reader in found.readers:  # a child that is well is not begun anew: a job may start just now
                reader.close()
            return Renewed(set(), ())
        once = mirrors.left_out(found.missing)
        lost = [one for reader in (*former, *slow) for one in reader.sensors if one.id not in after]
        gone = tuple(one for one in lost if mirrors.name(one) not in once)
        others = [reader for reader in self.readers if reader not in former]
        self.readers = [
            *others,
            *self._quick_ones(backend, found, gone),
            *([Absent(gone, "it is not there any more")] if gone else ()),
        ]
        self._missing[backend] = found.missing
        anew = {name for name in before.keys() & after.keys() if not _goes_on(*before[name], *after[name])}
        for reader in former:
            reader.close()
        if any(table.get("driver") for table in self.choice.files):
            self._declare()
        self._follow_power()
        self.follow_gauges()
        return Renewed(anew, tuple(once[mirrors.name(one)] for one in lost if mirrors.name(one) in once))

    def _quick_ones(self, backend: str, found: Discovery, gone: Iterable[Sensor] = ()) -> list[Reader]:
        """The readers that this process reads itself; those that take too long for that go to a child.

        `gone` are sensors that it has no more.
        """
        slow = _slow(found)
        quick = [reader for reader in found.readers if reader not in slow]
        worker = next((one for one in self.workers if one.name == backend), None)
        if slow and worker is None:
            worker = Worker(backend, self.root, self.clock)
            self.workers.append(worker)
        if worker is not None:
            worker.hold(slow, [sensor.id for sensor in (*(one for reader in quick for one in reader.sensors), *gone)])
        return quick

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """All sensors: those of this process, those of the children, and the counters made of gauges."""
        return (*self._sources, *self.gauges.sensors)

    @property
    def _sources(self) -> tuple[Sensor, ...]:
        found = tuple(sensor for reader in (*self._inline, *self.workers) for sensor in reader.sensors)
        if self._chosen is None or self._chosen[:2] != (self.choice, found):
            self._chosen = self.choice, found, self.choice.sensors(found)
        return self._chosen[2]

    @property
    def _inline(self) -> tuple[Reader, ...]:
        return (*self.readers, *self.declared, *self.estimated)

    def choose(self, choice: Choice) -> None:
        """Follow what the policy says of sensors.

        Declared files are opened by whoever this process is by now: the service user.
        """
        if choice == self.choice:
            return
        before, self.choice = self.choice, choice
        self._declare()
        if choice.dcgm != before.dcgm:
            self._connect()
        self.follow_estimate(anew=True)
        self._follow_power()
        self.follow_gauges()

    @property
    def power_pmu(self) -> str:
        """One line on how groups of the power PMU are read; empty where the policy wants none."""
        if not self.choice.power_pmu:
            return ""
        states = [one.state for one in self.readers if isinstance(one, PowerFiles)] or [FILES_READ]
        return "; ".join((*states, *self.pmu.why))

    def _power_changes(self) -> int:
        return sum(one.changes for one in self.readers if isinstance(one, PowerFiles)) if self.choice.power_pmu else 0

    def _follow_power(self) -> None:
        """Let the groups stand in for files, from a trial on, or read the files alone, as the policy says."""
        if not self.choice.power_pmu:
            self.pmu.stop()
        for place, reader in enumerate(self.readers):
            followed = isinstance(reader, PowerFiles) and reader.is_wanted == self.choice.power_pmu
            if isinstance(reader, NumberFiles) and not followed:
                self.readers[place] = self.pmu.over(reader, self.choice.power_pmu)

    def _connect(self) -> None:
        """Have a child that asks the DCGM host engine of the policy; none where it names none."""
        for worker in self.workers:
            if worker.name == DCGM:
                worker.close()
        self.workers = [worker for worker in self.workers if worker.name != DCGM]
        if self.choice.dcgm:
            self.workers.append(Worker(DCGM, self.root, self.clock, address=self.choice.dcgm))

    def _declare(self) -> None:
        for reader in self.declared:
            reader.close()
        self.declared, self.not_there = [], ()
        if self.choice.files:
            from perun_hpc.backend import file

            found = file.discover(self.root, [file.Declaration.from_policy(table) for table in self.choice.files])
            self.declared.extend(found.readers)
            self.not_there = found.missing

    @property
    def lacks_estimate(self) -> bool:
        """Whether there is no estimate where one is wanted, or one where none is.

        It is where nothing measures the CPUs or the node, unless the policy wants none. A child that may yet say that
        it shows the node is waited for: jobs would begin with the one and end with the other.
        """
        return self._wants_estimate() != bool(self.estimated) and not self._missing.get("estimate")

    def _wants_estimate(self) -> bool:
        chosen = self.choice.backends
        if self.choice.estimate is None or not self.choice.named("estimate", estimate.NAME):
            return False
        if any(one.name in OF_NODES and not one.heard and one.name in (chosen or OF_NODES) for one in self.workers):
            return False
        found = (sensor for reader in (*self.readers, *self.declared, *self.workers) for sensor in reader.sensors)
        return not catalog.has_power(
            filter(self.choice.takes, found)
        )  # asked each second: the first that counts will do

    def follow_estimate(self, anew: bool = False) -> None:
        """Have an estimate where one is wanted, and none elsewhere; `anew`: by what the policy says now."""
        wants = self._wants_estimate()
        if self.estimated and (anew or not wants):
            for reader in self.estimated:
                reader.close()
            self.estimated = ()
        if wants and not self.estimated and self.choice.estimate is not None:
            found = estimate.discover(self.root, self.clock.mono_ns, self.choice.estimate, lasting=True)
            self.estimated = tuple(one for one in found.readers if isinstance(one, Estimate))
            self._missing["estimate"] = found.missing

    @property
    def static_uw(self) -> dict[str, int]:
        """Static power of domains that nobody has to learn: an estimate's own idle power."""
        return {sensor.domain: reader.static_uw for reader in self.estimated for sensor in reader.sensors}

    def follow_gauges(self) -> None:
        """Integrate those power gauges that energy rests on; again whenever there are new sensors."""
        self.gauges.follow(self._sources, self.silent)
        self.accelerators = accelerators.without_names(self._sources)
        self.sampled = tuple(one for one in (*self._inline, *self.workers) if any(map(self.choice.takes, one.sensors)))
        self.quick = tuple(
            reader.ticks if isinstance(reader, QUICK) else partial(_ticks, reader) for reader in self.sampled
        )
        readers = [sensor.id for reader in self.sampled for sensor in reader.sensors]
        self.ids = (*readers, *(sensor.id for sensor in self.gauges.sensors))

    def sample(self) -> list[int | None]:
        """The raw ticks of `ids` and nothing else, for a row of a trace: at 100 Hz `read` would cost too much."""
        if self.gauges.sensors:  # their integration wants every reading with its time
            return self.read().ticks(self.ids)
        ticks: list[int | None] = []
        for worker in self.workers:
            worker.collect()
        for one in self.quick:
            ticks += one()
        return ticks

    def spent_ns(self) -> int:
        """CPU time of this process, and of who makes rows for it."""
        return time.process_time_ns() + self.spent_by_others_ns

    @property
    def spent_by_others_ns(self) -> int:
        """CPU time of those who make, and made, rows for this process."""
        return self.fast_ns + (self.fast.cpu_ns if self.fast is not None else 0)

    def sample_others(self) -> list[int | None]:
        """Of these the ones that children say, or nobody."""
        for worker in self.workers:
            worker.collect()
        others = (
            read
            for read, one in zip(self.quick, self.sampled, strict=True)
            if not isinstance(one, (NumberFiles, ProcStat))
        )
        return [ticks for read in others for ticks in read()]

    def read(self, fresh: bool = False) -> Snapshot:
        """Read everything once; `fresh`: the children as of now, as far as they answer in a short time."""
        readings: dict[str, Reading] = {}
        busy_ns: Mapping[int, int] = {}
        for worker in self.workers:
            worker.collect()
            if fresh:
                worker.ask(self.clock.mono_ns())
        for reader in self._inline:
            _add(readings, reader, self.clock)
            if isinstance(reader, ProcStat):
                busy_ns = reader.last_busy_ns
        mono_ns, real_ns = self.clock.mono_ns(), self.clock.real_ns()
        if fresh and self.workers:
            workers.refresh(self.workers, mono_ns + workers.WAIT_NS, self.clock)
        for worker in self.workers:
            _add(readings, worker, self.clock)
        readings.update(self.gauges.advance(readings, mono_ns))
        if (changes := self._power_changes()) != self._changes:
            self._changes = changes
            self.follow_gauges()  # who makes rows begins anew, by groups or files as they are read here
        return Snapshot(mono_ns, real_ns, readings, busy_ns)

    def poll(self) -> dict[str, Reading]:
        """Read those power gauges that are integrated; returns their readings and the last ones of all children."""
        readings: dict[str, Reading] = {}
        for reader in self._inline:
            if self.gauges.needs(reader.sensors):
                _add(readings, reader, self.clock)
        for worker in self.workers:
            _add(readings, worker, self.clock)
        self.gauges.take(readings)
        return readings

    def spent(self, session: Session) -> JobUse | None:
        """CPU time of a job whose cgroup is known, and whether it is suspended; None where there is more to look for.

        A hook of another job waits for it.
        """
        group = self.cgroups.get(session.key)
        if group is None or (not group.complete and self._is_young(session)):
            return None
        cpu_ns = group.cpu_ns()
        return None if cpu_ns is None else JobUse(cpu_ns, None, None, group.suspended(self.root), None, group.inode)

    def _is_young(self, session: Session) -> bool:
        return self.clock.mono_ns() - session.start.mono_ns < YOUNG_NS

    def use(self, session: Session) -> JobUse:
        """What the job's cgroup says; all None while it has none or where it is gone."""
        group = self.cgroups.get(session.key)
        cpu_ns = group.cpu_ns() if group else None
        if group is None or cpu_ns is None or (not group.complete and self._is_young(session)):
            found = find_job(self.root, str(session.key.job_id), session.job.get("sluid"), session.job.get("node"))
            if found is None and group is None:
                return NO_USE
            if found is not None:
                self.forget(session)
                group = self.cgroups[session.key] = found
                cpu_ns = group.cpu_ns()
        assert group is not None
        return JobUse(
            cpu_ns,
            group.peak_memory_b(),
            group.cpus(),
            group.suspended(self.root),
            group.memory_limit_b(),
            group.inode,
        )

    def suspended(self, session: Session) -> bool | None:
        """Whether the job is suspended, from its cgroup as it was found last: asked for every second."""
        group = self.cgroups.get(session.key)
        return None if group is None else group.suspended(self.root)

    def strangers(self, sessions: Iterable[Session]) -> bool:
        """Whether a job has processes here that is none of these, by the cgroups that Slurm has made."""
        return self.parent is not None and self.parent.has_others(_names_of(sessions))

    def signs(self, sessions: Collection[Session]) -> list[Path] | None:
        """Where the kernel tells of these jobs' being suspended, and of others; None where somebody has to look."""
        groups = [self.cgroups.get(one.key) for one in sessions]
        found = [None if group is None else group.sign for group in groups]
        if sessions:
            found.append(None if self.parent is None else self.parent.sign_of_others(_names_of(sessions)))
        known = [one for one in found if one is not None]
        return known if len(known) == len(found) else None

    def parent_cpu_ns(self, node: str) -> int | None:
        """CPU time of all jobs of Slurm's `node`, ended ones included; None where the kernel does not keep it."""
        cpu_ns = self.parent.cpu_ns() if self.parent and self._parent_of == node else None
        if cpu_ns is None:
            if self.parent is not None:
                self.parent.close()
            self.parent, self._parent_of = find_parent(self.root, node), node
            cpu_ns = self.parent.cpu_ns() if self.parent else None
        return cpu_ns

    def reserved_cpus(self, node: str) -> frozenset[int]:
        """CPUs of Slurm's `node` that it keeps for the system."""
        return reserved_cpus(self.root, node)

    def forget(self, session: Session) -> None:
        """Close the job's cgroup."""
        group = self.cgroups.pop(session.key, None)
        if group is not None:
            group.close()

    def close(self) -> None:
        """Close everything."""
        for reader in (*self._inline, *self.workers):
            reader.close()
        for group in (*self.cgroups.values(), *((self.parent,) if self.parent else ())):
            group.close()
        self.pmu.close()


def _names_of(sessions: Iterable[Session]) -> set[str]:
    """What the directories of these jobs may be called."""
    return {name for one in sessions for name in job_names(str(one.key.job_id), one.job.get("sluid"))}


SLOW_NS = 1_000_000
"""Kernel files of which a read takes longer (ACPI methods, mailboxes, buses) are read by a child."""
YOUNG_NS = 10_000_000_000
"""So long slurmstepd may still be making a job's cgroup: one controller's directory after the other."""
DCGM = "dcgm"
"""The child that the policy asks for, a client of a host engine."""
OF_NODES = ("ipmi",)
"""Children that may show the whole node."""
QUICK = (NumberFiles, ProcStat, Estimate)
"""Readers that can leave out times and reasons."""


def _slow(found: Discovery) -> list[Files]:
    return [one for one in found.readers if isinstance(one, Files) and one.cost_ns > SLOW_NS]


_Identity: TypeAlias = tuple[tuple[int, int], ...]
"""Device and inode of each file that a sensor is read from; empty where it is read from none."""


def _files(readers: Iterable[Reader]) -> dict[str, tuple[Sensor, _Identity]]:
    """Sensors by their ids, with the identity of their files."""
    found: dict[str, tuple[Sensor, _Identity]] = {}
    for reader in readers:
        for sensor, fds in descriptors_of(reader):
            found[sensor.id] = sensor, tuple((status.st_dev, status.st_ino) for status in map(os.fstat, fds))
    return found


def _goes_on(before: Sensor, its_file: _Identity, after: Sensor, other_file: _Identity) -> bool:
    """Whether a counter goes on where it was: in the same file, or as a register of the hardware, which wraps.

    RAPL's are registers that a driver shows (intel_rapl_msr); what a driver adds up itself begins anew with it.
    """
    same = (before.wrap_range, before.scale_num, before.scale_den) == (
        after.wrap_range,
        after.scale_num,
        after.scale_den,
    )
    return same and (its_file == other_file or after.wrap_range is not None)


def _ticks(reader: Reader) -> list[int | None]:
    return [reading.ticks for reading in reader.read()]


def _add(readings: dict[str, Reading], reader: Reader, clock: Clock) -> None:
    """Read one reader; one that fails costs its own sensors this reading."""
    sensors = reader.sensors
    found = guard(f"reading {sensors[0].backend}" if sensors else "reading", reader.read) or ()
    if len(found) != len(sensors):
        found = tuple(Reading(None, clock.mono_ns(), "the reader failed") for _ in sensors)
    for sensor, reading in zip(sensors, found, strict=True):
        readings[sensor.id] = reading


def resident_b() -> int:
    """Memory that this process holds, in bytes."""
    return _statm_b(1)


def data_b() -> int:
    """Private memory that this process has, in bytes."""
    return _statm_b(5)


def _statm_b(field: int) -> int:
    """A field of statm, of proc_pid_statm(5), in bytes."""
    fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # asked for every second: a text file costs ten times
    try:
        return int(os.read(fd, 128).split()[field]) * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(fd)
