"""The formats in which a user's runs are shown and exported; each is a module, imported when it is asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from perun_hpc import files
from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode
from perun_hpc.errors import AccessError, DataError
from perun_hpc.monitoring import runs
from perun_hpc.monitoring.callbacks import say
from perun_hpc.monitoring.rundir import RUN, safe

SUFFIX = {
    "json": ".json",
    "csv": ".csv",
    "functions": ".functions.csv",
    "hdf5": ".hdf5",
    "pickle": ".pkl",
    "bench": ".bench.json",
    "text": ".txt",
    "zarr": ".zarr",
}


MANY, MOST_B = 300, 16 << 20
"""How many runs of an application, and how much of them, are read at the end of one: some 0.2 s at most."""


def check(format: str) -> None:
    """Raise UnavailableError where a format cannot be written here: before the run, not after it."""
    if format == "hdf5":
        from perun_hpc.report.formats import hdf5

        hdf5.check()


def show(path: Path, tree: DataNode, settings: UserSettings, data_out: str) -> None:
    """After a run: a file in the chosen format in `data_out`; of the text the same on stderr (stdout is the
    application's), and where all of it is."""
    target = beside(Path(data_out), tree, settings.format)
    if os.path.lexists(target):
        raise AccessError(f"{target} exists already and is not overwritten")
    if settings.format != "text":
        write(tree, path.parent, target, settings.format, settings)
        say(f"kept in {path.parent}, as {settings.format} in {target}")
        return
    from perun_hpc.report.formats import text

    shown = "\n\n".join(filter(None, [text.render(tree, settings), *_history(path.parent, tree, settings)]))
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
        sys.stdout.flush()
    say(shown, "")
    files.write_new(target, (shown + "\n").encode(), 0o644, durable=False)
    say(f"kept in {path.parent}, this text in {target}")


def _history(directory: Path, tree: DataNode, settings: UserSettings) -> list[str]:
    """The run beside the earlier ones of its application, unless these are too many to be read on the way."""
    home, app = directory.parent.parent, directory.parent.name
    places = runs.directories(home, app)
    if not 1 < len(places) <= MANY or sum(map(_size_b, places)) > MOST_B:
        return []
    from perun_hpc.report.formats import history

    others = [one for where, one in runs.stored(home, app) if where != directory]
    earlier = [one for one in others if one.metadata.get("status") != "RUNNING"]
    return [history.against(tree, earlier), history.total([tree, *earlier], settings)] if earlier else []


def _size_b(directory: Path) -> int:
    """How much of a run would be read; one that is not whole is small."""
    try:
        return (directory / RUN).stat().st_size
    except OSError:
        return 0


def beside(data_out: Path, tree: DataNode, format: str) -> Path:
    """The file that a run's copy in a format gets if nobody names one: DATA_OUT/APP_ID.SUFFIX."""
    return data_out / f"{safe(str(tree.metadata.get('app', '')))}_{safe(tree.id)}{SUFFIX[format]}"


def read(path: Path) -> DataNode:
    """A run's tree from a file that the format json, hdf5 or pickle wrote, or from its `run.json`.

    Raises
    ------
    NotFoundError, DataError, UnavailableError
    """
    if path.suffix in (".hdf5", ".h5"):
        from perun_hpc.report.formats import hdf5

        return hdf5.read(path)
    if path.suffix in (SUFFIX["pickle"], ".pickle"):
        from perun_hpc.report.formats import pickled

        return pickled.read(path)
    if path.suffix == SUFFIX["json"]:
        return runs.read(path)
    raise DataError(f"{path} cannot be read back: a run is read from what the format json, hdf5 or pickle wrote")


def write(tree: DataNode, directory: Path, target: Path, format: str, settings: UserSettings) -> None:
    """Write a run in one of `config.user.FORMATS`; `directory` is the run's own, where its traces lie."""
    if format == "text":
        from perun_hpc.report.formats import text

        files.write_new(target, (text.render(tree, settings) + "\n").encode(), 0o644, durable=False)
    elif format == "json":
        from perun_hpc.report.formats import readings

        files.write_new(target, runs.encode(readings.with_raw_data(tree, directory)), 0o644, durable=False)
    elif format == "bench":
        from perun_hpc.report.formats import bench

        files.write_new(target, bench.render(tree, settings).encode(), 0o644, durable=False)
    elif format == "csv":
        from perun_hpc.report.formats import table

        files.write_new(target, table.csv_text(tree, directory).encode(), 0o644, durable=False)
    elif format == "functions":
        from perun_hpc.report.formats import functions

        files.write_new(target, functions.csv_text(tree).encode(), 0o644, durable=False)
    elif format == "hdf5":
        from perun_hpc.report.formats import hdf5

        hdf5.write(tree, directory, target)
    elif format == "pickle":
        from perun_hpc.report.formats import pickled

        pickled.write(tree, directory, target)
    else:
        from perun_hpc.report.formats import zarr_copy

        zarr_copy.write(directory, target)
