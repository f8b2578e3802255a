"""Shipping: the sealed parts of a node go from its spool into the job's store, under their final names.

Runs as the identity that may write the archive. Every file is written beside its name, made durable and renamed, the
mark comes last; running it again does the same once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.errors import DataError
from perun_hpc.store import create, files, layout
from perun_hpc.store.layout import Json, Mark
from perun_hpc.store.node_store import NodeStore, descriptions, opened


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
        where a track is not sealed, or its node is none of `nodes` or of those that the store was made for.
    """
    total = Shipped(0, 0)
    for home, description in descriptions(session):
        if description["job_dir"]:
            continue
        if description["sealed"] is None:
            raise DataError(f"{home}: not sealed; seal it first")
        if description["sealed"]["rows"]:
            part = _ship_track(session, opened(home, description), description["sealed"], job_dir, nodes)
            total = Shipped(total.files + part.files, total.bytes + part.bytes, total.left_out + part.left_out)
    return total


def _ship_track(session: Path, store: NodeStore, sealed: Json, job_dir: Path, nodes: Sequence[str]) -> Shipped:
    source, node = store.track, store.node
    plan = create.agree(job_dir, replace(source.plan, nodes=tuple(nodes)))
    if node not in plan.nodes:
        raise DataError(f"{job_dir}: {node} is no node of job {plan.job_id}")
    target = create.place(job_dir, plan, source.period_ns, source.parts)
    index = plan.nodes.index(node)
    shift = (source.origin - target.origin) // layout.shard_rows(source.period_ns)
    count, size, left_out = 0, 0, 0
    for name, column, path in create.shard_files(session, source, 0):
        if column + shift < 0:
            left_out += 1
            continue
        data = path.read_bytes()
        final = create.shard_path(job_dir, target, name, index, column + shift)
        create.make_directory(final.parent)
        files.write_new(final, data)
        count, size = count + 1, size + len(data)
    mark = Mark(node, target.group, sealed["state"], sealed["first"], sealed["last"], sealed["why"])
    if left_out:
        first, last = (max(mark.first, target.origin), mark.last) if count else (-1, -1)
        mark = Mark(node, target.group, "partial", first, last, "the clock of this node was behind")
    create.put_mark(job_dir, mark)
    return Shipped(count, size, left_out)
