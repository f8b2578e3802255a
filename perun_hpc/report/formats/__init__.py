"""The formats in which a user's runs are shown and exported; each is a module, imported when it is asked for."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from perun_hpc import files
from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode
from perun_hpc.monitoring import runs
from perun_hpc.monitoring.callbacks import say

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


def show(path: Path, tree: DataNode, settings: UserSettings, data_out: str) -> None:
    """After a run: the text on stderr (stdout is the application's), or a file in the chosen format in `data_out`."""
    if settings.format == "text":
        from perun_hpc.report.formats import text

        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
            sys.stdout.flush()
        say(text.render(tree, settings), "")
        return
    target = beside(Path(data_out), path.parent, settings.format)
    write(tree, path.parent, target, settings.format, settings)
    say(str(target))


def beside(data_out: Path, directory: Path, format: str) -> Path:
    """The file that a run's copy in a format gets if nobody names one: DATA_OUT/APP_ID.SUFFIX."""
    return data_out / f"{directory.parent.name}_{directory.name}{SUFFIX[format]}"


def write(tree: DataNode, directory: Path, target: Path, format: str, settings: UserSettings) -> None:
    """Write a run in one of `config.user.FORMATS`; `directory` is the run's own, where its traces lie."""
    if format == "text":
        from perun_hpc.report.formats import text

        files.write_new(target, (text.render(tree, settings) + "\n").encode(), 0o644, durable=False)
    elif format == "json":
        files.write_new(target, runs.encode(tree), 0o644, durable=False)
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
