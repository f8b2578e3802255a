"""Energies of all steps of jobs: CPU times of their cgroups, and their parts of what their job was given.

A job's energy is shared out among its steps whenever its user may see it (`Visibility`): at every interval's end where
the job is alone, else at the moments of the shared node. Until then CPU times are collected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.measure.learning import Figure
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.sources.step_watch import Heard, StepWatch
from perun_hpc.backend.cgroup import JobCgroup
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.step_id import BATCH, EXTERN, FURTHER, INTERACTIVE
from perun_hpc.energy.regions import RECTANGLE
from perun_hpc.energy.steps import JobPart, StepPart, share
from perun_hpc.energy.uncertainty import static_error
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard

MAX_STEPS = 256
"""Steps of a job that a record lists: those of lower numbers, so that all nodes list the same ones; the others are one
sum."""
MOST_LIVE = 512
"""Steps of a job that are followed at a time."""
MOST_READ = 64
"""CPU times of steps that are read when one begins or ends; all are read when an interval ends."""
LOOK_NS, LOOKS = 50_000_000, 64
"""In the long run a job's steps are looked at so often, however many begin and end, and so many times more at once."""
STEPS_DID = 0.8
"""The part of all work that is the steps' where nothing else is taken to have worked while none was there."""
DEPTH = 4
"""Directories that Slurm makes in each other for a job, at most."""
TOO_MANY = f"steps are in no step's energy: a node follows {MOST_LIVE} of a job at a time"


class Allowance:
    """How often something may be done for each job: once in `every_ns` in the long run, `burst` times at once."""

    def __init__(self, every_ns: int, burst: int) -> None:
        self._every_ns = every_ns
        self._most_ns = every_ns * burst
        self._full_ns: dict[SessionKey, int] = {}  # when each has all its times again

    def take(self, key: SessionKey, mono_ns: int) -> bool:
        """Do it once; False where it was done too often."""
        full_ns = max(mono_ns, self._full_ns.get(key, mono_ns)) + self._every_ns
        if full_ns - mono_ns > self._most_ns:
            return False
        self._full_ns[key] = full_ns
        return True

    def forget(self, key: SessionKey) -> None:
        """The job has ended."""
        self._full_ns.pop(key, None)


class StepMeter:
    """Looks at the steps of live sessions, and shares their energy out."""

    def __init__(self, node: Node, register: Register, watch: StepWatch, clock: Clock) -> None:
        self._node = node
        self._register = register
        self._watch = watch
        self._clock = clock
        self._looked_ns: dict[SessionKey, int] = {}
        self._looks = Allowance(LOOK_NS, LOOKS)
        self._behind: set[SessionKey] = set()
        self._changed: dict[SessionKey, Session] = {}

    def take_changed(self) -> Collection[Session]:
        """Sessions whose steps have changed since it was asked last."""
        changed, self._changed = self._changed, {}
        return changed.values()

    # What the kernel tells.

    @property
    def fd(self) -> int | None:
        """Readable when the kernel has something to tell of steps; None where it tells nothing."""
        return self._watch.fd

    def hear(self) -> list[Session]:
        """Take what the kernel tells; the sessions whose steps began or ended."""
        changed, others = self._watch.hear()
        live = self._register.live
        if others:
            changed |= self._find()
        return [live[key] for key in changed if key in live]

    def meet(self, session: Session) -> None:
        """A job has begun: look for its directory, and at its steps."""
        self._find()
        self.look(session, MOST_READ)

    def keep(self) -> None:
        """About once a second: jobs that have got their cgroups, steps of which nothing was heard, and those that may
        end together: what they used since they were read last could not be split then.
        """
        live = self._register.live
        if self._watch.follow(live.values()) or self._watch.fd is None:  # else the kernel tells of a job's directory
            self._find()
        for session in live.values():
            if self._wants_looks(session):
                self.look(session, MOST_READ)

    @property
    def want_looks(self) -> bool:
        """Whether there is something to do each second."""
        return any(map(self._wants_looks, self._register.live.values()))

    def _wants_looks(self, session: Session) -> bool:
        return (
            not self._watch.hears_of(session)
            or session.key not in self._looked_ns
            or session.key in self._behind
            or sum(use.end_ns is None and use.name.isdigit() for use in session.uses.values()) > 1
        )

    def _find(self) -> set[SessionKey]:
        """Look for the directories of jobs that have none yet; returns those that have one now."""
        live = self._register.live
        bare = [session for session in live.values() if session.key not in self._node.cgroups]
        for _ in range(DEPTH):
            for session in bare:
                if session.key not in self._node.cgroups:
                    guard("its cgroup", partial(self._node.use, session), session)
            if not self._watch.follow(live.values()):
                break
        return {session.key for session in bare if session.key in self._node.cgroups}

    def glance(self, session: Session) -> None:
        """Look at a session's steps, unless that was done too often lately: then within a second."""
        if self._looks.take(session.key, self._clock.mono_ns()):
            self.look(session, MOST_READ)
        else:
            self._behind.add(session.key)

    def look(self, session: Session, most: int = MOST_LIVE) -> None:
        """See which steps of a session are there, and read the CPU times of so many."""
        guard("its steps", partial(self._look, session, most), session)

    def _look(self, session: Session, most: int) -> None:
        group = self._node.cgroups.get(session.key)
        if group is None:
            return
        self._changed[session.key] = session
        self._behind.discard(session.key)
        mono_ns, real_ns = self._clock.mono_ns(), self._clock.real_ns()
        before_ns = self._looked_ns.get(session.key, session.start.mono_ns)
        heard, there = self._watch.heard(session), group.steps()
        job_ns = group.cpu_ns()
        for name in dict.fromkeys((*heard, *there)):
            if name not in session.uses and (name in there or heard[name].made is not None):
                self._begin(session, group, name, heard.get(name, Heard()), before_ns, mono_ns, real_ns)
        for use in session.uses.values():
            if use.name in there:
                use.go_on()
            elif use.end_mono_ns is None and use.name != FURTHER:
                said = heard.get(use.name, Heard())
                if said.just_made:
                    self._behind.add(session.key)
                    continue
                gone = said.gone
                use.finish(*((gone.real_ns, gone.mono_ns) if gone is not None else (real_ns, mono_ns)))
        read_ns = 0
        living = [use for use in session.uses.values() if use.end_mono_ns is None and use.name != FURTHER]
        for use in living[:most]:
            if use.held is None:
                use.hold(_count(group.step_cpus(use.name), session))
            cpu_ns = group.step_cpu_ns(use.name)
            if cpu_ns is not None:
                read_ns += use.read(cpu_ns)
        self._looked_ns[session.key] = mono_ns
        more_ns = session.follow_steps(job_ns)
        if more_ns is not None and len(living) <= most:
            settle(session, more_ns - read_ns, before_ns)

    def _begin(
        self, session: Session, group: JobCgroup, name: str, heard: Heard, before_ns: int, mono_ns: int, real_ns: int
    ) -> None:
        if sum(use.end_mono_ns is None for use in session.uses.values()) >= MOST_LIVE:
            session.leave_out(TOO_MANY)
            return
        made = heard.made
        if made is None:
            made_ns = group.step_made_ns(name) or real_ns
            at_ns = min(mono_ns, max(before_ns, session.start.mono_ns, mono_ns - (real_ns - made_ns)))
            session.add_use(StepUse(name, real_ns - (mono_ns - at_ns), at_ns))
        else:
            session.add_use(StepUse(name, made.real_ns, made.mono_ns))

    # Sharing out.

    def share_out(self, session: Session, static: Mapping[str, Figure], mono_ns: int) -> None:
        """Give the steps their parts of what the session was given since the last time."""
        if session.uses:
            self._changed[session.key] = session
        guard("sharing its energy out among its steps", partial(share_out, session, static, mono_ns), session)

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._looked_ns.pop(session.key, None)
        self._changed.pop(session.key, None)
        self._looks.forget(session.key)
        self._behind.discard(session.key)


def _count(cpus: Collection[int] | None, session: Session) -> int | None:
    """How many CPUs a step holds; None where its cpuset says nothing."""
    return len(cpus) if cpus is not None and session.cpus and set(cpus) <= set(session.cpus) else None


def settle(session: Session, rest_ns: int, before_ns: int) -> None:
    """Give the steps that ended since `before_ns` the CPU time that no living one used: one has all of it, of several
    each has some. The extern step, in which Slurm's own sleeper is alone as a rule, has it where nobody else ended.
    """
    ended = [use for use in session.uses.values() if not use.settled]
    for use in [use for use in ended if use.name == EXTERN] if len(ended) > 1 else ():
        use.settled = True
        use.work(0)
        ended.remove(use)
    alive = [max(1, use.alive_ns(before_ns, use.end_mono_ns or before_ns)) for use in ended]
    rest_ns = max(0, rest_ns)
    for use, ns in zip(ended, alive, strict=True):
        use.settled = True
        own_ns = rest_ns * ns // sum(alive)
        # It may be anything from nothing to all of it: a rectangle, seen from what is taken.
        unsure_ns = math.hypot(rest_ns / RECTANGLE, rest_ns / 2 - own_ns) if len(ended) > 1 else 0
        use.work(own_ns, round(unsure_ns))


def share_out(session: Session, static: Mapping[str, Figure], mono_ns: int) -> None:
    """Give a session's steps their parts of what it was given since the last time; CPU times are read by now."""
    before, now = session.shared_out, totals(session)
    at_ns = before.get("mono_ns", session.start.mono_ns)
    uses = [use for use in session.uses.values() if use.name != FURTHER and use.is_in(at_ns, mono_ns)]
    cpu_ns = now["cpu_ns"] - before.get("cpu_ns", 0)
    if any(not use.settled for use in uses):  # the job's own cgroup went with them: what is left of its time is theirs
        settle(session, cpu_ns - sum(use.fresh_ns for use in uses), at_ns)
    session.keep_shared_out({**now, "mono_ns": mono_ns})
    if not session.domains or not uses:
        return
    since = {name: uj - before.get(name, 0) for name, uj in now.items()}
    work_ns = max(cpu_ns, since["work_ns"])
    job = JobPart(
        static_uj=since["static_uj"],
        dynamic_uj=since["dynamic_uj"],
        gpu_uj=since["gpu_uj"],
        static_doubt_uj=_static_doubt_uj(
            session, static, since, _working(session.exclusive, uses, at_ns, mono_ns, work_ns)
        ),
        duration_ns=mono_ns - at_ns,
        work_ns=work_ns,
        cpus=max(1, len(session.cpus) or session.cpus_on_node),
    )
    parts = [
        StepPart(
            alive_ns=use.alive_ns(at_ns, mono_ns),
            held=use.held,
            cpu_ns=None if use.cpu_ns is None else use.fresh_ns,
            unsure_ns=use.fresh_unsure_ns,
            last=use.name in (BATCH, INTERACTIVE),
            idle=use.name == EXTERN,
        )
        for use in uses
    ]
    of_uj = max(0, job.static_uj) + max(0, job.dynamic_uj) + max(0, job.gpu_uj)
    for use, one in zip(uses, share(job, parts), strict=True):
        use.give(one.energy_uj, one.own_uj, one.others_uj, one.static_uj, of_uj)
    for use in session.uses.values():
        use.close(mono_ns)
    session.fold_steps(MAX_STEPS)


def totals(session: Session) -> dict[str, int]:
    """What a session was given so far, as steps are given their parts of it."""
    found = dict.fromkeys(("static_uj", "dynamic_uj", "gpu_uj"), 0)
    for account in session.domains.values():
        if account.component == "gpu":
            found["gpu_uj"] += account.energy_uj
        else:
            found["static_uj"] += account.static_uj
            found["dynamic_uj"] += account.dynamic_uj
    return {**found, "cpu_ns": session.cpu_ns, "work_ns": session.work_ns}


def _working(alone: bool, uses: Sequence[StepUse], from_ns: int, until_ns: int, work_ns: int) -> float:
    """The part of a time in which steps may have worked: each while it was there, and for no longer than its CPU time;
    all of it where more was done than theirs, or others may have been there."""
    if not alone or until_ns <= from_ns or sum(use.fresh_ns for use in uses) < STEPS_DID * work_ns:
        return 1.0
    return min(1.0, sum(min(use.alive_ns(from_ns, until_ns), use.fresh_ns) for use in uses) / (until_ns - from_ns))


def _static_doubt_uj(session: Session, static: Mapping[str, Figure], since: Mapping[str, int], working: float) -> int:
    """What the static part may be wrong by: by the worst of the figures that it rests on, as a whole."""
    own = [static[name].source for name, one in session.domains.items() if one.static_uj and name in static]
    return round(max((static_error(one, working) for one in own), default=0.0) * max(0, since["static_uj"]))
