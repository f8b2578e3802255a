"""What the agent may take of its node: memory, and places on the spool's disk."""

from __future__ import annotations

from collections.abc import Callable

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Gap
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.outbox.outbox import Outbox
from perun_hpc.agent.policy import limits
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard, log

SECOND_NS = 1_000_000_000
QUOTA_NS = 10 * SECOND_NS
REMEMBER_NS = 86_400 * SECOND_NS
"""Ended sessions are remembered this long, so that a hook's message that comes twice changes nothing."""


class Bounds:
    """Holds the agent to what the policy allows, once the policy is known; `stop` ends the agent after this turn."""

    def __init__(
        self,
        paths: AgentPaths,
        register: Register,
        policy: PolicyKeeper,
        steps: Steps,
        traces: Traces,
        outbox: Outbox,
        stop: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._paths = paths
        self._register = register
        self._policy = policy
        self._steps = steps
        self._traces = traces
        self._outbox = outbox
        self._stop = stop
        self._clock = clock
        self._started_ns = self._quota_ns = clock.mono_ns()

    def keep(self, mono_ns: int) -> None:
        """Look once more; the spool's size every ten seconds."""
        if not self._policy.settled:
            return
        guard("memory", self._check_memory)
        if mono_ns >= self._quota_ns:
            self._quota_ns = mono_ns + QUOTA_NS
            guard("quota", self._keep_quota)
            guard("log", lambda: spool.bound_log(self._paths.log))
            self._register.forget_before(mono_ns - REMEMBER_NS)

    def _keep_quota(self) -> None:
        """Drop the oldest traces, those of running jobs last, while the spool is above its quota."""
        excess_b = spool.size_b(self._paths.spool) - self._policy.site().store.spool_quota_b
        if excess_b <= 0:
            return
        from perun_hpc.agent.traces import quota

        if not self._outbox.busy:
            dropped, freed_b = quota.drop_waiting(self._paths, excess_b)
            excess_b -= freed_b
            for name in dropped:
                log(f"trace of {name}: {quota.WHY}")
        self._traces.drop_oldest(excess_b, quota.WHY)

    def _check_memory(self) -> None:
        """End, rather than disturb a job, when the memory cap is exceeded; the next hook starts a fresh agent."""
        agent = self._policy.site().agent
        if not limits.near_memory(agent) or self._steps.shed():
            return
        held_b = limits.over_memory(agent)
        if held_b is not None:
            why = f"the agent exceeded its memory cap with {held_b} bytes and ended"
            log(why)
            for session in self._register.live.values():
                session.add_gap(Gap("agent", self._started_ns, self._clock.mono_ns(), why))
            self._stop()
