"""Who used the energy of one closed interval on one node: jobs, `idle`, `system`, `unknown`.

Pure functions over integers. Every domain closes exactly: its shares sum to its total in uJ, whatever the input.
The rules and their limits are published in docs/method.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from perun_hpc.data_model import cpu_list
from perun_hpc.data_model.sensor import Provenance, worst

if TYPE_CHECKING:
    from perun_hpc.energy.work_power import Parts

IDLE = "idle"
SYSTEM = "system"
UNKNOWN = "unknown"
UNOBSERVED = "unobserved"
OTHER = "other"
FITTED = "cores+fit"

NS_PER_S = 1_000_000_000
KAPPA = (1, 4)
"""Weight of a core's less busy thread against the busier one, as a fraction."""

_UNIT = 720_720
"""Divisible by every number of threads, holders or slices up to 16, so equal parts stay integers."""

ROUNDS = 12
"""So often jobs' CPU times are laid over CPUs that they share; what is left after that is the system's."""

_SCALE = 1_000_000
"""Keeps weights of short intervals from being rounded away."""


class DomainKind(StrEnum):
    """Which rule a domain follows."""

    PACKAGE = "package"
    DRAM = "dram"
    GPU = "gpu"
    METER = "meter"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInput:
    """What of the node does not change: logical CPUs, who is whose sibling, memory.

    Attributes
    ----------
    package_of : logical CPU -> package number; empty where nobody knows which CPUs are whose.
    core_of : logical CPU -> physical core (a number unique on the node).
    memory_b : memory of the node in bytes.
    specialised : logical CPUs that Slurm keeps for the system.
    kappa : weight of the less busy thread of a core, as (numerator, denominator).
    """

    package_of: Mapping[int, int]
    core_of: Mapping[int, int]
    memory_b: int = 0
    specialised: frozenset[int] = frozenset()
    kappa: tuple[int, int] = KAPPA


class DomainInput(NamedTuple):
    """One energy domain in the interval.

    Attributes
    ----------
    name : `package-0`, `dram-0`, `gpu-<uuid>`; of a meter `psys` or `node`.
    total_uj : the counter's difference; None when it is not known.
    package : number of the package that a package or dram domain belongs to; None when it spans the whole node.
    static_uw : static power P_s (package, dram), idle power P_idle (GPU), idle part of the residual (meter).
    slices : MIG: number of slices of the whole device; None when the device is not partitioned.
    leaves : meter: names of the domains that it contains.
    inside : meter: what each owner was given of its leaves in intervals of their own, inside this one.
    rest : meter: name of its residual; empty: by the meter's place among those of the interval.
    provenance : of the reading itself.
    """

    name: str
    kind: DomainKind
    total_uj: int | None
    package: int | None = 0
    static_uw: int = 0
    slices: int | None = None
    leaves: tuple[str, ...] = ()
    inside: Mapping[str, int] = MappingProxyType({})
    rest: str = ""
    provenance: Provenance = Provenance.MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHolding:
    """A job's hold on one GPU: the whole device, or a part of it.

    `part` is its weight among several holders: shards, MPS percent, or MIG slices; `activity` is its mean SM activity
    in any unit common to the device's slices, None when it cannot be measured.
    """

    part: int = 1
    activity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInput:
    """One job in the interval.

    Attributes
    ----------
    owner : key in the ledger, `job:4711.0`.
    cpus : logical CPUs it was allocated, or, where Slurm confines no job, all those that it may run on.
    held : how many of `cpus` it was allocated; None: all.
    cpu_ns : CPU time of its cgroup in the interval; None when it has no cgroup (then its CPUs' busy time is taken).
    memory_b : memory it was allocated.
    gpus : domain name -> its hold.
    suspended : true when it was suspended for the whole interval.
    exclusive : true when it holds the node alone (the `--exclusive` flag or all of the node's CPUs).
    present_ns : how long of the interval it was on the node; None means all of it.
    """

    owner: str
    cpus: frozenset[int] = frozenset()
    held: int | None = None
    cpu_ns: int | None = None
    memory_b: int = 0
    gpus: Mapping[str, GpuHolding] = field(default_factory=dict)
    suspended: bool = False
    exclusive: bool = False
    present_ns: int | None = None

    @property
    def cpus_held(self) -> int:
        """How many logical CPUs it was allocated."""
        return len(self.cpus) if self.held is None else min(self.held, len(self.cpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalInput:
    """One closed interval [t0_ns, t1_ns) of one node.

    `busy_ns` is the busy time of each logical CPU, `unread` names those of which it is not known and why; `gap` is
    true when a reading is missing inside. `unseen` is true when nobody watched for a part of it: others than `jobs` may
    have come and gone, and what those are not given is `unobserved`'s.
    """

    t0_ns: int
    t1_ns: int
    node: NodeInput
    domains: tuple[DomainInput, ...]
    jobs: tuple[JobInput, ...] = ()
    busy_ns: Mapping[int, int] = field(default_factory=dict)
    unread: Mapping[int, str] = field(default_factory=dict)
    gap: bool = False
    unseen: bool = False

    @property
    def duration_ns(self) -> int:
        """Length of the interval."""
        return self.t1_ns - self.t0_ns


class Share(NamedTuple):
    """One owner's part of a domain: `energy_uj` = `static_uj` + `dynamic_uj`.

    `held_idle_uj` is the part of it that a held GPU would have used idle; `suspended_uj` what was charged while the
    job was suspended.
    """

    owner: str
    energy_uj: int
    static_uj: int = 0
    dynamic_uj: int = 0
    held_idle_uj: int = 0
    suspended_uj: int = 0


class DomainShares(NamedTuple):
    """The shares of one domain; they sum to `total_uj`. `total_uj` None means a gap, without shares.

    `why` says what of the work was not known where shares rest on it; `doubts_uj` is what owners' dynamic parts may be
    wrong by (k=1) where that is not the same for all that a method gives.
    """

    domain: str
    total_uj: int | None
    shares: tuple[Share, ...]
    method: str
    provenance: Provenance
    why: str = ""
    doubts_uj: Mapping[str, int] = MappingProxyType({})

    def by_owner(self) -> dict[str, int]:
        """Owner -> energy in uJ, as the node ledger stores it."""
        return {share.owner: share.energy_uj for share in self.shares}


def apportion(total_uj: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Split an integer by integer weights so that the parts sum to it exactly (largest remainders).

    Ties go to the smaller key. With no weight at all everything is `idle`'s. A negative total is split by its amount.

    Parameters
    ----------
    total_uj : what is split.
    weights : owner -> weight, none negative.

    Returns
    -------
    Owner -> part.

    Raises
    ------
    ValueError
        for a negative weight.
    """
    if min(weights.values(), default=0) < 0:
        raise ValueError("weights must not be negative")
    whole = sum(weights.values())
    if whole == 0:
        return {IDLE: total_uj} if total_uj else {}
    amount = abs(total_uj)
    parts, by_remainder = {}, []
    for owner, weight in weights.items():
        parts[owner], remainder = divmod(amount * weight, whole)
        by_remainder.append((-remainder, owner))
    left = amount - sum(parts.values())
    for _, owner in sorted(by_remainder)[:left] if left else ():
        parts[owner] += 1
    return parts if total_uj >= 0 else {owner: -part for owner, part in parts.items()}


Weigh: TypeAlias = "Callable[[DomainInput, int, Mapping[str, float]], Parts | None]"
"""What a package's work draws: of a domain, the interval's length and core time (ns) by owner, how its dynamic energy
is shared out; None: by core time."""


def attribute(interval: IntervalInput, weigh: Weigh | None = None) -> list[DomainShares]:
    """Shares of every domain; meters come back as their residual, named `other` (further ones `other-<meter>`).

    Whatever the kernel says, there is an answer: a negative time or size is one that is not known.

    Parameters
    ----------
    interval : the node's.
    weigh : what a package's work draws; asked about all packages that were read and watched, so that it may learn.

    Returns
    -------
    The leaves in their order, then the meters.
    """
    interval = _possible(interval)
    load = _Load(interval)
    leaves: list[DomainShares] = []
    meters: list[DomainInput] = []
    for domain in interval.domains:
        if domain.kind is DomainKind.METER:
            meters.append(domain)
        elif domain.total_uj is None:
            leaves.append(DomainShares(domain.name, None, (), "gap", domain.provenance))
        elif domain.kind is DomainKind.GPU:
            leaves.append(_gpu(interval, domain, domain.total_uj))
        else:
            leaves.append(_package_or_dram(interval, domain, domain.total_uj, load, weigh))
    known = {leaf.domain: leaf for leaf in leaves}
    residuals: list[DomainShares] = []
    for meter in meters:
        name = meter.rest or (f"{OTHER}-{meter.name}" if residuals else OTHER)
        inside = [known[leaf] for leaf in meter.leaves if leaf in known]
        residuals.append(_residual(interval, meter, name, inside, load))
    found = leaves + residuals
    return [_of_the_seen(one, interval.jobs) for one in found] if interval.unseen else found


def _of_the_seen(domain: DomainShares, jobs: Iterable[JobInput]) -> DomainShares:
    """A domain's shares with all that is no known job's as `unobserved`: nobody knows whether it was idle."""
    known = {job.owner for job in jobs}
    rest = [share for share in domain.shares if share.owner not in known]
    if not rest:
        return domain
    static_uj, dynamic_uj = sum(share.static_uj for share in rest), sum(share.dynamic_uj for share in rest)
    unobserved = Share(UNOBSERVED, static_uj + dynamic_uj, static_uj, dynamic_uj)
    mine = tuple(share for share in domain.shares if share.owner in known)
    return domain._replace(shares=(*mine, unobserved), provenance=_modelled(domain.provenance))


def _possible(interval: IntervalInput) -> IntervalInput:
    """The interval without numbers that cannot be."""
    backwards = {cpu: "went backwards" for cpu, busy in interval.busy_ns.items() if busy < 0}
    return replace(
        interval,
        jobs=tuple(map(_possible_job, interval.jobs)),
        unread={**backwards, **interval.unread} if backwards else interval.unread,
        domains=tuple(_possible_domain(one, interval.node) for one in interval.domains),
    )


def _possible_domain(domain: DomainInput, node: NodeInput) -> DomainInput:
    """A package of unknown CPUs spans the node."""
    if domain.slices is not None and domain.slices < 1:
        domain = domain._replace(slices=None)
    return domain if node.package_of or domain.package is None else domain._replace(package=None)


def _possible_job(job: JobInput) -> JobInput:
    sane = (job.cpu_ns or 0) >= 0 and job.memory_b >= 0
    if sane and all(hold.part > 0 and (hold.activity or 0) >= 0 for hold in job.gpus.values()):
        return job
    return replace(
        job,
        cpu_ns=None if (job.cpu_ns or 0) < 0 else job.cpu_ns,
        memory_b=max(0, job.memory_b),
        gpus={
            name: GpuHolding(part=max(1, hold.part), activity=None if (hold.activity or 0) < 0 else hold.activity)
            for name, hold in job.gpus.items()
        },
    )


class _Load:
    """Weights of the owners on every package: allocated cores (static) and work done (dynamic)."""

    def __init__(self, interval: IntervalInput) -> None:
        self._interval = interval
        self._node = interval.node
        self._whole = max(1, interval.duration_ns)
        self._full = _UNIT * self._whole
        self._nobodys = {IDLE: self._full}
        self._by_package: dict[int | None, list[list[int]]] = {}
        self._siblings: dict[int, list[int]] = defaultdict(list)
        for cpu, core in sorted(self._node.core_of.items()):
            self._siblings[core].append(cpu)
        self._holders: dict[int, list[JobInput]] = defaultdict(list)
        for job in sorted(interval.jobs, key=lambda job: job.owner):
            for cpu in job.cpus:
                self._holders[cpu].append(job)
        self._busy = self._busy_ns()
        self._spread = {job.owner: sum(self._busy.get(cpu, 0) for cpu in job.cpus) for job in interval.jobs}
        self._claims: dict[int, dict[str, int]] | None = None
        self._work: dict[int | None, dict[str, int]] = {}
        self._shared: dict[tuple[str, ...], dict[str, int]] = {}
        self.sole = _sole(interval)

    def _busy_ns(self) -> dict[int, int]:
        """Busy time of each CPU; of one that was not read, what its holders' own CPU time leaves for it."""
        unread = self._interval.unread
        busy = {cpu: ns for cpu, ns in self._interval.busy_ns.items() if cpu not in unread}
        if not unread:
            return busy
        guessed: dict[int, int] = defaultdict(int)
        for job in self._interval.jobs:
            blind = [cpu for cpu in job.cpus if cpu in unread]
            if job.cpu_ns is not None and blind:
                elsewhere = sum(busy.get(cpu, 0) for cpu in job.cpus)
                for cpu in blind:
                    guessed[cpu] += max(0, job.cpu_ns - elsewhere) // len(blind)
        return {**busy, **guessed}

    def doubt(self, package: int | None) -> str:
        """What of the work on a package is not known; empty where all of it is."""
        unread = self._interval.unread
        if not unread:
            return ""
        whys: dict[str, list[int]] = {}
        for cpus in self._cores(package):
            for cpu in cpus:
                if cpu in unread:
                    whys.setdefault(unread[cpu], []).append(cpu)
        said = [f"busy time of CPU {cpu_list.text(cpus)} {why}" for why, cpus in sorted(whys.items())]
        return f"{', '.join(said)}: taken from the jobs' own CPU times" if said else ""

    def present_ns(self, job: JobInput) -> int:
        """How long of the interval the job was there."""
        return self._whole if job.present_ns is None else max(0, min(job.present_ns, self._whole))

    def allocated(self, package: int | None) -> dict[str, int]:
        """Weight of each owner in a package's physical cores, times presence."""
        weights: dict[str, int] = defaultdict(int)
        for cpus in self._cores(package):
            held = [cpu for cpu in cpus if cpu in self._holders]
            # A core is wholly its holders', even if they asked for some of its threads only.
            split = held or cpus
            for cpu in split:
                for owner, weight in self._cpu_holders(cpu).items():
                    weights[owner] += weight // len(split)
        return dict(weights)

    def _cores(self, package: int | None) -> list[list[int]]:
        if package not in self._by_package:
            package_of = self._node.package_of
            self._by_package[package] = [
                cpus for cpus in self._siblings.values() if package is None or package_of.get(cpus[0]) == package
            ]
        return self._by_package[package]

    def _cpu_holders(self, cpu: int) -> dict[str, int]:
        """Owners of one logical CPU, weights summing to about _UNIT times the interval's length."""
        full = self._full
        if cpu in self._node.specialised:
            return {SYSTEM: full}
        holders = self._holders.get(cpu)
        if not holders:
            return self._nobodys
        if len(holders) == 1:
            (job,) = holders
            given = min(full, _UNIT * self.present_ns(job) * job.cpus_held // len(job.cpus))
            return {job.owner: given, IDLE: full - given}
        same = tuple(job.owner for job in holders)  # where no job is confined, every CPU has the same ones
        if same not in self._shared:
            wanted = [(job, _UNIT * self.present_ns(job) * job.cpus_held // len(job.cpus)) for job in holders]
            self._shared[same] = _held(wanted, full)
        return self._shared[same]

    def work(self, package: int | None) -> dict[str, int]:
        """Weight of each owner in the work done on a package; what no job explains is the system's."""
        if package not in self._work:
            self._work[package] = self._work_on(package)
        return self._work[package]

    def _work_on(self, package: int | None) -> dict[str, int]:
        numerator, denominator = self._node.kappa
        if self._claims is None:
            self._claims = self._claimed()
        weights: dict[str, int] = defaultdict(int)
        for cpus in self._cores(package):
            times = [self._busy.get(cpu, 0) for cpu in cpus]
            total_busy = sum(times)
            if total_busy <= 0:
                continue
            busiest = max(times)
            core_weight = denominator * busiest + numerator * (total_busy - busiest)
            for cpu, busy in zip(cpus, times, strict=True):
                left = cpu_weight = _SCALE * core_weight * busy // total_busy
                # What its holders' CPU times explain of it; never more than the weight.
                claims = self._claims.get(cpu, {})
                whole = max(busy, sum(claims.values()))
                for owner, claim in claims.items():
                    if claim:
                        weight = cpu_weight * claim // whole
                        weights[owner] += weight
                        left -= weight
                weights[SYSTEM] += left
        if not weights and self.doubt(package):
            return {UNKNOWN: 1}  # nobody knows whether anybody worked: that is not idle
        return dict(weights)

    def _claimed(self) -> dict[int, dict[str, int]]:
        """CPU -> owner -> its CPU time there: each job's is laid over its CPUs by how busy they were.

        Where jobs share CPUs, what does not fit on one of them was done on the others.
        """
        used = {job.owner: self._used_ns(job) for job in self._interval.jobs}
        laid = {job.owner: self._spread[job.owner] for job in self._interval.jobs}
        claims = {cpu: {one.owner: self._busy.get(cpu, 0) for one in jobs} for cpu, jobs in self._holders.items()}
        for _ in range(ROUNDS):
            too_much = 0
            for cpu, claim in claims.items():
                mine = {
                    who: ns * min(used[who], self._spread[who]) // laid[who] for who, ns in claim.items() if laid[who]
                }
                busy, wanted = self._busy.get(cpu, 0), sum(mine.values())
                too_much += max(0, wanted - busy)
                claims[cpu] = mine if wanted <= busy else {who: ns * busy // wanted for who, ns in mine.items()}
            if too_much * 100 <= sum(used.values()):
                break
            laid = dict.fromkeys(used, 0)
            for claim in claims.values():
                for who, ns in claim.items():
                    laid[who] += ns
        return claims

    def _used_ns(self, job: JobInput) -> int:
        """CPU time of a job; of one of which it is not known all that went on on its CPUs, as far as it can do it."""
        if job.cpu_ns is not None:
            return job.cpu_ns
        if job.suspended:
            return 0
        return self._spread[job.owner] if job.held is None else job.cpus_held * self.present_ns(job)

    @property
    def unit(self) -> int:
        """The weight of a nanosecond on a core of which one thread works."""
        return _SCALE * self._node.kappa[1]

    def core_share(self, job: JobInput) -> tuple[int, int]:
        """The job's logical CPUs and the node's."""
        return job.cpus_held, max(1, len(self._node.core_of))

    def packages(self) -> int:
        """Number of packages of the node."""
        return max(1, len(set(self._node.package_of.values())))


def _held(wanted: Sequence[tuple[JobInput, int]], whole: int) -> dict[str, int]:
    """Weights of what jobs hold of a whole: suspended ones what the others leave, idle the rest."""
    weights: dict[str, int] = {}
    free = whole
    for suspended in (False, True):
        group = [(job.owner, weight) for job, weight in wanted if job.suspended is suspended]
        asked = sum(weight for _, weight in group)
        given = min(free, asked)
        weights.update((owner, weight * given // asked) for owner, weight in group if asked)
        free -= given
    weights[IDLE] = free
    return weights


def _sole(interval: IntervalInput) -> JobInput | None:
    """The job that holds the node alone for the whole interval, if there is one."""
    if interval.gap or len(interval.jobs) != 1:
        return None
    job = interval.jobs[0]
    everything = frozenset(interval.node.core_of) - interval.node.specialised
    whole = job.present_ns is None or job.present_ns >= interval.duration_ns
    alone = job.exclusive or (bool(everything) and job.cpus >= everything and job.cpus_held == len(job.cpus))
    return job if whole and alone else None


def _power_times(power_uw: int, duration_ns: int) -> int:
    return max(0, power_uw) * max(0, duration_ns) // NS_PER_S


def _modelled(provenance: Provenance) -> Provenance:
    return worst((provenance, Provenance.MODELLED))


def _join(
    static: Mapping[str, int],
    dynamic: Mapping[str, int],
    interval: IntervalInput,
    held_idle: Mapping[str, int] | None = None,
) -> tuple[Share, ...]:
    asleep = {job.owner for job in interval.jobs if job.suspended}
    shares = []
    for owner in sorted({*static, *dynamic}):
        fixed, moving = static.get(owner, 0), dynamic.get(owner, 0)
        if energy := fixed + moving:
            idle = held_idle.get(owner, 0) if held_idle else 0
            shares.append(Share(owner, energy, fixed, moving, idle, energy if owner in asleep else 0))
    return tuple(shares)


def _package_or_dram(
    interval: IntervalInput, domain: DomainInput, total_uj: int, load: _Load, weigh: Weigh | None
) -> DomainShares:
    parts = _weighed(interval, domain, load, weigh) if weigh is not None else None
    fixed_uj = max(0, min(total_uj, _power_times(domain.static_uw, interval.duration_ns)))
    if load.sole is not None:
        asleep_uj = total_uj if load.sole.suspended else 0
        share = Share(load.sole.owner, total_uj, fixed_uj, total_uj - fixed_uj, 0, asleep_uj)
        return DomainShares(domain.name, total_uj, (share,) if total_uj else (), "exclusive", domain.provenance)
    if domain.kind is DomainKind.DRAM:
        static = _memory_weights(interval, domain.package, load)
        method = "memory+cores"
    else:
        static = load.allocated(domain.package)
        method = "cores"
    dynamic, moving_uj = load.work(domain.package), total_uj - fixed_uj
    doubts_uj: dict[str, int] = {}
    if interval.gap:
        method = "presence"
    elif parts is not None and interval.jobs:
        method = FITTED
        dynamic = {owner: round(_SCALE * weight) for owner, weight in parts.weights.items()}
        doubts_uj = {owner: round(part * max(0, moving_uj)) for owner, part in parts.doubts.items()}
    shares = _join(apportion(fixed_uj, static), apportion(moving_uj, dynamic), interval)
    doubt = load.doubt(domain.package)
    measured = not interval.jobs and not interval.gap and not doubt
    provenance = domain.provenance if measured else _modelled(domain.provenance)
    return DomainShares(domain.name, total_uj, shares, method, provenance, doubt, doubts_uj)


def _weighed(interval: IntervalInput, domain: DomainInput, load: _Load, weigh: Weigh) -> Parts | None:
    """What is made of a package's work where all of it is known; an estimate shows nothing but CPU time."""
    estimated = domain.provenance is Provenance.ESTIMATED
    if domain.kind is not DomainKind.PACKAGE or estimated or interval.gap or interval.unseen:
        return None
    work = load.work(domain.package)
    if load.doubt(domain.package) or UNKNOWN in work:
        return None
    return weigh(domain, interval.duration_ns, {owner: one / load.unit for owner, one in work.items()})


def _memory_weights(interval: IntervalInput, package: int | None, load: _Load) -> dict[str, int]:
    """Allocated memory of each job on the package, times presence; the rest is idle's."""
    packages = 1 if package is None else load.packages()
    package_of = interval.node.package_of
    cpus = {cpu for cpu, its in package_of.items() if its == package}
    wanted = []
    for job in interval.jobs:
        here = len(job.cpus if package is None else job.cpus & cpus)
        memory = job.memory_b * here // len(job.cpus) if job.cpus else job.memory_b // packages
        wanted.append((job, memory * load.present_ns(job)))
    return _held(wanted, interval.node.memory_b // packages * max(1, interval.duration_ns))


def _gpu(interval: IntervalInput, domain: DomainInput, total_uj: int) -> DomainShares:
    holders = {job.owner: job for job in interval.jobs if domain.name in job.gpus}
    floor_uj = max(0, min(total_uj, _power_times(domain.static_uw, interval.duration_ns)))
    if not holders:
        shares = _join({IDLE: floor_uj}, {IDLE: total_uj - floor_uj}, interval)
        return DomainShares(domain.name, total_uj, shares, "unheld", domain.provenance)
    load_whole = max(1, interval.duration_ns)
    present = {
        owner: load_whole if job.present_ns is None else max(0, min(job.present_ns, load_whole))
        for owner, job in holders.items()
    }
    if domain.slices is None and len(holders) == 1 and not interval.gap:
        (owner,) = holders
        if present[owner] == load_whole:
            shares = _join({owner: floor_uj}, {owner: total_uj - floor_uj}, interval, {owner: floor_uj})
            return DomainShares(domain.name, total_uj, shares, "holder", domain.provenance)
    parts = {owner: holders[owner].gpus[domain.name].part * present[owner] for owner in holders}
    capacity = (
        domain.slices if domain.slices is not None else sum(job.gpus[domain.name].part for job in holders.values())
    ) * load_whole
    static = {**parts, IDLE: max(0, capacity - sum(parts.values()))}
    awake = {owner: part for owner, part in parts.items() if not holders[owner].suspended}
    known = {owner: holders[owner].gpus[domain.name].activity for owner in awake}
    # Beside one whose activity is not known the others' says nothing.
    activity = {} if None in known.values() else {owner: (known[owner] or 0) * part for owner, part in awake.items()}
    # Who is suspended does nothing, but keeps its part: suspended jobs do not release GRES (slurm.conf(5)).
    dynamic = next((one for one in (activity, awake) if sum(one.values())), parts)
    fixed = apportion(floor_uj, static)
    held = {owner: part for owner, part in fixed.items() if owner in holders}
    shares = _join(fixed, apportion(total_uj - floor_uj, dynamic), interval, held)
    method = "parts" if domain.slices is None else "slices+activity" if sum(activity.values()) else "slices"
    return DomainShares(
        domain.name, total_uj, shares, "presence" if interval.gap else method, _modelled(domain.provenance)
    )


def _residual(
    interval: IntervalInput, meter: DomainInput, name: str, leaves: list[DomainShares], load: _Load
) -> DomainShares:
    if meter.total_uj is None:
        return DomainShares(name, None, (), "gap", meter.provenance)
    rest_uj = meter.total_uj - sum(leaf.total_uj or 0 for leaf in leaves) - sum(meter.inside.values())
    provenance = worst((meter.provenance, *(leaf.provenance for leaf in leaves)))
    if rest_uj < 0:
        return DomainShares(
            name, rest_uj, (Share(UNKNOWN, rest_uj, 0, rest_uj),), "negative residual", _modelled(provenance)
        )
    if load.sole is not None:
        share = Share(load.sole.owner, rest_uj, 0, rest_uj, 0, rest_uj if load.sole.suspended else 0)
        return DomainShares(name, rest_uj, (share,) if rest_uj else (), "exclusive", provenance)
    fixed_uj = min(rest_uj, _power_times(meter.static_uw, interval.duration_ns))
    by_leaf: dict[str, int] = defaultdict(int)
    by_leaf.update({owner: max(0, energy_uj) for owner, energy_uj in meter.inside.items()})
    for leaf in leaves:
        for share in leaf.shares:
            by_leaf[share.owner] += max(0, share.energy_uj)
    static = apportion(fixed_uj, _node_weights(interval, leaves, load))
    shares = _join(static, apportion(rest_uj - fixed_uj, by_leaf), interval)
    return DomainShares(name, rest_uj, shares, "residual", _modelled(provenance))


def _node_weights(interval: IntervalInput, leaves: list[DomainShares], load: _Load) -> dict[str, int]:
    """Each job's largest share of cores, memory and GPUs; normalised when they exceed the node, else the rest idles."""
    gpus = sum(1 for domain in interval.domains if domain.kind is DomainKind.GPU)
    memory = interval.node.memory_b
    wanted = []
    for job in interval.jobs:
        cores, all_cores = load.core_share(job)
        present = load.present_ns(job)
        candidates = [_UNIT * cores // all_cores]
        if memory:
            candidates.append(_UNIT * min(job.memory_b, memory) // memory)
        if gpus:
            candidates.append(_UNIT * len(job.gpus) // gpus)
        wanted.append((job, (_UNIT if job.exclusive else max(candidates)) * present))
    return _held(wanted, _UNIT * max(1, interval.duration_ns))
