"""`perun ledger`: schema, backup and restore, export, pseudonyms, deletion, retention."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from perun_hpc.accounting import packing, upkeep
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.site import Site, load_site, store_of
from perun_hpc.archive.access import groups
from perun_hpc.archive.places import Archive, clusters
from perun_hpc.cli.where import mounted, places
from perun_hpc.data_model.record import EnergyRecord, json_schema
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError, NotFoundError, PerunError, UsageError
from perun_hpc.report import quantities as q
from perun_hpc.slurm.times import parse_time
from perun_hpc.store.thin import thin

PATIENCE_S = 3600
"""So long it is waited for a collector's sweep to end."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parser.add_argument("--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")

    def add(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text + more)

    add("schema", "print the JSON Schema of an energy record")
    for name, text, file in (
        ("backup", "write all records to a file", "the file to write"),
        ("restore", "put a backup's records back", "a file that backup wrote"),
    ):
        add(name, text).add_argument("file", type=Path, metavar="FILE", help=file)
    add("rebuild", "take the records from the archive into a ledger that lost them")
    export = add("export", "add records that are new or have changed to files for other programs")
    export.add_argument("--parquet", type=Path, required=True, metavar="DIR", help="a directory of Parquet files")
    for name, text in (
        ("pseudonymise", "replace users, uids and job names; sums stay"),
        ("delete", "delete records; sums stay"),
    ):
        action = add(name, text, "; --user, --before or both say whose")
        action.add_argument("--user", metavar="NAME", help="only this user's records")
        action.add_argument("--before", metavar="TIME", help="only of jobs that ended before")
    retention = add("retention", "do with old traces and records what the policy says")
    retention.add_argument("--dry-run", action="store_true", help="only say which")


def run(args: argparse.Namespace) -> int:
    """Run one action."""
    if args.action is None:
        raise UsageError("perun ledger: which action? see perun ledger --help")
    if args.action == "schema":
        print(json.dumps(json_schema(), indent=1))
        return 0
    if args.action == "retention":
        return _retention(args)
    if args.action in ("rebuild", "pseudonymise", "delete"):
        mounted(args)
    if args.action == "restore" and not args.file.is_file():
        raise NotFoundError(f"{args.file} is not there: name a file that perun ledger backup wrote")
    ledger = _opened(args.ledger or load_site().ledger, new=args.action in ("restore", "rebuild"))
    try:
        if args.action == "backup":
            print(f"{count(upkeep.backup(ledger, args.file), 'record')} written to {args.file}")
        elif args.action == "restore":
            print(f"{count(upkeep.restore(ledger, args.file), 'record')} of {args.file} now in the ledger")
            print(_rebuild(args, ledger))  # what has come since the backup
        elif args.action == "rebuild":
            print(_rebuild(args, ledger))
        elif args.action == "export":
            return _export(ledger, args.parquet, args.cluster or "")
        elif args.action == "pseudonymise":
            print(_pseudonymise(ledger, places(args).archive, _who(args)))
        else:
            print(_delete(ledger, places(args).archive, _who(args)))
    finally:
        ledger.close()
    return 0


def _opened(url: str, new: bool) -> Ledger:
    """The ledger, its tables as this version wants them; NotFoundError where there is none, unless it may be `new`: of
    one that is on another host nothing would be backed up, and nobody forgotten."""
    if not new:
        open_ledger(url).close()
    return open_ledger(url, create=True)


def _rebuild(args: argparse.Namespace, ledger: Ledger) -> str:
    root = places(args).archive.root
    names = [args.cluster] if args.cluster else clusters(root)
    changed, errors = 0, []
    for name in names:
        try:
            changed += upkeep.rebuild(ledger, Archive(root, name))
        except DataError as error:  # the other clusters' records are taken all the same
            errors.append(error)
    if errors:
        raise errors[0]
    return f"{count(changed, 'record')} taken from the jobs' directories"


def _export(ledger: Ledger, directory: Path, cluster: str) -> int:
    """Export what can be read; a damaged record is named, and waits."""
    from perun_hpc.accounting.warehouse import export  # pyarrow, which nothing else needs

    damaged: list[str] = []
    done = export(ledger, directory, cluster, damaged=damaged.append)
    for why in damaged:
        print(f"perun: not exported: {why}", file=sys.stderr)
    print(f"{count(done.rows, 'record')} in {count(done.files, 'new file')} of {directory}")
    return 1 if damaged else 0


def _who(args: argparse.Namespace) -> upkeep.Who:
    if args.user is None and args.before is None:
        raise UsageError(f"perun ledger {args.action}: whose records? give --user or --before, or both")
    before = None if args.before is None else int(parse_time(args.before, datetime.now()).timestamp())
    return upkeep.Who(args.user, before)


def _retention(args: argparse.Namespace) -> int:
    """What the policy says of old traces and old records; what cannot be done now is named, and waits."""
    site, where, now_s = load_site(), places(args), time.time()
    root = where.archive.root
    archives = [Archive(root, name) for name in ([args.cluster] if args.cluster else clusters(root))]
    url = args.ledger or site.ledger
    with contextlib.closing(open_ledger(url) if args.dry_run else _opened(url, new=False)) as ledger:
        failed = _traces(archives, site, now_s, args.dry_run)
        after = site.settings.store.pack_after_ns
        if isinstance(after, int):
            failed |= _pack(ledger, archives, site, now_s - after / 1e9, now_s, args.dry_run)
        for after, what, act in (
            (site.settings.privacy.delete_after_ns, "deleted", _delete),
            (site.settings.privacy.pseudonymise_after_ns, "pseudonymised", _pseudonymise),
        ):
            if isinstance(after, int):
                who = upkeep.Who(before_s=int(now_s - after / 1e9), named=act is _pseudonymise)
                if upkeep.matching(ledger, who):
                    mounted(args)
                if args.dry_run:
                    print(f"{count(upkeep.matching(ledger, who), 'record')} would be {what}; sums stay")
                else:
                    try:
                        print(act(ledger, where.archive, who))
                    except upkeep.StaysError as error:
                        print(f"not all {what}: {error}")
                        failed = True
    return 1 if failed else 0


def _traces(archives: Sequence[Archive], site: Site, now_s: float, dry_run: bool) -> bool:
    """Delete and thin what has had its time, the archive's directories a portion at a time; whether some failed."""
    quota, rules = site.settings.store.archive_quota_b, store_of()

    def each() -> Iterator[upkeep.Trace]:
        return (trace for one in archives for part in one.portions() for trace in upkeep.traces(one, part))

    cut = upkeep.oldest_above(each, rules, quota, now_s) if isinstance(quota, int) else upkeep.Cut()
    gone = gone_b = thinned = 0
    failed = False
    for trace in each():
        try:
            if upkeep.outdated(trace, rules, now_s) or cut.takes(trace):
                gone, gone_b = gone + 1, gone_b + trace.size_b
                if not dry_run:
                    upkeep.drop_trace(trace.directory)
            elif (every := upkeep.thinned_to(trace, rules, now_s)) is not None:
                thinned += 1
                if not dry_run:
                    thin(trace.directory, every, int(now_s * 1e9))
        except (PerunError, OSError) as error:
            print(f"{trace.directory.name}: not thinned or deleted: {error}")
            failed = True
    would = " would be" if dry_run else ""
    print(f"{count(gone, 'trace')}{would} deleted, {q.size(gone_b)}; {thinned}{would} thinned")
    return failed


def _pack(
    ledger: Ledger, archives: Sequence[Archive], site: Site, before_s: float, now_s: float, dry_run: bool
) -> bool:
    """Pack what old runs without a trace left behind; whether something could not be."""
    packed = problems = 0

    def tell(what: str) -> None:
        nonlocal problems
        print(f"not packed: {what}")
        problems += 1

    for archive in archives:
        if dry_run:
            packed += sum(packing.due(archive, part, before_s) for part in archive.portions())
            continue
        access = packing.Access(groups(site.settings.privacy.readers))
        try:
            with packing.PackLease(ledger, archive.cluster) as lease:
                for number in archive.buckets():
                    packing.finish(archive, number, now_s)
                for part in archive.portions():
                    packed += packing.pack(archive, part, before_s, now_s, access, lease, tell)
        except (PerunError, OSError) as error:
            tell(f"cluster {archive.cluster}: {error}")
    print(f"{count(packed, 'record')}{' would be' if dry_run else ''} packed")
    return problems > 0


def _keeping(ledger: Ledger) -> upkeep.Keeping:
    return upkeep.Keeping(ledger, packing.Access(groups(load_site().settings.privacy.readers)), time.time())


def _pseudonymise(ledger: Ledger, archive: Archive, who: upkeep.Who) -> str:
    keeping, cleaned = _keeping(ledger), 0

    def hide(records: Sequence[EnergyRecord]) -> None:
        nonlocal cleaned
        cleaned += upkeep.hide_in_directories(archive, records, keeping)

    changed = upkeep.pseudonymise(ledger, who, hide, PATIENCE_S)
    return f"{count(changed, 'record')} pseudonymised, {cleaned} of them in their jobs' directories; sums unchanged"


def _delete(ledger: Ledger, archive: Archive, who: upkeep.Who) -> str:
    keeping, cleaned = _keeping(ledger), 0

    def remove(records: Sequence[EnergyRecord]) -> None:
        nonlocal cleaned
        cleaned += upkeep.remove_directories(archive, records, keeping)

    gone = upkeep.delete(ledger, who, remove, PATIENCE_S)
    return f"{count(gone, 'record')} and {count(cleaned, 'directory', 'directories')} deleted; sums unchanged"
