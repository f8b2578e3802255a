"""`perun plot`: the power of a stored run over time, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from perun_hpc.errors import AccessError, UsageError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from perun_hpc.cli.export import which_run

    parser.usage = "perun plot [-n APP] [-i ID] [--data-out DIR] [-o FILE] [INPUT]"
    which_run(parser, "a .png, .svg or .pdf, which must not exist yet (default: APP_ID.png beside the input)")


def run(args: argparse.Namespace) -> int:
    """Draw it; prints the file's name."""
    from perun_hpc.cli import progress
    from perun_hpc.cli.export import home, new_file, source
    from perun_hpc.config.user import load, settings
    from perun_hpc.report import drawing, formats, plot

    if args.output and Path(args.output).suffix not in drawing.SUFFIXES:
        raise UsageError(f"{args.output}: name a file that ends in {', '.join(drawing.SUFFIXES)}")
    drawing.check()
    configuration = Path(args.configuration) if args.configuration else None
    chosen = settings(load(configuration, {"data_out": args.data_out}))
    directory, tree = source(args.input, args.app_name, args.run_id, chosen)
    beside = formats.beside(home(args.input, directory), tree, "text").with_suffix(drawing.SUFFIXES[0])
    target = new_file(args.output or beside)
    try:
        with progress.during(f"drawing {target}"):
            plot.write(tree, directory, target)
    except OSError as error:
        raise AccessError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
    print(target)
    return 0
