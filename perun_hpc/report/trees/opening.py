"""`perun_hpc.open` and `perun_hpc.open_many`: from a job's number or a path to a tree of xarray's."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from perun_hpc.archive.places import RECORD, RUNNING, Archive, possible
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import AccessError, NotFoundError, UnavailableError, UsageError
from perun_hpc.extras import remedy
from perun_hpc.monitoring.orders import SUMMARY
from perun_hpc.monitoring.rundir import RUN
from perun_hpc.report.trees.records import of_record, of_records
from perun_hpc.report.trees.samples import of_store
from perun_hpc.report.trees.stored import of_round, of_run
from perun_hpc.store import layout

if TYPE_CHECKING:
    import xarray

    from perun_hpc.accounting.found import Places

What: TypeAlias = "int | str | os.PathLike[str]"
_JOB = re.compile(r"last\Z|\d+(?:[_+,-][\d,\[\]%:-]+)?\Z")
XARRAY, DASK = "'xarray>=2025.6.1'", "'dask[array]'"
PIECE = {"time": 18_000, "host": 16}
"""What dask reads as one: whole chunks of traces at any usual period, and the nodes of a block of a recoded one."""


def open(
    what: What, *, archive: What | None = None, ledger: str | None = None, cluster: str | None = None
) -> xarray.DataTree:
    """One job, or one run of `perun monitor`, as a tree with names and units; samples are read when asked for.

    Parameters
    ----------
    what : a job's number (`4711`, `"4711_3"`, `"4711+1"`), `"last"` for the own one that started last, a job's
        directory or its `job.zarr`, a run's directory or one of its rounds. Of a requeued job the last run is meant.
    archive, ledger, cluster : where a job is looked for, if not where the policy and Slurm say.

    Returns
    -------
    The tree: figures of the job at its root, tables (`hosts`, `components`, `steps`, `regions`, ...) and samples
    (`samples/energy`, `samples/power`, ...) below. docs/api.md lists them.

    Raises
    ------
    NotFoundError, AccessError
        where there is none that the caller may see.
    UsageError
        where several jobs have that number.
    UnavailableError
        without xarray.
    """
    _need_xarray()
    import xarray

    if _names_job(what):
        places = _places(archive, ledger, cluster)
        records = _records([what], places)
        if len({record.job_id for record in records}) > 1:
            raise UsageError(f"job {what} has {len(records)} members: name one, or all with perun_hpc.open_many")
        record: EnergyRecord | None = records[-1]
        path = directory_of(records[-1], places.archive)
    else:
        path = _directory(Path(what))  # type: ignore[arg-type]
        record = _record(path)
    return xarray.DataTree.from_dict(_of_job(record, path))


def open_many(
    jobs: Iterable[What], *, archive: What | None = None, ledger: str | None = None, cluster: str | None = None
) -> xarray.DataTree:
    """Many jobs and runs as one tree, on dask: a table of them in `jobs`, and each one's own tree below `traces`.

    No sample is read before it is computed; then dask's scheduler reads, threads by default or a
    `dask.distributed.Client`. With one, the stores are opened by its workers.

    Parameters
    ----------
    jobs : as `open` takes them, ranges (`"4711-4720"`) too; an array's or het job's number gives all its members, a
        requeued job all its runs. Paths come after numbers.
    archive, ledger, cluster : as for `open`.

    Returns
    -------
    The tree; the table's coordinate `job` names the trees below `traces`. What has no trace is in the table alone.

    Raises
    ------
    NotFoundError, UnavailableError
        as `open`; without dask, too.
    """
    _need_xarray()
    import xarray

    dask = _dask()
    chosen = list(jobs)
    found: list[tuple[str, EnergyRecord | None, Path | None]] = []
    if numbers := [what for what in chosen if _names_job(what)]:
        places = _places(archive, ledger, cluster)
        for record in _records(numbers, places):
            found.append((record.display_id, record, directory_of(record, places.archive)))
    for what in chosen:
        if not _names_job(what):
            path = _directory(Path(what))  # type: ignore[arg-type]
            known = _record(path)
            found.append((known.display_id if known else path.name, known, path))
    labels: list[str] = []
    for label, _, _ in found:
        labels.append(_free(label, labels))
    lazily = dask.delayed(_lazily)
    opened = dask.compute(*[lazily(record, home) for _, record, home in found])
    parts: dict[str, xarray.Dataset] = {}
    for label, tree in zip(labels, opened, strict=True):
        parts |= {f"traces/{label}/{name}".rstrip("/"): part for name, part in tree.items()}
    rows = [(label, one) for label, (_, one, _) in zip(labels, found, strict=True) if one is not None]
    if rows:
        parts["jobs"] = of_records(rows)
    return xarray.DataTree.from_dict(parts)


def _lazily(record: EnergyRecord | None, path: Path | None) -> dict[str, xarray.Dataset]:
    """The parts of a tree with its samples on dask; labels stay in memory."""
    return {name: _on_dask(part) if "time" in part.dims else part for name, part in _of_job(record, path).items()}


def _on_dask(part: xarray.Dataset) -> xarray.Dataset:
    def pieces(array: xarray.DataArray) -> xarray.Variable:
        return array.variable.chunk({dim: size for dim, size in PIECE.items() if dim in array.dims})

    return part.assign({name: pieces(array) for name, array in part.data_vars.items()})


def _of_job(record: EnergyRecord | None, path: Path | None) -> dict[str, xarray.Dataset]:
    """What the record says, and what was stored in a directory."""
    known = {} if record is None else of_record(record)
    return {**(_stored(path) if path is not None else {}), **known}


def _stored(path: Path) -> dict[str, xarray.Dataset]:
    """The samples in a directory of a job, of a run or of one of its rounds; none where it holds none."""
    if (path / layout.STORE / "zarr.json").exists():
        return of_store(path)
    if (path / RECORD).exists() or (path / RUNNING).exists():
        return {}
    return of_run(path) or of_round(path)


def directory_of(record: EnergyRecord, archive: Archive) -> Path | None:
    """The directory in the archive of a job's run, where the caller may enter it."""
    for run in archive.present(possible(record.job_id, [at for at in (record.submit_s, record.end_ns // 10**9) if at])):
        path = archive.job(run)
        known = _record(path) if run.restart_count == record.restart_count else None
        if known is not None and known.start_ns == record.start_ns:
            return path
    return None


def _record(path: Path) -> EnergyRecord | None:
    """The record in a job's directory, or what is known so far; None without one."""
    for name in (RECORD, RUNNING):
        try:
            return from_json((path / name).read_bytes(), str(path / name))
        except OSError:
            continue
    return None


def _directory(path: Path) -> Path:
    """The directory that a path means, which exists and holds something."""
    try:
        if not path.exists():
            raise NotFoundError(f"{path} does not exist: check the path, or name a job by its number")
        path = path.resolve()
        path = path.parent if path.is_file() or path.name == layout.STORE else path
        os.scandir(path).close()
    except PermissionError as error:
        raise AccessError(f"{path} cannot be read: a job's directory is its owner's; ask the administrators") from error
    holds = (layout.STORE, RECORD, RUNNING, RUN, f"*/*/{SUMMARY}", f"*/{layout.STORE}")
    if not any(True for pattern in holds for _ in path.glob(pattern)):
        raise NotFoundError(
            f"{path} holds no trace, no energy record and no run of perun monitor: name a job's number or directory,"
            " or a run's"
        )
    return path


def _names_job(what: What) -> bool:
    return isinstance(what, int) or (isinstance(what, str) and _JOB.fullmatch(what) is not None)


def _records(jobs: Sequence[What], places: Places) -> list[EnergyRecord]:
    """The runs of these jobs that the caller may see, asked for together."""
    from perun_hpc.accounting.selection import select

    chosen = select([str(what) for what in jobs], "", places, os.environ, time.time())
    return [found.record for runs in chosen.objects for found in runs]


def _places(archive: What | None, ledger: str | None, cluster: str | None) -> Places:
    from perun_hpc.accounting.whereabouts import places_here

    return places_here(Path(archive) if archive is not None else None, ledger, cluster)  # type: ignore[arg-type]


def _free(label: str, taken: Sequence[str]) -> str:
    """A label that no other tree has: of a requeued job's second run `4711r2`."""
    number = 1
    name = label = label.replace("/", "_")
    while name in taken:
        number += 1
        name = f"{label}r{number}"
    return name


def _need_xarray() -> None:
    try:
        import xarray  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"a tree needs xarray: {remedy(XARRAY)} (the extra `xarray`)") from error


def _dask() -> Any:
    try:
        import dask
    except ImportError as error:
        raise UnavailableError(f"many jobs need dask: {remedy(DASK)} (the extra `xarray`)") from error
    return dask
