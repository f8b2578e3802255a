"""Rows at a fast pace: `perun-sample` reads the kernel's files, whatever else there is is read here now and then."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from perun_hpc.backend.base import Reader
from perun_hpc.backend.rows import MOST_ROWS, PIPE_B, Block, Grid, Rows
from perun_hpc.backend.sysfile import NumberFiles, number_files
from perun_hpc.data_model.sensor import GAP, Sensor, rises
from perun_hpc.energy.schedule import Schedule
from perun_hpc.monitoring.tally import Column, Tallies

FAST_NS = 100_000_000
"""Faster than this no source but the kernel's counters has anything new: CPU times move in steps of 10 ms, GPUs'
figures in 20 to 100 ms."""
BLOCK_NS = 1_000_000_000

Stored: TypeAlias = "tuple[array[int], array[int], list[array[int]], list[bool]]"
"""Ticks, lateness in us, one column per sensor of the tallies, which of them rise: what `NodeStore.extend` takes."""

Edge: TypeAlias = tuple[int, tuple[int | None, ...]]


class FastRows:
    """Rows of some sensors, tallied and to be stored.

    Parameters
    ----------
    readers : of the machine's sensors; `kept` are those wanted, the given ones of `tallies`, in their order.
    schedule : its next tick is the first row's.
    at_once : whether each row comes by itself, and not a second's together.
    """

    def __init__(
        self, readers: Sequence[Reader], kept: Sequence[Sensor], tallies: Tallies, schedule: Schedule, at_once: bool
    ) -> None:
        """Start `perun-sample`; OSError where it cannot be had."""
        files = number_files(readers)
        place = {sensor.id: column for column, sensor in enumerate(kept)}
        self._tallies = tallies
        self._others = [
            (reader, [place.get(one.id) for one in reader.sensors])
            for reader in readers
            if not isinstance(reader, NumberFiles) and any(one.id in place for one in reader.sensors)
        ]
        rows = 1 if at_once else max(1, min(MOST_ROWS, BLOCK_NS // schedule.period_ns))
        # The pipe holds half of what it can at most.
        full_ns = schedule.period_ns * (PIPE_B // 2) // (8 * len(kept) + 16)
        self.wait_ns = schedule.period_ns if at_once else min(full_ns, FAST_NS if self._others else BLOCK_NS)
        """How long there is nothing to do."""
        grid = Grid(schedule.period_ns, schedule.offset_ns, schedule.next_index)
        self._began = schedule
        self._rows = Rows([(sensor, files.get(sensor.id, -1)) for sensor in kept], grid, rows)
        self._made = [column for column in range(len(kept), len(tallies.sensors))]
        self._given: dict[int, int | None] = {}
        self._given_ns = 0
        self.edge: Edge = (0, ())
        """What was tallied last: when, and the raw values of all columns."""
        self._pending: list[Stored] = []

    @property
    def schedule(self) -> Schedule:
        """To go on from without this, after `stop`."""
        grid = self._rows.grid
        return self._began._replace(
            offset_ns=grid.offset_ns, next_index=grid.next_index, step_ns=self._began.step_ns + self._rows.step_ns
        )

    def turn(self) -> None:
        """Read what is read here, if it is time; take the rows that have come. EOFError: no more will come."""
        now_ns = time.monotonic_ns()
        if self._others and now_ns - self._given_ns >= FAST_NS * 9 // 10:
            self._given_ns = now_ns
            self._read_others()
        self._take(self._rows.blocks())

    def settle(self) -> None:
        """Take all rows up to this moment: another reading of everything is about to be tallied."""
        self._take(self._rows.now())

    def go_on_from(self, reading: Edge) -> None:
        """That reading was tallied: rows of before it, which may yet come, are not."""
        self.edge = reading

    def stop(self) -> None:
        """End it; its last rows are taken."""
        self._take(self._rows.stop())

    def rows(self) -> Iterator[Stored]:
        """What is to be stored, once."""
        pending, self._pending = self._pending, []
        return iter(pending)

    def _read_others(self) -> None:
        for reader, places in self._others:
            for column, reading in zip(places, reader.read(), strict=True):
                if column is None:
                    continue
                self._given[column] = reading.ticks
                whys = {0: reading.error or "no reading"} if reading.ticks is None else {}
                made = self._tallies.add_rows({column: Column([reading.ticks or 0], whys)}, [reading.mono_ns])
                self._given |= {place: values[-1] for place, values in made.items()}
        self._rows.give([self._given.get(column) for column in self._rows.given])

    def _take(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if block.ticks:
                self._tally(block)

    def _tally(self, block: Block) -> None:
        """Rows of before the last reading of everything are stored, and not tallied."""
        times = block.mono_ns
        first = next((row for row, ns in enumerate(times) if ns > self.edge[0]), len(times))
        whys: dict[int, dict[int, str]] = {}
        for gap in block.gaps:
            if gap.row >= first:
                whys.setdefault(gap.column, {})[gap.row - first] = gap.why
        given = set(self._rows.given)
        made = {}
        if first < len(times):
            columns: dict[int, Column] = {
                column: Column(ticks[first:], whys.get(column, {}))
                if first
                else Column(ticks, whys.get(column, {}), rise)
                for column, (ticks, rise) in enumerate(zip(block.columns, block.rises, strict=True))
                if column not in given
            }
            made = self._tallies.add_rows(columns, times[first:])
        stored = [*block.columns]
        for column in self._made:
            shown = made.get(column)
            if shown is None:
                one = self._given.get(column)
                stored.append(array("q", [GAP if one is None else one]) * len(times))
            else:
                stored.append(array("q", [GAP] * first + [GAP if one is None else one for one in shown]))
        rising = [rises(one) for one in block.rises] + [False] * len(self._made)
        self._pending.append((block.ticks, block.late_us, stored, rising))
        if first < len(times):
            self.edge = times[-1], tuple(None if one[-1] == GAP else one[-1] for one in stored)
