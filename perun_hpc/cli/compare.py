"""`perun compare JOB JOB...`: jobs, or runs that `perun monitor` stored, against each other."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from perun_hpc.cli.slurm_here import slurm_here
from perun_hpc.errors import NotFoundError, UsageError
from perun_hpc.report.comparison import Side, comparison_json, comparison_lines, sides_of
from perun_hpc.report.screen import style_for
from perun_hpc.report.subjects import Subject, of_records

Look: TypeAlias = Callable[[str], list[Subject]]
"""Finds what a word names: one job, or the rounds of one run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "what",
        nargs="*",
        metavar="JOB[,JOB...]",
        help="job ids; repeats of one variant joined by commas; without a cluster ids or directories of stored runs",
    )
    parser.add_argument("--weak", action="store_true", help="the work grew with the number of nodes (weak scaling)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--stored", action="store_true", help="of runs that perun monitor stored, also on a cluster")
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where stored runs are kept")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument(
        "--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger, if you may read it)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    if len(args.what) < 2:
        raise UsageError("perun compare: name two jobs or more, such as: perun compare 4711 4712")
    look = _stored(args) if args.stored or args.data_out or not slurm_here() else _jobs(args)
    sides = [_side(text, look) for text in args.what]
    found = sides_of(sides)
    if not found.components:
        raise NotFoundError("these have no component in common: what one measured is not known of another")
    if args.json:
        print(json.dumps(comparison_json(found, args.weak), indent=1))
    else:
        print("\n".join(comparison_lines(found, style_for(sys.stdout), args.weak)))
    return 0


def _side(text: str, look: Look) -> Side:
    """A variant, with all its repeats; what cannot be compared is refused, for a mean without it would be another's."""
    words = [word for word in text.split(",") if word]
    if not words:
        raise UsageError(f"'{text}' names no job")
    subjects = [subject for word in words for subject in look(word)]
    for subject in subjects:
        if subject.why:
            raise NotFoundError(f"{subject.label} cannot be compared: {subject.why}: see perun report {subject.label}")
    label = words[0] + (f" +{len(words) - 1}" if len(words) > 1 else "")
    return Side(label, tuple(subjects))


def _jobs(args: argparse.Namespace) -> Look:
    from perun_hpc.accounting.lookup import find
    from perun_hpc.cli.report import places

    where = places(args)

    def look(word: str) -> list[Subject]:
        records = {f.record.job_id: f.record for f in find(word, where)}  # of a requeued job the last run
        return [of_records(list(records.values()))]

    return look


def _stored(args: argparse.Namespace) -> Look:
    from perun_hpc.config.user import load, settings
    from perun_hpc.monitoring import runs
    from perun_hpc.report.stored import of_tree

    configuration = Path(args.configuration) if args.configuration else None
    data_out = Path(settings(load(configuration, {"data_out": args.data_out})).data_out)

    def look(word: str) -> list[Subject]:
        there = Path(word)
        tree = runs.at(there) if there.is_dir() else None
        return of_tree(tree if tree is not None else runs.find(data_out, None, word)[1])

    return look
