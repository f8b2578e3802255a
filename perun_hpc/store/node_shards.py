"""The shard files of one node's track: chunks go in, and what a crash may leave of them is known."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, layout
from perun_hpc.store.columns import Chunk
from perun_hpc.store.description import Description
from perun_hpc.store.layout import Json, Mark, Track
from perun_hpc.store.shard import GrowingShard


class NodeShards:
    """In a shared store, or in the session's own directory, from which the track is shipped later."""

    def __init__(self, description: Description) -> None:
        """Where they are; nothing is made before the first chunk is written."""
        self.job_dir = description.job_dir or description.session
        self._node = description.node
        self._shared = description.job_dir is not None
        self._durable = description.sync_ns is not None
        self._level = description.level
        self.track: Track = description.track
        """As it is in the store: once that was made, by the plan and in the group that all nodes agreed on."""
        self._made = False
        self._open: dict[str, tuple[int, GrowingShard]] = {}
        self._backups: dict[str, list[Any]] | None = None

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Write what the chunks have that is not in a shard yet, so that readers see it.

        OSError where the disk does not take it, `DataError` where it cannot be: then it may be tried again.
        """
        touched: set[str] = set()
        for chunk in sorted(chunks, key=lambda chunk: chunk.number):
            if chunk.published == chunk.rows:
                continue
            self._make()
            for name, size, columns in self._payloads(chunk):
                raw = b"".join(column.tobytes() for column in columns)
                shard = self._shard(name, chunk.number)
                shard.put(chunk.number % layout.CHUNKS_PER_SHARD, codec.encode_chunk(raw, size, self._level))
                touched.add(name)
        for name in touched:
            self._open[name][1].publish()
        for chunk in chunks:
            chunk.published = chunk.rows

    def sync(self) -> None:
        """Make what was written durable, where the track asks for that."""
        if self._durable:
            for _, shard in self._open.values():
                shard.sync()

    def mark(self, state: str, first: int, last: int, why: str) -> None:
        """Write the node's mark."""
        create.put_mark(self.job_dir, Mark(self._node, self.track.group, state, first, last, why))

    def state(self) -> Json:
        """What a journal notes of the shards, for `restore`: their indexes, as last published."""
        known = {name: [number, shard.index] for name, (number, shard) in self._open.items()}
        return {"shards": {**(self._backups or {}), **known}}

    @property
    def restored(self) -> bool:
        """Whether something is known of what a process before left."""
        return self._backups is not None

    def restore(self, state: Json) -> None:
        """Take over what a journal of a process before us notes: with it a torn index is mended."""
        self._backups = state.get("shards", self._backups)

    def size_b(self) -> int:
        """Bytes of all shard files of this node's."""
        index = self.track.plan.nodes.index(self._node)
        return sum(path.stat().st_size for _, _, path in create.shard_files(self.job_dir, self.track, index))

    def close(self) -> None:
        """Give all descriptors back; nothing is written."""
        for _, shard in self._open.values():
            shard.close()
        self._open.clear()

    def _make(self) -> None:
        """In a shared store the agreed plan and the metadata; in a spool, which shipping completes, only shards."""
        if self._made:
            return
        if self._shared:
            plan = create.agree(self.job_dir, self.track.plan)
            if self._node not in plan.nodes:
                raise DataError(f"{self.job_dir}: {self._node} is no node of job {plan.job_id}")
            self.track = create.place(self.job_dir, plan, self.track.period_ns, self.track.parts)
        self._made = True

    def _payloads(self, chunk: Chunk) -> Iterator[tuple[str, int, list[array[int]]]]:
        """Name, item size and columns of every array that holds anything in this chunk."""
        for part, columns in zip(self.track.parts, chunk.parts, strict=True):
            missing = layout.fill(part.form.dtype)
            if any(column.count(missing) < len(column) for column in columns):
                yield part.form.name, layout.itemsize(part.form.dtype), columns
        yield layout.OFFSET, layout.itemsize(layout.OFFSET_FORM.dtype), [chunk.offsets]

    def _shard(self, name: str, chunk: int) -> GrowingShard:
        number = chunk // layout.CHUNKS_PER_SHARD
        held = self._open.get(name)
        if held is not None and held[0] == number:
            return held[1]
        if held is not None:
            held[1].publish()
            if self._durable:
                held[1].sync()
            held[1].close()
        shard = GrowingShard(self._path(name, number), layout.CHUNKS_PER_SHARD, self._backup(name, number))
        self._open[name] = (number, shard)
        return shard

    def _backup(self, name: str, number: int) -> list[tuple[int, int]] | None:
        """What the journals of a process before us know of a shard; an empty index where it was not there yet."""
        if self._backups is None:
            return None
        kept = self._backups.get(name)
        if kept is None or kept[0] != number:
            return [(codec.NONE, codec.NONE)] * layout.CHUNKS_PER_SHARD
        return [(offset, length) for offset, length in kept[1]]

    def _path(self, name: str, shard: int) -> Path:
        column = shard - self.track.origin // layout.shard_rows(self.track.period_ns)
        if column < 0:
            raise DataError(
                f"{self.job_dir}: readings from before the job's store begins; is the clock of {self._node} right?"
            )
        return create.shard_path(self.job_dir, self.track, name, self.track.plan.nodes.index(self._node), column)
