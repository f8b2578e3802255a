"""Energy so far of jobs that run on: from time to time a boundary record that nobody takes for the last one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from perun_hpc import files
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.config import settings
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.log import guard


class Progress:
    """Writes what live sessions used so far into the spool, from where it is shipped like everything else.

    Only at moments at which the job's user may see its energy (`Visibility`), a policy's `store.progress` apart.
    """

    def __init__(
        self,
        paths: AgentPaths,
        register: Register,
        visibility: Visibility,
        record: Callable[[Session, Edge], dict[str, Any]],
    ) -> None:
        self._paths = paths
        self._register = register
        self._visibility = visibility
        self._record = record
        self._due_ns: dict[SessionKey, int] = {}

    def note(self, snapshot: Snapshot) -> bool:
        """An interval has ended: write what is due; True where something is to be shipped."""
        live = self._register.live
        self._due_ns = {key: due_ns for key, due_ns in self._due_ns.items() if key in live}
        due = [session for session in live.values() if self._is_due(session, snapshot.mono_ns)]
        for session in due:
            guard("reporting its energy so far", partial(self._write, session, snapshot), session)
        return bool(due)

    def _write(self, session: Session, snapshot: Snapshot) -> None:
        record = self._record(session, Edge(snapshot.real_ns, snapshot.mono_ns, 0, "running"))
        files.write_json(self._paths.progress(session.place), record)

    def _is_due(self, session: Session, mono_ns: int) -> bool:
        period_ns = settings.store(session.settings).progress_ns
        if not isinstance(period_ns, int) or not session.monitored or self._visibility.shown(session)[0] != mono_ns:
            return False
        due_ns = self._due_ns.get(session.key)
        if due_ns is None and mono_ns - session.start.mono_ns < period_ns:
            return False
        if due_ns is not None and mono_ns < due_ns:
            return False
        # The nodes of a large job report the first time at once, then each at its own moment.
        phase_ns = 0 if due_ns is not None else zlib.crc32(self._register.home[1].encode()) % period_ns
        self._due_ns[session.key] = mono_ns + period_ns + phase_ns
        return True
