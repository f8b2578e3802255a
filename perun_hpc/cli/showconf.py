"""`perun showconf`: print the configuration in force, as INI, or with the place where each option was decided."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--default", action="store_true", help="print the defaults instead of the configuration in force")
    how.add_argument("--explain", action="store_true", help="print every option with its value and where it was set")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    from perun_hpc.config.option import explained
    from perun_hpc.config.user import OPTIONS, defaults, load, stated

    overrides = {"log_lvl": args.log_lvl, "log_file": args.log_file}
    configuration = Path(args.configuration) if args.configuration else None
    if args.explain:
        decided = {name: (option.default, "default") for name, option in OPTIONS.items()}
        for option, text, where in stated(configuration, overrides):
            decided[option.name] = option.kind.parse(text), where
        print("\n".join(explained((OPTIONS[name], *one) for name, one in decided.items())))
        return 0
    parser = defaults() if args.default else load(configuration, overrides)
    parser.write(sys.stdout)
    return 0
