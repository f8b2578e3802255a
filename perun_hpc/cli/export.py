"""`perun export`: write a stored run in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from perun_hpc.errors import UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from perun_hpc.config.user import FORMATS

    parser.usage = "perun export [-n APP] [-i ID] [--data-out DIR] FILE FORMAT"
    parser.add_argument("-n", "--app-name", "--app_name", dest="app_name", metavar="NAME", help="of this application")
    parser.add_argument(
        "-i", "--run-id", "--run_id", dest="run_id", metavar="ID", help="this run (default: the newest)"
    )
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where runs are kept")
    parser.add_argument("file", metavar="FILE", help="to write")
    parser.add_argument("format", metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument(
        "--from", dest="source", metavar="JSON", help="a run as the format json wrote it, instead of a stored one"
    )


def run(args: argparse.Namespace) -> int:
    """Write the file; prints its name."""
    from perun_hpc.config.user import FORMATS, load, settings
    from perun_hpc.report import formats

    if args.format not in FORMATS:
        raise UsageError(f"unknown format {args.format!r}: choose one of {', '.join(FORMATS)}")
    configuration = Path(args.configuration) if args.configuration else None
    chosen = settings(load(configuration, {"data_out": args.data_out}))
    if args.source:
        directory, tree = Path(args.source).parent, formats.read(Path(args.source))
    else:
        directory, tree = formats.find(Path(chosen.data_out), args.app_name, args.run_id)
    formats.write(tree, directory, Path(args.file), args.format, chosen)
    print(args.file)
    return 0
