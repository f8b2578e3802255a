"""The agent's one loop: waits for messages until something is due, then does what is due."""

from __future__ import annotations

import select
import selectors
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.bounds import Bounds
from perun_hpc.agent.jobs.intake import Intake
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.jobs.steps import Steps
from perun_hpc.agent.late import late
from perun_hpc.agent.looks import Looks
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.outbox.losses import NOT_READ
from perun_hpc.agent.outbox.outbox import Outbox
from perun_hpc.agent.policy.applier import PolicyApplier
from perun_hpc.agent.slurm_figures import SlurmFigures
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.agent.survival import Survival
from perun_hpc.agent.tending import Sources
from perun_hpc.agent.textfile import Textfile
from perun_hpc.agent.traces.open_traces import Traces
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard, guard_each
from perun_hpc.process.server import Server
from perun_hpc.process.whole import make_whole

SECOND_NS = 1_000_000_000


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


class Serving(NamedTuple):
    """Who speaks to the agent, and the kernel; `later` holds work that a message left for after its answer."""

    selector: selectors.EpollSelector
    wake: Wake
    server: Server
    root_helper: RootHelper
    later: list[Callable[[], None]]
    looks: Looks


class Rules(NamedTuple):
    """What the site's policy says, and who follows it."""

    policy: PolicyKeeper
    applier: PolicyApplier
    bounds: Bounds


class Measuring(NamedTuple):
    """From readings to what users see."""

    sources: Sources
    meter: Meter
    visibility: Visibility
    traces: Traces
    textfile: Textfile
    slurm_figures: SlurmFigures


class Work(NamedTuple):
    """The node's jobs, and what survives the agent."""

    register: Register
    jobs: Jobs
    steps: Steps
    intake: Intake
    survival: Survival


class Loop:
    """Calls the agent's parts, each when it is due; keeps no data of theirs."""

    def __init__(
        self, serving: Serving, rules: Rules, measuring: Measuring, work: Work, outbox: Outbox, clock: Clock
    ) -> None:
        self._selector, self._wake, self._server, self._root_helper, self._later, self._looks = serving
        self._policy, self._applier, self._bounds = rules
        self._sources, self._meter, self._visibility, self._traces, self._textfile, self._slurm_figures = measuring
        self._register, self._jobs, self._steps, self._intake, self._survival = work
        self._outbox = outbox
        self._clock = clock
        self._anything = (self._selector.fileno(),)
        self._whole = False
        self._idle_since_ns = clock.mono_ns()
        if self._looks.fd is not None:
            self._selector.register(self._looks.fd, selectors.EVENT_READ, self._looks.hear)

    def run(self) -> None:
        """Serve until stopped, or until nothing was to do for the linger time."""
        while not self._finished():
            ready = self._wait()
            self._server.turn()
            self._steps.turn()
            for key, _ in ready:
                guard("serving a connection", key.data)
            if ready:
                self._looks.heed()
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
        until_ns = 0 if self._intake.busy else min(self._meter.schedule.due_mono_ns, self._looks.glance_ns)
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
        keeping, glancing = now_ns >= self._looks.due_ns, now_ns >= self._looks.glance_ns
        ended = self._meter.is_due(now_ns, real_ns) or (glancing and guard("changes", self._meter.sees_change))
        snapshot = guard("an interval", self._meter.end_interval) if ended else None
        if snapshot is not None:
            moment = bool(guard("the node's moments", partial(self._is_moment, snapshot)))
            guard("showing energy to users", partial(self._visibility.show_all, snapshot))
            guard("sharing energy out among steps", self._meter.share_shown)
            guard("losses", partial(self._sources.note_losses, snapshot, self._outbox.losses))
            self._outbox.note(snapshot, now_ns)
            guard("figures for monitoring", partial(self._textfile.note, snapshot, moment))
            guard("figures for Slurm", partial(self._slurm_figures.note, snapshot, moment))
        self._sample(now_ns, real_ns, snapshot)
        if ended:
            guard("state", self._survival.save)
        guard("copying ranks' data", self._intake.step)
        if guard("policy", self._policy.poll):
            self._whole = False  # it may ask for more
            guard("policy", self._applier.apply)
            guard("sensors", self._sources.choose)
        self._outbox.turn(now_ns)
        if keeping:
            self._keep_house(now_ns)
            self._looks.done()
        elif glancing:
            self._looks.glanced()

    def _is_moment(self, snapshot: Snapshot) -> bool:
        """Whether what jobs share may be seen now; never before the policy says how finely."""
        if not self._policy.settled:
            return False
        return self._visibility.moments.take(snapshot.mono_ns, self._policy.site().privacy.shared_resolution_ns)

    def _sample(self, now_ns: int, real_ns: int, snapshot: Snapshot | None) -> None:
        guard("traces", partial(self._traces.sample, now_ns, real_ns, snapshot, self._meter))

    def _keep_house(self, now_ns: int) -> None:
        if not self._whole:
            self._whole = True
            guard("policy", lambda: make_whole(late(self._policy.site().store)))
        guard("policy", self._policy.check)
        guard("socket", self._server.sweep)
        guard("inbox", self._jobs.read_inbox)
        guard("the root helper", self._check_root_helper)
        guard("neighbours", self._jobs.look_for_strangers)
        guard("sensors", partial(self._sources.tend, now_ns))
        guard("steps", self._meter.steps.keep)
        live = list(self._register.live.values())
        guard_each("its CPUs", lambda one: self._jobs.learn_cpus(one, now_ns), live)
        guard_each("its trace", lambda one: self._traces.begin(one, now_ns), live)
        guard_each("its end", lambda one: self._jobs.give_up_lost(one, now_ns), live)
        guard("figures for Slurm", self._slurm_figures.turn)
        self._jobs.set_aside()
        self._bounds.keep(now_ns)

    def _check_root_helper(self) -> None:
        self._root_helper.check()
        self._outbox.losses.follow(
            NOT_READ, {"the inbox": self._root_helper.trouble} if self._root_helper.trouble else {}
        )

    def _finished(self) -> bool:
        if self._wake.stop:
            return True
        if self._register.live or self._register.ended or self._outbox.busy or not self._policy.settled:
            self._idle_since_ns = self._clock.mono_ns()
            return False
        agent = self._policy.site().agent
        return not agent.resident and self._clock.mono_ns() - self._idle_since_ns > agent.linger_ns

    def _close(self) -> None:
        """A closing reading, so that the next agent can bridge the time in between."""
        guard("an interval", self._meter.end_interval)
        guard("traces", self._traces.pause)
        guard("copying ranks' data", self._intake.drain)
        self._outbox.seal()
        guard("state", partial(self._survival.save, whole=True))
        self._outbox.leave()
        self._textfile.close()
        guard("figures for Slurm", self._slurm_figures.close)
        self._server.close()
        self._root_helper.close()
        self._sources.close()
