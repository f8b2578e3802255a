"""Reading a job's store, and everything else that needs zarr, which no other module of perun imports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.store import layout, tables
from perun_hpc.store import recode as _recode
from perun_hpc.store.merge import Merged, finalise
from perun_hpc.store.repair import Repaired, repair

if TYPE_CHECKING:
    import xarray
    import zarr

__all__ = [
    "Merged",
    "Repaired",
    "finalise",
    "groups",
    "open_group",
    "open_job",
    "open_tracks",
    "read_tables",
    "recode",
    "repair",
]


def open_group(path: Path | str, group: str = "") -> zarr.Group:
    """One track of a job as a Zarr group, untrimmed.

    Parameters
    ----------
    path : the job's directory or its `job.zarr`.
    group : the track's group in the store, "" for the job's main one; `groups` names all.

    Returns
    -------
    The group, with the whole grid of its times.

    Raises
    ------
    NotFoundError, DataError
        as `open_job`.
    """
    import zarr

    store = _store(path)
    try:
        return zarr.open_group(store, mode="r", path=group or _main(store))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(store, error) from error


def groups(path: Path | str) -> list[str]:
    """The groups of a store that hold samples, by their paths in it, the main one ("") first."""
    import zarr

    store = _store(path)
    try:
        main, root = _main(store), zarr.open_group(store, mode="r")
        others = [name for name, group in root.groups() if name != main and layout.is_track(dict(group.attrs))]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise _damaged(store, error) from error
    return ["", *sorted(others)]


def open_job(path: Path | str, group: str = "") -> xarray.Dataset:
    """One track of a job as a Dataset, trimmed to the ticks and nodes that hold data; values are read when asked for.

    Parameters
    ----------
    path : the job's directory or its `job.zarr`.
    group : path of the track in the store, "" for the job's main one; `groups` names all.

    Returns
    -------
    A Dataset with the dimensions node and time besides those of its channels.

    Raises
    ------
    NotFoundError
        where no trace is stored there.
    DataError
        where what is there cannot be opened.
    """
    import xarray

    store = _store(path)
    try:
        data: xarray.Dataset = xarray.open_zarr(store, group=group or _main(store) or None, chunks=None)
        return trimmed(data)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(store, error) from error


def open_tracks(path: Path | str) -> dict[str, xarray.Dataset]:
    """All tracks of a job, trimmed as by `open_job`, by their groups; that of the main one is `samples` in any layout.

    Raises
    ------
    NotFoundError, DataError
        as `open_job`.
    """
    import xarray

    store = _store(path)
    try:
        _main(store)
        # Its times follow from the ticks' numbers: a trace at 10 ms has a million of them for each shard.
        found = xarray.open_groups(store, engine="zarr", chunks=None, drop_variables=["time"])
        tracks = {name.strip("/"): data for name, data in found.items() if layout.is_track(data.attrs)}
        return {name or layout.MAIN: trimmed(_timed(data)) for name, data in sorted(tracks.items())}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(store, error) from error


def _timed(data: xarray.Dataset) -> xarray.Dataset:
    """A track with its times, which were not read."""
    import numpy

    first, count = data.attrs["perun_track"]["origin_tick"], data.sizes["time"]
    times = numpy.arange(first, first + count) * data.attrs["period_ns"]
    return data.assign_coords(time=("time", times.astype("M8[ns]"), {"standard_name": "time", "axis": "T"}))


def read_tables(path: Path | str) -> dict[str, list[tables.Row]]:
    """The tables of a store (`steps`, `ranks`, `regions`) as rows, None where a row has no value.

    Raises
    ------
    NotFoundError, DataError
        as `open_job`.
    """
    import zarr

    store = _store(path)
    try:
        root = zarr.open_group(store, mode="r")
        return {name: _rows(root[name]) for name in layout.TABLES if name in root}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _damaged(store, error) from error


def _rows(group: Any) -> list[tables.Row]:
    missing = layout.fill("int64")
    columns = {name: array[:].tolist() for name, array in sorted(group.arrays())}
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, (None if v == missing else v for v in row), strict=True)) for row in rows]


def trimmed(data: xarray.Dataset) -> xarray.Dataset:
    """A track without the ticks before the job and after it, and without nodes of other hardware."""
    start, stop = data.attrs.get("time_start", 0), data.attrs.get("time_stop", data.sizes["time"])
    ours = [number for number, status in enumerate(data.node_status.values) if status != layout.OTHER_KIND]
    kept = data.isel(time=slice(start, stop))
    return kept if len(ours) == kept.sizes["node"] else kept.isel(node=ours)


def recode(job_dir: Path, now_ns: int, reasons: Mapping[str, str] | None = None) -> Merged:
    """Put the shards of a finished job into blocks of nodes, compared bit by bit before readers see them.

    Parameters
    ----------
    job_dir : the job's directory.
    now_ns : wall clock.
    reasons : why a node is missing or partial, where the caller knows better, by node.

    Returns
    -------
    What the store holds now.

    Raises
    ------
    DataError
        where a source is damaged or the result does not read back equal; nothing has changed then.


    """
    return _recode.recode(job_dir, now_ns, _equal, reasons)


def _equal(first: Path, second: Path, nodes: range, columns: range) -> bool:
    """Whether two arrays hold the same bits for some nodes, as zarr reads them."""
    import numpy
    import zarr

    one, other = zarr.open_array(first, mode="r"), zarr.open_array(second, mode="r")
    rows, step = slice(nodes.start, nodes.stop), 1 << 14
    spans = [slice(start, min(start + step, columns.stop)) for start in range(columns.start, columns.stop, step)]
    return all(numpy.array_equal(one[rows, ..., span], other[rows, ..., span]) for span in spans)


def _store(path: Path | str) -> Path:
    path = Path(path)
    store = path if path.name == layout.STORE else path / layout.STORE
    if not (store / "zarr.json").exists():
        raise NotFoundError(f"{store}: no trace was stored, or it is not merged yet (perun collect)")
    return store


def _main(store: Path) -> str:
    """Group of the main track, "" for the root of a store of layout 1."""
    root = json.loads((store / "zarr.json").read_bytes())
    version = int(root["attributes"].get("perun_layout", 1))
    if version > layout.VERSION:
        raise DataError(f"{store}: a newer perun wrote it, in layout {version}; up to {layout.VERSION} is known here")
    return layout.main_group(version)


def _damaged(store: Path, error: Exception) -> DataError:
    return DataError(f"{store}: cannot be opened ({error}); run perun collect --repair")
