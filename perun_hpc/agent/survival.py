"""What survives a kill: the state is saved at every interval, and the next agent goes on from it."""

from __future__ import annotations

import time
from functools import partial

from perun_hpc.agent import state
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Gap
from perun_hpc.agent.jobs.step_log import StepLog
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.jobs.use_log import UseLog
from perun_hpc.agent.measure import booking
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.agent.state_log import StateLog
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.process.log import guard


class Survival:
    """Saves and restores what register, meter, node ledger and the journals of steps hold."""

    def __init__(
        self,
        paths: AgentPaths,
        boot_id: str,
        register: Register,
        meter: Meter,
        ledger: NodeLedger,
        step_log: StepLog,
        use_log: UseLog,
    ) -> None:
        self._paths = paths
        self._log = StateLog(paths.state)
        self._saved: Snapshot | None = None
        """The last reading that was saved: since then no session was given anything."""
        self._boot_id = boot_id
        self._register = register
        self._meter = meter
        self._ledger = ledger
        self._step_log = step_log
        self._use_log = use_log

    def save(self, whole: bool = False) -> None:
        """Bring the state file up to what is known now; `whole`: so that an older agent can read it."""
        last = self._meter.to_go_on_from()
        if last is None:
            return
        self._step_log.flush()
        self._use_log.flush(self._meter.steps.take_changed(), last.mono_ns)
        self._ledger.flush()
        now = state.NodeState(
            boot_id=self._boot_id,
            last=last,
            uses=self._meter.uses,
            parent_cpu_ns=self._meter.parent_cpu_ns,
            ledger=self._ledger.position,
            sessions=(*self._register.live.values(), *self._register.ended),
            done=self._register.done,
            unheard=tuple(self._register.unheard),
            static=self._meter.learning.to_json(),
            home=self._register.home,
            inside=self._meter.inside,
            gauges=self._meter.gauges.left,
            spent_ns=self._meter.spent_ns(),
        )
        counters = [sensor.id for sensor in self._meter.sensors]
        guard("state", lambda: state.save(self._log, now, counters, self._meter.last is not self._saved, whole))
        self._saved = self._meter.last

    def resume(self, traces: Traces, steps: Steps) -> None:
        """Continue where the last agent of this node stopped, or begin."""
        former = guard("state", lambda: state.load(self._paths))
        if former is None:
            self._meter.end_interval()
            return
        guard("restoring static power", lambda: self._meter.learning.restore(former.static))
        self._meter.parametrise()
        self._take_over(former, traces, steps)

    def _take_over(self, former: state.NodeState, traces: Traces, steps: Steps) -> None:
        register = self._register
        same_boot = bool(self._boot_id) and former.boot_id == self._boot_id
        register.done = dict(former.done) if same_boot else dict.fromkeys(former.done, 0)
        register.unheard = set(former.unheard)
        register.home = former.home
        self._ledger.position = former.ledger
        for session in former.sessions:
            guard("steps", lambda session=session: self._step_log.load(session))  # type: ignore[misc]
            guard("what steps used", partial(self._use_log.load, session, former.last.mono_ns))
            if session.end is not None:
                register.ended.append(session)
            elif same_boot:
                register.live[session.key] = session
            else:
                session.note("the node was restarted")
                end = Edge(former.last.real_ns, former.last.mono_ns, 0, "restart")
                edges = booking.take_edge(former.last.readings, self._meter.sensors)
                session.cut_off(end, edges, former.spent_ns)
                register.done[session.key.name] = 0
                register.unheard.add(session.key.name)
                register.ended.append(session)
        if not same_boot:
            self._meter.end_interval()
            return
        self._meter.gauges.go_on_from(former.gauges)
        going_on = partial(self._meter.continue_from, former.last, former.uses, former.parent_cpu_ns, former.inside)
        snapshot = guard("going on from the last readings", going_on) or self._meter.end_interval()
        guard("steps", self._meter.steps.keep)
        for session in list(register.live.values()):
            # The counters went on; only who used the CPUs meanwhile is known less well.
            gap = Gap("agent", former.last.mono_ns, snapshot.mono_ns, "the agent was restarted")
            session.resume(gap, former.spent_ns, time.process_time_ns())
            guard("resuming its trace", partial(traces.resume, session, snapshot), session)
            guard("resuming its ranks", partial(steps.resume, session), session)
