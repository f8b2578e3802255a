"""`perun off NODES`: from the next job on nothing is measured on these nodes; their file systems are not touched.

The list is `perun.off` beside slurm.conf, where hooks and plugin look for it on every node: what lies there Slurm needs
everywhere itself. Its lines are comments of slurm.conf's, so that a configless site may `Include` it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from perun_hpc.errors import AccessError, UsageError
from perun_hpc.files import write_new
from perun_hpc.slurm import conf
from perun_hpc.slurm.hostlist import stated

HEAD = "# Nodes on which perun does nothing; written by perun off and perun on."
MARK = "# off "


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "nodes",
        nargs="*",
        metavar="NODES",
        help="nodes as Slurm writes them: n[01-04],login (none given: show which are off)",
    )


def run(args: argparse.Namespace) -> int:
    """Add nodes to the list; without any show it."""
    path = place()
    nodes = listed(path)
    if args.nodes:
        wanted = named(args.nodes)
        write(path, nodes | wanted)
        print(f"off from the next job and step on: {', '.join(sorted(wanted))}")
        # Once they are off: Slurm may be what hangs.
        from perun_hpc.slurm import cluster

        if (known := cluster.nodes()) is not None and (others := sorted(wanted - known)):
            print(
                f"perun: warning: Slurm has no node {', '.join(others)}: right for login nodes alone", file=sys.stderr
            )
    else:
        print("\n".join(sorted(nodes)) or "no node is off")
    return 0


def place() -> Path:
    """Where the list is: the directory of $SLURM_CONF, else /etc/slurm."""
    return conf.place(os.environ).parent / "perun.off"


def named(words: Iterable[str]) -> set[str]:
    """The nodes that a person named; UsageError where that is no list of nodes."""
    try:
        return {name for word in words for name in stated(word)}
    except ValueError as error:
        raise UsageError(str(error)) from error


def listed(path: Path) -> set[str]:
    """The nodes of the list; none where there is no list. AccessError where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise AccessError(f"cannot read {path}: {error.strerror}") from error
    return {line.removeprefix(MARK) for line in lines if line.startswith(MARK)}


def write(path: Path, nodes: set[str]) -> None:
    """Replace the list, in one step. AccessError where it cannot be written."""
    lines = (HEAD, *(f"{MARK}{name}" for name in sorted(nodes)))
    try:
        write_new(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644, exact=True)
    except OSError as error:
        raise AccessError(f"cannot write {path}: {error.strerror}: run this where slurm.conf is kept") from error
