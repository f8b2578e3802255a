"""`perun top`: who uses most, which jobs use most, and which jobs held idle GPUs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.own_sums import About
from perun_hpc.accounting.questions import Filter, largest, usage
from perun_hpc.cli.jobs import add_filters, by_slurm, positive, words
from perun_hpc.cli.sums import sums
from perun_hpc.cli.usage import days
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model.codec import encode
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.report.listing import idle_listing, jobs_csv, jobs_listing
from perun_hpc.report.screen import style_for
from perun_hpc.report.usage import total, usage_csv, usage_json, usage_table


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_filters(parser, "seven days ago")
    parser.add_argument(
        "-n", "--number", type=positive, default=10, metavar="N", help="how many of each list (default 10)"
    )
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="how to print it (default: table)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the three lists; by default of the last seven days."""
    if not args.since:
        args.since = (datetime.now() - timedelta(days=7)).strftime("%Y-%m-%d")
    since_day, until_day = days(args)
    wanted = Filter(
        cluster=args.cluster or "",
        users=words(args.user),
        accounts=words(args.account),
        partitions=words(args.partition),
        qos=words(args.qos),
        since_s=int(datetime.fromisoformat(since_day).timestamp()),
        until_s=int((datetime.fromisoformat(until_day) + timedelta(days=1)).timestamp()),
    )
    with sums(args, since_day) as seen:
        users = usage(seen.ledger, ["user", "account"], wanted, since_day, until_day)[: args.number]
        if seen.about is None:
            damaged = partial(seen.where.tell, "")
            biggest = largest(seen.ledger, wanted, "energy", args.number, damaged)
            idle = largest(seen.ledger, wanted, "gpu_idle", args.number, damaged)
        else:
            known = _visible(wanted, seen.where, seen.about)
            biggest = sorted((r for r in known if (r.energy_uj or 0) > 0), key=lambda r: -(r.energy_uj or 0))
            idle = sorted((r for r in known if (r.gpu_idle_s or 0) > 0), key=lambda r: -(r.gpu_idle_s or 0))
            biggest, idle = biggest[: args.number], idle[: args.number]
    if args.format == "json":
        lists = {"users": usage_json(users, ["user", "account"])}
        jobs = {"jobs": [encode(r) for r in biggest], "idle_gpus": [encode(r) for r in idle]}
        print(json.dumps({**lists, **jobs}, indent=1))
        return 0
    if args.format == "csv":  # one table after the other, an empty line between them
        print(usage_csv(users, ["user", "account"]), jobs_csv(biggest), jobs_csv(idle), sep="\n", end="")
        return 0
    style = style_for(sys.stdout)
    print(f"{since_day} to {until_day}\n")
    print("\n".join(usage_table(users, total(users), ["user", "account"], style, currency=None)))
    if biggest:
        listed = jobs_listing(biggest, style, datetime.now().timestamp())
        print("\n".join(["", style.bold("Jobs that used most"), *listed]))
    elif users:
        print("\nno job with an energy")
    if idle:
        print("\n".join(["", style.bold("Jobs that held idle GPUs"), *idle_listing(idle, style)]))
    return 0


def _visible(wanted: Filter, where: Places, about: About) -> list[EnergyRecord]:
    """The jobs that Slurm lets the caller see, of the own and of accounts that he coordinates."""
    own = tuple(name for name in about.names if not wanted.users or name in wanted.users)
    found = by_slurm(wanted, where, own) if own else []
    asked = {lower_case(account) for account in wanted.accounts}
    accounts = tuple(account for account in about.accounts if not asked or account in asked)
    if accounts:
        found += by_slurm(replace(wanted, accounts=accounts), where, wanted.users)
    return list({(r.job_id, r.restart_count, r.start_ns): r for r in found}.values())
