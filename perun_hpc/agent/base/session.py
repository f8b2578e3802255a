"""A session: one run of one job on this node, from its start edge to its end edge, and all that was learned between.

Everything in it is plain data that goes through JSON unchanged, so that the next agent continues after a `kill -9`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from perun_hpc.config import settings as kept
from perun_hpc.data_model import codec
from perun_hpc.data_model.job import SessionKey, run_of
from perun_hpc.data_model.wording import plain
from perun_hpc.errors import DataError

#: What a `job-start` may say about a job; the rest of a message is ignored.
JOB_KEYS = (
    "uid",
    "gid",
    "user",
    "account",
    "partition",
    "node",
    "cluster",
    "nodelist",
    "num_nodes",
    "cpus_on_node",
    "cpus_per_node",
    "gpus",
    "het_job_id",
    "het_offset",
    "sluid",
    "start_time",
    "end_time",
    "exclusive",
    "flag",
)


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
class DomainAccount:
    """What a session was given of one energy domain so far; all in uJ and ns."""

    component: str
    scope: str
    provenance: str
    method: str
    node_uj: int | None = None
    energy_uj: int = 0
    static_uj: int = 0
    dynamic_uj: int = 0
    idle_uj: int = 0
    suspended_uj: int = 0
    modelled_uj: int = 0
    covered_ns: int = 0
    gap_ns: int = 0
    idle_ns: int | None = None


@dataclass
class RankRun:
    """One rank of a flagged step on this node; times are wall clock."""

    rank: int
    local_rank: int
    pid: int
    start_ns: int
    end_ns: int | None = None
    start_mono_ns: int = 0
    end_mono_ns: int | None = None
    has_data: bool = False


@dataclass
class Step:
    """A flagged step: how many tasks it has, and the ranks that registered here."""

    step_id: int
    tasks: int
    nodes: int
    command: str
    options: str
    ranks: dict[str, RankRun] = field(default_factory=dict)


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
    gaps: list[Gap] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    cpus: list[int] = field(default_factory=list)
    cpu_ns: int = 0
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
    left_out: dict[str, int] = field(default_factory=dict)
    ranks: int = 0
    text_b: int = 0
    failures: int = 0
    """How often something of this session failed by a fault of perun's own."""
    place: str = ""

    def __post_init__(self) -> None:
        self.place = self.place or self.key.name

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
        cpus = self.job.get("cpus_on_node", "")
        if _is_number(cpus):
            return int(cpus[:6])
        counts = per_node(self.job.get("cpus_per_node", ""))
        if len(set(counts)) <= 1:
            return counts[0] if counts else 0
        from perun_hpc.slurm import hostlist

        try:
            nodes = hostlist.expand(self.job.get("nodelist", ""))
        except ValueError:
            nodes = ()
        node = self.job.get("node", "")
        return counts[nodes.index(node)] if node in nodes and len(nodes) == len(counts) else min(counts)

    @property
    def flag(self) -> str | None:
        """What the job's user wrote after `--perun=` at its submission, "" for the bare flag; None without it."""
        flag = self.job.get("flag", "")
        return flag[1:] if flag.startswith("=") else None

    @property
    def exclusive(self) -> bool:
        """Whether Slurm said that the job holds its nodes alone."""
        return self.job.get("exclusive", "").lower() in ("1", "yes", "true", "node")

    @property
    def period_ns(self) -> int:
        """The storage period of its trace."""
        return kept.sampling(self.settings).period_ns

    def note(self, why: str) -> None:
        """Say why the record is partial, once."""
        if why not in self.why:
            self.why.append(why)

    def leave_out(self, what: str, count: int = 1) -> None:
        """Count what exceeds a bound and is not kept; `what` is one of few sentences, which the record shows."""
        self.left_out[what] = self.left_out.get(what, 0) + count

    def count_ranks(self) -> None:
        """Bring `ranks` and `text_b`, which are asked for with every rank, in line with `steps`."""
        self.ranks = sum(len(step.ranks) for step in self.steps.values())
        self.text_b = sum(len((step.command + step.options).encode()) for step in self.steps.values())

    def fail(self, what: str) -> None:
        """Something of it failed by a fault of perun's own: the record says so, and that it is partial."""
        self.failures += 1
        if len(self.why) < MAX_WHYS:
            self.note(f"partial: {what} failed")

    def bare(self) -> Session:
        """The session with its energies and whose it is, without what else is known of it."""
        plain_numbers = ("uid", "gid", "num_nodes", "cpus_on_node")
        names = ("user", "account", "partition", "node", "cluster", "nodelist", "sluid")
        job = {key: self.job[key] for key in names if key in self.job}
        job.update({key: self.job[key] for key in plain_numbers if _is_number(self.job.get(key, ""))})
        return replace(self, job=job, steps={}, trace={}, checks={}, exit={})

    def add_gap(self, gap: Gap) -> None:
        """Add a gap, joined to the one before it where they touch for the same reason, or the list is full."""
        for last in reversed(self.gaps):
            if last.sensor == gap.sensor:
                touches = last.to_ns >= gap.from_ns and last.why == gap.why
                if touches or len(self.gaps) >= MAX_GAPS:
                    last.to_ns = max(last.to_ns, gap.to_ns)
                    return
                break
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(gap)

    def add_share(self, day: str, domain: str, energy_uj: int) -> None:
        """Add energy to a local day."""
        per_domain = self.shares.setdefault(day, {})
        per_domain[domain] = per_domain.get(domain, 0) + energy_uj

    def to_json(self) -> dict[str, Any]:
        """As JSON values, to be written at once: its parts are the session's own, since copies cost much.

        Steps and ranks are not in it: they may be many, and have a journal of their own (`step_log`).
        """
        return {
            **vars(self),
            "key": self.key.name,
            "start": vars(self.start),
            "end": vars(self.end) if self.end else None,
            "domains": {name: vars(account) for name, account in self.domains.items()},
            "steps": {},
            "gaps": [vars(gap) for gap in self.gaps],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Session:
        """Inverse of `to_json`; DataError if it is damaged, but for a part that it can do without.

        Agents before the steps' journal had the steps in it.
        """
        try:
            known = dict(data)
            known["key"] = SessionKey.parse(known["key"])
            known["job"] = _usable(known["job"])
            known["start"] = Edge(**known["start"])
            known["end"] = Edge(**known["end"]) if known["end"] else None
            known["domains"] = {name: DomainAccount(**value) for name, value in known["domains"].items()}
            in_domains = [f"{name}'s {what}" for name, one in known["domains"].items() for what in _mend(one)]
            known["steps"] = {
                name: Step(**{**value, "ranks": {rank: RankRun(**run) for rank, run in value["ranks"].items()}})
                for name, value in known["steps"].items()
            }
            known["gaps"] = [Gap(**gap) for gap in known["gaps"]]
            session = cls(**known)
            for name in (*in_domains, *_mend(session)):
                session.note(f"partial: what was kept of its {name} is damaged")
            if run_of(session.place) != session.key.name:
                session.place = session.key.name
            return session
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"state of session {str(data.get('key'))[:40]!r} is damaged: {error}") from error


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


def per_node(text: str) -> list[int]:
    """The numbers of Slurm's `2(x3),1`, one per node, in order."""
    counts: list[int] = []
    for number, times in re.findall(r"(\d{1,6})(?:\(x(\d{1,5})\))?", text):
        counts += [int(number)] * int(times or 1)
    return counts


def job_fields(fields: Any) -> dict[str, str]:
    """The known keys of a `job-start`, bounded; DataError where it does not say whose the job is.

    A number that is none is left out: what it is good for is less than the job's energy.
    """
    job = {key: plain(fields[key], 8192) for key in JOB_KEYS if fields.get(key)}
    for key in ("uid", "gid"):
        if key in job and not _is_number(job[key]):
            raise DataError(f"{key} {job[key][:20]!r}: a number was expected")
    return _usable(job)


def _usable(job: dict[str, str]) -> dict[str, str]:
    """What is said of a job, without numbers that are none."""
    return {key: text for key, text in job.items() if key not in ("num_nodes", "cpus_on_node") or _is_number(text)}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
