"""The node's figures for monitoring: a file that node_exporter's textfile collector reads.

The agent serves nobody: however often anybody asks node_exporter, the agent writes a file of some kilobytes, at most
every ten seconds. Energies are those of the moments at which users of a shared node may see theirs (`Visibility`), also
where one job has the node: whoever reads the file is not its owner.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.visibility import is_moment
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
        self._before_ns = 0
        self._shown_ns = 0

    def note(self, snapshot: Snapshot) -> None:
        """An interval of the grid has ended: write, if figures may be seen now."""
        before_ns, self._before_ns = self._before_ns, snapshot.mono_ns
        if before_ns == 0:  # the counters began a moment ago, with some job maybe
            self._shown_ns = snapshot.mono_ns
        if not self._policy.settled:
            return
        site = self._policy.site()
        directory = site.metrics.textfile
        path = Path(directory) / NAME if directory else None
        if path != self._path:
            self.close()
            self._path = path
            self._losses.follow(NO_FIGURES, {})
        totals = self._meter.totals
        resolution_ns = max(site.privacy.shared_resolution_ns, totals.resolution_ns)
        if path is None or not is_moment(resolution_ns, self._shown_ns, before_ns, snapshot.mono_ns):
            return
        self._shown_ns, totals.resolution_ns = snapshot.mono_ns, 0
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
