"""The node's figures for monitoring: a file that node_exporter's textfile collector reads.

The agent serves nobody: however often anybody asks node_exporter, the agent writes a file of some kilobytes, at most
every ten seconds. Energies are those of the node's own moments (`Moments`), also where one job has the node: whoever
reads the file is not its owner.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.outbox.losses import NO_FIGURES, Losses
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.config.keeper import PolicyKeeper

if TYPE_CHECKING:
    from perun_hpc.config.schema import Metrics

NAME = "perun-node.prom"
OTHERS_WRITE = 0o002


class Textfile:
    """Writes the file where the policy names a directory, and takes it away when the agent ends."""

    def __init__(self, register: Register, meter: Meter, policy: PolicyKeeper, losses: Losses) -> None:
        self._register = register
        self._meter = meter
        self._policy = policy
        self._losses = losses
        self._path: Path | None = None

    def note(self, snapshot: Snapshot, moment: bool) -> None:
        """An interval of the grid has ended: write, if this is a moment of the node's."""
        if not self._policy.settled:
            return
        site = self._policy.site()
        directory = site.metrics.textfile
        path = Path(directory) / NAME if directory else None
        if path != self._path:
            self.close()
            self._path = path
            self._losses.follow(NO_FIGURES, {})
        if path is None or not moment:
            return
        why = ""
        try:
            self._write(path, snapshot, site.metrics)
        except OSError as error:
            why = f"{error.strerror or error}: let the agent's user alone write there, see docs/monitoring.md"
        self._losses.follow(NO_FIGURES, {str(path): why} if why else {})

    def close(self) -> None:
        """Take the file away: figures that nobody renews would look like those of now."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, path: Path, snapshot: Snapshot, rules: Metrics) -> None:
        # Not before the first edge reading: a prolog waits for it.
        from perun_hpc.agent.node_figures import figures
        from perun_hpc.data_model.metrics import text
        from perun_hpc.files import write_new

        if path.parent.stat().st_mode & OTHERS_WRITE:
            raise OSError(f"{path.parent} can be written by everybody")
        found = figures(self._meter, self._register, self._losses, snapshot, rules.labels)
        write_new(path, text(found), mode=0o644, durable=False, exact=True)
