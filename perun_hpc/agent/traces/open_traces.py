"""The open traces of the node's jobs: begun, continued, ended, and dropped where the spool has no space."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources.node import Node, Snapshot
from perun_hpc.config.settings import trace_may_be_wanted, trace_wanted
from perun_hpc.energy.schedule import NEVER_NS
from perun_hpc.errors import DataError
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import failures, guard, log, place

if TYPE_CHECKING:  # it needs the store, which costs time before the first edge reading, for which a prolog waits
    from perun_hpc.agent.traces.fast_trace import FastTrace
    from perun_hpc.agent.traces.trace import Trace

ROWS = "rows.left"
"""The file in a session's directory where `perun-sample` puts rows that are not close."""
FIND_NS = 5_000_000_000
"""So long a trace waits for children that are about to say what they have."""
LOOK_NS = 1_000_000_000
"""How often it is looked whether `perun-sample` could make rows that the agent makes."""
AGAIN_NS = 60_000_000_000
"""So long after `perun-sample` ended by itself, or did not begin, the agent makes a job's rows."""


class Traces:
    """At most one trace per live session."""

    def __init__(self, paths: AgentPaths, node: Node, register: Register, visibility: Visibility, clock: Clock) -> None:
        self._paths = paths
        self._node = node
        self._register = register
        self._visibility = visibility
        self._clock = clock
        self._open: dict[str, tuple[Session, Trace]] = {}  # by the session's place
        self._row_ns: int | None = None
        """No trace has a row before that moment (monotonic); None: it has to be looked."""
        self._fast: FastTrace | None = None
        self._fast_of, self._fast_again_ns = "", 0

    @property
    def due_ns(self) -> int:
        """When the next row is due (monotonic); far away without traces."""
        if self._row_ns is None:
            due = [trace.due_ns for session, trace in self._open.values() if self._lives(session)]
            self._row_ns = min(due, default=NEVER_NS)
        return self._row_ns if self._fast is None else min(self._row_ns, self._fast.due_ns)

    def sample(self, now_ns: int, real_ns: int, snapshot: Snapshot | None, meter: Meter) -> None:
        """Store a row in every trace that is due; whatever the number of jobs, the sensors are read once."""
        if self._fast is not None:
            self._turn(self._fast, now_ns, ended=snapshot is not None)
        if self._row_ns is not None and now_ns < self._row_ns:
            return
        self._row_ns = None
        due = [one for one in self._open.values() if one[1].due_ns <= now_ns and self._lives(one[0])]
        if not due:
            return
        ids = self._node.ids
        ticks = guard("a row", meter.sample) if snapshot is None else snapshot.ticks(ids)
        ticks = [None] * len(ids) if ticks is None else ticks  # a row of gaps: one that is not made stays due for ever
        for session, trace in due:
            try:
                pace_ns = self._pace_ns(session, trace)
                if pace_ns > trace.pace_ns:  # before the row: others came
                    trace.keep_pace(pace_ns)
                trace.add(now_ns, real_ns, ids, ticks)
                if pace_ns < trace.pace_ns:
                    trace.keep_pace(pace_ns)
            except Exception as error:  # it costs the job its trace, never its energy
                self._lose(session, place(error))
        session, trace = due[0]
        if session.place in self._open:
            self._become_fast(session, trace, now_ns, meter)

    # The one whose rows `perun-sample` makes.

    def _become_fast(self, session: Session, trace: Trace, now_ns: int, meter: Meter) -> None:
        """Leave a living session's next rows to `perun-sample`, where they are close and it can make them."""
        if session.place != self._fast_of:  # another job tries anew
            self._fast_of, self._fast_again_ns = session.place, 0
        if len(self._open) > 1 or now_ns < self._fast_again_ns:
            return
        from perun_hpc.agent.traces.fast_trace import FastTrace

        if not FastTrace.can(self._node, meter, trace) or self._pace_ns(session, trace) != trace.pace_ns:
            self._fast_again_ns = now_ns + LOOK_NS
            return
        try:
            file = self._paths.session(session.place) / ROWS
            self._fast = FastTrace(self._node, meter, session, trace, now_ns, file)
        except OSError as error:
            failures.say(f"perun-sample: {error}: the agent makes rows itself")
            self._fast_again_ns = now_ns + AGAIN_NS

    def _turn(self, fast: FastTrace, now_ns: int, ended: bool) -> None:
        """Take rows if it is time, as when an interval has `ended`; let go of them where others came, or sensors."""
        session, (_, trace) = fast.session, self._open[fast.session.place]
        try:
            if not self._lives(session):
                self._stop_fast(session, self._end_ns(session))
                return
            if self._pace_ns(session, trace) != trace.pace_ns:
                self._stop_fast(session, min(self._starts_of_others(session), default=None))
                return
            fast.still(now_ns)
            if not fast.knows_all or fast.is_full:
                self._stop_fast(session, NEVER_NS)
            elif ended or fast.soon_ns <= now_ns or fast.has_ended:
                fast.turn(now_ns)
        except EOFError:
            log(f"perun-sample has ended: the rows of job {session.key.name} that it had are missing")
            self._fast_again_ns = now_ns + AGAIN_NS
            guard("rows", partial(self._stop_fast, session))
        except Exception as error:  # it costs the job its trace, never its energy
            self._lose(session, place(error))

    def _stop_fast(self, session: Session, until_ns: int | None = None) -> None:
        """The trace has rows up to that moment (None: while its user may see them so fine), and goes on by itself."""
        fast = self._fast
        if fast is not None and fast.session is session:
            self._fast = self._row_ns = None
            fast.stop(until_ns)

    def _end_ns(self, session: Session) -> int:
        """Up to when an ended session was alone."""
        end = session.end or session.start
        return min([end.mono_ns, *self._starts_of_others(session)])

    def _starts_of_others(self, session: Session) -> list[int]:
        return [one.start.mono_ns for one in self._register.live.values() if one is not session]

    def _pace_ns(self, session: Session, trace: Trace) -> int:
        return trace.pace_for(self._visibility.resolution_ns(session)) if self._lives(session) else trace.pace_ns

    def _lives(self, session: Session) -> bool:
        return self._register.live.get(session.key) is session

    def _lose(self, session: Session, why: str) -> None:
        log(f"trace of {session.key.name}: {why}")
        guard("rows", partial(self._stop_fast, session, 0))
        del self._open[session.place]
        if self._lives(session):
            session.lose_trace(why, for_good=True)

    def begin(self, session: Session, now_ns: int) -> None:
        """Open the session's trace if it shall have one by what is known; a finer one follows a coarse one."""
        if not session.settings or not session.monitored or session.trace.get("lost"):
            return
        period_ns = self._visibility.resolution_ns(session)
        _, held = self._open.get(session.place, (session, None))
        if held is not None and held.period_ns <= period_ns:
            return
        from perun_hpc.agent.traces import trace

        if not (session.steps or trace_may_be_wanted(session.settings)):
            return
        if now_ns - session.start.mono_ns < FIND_NS and any(worker.starting for worker in self._node.workers):
            return  # their sensors are to have columns
        directory, name = self._paths.session(session.place), self._register.name_of_node(session)
        try:
            if held is not None:
                self._stop_fast(session, NEVER_NS)
                held.seal()
            mono_ns, real_ns = self._clock.mono_ns(), self._clock.real_ns()  # the import may have taken a second
            begun = trace.Trace.begin(session, directory, self._node.sensors, name, period_ns, mono_ns, real_ns)
            self._open[session.place], self._row_ns = (session, begun), None
        except OSError as error:
            log(f"trace of {session.key.name}: {error}")
            session.lose_trace(str(error), for_good=True)

    def resume(self, session: Session, snapshot: Snapshot) -> None:
        """Take over the trace that the last agent wrote."""
        from perun_hpc.agent.traces.trace import Trace

        directory = self._paths.session(session.place)
        try:
            held = Trace.resume(directory, snapshot.mono_ns, snapshot.real_ns)
        except (OSError, DataError) as error:
            session.lose_trace(str(error), for_good=True)
        else:
            if held is not None:
                self._open[session.place], self._row_ns = (session, held), None
                guard("rows", partial(held.take_left, directory / ROWS))

    def seal(self, session: Session) -> None:
        """The session has ended: keep its trace if it deserves one."""
        from perun_hpc.store.layout import SHORT

        guard("rows", partial(self._stop_fast, session, self._end_ns(session)))
        _, held = self._open.pop(session.place, (session, None))
        if held is None or session.end is None:
            return
        directory = self._paths.session(session.place)
        if trace_wanted(session.settings, bool(session.steps), session.end.mono_ns - session.start.mono_ns):
            try:
                session.keep_trace(held.seal())
            except OSError as error:
                session.lose_trace(str(error), for_good=False)
                held.discard(directory)
        else:
            session.lose_trace(SHORT, for_good=False)
            held.discard(directory)

    def drop_oldest(self, excess_b: int, why: str) -> None:
        """Drop traces of running jobs, the longest running first, until that much is free."""
        living = [one for one in self._open.values() if self._lives(one[0])]
        for session, trace in sorted(living, key=lambda one: one[0].start.mono_ns):
            if excess_b <= 0:
                break
            directory = self._paths.session(session.place)
            excess_b -= spool.size_b(directory)
            guard("rows", partial(self._stop_fast, session, 0))
            del self._open[session.place]
            trace.discard(directory)
            session.lose_trace(why, for_good=True)
            log(f"trace of {session.key.name}: {why}")

    def pause(self) -> None:
        """Let go of all: the next agent continues them."""
        for session, trace in self._open.values():
            alone = self._pace_ns(session, trace) == trace.pace_ns
            guard("rows", partial(self._stop_fast, session, NEVER_NS if alone else None))
            guard(f"trace of {session.key.name}", trace.pause)
