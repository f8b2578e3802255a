"""Reading a job's store, and everything else that needs zarr, which no other module of perun imports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.store import layout
from perun_hpc.store import recode as _recode
from perun_hpc.store.merge import Merged, finalise
from perun_hpc.store.repair import Repaired, repair

if TYPE_CHECKING:
    import xarray
    import zarr

__all__ = ["Merged", "Repaired", "finalise", "open_group", "open_job", "recode", "repair"]


def open_group(path: Path | str) -> zarr.Group:
    """The raw store as a Zarr group, untrimmed; `path` is the job's directory or its `job.zarr`."""
    import zarr

    store = _store(path)
    try:
        return zarr.open_group(store, mode="r")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{store}: cannot be opened ({error}); run perun collect --repair") from error


def open_job(path: Path | str, group: str = "") -> xarray.Dataset:
    """One track of a job as a Dataset, trimmed to the ticks and nodes that hold data; values are read when asked for.

    Parameters
    ----------
    path : the job's directory or its `job.zarr`.
    group : path of the track in the store, "" for the job's main one; `open_group(path).groups()` lists others.

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
        data: xarray.Dataset = xarray.open_zarr(store, group=group or None, chunks=None)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{store}: cannot be opened ({error}); run perun collect --repair") from error
    start, stop = data.attrs.get("time_start", 0), data.attrs.get("time_stop", data.sizes["time"])
    trimmed: xarray.Dataset = data.isel(time=slice(start, stop))
    ours = [number for number, status in enumerate(trimmed.node_status.values) if status != layout.OTHER_KIND]
    return trimmed if len(ours) == trimmed.sizes["node"] else trimmed.isel(node=ours)


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
