"""`perun jobs`: one line per job, filtered as with sacct."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.questions import Filter, jobs
from perun_hpc.cli.where import places
from perun_hpc.data_model.codec import encode
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import AccessError, NotFoundError, UnavailableError, UsageError
from perun_hpc.report.listing import jobs_csv, jobs_listing
from perun_hpc.report.screen import style_for
from perun_hpc.slurm.hostlist import expand
from perun_hpc.slurm.states import parse_states
from perun_hpc.slurm.times import in_order, parse_time

LIMIT = 1000
NO_USER = "Invalid user id"
"""What sacct says of a name that the host does not know."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_filters(parser)
    parser.add_argument("-s", "--state", default="", metavar="LIST", help="Slurm's states, such as COMPLETED,FAILED")
    parser.add_argument("-N", "--nodelist", default="", metavar="LIST", help="jobs that ran on these nodes")
    parser.add_argument("-a", "--allusers", action="store_true", help="everybody's jobs, where you may see them")
    parser.add_argument("--limit", type=positive, default=LIMIT, metavar="N", help=f"the newest N (default {LIMIT})")
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="how to print it (default: table)"
    )


def positive(text: str) -> int:
    """How many a person wants to see."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


def add_filters(parser: argparse.ArgumentParser, since: str = "today's midnight") -> None:
    """Declare the options that `perun jobs`, `usage` and `top` share; `since` says from when on they look."""
    parser.add_argument("-u", "--user", default="", metavar="LIST", help="only these users' jobs, comma-separated")
    parser.add_argument(
        "-A", "--account", "--accounts", default="", metavar="LIST", help="only jobs of these accounts, comma-separated"
    )
    parser.add_argument(
        "-r", "--partition", default="", metavar="LIST", help="only jobs in these partitions, comma-separated"
    )
    parser.add_argument("-q", "--qos", default="", metavar="LIST", help="only jobs of these QOS, comma-separated")
    from_when = f"from this time, in a form that sacct takes (default: {since})"
    parser.add_argument("-S", "--since", "--starttime", metavar="TIME", help=from_when)
    parser.add_argument(
        "-E", "--until", "--endtime", metavar="TIME", help="to this time, in a form that sacct takes (default: now)"
    )
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument(
        "--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger, if you may read it)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    now = datetime.now()
    where = places(args)
    since, until = parse_time(args.since or "midnight", now), parse_time(args.until or "now", now)
    in_order(since, until, now)
    wanted = Filter(
        cluster=where.archive.cluster,
        users=words(args.user),
        accounts=words(args.account),
        partitions=words(args.partition),
        qos=words(args.qos),
        states=parse_states(words(args.state)),
        nodes=_nodes(args.nodelist),
        since_s=int(since.timestamp()),
        until_s=int(until.timestamp()),
    )
    records = _records(wanted, where, args.limit, args.allusers)
    style = style_for(sys.stdout)
    if args.format == "json":
        print(json.dumps([encode(r) for r in records], indent=1))
    elif args.format == "csv":
        print(jobs_csv(records), end="")
    else:
        print("\n".join(jobs_listing(records, style, now.timestamp(), total=True)))
    return 0


def words(text: str) -> tuple[str, ...]:
    """Split a comma-separated list; blanks around its words are nobody's names."""
    return tuple(word for part in text.split(",") if (word := part.strip()))


def _nodes(text: str) -> tuple[str, ...]:
    try:
        return expand(text)
    except ValueError as error:
        raise UsageError(f"nodes '{text}': {error}: write them as Slurm does, such as n[1-4]") from error


def _records(wanted: Filter, where: Places, limit: int, everybody: bool) -> Sequence[EnergyRecord]:
    """From the ledger for those who may read it, else what sacct shows, with each job's own record or line."""
    try:
        ledger = open_ledger(where.ledger or "")
    except (AccessError, NotFoundError):
        users = wanted.users or (() if everybody else (getpass.getuser(),))
        return by_slurm(wanted, where, users)[-limit:]
    try:
        return jobs(ledger, wanted, limit, partial(where.tell, ""))
    finally:
        ledger.close()


def by_slurm(wanted: Filter, where: Places, users: tuple[str, ...]) -> list[EnergyRecord]:
    """The jobs of `users` (empty: everybody's) that Slurm lets the caller see, each with its record or its line."""
    # Whoever may read the ledger needs none of it.
    from perun_hpc.accounting.lookup import listed_by_slurm
    from perun_hpc.slurm.command import ARGUMENT_BYTES, NoAccountsError
    from perun_hpc.slurm.sacct import identity_fields, query_between

    options = ["--user=" + ",".join(users)] if users else ["--allusers"]
    for name, values in (
        ("accounts", wanted.accounts),
        ("partition", wanted.partitions),
        ("qos", wanted.qos),
        ("state", wanted.states),
        ("nodelist", wanted.nodes),
    ):
        text = ",".join(values)
        # A list that no command line holds is looked through here.
        if 0 < len(text) <= ARGUMENT_BYTES:
            options.append(f"--{name}={text}")
    assert wanted.since_s is not None and wanted.until_s is not None
    try:
        rows = query_between(wanted.since_s, wanted.until_s, options, wanted.cluster or None, extra=identity_fields())
    except NoAccountsError:
        return _own(wanted, where)
    except UnavailableError as error:
        if NO_USER in str(error):
            raise NotFoundError(f"-u {','.join(users)}: no such user on this host: correct the name") from error
        raise
    nodes = set(wanted.nodes)
    rows = [row for row in rows if not nodes or nodes.intersection(expand(row.nodelist))]
    # sacct lists what was in a state at some time in the span; asked for is the state that a job has.
    rows = [row for row in rows if not wanted.states or row.state in wanted.states]
    return [found.record for found in listed_by_slurm(rows, where)]


def _own(wanted: Filter, where: Places) -> list[EnergyRecord]:
    """One's own jobs by the archive, where Slurm keeps no accounts: nobody knows their names and states."""
    from perun_hpc.accounting.owned import records_between

    assert wanted.since_s is not None and wanted.until_s is not None
    records = records_between(where.archive, os.getuid(), wanted.since_s, wanted.until_s)
    nodes = set(wanted.nodes)
    return [
        r
        for r in records
        if (not wanted.users or r.user in wanted.users)
        and (not wanted.accounts or r.account in wanted.accounts)
        and (not wanted.partitions or r.partition in wanted.partitions)
        and (not wanted.qos or r.qos in wanted.qos)
        and (not wanted.states or r.state in wanted.states)
        and (not nodes or nodes & {n.node for n in r.nodes})
    ]
