"""What is to leave the node: sealed, shipped, and what failed of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.outbox.keeping import Keeping
from perun_hpc.agent.outbox.losses import NOT_WRITTEN, Losses
from perun_hpc.agent.outbox.progress import Progress
from perun_hpc.agent.outbox.sealing import Sealing
from perun_hpc.agent.outbox.shipping import Shipper
from perun_hpc.agent.policy import limits
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import guard


class Outbox:
    """Seals what has ended and ships what is sealed, each when it is due, once the policy is known.

    `save` keeps the agent's state: called when a session has become a record, before anything else is done with it.
    """

    def __init__(
        self,
        register: Register,
        policy: PolicyKeeper,
        sealing: Sealing,
        progress: Progress,
        keeping: Keeping,
        shipper: Shipper,
        losses: Losses,
        save: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._register = register
        self._policy = policy
        self._sealing = sealing
        self._progress = progress
        self._keeping = keeping
        self._shipper = shipper
        self._save = save
        self._clock = clock
        self.losses = losses

    @property
    def busy(self) -> bool:
        """Whether something is being shipped, or waits for that."""
        return self._shipper.busy

    @property
    def waits(self) -> bool:
        """Whether something is to leave, now or later."""
        return bool(self._register.ended) or self._shipper.waits

    def note(self, snapshot: Snapshot, mono_ns: int) -> None:
        """An interval has ended: what running jobs used so far may be due, and what the node has learnt."""
        due = guard("progress", partial(self._progress.note, snapshot))
        if guard("what was learnt", self._keeping.note) or due:
            self._shipper.request(mono_ns)

    def turn(self, mono_ns: int) -> None:
        """Do what is due."""
        if self._sealing.is_due(mono_ns):
            self.seal()
        if guard("shipping", partial(self._shipper.poll, mono_ns)):
            guard("what was learnt", self._keeping.take)
        if self._shipper.is_due(mono_ns) and self._policy.settled:
            guard("shipping", partial(self._ship, mono_ns))

    def seal(self) -> None:
        """Seal what has ended, due or not."""
        if self._policy.settled:
            guard("sealing", self._seal)

    def leave(self) -> None:
        """The agent ends: a child ships what waits, on its own."""
        guard("what was learnt", self._keeping.write)
        if self._policy.settled:
            site = self._policy.site()
            left_b = limits.left_b(site.agent)
            guard("shipping", partial(self._shipper.leave, site.store, self._register.home, left_b))

    def _seal(self) -> None:
        if self._sealing.seal_all():
            self._save()
            self._shipper.request(self._clock.mono_ns())
        refused = {f"job {key.name}": why for key, why in self._sealing.refused.items()}
        uids = {f"job {one.key.name}": one.uid for one in self._register.ended}
        self.losses.follow(NOT_WRITTEN, refused, uids)

    def _ship(self, mono_ns: int) -> None:
        site = self._policy.site()
        self._shipper.start(site.store, self._register.home, limits.left_b(site.agent), mono_ns)
