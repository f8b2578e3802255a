"""Intervals of one node: every reading ends one and starts the next, per energy domain, also across failed readings.

A domain whose reading fails keeps its interval open; the next good reading closes it, and the jobs inside are weighted
by their presence. A meter waits for the domains that it contains, and what these were given meanwhile is not its rest;
for one that gives nothing for very long, or when a job ends, it waits no longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import add, sub
from typing import Any, NamedTuple

from perun_hpc.data_model.sensor import Provenance, Reading, Rise, Sensor
from perun_hpc.energy.attribute import (
    OTHER,
    UNKNOWN,
    DomainInput,
    DomainKind,
    DomainShares,
    GpuHolding,
    IntervalInput,
    JobInput,
    NodeInput,
    Share,
    attribute,
)
from perun_hpc.energy.containment import EnergyDomain
from perun_hpc.energy.counters import NS_PER_S, STILL, counted_each, difference, goes_on, stands_still
from perun_hpc.energy.crosscheck import NO_MEASUREMENT, may_stand_still, shows_too_little
from perun_hpc.energy.work_power import Parts, WorkPower
from perun_hpc.process.log import guard

#: Of a counter that has not been read yet, or is read no more: its first reading opens its interval.
UNREAD = Reading(None, -1, "not found yet")


def _is_unread(reading: Reading) -> bool:
    """Whether a counter has not been read; an average over minutes is read of a time before the boot at first."""
    return reading.ticks is None and reading.mono_ns < 0


#: An interval that stays open for more stretches than this is given up.
MAX_STRETCHES = 64


class Known(NamedTuple):
    """What is known of many readings after each other: how each sensor's go on, by its id, and sums over some of them.

    `sums` are of each moment, modulo 2^64, over the ticks of all sensors of `summed`.
    """

    rises: Mapping[str, Rise | None]
    summed: frozenset[str]
    sums: Sequence[int]


NOTHING_KNOWN = Known({}, frozenset(), ())


@dataclass(frozen=True)
class Stretch:
    """Time between two readings: how busy each CPU was, which jobs were there, and whether nobody watched (`unseen`).

    `unread` holds the CPUs of which nobody knows how busy they were, and why.
    """

    t0_ns: int
    t1_ns: int
    busy_ns: Mapping[int, int]
    jobs: tuple[JobInput, ...]
    unseen: bool = False
    unread: Mapping[int, str] = field(default_factory=dict)


class Closed(NamedTuple):
    """A closed interval of one domain: its shares, the jobs that were there, and whether a reading was missing inside.

    `why` says why there are no shares, or what they could not rest on; `failed` why a reading inside failed.
    """

    t0_ns: int
    t1_ns: int
    shares: DomainShares
    jobs: tuple[JobInput, ...]
    gap: bool
    why: str = ""
    failed: str = ""


def _just_goes_on(
    sensor: Sensor, before: Reading, ticks: Sequence[int], times_ns: Sequence[int], apart_ns: int, rise: Rise | None
) -> bool:
    """Whether a counter of base units goes on from a reading through rows `apart_ns` apart at least."""
    since_ns = times_ns[0] - before.mono_ns
    if rise is None or before.ticks is None or since_ns <= 0 or sensor.scale_num != sensor.scale_den:
        return False
    step = ticks[0] - before.ticks
    whole_ns = times_ns[-1] - before.mono_ns
    return goes_on(sensor, min(step, rise.least), max(step, rise.most), min(apart_ns, since_ns), whole_ns)


def packages(domains: Iterable[EnergyDomain]) -> set[int]:
    """The numbers of the CPU packages that domains speak of."""
    leaves = (DomainKind.PACKAGE, DomainKind.DRAM)
    return {domain.package for domain in domains if domain.kind in leaves and domain.package is not None}


class Intervals:
    """The open intervals of a node's domains.

    `static_uw` (static power) and `slices` (of GPUs in MIG mode) hold what is known of each domain by now, `guessed`
    those whose static power is half of the least power seen, `node` the CPUs and what a busy one weighs. Where
    `fitted`, what jobs' work draws is learnt from the packages' own power; `static_error` is what their static power is
    wrong by (k=1, relative).
    """

    def __init__(self, domains: Sequence[EnergyDomain], node: NodeInput) -> None:
        self._domains = _in_order(domains)
        self._rests = rests(domains)
        self.node = node
        self.static_uw: Mapping[str, int] = {}
        self.guessed: Collection[str] = ()
        self.slices: Mapping[str, int] = {}
        self.fitted = False
        self.static_error: Mapping[str, float] = {}
        self._powers: dict[str, WorkPower] = {}
        self._opened: dict[str, tuple[int, Reading]] = {}
        self._stretches: list[Stretch] = []
        self._seen: dict[str, Reading] = {}
        self._failed: dict[str, str] = {}
        self._inside: dict[str, Counter[str]] = {}
        self._lost: set[str] = set()
        self._still: dict[str, Reading] = {}
        self._beside: dict[str, Mapping[str, Reading]] = {}
        """Domain -> what all counters showed when its interval was opened: another one may go on from there."""

    def begin(
        self, mono_ns: int, readings: Mapping[str, Reading], inside: Mapping[str, Mapping[str, int]] | None = None
    ) -> None:
        """Open every interval at a first reading; `inside`: what the last agent gave of meters' parts since."""
        self._stretches, self._still = [], {}
        self._inside = {meter: Counter(given) for meter, given in (inside or {}).items()}
        for domain in self._domains:
            self._opened[domain.name] = (mono_ns, readings.get(domain.sensor.id, UNREAD))
            self._beside[domain.name] = readings

    def change(self, domains: Sequence[EnergyDomain]) -> set[str]:
        """Account other domains from now on; a new one's first reading opens its interval.

        Where another sensor counts a domain from now on it goes on from its own reading of the moment when the open
        interval began: nothing is lost, and nothing counts twice. Without such a reading nobody knows that time.

        Returns
        -------
        The ids of the sensors that go on so.
        """
        known = {domain.name: domain.sensor.id for domain in self._domains}
        self._domains, self._rests = _in_order(domains), rests(domains)
        unread = (-1, UNREAD)
        same = {domain.name for domain in domains if known.get(domain.name) == domain.sensor.id}
        opened, continued = {}, set(same)
        for one in domains:
            t0_ns, before = self._opened.get(one.name, unread)
            if one.name not in same and not _is_unread(before):
                then = self._beside.get(one.name, {}).get(one.sensor.id, UNREAD)
                if then.ticks is None:
                    before = Reading(None, before.mono_ns, "another sensor counts it from now on")
                else:
                    before = then
                    continued.add(one.name)
            opened[one.name] = t0_ns, before
        self._opened = opened
        self._still = {name: since for name, since in self._still.items() if name in same}
        self._inside = {name: given for name, given in self._inside.items() if name in continued}
        self._beside = {name: readings for name, readings in self._beside.items() if name in opened}
        self._lost &= same
        self._powers = {name: power for name, power in self._powers.items() if name in same}
        return {one.sensor.id for one in domains if one.name in continued - same}

    def break_off(self, sensors: Collection[str]) -> None:
        """Counters have begun anew: their open intervals end without a figure."""
        for domain in self._domains:
            if domain.sensor.id in sensors and domain.name in self._opened:
                t0_ns, before = self._opened[domain.name]
                if not _is_unread(before):
                    why = "its counter was made anew"
                    self._opened[domain.name] = (t0_ns, Reading(None, before.mono_ns, why))

    def add(self, stretch: Stretch, readings: Mapping[str, Reading], settle: bool = False) -> list[Closed]:
        """End a stretch with a reading; returns the intervals that it closed.

        `settle`: a job ends, and gets what the meters show by now; a part that fails is waited for no longer.
        """
        self._stretches.append(stretch)
        if settle:
            self._give_up(stretch.t1_ns, readings)
        self._seen.clear()
        closed: list[Closed] = []
        complete: dict[int, list[tuple[EnergyDomain, int]]] = {}
        waiting: set[str] = set()
        for domain in self._domains:
            t0_ns, before = self._opened[domain.name]
            after = readings.get(domain.sensor.id, UNREAD)
            if after.ticks is None:
                self._failed[domain.name] = after.error or "no reading"
                if len(self._stretches) > MAX_STRETCHES:
                    self._lost.add(domain.name)
            else:
                self._lost.discard(domain.name)
            late_leaf = domain.leaves and any(
                leaf in waiting or self._opened[leaf][0] != stretch.t1_ns
                for leaf in domain.leaves
                if leaf not in self._lost
            )
            if after.ticks is None or late_leaf:
                waiting.add(domain.name)
                continue
            self._opened[domain.name], self._beside[domain.name] = (stretch.t1_ns, after), readings
            if _is_unread(before):
                continue
            change = difference(domain.sensor, before, after)
            why = change.why if change.ticks is None else self._silence(domain, before, after, change.ticks)
            if change.ticks is None or why:
                self._failed.pop(domain.name, None)
                nothing = DomainShares(domain.name, None, (), "gap", domain.sensor.provenance)
                closed.append(Closed(t0_ns, stretch.t1_ns, nothing, stretch.jobs, True, why))
            else:
                complete.setdefault(t0_ns, []).append((domain, domain.sensor.base(change.ticks)))
        for t0_ns in sorted(complete, reverse=True):  # those inside of others first
            found = self._attribute(t0_ns, stretch.t1_ns, complete[t0_ns])
            self._note_leaves(found, {domain.name for domain, _ in complete[t0_ns]})
            closed.extend(found)
        self._forget()
        self._inside = {name: one for name, one in self._inside.items() if self._opened[name][0] < stretch.t1_ns}
        return closed

    def _silence(self, domain: EnergyDomain, before: Reading, after: Reading, ticks: int) -> str:
        """Why a counter that could be read has measured nothing; empty where it has."""
        if may_stand_still(domain.sensor):
            return ""
        if ticks or self._still.get(domain.name, before).ticks != before.ticks:  # it moved, or began anew
            self._still.pop(domain.name, None)
        if not ticks and stands_still(domain.sensor, self._still.setdefault(domain.name, before), after):
            return STILL
        if domain.kind is DomainKind.DRAM:
            return ""
        counted_uj = domain.sensor.base(ticks)
        at_most_ns = (after.mono_ns - before.mono_ns) * len(self.node.core_of)
        if not shows_too_little(domain.sensor, counted_uj, at_most_ns):
            return ""  # whatever the CPUs did
        stretches = [one for one in self._stretches if one.t1_ns > before.mono_ns]
        package_of = self.node.package_of
        its = [
            cpu for cpu in self.node.core_of
            if domain.package is None or not package_of or package_of.get(cpu) == domain.package
        ]  # fmt: skip
        elapsed_ns = sum(one.t1_ns - one.t0_ns for one in stretches)
        busy_ns = sum(min(elapsed_ns, sum(one.busy_ns.get(cpu, 0) for one in stretches)) for cpu in its)
        return NO_MEASUREMENT if shows_too_little(domain.sensor, counted_uj, busy_ns) else ""

    def _give_up(self, t1_ns: int, readings: Mapping[str, Reading]) -> None:
        """What parts of meters use that give no reading now is the meters' rest, until they give one again."""
        shown = {domain.name: readings.get(domain.sensor.id, UNREAD) for domain in self._domains}
        for meter in self._domains:
            for leaf in meter.leaves if shown[meter.name].ticks is not None else ():
                if shown[leaf].ticks is None and leaf not in self._lost:
                    self._lost.add(leaf)
                    self._opened[leaf] = (t1_ns, Reading(None, t1_ns, shown[leaf].error or "no reading"))

    def _note_leaves(self, closed: Sequence[Closed], together: Collection[str]) -> None:
        """Keep what leaves were given for the meters whose intervals do not close together with theirs."""
        meters = [one for one in self._domains if one.leaves and one.name not in together]
        given = {interval.shares.domain: interval.shares.by_owner() for interval in closed} if meters else {}
        for meter in meters:
            for leaf in meter.leaves:
                self._inside.setdefault(meter.name, Counter()).update(given.get(leaf, {}))

    def to_go_on_from(self, readings: Mapping[str, Reading]) -> dict[str, Reading]:
        """Readings from which the next agent goes on: those that opened the intervals that are open now.

        They are these ones but for counters that gave none, and for meters that wait for those: see `inside`.
        """
        former = {one.sensor.id: self._opened[one.name][1] for one in self._domains if one.name in self._opened}
        usable = {name: one for name, one in former.items() if one.ticks is not None}
        return {name: usable.get(name, one) for name, one in readings.items()}

    @property
    def inside(self) -> dict[str, dict[str, int]]:
        """What the parts of meters whose intervals are open were given meanwhile: meter -> owner -> uJ."""
        return {meter: dict(given) for meter, given in self._inside.items() if given}

    def since(self, readings: Mapping[str, Reading]) -> int:
        """Energy of all leaf domains since the last call, or since the intervals were opened, in uJ."""
        total_uj = 0
        for domain in self._domains:
            if domain.kind is DomainKind.METER:
                continue
            before = self._seen.get(domain.name, self._opened[domain.name][1])
            if _is_unread(before):
                continue
            after = readings.get(domain.sensor.id, UNREAD)
            change = difference(domain.sensor, before, after)
            if change.ticks is not None:
                total_uj += domain.sensor.base(change.ticks)
                self._seen[domain.name] = after
        return total_uj

    def since_rows(
        self, times_ns: Sequence[int], columns: Mapping[str, Sequence[int]], known: Known = NOTHING_KNOWN
    ) -> list[int]:
        """The same of many readings after each other: at `times_ns`, each sensor's ticks by its id.

        Those that just went on are added up first, and are differences then.
        """
        total_uj = [0] * len(times_ns)
        going: dict[str, Sequence[int]] = {}
        begun = 0
        apart_ns = min(map(sub, times_ns[1:], times_ns), default=times_ns[-1])
        for domain in self._domains:
            before = self._seen.get(domain.name) or self._opened[domain.name][1]
            ticks = columns.get(domain.sensor.id)
            if domain.kind is DomainKind.METER or ticks is None or before.ticks is None:
                continue
            if _just_goes_on(domain.sensor, before, ticks, times_ns, apart_ns, known.rises.get(domain.sensor.id)):
                going[domain.sensor.id] = ticks
                begun += before.ticks
                self._seen[domain.name] = Reading(ticks[-1], times_ns[-1])
            else:
                energy_uj, self._seen[domain.name] = counted_each(domain.sensor, before, ticks, times_ns)
                total_uj = list(map(add, total_uj, energy_uj))
        if going:
            whole = going.keys() == known.summed and sum(ticks[-1] for ticks in going.values()) < 1 << 63
            sums = known.sums if whole else list(map(sum, zip(*going.values(), strict=True)))
            total_uj = list(map(add, total_uj, map(sub, sums, (begun, *sums))))
        return total_uj

    def counted(self, readings: Mapping[str, Reading], gpus: Collection[str]) -> int:
        """Energy of the domains that are added up, of these GPUs alone, since their intervals were opened, in uJ."""
        leaves = [one for one in self._domains if one.kind is not DomainKind.METER]
        total_uj = 0
        for domain in leaves or self._domains:
            if domain.kind is DomainKind.GPU and domain.name not in gpus:
                continue
            before = self._opened[domain.name][1]
            if not _is_unread(before):
                change = difference(domain.sensor, before, readings.get(domain.sensor.id, UNREAD))
                total_uj += domain.sensor.base(change.ticks) if change.ticks is not None else 0
        return total_uj

    def _attribute(self, t0_ns: int, t1_ns: int, measured: list[tuple[EnergyDomain, int]]) -> list[Closed]:
        inside = [one for one in self._stretches if one.t0_ns >= t0_ns and one.t1_ns > one.t0_ns]
        inside = inside or self._stretches[-1:]  # two readings of one moment
        jobs, busy_ns, unread = joined(inside)
        gap = len(inside) != 1
        interval = IntervalInput(
            t0_ns=t0_ns,
            t1_ns=t1_ns,
            node=self.node,
            domains=tuple(self._input(domain, total_uj, t1_ns - t0_ns) for domain, total_uj in measured),
            jobs=jobs,
            busy_ns=busy_ns,
            unread=unread,
            gap=gap,
            unseen=any(stretch.unseen for stretch in inside),
        )
        if not self.fitted:
            self._powers.clear()  # learnt under another policy
        weigh = self._weigh if self.fitted else None
        found = guard("attribution", lambda: attribute(interval, weigh)) or _nobodys(interval)
        failed = {domain.name: self._failed.pop(domain.name, "") for domain, _ in measured}
        return [Closed(t0_ns, t1_ns, shares, jobs, gap, shares.why, failed.get(shares.domain, "")) for shares in found]

    def _weigh(self, domain: DomainInput, duration_ns: int, busy_ns: Mapping[str, float]) -> Parts | None:
        """Let the filter of a package learn from an interval; one that fails begins anew."""
        power = self._powers.pop(domain.name, None) or WorkPower(self._cores(domain.package))
        error = self.static_error.get(domain.name, 0.0)

        def take() -> Parts | None:
            parts = power.take(duration_ns, domain.total_uj or 0, domain.static_uw, error, busy_ns)
            self._powers[domain.name] = power
            return parts

        return guard("what work draws", take)

    def _cores(self, package: int | None) -> int:
        """How many cores a package has, or (None) the node."""
        package_of = self.node.package_of
        return len({core for cpu, core in self.node.core_of.items() if package in (None, package_of.get(cpu))})

    def _input(self, domain: EnergyDomain, total_uj: int, duration_ns: int) -> DomainInput:
        static_uw = self.static_uw.get(domain.name, 0)
        if domain.name in self.guessed and domain.kind in (DomainKind.PACKAGE, DomainKind.DRAM):
            half_uw = max(0, total_uj) * NS_PER_S // max(1, duration_ns) // 2
            static_uw = min(static_uw or half_uw, half_uw)  # this interval may show the least power so far
        return DomainInput(
            name=domain.name,
            kind=domain.kind,
            total_uj=total_uj,
            package=domain.package,
            static_uw=static_uw,
            slices=self.slices.get(domain.name),
            leaves=domain.leaves,
            inside=self._inside.pop(domain.name, {}),
            rest=self._rests.get(domain.name, ""),
            provenance=domain.sensor.provenance,
        )

    def _forget(self) -> None:
        """Drop stretches that no open interval needs, and intervals that stayed open for too long."""
        if len(self._stretches) > MAX_STRETCHES:
            horizon_ns = self._stretches[-1].t1_ns
            for name, (t0_ns, _) in list(self._opened.items()):
                if t0_ns < horizon_ns:
                    self._opened[name] = (horizon_ns, Reading(None, horizon_ns, "no reading for too long"))
        oldest_ns = min((t0_ns for t0_ns, _ in self._opened.values()), default=0)
        self._stretches = [stretch for stretch in self._stretches if stretch.t0_ns >= oldest_ns]


def _in_order(domains: Iterable[EnergyDomain]) -> tuple[EnergyDomain, ...]:
    """Meters stand behind what they contain."""
    return tuple(sorted(domains, key=lambda one: one.kind is DomainKind.METER))


def rests(domains: Iterable[EnergyDomain]) -> dict[str, str]:
    """Names of the meters' residuals: the first one's is `other`, also while it gives no reading."""
    meters = [domain.name for domain in domains if domain.kind is DomainKind.METER]
    return {name: f"{OTHER}-{name}" if place else OTHER for place, name in enumerate(meters)}


def joined(stretches: Sequence[Stretch]) -> tuple[tuple[JobInput, ...], dict[int, int], dict[int, str]]:
    """Jobs, busy times and unread CPUs of several stretches as one; a job carries how long it was present."""
    if len(stretches) == 1:
        return stretches[0].jobs, dict(stretches[0].busy_ns), dict(stretches[0].unread)
    jobs: dict[str, JobInput] = {}
    busy_ns: dict[int, int] = {}
    unread: dict[int, str] = {}
    for stretch in stretches:
        unread.update(stretch.unread)
        for cpu, busy in stretch.busy_ns.items():
            busy_ns[cpu] = busy_ns.get(cpu, 0) + busy
        for job in stretch.jobs:
            present_ns = stretch.t1_ns - stretch.t0_ns
            before = jobs.get(job.owner)
            if before is None:
                jobs[job.owner] = replace(job, present_ns=present_ns)
            else:
                jobs[job.owner] = replace(
                    job,
                    present_ns=present_ns + (before.present_ns or 0),
                    cpu_ns=None if job.cpu_ns is None or before.cpu_ns is None else job.cpu_ns + before.cpu_ns,
                    suspended=job.suspended and before.suspended,
                    gpus={name: _held_on(hold, present_ns, before, name) for name, hold in job.gpus.items()},
                )
    return tuple(jobs.values()), busy_ns, unread


def _held_on(hold: GpuHolding, present_ns: int, before: JobInput, name: str) -> GpuHolding:
    """A hold over one more stretch: activity is the mean over both, not known where that of one is not."""
    former = before.gpus.get(name)
    if former is None or former.activity is None or hold.activity is None:
        return replace(hold, activity=None)
    former_ns = before.present_ns or 0
    whole_ns = max(1, former_ns + present_ns)
    return replace(hold, activity=(former.activity * former_ns + hold.activity * present_ns) // whole_ns)


def _nobodys(interval: IntervalInput) -> list[DomainShares]:
    """The energy of an interval that could not be shared out, so that it stays in the node ledger."""
    leaves = [one for one in interval.domains if one.kind is not DomainKind.METER and one.total_uj is not None]
    return [
        DomainShares(
            one.name,
            one.total_uj,
            (Share(UNKNOWN, one.total_uj or 0, 0, one.total_uj or 0),),
            "failed",
            one.provenance,
            "its energy could not be shared out",
        )
        for one in leaves
    ]


def ledger_line(closed: Closed, live: frozenset[str]) -> dict[str, Any]:
    """One line of the node ledger; what a job that is gone would have got is `unknown`'s."""
    shares: dict[str, int] = {}
    for owner, energy_uj in closed.shares.by_owner().items():
        known = owner if not owner.startswith("job:") or owner in live else "unknown"
        shares[known] = shares.get(known, 0) + energy_uj
    return {
        "t0_ns": closed.t0_ns,
        "t1_ns": closed.t1_ns,
        "domain": closed.shares.domain,
        "total_uj": closed.shares.total_uj,
        "shares": shares,
        "method": closed.shares.method,
        **({"estimated": True} if closed.shares.provenance is Provenance.ESTIMATED else {}),
        **({"why": closed.why} if closed.why else {}),
    }
