"""Flagged steps: ranks that begin, hand over what they know, ask for their job's energy, and end."""

from __future__ import annotations

import json
import os
import selectors
from collections import Counter
from collections.abc import Callable, Mapping

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.agent.jobs import ranks
from perun_hpc.agent.jobs.intake import Intake
from perun_hpc.agent.jobs.step_log import StepLog
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.data_model.job import SessionKey
from perun_hpc.errors import DataError, NotFoundError, PerunError
from perun_hpc.process.clock import Clock
from perun_hpc.process.server import Handler, Peer
from perun_hpc.wire.message import Message

FRESH_NS = 10_000_000
"""A reading that is younger answers a question for the energy as of now."""
TURN_NS = 20_000_000
"""Work for ranks that have ended, in one turn of the loop."""
MANY_RANKS = 64
"""A session with fewer ranks is never the one whose extras go where the agent nears its memory cap."""
SHED = "ranks left out: the agent neared its memory cap"


class Steps:
    """Serves the ranks of live sessions: watches their processes, and keeps what they hand over."""

    def __init__(
        self,
        paths: AgentPaths,
        selector: selectors.BaseSelector,
        most_watched: int,
        register: Register,
        meter: Meter,
        visibility: Visibility,
        traces: Traces,
        applier: PolicyApplier,
        step_log: StepLog,
        intake: Intake,
        save: Callable[[], None],
        later: list[Callable[[], None]],
        clock: Clock,
    ) -> None:
        """`most_watched` ranks may live at a time, not all of them one user's.

        `later` takes work that waits until the message has its answer.
        """
        self._paths = paths
        self._selector = selector
        self._most_watched = most_watched
        self._register = register
        self._meter = meter
        self._visibility = visibility
        self._traces = traces
        self._applier = applier
        self._save = save
        self._later = later
        self._clock = clock
        self._step_log = step_log
        self._intake = intake
        self._watched: Counter[int] = Counter()
        self._living: Counter[str] = Counter()  # by the session's place
        self._turn_until_ns = 0

    @property
    def verbs(self) -> Mapping[str, Handler]:
        """The messages that are answered here."""
        return {"rank-start": self._rank_start, "rank-data": self._rank_data, "window": self._window}

    def turn(self) -> None:
        """A new turn of the loop begins."""
        self._turn_until_ns = self._clock.mono_ns() + TURN_NS

    def end_all(self, session: Session) -> None:
        """The session has ended, and with it its ranks."""
        for step in session.steps.values():
            for run in step.ranks.values():
                self._end(session, step, run)

    def shed(self) -> bool:
        """Let go of what the largest session knows of its ranks, for want of memory; False where none is large.

        Its energies stay, and its record says so.
        """
        largest = max(self._register.live.values(), key=lambda session: session.ranks, default=None)
        if largest is None or largest.ranks < MANY_RANKS:
            return False
        self._intake.drop(largest)
        largest.shed_ranks(SHED)
        self._step_log.rewrite(largest)
        return True

    def resume(self, session: Session) -> None:
        """Watch the ranks that the last agent watched; those that went meanwhile have ended."""
        self._intake.resume(session)
        for step in session.steps.values():
            for run in step.ranks.values():
                if run.end_ns is not None:
                    continue
                try:
                    pidfd = os.pidfd_open(run.pid)
                except OSError:
                    self._end(session, step, run)
                else:
                    self._watch(session, step, run, pidfd)

    # Messages.

    def _session_of(self, message: Message, peer: Peer) -> Session:
        session = self._register.live.get(SessionKey.of(message.fields))
        if session is None:
            raise NotFoundError("no such job on this node")
        ranks.check_member(self._paths.root, peer, session)
        return session

    def _rank_start(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        session = self._session_of(message, peer)
        now_ns, real_ns = self._clock.mono_ns(), self._clock.real_ns()
        first = not self._living[session.place]
        self._check_room(session)
        pidfd = os.pidfd_open(peer.pid)
        try:
            step, run = ranks.register(session, message.fields, peer.pid, now_ns, real_ns)
        except PerunError:
            os.close(pidfd)
            raise
        if why := ranks.from_outside(message.fields):
            session.assume(why)
        self._step_log.note(session, step, run)
        self._watch(session, step, run, pidfd)
        if first:
            self._edge(session)
            self._visibility.curve_of_shared(session)
            self._later += [lambda: self._flagged(session, step.options), self._save]
        reply = {
            "period_ms": str(session.period_ns // 1_000_000),
            "resolution_ms": str(self._visibility.resolution_ns(session) // 1_000_000),
            "owner_hint": "1" if run.local_rank == 0 else "0",
        }
        if step.options and run.rank == 0:
            refused = self._applier.refused_options(session, step.options)
            reply.update({"note": "; ".join(refused)[:240]} if refused else {})
        return reply

    def _rank_data(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        session = self._session_of(message, peer)
        run = ranks.find(session, message.fields, peer.pid)
        if len(fds) != 1:
            raise DataError("rank data comes with one memory file")
        ranks.check_memory(fds[0])
        step = session.steps[str(ranks.number(message.fields, "step_id"))]
        keep = self._intake.hold if message.fields.get("live") == "1" else self._intake.take
        keep(session, step.step_id, run.rank, fds[0])
        run.hand_over()
        self._step_log.note(session, step, run)
        return {}

    def _window(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        """The job's energy so far: as of now where it is alone, else what may be seen on a shared node."""
        session = self._session_of(message, peer)
        if self._register.alone(session):
            last = self._meter.last
            if last is None or self._clock.mono_ns() - last.mono_ns > FRESH_NS:
                last = self._meter.end_interval()
            self._visibility.show(session, last.mono_ns)
        mono_ns, energy_uj = self._visibility.shown(session)
        resolution_ms = self._visibility.resolution_ns(session) // 1_000_000
        gpus = self._meter.gpu_use.now(session)
        return {
            **{"energy_uj": str(energy_uj), "mono_ns": str(mono_ns), "resolution_ms": str(resolution_ms)},
            **({"gpus": json.dumps(gpus, separators=(",", ":"))} if gpus else {}),
        }

    # What follows.

    def _check_room(self, session: Session) -> None:
        """Refuse a rank where its user, or all users together, have as many as the agent keeps or watches."""
        uid, most = session.uid, self._most_watched
        own = ranks.of_one_user(most)
        if SHED in session.left_out:
            session.leave_out(SHED)
            raise DataError("the agent has no memory left for this job's ranks: this one is not kept")
        if self._watched.total() >= most or self._watched[uid] >= own:
            session.leave_out(f"ranks left out: a node watches {most} at a time, and {own} of one user")
            raise DataError(f"{self._watched[uid]} ranks of yours live on this node: this one is not kept")
        if sum(one.ranks for one in self._register.live.values() if one.uid == uid) >= ranks.MAX_USER_RANKS:
            session.leave_out(ranks.RANKS_LEFT_OUT)
            raise DataError(f"more than {ranks.MAX_USER_RANKS} ranks of yours on one node: this one is not kept")

    def _flagged(self, session: Session, options: str) -> None:
        """The job has a flagged step: its options count, and it always leaves a trace."""
        self._applier.flag(session, options)
        self._traces.begin(session, self._clock.mono_ns())

    def _edge(self, session: Session) -> None:
        """A reading where the first rank begins or the last one ends, for the curve of a job that is alone."""
        if self._register.alone(session):
            self._meter.read_without_closing()

    def _watch(self, session: Session, step: Step, run: RankRun, pidfd: int) -> None:
        """See the rank's end, however it comes."""

        def on_end() -> None:
            if self._clock.mono_ns() > self._turn_until_ns:
                return  # thousands may end at once: the rest in the next turn, when hooks were served
            self._selector.unregister(pidfd)
            self._watched[session.uid] -= 1
            self._living[session.place] -= 1
            last = not self._living[session.place]
            if last:
                del self._living[session.place]
            os.close(pidfd)
            if self._register.live.get(session.key) is session and run.end_ns is None:
                if last:
                    self._edge(session)
                self._end(session, step, run)

        self._selector.register(pidfd, selectors.EVENT_READ, on_end)
        self._watched[session.uid] += 1
        self._living[session.place] += 1

    def _end(self, session: Session, step: Step, run: RankRun) -> None:
        if run.end_ns is None:
            run.finish(self._clock.real_ns(), self._clock.mono_ns())
            self._step_log.note(session, step, run)
        self._intake.rank_ended(session, step.step_id, run.rank)
