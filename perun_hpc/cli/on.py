"""`perun on NODES`: take nodes out of the list that `perun off` writes; the next job on them is measured again."""

from __future__ import annotations

import argparse

from perun_hpc.cli.off import listed, named, place, write


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("nodes", nargs="+", metavar="NODES", help="nodes as Slurm writes them: n[01-04],login")


def run(args: argparse.Namespace) -> int:
    """Take nodes out of the list."""
    path = place()
    write(path, listed(path) - named(args.nodes))
    return 0
