"""What a job's user may see of its energy and when, and the curve that regions are later laid over.

A job that is alone sees everything. On a shared node all sessions see their energy at the same moments, which no user
has in his hand: what happens in between would show what the others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.measure.moments import Moments, is_moment
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.config import settings
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.log import guard


class Visibility:
    """What was shown to whom last, and the node's own curve of the open interval.

    Attributes
    ----------
    moments : when what several jobs share may be seen.
    """

    def __init__(self, paths: AgentPaths, register: Register) -> None:
        self._paths = paths
        self._register = register
        self.moments = Moments(register)
        self._shown: dict[SessionKey, tuple[int, int]] = {}
        self._asked: dict[SessionKey, tuple[Mapping[str, Any], int, int]] = {}
        """A session's settings and what they say, which is asked of all sessions each second: period and resolution."""
        self._points: list[tuple[int, int]] = []
        self._moment_ns = 0
        """The last end of an interval of the grid."""

    def resolution_ns(self, session: Session) -> int:
        """Finest resolution in time in which the job's user may see energy."""
        known = self._asked.get(session.key)
        if known is None or known[0] is not session.settings:
            shared_ns = settings.privacy(session.settings).shared_resolution_ns
            known = self._asked[session.key] = session.settings, session.period_ns, shared_ns
        _, period_ns, shared_ns = known
        return period_ns if self._register.alone(session) else max(period_ns, shared_ns, self.moments.strictest_ns)

    # The curve of a job that is alone: points inside an interval, which its end turns into the job's share.

    @property
    def wants_points(self) -> bool:
        """Whether anybody has a flagged step."""
        return bool(self._points) and any(session.steps for session in self._register.live.values())

    def add_point(self, mono_ns: int, used_uj: int) -> None:
        """Continue the node's own curve by what its counters counted since the last point."""
        self._points.append((mono_ns, self._points[-1][1] + used_uj))

    def add_points(self, times_ns: Sequence[int], used_uj: Sequence[int]) -> None:
        """The same of several: after each other, none before the last point."""
        so_far_uj = accumulate(used_uj, initial=self._points[-1][1])
        next(so_far_uj)
        self._points += zip(times_ns, so_far_uj, strict=True)

    @property
    def last_point_ns(self) -> int:
        """When the last point was; the interval's start is one."""
        return self._points[-1][0] if self._points else 0

    def end_interval(self, before_uj: Mapping[SessionKey, int], mono_ns: int) -> None:
        """Continue the curves of jobs that are alone; `before_uj` is what those with flagged steps had before."""
        for key, before in before_uj.items():
            session = self._register.live[key]
            if self._register.alone(session):
                guard("its curve", partial(self._extend, session, before, mono_ns), session)
        self._points = [(mono_ns, 0)]

    def _extend(self, session: Session, before_uj: int, mono_ns: int) -> None:
        from perun_hpc.agent.measure import curve

        points = [(mono_ns, session.energy_uj)]
        if len(self._points) > 1:
            points = curve.spread(self._points, before_uj, session.energy_uj - before_uj)
        path = self._paths.curve(session.place)
        guard("curve", lambda: curve.extend(path, points))

    # What is shown.

    def show_all(self, snapshot: Snapshot) -> None:
        """An interval of the grid has ended: what each session used so far may be seen, if its time has come."""
        before_ns, self._moment_ns = self._moment_ns, snapshot.mono_ns
        for session in self._register.live.values():
            guard("showing its energy", partial(self._show_due, session, before_ns, snapshot.mono_ns), session)

    def _show_due(self, session: Session, before_ns: int, mono_ns: int) -> None:
        """Show it at the first moment of each stretch of the resolution's length, but not sooner after the last one.

        A job's start, or the end of its time alone, is no such moment.
        """
        if is_moment(self.resolution_ns(session), self.shown(session)[0], before_ns, mono_ns):
            self.show(session, mono_ns)
            self.curve_of_shared(session)

    def show(self, session: Session, mono_ns: int) -> None:
        """The session's energy as of now may be seen."""
        self._shown[session.key] = (mono_ns, session.energy_uj)

    def shown(self, session: Session) -> tuple[int, int]:
        """The moment (monotonic) and the energy that the session's user saw last."""
        return self._shown.get(session.key, (session.start.mono_ns, 0))

    def curve_of_shared(self, session: Session) -> None:
        """Continue the curve of a session with flagged steps by what may be seen of it."""
        from perun_hpc.agent.measure import curve

        if session.steps and not self._register.alone(session):
            path, point = self._paths.curve(session.place), self.shown(session)
            guard("curve", lambda: curve.extend(path, [point]))

    def forget(self, session: Session) -> None:
        """The session has ended."""
        self._shown.pop(session.key, None)
        self._asked.pop(session.key, None)
