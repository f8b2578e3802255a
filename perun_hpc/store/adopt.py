"""Adopting: a node that was late put its trace where its job's directory had been; it goes into the job's own store.

Shards are anchored at multiples of the epoch, so what fits moves as it is; merging afterwards shows it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.store import create, layout


def adopt(stray: Path, job_dir: Path) -> None:
    """Move the trace in `stray` into the store in `job_dir`, and remove `stray`.

    Raises
    ------
    DataError
        where both have a trace and the two do not agree on nodes, sensors or times; nothing has changed then.
    """
    if (job_dir / layout.PLAN).exists():
        _check(stray, job_dir)
        for part in (layout.STORE, layout.MARKS):
            _move_new(stray / part, job_dir / part)
    else:
        _move_new(stray, job_dir)
    shutil.rmtree(stray)


def _check(stray: Path, job_dir: Path) -> None:
    plan, other = create.read_plan(job_dir), create.read_plan(stray)
    known = {_grid(track) for track in create.tracks(job_dir, plan)}
    fits = plan.nodes == other.nodes and {_grid(track) for track in create.tracks(stray, other)} <= known
    if not fits:
        raise DataError(f"{stray}: the trace of a late node does not fit into that in {job_dir}: it stays there")


def _grid(track: layout.Track) -> tuple[str, int, int, str]:
    return (track.group, track.period_ns, track.origin, layout.signature(track.parts))


def _move_new(source: Path, target: Path) -> None:
    """Move every file that is not there yet; what both have, such as coordinates, is the same or is made anew."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_file() and not place.exists():
            create.make_directory(place.parent)
            path.rename(place)
            files.sync_directory(place.parent)
