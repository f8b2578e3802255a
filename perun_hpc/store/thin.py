"""Thinning old traces: of every node and channel one reading in so many stays, and the first and the last one.

Arrays keep their shape and time axis; what goes becomes fill, which compresses to next to nothing. Since the first and
the last reading of a counter stay, energies do not change. Each shard is written anew beside its name and renamed.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import UsageError
from perun_hpc.store import codec, create, layout, shard
from perun_hpc.store.layout import Form, Track
from perun_hpc.store.merge import busy, lease


def thin(job_dir: Path, every: int, now_ns: int) -> int:
    """Keep the readings of every `every`th tick; returns the bytes that were freed. May run again with a multiple.

    Raises
    ------
    DataError
        where a shard is damaged (`repair` first) or somebody else works on the store.
    """
    if every < 2:
        raise UsageError(f"thinning to every {every}th tick removes nothing: 2 is the least")
    with lease(job_dir) as held:
        if not held:
            raise busy(job_dir)
        freed = 0
        for track in create.tracks(job_dir, create.read_plan(job_dir)):
            for form in track.forms:
                freed += _thin_array(job_dir / layout.STORE / track.group / form.name, track, form, every)
        files.write_new(job_dir / layout.THINNED, json.dumps({"every": every, "thinned_ns": now_ns}).encode())
        return freed


def _thin_array(directory: Path, track: Track, form: Form, every: int) -> int:
    """Thin all shards of an array; a row is one node's channel, known by its block and its position in the chunk."""
    found = [(path, layout.parse_chunk_key(path.name)) for path in directory.glob("*.*")] if directory.is_dir() else []
    shards = sorted((blocks[1], blocks[0], path) for path, blocks in found if blocks is not None)
    edges: dict[tuple[str, int, int], tuple[int, int]] = {}
    for column, block, path in shards:
        for number, values in _chunks(path, form):
            for row, held in _rows(values, track, form):
                first = _tick(track, column, number) + held[0]
                last = _tick(track, column, number) + held[-1]
                key = (path.name[:1], block, row)
                known = edges.get(key)
                edges[key] = (min(first, known[0]), max(last, known[1])) if known else (first, last)
    return sum(_thin_shard(path, column, block, track, form, every, edges) for column, block, path in shards)


def _thin_shard(
    path: Path,
    column: int,
    block: int,
    track: Track,
    form: Form,
    every: int,
    edges: dict[tuple[str, int, int], tuple[int, int]],
) -> int:
    length, missing = layout.chunk_rows(track.period_ns), layout.fill(form.dtype)
    index: shard.Index = [(codec.NONE, codec.NONE)] * layout.CHUNKS_PER_SHARD
    data = bytearray()
    for number, values in _chunks(path, form):
        start = _tick(track, column, number)
        for row, held in _rows(values, track, form):
            kept = edges[path.name[:1], block, row]
            for position in held:
                if (start + position) % every and start + position not in kept:
                    values[row * length + position] = missing
        chunk = codec.encode_chunk(values.tobytes(), layout.itemsize(form.dtype))
        index[number] = (codec.index_bytes(len(index)) + len(data), len(chunk))
        data += chunk
    before = path.stat().st_size
    files.write_new(path, codec.encode_index(index) + bytes(data))
    return before - path.stat().st_size


def _chunks(path: Path, form: Form) -> Iterator[tuple[int, array[int]]]:
    data = path.read_bytes()
    index = codec.decode_index(data[: codec.index_bytes(layout.CHUNKS_PER_SHARD)], str(path))
    for number, (offset, length) in enumerate(index):
        if offset != codec.NONE:
            raw = codec.decode_chunk(data[offset : offset + length], str(path))
            yield number, array(layout.typecode(form.dtype), raw)


def _rows(values: array[int], track: Track, form: Form) -> Iterator[tuple[int, list[int]]]:
    """Every row of a chunk that holds readings, and the positions of these."""
    length, missing = layout.chunk_rows(track.period_ns), layout.fill(form.dtype)
    for row in range(len(values) // length):
        held = [at for at, value in enumerate(values[row * length : (row + 1) * length]) if value != missing]
        if held:
            yield row, held


def _tick(track: Track, column: int, number: int) -> int:
    """Tick of a chunk's first column."""
    rows = layout.chunk_rows(track.period_ns)
    return track.origin + (column * layout.CHUNKS_PER_SHARD + number) * rows
