"""Rows of a node's sensors at a fast pace: `perun-sample` reads the kernel's files, the agent whatever else there is.

A row in Python costs ten times as much. The program is a child like others: what becomes of it costs rows, and no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.agent.sources.workers import Worker
from perun_hpc.backend.power_pmu import members_of
from perun_hpc.backend.procstat import ProcStat
from perun_hpc.backend.rows import MOST_ROWS, NO_STEPS, Block, Grid, Rows, files_of
from perun_hpc.backend.sysfile import Absent, NumberFiles, number_files

if TYPE_CHECKING:
    from perun_hpc.agent.sources.node import Node
    from perun_hpc.energy.schedule import Schedule

FAST_NS = 100_000_000
"""Rows closer than this come in blocks, which are taken each second; others one by one, into a file."""
SLOWEST_NS = 5_000_000_000
"""Rows further apart than this are not worth the program: the agent reads everything every ten seconds."""
TURN_NS = 1_000_000_000
"""How often the agent takes what has come."""
SELDOM_NS = 20_000_000_000
"""The same of rows in the file where no interval ends."""
MOST_B = 4 << 20
"""So long the file may become before it is begun anew."""
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

    def __init__(
        self,
        node: Node,
        schedule: Schedule,
        now_ns: int,
        file: Path,
        steps: Mapping[str, int] = NO_STEPS,
        summed: frozenset[str] = frozenset(),
    ) -> None:
        """Start it, with the schedule's next tick as its first row; OSError where it cannot be had.

        `file` is where rows go that are not close; `steps`, `summed`: as `Rows`.
        """
        self.summed = summed
        self.ids = node.ids
        self._node = node
        self._began = schedule
        self._file = file if schedule.period_ns >= FAST_NS else None
        files = files_of(node.sampled)
        sensors = [sensor for reader in node.sampled for sensor in reader.sensors]
        grid = Grid(schedule.period_ns, schedule.offset_ns, schedule.next_index)
        count = 2 * TURN_NS // schedule.period_ns  # it is asked for what it has before that
        count = 1 if self._file else max(1, min(MOST_ROWS, count))
        columns = [(sensor, files.get(sensor.id, -1)) for sensor in sensors]
        self._rows = Rows(columns, grid, count, self._file, steps, summed, members_of(node.sampled))
        self.turn_ns = SELDOM_NS if self._file else GIVE_NS if self._rows.given else TURN_NS
        self._silent_ns = SILENT_NS + 2 * schedule.period_ns
        self._heard_ns = now_ns
        self._tardy = False
        self._cpu_ns = 0
        self._ended = False
        if self._file is None:
            self._give()

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin anew."""
        return self._rows.written_b > MOST_B

    @property
    def has_ended(self) -> bool:
        """Whether the program has ended; of a fast one `turn` says so soon enough."""
        return self._file is not None and self._rows.ended

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
        elif now_ns - self._heard_ns > self._silent_ns:
            raise EOFError
        return found

    def now(self, now_ns: int) -> list[Block]:
        """The blocks up to this moment, if they come in a short time; nothing where it has ended."""
        found = []
        with contextlib.suppress(EOFError):
            found += self._rows.blocks()  # what has come says nothing of now
            if self._file is None:
                found += self._rows.now(0 if self._tardy else SETTLE_S)
        self._tardy = not found  # it is not waited for again and again
        if found:
            self._heard_ns = now_ns
        return found

    def stop(self) -> list[Block]:
        """End it; its last blocks."""
        self._cpu_ns, self._ended = self.cpu_ns, True  # its number may be another's soon
        return self._rows.stop(SETTLE_S)

    def forget(self) -> None:
        """What it made is stored, or not wanted."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _give(self) -> None:
        if self._rows.given:
            self._rows.give(self._node.sample_others())


def can_read(node: Node, energy: Collection[str], period_ns: int = 0) -> bool:
    """Whether the program can make the node's rows: of what counts energy, by the ids, it reads all itself.

    What is given to it has values up to `GIVE_NS` older in rows: what children say, who are asked once a second.
    Others' would be older than they say; where rows are not close children say too little of what is between them.
    """
    others = (NumberFiles, ProcStat, Absent, *([Worker] if period_ns < FAST_NS else []))
    quick = all(isinstance(reader, others) for reader in node.sampled)
    return bool(energy) and quick and not node.gauges.sensors and number_files(node.sampled).keys() >= set(energy)
