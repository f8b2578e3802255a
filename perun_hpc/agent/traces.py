"""The open traces of the node's jobs: begun, continued, ended, and dropped where the spool has no room."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from perun_hpc.agent import spool
from perun_hpc.agent.log import guard, log, place
from perun_hpc.agent.meter import Meter
from perun_hpc.agent.node import Node, Snapshot
from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.register import Register
from perun_hpc.agent.session import Session, SessionKey
from perun_hpc.agent.views import Views
from perun_hpc.errors import DataError

if TYPE_CHECKING:  # it needs the store, which costs time before the first edge reading, for which a prolog waits
    from perun_hpc.agent.trace import Trace

FIND_NS = 5_000_000_000
"""So long a trace waits for children that are about to say what they have."""


NEVER_NS = 1 << 62


class Traces:
    """At most one trace per live session."""

    def __init__(self, paths: AgentPaths, node: Node, register: Register, views: Views) -> None:
        self._paths = paths
        self._node = node
        self._register = register
        self._views = views
        self._open: dict[SessionKey, Trace] = {}

    @property
    def due_ns(self) -> int:
        """When the next row is due (monotonic); far away without traces."""
        return min([trace.due_ns for trace in self._open.values()], default=NEVER_NS)

    def sample(self, now_ns: int, real_ns: int, snapshot: Snapshot | None, meter: Meter) -> None:
        """Store a row in every trace that is due; whatever the number of jobs, the sensors are read once."""
        due = [(key, trace) for key, trace in self._open.items() if trace.due_ns <= now_ns]
        if not due:
            return
        ids = self._node.ids
        ticks = guard("a row", meter.sample) if snapshot is None else snapshot.ticks(ids)
        ticks = [None] * len(ids) if ticks is None else ticks  # a row of gaps: one that is not made stays due for ever
        for key, trace in due:
            try:
                pace_ns = self._pace_ns(key, trace)
                if pace_ns > trace.pace_ns:  # before the row: others came
                    trace.keep_pace(pace_ns)
                trace.add(now_ns, real_ns, ids, ticks)
                if pace_ns < trace.pace_ns:
                    trace.keep_pace(pace_ns)
            except Exception as error:  # it costs the job its trace, never its energy
                self._lose(key, place(error))

    def _pace_ns(self, key: SessionKey, trace: Trace) -> int:
        session = self._register.live.get(key)
        return trace.pace_ns if session is None else trace.pace_for(self._views.resolution_ns(session))

    def _lose(self, key: SessionKey, why: str) -> None:
        log(f"trace of {key.name}: {why}")
        del self._open[key]
        if key in self._register.live:
            self._register.live[key].trace = {"stored": False, "why": why[:200], "lost": True}

    def begin(self, session: Session, now_ns: int) -> None:
        """Open the session's trace if it shall have one by what is known; a finer one follows a coarse one."""
        key = session.key
        if not session.settings or not session.monitored or session.trace.get("lost"):
            return
        period_ns = self._views.resolution_ns(session)
        held = self._open.get(key)
        if held is not None and held.period_ns <= period_ns:
            return
        from perun_hpc.agent import trace

        if not (session.steps or trace.may_be_wanted(session.settings)):
            return
        if now_ns - session.start.mono_ns < FIND_NS and any(worker.starting for worker in self._node.workers):
            return  # their sensors are to have columns
        directory, name = self._paths.session(key.name), self._register.name_of_node(session)
        try:
            if held is not None:
                held.seal()
            self._open[key] = trace.Trace.begin(
                session, directory, self._node.sensors, name, period_ns, now_ns, time.time_ns()
            )
        except OSError as error:
            log(f"trace of {key.name}: {error}")
            session.trace = {"stored": False, "why": str(error)[:200], "lost": True}

    def resume(self, session: Session, snapshot: Snapshot) -> None:
        """Take over the trace that the last agent wrote."""
        from perun_hpc.agent.trace import Trace

        directory = self._paths.session(session.key.name)
        try:
            held = Trace.resume(directory, snapshot.mono_ns, snapshot.real_ns)
        except (OSError, DataError) as error:
            session.trace = {"stored": False, "why": str(error)[:200], "lost": True}
        else:
            if held is not None:
                self._open[session.key] = held

    def seal(self, session: Session) -> None:
        """The session has ended: keep its trace if it deserves one."""
        from perun_hpc.agent import trace
        from perun_hpc.store.layout import SHORT

        held = self._open.pop(session.key, None)
        if held is None or session.end is None:
            return
        directory = self._paths.session(session.key.name)
        if trace.wanted(session.settings, bool(session.steps), session.end.mono_ns - session.start.mono_ns):
            try:
                session.trace = held.seal()
            except OSError as error:
                session.trace = {"stored": False, "why": str(error)[:200]}
                held.discard(directory)
        else:
            session.trace = {"stored": False, "why": SHORT}
            held.discard(directory)

    def drop_oldest(self, excess_b: int, why: str) -> None:
        """Drop traces of running jobs, the longest running first, until that much is free."""
        live = self._register.live
        for key in sorted((key for key in self._open if key in live), key=lambda one: live[one].start.mono_ns):
            if excess_b <= 0:
                break
            directory = self._paths.session(key.name)
            excess_b -= spool.size_b(directory)
            self._open.pop(key).discard(directory)
            live[key].trace = {"stored": False, "why": why, "lost": True}
            log(f"trace of {key.name}: {why}")

    def pause(self) -> None:
        """Let go of all: the next agent continues them."""
        for key, trace in self._open.items():
            guard(f"trace of {key.name}", trace.pause)
