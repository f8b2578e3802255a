"""Rows of a node's sensors at a fast pace: `perun-sample` reads the kernel's files, the agent whatever else there is.

A row in Python costs ten times as much. The program is a child like others: what becomes of it costs rows, and no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.agent.sources.workers import Worker
from perun_hpc.backend.procstat import ProcStat
from perun_hpc.backend.rows import MOST_ROWS, Block, Grid, Rows, files_of
from perun_hpc.backend.sysfile import Absent, NumberFiles, number_files

if TYPE_CHECKING:
    from perun_hpc.agent.sources.node import Node
    from perun_hpc.energy.schedule import Schedule

FAST_NS = 100_000_000
"""Rows closer than this are the program's: Python makes ten a second for as much as it costs to hear of them."""
TURN_NS = 1_000_000_000
"""How often the agent takes what has come."""
GIVE_NS = 80_000_000
"""How often the agent looks what children have said, where there are some."""
SILENT_NS = 5 * TURN_NS
"""So long without a block, and it hangs in a file."""
SETTLE_S = 0.05
"""How long a reading of everything, for which a hook may wait, waits for the rows before it."""


class FastRows:
    """A program at work for a node, from now on to `stop`; `ids` are the sensors of its columns.

    Attributes
    ----------
    ids : those of the node when it began.
    turn_ns : how often it has something for the agent, or the agent for it.
    """

    def __init__(self, node: Node, schedule: Schedule, now_ns: int) -> None:
        """Start it, with the schedule's next tick as its first row; OSError where it cannot be had."""
        self.ids = node.ids
        self._node = node
        self._began = schedule
        files = files_of(node.sampled)
        sensors = [sensor for reader in node.sampled for sensor in reader.sensors]
        grid = Grid(schedule.period_ns, schedule.offset_ns, schedule.next_index)
        count = max(1, min(MOST_ROWS, 2 * TURN_NS // schedule.period_ns))  # it is asked for what it has before that
        self._rows = Rows([(sensor, files.get(sensor.id, -1)) for sensor in sensors], grid, count)
        self.turn_ns = GIVE_NS if self._rows.given else TURN_NS
        self._heard_ns = now_ns
        self._tardy = False
        self._cpu_ns = 0
        self._ended = False
        self._give()

    @property
    def schedule(self) -> Schedule:
        """To go on from without it, after `stop`."""
        grid = self._rows.grid
        step_ns = self._began.step_ns + self._rows.step_ns
        return self._began._replace(offset_ns=grid.offset_ns, next_index=grid.next_index, step_ns=step_ns)

    @property
    def cpu_ns(self) -> int:
        """CPU time that it has taken (proc_pid_schedstat(5))."""
        if not self._ended:
            with contextlib.suppress(OSError, ValueError, IndexError):
                self._cpu_ns = int(Path(f"/proc/{self._rows.pid}/schedstat").read_text().split()[0])
        return self._cpu_ns

    def turn(self, now_ns: int) -> list[Block]:
        """Read what is read here; the blocks that have come. EOFError: no more will come."""
        self._give()
        found = self._rows.now(0 if self._tardy else SETTLE_S)
        self._tardy = not found
        if found:
            self._heard_ns = now_ns
        elif now_ns - self._heard_ns > SILENT_NS:
            raise EOFError
        return found

    def now(self) -> list[Block]:
        """The blocks up to this moment, if they come in a short time; nothing where it has ended."""
        found = []
        with contextlib.suppress(EOFError):
            found += self._rows.blocks()  # what has come says nothing of now
            found += self._rows.now(0 if self._tardy else SETTLE_S)
        self._tardy = not found  # it is not waited for again and again
        return found

    def stop(self) -> list[Block]:
        """End it; its last blocks."""
        self._cpu_ns, self._ended = self.cpu_ns, True  # its number may be another's soon
        return self._rows.stop(SETTLE_S)

    def _give(self) -> None:
        if self._rows.given:
            self._rows.give(self._node.sample_others())


def can_read(node: Node, energy: Collection[str]) -> bool:
    """Whether the program can make the node's rows: of what counts energy, by the ids, it reads all itself.

    What is given to it has values up to `GIVE_NS` older in rows: what children say, who are asked once a second.
    Others' would be older than they say.
    """
    quick = all(isinstance(reader, (NumberFiles, ProcStat, Absent, Worker)) for reader in node.sampled)
    return bool(energy) and quick and not node.gauges.sensors and number_files(node.sampled).keys() >= set(energy)
