"""`perun export`: write a run in another format."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.errors import AccessError, NotFoundError, UsageError

if TYPE_CHECKING:
    from perun_hpc.config.user_schema import UserSettings
    from perun_hpc.data_model.data import DataNode

HELP = (
    "the run: its directory or its run.json, an application's directory (its newest run, or -i), or a file that the"
    " format json, hdf5 or pickle wrote; without one the newest stored run"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from perun_hpc.config.user import FORMATS

    parser.usage = "perun export [-n APP] [-i ID] [--data-out DIR] [-o FILE] [INPUT] FORMAT"
    which_run(parser, "the file to write, which must not exist yet (default: APP_ID.SUFFIX beside the input)")
    parser.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))


def which_run(parser: argparse.ArgumentParser, output: str) -> None:
    """Declare what says which run is meant, for `source`, and which file is written, whose help is `output`."""
    parser.add_argument("-n", "--app-name", "--app_name", dest="app_name", metavar="NAME", help="the run's application")
    parser.add_argument(
        "-i", "--id", "--run-id", "--run_id", dest="run_id", metavar="ID", help="the run (default: the newest)"
    )
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where runs are kept")
    parser.add_argument("-o", "--output", metavar="FILE", help=output)
    parser.add_argument("input", metavar="INPUT", nargs="?", help=HELP)


def run(args: argparse.Namespace) -> int:
    """Write the file; prints its name."""
    from perun_hpc.cli import progress
    from perun_hpc.config.user import FORMATS, load, settings
    from perun_hpc.monitoring.rundir import RUN
    from perun_hpc.report import formats

    if args.format not in FORMATS:
        raise UsageError(f"unknown format {args.format!r}: choose one of {', '.join(FORMATS)}")
    configuration = Path(args.configuration) if args.configuration else None
    chosen = settings(load(configuration, {"data_out": args.data_out}))
    directory, tree = source(args.input, args.app_name, args.run_id, chosen)
    if args.format == "zarr" and args.input and Path(args.input).is_file() and Path(args.input).name != RUN:
        raise UsageError(f"{args.input} holds no traces, which the format zarr copies: name a stored run's directory")
    target = new_file(args.output or formats.beside(home(args.input, directory), tree, args.format))
    try:
        with progress.during(f"writing {target}"):
            formats.write(tree, directory, target, args.format, chosen)
    except OSError as error:
        raise AccessError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
    print(target)
    return 0


def new_file(name: str | Path) -> Path:
    """A file that is to be written; UsageError where there is one, NotFoundError without a directory for it."""
    target = Path(name)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already and is not overwritten: choose another name, or remove it")
    if not target.parent.is_dir():
        raise NotFoundError(f"{target} cannot be written: there is no directory {target.parent}; create it first")
    return target


def source(given: str | None, app: str | None, run_id: str | None, chosen: UserSettings) -> tuple[Path, DataNode]:
    """The run that is asked for, and the directory where its readings lie if they are not in its tree.

    Parameters
    ----------
    given : INPUT of the command line, None for the newest stored run.
    app, run_id : by which it is chosen further.
    """
    from perun_hpc.monitoring import runs
    from perun_hpc.report import formats

    if given is None:
        return runs.find(Path(chosen.data_out), app, run_id)
    path = Path(given)
    if not path.exists():
        raise NotFoundError(f"{path} does not exist: name a run's file or directory; the file to write is named by -o")
    if path.is_dir():
        directory, found = path.absolute(), runs.at(path)
        if found is None:
            return runs.find(directory.parent, directory.name, run_id)
        tree = found
    else:
        directory, tree = path.absolute().parent, formats.read(path)
    there = tree.metadata.get("app")
    if run_id not in (None, tree.id) or app not in (None, there):
        raise UsageError(f"{path} is run {tree.id} of {there}, and another one is asked for: leave one of them out")
    return directory, tree


def home(given: str | None, directory: Path) -> Path:
    """Where a file goes that nobody named: beside the input, of a stored run into the directory of all runs."""
    from perun_hpc.monitoring.rundir import RUN

    path = Path(given) if given else None
    if path is not None and path.is_file() and path.name != RUN:
        return path.parent
    above = directory.parent.parent
    return Path(os.path.relpath(above)) if above.is_relative_to(Path.cwd()) else above
