"""The formats in which a user's runs are shown and exported; each is a module, imported when it is asked for."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perun_hpc.config.user import UserSettings, defaults, settings
from perun_hpc.data_model.data import SCHEMA, DataNode
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.monitoring.callbacks import tell, warn
from perun_hpc.monitoring.orders import SUMMARY
from perun_hpc.monitoring.results import host_node, multi_run_node, read_summary, run_node
from perun_hpc.monitoring.rundir import LAUNCHES, RUN, RunDirectory, safe
from perun_hpc.store import files

SUFFIX = {
    "json": ".json",
    "csv": ".csv",
    "hdf5": ".hdf5",
    "pickle": ".pickle",
    "bench": ".bench.json",
    "text": ".txt",
    "zarr": ".zarr",
}


def check(format: str) -> None:
    """Raise UnavailableError where a format cannot be written here: before the run, not after it."""
    if format == "hdf5":
        from perun_hpc.report.formats import hdf5

        hdf5.check()


def keep(
    directory: RunDirectory, runs: Sequence[DataNode], metadata: dict[str, Any], settings: UserSettings
) -> tuple[Path, DataNode]:
    """Write a run's tree as `run.json` into its directory; returns the path and the tree."""
    tree = multi_run_node(directory.run_id, runs, metadata)
    path = directory.path / RUN
    files.write_new(path, _encode(tree), durable=False)
    return path, tree


def _encode(tree: DataNode) -> bytes:
    return json.dumps({"schema": SCHEMA, **tree.to_json()}, indent=1, ensure_ascii=False).encode()


def read(path: Path) -> DataNode:
    """A tree from a `run.json`, or from a file that the format json wrote.

    Raises
    ------
    NotFoundError, DataError
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: check the path") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DataError(f"{path}: not of schema {SCHEMA}")
    return DataNode.from_json(data)


def find(data_out: Path, app: str | None, run_id: str | None) -> tuple[Path, DataNode]:
    """Directory and tree of a run, the newest one that fits; one whose monitor was killed is put together from what
    is there, one that cannot be read is passed over with a warning.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    pattern = f"{safe(app) if app else '*'}/{safe(run_id) if run_id else '*'}"
    starts = [path for path in data_out.glob(pattern) if path.is_dir() and path.name != LAUNCHES]
    for directory in sorted(starts, key=lambda path: path.stat().st_ctime_ns, reverse=True):
        try:
            found = read(directory / RUN) if (directory / RUN).exists() else recover(directory)
        except DataError as error:
            warn(f"{error}: passed over")
            continue
        if found is not None:
            return directory, found
    what = f"run {run_id}" if run_id else "run"
    raise NotFoundError(f"no {what} in {data_out}: check --data-out, or run perun monitor first")


def recover(directory: Path) -> DataNode | None:
    """The tree of a run that has no `run.json`, from what its sampling processes wrote; None if that is nothing."""
    rounds: dict[str, list[DataNode]] = {}
    for path in sorted(directory.glob(f"*/*/{SUMMARY}")):
        if "." in path.parent.name:
            continue  # of a rank, part of its host
        summary = read_summary(path.parent)
        if summary["state"] == "running":
            summary["why"] = "perun was killed with the application; these are its last sums"
        host = host_node(path.parent, summary, ())
        host.metadata["state"] = "partial"
        rounds.setdefault(path.parent.parent.name, []).append(host)
    if not rounds:
        return None
    plain = settings(defaults())
    runs = [run_node(number, hosts, plain) for number, hosts in sorted(rounds.items())]
    return multi_run_node(directory.name, runs, {"app": directory.parent.name, "status": "PERUN_ERROR"})


def show(path: Path, tree: DataNode, settings: UserSettings, data_out: str) -> None:
    """After a run: the text on stderr (stdout is the application's), or a file in the chosen format in `data_out`."""
    if settings.format == "text":
        from perun_hpc.report.formats import text

        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
            sys.stdout.flush()
        tell(text.render(tree, settings), "")
        return
    target = beside(Path(data_out), path.parent, settings.format)
    write(tree, path.parent, target, settings.format, settings)
    tell(str(target))


def beside(data_out: Path, directory: Path, format: str) -> Path:
    """The file that a run's copy in a format gets if nobody names one: DATA_OUT/APP_ID.SUFFIX."""
    return data_out / f"{directory.parent.name}_{directory.name}{SUFFIX[format]}"


def write(tree: DataNode, directory: Path, target: Path, format: str, settings: UserSettings) -> None:
    """Write a run in one of `config.user.FORMATS`; `directory` is the run's own, where its traces lie."""
    if format == "text":
        from perun_hpc.report.formats import text

        files.write_new(target, (text.render(tree, settings) + "\n").encode(), 0o644, durable=False)
    elif format == "json":
        files.write_new(target, _encode(tree), 0o644, durable=False)
    elif format == "bench":
        from perun_hpc.report.formats import bench

        files.write_new(target, bench.render(tree, settings).encode(), 0o644, durable=False)
    elif format == "csv":
        from perun_hpc.report.formats import table

        files.write_new(target, table.csv_text(tree, directory).encode(), 0o644, durable=False)
    elif format == "hdf5":
        from perun_hpc.report.formats import hdf5

        hdf5.write(tree, directory, target)
    elif format == "pickle":
        import pickle

        from perun_hpc.report.formats import readings

        files.write_new(target, pickle.dumps(readings.with_raw_data(tree, directory)), 0o644, durable=False)
    else:
        from perun_hpc.report.formats import zarr_copy

        zarr_copy.write(directory, target)
