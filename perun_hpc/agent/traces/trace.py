"""The trace of a session: rows of all sensors at the job's storage period, kept only where the job deserves one."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.traces import quota
from perun_hpc.backend.rows import Block, left
from perun_hpc.config import settings
from perun_hpc.data_model.sensor import GAP, Provenance, Sensor, rises
from perun_hpc.energy.schedule import NEVER_NS, Schedule

if TYPE_CHECKING:
    from perun_hpc.agent.sources.fast_rows import FastRows
    from perun_hpc.store.node_store import NodeStore


OBSERVE_NS = 1_000_000_000
"""The clocks are compared at most so often: in between the wall clock slews by half a millisecond."""


class Trace:
    """One open trace: its schedule on the grid and its store in the session's directory."""

    def __init__(self, store: NodeStore, period_ns: int, mono_ns: int, real_ns: int) -> None:
        self._store = store
        self.period_ns = period_ns
        self.schedule = Schedule.starting(period_ns, mono_ns, real_ns)
        self.due_ns = self.schedule.due_mono_ns
        """When the next row is due (monotonic)."""
        self.late = 0
        self.skipped = 0
        self._names = tuple(sensor.id for sensor in store.sensors)
        self._ids: tuple[str, ...] = ()
        self._places: list[int | None] = []
        self._as_they_come = False
        self._ticks_a_row = 1

    @property
    def pace_ns(self) -> int:
        """How far rows are apart now: the period, or more while others are on the node."""
        return self.schedule.period_ns

    @property
    def steps(self) -> Mapping[str, int]:
        """By what ticks are divided to be stored, by the sensors' ids."""
        return self._store.steps

    def pace_for(self, resolution_ns: int) -> int:
        """How far rows are apart that show no more than `resolution_ns`: on its moments, and on the trace's own."""
        return self.period_ns if resolution_ns <= self.period_ns else math.lcm(self.period_ns, resolution_ns)

    def keep_pace(self, pace_ns: int) -> None:
        """Go on with rows so far apart, a multiple of the period; those between them stay without values."""
        self.schedule = self.schedule.at(pace_ns)
        self.due_ns = self.schedule.due_mono_ns
        self._ticks_a_row = pace_ns // self.period_ns

    def _know(self, ids: tuple[str, ...]) -> None:
        if ids is not self._ids:
            place = {one: number for number, one in enumerate(ids)}
            self._ids, self._places = ids, [place.get(name) for name in self._names]
            self._as_they_come = ids == self._names

    @classmethod
    def begin(
        cls,
        session: Session,
        directory: Path,
        sensors: Sequence[Sensor],
        node: str,
        period_ns: int,
        mono_ns: int,
        real_ns: int,
    ) -> Trace:
        """Open a new trace in the session's directory; OSError where the disk does not take it."""
        from perun_hpc.store import layout
        from perun_hpc.store.node_store import NodeStore

        kept = settings.store(session.settings)
        store = NodeStore.open(
            directory,
            cluster=session.job.get("cluster", ""),
            job_id=str(session.key.job_id),
            restart_count=session.key.restart_count,
            node=node,
            sensors=sensors,
            period_ns=period_ns,
            start_ns=session.start.real_ns,
            sync_ns=kept.flush_ns,
            level=kept.compression,
            energy_step_uj=layout.energy_step_uj(period_ns),
            simulated=any(sensor.provenance is Provenance.SIMULATED for sensor in sensors),
        )
        return cls(store, period_ns, mono_ns, real_ns)

    @classmethod
    def resume(cls, directory: Path, mono_ns: int, real_ns: int) -> Trace | None:
        """Take over what the last agent left in the session's directory."""
        from perun_hpc.store.node_store import NodeStore

        stores = NodeStore.recover(directory)
        return cls(stores[-1], stores[-1].track.period_ns, mono_ns, real_ns) if stores else None

    def add(self, mono_ns: int, real_ns: int, ids: tuple[str, ...], ticks: Sequence[int | None]) -> None:
        """Store the row that is due: the raw ticks of some sensors, of which those that have a column are taken."""
        if mono_ns - self.schedule.seen_mono_ns > OBSERVE_NS:
            self.schedule = self.schedule.observe(mono_ns, real_ns)
        tick, self.schedule = self.schedule.take(mono_ns)
        self.due_ns = self.schedule.due_mono_ns
        if tick is None:
            return
        self.skipped += tick.skipped
        self.late += tick.late_ns > self.period_ns // 10
        self._know(ids)
        if not self._as_they_come:
            ticks = [None if place is None else ticks[place] for place in self._places]
        self._store.append(tick.index * self._ticks_a_row, ticks, tick.late_ns // 1000)

    def extend(self, ids: tuple[str, ...], block: Block, until_ns: int) -> None:
        """Store the rows of a block up to that moment (monotonic), which `perun-sample` made on the trace's grid."""
        self._know(ids)
        self.skipped += block.skipped
        count = sum(ns <= until_ns for ns in block.mono_ns)
        if not count:
            return
        if count < len(block.ticks):
            block = block.first(count)
        self.late += sum(us * 1000 >= self.period_ns // 10 for us in block.late_us)
        nothing = array("q", [GAP]) * count
        columns = [nothing if place is None else block.columns[place] for place in self._places]
        rising = [place is not None and rises(block.rises[place]) for place in self._places]
        divided = [None if place is None else block.divided.get(place) for place in self._places]
        self._store.extend(block.ticks, block.late_us, columns, rising, divided)

    def take_left(self, file: Path) -> None:
        """Store what `perun-sample` had made when the last agent was killed, and had not handed over."""
        found = left(file, self._store.last_tick)
        if found is not None and found.period_ns == self.period_ns and found.block is not None:
            self.extend(found.ids, found.block, NEVER_NS)
        file.unlink(missing_ok=True)

    def leave_to(self, rows: FastRows) -> None:
        """From now on rows come in blocks: none is due."""
        self._know(rows.ids)
        self.due_ns = NEVER_NS

    def go_on(self, schedule: Schedule) -> None:
        """From now on rows are made one by one again."""
        self.schedule = schedule
        self.due_ns = schedule.due_mono_ns

    def pause(self) -> None:
        """Let go of the store without ending it: the next agent continues."""
        self._store.flush()
        self._store.close()

    def seal(self) -> dict[str, Any]:
        """End the trace and say what it holds; OSError where the disk does not take it."""
        sealed = self._store.seal()
        return {
            "stored": sealed.rows > 0,
            "state": sealed.state,
            "why": sealed.why or None,
            "period_ns": sealed.period_ns,
            "rows": sealed.rows,
            "bytes": sealed.bytes,
            "late": self.late,
            "skipped": self.skipped,
            "clock_step_ns": self.schedule.step_ns,
        }

    def discard(self, directory: Path) -> None:
        """Forget the trace."""
        self._store.close()
        quota.drop_trace(directory)
