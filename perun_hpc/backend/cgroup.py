"""What one Slurm job uses, from its cgroup: CPU time, memory, IO, CPUs, whether it is suspended.

Layouts: v1 `CONTROLLER/slurm[_NODE]/uid_UID/job_ID`, v2 `[SLICE/][NODE_]slurmstepd.scope/job_ID`, where SLICE is
`system.slice` or CgroupSlice= of cgroup.conf; newer Slurm names the directory by the job's SLUID. A directory that is
gone is a gap.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.backend.base import Clock, host_name, monotonic_ns
from perun_hpc.backend.sysfile import number, reason, text
from perun_hpc.data_model import cpu_list
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

CGROUPS = Path("sys/fs/cgroup")

CPU, MEMORY, READ, WRITE = range(4)
"""Positions of the readings of `JobCgroup.read`: CPU time (ns), memory (B), bytes read, bytes written."""


def _plain(content: str) -> int:
    return int(content)


def _cpu_stat(content: str) -> int:
    before, name, after = content.partition("usage_usec ")
    if not name or (before and not before.endswith("\n")):
        raise ValueError("no usage_usec")
    return int(after.partition("\n")[0]) * 1000


def _io_v1(word: str) -> Callable[[str], int]:
    def parse(content: str) -> int:
        lines = (line.split() for line in content.splitlines())
        return sum(int(fields[2]) for fields in lines if len(fields) == 3 and fields[1] == word)

    return parse


def _io_v2(word: str) -> Callable[[str], int]:
    def parse(content: str) -> int:
        pairs = (pair.partition("=") for line in content.splitlines() for pair in line.split()[1:])
        return sum(int(value) for key, _, value in pairs if key == word)

    return parse


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one reading may stand: controller (v1) and file, and how its text becomes a number."""

    controllers: tuple[str, ...]
    file: str
    parse: Callable[[str], int]


_CPUACCT = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
_SOURCES: tuple[tuple[_Source, ...], ...] = (
    (_Source(_CPUACCT, "cpuacct.usage", _plain), _Source((), "cpu.stat", _cpu_stat)),
    (_Source(("memory",), "memory.usage_in_bytes", _plain), _Source((), "memory.current", _plain)),
    (
        _Source(("blkio",), "blkio.throttle.io_service_bytes_recursive", _io_v1("Read")),
        _Source((), "io.stat", _io_v2("rbytes")),
    ),
    (
        _Source(("blkio",), "blkio.throttle.io_service_bytes_recursive", _io_v1("Write")),
        _Source((), "io.stat", _io_v2("wbytes")),
    ),
)
_EXTERN = "step_extern"
_V1_CONTROLLERS = (*_CPUACCT, "memory", "cpuset", "freezer", "blkio", "systemd")


class JobCgroup:
    """Reader of one job's cgroup directories; descriptors stay open.

    A file that does not exist (a controller that Slurm does not use) is a gap with its reason from the start.
    """

    def __init__(self, key: str, directories: dict[str, Path], clock: Clock = monotonic_ns) -> None:
        """`directories`: controller -> directory (v1), "" -> directory (v2)."""
        self._clock = clock
        self._directories = directories
        self._open: list[tuple[int, Callable[[str], int]] | None] = [self._find(sources) for sources in _SOURCES]
        self.inode = _inode(next(iter(directories.values())))
        self._awake: Path | None = None  # the freezer's file of a step that was not frozen when it was read last
        self._awake_fd = -1
        self._sensors = _job_sensors(key, str(next(iter(directories.values()))))

    @property
    def complete(self) -> bool:
        """Whether it has all that Slurm may make for a job; where a site does not use a controller it never has."""
        return "" in self._directories or {"cpuset", "memory"} <= self._directories.keys()

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """CPU time, memory, bytes read, bytes written."""
        return self._sensors

    def _find(self, sources: tuple[_Source, ...]) -> tuple[int, Callable[[str], int]] | None:
        for source in sources:
            for controller in source.controllers or ("",):
                directory = self._directories.get(controller)
                if directory is not None:
                    with contextlib.suppress(OSError):
                        return os.open(directory / source.file, os.O_RDONLY | os.O_CLOEXEC), source.parse
        return None

    def read(self) -> tuple[Reading, ...]:
        """Read every file once."""
        return tuple(self._one(opened) for opened in self._open)

    def _one(self, opened: tuple[int, Callable[[str], int]] | None) -> Reading:
        if opened is None:
            return Reading(None, self._clock(), "Slurm does not use this controller for the job")
        descriptor, parse = opened
        try:
            content = os.pread(descriptor, 65536, 0).decode("ascii", "replace")
            return Reading(parse(content), self._clock())
        except OSError as error:
            return Reading(None, self._clock(), reason(error))
        except (ValueError, IndexError):
            return Reading(None, self._clock(), "malformed content")

    def cpu_ns(self) -> int | None:
        """CPU time alone, of steps that are gone as well; read of every job while a hook waits."""
        if (opened := self._open[CPU]) is None:
            return None
        descriptor, parse = opened
        try:
            return parse(os.pread(descriptor, 4096, 0).decode("ascii", "replace"))
        except (OSError, ValueError, IndexError):
            return None

    # Its steps: directories below the job's.

    @property
    def steps_in(self) -> Path:
        """The directory that shows the steps: that of CPU time where there is one."""
        wanted = (*_CPUACCT, "", *_LISTING)
        return next(self._directories[name] for name in wanted if name in self._directories)

    def steps(self) -> list[str]:
        """The steps that are there: `0`, `batch`, `extern`, `interactive`."""
        return [name for one in _listed(self.steps_in, "step_") if (name := step_in(one.name))]

    def step_made_ns(self, step: str) -> int | None:
        """When a step's directory was made, as its inode says (wall clock); None where it is gone."""
        try:
            return (self.steps_in / f"step_{step}").stat().st_ctime_ns
        except OSError:
            return None

    def step_cpu_ns(self, step: str) -> int | None:
        """CPU time of a step so far; None where nobody counts it, or the step is gone."""
        for source in _SOURCES[CPU]:
            for controller in source.controllers or ("",):
                directory = self._directories.get(controller)
                content = text(directory / f"step_{step}" / source.file) if directory is not None else None
                if content:
                    with contextlib.suppress(ValueError):
                        return source.parse(content)
        return None

    def step_cpus(self, step: str) -> frozenset[int] | None:
        """Logical CPUs of a step's cpuset; None without one."""
        name = "cpuset.cpus" if "cpuset" in self._directories else "cpuset.cpus.effective"
        directory = self._directories.get("cpuset", self._directories.get(""))
        content = text(directory / f"step_{step}" / name) if directory is not None else None
        with contextlib.suppress(ValueError):
            if content:
                return cpu_list.parse(content)
        return None

    def peak_memory_b(self) -> int | None:
        """Most memory ever used, None where the kernel does not keep it."""
        for controller, file in (("memory", "memory.max_usage_in_bytes"), ("", "memory.peak")):
            if controller in self._directories:
                peak = number(self._directories[controller] / file)
                if peak is not None:
                    return peak
        return None

    def memory_limit_b(self) -> int | None:
        """Memory that the job may use, None without a limit."""
        for controller, file in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
            if controller in self._directories:
                limit = number(self._directories[controller] / file)
                if limit is not None and limit < _NO_LIMIT_B:
                    return limit
        return None

    def cpus(self) -> frozenset[int] | None:
        """Logical CPUs of the cpuset; None without one, or where it constrains nothing (v2 with ConstrainCores=no)."""
        names = (
            ("cpuset.effective_cpus", "cpuset.cpus") if "cpuset" in self._directories else ("cpuset.cpus.effective",)
        )
        directory = self._directories.get("cpuset", self._directories.get(""))
        if directory is not None and text(directory / "cpuset.cpus") == "":
            return None
        for name in names:
            content = text(directory / name) if directory is not None else None
            with contextlib.suppress(ValueError):
                if content:
                    return cpu_list.parse(content)
        return None

    def suspended(self, root: Path = Path("/")) -> bool | None:
        """Whether Slurm suspended the job; None where nothing shows it, as without a process.

        Slurm freezes the steps, each by itself, and never the job's own directory: all of them are frozen but extern,
        which it may leave out. A job with no other step than extern looks like a running one then. Without
        a freezer (proctrack/linuxproc, proctrack/pgid) Slurm stops the processes instead.
        """
        if self._awake_fd >= 0 and _frozen(self._awake_fd) is False:
            return False  # one file, kept open: a job may have many steps, and most jobs run
        self._sleep()
        frozen = None
        for step, file in self._freezers():
            try:
                fd = os.open(step / file, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            one = _frozen(fd)
            if one is False and step.name != _EXTERN:
                self._awake, self._awake_fd = step / file, fd
                return False
            os.close(fd)
            frozen = one if frozen is None else frozen
        return self._stopped(root) if frozen is None else frozen

    def _sleep(self) -> None:
        """No step is known any more to be awake."""
        if self._awake_fd >= 0:
            os.close(self._awake_fd)
        self._awake, self._awake_fd = None, -1

    @property
    def sign(self) -> Path | None:
        """The file of which the kernel tells when the job is suspended, as it was found last; None: nothing does."""
        return self._awake if "" in self._directories else None

    def _freezers(self) -> list[tuple[Path, str]]:
        """Steps and their files that show whether they are frozen: all steps but extern, or extern alone."""
        if "freezer" in self._directories:
            top, file = self._directories["freezer"], "freezer.state"
        elif "" in self._directories:
            top, file = self._directories[""], "user/cgroup.events"
        else:
            return []
        steps = _listed(top, "step_")
        return [(step, file) for step in [one for one in steps if one.name != _EXTERN] or steps]

    def _stopped(self, root: Path) -> bool | None:
        """Whether all processes are stopped; None without any."""
        for with_extern in (False, True):
            states = (_state(root / "proc", pid) for pid in self.processes(with_extern))
            known = (state for state in states if state)
            first = next(known, None)
            if first is not None:
                return first == "T" and all(state == "T" for state in known)
        return None

    def processes(self, with_extern: bool = True) -> Iterator[int]:
        """The ids of the job's processes, those of the extern step only if wanted."""
        top = next((self._directories[name] for name in _LISTING if name in self._directories), None)
        if top is None:
            return
        yield from _processes(top, () if with_extern else (_EXTERN,))

    def has_others(self, known: Collection[str]) -> bool:
        """Of the directory above all jobs: whether a job has a process whose directory is none of these."""
        return any(next(_processes(job), None) is not None for job in self._others(known))

    def sign_of_others(self, known: Collection[str]) -> Path | None:
        """Of the directory above all jobs: where the kernel tells of another job; None where one may be there."""
        return self._directories.get("") if not any(self._others(known)) else None

    def _others(self, known: Collection[str]) -> Iterator[Path]:
        top = next((self._directories[name] for name in _LISTING if name in self._directories), None)
        if top is None:
            return
        names = _names(top)
        places = [(top, names), *((top / one, _names(top / one)) for one in names if one.startswith("uid_"))]
        yield from (
            place / one for place, found in places for one in found if one not in known and _JOBS.fullmatch(one)
        )

    def close(self) -> None:
        """Close the files."""
        self._sleep()
        for opened in self._open:
            if opened is not None:
                with contextlib.suppress(OSError):
                    os.close(opened[0])
        self._open = [None] * len(_SOURCES)


_LISTING = ("freezer", "cpuset", "memory", "systemd", "")
"""Controllers that list processes: the first that there is, lists all."""
_JOBS = re.compile(r"job_.+|s[0-9A-Z]+")
"""A job's directory, by its id or its SLUID; `system` is slurmstepd's own."""


def _processes(top: Path, without: Sequence[str] = ()) -> Iterator[int]:
    for directory, below, files in os.walk(top):
        below[:] = [one for one in below if one not in without]
        if "cgroup.procs" in files:
            for word in (text(Path(directory) / "cgroup.procs") or "").split():
                if word.isascii() and word.isdigit() and len(word) < 11:
                    yield int(word)


def _inode(directory: Path) -> int:
    try:
        return directory.stat().st_ino
    except OSError:
        return 0


def _frozen(fd: int) -> bool | None:
    """What the kernel says in a cgroup's `freezer.state` (v1) or `cgroup.events` (v2); None where it says nothing.

    Of a cgroup that is gone it refuses to say anything (ENODEV); elsewhere the file has no name any more.
    """
    try:
        said = os.pread(fd, 4096, 0)
        if not os.fstat(fd).st_nlink:
            return None
    except OSError:
        return None
    for line in said.splitlines():
        if line in _FROZEN:
            return _FROZEN[line]
    return None


_FROZEN = {b"FROZEN": True, b"FREEZING": False, b"THAWED": False, b"frozen 1": True, b"frozen 0": False}
"""FREEZING: a process still runs; version 2 says then that nothing is frozen."""


def _state(proc: Path, pid: int) -> str | None:
    """Letter of a process's state, None for a process that is gone, dead, or Slurm's own."""
    stat = text(proc / str(pid) / "stat")
    if not stat:
        return None
    name, _, rest = stat.rpartition(")")
    state = rest.lstrip()[:1]
    return None if name.endswith("(slurmstepd") or state in ("", "Z", "X") else state


_NO_LIMIT_B = 1 << 60
"""Version 1 shows the largest page-aligned number where there is no limit."""


def job_names(job_id: str, sluid: str | None = None) -> tuple[str, ...]:
    """What Slurm may call the job's directory."""
    return (f"job_{job_id}", sluid, f"job_{sluid}") if sluid else (f"job_{job_id}",)


def find_job(
    root: Path, job_id: str, sluid: str | None = None, node: str | None = None, clock: Clock = monotonic_ns
) -> JobCgroup | None:
    """The job's cgroup below `root`, None while it has none (no step has started there).

    Where several slurmd share a machine, only the directories of `node` (default: this host's name) count; where none
    is named so, and several have a job of that number, nobody knows which it is.
    """
    names = job_names(job_id, sluid)
    found: dict[str, list[Path]] = {}
    for controller, parent in _parents(root / CGROUPS, node or host_name()):
        candidates = [parent / name for name in names]
        if controller:
            candidates += [user / name for user in _listed(parent, "uid_") for name in names]
        found.setdefault(controller, []).extend([one for one in candidates if one.is_dir()][:1])
    directories = {controller: places[0] for controller, places in found.items() if len(places) == 1}
    return JobCgroup(f"job-{job_id}", directories, clock) if directories else None


def job_in(path: str) -> str | None:
    """The name that Slurm gave the job's directory (`job_7`, a SLUID), of the cgroup that a line of /proc names.

    None for a process outside. The outermost directory of Slurm's counts, and none below user.slice: there users make
    directories under any name.
    """
    parts = iter(path.split("/"))
    for part in parts:
        if part == "user.slice":
            return None
        if _SLURMS.fullmatch(part):
            name = next(parts, "")
            return (next(parts, "") if name.startswith("uid_") else name) or None
    return None


_SLURMS = re.compile(r"slurm(_.+)?|(.+_)?slurmstepd\.scope")
"""The directory above all jobs, version 1 and 2; several slurmd on a machine put their node's names into it."""


def step_in(directory: str) -> str | None:
    """The step whose directory has this name; None: no step's."""
    found = _STEPS.fullmatch(directory)
    return found[1] if found else None


_STEPS = re.compile(r"step_(0|[1-9]\d{0,9}|batch|extern|interactive)")


def job_places(root: Path, uid: int, node: str | None = None) -> set[Path]:
    """Directories in which a job of this user may appear: Slurm's own, and under version 1 the user's below it.

    Before the first job there may be none; then it is those in which Slurm makes its own.
    """
    places: dict[str, set[Path]] = {}
    for controller, parent in _parents(root / CGROUPS, node or host_name()):
        users = {parent / f"uid_{uid}"} if controller and (parent / f"uid_{uid}").is_dir() else set()
        places.setdefault(controller, set()).update({parent, *users})
    wanted = (*_CPUACCT, "", *_LISTING)
    own = next((places[name] for name in wanted if name in places), None)
    base = root / CGROUPS
    return own or {one for one in (*(base / name for name in _CPUACCT), base, base / "system.slice") if one.is_dir()}


def find_parent(root: Path, node: str | None = None, clock: Clock = monotonic_ns) -> JobCgroup | None:
    """The directory above all jobs: it keeps the CPU time of jobs whose own cgroup is gone already.

    Of several (of slurmd of other names, or of a slice that was Slurm's before) it is the only one with jobs, or none.
    """
    found: dict[str, list[Path]] = {}
    for controller, parent in _parents(root / CGROUPS, node or host_name()):
        found.setdefault(controller, []).append(parent)
    only = {controller: places if len(places) == 1 else _with_jobs(places) for controller, places in found.items()}
    directories = {controller: places[0] for controller, places in only.items() if len(places) == 1}
    return JobCgroup("jobs", directories, clock) if directories else None


def _with_jobs(parents: list[Path]) -> list[Path]:
    below = {parent: (parent, *_listed(parent, "uid_")) for parent in parents}
    return [
        parent
        for parent, places in below.items()
        if any(_JOBS.fullmatch(job.name) for place in places for job in _listed(place, ""))
    ]


def reserved_cpus(root: Path, node: str | None = None) -> frozenset[int]:
    """CPUs that Slurm keeps for the system (CoreSpecCount=, CpuSpecList=), as slurmd's own cpuset shows them.

    slurmd confines itself to them where ConstrainCores=yes and task/cgroup confine the jobs to the others: in
    `CONTROLLER/slurm[_NODE]/system` (`init_system_cpuset_cgroup`, version 1), or in its own cgroup, `slurmd.service`
    under systemd, else `slurmd` in the scope (`cgroup_p_constrain_set`, which takes CG_LEVEL_SYSTEM for that; version
    2). With TaskPluginParam=SlurmdOffSpec it is on the others instead: whoever asks takes out what jobs hold.
    """
    name = node or host_name()
    for controller, parent in _parents(root / CGROUPS, name):
        if controller == "cpuset":
            places = [parent / "system"]
        elif not controller:
            services = (f"slurmd@{name}.service", "slurmd.service")
            places = [parent / "slurmd", *(parent.parent / service for service in services)]
        else:
            continue
        for place in places:
            with contextlib.suppress(ValueError):
                if cpus := text(place / "cpuset.cpus"):
                    return cpu_list.parse(cpus)
    return frozenset()


def _parents(base: Path, node: str) -> Iterator[tuple[str, Path]]:
    """Controller ("" for v2) and the directory in which Slurm keeps its jobs."""
    there = set(_names(base))
    for controller in _V1_CONTROLLERS:
        if controller not in there:
            continue
        for parent in _own(_listed(base / controller, "slurm"), f"slurm_{node}"):
            yield controller, parent
    for top in (base, base / "unified") if "unified" in there else (base,):
        for slice_directory in _slices(top):
            for parent in _own(_listed(slice_directory, "", "slurmstepd.scope"), f"{node}_slurmstepd.scope"):
                yield "", parent


def _slices(top: Path) -> Iterator[Path]:
    """Where systemd may hold Slurm's scope: its own slice first, then every other one but the users'."""
    yield from (top / "system.slice", top)
    below = [top]
    for _ in range(_SLICE_DEPTH):
        below = [one for parent in below for one in _listed(parent, "", ".slice") if one.name != "user.slice"]
        yield from (one for one in below if one != top / "system.slice")


_SLICE_DEPTH = 4
"""systemd puts `a-b-c.slice` below `a-b.slice` below `a.slice`."""


def _own(directories: list[Path], name: str) -> list[Path]:
    """The node's own directory where slurmd puts its name into it, else all."""
    return [one for one in directories if one.name == name] or directories


def _listed(directory: Path, prefix: str, suffix: str = "") -> list[Path]:
    return [directory / one for one in _names(directory) if one.startswith(prefix) and one.endswith(suffix)]


def _names(directory: Path) -> list[str]:
    """The directories in one, in order; nothing where it cannot be listed."""
    try:
        with os.scandir(directory) as entries:  # it is asked for often, and knows directories without a call for each
            return sorted(one.name for one in entries if one.is_dir())
    except OSError:
        return []


def _job_sensors(key: str, device: str) -> tuple[Sensor, ...]:
    def sensor(name: str, component: str, kind: Kind, quantity: Quantity, unit: str, scope: str) -> Sensor:
        return Sensor(
            id=f"cgroup:{key}:{name}",
            host=host_name(),
            backend="cgroup",
            device=device,
            domain=key,
            component=component,
            kind=kind,
            quantity=quantity,
            unit=unit,
            scope=scope,
        )

    return (
        sensor("cpu", "cpu", Kind.COUNTER, Quantity.TIME, "ns", "CPU time of the job's processes"),
        sensor("memory", "dram", Kind.GAUGE, Quantity.DATA, "B", "memory charged to the job, page cache included"),
        sensor("read", "disk", Kind.COUNTER, Quantity.DATA, "B", "bytes read from block devices"),
        sensor("write", "disk", Kind.COUNTER, Quantity.DATA, "B", "bytes written to block devices"),
    )
