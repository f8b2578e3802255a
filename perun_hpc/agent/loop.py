"""The agent's one loop: waits for messages until something is due, then does what is due."""

from __future__ import annotations

import select
import selectors
import signal
import socket
from collections.abc import Callable
from functools import partial

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Gap
from perun_hpc.agent.jobs.intake import Intake
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.losses import NOT_READ, NOT_WRITTEN, Losses
from perun_hpc.agent.outbox.progress import Progress
from perun_hpc.agent.outbox.sealing import Sealing
from perun_hpc.agent.outbox.shipping import Shipper
from perun_hpc.agent.policy import limits
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.policy.compiled import PolicyKeeper
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.agent.survival import Survival
from perun_hpc.agent.tending import Sources
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard, log
from perun_hpc.process.server import Server

SECOND_NS = 1_000_000_000
HOUSEKEEPING_NS = SECOND_NS
QUOTA_NS = 10 * SECOND_NS
REMEMBER_NS = 86_400 * SECOND_NS
"""Ended sessions are remembered this long, so that a hook's message that comes twice changes nothing."""


class Wake:
    """Signals as something to select on: those that ask to stop, and SIGCHLD, which only wakes the loop."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self.stop = False
        self._read, self._write = socket.socketpair()
        for end in (self._read, self._write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        selector.register(self._read, selectors.EVENT_READ, self._drain)

    def ask_to_stop(self) -> None:
        """End the loop after this turn."""
        self.stop = True

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop = True

    def _drain(self) -> None:
        try:
            while self._read.recv(4096):
                pass
        except BlockingIOError:
            pass


class Loop:
    """Calls the agent's parts, each when it is due; keeps no data of theirs."""

    def __init__(
        self,
        paths: AgentPaths,
        selector: selectors.EpollSelector,
        wake: Wake,
        server: Server,
        root_helper: RootHelper,
        policy: PolicyKeeper,
        applier: PolicyApplier,
        register: Register,
        sources: Sources,
        meter: Meter,
        visibility: Visibility,
        traces: Traces,
        jobs: Jobs,
        steps: Steps,
        intake: Intake,
        sealing: Sealing,
        survival: Survival,
        losses: Losses,
        shipper: Shipper,
        later: list[Callable[[], None]],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._paths = paths
        self._selector = selector
        self._anything = (selector.fileno(),)
        self._wake = wake
        self._server = server
        self._root_helper = root_helper
        self._policy = policy
        self._applier = applier
        self._register = register
        self._sources = sources
        self._meter = meter
        self._visibility = visibility
        self._traces = traces
        self._jobs = jobs
        self._steps = steps
        self._intake = intake
        self._sealing = sealing
        self._survival = survival
        self._losses = losses
        self._later = later
        self._progress = Progress(paths, register, visibility, sealing.so_far)
        self._shipper = shipper
        self._started_ns = self._idle_since_ns = self._quota_ns = self._clock.mono_ns()
        self._housekeeping_ns = self._started_ns + HOUSEKEEPING_NS

    def run(self) -> None:
        """Serve until stopped, or until nothing was to do for the linger time."""
        while not self._finished():
            ready = self._wait()
            self._server.turn()
            self._steps.turn()
            for key, _ in ready:
                guard("a descriptor that is ready", key.data)
            work = self._later[:]
            self._later.clear()
            for one in work:
                guard("work after a message", one)
            self._tick()
        self._close()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Make rows until a message comes, or until anything but a row is due.

        Between two rows of a fast trace this is all that runs. select(2) is exact, while epoll counts whole
        milliseconds.
        """
        until_ns = 0 if self._intake.busy else min(self._meter.schedule.due_mono_ns, self._housekeeping_ns)
        while True:
            due_ns = min(until_ns, self._traces.due_ns)
            left_ns = due_ns - self._clock.mono_ns()
            ready, _, _ = select.select(self._anything, (), (), left_ns / SECOND_NS if left_ns > 0 else 0)
            if ready:
                return self._selector.select(0)
            if due_ns == until_ns:
                return []
            self._sample(self._clock.mono_ns(), self._clock.real_ns(), None)

    def _tick(self) -> None:
        """Each part that is due; one that fails costs the others nothing."""
        now_ns, real_ns = self._clock.mono_ns(), self._clock.real_ns()
        keeping = now_ns >= self._housekeeping_ns
        ended = self._meter.is_due(now_ns, real_ns) or (keeping and guard("changes", self._meter.sees_change))
        snapshot = guard("an interval", self._meter.end_interval) if ended else None
        if snapshot is not None:
            guard("what users see", partial(self._visibility.show_all, snapshot))
            guard("losses", partial(self._sources.note_losses, snapshot, self._losses))
            if guard("progress", partial(self._progress.note, snapshot)):
                self._shipper.request(now_ns)
        self._sample(now_ns, real_ns, snapshot)
        if ended:
            guard("state", self._survival.save)
        guard("what ranks handed over", self._intake.step)
        if guard("policy", self._policy.poll):
            guard("policy", self._applier.apply)
            guard("sensors", self._sources.choose)
        if self._policy.settled and self._sealing.is_due(now_ns):
            guard("sealing", self._seal)
        guard("shipping", partial(self._shipper.poll, now_ns))
        if self._shipper.is_due(now_ns) and self._policy.settled:
            guard("shipping", partial(self._ship, now_ns))
        if keeping:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._keep_house(now_ns)

    def _sample(self, now_ns: int, real_ns: int, snapshot: Snapshot | None) -> None:
        guard("traces", partial(self._traces.sample, now_ns, real_ns, snapshot, self._meter))

    def _keep_house(self, now_ns: int) -> None:
        guard("policy", self._policy.check)
        guard("socket", self._server.sweep)
        guard("inbox", self._jobs.read_inbox)
        guard("root's child", self._check_root_helper)
        guard("neighbours", self._jobs.look_for_strangers)
        guard("sensors", partial(self._sources.tend, now_ns))
        for session in list(self._register.live.values()):
            guard("its CPUs", partial(self._jobs.learn_cpus, session, now_ns), session)
            guard("its trace", partial(self._traces.begin, session, now_ns), session)
            guard("its end", partial(self._jobs.give_up_lost, session, now_ns), session)
        self._jobs.set_aside()
        guard("memory", self._check_memory)
        if now_ns >= self._quota_ns and self._policy.settled:
            self._quota_ns = now_ns + QUOTA_NS
            guard("quota", self._keep_quota)
            guard("log", lambda: spool.bound_log(self._paths.log))
            self._register.forget_before(now_ns - REMEMBER_NS)

    def _check_root_helper(self) -> None:
        self._root_helper.check()
        self._losses.follow(NOT_READ, {"the inbox": self._root_helper.trouble} if self._root_helper.trouble else {})

    def _keep_quota(self) -> None:
        """Drop the oldest traces, those of running jobs last, while the spool is above its quota."""
        excess_b = spool.size_b(self._paths.spool) - self._policy.site().store.spool_quota_b
        if excess_b <= 0:
            return
        from perun_hpc.agent.traces import quota

        if not self._shipper.busy:
            dropped, freed_b = quota.drop_waiting(self._paths, excess_b)
            excess_b -= freed_b
            for name in dropped:
                log(f"trace of {name}: {quota.WHY}")
        self._traces.drop_oldest(excess_b, quota.WHY)

    def _check_memory(self) -> None:
        """End, rather than disturb a job, when the memory cap is exceeded; the next hook starts a fresh agent."""
        if not self._policy.settled:
            return
        agent = self._policy.site().agent
        if limits.near_memory(agent) and self._steps.shed():
            return
        held_b = limits.over_memory(agent)
        if held_b is not None and not self._wake.stop:
            why = f"the agent exceeded its memory cap with {held_b} bytes and ended"
            log(why)
            for session in self._register.live.values():
                session.add_gap(Gap("agent", self._started_ns, self._clock.mono_ns(), why))
            self._wake.ask_to_stop()

    def _seal(self) -> None:
        if self._sealing.seal_all():
            self._survival.save()
            self._shipper.request(self._clock.mono_ns())
        refused = {f"job {key.name}": why for key, why in self._sealing.refused.items()}
        uids = {f"job {one.key.name}": one.uid for one in self._register.ended}
        self._losses.follow(NOT_WRITTEN, refused, uids)

    def _ship(self, now_ns: int) -> None:
        site = self._policy.site()
        self._shipper.start(site.store, self._register.home, limits.left_b(site.agent), now_ns)

    def _finished(self) -> bool:
        if self._wake.stop:
            return True
        if self._register.live or self._register.ended or self._shipper.busy or not self._policy.settled:
            self._idle_since_ns = self._clock.mono_ns()
            return False
        agent = self._policy.site().agent
        return not agent.resident and self._clock.mono_ns() - self._idle_since_ns > agent.linger_ns

    def _close(self) -> None:
        """A closing reading, so that the next agent can bridge the time in between."""
        guard("an interval", self._meter.end_interval)
        guard("traces", self._traces.pause)
        guard("what ranks handed over", self._intake.drain)
        if self._policy.settled:
            guard("sealing", self._seal)
        guard("state", self._survival.save)
        if self._policy.settled:
            site = self._policy.site()
            left_b = limits.left_b(site.agent)
            guard("shipping", partial(self._shipper.leave, site.store, self._register.home, left_b))
        self._server.close()
        self._root_helper.close()
        self._sources.close()
