"""`perun export`: write a stored run in another format."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from perun_hpc.errors import AccessError, NotFoundError, UsageError

HELP = (
    "the file to write, which must not exist yet; the run.json of a stored run is read instead, and its copy put into"
    " the --data-out as APP_ID.SUFFIX"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from perun_hpc.config.user import FORMATS

    parser.usage = "perun export [-n APP] [-i ID] [--data-out DIR] FILE FORMAT"
    parser.add_argument("-n", "--app-name", "--app_name", dest="app_name", metavar="NAME", help="the run's application")
    parser.add_argument("-i", "--run-id", "--run_id", dest="run_id", metavar="ID", help="the run (default: the newest)")
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where runs are kept")
    parser.add_argument("file", metavar="FILE", help=HELP)
    parser.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument(
        "--from",
        dest="source",
        metavar="JSON",
        help="take the run from a file that the format json wrote, not from a stored run",
    )


def run(args: argparse.Namespace) -> int:
    """Write the file; prints its name."""
    from perun_hpc.config.user import FORMATS, load, settings
    from perun_hpc.monitoring import runs
    from perun_hpc.monitoring.rundir import RUN
    from perun_hpc.report import formats

    if args.format not in FORMATS:
        raise UsageError(f"unknown format {args.format!r}: choose one of {', '.join(FORMATS)}")
    configuration = Path(args.configuration) if args.configuration else None
    chosen = settings(load(configuration, {"data_out": args.data_out}))
    target, source = Path(args.file), Path(args.source) if args.source else None
    if target.name == RUN and target.is_file():
        if source or args.app_name or args.run_id:
            raise UsageError(f"{target} is a stored run, and another one is asked for: name a file to write")
        source = target.absolute()
        target = formats.beside(Path(chosen.data_out), source.parent, args.format)
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already and is not overwritten: choose another name or remove it")
    if source:
        directory, tree = source.parent, runs.read(source)
    else:
        directory, tree = runs.find(Path(chosen.data_out), args.app_name, args.run_id)
    if not target.parent.is_dir():
        raise NotFoundError(f"{target} cannot be written: there is no directory {target.parent}; create it first")
    try:
        formats.write(tree, directory, target, args.format, chosen)
    except OSError as error:
        raise AccessError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
    print(target)
    return 0
