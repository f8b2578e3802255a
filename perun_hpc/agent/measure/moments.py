"""The node's own moments: when anybody may see what several jobs share, the same for all that the agent shows.

No user has them in his hand: neither a job's start nor its end is one. They are as far apart as the strictest
`privacy.shared_resolution` of all jobs that were there since the last one, for what is seen then is theirs, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.config import settings
from perun_hpc.data_model.job import SessionKey


def is_moment(resolution_ns: int, shown_ns: int, before_ns: int, mono_ns: int) -> bool:
    """Whether the end of an interval of the grid is a moment at which energy may be seen.

    `shown_ns` is when it was seen last, `before_ns` the end of the grid's interval before this one (monotonic).
    """
    last_ns = max(before_ns, shown_ns)
    return mono_ns // resolution_ns != last_ns // resolution_ns and _far_enough(resolution_ns, shown_ns, mono_ns)


def _far_enough(resolution_ns: int, shown_ns: int, mono_ns: int) -> bool:
    """Readings are late by some milliseconds, now more and now less."""
    return mono_ns - shown_ns >= resolution_ns // 10 * 9


class Moments:
    """When the last moment was, and who has been there since.

    Attributes
    ----------
    strictest_ns : the coarsest `privacy.shared_resolution` of the jobs that were there since the last moment.
    """

    def __init__(self, register: Register) -> None:
        self._register = register
        self._beside: set[SessionKey] = set()
        self._heeded: dict[SessionKey, Mapping[str, Any]] = {}
        self._before_ns = self._shown_ns = 0
        self._least_ns = 0
        self.strictest_ns = 0

    def heed(self, sessions: Iterable[Session]) -> None:
        """These sessions are live: in an interval that ends, or from now on."""
        for session in sessions:
            if session.key in self._beside and self._heeded.get(session.key) is session.settings:
                continue  # of most jobs at most edges there is nothing new
            self._heeded[session.key] = session.settings
            shared_ns = settings.privacy(session.settings).shared_resolution_ns
            self.strictest_ns = max(self.strictest_ns, shared_ns)
            if not self._register.alone(session):
                self._beside.add(session.key)

    def alone(self, session: Session) -> bool:
        """Whether the job has the node for itself, and has had since the last moment."""
        return self._register.alone(session) and session.key not in self._beside

    @property
    def resolution_ns(self) -> int:
        """How far the next moment is at least from the last one."""
        return max(self._least_ns, self.strictest_ns)

    def far_enough(self, shown_ns: int, mono_ns: int) -> bool:
        """Whether what was shown then may be seen again at this moment."""
        return _far_enough(self.resolution_ns, shown_ns, mono_ns)

    def take(self, mono_ns: int, least_ns: int) -> bool:
        """An interval of the grid has ended: whether that is a moment; `least_ns` is the site's own resolution."""
        before_ns, self._before_ns = self._before_ns, mono_ns
        if before_ns == 0:  # the agent began a moment ago, with some job maybe
            self._shown_ns = mono_ns
        self._least_ns = least_ns
        if not is_moment(self.resolution_ns, self._shown_ns, before_ns, mono_ns):
            return False
        self._shown_ns, self.strictest_ns = mono_ns, 0
        self._beside.clear()
        self._heeded.clear()
        self.heed(self._register.live.values())
        return True
