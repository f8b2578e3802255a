"""`perun compare JOB JOB...`: jobs, or runs that `perun monitor` stored, against each other."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from perun_hpc.cli.slurm_here import slurm_here
from perun_hpc.errors import NotFoundError, UsageError
from perun_hpc.report.comparison import Sides, comparison_json, comparison_lines, sides_of
from perun_hpc.report.screen import style_for

LAST = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="JOB[,JOB...]",
        help="jobs as perun report takes them; repeats of one variant joined by commas; without a cluster ids or "
        "directories of stored runs",
    )
    parser.add_argument(
        "-n",
        "--name",
        action="append",
        default=[],
        help="your last runs of this name; alone: the newest beside those before it",
    )
    parser.add_argument("--last", type=int, default=LAST, metavar="N", help=f"so many runs of a name (default: {LAST})")
    parser.add_argument("--weak", action="store_true", help="the work grew with the number of nodes (weak scaling)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--stored", action="store_true", help="of runs that perun monitor stored, also on a cluster")
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where stored runs are kept")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument(
        "--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger, if you may read it)"
    )


RUNS = (":", "/")
"""Signs in an id of a stored run, or in its directory, that no job's id has."""


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    if len(args.what) + len(args.name) < 2 and not args.name:
        raise UsageError("perun compare: name two jobs or more (perun compare 4711 4712), or a name (-n NAME)")
    if not 1 <= args.last <= 1000:
        raise UsageError(f"--last {args.last}: from 1 to 1000 runs")
    runs = any(mark in word for word in args.what for mark in RUNS)
    found = _stored(args) if args.stored or args.data_out or runs or not slurm_here() else _jobs(args)
    labels = [subject.label for side in found.sides for subject in side.subjects]
    if twice := next((label for label, number in Counter(labels).items() if number > 1), ""):
        raise UsageError(f"{twice} is there twice: what ran once says nothing beside itself")
    if not found.components:
        raise NotFoundError("these have no component in common: what one measured is not known of another")
    if args.json:
        print(json.dumps(comparison_json(found, args.weak), indent=1))
    else:
        print("\n".join(comparison_lines(found, style_for(sys.stdout), args.weak)))
    return 0


def _jobs(args: argparse.Namespace) -> Sides:
    from perun_hpc.cli.where import places
    from perun_hpc.report import job_sides

    where, asker = places(args), job_sides.Asker(os.getuid(), time.time())
    if not args.what and len(args.name) == 1:
        return sides_of(job_sides.newest_and_before(args.name[0], where, asker, args.last))
    sides = job_sides.of_words(args.what, where, asker)
    named = [subject.label for side in sides for subject in side.subjects]
    before = [job_sides.of_name(name, where, asker, args.last, named) for name in args.name]
    return job_sides.with_earlier_spread(sides_of([*before, *sides]), where, asker)


def _stored(args: argparse.Namespace) -> Sides:
    from perun_hpc.config.user import load, settings
    from perun_hpc.report import stored_sides

    configuration = Path(args.configuration) if args.configuration else None
    data_out = Path(settings(load(configuration, {"data_out": args.data_out})).data_out)
    if not args.what and len(args.name) == 1:
        return sides_of(stored_sides.newest_and_before(args.name[0], data_out, args.last))
    sides = stored_sides.of_words(args.what, data_out)
    named = {subject.label for side in sides for subject in side.subjects}
    return sides_of([*(stored_sides.of_app(name, data_out, args.last, named) for name in args.name), *sides])
