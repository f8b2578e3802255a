"""`perun showconf`: print the configuration in force, as INI."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--default", action="store_true", help="print the defaults instead of the configuration in force"
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from perun_hpc.config.user import defaults, load

    overrides = {"log_lvl": args.log_lvl, "log_file": args.log_file}
    configuration = Path(args.configuration) if args.configuration else None
    parser = defaults() if args.default else load(configuration, overrides)
    parser.write(sys.stdout)
    return 0
