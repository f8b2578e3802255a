"""`perun report [JOBID[.STEP] ...]`: what one job used, or several together."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from perun_hpc.accounting.found import Found, Places
from perun_hpc.accounting.lookup import find
from perun_hpc.accounting.selection import select
from perun_hpc.archive.job_meters import beside_job
from perun_hpc.cli import picture
from perun_hpc.cli.where import places
from perun_hpc.data_model.codec import encode
from perun_hpc.errors import UsageError
from perun_hpc.report.earlier import beside_earlier
from perun_hpc.report.screen import Style, style_for
from perun_hpc.report.selected import report_lines
from perun_hpc.slurm.job_ids import job_id_arguments

JOBS = """4711, 4711_3 or 4711_[1-3] (array tasks), 4711+1 (het component), 4711.0 (step), 100-105, or `last`;
several give their sum (default: the job that you are in, else your last one)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("jobs", nargs="*", metavar="JOBID[.STEP]", help=JOBS)
    parser.add_argument("-n", "--name", default="", help="your last job of this name")
    parser.add_argument(
        "--explain", nargs="?", const="", metavar="LINE", help="what a line or a word of the report means; all of them"
    )
    parser.add_argument("--mail", metavar="SUBJECT", help="what stands below a mail of Slurm's (libexec/perun/mail)")
    parser.add_argument("--json", action="store_true", help="the energy record as JSON")
    picture.configure(parser)
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument(
        "--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger, if you may read it)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    if args.mail is not None:
        from perun_hpc.cli import mail

        return mail.below(args.mail, places(args))
    style = style_for(sys.stdout)
    if args.explain and not args.jobs and not args.name:
        if args.explain[0].isdigit():
            raise UsageError(f"--explain {args.explain}: name the job before it: perun report {args.explain} --explain")
        from perun_hpc.report.explain import explain_word

        print("\n".join(explain_word(args.explain, (), style)))
        return 0
    where = places(args)
    objects, step = _chosen(args, where)
    if picture.wanted(args):
        return picture.write(args, [run for runs in objects for run in runs], where.archive)
    if args.json:
        records = [encode(f.record) for runs in objects for f in runs]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=1))
        return 0
    beside = _beside(objects, step, where, style)
    curve = picture.in_a_line(objects[0][-1].record, where.archive, style) if beside is not None else []
    metered = beside_job(where.archive, objects[0][-1].record) if beside is not None else []
    lines = report_lines(objects, step, style, time.time(), beside or "", curve, metered)
    if args.explain is None:
        print("\n".join(lines))
        return 0
    from perun_hpc.report.explain import explain_report, explain_word

    plain = report_lines(objects, step, replace(style, colour=False), time.time(), beside or "", curve, metered)
    explained = explain_word(args.explain, plain, style) if args.explain else explain_report(plain, style)
    print("\n".join([*([] if args.explain else [*lines, ""]), *explained]))
    return 0


def _beside(objects: Sequence[Sequence[Found]], step: str | None, where: Places, style: Style) -> str | None:
    """One job beside the last ones of its name; None of a step, an array or several."""
    if step is not None or len(objects) != 1 or len({f.record.job_id for f in objects[0]}) != 1:
        return None
    return beside_earlier(objects[0][-1].record, where, style.plus_minus)


def _chosen(args: argparse.Namespace, where: Places) -> tuple[Sequence[Sequence[Found]], str | None]:
    """Return what is meant, and the step of it, if one is."""
    if len(args.jobs) == 1 and "." in args.jobs[0] and not args.name:
        return [find(args.jobs[0], where)], job_id_arguments(args.jobs[0])[1]
    chosen = select(args.jobs, args.name, where, os.environ, time.time())
    for job in chosen.absent:
        print(f"perun: job {job}: not known, or not yours to see", file=sys.stderr)
    return chosen.objects, None
