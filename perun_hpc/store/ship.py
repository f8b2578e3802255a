"""Shipping: the sealed parts of a node go from its spool into the job's store, under their final names.

Runs as the identity that may write the archive. Every file is written beside its name, made durable and renamed, the
mark comes last; running it again does the same once more.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import codec, create, layout
from perun_hpc.store.description import TRACK, TRACKS, Description, descriptions
from perun_hpc.store.layout import Json, Mark, Plan, Track
from perun_hpc.store.shard import Index, end_of, read_index

PIECE_B = 1 << 20


@dataclass(frozen=True)
class Shipped:
    """What went into the archive: files, their bytes, and ticks that could not go because they precede the store."""

    files: int
    bytes: int
    left_out: int = 0


def ship(session: Path, job_dir: Path, nodes: Sequence[str]) -> Shipped:
    """Copy all sealed tracks of a session into the store in `job_dir`.

    Parameters
    ----------
    session : the session's directory in the node's spool.
    nodes : all nodes of the job in Slurm's order; every node must pass the same.

    Raises
    ------
    DataError
        where a track is not sealed, or its node is none of `nodes` or of those that the store was made for;
        OtherLayoutError where the store or the track is of a newer version (`put_apart`).
    OSError
        where it cannot be now, or the job's directory was taken away meanwhile: ship again.
    """
    total = Shipped(0, 0)
    for home, description in descriptions(session):
        if description["job_dir"]:
            continue
        if description["sealed"] is None:
            raise DataError(f"{home}: not sealed; seal it first")
        if description["sealed"]["rows"]:
            part = _ship_track(session, Description.of(home, description), description["sealed"], job_dir, nodes)
            total = Shipped(total.files + part.files, total.bytes + part.bytes, total.left_out + part.left_out)
    return total


def put_apart(session: Path, job_dir: Path, node: str) -> Path:
    """Keep a session's sealed tracks as they are, for a version that can put them into the store; where they lie."""
    import shutil  # here: the agent, whose child this is, has no other use for it

    apart = job_dir / layout.APART / node
    partial = apart.with_name(f".{node}")
    shutil.rmtree(partial, ignore_errors=True)
    for part in (layout.STORE, TRACKS):
        for path in sorted((session / part).rglob("*")):
            if path.is_file() and (part == layout.STORE or path.name == TRACK):
                target = partial / path.relative_to(session)
                create.make_directory(target.parent)
                with path.open("rb") as file:
                    files.write_pieces(target, pieces(file))
    shutil.rmtree(apart, ignore_errors=True)
    partial.rename(apart)
    files.sync_directory(apart.parent)
    return apart


def take_in(job_dir: Path, nodes: Sequence[str]) -> None:
    """Put what lies apart into the store; what this version cannot put there, either, stays."""
    import shutil

    for apart in sorted((job_dir / layout.APART).glob("[!.]*")):
        try:
            if any(value.get("node") != apart.name for _, value in descriptions(apart)):
                raise DataError(f"{apart}: a track of another node's")
            ship(apart, job_dir, nodes)
        except (DataError, ValueError, FileNotFoundError):  # or another merge takes it in
            continue
        shutil.rmtree(apart, ignore_errors=True)
    with contextlib.suppress(OSError):  # something is left, or another merge was quicker
        (job_dir / layout.APART).rmdir()


def grow(session: Path, job_dir: Path, nodes: Sequence[str]) -> Shipped:
    """Bring the store in `job_dir` up to what the shards of a session hold that goes on; `ship` completes it.

    Files there grow by what is new, data first, then the index; readers see a running job's finished chunks.

    Raises
    ------
    DataError
        as `ship`.
    """
    total = Shipped(0, 0)
    for home, description in descriptions(session):
        if description["job_dir"] or description["sealed"] is not None:
            continue
        own = Description.of(home, description)
        shards = list(create.shard_files(session, own.track, 0))
        if not shards:
            continue
        target, index, shift = _placed(own, job_dir, nodes)
        chunks: list[int] = []
        for name, column, path in shards:
            if column + shift < 0:
                continue
            final = create.shard_path(job_dir, target, name, index, column + shift)
            added = extend(path, final)
            total = Shipped(total.files + bool(added), total.bytes + added)
            if name == layout.OFFSET:
                chunks += _chunks(own.track, column, path)
        if chunks:
            rows, start = layout.chunk_rows(target.period_ns), target.plan.start_ns // target.period_ns
            last = (max(chunks) + 1) * rows - 1
            mark = Mark(own.node, target.group, "running", max(min(chunks) * rows, start), last)
            if not (job_dir / layout.MARKS / mark.name).exists():
                create.put_mark(job_dir, mark)
    return total


def extend(source: Path, target: Path) -> int:
    """Make `target` the growing shard `source` as it is now; returns the bytes that were written.

    What the two do not share (a crash took back what had been copied) is written anew.
    """
    with source.open("rb") as file:
        index = read_index(file.fileno(), layout.CHUNKS_PER_SHARD, str(source))
        end = end_of(index)
        try:
            with target.open("r+b") as grown:
                held = read_index(grown.fileno(), layout.CHUNKS_PER_SHARD, str(target))
                at = end_of(held)
                if held == index:
                    return 0
                if at == os.fstat(grown.fileno()).st_size and _continues(held, index):
                    file.seek(at)
                    begin = at
                    for piece in pieces(file, end - at):
                        files.write_all(grown.fileno(), piece, at)
                        at += len(piece)
                    os.fsync(grown.fileno())
                    files.write_all(grown.fileno(), codec.encode_index(index), 0)
                    return at - begin
        except (FileNotFoundError, DataError):
            pass
        head = codec.encode_index(index)
        file.seek(len(head))
        create.make_directory(target.parent)
        return files.write_pieces(target, itertools.chain((head,), pieces(file, end - len(head))))


def pieces(file: BinaryIO, most: int | None = None) -> Iterator[bytes]:
    """What follows in a file, a piece at a time: a shard of a fast trace may be longer than a child's memory."""
    while piece := file.read(PIECE_B if most is None else min(PIECE_B, most)):
        most = None if most is None else most - len(piece)
        yield piece


def _continues(held: Index, index: Index) -> bool:
    """Whether what the older index refers to is still there, unless something newer took its place."""
    at = end_of(held)
    return all(new == old or new[0] >= at for old, new in zip(held, index, strict=True))


def _chunks(track: Track, column: int, path: Path) -> list[int]:
    """The numbers, counted from the epoch, of the chunks in a shard file."""
    first = track.origin // layout.chunk_rows(track.period_ns) + column * layout.CHUNKS_PER_SHARD
    with path.open("rb") as file:
        index = read_index(file.fileno(), layout.CHUNKS_PER_SHARD, str(path))
    return [first + number for number, (at, _) in enumerate(index) if at != codec.NONE]


def _placed(own: Description, job_dir: Path, nodes: Sequence[str]) -> tuple[Track, int, int]:
    """The track of the job's store, the node's index in it, and how many shards later its columns begin."""
    source = own.track
    plan = create.agree(job_dir, replace(source.plan, nodes=tuple(nodes)))
    if own.node not in plan.nodes:
        raise DataError(f"{job_dir}: {own.node} is no node of job {plan.job_id}")
    target = create.place(job_dir, plan, source.period_ns, source.parts)
    shift = (source.origin - target.origin) // layout.shard_rows(source.period_ns)
    return target, plan.nodes.index(own.node), shift


def _ship_track(session: Path, own: Description, sealed: Json, job_dir: Path, nodes: Sequence[str]) -> Shipped:
    source, node = own.track, own.node
    target, index, shift = _placed(own, job_dir, nodes)
    count, size, left_out = 0, 0, 0
    for name, column, path in create.shard_files(session, source, 0):
        if column + shift < 0:
            left_out += 1
            continue
        final = create.shard_path(job_dir, target, name, index, column + shift)
        create.make_directory(final.parent)
        with path.open("rb") as file:
            count, size = count + 1, size + files.write_pieces(final, pieces(file))
    mark = Mark(node, target.group, sealed["state"], sealed["first"], sealed["last"], sealed["why"])
    if left_out:
        first, last = (max(mark.first, target.origin), mark.last) if count else (-1, -1)
        mark = Mark(node, target.group, "partial", first, last, "the clock of this node was behind")
    create.put_mark(job_dir, mark)
    _check_still(job_dir, target.plan)
    return Shipped(count, size, left_out)


def _check_still(job_dir: Path, plan: Plan) -> None:
    """OSError where the store was renamed, adopted or deleted meanwhile: nobody would find what was put there since."""
    with contextlib.suppress(DataError):
        if create.read_plan(job_dir) == plan:
            return
    raise FileNotFoundError(errno.ENOENT, "the job's directory was taken away meanwhile", str(job_dir))
