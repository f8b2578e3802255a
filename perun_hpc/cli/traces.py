"""What `perun collect` does with stored traces on demand: repair, recode, thin."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from perun_hpc.accounting.collect import reasons
from perun_hpc.archive.places import BOUNDARIES, RECORD, Archive, Run
from perun_hpc.data_model.boundary import read_boundary
from perun_hpc.errors import NotFoundError, PerunError, UsageError
from perun_hpc.slurm.times import parse_time
from perun_hpc.store import job_store, layout, recode
from perun_hpc.store.thin import thin

GRACE_NS = 86_400 * layout.NS_PER_S
"""Readers that opened a store before it was recoded may go on for this long."""


def wanted(args: argparse.Namespace) -> bool:
    """Whether the command line asks for work on stored traces instead of a sweep."""
    return bool(args.repair or args.recode or args.thin is not None)


def run(args: argparse.Namespace, root: Path, names: list[str], recode_after_ns: int | str) -> int:
    """Do it for the jobs that were named, or those that ended before `--older-than`; a failure stops no other one.

    Where neither is given, what is recoded is as old as the policy's `store.recode_after` says.
    """
    if args.recode and not args.job and args.older_than is None and not isinstance(recode_after_ns, str):
        args.older_than = f"uts{(time.time_ns() - recode_after_ns) // layout.NS_PER_S}"
    failed = False
    for directory in _directories(args, root, names):
        try:
            print(f"{directory.name}: {_work(args, directory)}", flush=True)
        except (PerunError, OSError) as error:
            print(f"{directory.name}: {error}", flush=True)
            failed = True
    return 1 if failed else 0


def _work(args: argparse.Namespace, directory: Path) -> str:
    now_ns = time.time_ns()
    if args.repair:
        over = (directory / RECORD).exists()
        found, state = job_store.repair(directory, now_ns, over), "open"
        if over:
            state = job_store.finalise(directory, (), now_ns, now_ns, _reasons(directory)).state
        return "\n  ".join([f"{len(found.losses)} losses, {state}", *map(str, found.losses)])
    if args.thin is not None:
        return f"{thin(directory, args.thin, now_ns)} bytes freed"
    if args.older_than is not None and recode.is_recoded(directory):
        return f"recoded before, {recode.drop_sources(directory, now_ns, GRACE_NS)} old files dropped"
    return f"recoded, {job_store.recode(directory, now_ns, _reasons(directory)).state}"


def _reasons(directory: Path) -> dict[str, str]:
    """Why nodes are missing, as their boundary records say."""
    return reasons(read_boundary(path) for path in sorted((directory / BOUNDARIES).glob("*.json")))


def _directories(args: argparse.Namespace, root: Path, names: list[str]) -> Iterator[Path]:
    """The directories with a trace that are meant, over the clusters of `names`."""
    if bool(args.job) == (args.older_than is not None):
        raise UsageError("perun collect: which traces? name jobs, or give --older-than TIME")
    before_s = parse_time(args.older_than, datetime.now()).timestamp() if args.older_than is not None else 0.0
    missing = set(args.job)
    for archive in (Archive(root, name) for name in names):
        for run in archive.all_runs():
            directory = archive.job(run)
            if not (directory / layout.PLAN).exists():
                continue
            asked = _names(run) & set(args.job)
            record = directory / RECORD
            old = args.older_than is not None and record.exists() and record.stat().st_mtime < before_s
            missing -= asked
            if asked or old:
                yield directory
    if missing:
        raise NotFoundError(f"no trace of job {', '.join(sorted(missing))} in {root}: give JOB or JOB.RESTART")


def _names(run: Run) -> set[str]:
    """What one may call a run."""
    return {str(run.job_id), f"{run.job_id}.{run.restart_count}", run.name}
