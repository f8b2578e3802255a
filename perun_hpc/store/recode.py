"""Recoding: the shards of sixteen nodes become one, so that a read across nodes opens few files.

A new shard is put together from decoded chunks and lies under another name beside the old ones; only after it was read
back through zarr and compared with the sources do the arrays' documents change. Readers that hold the old documents go
on reading the old files, which `drop_sources` removes later. Running it again takes in nodes that came late.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, layout, shard
from perun_hpc.store.layout import Form, Track
from perun_hpc.store.merge import Merged, finalise, lease

WORK = "recoding"
"""Where blocks lie until they are compared and, at last, merged."""
Compare = Callable[[Path, Path, range, range], bool]
"""Directories of two arrays, nodes, columns: do both arrays hold the same bits there?"""


class _Shard:
    """One shard file, read chunk by chunk; a missing file has no chunks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._index: shard.Index = []
        with contextlib.suppress(FileNotFoundError):
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._index = shard.read_index(self._fd, layout.CHUNKS_PER_SHARD, str(path))

    def chunk(self, number: int) -> bytes | None:
        """The decoded bytes of an inner chunk, None where there is none."""
        if self._fd is None or self._index[number][0] == codec.NONE:
            return None
        offset, length = self._index[number]
        return codec.decode_chunk(os.pread(self._fd, length, offset), str(self._path))

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)


class _Block:
    """The chunks of one array for one block of nodes, from the nodes' own shards or from an earlier recoding."""

    def __init__(self, directory: Path, track: Track, form: Form, block: int) -> None:
        self._directory = directory
        self._first = block * layout.NODES_PER_BLOCK
        self._block = block
        self._flat = form.name == layout.OFFSET
        channels = 1 if self._flat else track.shape(form.name, 0)[1]
        size = layout.itemsize(form.dtype)
        items = channels * layout.chunk_rows(track.period_ns)
        missing = layout.fill(form.dtype).to_bytes(size, "little", signed=form.dtype.startswith("i"))
        self._raw_b = items * size
        self._fill = missing * items

    def chunks(self, column: int) -> Iterator[bytes | None]:
        """For every inner chunk of a shard: the bytes of all nodes of the block; None where none has any."""
        nodes = range(self._first, self._first + layout.NODES_PER_BLOCK)
        own = [_Shard(self._directory / self._key(node, column)) for node in nodes]
        before = _Shard(self._directory / self.name(column))
        try:
            for number in range(layout.CHUNKS_PER_SHARD):
                whole = before.chunk(number)
                parts = [source.chunk(number) for source in own]
                if whole is not None:
                    kept = [whole[at : at + self._raw_b] for at in range(0, len(whole), self._raw_b)]
                    parts = [old if part is None else part for part, old in zip(parts, kept, strict=True)]
                empty = all(part is None for part in parts)
                yield None if empty else b"".join(self._fill if part is None else part for part in parts)
        finally:
            for source in [*own, before]:
                source.close()

    def name(self, column: int) -> str:
        """File name of the recoded shard."""
        return layout.block_key(self._block, column) if self._flat else layout.block_key(self._block, 0, column)

    def _key(self, node: int, column: int) -> str:
        return layout.chunk_key(node, column) if self._flat else layout.chunk_key(node, 0, column)


def recode(job_dir: Path, now_ns: int, equal: Compare, reasons: Mapping[str, str] | None = None) -> Merged:
    """Recode all arrays of a store whose job is over; `reasons` as for `finalise`.

    Raises
    ------
    DataError
        where a source is damaged (`repair` first) or what was written does not read back equal; nothing has changed.
    """
    plan = create.read_plan(job_dir)
    work = job_dir / WORK
    with lease(job_dir) as held:
        if not held:
            return Merged("busy", {}, ())
        shutil.rmtree(work, ignore_errors=True)
        create.make_directory(work)
        began_ns = work.stat().st_ctime_ns  # by the clock that shards' times are of
        moves: list[tuple[Path, Path]] = []
        for track in create.tracks(job_dir, plan):
            for form in track.forms:
                moves += _recode_array(job_dir, work, track, form, equal)
        for new, final in moves:
            new.replace(final)
        for directory in {final.parent for _, final in moves}:
            files.sync_directory(directory)
        if moves:  # else nothing is in blocks, and what comes would not be seen
            files.write_new(job_dir / layout.RECODED, json.dumps({"recoded_ns": began_ns}).encode())
    merged = finalise(job_dir, (), now_ns, now_ns, reasons)
    shutil.rmtree(work, ignore_errors=True)
    return merged


def is_recoded(job_dir: Path) -> bool:
    """Whether all that nodes have put into the store is in blocks, for readers, too."""
    recoded_ns = _recoded_ns(job_dir)
    if recoded_ns is None or (job_dir / WORK).exists():  # whoever recoded it died before it was merged
        return False
    return all(_put_ns(path) < recoded_ns for path in _sources(job_dir))


def drop_sources(job_dir: Path, now_ns: int, grace_ns: int) -> int:
    """Delete the one-node shards that a recoding of at least `grace_ns` ago replaced; returns how many."""
    recoded_ns = _recoded_ns(job_dir)
    count = 0
    if recoded_ns is not None and now_ns - recoded_ns >= grace_ns:
        for path in _sources(job_dir):
            if _put_ns(path) < recoded_ns:
                path.unlink()
                count += 1
    return count


def _recoded_ns(job_dir: Path) -> int | None:
    try:
        return int(json.loads((job_dir / layout.RECODED).read_bytes())["recoded_ns"])
    except FileNotFoundError:
        return None


def _sources(job_dir: Path) -> Iterator[Path]:
    """The shards of one node each."""
    for track in create.tracks(job_dir, create.read_plan(job_dir)):
        for form in track.forms:
            yield from (job_dir / layout.STORE / track.group / form.name).glob("c.*")


def _put_ns(path: Path) -> int:
    """When a shard got its name, or grew; its data may have been written long before it was renamed."""
    return path.stat().st_ctime_ns


def _recode_array(job_dir: Path, work: Path, track: Track, form: Form, equal: Compare) -> list[tuple[Path, Path]]:
    """Write the recoded shards of an array into `work` and compare them; returns what has to be moved where."""
    old = job_dir / layout.STORE / track.group / form.name
    here = work / track.group / form.name
    names = [path.name for path in old.glob("*.*")] if old.is_dir() else []
    present = {blocks for name in names if (blocks := _block_of(name)) is not None}
    columns = (max((column for _, column in present), default=0) + 1) * layout.shard_rows(track.period_ns)
    documents = [track.documents(columns, recoded=recoded)[form.name] for recoded in (False, True)]
    own = [name for name in names if name.startswith("c.")]
    before = [name for name in names if not name.startswith("c.") and _block_of(name) is not None]
    raw = _view(here / "raw", documents[0], old, own)
    was = _view(here / "was", documents[1], old, before)
    new = _view(here / "new", documents[1], old, [])
    moves = []
    for block, column in sorted(present):
        source = _Block(old, track, form, block)
        name = source.name(column)
        files.write_new(new / name, _shard_of(source.chunks(column), layout.itemsize(form.dtype)))
        moves.append((new / name, old / name))
    fresh = {numbers[0] for name in own if (numbers := layout.parse_chunk_key(name)) is not None}
    for block, column in sorted(present):
        span = _span(new / _Block(old, track, form, block).name(column), column, track)
        first = block * layout.NODES_PER_BLOCK
        nodes = range(first, min(first + layout.NODES_PER_BLOCK, len(track.plan.nodes)))
        for is_fresh, same in itertools.groupby(nodes, lambda node: node in fresh):
            run = list(same)
            if span and not equal(raw if is_fresh else was, new, range(run[0], run[-1] + 1), span):
                raise DataError(
                    f"{old}: recoded, nodes {run[0]} to {run[-1]} do not read back equal; nothing was changed"
                )
    return moves


def _span(path: Path, column: int, track: Track) -> range:
    """The columns of the array that a shard has chunks for."""
    with path.open("rb") as file:
        index = shard.read_index(file.fileno(), layout.CHUNKS_PER_SHARD, str(path))
    numbers = [number for number, entry in enumerate(index) if entry[0] != codec.NONE]
    start, rows = column * layout.shard_rows(track.period_ns), layout.chunk_rows(track.period_ns)
    return range(start + numbers[0] * rows, start + (numbers[-1] + 1) * rows) if numbers else range(0)


def _view(directory: Path, document: layout.Json, source: Path, names: list[str]) -> Path:
    """An array that consists of some files of another directory."""
    create.make_directory(directory)
    files.write_new(directory / "zarr.json", create.encode(document), durable=False)
    for name in names:
        (directory / name).symlink_to(source / name)
    return directory


def _shard_of(chunks: Iterator[bytes | None], itemsize: int) -> bytes:
    index: shard.Index = []
    data = bytearray()
    for raw in chunks:
        if raw is None:
            index.append((codec.NONE, codec.NONE))
            continue
        chunk = codec.encode_chunk(raw, itemsize)
        index.append((codec.index_bytes(layout.CHUNKS_PER_SHARD) + len(data), len(chunk)))
        data += chunk
    return codec.encode_index(index) + bytes(data)


def _block_of(name: str) -> tuple[int, int] | None:
    """Node block and time block that a shard of either encoding belongs to."""
    numbers = layout.parse_chunk_key(name)
    if numbers is None:
        return None
    return (numbers[0] // layout.NODES_PER_BLOCK, numbers[1]) if name.startswith("c.") else numbers
