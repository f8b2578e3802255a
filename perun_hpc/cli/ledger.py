"""`perun ledger`: schema, backup and restore, pseudonyms, deletion, retention."""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime
from pathlib import Path

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.schema import EnergyRecord, json_schema
from perun_hpc.accounting.site import load_site, retention_s
from perun_hpc.accounting.times import parse_time
from perun_hpc.cli.report import places
from perun_hpc.errors import UsageError
from perun_hpc.report import quantities as q


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.add_argument("--ledger", metavar="URL", help="default: the policy's collect.ledger")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="default: the policy's store.archive")
    parser.add_argument("--cluster", metavar="NAME", help="default: this cluster")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("schema", help="print the JSON Schema of an energy record")
    for name, text in (("backup", "write all records to a file"), ("restore", "put a backup's records back")):
        actions.add_parser(name, help=text).add_argument("file", type=Path)
    actions.add_parser("rebuild", help="take the records from the jobs' directories into a ledger that lost them")
    for name, text in (
        ("pseudonymise", "replace users, uids and job names; sums stay"),
        ("delete", "delete records; sums stay"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("--user", metavar="NAME", help="only this user's records")
        action.add_argument("--before", metavar="TIME", help="only of jobs that ended before")
    thin = actions.add_parser("retention", help="delete traces older than the policy's store.retention")
    thin.add_argument("--dry-run", action="store_true", help="only say which")


def run(args: argparse.Namespace) -> int:
    """Run one action."""
    if args.action is None:
        raise UsageError("perun ledger: which action? see perun ledger --help")
    if args.action == "schema":
        print(json.dumps(json_schema(), indent=1))
        return 0
    if args.action == "retention":
        return _retention(args)
    ledger = open_ledger(args.ledger or load_site().ledger, create=True)
    try:
        if args.action == "backup":
            print(f"{upkeep.backup(ledger, args.file)} records written to {args.file}")
        elif args.action == "restore":
            print(f"{upkeep.restore(ledger, args.file)} records of {args.file} are in the ledger")
        elif args.action == "rebuild":
            print(f"{upkeep.rebuild(ledger, places(args).archive)} records taken from the jobs' directories")
        elif args.action == "pseudonymise":
            changed = upkeep.pseudonymise(ledger, _who(args))
            cleaned = upkeep.hide_in_directories(places(args).archive, changed)
            print(f"{len(changed)} records pseudonymised, {cleaned} of them in their jobs' directories; sums unchanged")
        else:
            gone = upkeep.delete(ledger, _who(args))
            cleaned = upkeep.remove_directories(places(args).archive, gone)
            print(f"{len(gone)} records and {cleaned} directories deleted; sums unchanged")
    finally:
        ledger.close()
    return 0


def _who(args: argparse.Namespace) -> upkeep.Who:
    if args.user is None and args.before is None:
        raise UsageError(f"perun ledger {args.action}: whose records? give --user or --before, or both")
    before = None if args.before is None else int(parse_time(args.before, datetime.now()).timestamp())
    return upkeep.Who(args.user, before)


def _retention(args: argparse.Namespace) -> int:
    keep_s = retention_s()

    def keep(record: EnergyRecord) -> float:
        return keep_s(record.partition, record.account)

    count, size = 0, 0
    for directory, size_b in upkeep.old_traces(places(args).archive, keep, time.time()):
        if not args.dry_run:
            upkeep.drop_trace(directory)
        count, size = count + 1, size + size_b
    print(f"{count} traces{' would be' if args.dry_run else ''} deleted, {q.size(size)}; records stay")
    return 0
