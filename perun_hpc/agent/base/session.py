"""A session: one run of one job on this node, from its start edge to its end edge, and all that was learned between.

Everything in it is plain data that goes through JSON unchanged, so that the next agent continues after a `kill -9`.
Whoever serves a session reads that data, and says what happened by its methods: they alone change it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.job_facts import cpus_on_node, usable, without_names
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.config import settings as kept
from perun_hpc.data_model import codec
from perun_hpc.data_model.job import SessionKey, run_of
from perun_hpc.data_model.step_id import FURTHER
from perun_hpc.errors import DataError

LATE_NS = 1_000_000_000
"""A first reading that comes later than this after the job's start is noted; the agent's start takes a part of it."""


@dataclass
class Edge:
    """A moment at which a session began or ended: both clocks, how late the edge reading was, and who reported it."""

    real_ns: int
    mono_ns: int
    late_ns: int
    source: str


@dataclass
class Gap:
    """A stretch of time in which a sensor gave nothing."""

    sensor: str
    from_ns: int
    to_ns: int
    why: str


#: More gaps than this are joined to the last one of the same sensor.
MAX_GAPS = 200
#: More kinds of failures than this are counted only.
MAX_SETTINGS = 6
MAX_WHYS = 50
#: A session of which something failed so often is set aside: it ends, partial.
MAX_FAILURES = 16


@dataclass
class Session:
    """One job run on this node; `ranks` and `text_b` count what `steps` holds: ranks, bytes of commands and options.

    `place` is the name of its directory in the spool, no other session's: `JOB.RESTART`, or `JOB.RESTART-N` where an
    earlier run of that name is still there.
    """

    key: SessionKey
    job: dict[str, str]
    settings: dict[str, Any]
    policy_hash: str
    boot_id: str
    start: Edge
    end: Edge | None = None
    exit: dict[str, str] = field(default_factory=dict)
    edges_start: dict[str, list[int | None]] = field(default_factory=dict)
    edges_end: dict[str, list[int | None]] = field(default_factory=dict)
    domains: dict[str, DomainAccount] = field(default_factory=dict)
    shares: dict[str, dict[str, int]] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    uses: dict[str, StepUse] = field(default_factory=dict)
    shared_out: dict[str, int] = field(default_factory=dict)
    """What it had when its steps were given their parts last: uJ, ns, and when (monotonic)."""
    steps_ns: int | None = None
    """What its cgroup said of its CPU time when its steps were looked at last."""
    gaps: list[Gap] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    cpu_ns: int = 0
    work_ns: int = 0
    mem_peak_b: int = 0
    peak_mw: int | None = None
    memory_b: int = 0
    suspended: bool = False
    suspended_ns: int = 0
    agent_cpu_ns: int = 0
    trace: dict[str, Any] = field(default_factory=dict)
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    monitored: bool = True
    doubt: str = ""
    assumed: list[str] = field(default_factory=list)
    cpu_settings: dict[str, list[str]] = field(default_factory=dict)
    """How the node's CPUs were set while it ran: name -> values, each as often as it came anew, to a bound."""
    left_out: dict[str, int] = field(default_factory=dict)
    ranks: int = 0
    text_b: int = 0
    failures: int = 0
    """How often something of this session failed by a fault of perun's own."""
    place: str = ""
    changes: int = 0
    """How often anything of it became another one but its sums, which change with each interval."""

    def __post_init__(self) -> None:
        self.place = self.place or self.key.name

    # Questions.

    @property
    def uid(self) -> int:
        """The job's owner; -1 where no hook said it."""
        return int(self.job.get("uid", "-1"))

    @property
    def energy_uj(self) -> int:
        """What the job was given so far, all domains."""
        return sum(account.energy_uj for account in self.domains.values())

    @property
    def cpus_on_node(self) -> int:
        """How many CPUs Slurm gave it here; 0 if it did not say."""
        return cpus_on_node(self.job)

    @property
    def flag(self) -> str | None:
        """What the job's user wrote after `--perun=` at its submission, "" for the bare flag; None without it."""
        flag = self.job.get("flag", "")
        return flag[1:] if flag.startswith("=") else None

    @property
    def exclusive(self) -> bool:
        """Whether Slurm said that the job holds its nodes alone."""
        word = self.job.get("exclusive")
        return word is not None and word.lower() in ("1", "yes", "true", "node")

    @property
    def period_ns(self) -> int:
        """The storage period of its trace."""
        return kept.sampling(self.settings).period_ns

    # Its life, in order: it has begun where it was made.

    def settle(self, settings: dict[str, Any], monitored: bool, policy_hash: str) -> None:
        """The policy is known: these are its settings for good."""
        self.changes += 1
        self.settings, self.monitored, self.policy_hash = settings, monitored, policy_hash

    def flag_step(self, settings: dict[str, Any], monitored: bool) -> None:
        """A step was flagged: its options count within the settings."""
        self.changes += 1
        self.settings, self.monitored = settings, monitored

    def run_on(self, cpus: Collection[int] | None) -> None:
        """Its cgroup says on which CPUs; none: it says nothing."""
        if cpus and self.cpus != (found := sorted(cpus)):
            self.changes += 1
            self.cpus = found

    def run_anywhere(self) -> None:
        """Its cgroup turned out to confine it to no CPU of its own."""
        self.changes += bool(self.cpus)
        self.cpus = []

    def use(self, cpu_ns: int, memory_b: int, mem_peak_b: int) -> None:
        """What it used since the last interval, what it holds now, and the most that it held; 0: not known."""
        self.cpu_ns += cpu_ns
        memory_b = memory_b or self.memory_b
        if memory_b != self.memory_b or mem_peak_b > self.mem_peak_b:
            self.changes += 1
            self.memory_b, self.mem_peak_b = memory_b, max(self.mem_peak_b, mem_peak_b)

    def work(self, ns: int) -> None:
        """So much CPU time is behind the work that it is charged with: its own, or all of a node that it holds."""
        self.work_ns += ns

    def see(self, settings: Mapping[str, str]) -> None:
        """The node's CPUs are set so from now on."""
        for name, value in settings.items():
            values = self.cpu_settings.setdefault(name, [])
            if values[-1:] != [value] and len(values) < MAX_SETTINGS:
                self.changes += 1
                values.append(value)

    def suspend(self, suspended: bool) -> None:
        """It stands still from now on, or goes on."""
        self.changes += suspended != self.suspended
        self.suspended = suspended

    def pass_time(self, ns: int) -> None:
        """An interval has ended, in which it was as it is now."""
        self.suspended_ns += ns if self.suspended else 0

    def draw(self, power_mw: int) -> None:
        """The mean power of an interval."""
        if self.peak_mw is None or power_mw > self.peak_mw:
            self.changes += 1
            self.peak_mw = max(0, power_mw)

    def open_account(self, name: str, account: DomainAccount) -> DomainAccount:
        """It is given something of a domain for the first time; returns the account."""
        return self.domains.setdefault(name, account)

    def add_share(self, day: str, domain: str, energy_uj: int) -> None:
        """Add energy to a local day."""
        per_domain = self.shares.setdefault(day, {})
        per_domain[domain] = per_domain.get(domain, 0) + energy_uj

    def read_late(self, sensor: str, edge: list[int | None]) -> None:
        """The first reading of a counter that gave none at the start."""
        self.changes += 1
        self.edges_start[sensor] = edge

    def resume(self, gap: Gap, former_ns: int, agent_cpu_ns: int) -> None:
        """Another agent goes on, which had used so much CPU time before, the one before it `former_ns` by then (0: it
        did not say; then what that one used for the session is not known, and left out).
        """
        self.changes += 1
        self.add_gap(gap)
        self.agent_cpu_ns = max(0, self.agent_cpu_ns + former_ns) - agent_cpu_ns

    def tell(self, job: Mapping[str, str], ended: Mapping[str, str]) -> None:
        """What the Epilog says: more of the job, and how it ended."""
        self.changes += 1
        self.job = {**job, **self.job}
        self.exit = dict(ended)

    def finish(self, end: Edge, edges: dict[str, list[int | None]], agent_cpu_ns: int) -> None:
        """The job has ended, when its agent had used so much CPU time."""
        self.changes += 1
        self.end, self.edges_end = end, edges
        self.agent_cpu_ns += agent_cpu_ns

    def cut_off(self, end: Edge, edges: dict[str, list[int | None]], agent_cpu_ns: int) -> None:
        """The node was restarted: it ended with the last reading of an agent that is gone, and had used so much CPU
        time."""
        self.changes += 1
        self.end, self.edges_end = end, edges
        self.agent_cpu_ns = max(0, self.agent_cpu_ns + agent_cpu_ns)

    def give_up(self, agent_cpu_ns: int) -> Edge:
        """Not even its end could be read: it ends where it did, or where it began; that is returned. Its agent has used
        so much CPU time.
        """
        if self.end is None:
            self.finish(self.start, {}, agent_cpu_ns)
        return self.end or self.start

    def take_back(self) -> None:
        """What it was given is not its: it was over by then."""
        self.domains.clear()
        self.shares.clear()

    def judge_counters(self, checks: dict[str, dict[str, Any]], doubt: str) -> None:
        """How its GPUs' counters fared against their power, and why it may not be these GPUs."""
        self.changes += 1
        self.checks, self.doubt = checks, doubt

    def keep_trace(self, trace: dict[str, Any]) -> None:
        """Its trace is sealed; what it holds."""
        self.changes += 1
        self.trace = trace

    def lose_trace(self, why: str, for_good: bool) -> None:
        """It has no trace; `for_good`: and gets no other one."""
        self.changes += 1
        self.trace = {"stored": False, "why": why[:200], **({"lost": True} if for_good else {})}

    # Its steps and ranks.

    def follow_steps(self, cpu_ns: int | None) -> int | None:
        """Its cgroup says so much CPU time; what came to it since its steps were looked at last, None: not known."""
        if cpu_ns is None:
            return None
        self.changes += cpu_ns != self.steps_ns
        before_ns, self.steps_ns = self.steps_ns or 0, cpu_ns
        return cpu_ns - before_ns if cpu_ns >= before_ns else cpu_ns  # another one, that began at 0

    @property
    def counted_ns(self) -> int:
        """CPU time that is known of it: by intervals, or by what its cgroup said when its steps were looked at last.

        That of a short job on a node with others may be gone before any interval ends.
        """
        return max(self.cpu_ns, self.steps_ns or 0)

    def add_use(self, use: StepUse) -> None:
        """A step has begun, flagged or not."""
        self.uses[use.name] = use

    def take_uses(self, uses: Iterable[StepUse]) -> None:
        """The last agent wrote these; whoever is not among them, and was not done, is a part of a sum by now."""
        self.uses = {name: use for name, use in self.uses.items() if use.final}
        self.uses.update({use.name: use for use in uses})

    def keep_shared_out(self, totals: dict[str, int]) -> None:
        """Its steps have their parts of all that it has by now."""
        self.changes += 1
        self.shared_out = totals

    def fold_steps(self, most: int) -> None:
        """Make one of the steps of which nothing changes any more and whose numbers are not below `most`."""
        for use in [one for one in self.uses.values() if one.number >= most and one.final]:
            del self.uses[use.name]
            if FURTHER in self.uses:
                self.uses[FURTHER].take_in(use)
            else:
                use.name = FURTHER
                self.uses[FURTHER] = use

    def add_step(self, step: Step) -> None:
        """A flagged step has begun, or is known again; the ranks of one that was known stay."""
        self.changes += 1
        former = self.steps.get(str(step.step_id))
        if former is not None:
            step = replace(step, ranks=former.ranks)
            self.text_b -= former.text_b
        self.steps[str(step.step_id)] = step
        self.text_b += step.text_b

    def add_rank(self, step: str, run: RankRun) -> None:
        """A rank has registered, or is known again; KeyError without its step."""
        self.changes += 1
        ranks = self.steps[step].ranks
        self.ranks += str(run.rank) not in ranks
        ranks[str(run.rank)] = run

    def shed_ranks(self, why: str) -> None:
        """Forget its ranks, and its steps but for one: it was flagged."""
        self.leave_out(why, self.ranks)
        for name, step in list(self.steps.items())[1:]:
            step.ranks.clear()
            del self.steps[name]
        for step in self.steps.values():
            step.ranks.clear()
        self.count_ranks()

    def count_ranks(self) -> None:
        """Bring `ranks` and `text_b`, which are asked for with every rank, in line with `steps`."""
        self.changes += 1
        self.ranks = sum(len(step.ranks) for step in self.steps.values())
        self.text_b = sum(step.text_b for step in self.steps.values())

    # What is not as it should be.

    def note(self, why: str) -> None:
        """Say why the record is partial, once."""
        if why not in self.why:
            self.changes += 1
            self.why.append(why)

    def assume(self, what: str) -> None:
        """Say, once, on which assumption its figures rest; its energy may be whole all the same."""
        if what not in self.assumed:
            self.changes += 1
            self.assumed.append(what)

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count what exceeds a bound and is not kept; `what` is one of few sentences, which the record shows."""
        self.changes += 1
        self.left_out[what] = self.left_out.get(what, 0) + count

    def fail(self, what: str) -> None:
        """Something of it failed by a fault of perun's own: the record says so, and that it is partial."""
        self.changes += 1
        self.failures += 1
        if len(self.why) < MAX_WHYS:
            self.note(f"partial: {what} failed")

    def add_gap(self, gap: Gap) -> None:
        """Add a gap, joined to the one before it where they touch for the same reason, or the list is full."""
        self.changes += 1
        for last in reversed(self.gaps):
            if last.sensor == gap.sensor:
                touches = last.to_ns >= gap.from_ns and last.why == gap.why
                if touches or len(self.gaps) >= MAX_GAPS:
                    last.to_ns = max(last.to_ns, gap.to_ns)
                    return
                break
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(gap)

    def bare(self) -> Session:
        """The session with its energies and whose it is, without what else is known of it."""
        return replace(self, job=without_names(self.job), steps={}, trace={}, checks={}, exit={})

    # To the next agent.

    def to_json(self) -> dict[str, Any]:
        """As JSON values, to be written at once: its parts are the session's own, since copies cost much.

        Steps and ranks are not in it: they may be many, and have journals of their own (`step_log`, `use_log`).
        """
        return {
            **vars(self),
            "key": self.key.name,
            "start": vars(self.start),
            "end": vars(self.end) if self.end else None,
            "domains": {name: vars(account) for name, account in self.domains.items()},
            "steps": {},
            "uses": {},
            "gaps": [vars(gap) for gap in self.gaps],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Session:
        """Inverse of `to_json`; DataError if it is damaged, but for a part that it can do without.

        Agents before the steps' journal had the steps in it; what a later one wrote beside is passed over, for whoever
        goes back to an older version.
        """
        try:
            known = dict(data)
            known["key"] = SessionKey.parse(known["key"])
            known["job"] = usable(known["job"])
            known["start"] = codec.made(Edge, known["start"])
            known["end"] = codec.made(Edge, known["end"]) if known["end"] else None
            known["domains"] = {name: codec.made(DomainAccount, value) for name, value in known["domains"].items()}
            in_domains = [f"{name}'s {what}" for name, one in known["domains"].items() for what in _mend(one)]
            for name, value in data["domains"].items():
                if "sharing_doubt_uj" not in value:
                    known["domains"][name].doubt_all()
            known["uses"] = {}
            known["steps"] = {name: _step(value) for name, value in known["steps"].items()}
            known["gaps"] = [codec.made(Gap, gap) for gap in known["gaps"]]
            session = codec.made(cls, known)
            for name in (*in_domains, *_mend(session)):
                session.note(f"partial: what was kept of its {name} is damaged")
            if run_of(session.place) != session.key.name:
                session.place = session.key.name
            return session
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"state of session {str(data.get('key'))[:40]!r} is damaged: {error}") from error


def _step(data: Mapping[str, Any]) -> Step:
    ranks = {rank: codec.made(RankRun, run) for rank, run in data["ranks"].items()}
    return codec.made(Step, {**data, "ranks": ranks})


def _mend(one: Session | DomainAccount) -> list[str]:
    """Give fields whose values are not of their types what they begin with; returns their names.

    TypeError for one that begins with nothing.
    """
    wrong = codec.wrong(one)
    for usual in fields(one):
        if usual.name not in wrong:
            continue
        if usual.default_factory is not MISSING:
            setattr(one, usual.name, usual.default_factory())
        elif usual.default is not MISSING:
            setattr(one, usual.name, usual.default)
        else:
            raise TypeError(usual.name)
    return wrong
