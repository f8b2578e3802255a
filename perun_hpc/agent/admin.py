"""Words from an administrator: how it goes, read the policy again, let go of the GPUs, stop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping

from perun_hpc._version import __version__
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.outbox.losses import Losses
from perun_hpc.agent.sources.node import Node, resident_b
from perun_hpc.agent.tending import Sources
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import Clock
from perun_hpc.process.server import Handler, Peer, only_root
from perun_hpc.wire.message import Message


class Admin:
    """Answers them; a user may only ask how it goes, and hears of no job but the own ones."""

    def __init__(
        self,
        node: Node,
        register: Register,
        policy: PolicyKeeper,
        sources: Sources,
        losses: Losses,
        stop: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._node = node
        self._register = register
        self._policy = policy
        self._sources = sources
        self._losses = losses
        self._tell_stop = stop
        self._clock = clock
        self._started_ns = self._clock.mono_ns()

    @property
    def verbs(self) -> Mapping[str, Handler]:
        """The messages that are answered here."""
        return {
            "status": self._status,
            "reload": self._reload,
            "stop": self._stop,
            "release-gpus": self._release_gpus,
        }

    def _status(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        sessions = [session for session in self._register.live.values() if peer.uid in (0, session.uid)]
        return {
            "version": __version__,
            "uptime_ns": str(self._clock.mono_ns() - self._started_ns),
            "pid": str(os.getpid()),
            "uid": str(os.geteuid()),
            "sessions": " ".join(session.key.name for session in sessions)[:16384],
            "rss_b": str(resident_b()),
            "cpu_ns": str(self._node.spent_ns()),
            "sensors": str(len(self._node.sensors)),
            "power_pmu": self._node.power_pmu[:2048],
            "policy": (self._policy.refused or "")[:512],
            "losses": json.dumps(self._losses.visible_to(peer.uid)),
        }

    def _reload(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        only_root(peer)
        self._policy.check()
        return {}

    def _stop(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        only_root(peer)
        self._tell_stop()
        return {}

    def _release_gpus(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        only_root(peer)
        self._sources.release_gpus()
        return {}
