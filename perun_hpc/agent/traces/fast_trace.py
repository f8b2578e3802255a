"""The trace whose rows `perun-sample` makes: those of the only job on a node, where they are close."""

from __future__ import annotations

from pathlib import Path

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.sources.fast_rows import SLOWEST_NS, FastRows, can_read
from perun_hpc.agent.sources.node import Node
from perun_hpc.agent.traces.trace import Trace
from perun_hpc.energy.schedule import NEVER_NS

EARLY_NS, LATE_NS = 50_000_000, 50_000_000
"""Rows are taken so much too early where the agent is awake anyhow; nothing wakes it before it is so much late."""


class FastTrace:
    """Takes rows from `Node.fast`, which it began, into a trace.

    Attributes
    ----------
    due_ns : when to take some at the latest (monotonic).
    """

    def __init__(self, node: Node, meter: Meter, session: Session, trace: Trace, now_ns: int, file: Path) -> None:
        """From the trace's next row on; OSError where the program cannot be had. `file`: as `FastRows`."""
        self._node, self._meter, self._trace = node, meter, trace
        self.session = session
        self._rows = node.fast = FastRows(node, trace.schedule, now_ns, file, trace.steps, meter.summed)
        trace.leave_to(self._rows)
        self._fine_ns = now_ns
        self._wait(now_ns)

    def _wait(self, now_ns: int) -> None:
        self.soon_ns = now_ns + self._rows.turn_ns - EARLY_NS
        self.due_ns = now_ns + self._rows.turn_ns + LATE_NS

    @staticmethod
    def can(node: Node, meter: Meter, trace: Trace) -> bool:
        """Whether there is something to gain, and the program reads all that it takes."""
        counters = [domain.sensor.id for domain in meter.domains.values()]
        close = trace.pace_ns == trace.period_ns <= SLOWEST_NS
        return close and node.fast is None and can_read(node, counters, trace.period_ns)

    @property
    def knows_all(self) -> bool:
        """Whether the node's sensors are those that it began with."""
        return self._rows.ids is self._node.ids

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew."""
        return self._rows.is_full

    @property
    def has_ended(self) -> bool:
        """Whether the program ended by itself, as far as that is not seen by `turn` at once."""
        return self._rows.has_ended

    def still(self, now_ns: int) -> None:
        """The job's user may see such rows up to now."""
        self._fine_ns = now_ns

    def turn(self, now_ns: int) -> None:
        """Store what has come. EOFError: the program has ended. OSError: the disk takes no rows."""
        self._wait(now_ns)
        for block in self._meter.take_rows():  # some are newer than `now_ns`
            self._trace.extend(self._rows.ids, block, NEVER_NS)

    def stop(self, until_ns: int | None = None) -> None:
        """End the program; the trace has rows up to that moment (None: while its user may see them), and goes on alone.

        OSError: the disk takes no rows.
        """
        blocks = self._meter.end_rows()
        self._trace.go_on(self._rows.schedule)
        for block in blocks:
            self._trace.extend(self._rows.ids, block, self._fine_ns if until_ns is None else until_ns)
        self._rows.forget()
