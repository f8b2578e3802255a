"""The node's side of a trace: rows go to a journal at once and, chunk by chunk, into shards that only this node writes.

Standard library only. Whatever happens to the process, `NodeStore.recover` finds every row that reached the journal. A
tick takes the first row that comes for it: rows of ticks that have passed are counted and left out.
A journal stays until its chunk is on the disk, so shards are written without waiting for the disk: they are made
durable when the next chunk is full and the kernel has long written them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, journal, layout
from perun_hpc.store.columns import Chunk, Columns, written
from perun_hpc.store.description import TRACKS, Description, descriptions
from perun_hpc.store.journal import Journal, Row
from perun_hpc.store.layout import Plan, Track
from perun_hpc.store.node_shards import NodeShards

PHASE_NS = 60 * layout.NS_PER_S
"""On a shared file system nodes write a finished chunk within this time, each at its own moment."""
RETRY_NS = 30 * layout.NS_PER_S
STORE_ROWS = 64
"""Rows that are in the journal wait until there are so many to be put into their chunk, which is cheaper together."""
FEW_ROWS = 16
"""Fewer rows that come together are taken as if they came one by one: they wait for others."""
MAX_PENDING = 3
"""Chunks kept in memory while the disk takes none; then the oldest is given up and the trace is partial."""


@dataclass(frozen=True)
class SealedTrace:
    """What a sealed track holds.

    Attributes
    ----------
    directory : where its journal was (the session's directory).
    group : path of its group in the store.
    state : complete or partial; `why` says why partial.
    first, last : first and last tick with a row, -1 when there is none.
    rows : rows stored; `dropped`: rows that came for ticks already past.
    bytes : size of the shard files.
    """

    directory: Path
    group: str
    state: str
    why: str
    period_ns: int
    first: int
    last: int
    rows: int
    dropped: int
    bytes: int


@dataclass
class _Tally:
    """What the mark and `SealedTrace` say at the end."""

    first: int = -1
    last: int = -1
    rows: int = 0
    dropped: int = 0
    torn: list[str] = field(default_factory=list)


class NodeStore:
    """One track that this node writes: `append` rows, `seal` at the end. A full disk shows in `problem`.

    A row's way: `_waiting` for the journal, `_unstored` for its chunk (many at once), `_chunks` in memory, then shards;
    the journals in `_settled` go when what they held is durable there.
    """

    def __init__(self, description: Description) -> None:
        """Nothing is read or made yet."""
        self._description = description
        self._home = description.home
        self.sensors = description.sensors
        self._shards = NodeShards(description)
        self._columns = Columns(self.sensors, self._shards.track.parts, description.period_ns)
        self._length = self._columns.length
        self._batch = max(1, layout.NS_PER_S // description.period_ns)
        phase_ns = zlib.crc32(description.node.encode()) * PHASE_NS // (1 << 32) if description.job_dir else 0
        self._phase = phase_ns // description.period_ns
        self._chunks: dict[int, Chunk] = {}
        self._waiting: list[Row] = []
        self._unstored: list[Row] = []
        self._settled: list[Journal] = []
        self._tally = _Tally()
        self._retry_tick = 0
        self._journal_retry_tick = 0
        self._synced_tick = 0
        self.problem: str | None = None
        """Why the disk does not take the trace at present; None while it does."""

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        cluster: str,
        job_id: str,
        restart_count: int,
        node: str,
        sensors: Sequence[Sensor],
        period_ns: int,
        start_ns: int,
        nodes: Sequence[str] = (),
        job_period_ns: int | None = None,
        job_dir: Path | None = None,
        sync_ns: int | None = 10 * layout.NS_PER_S,
        energy_step_uj: int = 1,
        simulated: bool = False,
        level: int = codec.LEVEL,
    ) -> NodeStore:
        """Begin a track of a job run in the session's `directory`.

        Parameters
        ----------
        sensors : what the values of a row belong to, in order.
        period_ns : of this track; `job_period_ns` is the job's own (default: the same), whose track is the main one.
        start_ns : wall-clock start of the job.
        nodes, job_dir : all nodes of the job, and its directory on a shared file system, to write there directly; by
            default parts stay in `directory` until they are shipped.
        sync_ns : the journal is made durable this often, which bounds what a power loss takes; None leaves that to
            the kernel.
        energy_step_uj : energies are rounded down to this; `layout.energy_step_uj` is a good choice for long jobs.
        level : how hard its chunks are compressed, from 0 (not at all) to 9.
        """
        plan = Plan(
            cluster=cluster,
            job_id=job_id,
            restart_count=restart_count,
            nodes=tuple(nodes) if job_dir else (node,),
            start_ns=start_ns,
            period_ns=job_period_ns or period_ns,
            simulated=simulated,
        )
        home = directory / TRACKS / layout.period_label(period_ns)
        create.make_directory(home)
        description = Description(
            home=home,
            plan=plan,
            node=node,
            sensors=tuple(sensors),
            period_ns=layout.checked_period_ns(period_ns),
            job_dir=job_dir,
            sync_ns=sync_ns,
            level=level,
            energy_step_uj=energy_step_uj,
        )
        description.write()
        return cls(description)

    @property
    def steps(self) -> dict[str, int]:
        """By what the raw ticks of sensors that count in base units are divided to be stored, by the sensors' ids."""
        return self._columns.steps

    @property
    def track(self) -> Track:
        """The track that this store writes."""
        return self._shards.track

    @classmethod
    def recover(cls, directory: Path) -> list[NodeStore]:
        """The tracks of a session's `directory` that are not sealed, with all rows that reached their journals.

        What could not be read is named by `losses`; sealing such a track marks it partial.
        """
        found = []
        for home, description in descriptions(directory):
            if description["sealed"] is None:
                store = cls(Description.of(home, description))
                store._replay()
                found.append(store)
        return found

    @property
    def losses(self) -> tuple[str, ...]:
        """What was lost before this process took the track over, one phrase each."""
        return tuple(self._tally.torn)

    @property
    def last_tick(self) -> int:
        """The last tick that has a row, -1 when none has."""
        return self._tally.last

    def append(self, tick: int, values: Sequence[int | None], offset_us: int = 0) -> None:
        """Store one row: raw ticks per sensor (None: no reading) at grid index `tick`, sampled `offset_us` after it."""
        if len(values) != len(self.sensors):
            raise ValueError(f"{len(values)} values for {len(self.sensors)} sensors")
        offset = min(max(offset_us, -(1 << 31) + 1), (1 << 31) - 1)
        self._add((tick, offset, *written(values)))
        self._write_what_is_due()

    def extend(
        self,
        ticks: array[int],
        late_us: array[int],
        columns: Sequence[array[int]],
        rising: Sequence[bool],
        divided: Sequence[array[int] | None] = (),
    ) -> None:
        """Store many rows, each of a later tick: `columns` are the sensors' raw ticks, `GAP` where there is none.

        `rising` says of which columns it is known that all is there and nothing falls; `divided` are columns divided by
        their `steps`, where somebody did that.
        """
        if len(columns) != len(self.sensors):
            raise ValueError(f"{len(columns)} columns for {len(self.sensors)} sensors")
        divided = divided or [None] * len(columns)
        first = bisect_right(ticks, self._tally.last)
        self._tally.dropped += first
        while first < len(ticks):
            number = ticks[first] // self._length
            after = bisect_left(ticks, (number + 1) * self._length, first)
            rows = ticks[first:after], late_us[first:after], [one[first:after] for one in columns]
            if after - first < FEW_ROWS:
                for row in zip(*rows[:2], *rows[2], strict=True):
                    self._add(row)
            else:
                parts = [None if one is None else one[first:after] for one in divided]
                self._add_columns(number, *rows, rising, parts)
            first = after
        self._write_what_is_due()

    def _add_columns(
        self,
        number: int,
        ticks: array[int],
        late_us: array[int],
        columns: Sequence[array[int]],
        rising: Sequence[bool],
        divided: Sequence[array[int] | None],
    ) -> None:
        """Put rows of one chunk into its journal, and into it."""
        self._have(number)
        self._write_journal()
        self._store_rows()
        chunk = self._chunks[number]
        self._count(ticks[0], ticks[-1], len(ticks))
        self._columns.put_columns(chunk, ticks, late_us, columns, rising, divided)
        try:
            if chunk.journal is not None and not self._waiting:
                chunk.journal.write_columns(ticks, late_us, columns)
                self._sync_when_due(chunk.journal, ticks[-1])
                return
        except OSError as error:
            self._failed(error)
            self._journal_retry_tick = self._retry_tick
        self._waiting += zip(ticks, late_us, *columns, strict=True)

    def _have(self, number: int) -> None:
        """Begin the chunk, if rows have not yet come for it."""
        if number not in self._chunks:
            self._write_journal(sync=True)
            self._store_rows()
            self._chunks[number] = self._begin(number)

    def _add(self, row: Row) -> None:
        if row[0] <= self._tally.last:
            self._tally.dropped += 1
            return
        self._have(row[0] // self._length)
        self._waiting.append(row)
        self._unstored.append(row)
        self._count(row[0], row[0], 1)

    def _write_what_is_due(self) -> None:
        if len(self._unstored) >= STORE_ROWS:
            self._store_rows()
        if len(self._waiting) >= self._batch:
            self._write_journal()
        tick = self._tally.last
        if len(self._chunks) > 1 and tick % self._length >= self._phase and tick >= self._retry_tick:
            self._flush_before(tick // self._length)

    def flush(self) -> None:
        """Make every row so far visible to readers of the store, also those of the unfinished chunk."""
        self._write_journal()
        self._store_rows()
        self._publish(list(self._chunks.values()))

    def seal(self, state: str = "complete", why: str = "") -> SealedTrace:
        """End the track: everything into the shards, its journals away, the node's mark written.

        Raises
        ------
        OSError
            where the disk does not take it; the journals then stay, and sealing can be tried again.
        """
        self._write_journal()
        self._store_rows()
        chunks = list(self._chunks.values())
        self._shards.write(chunks)
        self._shards.sync()
        tally = self._tally
        if tally.torn:
            state, why = "partial", why or "; ".join(tally.torn)
        sealed = SealedTrace(
            directory=self._description.session,
            group=self._shards.track.group,
            state=state,
            why=why,
            period_ns=self._description.period_ns,
            first=tally.first,
            last=tally.last,
            rows=tally.rows,
            dropped=tally.dropped,
            bytes=self._shards.size_b(),
        )
        if tally.rows:
            self._shards.mark(state, tally.first, tally.last, why)
        kept = {key: value for key, value in dataclasses.asdict(sealed).items() if key != "directory"}
        self._description = self._description.ended(kept)
        self._description.write()
        self.close()
        for leftover in self._home.glob("*.journal"):
            leftover.unlink()
        return sealed

    def close(self) -> None:
        """Give all descriptors back; nothing is written."""
        self._shards.close()
        for held in [chunk.journal for chunk in self._chunks.values()] + self._settled:
            if held is not None:
                held.close()
        self._chunks.clear()
        self._settled.clear()

    # A row's way: journal and chunk in memory, many at once; then shard.

    def _begin(self, number: int) -> Chunk:
        chunk = self._columns.empty(number)
        path = self._home / f"{number}.journal"
        try:
            chunk.journal = Journal(path, self._state(), len(self.sensors))
            if self._description.sync_ns is not None:
                files.sync_directory(self._home)
        except OSError as error:
            self._failed(error)
            with contextlib.suppress(OSError):  # an empty one says to whoever takes over that rows were lost
                path.touch(mode=0o640)
        return chunk

    def _write_journal(self, sync: bool = False) -> None:
        """Journal the rows that wait; make the newest journal durable when it is time to, or now."""
        tick = self._tally.last
        if tick < self._journal_retry_tick and not sync:
            return
        rows, self._waiting = self._waiting, []
        target = self._chunks[max(self._chunks)].journal if self._chunks else None
        if target is None:
            return
        try:
            if rows:
                target.write(rows)
                tick = rows[-1][0]
            self._sync_when_due(target, tick, sync)
        except OSError as error:
            self._failed(error)
            self._waiting, self._journal_retry_tick = rows, self._retry_tick

    def _sync_when_due(self, target: Journal, tick: int, now: bool = False) -> None:
        due = now or (tick - self._synced_tick) * self._description.period_ns >= (self._description.sync_ns or 0)
        if self._description.sync_ns is not None and due:
            self._synced_tick = tick
            target.sync()

    def _count(self, first: int, last: int, rows: int) -> None:
        tally = self._tally
        tally.rows += rows
        tally.first = first if tally.first < 0 else tally.first
        tally.last = last

    def _store_rows(self) -> None:
        rows, self._unstored = self._unstored, []
        if rows:
            self._store(rows)

    def _store(self, rows: Sequence[Row]) -> None:
        """Put rows of one chunk, in order, into it."""
        self._columns.put(self._chunks[rows[0][0] // self._length], rows)

    def _state(self) -> dict[str, Any]:
        """What a journal's rows need so that reading it alone is enough to go on."""
        return {"tally": self._tally.__dict__, "counters": self._columns.state(), **self._shards.state()}

    def _flush_before(self, number: int) -> None:
        """Put the chunks before `number` into the shards; their journals go a chunk later, when shards are durable."""
        due = [chunk for chunk in self._chunks.values() if chunk.number < number]
        if self._settle(self._chunks[number].journal) and self._publish(due):
            for chunk in due:
                self._settled += [chunk.journal] if chunk.journal else []
                del self._chunks[chunk.number]
        elif len(self._chunks) > MAX_PENDING:
            oldest = self._chunks.pop(min(self._chunks))
            self._tally.torn.append(f"{count(oldest.rows, 'row')} lost: {self.problem}")
            self._tally.rows -= oldest.rows
            if oldest.journal:
                oldest.journal.close()

    def _settle(self, current: Journal | None) -> bool:
        if not self._settled:
            return True
        try:
            self._shards.sync()
            if current is not None:
                current.note(self._shards.state())
                if self._description.sync_ns is not None:
                    current.sync()
        except OSError as error:
            self._failed(error)
            return False
        for held in self._settled:
            held.remove()
        self._settled.clear()
        return True

    def _publish(self, chunks: list[Chunk]) -> bool:
        try:
            self._shards.write(chunks)
            if self._description.job_dir and self._tally.rows:
                self._shards.mark("running", self._tally.first, self._tally.last, "")
        except (OSError, DataError) as error:
            self._failed(error)
            return False
        self.problem = None
        return True

    def _failed(self, error: OSError | DataError) -> None:
        self.problem = (
            str(error) if isinstance(error, DataError) else f"{error.strerror}: {error.filename or self._home}"
        )
        self._retry_tick = self._tally.last + RETRY_NS // self._description.period_ns

    # Taking over after a crash.

    def _replay(self) -> None:
        paths = sorted(self._home.glob("*.journal"), key=lambda path: int(path.stem))
        torn: list[str] = []
        for path in paths:
            try:
                state, rows, left_out = journal.read(path, len(self.sensors))
                if not self._shards.restored:
                    self._restore(state)
            except DataError as error:
                torn.append(str(error))
                continue
            if left_out:
                torn.append(f"the last {left_out} bytes of {path.name} were torn")
            self._shards.restore(state)
            number = int(path.stem)
            chunk = self._chunks[number] = self._columns.empty(number)
            for row in rows:
                if row[0] > self._tally.last and row[0] // self._length == number:
                    self._count(row[0], row[0], 1)
                    self._store([row])
            chunk.journal = Journal(path, state, len(self.sensors))
        self._tally.torn += torn

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            tally = _Tally(**state["tally"])
            self._columns.restore(state["counters"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the journal's state is damaged: {error}") from error
        self._tally = tally
