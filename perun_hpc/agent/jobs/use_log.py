"""What steps used, journaled in the session's directory: users can make many, so that it is not in the node's state.

A line is `[moment, uses]`: all steps of which not everything was written before, as of the state's last reading
(monotonic). What the state does not know of is passed over, so that after a kill nothing counts twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.data_model import codec
from perun_hpc.files import write_new
from perun_hpc.process.log import guard

MAX_B = 4 << 20
"""A journal that has grown above this is written anew."""


class UseLog:
    """Writes what has changed of sessions' steps."""

    def __init__(self, paths: AgentPaths) -> None:
        self._paths = paths
        self._final: dict[str, set[str]] = {}  # by the session's place: steps whose last word is written

    def forget(self, session: Session) -> None:
        """The session's record has been written, and its steps with it."""
        self._final.pop(session.place, None)

    def flush(self, changed: Collection[Session], mono_ns: int) -> None:
        """Write the steps of sessions that have changed, as of the last reading."""
        for session in changed:
            guard("what steps used", lambda session=session: self._write(session, mono_ns))  # type: ignore[misc]

    def _write(self, session: Session, mono_ns: int) -> None:
        path = self._paths.uses(session.place)
        if not path.parent.is_dir():
            return  # the session has just begun
        known = self._final.pop(session.place, None)  # back when all went well: else the next flush writes all anew
        fresh = [use for name, use in session.uses.items() if known is None or name not in known]
        if known is None:
            write_new(path, (_line(fresh, mono_ns) + "\n").encode(), durable=False)
        elif fresh and spool.append_lines(path, [_line(fresh, mono_ns)]) > MAX_B:
            return
        self._final[session.place] = {name for name, use in session.uses.items() if use.final}

    def load(self, session: Session, mono_ns: int) -> None:
        """Give a session the steps that the last agent wrote up to the last reading that its state knows."""
        path = self._paths.uses(session.place)
        data = path.read_bytes() if path.exists() else b""
        for line in data.splitlines():
            try:
                at_ns, rows = json.loads(line)
                uses = [codec.made(StepUse, row) for row in rows]
                if at_ns > mono_ns or any(map(codec.wrong, uses)):
                    break
            except (ValueError, TypeError, AttributeError, RecursionError):
                break  # torn by a crash
            session.take_uses(uses)


def _line(uses: Collection[StepUse], mono_ns: int) -> str:
    return json.dumps([mono_ns, [vars(use) for use in uses]], separators=(",", ":"))
