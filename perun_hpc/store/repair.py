"""Repair: what is damaged is set aside and named, everything else stays readable.

Every chunk of every shard is checked against its checksum; what a checksum does not cover (plan, track descriptions,
Zarr documents) is kept twice or can be made again. Originals of what was changed lie in `aside/`. Shards of a node that
is still writing are left alone, until the job is over.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, layout, shard
from perun_hpc.store.layout import Mark, Plan, Track
from perun_hpc.store.merge import Merged, busy, finalise, lease, newest_marks


@dataclass(frozen=True)
class Loss:
    """One thing that was damaged: the file, what was done, and which node and ticks are gone (None: no samples)."""

    file: str
    what: str
    node: str | None = None
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        span = f", {self.node}: ticks {self.first} to {self.last}" if self.node is not None else ""
        return f"{self.file}: {self.what}{span}"


@dataclass(frozen=True)
class Repaired:
    """What `repair` found, and the merge that followed."""

    losses: tuple[Loss, ...]
    merged: Merged


def repair(job_dir: Path, now_ns: int, over: bool = False) -> Repaired:
    """Check every file of a job's store, set damaged parts aside, and merge again.

    Parameters
    ----------
    job_dir : the job's directory.
    now_ns : wall clock.
    over : whether the job has ended: a node that has not ended its part is dead then, not writing.

    Returns
    -------
    What was lost, and what the store holds now.

    Raises
    ------
    DataError
        where plan or track description and their copies are all damaged: then nothing says what the bytes mean; where
        somebody else works on the store.
    """
    losses = list(_repair_plan(job_dir))
    with lease(job_dir) as held:
        if not held:
            raise busy(job_dir)
        losses += _repair_parts(job_dir, over)
    return Repaired(tuple(losses), finalise(job_dir, (), now_ns))


def _repair_parts(job_dir: Path, over: bool) -> Iterator[Loss]:
    """All but the plan."""
    plan = create.read_plan(job_dir)
    yield from _repair_tracks(job_dir, plan)
    marks = newest_marks(job_dir)
    for track in create.tracks(job_dir, plan):
        yield from _repair_coordinates(job_dir, track)
        own = marks.get(track.group, {})
        running = {node for node, mark in own.items() if mark.state == "running" and not over}
        damaged = list(_repair_shards(job_dir, track, running))
        yield from damaged
        for node in {loss.node for loss in damaged if loss.node is not None}:
            mark = own.get(node)
            if mark is not None and mark.state != "partial":
                (job_dir / layout.MARKS / mark._replace(node=node).name).unlink()
                why = "damaged parts were set aside"
                create.put_mark(job_dir, Mark(node, track.group, "partial", mark.first, mark.last, why))
        yield from _repair_marks(job_dir, track, set(own))


def _set_aside(job_dir: Path, path: Path) -> None:
    aside = job_dir / layout.ASIDE / path.relative_to(job_dir)
    create.make_directory(aside.parent)
    files.write_new(aside, path.read_bytes())


def _repair_plan(job_dir: Path) -> Iterator[Loss]:
    path = job_dir / layout.PLAN
    try:
        create.read_plan(job_dir)
        return
    except layout.OtherLayoutError:  # nothing is damaged
        raise
    except DataError:
        pass
    store = job_dir / layout.STORE
    try:
        attributes = json.loads((store / "zarr.json").read_bytes())["attributes"]["perun_plan"]
        names = next(path.with_name("node") for path in sorted(store.rglob("node_status")))
        nodes = codec.read_vlen_utf8((names / layout.chunk_key(0)).read_bytes(), str(names))
        plan = Plan(**{"layout": 1, **attributes, "nodes": tuple(nodes)})
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError, DataError) as error:
        raise DataError(f"{path}: damaged, and so is its copy in {store}: restore one of them from a backup") from error
    if path.exists():
        _set_aside(job_dir, path)
    files.write_new(path, plan.to_json())
    yield Loss(layout.PLAN, "made again from the store's attributes")


def _repair_tracks(job_dir: Path, plan: Plan) -> Iterator[Loss]:
    store = job_dir / layout.STORE
    groups = [path.parent.relative_to(store) for path in store.rglob("node_status")]
    for group in sorted(groups):
        name = str(group) if str(group) != "." else ""
        path = job_dir / layout.track_file(name)
        try:
            create.read_track(path, plan)
            continue
        except DataError:
            pass
        try:
            description = json.loads((store / group / "zarr.json").read_bytes())["attributes"]["perun_track"]
            Track.from_description(plan, description, str(path))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError) as error:
            raise DataError(
                f"{path}: damaged, and so is its copy in {group}: restore one of them from a backup"
            ) from error
        if path.exists():
            _set_aside(job_dir, path)
        files.write_new(path, create.encode(description))
        yield Loss(path.name, "made again from the group's attributes")


def _repair_coordinates(job_dir: Path, track: Track) -> Iterator[Loss]:
    group = job_dir / layout.STORE / track.group
    expected = create.coordinate_chunks(track)
    for path in (group / "time").glob("c.*"):
        expected[f"time/{path.name}"] = create.time_chunk(track, int(path.name[2:]))
    for name, data in expected.items():
        path = group / name
        if not path.exists() or path.read_bytes() != data:
            if path.exists():
                _set_aside(job_dir, path)
            create.make_directory(path.parent)
            files.write_new(path, data)
            yield Loss(str(path.relative_to(job_dir)), "made again")


def _repair_marks(job_dir: Path, track: Track, marked: set[str]) -> Iterator[Loss]:
    """A node that has shards but no mark gets one that covers them."""
    rows = layout.chunk_rows(track.period_ns)
    for index, node in enumerate(track.plan.nodes):
        if node in marked:
            continue
        ticks = []
        for name, column, path in create.shard_files(job_dir, track, index):
            if name == layout.OFFSET:
                with path.open("rb") as file:
                    present = shard.read_index(file.fileno(), layout.CHUNKS_PER_SHARD, str(path))
                first = track.origin + column * layout.shard_rows(track.period_ns)
                ticks += [first + number * rows for number, entry in enumerate(present) if entry[0] != codec.NONE]
        if ticks:
            mark = Mark(node, track.group, "partial", min(ticks), max(ticks) + rows - 1, layout.MARK_LOST)
            create.put_mark(job_dir, mark)
            yield Loss(f"{layout.MARKS}/{node}", "made again from the shards")


def _repair_shards(job_dir: Path, track: Track, running: set[str]) -> Iterator[Loss]:
    for form in track.forms:
        directory = job_dir / layout.STORE / track.group / form.name
        for path in sorted(directory.iterdir()) if directory.is_dir() else ():
            blocks = layout.parse_chunk_key(path.name)
            if blocks is not None and not (path.name.startswith("c.") and track.plan.nodes[blocks[0]] in running):
                yield from _repair_shard(job_dir, track, path, *blocks)


def _repair_shard(job_dir: Path, track: Track, path: Path, block: int, column: int) -> Iterator[Loss]:
    """Drop the index entries of damaged chunks; a file whose index is damaged goes aside as a whole."""
    entries = layout.CHUNKS_PER_SHARD
    rows = layout.chunk_rows(track.period_ns)
    origin = track.origin + column * layout.shard_rows(track.period_ns)
    nodes = layout.NODES_PER_BLOCK if not path.name.startswith("c.") else 1
    names = track.plan.nodes[block * nodes : (block + 1) * nodes]
    name = str(path.relative_to(job_dir))
    with path.open("r+b") as file:
        try:
            index = shard.read_index(file.fileno(), entries, name)
        except DataError:
            _set_aside(job_dir, path)
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return  # its node has put it there anew
            path.unlink()
            for node in names:
                yield Loss(name, "index damaged, set aside", node, origin, origin + entries * rows - 1)
            return
        bad = [number for number, entry in enumerate(index) if not _sound(file.fileno(), entry)]
        if bad:
            _set_aside(job_dir, path)
            for number in bad:
                index[number] = (codec.NONE, codec.NONE)
            files.write_all(file.fileno(), codec.encode_index(index), 0)
            os.fsync(file.fileno())
    for number in bad:
        for node in names:
            yield Loss(name, "chunk damaged, set aside", node, origin + number * rows, origin + (number + 1) * rows - 1)


def _sound(fd: int, entry: tuple[int, int]) -> bool:
    offset, length = entry
    if offset == codec.NONE:
        return length == codec.NONE
    if offset > os.fstat(fd).st_size:
        return False
    data = os.pread(fd, min(length, os.fstat(fd).st_size), offset)
    return len(data) == length >= 4 and codec.crc32c(data[:-4]) == struct.unpack("<I", data[-4:])[0]
