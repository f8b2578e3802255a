"""The node's meter: readings end intervals, intervals become shares, shares go to sessions and to the node ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.measure import booking, holdings, intervals
from perun_hpc.agent.measure.activity import Activity
from perun_hpc.agent.measure.checks import Checks
from perun_hpc.agent.measure.gpu_limits import GpuLimits
from perun_hpc.agent.measure.gpu_use import GpuUse
from perun_hpc.agent.measure.idling import Idling
from perun_hpc.agent.measure.intervals import NOTHING_KNOWN, Closed, Intervals, Known, Stretch
from perun_hpc.agent.measure.learning import Figure, Learning
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.step_meter import Allowance, StepMeter
from perun_hpc.agent.measure.totals import Totals
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.choice import Choice
from perun_hpc.agent.sources.cpu_settings import CpuSettings
from perun_hpc.agent.sources.fallback import Fallback
from perun_hpc.agent.sources.gauges import Gauges
from perun_hpc.agent.sources.node import NO_USE, JobUse, Node, Snapshot
from perun_hpc.agent.sources.step_watch import StepWatch
from perun_hpc.backend.gpus import unknown
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.sensor import Provenance, Reading, Sensor
from perun_hpc.energy.attribute import FITTED, DomainKind, GpuHolding, JobInput, NodeInput
from perun_hpc.energy.containment import EnergyDomain, Plan, energy_counters, plan, scope_sentence
from perun_hpc.energy.counters import STILL, busy_between, span
from perun_hpc.energy.crosscheck import NO_MEASUREMENT
from perun_hpc.energy.schedule import Schedule
from perun_hpc.energy.uncertainty import static_error
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard, guard_each

if TYPE_CHECKING:
    from perun_hpc.agent.sources.fast_rows import FastRows
    from perun_hpc.backend.rows import Block

INTERVAL_NS = 10_000_000_000
SHORTEST_NS = 100_000_000
STEPS_NS, STEPS = 200_000_000, 32
"""In the long run so often an interval of a job ends since a step began or ended, and so many times more at once; where
children are asked a tenth of that."""
UNCONFINED = (
    "on which CPUs it ran is not known: its cpuset confines it to none (ConstrainCores=no), or was not set yet when it "
    "was read; its share goes by its CPU time"
)
ONE_THREAD = (
    "its cpuset is the whole node, of which Slurm counted a part of the CPUs: it is taken to have one thread of each "
    "core (--threads-per-core=1, --hint=nomultithread), and the node; with ConstrainCores=no it may have got less"
)
UNPLACED = (
    "which CPUs are of which package is not known: the kernel shows others than the counters do; "
    "what packages used is shared out by the work on all CPUs"
)


class Meter:
    """The one place where energy is given to anybody.

    `topology` says which CPUs there are now, for packages of which counters speak (`machine.topology`).

    Attributes
    ----------
    sensors : the energy counters.
    domains : what is attributed, by name.
    static : static power of every domain.
    last : the reading that opened the current interval.
    uses, parent_cpu_ns : what the cgroups said at that reading.
    schedule : when an interval ends at the latest.
    learning, idling, gpu_use, activity, checks : what is learnt from the readings on the way.
    totals : what was given since the agent began, for monitoring.
    steps : the steps of jobs.
    """

    def __init__(
        self,
        node: Node,
        topology: Callable[[Collection[int]], NodeInput],
        register: Register,
        policy: PolicyKeeper,
        ledger: NodeLedger,
        visibility: Visibility,
        clock: Clock,
    ) -> None:
        self._node = node
        self._register = register
        self._policy = policy
        self._ledger = ledger
        self._visibility = visibility
        self._clock = clock
        self.sensors = energy_counters(node.sensors)
        self._choose_domains()
        self.static: Mapping[str, Figure] = {}
        self.learning = Learning()
        self.cpu_settings = CpuSettings(node.root)
        self._set_so: Mapping[str, str] = {}
        self._key = ""
        self._said: tuple[str, Mapping[str, str]] | None = None
        self.idling = Idling()
        self.gpu_use = GpuUse()
        self.gpu_limits = GpuLimits()
        self.activity = Activity()
        self.checks = Checks()
        self.totals = Totals()
        self.steps = StepMeter(node, register, StepWatch(node, clock), clock)
        self._slow = False
        self._edges = Allowance(STEPS_NS, STEPS)
        self.last: Snapshot | None = None
        self.uses: dict[SessionKey, JobUse] = {}
        self.parent_cpu_ns: int | None = None
        self._parent_of = register.home[1]
        self._topology_now = topology
        self._topology = topology(intervals.packages(self.domains.values()))
        self._reserved: frozenset[int] = frozenset()
        self._given_out: frozenset[int] = frozenset()
        self._power_uw: Mapping[str, int] = {}
        self._rows: list[Block] = []
        self._still: dict[str, str] = {}
        self._begun: dict[SessionKey, tuple[Sensor, ...]] = {}
        """Sessions of which all these sensors' first readings are known."""
        self._continuing: set[str] = set()
        self._fallback = Fallback()
        self._intervals = Intervals(tuple(self.domains.values()), self._topology)
        self._intervals.static_uw = node.static_uw
        self.schedule = Schedule.starting(self._longest_ns(), self._clock.mono_ns(), self._clock.real_ns())

    # Readings.

    def is_due(self, now_ns: int, real_ns: int) -> bool:
        """Whether an interval must end now, by the schedule."""
        if now_ns < self.schedule.due_mono_ns:
            return False
        self.schedule = self.schedule.observe(now_ns, real_ns)
        tick, self.schedule = self.schedule.take(now_ns)
        return tick is not None

    def sees_change(self) -> bool:
        """Whether a job was suspended or resumed in the open interval, or the CPUs set otherwise; asked about once a
        second.
        """
        live = list(self._register.live.values())
        suspended = guard_each("its cgroup", self._node.suspended, live)
        return self.cpu_settings.look(self._clock.mono_ns()) or any(
            bool(now) != one.suspended for one, now in zip(live, suspended, strict=True)
        )

    def end_interval(
        self, settle: bool = False, unseen: bool = False, whole: Collection[SessionKey] | None = None
    ) -> Snapshot:
        """Read everything; the reading ends one interval and starts the next.

        `settle`: with it a job ends. `unseen`: no agent ran in a part of the interval. `whole`: the jobs of which all
        is read (None: all jobs), of the others CPU time and whether they are suspended: a hook waits for it, and the
        grid's intervals read the rest.
        """
        live = self._register.live
        guard("rows", self._settle)
        snapshot = self._node.read(fresh=True)
        self.checks.note(snapshot.readings)
        self.activity.note(snapshot.readings)
        uses = self._uses([one for key, one in live.items() if key not in self._register.over], whole)
        alone = [session for session in live.values() if self._register.alone(session)]
        for session in self.steps.hear():
            self.steps.glance(session)
        for session in alone:
            self.steps.look(session)
        parent_cpu_ns = self._parent() if live else None
        last, self.last = self.last, snapshot  # first of all: what cannot be booked is not tried again and again
        if last is None:
            self._intervals.begin(snapshot.mono_ns, snapshot.readings)
            self._visibility.end_interval({}, snapshot.mono_ns)
        else:
            self._note_point(snapshot)
            others = last.busy_ns and snapshot.busy_ns and last.busy_ns.keys() != snapshot.busy_ns.keys()
            if others:
                self._learn_cpus(self._topology)
            stretch = self._stretch(last, snapshot, uses, parent_cpu_ns)
            self._book(snapshot, replace(stretch, unseen=unseen), settle)
            if others:
                self._learn_cpus()
        late = [session for key, session in live.items() if self._begun.get(key) is not self.sensors]
        guard_each("late readings", partial(self._take_late_edges, snapshot.readings), late)
        guard("how CPUs are set", self._note_settings)
        self.uses = uses
        self.parent_cpu_ns = parent_cpu_ns
        for session in alone:
            self.steps.share_out(session, self.static, snapshot.mono_ns)
        return snapshot

    def _take_late_edges(self, readings: Mapping[str, Reading], session: Session) -> None:
        if booking.take_late_edges(session, readings, self.sensors, self._continuing):
            self._begun[session.key] = self.sensors

    def _note_settings(self) -> None:
        """An interval begins: how CPUs are set now is a part of its jobs' conditions, and what it is learnt under."""
        self.cpu_settings.look(self._clock.mono_ns())
        self._set_so = self.cpu_settings.now
        self.gpu_limits.begin()
        if self.cpu_settings.idle_key != self._key:
            self._key = self.cpu_settings.idle_key
            self.parametrise()
        for session in self._register.live.values():
            session.see(self._set_so)

    def hear_of_steps(self) -> None:
        """The kernel tells of steps that began or ended: of a job that is alone an interval ends, if few just did."""
        if (self._node.workers != []) != self._slow:
            self._slow = self._node.workers != []
            self._edges = Allowance(STEPS_NS * 10, STEPS // 10) if self._slow else Allowance(STEPS_NS, STEPS)
        for session in self.steps.hear():
            if self._register.alone(session) and self._edges.take(session.key, self._clock.mono_ns()):
                self.end_interval()
            else:
                self.steps.glance(session)

    def share_shown(self) -> None:
        """Give the steps of jobs that share the node their parts of what their users have just been shown."""
        for session in self._register.live.values():
            mono_ns = self._visibility.shown(session)[0]
            if mono_ns > session.shared_out.get("mono_ns", session.start.mono_ns):
                self.steps.look(session)
                self.steps.share_out(session, self.static, mono_ns)

    def share_last(self, session: Session, mono_ns: int) -> None:
        """The session has ended: its steps have their parts of all that it had."""
        self.steps.look(session)
        self.steps.share_out(session, self.static, mono_ns)

    def read_without_closing(self) -> Snapshot:
        """Read everything inside the open interval; curves of flagged steps get a point."""
        guard("rows", self._settle)
        snapshot = self._node.read()
        self._note_point(snapshot)
        return snapshot

    @property
    def summed(self) -> frozenset[str]:
        """The sensors that curves add up, as far as they count in base units, by their ids."""
        sensors = [one.sensor for one in self.domains.values() if one.kind is not DomainKind.METER]
        return frozenset(one.id for one in sensors if one.scale_num == one.scale_den)

    def take_rows(self) -> list[Block]:
        """The rows that `Node.fast` has made; EOFError: no more will come."""
        fast = self._node.fast
        if fast is not None:
            self._note_rows(fast, fast.turn(self._clock.mono_ns()))
        found, self._rows = self._rows, []
        return found

    def end_rows(self) -> list[Block]:
        """End `Node.fast`; the rows that it made last."""
        fast = self._node.fast
        if fast is not None:
            self._note_rows(fast, fast.stop())
            self._node.fast, self._node.fast_ns = None, self._node.spent_by_others_ns
        found, self._rows = self._rows, []
        return found

    def _settle(self) -> None:
        """Rows up to this moment: everything is about to be read."""
        fast = self._node.fast
        if fast is not None:
            self._note_rows(fast, fast.now(self._clock.mono_ns()))

    def _note_rows(self, fast: FastRows, blocks: Sequence[Block]) -> None:
        """Keep rows for the trace; the curve of flagged steps gets a point each, but not before its last one."""
        self._rows += blocks
        for block in blocks if self._visibility.wants_points else ():
            times_ns, last_ns = block.mono_ns, self._visibility.last_point_ns
            first = next((row for row, ns in enumerate(times_ns) if ns > last_ns), len(times_ns))
            if first < len(times_ns):
                columns = {name: ticks[first:] for name, ticks in zip(fast.ids, block.columns, strict=True)}
                known = (
                    NOTHING_KNOWN
                    if first
                    else Known(dict(zip(fast.ids, block.rises, strict=True)), fast.summed, block.sums)
                )
                used_uj = self._intervals.since_rows(times_ns[first:], columns, known)
                self._visibility.add_points(times_ns[first:], used_uj)

    def counted_uj(self, snapshot: Snapshot, session: Session) -> int:
        """What the counters counted in the open interval up to a reading inside of it, on a node that the session has
        for itself: GPUs that it does not hold are not its own.
        """
        return self._intervals.counted(snapshot.readings, holdings.held_whole(session.job, self._node))

    def sample(self) -> list[int | None]:
        """Raw ticks of the node's `ids`, inside the open interval."""
        return (
            self.read_without_closing().ticks(self._node.ids) if self._visibility.wants_points else self._node.sample()
        )

    def poll(self) -> None:
        """About once a second: power gauges that are integrated, and what the children said of GPUs."""
        readings = self._node.poll()
        if self._node.workers:
            self.checks.note(readings)
            self.activity.note(readings)
            held = holdings.holders(self._register.live.values(), self._node)
            self.idling.note(readings, self._intervals.static_uw, held)
            self.gpu_use.note(readings, held)
            if self.gpu_limits.note(readings):
                self.parametrise()

    def look_at(self, session: Session) -> None:
        """Take the figures of a session's cgroup as of now: what it used before is not of the open interval."""
        use = self.uses[session.key] = self._use(session)
        session.suspend(bool(use.suspended))
        session.see(self._set_so)
        self._visibility.moments.heed((session,))
        self.steps.meet(session)
        self.parent_cpu_ns = self._parent()
        self._look_for_reserved()

    def run_on(self, session: Session, cpus: Collection[int] | None) -> None:
        """A session's cgroup says on which CPUs; where that is anywhere it says nothing, and did so before."""
        if cpus is None:
            return
        others = (one for one in self._register.live.values() if one is not session and not one.suspended)
        beside = any(note.startswith(UNCONFINED) for note in session.assumed) or any(others)
        its = machine.confined(self._topology, cpus, session.cpus_on_node, beside)
        if its is None:
            session.run_anywhere()
        session.run_on(its)

    def _note_use(self, session: Session, use: JobUse, cpu_ns: int | None, busy_ns: int) -> None:
        """Add to a session what its cgroup said; `busy_ns` is that of all CPUs."""
        if use.cpus is not None:
            self.run_on(session, use.cpus)
        session.use(cpu_ns or 0, use.memory_b or 0, use.mem_peak_b or 0)
        session.work(max(cpu_ns or 0, busy_ns if self._register.holds_node(session) else 0))

    def _uses(self, sessions: Sequence[Session], whole: Collection[SessionKey] | None) -> dict[SessionKey, JobUse]:
        """What jobs' cgroups say; `whole` as in `end_interval`."""
        spent = {}
        if whole is not None:
            others = [one for one in sessions if one.key not in whole]
            found = guard_each("its cgroup", self._node.spent, others)
            spent = {one.key: use for one, use in zip(others, found, strict=True) if use is not None}
        return {one.key: spent.get(one.key) or self._use(one) for one in sessions}

    def _use(self, session: Session) -> JobUse:
        return guard("its cgroup", partial(self._node.use, session), session) or NO_USE

    def _parent(self) -> int | None:
        """CPU time of all jobs of the node that Slurm named last, where that was it at the last look, too."""
        node, before = self._register.home[1], self._parent_of
        self._parent_of = node
        if node != before:  # another slurmd of this machine: what it counted before says nothing
            self.parent_cpu_ns = None
        return guard("the cgroup above all jobs", partial(self._node.parent_cpu_ns, node))

    def gpus_of(self, session: Session, activity: Mapping[str, int] | None = None) -> dict[str, GpuHolding]:
        """The GPUs that Slurm gave to the job, as energy domains; `activity` is that of MIG instances."""
        return holdings.held(session.job, self._node, activity)

    def gpus_not_known(self) -> tuple[str, ...]:
        """UUIDs that Slurm gave to live jobs and no library names."""
        names = [name for one in self._register.live.values() for name in holdings.names_of(one.job) if "-" in name]
        return unknown(names, holdings.gpus_of(self._node)) if names else ()

    def forget(self, session: Session) -> None:
        """The session has ended: close its cgroup, and say how its GPUs' counters fared."""
        self.uses.pop(session.key, None)
        self._begun.pop(session.key, None)
        self.steps.forget(session)
        self._edges.forget(session.key)
        self._node.forget(session)
        self.idling.forget(session)
        self.gpu_use.forget(session)
        held = self.gpus_of(session)
        doubt = holdings.doubts(session.job, self._node)
        session.judge_counters(self.checks.end(session.key.owner, held), doubt)

    def to_go_on_from(self) -> Snapshot | None:
        """The last reading, as the next agent shall know it; None before the first one."""
        last = self.last
        return None if last is None else replace(last, readings=self._intervals.to_go_on_from(last.readings))

    @property
    def inside(self) -> Mapping[str, Mapping[str, int]]:
        """What parts of meters were given in the meters' open intervals, for the next agent."""
        return self._intervals.inside

    @property
    def gauges(self) -> Gauges:
        """The counters that are made of power gauges."""
        return self._node.gauges

    def continue_from(
        self,
        last: Snapshot,
        uses: Mapping[SessionKey, JobUse],
        parent_cpu_ns: int | None,
        inside: Mapping[str, Mapping[str, int]],
    ) -> Snapshot:
        """Go on from the last readings of an agent of the same boot; what the counters counted since is booked.

        Jobs that were live get their parts; what others used that came and went meanwhile is `unobserved`.
        """
        self.last, self.uses, self.parent_cpu_ns = last, dict(uses), parent_cpu_ns
        self._parent_of = self._register.home[1]
        self._intervals.begin(last.mono_ns, last.readings, inside)
        for session in self._register.live.values():  # whoever was resumed while nobody looked was not suspended
            session.suspend(session.suspended and bool(self._use(session).suspended))
        return self.end_interval(unseen=True)

    # What is measured, and with which parameters.

    def spent_ns(self) -> int:
        """CPU time of the agent, and of who makes rows for it."""
        return self._node.spent_ns()

    @property
    def guesses(self) -> bool:
        """Whether a CPU's or its memory's static power is taken to be half of the least power seen."""
        leaves = (DomainKind.PACKAGE, DomainKind.DRAM)
        kinds = {one.name: one.kind for one in self.domains.values()}
        return any(one.source == "unknown" and kinds.get(name) in leaves for name, one in self.static.items())

    @property
    def keeps_pace(self) -> bool:
        """Whether intervals are as long as the policy and the counters now ask."""
        return self.schedule.period_ns == self._longest_ns()

    def account_anew(self, choice: Choice | None = None, anew: Collection[str] = ()) -> None:
        """There are new sensors, or others count: the domains may be others from now on.

        `anew` are ids of counters that began anew: nobody knows what they counted since their last reading.
        """
        self._intervals.break_off(anew)
        self.end_interval()
        self._node.choose(choice or self._node.choice)
        self._node.follow_estimate()
        self._node.follow_gauges()
        self.sensors = energy_counters(one for one in self._node.sensors if one.id not in self._node.silent)
        before = self.domains
        self._choose_domains()
        self._note_what_is_gone(before)
        self._continuing |= self._intervals.change(tuple(self.domains.values()))
        self.idling.follow(self._node.sensors)
        self.gpu_use.follow(self._node.sensors)
        self.gpu_limits.follow(self._node.sensors)
        self.activity.follow(self._node.sensors, holdings.gpus_of(self._node))
        self.checks.follow(self._node.sensors)
        self.parametrise()
        self.schedule = Schedule.starting(self._longest_ns(), self._clock.mono_ns(), self._clock.real_ns())
        self.end_interval()

    def _note_what_is_gone(self, before: Mapping[str, EnergyDomain]) -> None:
        """Say in jobs' records which domains are counted no more; an estimate whose place a sensor took is no loss."""
        measured = any(one.kind in (DomainKind.PACKAGE, DomainKind.METER) for one in self.domains.values())
        for name in before.keys() - self.domains.keys():
            estimated = before[name].sensor.provenance is Provenance.ESTIMATED
            for session in self._register.live.values() if not (estimated and measured) else ():
                if name in session.domains or before[name].kind is DomainKind.METER:
                    session.note(f"{name}: counted for a part of the job only")

    def _choose_domains(self) -> None:
        chosen = plan(self._node.sensors, self._node.silent)
        self.domains: dict[str, EnergyDomain] = {one.name: one for one in chosen.counted}
        self._left_out = chosen.left_out

    @property
    def scope(self) -> str:
        """What the figures include and leave out, one sentence."""
        return scope_sentence(Plan(tuple(self.domains.values()), self._left_out), self._node.unread)

    def parametrise(self) -> None:
        """Give the attribution what the policy, the vendors' libraries and idle times say of the domains."""
        energy = self._policy.site().energy if self._policy.settled else None
        if energy is not None:
            self._intervals.node = replace(self._topology, kappa=(round(energy.kappa * 1000), 1000))
            self._intervals.fitted = energy.package_sharing == FITTED
        self._look_for_reserved()
        stated = {name: Figure(uw, "estimate") for name, uw in self._node.static_uw.items() if name in self.domains}
        figures = self.learning.figures(self.domains.values(), energy, self.cpu_settings.idle_key, self.gpu_limits.now)
        self.static = {**figures, **stated}
        self._intervals.static_uw = {name: figure.uw for name, figure in self.static.items()}
        self._intervals.static_error = {name: static_error(one.source) for name, one in self.static.items()}
        self._intervals.guessed = {name for name, figure in self.static.items() if figure.source == "unknown"}
        self._intervals.slices = {gpu.domain: gpu.slices for gpu in holdings.gpus_of(self._node) if gpu.slices}

    def _longest_ns(self) -> int:
        """At most what the policy says, and a quarter of the shortest time in which a counter can wrap."""
        from perun_hpc.energy.counters import longest_poll_ns

        polls = [poll_ns for sensor in self.sensors if (poll_ns := longest_poll_ns(sensor)) is not None]
        most_ns = self._policy.site().sampling.interval_ns if self._policy.settled else INTERVAL_NS
        return max(SHORTEST_NS, min([most_ns, *polls]))

    # Intervals.

    def _note_point(self, snapshot: Snapshot) -> None:
        if self._visibility.wants_points:
            self._visibility.add_point(snapshot.mono_ns, self._intervals.since(snapshot.readings))

    def _stretch(
        self, before: Snapshot, after: Snapshot, uses: Mapping[SessionKey, JobUse], parent_cpu_ns: int | None
    ) -> Stretch:
        spent = self._spent(uses, parent_cpu_ns)
        busy_ns, unread = busy_between(before.busy_ns, after.busy_ns, self._topology.core_of)
        sessions = [self._register.live[key] for key in uses]
        all_ns = sum(busy_ns.values())
        guard_each(
            "reading what it used",
            lambda one: self._note_use(one, uses[one.key], spent.get(one.key), all_ns),
            sessions,
        )
        activity = self.activity.take()
        jobs = tuple(self._input(one, spent.get(one.key), activity) for one in sessions)
        for session, use in zip(sessions, uses.values(), strict=True):
            # After its share: that is by how it was when the interval began.
            session.pass_time(after.mono_ns - before.mono_ns)
            session.suspend(bool(use.suspended))
        return Stretch(before.mono_ns, after.mono_ns, busy_ns, jobs, unread=unread)

    def _input(self, session: Session, cpu_ns: int | None, activity: Mapping[str, int]) -> JobInput:
        """A job in the interval; one of which something is not known is there with what is."""
        owner, suspended = session.key.owner, session.suspended
        return guard(
            "reading what it holds",
            lambda: JobInput(
                owner=owner,
                cpus=frozenset(session.cpus) or self._free_cpus(),
                held=None if session.cpus else session.cpus_on_node,
                cpu_ns=cpu_ns,
                memory_b=holdings.memory_b(session, self._topology),
                suspended=suspended,
                exclusive=self._register.holds_node(session),
                gpus=self.gpus_of(session, activity),
            ),
            session,
        ) or JobInput(owner=owner, cpus=frozenset(session.cpus), cpu_ns=cpu_ns, suspended=suspended)

    def _look_for_reserved(self) -> None:
        """Look which CPUs Slurm keeps for the system."""
        found = guard("CPUs kept for the system", partial(self._node.reserved_cpus, self._register.home[1]))
        self._reserved = found or frozenset()

    def _specialised(self) -> frozenset[int]:
        """The CPUs that Slurm keeps for the system; none where a job was seen on one of them, or they are all."""
        self._given_out |= {cpu for session in self._register.live.values() for cpu in session.cpus}
        kept = self._reserved & self._topology.core_of.keys()
        return frozenset() if kept & self._given_out or len(kept) == len(self._topology.core_of) else kept

    def _learn_cpus(self, former: NodeInput | None = None) -> None:
        """CPUs came online or went: their cores and packages are others from now on.

        `former` are those of the interval that ends: in it the ones and the others were there.
        """
        kappa = self._intervals.node.kappa
        self._topology = self._topology_now(intervals.packages(self.domains.values()))
        if former is not None:
            self._topology = machine.joined(former, self._topology)
        self._intervals.node = replace(self._topology, kappa=kappa)
        self._register.cpus = len(self._topology.core_of)

    def _spent(self, uses: Mapping[SessionKey, JobUse], parent_cpu_ns: int | None) -> dict[SessionKey, int | None]:
        """CPU time of each job in the interval that ends; None where it is not known."""
        spent: dict[SessionKey, int | None] = {}
        gone = []
        for key, use in uses.items():
            session, before = self._register.live[key], self.uses.get(key, NO_USE)
            if use.cpu_ns is None:
                gone.append(key)
            elif _is_new(before, use, session.cpu_ns):
                spent[key] = use.cpu_ns  # its cgroup began at 0
            else:
                spent[key] = span(before.cpu_ns, use.cpu_ns).ns
        # The cgroup of an ended job is gone before Epilog; the one above it keeps the time of its slurmd's jobs.
        here = {key for key in uses if self._register.name_of_node(self._register.live[key]) == self._parent_of}
        known = [one for key, one in spent.items() if key in here and one is not None]
        ended = [key for key in gone if key in here]
        if len(ended) == 1 and len(known) == len(here) - 1:
            above = span(self.parent_cpu_ns, parent_cpu_ns).ns
            spent[ended[0]] = None if above is None else max(0, above - sum(known))
        return spent

    def _free_cpus(self) -> frozenset[int]:
        """Where a job runs that has no cpuset, yet or at all: on any CPU that no other running job holds."""
        taken = {cpu for other in self._register.live.values() if not other.suspended for cpu in other.cpus}
        return frozenset(self._topology.core_of) - taken

    def _book(self, snapshot: Snapshot, stretch: Stretch, settle: bool) -> None:
        live = self._register.live
        before_uj = {key: session.energy_uj for key, session in live.items() if session.steps}
        self._intervals.node = replace(self._intervals.node, specialised=self._specialised())
        closed = self._intervals.add(stretch, snapshot.readings, settle)
        for session in live.values():
            self._note_assumptions(session)
        day = booking.local_day(snapshot.real_ns - (stretch.t1_ns - stretch.t0_ns) // 2)
        self._power_uw = booking.book(closed, list(live.values()), self.domains, self.static, day, self._power_uw)
        if guard("learning static power", partial(self._learn, closed, stretch, snapshot.real_ns)):
            self.parametrise()
        owners = frozenset(key.owner for key in live)
        self._note_still(closed)
        lines = [intervals.ledger_line(interval, owners) for interval in closed]
        if lines and self._said != (day, self._set_so):
            self._said = (day, self._set_so)
            lines[0] |= {"cpu_settings": dict(self._set_so)} if self._set_so else {}
        self._ledger.append(day, lines)
        self._visibility.moments.heed(live.values())
        guard("figures for monitoring", partial(self.totals.add, lines))
        self._visibility.end_interval(before_uj, snapshot.mono_ns)

    def _note_still(self, closed: Iterable[Closed]) -> None:
        """Remember which counters were read and have measured nothing."""
        rests = {name: one for one, name in intervals.rests(self.domains.values()).items()}
        for interval in closed:
            domain = self.domains.get(rests.get(interval.shares.domain, interval.shares.domain))
            if domain is not None:
                self._still.pop(domain.sensor.id, None)
                if interval.shares.total_uj is None and interval.why in (STILL, NO_MEASUREMENT):
                    self._still[domain.sensor.id] = interval.why

    def look_for_silence(self, now_ns: int) -> tuple[str, ...]:
        """Set sources aside that have given nothing for long where others count the same; says which those are."""
        if self.last is None:
            return ()
        sensors, chosen = self._node.sensors, {one.sensor.id for one in self.domains.values()}
        still = {name: why for name, why in self._still.items() if name in chosen}
        self._fallback.note(sensors, self.last.readings, still)
        decision = self._fallback.decide(sensors, self._node.silent, now_ns)
        if decision.silent == self._node.silent:
            return ()
        self._node.silent = decision.silent
        self.account_anew()
        for session in self._register.live.values():
            for one in decision.said:
                session.assume(one)
        return decision.said

    def _note_assumptions(self, session: Session) -> None:
        """Say of a job what its shares rest on for want of knowledge."""
        every = self._topology.core_of.keys()
        everywhere = len(session.cpus) >= len(every) and every <= set(session.cpus)
        if everywhere and not session.exclusive and 0 < session.cpus_on_node < len(every):
            session.assume(ONE_THREAD)
        if self._register.holds_node(session):
            return
        if not self._topology.package_of and intervals.packages(self.domains.values()):
            session.assume(UNPLACED)
        if not session.cpus and self.uses.get(session.key, NO_USE).inode:
            count = session.cpus_on_node
            session.assume(
                f"{UNCONFINED}, and its static part by the {count or 'unknown number of'} CPUs of Slurm's count"
            )

    def _learn(self, closed: list[Closed], stretch: Stretch, real_ns: int) -> bool:
        self.cpu_settings.look(self._clock.mono_ns())
        setting = self._key if self.cpu_settings.idle_key == self._key else None
        return self.learning.take(
            closed, stretch, self._topology, self.domains, self.idling.peaks(), real_ns, setting,
            self.gpu_limits.settings,
        )  # fmt: skip


def _is_new(before: JobUse, now: JobUse, counted_ns: int) -> bool:
    """Whether a session's cgroup is another one than before; `counted_ns` is the CPU time that it has by then."""
    if before.inode and now.inode != before.inode:
        return True
    # A number may be given twice, and a file may only have failed once: then it goes on above what was counted.
    return before.cpu_ns is None and (counted_ns == 0 or (before.inode != 0 and (now.cpu_ns or 0) < counted_ns))
