"""`perun on NODES`: take nodes out of the list that `perun off` writes; the next job on them is measured again."""

from __future__ import annotations

import argparse
import sys

from perun_hpc.cli.off import listed, named, place, write


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("nodes", nargs="+", metavar="NODES", help="nodes as Slurm writes them: n[01-04],login")


def run(args: argparse.Namespace) -> int:
    """Take nodes out of the list."""
    path, wanted = place(), named(args.nodes)
    nodes = listed(path)
    write(path, nodes - wanted)
    if on := sorted(nodes & wanted):
        print(f"on from the next job and step on: {', '.join(on)}")
    if others := sorted(wanted - nodes):
        print(f"perun: warning: was not off: {', '.join(others)} (perun off lists those that are)", file=sys.stderr)
    return 0
