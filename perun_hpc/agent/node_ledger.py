"""The node ledger as it is written: one line per closed interval and domain; a disk that takes none gets them later."""

from __future__ import annotations

from typing import Any

from perun_hpc.agent import spool
from perun_hpc.agent.log import failures
from perun_hpc.agent.paths import AgentPaths

MAX_LINES = 10_000
"""Lines that are kept in memory while the disk takes none."""


class NodeLedger:
    """Appends lines; `position` is the day and length of the file as far as it was written."""

    def __init__(self, paths: AgentPaths) -> None:
        self._paths = paths
        self._waiting: list[str] = []
        self.position: tuple[str, int] = ("", 0)

    def append(self, day: str, lines: list[dict[str, Any]]) -> None:
        """Write the lines of one interval, and those that could not be written before."""
        import json  # not before the first edge reading: a prolog waits for it

        self._waiting += [json.dumps(line, separators=(",", ":")) for line in lines]
        try:
            self.position = (day, spool.append_lines(self._paths.ledger(day), self._waiting))
            self._waiting.clear()
        except OSError as error:
            failures.say(f"node ledger: {error}")
            del self._waiting[:-MAX_LINES]
