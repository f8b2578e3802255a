"""Flagged steps: ranks that begin, hand over what they know, ask for their job's energy, and end."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Mapping

from perun_hpc.agent import ranks
from perun_hpc.agent.log import guard
from perun_hpc.agent.meter import Meter
from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.register import Register
from perun_hpc.agent.ruling import Ruling
from perun_hpc.agent.server import Handler, Peer
from perun_hpc.agent.session import RankRun, Session, SessionKey, Step
from perun_hpc.agent.traces import Traces
from perun_hpc.agent.views import Views
from perun_hpc.errors import DataError, NotFoundError, PerunError
from perun_hpc.wire.message import Message

FRESH_NS = 10_000_000
"""A reading that is younger answers a question for the energy as of now."""


class Steps:
    """Serves the ranks of live sessions: watches their processes, and keeps what they hand over."""

    def __init__(
        self,
        paths: AgentPaths,
        selector: selectors.BaseSelector,
        most_watched: int,
        register: Register,
        meter: Meter,
        views: Views,
        traces: Traces,
        ruling: Ruling,
        save: Callable[[], None],
        later: list[Callable[[], None]],
    ) -> None:
        """`later` takes work that waits until the message has its answer."""
        self._paths = paths
        self._selector = selector
        self._most_watched = most_watched
        self._register = register
        self._meter = meter
        self._views = views
        self._traces = traces
        self._ruling = ruling
        self._save = save
        self._later = later
        self._watched: set[int] = set()
        self._live_data: dict[tuple[SessionKey, int, int], int] = {}

    @property
    def verbs(self) -> Mapping[str, Handler]:
        """The messages that are answered here."""
        return {"rank-start": self._rank_start, "rank-data": self._rank_data, "window": self._window}

    def end_all(self, session: Session) -> None:
        """The session has ended, and with it its ranks."""
        for step in session.steps.values():
            for run in step.ranks.values():
                self._end(session, step, run)

    def resume(self, session: Session) -> None:
        """Watch the ranks that the last agent watched; those that went meanwhile have ended."""
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
        now_ns, real_ns = time.monotonic_ns(), time.time_ns()
        first = not any(run.end_ns is None for step in session.steps.values() for run in step.ranks.values())
        if len(self._watched) >= self._most_watched:
            raise DataError(f"more than {self._most_watched} ranks live on this node: this one is not kept")
        pidfd = os.pidfd_open(peer.pid)
        try:
            step, run = ranks.register(session, message.fields, peer.pid, now_ns, real_ns)
        except PerunError:
            os.close(pidfd)
            raise
        self._watch(session, step, run, pidfd)
        if first:
            self._edge(session)
            self._views.curve_of_shared(session)
            self._later += [lambda: self._flagged(session, step.options), self._save]
        reply = {
            "period_ms": str(session.period_ns // 1_000_000),
            "resolution_ms": str(self._views.resolution_ns(session) // 1_000_000),
            "owner_hint": "1" if run.local_rank == 0 else "0",
        }
        if step.options and run.rank == 0:
            refused = self._ruling.refused_options(session, step.options)
            reply.update({"note": "; ".join(refused)[:240]} if refused else {})
        return reply

    def _rank_data(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        session = self._session_of(message, peer)
        run = ranks.find(session, message.fields, peer.pid)
        if len(fds) != 1:
            raise DataError("rank data comes with one memory file")
        ranks.check_memory(fds[0])
        where = (session.key, ranks.number(message.fields, "step_id"), run.rank)
        former = self._live_data.pop(where, None)
        if former is not None:
            os.close(former)
        if message.fields.get("live") == "1":
            self._live_data[where] = os.dup(fds[0])
        else:
            self._keep(session, where[1], where[2], fds[0])
        run.has_data = True
        return {}

    def _window(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        """The job's energy so far: as of now where it is alone, else what may be seen on a shared node."""
        session = self._session_of(message, peer)
        if self._register.alone(session):
            last = self._meter.last
            if last is None or time.monotonic_ns() - last.mono_ns > FRESH_NS:
                last = self._meter.end_interval()
            self._views.show(session, last.mono_ns)
        mono_ns, energy_uj = self._views.shown(session)
        return {"energy_uj": str(energy_uj), "mono_ns": str(mono_ns)}

    # What follows.

    def _flagged(self, session: Session, options: str) -> None:
        """The job has a flagged step: its options count, and it always leaves a trace."""
        self._ruling.flag(session, options)
        self._traces.begin(session, time.monotonic_ns())

    def _edge(self, session: Session) -> None:
        """A reading where the first rank begins or the last one ends, for the curve of a job that is alone."""
        if self._register.alone(session):
            self._meter.glance()

    def _watch(self, session: Session, step: Step, run: RankRun, pidfd: int) -> None:
        """See the rank's end, however it comes."""

        def on_end() -> None:
            self._selector.unregister(pidfd)
            self._watched.discard(pidfd)
            os.close(pidfd)
            if session.key in self._register.live and run.end_ns is None:
                everyone = [one for step in session.steps.values() for one in step.ranks.values()]
                if not any(one.end_ns is None and one is not run for one in everyone):
                    self._edge(session)
                self._end(session, step, run)

        self._selector.register(pidfd, selectors.EVENT_READ, on_end)
        self._watched.add(pidfd)

    def _end(self, session: Session, step: Step, run: RankRun) -> None:
        if run.end_ns is None:
            run.end_ns, run.end_mono_ns = time.time_ns(), time.monotonic_ns()
        fd = self._live_data.pop((session.key, step.step_id, run.rank), None)
        if fd is not None:
            guard("rank data", lambda: self._keep(session, step.step_id, run.rank, fd))
            os.close(fd)

    def _keep(self, session: Session, step_id: int, rank: int, fd: int) -> None:
        ranks.keep(self._paths.session(session.key.name), step_id, rank, ranks.content(fd))
