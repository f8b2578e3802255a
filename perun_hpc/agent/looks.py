"""How often the agent looks after things: what the kernel tells of need not be looked for."""

from __future__ import annotations

import contextlib

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.outbox.outbox import Outbox
from perun_hpc.agent.slurm_figures import SlurmFigures
from perun_hpc.agent.sources.cpu_settings import EVERY_NS
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.tending import Sources
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import log
from perun_hpc.process.server import Server
from perun_hpc.process.watching import Signs

OFTEN_NS = 1_000_000_000
SELDOM_NS = 10_000_000_000
GLANCE_NS = EVERY_NS
"""How often it is seen how CPUs are set, which the kernel does not tell, where all else is looked after seldom."""
LEAST_NS = 100_000_000
"""So far apart are looks at the least, however often the kernel tells of something."""


def signs(paths: AgentPaths) -> Signs | None:
    """With the inbox under watch, which only root may do; None where the kernel does not tell."""
    try:
        found = Signs()
    except (OSError, AttributeError) as error:
        log(f"things are looked after each second, since the kernel tells of no changes: {error}")
        return None
    found.keep((paths.inbox,))
    return found


class Looks:
    """When the next look is due: within a second where somebody has to look, else as the kernel tells, or seldom."""

    def __init__(
        self,
        signs: Signs | None,
        paths: AgentPaths,
        node: Node,
        policy: PolicyKeeper,
        register: Register,
        jobs: Jobs,
        meter: Meter,
        sources: Sources,
        outbox: Outbox,
        server: Server,
        slurm_figures: SlurmFigures,
        clock: Clock,
    ) -> None:
        self._signs = signs
        self._inbox = paths.inbox
        self._node = node
        self._policy = policy
        self._register = register
        self._jobs = jobs
        self._meter = meter
        self._sources = sources
        self._outbox = outbox
        self._server = server
        self._slurm_figures = slurm_figures
        self._clock = clock
        self._last_ns = clock.mono_ns()
        self.due_ns = self.glance_ns = self._next_ns(OFTEN_NS)
        """When the next one is due (monotonic), and when that is of changes in an open interval alone."""

    @property
    def fd(self) -> int | None:
        """Readable when the kernel has something to tell."""
        return None if self._signs is None else self._signs.fd

    def hear(self) -> None:
        """The kernel tells of something: look at once."""
        if self._signs is not None and self._signs.clear():
            self.due_ns = min(self.due_ns, max(self._clock.mono_ns(), self._last_ns + LEAST_NS))
            self.glance_ns = min(self.glance_ns, self.due_ns)

    def heed(self) -> None:
        """Somebody came, or a child ended: look within a second."""
        self.due_ns = min(self.due_ns, self._next_ns(OFTEN_NS))
        self.glance_ns = min(self.glance_ns, self.due_ns)

    def done(self) -> None:
        """Things were looked after."""
        self._last_ns = self._clock.mono_ns()
        self.due_ns = self._next_ns(SELDOM_NS if self._all_is_said() else OFTEN_NS)
        self.glanced()

    def glanced(self) -> None:
        """It was seen whether something changed in the open interval."""
        self.glance_ns = min(self.due_ns, self._next_ns(GLANCE_NS))

    def _all_is_said(self) -> bool:
        """Whether the kernel tells of all that may happen until the next interval's end."""
        parts = (self._jobs, self._meter.steps, self._sources, self._slurm_figures)
        if self._server.busy or self._outbox.waits or any(one.want_looks for one in parts):
            return False
        signs = None if self._signs is None else self._node.signs(self._register.live.values())
        if self._signs is None or signs is None or not self._policy.settled:
            return False
        places = {self._inbox, self._policy.source.parent, *signs}
        with contextlib.suppress(OSError):  # no link
            places.add((self._policy.source.parent / self._policy.source.readlink()).parent)
        if not self._signs.keep(places):
            return False
        return bool(self._register.live) or self._policy.site().agent.resident  # else it may end now

    def _next_ns(self, every_ns: int) -> int:
        """So much later, or when intervals and most rows are due as well, so that all wake up once."""
        now_ns = self._clock.mono_ns()
        apart_ns = (self._meter.schedule.due_mono_ns - now_ns) % every_ns
        return now_ns + apart_ns + (every_ns if apart_ns < every_ns // 2 else 0)
