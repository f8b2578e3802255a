"""The node's side of a trace: rows go to a journal at once and, chunk by chunk, into shards that only this node writes.

Standard library only. Whatever happens to the process, `NodeStore.recover` finds every row that reached the journal. A
tick takes the first row that comes for it: rows of ticks that have passed are counted and left out.
A journal stays until its chunk is on the disk, so shards are written without waiting for the disk: they are made
durable when the next chunk is full and the kernel has long written them.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.wording import count
from perun_hpc.energy.counters import Status, difference
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, journal, layout
from perun_hpc.store.journal import GAP, Journal, Row
from perun_hpc.store.layout import Array, Form, Mark, Plan, Track
from perun_hpc.store.shard import GrowingShard

TRACKS = "tracks"
TRACK = "track.json"
PHASE_NS = 60 * layout.NS_PER_S
"""On a shared file system nodes write a finished chunk within this time, each at its own moment."""
RETRY_NS = 30 * layout.NS_PER_S
STORE_ROWS = 64
"""Rows that are in the journal wait until there are so many to be put into their chunk, which is cheaper together."""
MAX_PENDING = 3
"""Chunks kept in memory while the disk takes none; then the oldest is given up and the trace is partial."""


@dataclass(frozen=True)
class SealedTrace:
    """What a sealed track holds.

    Attributes
    ----------
    directory : where its journal was (the session's directory).
    group : path of its group in the store, "" for the root.
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


class _Column:
    """Turns a sensor's raw ticks into stored values; a counter is unwrapped, a reset one goes on from where it was."""

    def __init__(self, sensor: Sensor, form: Form) -> None:
        self.sensor = sensor
        self.last: int | None = None
        self.last_ns = 0
        self.added = 0
        self._counts = sensor.kind is Kind.COUNTER
        self._low, self._high = layout.limits(form.dtype)
        self._fill = layout.fill(form.dtype)
        self._divisor = form.divisor
        self._as_it_is = sensor.scale_num == sensor.scale_den == form.divisor == 1

    def values(self, ticks: Sequence[int], times_ns: Sequence[int]) -> Sequence[int]:
        """The values to store for several rows (`GAP`: none), all at once where nothing is amiss."""
        ordered = sorted(ticks)
        if len(ticks) > 3 and ordered[0] != GAP:
            low, high = self._stored(ordered[0] + self.added), self._stored(ordered[-1] + self.added)
            rises = tuple(ordered) == ticks and (self.last is None or self.last <= ticks[0])
            if self._low <= low <= high <= self._high and (rises or not self._counts):
                if self._counts:
                    self.last, self.last_ns = ticks[-1], times_ns[-1]
                if self._as_it_is and not self.added:
                    return ticks
                return [self._stored(one + self.added) for one in ticks]
        return [self._fill if one == GAP else self.value(one, ns) for one, ns in zip(ticks, times_ns, strict=True)]

    def value(self, ticks: int, now_ns: int) -> int:
        """The value to store; the fill value where the type cannot hold it."""
        if self._counts:
            if self.last is not None and ticks < self.last:
                before, after = Reading(self.last, self.last_ns), Reading(ticks, now_ns)
                turned = difference(self.sensor, before, after).status is not Status.RESET
                self.added += (self.sensor.wrap_range or 0) if turned else self.last
            self.last, self.last_ns = ticks, now_ns
            ticks += self.added
        value = self._stored(ticks)
        return value if self._low <= value <= self._high else self._fill

    def _stored(self, ticks: int) -> int:
        return self.sensor.base(ticks) // self._divisor


@dataclass
class _Chunk:
    """The rows of one inner chunk, as arrays of stored values, one per channel."""

    number: int
    parts: list[list[array[int]]]
    offsets: array[int]
    journal: Journal | None = None
    rows: int = 0
    published: int = 0

    @classmethod
    def empty(cls, number: int, parts: Sequence[Array], rows: int) -> _Chunk:
        def column(form: Form) -> array[int]:
            return array(layout.typecode(form.dtype), [layout.fill(form.dtype)]) * rows

        return cls(number, [[column(part.form) for _ in part.channels] for part in parts], column(layout.OFFSET_FORM))


@dataclass
class _Tally:
    """What the mark and `SealedTrace` say at the end."""

    first: int = -1
    last: int = -1
    rows: int = 0
    dropped: int = 0
    torn: list[str] = field(default_factory=list)


class NodeStore:
    """One track that this node writes: `append` rows, `seal` at the end. A full disk shows in `problem`."""

    def __init__(self, directory: Path, description: dict[str, Any]) -> None:
        self._description = description
        self._home = directory
        self._direct = description["job_dir"]
        self.job_dir = _checked(self._direct) if self._direct else directory.parent.parent
        self.node: str = description["node"]
        self.sensors = tuple(Sensor.from_json(sensor) for sensor in description["sensors"])
        self._parts = layout.arrays(self.sensors, description["energy_step_uj"])
        self._plan = Plan.from_json(json.dumps(description["plan"]).encode(), str(directory / TRACK))
        self._period_ns = layout.checked_period_ns(description["period_ns"])
        group, _ = self._plan.groups(self._period_ns, layout.signature(self._parts))
        self._track = Track(self._plan, self._period_ns, self._parts, group)
        self._length = layout.chunk_rows(self._period_ns)
        self._columns = {c: _Column(self.sensors[c], part.form) for part in self._parts for c in part.columns}
        self._sync_ns: int | None = description["sync_ns"]
        self._level = int(description.get("level", codec.LEVEL))
        if not 0 <= self._level <= 9:
            raise ValueError(f"level {self._level}")
        self._batch = max(1, layout.NS_PER_S // self._period_ns)
        self._phase = zlib.crc32(self.node.encode()) * PHASE_NS // (1 << 32) // self._period_ns if self._direct else 0
        self._chunks: dict[int, _Chunk] = {}
        self._waiting: list[Row] = []
        self._unstored: list[Row] = []
        self._shards: dict[str, tuple[int, GrowingShard]] = {}
        self._backups: dict[str, list[Any]] | None = None
        self._settled: list[Journal] = []
        self._tally = _Tally()
        self._retry_tick = 0
        self._journal_retry_tick = 0
        self._synced_tick = 0
        self._created = False
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
        period_ns : of this track; `job_period_ns` is the job's own (default: the same), whose track is the root group.
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
        description = {
            "plan": json.loads(plan.to_json()),
            "node": node,
            "sensors": [sensor.to_json() for sensor in sensors],
            "period_ns": period_ns,
            "job_dir": str(job_dir) if job_dir else None,
            "sync_ns": sync_ns,
            "level": level,
            "energy_step_uj": energy_step_uj,
            "sealed": None,
        }
        files.write_new(home / TRACK, json.dumps(description).encode(), durable=sync_ns is not None)
        return cls(home, description)

    @property
    def track(self) -> Track:
        """The track that this store writes."""
        return self._track

    @classmethod
    def recover(cls, directory: Path) -> list[NodeStore]:
        """The tracks of a session's `directory` that are not sealed, with all rows that reached their journals.

        What could not be read is named by `losses`; sealing such a track marks it partial.
        """
        found = []
        for home, description in descriptions(directory):
            if description["sealed"] is None:
                store = opened(home, description)
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
        if tick <= self._tally.last:
            self._tally.dropped += 1
            return
        number = tick // self._length
        if number not in self._chunks:
            self._write_journal(sync=True)
            self._store_rows()
            self._chunks[number] = self._begin(number)
        offset = min(max(offset_us, -(1 << 31) + 1), (1 << 31) - 1)
        row: Row = (tick, offset, *_written(values))
        self._waiting.append(row)
        self._unstored.append(row)
        self._count(row)
        if len(self._unstored) >= STORE_ROWS:
            self._store_rows()
        if len(self._waiting) >= self._batch:
            self._write_journal()
        if len(self._chunks) > 1 and tick % self._length >= self._phase and tick >= self._retry_tick:
            self._flush_before(number)

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
        self._write_chunks(chunks)
        self._sync_shards()
        tally = self._tally
        if tally.torn:
            state, why = "partial", why or "; ".join(tally.torn)
        sealed = SealedTrace(
            directory=self._home.parent.parent,
            group=self._track.group,
            state=state,
            why=why,
            period_ns=self._period_ns,
            first=tally.first,
            last=tally.last,
            rows=tally.rows,
            dropped=tally.dropped,
            bytes=self._shard_bytes(),
        )
        if tally.rows:
            self._mark(state, why)
        self._description["sealed"] = {key: value for key, value in sealed.__dict__.items() if key != "directory"}
        files.write_new(self._home / TRACK, json.dumps(self._description).encode(), durable=self._sync_ns is not None)
        self.close()
        for leftover in self._home.glob("*.journal"):
            leftover.unlink()
        return sealed

    def close(self) -> None:
        """Give all descriptors back; nothing is written."""
        for _, shard in self._shards.values():
            shard.close()
        for held in [chunk.journal for chunk in self._chunks.values()] + self._settled:
            if held is not None:
                held.close()
        self._shards.clear()
        self._chunks.clear()
        self._settled.clear()

    # A row's way: journal and chunk in memory, many at once; then shard.

    def _begin(self, number: int) -> _Chunk:
        chunk = _Chunk.empty(number, self._parts, self._length)
        try:
            chunk.journal = Journal(self._home / f"{number}.journal", self._state(), len(self.sensors))
            if self._sync_ns is not None:
                files.sync_directory(self._home)
        except OSError as error:
            self._failed(error)
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
            due = sync or (tick - self._synced_tick) * self._period_ns >= (self._sync_ns or 0)
            if self._sync_ns is not None and due:
                self._synced_tick = tick
                target.sync()
        except OSError as error:
            self._failed(error)
            self._waiting, self._journal_retry_tick = rows, self._retry_tick

    def _count(self, row: Row) -> None:
        tally = self._tally
        tally.rows += 1
        tally.first = row[0] if tally.first < 0 else tally.first
        tally.last = row[0]

    def _store_rows(self) -> None:
        rows, self._unstored = self._unstored, []
        if rows:
            self._store(rows)

    def _store(self, rows: Sequence[Row]) -> None:
        """Put rows of one chunk, in order, into its columns."""
        ticks, offsets, *columns = zip(*rows, strict=True)
        chunk = self._chunks[ticks[0] // self._length]
        places = [tick % self._length for tick in ticks]
        times_ns = [tick * self._period_ns for tick in ticks]
        _put(chunk.offsets, places, offsets)
        for part, targets in zip(self._parts, chunk.parts, strict=True):
            for column, target in zip(part.columns, targets, strict=True):
                _put(target, places, self._columns[column].values(columns[column], times_ns))
        chunk.rows += len(rows)

    def _state(self) -> dict[str, Any]:
        """What a journal's rows need so that reading it alone is enough to go on."""
        return {
            "tally": self._tally.__dict__,
            "counters": [[c.last, c.last_ns, c.added] for _, c in sorted(self._columns.items())],
            **self._shard_state(),
        }

    def _shard_state(self) -> dict[str, Any]:
        known = {name: [number, shard.index] for name, (number, shard) in self._shards.items()}
        return {"shards": {**(self._backups or {}), **known}}

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
            self._sync_shards()
            if current is not None:
                current.note(self._shard_state())
                if self._sync_ns is not None:
                    current.sync()
        except OSError as error:
            self._failed(error)
            return False
        for held in self._settled:
            held.remove()
        self._settled.clear()
        return True

    def _publish(self, chunks: list[_Chunk]) -> bool:
        try:
            self._write_chunks(chunks)
            if self._direct and self._tally.rows:
                self._mark("running", "")
        except (OSError, DataError) as error:
            self._failed(error)
            return False
        self.problem = None
        return True

    def _failed(self, error: OSError | DataError) -> None:
        self.problem = (
            str(error) if isinstance(error, DataError) else f"{error.strerror}: {error.filename or self._home}"
        )
        self._retry_tick = self._tally.last + RETRY_NS // self._period_ns

    # Shards.

    def _create(self) -> None:
        """In a shared store the agreed plan and the metadata; in a spool, which shipping completes, only shards."""
        if self._created:
            return
        if self._direct:
            plan = create.agree(self.job_dir, self._plan)
            if self.node not in plan.nodes:
                raise DataError(f"{self.job_dir}: {self.node} is no node of job {plan.job_id}")
            self._plan = plan
            self._track = create.place(self.job_dir, plan, self._period_ns, self._parts)
        self._created = True

    def _write_chunks(self, chunks: Sequence[_Chunk]) -> None:
        touched: set[str] = set()
        for chunk in sorted(chunks, key=lambda chunk: chunk.number):
            if chunk.published == chunk.rows:
                continue
            self._create()
            for name, size, columns in self._payloads(chunk):
                raw = b"".join(column.tobytes() for column in columns)
                shard = self._shard(name, chunk.number)
                shard.put(chunk.number % layout.CHUNKS_PER_SHARD, codec.encode_chunk(raw, size, self._level))
                touched.add(name)
        for name in touched:
            self._shards[name][1].publish()
        for chunk in chunks:
            chunk.published = chunk.rows

    def _payloads(self, chunk: _Chunk) -> Iterator[tuple[str, int, list[array[int]]]]:
        """Name, item size and columns of every array that holds anything in this chunk."""
        for part, columns in zip(self._parts, chunk.parts, strict=True):
            missing = layout.fill(part.form.dtype)
            if any(column.count(missing) < len(column) for column in columns):
                yield part.form.name, layout.itemsize(part.form.dtype), columns
        yield layout.OFFSET, layout.itemsize(layout.OFFSET_FORM.dtype), [chunk.offsets]

    def _shard(self, name: str, chunk: int) -> GrowingShard:
        number = chunk // layout.CHUNKS_PER_SHARD
        held = self._shards.get(name)
        if held is not None and held[0] == number:
            return held[1]
        if held is not None:
            held[1].publish()
            if self._sync_ns is not None:
                held[1].sync()
            held[1].close()
        shard = GrowingShard(self._path(name, number), layout.CHUNKS_PER_SHARD, self._backup(name, number))
        self._shards[name] = (number, shard)
        return shard

    def _backup(self, name: str, number: int) -> list[tuple[int, int]] | None:
        """What the journals of a process before us know of a shard; an empty index where it was not there yet."""
        if self._backups is None:
            return None
        kept = self._backups.get(name)
        if kept is None or kept[0] != number:
            return [(codec.NONE, codec.NONE)] * layout.CHUNKS_PER_SHARD
        return [(offset, length) for offset, length in kept[1]]

    def _sync_shards(self) -> None:
        if self._sync_ns is not None:
            for _, shard in self._shards.values():
                shard.sync()

    def _path(self, name: str, shard: int) -> Path:
        column = shard - self._track.origin // layout.shard_rows(self._period_ns)
        if column < 0:
            raise DataError(f"{self.job_dir}: ticks before the store's origin; is the clock of {self.node} right?")
        return create.shard_path(self.job_dir, self._track, name, self._plan.nodes.index(self.node), column)

    def _shard_bytes(self) -> int:
        index = self._plan.nodes.index(self.node)
        return sum(path.stat().st_size for _, _, path in create.shard_files(self.job_dir, self._track, index))

    def _mark(self, state: str, why: str) -> None:
        create.put_mark(
            self.job_dir, Mark(self.node, self._track.group, state, self._tally.first, self._tally.last, why)
        )

    # Taking over after a crash.

    def _replay(self) -> None:
        paths = sorted(self._home.glob("*.journal"), key=lambda path: int(path.stem))
        torn: list[str] = []
        for path in paths:
            try:
                state, rows, left_out = journal.read(path, len(self.sensors))
                if self._backups is None:
                    self._restore(state)
            except DataError as error:
                torn.append(str(error))
                continue
            if left_out:
                torn.append(f"the last {left_out} bytes of {path.name} were torn")
            self._backups = state.get("shards", self._backups)
            number = int(path.stem)
            chunk = self._chunks[number] = _Chunk.empty(number, self._parts, self._length)
            for row in rows:
                if row[0] > self._tally.last and row[0] // self._length == number:
                    self._count(row)
                    self._store([row])
            chunk.journal = Journal(path, state, len(self.sensors))
        self._tally.torn += torn

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            tally = _Tally(**state["tally"])
            for (_, column), kept in zip(sorted(self._columns.items()), state["counters"], strict=True):
                column.last, column.last_ns, column.added = kept
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the journal's state is damaged: {error}") from error
        self._tally = tally


def _written(values: Sequence[int | None]) -> Sequence[int]:
    """The values of a row as the journal holds them: a gap is `GAP`, and so is what no 64 bits hold."""
    try:
        if not values or GAP < min(values) <= max(values) < -GAP:  # type: ignore[type-var, operator]
            return values  # type: ignore[return-value]
    except TypeError:  # None is neither less nor more
        pass
    return [GAP if value is None or not GAP < value < -GAP else value for value in values]


def _put(target: array[int], places: Sequence[int], values: Sequence[int]) -> None:
    """Write values to places in rising order."""
    if places[-1] - places[0] == len(places) - 1:
        target[places[0] : places[-1] + 1] = array(target.typecode, values)
    else:
        for place, value in zip(places, values, strict=True):
            target[place] = value


def _checked(text: object) -> Path:
    """The directory that a description names; ValueError where no directory can have such a name."""
    path = Path(text) if isinstance(text, str) else Path()
    encoded = os.fsencode(path)
    if not path.is_absolute() or b"\0" in encoded or len(encoded) >= 4096 or max(map(len, encoded.split(b"/"))) > 255:
        raise ValueError(f"job_dir {str(text)[:80]!r}")
    return path


def opened(home: Path, description: dict[str, Any]) -> NodeStore:
    """The track in `home`; DataError where its description is damaged."""
    try:
        store = NodeStore(home, description)
        sealed, sync_ns = description["sealed"], description["sync_ns"]
        if not (isinstance(sealed, dict | None) and isinstance(sync_ns, int | None)):
            raise TypeError("sealed or sync_ns")
        store.node.encode()
        store.track.plan.nodes.index(store.node)
        return store
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ArithmeticError) as error:
        raise DataError(f"{home / TRACK}: damaged ({type(error).__name__}: {error})") from error


def descriptions(directory: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every track in a session's directory: its own directory and what was written about it."""
    for path in sorted((directory / TRACKS).glob(f"*/{TRACK}")):
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: damaged: {error}") from error
        if not isinstance(value, dict) or not {"job_dir", "sealed"} <= value.keys():
            raise DataError(f"{path}: damaged: not the description of a track")
        if value["sealed"] is not None and not _is_seal(value["sealed"]):
            raise DataError(f"{path}: damaged: 'sealed' says nothing that a sealed track does")
        yield path.parent, value


def _is_seal(value: object) -> bool:
    """Whether that is what `NodeStore.seal` leaves: the fields of `SealedTrace` that shipping and marks need."""
    if not isinstance(value, dict) or value.get("state") not in ("complete", "partial"):
        return False
    return isinstance(value.get("why"), str) and all(type(value.get(key)) is int for key in ("first", "last", "rows"))
