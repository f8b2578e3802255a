"""`perun report JOBID[.STEP]`: what one job used."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from perun_hpc.accounting.lookup import Found, Places, find
from perun_hpc.accounting.site import load_site
from perun_hpc.archive.places import Archive, only_cluster
from perun_hpc.data_model.codec import encode
from perun_hpc.errors import NotFoundError
from perun_hpc.report.explain import explain_report, explain_word
from perun_hpc.report.job import job_report, step_report
from perun_hpc.report.listing import jobs_listing
from perun_hpc.report.screen import Style, style_for
from perun_hpc.slurm.cluster import cluster_name
from perun_hpc.slurm.sacct import identity_fields, job_id_arguments, query_jobs


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    job = "4711, 4711_3 (array task), 4711+1 (het component), 4711.0"
    parser.add_argument("job", metavar="JOBID[.STEP]", nargs="?", default="", help=job)
    parser.add_argument(
        "--explain", nargs="?", const="", metavar="LINE", help="what a line or a word of the report means; all of them"
    )
    parser.add_argument("--json", action="store_true", help="the energy record as JSON")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument(
        "--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger, if you may read it)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    if args.explain and not args.job:
        print("\n".join(explain_word(args.explain, (), style_for(sys.stdout))))
        return 0
    _, step = job_id_arguments(args.job)
    found = find(args.job, places(args))
    if args.json:
        records = [encode(f.record) for f in found]
        print(json.dumps(records[0] if len(records) == 1 else records, indent=1))
        return 0
    style = style_for(sys.stdout)
    lines = _lines(args.job, found, step, style)
    if args.explain is None:
        print("\n".join(lines))
        return 0
    plain = _lines(args.job, found, step, replace(style, colour=False))
    explained = explain_word(args.explain, plain, style) if args.explain else explain_report(plain, style)
    print("\n".join([*([] if args.explain else [*lines, ""]), *explained]))
    return 0


def places(args: argparse.Namespace) -> Places:
    """Where to look, from the options and the policy."""
    site = load_site()
    root = args.archive or site.archive
    cluster = args.cluster or cluster_name() or only_cluster(root)
    return Places(
        archive=Archive(root, cluster),
        ledger=args.ledger or site.ledger,
        sacct=lambda ids: query_jobs(ids, args.cluster, extra=identity_fields()),
        due_s=time.time() - site.deadline_s - 2 * site.sweep_s,
        sweep_s=site.sweep_s,
    )


def _lines(text: str, found: list[Found], step: str | None, style: Style) -> list[str]:
    newest = found[-1].record
    if any(f.record.job_id != newest.job_id for f in found):
        return jobs_listing([f.record for f in found], style, time.time(), total=True)
    if step is not None:
        lines = step_report(newest, step, style)
        if not lines:
            known = ", ".join(s.step_id for s in newest.steps) or "none"
            raise NotFoundError(f"step {text}: not in the job's record (steps there: {known}); only --perun steps are")
        return lines
    return job_report(newest, found[-1].source, style, [f.record for f in found[:-1]])
