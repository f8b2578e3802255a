"""Adopting: a node that was late put its trace where its job's directory had been; it goes into the job's own store.

Shards are anchored at multiples of the epoch, so what fits moves as it is; merging afterwards shows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from perun_hpc import files
from perun_hpc.errors import DataError
from perun_hpc.files import PARTIAL
from perun_hpc.store import create, layout
from perun_hpc.store.layout import Plan, Track


def adopt(stray: Path, job_dir: Path) -> None:
    """Move the trace in `stray` into the store in `job_dir`, and remove `stray`. Killed anywhere, it may run again.

    Raises
    ------
    DataError
        where both have a trace and the two do not agree on nodes, sensors or times; nothing has changed then.
    """
    parts: Collection[str] | None = None
    if (job_dir / layout.PLAN).exists():
        parts = {layout.STORE, layout.MARKS, layout.APART, *_checked(stray, job_dir)}
    found = [path for path in sorted(stray.rglob("*")) if not path.is_dir()]
    for path in sorted(found, key=lambda path: path == stray / layout.PLAN):  # by it whoever goes on finds the rest
        name = path.relative_to(stray)
        if not path.name.endswith(PARTIAL) and (parts is None or name.parts[0] in parts):
            _move_new(path, job_dir / name)
        path.unlink(missing_ok=True)
    for directory in sorted((path for path in stray.rglob("*") if path.is_dir()), reverse=True):
        _remove(directory)
    _remove(stray)


def _checked(stray: Path, job_dir: Path) -> list[str]:
    """The files that describe the stray's tracks: each is a known one, or of a group that the store does not have."""
    plan, other = create.read_plan(job_dir), create.read_plan(stray)
    known = {track.group: _grid(track, plan) for track in create.tracks(job_dir, plan)}
    tracks = create.tracks(stray, other)
    fits = [known.get(track.group, _grid(track, plan)) == _grid(track, other) for track in tracks]
    if plan.nodes != other.nodes or not all(fits):
        raise DataError(f"{stray}: the trace of a late node does not fit into that in {job_dir}: it stays there")
    return [track.file for track in tracks]


def _grid(track: Track, plan: Plan) -> tuple[int, int, str]:
    """What must agree: period, origin by this plan, and channels."""
    return (track.period_ns, replace(track, plan=plan).origin, layout.signature(track.parts))


def _move_new(path: Path, place: Path) -> None:
    """Move a file unless there is one; what both have, such as coordinates, is the same or is made anew."""
    if not place.exists():
        create.make_directory(place.parent)
        path.rename(place)
        files.sync_directory(place.parent)


def _remove(directory: Path) -> None:
    """Remove a directory, unless a node has put something there meanwhile: that one will come again."""
    with contextlib.suppress(OSError):
        directory.rmdir()
