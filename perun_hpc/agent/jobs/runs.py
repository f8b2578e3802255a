"""Jobs that begin and end: what the hooks say, at once or through the inbox, and jobs whose end nobody reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from perun_hpc.agent.base.job_facts import exit_fields, job_fields
from perun_hpc.agent.base.paths import AgentPaths, free_name
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import LATE_NS, MAX_FAILURES, Edge, Gap, Session
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.meter import INTERVAL_NS, Meter
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.sources.node import NO_USE, Node, Snapshot
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.errors import PerunError
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard, log
from perun_hpc.process.server import Handler, Peer, only_root
from perun_hpc.wire.message import Message, decode

MOST_TRIES = 3
"""A message of the inbox with which the agent fails so often is given up."""
SEARCH_NS = 60_000_000_000
"""So long a job's cgroup is looked for every second; most steps begin within."""
LOST_NS = 600_000_000_000
"""A session whose cgroup is gone is given up after this time: its Epilog may take that long."""
REPLACED_NS = 30_000_000_000
"""And after this time where Slurm gave its CPUs to others: then its Epilog is over, without a message (kill switch)."""
UNSEEN_NS = 86_400_000_000_000
"""A job that never had a cgroup may be an allocation without a step: it is waited for longer, not for ever."""


class Jobs:
    """Opens and closes sessions, each at a reading of its own."""

    def __init__(
        self,
        paths: AgentPaths,
        boot_id: str,
        node: Node,
        register: Register,
        meter: Meter,
        visibility: Visibility,
        steps: Steps,
        policy: PolicyKeeper,
        applier: PolicyApplier,
        root_helper: RootHelper,
        save: Callable[[], None],
        later: list[Callable[[], None]],
        clock: Clock,
    ) -> None:
        """`later` takes work that waits until the hook has its answer."""
        self._paths = paths
        self._boot_id = boot_id
        self._node = node
        self._register = register
        self._meter = meter
        self._visibility = visibility
        self._steps = steps
        self._policy = policy
        self._applier = applier
        self._root_helper = root_helper
        self._save = save
        self._later = later
        self._clock = clock
        self._gone_ns: dict[SessionKey, int] = {}
        self._tries: dict[str, int] = {}

    @property
    def verbs(self) -> Mapping[str, Handler]:
        """The messages that are answered here."""
        return {"job-start": self._job_start, "job-end": self._job_end}

    def read_inbox(self) -> None:
        """Take the messages that hooks left, in the order in which the hooks ran."""
        if not self._root_helper.changed() and not self._tries:
            return
        messages = self._root_helper.messages()
        ends = {name.split("-")[3]: name for name, _ in messages if re.match(r"\d+-job-end-\d+-", name)}
        for name, packet in messages:
            tries = self._tries.pop(name, 0) + 1
            if guard(f"inbox: {name}", partial(self._take, name, packet, ends)) or tries >= MOST_TRIES:
                self._root_helper.drop(name)
            else:
                self._tries[name] = tries
        self._register.over.clear()

    def _take(self, name: str, packet: bytes, ends: Mapping[str, str]) -> bool:
        """Act on a message of the inbox; True when it is done with, or is none."""
        try:
            message = decode(packet)
            if message.verb == "job-start":
                # A job whose end waits here, too, is over: nothing of what is read meanwhile is its.
                key = SessionKey.of(message.fields)
                if ends.get(str(key.job_id), "") > name and key not in self._register.live:
                    self._register.over.add(key)
                self._begin(message, "inbox")
            elif message.verb == "job-end":
                self._finish(message, "inbox")
        except PerunError as error:
            log(f"inbox: {name}: {error}")
        return True

    def set_aside(self) -> None:
        """End sessions of which something fails again and again: they leave what they have, and hold up nobody."""
        for session in [one for one in self._register.live.values() if one.failures >= MAX_FAILURES]:
            session.note(f"set aside after {session.failures} failures: the agent's log names them")
            log(f"session {session.key.name} is set aside: {'; '.join(session.why)[:1000]}")
            guard("setting it aside", partial(self._set_aside, session))
            if self._register.live.pop(session.key, None) is not None:
                ended = session.give_up(self._node.spent_ns())
                self._register.done[session.key.name] = ended.mono_ns
                self._register.unheard.add(session.key.name)
                self._register.ended.append(session)
                self._visibility.forget(session)
                guard("closing its cgroup", partial(self._meter.forget, session), session)

    def _set_aside(self, session: Session) -> None:
        now_ns = self._clock.mono_ns()
        self._end(session, self._end_interval(session.key), now_ns, "restart")

    def learn_cpus(self, session: Session, now_ns: int) -> None:
        """About once a second: its cgroup comes after its prolog, grows, and goes before its epilog.

        A job without a cgroup is looked for at every interval's end, too: later on that is often enough.
        """
        if _is_young(session, now_ns):
            self._meter.run_on(session, self._node.use(session).cpus)

    @property
    def want_looks(self) -> bool:
        """Whether there is something to do each second: for young jobs, those without a cgroup, failed messages."""
        now_ns = self._clock.mono_ns()
        return bool(self._tries) or any(
            _is_young(one, now_ns) or self._meter.uses.get(one.key, NO_USE).cpu_ns is None
            for one in reversed(self._register.live.values())  # the youngest first
        )

    def look_for_strangers(self) -> None:
        """About once a second: jobs that no hook reported, or whose session is over, are neighbours all the same."""
        live = self._register.live
        found = bool(live) and self._node.strangers(live.values())
        if found != self._register.strangers:
            self._meter.end_interval()  # what a curve shows of the time before is by how it was then
            self._register.strangers = found

    def give_up_lost(self, session: Session, now_ns: int) -> None:
        """End a session whose job has no cgroup any more, if no hook reports its end.

        A job that no agent saw start may have been over by then; any other one may still get its first cgroup, within
        a day. A job whose CPUs are others' by now does not come back.
        """
        if self._meter.uses.get(session.key, NO_USE).cpu_ns is not None:
            self._gone_ns.pop(session.key, None)
            return
        gone_ns = now_ns - self._gone_ns.setdefault(session.key, now_ns)
        if gone_ns > patience_ns(session, self._register.replaced(session)):
            del self._gone_ns[session.key]
            session.note("no job-end message")
            self._end(session, self._end_interval(session.key), now_ns, "restart")

    # Messages.

    def _job_start(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        only_root(peer)
        self._begin(message, "hook")
        return {}

    def _job_end(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        only_root(peer)
        self._finish(message, "hook")
        return {}

    def _begin(self, message: Message, source: str) -> None:
        key = SessionKey.of(message.fields)
        hook_ns = _number(message, "hook_mono_ns", self._clock.mono_ns())
        job = job_fields(message.fields)
        former = self._register.run_before(key, job.get("sluid"), hook_ns)
        if (key in self._register.live and former is None) or self._register.done.get(key.name, -1) >= hook_ns:
            return
        snapshot = self._meter.end_interval(whole=()) if former is None else self._end_interval(former.key)
        if former is not None:
            former.note("no job-end message")
            self._end(former, snapshot, snapshot.mono_ns, "restart")
        session = Session(
            key=key,
            job=job,
            settings={},
            policy_hash="",
            boot_id=self._boot_id,
            start=Edge(snapshot.real_ns, snapshot.mono_ns, max(0, snapshot.mono_ns - hook_ns), source),
            edges_start=booking.take_edge(snapshot.readings, self._meter.sensors),
            agent_cpu_ns=-self._node.spent_ns(),
            place=self._new_place(key),
        )
        if session.start.late_ns > LATE_NS:
            session.add_gap(Gap("agent", hook_ns, snapshot.mono_ns, "the agent had not heard of the job yet"))
        self._register.home = (job.get("cluster", ""), self._register.name_of_node(session))
        self._register.live[key] = session
        self._save()  # before the hook's answer: an agent that is killed now has not forgotten what it took
        self._meter.checks.begin(key.owner)
        self._later.append(lambda: guard("work after its start", partial(self._after_start, session), session))

    def _after_start(self, session: Session) -> None:
        for worker in self._node.workers:
            worker.wanted(self._clock.mono_ns())
        self._policy.check()
        self._meter.look_at(session)
        guard("spool", lambda: self._paths.session(session.place).mkdir(mode=0o750, exist_ok=True))
        if self._policy.settled:
            self._applier.apply()
        self._save()

    def _finish(self, message: Message, source: str) -> None:
        key = SessionKey.of(message.fields)
        hook_ns = _number(message, "hook_mono_ns", self._clock.mono_ns())
        # The Epilog of a requeued job already says the next run's count (22.05); a node has one run of a job at a time.
        session = self._register.live.get(key) or self._register.other_run(key)
        if session is None and self._register.ended_lately(key, hook_ns):
            return
        if session is None and self._register.late_epilog(key, hook_ns):
            self._save()
            return
        snapshot = self._end_interval(session.key if session is not None else key)
        if session is None:
            start = Edge(snapshot.real_ns, snapshot.mono_ns, 0, "epilog")
            job, place = job_fields(message.fields), self._new_place(key)
            spent_ns = self._node.spent_ns()
            session = Session(key, job, {}, "", self._boot_id, start, place=place, agent_cpu_ns=-spent_ns)
            session.note("no job-start message: does Slurm run the Prolog on every node (PrologFlags=Alloc)?")
            self._register.live[key] = session
        elif hook_ns < session.start.mono_ns - session.start.late_ns:
            return  # a late message of the run before this one
        session.tell(job_fields(message.fields), exit_fields(message.fields))
        self._end(session, snapshot, hook_ns, source)

    def _new_place(self, key: SessionKey) -> str:
        """A directory's name for a new session: that of a run before it may wait there to be shipped."""
        taken = {one.place for one in (*self._register.live.values(), *self._register.ended)}
        return free_name(self._paths.sessions, key.name, taken)

    # A session's end.

    def _end_interval(self, ends: SessionKey) -> Snapshot:
        """The reading with which a session ends; only where nobody else waits for a part that fails is it given up."""
        return self._meter.end_interval(settle=len(self._register.live) <= 1, whole=(ends,))

    def _end(self, session: Session, snapshot: Snapshot, hook_ns: int, source: str) -> None:
        key = session.key
        # A clock that was set meanwhile does not make the job longer.
        real_ns = session.start.real_ns + snapshot.mono_ns - session.start.mono_ns
        end = Edge(real_ns, snapshot.mono_ns, max(0, snapshot.mono_ns - hook_ns), source)
        session.finish(end, booking.take_edge(snapshot.readings, self._meter.sensors), self._node.spent_ns())
        self._visibility.show(session, snapshot.mono_ns)
        guard("its curve", partial(self._visibility.curve_of_shared, session), session)
        self._meter.share_last(session, snapshot.mono_ns)
        meter = self._meter
        gpus = meter.gpus_of(session)
        lacks = partial(booking.note_what_lacks, session, snapshot.readings, meter.sensors, meter.domains, gpus)
        guard("its edges", lacks, session)
        if hook_ns < session.start.mono_ns:
            why = "no agent ran" if session.start.source == "inbox" else "the agent's first came after the job's end"
            session.note(f"no reading during the job: {why}")
            if session.energy_uj == 0:
                session.take_back()
            else:  # booked as its energy before its end was known: the node ledger closes with it
                session.note("its energy is only that between its end and the moment when the agent heard of it")
        guard("ending its ranks", partial(self._steps.end_all, session), session)
        del self._register.live[key]
        self._register.over.discard(key)
        self._visibility.forget(session)
        guard("closing its cgroup", partial(self._meter.forget, session), session)
        self._register.done[key.name] = snapshot.mono_ns
        (self._register.unheard.add if source == "restart" else self._register.unheard.discard)(key.name)
        self._register.ended.append(session)
        self._save()
        self._later.append(self._policy.check)


def _is_young(session: Session, now_ns: int) -> bool:
    """Whether its cgroup may just be made, or grow."""
    age_ns = now_ns - session.start.mono_ns
    return age_ns < INTERVAL_NS or (not session.cpus and age_ns < SEARCH_NS)


def patience_ns(session: Session, replaced: bool) -> int:
    """How long a session without a cgroup waits for its end before it is given up."""
    if replaced:
        return REPLACED_NS
    seen = session.cpus or session.cpu_ns  # there is no cpuset where Slurm confines no job
    return LOST_NS if seen or session.start.source == "inbox" else UNSEEN_NS


def _number(message: Message, key: str, default: int) -> int:
    text = message.fields.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default
